"""Evaluates a policy on whole episodes that depend on seeds alone, with one row per episode."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor
from tqdm.auto import tqdm

from recsim_env import checks
from recsim_env.rollout import check_playable, rollout
from recsim_env.settings import MOST
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Outcome, Policy

TERM = "reward_terms/"
"""Prefix of the reward terms in `Outcome.info`."""
SUMMED = ("clicks", "invalid_items", "elsewhere", "new_shown", "new_clicks")
"""Keys of `Outcome.info` that are summed over an episode, as the reward terms are."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation."""

    rows: pl.DataFrame
    """One row per episode, in the order of the seeds: `seed`, `return`, `visits`, `days` until the
    shopper lapsed or the horizon was reached, `lapsed`, and the sums over visits of `clicks`,
    `invalid_items`, `elsewhere` and each reward term (under its name, before its weight); where
    there are new items also of `new_shown` and `new_clicks`, and where there are newcomers
    `newcomer`, whether the shopper came without a history."""
    exposures: Tensor
    """(N,) int64, how often each item was shown. A repeated item, or one that is not a candidate,
    does not count as shown."""

    @property
    def coverage(self) -> float:
        """Share of the catalogue that was shown at least once."""
        return float((self.exposures > 0).double().mean())

    @property
    def gini(self) -> float:
        """Inequality of exposure (Gini 1912).

        0 means that all items were shown equally often, or none at all; values near 1 mean that all
        exposure fell on one item.
        """
        counts = self.exposures.double().sort().values
        total = float(counts.sum())
        if total == 0:
            return 0.0
        ranks = torch.arange(1, len(counts) + 1, device=counts.device)
        return (2 * float((ranks * counts).sum()) / total - (len(counts) + 1)) / len(counts)


class _Sums:
    """Running sums of S episodes, each at the index of its seed."""

    def __init__(self, seeds: Tensor) -> None:
        self._seeds = seeds
        self._sums: dict[str, Tensor] = {}
        self._days = torch.zeros(len(seeds), dtype=torch.float64, device=seeds.device)
        self._lapsed = torch.zeros(len(seeds), dtype=torch.bool, device=seeds.device)
        self._newcomer: Tensor | None = None

    def add(self, number: Tensor, outcome: Outcome) -> None:
        """Add a visit of the episodes at `number` (B,), which are distinct."""
        info = outcome.info
        new = {"return": outcome.reward, "visits": torch.ones_like(outcome.reward)}
        new |= {name: info[name] for name in SUMMED if name in info}
        new |= {name.removeprefix(TERM): info[name] for name in info if name.startswith(TERM)}
        for name, value in new.items():
            total = self._sums.setdefault(name, torch.zeros_like(self._days))
            total.index_add_(0, number, value.double())
        if "newcomer" in info:
            self._newcomer = self._lapsed.clone() if self._newcomer is None else self._newcomer
            self._newcomer[number] = info["newcomer"] > 0
        self._days[number] = info["day"].double()
        self._lapsed[number] = outcome.terminated

    def table(self) -> pl.DataFrame:
        """One row per episode, in the order of the seeds."""
        columns = {"seed": self._seeds, **self._sums, "days": self._days, "lapsed": self._lapsed}
        if self._newcomer is not None:
            columns["newcomer"] = self._newcomer
        frame = pl.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
        whole = [name for name in ("visits", *SUMMED) if name in columns]
        return frame.cast(dict.fromkeys(whole, pl.Int64))


@torch.no_grad()
def evaluate(
    policy: Policy,
    simulator: SlateSimulator,
    seeds: Tensor | int = 256,
    *,
    batch: int = 256,
    title: str | None = None,
) -> Evaluation:
    """Play the first episode of every seed to its end.

    Two policies, or two batch sizes, meet the same shoppers with the same noise: see
    `recsim_env.rollout.rollout`.

    Args:
        policy: The policy that is evaluated.
        simulator: The simulator, which is reset.
        seeds: (S,) int64, distinct, or the number S of episodes, which then have the seeds 0 to
            S - 1.
        batch: How many shoppers are played at a time.
        title: The title of the progress bar; None shows none.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or if the policy's slates cannot be shown: see
            `SlateSimulator.step`.
    """
    if isinstance(seeds, int):
        seeds = torch.arange(checks.whole("seeds", seeds, 1, MOST))
    _check(policy, simulator, seeds)
    seeds = seeds.to(simulator.device)
    sums = _Sums(seeds)
    exposures = torch.zeros(len(simulator.catalog) + 1, dtype=torch.int64, device=simulator.device)
    with tqdm(total=len(seeds), desc=title, unit="episode", disable=title is None) as bar:
        for visit in rollout(policy, simulator, seeds, batch=batch):
            sums.add(visit.number, visit.outcome)
            count_shown(exposures, visit.shown)
            if title is not None:
                bar.update(int(visit.outcome.ended.sum()))
    return Evaluation(sums.table(), exposures[1:].cpu())


def count_shown(exposures: Tensor, shown: Tensor) -> None:
    """Count the items that were shown: item i at index i + 1, empty positions at index 0.

    Unlike `torch.bincount`, this does not wait for the device.

    Shapes:
        exposures: (N + 1,) int64, changed in place
        shown:     (B, K) int64, -1 where nothing was shown, as in `Episodes.recent_slates`
    """
    places = shown.flatten() + 1
    exposures.scatter_add_(0, places, torch.ones_like(places))


def _check(policy: Policy, simulator: SlateSimulator, seeds: Tensor) -> None:
    """Check the first three arguments of `evaluate`, which says what is raised."""
    check_playable(policy, simulator, seeds)
    if len(seeds.unique()) < len(seeds):
        raise ValueError(f"seeds holds {len(seeds)} numbers, but they must be distinct.")
