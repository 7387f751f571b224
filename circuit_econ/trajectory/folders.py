"""Opens folders of checkpoints: Hugging Face folders, TransformerLens files, or one checkpoint."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuit_econ.errors import CheckpointError, ConfigurationError
from circuit_econ.model.source import Format, Source
from circuit_econ.trajectory.files import (
    CONFIG,
    WEIGHTS,
    read_folder,
    read_json,
    read_tensors,
    weight_files,
)
from circuit_econ.trajectory.record import Checkpoint, Trajectory

__all__ = ["CheckpointFolders", "StepFiles", "open_folder"]

_FOLDER = re.compile(r"(?:checkpoint|step)[-_]?(\d+)")
_FILE = re.compile(r"step_(\d+)\.(?:safetensors|pt|pth)")
_FORMS = (
    "a trajectory is (1) folders checkpoint-<step>/ or step<step>/, each with config.json and "
    "model.safetensors or pytorch_model.bin, (2) config.json beside step_<step>.safetensors, .pt "
    "or .pth files, or (3) one checkpoint: config.json and its weights"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointFolders:
    """Reads Hugging Face checkpoints, one folder a step."""

    folders: Mapping[int, Path]
    format: Format = Format.HUGGING_FACE

    def config(self, step: int) -> dict[str, Any]:
        """The content of the folder's ``config.json``."""
        return read_json(self.folders[step] / CONFIG)

    def bytes(self, step: int) -> int | None:
        """Size of the weight files; None if they are incomplete."""
        return folder_bytes(self.folders[step])

    def read(self, step: int) -> Source:
        """Configuration and tensors."""
        folder = self.folders[step]
        return Source(self.format, self.config(step), read_folder(folder), str(folder))


@dataclass(frozen=True, slots=True)
class StepFiles:
    """Reads TransformerLens checkpoints, one file a step beside one configuration."""

    files: Mapping[int, Path]
    shared: Mapping[str, Any]
    format: Format = Format.TRANSFORMER_LENS

    def config(self, step: int) -> dict[str, Any]:
        """The configuration that all steps share."""
        return dict(self.shared)

    def bytes(self, step: int) -> int | None:
        """Size of the step's file; None if it has gone."""
        path = self.files[step]
        return path.stat().st_size if path.exists() else None

    def read(self, step: int) -> Source:
        """Configuration and tensors."""
        path = self.files[step]
        return Source(self.format, self.config(step), read_tensors(path), str(path))


def open_folder(folder: Path) -> Trajectory:
    """The trajectory in a folder, in whichever of the three forms it has.

    Raises:
        ConfigurationError: If there is no such folder, it holds no checkpoint, two checkpoints
            claim one step, or it mixes two forms.
    """
    inner, lying = _entries(folder)
    folders = _by_step(folder, inner, _FOLDER)
    files = _by_step(folder, lying, _FILE)
    if folders and files:
        raise ConfigurationError(
            f"{folder} holds both checkpoint folders ({_some(folders)}) and step files "
            f"({_some(files)}); move one kind elsewhere or name one checkpoint folder"
        )
    if files:
        return _step_files(folder, files)
    if not folders and any(path.name in WEIGHTS for path in lying):
        match = _FOLDER.fullmatch(folder.resolve().name)
        folders = {int(match[1]) if match else 0: folder}
    if not folders:
        names = [f"{path.name}/" for path in inner] + [path.name for path in lying]
        found = f"holds {_first(names)} but no checkpoint" if names else "is empty"
        raise ConfigurationError(f"{folder} {found}; {_FORMS}")
    return Trajectory(
        name=folder.resolve().name,
        origin=str(folder),
        checkpoints=tuple(
            Checkpoint(step, _tokens_seen(path), str(path)) for step, path in folders.items()
        ),
        reader=CheckpointFolders(folders),
    )


def folder_bytes(folder: Path) -> int | None:
    """Size in bytes of a checkpoint folder's weight files; None if one is missing."""
    try:
        return sum(path.stat().st_size for path in weight_files(folder))
    except (CheckpointError, OSError):
        return None  # reading the checkpoint will say what is wrong


def _step_files(folder: Path, files: dict[int, Path]) -> Trajectory:
    try:
        shared = read_json(folder / CONFIG)
    except CheckpointError as error:  # one file for all steps: the whole run is unusable
        raise ConfigurationError(str(error)) from None
    per_step = _tokens_per_step(folder / "training.json")
    return Trajectory(
        name=folder.resolve().name,
        origin=str(folder),
        checkpoints=tuple(
            Checkpoint(step, None if per_step is None else step * per_step, str(path))
            for step, path in files.items()
        ),
        reader=StepFiles(files, shared),
    )


def _tokens_per_step(path: Path) -> int | None:
    if not path.exists():
        return None
    try:
        number = read_json(path).get("tokens_per_step")
    except CheckpointError as error:
        raise ConfigurationError(str(error)) from None
    if number is not None and (type(number) is not int or number < 1):
        raise ConfigurationError(
            f"{path}: tokens_per_step must be a whole number above 0, not {number!r}"
        )
    return number


def _tokens_seen(folder: Path) -> int | None:
    """What the Hugging Face trainer recorded; it writes 0 where counting was off."""
    path = folder / "trainer_state.json"
    if not path.exists():
        return None
    try:
        number = read_json(path).get("num_input_tokens_seen")
    except CheckpointError as error:
        # The weights do not depend on it: the checkpoint stays, its tokens are unknown.
        _log.warning("tokens seen are unknown: %s", error)
        return None
    return number if type(number) is int and number > 0 else None


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and files in it, by name."""
    try:
        entries = sorted(folder.iterdir())
        inner = [path for path in entries if path.is_dir()]
        return inner, [path for path in entries if path.is_file()]
    except FileNotFoundError:
        raise ConfigurationError(
            f"no such folder: {folder} (on the hub a name is owner/name); {_FORMS}"
        ) from None
    except NotADirectoryError:
        raise ConfigurationError(f"{folder} is a file, not a folder; {_FORMS}") from None
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be opened ({error.strerror or error}); check its permissions"
        ) from None


def _by_step(folder: Path, entries: Iterable[Path], pattern: re.Pattern[str]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in entries:
        if match := pattern.fullmatch(path.name):
            step = int(match[1])
            if step in found:
                raise ConfigurationError(
                    f"{folder}: {found[step].name} and {path.name} are both step {step}; "
                    "move one of them elsewhere"
                )
            found[step] = path
    return dict(sorted(found.items()))


def _first(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _some(found: Mapping[int, Path]) -> str:
    return ", ".join(path.name for path in list(found.values())[:2])
