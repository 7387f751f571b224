"""Reads the tensors of one file: nothing runs, and no tensor is more than the file holds."""

from __future__ import annotations

import logging
import pickle
import pickletools
import re
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from circuit_econ.errors import CheckpointError
from circuit_econ.trajectory.boundary import REPAIR, reading, regular

__all__ = ["Say", "read_tensors"]

Say = Callable[[str], None]
"""Takes a line that the user should see."""

HEADER_BYTES = 16 << 20
"""Largest header of a safetensors file, or pickle: some 100,000 tensors."""
PICKLE_PARTS = 2_000_000
"""Instructions in a pickle of the older layout: some 30,000 tensors."""

_DAMAGED = "is truncated or no {kind} file ({{size}} bytes: {{reason}})"
_LONG = "it lists more than any model has tensors"
_ZIP = b"PK\x03\x04"
_OPTIMISER = re.compile(r"(?i)optim|adam|scheduler|scaler")
_log = logging.getLogger(__name__)


def read_tensors(path: Path, say: Say = _log.info) -> dict[str, Tensor]:
    """The tensors of one ``.safetensors`` or PyTorch file, memory-mapped where possible.

    A PyTorch file may hold them directly, or as the only dictionary of tensors somewhere inside
    (``model_state_dict``, Lightning's ``state_dict`` …; the state of optimisers does not count). It
    is read with ``weights_only=True``: a pickle that asks for anything but tensors and plain
    containers is refused and nothing in it runs.

    Args:
        path: The file.
        say: Told which dictionary was read, where the file holds more than one thing.

    Raises:
        CheckpointError: If the file is missing, unreadable, damaged, holds code, or is no
            dictionary of dense tensors.
    """
    if path.suffix == ".safetensors":
        found: Mapping[str, Tensor] = _read_safetensors(path)
    else:
        found = _state_dict(path, _unpickle(path), say)
    with reading(path, _DAMAGED.format(kind="PyTorch")):
        return {name: _plain(path, name, tensor) for name, tensor in found.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with reading(path, _DAMAGED.format(kind="safetensors")):
        size = regular(path)
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if HEADER_BYTES < header <= size - 8:
            raise CheckpointError(
                f"{path}: its header has {header} bytes, and at most {HEADER_BYTES} are read; "
                f"{REPAIR}"
            )
        return load_file(path, device="cpu")


def _unpickle(path: Path) -> object:
    with reading(path, _DAMAGED.format(kind="PyTorch")):
        size = regular(path)
        with path.open("rb") as file:
            zipped = file.read(4) == _ZIP
        if zipped:
            _verify(path, size)
        else:
            _count(path)
        try:
            # Only the zip layout of torch.save can be mapped; the older one is read whole.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError as error:
            asked = re.search(r"GLOBAL (\S+)", str(error))
            what = f"it asks for {asked[1]}" if asked else "it is damaged or no tensors"
            raise CheckpointError(
                f"{path} is a pickle that could run code ({what}) and is refused, nothing in it "
                "was run; save the model's state_dict() alone, best as safetensors"
            ) from None


def _verify(path: Path, size: int) -> None:
    """Raise if an entry is not as it was written: torch's reader checks no sums."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if any(Path(name).name == "constants.pkl" for name in names):
            raise CheckpointError(
                f"{path} is a TorchScript archive, which holds code, and is refused; save the "
                "model's state_dict() alone, best as safetensors"
            )
        if len(set(names)) < len(names):
            raise ValueError("two entries have one name")
        if any(e.filename.endswith(".pkl") and e.file_size > HEADER_BYTES for e in entries):
            raise ValueError(_LONG)
        # torch.save compresses nothing: so an archive cannot unfold to more than itself.
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > size:
            raise ValueError("entries are compressed or overlap")
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"the checksum of entry {bad} is another")


def _count(path: Path) -> None:
    """Raise if what comes before the numbers in the older layout is more than a list of tensors."""
    with path.open("rb") as file:
        for _ in range(4):  # a magic number, a version, what system, and the content
            parts = enumerate(pickletools.genops(file))
            while (part := _next(parts)) is not None:
                count, (_, _, place) = part
                if count > PICKLE_PARTS or (place or 0) > HEADER_BYTES:
                    raise ValueError(_LONG)


def _next(parts: Iterator[tuple[int, Any]]) -> tuple[int, Any] | None:
    try:
        return next(parts, None)
    except Exception:  # no pickle: torch's reader comes next, and says so
        return None


def _state_dict(path: Path, content: object, say: Say) -> Mapping[str, Tensor]:
    inside = list(_mappings(content))
    if inside and _holds_tensors(inside[0][1]):
        return inside[0][1]
    found = [
        (place, inner)
        for place, inner in inside
        # States of random generators are dictionaries of tensors, too, but hold no matrix.
        if _holds_tensors(inner) and any(tensor.ndim > 1 for tensor in inner.values())
    ]
    if len(found) == 1:
        say(f"tensors are read from {found[0][0]} of each file; what is beside it is left out")
        return found[0][1]
    if found:
        names = ", ".join(place for place, _ in found[:2])
        more = f" and {len(found) - 2} more" if len(found) > 2 else ""
        raise CheckpointError(
            f"{path} holds several dictionaries of tensors ({names}{more}); save the one to "
            "measure alone"
        )
    raise CheckpointError(f"{path} {_unlike(content, inside)}; save the model's state_dict()")


def _mappings(content: object) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """What is a mapping, at any depth, with the way to it; every object once, no optimisers."""
    level, seen = deque([("", content)]), {id(content)}
    while level:
        place, value = level.popleft()
        if not isinstance(value, Mapping) or {"state", "param_groups"} <= value.keys():
            continue
        yield place, value
        for key, inner in value.items():
            name = key if isinstance(key, str) else repr(key)
            if isinstance(inner, Mapping) and id(inner) not in seen and not _OPTIMISER.search(name):
                seen.add(id(inner))
                level.append((f"{place}.{name}" if place else name, inner))


def _holds_tensors(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()
    )


def _unlike(content: object, inside: list[tuple[str, Mapping[Any, Any]]]) -> str:
    """What keeps the likeliest mapping inside from being a dictionary of tensors."""
    if not inside or not inside[0][1]:
        return f"holds {_kind(content)}, not a dictionary of tensors"

    def tensors(mapping: Mapping[Any, Any]) -> int:
        return sum(isinstance(value, Tensor) for value in mapping.values())

    place, likeliest = max(inside, key=lambda one: tensors(one[1]))
    for key, value in likeliest.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            name = repr(key) if not place else f"{place}[{key!r}]"
            return f"is not a dictionary of tensors: {name} holds {_kind(value)}"
    return f"is not a model's dictionary of tensors: {place} has no matrix"


def _plain(path: Path, name: str, value: Tensor) -> Tensor:
    """The bare tensor, if it is one whose numbers all lie in the file."""
    if not _named(name):
        raise CheckpointError(
            f"{path}: {name!r} is no name of a tensor; save the model's state_dict()"
        )
    plain = type(value) in (Tensor, torch.nn.Parameter) and value.layout is torch.strided
    odd = value.is_quantized or value.is_nested or value.device.type != "cpu"
    if not plain or odd:
        raise CheckpointError(
            f"{path}: {name} is not a plain dense tensor ({value.layout}, {value.dtype}, "
            f"{value.device}); save it dense and unquantised"
        )
    claimed, held = value.numel() * value.itemsize, value.untyped_storage().nbytes()
    if claimed > held:
        raise CheckpointError(
            f"{path}: {name} claims {claimed} bytes, and the file holds {held} of it; save it "
            "contiguous"
        )
    return value.detach().resolve_conj().resolve_neg()


def _named(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 500 and name.isprintable()


def _kind(value: object) -> str:
    return "nothing" if value is None or value == {} else f"a {type(value).__name__}"
