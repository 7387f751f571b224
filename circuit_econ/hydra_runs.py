"""Hydra's side of the command line: compose and check first, then run one job or many.

Hydra exits with 1 for its own errors, and a job that exits stops a multirun. So every combination
of overrides is composed and checked before the first job starts, jobs leave their outcome in a
folder of their own, and the exit code is computed here.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from circuit_econ.composing import Request, compose, fixed_keys, subfolder
from circuit_econ.config import RunConfig, read, register
from circuit_econ.errors import ConfigurationError, LedgerError, reason, told
from circuit_econ.places import config_folder

__all__ = ["launch"]

logger = logging.getLogger(__name__)

_OUTCOMES = "CIRCUIT_ECON_OUTCOMES"
"""Environment variable that tells jobs, in whatever process, where to leave their outcome."""

_REMEASURE = "CIRCUIT_ECON_REMEASURE"
"""Tells them which steps to measure again, as JSON: it is a deed, no part of the configuration."""

_RAISES = "HYDRA_FULL_ERROR"


def launch(request: Request, remeasure: Sequence[int] = ()) -> int:
    """Run ``walk`` with Hydra and return the exit code: that of the worst run.

    Args:
        request: What the command line asks for.
        remeasure: Steps of which every run measures all again.

    Raises:
        ConfigurationError: Before anything runs, if a combination of overrides is wrong.
    """
    runs = compose(request)
    fixed = ",".join(fixed_keys(request))
    before = sys.argv
    with tempfile.TemporaryDirectory() as outcomes:
        os.environ[_OUTCOMES] = outcomes
        os.environ[_REMEASURE] = json.dumps([*remeasure])
        # Hydra reads the command line itself; it is given ours without the verb. Its name for a
        # run of several is then made of the overrides that tell them apart.
        sys.argv = [
            "circuit-econ",
            *(["--multirun"] if request.multirun else []),
            *request.complete,
            f"hydra.job.config.override_dirname.exclude_keys=[{fixed}]",
        ]
        try:
            with _translated(), _whole_errors():
                hydra.main(
                    config_path=str(config_folder()), config_name="config", version_base="1.3"
                )(_job)()
        finally:
            sys.argv = before
            del os.environ[_OUTCOMES], os.environ[_REMEASURE]
        codes = [json.loads(p.read_text())["code"] for p in Path(outcomes).glob("*.json")]
    # A job that left no outcome did not finish.
    return max([*codes, *([1] if len(codes) < len(runs) else [])])


@contextmanager
def _translated() -> Iterator[None]:
    """The boundary to Hydra: jobs raise nothing, so what comes is about how they are to be run."""
    try:
        yield
    except Exception as error:
        raise ConfigurationError(
            f"Hydra cannot run this ({reason(error)}); check hydra/launcher and hydra.launcher.*"
        ) from error


@contextmanager
def _whole_errors() -> Iterator[None]:
    """Hydra raises what went wrong, in place of printing it and exiting."""
    before = os.environ.get(_RAISES)
    os.environ[_RAISES] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_RAISES]
        else:
            os.environ[_RAISES] = before


def _job(config: DictConfig) -> int:
    """One run inside Hydra: never raises what a user can cause, leaves its outcome behind."""
    register()
    meta = HydraConfig.get()
    number = int(meta.job.num) if meta.mode == RunMode.MULTIRUN else 0
    try:
        run = read(config)
        if meta.mode == RunMode.MULTIRUN:
            run = replace(
                run,
                out=run.out / subfolder(meta.job.override_dirname),
                device=_spread(run.device, number),
            )
        code = _walk(run)
    except (ConfigurationError, LedgerError) as error:
        logger.error("circuit-econ: %s", error)
        code = 2
    except Exception as error:  # a job that raises would end the others
        logger.error("circuit-econ: %s", told(error))
        logger.debug("run %d", number, exc_info=error)
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
    again = json.loads(os.environ[_REMEASURE])
    ledger = walk(run, Bar(console) if console.is_terminal else Lines(), again)
    write_page([ledger], ledger.path / "report.html")
    console.print(summary(ledger, console.width))
    failed = ledger.table("checkpoints").filter(pl.col("status") != Status.MEASURED).collect()
    return 1 if failed.height else 0


def _spread(device: str | None, number: int) -> str | None:
    """GPUs by turns: launchers that run jobs side by side assign none."""
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{number % count}" if device in (None, "cuda") and count > 1 else device
