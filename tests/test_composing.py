"""Wrong input on the command line: exit code 2, one line that says what exists, nothing written."""

from __future__ import annotations

import pytest
from commands import WALK, Terminal, contents

from circuit_econ.composing import subfolder

MEASURED = "value, attention, capacity, composition, income, edges, circuits"
ROOT_KEYS = (
    "study, measure, baselines, seed, dtype, precision, out, trajectory, evaluation, device, "
    "measures"
)

WRONG = {
    # Names.
    "study=nope": "unknown study 'nope'; there is: induction, own, quickstart",
    "trajectory=nope": "unknown trajectory 'nope'; there is: folder, hub, trained",
    "evaluation=nope": "unknown evaluation 'nope'; there is: dataset, embedded, file, task",
    "device=nope": "unknown device 'nope'; there is: auto, cpu, cuda",
    "hydra/launcher=nope": "unknown hydra/launcher 'nope'; there is: basic",
    "measure=[worth]": f"unknown measure 'worth'; there is: {MEASURED}",
    "baselines=[median]": "unknown baseline 'median'; there is: mean, mean-position, zero, res",
    "dtype=int8": "unknown dtype 'int8'; there is: float32, float64",
    "evaluation.part=best": "unknown part 'best'; there is: train, heldout, all",
    "measures.value.components=[a9.h0]": (
        "unknown component 'a9.h0'; there is: embed, pos, a0.h0, a0.h1, m0"
    ),
    "trajectory.steps=[0,3]": "saved has no checkpoint at step 3; there is: 0, 1, 4",
    "device.name=quantum": "device 'quantum' cannot be used",
    # Keys.
    "sed=1": f"unknown key 'sed'; there is: {ROOT_KEYS}",
    "+sed=1": f"unknown key 'sed'; there is: {ROOT_KEYS}",
    "study.sed=1": f"unknown key 'study.sed'; there is: {ROOT_KEYS}",
    "trajectory.pth=saved": (
        "unknown key 'trajectory.pth'; there is: trajectory.kind, trajectory.path, trajectory.steps"
    ),
    "+trajectory.pth=saved": (
        "unknown key 'trajectory.pth'; there is: trajectory.path, trajectory.steps"
    ),
    "trajectory.training.steps=3": (
        "unknown key 'trajectory.training.steps'; there is: trajectory.kind, trajectory.path, "
        "trajectory.steps"
    ),
    "measures.value.draws=3": (
        "unknown key 'measures.value.draws'; there is: measures.value.components, "
        "measures.value.embeddings, measures.value.sets, measures.value.placebo_draws"
    ),
    "measures.worth.draws=3": (
        "unknown key 'measures.worth.draws'; there is: measures.value, measures.attention, "
        "measures.capacity"
    ),
    "+measures.worth.draws=3": (
        "unknown key 'measures.worth'; there is: measures.value, measures.attention, "
        "measures.capacity"
    ),
    "trajectory.kind=hub": (
        "unknown key 'trajectory.path'; there is: trajectory.name, trajectory.steps, "
        "trajectory.revisions"
    ),
    "trajectory.kind=far": "unknown trajectory 'far'; there is: folder, hub, trained",
    "~seed": "evaluation.seed: Interpolation key 'seed' not found",
    "~dtype": "dtype must be set: dtype=…",
    "~device": "device must hold keys, not None: device.<key>=…",
    # Values.
    "seed=one": "seed must be a whole number, not 'one'",
    "seed=1.5": "seed must be a whole number, not 1.5",
    "seed=true": "seed must be a whole number, not True",
    "seed=-1": "seed must be a whole number of at least 0, not -1",
    "measure=null": "measure must be a list [a,b] (each text) or text, not None",
    "measure=[]": f"no measure asked for; there is: {MEASURED}",
    "baselines=[]": "no baseline asked for; there is: mean, mean-position, zero, resample",
    "measures=3": "measures must hold keys, not 3: measures.<key>=…",
    "measures.value=3": "measures.value must hold keys, not 3: measures.value.<key>=…",
    "measures.value.sets=[a0.h0]": (
        "measures.value.sets must be a list [a,b] (each a list [a,b] (each text)), not ['a0.h0']"
    ),
    "measures.value.placebo_draws=-1": "measures.value.placebo_draws must be 0 or more, not -1",
    "evaluation.length=long": "evaluation.length must be a whole number, not 'long'",
    "evaluation.bos=3": "evaluation.bos must be true or false, not 3",
    "evaluation.tokenizer=3": "evaluation.tokenizer must be text, not 3",
    "evaluation.sequences=0": "sequences must be a whole number of at least 1, not 0",
    "trajectory.path=3": "trajectory.path must be text, not 3",
    "trajectory.path=???": "trajectory.path must be set: trajectory.path=…",
    "trajectory.steps=often": "steps 'often' is not understood; give a list of steps (0,10,100)",
    "trajectory.steps=1.5": (
        "trajectory.steps must be text or a whole number or a list [a,b] (each a whole number) or "
        "null, not 1.5"
    ),
    "out=": "out must name a folder: out=runs/mine",
    "out=null": "out must be text, not None",
    "device=null": "device=null: device must be one of auto, cpu, cuda, or device.<key>=…",
    "study=3": "study=3: study must be one of induction, own, quickstart, or study.<key>=…",
    # Files.
    "trajectory.path=away": "no such folder: away (on the hub a name is owner/name)",
    "trajectory.path=owner/away": "no such folder: owner/away",
    "trajectory.path=empty": "empty is empty; a trajectory is (1) folders checkpoint-<step>/",
    "trajectory.path=text.txt": "text.txt is a file, not a folder",
    "evaluation.path=away.txt": "no such file or folder: away.txt",
    "evaluation.tokenizer=away": "cannot load tokenizer 'away'",
    "out=text.txt": "cannot write to 'text.txt'",
    "out=text.txt/inside": "cannot write to 'text.txt/inside'",
    # Spelling.
    "seed": "cannot read 'seed': an override is key=value; a value with a space or one of",
    "=3": "cannot read '=3': an override is key=value",
    "a b": "cannot read 'a b': an override is key=value",
    "measure=[value": "cannot read 'measure=[value': an override is key=value",
    "out=a=b": "cannot read 'out=a=b': an override is key=value",
    "seed=0,1": (
        "seed=0,1 gives several values: write seed=[0,1] for a list, or add -m for a run of each"
    ),
    "trajectory.steps=0,1": (
        "trajectory.steps=0,1 gives several values: write trajectory.steps=[0,1] for a list"
    ),
    "--fast": "unrecognized arguments: --fast; see circuit-econ walk --help",
    "--mult": "unrecognized arguments: --mult; see circuit-econ walk --help",
    "--cfg=all": "argument --cfg: invalid choice: 'all' (choose from 'job')",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_input_is_refused_in_one_line(run: Terminal, override: str) -> None:
    (run.folder / "empty").mkdir()
    before = contents(run.folder)
    answer = run("walk", *WALK, "out=done", override)
    assert answer.code == 2
    assert answer.reason.startswith(WRONG[override])
    assert contents(run.folder) == before and not (run.folder / "done").exists()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["trajectory=folder"], "trajectory.path must be set: trajectory.path=…"),
        (["trajectory=hub"], "trajectory.name must be set: trajectory.name=…"),
        (["evaluation=task"], "evaluation.name must be set: evaluation.name=…"),
        (
            ["trajectory.training.n_layers=two"],
            "trajectory.training.n_layers must be a whole number, not 'two'",
        ),
        (
            ["trajectory.training.learning_rate=fast"],
            "trajectory.training.learning_rate must be a number, not 'fast'",
        ),
        (
            ["trajectory.training.act_fn=tanh"],
            "unknown act_fn 'tanh'; there is: relu, gelu, gelu_new, silu",
        ),
        (
            ["trajectory.training.betas=[1]"],
            "betas=[1.0] must be two numbers from 0 to below 1",
        ),
        (
            ["trajectory.training.checkpoint_steps=[a]"],
            "trajectory.training.checkpoint_steps must be a list [a,b] (each a whole number) or nu",
        ),
        (
            ["evaluation=task", "evaluation.name=chess"],
            "unknown task 'chess'; there is: induction, modular-addition, sorting, two-cues",
        ),
        (
            ["evaluation=task", "evaluation.name=induction", "evaluation.options.depth=3"],
            "unknown option of task 'induction' 'depth'; there is: shortest, longest",
        ),
        (
            ["trajectory=hub", "trajectory.name=Nobody/nothing", "trajectory.steps=[0]"],
            "there is no folder Nobody/nothing, and on the hub the checkpoints of Nobody/nothing",
        ),
        (
            ["trajectory=hub", "trajectory.name=a/b", "trajectory.revisions=main"],
            "trajectory.revisions must be a mapping {key: value} or a list [a,b] (each text) or nu",
        ),
    ],
)
def test_other_trajectories_and_evaluations_are_checked_too(
    run: Terminal, overrides: list[str], reason: str
) -> None:
    before = contents(run.folder)
    answer = run("walk", *overrides, "out=done")
    assert answer.code == 2
    assert answer.reason.startswith(reason)
    assert contents(run.folder) == before


