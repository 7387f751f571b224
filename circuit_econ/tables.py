"""The shared vocabulary: one schema per table, the names of components, the currencies.

Everything that is written by one part of the house and read by another is named here, once. The
module imports nothing of the project, so every part may import it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, TypeGuard

import polars as pl

__all__ = [
    "BASELINES",
    "CURRENCY_UNITS",
    "FEW",
    "SCHEMA_VERSION",
    "STEPLESS",
    "TABLES",
    "Baseline",
    "Currency",
    "Kind",
    "Outcome",
    "Status",
    "component_key",
    "head_name",
    "kv_name",
    "make_table",
    "mlp_name",
    "output_bias_name",
    "place_key",
    "set_name",
]

SCHEMA_VERSION: Final = 3
"""Version of the ledger's tables; written to ``run.yaml`` and checked when a ledger is opened."""

_S, _I, _F = pl.String, pl.Int64, pl.Float64

TABLES: Final[dict[str, pl.Schema]] = {
    "components": pl.Schema({"component": _S, "kind": _S, "layer": _I, "head": _I}),
    "checkpoints": pl.Schema(
        {
            "step": _I,
            "tokens_seen": _I,
            "status": _S,
            "reason": _S,
            "loss": _F,  # nats per scored position
            "loss_se": _F,
            "digest": _S,
            "seconds": _F,  # of measuring
            "waited": _F,  # seconds before that in which nothing could be measured
            "device": _S,
            "dtype": _S,
        }
    ),
    "tensors": pl.Schema(
        # What the audit is computed from. ``norm`` is the Frobenius norm, ``nonfinite`` counts NaN
        # and infinities, ``role`` is read, extra or missing.
        {
            "step": _I,
            "tensor": _S,
            "role": _S,
            "shape": _S,
            "dtype": _S,
            "digest": _S,
            "norm": _F,
            "nonfinite": _I,
        }
    ),
    "audit": pl.Schema({"step": _I, "finding": _S, "tensor": _S, "detail": _S}),
    "value": pl.Schema(
        {
            "step": _I,
            "component": _S,
            "baseline": _S,
            "value": _F,  # nats per scored position; positive = useful
            "se": _F,  # null where it cannot be estimated (one sequence or one document)
            "sequences": _I,
            "placebo": _F,
            "placebo_se": _F,
            "affected": _I,  # sequences, or documents, that changed noticeably
            "low": _F,  # ends of the 95 % interval; null where none can be vouched for
            "high": _F,
            "outcome": _S,  # an Outcome
            "effective": _F,  # sequences, or documents, of one size that would tell as much
            "needed": _I,  # how many an interval takes at least, where the tail is heavy
        }
    ),
    "capacity": pl.Schema({"step": _I, "component": _S, "currency": _S, "place": _S, "amount": _F}),
    "attention": pl.Schema({"step": _I, "component": _S, "quantity": _S, "amount": _F}),
    "income": pl.Schema(
        # Nats per scored position; ``se`` is null where it cannot be estimated. The integration
        # error, how far the amount may be from its integral over the dial, comes on top of it.
        {
            "step": _I,
            "component": _S,
            "baseline": _S,
            "income": _F,
            "se": _F,
            "integration_error": _F,
        }
    ),
    "income_stages": pl.Schema(
        # Stage 1 is sold to the logits, stage 2 to what sells to the logits, and so on.
        {"step": _I, "component": _S, "baseline": _S, "stage": _I, "income": _F}
    ),
    "income_gap": pl.Schema(
        # ``gap`` is the sum of incomes less the product; ``missed`` the largest such gap between
        # any two dials. An economy that has not converged says so; its integration errors hold.
        # An ablated loss beyond the error of what unigram frequencies achieve flags the baseline's
        # economy.
        {
            "step": _I,
            "baseline": _S,
            "nodes": _I,
            "product": _F,
            "gap": _F,
            "component_error": _F,
            "missed": _F,
            "converged": pl.Boolean(),
            "ablated_loss": _F,
            "unigram_loss": _F,
            "unigram_se": _F,
        }
    ),
    "flows": pl.Schema(
        # Income is signal + crowding over all buyers; ``se`` and ``integration_error`` are those of
        # their sum. The halves are that sum again, on every other group of documents alone.
        {
            "step": _I,
            "supplier": _S,
            "buyer": _S,
            "port": _S,
            "baseline": _S,
            "signal": _F,
            "crowding": _F,
            "se": _F,
            "integration_error": _F,
            "first_half": _F,
            "second_half": _F,
        }
    ),
    "direct": pl.Schema(
        # Direct and mediated value and the interaction add to the value; nats per scored position.
        {
            "step": _I,
            "component": _S,
            "baseline": _S,
            "direct": _F,
            "mediated": _F,
            "interaction": _F,
            "se": _F,  # of the direct value
            "mediated_se": _F,
            "interaction_se": _F,
        }
    ),
    "edges": pl.Schema(
        # ``chosen`` says why the edge was measured: its flow is among the largest, it was drawn
        # from the rest, or it comes from an embedding, which has no flow. The halves are the effect
        # on every other group of documents alone.
        {
            "step": _I,
            "supplier": _S,
            "buyer": _S,
            "port": _S,
            "baseline": _S,
            "effect": _F,  # nats per scored position; positive = useful
            "se": _F,
            "first_half": _F,
            "second_half": _F,
            "flow": _F,
            "chosen": _S,  # flow, drawn, embedding
        }
    ),
    "edge_sampling": pl.Schema(
        # What the edges that were measured say of all of them, and of those that were not.
        {
            "step": _I,
            "baseline": _S,
            "edges": _I,  # all there are
            "largest": _I,  # measured for their flow
            "drawn": _I,  # measured at random, of the rest
            "rank_correlation": _F,  # of flow and effect over all measured
            "rank_correlation_drawn": _F,  # over those drawn
            "effect": _F,  # nats, summed over all measured
            "hidden": _F,  # nats, expected sum of the effects of edges not measured
            "hidden_se": _F,
            "hidden_size": _F,  # nats, expected sum of their sizes, sampling noise taken off
        }
    ),
    "composition": pl.Schema(
        {"step": _I, "supplier": _S, "buyer": _S, "port": _S, "score": _F}  # static: no baseline
    ),
    "counted": pl.Schema(
        # Edges beyond sampling error and beyond untrained models, by their flow or by their exact
        # effect (null where it was not measured). Bounds are what untrained models may reach;
        # ``circuit`` is the circuit that the edge is inside of, or null.
        {
            "step": _I,
            "supplier": _S,
            "buyer": _S,
            "port": _S,
            "flow": _F,
            "se": _F,
            "integration_error": _F,  # of the flow
            "bound": _F,
            "effect": _F,
            "effect_se": _F,
            "effect_bound": _F,
            "admitted_by": _S,  # flow, effect, both
            "circuit": _S,
        }
    ),
    "counting": pl.Schema(
        # How many edges count, and what keeps the largest flow (supplier, buyer, port) from it:
        # ``needed`` sequences would make it count, ``fewest`` would make any flow count; null is
        # never.
        {
            "step": _I,
            "baseline": _S,  # whose flows and effects are counted
            "sequences": _I,
            "by_flow": _I,
            "by_effect": _I,  # both: in either
            "supplier": _S,
            "buyer": _S,
            "port": _S,
            "flow": _F,
            "se": _F,
            "integration_error": _F,  # of that flow
            "bound": _F,
            "needed": _I,
            "fewest": _I,
        }
    ),
    "circuits": pl.Schema(
        # ``membership``: share of the component's counted trade that is inside of the circuit.
        {"step": _I, "circuit": _S, "role": _S, "component": _S, "membership": _F}
    ),
    "circuit_values": pl.Schema(
        # ``redundancy`` is the joint value less the sum of the members' single values.
        {
            "step": _I,
            "circuit": _S,
            "baseline": _S,
            "value": _F,
            "se": _F,
            "singles": _F,
            "redundancy": _F,
            "redundancy_se": _F,
        }
    ),
    "circuit_pairs": pl.Schema(
        {
            "step": _I,
            "circuit": _S,
            "baseline": _S,
            "first": _S,
            "second": _S,
            "value": _F,  # of both together
            "se": _F,
            "redundancy": _F,
            "redundancy_se": _F,
        }
    ),
    "circuit_agreement": pl.Schema(
        # Circuits of the first and of the second half of the data, and how alike they are: adjusted
        # Rand index over the components that both assign; null where there are fewer than two.
        {
            "step": _I,
            "circuits": _I,
            "first_half": _I,
            "second_half": _I,
            "components": _I,
            "adjusted_rand": _F,
        }
    ),
    "circuit_events": pl.Schema(
        # ``circuit`` at this step came of ``parent`` at the step before; either is null where there
        # is none. ``overlap`` is what the two share, of the smaller one. Values are joint ones
        # under a baseline, null where none was measured; growth and decline are those ``since`` a
        # step.
        {
            "step": _I,
            "event": _S,
            "circuit": _S,
            "parent": _S,
            "overlap": _F,
            "baseline": _S,
            "value": _F,  # nats per scored position
            "se": _F,
            "parent_value": _F,
            "parent_se": _F,
            "since": _I,
        }
    ),
    "prices": pl.Schema(
        {
            "step": _I,
            "buyer": _S,
            "port": _S,
            "baseline": _S,
            "node": _I,
            "alpha": _F,
            "price": _F,  # S(x̃), nats per scored position, at this dial
        }
    ),
}
"""Columns of every table, in order. Amounts are Float64, steps Int64, names String."""

