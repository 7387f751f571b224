"""Wrong input on the command line: exit code 2, one line that says what exists, nothing written."""

from __future__ import annotations

import sys

import pytest
from commands import CASE, CHEAP, SMALL, TEXT, WALK, Terminal, contents
from hydra.core.override_parser.types import Quote, QuotedString

from circuit_econ import hydra_runs, overrides
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
    "device.name=meta": "device 'meta' cannot be used",
    # Names that no file system takes.
    "out=" + "a" * 300: "out: no file system takes a name of more than 255 bytes or a path of more",
    "trajectory.path=" + "測" * 90: "trajectory.path: no file system takes a name of more than 255",
    "evaluation.path=" + "a/" * 3000: "evaluation.path: no file system takes a name of more than",
    "evaluation.tokenizer=a\0b": "evaluation.tokenizer must be text without NUL and in UTF-8",
    "trajectory.path=a\udcffb": "trajectory.path must be text without NUL and in UTF-8, not",
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
    "~seed": (
        "evaluation.seed: Interpolation key 'seed' not found (${…} refers to another key; in a "
        r"name it is written \${…})"
    ),
    "~dtype": "dtype must be set: dtype=…",
    "~device": "device must hold keys, not None: device.<key>=…",
    # Values.
    "seed=one": "seed must be a whole number, not 'one'",
    "seed=1.5": "seed must be a whole number, not 1.5",
    "seed=true": "seed must be a whole number, not True",
    "seed=-1": "seed must be a whole number of at least 0, not -1",
    "seed=9223372036854775808": "seed must be at most 9223372036854775807, not 92233720368547758",
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
    "evaluation.sequences=0": "sequences must be a whole number of at least 1, not 0",
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
    "seed": (
        "cannot read 'seed': an override is key=value; a value with a space, a letter beyond ASCII "
        "or one of , = ~ # ' \" [ ] { } ( ) is quoted twice, as in key='\"a, b\"'"
    ),
    "measure=[wört]": "cannot read 'measure=[wört]': an override is key=value; a value with a sp",
    "measure=" + "[" * 50 + "a" + "]" * 50: "measure=[[[",
    "trajectory.path=a,b": (
        "trajectory.path=a,b gives several values: add -m for a run of each, or, if it is one "
        "name, quote it twice: trajectory.path='\"a,b\"'"
    ),
    "trajectory.path=ü,b": "trajectory.path=ü,b gives several values: add -m",
    "trajectory.path=[1]": (
        "trajectory.path must be text, not [1]; if that is a name, quote it twice: "
        "trajectory.path='\"[1]\"'"
    ),
    "out=${nope}": "out: Interpolation key 'nope' not found (${…} refers to another key; in a name",
    "out=${out}": "out: Recursive interpolation detected",
    "out=${oc.env:NOT_SET_AT_ALL}": "out: KeyError raised while resolving interpolation",
    "out=${": 'Error merging override out="${": ',
    "out=~nobody-at-all/x": "out: there is no user of that name for '~nobody-at-all/x'; write ./~",
    "=3": "cannot read '=3': an override is key=value",
    "a b": "cannot read 'a b': an override is key=value",
    "measure=[value": "cannot read 'measure=[value': an override is key=value",
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


