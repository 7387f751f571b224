"""What is typed on the command line."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import yaml
from commands import WALK, prepare

from fuzz.ledgers import printed
from fuzz.mutating import special
from fuzz.shop import Shop, SilentError

__all__ = ["overrides"]

_VALUES = (
    "", "0", "1", "-1", "2", "3.5", "1e3", "1e999", "nan", "inf", "-inf", "true", "null", "x",
    "[]",
    "[0]", "[0,1]", "[[a0.h0]]", "[[]]", "{}", "{a:1}", "9223372036854775807", "last",
    "9223372036854775808", "1" + "0" * 40, "log:3", "log:0", "every:2", "every:0", "0:10:0",
    "0:4:1",
    "'a b'", '"a,b"', "a,b", "a\\,b", "é", "\0", "\n", "\ud800", "x" * 300, "x" * 5000, "../x",
    "/", "/dev/null", "/dev/full", "/dev/zero", "/proc/self/x", ".", "~", "~nobody/x", "${out}",
    "${oc.env:HOME}", "${oc.env:X_NONE}", "${hydra:runtime}", "${", "$", "???", "@x", "_target_",
    "{_target_:os.system}", "${python:1}", "${eval:1}", "range(0,3)", "choice(1,2)",
    "interval(0,1)", "glob(*)", "sort(3,1)", "shuffle(1,2)", "[" * 30, "[" * 5000, "{a:" * 30,
    "meta",
    "cuda", "cpu:7", "cuda:-1", "bytes", "bpe", "saved", "text.txt", "saved/step_4.safetensors",
    "zero", "mean", "value", "[value]", "[value,value]", "[mean,zero]", "float64", "tf32",
    "quickstart",
    "induction", "own", "task", "embedded", "file", "folder", "hub", "trained", "hf/none", "all",
    "heldout", "train", "1_000", "0x10", "１", "٣", "1.0", "2.0", "0.5", "-0", "+1", "01",
)  # fmt: skip

_KEYS = (
    "out", "seed", "study", "dtype", "measure", "baselines", "precision", "device", "device.name",
    "device.memory", "trajectory", "trajectory.path", "trajectory.steps", "trajectory.name",
    "trajectory.revisions", "evaluation", "evaluation.path", "evaluation.field",
    "evaluation.tokenizer", "evaluation.vocabulary", "evaluation.length", "evaluation.sequences",
    "evaluation.reference_sequences", "evaluation.bos", "evaluation.control_tokens",
    "evaluation.seed", "evaluation.part", "evaluation.name", "evaluation.options",
    "measures.value.placebo_draws", "measures.value.sets", "measures.value.x", "measures.income.x",
    "measures.capacity", "measures", "precision.absolute", "precision.relative", "nothing",
    "trajectory.training.steps", "trajectory.training.d_model", "trajectory.cache", "",
    "hydra.run.dir", "hydra.job.chdir", "hydra.output_subdir", "hydra.searchpath", "hydra.verbose",
    "hydra/launcher", "hydra/sweeper", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.callbacks.x",
    "hydra.launcher.n_jobs", "hydra.sweeper.params", "hydra/job_logging", "hydra.job.name",
    "hydra.hydra_help.template", "hydra.mode", "hydra.job.env_set.X", "_target_", "trajectory@x",
    "evaluation.a.b.c", "é", "seed ", " seed", "seed.x", "a b",
)  # fmt: skip

_PLAIN: dict[str, dict[str, Any]] = {
    "seed": {"7": 7, "0": 0, "9223372036854775807": 2**63 - 1},
    "evaluation.seed": {"5": 5},
    "evaluation.length": {"9": 9, "12": 12},
    "evaluation.bos": {"true": True, "false": False},
    "out": {
        "1.50": "1.50", "007": "007", "x[1]": "x[1]", "run=1": "run=1", "é": "é", "null_": "null_",
        "1e3": "1e3", "true": "true", "a#b": "a#b", "a'b": "a'b", "0x10": "0x10", "{a}": "{a}",
        "1_000": "1_000", "nan": "nan", "- a": "- a", "a: b": "a: b",
    },
    "dtype": {"float64": "float64"},
    "baselines": {"[zero]": ["zero"], "[mean,zero]": ["mean", "zero"]},
    "trajectory.steps": {"[0,4]": [0, 4], "log:2": "log:2", "last": "last", "4": 4},
}  # fmt: skip
"""What is typed, and what anybody would mean by it."""


def overrides(shop: Shop, rng: Random) -> str:
    """Hostile keys, values and places; and plain ones, which must mean what they say."""
    shop.good("prepared", prepare)
    for path in sorted(Path("prepared").iterdir()):
        path.rename(path.name)
    Path("prepared").rmdir()
    given = [*WALK, "evaluation.sequences=2", "evaluation.reference_sequences=2"]
    if rng.random() < 0.25:
        return _plain(shop, given, rng)
    for _ in range(rng.choice((1, 1, 2))):
        prefix = rng.choice(("", "", "", "", "+", "++", "~"))
        given.append(
            f"{prefix}{rng.choice(_KEYS)}{rng.choice(('=',) * 9 + ('',))}{rng.choice(_VALUES)}"
        )
    if rng.random() < 0.05:
        given.append(special(shop.folder / "config.yaml", rng))
    verb = rng.choice((["walk", "--cfg", "job"], ["plan"], ["plan"], ["walk"], ["walk", "-m"],
                       ["walk", "--remeasure", rng.choice(_VALUES)], ["audit"], ["report"],
                       ["export"]))  # fmt: skip
    if verb[0] in ("audit", "report", "export"):
        given = [rng.choice(_VALUES) for _ in range(rng.choice((1, 1, 2)))]
        option = rng.choice(("", "--steps", "--format", "--output", "--step", "--minimum"))
        given += [option, rng.choice(_VALUES)] if option else []
    elif verb != ["walk", "--cfg", "job"]:
        given.append("trajectory.steps=last" if rng.random() < 0.5 else "seed=1")
    given = [one.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for one in given]
    shop.note(" ".join([*verb, *given])[-250:])
    code, _ = printed([*verb, *given])
    return "refused" if code else "unchecked"


def _plain(shop: Shop, given: list[str], rng: Random) -> str:
    key = rng.choice(sorted(_PLAIN))
    typed = rng.choice(sorted(_PLAIN[key]))
    shop.note(f"{key}={typed}")
    code, said = printed(["walk", *given, f"{key}={typed}", "--cfg", "job"])
    if code:
        raise SilentError(f"{key}={typed} is refused: {said[-300:]}")
    tree: Any = yaml.safe_load(said)
    for part in key.split("."):
        tree = tree[part]
    if tree != _PLAIN[key][typed] or type(tree) is not type(_PLAIN[key][typed]):
        raise SilentError(f"{key}={typed} became {tree!r}")
    return "right"
