"""Income and all flows beside plain training passes and two edge attributions.

Run by `make bench`; writes INCOME.md. The contestants take turns on the same weights and the same
batch, several rounds; medians and ranges are reported. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from attribution import edge_attribution
from contestants import Timed, timed
from machine import processor, version
from shapes import SHAPES, Shape
from torch import Tensor

from circuit_econ.evaluation import Evaluation
from circuit_econ.measures import Context, Plan
from circuit_econ.measures.income import INCOME, IncomeSettings, cut_of
from circuit_econ.measures.income_economy import Economy
from circuit_econ.model import Format, Model, Source
from circuit_econ.model.bridge import boot
from circuit_econ.settings import resolve_device

RESULTS = Path(__file__).with_name("INCOME.md")
LEVEL = 2
NODES = (1 << LEVEL) + 1

HEAD = """\
# Income and all flows beside plain passes and edge attribution

{date}; {where}, {threads} threads; Python {python}, torch {torch}, transformer-lens {lens}. Written
by `make bench`.

One node: a forward pass, a backward pass, all incomes and all flows of a batch, split into signal
and crowding; the mean of {nodes} nodes. A plain pass: forward, loss and backward of the same model
in float32 with scaled-dot-product attention on the same batch, gradients of all weights included
(of the activations alone in brackets). Zero baseline, random tokens. Medians of rounds taken by
turns, ratios with their range. Memory: most MB beyond what was held before.

Whole: what `measure=[income]` takes under the mean baseline as it comes, with stages, errors by a
jackknife over the reference, and as many nodes as it wants (in brackets); one run, in plain
passes.

Two peers, each one node. *Batched*: edge attribution by copies of the stream (`attribution.py`),
one forward and one backward pass of the whole batch, summed over positions as income is: equal work
per node, save that it does not split off crowding. *TransformerLens*: its `attribution_patch` at
edge granularity, sequence by sequence, two forward passes and a backward pass each. It scores every
position of every sequence one by one, which is more than is asked for here: not equal work.

| shape | edges | tokens | plain, s | income, s per node | income / plain | whole / plain | \
batched attribution, s | income per node / batched attribution | TransformerLens, s | plain, MB | \
income, MB | batched, MB | TransformerLens, MB |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def plain_pass(
    shape: Shape, source: Source, device: torch.device, *, weights: bool
) -> Callable[[Tensor, Tensor], None]:
    """A training pass of the same weights: the library's own model, ours for small trained ones."""
    if source.format is Format.HUGGING_FACE:
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM

        given = {k: v for k, v in shape.config.items() if k != "model_type"}
        module: Any = AutoModelForCausalLM.from_config(
            CONFIG_MAPPING[shape.config["model_type"]].from_dict(given), attn_implementation="sdpa"
        )
        module.load_state_dict(source.tensors)
        module.to(device).train(False).requires_grad_(weights)

        def loss(embedded: Tensor | None, tokens: Tensor, targets: Tensor) -> Tensor:
            given = {"input_ids": tokens} if embedded is None else {"inputs_embeds": embedded}
            logits = module(**given, use_cache=False).logits
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

        embedding = module.get_input_embeddings()
        parameters = list(module.parameters())
    else:
        model = Model.from_source(source, torch.float32, device)
        parameters = list(model.parameters().values())
        for tensor in parameters:
            tensor.requires_grad_(weights)

        def loss(embedded: Tensor | None, tokens: Tensor, targets: Tensor) -> Tensor:
            stream = model.run(model.embed(tokens) if embedded is None else embedded)
            logits = model.logits(stream)
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

        embedding = model.embed

    def run(tokens: Tensor, targets: Tensor) -> None:
        for tensor in parameters:
            tensor.grad = None
        embedded = None if weights else embedding(tokens).detach().requires_grad_()
        loss(embedded, tokens, targets).backward()

    return run


