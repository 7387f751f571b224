"""What every exporter needs: values that any format can hold, and files written whole or not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import networkx as nx
import numpy as np

from circuit_econ.errors import ConfigurationError, foreign
from circuit_econ.filing import put

if TYPE_CHECKING:
    Graph: TypeAlias = nx.MultiDiGraph[Any]
else:  # the class takes no parameters when it runs
    Graph = nx.MultiDiGraph

__all__ = ["Graph", "edge_name", "is_known", "plain_graph", "plain_value", "written"]

# XML has no place for these, and no other format needs them.
_UNWRITABLE: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def is_known(value: object) -> bool:
    """Whether a value says anything: None, NaN and infinities do not."""
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    return value is not None


def plain_value(value: Any) -> bool | int | float | str:
    """A known value as Python's own bool, int, float or str, without characters XML refuses."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return _UNWRITABLE.sub("", value)
    return value if isinstance(value, bool | int | float) else _UNWRITABLE.sub("", str(value))


def plain_graph(graph: Graph, minimum: float = 0.0) -> Graph:
    """A copy that any format can hold.

    Attributes that are not known are left out, numbers and names are plain.

    Args:
        graph: A composition graph.
        minimum: Edges of a smaller ``weight`` (absolute flow) are left out; above 0 that takes
            those without a weight, too. Nodes stay.
    """
    found: Graph = nx.MultiDiGraph()
    found.graph |= _plain(graph.graph)
    for node, data in graph.nodes(data=True):
        found.add_node(str(plain_value(node)), **_plain(data))
    for supplier, buyer, port, data in graph.edges(keys=True, data=True):
        plain = _plain(data)
        if minimum <= 0 or plain.get("weight", 0.0) >= minimum:
            ends = (str(plain_value(name)) for name in (supplier, buyer, port))
            found.add_edge(*ends, **plain)
    return found


def _plain(data: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(plain_value(key)): plain_value(value) for key, value in data.items() if is_known(value)
    }


def edge_name(supplier: str, buyer: str, port: str) -> str:
    """One name for an edge in the whole graph: keys are ports, which repeat."""
    return f"{supplier}:{buyer}:{port}"


def written(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` write a file under a temporary name, then put it in place at once.

    Raises:
        ConfigurationError: If it cannot be written there.
    """
    with foreign(ConfigurationError, f"cannot write {str(path)!r}: choose another --output"):
        path.parent.mkdir(parents=True, exist_ok=True)
        put(write, path)
    return path
