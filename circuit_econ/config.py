"""The configuration of a run: Hydra groups made from the settings that the parts of the house keep.

Every setting is defined once, as a field of the record that uses it. The groups registered here
take their keys, defaults and types from those records; ``conf/`` holds values only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Union, cast, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from circuit_econ.errors import ConfigurationError, unknown
from circuit_econ.evaluation import KINDS
from circuit_econ.evaluation.settings import check_number
from circuit_econ.measures import MEASURES, Precision
from circuit_econ.places import check_name, local_path
from circuit_econ.settings import check_names
from circuit_econ.training import TrainingConfig
from circuit_econ.trajectory import parse_steps

__all__ = ["RunConfig", "explained", "read", "register", "text_keys"]

Record = type[Any]
"""A dataclass whose fields are settings."""


@dataclass
class FolderTrajectory:
    """Checkpoints on this machine; ``steps`` selects some, see ``parse_steps``."""

    path: str
    steps: str | int | list[int] | None = None


@dataclass
class HubTrajectory:
    """A repository of the hub; ``revisions`` where its schedule is not known."""

    name: str
    steps: str | int | list[int] | None = None
    revisions: dict[int, str] | list[str] | None = None


@dataclass
class TrainedTrajectory:
    """A model of one's own, trained first; ``cache`` holds a folder per configuration."""

    cache: str = "runs/trained"
    steps: str | int | list[int] | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass
class Device:
    """Where to compute; None means CUDA if there is one. ``memory``: GB beside the weights."""

    name: str | None = None
    memory: float | None = None


@dataclass
class Root:
    """What a configuration holds beside its groups."""

    study: str
    measure: list[str] | str
    baselines: list[str] | str
    seed: int
    dtype: str
    precision: dict[str, float] | None
    out: str


TRAJECTORIES: Final[dict[str, tuple[Record, ...]]] = {
    "folder": (FolderTrajectory,),
    "hub": (HubTrajectory,),
    "trained": (TrainedTrajectory,),
}

# Text in hand is for Python.
EVALUATIONS: Final = {kind: records for kind, records in KINDS.items() if kind != "text"}


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One run, resolved.

    Attributes:
        study: Name of the study.
        trajectory: Settings of the trajectory; ``kind`` says which they are.
        evaluation: Settings of the evaluation set; ``kind`` says which they are.
        measures: Names of measures.
        settings: Their settings objects, by name.
        baselines: Names of baselines.
        seed: Root seed.
        dtype: Of the numbers.
        precision: Standard errors asked for, or None.
        device: Name of the device, or None.
        memory: GB that measuring may take beside the weights, or None.
        out: The run's folder.
        values: All of it as plain values, for ``run.yaml``.
    """

    study: str
    trajectory: dict[str, Any]
    evaluation: dict[str, Any]
    measures: list[str]
    settings: dict[str, Any]
    baselines: list[str]
    seed: int
    dtype: str
    precision: Precision | None
    device: str | None
    memory: float | None
    out: Path
    values: dict[str, Any]


def register() -> None:
    """Register the groups ``trajectory`` and ``evaluation`` and the measures' settings."""
    store = ConfigStore.instance()
    for group, kinds in (("trajectory", TRAJECTORIES), ("evaluation", EVALUATIONS)):
        for kind, records in kinds.items():
            node = {k: v for record in records for k, v in _defaults(record).items()}
            store.store(group=group, name=kind, node={"kind": kind, **node})
    settings = {name: _defaults(measure.settings) for name, measure in MEASURES.items()}
    store.store(group="settings", name="default", node=settings)


def text_keys() -> frozenset[str]:
    """Keys whose values are text and nothing else: names, files, folders."""
    records: list[tuple[str, Record]] = [("", Root), ("device.", Device)]
    for group, kinds in (("trajectory", TRAJECTORIES), ("evaluation", EVALUATIONS)):
        records += [(f"{group}.", record) for kind in kinds.values() for record in kind]
    records += [(f"measures.{name}.", measure.settings) for name, measure in MEASURES.items()]
    found: dict[str, bool] = {}
    for prefix, record in records:
        for key, hint in _leaves(record, prefix):
            choices = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
            text = all(
                isinstance(c, type) and issubclass(c, str | Path) for c in choices - {NoneType}
            )
            found[key] = text and found.get(key, True)
    return frozenset(key for key, text in found.items() if text) - {"study"}


