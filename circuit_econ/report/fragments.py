"""Pieces of HTML. Every text that comes from data passes through :func:`escape`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import polars as pl

from circuit_econ.report.frames import RunFrames
from circuit_econ.report.reading import legible
from circuit_econ.report.words import Notice, amount, earners, last_step, plus_minus

__all__ = ["alarm", "comparison", "notice_box", "others_table", "run_record", "section", "table"]

_OPEN_CASES = 3
"""A notice with more cases is folded."""


def section(identity: str, title: str, how: str, *content: str) -> str:
    """A titled section; ``how`` is one sentence on how to read it, as plain text."""
    return (
        f'<section id="{identity}"><h2>{escape(title)}</h2>'
        f'<p class="how">{escape(how)}</p>{"".join(content)}</section>'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    """A static table of plain texts; ``numeric`` names the columns that are right-aligned."""
    right = set(numeric)
    mark = ['class="number"' if i in right else "" for i in range(len(head))]
    titles = "".join(
        f'<th scope="col" {m}>{escape(h)}</th>' for h, m in zip(head, mark, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td {m}>{escape(cell)}</td>" for cell, m in zip(row, mark, strict=True))
        + "</tr>"
        for row in rows
    )
    head_row = f"<thead><tr>{titles}</tr></thead>"
    return f'<div class="scroll"><table>{head_row}<tbody>{body}</tbody></table></div>'


def notice_box(run: RunFrames, found: Sequence[Notice], named: bool) -> str:
    """The warnings of a run; empty if there are none."""
    if not found:
        return ""
    items = []
    for notice in found:
        cases = "".join(f"<li>{escape(case)}</li>" for case in notice.details)
        listed = f"<ul>{cases}</ul>" if cases else ""
        if len(notice.details) > _OPEN_CASES:
            listed = f"<details><summary>which</summary>{listed}</details>"
        items.append(f"<li>{escape(notice.text)}{listed}</li>")
    whose = f"Before you believe {run.name}" if named else "Before you believe it"
    return f'<aside class="notices"><h2>{escape(whose)}</h2><ul>{"".join(items)}</ul></aside>'


def alarm(found: Sequence[Notice]) -> str:
    """Warnings next to what they are about; empty if there are none."""
    told = "".join(
        f"<p>{escape(' '.join([notice.text, *(f'{case}.' for case in notice.details)]))}</p>"
        for notice in found
    )
    return f'<aside class="notices">{told}</aside>' if told else ""


def comparison(runs: Sequence[RunFrames]) -> str:
    """A table with a row per run: how far it went, its loss, and what earned most."""
    rows = []
    for run in runs:
        measured = run.checkpoints.filter(pl.col("loss").is_not_null())
        last = measured.row(-1, named=True) if measured.height else {}
        top = earners(run).head(1).to_dicts()
        rows.append(
            [
                run.name,
                f"{run.checkpoints.height - run.failed.height} of {run.checkpoints.height}",
                f"{last['step']:,}" if last else "–",
                plus_minus(last.get("loss"), last.get("loss_se")),
                f"{top[0]['component']}: {plus_minus(top[0]['value'], top[0]['se'])}"
                if top
                else "–",
                ", ".join(run.baselines) or "–",
            ]
        )
    head = ["run", "measured", "last step", "loss (nats)", "largest value (nats)", "baselines"]
    return table(head, rows, numeric=(1, 2, 3))


def others_table(run: RunFrames) -> str:
    """Capacity at the last checkpoint of what is no component; empty if there is none."""
    rows = run.others.filter(pl.col("step") == pl.col("step").max())
    there = [c for c in run.currencies if rows[c].is_not_null().any()]
    if not there:
        return ""
    return table(
        ["", *(run.currencies[c] for c in there)],
        ([str(row[0]), *map(amount, row[1:])] for row in rows.select("component", *there).rows()),
        numeric=range(1, len(there) + 1),
    )


def run_record(run: RunFrames, opened: bool) -> str:
    """What was run: devices and time, the content of ``run.yaml``, the checkpoints."""
    devices = _distinct(run.checkpoints["device"])
    seconds = run.checkpoints["seconds"].sum()
    facts = {
        "last measured step": "none" if (step := last_step(run)) is None else f"{step:,}",
        "device": devices,
        "numbers": _distinct(run.checkpoints["dtype"]),
        "audit": f"{run.audit.height:,} found" if run.audit.height else "nothing found",
        "time": f"{seconds:,.1f} s over {run.checkpoints.height} checkpoints",
    }
    parts = [_pairs("", facts.items())]
    rest = {k: v for k, v in run.run.items() if not isinstance(v, Mapping)}
    rest.pop("notes", None)  # shown among the warnings
    if rest:
        parts.append(_pairs("run", _flat(rest)))
    parts += [_pairs(k, _flat(v)) for k, v in run.run.items() if isinstance(v, Mapping) and v]
    checkpoints = table(
        ["step", "tokens seen", "status", "loss", "seconds", "digest"],
        (
            [
                f"{row['step']:,}",
                amount(row["tokens_seen"]),
                row["status"] + (f": {row['reason']}" if row["reason"] else ""),
                plus_minus(row["loss"], row["loss_se"]),
                amount(row["seconds"]),
                row["digest"] or "–",
            ]
            for row in run.checkpoints.to_dicts()
        ),
        numeric=(0, 1, 3, 4),
    )
    return (
        f'<details class="record"{" open" if opened else ""}><summary>{escape(run.name)}</summary>'
        f'<div class="pairs">{"".join(parts)}</div>'
        f"<details><summary>checkpoints</summary>{checkpoints}</details></details>"
    )


def _pairs(title: str, pairs: Iterable[tuple[str, Any]]) -> str:
    # A list of many short values is one long one here.
    shown = ((legible(str(k)), "–" if v is None else legible(str(v))) for k, v in pairs)
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in shown)
    return f"<div>{f'<h3>{escape(title)}</h3>' if title else ''}<dl>{items}</dl></div>"


def _flat(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys as ``a.b``; lists on one line."""
    for key, entry in content.items():
        if isinstance(entry, Mapping):
            yield from _flat(entry, f"{prefix}{key}.")
        elif isinstance(entry, list | tuple):
            yield prefix + str(key), ", ".join(map(str, entry)) or "–"
        else:
            yield prefix + str(key), entry


def _distinct(column: pl.Series) -> str:
    return ", ".join(column.drop_nulls().unique(maintain_order=True).to_list()) or "–"
