"""Training small models of one's own: a configuration and data in, a trajectory folder out."""

from circuit_econ.training.config import (
    Activation,
    Normalization,
    Optimiser,
    Positions,
    Schedule,
    TrainingConfig,
)
from circuit_econ.training.loop import learning_rate, train

__all__ = [
    "Activation",
    "Normalization",
    "Optimiser",
    "Positions",
    "Schedule",
    "TrainingConfig",
    "learning_rate",
    "train",
]
