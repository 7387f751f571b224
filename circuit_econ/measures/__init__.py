"""What is measured: one file a measure, each with its settings and the tables it writes."""

from circuit_econ.measures.base import Context, Measure
from circuit_econ.measures.catalogue import MEASURES, measures_of
from circuit_econ.measures.plan import Plan
from circuit_econ.measures.precision import Precision

__all__ = ["MEASURES", "Context", "Measure", "Plan", "Precision", "measures_of"]
