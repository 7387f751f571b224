"""The plain TransformerLens hook loop and the sweep, and what is read off the machine meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
import torch.nn.functional as F

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context
from circuit_econ.measures.sweep import Variant, sweep
from circuit_econ.model import ModelConfig
from circuit_econ.model.intervene import Component
from circuit_econ.tables import Kind

__all__ = ["Timed", "hook_loop", "matrix_rate", "ours", "sweep_operations", "timed"]


@dataclass(frozen=True, slots=True)
class Timed:
    """One run.

    Attributes:
        seconds: Wall-clock time.
        memory: Most bytes held beyond what was held before.
        values: Nats per scored position, by component.
    """

    seconds: float
    memory: int
    values: list[float]


def timed(work: Callable[[], list[float]]) -> Timed:
    """Run it and watch the clock and the memory."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        began = time.perf_counter()
        values = work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        return Timed(seconds, torch.cuda.max_memory_allocated() - before, values)
    process, stop = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    values = work()
    seconds = time.perf_counter() - began
    stop.set()
    watcher.join()
    return Timed(seconds, peak - before, values)


@torch.no_grad()
def hook_loop(bridge: Any, data: Evaluation, parts: Sequence[Component], batch: int) -> list[float]:
    """Values by the plain loop: one hooked forward pass per component."""

    def loss(hooks: list[tuple[str, Callable[..., Any]]]) -> float:
        total, count = 0.0, 0
        for tokens, targets in zip(
            data.tokens.split(batch), data.targets.split(batch), strict=True
        ):
            logits = bridge.run_with_hooks(tokens.to(bridge.cfg.device), fwd_hooks=hooks)
            scored = targets >= 0
            wanted = targets[scored].to(logits.device)
            total += float(
                F.cross_entropy(logits[scored.to(logits.device)], wanted, reduction="sum")
            )
            count += int(scored.sum())
        return total / count

    def silence(head: int | None) -> Callable[..., Any]:
        def hook(x: torch.Tensor, hook: Any) -> torch.Tensor:
            x = x.clone()
            if head is None:
                x[:] = 0
            else:
                x[:, :, head] = 0
            return x

        return hook

    clean = loss([])
    values = []
    for part in parts:
        name = "attn.hook_z" if part.kind is Kind.HEAD else "hook_mlp_out"
        values.append(loss([(f"blocks.{part.layer}.{name}", silence(part.head))]) - clean)
    return values


def ours(context: Context, parts: Sequence[Component]) -> list[float]:
    """Values by the sweep."""
    result = sweep(context, [Variant((part,), "zero") for part in parts])
    return (result.difference.sum(1) / result.counts.sum()).tolist()


def sweep_operations(
    config: ModelConfig, parts: Sequence[Component], sequences: int, length: int
) -> float:
    """Floating-point operations that the sweep needs: the clean pass and the blocks above.

    A masked score counts as not needed.
    """
    c = config
    projections = (2 * c.n_heads + 2 * c.n_kv_heads) * c.d_head * c.d_model
    attention = projections + c.n_heads * c.d_head * length
    mlp = (3 if c.gated else 2) * c.d_model * (c.d_mlp or 0)
    blocks = float(c.n_layers) * (attention + mlp)
    for part in parts:
        assert part.layer is not None
        above = c.n_layers - 1 - part.layer
        own = mlp if part.kind is Kind.HEAD and not c.parallel else 0
        blocks += above * (attention + mlp) + own
    return 2.0 * sequences * length * (blocks + (1 + len(parts)) * c.d_model * c.d_vocab_out)


def matrix_rate(device: torch.device, size: int = 2048, seconds: float = 0.5) -> float:
    """Floating-point operations a second of plain square products."""
    a = torch.randn(size, size, device=device)
    b = torch.randn(size, size, device=device)
    product = a @ b
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(a, b, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best
