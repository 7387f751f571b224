"""Hydra's side of the command line: compose and check first, then run one job or many.

Hydra exits with 1 for its own errors, and a job that exits stops a multirun. So every combination of
overrides is composed and checked before the first job starts, jobs leave their outcome in a folder
of their own, and the exit code is computed here.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from circuit_econ.config import RunConfig, config_folder, read, register
from circuit_econ.errors import CircuitEconError, ConfigurationError, LedgerError

__all__ = ["compose", "launch"]

logger = logging.getLogger(__name__)

_OUTCOMES = "CIRCUIT_ECON_OUTCOMES"
"""Environment variable that tells jobs, in whatever process, where to leave their outcome."""

_GROUPS = ("study", "trajectory", "evaluation", "device")


def compose(arguments: Sequence[str]) -> list[RunConfig]:
    """The configuration of every combination of overrides, checked.

    Raises:
        ConfigurationError: If a key, a group's choice or a value does not exist or is not allowed.
    """
    overrides = _with_study([a for a in arguments if not a.startswith("-")])
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return [read(_compose(list(single))) for single in _combinations(overrides)]


def launch(arguments: Sequence[str]) -> int:
    """Run ``walk`` with Hydra and return the exit code.

    Raises:
        ConfigurationError: Before anything runs, if a combination of overrides is wrong.
    """
    if not any(a in ("--cfg", "-c", "--info", "-i", "--resolve") for a in arguments):
        compose(arguments)
    flags = [a for a in arguments if a.startswith("-")]
    overrides = _with_study([a for a in arguments if not a.startswith("-")])
    GlobalHydra.instance().clear()
    before = sys.argv
    with tempfile.TemporaryDirectory() as outcomes:
        os.environ[_OUTCOMES] = outcomes
        # Hydra reads the command line itself; it is given ours without the verb.
        sys.argv = ["circuit-econ", *flags, *overrides]
        try:
            hydra.main(
                config_path=str(config_folder()), config_name="config", version_base="1.3"
            )(_job)()
        finally:
            sys.argv = before
            del os.environ[_OUTCOMES]
        codes = [json.loads(p.read_text())["code"] for p in Path(outcomes).glob("*.json")]
    return max(codes, default=0)


def _job(config: DictConfig) -> int:
    """One run inside Hydra: never raises what a user can cause, leaves its outcome behind."""
    register()
    meta = HydraConfig.get()
    number = int(meta.job.num) if meta.mode == RunMode.MULTIRUN else 0
    try:
        run = read(config)
        if meta.mode == RunMode.MULTIRUN:
            from dataclasses import replace

            run = replace(
                run,
                out=run.out / subfolder(list(meta.overrides.task)),
                device=_spread(run.device, number),
            )
        code = _walk(run)
    except (ConfigurationError, LedgerError) as error:
        logger.error("circuit-econ: %s", error)
        code = 2
    except CircuitEconError as error:
        logger.error("circuit-econ: %s", error)
        code = 1
    target = Path(os.environ[_OUTCOMES]) / f"{number}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"code": code}))
    return code


def _walk(run: RunConfig) -> int:
    import polars as pl

    from circuit_econ.progress import Bar, Lines
    from circuit_econ.report import summary, write_page
    from circuit_econ.runs import run as walk
    from circuit_econ.tables import Status

    console = Console()
    ledger = walk(run, Bar(console) if console.is_terminal else Lines())
    write_page([ledger], ledger.path / "report.html")
    console.print(summary(ledger, console.width))
    failed = ledger.table("checkpoints").filter(pl.col("status") != Status.MEASURED).collect()
    return 1 if failed.height else 0


def subfolder(overrides: Sequence[str]) -> str:
    """A stable folder name for one combination of a multirun, whatever the values hold."""
    kept = sorted(o for o in overrides if not o.startswith(("out=", "study=")))
    name = ",".join(re.sub(r"[^\w.=+\-\[\]]+", "-", o) for o in kept) or "run"
    if len(name) <= 120:
        return name
    return f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _spread(device: str | None, number: int) -> str | None:
    """GPUs by turns: launchers that run jobs side by side assign none."""
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{number % count}" if device in (None, "cuda") and count > 1 else device


def _with_study(overrides: list[str]) -> list[str]:
    """Without a trajectory or a study of one's own, the quickstart is meant."""
    names = {o.partition("=")[0].lstrip("+~") for o in overrides}
    return overrides if names & {"study"} or "trajectory" not in names else [*overrides, "study=own"]


def _combinations(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """All single runs of a sweep, as Hydra's own sweeper counts them."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigurationError(f"cannot read the overrides: {_first_line(error)}") from None
    choices = []
    for override, text in zip(parsed, overrides, strict=True):
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([text])
    return list(itertools.product(*choices))


def _compose(overrides: list[str]) -> DictConfig:
    try:
        return hydra.compose("config", overrides=overrides)
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
    from hydra.core.object_type import ObjectType

    repository = GlobalHydra.instance().config_loader()
    return repository.get_group_options(group, ObjectType.CONFIG)


def _siblings(key: str, overrides: Sequence[str]) -> list[str]:
    """Keys that exist where a wrong one was looked for."""
    from omegaconf import OmegaConf

    groups = [o for o in overrides if o.partition("=")[0] in _GROUPS]
    node: Any = hydra.compose("config", overrides=groups)
    path = key.split(".")[:-1]
    found = OmegaConf.select(node, ".".join(path)) if path else node
    prefix = ".".join(path) + "." if path else ""
    return [prefix + str(k) for k in found] if isinstance(found, DictConfig) else list(node)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
