"""Low precision against float64 on every architecture, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch
import zoo

from circuit_econ.evaluation import Evaluation
from circuit_econ.loading import loader, numbers
from circuit_econ.measures import Context, Plan
from circuit_econ.measures.scoring import Scoring
from circuit_econ.measures.statistics import ratio_estimate
from circuit_econ.measures.sweep import Sweep, Variant
from circuit_econ.model import Model, Rounding
from circuit_econ.model.intervene import components
from circuit_econ.settings import DTYPES, Settings
from circuit_econ.tables import BASELINES

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CASES = pytest.mark.parametrize("case", zoo.CASES, ids=lambda c: c.name)


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> Generator[str]:
    yield request.param


def swept(case: zoo.Case, dtype: str, device: str, baselines: tuple[str, ...] = ("mean",)) -> Sweep:
    tokens = zoo.tokens_of(case, 32, seed=1)
    evaluation = Evaluation(
        tokens, zoo.targets_of(case, tokens, seed=1), zoo.tokens_of(case, 16, seed=2)
    )
    model = Model.from_source(case.source(0), DTYPES[dtype][0], device, DTYPES[dtype][1])
    context = Context(model, evaluation, 0, baselines, Plan(16, 40))
    singles = components(model.config, embeddings=False)
    sets = [(singles[0], singles[-1])]
    keys = [(p,) for p in singles] + sets
    whole = Sweep(context, [Variant(parts, b) for parts in keys for b in baselines])
    with numbers(DTYPES[dtype][1]):
        whole.run(range(len(whole.panels)), range(len(whole.variants)))
    return whole


@CASES
def test_the_error_of_a_value_is_below_a_fifth_of_its_standard_error(
    case: zoo.Case, device: str
) -> None:
    exact = swept(case, "float64", device)
    value, se = ratio_estimate(exact.difference, exact.counts)
    # How far off the worst component is, in standard errors; measured were 5e-6, 9e-3 and 0.09.
    for dtype, allowed in (("float32", 1e-4), ("tf32", 0.05), ("bfloat16", 0.2)):
        found, _ = ratio_estimate(swept(case, dtype, device).difference, exact.counts)
        worst = float(((found - value).abs() / se).max())
        assert 0 < worst < allowed, (dtype, worst)


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "qwen3", "tl-attn-only"])
def test_a_device_finds_what_the_cpu_finds(name: str, device: str) -> None:
    case = zoo.case_named(name)
    here, there = (swept(case, "float64", d, BASELINES) for d in ("cpu", device))
    assert float((here.difference - there.difference).abs().max()) < 1e-10
    assert float(there.difference.abs().max()) > 0.1


@pytest.mark.parametrize("name", DTYPES)
def test_settings_load_what_they_name(name: str) -> None:
    settings = Settings.make(["value"], ["mean"], 0, name, "cpu", None)
    assert loader(settings) is None  # on a CPU a model is made when its turn comes
    model = settings.load(zoo.case_named("gpt2").source(0))
    assert (model.dtype, model.products.rounding) == DTYPES[name] and settings.numbers == name


def test_a_process_is_left_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with numbers(Rounding.EXACT):
            assert torch.get_float32_matmul_precision() == "highest"
        with pytest.raises(RuntimeError), numbers(Rounding.TF32):
            assert torch.get_float32_matmul_precision() == "high"
            raise RuntimeError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "qwen3", "tl-attn-only"])
def test_a_sweep_asks_nothing_of_its_device_before_a_panel_is_done(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that holds no numbers, whatever would wait for one fails."""
    case, looked = zoo.case_named(name), []
    monkeypatch.setattr(Sweep, "_settle", lambda self, columns, numbers: looked.append(columns))
    swept(case, "float32", "meta", BASELINES)
    assert looked == [slice(0, 32)]
    # The probe bites: a sweep that looks at a loss does fail.
    plain = Scoring.losses
    monkeypatch.setattr(Scoring, "losses", lambda *given: plain(*given) * bool(given[2].sum()))
    with pytest.raises(RuntimeError, match="meta"):
        swept(case, "float32", "meta", BASELINES)
