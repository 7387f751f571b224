"""What flows reach in models that were never trained: measured once per shape, and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import polars as pl
from filelock import FileLock

from circuit_econ.graph.counting import largest_flows
from circuit_econ.measures.base import Context
from circuit_econ.measures.income_economy import Economy
from circuit_econ.model.untrained import Untrained

__all__ = ["PASSES", "largest_of_untrained", "plain_flows"]

_NODES = 8

PASSES = 3.0 * _NODES
"""Forward passes that a model takes, a backward pass as two."""

_FIRST_SEED = 1_000_000_007
"""Seeds of untrained models are far from those that anybody trains with."""

_FORMAT = 1


def plain_flows(context: Context, baseline: str, nodes: int = _NODES) -> pl.DataFrame:
    """All flows of a model with a fixed number of nodes, without errors: supplier, buyer, port."""
    economy = Economy(context, baseline)
    found = economy.integrate(nodes)
    scored = economy.counts.sum()
    return pl.DataFrame(
        {
            "supplier": [supplier for supplier, _ in economy.pairs],
            "buyer": [str(port.buyer) for _, port in economy.pairs],
            "port": [port.port for _, port in economy.pairs],
            "signal": (found.signal / scored).tolist(),
            "crowding": (found.crowding / scored).tolist(),
        },
        schema_overrides={"signal": pl.Float64, "crowding": pl.Float64},
    )


def largest_of_untrained(
    context: Context, untrained: Untrained, baseline: str, count: int
) -> pl.DataFrame:
    """The largest flow of each class of edges in every one of some untrained models.

    Measured on the evaluation sequences of the context. With a ``cache`` each model is measured
    once per shape, data and baseline, whoever asks; a run that is stopped goes on where it was.

    Returns:
        Columns ``seed``, ``class``, ``largest`` (nats per scored position).
    """
    path = None
    if context.cache is not None:
        path = context.cache / f"{_digest(context, untrained, baseline)}.parquet"
    with _alone(path):
        known = pl.read_parquet(path) if path is not None and path.is_file() else None
        for seed in range(_FIRST_SEED, _FIRST_SEED + count):
            if known is not None and seed in known["seed"]:
                continue
            other = replace(context, model=untrained(seed))
            found = largest_flows(plain_flows(other, baseline))
            rows = found.select(pl.lit(seed, pl.Int64).alias("seed"), "class", "largest")
            known = rows if known is None else pl.concat([known, rows])
            if path is not None:
                _write(known, path)
            context.progress(0.5 * (seed - _FIRST_SEED + 1) / count)
    assert known is not None
    return known.filter(pl.col("seed") < _FIRST_SEED + count)


def _digest(context: Context, untrained: Untrained, baseline: str) -> str:
    told = [
        _FORMAT, untrained.digest, context.evaluation.digest, baseline, context.seed,
        str(context.model.dtype), str(context.model.products.rounding), _NODES,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _write(frame: pl.DataFrame, path: Path) -> None:
    partial = path.with_name(f"{path.name}.{uuid4().hex}")
    frame.write_parquet(partial)
    partial.replace(path)


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Runs that need the same models wait for whoever measures them."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield
