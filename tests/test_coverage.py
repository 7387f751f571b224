"""95 % intervals cover at least 93 %, whatever decided how many sequences they rest on.

Here on small and generated effects; ``benchmarks/coverage.py`` measures it on those of trained
models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from small_runs import small_config, small_data

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan, Precision
from circuit_econ.measures.adapting import adapt
from circuit_econ.measures.precision import PILOT, Judged, judge, tail
from circuit_econ.measures.statistics import Estimate, effective_units, estimate, interval, quantile
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


def replicate(sums: torch.Tensor, precision: Precision) -> tuple[Estimate, Judged]:
    """What a walk that adapts would report of a variant with these differences."""
    columns = adapt(Measured(sums), [0], [], precision, [0])[0]
    found = estimate(sums[columns], torch.ones(columns.stop - columns.start))
    return found, judge(found, precision, tail([found]))


def cover(found: list[tuple[Judged, float]]) -> float:
    """Share of intervals that hold the truth; an end that is not given holds everything."""
    return sum(not (j.low > truth or j.high < truth) for j, truth in found) / len(found)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("share", [0.1, 0.05], ids=lambda s: f"se {s} of the deviation")
def test_intervals_cover_what_they_say(world: str, share: float) -> None:
    draw, truth, deviation = WORLDS[world]
    precision = Precision(absolute=share * deviation, relative=0.0)
    generator = torch.Generator().manual_seed(1)
    found = [replicate(draw(2048, generator), precision) for _ in range(400)]
    whole = [(j, truth) for _, j in found if not math.isnan(j.low + j.high)]
    assert 0.93 <= cover(whole) <= 0.99
    # With 2,048 sequences to be had only tails without end are not met.
    assert len(whole) >= (0.99 if world in ("normal", "rare") else 0.75) * len(found)
    assert cover([(j, truth) for _, j in found]) >= 0.93
    met = [e.se <= precision.absolute for e, j in found if j.outcome == "met"]
    assert all(met) and len(met) >= 0.75 * len(found)
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


def test_a_component_active_in_one_sequence_of_a_hundred() -> None:
    """Seen too rarely for an interval, or not at all: either is said."""
    generator = torch.Generator().manual_seed(0)
    precision, found = Precision(absolute=0.5, relative=0.0), []
    for _ in range(50):
        active = torch.rand(1024, generator=generator, dtype=torch.float64) < 0.01
        estimated, judged = replicate(active.double(), precision)
        found.append((judged, 0.01))
        # Until fifteen were met, an error of 0.5 was not believed.
        assert estimated.affected >= 15 or judged.outcome == "heavy tail"
        if judged.outcome == "heavy tail":
            assert estimated.units == 1024 - PILOT and math.isnan(judged.high)
            assert judged.needed is not None and judged.needed > 1024 - PILOT
    assert cover(found) >= 0.98
    assert [j.outcome for j, _ in found].count("heavy tail") > 40
    nothing, judged = replicate(torch.zeros(1024).double(), precision)
    assert nothing.units == 1024 - PILOT and judged.outcome == "not estimable"
    assert math.isnan(judged.low) and math.isnan(judged.high)


def effects(kind: str, sequences: int, seed: int) -> torch.Tensor:
    """Twelve effects on the same sequences, ``[12, sequences]``, as a checkpoint has them.

    ``saturated`` is fitted to heads of a model that has learned its task (induction, step 300): on
    most sequences of one size (a lognormal body of deviation 0.4), on one or two in a hundred ten
    times that (another lognormal); a quarter of the effects has a tail on the other side as well.
    ``learning`` is fitted to the same heads at step 60: sums of a few squares of normal numbers, of
    skewness 1.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    if kind == "learning":
        return normal(8, 12, sequences).square().sum(0)
    body = torch.full((12, 1), 0.4, dtype=torch.float64)
    rare = torch.rand(12, sequences, generator=g, dtype=torch.float64)
    large = (2.2 + 0.6 * normal(12, sequences)).exp()
    large[9:] *= 1 - 2.0 * (torch.rand(3, sequences, generator=g) < 0.1)
    return (body * normal(12, sequences)).exp() + (rare < 0.015) * large


def judged_draws(
    population: torch.Tensor, size: int, draws: int
) -> tuple[list[tuple[Judged, float]], list[tuple[Estimate, float]]]:
    """Checkpoints measured on samples of sequences, every effect judged beside the others."""
    g = torch.Generator().manual_seed(size)
    ones, truths = torch.ones(size), population.mean(1).tolist()
    judged, plain = [], []
    for _ in range(draws):
        sample = population[:, torch.randint(population.shape[1], (size,), generator=g)]
        found = [estimate(row, ones) for row in sample]
        spread = tail(found)
        judged += [(judge(e, None, spread), t) for e, t in zip(found, truths, strict=True)]
        plain += zip(found, truths, strict=True)
    return judged, plain


