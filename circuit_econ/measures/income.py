"""Income: what each component earns when all are turned up together, and who buys it.

Aumann–Shapley prices along the joint dial of :mod:`circuit_econ.measures.income_pass`, with the
embeddings as the endowment that is there from the start:

    φ_c = −∫₀¹ ∂L/∂α_c dα,    Σ φ_c = L(all at baseline) − L(model), the product of the economy.

Panels of sequences are as large as the plan allows (:mod:`circuit_econ.measures.income_memory`);
what a pass takes is written at :func:`circuit_econ.measures.income_pass.numbers`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch import Tensor

from circuit_econ.errors import ConfigurationError
from circuit_econ.evaluation import Evaluation
from circuit_econ.graph.counting import edge_class, sampling_quantile
from circuit_econ.measures.base import Context, Measure, Plan, Sizes
from circuit_econ.measures.income_economy import WITHOUT_REFERENCE, Economy, Found
from circuit_econ.measures.income_memory import Cut, cut
from circuit_econ.measures.income_pass import rounds_of
from circuit_econ.measures.quadrature import level_above, level_below
from circuit_econ.measures.statistics import known
from circuit_econ.measures.unigram import unigram_loss
from circuit_econ.model import ModelConfig
from circuit_econ.tables import make_table

__all__ = ["INCOME", "IncomeSettings", "cut_of"]

logger = logging.getLogger(__name__)

_TOLERANCE, _FLOOR = 1e-2, 1e-3
"""Largest error of a component's income: as a share of the product, and in nats if that is more."""

_MOST = 513
"""Nodes beyond which weights lose digits, and what is wanted is something else than an integral."""

_SHARE = 0.1
"""Largest error of a flow, as a share of what decides whether it counts."""

_NOTHING = 1e-6
"""Nats that no flow need be settled to: rounding in float32 is of that size."""


@dataclass
class IncomeSettings:
    """Settings of ``income``.

    Attributes:
        nodes: Nodes to begin with, rounded up to one of 5, 9, 17, 33 … (nested Clenshaw–Curtis
            rules). The rules with half and a quarter of the intervals, whose nodes are among
            them, say how far off they may be; where that is too much intervals are halved.
        most_nodes: Where halving ends, rounded down to one of those.
        stages: Whether to keep income by stage apart, exactly. With n of them a node takes
            (n + 1) / 2 backward passes instead of one, with the memory of n gradients.
        reference_groups: Groups of reference sequences that are left out in turn for the standard
            error; 0 leaves the baseline's part out: "given this baseline".
    """

    nodes: int = 9
    most_nodes: int = 65
    stages: bool = True
    reference_groups: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.nodes < 5 or self.most_nodes > _MOST or self.levels[0] > self.levels[1]:
            raise ConfigurationError(
                "measures.income: rules have 5, 9, 17, 33 … nodes; nodes must be at least 5, "
                f"most_nodes at most {_MOST}, and a rule must lie between; got {self.nodes} and "
                f"{self.most_nodes}"
            )
        if self.reference_groups < 0 or self.reference_groups == 1:
            raise ConfigurationError(
                "measures.income.reference_groups must be 0 (given this baseline) or at least 2, "
                f"not {self.reference_groups}"
            )

    @property
    def levels(self) -> tuple[int, int]:
        """Levels of the first and of the last rule."""
        return level_above(self.nodes), level_below(self.most_nodes)


