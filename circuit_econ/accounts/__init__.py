"""Accounts: what the measured tables add up to. Pure tables in, tables out; no model is needed."""

from circuit_econ.accounts.returns import default_place, returns, sign_disagreements, verdict

__all__ = ["default_place", "returns", "sign_disagreements", "verdict"]
