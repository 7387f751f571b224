"""Exact effects of single edges, and what of a component's value is direct and what is mediated.

An edge is cut by taking a component out of what one reader sees; everything else follows from that
in a forward pass from the reader on. Flows choose which edges deserve one: the largest, and some of
the rest at random, which tell what was left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy import stats
from torch import Tensor

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures.base import Context, Measure
from circuit_econ.measures.income_memory import table_memory
from circuit_econ.measures.plan import (
    GROUP,
    Plan,
    Sizes,
    kept,
    sweep_memory,
    whole,
    workers_of,
)
from circuit_econ.measures.statistics import known
from circuit_econ.measures.sweep import Sweep, sweep
from circuit_econ.measures.variants import Cut, Mediated, Reader, Variant
from circuit_econ.model import ModelConfig
from circuit_econ.model.draws import drawing
from circuit_econ.model.intervene import Component, components
from circuit_econ.tables import TABLES, Baseline, Kind, make_table

__all__ = [
    "EDGES",
    "EdgeSettings",
    "Sampling",
    "edge_memory",
    "edge_plan",
    "edges_of",
    "effects_of",
    "sampling",
]

_DRAW = 5
"""Keeps the draw of edges apart from others of the seed."""

_SCALES = {"q_scale": "q", "k_scale": "k"}
"""What reaches a query or key through the scale of its norm belongs to that query or key."""

Edge = tuple[str, str, str]
"""Supplier, buyer, port."""

_EDGE = ("supplier", "buyer", "port")


@dataclass
class EdgeSettings:
    """Settings of ``edges``.

    Attributes:
        largest: How many edges to cut for their flow, the largest in size under each baseline.
        drawn: How many of the rest to cut, drawn at random at every checkpoint.
        embeddings: Whether to cut every edge from ``embed`` and ``pos``, too. Flows do not rank
            them: embeddings are the endowment, and nobody sells it.
    """

    largest: int = 32
    drawn: int = 32
    embeddings: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.largest < 0 or self.drawn < 0:
            raise ConfigurationError(
                "measures.edges: largest and drawn must be 0 or more, not "
                f"{self.largest} and {self.drawn}"
            )
        if self.drawn == 1:
            raise ConfigurationError(
                "measures.edges.drawn must be 0 or at least 2, not 1: a single edge does not tell "
                "how much the rest differ"
            )


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the measured edges say of those that were not.

    Attributes:
        hidden: Expected sum of their effects, in nats per scored position.
        hidden_se: Its standard error.
        hidden_size: The most that their sizes can be expected to sum to.
    """

    hidden: float
    hidden_se: float
    hidden_size: float


