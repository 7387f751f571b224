"""The end of a walk in the terminal: what earned most, what to beware of, where the page is."""

from __future__ import annotations

from typing import Final

import polars as pl
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from circuit_econ.accounts import returns
from circuit_econ.ledger import Ledger
from circuit_econ.report.frames import RunFrames, gather
from circuit_econ.report.words import amount, earners, headline, notices, plus_minus
from circuit_econ.tables import Currency

__all__ = ["summary"]

_ROWS: Final = 8
_CASES: Final = 3
_NARROW: Final = 90


def summary(ledger: Ledger, console_width: int = 100) -> RenderableType:
    """What a walk found, to be printed with rich.

    The largest values of the last measured checkpoint under the first baseline, with standard
    error, placebo, capacity in parameters and return; then the warnings and the path of the page.

    Args:
        ledger: The run.
        console_width: In characters; below 90 the placebo is left out.
    """
    run = gather(ledger)
    parts: list[RenderableType] = []
    rows = earners(run).head(_ROWS)
    if rows.height:
        parts.append(_table(run, rows, ledger, wide=console_width >= _NARROW))
    else:
        parts.append(Text(headline(run)))
    for notice in notices(run):
        parts.append(Text(f"! {notice.text}", style="yellow"))
        parts += [Text(f"  {case}") for case in notice.details[:_CASES]]
        if len(notice.details) > _CASES:
            parts.append(Text(f"  and {len(notice.details) - _CASES} more"))
    # Folded where the terminal is narrow: an end cut off could not be opened.
    parts.append(Text(f"page: {ledger.path / 'report.html'}", overflow="fold"))
    return Group(*parts)


def _table(run: RunFrames, rows: pl.DataFrame, ledger: Ledger, wide: bool) -> Table:
    step, baseline = rows["step"][0], rows["baseline"][0]
    table = Table(
        title=f"Largest values at step {step:,} ({baseline} baseline, nats per position)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("component")
    table.add_column("value ± se", justify="right")
    if wide:
        table.add_column("placebo ± se", justify="right")
    priced = Currency.PARAMETERS in run.currencies
    if priced:
        table.add_column("parameters", justify="right")
        table.add_column("return (nats per parameter)", justify="right")
    value, capacity = ledger.table("value"), ledger.table("capacity")
    here = pl.col("step") == step
    earned = (
        returns(value.filter(here), capacity.filter(here), Currency.PARAMETERS, baseline=baseline)
        .collect()
        .join(rows.select("component", "placebo", "placebo_se"), on="component")
        .sort(pl.col("component").replace_strict(rows["component"], range(rows.height)))
    )
    for row in earned.iter_rows(named=True):
        table.add_row(
            Text(row["component"]),
            plus_minus(row["value"], row["se"]),
            *([plus_minus(row["placebo"], row["placebo_se"])] if wide else []),
            *(
                [amount(row["capacity"]), plus_minus(row["return"], row["return_se"])]
                if priced
                else []
            ),
        )
    return table
