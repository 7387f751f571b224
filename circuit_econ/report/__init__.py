"""Reports: charts, the offline page, and the summary at the end of a walk."""

from circuit_econ.report.charts import (
    loss_curve,
    score_and_value,
    value_against_capacity,
    value_heatmap,
    value_over_time,
)
from circuit_econ.report.frames import RunFrames, gather
from circuit_econ.report.page import write_page
from circuit_econ.report.summary import summary

__all__ = [
    "RunFrames",
    "gather",
    "loss_curve",
    "score_and_value",
    "summary",
    "value_against_capacity",
    "value_heatmap",
    "value_over_time",
    "write_page",
]
