"""TransformerBridge at both ends: sources taken out of one, and one booted to check a source."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
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

_TABLES = re.compile(r"\.attn\.rotary_(sin|cos)$")
"""Tables of releases before the bridge, which computes its own."""


def boot(source: Source, dtype: torch.dtype = torch.float32) -> Any:
    """A ``TransformerBridge`` of a checkpoint, on the CPU, in evaluation mode, eager attention.

    Nothing is fetched: the module is built from the configuration and filled with the tensors. A
    TransformerLens source without tensors keeps the random weights of its own initialisation.

    Raises:
        CheckpointError: If the bridge refuses the configuration or the tensors.
    """
    with _quiet():
        try:
            if source.format is Format.TRANSFORMER_LENS:
                return _boot_native(source, dtype)
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
    state = {
        name.replace("._original_component", ""): tensor.detach()
        for name, tensor in module.state_dict().items()
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
        from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

        given = {k: v.to(dtype) for k, v in source.tensors.items() if not _TABLES.search(k)}
        unembed_bias = given.pop("unembed.b_U", None)
        zeros = {k: v for k, v in _missing_biases(source).items() if k not in given}
        bridge.load_state_dict(convert_tl_checkpoint({**zeros, **given}, bridge.cfg), strict=False)
        if unembed_bias is not None:
            head = bridge.original_model.head
            getattr(head, "original_component", head).bias = nn.Parameter(unembed_bias)
    return bridge.eval()


def _missing_biases(source: Source) -> dict[str, Tensor]:
    from circuit_econ.model.weights import read_weights

    config = read_config(source)
    complete = native.write(read_weights(source, config), config)
    return {k: torch.zeros_like(v) for k, v in complete.items() if ".b_" in k or k.endswith(".b")}


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
