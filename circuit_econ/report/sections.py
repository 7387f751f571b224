"""The page's sections with the charts in them, collected in reading order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import altair as alt

from circuit_econ.report.fragments import section
from circuit_econ.report.frames import RunFrames

__all__ = ["Sections"]


class Sections:
    """Collects sections, and the specifications of the charts in them.

    Attributes:
        runs: All runs of the page.
        steps: What the page's slider counts through.
        specs: A chart each: element, run, chosen, data (names of its datasets), spec.
        html: A section each.
    """

    def __init__(self, runs: Sequence[RunFrames]) -> None:
        self.runs = runs
        self.steps = sorted({step for run in runs for step in run.all_steps})
        self.specs: list[dict[str, Any]] = []
        self.html: list[str] = []

    def add(self, identity: str, title: str, how: str, *content: str) -> None:
        """Add a section; ``how`` says how to read it, ``content`` is HTML."""
        self.html.append(section(identity, title, how, *content))

    def chart(
        self,
        chart: alt.TopLevelMixin,
        title: str,
        run: RunFrames | None = None,
        chosen: bool = False,
    ) -> str:
        """The element of a chart.

        Args:
            chart: Its data are named, as ``table`` or ``table/run``.
            title: Says to a screen reader what it shows.
            run: Whose it is; its name stands above the chart where several runs are compared.
            chosen: Whether it is shown only while its run is the one chosen on the page.
        """
        spec = chart.to_dict(validate=False)  # the tests do; it takes longer than all the rest
        del spec["config"]  # the page chooses light or dark
        name = f"chart-{len(self.specs)}"
        self.specs.append(
            {
                "element": name,
                "run": run and run.name,
                "chosen": chosen,
                "data": list(dict.fromkeys(_data_names(spec))),
                "spec": spec,
            }
        )
        whose = f"<h3>{escape(run.name)}</h3>" if run and len(self.runs) > 1 else ""
        label = escape(title, quote=True)
        element = f'<div class="chart" id="{name}" role="img" aria-label="{label}"></div>'
        return self.of_run(run, whose + element) if chosen and run else whose + element

    def of_run(self, run: RunFrames, content: str) -> str:
        """HTML that is shown only while its run is the one chosen on the page."""
        return f'<div class="of-run" data-run="{escape(run.name, quote=True)}">{content}</div>'


def _data_names(spec: object) -> Iterator[str]:
    """Names of all datasets that a specification mentions and does not hold."""
    if isinstance(spec, dict):
        data = spec.get("data")
        if isinstance(data, dict) and "name" in data and "values" not in data:
            yield data["name"]
        for part in spec.values():
            yield from _data_names(part)
    elif isinstance(spec, list):
        for part in spec:
            yield from _data_names(part)
