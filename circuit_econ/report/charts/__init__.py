"""Charts: a function each, from :class:`circuit_econ.report.frames.RunFrames` to Altair charts.

Values are in nats per scored position, with their 95 % interval; all other bars and bands are
± 1.96 standard errors, with the integration error on top for incomes and flows. Each chart draws
named datasets, and the charts name their choices alike (``baseline``, ``currency``,
``checkpoint``), so that a page can supply data and controls once for all of them.
"""

from circuit_econ.report.charts.economy import (
    capital_over_time,
    edges_over_time,
    income_by_stage,
)
from circuit_econ.report.charts.encodings import colour_limit, together
from circuit_econ.report.charts.graph import graph_by_depth
from circuit_econ.report.charts.heatmap import value_heatmap
from circuit_econ.report.charts.lanes import circuit_lanes
from circuit_econ.report.charts.lines import score_and_value, value_over_time
from circuit_econ.report.charts.loss import loss_curve, loss_data
from circuit_econ.report.charts.matrix import flow_matrix
from circuit_econ.report.charts.points import (
    direct_against_mediated,
    effect_against_flow,
    signal_against_crowding,
)
from circuit_econ.report.charts.scatter import value_against_capacity

__all__ = [
    "capital_over_time",
    "circuit_lanes",
    "colour_limit",
    "direct_against_mediated",
    "edges_over_time",
    "effect_against_flow",
    "flow_matrix",
    "graph_by_depth",
    "income_by_stage",
    "loss_curve",
    "loss_data",
    "score_and_value",
    "signal_against_crowding",
    "together",
    "value_against_capacity",
    "value_heatmap",
    "value_over_time",
]
