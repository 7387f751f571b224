"""The page: charts, tables and the record of one or several runs in one offline HTML file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Final

import altair as alt
import vl_convert

from circuit_econ.errors import ConfigurationError, LedgerError, foreign
from circuit_econ.filing import put
from circuit_econ.ledger import Ledger
from circuit_econ.report import charts
from circuit_econ.report.economy import add_economy, economy_tables
from circuit_econ.report.fragments import (
    comparison,
    notice_box,
    others_table,
    run_record,
)
from circuit_econ.report.frames import RunFrames, gather, run_names
from circuit_econ.report.packing import pack
from circuit_econ.report.sections import Sections
from circuit_econ.report.theme import DARK, LIGHT
from circuit_econ.report.words import headline, notices

__all__ = ["write_page"]

# Nothing may be loaded from anywhere; Vega compiles its expressions, hence unsafe-eval.
_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:"
)


def write_page(ledgers: Sequence[Ledger], path: str | Path) -> Path:
    """Write the page of one run, or of several to compare.

    The file needs no network and nothing beside it. It appears whole or not at all, and the same
    ledgers give the same bytes.

    Args:
        ledgers: At least one run.
        path: The file, such as ``<out>/report.html``; its folder is created.

    Returns:
        The path.

    Raises:
        ConfigurationError: If no ledger is given.
        LedgerError: If the file cannot be written.
    """
    if not ledgers:
        raise ConfigurationError("a report needs at least one run; name the folder a walk wrote")
    names = run_names(ledgers)
    runs = [gather(ledger, name) for ledger, name in zip(ledgers, names, strict=True)]
    target, text = Path(path), _document(runs)
    what = f"cannot write the page {str(target)!r}: free space or choose another place"
    with foreign(LedgerError, what):
        target.parent.mkdir(parents=True, exist_ok=True)
        put(lambda file: file.write_text(text, encoding="utf-8", newline="\n"), target)
    return target


def _document(runs: Sequence[RunFrames]) -> str:
    sections = Sections(runs)
    _add_loss(sections)
    _add_values(sections)
    _add_capacity(sections)
    _add_attention(sections)
    add_economy(sections)
    _add_table(sections)
    _add_records(sections)
    several = len(runs) > 1
    study = str(runs[0].run.get("study") or runs[0].name)
    title = f"{len(runs)} runs compared" if several else study
    lead = "".join(
        f"<p>{f'<b>{escape(run.name)}.</b> ' if several else ''}{escape(headline(run))}</p>"
        for run in runs
    )
    warned = "".join(notice_box(run, notices(run), several) for run in runs)
    content = {
        "tables": {
            "accounts": pack(charts.together(runs)),
            "checkpoints": pack(charts.loss_data(runs)),
            **{name: pack(frame) for name, frame in economy_tables(runs).items()},
        },
        "charts": sections.specs,
        "themes": {"light": LIGHT, "dark": DARK},
        "baselines": list(dict.fromkeys(b for run in runs for b in run.all_baselines)),
        "currencies": _merged(run.currencies for run in runs),
        "steps": sections.steps,
        "runs": [run.name for run in runs],
    }
    assets = files("circuit_econ.report") / "assets"
    return (
        (assets / "page.html")
        .read_text(encoding="utf-8")
        .format(
            policy=_POLICY,
            title=escape(title),
            style=(assets / "page.css").read_text(encoding="utf-8"),
            lead=lead + (comparison(runs) if several else ""),
            notices=warned,
            sections="\n".join(sections.html),
            content=_script_safe(json.dumps(content, ensure_ascii=False, separators=(",", ":"))),
            vega=_bundle(),
            script=(assets / "page.js").read_text(encoding="utf-8"),
        )
    )


def _add_loss(page: Sections) -> None:
    if not any(run.checkpoints.height for run in page.runs):
        page.add("loss", "Loss", "No checkpoint was recorded: there is nothing to show yet.")
        return
    chart = charts.loss_curve(page.runs, "container", data="checkpoints")
    page.add(
        "loss",
        "Loss",
        "Each point is a checkpoint, with the loss over all scored positions; the band is ± 1.96 "
        "standard errors, a red cross is a checkpoint that could not be measured. The axis of "
        "steps is logarithmic, with room for step 0.",
        page.chart(chart, "loss over training"),
    )


def _add_values(page: Sections) -> None:
    valued = [run for run in page.runs if run.has_values]
    if not valued:
        page.add("value", "Value", "Value was not measured at any checkpoint.")
        return
    # One scale of colours, or two runs could not be compared.
    limit = charts.colour_limit([run.accounts["value"] for run in valued])
    page.add(
        "value",
        "Value of each component over time",
        "Value is the loss added when a component is replaced by its baseline: blue earns, orange "
        f"harms. The colour saturates at ± {limit:g} nats and is stretched near 0; hover for the "
        "number, its error and its placebo (the same replacement with shuffled differences).",
        *(
            page.chart(
                charts.value_heatmap(run, limit, data=f"accounts/{run.name}"),
                "heat map of the value of each component at each checkpoint",
                run,
            )
            for run in valued
        ),
    )
    page.add(
        "largest",
        "The largest values",
        "The components with the largest values at any checkpoint are coloured, with bands of "
        "their 95 % interval; the others are grey. Where the tail of the effects is heavy only the "
        "end away from it is known, and only that side is drawn.",
        *(
            page.chart(
                charts.value_over_time(run, "container", data=f"accounts/{run.name}"),
                "lines of the value of each component over training",
                run,
            )
            for run in valued
        ),
    )


def _add_capacity(page: Sections) -> None:
    both = [run for run in page.runs if run.has_values and run.currencies]
    if not both:
        page.add(
            "capacity",
            "Value against capacity",
            "Needs value and capacity; measure both to see returns.",
        )
        return
    others = ""
    for run in both:
        if rows := others_table(run):
            whose = f": {escape(run.name)}" if len(both) > 1 else ""
            title = f"Capacity without value{whose} (biases, norms, embeddings)"
            others += f"<details><summary>{title}</summary>{rows}</details>"
    page.add(
        "capacity",
        "Value against capacity",
        "Components on one ray from the origin have the same return; those above the dashed line "
        "return more for their capacity than the mean component at this checkpoint. "
        "Bars are 95 % intervals, grey trails the ways of the largest; the axes do not "
        "move with the slider.",
        page.chart(
            charts.value_against_capacity(both, "container", "accounts", page.steps),
            "scatter of value against capacity at one checkpoint",
        ),
        others,
    )


def _add_attention(page: Sections) -> None:
    scored = [run for run in page.runs if run.scores]
    if scored:
        page.add(
            "attention",
            "What heads attend to, and what that earns",
            "Above, an attention score of every head; below, the value of the same heads in the "
            "same colours: a circuit that forms shows in both at once.",
            *(
                page.chart(
                    charts.score_and_value(run, data=f"accounts/{run.name}"),
                    "attention scores and values of heads over training",
                    run,
                )
                for run in scored
            ),
        )


def _add_table(page: Sections) -> None:
    if not any(run.accounts.height for run in page.runs):
        return
    page.add(
        "table",
        "Every component",
        "Click a heading to sort. Return is value divided by capacity in the chosen currency; ± is "
        "one standard error. A verdict needs a 95 % interval on the same side of 0 under at least "
        "three baselines.",
        '<p class="filter"><label>show only <input id="filter" type="search" '
        'placeholder="a1.h or mlp" spellcheck="false"></label> <span id="caption"></span></p>'
        '<div class="scroll tall"><table id="accounts"><thead></thead><tbody></tbody></table>',
        "</div>",
    )


def _add_records(page: Sections) -> None:
    page.add(
        "record",
        "What was run",
        "Settings, digests, versions and checkpoints as the ledger records them.",
        *(run_record(run, opened=len(page.runs) == 1) for run in page.runs),
    )


def _merged(mappings: Iterable[Mapping[str, str]]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for mapping in mappings:
        merged |= mapping
    return merged


def _script_safe(text: str) -> str:
    """JSON that cannot end the script element it stands in, whatever the data says."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed, of the version that Altair writes for; takes 2 s."""
    version = alt.SCHEMA_VERSION.removeprefix("v").rsplit(".", 1)[0]
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version)
    return bundle.replace("</script", "<\\/script")
