"""The ledger: immutable parquet parts per table and step, and the ``run.yaml`` that made them."""

from circuit_econ.ledger.store import Ledger, open_ledger
from circuit_econ.ledger.writing import LedgerWriter, differences

__all__ = ["Ledger", "LedgerWriter", "differences", "open_ledger"]
