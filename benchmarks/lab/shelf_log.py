"""A market's log by a policy of known propensities, and what evaluated policies would have shown.

The log is played once and read back as anybody's log would be: the observation before each slate is
made again by `recsim_env.logs.sessions.replay`, and all chances come from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from policies.shelves import ShelfPolicy, Shelves, propensities
from recsim_env.catalog import Catalog
from recsim_env.estimates import Floats, Ints
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions, replay
from recsim_env.simulator import SlateSimulator

AT_ONCE = 1024
"""Episodes that are played side by side."""
LEARNED_FROM = 300_000
"""Most shown items that the model of doubly robust estimators is fitted to; it has few numbers."""
Tables = tuple[pl.DataFrame, pl.DataFrame]
"""Impressions, and what their shoppers declared."""


def play(simulator: SlateSimulator, policy: ShelfPolicy, slates: int, first_seed: int) -> Tables:
    """Play episodes until there are so many slates: impressions, and what shoppers declared."""
    impressions: list[pl.DataFrame] = []
    declared: list[pl.DataFrame] = []
    at, mean = first_seed, simulator.horizon_days
    while (logged := sum(map(len, impressions))) < slates:
        episodes = min(max(round((slates - logged) / mean), 16), AT_ONCE)
        seeds = torch.arange(at, at + episodes)
        table, _ = record(
            simulator,
            policy,
            seeds,
            propensity=policy.log_propensity,
            policy_name="logging",
            split="train",
        )
        offset = pl.col("shopper") + at - first_seed, pl.col("visit") + (at - first_seed) * 1000
        impressions.append(table.with_columns(*offset))
        said = simulator.reset(seeds)["declared"].cpu().numpy()
        declared.append(
            pl.DataFrame(
                {"shopper": seeds.numpy() - first_seed, "declared": said},
                schema_overrides={"declared": pl.List(pl.Float32)},
            )
        )
        at, mean = at + episodes, len(table) / episodes
    return pl.concat(impressions), pl.concat(declared)


def first_slates(log: Sessions, slates: int) -> Sessions:
    """The first episodes of a log that have so many slates together."""
    needed = int((log.length.cumsum(0) < slates).sum()) + 1
    return log.take(torch.arange(min(needed, len(log))))


@dataclass(frozen=True)
class ShelfLog:
    """What was shown at every logged slate, and what could have been.

    Shapes: R slates, K positions, S items of a shelf, J cues.
    """

    user: Ints
    """(R,) number of the episode of each slate."""
    visit: Ints
    """(R,) number of the slate in its episode, from 0, by which the rows ascend."""
    clicks: Floats
    """(R, K) clicks, 0 or 1."""
    place: Ints
    """(R, K) place of the shown item on its shelf."""
    propensity: Floats
    """(R, K) chance of the shown item at its position under the logging policy."""
    there: NDArray[np.bool_]
    """(R, K, S) whether a shelf has an item at that place."""
    logits: NDArray[np.float32]
    """(R, K, S) log-odds of a click by the ranker; 0 where there is no item."""
    cues: NDArray[np.float32]
    """(R, K, S, J) the values of the cues."""
    chances: Mapping[str, NDArray[np.float32]]
    """(R, K, S) chances of each evaluated policy, by its name."""

    @classmethod
    def of(
        cls,
        log: Sessions,
        catalog: Catalog,
        shelves: Shelves,
        logging: ShelfPolicy,
        evaluated: Mapping[str, ShelfPolicy],
        history: int,
    ) -> ShelfLog:
        """Read a log, and look at every slate with the eyes of each policy.

        Raises:
            ValueError: If the logged propensities are not those of the logging policy.
        """
        parts: dict[str, list[NDArray[np.generic]]] = {}
        for moment in replay(log, catalog, history=history):
            shelved = shelves(moment.observation)
            places = shelved.places(moment.slates)
            chance = propensities(logging.chances(shelved), places)
            _check_logged(log.propensity[moment.rows, moment.visit], chance.log().sum(dim=1))
            there = shelved.items >= 0
            found = {
                "user": moment.rows,
                "visit": torch.full_like(moment.rows, moment.visit),
                "clicks": moment.clicks.double(),
                "place": places,
                "propensity": chance,
                "there": there,
                "logits": shelved.logits.where(there, 0.0),
                "cues": shelved.cues,
                **{
                    f"of {name}": policy.chances(shelved).float()
                    for name, policy in evaluated.items()
                },
            }
            for name, value in found.items():
                parts.setdefault(name, []).append(value.cpu().numpy())
        whole = {name: np.concatenate(values) for name, values in parts.items()}
        own = {name: whole[name] for name in (f.name for f in fields(cls)) if name in whole}
        return cls(**own, chances={name: whole[f"of {name}"] for name in evaluated})

    def __len__(self) -> int:
        return len(self.user)

    def take(self, slates: int) -> ShelfLog:
        """The rows of the first episodes that have so many slates together."""
        length = np.bincount(self.user)
        needed = int((length.cumsum() < slates).sum()) + 1
        kept = self.user < needed
        own = {f.name: getattr(self, f.name)[kept] for f in fields(self) if f.name != "chances"}
        return ShelfLog(**own, chances={name: of[kept] for name, of in self.chances.items()})

    def shown(self, values: NDArray[np.generic]) -> Floats:
        """Look up values (R, K, S) of the items that were shown: (R, K)."""
        found = np.take_along_axis(values, self.place[:, :, None], axis=2)[:, :, 0]
        return found.astype(np.float64)

    def by_episodes(self, chances: NDArray[np.float32]) -> float:
        """Clicks an episode under the policy of some chances (R, K, S), by weights of episodes.

        The clicks of a visit are weighted by the ratios of all slates down to it, and the weights
        of a visit are divided by their mean: the weighted per-decision estimator of Precup, Sutton
        and Singh (2000), the only one here that follows where a policy leads its shoppers. An
        episode that is over keeps its weight, and has no more clicks.
        """
        shape = (int(self.user.max()) + 1, int(self.visit.max()) + 1)
        logs, clicks = np.zeros(shape), np.zeros(shape)
        ratio = np.maximum(self.shown(chances), 1e-300) / self.propensity
        logs[self.user, self.visit] = np.log(ratio).sum(axis=1)
        clicks[self.user, self.visit] = self.clicks.sum(axis=1)
        down = logs.cumsum(axis=1)
        weight = np.exp(down - down.max(axis=0))
        return float(((weight * clicks).sum(axis=0) / weight.sum(axis=0)).sum())

    def expected(self) -> NDArray[np.float32]:
        """Click chances of every item of a shelf (R, K, S), by a model of the other half's clicks.

        A logistic regression on the ranker's log-odds, the cues and the position; each half of the
        users is predicted by the model of the other one, so that nobody is predicted from their own
        clicks (Chernozhukov et al. 2018). A half without a click expects its mean.
        """
        found = np.zeros(self.there.shape, dtype=np.float32)
        for half in (0, 1):
            other = self.user % 2 != half
            rows = np.flatnonzero(self.user % 2 == half)
            found[rows] = self._predicted(np.flatnonzero(other), rows)
        return found

    def _predicted(self, learned: Ints, rows: Ints) -> NDArray[np.float32]:
        """Fit the model to some slates, and predict the shelves of others: (rows, K, S)."""
        size = self.clicks.shape[1]
        learned = learned[: LEARNED_FROM // size]
        place = self.place[learned][:, :, None]
        logits = np.take_along_axis(self.logits[learned], place, axis=2)
        cues = np.take_along_axis(self.cues[learned], place[..., None], axis=2)[:, :, 0]
        position = np.broadcast_to(np.eye(size, dtype=np.float32), (len(learned), size, size))
        facts = np.concatenate([logits, cues, position], axis=2).reshape(len(learned) * size, -1)
        label = self.clicks[learned].reshape(-1)
        shape = (len(rows), *self.there.shape[1:])
        if len(np.unique(label)) < 2:
            return np.full(shape, label.mean() if len(label) else 0.0, dtype=np.float32)
        model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=200).fit(facts, label)
        weights = model.coef_[0].astype(np.float32)
        scores = self.logits[rows] * weights[0] + self.cues[rows] @ weights[1:-size]
        scores += weights[-size:, None]
        return np.where(self.there[rows], 1 / (1 + np.exp(-scores)), 0.0).astype(np.float32)


def _check_logged(logged: torch.Tensor, found: torch.Tensor) -> None:
    off = (logged.double() - found.cpu()).abs()
    if not bool((off < 1e-3).all()):
        raise ValueError(
            f"the log has a propensity that is off by {float(off.max()):.3g} in log-probability: "
            "it was written by another policy."
        )