def position_by_position(bridge: Any, tokens: Tensor, targets: Tensor) -> None:
    """Edge attribution of every sequence, patched from the same tokens shifted by one."""
    from transformer_lens.tools.analysis.attribution_patching import (
        EdgeAttributionConfig,
        attribution_patch,
    )

    for row in range(len(tokens)):
        own = slice(row, row + 1)
        attribution_patch(
            bridge,
            tokens[own].roll(1, 1),
            tokens[own],
            lambda logits, row=row: F.cross_entropy(
                logits[0], targets[row], reduction="sum", ignore_index=-100
            ),
            EdgeAttributionConfig("edge"),
        )


def contest(shape: Shape, device: torch.device, rounds: int) -> str:
    """One row."""
    source = shape.source()
    pool = shape.evaluation(shape.sequences)
    data = Evaluation(pool.tokens, pool.targets, pool.tokens[:8])
    tokens, targets = data.tokens.to(device), data.targets.to(device)
    model = Model.from_source(source, torch.float32, device)
    context = Context(model, data, 0, ("zero",), Plan(panel=len(tokens)))
    economy = Economy(context, "zero", cut_of(context.sizes, IncomeSettings(), context.plan))
    whole = plain_pass(shape, source, device, weights=True)
    without = plain_pass(shape, source, device, weights=False)
    bridge = boot(source)
    if device.type == "cuda":
        bridge.to(device)

    def nothing(work: Callable[[], object]) -> Callable[[], list[float]]:
        def run() -> list[float]:
            work()
            return []

        return run

    works = {
        "plain": nothing(lambda: whole(tokens, targets)),
        "bare": nothing(lambda: without(tokens, targets)),
        "income": nothing(lambda: economy.integrate(LEVEL)),
        "batched": nothing(lambda: edge_attribution(model, tokens, targets, None)),
        "lens": nothing(lambda: position_by_position(bridge, tokens, targets)),
    }
    if shape.config.get("model_type") != "gpt_neox":
        del works["lens"]  # it refuses grouped queries, and TransformerLens' native models
    found: dict[str, list[Timed]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            run = timed(work)
            if turn:  # the first warms up
                found[name].append(run)
    seconds = {k: statistics.median(t.seconds for t in v) for k, v in found.items()}
    memory = {k: f"{max(t.memory for t in v) / 1e6:.0f}" for k, v in found.items()}
    nodes = [run.seconds / NODES for run in found["income"]]
    plain, batched = (
        [node / run.seconds for node, run in zip(nodes, found[peer], strict=True)]
        for peer in ("plain", "batched")
    )
    node = statistics.median(nodes)
    bare = node / seconds["bare"]
    tables: dict[str, Any] = {}
    asked = Context(model, data, 0, ("mean",), Plan(panel=len(tokens)))
    whole_run = timed(nothing(lambda: tables.update(INCOME.run(asked, IncomeSettings()))))
    lens = (f"{seconds['lens']:.2f}", memory["lens"]) if "lens" in works else ("refuses", "–")
    return (
        f"| {shape.name} | {len(economy.pairs)} | {tokens.shape[0]} × {tokens.shape[1]} | "
        f"{seconds['plain']:.3f} ({seconds['bare']:.3f}) | {node:.3f} | "
        f"{_spread(plain, f'; {bare:.2f}')} | "
        f"{whole_run.seconds / seconds['plain']:.0f} ({tables['income_gap']['nodes'][0]} nodes) | "
        f"{seconds['batched']:.3f} | {_spread(batched)} | {lens[0]} | "
        f"{memory['plain']} | {memory['income']} | {memory['batched']} | {lens[1]} |"
    )


def _spread(ratios: Sequence[float], more: str = "") -> str:
    """Median and range."""
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}–{max(ratios):.2f}{more})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every contest and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=[s.name for s in SHAPES])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    device = resolve_device(None)
    lines = [
        HEAD.format(
            date=datetime.date.today(),
            where=processor(device),
            threads=torch.get_num_threads(),
            python=platform.python_version(),
            torch=torch.__version__,
            lens=version("transformer-lens"),
            nodes=NODES,
        )
    ]
    for shape in SHAPES:
        if shape.name in given.shapes:
            lines.append(contest(shape, device, given.rounds))
            print(lines[-1], flush=True)
            RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
