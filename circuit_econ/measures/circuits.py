"""Modular circuits: found in the flows, followed over checkpoints, valued by joint ablation.

An edge counts when it exceeds its sampling error and what untrained models of the same shape reach;
components that trade alike share a role; roles that edges tie together are a circuit
(:mod:`circuit_econ.graph.circuits`). Each circuit is then taken out as a whole, and its members one
by one and in pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import sqrt
from typing import Any

import polars as pl
import torch

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.evaluation import Evaluation
from circuit_econ.graph.circuits import Circuits, adjusted_rand, find_circuits
from circuit_econ.graph.counting import Admitted, bounds, counted, shortfall
from circuit_econ.graph.tracking import track
from circuit_econ.measures.base import Context, Measure, Plan, Sizes
from circuit_econ.measures.edges import edge_memory
from circuit_econ.measures.income_memory import table_memory
from circuit_econ.measures.plan import kept, sweep_memory
from circuit_econ.measures.sweep import Variant, sweep
from circuit_econ.measures.untrained_flows import (
    beside,
    largest_of_untrained,
    plain_cut,
    weights_of,
)
from circuit_econ.model import ModelConfig
from circuit_econ.model.intervene import components, parse_component
from circuit_econ.tables import BASELINES, make_table

__all__ = ["CIRCUITS", "CircuitSettings"]

logger = logging.getLogger(__name__)


@dataclass
class CircuitSettings:
    """Settings of ``circuits``.

    Attributes:
        baseline: Under which baseline's flows circuits are looked for; the run's first by default.
            They are valued under all.
        untrained: How many untrained models of the same shape say which edges count.
        alike: How alike two components must trade to share a role, between 0 and 1.
        overlap: Share of the smaller circuit that two must have in common to be the same one at the
            next checkpoint.
        factor: By which factor the joint value of a circuit must change for growth or decline.
        most_pairs: Members of a circuit, those with the highest membership, whose pairs are taken
            out together.
    """

    baseline: str | None = None
    untrained: int = 20
    alike: float = 0.6
    overlap: float = 0.5
    factor: float = 2.0
    most_pairs: int = 12

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.baseline is not None and self.baseline not in BASELINES:
            raise unknown("baseline of measures.circuits", self.baseline, BASELINES)
        if self.untrained < 5:
            raise ConfigurationError(
                "measures.circuits.untrained must be at least 5 for a bound on what untrained "
                f"models reach, not {self.untrained}"
            )
        for name in ("alike", "overlap"):
            if not 0 < (value := getattr(self, name)) <= 1:
                raise ConfigurationError(
                    f"measures.circuits.{name} must be above 0 and at most 1, not {value}"
                )
        if not self.factor > 1:
            raise ConfigurationError(f"measures.circuits.factor must be above 1, not {self.factor}")
        if self.most_pairs < 0:
            raise ConfigurationError(
                f"measures.circuits.most_pairs must be 0 or more, not {self.most_pairs}"
            )


def run(context: Context, settings: CircuitSettings) -> Mapping[str, pl.DataFrame]:
    """Find circuits in the flows of this checkpoint and value them.

    Joint values, single values and pairs are those of the same sequences, so that a redundancy,
    V(S) − ΣV(c), has the error of its own paired differences
    (:func:`~circuit_econ.measures.statistics.ratio_estimate`).

    Raises:
        ConfigurationError: If the flows of the baseline were not measured.
    """
    baseline = _baseline(context, settings)
    if baseline not in context.baselines:
        raise unknown("baseline of measures.circuits", baseline, context.baselines)
    flows, effects = (
        None if table is None else table.filter(pl.col("baseline") == baseline)
        for table in (context.tables["flows"], context.tables.get("edges"))
    )
    assert flows is not None
    bound = bounds(_untrained(context, baseline, effects, settings.untrained))
    edges = counted(flows, bound, effects)
    found = find_circuits(edges, settings.alike, context.seed)
    halves = [
        find_circuits(
            counted(
                _half(flows, "signal", which),
                bound,
                None if effects is None else _half(effects, "effect", which),
            ),
            settings.alike,
            context.seed,
        )
        for which in ("first_half", "second_half")
    ]
    values, pairs = _values(context, found, settings.most_pairs)
    both, index = adjusted_rand(*(half.assigned for half in halves))
    short = shortfall(flows, bound, len(context.evaluation.tokens), effects)
    return {
        "counted": _counted(context.step, edges, found),
        "counting": _counting(context, baseline, edges, short),
        "circuits": make_table("circuits", {"step": context.step, **found.columns()}),
        "circuit_values": make_table("circuit_values", {"step": context.step, **values}),
        "circuit_pairs": make_table("circuit_pairs", {"step": context.step, **pairs}),
        "circuit_agreement": make_table(
            "circuit_agreement",
            {
                "step": context.step,
                "circuits": len(found.names),
                "first_half": len(halves[0].names),
                "second_half": len(halves[1].names),
                "components": both,
                "adjusted_rand": index,
            },
        ),
    }


def _baseline(context: Context, settings: CircuitSettings) -> str:
    return settings.baseline or str(context.baselines[0])


def flow_bounds(
    context: Context, settings: CircuitSettings, baseline: str
) -> Mapping[str, float] | None:
    """What a flow must exceed to count, by class of edges; None where flows are not looked at.

    Where effects count as well, flows and effects share the level, and the bound is a little more.
    """
    if baseline != _baseline(context, settings):
        return None
    at, of = context.baselines.index(baseline), len(context.baselines)
    told = replace(context, progress=lambda done: context.progress((at + done) / of))
    return bounds(_untrained(told, baseline, None, settings.untrained))


def _untrained(
    context: Context, baseline: str, effects: pl.DataFrame | None, count: int
) -> pl.DataFrame:
    """What untrained models reach, in flows and, where effects were measured, in effects."""
    assert context.untrained is not None
    found = [largest_of_untrained(context, context.untrained, baseline, count)]
    if effects is not None and (between := effects.filter(pl.col("flow").is_not_null())).height:
        # As many as were cut for their flow here; all that were drawn where none was.
        chosen = between["chosen"].to_list().count("flow") or between.height
        found.append(largest_of_untrained(context, context.untrained, baseline, count, chosen))
    return pl.concat(found)


def _half(rows: pl.DataFrame, amount: str, half: str) -> pl.DataFrame:
    """Flows or effects as half of the data tells them, with the larger error that half has."""
    found = rows.with_columns(pl.col(half).alias(amount), se=pl.col("se") * sqrt(2))
    if amount == "signal":
        found = found.with_columns(crowding=pl.lit(0.0))
    return found.filter(pl.col(half).is_not_null())


def _counted(step: int, edges: pl.DataFrame, found: Circuits) -> pl.DataFrame:
    columns: dict[str, Any] = {name: edges[name].to_list() for name in edges.columns}
    ends = zip(columns["supplier"], columns["buyer"], strict=True)
    columns["circuit"] = [found.inside(supplier, buyer) for supplier, buyer in ends]
    return make_table("counted", {"step": step, **columns})


def _counting(
    context: Context, baseline: str, edges: pl.DataFrame, short: Mapping[str, Any]
) -> pl.DataFrame:
    """A row of ``counting``; the log says where more sequences would help."""
    sequences = len(context.evaluation.tokens)
    if not edges.height and short["fewest"] is not None:
        logger.warning(
            "step %d: no edge counts with %d sequences; about %d would make one count",
            context.step, sequences, short["fewest"],
        )  # fmt: skip
    by = edges["admitted_by"].to_list()
    return make_table(
        "counting",
        {
            "step": context.step,
            "baseline": baseline,
            "sequences": sequences,
            "by_flow": sum(x != Admitted.EFFECT for x in by),
            "by_effect": sum(x != Admitted.FLOW for x in by),
            **short,
        },
    )


def _values(
    context: Context, found: Circuits, most_pairs: int
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Columns of ``circuit_values`` and ``circuit_pairs``."""
    values: dict[str, list[Any]] = {
        name: []
        for name in ("circuit", "baseline", "value", "se", "singles", "redundancy", "redundancy_se")
    }
    pairs: dict[str, list[Any]] = {
        name: []
        for name in (
            "circuit", "baseline", "first", "second", "value", "se", "redundancy", "redundancy_se",
        )
    }  # fmt: skip
    config = context.model.config
    wanted: dict[tuple[tuple[str, ...], str], int] = {}
    asked = [(name, list(_sets(found, name, most_pairs))) for name in found.names]
    for _, sets in asked:
        for members in sets:
            for baseline in context.baselines:
                wanted.setdefault((members, str(baseline)), len(wanted))
    variants = [
        Variant(tuple(parse_component(name, config) for name in members), baseline)
        for members, baseline in wanted
    ]
    swept = sweep(context, variants) if variants else None
    for name, sets in asked:
        assert swept is not None
        for baseline in map(str, context.baselines):
            loss = {m: swept.difference[wanted[m, baseline]] for m in sets}
            singles = torch.stack([loss[m] for m in sets if len(m) == 1])
            whole = loss[sets[0]]
            row = [name, baseline, *swept.mean(whole), swept.mean(singles.sum(0))[0]]
            _add(values, [*row, *swept.mean(whole - singles.sum(0))])
            for pair in (m for m in sets[1:] if len(m) == 2):
                left = loss[pair] - loss[pair[:1]] - loss[pair[1:]]
                both = [*swept.mean(loss[pair]), *swept.mean(left)]
                _add(pairs, [name, baseline, *pair, *both])
    return values, pairs