STEPLESS: Final = frozenset({"components"})
"""Tables without a step: one for the whole run."""


class Kind(StrEnum):
    """What a row of ``components`` is."""

    EMBED = "embed"
    POS = "pos"
    HEAD = "head"
    MLP = "mlp"
    LOGITS = "logits"


class Status(StrEnum):
    """Outcome of a checkpoint in the ``checkpoints`` table."""

    MEASURED = "measured"
    FAILED = "failed"


class Outcome(StrEnum):
    """What an estimate's interval is worth (:func:`circuit_econ.measures.precision.judge`)."""

    FIXED = "fixed"
    MET = "met"
    USED_UP = "used up"
    FEW = "few"
    HEAVY_TAIL = "heavy tail"
    NOT_ESTIMABLE = "not estimable"


FEW: Final = 16
"""Effective sequences (documents) below which intervals are wide and a tail would not show."""


class Baseline(StrEnum):
    """What stands in an ablated component's place (economy, section 2)."""

    MEAN = "mean"
    MEAN_POSITION = "mean-position"
    ZERO = "zero"
    RESAMPLE = "resample"


BASELINES: Final = tuple(b.value for b in Baseline)


class Currency(StrEnum):
    """Capacity is counted in several currencies, never mixed in one column."""

    PARAMETERS = "parameters"
    SQUARED_NORM = "squared_norm"
    EFFECTIVE_RANK_OV = "effective_rank_ov"
    EFFECTIVE_RANK_QK = "effective_rank_qk"
    EFFECTIVE_RANK_OUT = "effective_rank_out"
    STABLE_RANK_OV = "stable_rank_ov"
    STABLE_RANK_QK = "stable_rank_qk"
    STABLE_RANK_OUT = "stable_rank_out"
    STREAM_SHARE = "stream_share"
    STREAM_SHARE_CENTRED = "stream_share_centred"
    DIMENSIONS_USED = "dimensions_used"
    DIRECTIONS = "directions"