FOREIGN = {
    "hydra.callbacks.spy._target_=spy.Spy": "_target_ names code to run; it cannot be set",
    "+hydra.callbacks.spy={_target_:spy.Spy}": "_target_ names code to run; it cannot be set",
    "hydra.launcher._target_=spy.Spy": "_target_ names code to run; it cannot be set",
    "++hydra.launcher._target_=spy.Spy": "_target_ names code to run; it cannot be set",
    "hydra.sweeper.params={a:{b:{_target_:spy.Spy}}}": "_target_ names code to run; it cannot be",
    "evaluation.options={_target_:spy.Spy}": "_target_ names code to run; it cannot be set",
    "+hydra.callbacks.spy=1": "hydra.callbacks.spy cannot be set; of Hydra's own keys there is: h",
    "hydra={callbacks:{spy:1}}": "hydra cannot be set; of Hydra's own keys there is: hydra/launch",
    "+={hydra:{run:{dir:elsewhere}}}": "cannot read '+={hydra:{run:{dir:elsewhere}}}'",
    "hydra.run.dir=elsewhere": "hydra.run.dir cannot be set",
    "++hydra.run.dir=elsewhere": "hydra.run.dir cannot be set",
    "~hydra.run": "hydra.run cannot be set",
    "~hydra.launcher": "hydra.launcher cannot be set",
    "hydra.output_subdir=elsewhere": "hydra.output_subdir cannot be set",
    "hydra.job.chdir=true": "hydra.job.chdir cannot be set",
    "hydra.job.config.override_dirname.exclude_keys=[seed]": "hydra.job.config.override_dirname",
    "hydra.searchpath=[mine]": "hydra.searchpath cannot be set",
    "hydra.mode=MULTIRUN": "hydra.mode cannot be set",
    "hydra/callbacks=spy": "hydra/callbacks cannot be set",
    "hydra/job_logging=default": "hydra/job_logging cannot be set",
    "hydra/launcher@hydra.callbacks.spy=basic": "a group cannot be put elsewhere (@)",
    "study@hydra=own": "a group cannot be put elsewhere (@)",
    "+mine/study=my": "unknown group 'mine/study'",
    "study=../../mine/study/my": "unknown study '../../mine/study/my'; there is: induction, own",
    "+study=own": "Multiple values for study",
    "hydra/launcher=../mine": "unknown hydra/launcher '../mine'; there is: basic",
    "hydra.sweep.dir=/elsewhere": "hydra.sweep.dir must lie below out (done), not at /elsewhere",
    "hydra.sweep.dir=done/../elsewhere": "hydra.sweep.dir must lie below out (done), not at done/",
    "hydra.sweep.subdir=../../elsewhere": "hydra.sweep.dir must lie below out (done)",
    "hydra.launcher.jobs=${evaluation.options}": "Hydra's own keys may refer to ${out}, ${study}",
    "hydra.launcher.jobs=${oc.create:'{a: b}'}": "Hydra's own keys may refer to ${out}, ${study}",
    "hydra.launcher.jobs=3": "unknown key 'hydra.launcher.jobs'; there is: nothing",
    "hydra.sweeper.max_batch_size=many": (
        "Error merging override hydra.sweeper.max_batch_size=many: Value 'many' of type 'str' could"
    ),
    "--config-dir=mine": "unrecognized arguments: --config-dir=mine; see circuit-econ walk --help",
    "--resolve": "--resolve goes with --cfg job; see circuit-econ walk --help",
}


