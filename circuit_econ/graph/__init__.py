"""The composition graph: who supplies whom, and its export to other tools."""

from circuit_econ.graph.attributes import ATTRIBUTES, Attribute, described
from circuit_econ.graph.circuits import Circuits, adjusted_rand, find_circuits
from circuit_econ.graph.composition import Tables, composition_graph, graph_steps
from circuit_econ.graph.counting import bounds, counted, largest, shortfall
from circuit_econ.graph.economy import capital_share, through_flow, upstreamness
from circuit_econ.graph.exporting import Format, default_output, export
from circuit_econ.graph.lineages import lineages
from circuit_econ.graph.portraits import Portrait, describe, portraits_table
from circuit_econ.graph.roles import find_roles
from circuit_econ.graph.tracking import Event, events_by_threshold, track

__all__ = [
    "ATTRIBUTES",
    "Attribute",
    "Circuits",
    "Event",
    "Format",
    "Portrait",
    "Tables",
    "adjusted_rand",
    "bounds",
    "capital_share",
    "composition_graph",
    "counted",
    "default_output",
    "describe",
    "described",
    "events_by_threshold",
    "export",
    "find_circuits",
    "find_roles",
    "graph_steps",
    "largest",
    "lineages",
    "portraits_table",
    "shortfall",
    "through_flow",
    "track",
    "upstreamness",
]
