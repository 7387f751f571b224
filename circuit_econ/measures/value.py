"""Value: how much loss rises when a component is taken out, with standard error and placebo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl
from torch import Tensor

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures.base import Context, Measure
from circuit_econ.measures.statistics import ratio_estimate
from circuit_econ.measures.sweep import Variant, sweep
from circuit_econ.model import ModelConfig
from circuit_econ.model.intervene import Component, components, parse_component
from circuit_econ.tables import make_table, set_name

__all__ = ["VALUE", "ValueSettings"]


@dataclass
class ValueSettings:
    """Settings of ``value``.

    Attributes:
        components: Names to measure; empty means every head and MLP.
        embeddings: Whether to measure ``embed`` and ``pos`` as well.
        sets: Sets of components to take out jointly, each a list of names.
        placebo_draws: Independent shuffles of the differences over the evaluation set; 0 for none.
    """

    components: list[str] = field(default_factory=list)
    embeddings: bool = False
    sets: list[list[str]] = field(default_factory=list)
    placebo_draws: int = 8

    def __post_init__(self) -> None:
        """Check the number of draws."""
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


def _draws_per_panel(evaluation: Evaluation, panel: int, settings: ValueSettings) -> int:
    # Every panel of sequences has shuffles of its own: eight panels are eight draws already.
    return math.ceil(settings.placebo_draws / math.ceil(len(evaluation.tokens) / panel))


def run(context: Context, settings: ValueSettings) -> Mapping[str, pl.DataFrame]:
    """Measure V(S; m) = L(outputs of S replaced by baseline m) − L, for each component and set.

    In nats per scored position; positive = useful. The standard error is that of the paired
    per-sequence differences (:func:`~circuit_econ.measures.statistics.ratio_estimate`); it holds
    for the given baseline, which was measured on the reference sequences.

    The placebo moves the stream by the component's own differences (output − baseline) shuffled
    over the sequences and positions of a panel of random sequences: the same amounts of the same
    directions, without their meaning. Every panel has its own shuffles, at least ``placebo_draws``
    in all, so that the standard error over sequences holds the variance of the draws. Sets have
    no placebo.
    """
    chosen = _chosen(context.model.config, settings)
    draws = _draws_per_panel(context.evaluation, context.plan.panel, settings)
    keys = [(parts, baseline) for parts in chosen for baseline in context.baselines]
    shuffles = [k for k in keys if len(k[0]) == 1 and draws]
    variants = [Variant(*key) for key in keys]
    variants += [Variant(*key, placebo=True, draw=d) for key in shuffles for d in range(draws)]
    result = sweep(context, variants)
    clusters = context.evaluation.clusters

    def estimate(differences: Tensor) -> tuple[list[float | None], list[float | None]]:
        mean, se = ratio_estimate(differences, result.counts, clusters)
        return _numbers(mean), _numbers(se)

    value, se = estimate(result.difference[: len(keys)])
    placebo = dict.fromkeys(keys, (None, None))
    if shuffles:
        drawn = result.difference[len(keys) :].unflatten(0, (len(shuffles), draws)).mean(1)
        placebo |= dict(zip(shuffles, zip(*estimate(drawn), strict=True), strict=True))
    return {
        "value": make_table(
            "value",
            {
                "step": context.step,
                "component": [set_name([p.name for p in parts]) for parts, _ in keys],
                "baseline": [str(baseline) for _, baseline in keys],
                "value": value,
                "se": se,
                "sequences": len(context.evaluation.tokens),
                "placebo": [placebo[key][0] for key in keys],
                "placebo_se": [placebo[key][1] for key in keys],
            },
        )
    }


def _numbers(tensor: Tensor) -> list[float | None]:
    """NaN says "cannot be estimated"; in a table that is a null."""
    return [None if math.isnan(x) else x for x in tensor.tolist()]


def passes(
    config: ModelConfig, evaluation: Evaluation, baselines: tuple[str, ...], settings: ValueSettings
) -> float:
    """Forward passes over the evaluation set, blocks below the ablated one not counted."""
    draws = _draws_per_panel(evaluation, 8, settings)
    total = 2.0  # the clean pass and the reference
    for parts in _chosen(config, settings):
        first = min(-1 if p.layer is None else p.layer for p in parts)
        runs = 1 + (draws if len(parts) == 1 else 0)
        total += len(baselines) * runs * (config.n_layers - max(first, 0)) / config.n_layers
    return total


def check(config: ModelConfig, settings: ValueSettings) -> None:
    """Raise a ConfigurationError if a component does not exist in the model."""
    _chosen(config, settings)


VALUE = Measure("value", ValueSettings, ("value",), run, passes, check)
