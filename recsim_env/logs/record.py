"""Write the log of a simulation: any policy, any number of shoppers, the tables of a shop's log."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import polars as pl
from torch import Tensor

from recsim_env import checks
from recsim_env.logs.schema import BASKETS, IMPRESSIONS, SPLITS
from recsim_env.rollout import Visit, check_playable, rollout
from recsim_env.shoppers.promises import PLACE
from recsim_env.shoppers.visits.pages import SCENARIOS, SEARCH
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy

DAY_ZERO = datetime.datetime(2017, 1, 1)  # of the Complete Journey log


def record(
    simulator: SlateSimulator,
    policy: Policy,
    seeds: Tensor,
    *,
    propensity: Callable[[Observation, Tensor], Tensor] | None = None,
    scenario: str = "simulated",
    policy_name: str | None = None,
    split: str = "test",
    progress: Callable[[int, int], None] = lambda visits, running: None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Play one episode a seed under a policy, and return an impression table and a basket table.

    The tables are those of `recsim_env.logs.schema`, whose `write_impressions` and `write_baskets`
    take them. The impressions hold what was shown: an item that was repeated or was no candidate is
    left out of its slate, and a visit to which nothing was shown has no row there.

    Where shoppers tell the page of their visit (`page` in the observation), the pages of a visit
    share its number, and `purchase` says of every page what was bought of its clicks, now or at a
    later page. Where
    they tell the scenario by number (`scenario`), its name is logged, and so are the words of a
    search as `Shopper.describe` tells them, and a cart (`cart`). Otherwise a step is a visit.
    The discount of a bundle is logged with it.

    Args:
        simulator: The simulator, which is reset.
        policy: The policy that chooses the slates.
        seeds: (S,) int64; the number of a shopper in the tables is the place of its seed.
        propensity: Gives the log-probability (B,) of ordered slates from the observation and the
            slates, where it is known. It is not logged for a slate that was not shown as a whole.
        scenario: The name of this kind of slates in the table, where shoppers tell none.
        policy_name: The name of the policy in the table; None leaves it unknown.
        split: train, valid or test.
        progress: Called after each step with the number of steps and of episodes that still run.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range, or if a slate is not what
            `SlateSimulator.step` takes.
    """
    check_playable(policy, simulator, seeds)
    _check_arguments(propensity, progress, scenario, policy_name, split)
    arriving = _Arriving(policy, simulator)
    parts: list[dict[str, Any]] = []
    for visit in rollout(arriving, simulator, seeds):
        chance = None
        if propensity is not None:
            chance = _chance(propensity(visit.observation, visit.slates), len(visit.number))
        parts.append(_visits(visit, arriving.where, arriving.queries, chance))
        progress(len(parts), int((~visit.outcome.ended).sum()))
    return _tables(parts, scenario, policy_name, split)


class _Arriving:
    """A policy that writes down where the shoppers are when it is asked for their slates."""

    def __init__(self, policy: Policy, simulator: SlateSimulator) -> None:
        self._policy, self._simulator = policy, simulator
        self.where: dict[str, Tensor] = {}
        self.queries: list[str | None] | None = None

    @property
    def draws(self) -> int:
        return self._policy.draws

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        self.where = self._simulator.when_and_where()
        self.queries = _queries(self._simulator, observation)
        return self._policy(observation, draws)


def _queries(simulator: SlateSimulator, observation: Observation) -> list[str | None] | None:
    """The words that each shopper searches for, None outside of searches or where none are told."""
    if "scenario" not in observation:
        return None
    found: list[str | None] = []
    for row, at in enumerate(observation["scenario"].view(-1).tolist()):
        words = simulator.describe(row).get("query") if at == SEARCH else None
        found.append(words if isinstance(words, str) else None)
    return found


