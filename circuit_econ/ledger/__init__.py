"""The ledger: immutable parquet parts per table and step, and the ``run.yaml`` that made them."""

from circuit_econ.ledger.checking import Defect, check_ledger, is_ledger
from circuit_econ.ledger.store import Ledger, open_ledger
from circuit_econ.ledger.writing import LedgerWriter, differences

__all__ = [
    "Defect",
    "Ledger",
    "LedgerWriter",
    "check_ledger",
    "differences",
    "is_ledger",
    "open_ledger",
]