CURRENCY_UNITS: Final[dict[str, str]] = {
    Currency.PARAMETERS: "parameters",
    Currency.SQUARED_NORM: "squared Frobenius norm, as trained",
    Currency.EFFECTIVE_RANK_OV: "effective rank of W_V W_O",
    Currency.EFFECTIVE_RANK_QK: "effective rank of W_Q W_Kᵀ (position-free)",
    Currency.EFFECTIVE_RANK_OUT: "effective rank of W_out",
    Currency.STABLE_RANK_OV: "stable rank of W_V W_O",
    Currency.STABLE_RANK_QK: "stable rank of W_Q W_Kᵀ (position-free)",
    Currency.STABLE_RANK_OUT: "stable rank of W_out",
    Currency.STREAM_SHARE: "share of the residual stream",
    Currency.STREAM_SHARE_CENTRED: "share of the stream, means removed",
    Currency.DIMENSIONS_USED: "dimensions used (participation ratio)",
    Currency.DIRECTIONS: "directions claimed in the layer's set",
}


def head_name(layer: int, head: int) -> str:
    """``a{layer}.h{head}``: one attention head."""
    return f"a{layer}.h{head}"


def mlp_name(layer: int) -> str:
    """``m{layer}``: one MLP, output bias included."""
    return f"m{layer}"


