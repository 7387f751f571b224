"""From a configuration to what it names: the trajectory (trained first), the data, the walk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from circuit_econ.config import RunConfig
from circuit_econ.evaluation import Evaluation, TrainingData, make, training_data
from circuit_econ.ledger import Ledger
from circuit_econ.pipeline import walk
from circuit_econ.places import local_path
from circuit_econ.progress import Progress
from circuit_econ.training import train
from circuit_econ.trajectory import Trajectory, open_trajectory

__all__ = ["evaluation_of", "run", "training_of", "trajectory_of"]


def run(
    config: RunConfig, progress: Progress | None = None, remeasure: Sequence[int] = ()
) -> Ledger:
    """Train if the configuration says so, then walk."""
    evaluation = evaluation_of(config)
    return walk(
        trajectory_of(config, progress),
        evaluation,
        config.measures,
        config.baselines,
        config.out,
        config.device,
        seed=config.seed,
        dtype=config.dtype,
        precision=config.precision,
        memory=config.memory,
        settings=config.settings,
        configuration=config.values,
        study=config.study,
        progress=progress,
        remeasure=remeasure,
    )


def evaluation_of(config: RunConfig) -> Evaluation:
    """The evaluation set that a configuration names."""
    return make(config.evaluation["kind"], _evaluation_settings(config))


def trajectory_of(config: RunConfig, progress: Progress | None = None) -> Trajectory:
    """The trajectory that a configuration names; a trained one is trained if it is not there."""
    settings = config.trajectory
    if settings["kind"] == "folder":
        return open_trajectory(Path(settings["path"]), steps=settings["steps"])
    if settings["kind"] == "hub":
        return open_trajectory(
            settings["name"], steps=settings["steps"], revisions=settings["revisions"]
        )
    data, folder = training_of(config)
    told = None if progress is None else progress.training
    train(settings["training"], data, folder, device=config.device, progress=told)
    return open_trajectory(folder, steps=settings["steps"])


def training_of(config: RunConfig) -> tuple[TrainingData, Path]:
    """What a trained trajectory is trained on, and the folder that its digest names."""
    training = config.trajectory["training"]
    data = training_data(
        config.evaluation["kind"], _evaluation_settings(config), training.batch, training.seed
    )
    return data, local_path(config.trajectory["cache"], "trajectory.cache") / training.digest(data)


def _evaluation_settings(config: RunConfig) -> dict[str, Any]:
    return {k: v for k, v in config.evaluation.items() if k != "kind"}
