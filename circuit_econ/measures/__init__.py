"""What is measured: one file a measure, each with its settings and the tables it writes."""

from circuit_econ.measures.base import Context, Measure, Plan
from circuit_econ.measures.catalogue import MEASURES, measures_of

__all__ = ["MEASURES", "Context", "Measure", "Plan", "measures_of"]
