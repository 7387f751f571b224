"""How the work is cut so that it stays in cache on a CPU, fills a GPU, and fits the memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.model import ModelConfig
from circuit_econ.model.losses import TILE
from circuit_econ.tables import Baseline

__all__ = [
    "GROUP",
    "PANEL",
    "Need",
    "Plan",
    "Sizes",
    "activations",
    "budget",
    "clean_memory",
    "free_memory",
    "kept",
    "means_of",
    "sweep_memory",
    "whole",
    "workers_of",
]

GROUP = 8
"""Sequences among which a placebo is shuffled; panels hold whole groups."""

PANEL = 32
"""Sequences of a panel at most."""

FREE_SHARE = 0.5
"""Share of what is free that a walk may use, unless told otherwise."""

# Tokens of a chunk: on a CPU 16 MiB of activations and no fewer than matrix products need to run at
# full rate; on a GPU enough to fill it.
_CACHE, _FEWEST, _GPU_TOKENS = 16 << 20, 1024, 1 << 15


@dataclass(frozen=True, slots=True)
class Sizes:
    """What decides how much memory measuring takes; known before a weight is read.

    Attributes:
        config: The model.
        length: Tokens of a sequence.
        sequences: Of the evaluation set.
        documents: That these come from.
        baselines: To ablate with.
        dtype: Of the numbers.
        device: Where it runs.
    """

    config: ModelConfig
    length: int
    sequences: int
    documents: int
    baselines: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        evaluation: Evaluation,
        baselines: Sequence[str],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Sizes:
        """Of measuring a model on an evaluation set."""
        count, documents = len(evaluation.tokens), evaluation.documents
        return cls(config, evaluation.length, count, documents, tuple(baselines), dtype, device)


Need = Callable[["Plan"], int]
"""From a plan to the bytes that something takes beside the weights."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the work is cut. Results do not depend on it beyond rounding.

    Attributes:
        panel: Sequences whose clean pass runs together; rounded up to whole groups of 8.
        rows: Ablated sequences (variant × sequence) that run together.
        memory: Bytes beside the weights that measures may take which cut their work themselves.
            Nothing looks at what is free while it measures, so that results are the same bit for
            bit under one plan.
    """

    panel: int = 8
    rows: int = 8
    memory: int = 1 << 30

    def __post_init__(self) -> None:
        if self.panel < 1 or self.rows < 1:
            raise ValueError("a plan needs at least one sequence per panel and one row per chunk")

    @classmethod
    def choose(cls, sizes: Sizes, memory: float, needs: Mapping[str, Need]) -> Plan:
        """The fastest cut with which everything fits the memory.

        Args:
            sizes: Of model and data.
            memory: Bytes that may be taken beside the weights.
            needs: By measure, from a plan to the bytes that it takes.

        Raises:
            ConfigurationError: If something does not fit however the work is cut.
        """
        tokens = _GPU_TOKENS
        if sizes.device.type == "cpu":
            each = activations(sizes.config) * sizes.dtype.itemsize
            tokens = max(_FEWEST, _CACHE // each)
        # No panel is larger than the pilot of a walk that adapts.
        groups = min(PANEL // GROUP, max(1, tokens // (GROUP * sizes.length)))
        plan = cls(GROUP * groups, max(1, tokens // sizes.length), int(memory))
        while lacking := plan.lacking(needs, memory):
            smaller = plan.smaller()
            if smaller is None:
                raise ConfigurationError(
                    f"{' and '.join(f'{n} needs {b / 1e9:.3g} GB' for n, b in lacking.items())} "
                    f"beside the weights; {memory / 1e9:.3g} GB may be used: raise device.memory, "
                    "choose a shorter evaluation.length, or leave out what does not fit"
                )
            plan = smaller
        return plan

    def lacking(self, needs: Mapping[str, Need], memory: float) -> dict[str, int]:
        """What does not fit under this plan, and the bytes that it takes."""
        found = {name: need(self) for name, need in needs.items()}
        return {name: size for name, size in found.items() if size > memory}

    def smaller(self) -> Plan | None:
        """The next cut that takes less; None if there is none."""
        if self.rows > 1:
            return replace(self, rows=self.rows // 2)
        return replace(self, panel=self.panel - GROUP) if self.panel > GROUP else None

    def bytes(
        self, config: ModelConfig, length: int, device: torch.device, dtype: torch.dtype
    ) -> int:
        """Most memory a sweep takes beside the weights, in bytes.

        Means of every component at every position, with their running sums in float64; the clean
        pass and that of the donors: stream, heads and MLP outputs of a layer and what computing
        them takes; per worker one chunk of variants and one tile of logits.
        """
        c, size = config, dtype.itemsize
        means = means_of(c, length, dtype)
        panel = whole(self.panel)
        # Chunks that wait hold the layer they start from: stream, heads and MLP output.
        layers = min(c.n_layers, 2 * workers_of(device) + 2)
        clean = 2 * panel * length * (activations(c) + layers * 5 * c.d_model) * size
        chunk = self.rows * length * activations(c) * size
        logits = TILE[0] * TILE[1] * size if device.type == "cpu" else (1 << 26) * 3 * 4
        held = means + clean + max(1, workers_of(device)) * (chunk + logits)
        return kept(held)


def kept(held: int) -> int:
    """Bytes that a process grows by where so many are in use: allocators keep more."""
    return held + held // 4


def sweep_memory(sizes: Sizes, plan: Plan, variants: int, *, sets: bool = False) -> int:
    """Bytes that a sweep takes beside the weights.

    Args:
        sizes: Of model and data.
        plan: How it is cut.
        variants: How many there are: each has its losses of every sequence.
        sets: Whether sets are taken out, for which ``resample`` needs donors' outputs ahead.
    """
    c = sizes.config
    plan = _used(sizes, plan, variants)
    held = plan.bytes(c, sizes.length, sizes.device, sizes.dtype)
    held += kept(48 * variants * sizes.sequences)
    if sets and Baseline.RESAMPLE in sizes.baselines:
        trace = c.n_layers * (3 * c.d_model + c.n_heads * c.d_head)
        held += kept(whole(plan.panel) * sizes.length * trace * sizes.dtype.itemsize)
    return held


def clean_memory(sizes: Sizes, plan: Plan) -> int:
    """Bytes that the loss of a checkpoint takes beside the weights."""
    tokens = min(plan.panel, sizes.sequences) * sizes.length
    tiles = TILE[0] * TILE[1]
    return kept((tokens * activations(sizes.config) + tiles) * sizes.dtype.itemsize)


def _used(sizes: Sizes, plan: Plan, variants: int) -> Plan:
    """As much of a plan as so many sequences and variants fill."""
    panel = min(plan.panel, sizes.sequences)
    return replace(plan, panel=panel, rows=min(plan.rows, panel * max(1, variants)))


def whole(panel: int) -> int:
    """Sequences of a panel in whole groups."""
    return -(-panel // GROUP) * GROUP


def means_of(c: ModelConfig, length: int, dtype: torch.dtype) -> int:
    """Bytes that means of every component at every position take, with their float64 sums."""
    block = c.n_heads * c.d_head + (c.d_model if c.d_mlp else 0)
    return length * (c.n_layers * block + 2 * c.d_model) * (2 * dtype.itemsize + 8)


def workers_of(device: torch.device) -> int:
    """Threads that run chunks side by side, each on one core; 0 where the device does that."""
    return torch.get_num_threads() if device.type == "cpu" else 0


def budget(device: torch.device) -> float:
    """Bytes a walk may take beside the weights, unless told otherwise: half of what is free."""
    return FREE_SHARE * free_memory(device)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; on a CPU what the machine, or its container, has left."""
    if device.type == "cuda":
        # What torch keeps for later is free, too.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{n}" for n in ("max", "current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(0, free)


def activations(c: ModelConfig) -> int:
    """Numbers per token that computing a block holds at once."""
    attention = 3 * (c.n_heads + 2 * c.n_kv_heads) * c.d_head + 2 * c.n_heads * c.d_head
    mlp = (4 if c.gated else 2) * (c.d_mlp or 0)
    return 5 * c.d_model + max(attention, mlp)
