"""Intervals after a decision that looked at data: 95 % must cover between 93 and 97 %."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from small_runs import small_config, small_data

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan, Precision
from circuit_econ.measures.adapting import adapt
from circuit_econ.measures.precision import PILOT, verdict
from circuit_econ.measures.statistics import Estimate, estimate, interval
from circuit_econ.measures.sweep import Sweep, Variant, sweep
from circuit_econ.model import Model
from circuit_econ.model.intervene import components
from circuit_econ.training import train
from circuit_econ.trajectory import open_trajectory

PANEL = 8
Draw = Callable[[int, torch.Generator], torch.Tensor]


def _normal(n: int, g: torch.Generator) -> torch.Tensor:
    return 0.5 + torch.randn(n, generator=g, dtype=torch.float64)


def _student(n: int, g: torch.Generator) -> torch.Tensor:
    """Student's t with 3 degrees of freedom: no fourth moment."""
    chi = torch.randn(3, n, generator=g, dtype=torch.float64).square().sum(0)
    return 0.5 + torch.randn(n, generator=g, dtype=torch.float64) / (chi / 3).sqrt()


def _lognormal(n: int, g: torch.Generator) -> torch.Tensor:
    """One long tail: skewness 6."""
    return torch.randn(n, generator=g, dtype=torch.float64).exp()


def _rare(n: int, g: torch.Generator) -> torch.Tensor:
    """Active in one sequence of twenty."""
    active = torch.rand(n, generator=g, dtype=torch.float64) < 0.05
    return active * (1 + 0.5 * torch.randn(n, generator=g, dtype=torch.float64))


WORLDS: dict[str, tuple[Draw, float, float]] = {
    # name: (draw, true mean, standard deviation)
    "normal": (_normal, 0.5, 1.0),
    "heavy on both sides": (_student, 0.5, math.sqrt(3)),
    "heavy on one side": (_lognormal, math.exp(0.5), 2.161),
    "rare": (_rare, 0.05, 0.2449),
}


class Measured(Sweep):
    """A sweep whose differences are there already."""

    def __init__(self, sums: torch.Tensor) -> None:
        count = len(sums)
        cuts = list(range(0, count, PANEL))
        self.order, self.counts, self.clusters = torch.arange(count), torch.ones(count), None
        self.panels = list(zip(cuts, [*cuts[1:], count], strict=True))
        self.difference = sums[None]

    def run(self, panels: range, numbers: Sequence[int]) -> None:
        """Nothing is left to measure."""


def replicate(sums: torch.Tensor, precision: Precision) -> tuple[Estimate, str]:
    """What a walk that adapts would report of a variant with these differences."""
    columns = adapt(Measured(sums), [0], [], precision)[0]
    found = estimate(sums[columns], torch.ones(columns.stop - columns.start))
    return found, verdict(found, precision)


def cover(found: list[tuple[Estimate, float]]) -> float:
    return sum(e.low <= truth <= e.high for e, truth in found) / len(found)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("share", [0.1, 0.05], ids=lambda s: f"se {s} of the deviation")
def test_intervals_cover_what_they_say(world: str, share: float) -> None:
    draw, truth, deviation = WORLDS[world]
    precision = Precision(absolute=share * deviation, relative=0.0)
    generator = torch.Generator().manual_seed(1)
    found = [replicate(draw(2048, generator), precision) for _ in range(600)]
    estimable = [(e, truth) for e, outcome in found if outcome != "not estimable"]
    assert len(estimable) >= 0.99 * len(found)
    assert 0.93 <= cover(estimable) <= 0.97
    met = [e.se <= precision.absolute for e, outcome in found if outcome == "met"]
    assert all(met) and len(met) > 0.8 * len(found)
    assert max(e.units for e, _ in found) / min(e.units for e, _ in found) > 1


def test_without_the_corrections_they_would_not() -> None:
    """The same experiment with everything used and the plain interval: what the rules are for."""
    generator = torch.Generator().manual_seed(1)
    draw, truth, deviation = WORLDS["heavy on one side"]
    hits = 0
    for _ in range(1000):
        x = draw(2048, generator)
        n = 8
        while x[:n].std() / math.sqrt(n) > 0.1 * deviation and n < 2048:
            n += 8
        hits += abs(float(x[:n].mean()) - truth) <= 1.96 * float(x[:n].std()) / math.sqrt(n)
    assert hits / 1000 < 0.9


def test_a_component_active_in_one_sequence_of_a_hundred_is_not_estimable() -> None:
    generator = torch.Generator().manual_seed(0)
    outcomes = []
    for _ in range(50):
        active = torch.rand(1024, generator=generator, dtype=torch.float64) < 0.01
        found, outcome = replicate(active.double(), Precision(absolute=0.5, relative=0.0))
        outcomes.append(outcome)
        assert found.affected == int(active[PILOT:].sum()) or outcome != "not estimable"
    assert outcomes == ["not estimable"] * 50


@pytest.mark.parametrize("size", [250])
def test_intervals_cover_on_disjoint_parts_of_a_real_evaluation_set(
    size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A trained model on real text: what a part reports against what all of the text says."""
    folder = tmp_path_factory.mktemp("trained")
    config = small_config(n_layers=2, steps=150, batch=32, warmup=10, d_model=32, n_heads=4)
    train(config, small_data(config), folder)
    model = Model.from_source(open_trajectory(folder).read(150))
    # Windows of all documents at random: parts are then independent draws of one population.
    text = Evaluation.embedded(length=12, sequences=14250, reference_sequences=64)
    mixed = torch.randperm(len(text.tokens), generator=torch.Generator().manual_seed(0))
    tokens = text.tokens[mixed]
    assert len(tokens) >= 56 * size
    evaluation = Evaluation(tokens, text.targets[mixed], reference=text.reference)
    parts = components(model.config, embeddings=False)
    plan = Plan(32, 256)
    context = Context(model, evaluation, 0, ("mean",), plan)
    whole = sweep(context, [Variant((part,), "mean") for part in parts])
    truths = whole.difference.mean(1) / 11
    found, outcomes = [], set()
    for part in whole.difference.split(size, 1)[: len(tokens) // size]:
        for sums, truth in zip(part / 11, truths, strict=True):
            one, outcome = replicate(sums, Precision(absolute=0.012, relative=0.1))
            found.append((one, float(truth)))
            outcomes.add(outcome)
    assert len(found) >= 500 and "met" in outcomes
    assert len({e.units for e, _ in found}) > 10
    assert 0.93 <= cover(found) <= 0.97


def test_an_interval_leans_to_the_long_tail() -> None:
    residuals = torch.tensor([5.0, -1, -1, -1, -1, -1] * 10, dtype=torch.float64)
    low, high = interval(0.0, 1.0, residuals)
    assert high > 2.2 and -2.1 < low < -1.9
    mirrored = interval(0.0, 1.0, -residuals)
    assert mirrored == pytest.approx((-high, -low))
    # Without skewness it is Student's.
    assert interval(1.0, 0.5, torch.tensor([1.0, -1.0] * 5))[1] == pytest.approx(1 + 0.5 * 2.262157)
    assert interval(1.0, 0.0, torch.zeros(5)) == (1.0, 1.0)
    assert all(math.isnan(x) for x in interval(1.0, math.nan, torch.zeros(1)))
