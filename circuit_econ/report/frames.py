"""A ledger's tables brought into the shape that charts and page share: one wide row per value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from circuit_econ.accounts import default_place, verdict
from circuit_econ.ledger import Ledger
from circuit_econ.report.reading import shown_ledger
from circuit_econ.report.trade import Trade, gather_trade
from circuit_econ.tables import BASELINES, CURRENCY_UNITS, Kind, Status, component_key

__all__ = [
    "SCORE",
    "RunFrames",
    "gather",
    "run_names",
]

SCORE: Final = "score:"
"""Prefix of the columns of ``accounts`` that hold attention scores."""

_EARNERS: Final = (Kind.EMBED.value, Kind.POS.value, Kind.HEAD.value, Kind.MLP.value, "joint")


@dataclass(frozen=True, slots=True)
class RunFrames:
    """What a page shows of one run.

    Attributes:
        name: What the run is called on the page.
        run: The content of ``run.yaml``.
        checkpoints: Table ``checkpoints`` with ``run``, sorted by step.
        accounts: One row per step, component and baseline: run, step, loss, component, kind, layer,
            group ("layer 2"), label ("h3", "mlp"), baseline, value, se, low, high, sequences,
            placebo, placebo_se, outcome, effective, needed, verdict (of all baselines together),
            then a column per currency and one per attention score (:data:`SCORE`). Without values
            the baseline is null and the rows are those of the other tables.
        others: step, component and a column per currency, for what is no component (biases, norms,
            shared keys and values, unembedding), which has capacity but no value.
        audit: Table ``audit``.
        currencies: Column of ``accounts`` → what it counts.
        scores: Column of ``accounts`` → quantity.
        baselines: Measured baselines, the one to show first in front.
        steps: Steps in ``accounts``, ascending.
        trade: Who supplies whom; without rows where it was not measured.
    """

    name: str
    run: dict[str, Any]
    checkpoints: pl.DataFrame
    accounts: pl.DataFrame
    others: pl.DataFrame
    audit: pl.DataFrame
    currencies: dict[str, str]
    scores: dict[str, str]
    baselines: list[str]
    steps: list[int]
    trade: Trade

    def __post_init__(self) -> None:
        """Every column that is promised is there."""
        missing = [c for c in (*self.currencies, *self.scores) if c not in self.accounts.columns]
        if missing:
            raise ValueError(f"run {self.name!r}: accounts lack the columns {missing}")

    @property
    def has_values(self) -> bool:
        """Whether any checkpoint was measured for value."""
        return bool(self.baselines)

    @property
    def all_baselines(self) -> list[str]:
        """Of values, then those of trade alone."""
        trade = [self.trade.effects, self.trade.direct]
        others = [name for frame in trade for name in frame["baseline"].unique().sort()]
        return list(dict.fromkeys([*self.baselines, *self.trade.baselines, *others]))

    @property
    def all_steps(self) -> list[int]:
        """Steps at which anything was measured, ascending."""
        trade = [self.trade.effects, self.trade.direct, self.trade.lives.agreement]
        return sorted({*self.steps, *self.trade.steps, *(s for f in trade for s in f["step"])})

    @property
    def failed(self) -> pl.DataFrame:
        """The checkpoints that could not be measured."""
        return self.checkpoints.filter(pl.col("status") != Status.MEASURED.value)


def gather(ledger: Ledger, name: str | None = None) -> RunFrames:
    """Read what a page shows of one run.

    Args:
        ledger: The run. Tables that were not written are taken as empty.
        name: What to call it; by default the name of its folder.
    """
    name, ledger = name or ledger.path.resolve().name, shown_ledger(ledger)
    checkpoints = ledger.table("checkpoints").sort("step").collect()
    checkpoints = checkpoints.select(pl.lit(name).alias("run"), pl.all())
    value = ledger.table("value").collect()
    capacity, currencies = _wide_capacity(ledger.table("capacity").collect())
    attention, scores = _wide_attention(ledger.table("attention").collect())
    rows = value if value.height else _rows_without_value(value, capacity, attention)
    described = _describe(rows["component"].unique().to_list())
    accounts = (
        rows.join(described, on="component", how="left")
        .filter(pl.col("kind").is_in(_EARNERS))
        .join(checkpoints.select("step", "loss"), on="step", how="left")
        .join(capacity, on=["step", "component"], how="left")
        .join(attention, on=["step", "component"], how="left")
        .join(_verdicts(value), on=["step", "component"], how="left")
        .sort("step", "order", "baseline")
        .select(
            pl.lit(name).alias("run"),
            *("step", "loss", "component", "kind", "layer", "group", "label", "baseline"),
            *("value", "se", "low", "high", "sequences", "placebo", "placebo_se"),
            *("outcome", "effective", "needed", "verdict"),
            *currencies,
            *scores,
        )
    )
    others = capacity.join(_describe(capacity["component"].unique().to_list()), on="component")
    baselines, order = value["baseline"].unique().to_list(), _baseline_order(ledger.run)
    return RunFrames(
        name=name,
        run=ledger.run,
        checkpoints=checkpoints,
        accounts=accounts,
        others=others.filter(~pl.col("kind").is_in(_EARNERS))
        .sort("step", "component")
        .select("step", "component", *currencies),
        audit=ledger.table("audit").sort("step").collect(),
        currencies=currencies,
        scores=scores,
        baselines=sorted(baselines, key=order),
        steps=accounts["step"].unique().sort().to_list(),
        trade=gather_trade(ledger, name, order),
    )


def run_names(ledgers: Sequence[Ledger]) -> list[str]:
    """The shortest ends of the runs' paths that tell them apart."""
    parts = [ledger.path.resolve().parts for ledger in ledgers]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    names = ["/".join(p[-depth:]) for p in parts]
    # The same folder given twice is shown twice; its rows must not fall into one.
    return [n if names.index(n) == i else f"{n} ({i + 1})" for i, n in enumerate(names)]


