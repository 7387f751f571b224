"""The page's sections on the composition graph: who supplies whom, circuits, capital goods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from circuit_econ.report import charts
from circuit_econ.report.charts.encodings import AnyChart
from circuit_econ.report.fragments import alarm, table
from circuit_econ.report.frames import RunFrames
from circuit_econ.report.sections import Sections
from circuit_econ.report.words import amount, flagged, margin, plus_minus

__all__ = ["add_economy", "economy_tables"]

_MARGIN = "± of incomes and flows is 1.96 standard errors plus what their integral may be off by."

_PORTRAITS = 5
"""Circuits that are told about in words."""


def economy_tables(runs: Sequence[RunFrames]) -> Mapping[str, pl.DataFrame]:
    """Tables of the page that the sections' charts draw, by name; empty ones are left out."""
    tables = {
        "nodes": [run.trade.nodes for run in runs],
        "trade": [run.trade.edges for run in runs],
        "economies": [run.trade.economies for run in runs],
        "stages": [run.trade.stages for run in runs],
        "effects": [run.trade.effects for run in runs],
        "sampling": [run.trade.sampling for run in runs],
        "direct": [run.trade.direct for run in runs],
        "circuits": [run.trade.lives.circuits for run in runs],
        "events": [run.trade.lives.events for run in runs],
    }
    together = {name: pl.concat(parts) for name, parts in tables.items()}
    return {name: frame for name, frame in together.items() if frame.height}


def add_economy(page: Sections) -> None:
    """Add a section for everything of the composition graph that was measured in any run."""
    traded = [run for run in page.runs if run.trade.steps]
    if traded:
        _add_graph(page, traded)
        _add_capital(page, traded)
    lived = [run for run in page.runs if run.trade.lives.circuits.height]
    looked = [run for run in page.runs if run.trade.lives.agreement.height]
    if lived or looked:
        _add_circuits(page, lived, looked)
    if staged := [run for run in page.runs if run.trade.stages.height]:
        page.add(
            "stages",
            "Income by stage and layer",
            "Stage 1 is income from the logits, stage 2 from components that sell to the logits, "
            "and so on; each panel adds up a layer's components, in nats per scored position.",
            *_each(page, staged, "lines of income by stage, a panel for each layer",
                   lambda run: charts.income_by_stage(run, f"stages/{run.name}", page.steps)),
        )  # fmt: skip
    if exact := [run for run in page.runs if run.trade.effects.height]:
        _add_exact(page, exact)
    if direct := [run for run in page.runs if run.trade.direct.height]:
        page.add(
            "direct",
            "Direct against mediated value",
            "To the right is what a component's own write is worth to the logits, upward what it "
            "is worth through other components, both in nats per scored position with bars of "
            "± 1.96 standard errors; hover for the interaction, which is the rest of its value.",
            *_each(
                page, direct, "scatter of direct and mediated value",
                lambda run: charts.direct_against_mediated(
                    run, "container", f"direct/{run.name}", page.steps
                ),
            ),
        )  # fmt: skip


def _each(
    page: Sections, runs: Sequence[RunFrames], title: str, draw: Callable[[RunFrames], AnyChart]
) -> list[str]:
    return [page.chart(draw(run), title, run, chosen=True) for run in runs]


def _add_graph(page: Sections, runs: Sequence[RunFrames]) -> None:
    page.add(
        "graph",
        "Who supplies whom",
        "Layers go upward and MLPs stand to the right; an edge is as wide as the flow from "
        "supplier to buyer (blue earns, orange loses; q enters to the left, k in the middle, v to "
        "the right), a node is as large as its income (orange rim: negative) and coloured by what "
        "it sells: yellow final goods, for the logits, violet capital goods, for components. Hover "
        f"for numbers; pointing at a node leaves its edges. {_MARGIN}",
        *(
            page.of_run(run, flag) if (flag := alarm(flagged(run))) else "" for run in runs
        ),
        *_each(
            page, runs, "composition graph, drawn by depth",
            lambda run: charts.graph_by_depth(
                run, "container", (f"nodes/{run.name}", f"trade/{run.name}"), page.steps
            ),
        ),
        *(page.of_run(run, f'<p class="how">{_left_out(run)}</p>') for run in runs),
    )  # fmt: skip
    page.add(
        "matrix",
        "Supplier against buyer",
        "Each cell is the flow from a supplier (column) to a buyer (row) in nats per scored "
        "position, of the same edges as in the graph: blue earns, orange loses. Over several ports "
        "± is the sum of theirs.",
        *_each(
            page, runs, "matrix of flows from suppliers to buyers",
            lambda run: charts.flow_matrix(run, "container", f"trade/{run.name}", page.steps),
        ),
    )  # fmt: skip
    page.add(
        "crowding",
        "Signal against crowding",
        "To the right is what a component sells net of its own dilution, upward what it spares the "
        "others (downward: costs them) by taking bandwidth; income is the sum, positive above the "
        f"dashed line. Nats per scored position. {_MARGIN}",
        *_each(
            page, runs, "scatter of signal and crowding",
            lambda run: charts.signal_against_crowding(
                run, "container", f"nodes/{run.name}", page.steps
            ),
        ),
    )  # fmt: skip


