"""What is odd about a run's weights, read off its ``tensors`` table alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import groupby, pairwise

import numpy as np
import polars as pl

from circuit_econ.tables import make_table
from circuit_econ.trajectory.fingerprint import checkpoint_digest

__all__ = ["Finding", "audit_table", "findings"]


class Finding(StrEnum):
    """Kinds of findings, in the order in which a step's are listed."""

    UNREADABLE = "unreadable"
    STEP_ZERO = "step-0-equals-step-1"
    IDENTICAL = "identical-neighbour"
    FINAL_EARLY = "final-weights-early"
    REPEATED = "repeated-weights"
    MISSING = "missing-tensor"
    EXTRA = "extra-tensor"
    NAN = "nan"
    INFINITE = "infinite"
    SHAPE = "shape-change"
    DTYPE = "dtype-change"
    NORM = "norm-jump"


Row = tuple[int, Finding, str | None, str]
"""Step, finding, tensor (None: the whole checkpoint) and a sentence with the numbers."""

MIN_HISTORY = 8
"""Checkpoints a tensor's norm must be known at before a jump can be told from its history."""
JUMP_FACTOR = 3.0
"""A jump departs from the local trend by more than this factor, in each e-fold of steps."""
SMALL_FACTOR = 6.0
"""The same where entries are small: what is near zero may double or halve for nothing."""
SMALL = 0.15
"""Entries are small below this share of what is typical of the checkpoint's tensors."""
FLOOR = 1e-3
"""What counts as zero: this share of what is typical."""
JUMP_SPREAD = 3.0
"""A jump departs from it by more than so many of the tensor's own robust deviations."""


def findings(tensors: pl.DataFrame) -> pl.DataFrame:
    """The ``audit`` table of a run, a pure function of its ``tensors`` table.

    - ``step-0-equals-step-1``, ``identical-neighbour``: all weights equal those of the checkpoint
      saved before it; ``final-weights-early``: an earlier checkpoint, others in between, has the
      last one's weights; ``repeated-weights``: the same between two other checkpoints.
    - ``missing-tensor``, ``extra-tensor``, ``nan``, ``infinite``: one row per tensor and stretch of
      consecutive checkpoints, at its first step. A checkpoint that has none of the names that the
      model needs is one ``missing-tensor`` row.
    - ``shape-change`` per tensor, ``dtype-change`` per checkpoint, against the one before.
    - ``norm-jump``: see :func:`_jumps` for the rule.

    Only tensors that the model reads are judged, save for ``extra-tensor``. Neighbours are
    neighbours in the table: a checkpoint that could not be read has no rows there.

    Args:
        tensors: The ``tensors`` table of any number of steps, in any order of rows.

    Returns:
        Rows by step, kind of finding and name of tensor.
    """
    steps = tensors["step"].unique().sort().to_list()
    ordered = tensors.sort("tensor", "step")
    read = ordered.filter(pl.col("role") == "read")
    return audit_table(
        [
            *_same_weights(read),
            *_missing_and_extra(ordered, steps),
            *_not_finite(read, steps),
            *_shape_changes(read),
            *_dtype_changes(read),
            *_norm_jumps(read),
        ]
    )


def audit_table(rows: Sequence[Row]) -> pl.DataFrame:
    """The ``audit`` table of some rows, by step, kind of finding and name of tensor."""
    rank = {finding: place for place, finding in enumerate(Finding)}
    ordered = sorted(rows, key=lambda row: (row[0], rank[row[1]], row[2] or "", row[3]))
    columns = ("step", "finding", "tensor", "detail")
    table = {key: [row[i] for row in ordered] for i, key in enumerate(columns)}
    table["finding"] = [str(finding) for finding in table["finding"]]
    return make_table("audit", table)


def _same_weights(read: pl.DataFrame) -> Iterator[Row]:
    digests = {int(rows["step"][0]): checkpoint_digest(rows) for rows in read.partition_by("step")}
    steps = sorted(digests)
    for before, step in pairwise(steps):
        digest = digests[step]
        if digest != digests[before]:
            continue
        if before == 0:
            detail = f"all weights equal those of step {step}, so one is misnamed (digest {digest})"
            yield 0, Finding.STEP_ZERO, None, detail
        else:
            detail = f"all weights equal those of step {before} (digest {digest})"
            yield step, Finding.IDENTICAL, None, detail
    # Stretches of equal neighbours; the same digest in two of them is one file under two names.
    stretches = [list(group) for _, group in groupby(steps, key=digests.__getitem__)]
    first_seen: dict[str, int] = {}
    for stretch in stretches[:-1]:
        digest = digests[stretch[0]]
        if digest == digests[steps[-1]]:
            detail = f"all weights equal those of the last step {steps[-1]} (digest {digest})"
            yield from ((step, Finding.FINAL_EARLY, None, detail) for step in stretch)
        elif digest in first_seen:
            detail = (
                f"all weights equal those of step {first_seen[digest]}, with others in between "
                f"(digest {digest})"
            )
            yield stretch[0], Finding.REPEATED, None, detail
        first_seen.setdefault(digest, stretch[0])


