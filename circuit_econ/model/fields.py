"""A configuration read field by field, each of a type and range; what is not read is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from reprlib import Repr
from typing import Any, Final

from circuit_econ.errors import CheckpointError
from circuit_econ.model.config import Activation

__all__ = ["MOST_LAYERS", "Fields", "shown"]

MOST_LAYERS: Final = 10_000
MOST: Final = 1 << 28
"""Of any size in a configuration, far above every model there is: a number beyond it is a mistake
or meant to exhaust the machine. Sizes within it are compared with the tensors."""

_ACTIVATIONS: Final = {
    "relu": Activation.RELU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}

_REPR: Final = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlist = _REPR.maxdict = _REPR.maxtuple = 4
_REPR.maxlevel = 3


def shown(value: object) -> str:
    """A value as messages show it: on one line, and not the whole of a long one."""
    return _REPR.repr(value)


class Fields:
    """A configuration that remembers what was read, so that the rest can be refused by name.

    Every reading says what is expected; a value that is not becomes a CheckpointError with the
    field, the value and what is expected of it. Null counts as absent: the default holds.
    """

    def __init__(self, values: Mapping[str, Any], origin: str) -> None:
        self.values, self.origin = values, origin
        self.seen: set[str] = set()

    def size(self, name: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
        """A whole number from ``least`` to ``most``; needed where there is no default."""
        value = self._get(name, default)
        if not _whole(value) or not least <= value <= most:
            raise self.wrong(name, f"a whole number from {least} to {most}")
        return value

    def size_or_none(self, name: str, most: int = MOST) -> int | None:
        """A whole number from 1, or nothing."""
        return None if self.absent(name) else self.size(name, most=most)

    def number(
        self, name: str, default: float | None = None, least: float = -1e30, most: float = 1e30
    ) -> float:
        """A number from ``least`` to ``most``, never NaN; needed where there is no default."""
        value = self._get(name, default)
        real = isinstance(value, float) or _whole(value)
        if not real or not math.isfinite(value) or not least <= value <= most:
            raise self.wrong(name, f"a number from {least:g} to {most:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None, known: Iterable[str]) -> str:
        """One of some names, in whatever case."""
        value, names = self._get(name, default), tuple(known)
        if not isinstance(value, str):
            raise self.wrong(name, f"one of {', '.join(names)}")
        if value.lower() not in names:
            raise self.refuse(name, f"is not implemented (there is: {', '.join(names)})")
        return value.lower()

    def names(self, name: str, count: int, known: Iterable[str]) -> tuple[str, ...] | None:
        """A list of ``count`` known names, or nothing."""
        if self.absent(name):
            return None
        value, allowed = self.values[name], tuple(known)
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise self.wrong(name, f"a list of {count} names, one for each layer")
        for one in value:
            if one not in allowed:
                raise self.refuse(name, f"is not implemented (there is: {', '.join(allowed)})")
        return tuple(value)

    def table(self, name: str) -> dict[str, Any]:
        """A table of further fields; empty where it is absent."""
        if self.absent(name):
            return {}
        value = self.values[name]
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.wrong(name, "a table of names and values")
        return dict(value)

    def activation(self, name: str, default: str | None = None) -> Activation:
        """A field that names a nonlinearity."""
        return _ACTIVATIONS[self.text(name, default, _ACTIVATIONS)]

    def absent(self, name: str) -> bool:
        """Whether a field, read from now on, is not there or null."""
        self.seen.add(name)
        return self.values.get(name) is None

    def unused(self, *names: str) -> None:
        """Fields that change nothing, because what would use them is switched off."""
        self.seen.update(names)

    def wrong(self, name: str, expected: str) -> CheckpointError:
        """The error for a value of the wrong type or range."""
        value = shown(self.values.get(name))
        return CheckpointError(f"{self.origin}: {name} = {value} in config.json is not {expected}")

    def refuse(self, name: str, why: str = "is not implemented") -> CheckpointError:
        """The error that names a field, its value, and why it is not accepted."""
        return CheckpointError(
            f"{self.origin}: {name} = {shown(self.values.get(name))} {why}, and it changes what "
            "the model computes"
        )

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

    def _get(self, name: str, default: Any) -> Any:
        if not self.absent(name):
            return self.values[name]
        if default is None:
            raise CheckpointError(f"{self.origin}: config.json says no {name!r}, which is needed")
        return default


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
