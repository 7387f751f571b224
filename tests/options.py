"""Every option of every configuration record with the values that its documentation names.

Row i of a record takes the i-th value of each of its options, beginning again where a list ends:
values that need each other stand at one place. A new option is in the tests by being in its record;
without values here they fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from enum import StrEnum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from circuit_econ.config import EVALUATIONS, TRAJECTORIES, Device, Root
from circuit_econ.evaluation import TASKS
from circuit_econ.measures import MEASURES, Precision

VALUES: dict[str, dict[str, list[Any]]] = {
    "Root": {
        "study": ["own"],  # the others: tests/test_studies.py
        "measure": [[*MEASURES], ["income", "circuits"], "edges", ["value", "capacity"]],
        "baselines": [["mean", "zero"], "mean-position", ["resample"], ["zero", "mean"]],
        "seed": [0, 7, 2**63 - 1],
        "dtype": ["float32", "float64", "tf32", "bfloat16"],
        "precision": [None, None, None, {"absolute": 1.0, "relative": 0.5}],
        "out": ["plain", "jürgen's (2)", "2024_01_01", "1e5"],
    },
    "Precision": {"absolute": [1.0], "relative": [0.5]},
    "Device": {"name": ["cpu", None], "memory": [None, 0.5, 1.0]},
    "ValueSettings": {
        "components": [[], ["a0.h0", "m0"]],
        "embeddings": [False, True],
        "sets": [[], [["a0.h0", "a0.h1"], ["embed", "m0"]]],
        "placebo_draws": [1, 0],
        "positions": [None, 5],
    },
    "AttentionSettings": {},
    "CapacitySettings": {"every_layer": [False, True]},
    "CompositionSettings": {},
    "IncomeSettings": {
        "nodes": [5, 9],
        "most_nodes": [9, 17],
        "stages": [True, False],
        "reference_groups": [2, 0],
    },
    "EdgeSettings": {"largest": [4, 0], "drawn": [2, 3], "embeddings": [False, True]},
    "CircuitSettings": {
        "baseline": ["zero", "mean-position", None],
        "untrained": [5, 6],
        "alike": [0.6, 0.9],
        "overlap": [0.5, 1.0],
        "most_pairs": [12, 2],
        "factor": [2.0, 3.5],
    },
    "EmbeddedSource": {},
    "FileSource": {"path": ["text.txt", "rows.jsonl"], "field": ["text", "body"]},
    "DatasetSource": {
        "name": ["rows"],
        "config": [None, "default"],
        "split": ["train"],
        "field": ["body"],
        "documents": [150, 120],
    },
    "TextSettings": {
        "tokenizer": ["bytes", "bpe", "tokenizer"],
        "vocabulary": [None, 300, None],
        "length": [8, 10],
        "sequences": [6, 5],
        "reference_sequences": [4, 0, 3],
        "bos": [False, True],
        "control_tokens": [False, True],
        "seed": [0, 3],
        "part": ["heldout", "train", "all"],
    },
    "TaskSettings": {
        "name": ["induction", "modular-addition", "sorting", "two-cues"],
        "length": [20, None],
        "vocabulary": [None, 50, 20, None],
        "sequences": [5],
        "reference_sequences": [4, 0],
        "seed": [0, 3],
        "part": ["heldout", "train"],
        "options": [{"shortest": 3, "longest": 5}, {}, {}, {"answers": 4, "one_cue": 0.5}],
    },
    "FolderTrajectory": {
        "path": ["saved"],
        "steps": [0, None, "0,1", [0, 1], "log:2", "every:1", "0:1", "all"],
    },
    "HubTrajectory": {
        "name": ["someone/run", "someone/run", "someone/run", "EleutherAI/pythia-70m"],
        "steps": [None, [0], "last", 0],
        "revisions": [{0: "start", 3: "end"}, {0: "start"}, ["step0"], None],
    },
    "TrainedTrajectory": {
        "cache": ["runs/trained"],
        "steps": [None, "last", [0]],
        "training": [{}],  # TrainingConfig
    },
    "TrainingConfig": {
        "n_layers": [1],
        "n_heads": [2, 1],
        "d_model": [8],
        "d_head": [None, 6],
        "d_mlp": [None, 12],
        "attn_only": [False, False, False, False, True],
        "act_fn": ["relu", "gelu", "gelu_new", "silu"],
        "normalization_type": ["LN", "LNPre", "RMS", "RMSPre", None],
        "positional_embedding_type": ["standard", "rotary"],
        "n_ctx": [None, 64],
        "optimiser": ["adamw", "sgd"],
        "learning_rate": [1e-3, 1.0],
        "weight_decay": [0.01, 0.0],
        "betas": [[0.9, 0.99], [0.0, 0.5]],
        "momentum": [0.9, 0.0],
        "gradient_clip": [1.0, None],
        "warmup": [0, 1],
        "schedule": ["constant", "linear", "cosine"],
        "steps": [3],
        "batch": [2],
        "checkpoints": [3, 2],
        "checkpoint_steps": [None, [0, 2]],
        "seed": [0, 5],
    },
}  # fmt: skip

RECORDS: dict[str, type[Any]] = {
    record.__name__: record
    for record in (
        Root,
        Device,
        Precision,
        *(
            r
            for kinds in (TRAJECTORIES, EVALUATIONS)
            for records in kinds.values()
            for r in records
        ),
        *(measure.settings for measure in MEASURES.values()),
    )
}
"""Every record of options, found from the configuration itself."""
for _record in [*RECORDS.values()]:
    for _hint in get_type_hints(_record).values():
        if hasattr(_hint, "__dataclass_fields__"):
            RECORDS[_hint.__name__] = _hint

TASK_OPTIONS = {
    task.name: {f.name for f in fields(task)} - {"vocabulary", "length"} for task in TASKS
}


def rows(record: str) -> int:
    """How many rows show every value of a record."""
    return max((len(values) for values in VALUES[record].values()), default=1)


def row(record: str, index: int) -> dict[str, Any]:
    """Values of a record's options, by name."""
    return {name: values[index % len(values)] for name, values in VALUES[record].items()}


def written(value: Any) -> str:
    """A value as a user types it in a shell, between quotes."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f'"{value}"' if isinstance(value, str) and "," in value else str(value)


def typed(prefix: str, values: dict[str, Any]) -> Iterator[str]:
    """Overrides that give these values."""
    return (f"{prefix}{name}={written(value)}" for name, value in values.items())


def members(record: type[Any]) -> Iterator[tuple[str, set[Any]]]:
    """Options whose type names all of their values, and these values."""
    for name, hint in get_type_hints(record).items():
        choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        named: set[Any] = set()
        for choice in choices:
            if choice is bool:
                named |= {True, False}
            elif choice is type(None):
                named.add(None)
            elif isinstance(choice, type) and issubclass(choice, StrEnum):
                named |= {str(member) for member in choice}
        if named:
            yield name, named