def _visits(
    visit: Visit,
    where: dict[str, Tensor],
    queries: list[str | None] | None,
    propensity: Tensor | None,
) -> dict[str, Any]:
    """The columns of one step's visits; a shopper who lapsed has no next visit."""
    shown, response = visit.shown, visit.outcome.response
    basket = shown.where(response.clicks, -1) if response.basket is None else response.basket
    part: dict[str, Any] = {
        name: value.cpu().numpy() for name, value in where.items() if name in PLACE
    }
    slates, clicks = shown.cpu().tolist(), response.clicks.cpu().tolist()
    # What was bought of what was clicked, where shoppers tell; otherwise responses are purchases.
    bought = clicks if response.purchases is None else response.purchases.cpu().tolist()
    chance = [None] * len(slates) if propensity is None else propensity.cpu().double().tolist()
    seen = visit.observation
    if "page" in seen:
        part["page"] = seen["page"].view(-1).cpu().numpy()
    if "scenario" in seen:
        part["scenario"] = [SCENARIOS[at] for at in seen["scenario"].view(-1).tolist()]
    if queries is not None:
        part["query"] = queries
    if "cart" in seen:
        part["cart"] = [[item for item in cart if item >= 0] for cart in seen["cart"].tolist()]
    if "discount" in visit.outcome.info:
        part["discount"] = visit.outcome.info["discount"].cpu().numpy()
    return part | {
        "shopper": visit.number.cpu().numpy(),
        "slate": [[item for item in slate if item >= 0] for slate in slates],
        "click": [None] * len(slates) if response.purchases is None else _of_items(slates, clicks),
        "purchase": _of_items(slates, bought),
        "propensity": [
            None if -1 in slate else value for slate, value in zip(slates, chance, strict=True)
        ],
        "items": [[item for item in items if item >= 0] for items in basket.cpu().tolist()],
        "gap": response.days.where(~response.left, -1).long().cpu().numpy(),
        "follow_up": response.days.long().cpu().numpy(),
    }


def _of_items(slates: list[list[int]], marks: list[list[bool]]) -> list[list[bool]]:
    """Keep the marks of positions that showed an item."""
    return [
        [mark for item, mark in zip(slate, row, strict=True) if item >= 0]
        for slate, row in zip(slates, marks, strict=True)
    ]


def _tables(
    parts: list[dict[str, Any]], scenario: str, policy_name: str | None, split: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    types: dict[str, Any] = {
        "slate": pl.List(pl.Int32),
        "click": pl.List(pl.Boolean),
        "purchase": pl.List(pl.Boolean),
        "items": pl.List(pl.Int32),
        "query": pl.String,
        "cart": pl.List(pl.Int32),
    }

    # one row a page, with what a simulator without pages does not tell
    frames = [
        pl.DataFrame(part, schema_overrides={**types, "propensity": pl.Float64}) for part in parts
    ]
    frame = pl.concat(frames, how="vertical_relaxed").sort("shopper", "day", maintain_order=True)
    if "page" not in frame.columns:
        frame = frame.with_columns(page=pl.lit(0))
    if "scenario" not in frame.columns:
        frame = frame.with_columns(scenario=pl.lit(scenario))

    # the visits that pages belong to, and the columns of both tables
    frame = _of_whole_visits(frame.with_columns(visit=(pl.col("page") == 0).cum_sum() - 1))
    frame = frame.with_columns(
        time=pl.lit(DAY_ZERO) + pl.duration(days=pl.col("day"), hours=12),
        gap=pl.when(pl.col("gap") >= 0).then(pl.col("gap")),
        split=pl.lit(split),
        policy=pl.lit(policy_name),
    )
    slates = IMPRESSIONS.completed(frame)
    baskets = BASKETS.completed(frame.unique("visit", keep="last"))
    return slates.filter(pl.col("slate").list.len() > 0), baskets.sort("visit")


def _of_whole_visits(frame: pl.DataFrame) -> pl.DataFrame:
    """Tell of every page what its visit came to: what was bought, and the days until the next."""
    if not (frame["page"] > 0).any():
        return frame
    frame = frame.with_columns(pl.col("items", "gap", "follow_up").last().over("visit"))
    bought = [
        [click and item in basket for item, click in zip(slate, clicks, strict=True)]
        for slate, clicks, basket in frame.select(
            "slate", pl.coalesce("click", "purchase"), "items"
        ).iter_rows()
    ]
    return frame.with_columns(purchase=pl.Series(bought, dtype=pl.List(pl.Boolean)))


def _chance(found: Tensor, shoppers: int) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != (shoppers,) or not found.is_floating_point():
        raise ValueError(
            f"propensity() is {checks.told(found)}, but it must be a float tensor of shape "
            f"({shoppers},)."
        )
    return found


def _check_arguments(
    propensity: object, progress: object, scenario: str, policy_name: str | None, split: str
) -> None:
    functions = {"progress": progress} | ({} if propensity is None else {"propensity": propensity})
    for name, function in functions.items():
        if not callable(function):
            raise ValueError(f"{name} is {checks.told(function)}, but it must be a function.")
    checks.text("scenario", scenario)
    if policy_name is not None:
        checks.text("policy_name", policy_name)
    checks.choice("split", split, SPLITS)
