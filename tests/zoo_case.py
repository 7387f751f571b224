"""One small model with random weights: its configuration, its files and its bridge."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformer_lens.model_bridge.sources.native import boot
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from circuit_econ.model.source import Format, Source

__all__ = ["Case", "Saver"]

Saver = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One small architecture with random weights.

    Attributes:
        name: Identifies the case in test ids.
        format: Whose names ``fields`` and the tensors use.
        fields: The content of ``config.json``.
        exact: Whether the bridge computes truly in float64. Then it agrees to 1e-9 * scale; else
            its norms, softmax or rotary tables are float32 and it agrees to 1e-5 * scale.
        as_saved: Turns the names of today's library into those of the published files.
        unsaved: Endings of names that the file lacks; what is missing is zero.
        bridge_fields: Fields that the bridge must be given in place of the case's own because it
            cannot build the case itself. The function computed is the same.
    """

    name: str
    format: Format
    fields: dict[str, Any] = field(repr=False)
    exact: bool
    as_saved: Saver = field(default=dict, repr=False)
    unsaved: tuple[str, ...] = field(default=(), repr=False)
    bridge_fields: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def d_vocab(self) -> int:
        """Size of the input vocabulary."""
        return self.fields["vocab_size" if self.format is Format.HUGGING_FACE else "d_vocab"]

    @property
    def d_vocab_out(self) -> int:
        """Size of the output vocabulary, which targets index."""
        return self.fields.get("d_vocab_out", self.d_vocab)

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``; the caller may change its copy."""
        return copy.deepcopy(self.fields)

    def tensors(self, seed: int) -> dict[str, Tensor]:
        """Random float64 weights by the names in the file."""
        return self.as_saved(self._weights(seed))

    def source(self, seed: int, dtype: torch.dtype = torch.float64) -> Source:
        """The checkpoint as a folder would give it."""
        tensors = {name: _cast(t, dtype) for name, t in self.tensors(seed).items()}
        return Source(self.format, self.config(), tensors, origin=f"{self.name} (seed {seed})")

    def bridge(self, seed: int, dtype: torch.dtype = torch.float64) -> TransformerBridge:
        """A bridge with the weights of :meth:`tensors`, on the CPU, without dropout."""
        if self.format is Format.TRANSFORMER_LENS:
            return self._native_bridge(seed, dtype)
        model = self.hf_model(seed, dtype, **self.bridge_fields)
        bridge = build_bridge_from_module(
            model,
            architecture=type(model).__name__,
            hf_config=model.config,
            model_name=self.name,
            dtype=dtype,
            device="cpu",
            tokenizer=None,
        )
        bridge.eval()
        return bridge

    def hf_model(self, seed: int, dtype: torch.dtype = torch.float64, **fields: Any) -> Any:
        """The Hugging Face model with eager attention. Only for that format.

        Args:
            seed: Seed of the weights.
            dtype: Their dtype.
            **fields: Fields of the configuration to be replaced; parameters that these add are 0.
        """
        config = _hf_config({**self.config(), **fields})
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype)
        weights = self._weights(seed)
        if config.tie_word_embeddings:
            weights["lm_head.weight"] = weights[_embedding_name(weights)]
        for name, tensor in model.state_dict().items():
            weights.setdefault(name, torch.zeros_like(tensor))
        model.load_state_dict(weights)
        return model.eval()

    def save(self, folder: Path, step: int, seed: int, dtype: torch.dtype = torch.float32) -> Path:
        """Writes one checkpoint in a folder form that opens as it is.

        Returns:
            The safetensors file. Its ``config.json`` lies beside it: in a folder of the step for
            Hugging Face, in ``folder`` itself for TransformerLens names.
        """
        hugging_face = self.format is Format.HUGGING_FACE
        home = folder / f"step{step}" if hugging_face else folder
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.json").write_text(json.dumps(self.fields, indent=2), encoding="utf-8")
        file = home / ("model.safetensors" if hugging_face else f"step_{step}.safetensors")
        tensors = {name: _cast(t, dtype) for name, t in self.tensors(seed).items()}
        save_file(tensors, file, metadata={"format": "pt"})
        return file

    def _weights(self, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = _shapes_of(self)
        draw = _draw_hf if self.format is Format.HUGGING_FACE else _draw_tl
        return {name: draw(name, shape, generator) for name, shape in shapes.items()}

    def _native_bridge(self, seed: int, dtype: torch.dtype) -> TransformerBridge:
        cfg = TransformerBridgeConfig(**self.config(), device="cpu")
        bridge = boot(cfg, device="cpu", dtype=dtype)
        converted = convert_tl_checkpoint(self._weights(seed), cfg)
        names = set(bridge.state_dict())
        assert set(converted) <= names, sorted(set(converted) - names)
        bridge.load_state_dict(converted, strict=False)
        bridge.eval()
        return bridge


@cache
def _shapes_of(case: Case) -> dict[str, torch.Size]:
    shapes_of = _hf_shapes if case.format is Format.HUGGING_FACE else _tl_shapes
    shapes = shapes_of(case.config())
    return {name: shape for name, shape in shapes.items() if not name.endswith(case.unsaved)}


def _hf_shapes(fields: dict[str, Any]) -> dict[str, torch.Size]:
    config = _hf_config(fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]  # as save_pretrained does: the storage is saved once
    return shapes


def _tl_shapes(fields: dict[str, Any]) -> dict[str, torch.Size]:
    cfg = TransformerBridgeConfig(**fields)
    kv_heads = cfg.n_key_value_heads or cfg.n_heads
    under = "_" if kv_heads < cfg.n_heads else ""  # how grouped keys are saved
    d_vocab_out = cfg.d_vocab_out if cfg.d_vocab_out > 0 else cfg.d_vocab
    gains = {"LN": ("w", "b"), "RMS": ("w",)}.get(cfg.normalization_type or "", ())
    norms = ["ln_final"]
    shapes: dict[str, tuple[int, ...]] = {"embed.W_E": (cfg.d_vocab, cfg.d_model)}
    if cfg.positional_embedding_type == "standard":
        shapes["pos_embed.W_pos"] = (cfg.n_ctx, cfg.d_model)
    for layer in range(cfg.n_layers):
        block = f"blocks.{layer}"
        norms += [f"{block}.ln1"] if cfg.attn_only else [f"{block}.ln1", f"{block}.ln2"]
        shapes[f"{block}.attn.W_Q"] = (cfg.n_heads, cfg.d_model, cfg.d_head)
        shapes[f"{block}.attn.b_Q"] = (cfg.n_heads, cfg.d_head)
        for port in "KV":
            shapes[f"{block}.attn.{under}W_{port}"] = (kv_heads, cfg.d_model, cfg.d_head)
            shapes[f"{block}.attn.{under}b_{port}"] = (kv_heads, cfg.d_head)
        shapes[f"{block}.attn.W_O"] = (cfg.n_heads, cfg.d_head, cfg.d_model)
        shapes[f"{block}.attn.b_O"] = (cfg.d_model,)
        if cfg.attn_only:
            continue
        assert cfg.d_mlp is not None
        shapes[f"{block}.mlp.W_in"] = (cfg.d_model, cfg.d_mlp)
        shapes[f"{block}.mlp.W_out"] = (cfg.d_mlp, cfg.d_model)
        if cfg.gated_mlp:
            shapes[f"{block}.mlp.W_gate"] = (cfg.d_model, cfg.d_mlp)
        else:
            shapes[f"{block}.mlp.b_in"] = (cfg.d_mlp,)
            shapes[f"{block}.mlp.b_out"] = (cfg.d_model,)
    for norm in norms:
        centred = norm != "ln_final" or not cfg.final_rms  # final_rms leaves it no bias
        names = gains if centred else gains[:1]
        shapes |= {f"{norm}.{gain}": (cfg.d_model,) for gain in names}
    shapes["unembed.W_U"] = (cfg.d_model, d_vocab_out)
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Floating point to ``dtype``; masks stay what they are."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _hf_config(fields: dict[str, Any]) -> Any:
    return CONFIG_MAPPING[fields["model_type"]].from_dict(fields)


def _embedding_name(weights: dict[str, Tensor]) -> str:
    return next(
        n for n in weights if n.endswith(("wte.weight", "embed_in.weight", "tokens.weight"))
    )


def _draw_hf(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    if name.endswith(("wte.weight", "wpe.weight", "embed_in.weight", "embed_tokens.weight")):
        return 0.7 * noise
    if len(shape) == 1:
        return _gain(shape, generator) if name.endswith(".weight") else 0.3 * noise
    conv1d = any(part in name for part in ("c_attn", "c_proj", "c_fc"))  # saved [in, out]
    size = 1.6 if "c_attn" in name else 1.2  # scores that are divided by a layer's number, too
    return size * noise / shape[0 if conv1d else 1] ** 0.5


def _draw_tl(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    kind = name.rsplit(".", 1)[1].lstrip("_")
    if kind in ("W_E", "W_pos"):
        return 0.7 * noise
    if kind == "w":
        return _gain(shape, generator)
    if kind.startswith("b"):
        return 0.3 * noise
    fan_in = shape[0] * shape[1] if kind == "W_O" else shape[-2]
    return 1.2 * noise / fan_in**0.5


def _gain(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
