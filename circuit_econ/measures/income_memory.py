"""How income cuts its work so that it fits what a plan allows, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass

from circuit_econ.measures.flows import HELD, of_a_position
from circuit_econ.measures.income_pass import LOGITS, numbers, readers_of
from circuit_econ.measures.plan import Plan, Sizes, means_of
from circuit_econ.model import ModelConfig
from circuit_econ.model.intervene import components
from circuit_econ.tables import Baseline

__all__ = ["GROUPS", "Cut", "cut", "flows_of", "table_memory"]

GROUPS = 64
"""Most groups of documents that flows are kept apart for."""

_ROW = 600
"""Bytes of a flow on its way into tables: Python's numbers, names, columns and their copies."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How the work is cut.

    Attributes:
        panel: Sequences whose passes run together.
        held: Numbers of expanded writes and gradients held at once.
        logits: Logits held at once, in numbers.
        bytes: What all of it takes beside the weights; more than is allowed only where one sequence
            and one position at a time do not fit.
    """

    panel: int
    held: int
    logits: int
    bytes: int


def flows_of(config: ModelConfig) -> int:
    """How many flows there are."""
    return sum(before * len(ports) for before, ports in readers_of(config))


def table_memory(sizes: Sizes) -> int:
    """Bytes that flows take on their way into tables, or out of them, for all baselines."""
    return flows_of(sizes.config) * _ROW * len(sizes.baselines)


def cut(sizes: Sizes, plan: Plan, *, stages: int, levels: tuple[int, int], left_out: bool) -> Cut:
    """The largest panels that fit, with what is left for chunks of flows and logits.

    Args:
        sizes: Of model and data.
        plan: What may be taken.
        stages: How many stages incomes are kept of apart.
        levels: Of the first rule and the last.
        left_out: Whether groups of the reference are left out in turn, with means of their own.
    """
    c, size = sizes.config, sizes.dtype.itemsize
    suppliers, flows = len(components(c, embeddings=False)), flows_of(c)
    ports = max(len(ports) for _, ports in readers_of(c))
    groups, nodes = min(GROUPS, sizes.documents), (1 << levels[1]) + 1
    # Sums of every rule, and of what their errors are made of; what is known at every node.
    sums = levels[1] - levels[0] + 2 + 3
    fixed = 8 * groups * sums * (flows + stages * suppliers) + 8 * 4 * nodes * flows
    fixed += table_memory(sizes) + (1 + left_out) * means_of(c, sizes.length, sizes.dtype)
    block = c.n_layers * (c.n_heads * c.d_head + (c.d_model if c.d_mlp else 0))
    bases = sizes.length * block
    each = numbers(c, sizes.length, stages) + bases * (Baseline.RESAMPLE in sizes.baselines)
    fixed += bases * size
    if c.group > 1 or c.qk_norm:
        fixed += c.n_layers * c.n_heads * c.d_head * c.d_model * size * (5 if c.qk_norm else 3)
    each = each * size + 8 * (8 * flows + 3 * stages * suppliers)
    position = of_a_position(c.d_model, suppliers, ports)
    # Of what a backward pass frees allocators keep more than elsewhere: measured, not derived.
    room = plan.memory * 3 // 5 - fixed
    fit = (room - min(room // 4, max(HELD, 4 * LOGITS) * size)) // each
    panel = max(1, min(plan.panel, sizes.sequences, fit))
    left = max(0, room - panel * each) // size
    held = min(HELD, left, panel * sizes.length * position)
    logits = min(LOGITS, left // 4, panel * sizes.length * c.d_vocab_out)
    held, logits = max(held, panel * position), max(logits, c.d_vocab_out)
    return Cut(panel, held, logits, (fixed + panel * each + max(held, 4 * logits) * size) * 5 // 3)