def run(context: Context, settings: EdgeSettings) -> Mapping[str, pl.DataFrame]:
    """Measure edges E(c→r) = L(r's input at a port without c, all else as it follows) − L.

    "Without c" means with c's baseline in its place. In nats per scored position; positive =
    useful. The direct value of a component is its edge to the logits. Its mediated value takes it
    out of every other reader's input and leaves its own write in what the logits read. The
    interaction is what its value has beyond both. All are paired differences on the same sequences,
    with standard errors as in ``value``, given the baseline. Every sequence is used, whatever
    precision is asked for. The halves of an effect are those of flows: every other group of
    documents.

    Edges from embeddings have no flow, and say nothing of what was not cut.

    Layers whose suppliers wait for a reader keep their outputs: at most L · P · T · 2D numbers
    beside what a sweep takes (L layers, P sequences of a panel, T tokens, width D), twice that
    under ``resample``. Panels are made smaller for it, down to 8 sequences, and then chunks.
    """
    flows = context.tables["flows"]
    config = context.model.config
    parts = {p.name: p for p in components(config, embeddings=settings.embeddings)}
    baselines = [str(b) for b in context.baselines]
    every = {b: edges_of(flows.filter(pl.col("baseline") == b)) for b in baselines}
    endowed = dict.fromkeys(_from_embeddings(config), "embedding") if settings.embeddings else {}
    chosen = {b: _chosen(every[b], settings, context, n) for n, b in enumerate(baselines)}
    number: dict[Variant, int] = {}
    for baseline in baselines:
        for variant in _components(parts.values(), baseline):
            number.setdefault(variant, len(number))
        for edge in chosen[baseline] | endowed:
            number.setdefault(_cut(edge, parts, baseline), len(number))
    swept = sweep(_cut_small(context, len(number)), list(number))
    lost = {variant: swept.difference[at] for variant, at in number.items()}
    direct, edges, told = [], [], []
    for baseline in baselines:
        for part in parts.values():
            value, mediated, sold = (lost[v] for v in _components([part], baseline))
            rest = value - mediated - sold
            found = [swept.mean(sums) for sums in (sold, mediated, rest)]
            direct.append((part.name, baseline, *(m for m, _ in found), *(s for _, s in found)))
        cut = chosen[baseline] | endowed
        sums = {edge: lost[_cut(edge, parts, baseline)] for edge in cut}
        effects = {edge: swept.mean(found) for edge, found in sums.items()}
        for edge, why in cut.items():
            halves = (_half(sums[edge], swept, context.evaluation, n) for n in (0, 1))
            flow = every[baseline].get(edge)
            edges.append((*edge, baseline, *effects[edge], *halves, flow, why))
        drawn = [sums[edge] for edge, why in chosen[baseline].items() if why == "drawn"]
        over_sequences = swept.mean(torch.stack(drawn).mean(0))[1] if drawn else None
        told.append(
            (baseline, *_told(every[baseline], chosen[baseline], effects, over_sequences or 0.0))
        )
    return {
        "direct": _table("direct", context.step, direct),
        "edges": _table("edges", context.step, edges),
        "edge_sampling": _table("edge_sampling", context.step, told),
    }


def effects_of(context: Context, edges: Iterable[Edge], baseline: str) -> pl.DataFrame:
    """Exact effects of some edges between components, or to the logits, alone.

    Returns:
        Columns ``supplier``, ``buyer``, ``port``, ``effect`` (nats per scored position).
    """
    parts = {p.name: p for p in components(context.model.config)}
    number = {edge: _cut(edge, parts, baseline) for edge in edges}
    swept = sweep(_cut_small(context, len(number)), list(number.values()))
    effects = [swept.mean(sums)[0] for sums in swept.difference]
    names = {name: [edge[at] for edge in number] for at, name in enumerate(_EDGE)}
    schema = dict.fromkeys(names, pl.String) | {"effect": pl.Float64}
    return pl.DataFrame({**names, "effect": effects}, schema=schema)


def sampling(
    effects: Sequence[float], ses: Sequence[float], unmeasured: int, sequences_se: float
) -> Sampling:
    """What edges drawn at random say of those of the same kind that were not measured.

    The unmeasured u of N edges are expected to sum to u · ē, with ē the mean over the m drawn. Its
    variance is N u s²/m for the draw of edges (s² the variance of effects, Cochran 1977, section
    2.5) and u² se(ē)² for the sequences; the first has some of the second in it, so their sum is
    rather too large. Sizes sum to u · min(mean |e|, √(mean e² − mean se²)) at most: the mean of
    noisy sizes is too large, and a root mean square is no smaller than the mean size, also with the
    noise of the effects taken off.

    Args:
        effects: Of the edges drawn.
        ses: Their standard errors; NaN counts as none.
        unmeasured: How many others there are.
        sequences_se: Standard error of the mean effect over sequences.

    Returns:
        Zeros if everything was measured; NaN if nothing was drawn.
    """
    if not unmeasured:
        return Sampling(0.0, 0.0, 0.0)
    drawn = len(effects)
    if drawn < 2:
        return Sampling(float("nan"), float("nan"), float("nan"))
    found, noise = np.array(effects), np.nan_to_num(np.array(ses))
    draw = (unmeasured + drawn) * unmeasured * float(found.var(ddof=1)) / drawn
    over = (unmeasured * sequences_se) ** 2
    size = max(0.0, float((found**2).mean() - (noise**2).mean()))
    most = min(sqrt(size), float(np.abs(found).mean()))
    return Sampling(unmeasured * float(found.mean()), sqrt(draw + over), unmeasured * most)


