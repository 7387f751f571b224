"""The sweep beside a plain TransformerLens hook loop: seconds, ratio and agreement, in one process.

The contestants take turns on the same weights and tokens: every head and MLP of every layer, zero
baseline. The loop runs one hooked forward per component at the batch size that suits it best. Run
with `make bench`; the table goes to benchmarks/RESULTS.md. Nothing else should run meanwhile.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan
from circuit_econ.measures.sweep import Variant, sweep
from circuit_econ.model import Format, Model, Source
from circuit_econ.model.bridge import boot
from circuit_econ.model.intervene import Component, components
from circuit_econ.settings import resolve_device
from circuit_econ.tables import Kind

ROUNDS = 3


def pythia(layers: int, heads: int, width: int) -> dict[str, Any]:
    """The shape of a Pythia model, real vocabulary."""
    return {
        "model_type": "gpt_neox",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "rotary_pct": 0.25,
        "max_position_embeddings": 2048,
        "vocab_size": 50304,
        "use_parallel_residual": True,
    }


NATIVE = {"n_ctx": 128, "d_vocab": 256, "normalization_type": "LN", "n_layers": 2}
SHAPES: dict[str, tuple[Format, dict[str, Any], int, int]] = {
    # name: (format, configuration, sequences, length)
    "attention-only, 2 layers": (
        Format.TRANSFORMER_LENS,
        {**NATIVE, "d_model": 64, "d_head": 16, "attn_only": True}, 64, 128,
    ),
    "quickstart, 2 layers": (
        Format.TRANSFORMER_LENS,
        {**NATIVE, "d_model": 64, "d_head": 16, "d_mlp": 256, "act_fn": "gelu"}, 64, 128,
    ),
    "pythia-14m": (Format.HUGGING_FACE, pythia(6, 4, 128), 8, 128),
    "pythia-70m": (Format.HUGGING_FACE, pythia(6, 8, 512), 2, 128),
}  # fmt: skip


def random_source(format: Format, config: dict[str, Any]) -> Source:
    """Random weights of a shape, as its own library draws them."""
    if format is Format.TRANSFORMER_LENS:
        model = Model.initialise(config)
        return Source(format, config, model.to_transformer_lens(), "random")
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    given = {k: v for k, v in config.items() if k != "model_type"}
    module = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]].from_dict(given))
    return Source(format, config, dict(module.state_dict()), "random")


@torch.no_grad()
def hook_loop(bridge: Any, data: Evaluation, parts: list[Component], batch: int) -> list[float]:
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


def ours(context: Context, parts: list[Component]) -> list[float]:
    """Values by the sweep."""
    result = sweep(context, [Variant((part,), "zero") for part in parts])
    return (result.difference.sum(1) / result.counts.sum()).tolist()


def timed(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Seconds and result."""
    began = time.perf_counter()
    values = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, values


def contest(name: str) -> str:
    """One row of the table."""
    format, config, sequences, length = SHAPES[name]
    device = resolve_device(None)
    source = random_source(format, config)
    model = Model.from_source(source, torch.float32, device)
    bridge = boot(source)
    if device.type == "cuda":
        bridge.to(device)
    parts = components(model.config, embeddings=False)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.d_vocab_out, (sequences, length), generator=generator)
    data = Evaluation(tokens)
    plan = Plan.choose(model.config, length, device)
    context = Context(model, data, baselines=("zero",), plan=plan)
    few = parts[:: max(1, len(parts) // 4)]
    batch = min(
        (1, 2, 4, 8, 16, 32, 64), key=lambda b: timed(lambda: hook_loop(bridge, data, few, b))[0]
    )
    loops, sweeps, error = [], [], 0.0
    for _ in range(ROUNDS):
        seconds, theirs = timed(lambda: hook_loop(bridge, data, parts, batch))
        loops.append(seconds)
        seconds, mine = timed(lambda: ours(context, parts))
        sweeps.append(seconds)
        error = max(abs(a - b) for a, b in zip(theirs, mine, strict=True))
    ratios = [a / b for a, b in zip(loops, sweeps, strict=True)]
    return (
        f"| {name} | {len(parts)} | {sequences} × {length} | {statistics.median(loops):.2f} "
        f"(batch {batch}) | {statistics.median(sweeps):.2f} ({plan.rows} rows) | "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | {error:.1e} |"
    )


def main() -> None:
    """Run every contest and write the table."""
    device = resolve_device(None)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    lines = [
        "# The sweep beside a plain TransformerLens hook loop",
        "",
        f"{datetime.date.today()}, {where}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}. "
        f"Random weights, float32, zero baseline; medians of {ROUNDS} interleaved rounds, ratio "
        "with its range. Ratio: how many times faster the sweep is.",
        "",
        "| shape | components | tokens | loop, s | sweep, s | ratio | largest difference, nats |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in SHAPES:
        lines.append(contest(name))
        print(lines[-1], flush=True)
        # After every contest: a run that is stopped keeps what it measured.
        results = Path(__file__).with_name("RESULTS.md")
        results.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
