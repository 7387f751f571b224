"""The integrity audit: reads every checkpoint of a run and says what is not as its name says."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from circuit_econ.errors import ConfigurationError, told
from circuit_econ.model.source import Source
from circuit_econ.model.weights import Inventory
from circuit_econ.tables import TABLES
from circuit_econ.trajectory.ahead import Loaded, load_ahead
from circuit_econ.trajectory.fingerprint import checkpoint_digest, describe
from circuit_econ.trajectory.record import Trajectory
from circuit_econ.trajectory.rules import Finding, Row, audit_table, findings
from circuit_econ.trajectory.steps import StepsLike

__all__ = ["audit", "checkpoint_digest", "describe", "findings"]


def audit(
    trajectory: Trajectory,
    inventory: Callable[[Source], Inventory],
    steps: StepsLike = None,
    progress: Callable[[Loaded], None] | None = None,
) -> pl.DataFrame:
    """Reads the checkpoints of a run, one at a time, and lists what is odd about them.

    Args:
        trajectory: The run.
        inventory: Which tensors of a checkpoint the model reads, lacks or may ignore.
        steps: Which checkpoints; all by default.
        progress: Called after each checkpoint.

    Returns:
        The ``audit`` table: what :func:`findings` finds, and ``unreadable`` with the reason for
        every checkpoint that could not be read or whose configuration is not supported. Empty when
        all is well.
    """
    described = [TABLES["tensors"].to_frame()]
    unreadable: list[Row] = []
    for loaded in load_ahead(trajectory, steps, inventory=inventory):
        if loaded.tensors is not None:
            described.append(loaded.tensors)
        elif isinstance(loaded.error, ConfigurationError):
            raise loaded.error  # such as a hub out of reach: of no checkpoint in particular
        elif loaded.error is not None:
            unreadable.append((loaded.step, Finding.UNREADABLE, None, told(loaded.error)))
        if progress is not None:
            progress(loaded)
    found = findings(pl.concat(described))
    rows = [(s, Finding(f), t, d) for s, f, t, d in found.iter_rows()]
    return audit_table([*unreadable, *rows])
