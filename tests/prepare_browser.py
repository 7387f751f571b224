"""Sees to a browser for the tests that open the page; run by `make test`.

What is there is taken: CIRCUIT_ECON_CHROMIUM, or a browser of that family on the path. Otherwise
Debian's chromium where apt may install it, else the one that playwright brings.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

WITHOUT = (
    "no browser to open the page in: install chromium, or name one of its family in "
    "CIRCUIT_ECON_CHROMIUM; `make test BROWSER=no` leaves out the tests that need one"
)


def installed() -> str | None:
    """The path of a browser, if there is one."""
    named = os.environ.get("CIRCUIT_ECON_CHROMIUM")
    for name in [named] if named else NAMES:
        if found := shutil.which(name):
            return found
    return None if named else _of_playwright()


def prepare(call: Callable[[Sequence[str]], bool]) -> str | None:
    """The path of a browser, installed if need be; None if none can be had.

    Args:
        call: Runs a command and says whether it succeeded.
    """
    if found := installed():
        return found
    if os.environ.get("CIRCUIT_ECON_CHROMIUM"):
        return None  # somebody else's browser was asked for, not ours
    if shutil.which("apt-get"):
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive"]
        if call([*root, "apt-get", "update", "-qq"]):
            call([*root, *quiet, "apt-get", "install", "-y", "-qq", "chromium"])
        if found := installed():
            return found
    call([sys.executable, "-m", "playwright", "install", "chromium"])
    return installed()


def _of_playwright() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


def _call(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    except OSError:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(None if prepare(_call) else WITHOUT)
