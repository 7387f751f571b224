"""Charts: a function each, from :class:`circuit_econ.report.frames.RunFrames` to Altair charts.

Values are in nats per scored position; error bars and bands are ± 1.96 standard errors. Each chart
has one dataset, at its top level, and the charts name their choices alike (``baseline``,
``currency``, ``checkpoint``), so that a page can supply data and controls once for all of them.
"""

from circuit_econ.report.charts.encodings import colour_limit, together
from circuit_econ.report.charts.heatmap import value_heatmap
from circuit_econ.report.charts.lines import score_and_value, value_over_time
from circuit_econ.report.charts.loss import loss_curve, loss_data
from circuit_econ.report.charts.scatter import value_against_capacity

__all__ = [
    "colour_limit",
    "loss_curve",
    "loss_data",
    "score_and_value",
    "together",
    "value_against_capacity",
    "value_heatmap",
    "value_over_time",
]
