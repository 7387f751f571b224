"""A configuration that remembers which of its fields were read, so that the rest can be refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from circuit_econ.errors import CheckpointError
from circuit_econ.model.config import Activation

__all__ = ["Fields"]

_ACTIVATIONS: Final = {
    "relu": Activation.RELU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}


class Fields:
    """A configuration that remembers what was read, so that the rest can be refused by name."""

    def __init__(self, values: Mapping[str, Any], origin: str) -> None:
        self.values, self.origin, self.seen = values, origin, set()

    def get(self, name: str, default: Any = None) -> Any:
        """A field's value, or the default where it is absent or null."""
        self.seen.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def need(self, name: str) -> Any:
        """A field's value; raises a CheckpointError if it is absent or null."""
        value = self.get(name)
        if value is None:
            raise CheckpointError(f"{self.origin}: config.json says no {name!r}, which is needed")
        return value

    def refuse(self, name: str, why: str = "is not implemented") -> CheckpointError:
        """The error that names a field, its value, and why it is not accepted."""
        return CheckpointError(
            f"{self.origin}: {name} = {self.values.get(name)!r} {why}, and it changes what the "
            "model computes"
        )

    def activation(self, name: str, default: str | None = None) -> Activation:
        """A field that names a nonlinearity; raises a CheckpointError for others."""
        value = str(self.get(name, default)).lower()
        if value not in _ACTIVATIONS:
            raise self.refuse(name, f"is not implemented (there is: {', '.join(_ACTIVATIONS)})")
        return _ACTIVATIONS[value]

    def all_seen(self, defaults: Mapping[str, Any], harmless: frozenset[str]) -> None:
        """Raise a CheckpointError for the first field that was not read and is not at its default.

        Args:
            defaults: The value of each field that switches it off.
            harmless: Fields that leave the function alone.
        """
        for name, value in self.values.items():
            if name in self.seen or name in harmless or value == defaults.get(name):
                continue
            raise self.refuse(name)
