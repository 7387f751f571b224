"""Where the project's YAML lies; imports nothing, so that ``--help`` may ask."""

from __future__ import annotations

from pathlib import Path

__all__ = ["config_folder"]


def config_folder() -> Path:
    """The folder of YAML files: the checkout's if this is one, else the installed package's."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    # An editable install may leave a stale copy inside the package: the checkout's goes first. What
    # lies beside an installed package is not ours, so a checkout must look like one.
    if (checkout / "pyproject.toml").is_file() and (checkout / "conf" / "config.yaml").is_file():
        return checkout / "conf"
    return package / "conf"
