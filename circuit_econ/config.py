"""The configuration of a run: Hydra groups made from the settings that the parts of the house keep.

Every setting is defined once, as a field of the record that uses it. The groups registered here
take their keys and defaults from those records; ``conf/`` holds values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import KINDS
from circuit_econ.measures import MEASURES
from circuit_econ.training import TrainingConfig

__all__ = ["RunConfig", "config_folder", "read", "register"]

_TRAJECTORIES: Final[dict[str, dict[str, Any]]] = {
    "folder": {"path": "???", "steps": None},
    "hub": {"name": "???", "steps": None, "revisions": None},
    "trained": {"cache": "runs/trained", "steps": None, "training": TrainingConfig},
}
"""Where trajectories come from. ``steps`` selects checkpoints, see ``parse_steps``."""


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
        device: Name of the device, or None.
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
    device: str | None
    out: Path
    values: dict[str, Any]


def config_folder() -> Path:
    """The folder of YAML files: the checkout's if this is one, else the installed package's."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    # An editable install may leave a stale copy inside the package: the checkout's goes first.
    if (checkout / "pyproject.toml").is_file() and (checkout / "conf" / "config.yaml").is_file():
        return checkout / "conf"
    return package / "conf"


def register() -> None:
    """Register the groups ``trajectory`` and ``evaluation`` and the measures' settings."""
    store = ConfigStore.instance()
    for kind, keys in _TRAJECTORIES.items():
        node = {k: _defaults(v) if isinstance(v, type) else v for k, v in keys.items()}
        store.store(group="trajectory", name=kind, node={"kind": kind, **node})
    for kind, records in KINDS.items():
        if kind == "text":  # text in hand is for Python
            continue
        node = {k: v for record in records for k, v in _defaults(record).items()}
        store.store(group="evaluation", name=kind, node={"kind": kind, **node})
    settings = {name: _defaults(measure.settings) for name, measure in MEASURES.items()}
    store.store(group="settings", name="default", node=settings)


def read(config: DictConfig) -> RunConfig:
    """Check a composed configuration and make the objects it describes.

    Raises:
        ConfigurationError: If a value is missing or not allowed.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigurationError(f"{missing[0]} must be set: {missing[0]}=…")
    values: Any = OmegaConf.to_container(config, resolve=True)
    trajectory = dict(values["trajectory"])
    if trajectory["kind"] == "trained":
        trajectory["training"] = make_record(
            TrainingConfig, trajectory["training"], "trajectory.training"
        )
    return RunConfig(
        study=str(values["study"]),
        trajectory=trajectory,
        evaluation=dict(values["evaluation"]),
        measures=_names("measure", values["measure"]),
        settings={
            name: make_record(MEASURES[name].settings, given, f"measures.{name}")
            for name, given in values["measures"].items()
        },
        baselines=_names("baselines", values["baselines"]),
        seed=_whole("seed", values["seed"]),
        dtype=str(values["dtype"]),
        device=values["device"]["name"],
        out=Path(str(values["out"])),
        values=values,
    )


def make_record(record: type, given: Mapping[str, Any], where: str) -> Any:
    """A settings record from plain values.

    Raises:
        ConfigurationError: If the record refuses a value.
    """
    try:
        return record(**given)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _defaults(record: type) -> dict[str, Any]:
    found = {}
    for field in fields(record):
        if field.default is not MISSING:
            value = field.default
        elif field.default_factory is not MISSING:
            value = field.default_factory()
        else:
            value = "???"
        found[field.name] = str(value) if isinstance(value, StrEnum) else value
    # One root seed: whatever is drawn follows it unless it is set apart.
    return found | ({"seed": "${seed}"} if "seed" in found else {})


def _names(key: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ConfigurationError(f"{key} must be a list of names, not {value!r}: {key}=[a,b]")
    return value


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"{key} must be a whole number of at least 0, not {value!r}")
    return value
