"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back"]


def give_back() -> None:
    """Give back what was freed, where the C library would keep it: after whole models, gigabytes.

    glibc keeps pieces below 32 MB for itself, which most matrices are, and a later model seldom
    fits the holes of an earlier one. Other C libraries do not, and have no such function.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
