"""circuit_econ: what every circuit of a transformer earns, and what it costs, over training.

    import circuit_econ as ce
    trajectory = ce.open_trajectory("path or hub name", steps=[0, 1000])
    evaluation = ce.Evaluation.from_file("text.txt", length=128)
    ledger = ce.walk(trajectory, evaluation, measures=["value", "capacity"], out="run")
    ledger.table("value").collect()

Names are imported when they are first used: opening a ledger does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuit_econ.errors import (
        CheckpointError,
        CircuitEconError,
        ConfigurationError,
        LedgerError,
    )
    from circuit_econ.evaluation import Evaluation
    from circuit_econ.graph import composition_graph, export
    from circuit_econ.ledger import Ledger, open_ledger
    from circuit_econ.measures.attention import AttentionSettings
    from circuit_econ.measures.capacity import CapacitySettings
    from circuit_econ.measures.circuits import CircuitSettings
    from circuit_econ.measures.edges import EdgeSettings
    from circuit_econ.measures.income import IncomeSettings
    from circuit_econ.measures.value import ValueSettings
    from circuit_econ.model.check import DisagreementError
    from circuit_econ.pipeline import measure, walk
    from circuit_econ.report import write_page
    from circuit_econ.training import TrainingConfig, train
    from circuit_econ.trajectory import Trajectory, every, log_steps, open_trajectory

__all__ = [
    "AttentionSettings",
    "CapacitySettings",
    "CheckpointError",
    "CircuitEconError",
    "CircuitSettings",
    "ConfigurationError",
    "DisagreementError",
    "EdgeSettings",
    "Evaluation",
    "IncomeSettings",
    "Ledger",
    "LedgerError",
    "TrainingConfig",
    "Trajectory",
    "ValueSettings",
    "composition_graph",
    "every",
    "export",
    "log_steps",
    "measure",
    "open_ledger",
    "open_trajectory",
    "train",
    "walk",
    "write_page",
]

_HOMES = {
    "circuit_econ.errors": (
        "CheckpointError",
        "CircuitEconError",
        "ConfigurationError",
        "LedgerError",
    ),
    "circuit_econ.evaluation": ("Evaluation",),
    "circuit_econ.graph": ("composition_graph", "export"),
    "circuit_econ.ledger": ("Ledger", "open_ledger"),
    "circuit_econ.measures.attention": ("AttentionSettings",),
    "circuit_econ.measures.capacity": ("CapacitySettings",),
    "circuit_econ.measures.circuits": ("CircuitSettings",),
    "circuit_econ.measures.edges": ("EdgeSettings",),
    "circuit_econ.measures.income": ("IncomeSettings",),
    "circuit_econ.measures.value": ("ValueSettings",),
    "circuit_econ.model.check": ("DisagreementError",),
    "circuit_econ.pipeline": ("measure", "walk"),
    "circuit_econ.report": ("write_page",),
    "circuit_econ.training": ("TrainingConfig", "train"),
    "circuit_econ.trajectory": ("Trajectory", "every", "log_steps", "open_trajectory"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'circuit_econ' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