def _left_out(run: RunFrames) -> str:
    """What the page does not hold of the edges, in a sentence."""
    cut = run.trade.economies.filter(pl.col("left_share") > 0)
    if not cut.height:
        return "All flows that were measured are in this page."
    most = cut.sort("left_share", descending=True).row(0, named=True)
    first = cut.filter(pl.col("baseline") == run.trade.baselines[0])
    last = (first if first.height else cut).row(-1, named=True)
    counted = max(cut["left_counted"])
    return (
        f"This page holds {run.trade.kept:,} flows of each checkpoint and baseline: those inside "
        f"of circuits and the largest others. At step {last['step']:,} ({last['baseline']} "
        f"baseline) {last['left']:,} smaller ones of {last['edges']:,} are left out, with "
        f"{last['left_share']:.1%} of all |flow|; at most that share is {most['left_share']:.1%}, "
        f"at step {most['step']:,}."
        + (f" Up to {counted:,} of those left out count." if counted else "")
    )


def _add_capital(page: Sections, runs: Sequence[RunFrames]) -> None:
    page.add(
        "capital",
        "Capital share over training",
        "The share of all flows that goes to components rather than to the logits, a line per "
        "baseline; the grey band reaches from the least to the greatest over baselines. A cross at "
        "the top: undefined, for all flows together are near 0; a hollow point: a flagged economy.",
        *_each(
            page, runs, "lines of the capital share, one per baseline",
            lambda run: charts.capital_over_time(run, "container", f"economies/{run.name}"),
        ),
        *(page.of_run(run, _quality(run)) for run in runs),
    )  # fmt: skip


_FLAGGED = (
    "Flagged: with every component at its baseline the model is worse than guessing by unigram "
    "frequencies, so part of its product is the way back from below that."
)


def _quality(run: RunFrames) -> str:
    """How well the integral behind incomes was taken, by baseline."""
    rows = run.trade.economies.filter(pl.col("product").is_not_null())
    if not rows.height:
        return ""
    cells = []
    for baseline in run.trade.baselines:
        part = rows.filter(pl.col("baseline") == baseline)
        if not part.height:
            continue
        last = part.row(-1, named=True)
        flags = part["flagged"].count()
        open_ends = part.filter(pl.col("converged") == "no")["step"].to_list()
        cells.append(
            [
                baseline,
                f"{last['step']:,}",
                amount(last["product"]),
                amount(part["gap"].abs().max()),  # type: ignore[arg-type]
                amount(part["component_error"].max()),  # type: ignore[arg-type]
                amount(part["nodes"].max()),  # type: ignore[arg-type]
                _named(open_ends),
                amount(last["ablated_loss"]),
                plus_minus(last["unigram_loss"], last["unigram_se"]),
                f"{flags} of {part.height}" if flags else "none",
            ]
        )
    head = [
        "baseline", "last step", "product", "largest |gap|", "largest component error",
        "most nodes", "not converged at steps",
        "ablated loss", "unigram loss", "flagged",
    ]  # fmt: skip
    return (
        "<details open><summary>How well incomes add up, in nats per scored position</summary>"
        + table(head, cells, numeric=range(1, 9))
        + (f'<p class="how">{_FLAGGED}</p>' if rows["flagged"].count() else "")
        + "</details>"
    )


def _named(steps: Sequence[int]) -> str:
    """Steps, the first few by name."""
    named = ", ".join(f"{step:,}" for step in steps[:5]) or "none"
    return named if len(steps) <= 5 else f"{named} and {len(steps) - 5} more"


def _add_circuits(page: Sections, lived: Sequence[RunFrames], looked: Sequence[RunFrames]) -> None:
    none = [run for run in looked if not run.trade.lives.circuits.height]
    page.add(
        "circuits",
        "Circuits over training",
        "A lane is a line of circuits, as thick as the trade inside; points have the colour of the "
        "joint value (the loss added when all members are replaced at once), marks above the lane "
        "are events, and dashed lines lead from parents. Hover for members, by role, and for what "
        "a circuit was worth before and after.",
        *_each(
            page, lived, "lanes of circuits over training",
            lambda run: charts.circuit_lanes(
                run, "container", (f"circuits/{run.name}", f"events/{run.name}"), page.steps
            ),
        ),
        *(
            page.of_run(run, "<p>No circuit was found at any checkpoint.</p>") for run in none
        ),
        *(page.of_run(run, _portraits(run)) for run in lived),
        *(page.of_run(run, _agreement(run) + _counting(run)) for run in looked),
    )  # fmt: skip


