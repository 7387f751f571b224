"""Random draws from whole numbers, however large."""

from __future__ import annotations

import torch

__all__ = ["drawing"]


def drawing(seed: int) -> torch.Generator:
    """A generator on the CPU, so that draws are the same on every device.

    What is made of a root seed, a step and more may be larger than torch takes.
    """
    return torch.Generator().manual_seed(seed % 2**63)
