"""Opens runs on the Hugging Face hub: one revision a checkpoint, through the local cache."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuit_econ.errors import CheckpointError, CircuitEconError, ConfigurationError, reason
from circuit_econ.model.source import Format, Source
from circuit_econ.model.weights import as_saved
from circuit_econ.trajectory.boundary import read_json
from circuit_econ.trajectory.files import ADAPTER, CONFIG, WEIGHTS, adapter_error, read_folder
from circuit_econ.trajectory.folders import Once, folder_bytes
from circuit_econ.trajectory.record import Checkpoint, Trajectory
from circuit_econ.trajectory.steps import LAST_STEP

__all__ = ["HubRevisions", "Schedule", "known_schedule", "open_hub", "parse_revisions"]

Revisions = Mapping[int, str] | Iterable[str]
"""Step → revision, or names of revisions that contain ``step<n>`` or ``checkpoint-<n>``."""

_SAFETENSORS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]
_PICKLES = ["pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The published checkpoints of a family of runs.

    Attributes:
        steps: Optimiser steps, ascending.
        revision: Name of a step's revision, with ``{}`` for the step.
        tokens_per_step: Sequences in a batch times their length.
    """

    steps: tuple[int, ...]
    revision: str
    tokens_per_step: int


def known_schedule(name: str) -> Schedule | None:
    """The schedule of a repository whose checkpoints are known: Pythia and stanford-crfm's GPT-2.

    The steps are those of transformer_lens' registry. Pythia trained on 1024 sequences of 2048
    tokens a step (Biderman et al. 2023; runs with twice the batch have their steps renamed to
    match), stanford-crfm's GPT-2 on 512 of 1024 (Mistral, Karamcheti et al. 2021).
    """
    pythia = name.startswith("EleutherAI/pythia-")
    if not pythia and not re.match(r"stanford-crfm/.*-gpt2-", name):
        return None
    from transformer_lens.tools.model_registry import checkpoints as registry  # slow: on demand

    if not pythia:
        steps, revision, tokens = registry.STANFORD_CRFM_CHECKPOINTS, "checkpoint-{}", 512 * 1024
    elif name.endswith("-v0"):
        steps, revision, tokens = registry.PYTHIA_V0_CHECKPOINTS, "step{}", 1024 * 2048
    else:
        steps, revision, tokens = registry.PYTHIA_CHECKPOINTS, "step{}", 1024 * 2048
    return Schedule(tuple(steps), revision, tokens)


def parse_revisions(revisions: Revisions) -> dict[int, str]:
    """Step → revision, by ascending step.

    Raises:
        ConfigurationError: If there are none, a step cannot be told, or two claim one step.
    """
    if isinstance(revisions, str):
        revisions = [revisions]
    if isinstance(revisions, Mapping):
        pairs = [(key, str(value)) for key, value in revisions.items()]
    else:
        names = [str(name) for name in revisions]
        matches = [re.search(r"(?:step|checkpoint)[-_]?([0-9]+)", name) for name in names]
        pairs = [(m[1] if m else n, n) for n, m in zip(names, matches, strict=True)]
    found: dict[int, str] = {}
    for key, name in pairs:
        if not re.fullmatch(r"[0-9]{1,19}", str(key)) or int(key) > LAST_STEP:
            raise ConfigurationError(
                f"the step of revision {name!r} cannot be told from {str(key)!r}; give revisions "
                "as a mapping {step: revision}"
            )
        if int(key) in found:
            raise ConfigurationError(
                f"revisions {found[int(key)]!r} and {name!r} are both step {int(key)}; drop one"
            )
        found[int(key)] = name
    if not found:
        raise ConfigurationError("the revisions are empty; give a mapping {step: revision}")
    return dict(sorted(found.items()))


