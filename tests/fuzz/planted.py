"""Cases that go wrong in every way there is: what counts them is tested by them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from random import Random
from typing import Any

from circuit_econ.errors import ConfigurationError
from fuzz.shop import Case, Shop, SilentError

__all__ = ["PLANTED"]


def _raise(error: BaseException) -> None:
    raise error


def _chatter() -> None:
    error = ConfigurationError("")
    error.args = ("two\nlines",)
    raise error


def _eat() -> None:
    block = bytearray(400 << 20)
    block[::4096] = bytes(len(block[::4096]))


_DEEDS: dict[str, Callable[[Shop], Any]] = {
    "raises": lambda shop: _raise(KeyError("x")),
    "hangs": lambda shop: time.sleep(1000),
    "eats": lambda shop: _eat(),
    "runs": lambda shop: os.system(f"touch {shop.folder}/x"),
    "writes": lambda shop: (shop.root / "../nowhere/x").mkdir(),
    "lies": lambda shop: _raise(SilentError("a number")),
    "dies": lambda shop: os._exit(3),
    "mumbles": lambda shop: _raise(ConfigurationError("KeyError: 'x' (circuit_econ/x.py:3)")),
    "chatters": lambda shop: _chatter(),
}


def _planted(deed: Callable[[Shop], Any]) -> Case:
    def case(shop: Shop, _rng: Random) -> str:
        shop.note("about to")
        deed(shop)
        return "right"

    return case


PLANTED: dict[str, Case] = {name: _planted(deed) for name, deed in _DEEDS.items()}
