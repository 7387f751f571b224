"""Whether a model goes with a run: with its evaluation set, its measures, its other checkpoints."""

from __future__ import annotations

from typing import Any

import polars as pl

from circuit_econ.describing import model_identity
from circuit_econ.errors import ENDING, CheckpointError, ConfigurationError, told
from circuit_econ.evaluation import Evaluation
from circuit_econ.model import ModelConfig, Source, read_config
from circuit_econ.model.intervene import components
from circuit_econ.settings import Settings
from circuit_econ.tables import Kind, make_table
from circuit_econ.trajectory import Trajectory

__all__ = ["check_fits", "components_table", "run_shape"]


def check_fits(config: ModelConfig, evaluation: Evaluation) -> None:
    """Raise a CheckpointError if the evaluation set does not go with the model."""
    if evaluation.length > config.n_ctx:
        raise CheckpointError(
            f"sequences of {evaluation.length} tokens are longer than the model's context of "
            f"{config.n_ctx}; choose evaluation.length={config.n_ctx} or less"
        )
    for what, needed, has in (
        ("token id", evaluation.vocabulary, config.d_vocab),
        ("target id", evaluation.target_vocabulary, config.d_vocab_out),
    ):
        if needed > has:
            raise CheckpointError(
                f"{what} {needed - 1} is outside the model's vocabulary of {has}; the evaluation "
                "set was made with another tokenizer"
            )


def components_table(config: ModelConfig) -> pl.DataFrame:
    """The ``components`` table of a model, in the order of its forward pass."""
    found = components(config)
    columns: dict[str, Any] = {
        "component": [c.name for c in found] + [str(Kind.LOGITS)],
        "kind": [str(c.kind) for c in found] + [str(Kind.LOGITS)],
        "layer": [c.layer for c in found] + [None],
        "head": [c.head for c in found] + [None],
    }
    return make_table("components", columns)


def run_shape(
    trajectory: Trajectory, evaluation: Evaluation, settings: Settings
) -> tuple[ModelConfig, dict[str, Any]]:
    """The run's model, and what of it is part of the run's identity.

    It is that of the first checkpoint whose configuration is readable, or that of most others where
    they differ: one that was damaged must not be what the others are compared with.

    Raises:
        ConfigurationError: If none is, or measures or evaluation set do not go with it, which
            is known before a weight is read.
    """
    reasons: list[str] = []
    found: list[tuple[ModelConfig, dict[str, Any]]] = []
    for checkpoint in trajectory.checkpoints:
        step = checkpoint.step
        try:
            source = Source(trajectory.format(step), trajectory.config(step), {}, checkpoint.origin)
            found.append((read_config(source), model_identity(source)))
        except (ConfigurationError, *ENDING):
            raise
        except BaseException as error:
            reasons.append(told(error))
            continue
        if source.origin.partition("@")[2]:
            break  # revisions of a hub are fetched one by one, when their turn comes
    if not found:
        raise ConfigurationError(reasons[0])
    names = [repr(identity) for _, identity in found]
    config, identity = found[names.index(max(names, key=names.count))]
    for one in settings.measures:
        one.check(config, settings.options[one.name])
    try:
        check_fits(config, evaluation)
    except CheckpointError as error:
        raise ConfigurationError(str(error)) from None
    return config, identity
