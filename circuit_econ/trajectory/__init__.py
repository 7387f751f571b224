"""Training runs: where their checkpoints lie, reading them ahead, and whether they are intact."""

from circuit_econ.trajectory.ahead import Loaded, load_ahead
from circuit_econ.trajectory.audit import audit
from circuit_econ.trajectory.fingerprint import checkpoint_digest, describe
from circuit_econ.trajectory.opening import open_trajectory
from circuit_econ.trajectory.record import Checkpoint, Reader, Trajectory
from circuit_econ.trajectory.rules import Finding, findings
from circuit_econ.trajectory.steps import Selection, every, log_steps, parse_steps, shortened

__all__ = [
    "Checkpoint",
    "Finding",
    "Loaded",
    "Reader",
    "Selection",
    "Trajectory",
    "audit",
    "checkpoint_digest",
    "describe",
    "every",
    "findings",
    "load_ahead",
    "log_steps",
    "open_trajectory",
    "parse_steps",
    "shortened",
]
