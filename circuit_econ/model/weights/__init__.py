"""Canonical weights: every architecture's tensors in one arrangement, read by one mapping each."""

from circuit_econ.model.weights.blank import blank
from circuit_econ.model.weights.canonical import LayerWeights, Weights
from circuit_econ.model.weights.reading import Inventory, inventory, read_weights
from circuit_econ.model.weights.saved import as_saved

__all__ = ["Inventory", "LayerWeights", "Weights", "as_saved", "blank", "inventory", "read_weights"]