def _portraits(run: RunFrames) -> str:
    """What each circuit of the last checkpoint makes, of what, for whom, at what price."""
    rows = run.trade.lives.portraits
    step, baseline = rows["step"][0], rows["baseline"][0]
    shown = rows.head(_PORTRAITS)
    told: dict[str, list[str]] = {}
    for row in shown.iter_rows(named=True):
        pair = row["pair"] and f"{row['pair']}: {amount(row['pair_redundancy'])}"
        facts = {
            "roles": row["roles"],
            "trades inside": row["goods"],
            "buys from": row["suppliers"],
            "sells to": row["buyers"],
            "sells outside, net": amount(row["product"]),
            "of it to the logits": amount(row["to_logits"]),
            "trade inside, outside": f"{amount(row['internal'])}, {amount(row['external'])}",
            "parameters": amount(row.get("capacity_parameters")),
            "joint value": plus_minus(row["value"], row["se"]),
            "redundancy": plus_minus(row["redundancy"], row["redundancy_se"]),
            "largest of a pair": pair,
        }
        for name, fact in facts.items():
            told.setdefault(name, [name]).append(fact or "–")
    under = f", values under the {baseline} baseline" if baseline else ""
    rest = f" (the {_PORTRAITS} largest of {rows.height})" if rows.height > _PORTRAITS else ""
    return (
        f"<details open><summary>Circuits at step {step:,}{rest}</summary>"
        f'<p class="how">In nats per scored position{under}. Redundancy is positive where members '
        "stand in for each other, negative where they need each other.</p>"
        + table(["", *shown["lineage"]], told.values())
        + "</details>"
    )


def _agreement(run: RunFrames) -> str:
    rows = run.trade.lives.agreement.select(
        "step", "circuits", "first_half", "second_half", "components", "adjusted_rand"
    )
    head = [
        "step", "circuits", "of the first half of the data", "of the second half",
        "components in both", "agreement (adjusted Rand index)",
    ]  # fmt: skip
    cells = ([f"{step:,}", *map(amount, rest)] for step, *rest in rows.rows())
    return (
        "<details><summary>Agreement between halves of the data</summary>"
        + table(head, cells, numeric=range(6))
        + "</details>"
    )


def _counting(run: RunFrames) -> str:
    """How many edges count at each checkpoint, and what the largest flow lacks."""
    cells = []
    for row in run.trade.lives.counting.iter_rows(named=True):
        port = "" if row["port"] == "in" else f" {row['port']}"
        largest = f"{row['supplier']} → {row['buyer']}{port}" if row["supplier"] else "–"
        counts = [f"{row[name]:,}" for name in ("by_flow", "by_effect", "sequences")]
        needed = [f"{row[name]:,}" if row[name] else "never" for name in ("needed", "fewest")]
        flow = plus_minus(row["flow"], margin(row["se"], row["integration_error"]))
        cells.append([f"{row['step']:,}", *counts, largest, flow, amount(row["bound"]), *needed])
    if not cells:
        return ""
    head = [
        "step", "edges that count by flow", "by effect", "sequences", "largest flow", "its size",
        "untrained models reach", "sequences for it to count", "for any to count",
    ]  # fmt: skip
    return (
        "<details><summary>What counts, and what it would take</summary>"
        '<p class="how">A flow counts beyond its sampling error and beyond what untrained models '
        "of the same shape reach, once what its integral may be off by is taken off, in nats per "
        "scored position. More sequences shrink the sampling error: so many would do, if the flow "
        "stays as large. Never: untrained models reach as much. "
        f"{_MARGIN}</p>" + table(head, cells, numeric=(0, 1, 2, 3, 5, 6, 7, 8)) + "</details>"
    )


def _add_exact(page: Sections, runs: Sequence[RunFrames]) -> None:
    def drawn(run: RunFrames) -> str:
        chart = charts.effect_against_flow(run, "container", f"effects/{run.name}", page.steps)
        return page.chart(chart, "scatter of exact effect and flow", run, chosen=True)

    def followed(run: RunFrames) -> str:
        if not run.trade.sampling.height:
            return ""
        rows = run.trade.sampling.filter(pl.col("step") == pl.col("step").max())
        first = next((b for b in run.all_baselines if b in set(rows["baseline"])), None)
        last = rows.filter(pl.col("baseline") == (first or rows["baseline"][0])).row(0, named=True)
        told = (
            f"At step {last['step']:,} ({last['baseline']} baseline) {last['largest']:,} edges "
            f"were measured for their flow and {last['drawn']:,} drawn from the other "
            f"{last['edges'] - last['largest']:,}; those not measured are expected to hide "
            f"{plus_minus(last['hidden'], last['hidden_se'])} nats."
        )
        chart = charts.edges_over_time(run, data=f"sampling/{run.name}", steps=page.steps)
        lines = page.chart(chart, "lines of rank correlation and of hidden effect", run, True)
        return page.of_run(run, f'<p class="how">{told}</p>') + lines

    page.add(
        "exact",
        "Exact effects of edges",
        "The exact effect is the loss added when one reader no longer reads one supplier, in nats "
        "per scored position. Bars are ± 1.96 standard errors; those of flows have what their "
        "integral may be off by on top. Flows predict the effect where the points are near the "
        "dashed line. Below, their rank correlation, and what the edges that "
        "were not measured can be expected to hide.",
        *(drawn(run) + followed(run) for run in runs),
    )
