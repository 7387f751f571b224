"""Tables for a page: by column, as binary numbers, deflated. ``page.js`` unpacks them into rows."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import polars as pl

__all__ = ["pack"]


def pack(frame: pl.DataFrame) -> dict[str, Any]:
    """A table as JSON-ready columns, in a small fraction of what rows of JSON would take.

    Strings become a list of distinct words and 32-bit indices into it (the last one stands for
    null); integers are 64-bit floats, exact up to 2^53; floats are 32-bit, seven digits, enough to
    draw and to print. Null and infinite numbers become NaN. All little-endian, zlib, base64.

    Raises:
        TypeError: If a column is neither text, integer nor float.
    """
    return {
        "height": frame.height,
        "columns": {name: _pack_column(frame[name]) for name in frame.columns},
    }


def _pack_column(column: pl.Series) -> dict[str, Any]:
    if column.dtype in (pl.String, pl.Null):
        words = column.drop_nulls().unique(maintain_order=True).cast(pl.String)
        codes = column.cast(pl.String).replace_strict(
            words, range(len(words)), default=len(words), return_dtype=pl.UInt32
        )
        return {"type": "text", "words": words.to_list(), "data": _deflate(codes, "<u4")}
    if not column.dtype.is_numeric():
        raise TypeError(f"column {column.name!r} of type {column.dtype} cannot be packed")
    kind = "<f8" if column.dtype.is_integer() else "<f4"
    numbers = column.cast(pl.Float64)
    finite = numbers.set(numbers.is_infinite().fill_null(False), None).fill_null(float("nan"))
    return {"type": "integer" if kind == "<f8" else "float", "data": _deflate(finite, kind)}


def _deflate(column: pl.Series, kind: str) -> str:
    raw = column.to_numpy().astype(kind).tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
