"""Small checkpoints in the real formats, for the tests of ``circuit_econ.trajectory``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from circuit_econ.model import Source
from circuit_econ.model.weights import Inventory

CONFIG = {"model_type": "gpt2", "n_layer": 1}


@cache
def neox() -> Any:
    """A tiny GPT-NeoX with random weights."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 17, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, intermediate_size=16))


def tensors(seed: int = 0) -> dict[str, Tensor]:
    """Two tensors, different for every seed."""
    torch.manual_seed(seed)
    return {"w": torch.randn(3, 4), "b": torch.randn(4)}


def checkpoint(folder: Path, seed: int = 0, weights: dict[str, Tensor] | None = None) -> Path:
    """A Hugging Face checkpoint folder with ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(weights or tensors(seed), folder / "model.safetensors")
    return folder


def run(folder: Path, steps: tuple[int, ...] = (0, 1, 2)) -> Path:
    """A run in checkpoint folders, with other weights at every step."""
    for step in steps:
        checkpoint(folder / f"checkpoint-{step}", seed=step)
    return folder


def reads_all(source: Source) -> Inventory:
    """An inventory of a model that reads whatever is there."""
    return Inventory(frozenset(source.tensors), frozenset(), frozenset())


def cached_revision(cache_folder: Path, name: str, revision: str, seed: int) -> Path:
    """A revision as the hub's client leaves it in its cache: blobs, links to them, a reference."""
    repository = cache_folder / f"models--{name.replace('/', '--')}"
    commit = f"{seed:040x}"
    snapshot = repository / "snapshots" / commit
    written = checkpoint(repository / "made" / commit, seed)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    for path in list(written.iterdir()):
        blob = repository / "blobs" / f"{commit}-{path.name}"
        path.rename(blob)
        (snapshot / path.name).symlink_to(blob)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    return snapshot
