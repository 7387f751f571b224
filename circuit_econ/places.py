"""Where the project's YAML lies, what is installed; imports nothing, so ``--help`` may ask."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

__all__ = ["config_folder", "installed"]


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
