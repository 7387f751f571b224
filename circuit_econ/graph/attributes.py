"""Every attribute of the composition graph, in one place: where, type, unit, and who adds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["ATTRIBUTES", "Attribute", "described"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute.

    Attributes:
        on: ``graph``, ``node`` or ``edge``.
        name: Its name; ``{…}`` stands for a baseline, a currency or a stage.
        type: The type of its values. An attribute that is not known is absent, never None.
        unit: Unit and sign; nats are per scored position.
        table: The table it is read from, or the function of this room that computes it.
        measure: The step of a walk that writes that table.
    """

    on: str
    name: str
    type: type
    unit: str
    table: str
    measure: str


ATTRIBUTES: Final = (
    Attribute("graph", "name", str, "study", "run.yaml", "walk"),
    Attribute("graph", "step", int, "optimiser steps", "flows, edges", "income, edges"),
    Attribute("graph", "baseline", str, "baseline of flows and effects", "flows, edges", "income"),
    Attribute("graph", "tokens_seen", int, "tokens", "checkpoints", "walk"),
    Attribute("graph", "loss", float, "nats", "checkpoints", "walk"),
    Attribute("graph", "loss_se", float, "nats", "checkpoints", "walk"),
    Attribute("graph", "nodes", int, "quadrature nodes", "income_gap", "income"),
    Attribute("graph", "product", float, "nats", "income_gap", "income"),
    Attribute("graph", "gap", float, "nats, incomes − product", "income_gap", "income"),
    Attribute("graph", "component_error", float, "nats", "income_gap", "income"),
    Attribute("graph", "missed", float, "nats, of known losses", "income_gap", "income"),
    Attribute("graph", "converged", bool, "the integral of income has", "income_gap", "income"),
    Attribute("graph", "ablated_loss", float, "nats", "income_gap", "income"),
    Attribute("graph", "unigram_loss", float, "nats", "income_gap", "income"),
    Attribute("graph", "unigram_se", float, "nats", "income_gap", "income"),
    Attribute("graph", "capital_share", float, "share of all flows", "capital_share", "income"),
    Attribute("graph", "parallel", bool, "heads do not feed their MLP", "flows", "income"),
    Attribute("node", "kind", str, "embed, pos, head, mlp, logits", "components", "walk"),
    Attribute("node", "layer", int, "from 0", "components", "walk"),
    Attribute("node", "head", int, "from 0", "components", "walk"),
    Attribute("node", "value_{baseline}", float, "nats, + useful", "value", "value"),
    Attribute("node", "value_se_{baseline}", float, "nats", "value", "value"),
    Attribute("node", "income", float, "nats, + earned", "income", "income"),
    Attribute("node", "income_se", float, "nats", "income", "income"),
    Attribute("node", "integration_error", float, "nats, of income", "income", "income"),
    Attribute("node", "income_stage_{stage}", float, "nats", "income_stages", "income"),
    Attribute("node", "upstreamness", float, "stages, 1 = logits", "upstreamness", "income"),
    Attribute("node", "bought", float, "nats, net", "through_flow", "income"),
    Attribute("node", "sold", float, "nats, net", "through_flow", "income"),
    Attribute("node", "capacity_{currency}", float, "its currency's", "capacity", "capacity"),
    Attribute("node", "circuit", str, "its circuit at this step", "circuits", "circuits"),
    Attribute("node", "role", str, "its role there", "circuits", "circuits"),
    Attribute("node", "membership", float, "share of its trade", "circuits", "circuits"),
    Attribute("node", "direct", float, "nats, + useful", "direct", "edges"),
    Attribute("node", "mediated", float, "nats, + useful", "direct", "edges"),
    Attribute("node", "interaction", float, "nats", "direct", "edges"),
    Attribute("node", "direct_se", float, "nats", "direct", "edges"),
    Attribute(
        "edge", "port", str, "in; q, k, v; q_scale, k_scale", "flows, edges", "income, edges"
    ),
    Attribute("edge", "signal", float, "nats, + sold", "flows", "income"),
    Attribute("edge", "crowding", float, "nats, + spared", "flows", "income"),
    Attribute("edge", "flow", float, "nats, signal + crowding", "flows", "income"),
    Attribute("edge", "flow_se", float, "nats", "flows", "income"),
    Attribute("edge", "integration_error", float, "nats, of flow", "flows", "income"),
    Attribute("edge", "effect", float, "nats, + useful, exact", "edges", "edges"),
    Attribute("edge", "effect_se", float, "nats", "edges", "edges"),
    Attribute("edge", "counts", bool, "beyond error and untrained", "counted", "circuits"),
    Attribute("edge", "bound", float, "nats, of untrained models", "counted", "circuits"),
    Attribute("edge", "circuit", str, "the circuit it is inside of", "counted", "circuits"),
    Attribute("edge", "score", float, "composition, 0 to 1", "composition", "composition"),
    Attribute("edge", "weight", float, "nats, |flow| or |effect|", "flows, edges", "income, edges"),
)
"""In the order in which they are shown."""


def described(on: str, name: str) -> Attribute | None:
    """The entry of an attribute as it stands in a graph, patterns filled in; None if unlisted."""
    stems = {entry: entry.name.partition("{")[0] for entry in ATTRIBUTES if entry.on == on}
    fits = [
        entry
        for entry, stem in stems.items()
        if name == entry.name or (stem != entry.name and name.startswith(stem))
    ]
    # value_se_{baseline} is nearer than value_{baseline}.
    return max(fits, key=lambda entry: len(stems[entry]), default=None)
