"""What flows and effects reach in models that were never trained: once per shape, and kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import polars as pl
import torch

from circuit_econ.errors import ConfigurationError, foreign
from circuit_econ.filing import held, put, read_text
from circuit_econ.graph.counting import Quantity, edge_class, largest
from circuit_econ.measures.base import Context, Plan, Sizes
from circuit_econ.measures.edges import edge_plan, edges_of, effects_of
from circuit_econ.measures.income_economy import Economy
from circuit_econ.measures.income_memory import Cut, cut, table_memory
from circuit_econ.measures.plan import kept
from circuit_econ.measures.quadrature import rule
from circuit_econ.model.untrained import Untrained
from circuit_econ.model.weights import blank

__all__ = ["PASSES", "largest_of_untrained", "plain_effects", "plain_flows"]

_LEVEL = 3

PASSES = 3.0 * len(rule(_LEVEL).nodes)
"""Forward passes that a model takes, a backward pass as two."""

_FIRST_SEED = 1_000_000_007
"""Seeds of untrained models are far from those that anybody trains with."""

_FORMAT = 5

_KEPT = pl.Schema({"seed": pl.Int64, "class": pl.String, "largest": pl.Float64})

logger = logging.getLogger(__name__)


def plain_flows(context: Context, baseline: str, level: int = _LEVEL) -> pl.DataFrame:
    """All flows of a model by one rule, without errors: supplier, buyer, port."""
    economy = Economy(context, baseline, plain_cut(context.sizes, context.plan, level))
    found = economy.integrate(level)
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


def plain_cut(sizes: Sizes, plan: Plan, level: int = _LEVEL) -> Cut:
    """How the work of :func:`plain_flows` is cut under a plan."""
    return cut(sizes, plan, stages=1, levels=(level, level), left_out=False)


def weights_of(sizes: Sizes) -> int:
    """Bytes of an untrained model's weights, which are there beside the checkpoint's."""
    shapes = blank(sizes.config, sizes.dtype, torch.device("meta"))
    return sum(tensor.numel() for _, tensor in shapes.named()) * sizes.dtype.itemsize


def beside(sizes: Sizes, plan: Plan) -> Plan:
    """A plan with what is left to measure an untrained model, and the tables of flows."""
    taken = weights_of(sizes) + kept(table_memory(sizes))
    return replace(plan, memory=max(1, plan.memory - taken))


def effects_plan(sizes: Sizes, plan: Plan, cut: int) -> Plan:
    """A plan under which so many edges of both classes can be cut."""
    return edge_plan(sizes, plan, 2 * cut)


def plain_effects(context: Context, baseline: str, cut: int) -> pl.DataFrame:
    """Exact effects of a model's largest flows, so many of capital goods and of final goods each.

    Returns:
        Columns ``supplier``, ``buyer``, ``port``, ``effect``.
    """
    context = replace(context, plan=effects_plan(context.sizes, context.plan, cut))
    flows = edges_of(plain_flows(context, baseline))
    chosen = []
    for _, edges in groupby(sorted(flows, key=_class_of), key=_class_of):
        chosen += sorted(edges, key=lambda edge: -abs(flows[edge]))[:cut]
    return effects_of(context, chosen, baseline)


def largest_of_untrained(
    context: Context, untrained: Untrained, baseline: str, count: int, cut: int | None = None
) -> pl.DataFrame:
    """The largest flow, or effect, of each class of edges in every one of some untrained models.

    Measured on the evaluation sequences of the context. With a ``cache`` each model is measured
    once per shape, data and baseline, whoever asks; a run that is stopped goes on where it was. A
    cache that is damaged is made anew, one that cannot be written is done without; the log says so.
    With ``reached`` a run does not even look there twice.

    Args:
        context: Whose data are measured on.
        untrained: The models.
        baseline: Whose flows and effects.
        count: How many models.
        cut: Effects of so many edges of each class, those with the largest flows; None: flows.

    Returns:
        Columns ``seed``, ``class``, ``largest`` (nats per scored position).
    """
    digest = _digest(context, untrained, baseline, cut)
    wanted = None if context.cache is None else context.cache / f"{digest}.json"
    reached = {} if context.reached is None else context.reached
    seeds = range(_FIRST_SEED, _FIRST_SEED + count)
    if digest not in reached or not set(seeds) <= set(reached[digest]["seed"]):
        reached[digest] = _measured(context, untrained, baseline, seeds, cut, wanted)
    return reached[digest].filter(pl.col("seed") < seeds.stop)


def _measured(
    context: Context,
    untrained: Untrained,
    baseline: str,
    seeds: range,
    cut: int | None,
    wanted: Path | None,
) -> pl.DataFrame:
    """The models of some seeds, and whatever else is kept in a file."""
    with _alone(wanted) as path:
        known = pl.DataFrame(schema=_KEPT) if path is None else _read(path)
        for seed in seeds:
            if seed in known["seed"]:
                continue
            plan = beside(context.sizes, context.plan)
            other = replace(context, model=untrained(seed), plan=plan, progress=lambda _: None)
            if cut is None:
                found = largest(plain_flows(other, baseline))
            else:
                found = largest(plain_effects(other, baseline, cut), Quantity.EFFECT)
            rows = found.select(pl.lit(seed, pl.Int64).alias("seed"), "class", "largest")
            known = pl.concat([known, rows])
            if path is not None and not _write(known, path):
                path = None
            context.progress(0.5 * (seed - seeds.start + 1) / len(seeds))
    return known


def _class_of(edge: tuple[str, str, str]) -> str:
    return edge_class(edge[1], Quantity.EFFECT)


def _digest(context: Context, untrained: Untrained, baseline: str, most: int | None) -> str:
    model, sizes = context.model, context.sizes
    plan = beside(sizes, context.plan)
    # What decides the last digits is part of it: which numbers, by how many, in which pieces.
    flows = plain_cut(sizes, plan)
    pieces = [flows.panel, flows.held, flows.logits]
    if most is not None:
        effects = effects_plan(sizes, plan, most)
        pieces += [effects.panel, effects.rows]
    told = [
        _FORMAT, untrained.digest, context.evaluation.digest, baseline, context.seed,
        str(model.dtype), str(model.products.rounding), model.device.type,
        torch.get_num_threads(), pieces, _LEVEL, most,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _read(path: Path) -> pl.DataFrame:
    """What is kept; nothing where there is none, or it is not what was written."""
    if path.exists():
        try:
            with foreign(ConfigurationError, f"{path} is damaged"):
                kept = json.loads(read_text(path))
                if kept["digest"] != _sealed(kept["rows"]):
                    raise ValueError("its digest is not that of its rows")
                return pl.DataFrame(kept["rows"], schema=_KEPT, strict=True)
        except ConfigurationError as error:
            logger.warning("%s; its untrained models are measured again", error)
    return pl.DataFrame(schema=_KEPT)


def _write(frame: pl.DataFrame, path: Path) -> bool:
    """Keep it; whether that was possible."""
    rows = frame.to_dict(as_series=False)
    text = json.dumps({"digest": _sealed(rows), "rows": rows})
    try:
        with foreign(ConfigurationError, f"cannot write {path}"):
            put(lambda partial: partial.write_text(text, encoding="utf-8"), path)
    except ConfigurationError as error:
        logger.warning("%s; untrained models are measured without being kept", error)
        return False
    return True


def _sealed(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@contextmanager
def _alone(path: Path | None) -> Iterator[Path | None]:
    """Runs that need the same models wait for whoever measures them; None keeps nothing."""
    with ExitStack() as stack:
        if path is not None:
            try:
                with foreign(ConfigurationError, f"cannot write to {path.parent}"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    lock = path.with_name(f"{path.name}.lock")
                    stack.enter_context(held(lock, f"the untrained models of {path}", wait=True))
            except ConfigurationError as error:
                logger.warning("%s; untrained models are measured without being kept", error)
                path = None
        yield path
