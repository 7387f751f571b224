"""Runs on the hub: schedules, revisions, the local cache, and what is said without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from trajectory_folders import CONFIG, cached_revision, tensors

from circuit_econ.errors import CheckpointError, CircuitEconError, ConfigurationError
from circuit_econ.trajectory import hub, open_trajectory

NAME = "someone/run-1b"
REVISIONS = {0: "step0", 1000: "step1000-tokens4B"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def said(kind: type[CircuitEconError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return message


# Schedules


@pytest.mark.parametrize(
    ("name", "count", "second", "last", "tokens"),
    [
        ("EleutherAI/pythia-70m", 154, "step1", "step143000", 299_892_736_000),
        ("EleutherAI/pythia-1b-deduped", 154, "step1", "step143000", 299_892_736_000),
        ("EleutherAI/pythia-70m-v0", 143, "step2000", "step143000", 299_892_736_000),
        (
            "stanford-crfm/alias-gpt2-small-x21",
            609,
            "checkpoint-10",
            "checkpoint-400000",
            209_715_200_000,
        ),
    ],
)
def test_known_schedules(name: str, count: int, second: str, last: str, tokens: int) -> None:
    trajectory = open_trajectory(name, steps="all")
    assert len(trajectory.steps) == count
    assert trajectory.checkpoints[1].origin == f"{name}@{second}"
    assert trajectory.checkpoints[-1].origin == f"{name}@{last}"
    assert trajectory.checkpoints[-1].tokens_seen == tokens
    assert open_trajectory(name, steps="log:5").steps[-1] == trajectory.steps[-1]


def test_a_known_schedule_needs_steps() -> None:
    message = said(ConfigurationError, lambda: open_trajectory("EleutherAI/pythia-70m"))
    assert message == (
        "say which steps of EleutherAI/pythia-70m to load, such as steps=log:20 (all loads every "
        "one); there is: 0, 1, 2, 4, 8, …, 141000, 142000, 143000 (154 checkpoints)"
    )


def test_a_known_schedule_has_no_other_steps() -> None:
    assert said(
        ConfigurationError, lambda: open_trajectory("EleutherAI/pythia-70m", steps=[3, 1000])
    ) == (
        "EleutherAI/pythia-70m has no checkpoint at step 3; there is: "
        "0, 1, 2, 4, 8, …, 141000, 142000, 143000 (154 checkpoints)"
    )


@pytest.mark.parametrize("name", ["someone/else", "stanford-crfm/BioMedLM", "runs/induction"])
def test_an_unknown_schedule_needs_revisions(name: str) -> None:
    assert said(ConfigurationError, lambda: open_trajectory(name, steps=[0])) == (
        f"there is no folder {name}, and on the hub the checkpoints of {name} are not known (they "
        "are for EleutherAI/pythia-* and stanford-crfm/*-gpt2-*); correct the path or give "
        "revisions as a mapping {step: revision}"
    )


# Revisions


def test_revisions_by_mapping_and_by_name() -> None:
    wanted = {0: "step0", 1000: "stage1-step1000-tokens5B"}
    assert hub.parse_revisions({1000: wanted[1000], 0: "step0"}) == wanted
    assert hub.parse_revisions({"1000": wanted[1000], "0": "step0"}) == wanted  # type: ignore[dict-item]
    assert hub.parse_revisions([wanted[1000], "step0"]) == wanted
    assert hub.parse_revisions(["checkpoint-20", "step_3"]) == {3: "step_3", 20: "checkpoint-20"}
    assert hub.parse_revisions("step5") == {5: "step5"}
    assert list(hub.parse_revisions(["step10", "step9"])) == [9, 10]


@pytest.mark.parametrize(
    ("revisions", "message"),
    [
        (
            ["main"],
            "the step of revision 'main' cannot be told from 'main'; give revisions as a mapping "
            "{step: revision}",
        ),
        (
            {"final": "main"},
            "the step of revision 'main' cannot be told from 'final'; give revisions as a mapping "
            "{step: revision}",
        ),
        (
            ["stage1-step5", "stage2-step5"],
            "revisions 'stage1-step5' and 'stage2-step5' are both step 5; drop one",
        ),
        ([], "the revisions are empty; give a mapping {step: revision}"),
    ],
)
def test_wrong_revisions(revisions: object, message: str) -> None:
    found = said(ConfigurationError, lambda: open_trajectory(NAME, revisions=revisions))  # type: ignore[arg-type]
    assert found == message


def test_explicit_revisions_of_any_repository() -> None:
    trajectory = open_trajectory(NAME, revisions=REVISIONS)
    assert trajectory.steps == (0, 1000)
    assert [c.tokens_seen for c in trajectory.checkpoints] == [None, None]
    assert open_trajectory(NAME, steps=[1000], revisions=REVISIONS).steps == (1000,)


def test_explicit_revisions_of_a_known_run_keep_its_tokens() -> None:
    trajectory = open_trajectory("EleutherAI/pythia-70m", revisions={5: "abc"})
    assert trajectory.checkpoints[0].tokens_seen == 5 * 2_097_152
    assert trajectory.checkpoints[0].origin == "EleutherAI/pythia-70m@abc"


# The cache, without a network


def test_a_cached_revision_works_offline(cache: Path) -> None:
    cached_revision(cache, NAME, "step0", 0)
    snapshot = cached_revision(cache, NAME, "step1000-tokens4B", 1)
    trajectory = open_trajectory(NAME, revisions=REVISIONS)
    source = trajectory.read(1000)
    assert torch.equal(source.tensors["w"], tensors(1)["w"])
    assert not torch.equal(source.tensors["w"], trajectory.read(0).tensors["w"])
    assert source.config == CONFIG == trajectory.config(1000)
    assert source.origin == "someone/run-1b@step1000-tokens4B"
    assert trajectory.bytes(1000) == (snapshot / "model.safetensors").stat().st_size


def test_a_cached_revision_of_pickles_works_offline(cache: Path) -> None:
    snapshot = cached_revision(cache, NAME, "step0", 0)
    (snapshot / "model.safetensors").unlink()
    torch.save(tensors(3), snapshot / "pytorch_model.bin")
    source = open_trajectory(NAME, revisions=REVISIONS).read(0)
    assert torch.equal(source.tensors["w"], tensors(3)["w"])


def test_the_environment_variables_alone_suffice(tmp_path: Path) -> None:
    cached_revision(tmp_path / "hub", NAME, "step512", 7)
    script = (
        "from circuit_econ.trajectory import open_trajectory\n"
        f"t = open_trajectory({NAME!r}, revisions=['step512'])\n"
        "print(sorted(t.read(512).tensors))"
    )
    settings = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    dropped = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}
    environment = {k: v for k, v in os.environ.items() if k not in dropped} | settings
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['b', 'w']\n"


def test_a_repository_of_which_nothing_is_cached(cache: Path) -> None:
    trajectory = open_trajectory(NAME, revisions=REVISIONS)
    message = (
        f"nothing of {NAME} is in the local cache {cache} and HF_HUB_OFFLINE is set; "
        "connect once to download it, or set HF_HOME to a cache that has it"
    )
    assert said(ConfigurationError, lambda: trajectory.read(0)) == message
    assert said(ConfigurationError, lambda: trajectory.config(0)) == message
    assert trajectory.bytes(0) is None


def test_a_revision_that_is_not_cached(cache: Path) -> None:
    cached_revision(cache, NAME, "step0", 0)
    trajectory = open_trajectory(NAME, revisions=REVISIONS)
    assert trajectory.read(0).tensors
    assert said(CheckpointError, lambda: trajectory.read(1000)) == (
        f"{NAME}@step1000-tokens4B is not complete in the local cache {cache} and HF_HUB_OFFLINE "
        "is set; connect once to download it, or set HF_HOME to a cache that has it"
    )
    assert trajectory.bytes(1000) is None


def test_a_snapshot_without_weights(cache: Path) -> None:
    (cached_revision(cache, NAME, "step0", 0) / "model.safetensors").unlink()
    message = said(CheckpointError, lambda: open_trajectory(NAME, revisions=REVISIONS).read(0))
    assert "has no weights; one of model.safetensors, " in message


# What the client raises with a network


def response(status: int) -> Any:
    request = hub_http().Request("GET", "https://hub.invalid/x")
    return hub_http().Response(status, request=request)


def hub_http() -> Any:
    """The HTTP library that the installed client is built on."""
    return sys.modules[errors.HfHubHTTPError.__mro__[1].__module__.split(".")[0]]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            lambda: errors.RepositoryNotFoundError("404\nlong", response=response(404)),
            ConfigurationError,
            f"the hub has no repository {NAME}, or not for you; correct the name, or log in with "
            "`hf auth login` if it is private or gated",
        ),
        (
            lambda: errors.GatedRepoError("401", response=response(401)),
            ConfigurationError,
            f"the hub has no repository {NAME}, or not for you; correct the name, or log in with "
            "`hf auth login` if it is private or gated",
        ),
        (
            lambda: errors.RevisionNotFoundError("404", response=response(404)),
            CheckpointError,
            f"{NAME} has no revision 'step0' on the hub; choose other steps",
        ),
        (
            lambda: errors.LocalEntryNotFoundError("Got: ConnectError\nlong"),
            ConfigurationError,
            "nothing of someone/run-1b is in the local cache {cache} and the hub is out of reach; "
            "connect once to download it, or set HF_HOME to a cache that has it",
        ),
        (
            lambda: OSError(28, "No space left on device"),
            CheckpointError,
            f"{NAME}@step0 could not be downloaded (OSError: [Errno 28] No space left on device); "
            "run again to resume",
        ),
    ],
)
def test_what_the_client_raises_becomes_one_line(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
    kind: type[CircuitEconError],
    message: str,
) -> None:
    def raising(*_: object, **__: object) -> str:
        raise error()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising)
    trajectory = open_trajectory(NAME, revisions=REVISIONS)
    assert said(kind, lambda: trajectory.read(0)) == message.replace("{cache}", str(cache))


def test_only_configuration_and_weights_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def recording(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        assert (name, revision) == (NAME, "step0")
        asked.append(allow_patterns)
        (tmp_path / "config.json").write_text("{}")
        if any("bin" in pattern for pattern in allow_patterns):
            torch.save(tensors(), tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", recording)
    trajectory = open_trajectory(NAME, revisions=REVISIONS)
    trajectory.config(0)
    assert asked == [["config.json", "adapter_config.json"]]
    assert trajectory.read(0).tensors.keys() == {"w", "b"}
    safe, pickled = asked[1:]
    assert all(p.endswith("config.json") or "safetensors" in p for p in safe)
    assert all(p.endswith("config.json") or "pytorch_model" in p for p in pickled)
