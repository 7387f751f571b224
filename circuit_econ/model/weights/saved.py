"""Tensors by the names and in the numbers that a model reads, whatever wrapped or packed them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from circuit_econ.errors import CheckpointError
from circuit_econ.model.architectures import read_config
from circuit_econ.model.source import Source
from circuit_econ.model.weights.reading import needs

__all__ = ["as_saved"]

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""What torch.compile, FSDP and activation checkpointing put into names, anywhere."""
_ADAPTED = re.compile(r"\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer)\.")
_BLOCK = 128
"""Rows and columns that share one entry of a ``weight_scale_inv`` (DeepSeek-V3)."""


def as_saved(source: Source, say: Callable[[str], None]) -> Source:
    """The checkpoint without wrappers' prefixes, and with float8 weights as real numbers.

    A prefix (``module.``, ``model.``, ``_orig_mod.``, any other, and several of them) goes only
    where the names that the model needs are found without it and not with it. A float8 tensor is
    multiplied by its scale (``<name>_scale`` or ``<name>_scale_inv``: one number, one for each row,
    or for ``_inv`` one for each block of 128 × 128); without a scale it stays what it is.

    Args:
        source: The checkpoint as read.
        say: Told what was done, in words that hold for the whole run.

    Raises:
        CheckpointError: If a scale does not fit its tensor, or adapters are not merged.
    """
    if (adapter := next((n for n in source.tensors if _ADAPTED.search(n)), None)) is not None:
        raise CheckpointError(
            f"{source.origin} holds adapters beside their base model ({adapter}); merge them "
            "(peft: merge_and_unload(), then save_pretrained())"
        )
    tensors = _unwrapped(source, say)
    scaled = [n for n, t in tensors.items() if t.is_floating_point() and t.itemsize == 1]
    if scaled and (found := _dequantised(source.origin, tensors, scaled)) is not tensors:
        say("float8 tensors are multiplied by their scales, in float32")
        tensors = found
    return source if tensors is source.tensors else replace(source, tensors=tensors)


def _unwrapped(source: Source, say: Callable[[str], None]) -> dict[str, Tensor]:
    try:
        config = read_config(source)
        read, lacking = needs(source, config)
    except CheckpointError:
        return source.tensors  # whoever needs the model says why there is none
    if not lacking:
        return source.tensors
    bare = {_WRAPPERS.sub("", name): tensor for name, tensor in source.tensors.items()}
    if len(bare) < len(source.tensors):
        bare = source.tensors
    complete: dict[str, dict[str, Tensor]] = {}
    fewest, best = len(lacking), source.tensors
    for prefix in _prefixes(bare, len(read | lacking) // 2):
        within = {name.removeprefix(prefix): tensor for name, tensor in bare.items()}
        if len(within) < len(bare) or any(prefix.startswith(shorter) for shorter in complete):
            continue
        missing = len(needs(replace(source, tensors=within), config)[1])
        if not missing:
            complete[prefix] = within
        # Where even the bare names lack something, what is on every name goes if that helps.
        elif missing < fewest and all(name.startswith(prefix) for name in bare):
            fewest, best = missing, within
    if len(complete) > 1:
        raise CheckpointError(
            f"{source.origin} holds the model beneath several prefixes ({', '.join(complete)}); "
            "save the one to measure alone"
        )
    best = next(iter(complete.values()), best)
    if best is not source.tensors:
        say(f"names of tensors are read without {_removed(source.tensors, best)}")
    return best


def _removed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """What was taken from names: the prefix of the first one, and wrappers further inside."""
    [(old, new), *_] = [(o, n) for o, n in zip(before, after, strict=True) if o != n]
    prefix = old[: len(old) - len(new)]
    if prefix + new == old:
        return f"the prefix {prefix}"
    return f"the prefixes in {old}"


def _prefixes(names: Mapping[str, Tensor], least: int) -> list[str]:
    """Beginnings that at least so many names share, shortest first; the empty one first of all."""
    counts = Counter(
        name[: place.end()] for name in names for place in re.finditer(r"[^.]*\.", name)
    )
    return ["", *sorted((p for p, count in counts.items() if count >= least), key=len)[:16]]


def _dequantised(
    origin: str, tensors: Mapping[str, Tensor], names: list[str]
) -> Mapping[str, Tensor]:
    found = dict(tensors)
    for name in names:
        for suffix in ("_scale", "_scale_inv"):
            scale = tensors.get(name + suffix)
            if scale is None or not scale.is_floating_point():
                continue
            found[name] = _scaled(origin, name, tensors[name], scale, blocks=suffix != "_scale")
            found.pop(name + suffix)
            break
    return found if len(found) < len(tensors) else tensors


def _scaled(origin: str, name: str, tensor: Tensor, scale: Tensor, *, blocks: bool) -> Tensor:
    exact, factor = tensor.to(torch.float32), scale.to(torch.float32)
    rows = tensor.shape[:1]
    if factor.numel() == 1:
        return exact * factor.reshape(())
    if factor.shape in (rows, (*rows, *(1 for _ in tensor.shape[1:]))):
        return exact * factor.reshape(-1, *(1 for _ in tensor.shape[1:]))
    if blocks and factor.ndim == tensor.ndim == 2:
        height, width = tensor.shape
        if factor.shape == (-(-height // _BLOCK), -(-width // _BLOCK)):
            spread = factor.repeat_interleave(_BLOCK, 0).repeat_interleave(_BLOCK, 1)
            return exact * spread[:height, :width]
    raise CheckpointError(
        f"{origin}: tensor {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}, and its "
        f"scale has shape {tuple(scale.shape)}, which is no known way of scaling; save it in "
        "bfloat16 or float32"
    )
