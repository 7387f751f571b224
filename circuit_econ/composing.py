"""From the overrides of a command line to checked configurations; errors say what exists."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from circuit_econ.config import RunConfig, read, register
from circuit_econ.errors import ConfigurationError
from circuit_econ.places import config_folder

__all__ = ["Request", "compose", "fixed_keys", "show", "subfolder"]

_GROUPS = ("study", "trajectory", "evaluation", "device")
_OPEN = ("evaluation.options=", "evaluation.options.")


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
        names = {o.partition("=")[0].lstrip("+~") for o in self.overrides}
        own = "trajectory" in names and "study" not in names
        opened = (f"++{o}" if o.startswith(_OPEN) else o for o in self.overrides)
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
    try:
        return "---\n".join(OmegaConf.to_yaml(config, resolve=resolve) for config in configs)
    except OmegaConfBaseException as error:
        raise ConfigurationError(_first_line(error)) from None


def fixed_keys(request: Request) -> list[str]:
    """Keys that are the same in every run of a multirun; so is ``out`` to their folders' names."""
    with _initialised():
        swept = _swept_keys(request)
        return sorted({_parse(text).key_or_group for text in request.complete} - swept)


def subfolder(name: str) -> str:
    """A folder for one run of several, from the overrides that tell them apart.

    The name itself where every file system takes it, else what is left of it and a digest.
    """
    name = re.sub(r"(^|,)\++", r"\1", name)
    kept = re.sub(r"[^\w.=+,-]+", "-", re.sub(r"""[\[\]{}'"]""", "", name))
    if kept == name and len(name) <= 100:
        return name
    return f"{kept[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


@contextmanager
def _initialised() -> Iterator[None]:
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


def _combinations(request: Request) -> list[_Combination]:
    """All single runs, as Hydra's own sweeper counts them."""
    choices: list[list[str]] = []
    for text in request.complete:
        override = _parse(text)
        if override.is_sweep_override():
            choices.append(_values(text, override, request.multirun))
        else:
            choices.append([text])
    swept = _swept_keys(request)
    return [
        _Combination(chosen, tuple(text for text in chosen if _parse(text).key_or_group in swept))
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
    return [f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()]


def _swept_keys(request: Request) -> set[str]:
    """Keys of several values; not ``out``, which tells runs apart by itself."""
    overrides = [_parse(text) for text in request.complete]
    return {o.key_or_group for o in overrides if o.is_sweep_override()} - {"out"}


def _parse(text: str) -> Override:
    try:
        loader = GlobalHydra.instance().config_loader()
        override = OverridesParser.create(config_loader=loader).parse_overrides([text])[0]
    except HydraException:
        override = None
    if override is None or not override.key_or_group:
        raise ConfigurationError(
            f"cannot read {text!r}: an override is key=value; a value with a space or one of "
            """, = ~ [ ] { } ( ) is quoted twice, as in key='"a, b"'"""
        )
    key = override.key_or_group
    if key in _GROUPS and not override.is_delete() and not override.is_sweep_override():
        value = override.value()
        if not isinstance(value, str | dict):
            raise ConfigurationError(
                f"{text}: {key} must be one of {', '.join(_choices(key))}, or {key}.<key>=…"
            )
    return override


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return hydra.compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(_explain(error, overrides)) from None


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's error in one line that says what exists."""
    text = str(error)
    choice = re.search(r"Could not find '([\w/]+)/([^']*)'", text)
    if choice:
        group, name = choice.groups()
        return f"unknown {group} {name!r}; there is: {', '.join(_choices(group))}"
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        return f"unknown key {key[1]!r}; there is: {', '.join(_siblings(key[1], overrides))}"
    return _first_line(error)


def _choices(group: str) -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return loader.get_group_options(group, ObjectType.CONFIG)


def _siblings(key: str, overrides: Sequence[str]) -> list[str]:
    """Keys that exist where a wrong one was looked for, or in what is above it."""
    groups = [o for o in overrides if o.partition("=")[0] in _GROUPS]
    node: Any = hydra.compose("config", overrides=groups)
    prefix = ""
    for name in key.split(".")[:-1]:
        if not isinstance(node.get(name), DictConfig):
            break
        node, prefix = node[name], f"{prefix}{name}."
    return [prefix + str(k) for k in node]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
