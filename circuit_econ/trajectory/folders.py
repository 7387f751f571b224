"""Opens folders of checkpoints: Hugging Face folders, TransformerLens files, or one checkpoint."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuit_econ.errors import CheckpointError, ConfigurationError, reason
from circuit_econ.model.source import Format, Source
from circuit_econ.model.weights import as_saved
from circuit_econ.trajectory.boundary import read_json, regular, shown
from circuit_econ.trajectory.files import (
    ADAPTER,
    CONFIG,
    WEIGHTS,
    adapter_error,
    read_folder,
    weight_files,
)
from circuit_econ.trajectory.names import SUFFIXES, by_step, step_in
from circuit_econ.trajectory.record import Checkpoint, Trajectory
from circuit_econ.trajectory.tensors import read_tensors

__all__ = ["CheckpointFolders", "Once", "StepFiles", "folder_bytes", "open_folder"]

_TRAINING = "training.json"
_FORMS = (
    "a trajectory is (1) folders checkpoint-<step>/ or step<step>/, each with config.json and "
    "model.safetensors or pytorch_model.bin, (2) config.json beside step_<step>.safetensors, .pt, "
    ".pth or .ckpt files, or (3) one checkpoint: config.json and its weights"
)
_BESIDE = re.compile(r"\..*|.*\.(json|csv|md|txt|jinja|model|ya?ml|log)|training_args\.bin")
"""Files that lie beside checkpoints and hold no weights: not worth a line."""

_log = logging.getLogger(__name__)


class Once:
    """Says each line once, however many checkpoints it holds for."""

    def __init__(self, where: str) -> None:
        """``where`` begins every line."""
        self.where, self.said = where, set[str]()

    def __call__(self, line: str) -> None:
        """Log the line, unless it was said before."""
        if line not in self.said:
            self.said.add(line)
            _log.info("%s: %s", self.where, line)


@dataclass(frozen=True, slots=True)
class CheckpointFolders:
    """Reads Hugging Face checkpoints, one folder a step."""

    folders: Mapping[int, Path]
    say: Once
    format: Format = Format.HUGGING_FACE

    def config(self, step: int) -> dict[str, Any]:
        """The content of the folder's ``config.json``."""
        if (error := adapter_error(self.folders[step])) is not None:
            raise error
        return read_json(self.folders[step] / CONFIG)

    def bytes(self, step: int) -> int | None:
        """Size of the weight files; None if they are incomplete."""
        return folder_bytes(self.folders[step])

    def read(self, step: int) -> Source:
        """Configuration and tensors."""
        folder, config = self.folders[step], self.config(step)
        tensors = read_folder(folder, self.say)
        return as_saved(Source(self.format, config, tensors, shown(folder)), self.say)


@dataclass(frozen=True, slots=True)
class StepFiles:
    """Reads checkpoints of one file a step beside one configuration."""

    files: Mapping[int, Path]
    shared: Mapping[str, Any]
    say: Once
    format: Format = Format.TRANSFORMER_LENS

    def config(self, step: int) -> dict[str, Any]:
        """The configuration that all steps share."""
        return dict(self.shared)

    def bytes(self, step: int) -> int | None:
        """Size of the step's file; None if it has gone."""
        try:
            return regular(self.files[step])
        except (CheckpointError, OSError):
            return None  # reading the checkpoint will say what is wrong

    def read(self, step: int) -> Source:
        """Configuration and tensors."""
        path = self.files[step]
        tensors = read_tensors(path, self.say)
        source = Source(self.format, self.config(step), tensors, shown(path))
        return as_saved(source, self.say)


