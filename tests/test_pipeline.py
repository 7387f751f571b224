"""Walks: what they write, what they extend, what they record, and what they refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
import zoo
from safetensors.torch import save_file

import circuit_econ as ce
from circuit_econ.describing import versions
from circuit_econ.measures import MEASURES, Plan
from circuit_econ.measures.value import VALUE
from circuit_econ.model import Model, Source
from circuit_econ.tables import SCHEMA_VERSION, TABLES

CASE = zoo.case_named("tl-ln-gelu")
STEPS = (0, 1, 2, 4)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for step in STEPS:
        CASE.save(folder, step, seed=step)
    return folder


def evaluation(sequences: int = 6, seed: int = 1) -> ce.Evaluation:
    tokens = zoo.tokens_of(CASE, sequences, seed=seed)
    targets = zoo.targets_of(CASE, tokens, seed=seed)
    return ce.Evaluation(tokens, targets, reference=zoo.tokens_of(CASE, 4, seed=2))


def walk(run: Path, out: Path, **named: Any) -> ce.Ledger:
    steps = named.pop("steps", None)
    data = named.pop("evaluation", None) or evaluation()
    return ce.walk(ce.open_trajectory(run, steps=steps), data, out=out, device="cpu", **named)


def parts(out: Path) -> dict[str, float]:
    return {
        str(p.relative_to(out)): p.stat().st_mtime_ns
        for p in (out / "ledger").glob("**/*.parquet")
        if "/audit/" not in str(p)
    }


def test_a_walk_writes_every_table_at_every_step(run: Path, tmp_path: Path) -> None:
    ledger = walk(run, tmp_path / "out", measures=list(MEASURES))
    written = [table for measure in MEASURES.values() for table in measure.tables]
    written.append("circuit_events")  # made of all checkpoints, after the walk
    assert set(ledger.tables) == {*written, "components", "tensors", "checkpoints", "audit"}
    assert set(ledger.tables) <= set(TABLES)
    for table in (*written, "tensors", "checkpoints", "audit"):
        frame = ledger.table(table).collect()
        assert frame.schema == TABLES[table]
        assert ledger.steps(table) == list(STEPS)
        # These weights are random: nothing odd, and no circuits.
        if table not in ("audit", "counted") and not table.startswith("circuit"):
            assert frame["step"].unique().sort().to_list() == list(STEPS)
    checkpoints = ledger.table("checkpoints").collect()
    assert checkpoints["status"].to_list() == ["measured"] * 4
    assert checkpoints["digest"].n_unique() == 4
    components = ledger.table("components").collect()
    assert components["component"].to_list()[:3] == ["embed", "pos", "a0.h0"]
    assert components["component"].to_list()[-1] == "logits"
    said = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert said["schema_version"] == SCHEMA_VERSION and said["versions"] == versions()
    assert said["versions"]["polars"] == pl.__version__
    assert said["evaluation"]["digest"] == evaluation().digest
    assert Plan(**said["plan"])
    assert (tmp_path / "out/ledger/value/step=0000000004/part-0.parquet").is_file()
    # The loss is that of the model, the bridge's for instance.
    bridge = CASE.bridge(4, torch.float32)
    data = evaluation()
    with torch.no_grad():
        logits = bridge(data.tokens)
    expected = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), data.targets, ignore_index=-100
    )
    assert checkpoints["loss"][-1] == pytest.approx(float(expected), abs=1e-5)
    assert checkpoints["loss_se"][-1] > 0


def test_the_same_command_measures_nothing_twice(run: Path, tmp_path: Path) -> None:
    walk(run, tmp_path / "out")
    before = parts(tmp_path / "out")
    walk(run, tmp_path / "out")
    assert parts(tmp_path / "out") == before


def test_steps_and_measures_extend_a_ledger(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    walk(run, out, steps=[0, 4], measures=["value"])
    before = parts(out)
    calls: list[int] = []
    original = VALUE.run

    def counted(context: Any, settings: Any) -> Any:
        calls.append(context.step)
        return original(context, settings)

    monkeypatch.setitem(
        __import__("circuit_econ.measures", fromlist=["MEASURES"]).MEASURES,
        "value",
        replace(VALUE, run=counted),
    )
    ledger = walk(run, out, measures=["value", "capacity"])
    assert calls == [1, 2]
    assert ledger.steps("capacity") == list(STEPS)
    after = parts(out)
    kept = {k: v for k, v in before.items() if "/value/" in k}
    assert kept and all(after[k] == v for k, v in kept.items())
    again = walk(run, out, measures=["capacity"])
    assert set(again.run["identity"]["measures"]) == {"value", "capacity"}


@pytest.mark.parametrize(
    ("named", "difference"),
    [
        ({"baselines": ["zero"]}, r"baselines: \['mean'\] there, \['zero'\] asked for"),
        ({"seed": 3}, "seed: 0 there, 3 asked for"),
        ({"dtype": "float64"}, "dtype: 'float32' there, 'float64' asked for"),
        ({"evaluation": evaluation(seed=9)}, "evaluation.digest: '"),
        ({"evaluation": evaluation(5)}, "evaluation.sequences: 6 there, 5 asked for"),
        (
            {"settings": {"value": ce.ValueSettings(placebo_draws=0)}},
            "measures.value.placebo_draws: 8 there, 0 asked for",
        ),
    ],
)
def test_another_configuration_in_the_same_folder_is_refused(
    run: Path, tmp_path: Path, named: dict[str, Any], difference: str
) -> None:
    walk(run, tmp_path / "out", steps=[0], measures=["value"])
    before = parts(tmp_path / "out")
    with pytest.raises(ce.LedgerError, match=difference):
        walk(run, tmp_path / "out", **{"measures": ["value"], **named})
    assert parts(tmp_path / "out") == before


def test_a_checkpoint_that_cannot_be_measured_is_recorded_and_tried_again(
    run: Path, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", run / "step_2.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    ledger = walk(run, out)
    rows = ledger.table("checkpoints").collect().rows_by_key("step", named=True, unique=True)
    assert rows[2]["status"] == "failed" and "step_2.safetensors" in rows[2]["reason"]
    assert [rows[s]["status"] for s in (0, 1, 4)] == ["measured"] * 3
    assert ledger.steps("value") == [0, 1, 4]
    before = {k: v for k, v in parts(out).items() if "step=0000000002" not in k}
    file.write_bytes(good)
    ledger = walk(run, out)
    assert ledger.table("checkpoints").collect()["status"].to_list() == ["measured"] * 4
    after = parts(out)
    assert all(after[k] == v for k, v in before.items())


def test_nan_weights_fail_one_checkpoint_and_the_audit_names_the_tensor(
    run: Path, tmp_path: Path
) -> None:
    source = ce.open_trajectory(run).read(2)
    broken = {k: v.clone() for k, v in source.tensors.items()}
    broken["blocks.1.mlp.W_in"][0, 0] = torch.nan
    save_file(broken, run / "step_2.safetensors")
    ledger = walk(run, tmp_path / "out")
    row = ledger.table("checkpoints").filter(pl.col("step") == 2).collect().row(0, named=True)
    assert row["status"] == "failed" and "'blocks.1.mlp.W_in' holds 1 values" in row["reason"]
    found = ledger.table("audit").filter(pl.col("step") == 2).collect()
    assert ("nan", "blocks.1.mlp.W_in") in set(found.select("finding", "tensor").iter_rows())


def test_identical_neighbours_are_found_by_the_walk(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(run / "step_1.safetensors", run / "step_2.safetensors")
    with caplog.at_level("WARNING", "circuit_econ"):
        ledger = walk(run, tmp_path / "out")
    found = ledger.table("audit").collect()
    assert (2, "identical-neighbour") in set(found.select("step", "finding").iter_rows())
    assert any("identical-neighbour" in r.getMessage() for r in caplog.records)


def test_a_checkpoint_of_another_shape_in_the_middle_is_recorded(tmp_path: Path) -> None:
    case = zoo.case_named("gpt2")
    for step in (0, 1, 2):
        case.save(tmp_path / "run", step, seed=step)
    other = zoo.case_named("neox")
    shutil.rmtree(tmp_path / "run" / "step1")
    other.save(tmp_path / "run", 1, seed=1)
    tokens = zoo.tokens_of(case, 4, seed=1) % 13
    ledger = ce.walk(
        ce.open_trajectory(tmp_path / "run"), ce.Evaluation(tokens), ["value"],
        out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    rows = ledger.table("checkpoints").collect()
    assert rows["status"].to_list() == ["measured", "failed", "measured"]
    assert "its components are not those of the run" in rows["reason"][1]


def test_a_forward_pass_that_is_not_the_models_measures_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuit_econ.model import forward

    monkeypatch.setitem(forward._ACTIVATE, "gelu", torch.nn.functional.silu)
    ledger = walk(run, tmp_path / "out")
    rows = ledger.table("checkpoints").collect()
    assert rows["status"].to_list() == ["failed"] * len(STEPS)
    assert rows["reason"].str.contains("our loss is .* and that of transformer-lens").all()
    assert ledger.steps("value") == []


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda t: t % 3 + 500, "token id 502 is outside the model's vocabulary"),
        (lambda t: t.repeat(1, 3), "sequences of 36 tokens are longer than the model's context"),
    ],
)
def test_an_evaluation_set_that_does_not_fit_is_refused_before_weights_are_read(
    run: Path, tmp_path: Path, make: Any, text: str
) -> None:
    for file in run.glob("*.safetensors"):
        file.write_bytes(b"never opened")
    tokens = make(zoo.tokens_of(CASE, 3, seed=1))
    with pytest.raises(ce.ConfigurationError, match=text):
        walk(run, tmp_path / "out", evaluation=ce.Evaluation(tokens, tokens % 3))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_is_not_the_models_is_said_to_be_another(tmp_path: Path) -> None:
    data = ce.Evaluation.embedded(length=8, sequences=4, reference_sequences=4)
    config = {"d_model": 4, "d_head": 2, "n_layers": 1, "n_ctx": 8, "d_vocab": 300}
    model = Model.initialise(config)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    save_file(model.to_transformer_lens(), tmp_path / "run" / "step_0.safetensors")
    ledger = walk(tmp_path / "run", tmp_path / "out", evaluation=data, measures=["value"])
    assert ledger.run["notes"][0] == (
        "The evaluation set's tokenizer (bytes, 256 ids) is not that of a model with 300: name the "
        "model's own with evaluation.tokenizer."
    )


MEASURED = "value, attention, capacity, composition, income, edges, circuits"


@pytest.mark.parametrize(
    ("named", "text"),
    [
        (
            {"measures": ["worth"]},
            f"unknown measure 'worth'; there is: {MEASURED}",
        ),
        (
            {"measures": []},
            f"no measure asked for; there is: {MEASURED}",
        ),
        ({"baselines": ["median"]}, "unknown baseline 'median'; there is: mean, mean-position"),
        ({"baselines": []}, "no baseline asked for"),
        ({"dtype": "int8"}, "unknown dtype 'int8'; there is: float32, float64"),
        ({"steps": [0, 3]}, "has no checkpoint at step 3; there is: 0, 1, 2, 4"),
        (
            {"settings": {"value": ce.ValueSettings(components=["a7.h0"])}},
            "unknown component 'a7.h0'; there is: embed, pos, a0.h0",
        ),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(
    run: Path, tmp_path: Path, named: dict[str, Any], text: str
) -> None:
    with pytest.raises(ce.ConfigurationError, match=text):
        walk(run, tmp_path / "out", **named)
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_says_what_is(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ce.ConfigurationError, match="device 'cuda:99' cannot be used .*: cpu"):
        ce.walk(ce.open_trajectory(run), evaluation(), out=tmp_path / "out", device="cuda:99")


def test_a_single_sequence_is_said_to_have_no_error(run: Path, tmp_path: Path) -> None:
    ledger = walk(run, tmp_path / "out", evaluation=evaluation(1), measures=["value"])
    assert ledger.table("value").collect()["se"].null_count() > 0
    assert "A single sequence: standard errors cannot be estimated." in ledger.run["notes"]


def test_baselines_from_the_evaluation_set_itself_are_said_to_be(run: Path, tmp_path: Path) -> None:
    tokens = zoo.tokens_of(CASE, 4, seed=1)
    ledger = walk(run, tmp_path / "out", evaluation=ce.Evaluation(tokens), measures=["value"])
    assert ledger.run["evaluation"]["reference"] is None
    assert "Baselines are taken from the evaluation sequences themselves." in ledger.run["notes"]


def test_a_folder_that_cannot_be_written_is_an_error(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ce.LedgerError, match="cannot write .*choose another out.*Not a directory"):
        walk(run, tmp_path / "file" / "out")


def test_a_full_disk_is_an_error_and_loses_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    walk(run, out, steps=[0], measures=["value"])
    before = parts(out)
    write, written = Path.write_bytes, []

    def full(self: Path, content: bytes) -> int:
        written.append(self)
        if len(written) > 2:
            write(self, content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ce.LedgerError, match="free space or choose .*No space left on device"):
        walk(run, out, measures=["value"])
    monkeypatch.undo()
    after = parts(out)
    assert all(after[k] == v for k, v in before.items())
    assert walk(run, out, measures=["value"]).steps("value") == list(STEPS)


def test_two_walks_do_not_share_a_folder(run: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    walk(run, tmp_path / "out", steps=[0], measures=["value"])
    with (
        FileLock(str(tmp_path / "out" / ".lock")),
        pytest.raises(ce.LedgerError, match="is being written by another walk"),
    ):
        walk(run, tmp_path / "out", measures=["value"])


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "tl-attn-only"])
def test_a_model_in_hand_is_measured_without_files(name: str) -> None:
    case = zoo.case_named(name)
    tokens = zoo.tokens_of(case, 5, seed=1)
    tables = ce.measure(
        case.bridge(0, torch.float32), ce.Evaluation(tokens % case.d_vocab_out),
        ["value", "capacity"], ["zero"], "cpu",
    )  # fmt: skip
    assert set(tables) == {"value", "capacity"}
    assert tables["value"]["step"].unique().to_list() == [0]
    assert (tables["value"]["value"].abs() > 0).all()


def test_a_bridge_that_computes_something_else_is_refused() -> None:
    case = zoo.case_named("gpt2")
    bridge = case.bridge(0, torch.float32)
    bridge.add_hook("blocks.0.hook_mlp_out", lambda x, hook: 0 * x)
    tokens = zoo.tokens_of(case, 3, seed=1)
    with pytest.raises(
        ce.DisagreementError,
        match="the bridge carries hooks at .*blocks.0.hook_mlp_out: remove them",
    ):
        ce.measure(bridge, ce.Evaluation(tokens), device="cpu")


def test_reading_a_ledger_does_not_need_torch(run: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    walk(run, tmp_path / "out", steps=[0], measures=["value"])
    code = (
        "import sys, circuit_econ as ce; "
        f"ledger = ce.open_ledger({str(tmp_path / 'out')!r}); "
        "assert ledger.table('value').collect().height; "
        "assert 'torch' not in sys.modules and 'transformer_lens' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_ledgers_that_are_not_there_or_of_another_version_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ce.LedgerError, match=r"no ledger in .*run.yaml is missing"):
        ce.open_ledger(tmp_path)
    (tmp_path / "run.yaml").write_text("schema_version: 99\n")
    with pytest.raises(ce.LedgerError, match="schema version 99; this version .* reads 3"):
        ce.open_ledger(tmp_path)
    (tmp_path / "run.yaml").write_text("schema_version: 3\n")
    with pytest.raises(ce.ConfigurationError, match="unknown table 'worth'; there is: components"):
        ce.open_ledger(tmp_path).table("worth")


def test_sources_stay_as_they_were(run: Path, tmp_path: Path) -> None:
    trajectory = ce.open_trajectory(run)
    before: Source = trajectory.read(1)
    walk(run, tmp_path / "out", steps=[1])
    after = ce.open_trajectory(run).read(1)
    assert all(torch.equal(before.tensors[k], v) for k, v in after.tensors.items())
