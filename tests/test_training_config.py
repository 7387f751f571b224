"""The settings of training: checkpoints, enums, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from small_runs import small_config

from circuit_econ.errors import ConfigurationError
from circuit_econ.training import Normalization, Optimiser, Positions, TrainingConfig
from circuit_econ.training.config import _member


@pytest.mark.parametrize(
    ("steps", "checkpoints", "expected"),
    [
        (1, 2, [0, 1]),
        (8, 2, [0, 8]),
        (8, 5, [0, 1, 2, 4, 8]),
        (1000, 5, [0, 1, 10, 100, 1000]),
        (3, 15, [0, 1, 2, 3]),
        (400, 15, [0, 1, 2, 3, 4, 6, 10, 16, 25, 40, 63, 100, 159, 252, 400]),
    ],
)
def test_checkpoints_are_log_spaced(steps: int, checkpoints: int, expected: list[int]) -> None:
    config = TrainingConfig(steps=steps, checkpoints=checkpoints, warmup=0)
    assert config.saved_steps == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 0}, "n_layers=0 must be at least 1"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"d_mlp": 0}, "d_mlp=0 must be at least 1"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
        ({"seed": 2**63}, f"seed must be at most {2**63 - 1}, not {2**63}"),
        (
            {"d_model": 15},
            "d_model=15 cannot be shared evenly by n_heads=2; change one of them or give d_head",
        ),
        (
            {"d_head": 3, "positional_embedding_type": Positions.rotary},
            "rotary positions turn pairs of coordinates: d_head=3 must be even",
        ),
        ({"betas": [0.9]}, "betas=[0.9] must be two numbers from 0 to below 1"),
        ({"betas": [0.9, 1.0]}, "betas=[0.9, 1.0] must be two numbers from 0 to below 1"),
        ({"momentum": 1.0}, "momentum=1.0 must be from 0 to below 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be at least 0"),
        ({"gradient_clip": 0.0}, "gradient_clip=0.0 must be above 0, or null for no limit"),
        ({"warmup": 13}, "warmup=13 must be from 0 to steps=12"),
        ({"checkpoints": 1}, "checkpoints=1 must be at least 2"),
        ({"checkpoint_steps": []}, "checkpoint_steps=[] must be steps from 0 to steps=12"),
        ({"checkpoint_steps": [13]}, "checkpoint_steps=[13] must be steps from 0 to steps=12"),
        ({"checkpoint_steps": [-1]}, "checkpoint_steps=[-1] must be steps from 0 to steps=12"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        small_config(**changes)
    assert str(error.value) == message


def test_enums_are_found_by_name() -> None:
    assert _member(Optimiser, "sgd", "optimiser") is Optimiser.sgd
    with pytest.raises(ConfigurationError) as error:
        _member(Normalization, "BatchNorm", "normalization_type")
    assert str(error.value) == (
        "unknown normalization_type 'BatchNorm'; there is: LN, LNPre, RMS, RMSPre"
    )


def test_the_configuration_is_a_structured_one() -> None:
    from omegaconf import OmegaConf

    overrides = {"optimiser": "sgd", "normalization_type": None, "checkpoint_steps": [1, 2]}
    merged = OmegaConf.merge(OmegaConf.structured(TrainingConfig), overrides)
    assert OmegaConf.to_object(merged) == TrainingConfig(
        optimiser=Optimiser.sgd, normalization_type=None, checkpoint_steps=[1, 2]
    )
