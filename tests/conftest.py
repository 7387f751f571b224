"""One thread a worker: tests run side by side, and small products gain nothing from more."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing here may reach for the network; what needs it is tested by its absence.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

if TYPE_CHECKING:
    from commands import Terminal
    from playwright.sync_api import Browser

torch.set_num_threads(1)

# The same examples every time: what fails here fails everywhere.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.load_profile("fixed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that open the page can be left out: `make test BROWSER=no`."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


def pytest_collection_finish() -> None:
    """What was imported stays: a test that collects garbage need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    """A terminal in a folder of its own, which holds a run and a text."""
    # Not before: the package is checked for shapes from the first import on.
    from commands import terminal

    with terminal(tmp_path, capsys, monkeypatch) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the pages of a module."""
    from page_visits import open_browser

    with open_browser() as made:
        yield made
