"""Reads a Hugging Face checkpoint folder: which files hold its weights, and all their tensors."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from torch import Tensor

from circuit_econ.errors import CheckpointError
from circuit_econ.trajectory.boundary import REPAIR, read_json, reading
from circuit_econ.trajectory.tensors import Say, read_tensors

__all__ = ["ADAPTER", "CONFIG", "WEIGHTS", "adapter_error", "read_folder", "weight_files"]

CONFIG = "config.json"
ADAPTER = "adapter_config.json"

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Weight files of a Hugging Face checkpoint folder; the first that is there is read."""

_log = logging.getLogger(__name__)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face checkpoint folder, without opening them.

    Raises:
        CheckpointError: If there are none, an index names a shard that is not there, or the folder
            holds an adapter.
    """
    found = _index_or_file(folder)
    if found.suffix != ".json":
        return [found]
    shards = sorted(set(_weight_map(found).values()))
    for name in shards:
        with reading(found, "names a shard that cannot be looked for ({reason})"):
            if not os.path.lexists(folder / name):
                raise CheckpointError(
                    f"{folder}: shard {name} is missing, but {found.name} lists it; {REPAIR}"
                )
    return [folder / name for name in shards]


def read_folder(folder: Path, say: Say = _log.info) -> dict[str, Tensor]:
    """All tensors of a Hugging Face checkpoint folder, on the CPU and in the files' dtypes.

    Raises:
        CheckpointError: If a file is missing or cannot be read, a shard lacks a tensor, or two
            hold the same one.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        found = read_tensors(path, say)
        if twice := sorted(tensors.keys() & found.keys()):
            raise CheckpointError(f"{path} holds {twice[0]}, and so does another shard; {REPAIR}")
        tensors |= found
    index = _index_or_file(folder)
    if index.suffix == ".json":
        absent = sorted(set(_weight_map(index)) - set(tensors))
        if absent:
            raise CheckpointError(
                f"{folder}: {index.name} lists {absent[0]}, which no shard holds "
                f"({len(absent)} such tensors); {REPAIR}"
            )
    return tensors


def adapter_error(folder: Path) -> CheckpointError | None:
    """The error for a folder with an adapter: alone or not, it is not the model that was trained.

    None if there is no adapter, or the folder cannot be looked into (reading it says why).
    """
    path = folder / ADAPTER
    if not _there(path):
        return None
    try:
        base = read_json(path).get("base_model_name_or_path")
    except CheckpointError:
        base = None
    model = f" of {base}" if isinstance(base, str) and base else ""
    whole = any(_there(folder / name) for name in WEIGHTS)
    beside = "an adapter beside whole weights" if whole else "an adapter alone"
    remedy = (
        "move one of the two elsewhere"
        if whole
        else "merge it into its base model (peft: merge_and_unload(), then save_pretrained()) and "
        "open what that saves"
    )
    return CheckpointError(f"{folder} holds {beside} ({ADAPTER}{model}); {remedy}")


def _index_or_file(folder: Path) -> Path:
    with reading(folder, "cannot be looked into ({reason})"):
        folder.stat()
        if (error := adapter_error(folder)) is not None:
            raise error
        # Also a link that leads nowhere: what is wrong with it is said when it is read.
        found = next((folder / n for n in WEIGHTS if os.path.lexists(folder / n)), None)
        if found is None:
            raise CheckpointError(
                f"{folder} has no weights; one of {', '.join(WEIGHTS)} must lie there"
            )
    return found


def _there(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index).get("weight_map")
    # A path in it could reach outside the folder: only names of files beside the index are shards.
    if (
        not isinstance(content, dict)
        or not content
        or not all(
            isinstance(name, str)
            and Path(name).name == name
            and name.isprintable()
            and len(name) <= 255
            for name in content.values()
        )
    ):
        raise CheckpointError(
            f"{index} has no weight_map from tensors to names of files beside it; {REPAIR}"
        )
    return content
