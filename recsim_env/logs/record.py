"""Write the log of a simulation: any policy, any number of shoppers, the same tables as a log from a shop."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recsim_env import noise
from recsim_env.logs.schema import BASKETS, IMPRESSIONS
from recsim_env.shoppers.base import Response, Witness
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

SlatePolicy = Callable[[Observation, Tensor], Tensor]
POLICY_STREAM = 1  # the noise stream of policies (see `noise.episode_key`)
DAY_ZERO = datetime.datetime(2017, 1, 1)  # of the Complete Journey log


def record(
    simulator: SlateSimulator,
    policy: SlatePolicy,
    policy_draws: int,
    seeds: Tensor,
    *,
    propensity: Callable[[Observation, Tensor], Tensor] | None = None,
    scenario: str = "simulated",
    split: str = "test",
    progress: Callable[[int, int], None] = lambda visits, running: None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One episode a seed under a policy, as an impression table and a basket table (`recsim_env.logs.schema`).

    Args:
        policy: observation and `policy_draws` uniform numbers a shopper in, slates (B, K) out
        seeds: (B,) int64; the shopper number in the tables is the row number of the seed
        propensity: log-probability (B,) of the ordered slates, where the policy knows it
        progress: called after each step with the number of steps and of episodes still running
    """
    shopper, seeds = simulator.shopper, seeds.to(simulator.device)
    tap = Witness(shopper)
    simulator.shopper = tap
    parts: list[dict[str, Any]] = []
    try:
        observation = simulator.reset(seeds)
        keys = noise.episode_key(seeds, torch.zeros_like(seeds), stream=POLICY_STREAM)
        number = torch.arange(len(seeds), device=simulator.device)
        while len(number):
            where = simulator.when_and_where()
            slates = policy(observation, noise.uniform(keys, len(parts), policy_draws))
            chance = None if propensity is None else propensity(observation, slates)
            step = simulator.step(slates, validate=False)
            assert tap.last is not None
            parts.append(_visits(number, where, slates, chance, tap.last))
            running = (~step.ended).nonzero().flatten()
            observation = {name: value[running] for name, value in step.observation.items()}
            number, keys = number[running], keys[running]
            simulator.keep(running)
            progress(len(parts), len(number))
    finally:
        simulator.shopper = shopper
    return _tables(parts, scenario, split)


def _visits(
    number: Tensor, where: dict[str, Tensor], slates: Tensor, propensity: Tensor | None, response: Response
) -> dict[str, Any]:
    """The visits of one step; a shopper who lapsed has no next visit."""
    basket = slates.where(response.clicks, -1) if response.basket is None else response.basket
    part = {name: value.cpu().numpy() for name, value in where.items() if name != "shopper"}
    return part | {
        "shopper": number.cpu().numpy(),
        "slate": slates.cpu().tolist(),
        "purchase": response.clicks.cpu().tolist(),
        "propensity": None if propensity is None else propensity.double().cpu().numpy(),
        "items": [[item for item in items if item >= 0] for items in basket.cpu().tolist()],
        "gap": response.days.where(~response.left, -1).long().cpu().numpy(),
        "follow_up": response.days.long().cpu().numpy(),
    }


def _tables(parts: list[dict[str, Any]], scenario: str, split: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    frame = pl.concat([pl.DataFrame(part) for part in parts], how="vertical_relaxed").sort(
        "shopper", "day", maintain_order=True
    )
    frame = frame.with_columns(
        visit=pl.int_range(pl.len(), dtype=pl.Int64),
        time=pl.lit(DAY_ZERO) + pl.duration(days=pl.col("day"), hours=12),
        gap=pl.when(pl.col("gap") >= 0).then(pl.col("gap")),
        split=pl.lit(split),
        scenario=pl.lit(scenario),
        page=pl.lit(0),
        click=pl.lit(None),
        placement=pl.lit(None),
        weight=pl.lit(None),
    )
    slates, baskets = (
        frame.select(pl.col(name).cast(dtype) for name, dtype in table.schema.items())
        for table in (IMPRESSIONS, BASKETS)
    )
    return slates, baskets
