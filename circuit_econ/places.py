"""Where the project's YAML lies, what is installed, what can be a name; imports nothing heavy."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Final

from circuit_econ.errors import ConfigurationError

__all__ = ["check_name", "config_folder", "installed", "local_path"]

_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 4095
"""Bytes that every usual file system takes for a name, and Linux for a whole path."""


def config_folder() -> Path:
    """The folder of YAML files: the checkout's if this is one, else the installed package's."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    # An editable install may leave a stale copy inside the package: the checkout's goes first. What
    # lies beside an installed package is not ours, so a checkout must look like one.
    if (checkout / "pyproject.toml").is_file() and (checkout / "conf" / "config.yaml").is_file():
        return checkout / "conf"
    return package / "conf"


def installed(name: str) -> str:
    """The version of a distribution that is installed: what is meant by "version" everywhere.

    A module's own ``__version__`` may say more: PyTorch's names its build (``2.13.0+cu130``).
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def local_path(given: str | Path, what: str) -> Path:
    """A path on this machine, ``~`` resolved; whether there is anything is not asked.

    Args:
        given: As a user wrote it.
        what: What it is a path of, for the message.

    Raises:
        ConfigurationError: If no file system can hold such a name, or ``~user`` is nobody.
    """
    check_name(str(given), what)
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ConfigurationError(
            f"{what}: there is no user of that name for {str(given)!r}; write ./~… for a name that "
            "begins with ~"
        ) from None


def check_name(text: str, what: str) -> None:
    """Check that text can be a name: of a file, or of whatever is kept in files.

    Raises:
        ConfigurationError: If it is too long, holds NUL, or is no text at all.
    """
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ConfigurationError(f"{what} must be text without NUL and in UTF-8, not {text!r}")
    longest = max(len(part.encode()) for part in text.split("/"))
    if longest > _LONGEST_NAME or len(text.encode()) > _LONGEST_PATH:
        raise ConfigurationError(
            f"{what}: no file system takes a name of more than {_LONGEST_NAME} bytes or a path of "
            f"more than {_LONGEST_PATH}: {text!r}"
        )