def test_a_heavy_tail_is_said_where_samples_do_not_show_it() -> None:
    population = effects("saturated", 100_000, seed=0)
    centred = population - population.mean(1, keepdim=True)
    skewness = centred.pow(3).mean(1) / centred.square().mean(1).pow(1.5)
    assert skewness.min() > 6 and 9 < skewness.max() < 20
    for size, draws in ((48, 150), (128, 100)):
        judged, plain = judged_draws(population, size, draws)
        bare = [
            abs(e.mean - t) <= e.se * quantile(e.effective) and e.low <= t <= e.high
            for e, t in plain
        ]
        assert sum(bare) / len(bare) < 0.85  # what an interval of the sample alone would do
        closed = [(j, t) for j, t in judged if j.outcome == "fixed"]
        assert len(closed) < 0.02 * len(judged)
        assert all(j.needed is not None and j.needed > size for j, _ in judged if j.needed)
        # The end away from the tail keeps its word.
        assert cover([(j, t) for j, t in judged if j.outcome == "heavy tail"]) >= 0.94


def test_no_heavy_tail_is_said_where_there_is_none() -> None:
    population = effects("learning", 100_000, seed=0)
    for size in (16, 48):
        judged, _ = judged_draws(population, size, 100)
        assert {j.outcome for j, _ in judged} == {"fixed"}
        assert 0.93 <= cover(judged) <= 0.97


def test_documents_of_unequal_size_count_for_less() -> None:
    """A document goes its own way; some are ten times as long as others."""
    generator = torch.Generator().manual_seed(0)
    hits, plain, draws = 0, 0, 400
    for _ in range(draws):
        lengths = torch.randint(1, 4, (24,), generator=generator)
        lengths[:3] = 30
        clusters = torch.repeat_interleave(torch.arange(24), lengths)
        own = torch.randn(24, generator=generator, dtype=torch.float64)
        sums = own[clusters] + torch.randn(len(clusters), generator=generator, dtype=torch.float64)
        found = estimate(sums, torch.ones(len(clusters)), clusters)
        judged = judge(found, Precision(), tail([]))
        assert found.units == 24 and 3 < found.effective < 4
        assert judged.outcome == "few" and judged.low < found.mean < judged.high
        hits += judged.low <= 0 <= judged.high
        plain += abs(found.mean) <= 2.07 * found.se  # 23 degrees of freedom
    assert hits / draws >= 0.93 > 0.85 > plain / draws


def test_effective_units_on_paper() -> None:
    clusters = torch.tensor([0, 0, 1, 2, 2, 2])
    # 2, 1 and 3 windows: (4 + 1 + 9)² / (16 + 1 + 81).
    assert effective_units(torch.full((6,), 5), clusters) == pytest.approx(196 / 98)
    assert effective_units(torch.full((6,), 5)) == pytest.approx(6)
    assert effective_units(torch.tensor([4]), torch.tensor([0])) == 1
    assert quantile(16.0) == pytest.approx(2.131450)
    assert quantile(1.0) == quantile(2.0) == pytest.approx(12.706205)


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
    found, outcomes, units = [], [], set()
    for part in whole.difference.split(size, 1)[: len(tokens) // size]:
        for sums, truth in zip(part / 11, truths, strict=True):
            one, judged = replicate(sums, Precision(absolute=0.012, relative=0.1))
            units.add(one.units)
            found.append((judged, float(truth)))
            outcomes.append(judged.outcome)
    assert len(found) >= 500 and outcomes.count("met") > 0.5 * len(found)
    assert len(units) > 10
    assert 0.93 <= cover(found) <= 0.98


def test_an_interval_leans_to_the_long_tail() -> None:
    residuals, ones = torch.tensor([5.0, -1, -1, -1, -1, -1] * 10).double(), torch.ones(60)
    low, high = interval(0.0, 1.0, residuals, ones)
    assert high > 2.2 and -2.1 < low < -1.9
    mirrored = interval(0.0, 1.0, -residuals, ones)
    assert mirrored == pytest.approx((-high, -low))
    # Without skewness it is Student's.
    even, ones = torch.tensor([1.0, -1.0] * 5).double(), torch.ones(10)
    assert interval(1.0, 0.5, even, ones)[1] == pytest.approx(1 + 0.5 * 2.262157)
    assert interval(1.0, 0.0, torch.zeros(5), torch.ones(5)) == (1.0, 1.0)
    alone = interval(1.0, math.nan, torch.zeros(1), torch.ones(1))
    assert all(math.isnan(x) for x in alone)
