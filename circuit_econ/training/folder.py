"""The folder of a training run: whose it is, whether it is finished, how files are written."""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor

from circuit_econ.errors import ConfigurationError, foreign
from circuit_econ.filing import digest_of, held, put, read_text

__all__ = ["RunFolder"]

_MANIFEST: Final = "training.json"
_RESUME: Final = "resume.pt"
_MISSING: Final = "nothing"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where one run is written.

    Every file appears whole or not at all: it is written under a hidden name and renamed.

    Attributes:
        path: The folder.
        manifest: The content of ``training.json``; its ``digest`` says which run this is.
        steps: The checkpoints the run ends with.
    """

    path: Path
    manifest: dict[str, Any]
    steps: list[int]

    def is_finished(self) -> bool:
        """Whether the folder holds this very run, to its end.

        Raises:
            ConfigurationError: If it holds another run, or something that is no run, or if one of
                its checkpoints is not what was written.
        """
        found = self._found()
        if found is None or found.get("finished") is not True:
            return False
        if not all(self.checkpoint(step).exists() for step in self.steps):
            return False
        digests = found.get("files", {})
        for name in self._checkpoints():
            path = self.path / name
            with foreign(ConfigurationError, f"cannot read {path}"):
                same = name not in digests or self._digest(name) == digests[name]
            if not same:
                raise ConfigurationError(
                    f"{path} is not what training wrote: it is damaged or was replaced; delete "
                    f"{self.path} to train again, or open it as it is with trajectory=folder"
                )
        return True

    @contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Hold the folder, so that of two processes with the same run one waits.

        The system lets go of it when its holder dies, however it dies.

        Raises:
            ConfigurationError: If the folder cannot be made.
        """
        with ExitStack() as stack:
            with foreign(ConfigurationError, f"cannot write to {self.path}"):
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self.path / ".lock", str(self.path), wait=True))
            yield

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.path / f"step_{step}.safetensors"

    def start(self, model_fields: Mapping[str, Any]) -> None:
        """Write what says which run this is, before any weights."""
        self._write_json(_MANIFEST, self.manifest | {"finished": False})
        self._write_json("config.json", model_fields)

    def finish(self) -> None:
        """Mark the run as complete; nothing is left to resume."""
        files = {name: self._digest(name) for name in self._checkpoints()}
        self._write_json(_MANIFEST, self.manifest | {"finished": True, "files": files})
        (self.path / _RESUME).unlink(missing_ok=True)

    def write_checkpoint(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Write the weights after so many steps."""
        self._write(self.checkpoint(step).name, save(tensors, {"step": str(step)}))

    def write_losses(self, losses: list[float]) -> None:
        """Write the loss of the batch before each update, in nats per scored position."""
        rows = "".join(f"{step},{loss!r}\n" for step, loss in enumerate(losses))
        self._write("training_loss.csv", f"step,loss\n{rows}".encode())

    def write_resume(self, state: dict[str, Any]) -> None:
        """Write what training goes on from after a kill."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._write(_RESUME, buffer.getvalue())

    def read_resume(self) -> dict[str, Any] | None:
        """What training goes on from, on the CPU; ``None`` at the beginning.

        Raises:
            ConfigurationError: If the file is damaged.
        """
        path = self.path / _RESUME
        if not path.exists():
            return None
        with self.resuming():
            if not path.is_file():
                raise ValueError("not a regular file")
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(saved, dict):
                raise ValueError(f"it holds {type(saved).__name__}")
            return saved

    def resuming(self) -> AbstractContextManager[None]:
        """Whatever what training goes on from raises becomes one line that names it."""
        what = f"{self.path / _RESUME} is damaged; delete it to train again from step 0"
        return foreign(ConfigurationError, what)

    def _found(self) -> dict[str, Any] | None:
        """The manifest that is there, if it is this run's."""
        path = self.path / _MANIFEST
        if not path.exists():
            if self.path.exists() and not self.path.is_dir():
                raise ConfigurationError(f"{self.path} is a file; a run needs a folder")
            others = [f.name for f in self.path.glob("*") if not f.name.startswith(".")]
            if others:
                raise ConfigurationError(
                    f"{self.path} holds {sorted(others)[0]!r} but no {_MANIFEST}, so no training"
                    " run; choose an empty or a new folder"
                )
            return None
        what = f"{path} is no record of a training run; choose another folder, or delete this one"
        with foreign(ConfigurationError, what):
            found = json.loads(read_text(path))
            digest, identity = found["digest"], found["identity"]
            data, files = found.get("data", {}), found.get("files", {})
            if not all(isinstance(one, Mapping) for one in (identity, data, files)):
                raise ValueError("identity, data and files are mappings")
        if digest != self.manifest["digest"]:
            raise ConfigurationError(
                f"{self.path} holds another run: "
                + "; ".join(_differences(found, self.manifest, identity))
                + "; choose another folder, or delete this one"
            )
        return found

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._write(name, (json.dumps(content, indent=2) + "\n").encode())

    def _write(self, name: str, content: bytes) -> None:
        # The lock makes one hidden name per file enough, so that a kill leaves nothing to collect.
        with foreign(ConfigurationError, f"cannot write {self.path / name}"):
            put(lambda partial: partial.write_bytes(content), self.path / name,
                self.path / f".{name}")  # fmt: skip

    def _checkpoints(self) -> list[str]:
        return [self.checkpoint(step).name for step in self.steps]

    def _digest(self, name: str) -> str:
        return digest_of(self.path / name)


def _differences(
    found: Mapping[str, Any], asked: Mapping[str, Any], identity: Mapping[str, Any]
) -> list[str]:
    """What tells two runs apart, ``name: there / asked``; data by what they are made of."""
    pairs = [(identity, asked["identity"], "")]
    if identity.get("data_digest") != asked["identity"]["data_digest"]:
        pairs.append((found.get("data", {}), asked["data"], "data."))
    return [
        f"{prefix}{key} is {there.get(key, _MISSING)} there and {here.get(key, _MISSING)} here"
        for there, here, prefix in pairs
        for key in {**here, **there}
        if there.get(key, _MISSING) != here.get(key, _MISSING)
        and key not in ("data_digest", "content")
    ] or ["the data differ in content"]