def _leaves(record: Record, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, hint in _settings(record):
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _leaves(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def read(config: DictConfig) -> RunConfig:
    """Check a composed configuration and make the objects it describes; opens and reads nothing.

    Raises:
        ConfigurationError: If a key does not exist, or a value is missing or not allowed.
    """
    values = _plain(config)
    groups = {name: _group(values, name) for name in ("trajectory", "evaluation", "device")}
    given = _group(values, "measures")
    root = {k: v for k, v in values.items() if k not in (*groups, "measures")}
    root = _checked((Root,), root, "", also=(*groups, "measures"))
    trajectory = _checked_kind("trajectory", groups["trajectory"], TRAJECTORIES)
    evaluation = _checked_kind("evaluation", groups["evaluation"], EVALUATIONS)
    device = _checked((Device,), groups["device"], "device.")
    settings: dict[str, Any] = {}
    for name in given:
        if name not in MEASURES:
            raise unknown("key", f"measures.{name}", [f"measures.{k}" for k in MEASURES])
        record, where = MEASURES[name].settings, f"measures.{name}."
        settings[name] = record(**_checked((record,), _group(given, name, "measures."), where))
    measures, baselines = _list(root["measure"]), _list(root["baselines"])
    check_names(measures, baselines, root["dtype"])
    check_number("seed", root["seed"])
    if not root["out"]:
        raise ConfigurationError("out must name a folder: out=runs/mine")
    parse_steps(trajectory["steps"])
    for record in EVALUATIONS[evaluation["kind"]]:
        # Made again where it is used; here a wrong value is found before anything runs.
        record(**{f.name: evaluation[f.name] for f in fields(record)})
    return RunConfig(
        study=root["study"],
        trajectory=trajectory,
        evaluation=evaluation,
        measures=measures,
        settings=settings,
        baselines=baselines,
        seed=root["seed"],
        dtype=root["dtype"],
        precision=Precision.make(root["precision"]),
        device=device["name"],
        memory=device["memory"],
        out=local_path(root["out"], "out"),
        values=values,
    )


def _plain(config: DictConfig) -> dict[str, Any]:
    """Plain values, all of them set."""
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        values: Any = OmegaConf.to_container(config, resolve=True)
    except Exception as error:  # whatever OmegaConf, or a resolver, has to say about a value
        key = getattr(error, "full_key", None)
        raise ConfigurationError((f"{key}: " if key else "") + explained(error)) from error
    if missing:
        raise ConfigurationError(f"{missing[0]} must be set: {missing[0]}=…")
    return values


def _group(values: Mapping[str, Any], name: str, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values.get(name), dict):
        raise ConfigurationError(
            f"{prefix}{name} must hold keys, not {values.get(name)!r}: {prefix}{name}.<key>=…"
        )
    return dict(values[name])


def _checked_kind(
    group: str, given: Mapping[str, Any], kinds: Mapping[str, tuple[Record, ...]]
) -> dict[str, Any]:
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise unknown(group, kind, kinds)
    rest = {k: v for k, v in given.items() if k != "kind"}
    return {"kind": kind, **_checked(kinds[kind], rest, f"{group}.")}


def _checked(
    records: tuple[Record, ...],
    given: Mapping[str, Any],
    where: str,
    also: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The values, if they have the keys and types of records; inner records are made.

    Raises:
        ConfigurationError: If not; it names the key.
    """
    hints = {k: v for record in records for k, v in _settings(record)}
    for name in given:
        if name not in hints:
            raise unknown("key", f"{where}{name}", [f"{where}{k}" for k in (*hints, *also)])
    found: dict[str, Any] = {}
    for name, hint in hints.items():
        if name not in given:
            raise ConfigurationError(f"{where}{name} must be set: {where}{name}=…")
        if isinstance(hint, type) and is_dataclass(hint):
            inner = _checked((hint,), _group(given, name, where), f"{where}{name}.")
            found[name] = hint(**inner)
        elif _fits(given[name], hint):
            _check_names(given[name], f"{where}{name}")
            found[name] = _as_float(given[name], hint)
        else:
            raise ConfigurationError(f"{where}{name} must be {_spelled(hint)}, not {given[name]!r}")
    return found


def _check_names(value: object, where: str) -> None:
    """Every text of a configuration names something, and stands in files."""
    if isinstance(value, str):
        check_name(value, where)
    elif isinstance(value, list):
        for one in cast("list[object]", value):
            _check_names(one, where)
    elif isinstance(value, dict):
        for key, one in cast("dict[object, object]", value).items():
            _check_names(key, where)
            _check_names(one, where)


def _settings(record: Record) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(record)
    return ((f.name, hints[f.name]) for f in fields(record))


def _fits(value: object, hint: Any) -> bool:
    """Whether a plain value is of an annotated type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in inner)
    if origin is list:
        return isinstance(value, list) and all(
            _fits(v, inner[0]) for v in cast("list[object]", value)
        )
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(k, inner[0]) and _fits(v, inner[1])
            for k, v in cast("dict[object, object]", value).items()
        )
    if hint is Any:
        return True
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    # Enums are named by strings; which of them exist is for the record to say.
    return isinstance(value, str if issubclass(hint, StrEnum) else hint)


def _as_float(value: Any, hint: Any) -> Any:
    """Whole numbers as floats where floats are meant, so that 1 and 1.0 have one digest."""
    if get_origin(hint) is list:
        return [_as_float(v, get_args(hint)[0]) for v in value]
    meant = hint is float or (float in get_args(hint) and int not in get_args(hint))
    return float(value) if meant and isinstance(value, int) else value


def _spelled(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_spelled(choice) for choice in inner))
    if origin is list:
        return f"a list [a,b] (each {_spelled(inner[0])})"
    if origin is dict:
        return "a mapping {key: value}"
    words = {bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}
    return words.get(hint, "text")


def _defaults(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for f, (_, hint) in zip(fields(record), _settings(record), strict=True):
        if isinstance(hint, type) and is_dataclass(hint):
            found[f.name] = _defaults(hint)
        elif f.default is not MISSING:
            found[f.name] = str(f.default) if isinstance(f.default, StrEnum) else f.default
        else:
            found[f.name] = "???" if f.default_factory is MISSING else f.default_factory()
    # One root seed: whatever is drawn follows it unless it is set apart.
    return found | ({"seed": "${seed}"} if "seed" in found else {})


def explained(error: Exception) -> str:
    """What Hydra or OmegaConf raised, in one line, and how to mean what looks like a reference."""
    if isinstance(error, RecursionError):
        return "values refer to each other without end, or lie too deep in each other"
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if said.startswith("Error merging override") and error.__cause__ is not None:
        said = f"{said}: {str(error.__cause__).strip().splitlines()[0]}"
    if "nterpolation" in said or "${" in said:
        return f"{said} (${{…}} refers to another key; in a name it is written \\${{…}})"
    return said


def _list(names: list[str] | str) -> list[str]:
    return [names] if isinstance(names, str) else names
