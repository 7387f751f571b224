"""What ``run.yaml`` says of a run: its identity, its settings, what computed it, what to know."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Plan
from circuit_econ.model import ModelConfig, Source, read_config
from circuit_econ.places import installed
from circuit_econ.settings import Settings
from circuit_econ.tables import SCHEMA_VERSION
from circuit_econ.trajectory import Trajectory

__all__ = ["describe", "device_name", "model_identity", "notes", "versions"]

_FEW = 32
"""Reference sequences below which a reader is reminded that baselines are a sample, too."""

_VERSIONED = ("circuit_econ", "torch", "transformer-lens", "transformers", "polars", "safetensors")


def describe(
    trajectory: Trajectory,
    evaluation: Evaluation,
    settings: Settings,
    plan: Plan,
    model: Mapping[str, Any],
    configuration: dict[str, Any],
    study: str,
) -> dict[str, Any]:
    """What ``run.yaml`` says; ``identity`` is what may not change within one ledger.

    It holds everything that decides the numbers, the checkpoints' weights apart: each part is
    sealed with the digest of those.
    """
    reference = evaluation.reference
    return {
        "study": study,
        "schema_version": SCHEMA_VERSION,
        "identity": {
            "trajectory": _place(trajectory),
            "model": dict(model),
            "evaluation": {
                "name": evaluation.name,
                "sequences": len(evaluation.tokens),
                "length": evaluation.length,
                "digest": evaluation.digest,
                "tokenizer": evaluation.description.get("tokenizer_digest"),
            },
            "baselines": list(settings.baselines),
            "seed": settings.seed,
            "dtype": settings.numbers,
            "precision": None if settings.precision is None else asdict(settings.precision),
            "device": settings.device.type,
            "measures": {
                one.name: {"version": one.version, **asdict(settings.options[one.name])}
                for one in settings.measures
            },
        },
        "plan": asdict(plan),
        "trajectory": {"name": trajectory.name, "origin": trajectory.origin},
        "evaluation": {
            "name": evaluation.name,
            "sequences": len(evaluation.tokens),
            "length": evaluation.length,
            "scored": evaluation.scored,
            "documents": None if evaluation.clusters is None else evaluation.documents,
            "reference": None if reference is None else len(reference),
            "digest": evaluation.digest,
            **{k: v for k, v in evaluation.description.items() if k not in ("sequences", "length")},
        },
        "configuration": configuration,
        "digests": {"evaluation": evaluation.digest},
        "versions": versions(),
        "device": device_name(settings.device),
    }


def notes(evaluation: Evaluation, config: ModelConfig) -> list[str]:
    """What a reader of the numbers has to know; said when a walk begins, and on its page."""
    found = []
    tokenizer, ids = (evaluation.description.get(k) for k in ("tokenizer", "vocabulary"))
    if tokenizer in ("bytes", "bpe") and ids is not None and ids < config.d_vocab:
        found.append(
            f"The evaluation set's tokenizer ({tokenizer}, {ids} ids) is not that of a model with "
            f"{config.d_vocab}: name the model's own with evaluation.tokenizer."
        )
    if evaluation.reference is None:
        found.append("Baselines are taken from the evaluation sequences themselves.")
    elif len(evaluation.reference) < _FEW:
        found.append(
            f"Baselines rest on {len(evaluation.reference)} reference sequences: values and their "
            "errors are given these, and other references would give others."
        )
    if len(evaluation.tokens) == 1:
        found.append("A single sequence: standard errors cannot be estimated.")
    elif evaluation.documents == 1:
        found.append("A single document: standard errors cannot be estimated.")
    return found


def versions() -> dict[str, str | None]:
    """What computes here: versions of distributions, and the CUDA that PyTorch was built for."""
    libraries = {name: installed(name) for name in _VERSIONED}
    return {"python": platform.python_version(), **libraries, "cuda": torch.version.cuda}


def model_identity(source: Source) -> dict[str, Any]:
    """The configuration of a checkpoint as it was read: what is computed, and how it was drawn.

    Fields that say nothing of either (such as the release that saved it) make no other model.

    Raises:
        CheckpointError: If the configuration is not supported.
    """
    read = _plain(asdict(read_config(Source(source.format, source.config, {}, source.origin))))
    # Circuits are compared with untrained models, which are drawn as these fields say.
    drawn = {k: _plain(v) for k, v in sorted(source.config.items()) if k.startswith("init")}
    return {**read, **drawn}


def _plain(value: Any) -> Any:
    """As YAML gives it back."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(v) for v in value]
        # One per layer: said once where all are the same.
        return {"each": items[0]} if len(items) > 1 and all(i == items[0] for i in items) else items
    if isinstance(value, Enum):
        return value.value
    fine = isinstance(value, str | int | bool | None) or (
        isinstance(value, float) and math.isfinite(value)
    )
    return value if fine else str(value)  # NaN is not itself: each walk would see a change


def _place(trajectory: Trajectory) -> str:
    """Where the run lies, from wherever it was opened: a path in full, or a name on the hub."""
    folder = Path(trajectory.origin).expanduser()
    return str(folder.resolve()) if _exists(folder) else trajectory.origin


def _exists(folder: Path) -> bool:
    try:
        return folder.exists()
    except (OSError, ValueError):
        return False


def device_name(device: torch.device) -> str:
    """What a device is called in a ledger."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
