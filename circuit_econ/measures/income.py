"""Income: what each component earns when all are turned up together, and who buys it.

Aumann–Shapley prices along the joint dial of :mod:`circuit_econ.measures.income_pass`, with the
embeddings as the endowment that is there from the start:

    φ_c = −∫₀¹ ∂L/∂α_c dα,    Σ φ_c = L(all at baseline) − L(model), the product of the economy.

Panels of sequences are as large as memory allows; what a pass takes is written at
:meth:`circuit_econ.measures.income_pass.Dialled.numbers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from torch import Tensor

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.measures.base import Context, Measure
from circuit_econ.measures.income_economy import WITHOUT_REFERENCE, Economy, nodes_of
from circuit_econ.measures.statistics import known
from circuit_econ.measures.unigram import unigram_loss
from circuit_econ.model import ModelConfig
from circuit_econ.tables import make_table

__all__ = ["INCOME", "IncomeSettings"]

_TOLERANCE, _FLOOR = 1e-2, 1e-3
"""Largest error of a component's income: as a share of the product, and in nats if that is more."""


@dataclass
class IncomeSettings:
    """Settings of ``income``.

    Attributes:
        nodes: Gauss–Legendre nodes to begin with; they are doubled until incomes hold still.
        most_nodes: Where doubling ends.
        stages: Whether to keep income by stage apart, exactly. With n of them a node takes
            another forward pass, and (n + 1) / 2 backward passes with the memory of n gradients.
        reference_groups: Groups of reference sequences that are left out in turn for the standard
            error; 0 leaves the baseline's part out: "given this baseline".
    """

    nodes: int = 4
    most_nodes: int = 64
    stages: bool = True
    reference_groups: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.nodes <= self.most_nodes // 2:
            raise ConfigurationError(
                "measures.income: nodes are doubled at least once, so nodes must be between 1 and "
                f"half of most_nodes; got {self.nodes} and {self.most_nodes}"
            )
        if self.reference_groups < 0 or self.reference_groups == 1:
            raise ConfigurationError(
                "measures.income.reference_groups must be 0 (given this baseline) or at least 2, "
                f"not {self.reference_groups}"
            )


def run(context: Context, settings: IncomeSettings) -> Mapping[str, pl.DataFrame]:
    """Measure incomes, flows and prices under each baseline.

    Nodes are doubled until max_c |φ_c(n) − φ_c(2n)|, the ``component_error`` of the 2n nodes, is at
    most 1 % of the product or 1e-3 nats, or there are ``most_nodes``. ``gap`` is what the incomes
    sum to above the product. What is stored is measured with ``nodes`` nodes.

    Standard errors have two parts. The evaluation sequences give one as in ``value``
    (:func:`~circuit_econ.measures.statistics.ratio_estimate` over documents, which are pooled into
    at most 64 groups). The reference gives the other by a jackknife: each group of reference
    sequences is left out in turn and income measured again, with half the nodes, on its own share
    of the evaluation sequences; together that costs half a measurement. Small shares make the part
    too large rather than too small. ``zero`` has no reference; under ``resample`` each sequence has
    a donor of its own, so the evaluation's part holds both. Where the evaluation sequences are
    their own reference the parts are added all the same. An error is null where it cannot be
    estimated.
    """
    parts: dict[str, list[pl.DataFrame]] = {name: [] for name in INCOME.tables}
    for number, baseline in enumerate(context.baselines):
        for table, columns in _measure(context, settings, str(baseline), number).items():
            columns |= {"step": context.step, "baseline": str(baseline)}
            parts[table].append(make_table(table, columns))
    context.progress(1.0)
    return {table: pl.concat(frames) for table, frames in parts.items()}


def _measure(
    context: Context, settings: IncomeSettings, baseline: str, number: int
) -> dict[str, dict[str, Any]]:
    """The columns of every table under one baseline."""
    economy = Economy(context, baseline)
    clean, ablated = economy.losses()
    product = ablated - clean
    nodes, fine = settings.nodes, economy.integrate(settings.nodes)
    tolerance, doublings = max(_TOLERANCE * abs(product), _FLOOR), 0
    while True:
        nodes, rough, fine = 2 * nodes, fine, economy.integrate(2 * nodes)
        error = float(economy.mean(fine.income - rough.income).abs().max())
        doublings += 1  # how many more there will be is not known
        context.progress((number + 1 - 0.5**doublings) / len(context.baselines))
        if error <= tolerance or 2 * nodes > settings.most_nodes:
            break
    income = economy.mean(fine.income[0])
    income_se, flow_se = economy.errors(fine, rough, nodes // 2, settings.reference_groups)
    staged = income.new_zeros(0, len(income))
    if settings.stages:
        staged = economy.mean(economy.by_stage(nodes))
    guessed, guessed_se = unigram_loss(context.evaluation, context.model.config.d_vocab_out)
    scored = economy.counts.sum()
    alphas = [alpha for alpha, _ in nodes_of(nodes)]
    names, ports, each = economy.suppliers, economy.ports, range(nodes)
    return {
        "income": {"component": names, "income": income.tolist(), "se": _numbers(income_se)},
        "income_stages": {
            "component": names * len(staged),
            "stage": [stage for stage in range(1, len(staged) + 1) for _ in names],
            "income": staged.flatten().tolist(),
        },
        "income_gap": {
            "nodes": nodes,
            "product": product,
            "gap": float(income.sum()) - product,
            "component_error": error,
            "ablated_loss": ablated,
            "unigram_loss": guessed,
            "unigram_se": known(guessed_se),
        },
        "flows": {
            "supplier": [supplier for supplier, _ in economy.pairs],
            "buyer": [port.buyer for _, port in economy.pairs],
            "port": [port.port for _, port in economy.pairs],
            "signal": (fine.signal / scored).tolist(),
            "crowding": (fine.crowding / scored).tolist(),
            "se": _numbers(flow_se),
            "first_half": _numbers(economy.half(fine.flow, 0)),
            "second_half": _numbers(economy.half(fine.flow, 1)),
        },
        "prices": {
            "buyer": [port.buyer for port in ports] * nodes,
            "port": [port.port for port in ports] * nodes,
            "node": [node for node in each for _ in ports],
            "alpha": [alphas[node] for node in each for _ in ports],
            "price": (fine.price / scored).flatten().tolist(),
        },
    }


def _numbers(tensor: Tensor) -> list[float | None]:
    return [known(x) for x in tensor.tolist()]


def passes(
    config: ModelConfig,
    evaluation: Evaluation,
    baselines: tuple[str, ...],
    settings: IncomeSettings,
) -> float:
    """Forward passes over the evaluation set if nodes are doubled once, a backward pass as two."""
    total = 3.0 + 3 * 3 * settings.nodes
    if settings.stages:
        stages = config.n_layers * (1 if config.parallel or config.d_mlp is None else 2)
        total += 2 * settings.nodes * (1 + stages + 1)
    left_out = [b for b in baselines if settings.reference_groups and b not in WITHOUT_REFERENCE]
    return len(baselines) * total + len(left_out) * 3 * settings.nodes


INCOME = Measure(
    "income",
    IncomeSettings,
    ("income", "income_stages", "income_gap", "flows", "prices"),
    run,
    passes,
)