def test_hydra_runs_jobs_and_nothing_else(run: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spy stands wherever Hydra might be sent, and nothing comes of it."""
    spy = run.folder / "spy.py"
    spy.write_text("import pathlib\npathlib.Path('spied').touch()\nclass Spy: ...\n")
    (run.folder / "mine/study").mkdir(parents=True)
    (run.folder / "mine/study/my.yaml").write_text(
        "# @package _global_\nhydra: {callbacks: {spy: {_target_: spy.Spy}}}\n"
    )
    monkeypatch.syspath_prepend(str(run.folder))
    before = contents(run.folder)
    for number, (override, reason) in enumerate(FOREIGN.items()):
        several = ("-m",) if number % 2 else ()
        answer = run("walk", *several, *WALK, "out=done", override)
        assert answer.code == 2, override
        assert reason in answer.reason
    assert contents(run.folder) == before and "spy" not in sys.modules


def test_the_spy_would_be_seen(run: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the refusal Hydra does import what it is told to."""
    (run.folder / "spied_upon.py").write_text(
        "import pathlib\npathlib.Path('spied').touch()\n"
        "class Spy:\n    def __getattr__(self, _): return lambda *a, **k: None\n"
    )
    monkeypatch.syspath_prepend(str(run.folder))
    monkeypatch.setattr(overrides, "_refuse_foreign", lambda *_: None)
    monkeypatch.setattr(hydra_runs, "_walk", lambda _: 0)
    run("walk", *WALK, "out=done", "+hydra.callbacks.spy._target_=spied_upon.Spy")
    assert (run.folder / "spied").exists()


def test_what_a_launcher_leaves_may_lie_below_the_runs(
    run: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydra_runs, "_walk", lambda _: 0)
    jobs = ("hydra/launcher=basic", "hydra.sweep.dir=${out}/jobs", "hydra.sweeper.max_batch_size=1")
    assert run("walk", "-m", *WALK, "out=done", "seed=0,1", *jobs).code == 0
    assert (run.folder / "done/jobs").is_dir()


def test_a_launcher_that_fails_is_told_in_one_line(run: Terminal) -> None:
    answer = run("walk", "-m", *WALK, "out=done", "seed=0,1", "+hydra.launcher.jobs=3")
    assert answer.code == 2
    assert answer.reason.startswith("Hydra cannot run this (")
    assert answer.reason.endswith("; check hydra/launcher and hydra.launcher.*")


NAMES = (
    "epoch=9", "a#1", "it's", "x[1]", "run (2)", "jürgen", "測試", "2024_01_01", "1e5", "007",
    "true", "inf", "a b", "a{b", '"', "d'", "a\\b", "b$", "a:b", "a(b",
)  # fmt: skip
QUOTED = ("a,b", "${v}", "[1]", "{a:1}", "null", "'q'", "range(1,2)", "-m")


def test_names_are_names_whatever_they_look_like() -> None:
    def values(text: str, multirun: bool) -> list[str]:
        (spelled,) = overrides.spell([f"trajectory.path={text}"], multirun)
        override = overrides.parse(spelled)
        if not override.is_sweep_override():
            return [override.value()]
        read = (overrides.parse(f"x={one}") for one in override.sweep_string_iterator())
        return [one.value() for one in read]

    for name in NAMES:
        assert values(name, False) == [name]
    for name in (*NAMES, *QUOTED):
        quoted = QuotedString(name, Quote.double).with_quotes()
        assert values(quoted, False) == [name]
        assert values(f"{quoted},other", True) == [name, "other"]
    plain = [name for name in NAMES if name not in "\"d'a(ba{b"]
    assert values(",".join(plain), True) == plain


def test_names_are_walked_and_have_folders_of_their_own(run: Terminal) -> None:
    (run.folder / "saved").rename(run.folder / "jürgen's [1]")
    rest = (*TEXT, *SMALL, *CHEAP, "trajectory=folder", "trajectory.steps=0", "out=2024_01")
    answer = run("walk", *rest, "trajectory.path=jürgen's [1]")
    assert answer.code == 0 and "page: 2024_01/report.html" in answer.out
    for first in "甲乙":
        CASE.save(run.folder / (first + "測" * 80), 0, seed=0)
    names = ",".join(first + "測" * 80 for first in "甲乙")
    assert run("walk", "-m", *rest, f"trajectory.path={names}").code == 0
    assert len(list((run.folder / "2024_01").glob("trajectory.path=*/run.yaml"))) == 2


def test_a_multirun_of_more_runs_than_anyone_waits_for(run: Terminal) -> None:
    for several in ("seed=range(0,1000000000000)", "seed=range(0,1e12)"):
        answer = run("walk", "-m", *WALK, several)
        assert answer.code == 2
        assert answer.reason == "that is 10001 runs; at most 10000 go in one multirun"


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
    chinese = [subfolder(f"trajectory.path={first}{'測' * 80}") for first in "甲乙"]
    assert len(set(chinese)) == 2 and all(len(name.encode()) <= 213 for name in chinese)
    assert chinese[0].startswith("trajectory.path=甲測測")
