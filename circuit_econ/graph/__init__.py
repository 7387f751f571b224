"""The composition graph: who supplies whom, and its export to other tools."""

from circuit_econ.graph.attributes import ATTRIBUTES, Attribute, described
from circuit_econ.graph.composition import Tables, composition_graph, graph_steps
from circuit_econ.graph.economy import capital_share, through_flow, upstreamness
from circuit_econ.graph.exporting import Format, default_output, export

__all__ = [
    "ATTRIBUTES",
    "Attribute",
    "Format",
    "Tables",
    "capital_share",
    "composition_graph",
    "default_output",
    "described",
    "export",
    "graph_steps",
    "through_flow",
    "upstreamness",
]
