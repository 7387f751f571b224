"""Errors that a user can cause and mend: one line says what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["CheckpointError", "CircuitEconError", "ConfigurationError", "LedgerError", "unknown"]


class CircuitEconError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(CircuitEconError):
    """The run cannot start as asked: wrong name, path, option or combination (exit code 2)."""


class CheckpointError(CircuitEconError):
    """One checkpoint cannot be measured; a walk records the reason and goes on (exit code 1)."""


class LedgerError(CircuitEconError):
    """A ledger cannot be opened, written or extended (exit code 2)."""


def unknown(what: str, name: object, known: Iterable[object]) -> ConfigurationError:
    """The error for a name that does not exist: says what does."""
    return ConfigurationError(
        f"unknown {what} {str(name)!r}; there is: {', '.join(str(k) for k in known) or 'nothing'}"
    )
