"""A training run of twelve steps, and ways to look into its folder and to break it off."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from circuit_econ.evaluation import TrainingData, training_data
from circuit_econ.model import Format, Source
from circuit_econ.training import TrainingConfig, train

SMALL = TrainingConfig(
    n_layers=1, n_heads=2, d_model=16, steps=12, batch=4, warmup=3, checkpoints=5
)


def small_data(config: TrainingConfig = SMALL, **settings: Any) -> TrainingData:
    return training_data("embedded", {"length": 16, **settings}, config.batch, config.seed)


def small_config(**changes: Any) -> TrainingConfig:
    return dataclasses.replace(SMALL, **changes)


def files_of(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if not f.name.startswith(".")}


def source_of(folder: Path, step: int) -> Source:
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / f"step_{step}.safetensors")
    return Source(Format.TRANSFORMER_LENS, config, tensors, str(folder))


def losses_of(folder: Path) -> list[float]:
    with (folder / "training_loss.csv").open() as rows:
        return [float(row["loss"]) for row in csv.DictReader(rows)]


class Killed(KeyboardInterrupt):
    """What no library translates."""


def interrupt(folder: Path, stop: int) -> None:
    def progress(step: int, _total: int, _loss: float) -> None:
        if step == stop:
            raise Killed

    with pytest.raises(Killed):
        train(SMALL, small_data(), folder, progress=progress)