def kv_name(layer: int, group: int) -> str:
    """``a{layer}.kv{group}``: key and value parameters shared by a group of heads."""
    return f"a{layer}.kv{group}"


def output_bias_name(layer: int) -> str:
    """``a{layer}.b_O``: the attention output bias, which belongs to no head."""
    return f"a{layer}.b_O"


def set_name(components: Sequence[str]) -> str:
    """Name of a jointly ablated set: its members in reading order, joined by ``+``."""
    return "+".join(sorted(components, key=component_key))


_BLOCK = re.compile(r"^block\.(\d+)$")
_NAME = re.compile(r"^(?:(?P<attn>a)(?P<al>\d+)\.h(?P<head>\d+)|m(?P<ml>\d+))$")


def component_key(name: str) -> tuple[int, int, int, str]:
    """Sort key that puts components in the order of the forward pass.

    ``embed``, ``pos``, then each layer's heads before its MLP, then everything else by name.
    A set sorts by its first member.
    """
    first = name.split("+", 1)[0]
    if first == Kind.EMBED:
        return (-2, 0, 0, name)
    if first == Kind.POS:
        return (-1, 0, 0, name)
    match = _NAME.match(first)
    if match is None:
        return (10**9, 0, 0, name)
    if match["attn"]:
        return (int(match["al"]), 0, int(match["head"]), name)
    return (int(match["ml"]), 1, 0, name)


def place_key(place: str) -> tuple[int, int, str]:
    """Sort key that puts places along the forward pass: ``block.{layer}``, then ``final``.

    Places that are not of the stream (``weights``, ``output``, …) come before.
    """
    block = _BLOCK.match(place)
    if place == "final":
        return (2, 0, place)
    return (1, int(block[1]), place) if block else (0, 0, place)


def make_table(name: str, columns: dict[str, Any]) -> pl.DataFrame:
    """A table built by column and checked against its schema.

    Args:
        name: One of :data:`TABLES`.
        columns: One sequence (or one scalar, repeated) per column of the schema.

    Raises:
        KeyError: If the columns are not exactly those of the schema.
    """
    schema = TABLES[name]
    if set(columns) != set(schema):
        missing, extra = set(schema) - set(columns), set(columns) - set(schema)
        raise KeyError(f"table {name!r}: missing {sorted(missing)}, unknown {sorted(extra)}")
    lengths = {len(v) for v in columns.values() if _is_listed(v)}
    if len(lengths) > 1:
        raise ValueError(f"table {name!r}: columns of different lengths {sorted(lengths)}")
    height = lengths.pop() if lengths else 1
    data = {key: list(v) if _is_listed(v := columns[key]) else [v] * height for key in schema}
    return pl.DataFrame(data, schema=schema, strict=True)


def _is_listed(values: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(values, list | tuple)
