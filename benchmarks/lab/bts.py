"""The value of a policy of the Open Bandit data by the rows of another one."""

from __future__ import annotations

import polars as pl

from recsim_env.logs.off_policy import PolicyValue, policy_value


def value_of_bts(log: pl.DataFrame) -> tuple[PolicyValue, float]:
    """Estimate the click rate of BTS from the rows of random.

    BTS knows no context: its chance of an item at a position is the mean of the propensities that
    it logged there. The model of DR is the click rate of each item, shrunk to that of all by a
    thousand impressions.

    Returns:
        The estimates, and the click rate that BTS had.
    """
    place = ("item", "position")
    bts, explored = (log.filter(pl.col("policy") == name) for name in ("bts", "random"))
    chance = bts.group_by(place).agg(chance=pl.col("propensity").mean())
    chance = chance.with_columns(pl.col("chance") / pl.col("chance").sum().over("position"))
    rate = explored["click"].mean()
    expected = explored.group_by("item").agg(
        expected=(pl.col("click").sum() + 1000 * pl.lit(rate)) / (pl.len() + 1000)
    )
    by_position = (
        chance.join(expected, on="item", how="left")
        .with_columns(pl.col("expected").fill_null(rate))
        .group_by("position")
        .agg(expected_of_policy=(pl.col("chance") * pl.col("expected")).sum())
    )
    rows = (
        explored.join(chance, on=place, how="left")
        .join(expected, on="item", how="left")
        .join(by_position, on="position", how="left")
        .with_columns(pl.col("chance").fill_null(0.0))
    )
    found = policy_value(
        *(rows[name].to_numpy() for name in ("click", "propensity", "chance")),
        expected=rows["expected"].to_numpy(),
        expected_of_policy=rows["expected_of_policy"].to_numpy(),
    )
    return found, float(bts["click"].mean())  # type: ignore[arg-type]
