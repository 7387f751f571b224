"""Every documented value of every option, through the command line, ``ce.walk`` and ``ce.measure``.

The three must find the same numbers: what differs is how they are asked. The bridge holds the same
weights elsewhere in memory, which may change the last digit.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import STEPS, Terminal
from huggingface_hub import constants
from options import (
    RECORDS,
    TASK_OPTIONS,
    VALUES,
    members,
    row,
    rows,
    typed,
)
from polars.testing import assert_frame_equal
from zoo_case import Case

import circuit_econ as ce
from circuit_econ.evaluation import TASKS
from circuit_econ.evaluation.parts import Part
from circuit_econ.measures import MEASURES
from circuit_econ.measures.catalogue import measures_of
from circuit_econ.model import Format
from circuit_econ.settings import DTYPES
from circuit_econ.tables import BASELINES, Status

CASE = Case(
    "options",
    Format.TRANSFORMER_LENS,
    {
        "n_layers": 1, "n_heads": 2, "d_model": 8, "d_head": 4, "d_mlp": 12, "act_fn": "gelu",
        "n_ctx": 16, "d_vocab": 320,
    },
    exact=True,
)  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_every_option_has_values_to_be_tried_with(name: str) -> None:
    record = RECORDS[name]
    known = {f.name for f in fields(record)}
    missing = known - set(VALUES.get(name, {}))
    assert not missing, f"tests/options.py: give {name} values for {sorted(missing)}"
    assert set(VALUES[name]) == known, f"tests/options.py: {name} has other options now"
    for option, there in members(record):
        tried = [v for v in VALUES[name][option] if not isinstance(v, list | dict)]
        lacking = {m for m in there if not any(m is t or (m == t and m is not None) for t in tried)}
        optional = {None} if option in ("precision",) else set()
        assert lacking <= optional, f"tests/options.py: {name}.{option} lacks {lacking}"


def test_values_that_have_names_are_all_tried() -> None:
    def tried(record: str, option: str) -> set[str]:
        found: set[str] = set()
        for value in VALUES[record][option]:
            found |= {value} if isinstance(value, str) else set(value)
        return found

    assert tried("Root", "measure") == set(MEASURES)
    assert tried("Root", "baselines") == set(BASELINES)
    assert tried("Root", "dtype") == set(DTYPES)
    assert tried("TaskSettings", "name") == {task.name for task in TASKS}
    assert tried("TextSettings", "part") == set(Part)
    for index in range(rows("TaskSettings")):
        task = row("TaskSettings", index)
        assert set(task["options"]) == TASK_OPTIONS[task["name"]], task["name"]


@pytest.fixture
def place(run: Terminal) -> Terminal:
    """A run, texts, rows and a tokenizer to be named by options."""
    for file in (run.folder / "saved").iterdir():
        file.unlink()
    for step in STEPS[:2]:
        CASE.save(run.folder / "saved", step, seed=step)
    lines = [f"Row {i} has {i * i % 97} words, and none of them.\n" for i in range(200)]
    jsonl = "".join(json.dumps({"body": line}) + "\n" for line in lines)
    (run.folder / "rows.jsonl").write_text(jsonl)
    (run.folder / "rows").mkdir()
    (run.folder / "rows/train.jsonl").write_text(jsonl)
    _save_tokenizer(run.folder / "tokenizer")
    return run


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {chr(c): c for c in range(256)} | {"<s>": 256}
    core = Tokenizer(models.WordLevel(letters, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?", bos_token="<s>")
    made.save_pretrained(str(folder))


@pytest.mark.parametrize("index", range(4))
def test_the_three_ways_find_the_same(place: Terminal, index: int) -> None:
    root, device, text = row("Root", index), row("Device", index), row("TextSettings", index)
    dtype = root["dtype"]
    trajectory, source = row("FolderTrajectory", 2 * index), row("FileSource", index)
    settings = {
        name: measure.settings(**row(measure.settings.__name__, index))
        for name, measure in MEASURES.items()
    }
    answer = place(
        "walk", "trajectory=folder", "evaluation=file",
        *typed("", {k: v for k, v in root.items() if k != "study"}),
        *typed("device.", device), *typed("evaluation.", source | text),
        *typed("trajectory.", trajectory),
        *(o for n, m in MEASURES.items()
          for o in typed(f"measures.{n}.", row(m.settings.__name__, index))),
    )  # fmt: skip
    assert answer.code == 0, answer.err
    by_command = ce.open_ledger(root["out"])

    several = {k: [v] if isinstance(v, str) else v for k, v in root.items()}
    same: dict[str, Any] = {
        "measures": several["measure"],
        "baselines": several["baselines"],
        "device": device["name"],
        "memory": device["memory"],
        "seed": root["seed"],
        "dtype": root["dtype"],
        "precision": root["precision"],
        "settings": {m.name: settings[m.name] for m in measures_of(several["measure"])},
    }
    evaluation = ce.Evaluation.from_file(**source, **text)
    by_walk = ce.walk(ce.open_trajectory(**_opened(trajectory)), evaluation, out="walked", **same)
    by_measure = ce.measure(CASE.bridge(0, DTYPES[dtype][0]), evaluation, **same)

    assert set(by_command.tables) == set(by_walk.tables)
    height = 0
    for measure in measures_of(several["measure"]):
        for table in measure.tables:
            found, expected = (ledger.table(table).collect() for ledger in (by_command, by_walk))
            height += found.height
            assert_frame_equal(found, expected, rel_tol=0, abs_tol=0)
            # The bridge has a bias of the unembedding, 0, that the file does without.
            alike = pl.col("step") == 0 if table != "capacity" else (
                (pl.col("step") == 0) & (pl.col("component") != "unembed")
            )  # fmt: skip
            assert_frame_equal(
                by_measure[table].filter(alike), expected.filter(alike), rel_tol=1e-5, abs_tol=1e-8
            )
    assert height > 10
    rows_of = by_command.table("checkpoints").collect()
    assert set(rows_of["status"]) == {Status.MEASURED} and set(rows_of["dtype"]) == {dtype}


def _opened(trajectory: dict[str, Any]) -> dict[str, Any]:
    return {"source": Path(trajectory["path"]), "steps": trajectory["steps"]}


def _walks(place: Terminal, *overrides: str) -> None:
    answer = place("walk", *overrides, "measure=attention", "device=cpu")
    assert answer.code == 0, answer.err
    assert "could not be measured" not in answer.out


@pytest.mark.parametrize("index", range(rows("TrainingConfig")))
def test_models_are_trained_on_tasks_as_asked_for(place: Terminal, index: int) -> None:
    training, task = row("TrainingConfig", index), row("TaskSettings", index)
    trained = {k: v for k, v in row("TrainedTrajectory", index).items() if k != "training"}
    _walks(
        place, "trajectory=trained", "evaluation=task", "out=trained",
        *typed("trajectory.training.", training), *typed("trajectory.", trained),
        *typed("evaluation.", task),
    )  # fmt: skip
    folder = ce.train(
        ce.TrainingConfig(**training), ce.Evaluation.from_task(**task), out="by-python"
    )
    evaluation = ce.Evaluation.from_task(**task)
    steps = trained["steps"]
    ledger = ce.walk(ce.open_trajectory(folder, steps=steps), evaluation, ["attention"], out="b")
    asked, made = (
        opened.table("checkpoints").collect() for opened in (ce.open_ledger("trained"), ledger)
    )
    assert asked["step"].to_list() == made["step"].to_list()
    assert set(asked["status"]) == set(made["status"]) == {Status.MEASURED}


def test_sources_of_text_and_steps_as_asked_for(place: Terminal) -> None:
    text = typed("evaluation.", row("TextSettings", 0))
    saved = ("trajectory=folder", "trajectory.path=saved")
    _walks(place, *saved, "evaluation=embedded", *text, "out=embedded")
    for index in range(rows("DatasetSource")):
        source = row("DatasetSource", index)
        text = row("TextSettings", 0)
        given = (*typed("evaluation.", source), *typed("evaluation.", text))
        _walks(place, *saved, "evaluation=dataset", *given, f"out=dataset{index}")
        digest = ce.open_ledger(f"dataset{index}").run["evaluation"]["digest"]
        assert digest == ce.Evaluation.from_dataset(**source, **text).digest
    for index in range(rows("FolderTrajectory")):
        trajectory = row("FolderTrajectory", index)
        answer = place("plan", "trajectory=folder", *typed("trajectory.", trajectory),
                       "evaluation.length=8", "evaluation.sequences=2",
                       "measure=attention")  # fmt: skip
        steps = ce.open_trajectory(**_opened(trajectory)).steps
        assert answer.code == 0 and f"{len(steps)}: {', '.join(map(str, steps))}" in answer.out


def test_revisions_of_the_hub_as_asked_for(
    place: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place.folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    llama = Case("hub", Format.HUGGING_FACE, HUB, exact=False)
    revisions = (("start", "run"), ("end", "run"), ("step0", "run"), ("step0", "pythia-70m"))
    for number, (name, repository) in enumerate(revisions):
        owner = "someone" if repository == "run" else "EleutherAI"
        home = place.folder / f"cache/models--{owner}--{repository}"
        commit = f"{number:040x}"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / name).write_text(commit)
        saved = llama.save(place.folder / "made", number, seed=number)
        (home / "snapshots").mkdir(exist_ok=True)
        saved.parent.rename(home / "snapshots" / commit)
    for index in range(rows("HubTrajectory")):
        given = row("HubTrajectory", index)
        _walks(place, "trajectory=hub", *typed("trajectory.", given), "evaluation.length=8",
               "evaluation.sequences=2", "evaluation.reference_sequences=2",
               f"out=hub{index}")  # fmt: skip
        steps = ce.open_ledger(f"hub{index}").table("checkpoints").collect()["step"].to_list()
        opened = ce.open_trajectory(given["name"], given["steps"], given["revisions"])
        assert steps == list(opened.steps)


HUB = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 1, "n_embd": 8,
    "n_head": 2, "n_positions": 16, "vocab_size": 256,
}  # fmt: skip
