"""How the work is cut so that it stays in cache on a CPU, fills a GPU, and fits the memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from circuit_econ.errors import ConfigurationError
from circuit_econ.model import ModelConfig
from circuit_econ.model.losses import TILE

__all__ = ["GROUP", "PANEL", "Plan", "budget", "free_memory", "workers_of"]

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
    def choose(
        cls,
        config: ModelConfig,
        length: int,
        device: torch.device,
        memory: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Plan:
        """The fastest cut that fits the memory.

        Args:
            config: The model.
            length: Tokens of a sequence.
            device: Where it runs.
            memory: Bytes beside the weights; half of what is free by default.
            dtype: Of the numbers.

        Raises:
            ConfigurationError: If not even one sequence at a time fits.
        """
        allowed = budget(device) if memory is None else memory
        tokens = _GPU_TOKENS
        if device.type == "cpu":
            tokens = max(_FEWEST, _CACHE // (_activations(config) * dtype.itemsize))
        # No panel is larger than the pilot of a walk that adapts.
        groups = min(PANEL // GROUP, max(1, tokens // (GROUP * length)))
        panel, rows = GROUP * groups, max(1, tokens // length)
        while cls(panel, rows).bytes(config, length, device, dtype) > allowed:
            if rows > 1:
                rows //= 2
            elif panel > GROUP:
                panel -= GROUP
            else:
                needed = cls(panel, rows).bytes(config, length, device, dtype)
                raise ConfigurationError(
                    f"sequences of {length} tokens through this model need {needed / 1e9:.2f} GB "
                    f"beside its weights; {allowed / 1e9:.2f} GB may be used: raise device.memory "
                    "or choose a shorter evaluation.length"
                )
        return cls(panel, rows, int(allowed))

    def bytes(
        self, config: ModelConfig, length: int, device: torch.device, dtype: torch.dtype
    ) -> int:
        """Most memory a sweep takes beside the weights, in bytes.

        Means of every component at every position, with their running sums in float64; the clean
        pass and that of the donors: stream, heads and MLP outputs of a layer and what computing
        them takes; per worker one chunk of variants and one tile of logits.
        """
        c, size = config, dtype.itemsize
        block = c.n_heads * c.d_head + (c.d_model if c.d_mlp else 0)
        means = length * (c.n_layers * block + 2 * c.d_model) * (2 * size + 8)
        panel = -(-self.panel // GROUP) * GROUP
        # Chunks that wait hold the layer they start from: stream, heads and MLP output.
        layers = min(c.n_layers, 2 * workers_of(device) + 2)
        clean = 2 * panel * length * (_activations(c) + layers * 5 * c.d_model) * size
        chunk = self.rows * length * _activations(c) * size
        logits = TILE[0] * TILE[1] * size if device.type == "cpu" else (1 << 26) * 3 * 4
        held = means + clean + max(1, workers_of(device)) * (chunk + logits)
        # Allocators keep more than is in use.
        return held + held // 4


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


def _activations(c: ModelConfig) -> int:
    """Numbers per token that computing a block holds at once."""
    attention = 3 * (c.n_heads + 2 * c.n_kv_heads) * c.d_head + 2 * c.n_heads * c.d_head
    mlp = (4 if c.gated else 2) * (c.d_mlp or 0)
    return 5 * c.d_model + max(attention, mlp)