def _sets(found: Circuits, name: str, most_pairs: int) -> Iterator[tuple[str, ...]]:
    """The circuit, its members one by one, and the pairs of those that belong to it most."""
    members = found.members(name)
    yield tuple(members)
    yield from ((member,) for member in members)
    most = sorted(members, key=lambda m: -members[m])[:most_pairs]
    if len(members) >= 2:
        kept = [member for member in members if member in most]
        yield from combinations(kept, 2)


def _add(columns: dict[str, list[Any]], row: Sequence[Any]) -> None:
    for column, value in zip(columns.values(), row, strict=True):
        column.append(value)


def across(
    tables: Mapping[str, pl.DataFrame], settings: CircuitSettings
) -> Mapping[str, pl.DataFrame]:
    """What becomes of circuits from checkpoint to checkpoint, from all of them."""
    counting = tables["counting"]
    values = tables["circuit_values"].join(counting, on=["step", "baseline"], how="semi")
    steps = sorted(counting["step"].to_list())
    told = track(
        tables["circuits"], tables["counted"], steps, settings.overlap, values, settings.factor
    )
    return {"circuit_events": told}


def passes(
    config: ModelConfig,
    evaluation: Evaluation,
    baselines: tuple[str, ...],
    settings: CircuitSettings,
) -> float:
    """Forward passes over the evaluation set if half of all components are in one circuit.

    Untrained models are measured once for all checkpoints and are not counted.
    """
    return 2.0 + sum(depths(config, evaluation, baselines, settings)) / config.n_layers