def open_folder(folder: Path) -> Trajectory:
    """The trajectory in a folder, in whichever of the three forms it has.

    What is in it but no checkpoint of the trajectory is named in one line of the log.

    Raises:
        ConfigurationError: If there is no such folder, it holds no checkpoint, two checkpoints
            claim one step, it mixes two forms, or names leave open which number is the step.
    """
    inner, lying = _entries(folder)
    single = any(path.name in WEIGHTS for path in lying)
    weights = [path for path in lying if path.suffix in SUFFIXES]
    folders, left = by_step(folder, inner, files=False, alone=not weights and not single)
    files, spare = by_step(folder, weights, files=True, alone=not folders and not single)
    if folders and files:
        raise ConfigurationError(
            f"{folder} holds both checkpoint folders ({_some(folders)}) and step files "
            f"({_some(files)}); move one kind elsewhere or name one checkpoint folder"
        )
    if not folders and not files:
        if single:
            return _trajectory(folder, {step_in(folder.resolve().name) or 0: folder})
        if any(path.name == ADAPTER for path in lying):
            raise ConfigurationError(str(adapter_error(folder)))
        names = [f"{path.name}/" for path in inner] + [path.name for path in lying]
        found = f"holds {_first(names)} but no checkpoint" if names else "is empty"
        raise ConfigurationError(f"{folder} {found}; {_FORMS}")
    others = [path for path in lying if path.suffix not in SUFFIXES]
    _say_left(folder, left, sorted([*spare, *others]))
    return _step_files(folder, files) if files else _trajectory(folder, folders)


def _trajectory(folder: Path, folders: Mapping[int, Path]) -> Trajectory:
    return Trajectory(
        name=shown(Path(folder.resolve().name)),
        origin=shown(folder),
        checkpoints=tuple(
            Checkpoint(step, _tokens_seen(path), shown(path)) for step, path in folders.items()
        ),
        reader=CheckpointFolders(folders, Once(shown(folder))),
    )


def _say_left(folder: Path, inner: list[Path], lying: list[Path]) -> None:
    names = [f"{path.name}/" for path in inner if not path.name.startswith(".")]
    names += [path.name for path in lying if not _BESIDE.fullmatch(path.name)]
    if names:
        _log.info(
            "%s: left out as no checkpoint of the run: %s (%d)", folder, _first(names), len(names)
        )


def folder_bytes(folder: Path) -> int | None:
    """Size in bytes of a checkpoint folder's weight files; None if one is missing."""
    try:
        return sum(regular(path) for path in weight_files(folder))
    except (CheckpointError, OSError):
        return None  # reading the checkpoint will say what is wrong


def _step_files(folder: Path, files: dict[int, Path]) -> Trajectory:
    try:
        shared = read_json(folder / CONFIG)
    except CheckpointError as error:  # one file for all steps: the whole run is unusable
        raise ConfigurationError(str(error)) from None
    per_step = _tokens_per_step(folder / _TRAINING)
    theirs = "model_type" in shared and "d_model" not in shared
    kind = Format.HUGGING_FACE if theirs else Format.TRANSFORMER_LENS
    return Trajectory(
        name=shown(Path(folder.resolve().name)),
        origin=shown(folder),
        checkpoints=tuple(
            Checkpoint(step, None if per_step is None else step * per_step, shown(path))
            for step, path in files.items()
        ),
        reader=StepFiles(files, shared, Once(shown(folder)), kind),
    )


def _tokens_per_step(path: Path) -> int | None:
    if not os.path.lexists(path):
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
    try:
        if not path.exists():
            return None
        number = read_json(path).get("num_input_tokens_seen")
    except (CheckpointError, OSError) as error:
        # The weights do not depend on it: the checkpoint stays, its tokens are unknown.
        _log.warning("tokens seen are unknown: %s", error)
        return None
    return number if type(number) is int and number > 0 else None


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and files in it, by name."""
    try:
        entries = sorted(folder.iterdir())
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
    except Exception as error:  # what the system says of a path that is none
        raise ConfigurationError(f"{folder} is no path ({reason(error)}); {_FORMS}") from None
    # What cannot be looked at, or leads nowhere, is what its name says; reading it tells why not.
    inner: list[Path] = []
    lying: list[Path] = []
    for path in entries:
        (inner if _is_folder(path) else lying).append(path)
    return inner, lying


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return path.suffix not in SUFFIXES and "." not in path.name


def _first(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _some(found: Mapping[int, Path]) -> str:
    return ", ".join(path.name for path in list(found.values())[:2])
