"""Reads a checkpoint's files, tensors and JSON only; whatever is wrong becomes one clear line."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from circuit_econ.errors import CheckpointError

__all__ = ["CONFIG", "WEIGHTS", "read_folder", "read_json", "read_tensors", "weight_files"]

CONFIG = "config.json"

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Weight files of a Hugging Face checkpoint folder; the first that is there is read."""

_WRAPPERS = ("model", "state_dict")
_REPAIR = "copy, download or save it again"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: If the file is missing, unreadable, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing; put the one saved with the weights there"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:  # also undecodable text
        raise CheckpointError(f"{path} is not JSON ({error}); {_REPAIR}") from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a JSON {type(content).__name__}, not an object; {_REPAIR}"
        )
    return content


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face checkpoint folder, without opening them.

    Raises:
        CheckpointError: If there are none, or an index names a shard that is not there.
    """
    found = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if found is None:
        raise CheckpointError(
            f"{folder} has no weights; one of {', '.join(WEIGHTS)} must lie there"
        )
    if found.suffix != ".json":
        return [found]
    shards = sorted(set(_weight_map(found).values()))
    for name in shards:
        if not (folder / name).exists():
            raise CheckpointError(
                f"{folder}: shard {name} is missing, but {found.name} lists it; {_REPAIR}"
            )
    return [folder / name for name in shards]


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face checkpoint folder, on the CPU and in the files' dtypes.

    Raises:
        CheckpointError: If a file is missing or cannot be read, or a shard lacks a tensor.
    """
    files = weight_files(folder)
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors.update(read_tensors(path))
    index = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if index is not None and index.suffix == ".json":
        absent = sorted(set(_weight_map(index)) - set(tensors))
        if absent:
            raise CheckpointError(
                f"{folder}: {index.name} lists {absent[0]}, which no shard holds "
                f"({len(absent)} such tensors); {_REPAIR}"
            )
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one ``.safetensors`` or PyTorch file, memory-mapped where possible.

    A PyTorch file may hold them directly or under ``model`` or ``state_dict``. It is read with
    ``weights_only=True``: a pickle that asks for anything but tensors and plain containers is
    refused and nothing in it runs.

    Raises:
        CheckpointError: If the file is missing, unreadable, damaged, holds code, or is no
            dictionary of dense tensors.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _state_dict(path, _unpickle(path))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise _damaged(path, "safetensors", error) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unpickle(path: Path) -> object:
    try:
        # Only the zip layout of torch.save can be mapped; the older one is read whole.
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {asked[1]}" if asked else "it holds more than tensors"
        raise CheckpointError(
            f"{path} is a pickle that could run code ({reason}) and is refused, nothing in it was "
            "run; save the model's state_dict() alone, best as safetensors"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except Exception as error:  # torch's reader can stumble over damage in any way
        raise _damaged(path, "PyTorch", error) from None


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        content = inner[0] if inner else content
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path} holds {_named(content)}, not a dictionary of tensors; "
            "save the model's state_dict()"
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} is not a dictionary of tensors: {name!r} holds {_named(value)}; "
                "save the model's state_dict()"
            )
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise CheckpointError(
                f"{path}: {name} is not a plain dense tensor ({value.layout}, {value.dtype}, "
                f"{value.device}); save it dense and unquantised"
            )
    return {name: value.detach() for name, value in content.items()}


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index).get("weight_map")
    # A path in it could reach outside the folder: only names of files beside the index are shards.
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in content.values()
    ):
        raise CheckpointError(
            f"{index} has no weight_map from tensors to names of files beside it; {_REPAIR}"
        )
    return content


def _named(value: object) -> str:
    return "nothing" if value is None or value == {} else f"a {type(value).__name__}"


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read ({error.strerror or error}); check its permissions"
    )


def _damaged(path: Path, kind: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(
        f"{path} is truncated or no {kind} file ({path.stat().st_size} bytes: {reason}); {_REPAIR}"
    )