def depths(
    config: ModelConfig,
    evaluation: Evaluation,
    baselines: tuple[str, ...],
    settings: CircuitSettings,
) -> list[float]:
    """Layers above each variant if half of all components are in one circuit."""
    members = len(components(config, embeddings=False)) // 2
    most = min(members, settings.most_pairs)
    variants = 1 + members + most * (most - 1) // 2
    return [config.n_layers / 2] * (len(baselines) * variants)


def memory(sizes: Sizes, settings: CircuitSettings, plan: Plan) -> int:
    """Bytes that it takes beside the weights, if all components are in circuits of their own.

    Untrained models are made while the checkpoint's waits: a second set of weights, with the module
    that they are drawn in and what is read of it.
    """
    c = sizes.config
    names = len(components(c, embeddings=False))
    most = min(names, settings.most_pairs)
    variants = (2 * names + most * (most - 1) // 2) * len(sizes.baselines)
    swept = sweep_memory(sizes, plan, variants, sets=True)
    left, weights = beside(sizes, plan), weights_of(sizes)
    edges = edge_memory(sizes, left, names)
    # The module that they are drawn in, what is read of it in float32, and the model.
    drawn = weights + 2 * weights * 4 // sizes.dtype.itemsize
    at_work = weights + max(plain_cut(sizes, left).bytes, edges)
    return kept(table_memory(sizes)) + max(swept, drawn, at_work)


CIRCUITS = Measure(
    "circuits",
    CircuitSettings,
    ("counted", "counting", "circuits", "circuit_values", "circuit_pairs", "circuit_agreement"),
    run,
    passes,
    memory,
    depths=depths,
    needs=("income",),
    across=across,
    bounds=flow_bounds,
    version=2,
)
