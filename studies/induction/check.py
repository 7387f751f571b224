"""What the study claims, checked on its ledgers: `python check.py runs/induction/seed=*`.

For every seed: when the prefix-matching scores of one head and of three have passed 0.5, whether
the three largest flows between heads are sold by previous-token heads to the keys of such heads
from then on under every baseline, when there is a first circuit and through which port it trades
most, when it converts into that of the end, how many saved checkpoints lie between that and the
crossing, and the joint value beside the single values of the members. Prints a table; claims
nothing that it does not find.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl

import circuit_econ as ce
from circuit_econ.graph import lineages

PASSED, HEADS = 0.5, 3


@dataclass(frozen=True, slots=True)
class Heads:
    """Scores of heads at the checkpoints of a run."""

    table: pl.DataFrame

    @classmethod
    def of(cls, ledger: ce.Ledger) -> Heads:
        """Read them."""
        return cls(ledger.table("attention").collect())

    def score(self, step: int, quantity: str) -> dict[str, float]:
        """By head."""
        rows = self.table.filter(pl.col("step") == step, pl.col("quantity") == quantity)
        return dict(rows.select("component", "amount").iter_rows())

    def previous(self, step: int) -> set[str]:
        """The head that attends most to the previous token, and those that do half as much."""
        scores = self.score(step, "previous_token")
        return {head for head, x in scores.items() if x > 0.5 * max(scores.values())}

    def induction(self, step: int) -> set[str]:
        """Heads that match prefixes."""
        return {head for head, x in self.score(step, "prefix_matching").items() if x > PASSED}


def largest(flows: pl.DataFrame, count: int = HEADS) -> list[tuple[str, str, str, float]]:
    """The largest signed flows between heads."""
    between = flows.filter(pl.col("buyer") != "logits").with_columns(
        flow=pl.col("signal") + pl.col("crowding")
    )
    top = between.sort("flow", descending=True).head(count)
    return list(top.select("supplier", "buyer", "port", "flow").iter_rows())


def main(folders: list[str]) -> None:
    """Print what each seed shows."""
    print(
        "| seed | one, three scores pass 0.5 | baseline | checkpoints from then on at which the "
        "three largest flows are previous-token → induction, `k` | first circuit | that of the end "
        "begins | by | checkpoints after the crossing | circuit | joint value at the end | its "
        "single values add up to |"
    )
    print("|" + "---|" * 11)
    for folder in sorted(folders):
        ledger = ce.open_ledger(folder)
        heads = Heads.of(ledger)
        steps = ledger.steps("flows")
        crossed, passed = (
            next((s for s in steps if len(heads.induction(s)) >= count), None)
            for count in (1, HEADS)
        )
        flows = ledger.table("flows").collect()
        circuits, events = (ledger.table(t).collect() for t in ("circuits", "circuit_events"))
        born, how, members, value = circuit_of(ledger, circuits, events, heads, steps[-1])
        first, port = first_of(ledger, circuits)
        after = None if None in (born, crossed) else steps.index(born) - steps.index(crossed)
        for baseline in flows["baseline"].unique(maintain_order=True):
            later = [s for s in steps if passed is not None and s >= passed]
            good = []
            for step in later:
                here = flows.filter(pl.col("step") == step, pl.col("baseline") == baseline)
                previous, induction = heads.previous(step), heads.induction(step)
                good.append(
                    all(
                        supplier in previous and buyer in induction and port == "k"
                        for supplier, buyer, port, _ in largest(here)
                    )
                )
            missed = [s for s, fine in zip(later, good, strict=True) if not fine]
            said = f"{sum(good)} of {len(good)}" + (f" (not {missed})" if missed else "")
            told = value.filter(pl.col("baseline") == baseline)
            joint, singles = (
                f"{told[c][0]:.2f}" if told.height else "–" for c in ("value", "singles")
            )
            print(
                f"| {Path(folder).name} | {crossed}, {passed} | {baseline} | {said} | {first}, "
                f"`{port}` | {born} | {how} | {after} | {members} | {joint} | {singles} |"
            )


def first_of(ledger: ce.Ledger, circuits: pl.DataFrame) -> tuple[int | None, str | None]:
    """The step of the first circuits, and the port through which most is traded inside of them."""
    step = circuits["step"].min()
    if step is None:
        return None, None
    inside = ledger.table("counted").filter(pl.col("step") == step, pl.col("circuit").is_not_null())
    ports = inside.group_by("port").agg(pl.col("flow").abs().sum()).sort("flow").collect()["port"]
    assert isinstance(step, int)
    return step, ports[-1] if len(ports) else None


def circuit_of(
    ledger: ce.Ledger,
    circuits: pl.DataFrame,
    events: pl.DataFrame,
    heads: Heads,
    last: int,
) -> tuple[int | None, str, str, pl.DataFrame]:
    """The circuit that holds the induction heads at the end: since when, how, who, values."""
    values = ledger.table("circuit_values").filter(pl.col("step") == last).collect()
    here = circuits.filter(pl.col("step") == last)
    wanted = heads.induction(last)
    best = max(
        here["circuit"].unique(maintain_order=True),
        key=lambda name: len(wanted & set(here.filter(pl.col("circuit") == name)["component"])),
        default=None,
    )
    if best is None:
        return None, "none", "none", values.clear()
    lines = lineages(circuits, events)
    line = lines.filter(pl.col("step") == last, pl.col("circuit") == best)["lineage"][0]
    born = lines.filter(pl.col("lineage") == line)["step"].min()
    assert born is None or isinstance(born, int)
    began = lines.filter(pl.col("lineage") == line, pl.col("step") == born)["circuit"][0]
    how = events.filter(pl.col("step") == born, pl.col("circuit") == began)["event"][0]
    roles = here.filter(pl.col("circuit") == best).group_by("role", maintain_order=True)
    members = " → ".join(", ".join(names) for _, names in roles.agg("component").iter_rows())
    return born, how, members, values.filter(pl.col("circuit") == best)


if __name__ == "__main__":
    main(sys.argv[1:])