def _verdicts(value: pl.DataFrame) -> pl.DataFrame:
    return verdict(value.lazy()).select("step", "component", "verdict")


def _describe(components: Iterable[str]) -> pl.DataFrame:
    """kind, layer, group, label and order of components, read from their names."""
    columns: dict[str, list[Any]] = {c: [] for c in ("kind", "layer", "group", "label")}
    names = sorted(components, key=component_key)
    for name in names:
        layer, is_mlp, head, _ = component_key(name)
        if "+" in name:
            described = ("joint", None, "joint", name)
        elif name in (Kind.EMBED, Kind.POS):
            described = (name, None, "embedding", name)
        elif layer == 10**9:
            described = ("other", None, "other", name)
        elif is_mlp:
            described = (Kind.MLP.value, layer, f"layer {layer}", "mlp")
        else:
            described = (Kind.HEAD.value, layer, f"layer {layer}", f"h{head}")
        for column, entry in zip(columns.values(), described, strict=True):
            column.append(entry)
    schema = {"kind": pl.String, "layer": pl.Int64, "group": pl.String, "label": pl.String}
    return pl.DataFrame(columns, schema=schema, strict=True).with_columns(
        pl.Series("component", names, dtype=pl.String),
        pl.Series("order", range(len(names)), dtype=pl.Int64),
    )


def _wide_capacity(capacity: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    """A column per currency, each at its last place; and what each column counts."""
    chosen, labels = [], {}
    present = set(capacity["currency"].to_list())
    for currency in (c for c in CURRENCY_UNITS if c in present):
        rows = capacity.filter(pl.col("currency") == currency)
        place = default_place(rows["place"].drop_nulls().unique().to_list())
        chosen.append(rows.filter(pl.col("place").eq_missing(pl.lit(place, dtype=pl.String))))
        at = ", at the last norm" if place == "final" else ""
        labels[str(currency)] = CURRENCY_UNITS[currency] + at
    return _pivot(pl.concat(chosen) if chosen else capacity.clear(), "currency", labels), labels


def _wide_attention(attention: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    """A column per attention score; and its name in words."""
    quantities = attention["quantity"].drop_nulls().unique(maintain_order=True).to_list()
    labels = {SCORE + q: q.replace("_", " ") for q in quantities}
    prefixed = attention.with_columns((pl.lit(SCORE) + pl.col("quantity")).alias("quantity"))
    return _pivot(prefixed, "quantity", labels), labels


def _pivot(frame: pl.DataFrame, on: str, columns: Iterable[str]) -> pl.DataFrame:
    """step, component and one Float64 column per name in ``columns``."""
    return frame.group_by("step", "component", maintain_order=True).agg(
        pl.col("amount").filter(pl.col(on) == column).first().alias(column) for column in columns
    )


def _rows_without_value(
    value: pl.DataFrame, capacity: pl.DataFrame, attention: pl.DataFrame
) -> pl.DataFrame:
    """Rows for components that have capacity or scores, where no value was measured."""
    keys = pl.concat([capacity.select("step", "component"), attention.select("step", "component")])
    empty = [
        pl.lit(None, dtype=t).alias(c) for c, t in value.schema.items() if c not in keys.columns
    ]
    return keys.unique(maintain_order=True).with_columns(empty).select(value.columns)


def _baseline_order(run: dict[str, Any]) -> Callable[[str], tuple[int, str]]:
    """A sort key: the configured order, then the vocabulary's; the page opens with the first."""
    sections = [run.get(name) or {} for name in ("identity", "configuration")]
    configured = [str(b) for section in sections for b in section.get("baselines") or []]
    order = [*configured, *BASELINES]
    return lambda b: (order.index(b) if b in order else len(order), b)
