"""From the overrides of a command line to checked configurations; errors say what exists."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from circuit_econ.config import RunConfig, explained, read, register
from circuit_econ.errors import CircuitEconError, ConfigurationError, unknown
from circuit_econ.overrides import JOB_GROUPS, parse, spell
from circuit_econ.places import config_folder

__all__ = ["Request", "compose", "fixed_keys", "show", "subfolder"]

_GROUPS = ("study", "trajectory", "evaluation", "device")
_OPEN = ("evaluation.options=", "evaluation.options.")
_MOST_RUNS = 10_000
_MOST_BYTES = 200
"""Of a folder's name, a digest apart: file systems take 255, and other names are made of it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for.

    Attributes:
        overrides: As given: ``key=value`` each.
        multirun: Whether each combination of several values is a run.
    """

    overrides: tuple[str, ...]
    multirun: bool = False

    @property
    def complete(self) -> list[str]:
        """The overrides as Hydra needs them.

        With a trajectory and no study, the study is one's own. Keys of open mappings may be new.
        """
        spelled = spell(self.overrides, self.multirun)
        names = {o.partition("=")[0].lstrip("+~") for o in spelled}
        own = "trajectory" in names and "study" not in names
        opened = (f"++{o}" if o.startswith(_OPEN) else o for o in spelled)
        return [*opened, *(["study=own"] if own else [])]


@dataclass(frozen=True, slots=True)
class _Combination:
    """The overrides of one run, and those among them that tell it from the others."""

    overrides: tuple[str, ...]
    telling: tuple[str, ...]


def compose(request: Request) -> list[RunConfig]:
    """The configuration of every run that is asked for, checked.

    Raises:
        ConfigurationError: If a key, a group's choice or a value does not exist or is not allowed.
    """
    with _initialised():
        found = []
        for combination in _combinations(request):
            run = read(_compose(combination.overrides))
            _check_sweep_folder(combination.overrides, run)
            name = ",".join(sorted(combination.telling))
            found.append(replace(run, out=run.out / subfolder(name)))
        return found


def show(request: Request, resolve: bool) -> str:
    """The configuration as YAML, one document per run; what is missing is shown as ``???``.

    Args:
        request: What the command line asks for.
        resolve: Whether values that refer to others are replaced by them.

    Raises:
        ConfigurationError: If a key or a group's choice does not exist, or a reference leads
            nowhere.
    """
    with _initialised():
        configs = [_compose(c.overrides) for c in _combinations(request)]
    with _translated():
        return "---\n".join(OmegaConf.to_yaml(config, resolve=resolve) for config in configs)


def fixed_keys(request: Request) -> list[str]:
    """Keys that are the same in every run of a multirun; so is ``out`` to their folders' names."""
    with _initialised():
        swept = _swept_keys(request)
        return sorted({parse(text).key_or_group for text in request.complete} - swept)


def subfolder(name: str) -> str:
    """A folder for one run of several, from the overrides that tell them apart.

    The name itself where every file system takes it, else what is left of it and a digest.
    """
    name = re.sub(r"(^|,)\++", r"\1", name)
    kept = re.sub(r"[^\w.=+,-]+", "-", re.sub(r"""[\[\]{}'"]""", "", name))
    if kept == name and len(name) <= 100 and len(name.encode()) <= _MOST_BYTES:
        return name
    short = kept[:100].encode()[:_MOST_BYTES].decode(errors="ignore")
    return f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


@contextmanager
def _initialised() -> Iterator[None]:
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


@contextmanager
def _translated(overrides: Sequence[str] | None = None) -> Iterator[None]:
    """The boundary to Hydra and OmegaConf: whatever they raise is about what was typed."""
    try:
        yield
    except CircuitEconError:
        raise
    except Exception as error:
        said = explained(error) if overrides is None else _explain(error, overrides)
        raise ConfigurationError(said) from error


