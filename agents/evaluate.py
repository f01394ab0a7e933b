"""Plays whole episodes with a policy, always the same episodes for the same seeds, and writes one row for each."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor
from tqdm.auto import tqdm

from recsim_env import checks, noise
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Outcome, Policy

POLICY_STREAM = 1
"""The stream of `noise.episode_key` from which a policy draws; the shoppers' is 0."""
TERM = "reward_terms/"
SUMMED = ("clicks", "invalid_items", "elsewhere")
"""What `Outcome.info` holds a visit and an episode adds up; so are the reward terms."""


@dataclass(frozen=True)
class Evaluation:
    """What a policy did."""

    rows: pl.DataFrame
    """One row an episode, in the order of the seeds: `seed` · `return` · `visits` · `days` until
    the shopper lapsed or the horizon · `lapsed` · `clicks`, `invalid_items`, `elsewhere` and each
    reward term (its name alone, before its weight), summed over the visits."""
    exposures: Tensor
    """(N,) int64, how often each item was shown. A repeated item or one that is no candidate is not
    shown."""

    @property
    def coverage(self) -> float:
        """Share of the catalogue that was shown at least once."""
        return float((self.exposures > 0).double().mean())

    @property
    def gini(self) -> float:
        """Inequality of exposure: 0 = all items alike, also where none was shown; towards 1 = all
        exposure on one item (Gini 1912).
        """
        counts = self.exposures.double().sort().values
        total = float(counts.sum())
        if total == 0:
            return 0.0
        ranks = torch.arange(1, len(counts) + 1, device=counts.device)
        return (2 * float((ranks * counts).sum()) / total - (len(counts) + 1)) / len(counts)