def test_a_hub_name_while_offline_says_so(run: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(run.folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    answer = run(
        "walk", "trajectory=hub", "trajectory.name=EleutherAI/pythia-70m", "trajectory.steps=[0]",
        "out=done",
    )  # fmt: skip
    assert answer.code == 2
    assert answer.reason == (
        f"nothing of EleutherAI/pythia-70m is in the local cache {run.folder / 'cache'} and "
        "HF_HUB_OFFLINE is set; connect once to download it, or set HF_HOME to a cache that has it"
    )
    assert not (run.folder / "done").exists()


def test_a_study_of_ones_own_is_found_on_the_search_path(run: Terminal) -> None:
    (run.folder / "mine/study").mkdir(parents=True)
    (run.folder / "mine/study/my.yaml").write_text("# @package _global_\nstudy: my\nseed: 7\n")
    answer = run("plan", *WALK, "study=my", "hydra.searchpath=[mine]")
    assert answer.code == 0 and "plan of study 'my'" in answer.out and "runs/my" in answer.out


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("", ""),
        ("seed=0", "seed=0"),
        ("dtype=float64,seed=0", "dtype=float64,seed=0"),
        ("measure=[value,capacity]", "measure=value,capacity-7969ccb522e1"),
        ("trajectory.path=../a run:1", "trajectory.path=..-a-run-1-5a4d32cae587"),
        ("++evaluation.options.shortest=3,+a=b", "evaluation.options.shortest=3,a=b"),
    ],
)
def test_names_of_runs_stay_the_same_and_go_with_every_file_system(name: str, folder: str) -> None:
    assert subfolder(name) == folder


def test_long_and_similar_names_of_runs_are_told_apart() -> None:
    long = [subfolder("trajectory.path=" + "a" * 200 + end) for end in "xy"]
    similar = [subfolder("p=a/b"), subfolder("p=a b"), subfolder("p=a-b"), subfolder("p=[a-b]")]
    assert len({*long, *similar}) == 6
    assert all(len(name) <= 113 for name in long)