def _combinations(request: Request) -> list[_Combination]:
    """All single runs, as Hydra's own sweeper counts them."""
    choices: list[list[str]] = []
    for text in request.complete:
        override = _checked(text)
        if override.is_sweep_override():
            choices.append(_values(text, override, request.multirun))
        else:
            choices.append([text])
    count = math.prod(len(values) for values in choices)
    if count > _MOST_RUNS:
        raise ConfigurationError(f"that is {count} runs; at most {_MOST_RUNS} go in one multirun")
    swept = _swept_keys(request)
    return [
        _Combination(chosen, tuple(text for text in chosen if _checked(text).key_or_group in swept))
        for chosen in itertools.product(*choices)
    ]


def _values(text: str, override: Override, multirun: bool) -> list[str]:
    """The single overrides that one of several values stands for."""
    if not multirun:
        key, _, values = text.partition("=")
        raise ConfigurationError(
            f"{text} gives several values: write {key}=[{values}] for a list, or add -m for a run "
            "of each"
        )
    if not override.is_discrete_sweep():
        raise ConfigurationError(
            f"{text}: only a,b,c, choice(…), range(…) and glob(…) can be walked through"
        )
    with _translated():
        values = itertools.islice(override.sweep_string_iterator(), _MOST_RUNS + 1)
        return [f"{override.get_key_element()}={v}" for v in values]


def _swept_keys(request: Request) -> set[str]:
    """Keys of several values; not ``out``, which tells runs apart by itself."""
    overrides = [parse(text) for text in request.complete]
    return {o.key_or_group for o in overrides if o.is_sweep_override()} - {"out"}


def _checked(text: str) -> Override:
    """An override whose choice of a group exists."""
    override = parse(text)
    override.config_loader = GlobalHydra.instance().config_loader()
    key = override.key_or_group
    if key not in (*_GROUPS, *JOB_GROUPS) or override.is_delete() or override.is_sweep_override():
        return override
    value = override.value()
    if not isinstance(value, str | dict):
        raise ConfigurationError(
            f"{text}: {key} must be one of {', '.join(_choices(key))}, or {key}.<key>=…"
        )
    # Hydra would also take a path that leads out of our own folder.
    if isinstance(value, str) and value not in _choices(key):
        raise unknown(key, value, _choices(key))
    return override


def _check_sweep_folder(overrides: Sequence[str], run: RunConfig) -> None:
    """What launchers leave behind stays below the run's folder."""
    if not any(o.lstrip("+").startswith("hydra.sweep.") for o in overrides):
        return
    with _translated(overrides):
        whole = hydra.compose("config", overrides=list(overrides), return_hydra_config=True)
        folder = Path(str(whole.hydra.sweep.dir)) / str(whole.hydra.sweep.subdir)
    if not folder.resolve().is_relative_to(run.out.resolve()):
        raise ConfigurationError(f"hydra.sweep.dir must lie below out ({run.out}), not at {folder}")


def _compose(overrides: Sequence[str]) -> DictConfig:
    with _translated(overrides):
        return hydra.compose("config", overrides=list(overrides))


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's error in one line that says what exists."""
    text = str(error)
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        return str(unknown("key", key[1], _siblings(key[1], overrides)))
    return explained(error)


def _choices(group: str) -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return loader.get_group_options(group, ObjectType.CONFIG)


def _siblings(key: str, overrides: Sequence[str]) -> list[str]:
    """Keys that exist where a wrong one was looked for, or in what is above it."""
    groups = [o for o in overrides if o.partition("=")[0] in (*_GROUPS, *JOB_GROUPS)]
    own = not key.startswith("hydra.")
    node: Any = hydra.compose("config", overrides=groups, return_hydra_config=not own)
    prefix = ""
    for name in key.split(".")[:-1]:
        if not isinstance(node.get(name), DictConfig):
            break
        node, prefix = node[name], f"{prefix}{name}."
    return [prefix + str(k) for k in node if k != "_target_"]
