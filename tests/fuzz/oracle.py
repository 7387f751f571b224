"""The loss of a checkpoint as others compute it: Transformers, or TransformerLens' native model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuit_econ.model import Format

__all__ = ["expected_loss", "is_right"]


def expected_loss(
    format: Format, weights: Path, config: Path, tokens: Tensor
) -> tuple[float, float] | None:
    """The loss in nats per scored position, and how far float32 is from it.

    Returns:
        None where the library does not load it, or not all of it: then nothing can be said.
    """
    ask = _transformers if format is Format.HUGGING_FACE else _native
    try:
        exact = _loss(ask(weights, config, tokens, torch.float64), tokens)
        rough = _loss(ask(weights, config, tokens, torch.float32), tokens)
    except Exception:  # whatever an oracle stumbles over, it has nothing to say
        return None
    return exact, abs(exact - rough)


def is_right(loss: float, expected: tuple[float, float]) -> bool:
    """Whether a loss is the oracle's, which may compute parts of it in float32."""
    exact, rough = expected
    if not math.isfinite(exact):
        return False
    if not math.isfinite(rough):  # float32 says nothing: then exactly
        rough = 0.0
    return abs(loss - exact) <= 1e-4 * max(1.0, abs(exact)) + 10 * rough


def _loss(logits: Tensor, tokens: Tensor) -> float:
    of_next = logits[:, :-1].double().log_softmax(-1).gather(-1, tokens[:, 1:, None])
    return -float(of_next.mean())


_LARGE = 1e15
"""Norms are computed in float32 even in float64; squares of such activations are infinite there."""


class _PartlyError(Exception):
    """A library would have filled in what is not there, or computes less than exactly."""


@torch.no_grad()
def _transformers(weights: Path, _config: Path, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        weights.parent, dtype=dtype, attn_implementation="eager", output_loading_info=True,
        local_files_only=True, trust_remote_code=False,
    )  # fmt: skip
    if any(info[key] for key in ("missing_keys", "mismatched_keys", "error_msgs")):
        raise _PartlyError
    if dtype is torch.float64 and any(float(p.abs().max()) > _LARGE for p in model.parameters()):
        raise _PartlyError
    return model.eval()(tokens, use_cache=False, return_dict=True).logits


@torch.no_grad()
def _native(weights: Path, config: Path, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    from safetensors.torch import load_file
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native import boot
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    cfg = TransformerBridgeConfig(**json.loads(config.read_text()), device="cpu")
    bridge = boot(cfg, device="cpu", dtype=dtype)
    if weights.suffix == ".safetensors":
        state: Any = load_file(weights)
    else:
        state = torch.load(weights, weights_only=True)
    state = state.get("model_state_dict", state)
    converted = convert_tl_checkpoint({k: v.to(dtype) for k, v in state.items()}, cfg)
    if not set(converted) <= set(bridge.state_dict()):
        raise _PartlyError
    fresh = {k: torch.zeros_like(v) for k, v in bridge.state_dict().items() if "bias" in k}
    bridge.load_state_dict({**fresh, **converted}, strict=False)
    return bridge.eval()(tokens)
