"""A page opened in a real browser, and what went wrong in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from prepare_browser import WITHOUT, installed

from circuit_econ.ledger import Ledger
from circuit_econ.report import write_page

SCATTER = 3
"""Index of value against capacity, after loss, heat map and lines."""

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def chromium() -> str:
    """The browser's path; a missing browser is a failure, for nothing else looks at the page."""
    found = installed()
    if found is None:
        pytest.fail(WITHOUT, pytrace=False)
    return found


@contextmanager
def open_browser() -> Iterator[Browser]:
    path = chromium()  # before playwright runs: it may have to be asked
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass(slots=True)
class Visit:
    """An open page and what went wrong in it."""

    page: Page
    ledger: Ledger
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def column(self, index: int) -> list[str]:
        return self.page.locator(f"#accounts tbody td:nth-child({index})").all_inner_texts()

    def chart(self, script: str, index: int = SCATTER) -> Any:
        """A value computed by ``script`` from ``view``, a chart's Vega view."""
        return self.page.evaluate(
            f"(() => {{ const view = circuitEcon.views()[{index}]; {script} }})()"
        )


def visit(browser: Browser, ledgers: list[Ledger], target: Path, **context: Any) -> Visit:
    path = write_page(ledgers, target)
    page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **context})
    opened = Visit(page, ledgers[0])
    page.on("console", lambda message: opened.errors.append(message.text))
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("window.circuitEcon && (circuitEcon.ready || !failure.hidden)")
    assert page.locator("#failure").is_hidden(), page.locator("#failure").inner_text()
    return opened


# Tooltips are what Vega shows on hovering, read from the drawn marks.
TOOLTIPS = """
    const found = [];
    (function walk(item) {
        if (item.tooltip) found.push(item.tooltip);
        for (const child of item.items ?? []) walk(child);
    })(view.scenegraph().root);
    return found;
"""