class _Sums:
    """Running sums of one episode a row of the simulator."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._zeros = torch.zeros(rows, dtype=torch.float64, device=device)
        self.values: dict[str, Tensor] = {}

    def add(self, outcome: Outcome) -> None:
        info = outcome.info
        new = {"return": outcome.reward, "visits": torch.ones_like(outcome.reward)}
        new |= {name: info[name] for name in SUMMED if name in info}
        new |= {name.removeprefix(TERM): info[name] for name in info if name.startswith(TERM)}
        for name, value in new.items():
            self.values[name] = self.values.get(name, self._zeros) + value

    def keep(self, rows: Tensor) -> None:
        self.values = {name: value[rows] for name, value in self.values.items()}

    def clear(self, rows: Tensor) -> None:
        self.values = {name: value.index_fill(0, rows, 0.0) for name, value in self.values.items()}


def draws_for(
    policy: Policy, seeds: Tensor, visits: Tensor, episodes: Tensor | None = None
) -> Tensor:
    """The uniform numbers that a policy takes at a visit, from (seed, episode, visit) alone: (B, policy.draws).

    Shapes: seeds (B,) int64, visits (B,) int64 visits so far in the episode, episodes (B,) int64 or
    None for 0.
    """
    episodes = torch.zeros_like(seeds) if episodes is None else episodes
    return noise.uniform(
        noise.episode_key(seeds, episodes, stream=POLICY_STREAM), visits, policy.draws
    )


@torch.no_grad()
def evaluate(
    policy: Policy,
    simulator: SlateSimulator,
    seeds: Tensor,
    *,
    batch: int = 256,
    title: str | None = None,
) -> Evaluation:
    """Play the first episode of every seed to its end.

    A row that is done goes on with the next seed, so long episodes hold up nobody. The episodes
    depend on the seeds alone, so two policies (or two batch sizes) meet the same shoppers with the
    same noise.

    Args:
        seeds: (S,) int64, distinct
        batch: shoppers at a time
        title: of the progress bar; None shows none

    Errors: TypeError or ValueError where an argument is not as said, and where the policy's slates
    are none that the simulator could show: see `SlateSimulator.step`.
    """
    _check(policy, simulator, seeds)
    seeds = seeds.to(simulator.device)
    width = min(checks.whole("batch", batch, 1), len(seeds))
    episode = torch.arange(width, device=simulator.device)  # which seed each row plays
    waiting = width
    sums = _Sums(width, simulator.device)
    finished: list[dict[str, Tensor]] = []
    exposures = torch.zeros(len(simulator.catalog) + 1, dtype=torch.int64, device=simulator.device)
    observation = simulator.reset(seeds[:width])
    with tqdm(total=len(seeds), desc=title, unit="episode", disable=title is None) as bar:
        while True:
            at = simulator.episodes
            slates = policy(observation, draws_for(policy, at.seed, at.visit, at.number))
            simulator.check(slates, name="policy(observation, draws)")
            outcome = simulator.advance(slates)
            sums.add(outcome)
            count_shown(exposures, simulator.episodes.recent_slates[:, 0])
            done = outcome.ended.nonzero().squeeze(1)
            if len(done):
                finished.append(_finish(sums, outcome, done, episode[done], seeds))
                bar.update(len(done))
                sums.clear(done)
                fresh = waiting + torch.arange(len(done), device=simulator.device)
                waiting += len(done)
                episode = episode.index_copy(0, done, fresh)
                running = fresh < len(seeds)
                simulator.restart(done[running], seeds[fresh[running]])
                if not bool(running.all()):  # no seed is left for some rows: go on without them
                    rows = (episode < len(seeds)).nonzero().squeeze(1)
                    if len(rows) == 0:
                        break
                    simulator.keep(rows)
                    sums.keep(rows)
                    episode = episode[rows]
            observation = simulator.observe()
    return Evaluation(_table(finished), exposures[1:].cpu())


def count_shown(exposures: Tensor, shown: Tensor) -> None:
    """Add what was shown to exposures (N + 1,) int64: item i counts at i + 1, empty positions at 0.

    Unlike `torch.bincount` this does not wait for the device.

    Shapes: shown (B, K) int64, -1 where nothing was shown, as in `Episodes.recent_slates`.
    """
    places = shown.flatten() + 1
    exposures.scatter_add_(0, places, torch.ones_like(places))


def _check(policy: Policy, simulator: SlateSimulator, seeds: Tensor) -> None:
    """Raise what `evaluate` says of its first three arguments."""
    if not isinstance(simulator, SlateSimulator):
        raise TypeError(f"simulator is {checks.told(simulator)}, but it must be a SlateSimulator.")
    if not callable(policy) or isinstance(policy, type) or not hasattr(policy, "draws"):
        raise TypeError(
            f"policy is {checks.told(policy)}, but it must be a Policy: callable, with `draws`."
        )
    checks.whole("policy.draws", policy.draws, 0)
    checks.tensor("seeds", seeds, ("S",), torch.int64)
    if len(seeds.unique()) < max(len(seeds), 1):
        raise ValueError(
            f"seeds holds {len(seeds)} numbers, but they must be distinct and at least one."
        )


def _finish(
    sums: _Sums, outcome: Outcome, rows: Tensor, episode: Tensor, seeds: Tensor
) -> dict[str, Tensor]:
    columns = {"order": episode, "seed": seeds[episode]}
    columns |= {name: value[rows] for name, value in sums.values.items()}
    columns |= {"days": outcome.info["day"][rows].double(), "lapsed": outcome.terminated[rows]}
    return {name: value.cpu() for name, value in columns.items()}


def _table(finished: list[dict[str, Tensor]]) -> pl.DataFrame:
    columns = {name: torch.cat([part[name] for part in finished]).numpy() for name in finished[0]}
    whole = [name for name in ("visits", *SUMMED) if name in columns]
    return pl.DataFrame(columns).sort("order").drop("order").cast(dict.fromkeys(whole, pl.Int64))


@torch.no_grad()
def showcase(policy: Policy, simulator: SlateSimulator, seeds: Tensor, visits: int) -> Observation:
    """Play some visits and look back: the observation after them, whose `recent_slates` are what was shown.

    Shoppers who lapse on the way start anew, and have a shorter memory. visits: at most the
    simulator's `history`.

    Errors: TypeError or ValueError where an argument is not as said.
    """
    _check(policy, simulator, seeds)
    visits = checks.whole("visits", visits, 0, simulator.history)
    observation = simulator.reset(seeds.to(simulator.device))
    for _ in range(visits):
        at = simulator.episodes
        outcome = simulator.advance(
            policy(observation, draws_for(policy, at.seed, at.visit, at.number))
        )
        done = outcome.ended.nonzero().squeeze(1)
        if len(done):
            simulator.restart(done)
        observation = simulator.observe()
    return observation
