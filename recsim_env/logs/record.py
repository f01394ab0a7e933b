"""Write the log of a simulation: any policy, any number of shoppers, the same tables as a log from a shop."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recsim_env import checks, noise
from recsim_env.logs.schema import BASKETS, IMPRESSIONS, SPLITS
from recsim_env.shoppers.base import Response, Witness
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

SlatePolicy = Callable[[Observation, Tensor], Tensor]
POLICY_STREAM = 1  # the noise stream of policies (see `noise.episode_key`)
MOST_DRAWS = 10**6  # uniform numbers that a policy takes for one slate
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

    The impressions hold what was shown: an item that was repeated or was no candidate is left out
    of its slate, and a visit to which nothing was shown has no row there. Both tables can be
    written with `schema.write_impressions` and `schema.write_baskets`.

    Args:
        policy: observation and `policy_draws` uniform numbers a shopper in, slates (B, K) out
        seeds: (B,) int64; the shopper number in the tables is the row number of the seed
        propensity: log-probability (B,) of the ordered slates, where the policy knows it; it is not
            logged for a slate that was not shown as a whole
        scenario: name of this kind of slates in the table
        split: train, valid or test
        progress: called after each step with the number of steps and of episodes still running

    Errors: TypeError or ValueError where an argument is not as said, or where a slate is not what
    `SlateSimulator.step` takes.
    """
    _check_arguments(
        simulator, {"policy": policy, "progress": progress}, propensity, scenario, split
    )
    policy_draws = checks.whole("policy_draws", policy_draws, 0, MOST_DRAWS)
    checks.tensor("seeds", seeds, ("B",), torch.int64)
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
            chance = (
                None
                if propensity is None
                else _chance(propensity(observation, slates), len(number))
            )
            step = simulator.step(slates)
            assert tap.last is not None
            shown = step.observation["recent_slates"][:, 0]  # -1 where nothing was shown
            parts.append(_visits(number, where, shown, chance, tap.last))
            running = (~step.ended).nonzero().flatten()
            observation = {name: value[running] for name, value in step.observation.items()}
            number, keys = number[running], keys[running]
            simulator.keep(running)
            progress(len(parts), len(number))
    finally:
        simulator.shopper = shopper
    return _tables(parts, scenario, split)


def _visits(
    number: Tensor,
    where: dict[str, Tensor],
    shown: Tensor,
    propensity: Tensor | None,
    response: Response,
) -> dict[str, Any]:
    """The visits of one step, with the slates (B, K) as shown, -1 = nothing; a shopper who lapsed has no next visit."""
    basket = shown.where(response.clicks, -1) if response.basket is None else response.basket
    part = {name: value.cpu().numpy() for name, value in where.items() if name != "shopper"}
    slates, clicks = shown.cpu().tolist(), response.clicks.cpu().tolist()
    chance = [None] * len(slates) if propensity is None else propensity.cpu().double().tolist()
    return part | {
        "shopper": number.cpu().numpy(),
        "slate": [[item for item in slate if item >= 0] for slate in slates],
        "purchase": [
            [click for item, click in zip(slate, row, strict=True) if item >= 0]
            for slate, row in zip(slates, clicks, strict=True)
        ],
        "propensity": [
            None if -1 in slate else value for slate, value in zip(slates, chance, strict=True)
        ],
        "items": [[item for item in items if item >= 0] for items in basket.cpu().tolist()],
        "gap": response.days.where(~response.left, -1).long().cpu().numpy(),
        "follow_up": response.days.long().cpu().numpy(),
    }


def _tables(
    parts: list[dict[str, Any]], scenario: str, split: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    types = {
        "slate": pl.List(pl.Int32),
        "purchase": pl.List(pl.Boolean),
        "items": pl.List(pl.Int32),
    }
    frames = [
        pl.DataFrame(part, schema_overrides={**types, "propensity": pl.Float64}) for part in parts
    ]
    frame = pl.concat(frames, how="vertical_relaxed").sort("shopper", "day", maintain_order=True)
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
    return slates.filter(pl.col("slate").list.len() > 0), baskets


def _chance(found: Tensor, shoppers: int) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != (shoppers,) or not found.is_floating_point():
        raise ValueError(
            f"propensity() is {checks.told(found)}, but it must be a float tensor of shape ({shoppers},)."
        )
    return found


def _check_arguments(
    simulator: SlateSimulator,
    functions: Mapping[str, object],
    propensity: object,
    scenario: str,
    split: str,
) -> None:
    if not isinstance(simulator, SlateSimulator):
        raise ValueError(f"simulator is {checks.told(simulator)}, but it must be a SlateSimulator.")
    for name, function in {
        **functions,
        **({} if propensity is None else {"propensity": propensity}),
    }.items():
        if not callable(function):
            raise ValueError(f"{name} is {checks.told(function)}, but it must be a function.")
    checks.text("scenario", scenario)
    checks.choice("split", split, SPLITS)
