"""Value: how much loss rises when a component is taken out, with standard error and placebo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures.adapting import adapt, estimate_of, pilot_panels
from circuit_econ.measures.base import Context, Measure
from circuit_econ.measures.plan import GROUP, PANEL, Plan, Sizes, sweep_memory
from circuit_econ.measures.precision import judge, tail
from circuit_econ.measures.statistics import Estimate, known
from circuit_econ.measures.sweep import Draw, Sweep
from circuit_econ.measures.variants import Variant
from circuit_econ.model import ModelConfig
from circuit_econ.model.intervene import Component, components, parse_component
from circuit_econ.tables import Kind, make_table, set_name

__all__ = ["VALUE", "ValueSettings", "depths"]


@dataclass
class ValueSettings:
    """Settings of ``value``.

    Attributes:
        components: Names to measure; empty means every head and MLP.
        embeddings: Whether to measure ``embed`` and ``pos`` as well.
        sets: Sets of components to take out jointly, each a list of names.
        placebo_draws: Independent shuffles of the differences over the evaluation set; 0 for none.
        positions: Score so many positions of each sequence, drawn at random; all by default. Pays
            where the unembedding costs more than the blocks: fewer positions of more sequences.
    """

    components: list[str] = field(default_factory=list)
    embeddings: bool = False
    sets: list[list[str]] = field(default_factory=list)
    placebo_draws: int = 8
    positions: int | None = None

    def __post_init__(self) -> None:
        """Check numbers and sets."""
        if self.positions is not None and self.positions < 1:
            raise ConfigurationError(
                f"measures.value.positions must be 1 or more, or null for all, not {self.positions}"
            )
        if self.placebo_draws < 0:
            raise ConfigurationError(
                f"measures.value.placebo_draws must be 0 or more, not {self.placebo_draws}"
            )
        for members in self.sets:
            if len(members) < 2 or len(set(members)) < len(members):
                raise ConfigurationError(
                    f"measures.value.sets: {list(members)} is not a set of at least two different "
                    "components"
                )


def _chosen(config: ModelConfig, settings: ValueSettings) -> list[tuple[Component, ...]]:
    if settings.components:
        singles = [parse_component(name, config) for name in settings.components]
    else:
        singles = components(config, embeddings=settings.embeddings)
    sets = [tuple(parse_component(n, config) for n in members) for members in settings.sets]
    return [(single,) for single in singles] + sets


def run(context: Context, settings: ValueSettings) -> Mapping[str, pl.DataFrame]:
    """Measure V(S; m) = L(outputs of S replaced by baseline m) − L, for each component and set.

    In nats per scored position; positive = useful. The standard error is that of the paired
    per-sequence differences (:func:`~circuit_econ.measures.statistics.ratio_estimate`); the 95 %
    interval ``low`` … ``high`` corrects it for small samples and skewness
    (:func:`~circuit_econ.measures.statistics.interval`). Both hold for the given baseline, which
    was measured on the reference sequences: how it would differ on others is not part of them.

    Where a precision is asked for, each row rests on as many sequences as it needs, behind a pilot
    that only decides (:mod:`~circuit_econ.measures.precision`). With or without, ``outcome`` says
    what the interval is worth (:func:`~circuit_econ.measures.precision.judge`): where the effects
    of the checkpoint have a heavy tail only one end is given, and ``needed`` says how many
    sequences (documents) both take at least.

    The placebo moves the stream by the component's own differences (output − baseline) shuffled
    over the sequences and positions of a group of eight random sequences: the same amounts of the
    same directions, without their meaning. Every group has its own shuffles, at least
    ``placebo_draws`` in all, so that the standard error over sequences holds the variance of the
    draws. With a precision it is measured on the pilot. Sets have no placebo.
    """
    chosen = _chosen(context.model.config, settings)
    keys = [(parts, baseline) for parts in chosen for baseline in context.baselines]
    singles = [key for key in keys if len(key[0]) == 1]
    variants = [Variant(*key) for key in keys]
    draw = Draw(context)
    groups = draw.groups
    if context.precision is not None and (pilot := pilot_panels(draw)):
        groups = math.ceil(draw.panels[pilot - 1][1] / GROUP)
    draws = math.ceil(settings.placebo_draws / groups)
    shuffles = [Variant(*key, placebo=True, draw=d) for key in singles for d in range(draws)]
    sweep = Sweep(context, [*variants, *shuffles], settings.positions)
    numbers = range(len(keys))
    kindred = [n for n in numbers if len(keys[n][0]) == 1] or list(numbers)
    placebos = range(len(keys), len(keys) + len(shuffles))
    if context.precision is None:
        sweep.run(range(len(sweep.panels)), [*numbers, *placebos])
        columns = dict.fromkeys(numbers, slice(0, len(sweep.order)))
    else:
        columns = adapt(sweep, numbers, placebos, context.precision, kindred)
    placebo: dict[object, Estimate] = {}
    if draws:
        for key, first in zip(singles, placebos[::draws], strict=True):
            placebo[key] = estimate_of(sweep, range(first, first + draws), slice(None))
    found = {n: estimate_of(sweep, [n], columns[n]) for n in numbers}
    spread = tail(found[n] for n in kindred)
    judged = [judge(found[n], context.precision, spread) for n in numbers]
    placebos_of = [placebo.get(key) for key in keys]
    return {
        "value": make_table(
            "value",
            {
                "step": context.step,
                "component": [set_name([p.name for p in parts]) for parts, _ in keys],
                "baseline": [str(baseline) for _, baseline in keys],
                "value": [known(found[n].mean) for n in numbers],
                "se": [known(found[n].se) for n in numbers],
                "sequences": [columns[n].stop - columns[n].start for n in numbers],
                "placebo": [known(other.mean) if other else None for other in placebos_of],
                "placebo_se": [known(other.se) if other else None for other in placebos_of],
                "affected": [found[n].affected for n in numbers],
                "low": [known(one.low) for one in judged],
                "high": [known(one.high) for one in judged],
                "outcome": [str(one.outcome) for one in judged],
                "effective": [found[n].effective for n in numbers],
                "needed": [one.needed for one in judged],
            },
        )
    }


def depths(
    config: ModelConfig, evaluation: Evaluation, baselines: tuple[str, ...], settings: ValueSettings
) -> list[float]:
    """For every variant, placebos included, how many layers run above the place where it starts."""
    groups = math.ceil(len(evaluation.tokens) / GROUP)
    draws = math.ceil(settings.placebo_draws / groups)
    found = []
    for parts in _chosen(config, settings):
        above = max(_layers_above(part, config) for part in parts)
        found += [above] * (len(baselines) * (1 + (draws if len(parts) == 1 else 0)))
    return found


def _layers_above(part: Component, config: ModelConfig) -> float:
    if part.layer is None:
        return float(config.n_layers)
    between = part.kind is Kind.HEAD and not config.parallel and config.d_mlp is not None
    return config.n_layers - 1 - part.layer + 0.5 * between


def passes(
    config: ModelConfig, evaluation: Evaluation, baselines: tuple[str, ...], settings: ValueSettings
) -> float:
    """Forward passes over the evaluation set, blocks below the ablated one not counted."""
    variants = depths(config, evaluation, baselines, settings)
    return 2.0 + sum(variants) / config.n_layers  # with the clean pass and the reference


def check(config: ModelConfig, settings: ValueSettings) -> None:
    """Raise a ConfigurationError if a component does not exist in the model."""
    _chosen(config, settings)


def memory(sizes: Sizes, settings: ValueSettings, plan: Plan) -> int:
    """Bytes that it takes beside the weights."""
    groups = math.ceil(min(sizes.sequences, PANEL) / GROUP)  # a pilot may be all there is
    draws = math.ceil(settings.placebo_draws / groups)
    count = len(_chosen(sizes.config, settings)) * len(sizes.baselines) * (1 + draws)
    return sweep_memory(sizes, plan, count, sets=bool(settings.sets))


VALUE = Measure("value", ValueSettings, ("value",), run, passes, memory, depths=depths, check=check)
