"""What ``run.yaml`` says of a run: its identity, its settings, what computed it, what to know."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from typing import Any

import torch

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Plan
from circuit_econ.model import ModelConfig
from circuit_econ.settings import Settings
from circuit_econ.tables import SCHEMA_VERSION
from circuit_econ.trajectory import Trajectory

__all__ = ["describe", "device_name", "notes"]

_FEW = 32
"""Reference sequences below which a reader is reminded that baselines are a sample, too."""

_VERSIONED = ("circuit_econ", "torch", "transformer-lens", "transformers", "polars", "safetensors")


def describe(
    trajectory: Trajectory,
    evaluation: Evaluation,
    settings: Settings,
    plan: Plan,
    configuration: dict[str, Any],
    study: str,
) -> dict[str, Any]:
    """What ``run.yaml`` says; ``identity`` is what may not change within one ledger."""
    reference = evaluation.reference
    return {
        "study": study,
        "schema_version": SCHEMA_VERSION,
        "identity": {
            "trajectory": trajectory.origin,
            "evaluation": {
                "name": evaluation.name,
                "sequences": len(evaluation.tokens),
                "length": evaluation.length,
                "digest": evaluation.digest,
            },
            "baselines": list(settings.baselines),
            "seed": settings.seed,
            "dtype": settings.numbers,
            "precision": None if settings.precision is None else asdict(settings.precision),
            "device": settings.device.type,
            "measures": {name: asdict(options) for name, options in settings.options.items()},
        },
        "plan": asdict(plan),
        "trajectory": {"name": trajectory.name, "origin": trajectory.origin},
        "evaluation": {
            "name": evaluation.name,
            "sequences": len(evaluation.tokens),
            "length": evaluation.length,
            "scored": evaluation.scored,
            "documents": None if evaluation.clusters is None else len(evaluation.clusters.unique()),
            "reference": None if reference is None else len(reference),
            "digest": evaluation.digest,
            **{k: v for k, v in evaluation.description.items() if k not in ("sequences", "length")},
        },
        "configuration": configuration,
        "digests": {"evaluation": evaluation.digest},
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _VERSIONED},
        },
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
    elif evaluation.clusters is not None and len(evaluation.clusters.unique()) == 1:
        found.append("A single document: standard errors cannot be estimated.")
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_name(device: torch.device) -> str:
    """What a device is called in a ledger."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
