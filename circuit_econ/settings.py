"""How to measure: names resolved to measures, numbers and a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Measure, Plan, measures_of
from circuit_econ.model import Model
from circuit_econ.tables import BASELINES

__all__ = ["DTYPES", "Settings", "check_names", "resolve_device"]

DTYPES: Final = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure; everything here is part of what a ledger's numbers mean.

    Attributes:
        measures: The measures, in the order in which they run.
        baselines: Baselines to ablate with.
        seed: Root seed: donors, shuffles.
        dtype: Of the numbers.
        device: Where to compute.
        options: Settings of measures by name; those left out have their defaults.
    """

    measures: list[Measure]
    baselines: tuple[str, ...]
    seed: int
    dtype: torch.dtype
    device: torch.device
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        measures: Sequence[str],
        baselines: Sequence[str],
        seed: int,
        dtype: str,
        device: str | None,
        options: Mapping[str, Any] | None,
    ) -> Settings:
        """Resolve names.

        Raises:
            ConfigurationError: If one does not exist; what exists is listed.
        """
        check_names(measures, baselines, dtype)
        chosen = measures_of(measures)
        given = dict(options or {})
        resolved = {m.name: given.pop(m.name, None) or m.settings() for m in chosen}
        for name in given:
            measures_of([name])
        once = tuple(dict.fromkeys(baselines))
        return cls(chosen, once, seed, DTYPES[dtype], resolve_device(device), resolved)

    @property
    def dtype_name(self) -> str:
        """The dtype as the configuration names it."""
        return next(name for name, dtype in DTYPES.items() if dtype is self.dtype)

    def context(self, model: Model, evaluation: Evaluation, step: int, plan: Plan) -> Context:
        """What a measure is given at one checkpoint."""
        return Context(model, evaluation, step, self.baselines, plan, self.seed)


def check_names(measures: Sequence[str], baselines: Sequence[str], dtype: str) -> None:
    """Check names that do not depend on the machine.

    Raises:
        ConfigurationError: If one does not exist, or no measure or baseline is asked for.
    """
    measures_of(measures)
    for name in baselines:
        if name not in BASELINES:
            raise unknown("baseline", name, BASELINES)
    if not baselines:
        raise ConfigurationError(f"no baseline asked for; there is: {', '.join(BASELINES)}")
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)


def resolve_device(name: str | None) -> torch.device:
    """The device of a name; None means CUDA if there is one, else the CPU.

    Raises:
        ConfigurationError: If it does not exist here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ConfigurationError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); "
            f"there is: {', '.join(there)}"
        ) from None
    return device