def _from_embeddings(config: ModelConfig) -> Iterator[Edge]:
    """All edges from embeddings: whoever reads, reads them."""
    parts = components(config)
    for supplier in (p.name for p in parts if p.layer is None):
        for part in parts:
            if part.layer is not None:
                ports = "qkv" if part.kind is Kind.HEAD else ("in",)
                yield from ((supplier, part.name, port) for port in ports)
        yield supplier, str(Kind.LOGITS), "in"


def _half(sums: Tensor, swept: Sweep, evaluation: Evaluation, which: int) -> float | None:
    """Nats per scored position of every other document; None where there is none."""
    mine = (evaluation.document_of % 2 == which)[swept.order]
    return known(float(sums[mine].sum() / swept.counts[mine].sum()))


def edges_of(flows: pl.DataFrame) -> dict[Edge, float]:
    """The flow of every edge; scales of norms with the query or key that they scale."""
    found: dict[Edge, float] = {}
    for row in flows.iter_rows(named=True):
        port: str = row["port"]
        edge: Edge = (row["supplier"], row["buyer"], _SCALES.get(port, port))
        found[edge] = found.get(edge, 0.0) + row["signal"] + row["crowding"]
    return found


def _chosen(
    flows: Mapping[Edge, float], settings: EdgeSettings, context: Context, number: int
) -> dict[Edge, str]:
    """Which edges are cut, and why."""
    order = sorted(flows, key=lambda edge: -abs(flows[edge]))
    largest, rest = order[: settings.largest], sorted(order[settings.largest :])
    generator = drawing(((context.seed + _DRAW) * 1_000_003 + context.step) * 101 + number)
    drawn = torch.randperm(len(rest), generator=generator)[: settings.drawn].tolist()
    return dict.fromkeys(largest, "flow") | dict.fromkeys((rest[n] for n in drawn), "drawn")


def _components(parts: Iterable[Component], baseline: str) -> list[Variant]:
    """Of each component: taken out, taken out but for its direct write, that write alone."""
    logits = Reader(None, "in")
    return [
        variant
        for part in parts
        for variant in (
            Variant((part,), baseline),
            Mediated((part,), baseline),
            Cut((part,), baseline, reader=logits),
        )
    ]


def _cut(edge: Edge, parts: Mapping[str, Component], baseline: str) -> Variant:
    supplier, buyer, port = edge
    reader = Reader(None if buyer == Kind.LOGITS else parts[buyer], port)
    return Cut((parts[supplier],), baseline, reader=reader)


def _cut_small(context: Context, variants: int) -> Context:
    return replace(context, plan=edge_plan(context.sizes, context.plan, variants))


def edge_plan(sizes: Sizes, plan: Plan, variants: int) -> Plan:
    """A plan cut so small that what suppliers keep fits beside the rest in what may be taken."""
    found = plan
    while _held(sizes, found, variants) > plan.memory:
        # Panels first: what waits grows with them alone.
        fewer = max(1, found.panel - GROUP) if found.panel > GROUP else found.panel
        smaller = found.smaller() if fewer == found.panel else replace(found, panel=fewer)
        if smaller is None:
            break
        found = smaller
    return found


def edge_memory(sizes: Sizes, plan: Plan, variants: int) -> int:
    """Bytes that cutting edges takes beside the weights."""
    return _held(sizes, edge_plan(sizes, plan, variants), variants)


