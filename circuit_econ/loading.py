"""Models made in the background, and the numbers they compute with."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from circuit_econ.model import Model, Rounding, Source
from circuit_econ.settings import Settings

__all__ = ["loader", "numbers"]


def loader(settings: Settings) -> Callable[[Source], Model] | None:
    """What makes a model of a checkpoint while another is measured; None on a CPU.

    There the next checkpoint is read and hashed ahead, but stays where it lies in its file until
    its turn comes: one model and one mapped file are in memory, not two of each. On a GPU the
    weights travel on a stream of their own, so that copying overlaps computing; the thread that
    loads waits for them, nobody else does.
    """
    if settings.device.type != "cuda":
        return None
    side = torch.cuda.Stream(settings.device)

    def load(source: Source) -> Model:
        with torch.cuda.stream(side):
            model = settings.load(source)
        side.synchronize()
        return model

    return load


@contextmanager
def numbers(rounding: Rounding) -> Generator[None, None, None]:
    """Whatever the process is set to, float32 products are rounded as asked for, and only then."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if rounding is Rounding.TF32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