def open_hub(name: str, revisions: Revisions | None) -> Trajectory:
    """The run in a repository of the hub; nothing is downloaded yet.

    Args:
        name: ``owner/name``.
        revisions: Which revision each step is; None takes the known schedule of the repository.

    Raises:
        ConfigurationError: If no schedule is known and no revisions are given.
    """
    schedule = known_schedule(name)
    if revisions is not None:
        by_step = parse_revisions(revisions)
    elif schedule is not None:
        by_step = {step: schedule.revision.format(step) for step in schedule.steps}
    else:
        raise ConfigurationError(
            f"there is no folder {name}, and on the hub the checkpoints of {name} are not known "
            "(they are for EleutherAI/pythia-* and stanford-crfm/*-gpt2-*); correct the path or "
            "give revisions as a mapping {step: revision}"
        )
    per_step = schedule.tokens_per_step if schedule else None
    return Trajectory(
        name=name,
        origin=name,
        checkpoints=tuple(
            Checkpoint(step, None if per_step is None else step * per_step, f"{name}@{revision}")
            for step, revision in by_step.items()
        ),
        reader=HubRevisions(name, by_step, Once(name)),
    )


@dataclass(frozen=True, slots=True)
class HubRevisions:
    """Reads the revisions of one repository, downloading what the local cache lacks.

    Only ``config.json`` and weight files are fetched; safetensors are preferred, and no file of
    the repository is executed.
    """

    name: str
    revisions: Mapping[int, str]
    say: Once
    format: Format = Format.HUGGING_FACE

    def config(self, step: int) -> dict[str, Any]:
        """The content of the revision's ``config.json``; downloads nothing else."""
        return _config(self._fetch(step, [CONFIG, ADAPTER]))

    def bytes(self, step: int) -> int | None:
        """Size of the weight files; None if they are not in the local cache. Asks no server."""
        from huggingface_hub import try_to_load_from_cache

        for file in WEIGHTS:
            try:
                path = try_to_load_from_cache(self.name, file, revision=self.revisions[step])
            except Exception:  # a name that the client takes for none: fetching it says so
                return None
            if isinstance(path, str):
                return folder_bytes(Path(path).parent)
        return None

    def read(self, step: int) -> Source:
        """Configuration and tensors."""
        folder = self._fetch(step, [CONFIG, ADAPTER, *_SAFETENSORS])
        if not any((folder / name).exists() for name in WEIGHTS):
            folder = self._fetch(step, [CONFIG, ADAPTER, *_PICKLES])
        origin = f"{self.name}@{self.revisions[step]}"
        tensors = read_folder(folder, self.say)
        return as_saved(Source(self.format, _config(folder), tensors, origin), self.say)

    def _fetch(self, step: int, patterns: list[str]) -> Path:
        from huggingface_hub import snapshot_download

        revision = self.revisions[step]
        try:
            return Path(snapshot_download(self.name, revision=revision, allow_patterns=patterns))
        except Exception as error:  # the client raises many unrelated types; all are translated
            raise _translated(self.name, revision, error) from None


def _config(folder: Path) -> dict[str, Any]:
    if (error := adapter_error(folder)) is not None:
        raise error
    return read_json(folder / CONFIG)


def _translated(name: str, revision: str, error: Exception) -> CircuitEconError:
    """The one line for what the hub's client raised."""
    from huggingface_hub import constants, errors

    place = f"{name}@{revision}"
    cache = Path(constants.HF_HUB_CACHE)
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub is out of reach"
        remedy = "connect once to download it, or set HF_HOME to a cache that has it"
        if not (cache / f"models--{name.replace('/', '--')}").exists():
            return ConfigurationError(
                f"nothing of {name} is in the local cache {cache} and {why}; {remedy}"
            )
        return CheckpointError(
            f"{place} is not complete in the local cache {cache} and {why}; {remedy}"
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return ConfigurationError(
            f"the hub has no repository {name}, or not for you; correct the name, or log in with "
            "`hf auth login` if it is private or gated"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(
            f"{name} has no revision {revision!r} on the hub; choose other steps"
        )
    return CheckpointError(
        f"{place} could not be downloaded ({reason(error)}); run again to resume"
    )
