"""Return on capacity, and which values keep their sign whatever the baseline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import polars as pl

from circuit_econ.errors import unknown
from circuit_econ.tables import Currency, place_key

__all__ = ["default_place", "returns", "sign_disagreements", "verdict"]

MINIMUM_BASELINES: Final = 3
"""A verdict needs the same sign under at least so many baselines (economy, section 2)."""


def default_place(places: Iterable[str]) -> str | None:
    """The place furthest along the forward pass; None if there is none.

    ``final`` (the stream that enters the last norm) comes after every ``block.{layer}`` (the stream
    that enters a layer). Currencies read from weights or outputs have one place, which is returned.
    """
    return max(places, key=place_key, default=None)


def returns(
    value: pl.LazyFrame,
    capacity: pl.LazyFrame,
    currency: str,
    place: str | None = None,
    baseline: str | None = None,
) -> pl.LazyFrame:
    """Return of every component: value / capacity, in nats per unit of the currency.

    The capacity is a property of the weights (or of a stream seen without sampling error worth
    naming) and is taken as exact, so that se(return) = se(value) / |capacity|. The return is null
    where the capacity is 0 or was not measured. A share of the stream can be negative (a component
    that writes against the stream); the quotient is then given as it is, its sign turned.

    Args:
        value: Table ``value``.
        capacity: Table ``capacity``.
        currency: A name of :class:`circuit_econ.tables.Currency`.
        place: Where the capacity was read; by default the furthest along the forward pass.
        baseline: Only the values under this baseline; by default all.

    Returns:
        One row per row of ``value``, in its order: step, component, baseline, currency, place,
        value, se, capacity, return, return_se.

    Raises:
        ConfigurationError: If the currency, the place or the baseline does not exist.
    """
    if currency not in set(Currency):
        raise unknown("currency", currency, Currency)
    amounts = capacity.filter(pl.col("currency") == currency)
    places = _distinct(amounts, "place")
    if place is None:
        place = default_place(places)
    elif place not in places:
        raise unknown(f"place of {currency}", place, places)
    if baseline is not None:
        if baseline not in (known := _distinct(value, "baseline")):
            raise unknown("baseline", baseline, known)
        value = value.filter(pl.col("baseline") == baseline)
    read = pl.lit(place, dtype=pl.String)
    amounts = amounts.filter(pl.col("place").eq_missing(read)).select("step", "component", "amount")
    # Division by null, not by 0: an infinite return would sort first.
    amount = pl.col("amount").fill_nan(None)
    divisor = pl.when(amount != 0).then(amount)
    return value.join(amounts, on=["step", "component"], how="left", maintain_order="left").select(
        "step",
        "component",
        "baseline",
        pl.lit(str(currency)).alias("currency"),
        read.alias("place"),
        "value",
        "se",
        pl.col("amount").alias("capacity"),
        (pl.col("value") / divisor).alias("return"),
        (pl.col("se") / divisor.abs()).alias("return_se"),
    )


def sign_disagreements(value: pl.LazyFrame) -> pl.DataFrame:
    """Components whose value is clear of 0 on opposite sides under different baselines.

    Args:
        value: Table ``value``, of which the ends of the 95 % interval are read. A row without the
            end that faces 0 takes no side.

    Returns:
        step, component, and the baselines on each side as text: positive, negative. In the order
        of the table; empty if no value changes its sign.
    """
    keys = ["step", "component"]
    both = [(pl.col("side") == sign).any().over(keys) for sign in (1, -1)]
    names = {
        side: pl.col("baseline").filter(pl.col("side") == sign).str.join(", ").alias(side)
        for side, sign in (("positive", 1), ("negative", -1))
    }
    return (
        _with_side(value)
        .filter(*both)
        .group_by(keys, maintain_order=True)
        .agg(*names.values())
        .collect()
    )


def verdict(value: pl.LazyFrame) -> pl.DataFrame:
    """What the baselines together say of every component at every step.

    - ``useful``: the 95 % interval is above 0 under at least three baselines, below under none;
    - ``harmful``: the mirror image;
    - ``contested``: above 0 under one, below it under another;
    - ``open``: anything else, so always with fewer than three baselines.

    Args:
        value: Table ``value``, of which the ends of the 95 % interval are read. A row without the
            end that faces 0 takes no side.

    Returns:
        step, component, baselines (how many), positive, negative (how many of them), verdict.
    """
    positive, negative = pl.col("positive"), pl.col("negative")
    said = (
        pl.when((positive > 0) & (negative > 0))
        .then(pl.lit("contested"))
        .when(positive >= MINIMUM_BASELINES)
        .then(pl.lit("useful"))
        .when(negative >= MINIMUM_BASELINES)
        .then(pl.lit("harmful"))
        .otherwise(pl.lit("open"))
    )
    return _sides(value).with_columns(said.alias("verdict")).collect()


def _with_side(value: pl.LazyFrame) -> pl.LazyFrame:
    """Adds ``side``: 1 or −1 where the 95 % interval lies above or below 0, else 0."""
    # NaN sorts above every number in polars, so an undefined end must become null first.
    low, high = (pl.col(end).fill_nan(None) for end in ("low", "high"))
    side = pl.when(low > 0).then(1).when(high < 0).then(-1).otherwise(0)
    return value.with_columns(side.cast(pl.Int64).alias("side"))


def _sides(value: pl.LazyFrame) -> pl.LazyFrame:
    """How many baselines each component has, and how many on either side, per step."""
    return (
        _with_side(value)
        .group_by("step", "component", maintain_order=True)
        .agg(
            pl.col("baseline").n_unique().cast(pl.Int64).alias("baselines"),
            (pl.col("side") == 1).sum().cast(pl.Int64).alias("positive"),
            (pl.col("side") == -1).sum().cast(pl.Int64).alias("negative"),
        )
    )


def _distinct(frame: pl.LazyFrame, column: str) -> list[str]:
    names = frame.select(pl.col(column).unique(maintain_order=True)).collect()[column]
    return names.drop_nulls().to_list()
