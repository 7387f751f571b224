"""The model: canonical weights of every supported architecture, and one forward pass over them."""

from circuit_econ.model.architectures import ARCHITECTURES, read_config
from circuit_econ.model.config import ModelConfig
from circuit_econ.model.forward import Edit, Model, Trace
from circuit_econ.model.products import Rounding
from circuit_econ.model.source import Format, Source
from circuit_econ.model.weights import Inventory, inventory

__all__ = [
    "ARCHITECTURES",
    "Edit",
    "Format",
    "Inventory",
    "Model",
    "ModelConfig",
    "Rounding",
    "Source",
    "Trace",
    "inventory",
    "read_config",
]
