"""Findings of the audit: each fires on a planted defect, and none on a healthy run."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from circuit_econ.tables import TABLES, make_table
from circuit_econ.trajectory import findings, log_steps

Cell = dict[str, object]
LOG_STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def table(run: dict[int, dict[str, Cell | float]]) -> pl.DataFrame:
    """A ``tensors`` table: per step and tensor a norm, or the columns that differ from plain."""
    rows = []
    for step, tensors in run.items():
        for name, given_cell in tensors.items():
            cell = given_cell if isinstance(given_cell, dict) else {"norm": given_cell}
            plain = {"role": "read", "shape": "[4]", "dtype": "float32", "norm": 1.0}
            full = plain | {"nonfinite": 0, "digest": f"{step}{name}"} | cell
            rows.append({"step": step, "tensor": name, **full})
    columns = {key: [row[key] for row in rows] for key in TABLES["tensors"]}
    return make_table("tensors", columns)


def named(letters: str, steps: tuple[int, ...] | None = None) -> pl.DataFrame:
    """A run whose checkpoints have the weights that the letters name."""
    at = steps or tuple(range(10, 10 + len(letters)))
    return table({s: {"w": {"digest": x}} for s, x in zip(at, letters, strict=True)})


def found(tensors: pl.DataFrame) -> list[tuple[int, str, str | None]]:
    return findings(tensors).select("step", "finding", "tensor").rows()


def details(tensors: pl.DataFrame) -> list[str]:
    return findings(tensors)["detail"].to_list()


# Weights under another name


def test_a_healthy_run_has_no_findings() -> None:
    result = findings(named("abcdef"))
    assert result.schema == TABLES["audit"]
    assert result.height == 0
    assert findings(TABLES["tensors"].to_frame()).height == 0


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("aabc", [(11, "identical-neighbour", None)]),
        ("abbbc", [(12, "identical-neighbour", None), (13, "identical-neighbour", None)]),
        ("abcc", [(13, "identical-neighbour", None)]),
        ("aaa", [(11, "identical-neighbour", None), (12, "identical-neighbour", None)]),
        ("acbc", [(11, "final-weights-early", None)]),
        (
            "accbc",
            [
                (11, "final-weights-early", None),
                (12, "identical-neighbour", None),
                (12, "final-weights-early", None),
            ],
        ),
        ("abac", [(12, "repeated-weights", None)]),
        ("abca", [(10, "final-weights-early", None)]),
    ],
)
def test_weights_under_another_name(letters: str, expected: list[object]) -> None:
    assert found(named(letters)) == expected


def test_what_is_said_of_equal_weights() -> None:
    [neighbour] = details(named("abb"))
    assert neighbour.startswith("all weights equal those of step 11 (digest ")
    [early] = details(named("acbc"))
    assert early.startswith("all weights equal those of the last step 13 (digest ")
    [repeated] = details(named("abac"))
    assert repeated.startswith("all weights equal those of step 10, with others in between (digest")


def test_a_step_zero_that_was_trained() -> None:
    tensors = named("aabc", (0, 1, 2, 4))
    assert found(tensors) == [(0, "step-0-equals-step-1", None)]
    assert details(tensors)[0].startswith(
        "all weights equal those of step 1, so one is misnamed (digest "
    )
    assert found(named("aabc", (0, 1000, 2000, 3000))) == [(0, "step-0-equals-step-1", None)]


def test_equal_weights_are_judged_by_what_is_read() -> None:
    """An unused tensor that differs hides nothing, and one that is the same proves nothing."""
    same = {s: {"w": {"digest": "a"}, "x": {"role": "extra"}} for s in (1, 2)}
    assert (2, "identical-neighbour", None) in found(table(same))
    other = {s: {"w": {}, "x": {"role": "extra", "digest": "a"}} for s in (1, 2)}
    assert (2, "identical-neighbour", None) not in found(table(other))


def test_one_frozen_tensor_is_no_finding() -> None:
    assert found(table({s: {"w": {}, "b": {"digest": "frozen"}} for s in (1, 2, 3)})) == []


# Names, numbers, shapes and dtypes


def test_missing_and_extra_tensors_are_told_once_a_stretch() -> None:
    gone: Cell = {"role": "missing", "shape": None, "dtype": None, "digest": None, "norm": None}
    gone["nonfinite"] = None
    spare: Cell = {"role": "extra"}
    run: dict[int, dict[str, Cell | float]] = {s: {"w": {}, "spare": spare} for s in range(5)}
    for step in (1, 2, 4):
        run[step]["b"] = gone
    del run[3]["spare"]
    for step in (0, 3):
        run[step]["b"] = {}
    tensors = table(run)
    assert found(tensors) == [
        (0, "extra-tensor", "spare"),
        (1, "missing-tensor", "b"),
        (4, "missing-tensor", "b"),
        (4, "extra-tensor", "spare"),
    ]
    assert details(tensors) == [
        "the model does not use it (steps 0 to 2, 3 checkpoints)",
        "the model needs it (steps 1 to 2, 2 checkpoints)",
        "the model needs it (step 4 alone)",
        "the model does not use it (step 4 alone)",
    ]


def test_a_checkpoint_with_other_names_is_one_line() -> None:
    gone: Cell = dict.fromkeys(("shape", "dtype", "digest", "norm", "nonfinite"))
    spare: Cell = {"role": "extra"}
    run: dict[int, dict[str, Cell | float]] = {s: {n: {} for n in "abc"} for s in range(4)}
    run[2] = {n: gone | {"role": "missing"} for n in "abc"} | {f"x.{n}": spare for n in "abcd"}
    run[3]["spare"] = spare
    assert findings(table(run)).rows() == [
        (
            2,
            "missing-tensor",
            None,
            "none of the 3 tensors that the model needs is there (a first); there are 4 others "
            "(x.a first)",
        ),
        (3, "extra-tensor", "spare", "the model does not use it (step 3 alone)"),
    ]


def test_an_optional_tensor_that_is_left_out_at_some_steps() -> None:
    run: dict[int, dict[str, Cell | float]] = {s: {"w": {}, "b": {}} for s in range(4)}
    del run[2]["b"]
    assert found(table(run)) == [(2, "missing-tensor", "b")]
    assert details(table(run)) == ["absent, but read at 3 other checkpoints (step 2 alone)"]


def test_nan_and_infinity() -> None:
    run: dict[int, dict[str, Cell | float]] = {s: {"w": {}, "b": {}} for s in range(4)}
    run[1]["w"] = {"norm": math.inf, "nonfinite": 1}
    run[2]["w"] = {"norm": math.nan, "nonfinite": 3}
    run[3]["w"] = {"norm": math.nan, "nonfinite": 4}
    tensors = table(run)
    assert found(tensors) == [(1, "infinite", "w"), (2, "nan", "w")]
    assert details(tensors) == [
        "1 entry is infinite (step 1 alone)",
        "3 entries are NaN or infinite (steps 2 to 3, 2 checkpoints)",
    ]


def test_nan_in_an_unused_tensor_is_none_of_ours() -> None:
    spare: Cell = {"role": "extra", "norm": math.nan, "nonfinite": 1}
    assert found(table({1: {"w": {}, "x": spare}})) == [(1, "extra-tensor", "x")]


def test_a_shape_that_changes() -> None:
    run: dict[int, dict[str, Cell | float]] = {s: {"w": {}, "b": {}} for s in (1, 2, 3)}
    run[2]["w"] = {"shape": "[8]"}
    assert found(table(run)) == [(2, "shape-change", "w"), (3, "shape-change", "w")]
    assert details(table(run)) == ["shape [8], but [4] at step 1", "shape [4], but [8] at step 2"]


def test_a_dtype_that_changes() -> None:
    run: dict[int, dict[str, Cell | float]] = {s: {"w": {}, "b": {}} for s in (1, 2, 3)}
    run[2]["w"] = run[2]["b"] = {"dtype": "bfloat16"}
    run[3]["w"] = {"dtype": "bfloat16"}
    assert found(table(run)) == [(2, "dtype-change", None), (3, "dtype-change", "b")]
    assert details(table(run)) == [
        "2 tensors, b first, are bfloat16, but float32 at step 1",
        "it is float32, but bfloat16 at step 2",
    ]


def test_the_order_of_rows_does_not_matter() -> None:
    run: dict[int, dict[str, Cell | float]] = {s: {"w": {}, "b": {}} for s in (1, 2, 3)}
    run[2] = {"w": {"shape": "[8]", "norm": math.nan, "nonfinite": 1}, "x": {"role": "extra"}}
    tensors = table(run)
    expected = findings(tensors)
    assert expected.height == 5
    for seed in range(3):
        assert findings(tensors.sample(fraction=1.0, shuffle=True, seed=seed)).equals(expected)


# Norms


def norms(values: list[float], steps: tuple[int, ...]) -> pl.DataFrame:
    return table({s: {"w": float(v)} for s, v in zip(steps, values, strict=True)})


def test_a_jump_is_described() -> None:
    values = [1.0 + 0.05 * i for i in range(11)]
    values[6] *= 10
    tensors = norms(values, LOG_STEPS)
    assert found(tensors) == [(32, "norm-jump", "w")]
    assert details(tensors) == [
        "norm 13, but 1.25 at step 16: a factor of 10.4, where 1.04 is usual"
    ]


def test_a_jump_that_stays_is_reported_once() -> None:
    values = [1.0 + 0.05 * i for i in range(11)]
    tensors = norms([v * (10 if i >= 6 else 1) for i, v in enumerate(values)], LOG_STEPS)
    assert found(tensors) == [(32, "norm-jump", "w")]
    tensors = norms([v / (10 if i >= 6 else 1) for i, v in enumerate(values)], LOG_STEPS)
    assert found(tensors) == [(32, "norm-jump", "w")]


def test_a_tensor_that_becomes_zero() -> None:
    tensors = norms([0.0, 0.1, 0.2, 0.0, 0.3], (0, 1, 2, 4, 8))
    assert found(tensors) == [(4, "norm-jump", "w")]
    assert details(tensors) == ["norm is exactly 0, but 0.2 at step 2"]


def test_short_histories_are_not_judged() -> None:
    values = [1.0, 1.0, 100.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert found(norms(values[:7], LOG_STEPS[:7])) == []
    assert found(norms(values, LOG_STEPS[:8])) == [(2, "norm-jump", "w")]


FAR = (1000, *range(100_000, 1_000_001, 100_000))


def beside(values: list[float], steps: tuple[int, ...], others: float) -> pl.DataFrame:
    """A tensor among three of another size, all of four entries."""
    run: dict[int, dict[str, Cell | float]] = {}
    for step, value in zip(steps, values, strict=True):
        run[step] = {"w": value, **{name: others for name in "abc"}}
    return table(run)


# Norms as a real run had them (stochastic gradients, weight decay, a Markov process).
GAIN_BIAS = [0.00798, 0.472, 0.49, 0.249, 0.147, 0.0937, 0.0472, 0.0373, 0.0316, 0.0299, 0.0261]
NEAR_ZERO = [
    0.00406,
    0.00925,
    0.00925,
    0.0141,
    0.00363,
    0.00525,
    0.00458,
    0.006,
    0.0067,
    0.0058,
    0.0057,
]


def test_checkpoints_that_lie_far_apart_may_differ() -> None:
    """Between 1,000 and 100,000 steps there is room for a factor of 59, at 3 in each e-fold."""
    assert found(beside(GAIN_BIAS, FAR, 0.16)) == []
    # The same change where the steps follow each other is none.
    assert found(beside(GAIN_BIAS, tuple(range(1000, 12000, 1000)), 0.16)) == [
        (2000, "norm-jump", "w")
    ]
    late = list(GAIN_BIAS)
    late[6] *= 10
    assert found(beside(late, FAR, 0.16)) == [(600_000, "norm-jump", "w")]


def test_tensors_near_zero_may_swing() -> None:
    assert found(beside(NEAR_ZERO, FAR, 0.16)) == []
    # Beside others as small, the same swing leaves its history.
    assert found(beside(NEAR_ZERO, FAR, 0.01)) == [(400_000, "norm-jump", "w")]
    loud = list(NEAR_ZERO)
    loud[6] *= 12
    assert found(beside(loud, FAR, 0.16)) == [(600_000, "norm-jump", "w")]
    # Below a thousandth of the others nothing is seen, not even a fall to zero.
    rng = np.random.default_rng(0)
    tiny = list(1e-5 * np.exp(rng.standard_normal(11)))
    assert found(beside([*tiny[:10], 0.0], FAR, 0.16)) == []


def test_norms_beyond_float64_are_left_to_the_model() -> None:
    values = [1.0, 1.0, math.inf, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert found(norms(values, LOG_STEPS[:9])) == []


LINEAR = tuple(range(0, 20000, 1000))
SCHEDULES = {
    "octaves": LOG_STEPS,
    "linear": LINEAR,
    "sparse": (0, 3, 10, 30, 100, 300, 1000, 3000, 10000),
    "pythia": (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 30001, 1000)),
    "chosen": log_steps(15)(tuple(range(401)), "run"),
}
SMOOTH = {
    "constant": lambda t: 1.0 + 0 * t,
    "square root": lambda t: np.sqrt(1 + t / 10),
    "proportional (a bias at a constant rate)": lambda t: 1e-3 * t,
    "squared (a bias in the warm-up)": lambda t: 1e-6 * t**2,
    "warm-up, then constant rate": lambda t: np.where(t < 100, t**2 / 200, t - 50),
    "saturating": lambda t: 0.02 + 3 * (1 - np.exp(-t / 200)),
    "a sigmoid in log time": lambda t: 1 + 8 / (1 + (100 / (1 + t)) ** 2),
    "decaying": lambda t: 10 * np.exp(-t / 8000),
    "hump": lambda t: 1 + 5 * (t / 300) * np.exp(1 - t / 300),
}


@pytest.mark.parametrize("growth", SMOOTH)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_smooth_growth_is_silent(schedule: str, growth: str) -> None:
    steps = SCHEDULES[schedule]
    values = SMOOTH[growth](np.array(steps, dtype=float))
    assert found(norms(list(values), steps)) == []


def planted(run: dict[int, dict[str, float]]) -> None:
    """A factor of ten at any one checkpoint of any tensor is found there, and nowhere else."""
    steps, names = list(run), list(run[next(iter(run))])
    spoiled: dict[int, dict[str, Cell | float]] = {}
    for step in steps:
        # One copy of each tensor per place where it may be spoiled.
        spoiled[step] = {
            f"{name} at {at:05d}": run[step][name] * (10 if at == step else 1)
            for name in names
            for at in steps[3:-1]
        }
    expected = [(at, "norm-jump", f"{n} at {at:05d}") for at in steps[3:-1] for n in sorted(names)]
    assert found(table(spoiled)) == expected


# Nine checkpoints half a decade apart are too few where growth changes its pace between them.
STEADY = ["constant", "square root", "proportional (a bias at a constant rate)"]
PLANTED = [(s, g) for s in SCHEDULES for g in SMOOTH if s != "sparse" or g in STEADY]


@pytest.mark.parametrize(("schedule", "growth"), PLANTED)
def test_a_planted_factor_of_ten_fires_on_smooth_growth(schedule: str, growth: str) -> None:
    steps = SCHEDULES[schedule]
    values = SMOOTH[growth](np.array(steps, dtype=float))
    planted({step: {"w": float(value)} for step, value in zip(steps, values, strict=True)})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 0.2))
def test_a_noisy_walk_is_silent(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    for steps in (LOG_STEPS, LINEAR):
        walk = np.exp(np.cumsum(noise * rng.standard_normal(len(steps))))
        assert found(norms(list(walk), steps)) == []


def test_a_tensor_whose_norm_always_swings_is_judged_by_its_own_swings() -> None:
    swinging = [1.0, 9.0] * 10
    assert found(norms(swinging, LINEAR)) == []
    swinging[10] *= 1e12
    assert found(norms(swinging, LINEAR)) == [(LINEAR[10], "norm-jump", "w")]


def test_a_jump_does_not_hide_itself_in_a_short_history() -> None:
    """Its own departures are not among the usual ones: with them 12 of 100 would be missed."""
    rng = np.random.default_rng(0)
    run: dict[int, dict[str, Cell | float]] = {step: {} for step in LOG_STEPS[:8]}
    for draw in range(100):
        for step, deviation in zip(run, 0.15 * rng.standard_normal(8), strict=True):
            run[step][f"w{draw}"] = float(np.exp(deviation)) * (10 if step == 8 else 1)
    assert len([row for row in found(table(run)) if row[0] == 8]) >= 95


def trained(seed: int, rate: float) -> dict[int, dict[str, float]]:
    """Norms of a network trained in earnest, biases from zero, warm-up, log-spaced checkpoints.

    As those of four entries of the tensor's root mean square: the table below says ``[4]``.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(16, 16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / 30))
    keep = log_steps(15)(tuple(range(401)), "run")
    run: dict[int, dict[str, float]] = {}
    for step in range(401):
        if step in keep:
            run[step] = {
                n: 2 * float(p.detach().double().square().mean().sqrt())
                for n, p in model.named_parameters()
            }
        tokens = torch.randint(16, (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(tokens), (3 * tokens + 1) % 16).backward()
        optimiser.step()
        warm_up.step()
    return run


@pytest.mark.parametrize(("seed", "rate"), [(0, 1e-3), (1, 1e-2), (2, 1e-1)])
def test_real_training_is_silent_and_a_planted_jump_fires(seed: int, rate: float) -> None:
    run = trained(seed, rate)
    assert found(table({step: dict(norms) for step, norms in run.items()})) == []
    planted(run)
