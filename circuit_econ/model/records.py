"""What a pass is told and what it leaves behind: edits, traces, ports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Edit", "Ports", "Trace", "edit_heads", "edit_mlp"]


@dataclass(frozen=True, slots=True)
class Edit:
    """Another contribution in a component's place, for some rows of the batch.

    Attributes:
        layer: The component's layer.
        head: The head, or None for the MLP.
        rows: Rows of the batch, as an index.
        replacement: What stands there instead: ``[rows, T, K]`` before the output matrix for a
            head, ``[rows, T, D]`` for an MLP; broadcast over rows and positions.
    """

    layer: int
    head: int | None
    rows: Tensor | slice
    replacement: Tensor


@dataclass(slots=True)
class Trace:
    """What one clean pass leaves behind.

    Attributes:
        streams: The stream at each place that something starts from: ``{place: [S, T, D]}``.
        heads: By layer, the heads' outputs before the output matrix: ``[S, T, H, K]``.
        mlps: By layer, the MLP's output, bias included: ``[S, T, D]``; empty without MLPs.
    """

    streams: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)
    mlps: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where components read: the normed inputs and what the projections make of them.

    Attributes:
        attention_input: Normed stream that queries, keys and values are computed from ``[S,T,D]``.
        q: Queries after bias, clipping, norm and rotation, ``[S, H, T, K]``.
        k: Keys likewise, one per key-value head.
        v: Values, one per key-value head.
    """

    attention_input: Tensor
    q: Tensor
    k: Tensor
    v: Tensor


def edit_heads(heads: Tensor, edits: Sequence[Edit]) -> Tensor:
    """Heads' outputs ``[B, T, H, K]`` with some replaced; the given tensor is left as it is."""
    mine = [e for e in edits if e.head is not None]
    if not mine:
        return heads
    heads = heads.clone()
    for edit in mine:
        heads[edit.rows, :, edit.head] = edit.replacement.to(heads.dtype)
    return heads


def edit_mlp(written: Tensor, edits: Sequence[Edit]) -> Tensor:
    """An MLP's output ``[B, T, D]`` with some rows replaced; the given tensor is left as it is."""
    mine = [e for e in edits if e.head is None]
    if not mine:
        return written
    written = written.clone()
    for edit in mine:
        written[edit.rows] = edit.replacement.to(written.dtype)
    return written