def _missing_and_extra(ordered: pl.DataFrame, steps: list[int]) -> Iterator[Row]:
    strange = set(steps) - set(ordered.filter(pl.col("role") == "read")["step"])
    for step in sorted(strange & set(ordered.filter(pl.col("role") == "missing")["step"])):
        yield step, Finding.MISSING, None, _other_names(ordered.filter(pl.col("step") == step))
    ordered = ordered.filter(~pl.col("step").is_in(list(strange)))
    steps = [step for step in steps if step not in strange]
    for (name,), rows in ordered.partition_by("tensor", as_dict=True).items():
        at = {role: set(rows.filter(pl.col("role") == role)["step"]) for role in ("read", "extra")}
        declared = set(rows.filter(pl.col("role") == "missing")["step"])
        for stretch in _stretches(declared, steps):
            yield stretch[0], Finding.MISSING, str(name), f"the model needs it {_span(stretch)}"
        for stretch in _stretches(at["extra"], steps):
            detail = f"the model does not use it {_span(stretch)}"
            yield stretch[0], Finding.EXTRA, str(name), detail
        # Some tensors may be left out (a bias that counts as 0), but not at some steps alone.
        silent = set(steps) - set(rows["step"]) if at["read"] else set()
        for stretch in _stretches(silent, steps):
            detail = f"absent, but read at {len(at['read'])} other checkpoints {_span(stretch)}"
            yield stretch[0], Finding.MISSING, str(name), detail


def _other_names(rows: pl.DataFrame) -> str:
    """One line for a checkpoint whose names are all other ones."""
    needed, there = (rows.filter(pl.col("role") == role)["tensor"] for role in ("missing", "extra"))
    detail = f"none of the {len(needed)} tensors that the model needs is there ({needed[0]} first)"
    return f"{detail}; there are {len(there)} others ({there[0]} first)" if len(there) else detail


def _not_finite(read: pl.DataFrame, steps: list[int]) -> Iterator[Row]:
    bad = read.filter(pl.col("nonfinite") > 0).with_columns(nan=pl.col("norm").is_nan())
    for (name, nan), rows in bad.partition_by("tensor", "nan", as_dict=True).items():
        counts = dict(zip(rows["step"], rows["nonfinite"], strict=True))
        kind, noun = (Finding.NAN, "NaN or infinite") if nan else (Finding.INFINITE, "infinite")
        for stretch in _stretches(set(counts), steps):
            number = counts[stretch[0]]
            entries = f"{number} {'entry is' if number == 1 else 'entries are'} {noun}"
            yield stretch[0], kind, str(name), f"{entries} {_span(stretch)}"


def _shape_changes(read: pl.DataFrame) -> Iterator[Row]:
    for name, before, now in _neighbours(read, "shape"):
        detail = f"shape {now[1]}, but {before[1]} at step {before[0]}"
        yield now[0], Finding.SHAPE, name, detail


def _dtype_changes(read: pl.DataFrame) -> Iterator[Row]:
    """One row per checkpoint and pair of dtypes: a whole run usually changes at once."""
    changed: dict[tuple[int, int, str, str], list[str]] = {}
    for name, before, now in _neighbours(read, "dtype"):
        changed.setdefault((now[0], before[0], before[1], now[1]), []).append(name)
    for (step, earlier, old, new), names in changed.items():
        many = f"{len(names)} tensors, {names[0]} first, are" if len(names) > 1 else "it is"
        detail = f"{many} {new}, but {old} at step {earlier}"
        yield step, Finding.DTYPE, None if len(names) > 1 else names[0], detail


def _neighbours(
    read: pl.DataFrame, column: str
) -> Iterator[tuple[str, tuple[int, str], tuple[int, str]]]:
    """Where a column of a tensor differs from the row before: name, then and now."""
    for (name,), rows in read.partition_by("tensor", as_dict=True).items():
        for before, now in pairwise(rows.select("step", column).iter_rows()):
            if before[1] != now[1]:
                yield str(name), before, now


