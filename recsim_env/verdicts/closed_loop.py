"""Logging policies played again in the simulator, against held-out users of the same policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate, Floats, from_samples, resamples
from recsim_env.logs.sessions import Sessions
from recsim_env.rollout import rollout
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy
from recsim_env.verdicts.imitation import imitations

EVERYBODY = "all policies"
"""Name of the users of all policies together."""
SEVERAL = "several or unknown"
"""Name of the policy of episodes that several policies served, or nobody knows which."""
FEWEST_USERS = 30
"""Held-out users of a policy of which a comparison is made at least."""
FIRST_SEED = 60_000_000
"""First seed of the simulated shoppers."""
SAMPLES = 1_000


@dataclass(frozen=True)
class Totals:
    """What users did in their episodes: (U,) each."""

    clicks: Floats
    """(U,) number of clicks of each user."""
    visits: Floats
    """(U,) number of slates of each user."""

    def only(self, keep: Any) -> Totals:
        """Take a part of the users, by a slice, indices or a mask."""
        return Totals(self.clicks[keep], self.visits[keep])


@dataclass(frozen=True)
class ClosedLoop:
    """Simulated against held-out users under one logging policy."""

    policy: str
    """Name of the policy."""
    simulated: dict[str, float]
    """`clicks` and `visits` of a simulated user, means."""
    observed: dict[str, float]
    """The same of held-out users."""
    ratio: dict[str, Estimate]
    """Simulated over observed, with intervals over the users of both."""
    users: tuple[int, int]
    """Simulated and held-out users."""


def closed_loop(
    simulator: SlateSimulator,
    learned_from: Sessions,
    held_out: Sessions,
    catalog: Catalog,
    *,
    windows: Floats | None = None,
    users: int = 512,
    policies: int = 8,
    seed: int = FIRST_SEED,
) -> list[ClosedLoop]:
    """Play the logging policies again in the simulator, by imitation.

    An episode of the log belongs to the policy that chose all of its slates; those that several
    policies served are taken together as `SEVERAL`. `EVERYBODY` puts simulated users of all
    policies together, as many of each as there are held-out users in proportion.

    Args:
        simulator: The fitted simulator; an episode ends at its horizon.
        learned_from: Episodes whose slates are shown again.
        held_out: Episodes of other users, who are compared with.
        catalog: The items of the log, on the CPU.
        windows: (S,) days for which the log watched each held-out episode, from its first slate on;
            simulated episodes are cut to windows drawn from them. None takes the horizon for all.
        users: Number of simulated users for each policy, and for `EVERYBODY`.
        policies: Largest number of policies on their own, those with the most held-out users, of
            whom there must be `FEWEST_USERS`.
        seed: First seed of the simulated users.

    Returns:
        `EVERYBODY`, then the policies.
    """
    # Learn to imitate every policy that served held-out users.
    theirs, mine = owner_names(learned_from), owner_names(held_out)
    served = {name: int((mine == name).sum()) for name in np.unique(mine)}
    masks = [
        (name, learned_from.real & torch.from_numpy(theirs == name).unsqueeze(1)) for name in served
    ]
    imitated = imitations(learned_from, catalog, masks)
    order = sorted(imitated, key=lambda name: -served[name])
    alone = [name for name in order if served[name] >= FEWEST_USERS][:policies]

    # Play them; those that are not compared on their own only for the sum.
    played: dict[str, Totals] = {}
    total = sum(served[name] for name in order)
    share = {name: max(round(users * served[name] / total), 1) for name in order}
    for name in order:
        cut = None if windows is None else np.asarray(windows, dtype=np.float64)[mine == name]
        number = users if name in alone else share[name]
        played[name] = play(simulator, imitated[name], users=number, windows=cut, seed=seed)
        seed += number

    seen = totals_of(held_out, simulator.horizon_days)
    found = [compare(name, played[name], seen.only(mine == name)) for name in alone]
    if order:
        together = together_of([played[name].only(slice(share[name])) for name in order])
        found.insert(0, compare(EVERYBODY, together, seen.only(np.isin(mine, order))))
    return found


def owner_names(sessions: Sessions) -> NDArray[np.str_]:
    """Name (S,) of the policy that chose every slate of an episode, or `SEVERAL`."""
    names = np.array([*sessions.policies, SEVERAL])
    return np.asarray(names[owner_of(sessions).numpy()])


def together_of(parts: Sequence[Totals]) -> Totals:
    """Put the users of several parts together."""
    return Totals(
        np.concatenate([part.clicks for part in parts]),
        np.concatenate([part.visits for part in parts]),
    )


def owner_of(sessions: Sessions) -> Tensor:
    """The policy (S,) that chose every slate of an episode; -1 where there were several or none."""
    first = sessions.policy[:, 0]
    same = (sessions.policy == first.unsqueeze(1)) | ~sessions.real
    return first.where(same.all(dim=1), -1)


def totals_of(sessions: Sessions, horizon: float) -> Totals:
    """Count clicks and slates of every episode on the days before the horizon."""
    counted = sessions.real & (sessions.days < horizon)
    clicks = (sessions.clicks & (sessions.slates >= 0)).sum(dim=2)
    return Totals(
        (clicks * counted).sum(dim=1).double().numpy(), counted.sum(dim=1).double().numpy()
    )


def play(
    simulator: SlateSimulator,
    policy: Policy,
    *,
    users: int,
    windows: Floats | None = None,
    seed: int = FIRST_SEED,
    batch: int = 512,
) -> Totals:
    """Play a policy, and count what each simulated user did before its window ended.

    Args:
        simulator: The simulator, which is reset.
        policy: The policy.
        users: Number of simulated users.
        windows: Days of which one is drawn for each user; None leaves episodes whole.
        seed: First seed of the users.
        batch: Number of users at a time, which changes the speed alone.
    """
    numbers = torch.arange(seed, seed + users)
    window = np.full(users, np.inf)
    if windows is not None:
        window = np.random.default_rng(seed).choice(windows, users)
    until = torch.as_tensor(window, dtype=torch.float32, device=simulator.device)
    clicks = torch.zeros(users, dtype=torch.float64, device=simulator.device)
    visits = torch.zeros_like(clicks)
    for visit in rollout(policy, simulator, numbers, batch=batch):
        began = visit.outcome.info["day"] - visit.outcome.info["gap_days"]
        inside = (began < until[visit.number]).double()
        clicks.index_add_(0, visit.number, inside * visit.outcome.info["clicks"].double())
        visits.index_add_(0, visit.number, inside)
    return Totals(clicks.cpu().numpy(), visits.cpu().numpy())


def compare(policy: str, simulated: Totals, observed: Totals) -> ClosedLoop:
    """Compare simulated with held-out users, with a bootstrap over both."""
    sizes = len(simulated.visits), len(observed.visits)
    drawn = [resamples(size, SAMPLES, at) / size for at, size in enumerate(sizes)]
    means: tuple[dict[str, float], dict[str, float]] = ({}, {})
    ratio: dict[str, Estimate] = {}
    for what in ("clicks", "visits"):
        pair = getattr(simulated, what), getattr(observed, what)
        for mean, values in zip(means, pair, strict=True):
            mean[what] = float(values.mean())
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.float64(means[0][what]) / means[1][what]
            ratio[what] = from_samples(
                float(value), (drawn[0] @ pair[0]) / (drawn[1] @ pair[1]), min(sizes)
            )
    return ClosedLoop(policy, *means, ratio, sizes)
