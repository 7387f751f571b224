"""TransformerBridge at both ends: sources taken out of one, and one booted to check a source."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from circuit_econ.errors import CheckpointError
from circuit_econ.model.architectures import read_config
from circuit_econ.model.config_hugging_face import transformers_config
from circuit_econ.model.config_native import bridge_fields
from circuit_econ.model.source import Format, Source
from circuit_econ.model.weights import native

__all__ = ["boot", "source_of"]

_NATIVE = "TransformerLensNative"

_TABLES = re.compile(r"\.attn\.(mask|IGNORE|rotary_sin|rotary_cos)$")
"""Tables of releases before the bridge, which computes its own."""


def boot(source: Source, dtype: torch.dtype = torch.float32, *, length: int | None = None) -> Any:
    """A ``TransformerBridge`` of a checkpoint, on the CPU, in evaluation mode, eager attention.

    Nothing is fetched: the module is built from the configuration and filled with the tensors. A
    TransformerLens source without tensors keeps the random weights of its own initialisation.

    Args:
        source: The checkpoint. Where its tensors are of ``dtype``, a bridge of Transformers' model
            uses them as they are: do not write to it.
        dtype: Of the bridge.
        length: The longest sequence it will be given; the model's whole context by default, for
            which TransformerLens' own model keeps a mask in every layer.

    Raises:
        CheckpointError: If the bridge refuses the configuration or the tensors.
    """
    with _quiet():
        try:
            if source.format is Format.TRANSFORMER_LENS:
                return _boot_native(_shortened(source, length), dtype)
            return _boot_hugging_face(source, dtype)
        except CheckpointError:
            raise
        except Exception as error:  # third-party code over a file from anywhere: say which file
            raise CheckpointError(
                f"{source.origin}: transformer-lens cannot build this model: "
                f"{type(error).__name__} {error}"
            ) from error


def source_of(bridge: Any) -> Source:
    """The configuration and tensors inside a bridge, as trained; tensors share its memory.

    Raises:
        CheckpointError: If the bridge is not of a supported family, or is in compatibility mode
            (folded weights are not the weights that were trained).
    """
    origin = f"bridge of {getattr(bridge.cfg, 'model_name', 'a model')}"
    if getattr(bridge, "compatibility_mode", False):
        raise CheckpointError(
            f"{origin}: compatibility mode folds and centres weights in place; pass a bridge as "
            "booted, without enable_compatibility_mode()"
        )
    module = bridge.original_model
    # The wrappers share storage with what they wrap; their names are removed.
    # A head without a bias is given one of zeros, which is a buffer: no parameter, and in no file.
    made_up = {
        name
        for name, tensor in module.named_buffers()
        if name.endswith(".bias") and not tensor.any()
    }
    state = {
        name.replace("._original_component", ""): tensor.detach()
        for name, tensor in module.state_dict().items()
        if name not in made_up
    }
    if bridge.cfg.architecture == _NATIVE:
        config = {k: v for k, v in bridge.cfg.to_dict().items() if not k.startswith("_")}
        # The native module always rotates adjacent pairs, whatever its configuration says.
        config["rotary_adjacent_pairs"] = True
        bare = Source(Format.TRANSFORMER_LENS, config, {}, origin)
        tensors = native.rename_module(state, read_config(bare))
        return Source(Format.TRANSFORMER_LENS, config, tensors, origin)
    config = module.config.to_dict()
    # Split projections are the bridge's own copies, beside the tensors the module came with.
    return Source(Format.HUGGING_FACE, config, state, origin)


def _shortened(source: Source, length: int | None) -> Source:
    """The same model with no more context than is asked for: positions further on play no part."""
    if length is None or length >= source.config["n_ctx"]:
        return source
    tensors = dict(source.tensors)
    if "pos_embed.W_pos" in tensors:
        tensors["pos_embed.W_pos"] = tensors["pos_embed.W_pos"][:length]
    return replace(source, config={**source.config, "n_ctx": length}, tensors=tensors)


def _boot_native(source: Source, dtype: torch.dtype) -> Any:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    fields = bridge_fields(source)
    if source.tensors:
        fields["init_weights"] = False
    else:
        fields["seed"] = source.config.get("seed")
    # Bound to the class when transformer-lens is imported, which type checkers do not see.
    bridge = TransformerBridge.boot_native(  # pyright: ignore[reportAttributeAccessIssue]
        TransformerBridgeConfig.from_dict(fields), device="cpu"
    ).to(dtype)
    if source.tensors:
        _fill(bridge, source, dtype)
    return bridge.eval()


@torch.no_grad()
def _fill(bridge: Any, source: Source, dtype: torch.dtype) -> None:
    """A file's tensors into a bridge, block by block: no second set of weights is ever held."""
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    for parameter in bridge.original_model.parameters():
        parameter.zero_()  # what a file may leave out is zero
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in source.tensors.items():
        if name == "unembed.b_U":
            head = bridge.original_model.head
            getattr(head, "original_component", head).bias = nn.Parameter(tensor.to(dtype))
        elif not _TABLES.search(name):
            parts.setdefault(".".join(name.split(".")[:2]), {})[name] = tensor
    # The embedding first: it is used as it lies in the file, and makes room for what is turned.
    for _, part in sorted(parts.items(), key=lambda item: not item[0].startswith("embed")):
        given = {name: tensor.to(dtype) for name, tensor in part.items()}
        converted = convert_tl_checkpoint(given, bridge.cfg)
        bridge.load_state_dict(converted, strict=False, assign=True)


def _boot_hugging_face(source: Source, dtype: torch.dtype) -> Any:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = transformers_config(source)
    tensors = dict(source.tensors)
    if config.model_type == "gpt_neox" and not config.attention_bias:
        # The bridge cannot split a projection that has no bias; one of zeros is the same function.
        config.attention_bias = True
        for i in range(config.num_hidden_layers):
            attention = f"gpt_neox.layers.{i}.attention"
            tensors[f"{attention}.query_key_value.bias"] = torch.zeros(3 * config.hidden_size)
            tensors[f"{attention}.dense.bias"] = torch.zeros(config.hidden_size)
    # Transformers' own loading knows prefixes, ties and renamed tensors: an independent reading.
    family: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    module, report = family.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        dtype=dtype,
        attn_implementation="eager",
        output_loading_info=True,
    )
    if report["missing_keys"]:
        raise CheckpointError(
            f"{source.origin}: tensors are missing: {sorted(report['missing_keys'])}"
        )
    return build_bridge_from_module(
        module.eval(),
        architecture=type(module).__name__,
        hf_config=module.config,
        model_name=source.origin,
        dtype=dtype,
        tokenizer=None,
    ).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' notes on missing tokenizers and the like, which mean nothing here."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(n) for n in ("transformer_lens", "transformers", "root")]
    levels = [logger.level for logger in loggers]
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if bar:
            transformers_logging.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
