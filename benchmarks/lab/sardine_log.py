"""The log of the SARDINE benchmark and its ranker: log users, fit, explore with it, and fit again.

Its reported results are those of this log. Elsewhere `agents.places.exploring` plays logs.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch
from torch import Tensor

from agents.places.mixture import rerankers
from policies.composer import Composer, ComposerConfig
from policies.cues import BUDGET_KNOBS
from policies.inputs import PolicyInputs
from policies.observations import candidates_of, max_candidates
from policies.rankers.two_tower import TwoTowerRanker
from policies.rankers.two_tower_fit import fit_two_tower
from policies.registry import POLICIES
from policies.slates import top_slates
from recsim_env import checks, noise
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.settings import LARGEST, MOST
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy

LOG_SEED = 40_000_000
"""First seed of the logged shoppers, far from those of trainings and evaluations."""
BUDGETED = 6
"""Composers of an exploring log, each with a budget of its own."""
BUDGETS = {
    name: (knob.tuned.low, min(knob.tuned.high, 0.0) if name == "budget" else knob.tuned.high)
    for name, knob in BUDGET_KNOBS.items()
}
"""Ranges from which their budgets are drawn: all that are tuned, but for those that ask for more of
what was clicked."""


class Exploring:
    """Draws K candidates in turn, with chances in proportion to exp(logit / temperature).

    It adds Gumbel noise and takes the best (Yellott 1977, "The relationship between Luce's
    choice axiom, Thurstone's theory of comparative judgment, and the double exponential
    distribution").

    Args:
        ranker: gives the logits
        inputs: spaces of the simulator
        temperature: divides the logits
    """

    def __init__(self, ranker: TwoTowerRanker, inputs: PolicyInputs, temperature: float) -> None:
        self._ranker = ranker
        self._items = len(inputs.catalog)
        self._slate_size = inputs.slate_size
        self._temperature = temperature
        self.draws = max_candidates(inputs.observation_space, self._items)

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Make slates (B, K) with uniform draws (B, C)."""
        scores = self._ranker.logits(observation) / self._temperature + noise.gumbel(draws)
        return top_slates(scores, candidates_of(observation, self._items), self._slate_size)


def log_and_ranker(
    simulator: SlateSimulator,
    *,
    users: int = 600,
    rounds: int = 3,
    temperatures: tuple[float, ...] = (1.0, 0.5),
    pool: int = 200,
    first_seed: int = LOG_SEED,
    title: str | None = None,
) -> tuple[Sessions, TwoTowerRanker]:
    """Log shoppers and fit a two-tower ranker, in one call.

    The first log is of uniform slates; in every further round the ranker of all logs before it
    serves, and is then fitted again to all of them. Half of the shoppers of such a round get slates
    of the ranker with noise, and the other half slates of composers with budgets drawn at random. A
    log of the ranker alone is one of bored shoppers, where nearly nothing is clicked, whatever they
    like.

    Args:
        simulator: the shoppers; it is reset
        users: number of shoppers of the uniform log, and of each exploring log after it
        rounds: number of exploring logs
        temperatures: temperatures of the exploring rankers, each of which serves an equal part of
            their half
        pool: number of best candidates that the composers look at
        first_seed: seed of the first logged shopper; the others follow it
        title: start of the titles of the progress bars; None shows none

    Returns:
        The log of all rounds, and the ranker that is fitted to it.

    Raises:
        ValueError: If an argument is out of its range, or a log holds no click.
    """
    checks.instance("simulator", simulator, SlateSimulator)
    users = checks.whole("users", users, 2 * (len(temperatures) + BUDGETED), MOST)
    rounds = checks.whole("rounds", rounds, 0, MOST)
    first_seed = checks.whole("first_seed", first_seed, 0)
    for at, temperature in enumerate(temperatures):
        checks.number(f"temperatures[{at}]", temperature, 0, LARGEST, above=True)
    if rounds and not temperatures:
        raise ValueError("temperatures is empty, but exploring rounds need at least one.")

    size = simulator.slate_size
    inputs = PolicyInputs(simulator.catalog, simulator.observation_space, size, pool=pool)
    writers: list[tuple[Policy, float]] = [(POLICIES["uniform"].build(inputs), 1.0)]
    tables: list[pl.DataFrame] = []
    said: list[pl.DataFrame] = []  # what shoppers declare, where they do
    logged = visits = 0
    for number in range(rounds + 1):
        for writer, part in writers:
            share = int(users * part)
            seeds = torch.arange(first_seed + logged, first_seed + logged + share)
            table, _ = record(simulator, writer, seeds, split="train")
            tables.append(table.with_columns(pl.col("shopper") + logged, pl.col("visit") + visits))
            if "declared" in simulator.observation_space.spaces:
                said.append(_declared(simulator, seeds, logged))
            logged, visits = logged + share, visits + len(table)
        log = Sessions.of(pl.concat(tables), pl.concat(said) if said else None)
        ranker = fit_two_tower(
            log,
            simulator.catalog,
            size,
            title=None if title is None else f"{title}, ranker {number}",
        )
        served = replace(inputs, ranker=ranker, reward=simulator.reward)
        composer = Composer(served, ComposerConfig(form="log_odds", offset_dims=0, budget=True))
        writers = [
            (Exploring(ranker, inputs, degree), 0.5 / len(temperatures)) for degree in temperatures
        ]
        budgeted = rerankers(composer, BUDGETED, 0.5, first_seed + number, BUDGETS)
        writers += [(policy, part) for _, policy, part in budgeted]
    return log, ranker


def _declared(simulator: SlateSimulator, seeds: Tensor, first: int) -> pl.DataFrame:
    """What the shoppers of some seeds declare; they are numbered from `first` on."""
    declared = simulator.reset(seeds)["declared"].cpu().numpy()
    schema = {"shopper": pl.Int64(), "declared": pl.List(pl.Float32)}
    numbers = range(first, first + len(seeds))
    return pl.DataFrame({"shopper": numbers, "declared": declared}, schema_overrides=schema)
