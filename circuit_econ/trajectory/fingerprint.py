"""Digest, norm and role of every tensor of a checkpoint: what the audit is computed from."""

from __future__ import annotations

import hashlib
import math

import polars as pl
import torch
from torch import Tensor

from circuit_econ.model.source import Source
from circuit_econ.model.weights import Inventory
from circuit_econ.tables import make_table

__all__ = ["checkpoint_digest", "describe"]

_CHUNK = 1 << 20
"""Numbers converted to float64 at a time: 8 MiB."""


def describe(step: int, source: Source, inventory: Inventory) -> pl.DataFrame:
    """One row of the ``tensors`` table per tensor, in the order of their names.

    ``role`` is ``read`` (the model needs it), ``missing`` (the model needs it, the file lacks it)
    or ``extra`` (nobody needs it). Tensors that are known to carry nothing (``ignored``) have no
    row. ``digest`` is over dtype, shape and bytes; ``norm`` is the Frobenius norm in float64, NaN
    where the tensor holds NaN, else infinite where it holds an infinity; ``nonfinite`` counts
    both. Norm and count are null for packed dtypes, which only tensors that nobody reads have.
    """
    present = source.tensors.keys() - inventory.ignored
    rows = [_row(name, source, inventory) for name in sorted(present | inventory.missing)]
    columns = ("tensor", "role", "shape", "dtype", "digest", "norm", "nonfinite")
    table = {key: [row[i] for row in rows] for i, key in enumerate(columns)}
    return make_table("tensors", {"step": [step] * len(rows), **table})


def checkpoint_digest(tensors: pl.DataFrame) -> str:
    """Digest of one checkpoint: over names and digests of the tensors that are read.

    Independent of file format, sharding and anything that the model does not use.

    Args:
        tensors: Rows of the ``tensors`` table of a single step.
    """
    read = tensors.filter(pl.col("role") == "read").sort("tensor")
    total = hashlib.sha256()
    for name, digest in read.select("tensor", "digest").iter_rows():
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()[:32]


def _row(name: str, source: Source, inventory: Inventory) -> tuple[object, ...]:
    if name not in source.tensors:
        return (name, "missing", None, None, None, None, None)
    tensor = source.tensors[name]
    norm, nonfinite = _norm(tensor)
    role = "read" if name in inventory.read else "extra"
    shape = str(list(tensor.shape))
    return (name, role, shape, _dtype(tensor), _digest(tensor), norm, nonfinite)


def _digest(tensor: Tensor) -> str:
    flat = tensor.contiguous().reshape(-1)
    total = hashlib.sha256(f"{_dtype(tensor)} {list(tensor.shape)}\0".encode())
    total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]


def _norm(tensor: Tensor) -> tuple[float | None, int | None]:
    """Frobenius norm in float64 and the number of NaN and infinite entries; None without numbers.

    Packed dtypes (float4, bits, small integers) hold codes that torch does not convert.
    """
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)
    squares, nonfinite = 0.0, 0
    for chunk in flat.split(_CHUNK):
        try:
            exact = chunk.to(torch.float64)
        except (RuntimeError, NotImplementedError):
            return None, None
        squares += float(exact.square().sum())
        nonfinite += int((~exact.isfinite()).sum())
    return math.sqrt(squares), nonfinite


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
