"""How to measure: names resolved to measures, numbers and a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.evaluation import Evaluation
from circuit_econ.evaluation.settings import check_number
from circuit_econ.measures import Context, Measure, Plan, Precision, measures_of
from circuit_econ.measures.plan import Need, Sizes, budget, clean_memory
from circuit_econ.model import Model, ModelConfig, Rounding, Source
from circuit_econ.model.untrained import Untrained
from circuit_econ.tables import BASELINES

__all__ = ["DTYPES", "Settings", "check_names", "resolve_device"]

DTYPES: Final = {
    "float32": (torch.float32, Rounding.EXACT),
    "float64": (torch.float64, Rounding.EXACT),
    "tf32": (torch.float32, Rounding.TF32),
    "bfloat16": (torch.float32, Rounding.BFLOAT16),
}
"""Numbers by name: the dtype of stream and losses, and what enters matrix products."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure; everything here is part of what a ledger's numbers mean.

    Attributes:
        measures: The measures, in the order in which they run.
        baselines: Baselines to ablate with.
        seed: Root seed: donors, shuffles.
        numbers: Name of the numbers, a key of :data:`DTYPES`.
        device: Where to compute.
        options: Settings of measures by name; those left out have their defaults.
        precision: Standard errors asked for; None measures every sequence.
        memory: Bytes that measuring may take beside the weights; None leaves it to the plan.
    """

    measures: list[Measure]
    baselines: tuple[str, ...]
    seed: int
    numbers: str
    device: torch.device
    options: dict[str, Any] = field(default_factory=dict)
    precision: Precision | None = None
    memory: float | None = None

    @classmethod
    def make(
        cls,
        measures: Sequence[str],
        baselines: Sequence[str],
        seed: int,
        dtype: str,
        device: str | None,
        options: Mapping[str, Any] | None,
        precision: Precision | Mapping[str, float] | None = None,
        memory: float | None = None,
    ) -> Settings:
        """Resolve names; ``memory`` is in GB here.

        Raises:
            ConfigurationError: If one does not exist; what exists is listed.
        """
        check_names(measures, baselines, dtype)
        check_number("seed", seed)
        chosen = measures_of(measures)
        given = dict(options or {})
        resolved = {m.name: given.pop(m.name, None) or m.settings() for m in chosen}
        for name in given:
            measures_of([name])
        once = tuple(dict.fromkeys(baselines))
        if memory is not None and not memory > 0:
            raise ConfigurationError(f"device.memory must be GB above 0, or null, not {memory}")
        return cls(
            chosen,
            once,
            seed,
            dtype,
            resolve_device(device),
            resolved,
            Precision.make(precision),
            None if memory is None else memory * 1e9,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights, stream and losses."""
        return DTYPES[self.numbers][0]

    @property
    def rounding(self) -> Rounding:
        """Of what enters matrix products."""
        return DTYPES[self.numbers][1]

    def load(self, source: Source) -> Model:
        """The model of a checkpoint, in these numbers, on this device."""
        return Model.from_source(source, self.dtype, self.device, self.rounding)

    @property
    def room(self) -> float:
        """Bytes that measuring may take beside the weights."""
        return budget(self.device) if self.memory is None else self.memory

    def sizes(self, config: ModelConfig, evaluation: Evaluation) -> Sizes:
        """What decides how much memory measuring takes."""
        return Sizes.of(config, evaluation, self.baselines, self.dtype, self.device)

    def needs(self, sizes: Sizes) -> dict[str, Need]:
        """By measure, and for the loss of a checkpoint, from a plan to the bytes that it takes."""
        found: dict[str, Need] = {"the loss": partial(clean_memory, sizes)}
        for one in self.measures:
            found[one.name] = partial(self._need, one, sizes)
        return found

    def _need(self, one: Measure, sizes: Sizes, plan: Plan) -> int:
        """Of a measure; what another counts by is measured when its needs are."""
        asking = [m for m in self.measures if m.bounds is not None and one.name in m.needs]
        return max(m.memory(sizes, self.options[m.name], plan) for m in (one, *asking))

    def plan(self, config: ModelConfig, evaluation: Evaluation, kept: Plan | None = None) -> Plan:
        """How to cut the work so that all measures fit what they may take.

        Args:
            config: The model.
            evaluation: The sequences.
            kept: A plan that stays, to the last bit, unless something does not fit under it.

        Raises:
            ConfigurationError: If something does not fit however the work is cut.
        """
        sizes, room = self.sizes(config, evaluation), self.room
        needs = self.needs(sizes)
        if kept is not None and not kept.lacking(needs, room):
            return kept
        return Plan.choose(sizes, room, needs)

    def context(
        self,
        model: Model,
        evaluation: Evaluation,
        step: int,
        plan: Plan,
        source: Source | None = None,
    ) -> Context:
        """What a measure is given at one checkpoint.

        Args:
            model: The checkpoint's.
            evaluation: The sequences.
            step: The checkpoint.
            plan: How to cut the work.
            source: What the model was made of. It says what models of its shape are like that were
                never trained, and so by what flows count if a measure counts them. None: a
                rehearsal.
        """
        context = Context(model, evaluation, step, self.baselines, plan, self.seed, self.precision)
        if source is not None:
            context.untrained = Untrained(source.format, dict(source.config), self.load)
            for one in self.measures:
                if one.bounds is not None:
                    context.bounds = partial(one.bounds, context, self.options[one.name])
        return context


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
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    try:
        device = torch.device(name)
        # Not every device that holds a tensor holds its numbers: meta does not.
        float(torch.ones(1, device=device))
    except Exception as error:  # torch raises many types, by device and build
        # What torch cannot do it explains at length.
        said = str(error).strip().splitlines()[0].split(". ")[0].removesuffix(".")
        raise ConfigurationError(
            f"device {name!r} cannot be used ({said}); there is: {', '.join(there)}"
        ) from error
    return device