def _held(sizes: Sizes, plan: Plan, variants: int) -> int:
    """Bytes of a sweep whose suppliers wait for their readers."""
    c = sizes.config
    width, copies = c.n_heads * c.d_head, 1 + (Baseline.RESAMPLE in sizes.baselines)
    waiting = copies * c.n_layers * (width + c.d_model)
    # Readers' ports in the clean pass, of every layer that chunks still hold.
    layers = min(c.n_layers, 2 * workers_of(sizes.device) + 2)
    waiting += layers * (c.d_model + width + 2 * c.n_kv_heads * c.d_head)
    panel = whole(min(plan.panel, sizes.sequences))
    each = panel * sizes.length * waiting * sizes.dtype.itemsize
    return sweep_memory(sizes, plan, variants) + kept(each)


def memory(sizes: Sizes, settings: EdgeSettings, plan: Plan) -> int:
    """Bytes that it takes beside the weights; flows that it reads are there."""
    per_baseline = 3 * len(components(sizes.config, embeddings=settings.embeddings))
    per_baseline += settings.largest + settings.drawn
    if settings.embeddings:
        per_baseline += len(list(_from_embeddings(sizes.config)))
    variants = per_baseline * len(sizes.baselines)
    return edge_memory(sizes, plan, variants) + kept(table_memory(sizes))


def _told(
    flows: Mapping[Edge, float],
    chosen: Mapping[Edge, str],
    effects: Mapping[Edge, tuple[float, float | None]],
    over_sequences: float,
) -> tuple[Any, ...]:
    """A row of ``edge_sampling``, behind the baseline."""
    drawn = [edge for edge, why in chosen.items() if why == "drawn"]
    hidden = sampling(
        [effects[edge][0] for edge in drawn],
        [effects[edge][1] or 0.0 for edge in drawn],
        len(flows) - len(chosen),
        over_sequences,
    )

    def correlation(edges: Sequence[Edge]) -> float | None:
        pair = [flows[e] for e in edges], [effects[e][0] for e in edges]
        if len(edges) < 3 or any(len(set(side)) == 1 for side in pair):
            return None
        return float(stats.spearmanr(*pair)[0])

    return (
        len(flows), len(chosen) - len(drawn), len(drawn), correlation(list(chosen)),
        correlation(drawn), sum(effects[edge][0] for edge in chosen),
        known(hidden.hidden), known(hidden.hidden_se), known(hidden.hidden_size),
    )  # fmt: skip


def _table(name: str, step: int, rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    """A table of rows whose columns are in the order of the schema, without the step."""
    columns = [c for c in TABLES[name] if c != "step"]
    found = {c: [row[at] for row in rows] for at, c in enumerate(columns)}
    return make_table(name, {"step": [step] * len(rows), **found})


def depths(
    config: ModelConfig,
    evaluation: Evaluation,
    baselines: tuple[str, ...],
    settings: EdgeSettings,
) -> list[float]:
    """Layers above each variant; edges are taken to be spread evenly over readers."""
    found: list[float] = []
    for part in components(config, embeddings=settings.embeddings):
        above = float(config.n_layers if part.layer is None else config.n_layers - 1 - part.layer)
        found += [above, above, 0.0]
    cut = settings.largest + settings.drawn
    cut += len(list(_from_embeddings(config))) if settings.embeddings else 0
    found += [config.n_layers / 2] * cut
    return found * len(baselines)


def passes(
    config: ModelConfig,
    evaluation: Evaluation,
    baselines: tuple[str, ...],
    settings: EdgeSettings,
) -> float:
    """Forward passes over the evaluation set, blocks below what is cut not counted."""
    return 2.0 + sum(depths(config, evaluation, baselines, settings)) / config.n_layers


EDGES = Measure(
    "edges",
    EdgeSettings,
    ("direct", "edges", "edge_sampling"),
    run,
    passes,
    memory,
    depths=depths,
    needs=("income",),
)