def run(context: Context, settings: IncomeSettings) -> Mapping[str, pl.DataFrame]:
    """Measure incomes, flows and prices under each baseline.

    Every amount has an ``integration_error``
    (:meth:`~circuit_econ.measures.income_economy.Economy.integration_errors`): how far it may be
    from its integral, beside its standard error. Intervals between nodes are halved until

    - no income moves by more than 1 % of the product or 1e-3 nats (``component_error``), and what
      the rule misses of the known losses from node to node (``missed``) is no more than that;
    - the integration error of every flow is at most a tenth of what decides whether it counts: of
      its bound, if ``circuits`` counts flows under this baseline
      (:attr:`~circuit_econ.measures.base.Context.bounds`; else of 1 % of the product or 1e-3 nats)
      and z standard errors, or of its own size, if that is more. A millionth of a nat is nothing.

    Where that is not so with ``most_nodes`` the economy has not ``converged``: it is named in the
    log, and its integration errors say what may be read of it. ``gap`` is what the incomes sum to
    above the product.

    Standard errors have two parts. The evaluation sequences give one as in ``value``
    (:func:`~circuit_econ.measures.statistics.ratio_estimate` over documents, which are pooled into
    at most 64 groups). The reference gives the other by a jackknife: each group of reference
    sequences is left out in turn and income measured again, with half the intervals, on its own
    share of the evaluation sequences; together that costs half a measurement. Small shares make the
    part too large rather than too small. ``zero`` has no reference; under ``resample`` each
    sequence has a donor of its own, so the evaluation's part holds both. Where the evaluation
    sequences are their own reference the parts are added all the same. An error is null where it
    cannot be estimated.
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
    # Untrained models may have to be measured for it: before this economy takes its memory.
    bounds = None if context.bounds is None else context.bounds(baseline)
    economy = Economy(context, baseline, cut_of(context.sizes, settings, context.plan))
    first, last = settings.levels
    stages = economy.dialled.stages if settings.stages else 1
    for found in economy.refine(first, last, stages):
        level, product = found.fine.rule.level, found.product
        tolerance = max(_TOLERANCE * abs(product), _FLOOR)
        moved = float(economy.mean(found.fine.earned - found.rough.earned).abs().max())
        income_error, flow_error = economy.integration_errors(found, tolerance)
        needed = _needed(economy, found, bounds, tolerance)
        converged = max(moved, found.missed) <= tolerance and bool((flow_error <= needed).all())
        # How many more rules there will be is not known.
        context.progress((number + 1 - 0.5 ** (level - first + 1)) / len(context.baselines))
        if converged:
            break
    fine, path, nodes = found.fine, found.path, len(found.path.alphas)
    if not converged:
        logger.warning(
            "step %d, baseline %s: the integral of income has not converged with %d nodes: flows "
            "may be off by up to %.2g nats of a product of %.2g; their integration_error says by "
            "how much, and it is part of whether an edge counts. measures.income.most_nodes=%d "
            "would go on",
            context.step, baseline, nodes, float(flow_error.max()), product, 2 * nodes - 1,
        )  # fmt: skip
    income = economy.mean(fine.earned)
    staged = economy.mean(fine.income) if settings.stages else income.new_zeros(0, len(income))
    income_se, flow_se = economy.sampling_errors(found, settings.reference_groups)
    guessed, guessed_se = unigram_loss(context.evaluation, context.model.config.d_vocab_out)
    scored = economy.counts.sum()
    names, ports, each = economy.suppliers, economy.ports, range(nodes)
    return {
        "income": {
            "component": names,
            "income": income.tolist(),
            "se": _numbers(income_se),
            "integration_error": income_error.tolist(),
        },
        "income_stages": {
            "component": names * len(staged),
            "stage": [stage for stage in range(1, len(staged) + 1) for _ in names],
            "income": staged.flatten().tolist(),
        },
        "income_gap": {
            "nodes": nodes,
            "product": product,
            "gap": float(income.sum()) - product,
            "component_error": moved,
            "missed": found.missed,
            "converged": converged,
            "ablated_loss": float(path.losses[0]),
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
            "integration_error": flow_error.tolist(),
            "first_half": _numbers(economy.half(fine.flow, 0)),
            "second_half": _numbers(economy.half(fine.flow, 1)),
        },
        "prices": {
            "buyer": [port.buyer for port in ports] * nodes,
            "port": [port.port for port in ports] * nodes,
            "node": [node for node in each for _ in ports],
            "alpha": [path.alphas[node] for node in each for _ in ports],
            "price": path.prices.flatten().tolist(),
        },
    }


def _needed(
    economy: Economy, found: Found, bounds: Mapping[str, float] | None, tolerance: float
) -> Tensor:
    """How far off each flow may be, in nats per scored position: see :func:`run`."""
    flow, se = economy.mean(found.fine.flow), economy.evaluation_errors(found.fine)[1]
    if bounds is None:
        reach = torch.full_like(flow, tolerance)
    else:
        classes = (edge_class(port.buyer) for _, port in economy.pairs)
        reach = torch.tensor([bounds[name] for name in classes], dtype=flow.dtype)
    reach += sampling_quantile(len(flow)) * se.nan_to_num(0.0)
    return (_SHARE * torch.maximum(reach, flow.abs())).clamp(min=_NOTHING)


def _numbers(tensor: Tensor) -> list[float | None]:
    return [known(x) for x in tensor.tolist()]


def passes(
    config: ModelConfig,
    evaluation: Evaluation,
    baselines: tuple[str, ...],
    settings: IncomeSettings,
) -> float:
    """Forward passes over the evaluation set if the first rule will do, a backward pass as two."""
    nodes = (1 << settings.levels[0]) + 1
    stages = len(rounds_of(config)) if settings.stages else 1
    total = 1.0 + nodes * (1 + stages + 1)
    left_out = [b for b in baselines if settings.reference_groups and b not in WITHOUT_REFERENCE]
    return len(baselines) * total + len(left_out) * 3 * (nodes // 2 + 1)


def cut_of(sizes: Sizes, settings: IncomeSettings, plan: Plan) -> Cut:
    """How the work is cut under a plan."""
    return cut(
        sizes,
        plan,
        stages=len(rounds_of(sizes.config)) if settings.stages else 1,
        levels=settings.levels,
        left_out=settings.reference_groups > 0,
    )


def memory(sizes: Sizes, settings: IncomeSettings, plan: Plan) -> int:
    """Bytes that it takes beside the weights."""
    return cut_of(sizes, settings, plan).bytes


INCOME = Measure(
    "income",
    IncomeSettings,
    ("income", "income_stages", "income_gap", "flows", "prices"),
    run,
    passes,
    memory,
    version=2,
)