def _norm_jumps(read: pl.DataFrame) -> Iterator[Row]:
    known = read.filter((pl.col("nonfinite") == 0) & pl.col("norm").is_finite())
    entries = [max(1, math.prod(json.loads(shape))) for shape in known["shape"]]
    known = known.with_columns(size=pl.col("norm") / pl.Series(entries, dtype=pl.Float64).sqrt())
    typical = pl.col("size").filter(pl.col("size") > 0).median().over("step")
    known = known.with_columns((pl.col("size") / typical).fill_null(0.0))
    for (name, _), rows in known.partition_by("tensor", "shape", as_dict=True).items():
        pairs = list(rows.select("step", "norm", "size").iter_rows())
        for before, now in pairwise(pairs):
            if before[2] > FLOOR and now[1] == 0:
                detail = f"norm is exactly 0, but {before[1]:.4g} at step {before[0]}"
                yield now[0], Finding.NORM, str(name), detail
        positive = [pair for pair in pairs if pair[1] > 0]
        steps, norms, sizes = (np.array([pair[i] for pair in positive]) for i in range(3))
        for i in _jumps(steps, norms, sizes):
            usual = np.exp(np.median(np.abs(np.diff(np.log(norms)))))
            detail = (
                f"norm {norms[i]:.4g}, but {norms[i - 1]:.4g} at step {steps[i - 1]}: a factor of "
                f"{norms[i] / norms[i - 1]:.3g}, where {usual:.3g} is usual"
            )
            yield int(steps[i]), Finding.NORM, str(name), detail


def _jumps(steps: np.ndarray, norms: np.ndarray, sizes: np.ndarray) -> list[int]:
    """Which checkpoints' norms lie far out of the tensor's own history.

    ``sizes`` are root mean squares of the tensor's entries over the median of all tensors of the
    same checkpoint. With y = ln norm, but for a floor of 0.001 in size under which nothing
    happens, and x = ln(1 + step), the departure of an interval between checkpoints from the local
    trend is u = Δy − r Δx, where r is the median of Δy/Δx over the four nearest other intervals: a
    norm that grows like any power of the step departs by nothing, however checkpoints are spaced. A
    trend known from intervals less than half as long may also have ended: then u is what of Δy lies
    outside of 0 … r Δx. A departure is large beyond

        max(ln f, 3 × 1.4826 × median |u| over the tensor's other intervals, its neighbours apart)
        × max(1, Δx)

    with f = 3, or 6 where both sizes are below 0.15: it is judged per unit of x, as learning goes,
    so that checkpoints that lie far apart may differ by more.

    A checkpoint jumps when the departures before and after it are both large and of opposite signs
    (it stands out of its neighbours), or when the one before it is larger than that by Δx (it
    starts another level; growth sets in within an interval, and Δx is the growth in proportion to
    the step there: much between log-spaced checkpoints, next to nothing late in a run).

    Fewer than eight checkpoints are no history. The first is never reported, nor are checkpoints up
    to which the tensor was exactly zero, as biases are at the initialisation.
    """
    if len(norms) < MIN_HISTORY:
        return []
    y, x = np.log(norms * (1 + FLOOR / sizes)), np.log1p(steps.astype(np.float64))
    change, span = np.diff(y), np.diff(x)
    rate, order = change / span, np.arange(len(change))
    nearest = np.argsort(np.abs(order[:, None] - order), axis=1, kind="stable")[:, 1:5]
    trend = span * np.median(rate[nearest], axis=1)
    held = np.clip(change, np.minimum(trend, 0), np.maximum(trend, 0))
    departure = change - np.where(span > 2 * span[nearest].max(axis=1), held, trend)
    factor = np.where(np.maximum(sizes[:-1], sizes[1:]) < SMALL, SMALL_FACTOR, JUMP_FACTOR)
    usual = np.array([1.4826 * np.median(np.abs(departure[np.abs(order - i) > 1])) for i in order])
    limit = np.maximum(np.log(factor), JUMP_SPREAD * usual) * np.maximum(1.0, span)
    jumps: list[int] = []
    for i in np.flatnonzero(np.abs(departure) > limit).tolist():
        size = departure[i]
        after = departure[i + 1] if i + 1 < len(departure) else 0.0
        large_after = i + 1 < len(departure) and abs(after) > limit[i + 1]
        stands_out = large_after and size * after < 0
        returns = bool(jumps) and jumps[-1] == i and size * departure[i - 1] < 0
        if not returns and (stands_out or abs(size) > limit[i] + span[i]):
            jumps.append(i + 1)
    return jumps


def _stretches(at: set[int], steps: list[int]) -> list[list[int]]:
    """The steps in ``at``, in stretches without a gap among ``steps``."""
    grouped = groupby(steps, key=at.__contains__)
    return [list(group) for inside, group in grouped if inside]


def _span(stretch: list[int]) -> str:
    if len(stretch) == 1:
        return f"(step {stretch[0]} alone)"
    return f"(steps {stretch[0]} to {stretch[-1]}, {len(stretch)} checkpoints)"
