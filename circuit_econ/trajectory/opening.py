"""Opens a trajectory by name: a folder on this machine, or a repository of the hub."""

from __future__ import annotations

import re
from pathlib import Path

from circuit_econ.errors import ConfigurationError
from circuit_econ.trajectory.folders import open_folder
from circuit_econ.trajectory.hub import Revisions, open_hub
from circuit_econ.trajectory.record import Trajectory
from circuit_econ.trajectory.steps import StepsLike, shortened

__all__ = ["open_trajectory"]

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def open_trajectory(
    source: str | Path, steps: StepsLike = None, revisions: Revisions | None = None
) -> Trajectory:
    """Opens a training run; weights are read later, one checkpoint at a time.

    Args:
        source: A folder: checkpoint folders of Hugging Face, ``config.json`` beside TransformerLens
            ``step_<step>`` files, or a single checkpoint (its step is that of the folder's name,
            else 0). Where there is no such folder, ``owner/name`` on the Hugging Face hub.
        steps: Which checkpoints, see :func:`circuit_econ.trajectory.parse_steps`. A folder gives
            all by default; a hub name needs ``steps`` or ``revisions``.
        revisions: For the hub: ``{step: revision}``, or names of revisions that contain
            ``step<n>`` or ``checkpoint-<n>``. Not needed for Pythia and stanford-crfm.

    Raises:
        ConfigurationError: If the folder or schedule does not exist, holds no checkpoint, or lacks
            a step asked for.
    """
    folder = _expanded(Path(source))
    if isinstance(source, Path) or _exists(folder) or not _HUB_NAME.fullmatch(source):
        if revisions is not None:
            raise ConfigurationError(
                f"revisions belong to a hub name (owner/name), and {source} is a folder's; "
                "leave them out or give the hub name"
            )
        return open_folder(folder).select(steps)
    trajectory = open_hub(source, revisions)
    if steps is None and revisions is None:
        raise ConfigurationError(
            f"say which steps of {source} to load, such as steps=log:20 (all loads every one); "
            f"there is: {shortened(trajectory.steps)}"
        )
    return trajectory.select(steps)


def _expanded(folder: Path) -> Path:
    try:
        return folder.expanduser()
    except RuntimeError:
        raise ConfigurationError(
            f"{folder}: nobody of that name has a home folder here; write the path out"
        ) from None


def _exists(folder: Path) -> bool:
    try:
        return folder.exists()
    except (OSError, ValueError):
        return True  # out of reach: opening it will say why
