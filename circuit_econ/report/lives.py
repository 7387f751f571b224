"""Circuits over checkpoints, brought into the shape of lanes: a row per circuit and checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from circuit_econ.graph.circuits import Circuits
from circuit_econ.graph.lineages import lineages
from circuit_econ.graph.portraits import describe, portraits_table
from circuit_econ.ledger import Ledger
from circuit_econ.tables import component_key

__all__ = ["Lives", "gather_lives"]


@dataclass(frozen=True, slots=True)
class Lives:
    """Circuits of one run over time. Amounts are nats per scored position.

    Attributes:
        circuits: One row per step, circuit and baseline of its value: run, step, baseline (null
            where no value was measured), circuit, lineage, roles (who is in it, by role), members
            (how many), trade (sum of the sizes of the counted flows inside), value, se, singles,
            redundancy, redundancy_se.
        events: Table ``circuit_events`` with run, lineage (of what the event happens to), from_step
            and from_lineage (of the parent, where there is one).
        agreement: Table ``circuit_agreement`` with run.
        counting: Table ``counting`` with run.
        portraits: Circuits of the last step that has any: step, lineage, the columns of
            :func:`circuit_econ.graph.portraits_table`, and under one baseline value, se,
            redundancy, redundancy_se, pair (the two members that most stand in for each other, or
            need each other most) and pair_redundancy.
    """

    circuits: pl.DataFrame
    events: pl.DataFrame
    agreement: pl.DataFrame
    counting: pl.DataFrame
    portraits: pl.DataFrame

    @property
    def lineages(self) -> list[str]:
        """In order of birth."""
        first = self.circuits.group_by("lineage").agg(pl.col("step").min())
        return first.sort("step", pl.col("lineage").str.len_chars(), "lineage")["lineage"].to_list()


def gather_lives(ledger: Ledger, name: str) -> Lives:
    """Read what lanes of circuits show.

    Args:
        ledger: The run. Tables that were not written are taken as empty.
        name: What the run is called on the page.
    """
    circuits = ledger.table("circuits").collect()
    events = ledger.table("circuit_events").sort("step", "event", "circuit", "parent").collect()
    agreement = ledger.table("circuit_agreement").sort("step").collect()
    run = pl.lit(name).alias("run")
    steps = sorted({*agreement["step"], *circuits["step"]})
    lineage = lineages(circuits, events)
    inside = (
        ledger.table("counted")
        .filter(pl.col("circuit").is_not_null())
        .group_by("step", "circuit")
        .agg(trade=pl.col("flow").abs().sum())
        .collect()
    )
    values = ledger.table("circuit_values").collect()
    rows = (
        _roles(circuits)
        .join(lineage, on=["step", "circuit"], how="left")
        .join(inside, on=["step", "circuit"], how="left")
        .join(values, on=["step", "circuit"], how="left")
        .sort("step", "circuit", "baseline")
    )
    rows = rows.select(
        run, "step", "baseline", "circuit", "lineage", "roles", "members",
        pl.col("trade").fill_null(0.0), "value", "se", "singles", "redundancy", "redundancy_se",
    )  # fmt: skip
    before = dict(zip(steps[1:], steps[:-1], strict=True))
    earlier = pl.col("step").replace_strict(before, default=None, return_dtype=pl.Int64)
    events = (
        events.with_columns(from_step=earlier)
        .join(lineage, on=["step", "circuit"], how="left", maintain_order="left")
        .join(
            lineage.rename({"step": "from_step", "circuit": "parent", "lineage": "from_lineage"}),
            on=["from_step", "parent"],
            how="left",
            maintain_order="left",
        )
        # What dies is not there any more: its mark stands in the parent's lane.
        .with_columns(lineage=pl.coalesce("lineage", "from_lineage"))
    )
    return Lives(
        rows,
        events.select(run, pl.all()),
        agreement.select(run, pl.all()),
        ledger.table("counting").sort("step").collect().select(run, pl.all()),
        _portraits(ledger, circuits, lineage, values),
    )


def _portraits(
    ledger: Ledger, circuits: pl.DataFrame, lineage: pl.DataFrame, values: pl.DataFrame
) -> pl.DataFrame:
    last = pl.col("step") == pl.lit(circuits["step"].max(), pl.Int64)
    counted, capacity = (
        ledger.table(name).filter(last).collect() for name in ("counted", "capacity")
    )
    found = describe(Circuits.from_table(circuits.filter(last)), counted, capacity)
    values, pairs = values.filter(last), ledger.table("circuit_pairs").filter(last).collect()
    first = pl.col("baseline") == pl.lit(next(iter(values["baseline"]), None), pl.String)
    most = (
        pairs.filter(first)
        .sort(pl.col("redundancy").abs(), descending=True, maintain_order=True)
        .group_by("circuit", maintain_order=True)
        .first()
        .select(
            "circuit",
            pair=pl.concat_str("first", "second", separator=" + "),
            pair_redundancy="redundancy",
        )
    )
    known = ("circuit", "baseline", "value", "se", "redundancy", "redundancy_se")
    return (
        portraits_table(found)
        .join(lineage.filter(last), on="circuit", how="left", maintain_order="left")
        .join(
            values.filter(first).select(known),
            on="circuit",
            how="left",
            maintain_order="left",
        )
        .join(most, on="circuit", how="left", maintain_order="left")
    )


def _roles(circuits: pl.DataFrame) -> pl.DataFrame:
    """step, circuit, members and, in words, who is in it: ``a0.h1 · a1.h0, a1.h2``."""
    rows = []
    for (step, circuit), part in circuits.group_by("step", "circuit", maintain_order=True):
        roles: dict[str, list[str]] = {}
        for role, component in part.select("role", "component").iter_rows():
            roles.setdefault(role, []).append(component)
        told = [sorted(members, key=component_key) for members in roles.values()]
        told.sort(key=lambda members: component_key(members[0]))
        words = " · ".join(", ".join(members) for members in told)
        rows.append((step, circuit, words, sum(map(len, told))))
    schema = {"step": pl.Int64, "circuit": pl.String, "roles": pl.String, "members": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")
