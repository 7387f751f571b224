"""A ledger as the page reads it: nothing in it is longer than a browser can lay out.

A name, reason or path of ten thousand characters without a place to break a line stops a browser.
Whatever is too long is cut here, before anything is made of it, and shown with its length and
digest: two long values stay two.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from circuit_econ.ledger import Ledger

__all__ = ["legible", "shown_ledger"]

_WORD, _TEXT = 300, 4000
"""Longest run of characters without a space, and longest text, in characters."""

_HEAD, _TAIL = 150, 50


def shown_ledger(ledger: Ledger) -> Ledger:
    """The same ledger with every text legible, in its tables and in ``run.yaml``."""
    return _Shown(ledger.path, _each(ledger.run), ledger.seals)


def legible(text: str) -> str:
    """Text whose words, and which as a whole, are short enough to be shown."""
    if len(text) > _WORD:
        text = re.sub(rf"\S{{{_WORD + 1},}}", lambda word: _cut(word[0]), text)
    return _cut(text) if len(text) > _TEXT else text


def _cut(text: str) -> str:
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]
    return f"{text[:_HEAD]}… ({len(text):,} characters, sha256 {digest}) …{text[-_TAIL:]}"


def _each(value: Any) -> Any:
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, Mapping):
        return {_each(key): _each(inner) for key, inner in value.items()}
    return [_each(inner) for inner in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True)
class _Shown(Ledger):
    def table(self, name: str) -> pl.LazyFrame:
        return Ledger.table(self, name).with_columns(
            pl.col(pl.String).map_batches(_column, return_dtype=pl.String, is_elementwise=True)
        )


def _column(column: pl.Series) -> pl.Series:
    long = column.filter(column.str.len_chars() > _WORD).unique()
    return column.replace(long, [legible(text) for text in long]) if len(long) else column
