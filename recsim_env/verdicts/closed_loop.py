"""Logging policies played again in the simulator, against held-out users of the same policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate, Floats, from_samples, resamples
from recsim_env.logs.sessions import Sessions
from recsim_env.rollout import rollout
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy
from recsim_env.verdicts.imitation import imitations
from recsim_env.verdicts.rows import days_of

EVERYBODY = "all policies"
"""Name of the mixture of everything that the log showed."""
FEWEST_USERS = 30
"""Held-out users of a policy of which a comparison is made at least."""
FIRST_SEED = 60_000_000
"""First seed of the simulated shoppers."""
SAMPLES = 1_000


@dataclass(frozen=True)
class Totals:
    """What users did in their episodes: (U,) each."""

    clicks: Floats
    """(U,) clicks."""
    visits: Floats
    """(U,) slates."""


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

    An episode of the log belongs to a policy that chose all of its slates. `EVERYBODY` imitates
    the log as a whole.

    Args:
        simulator: The fitted simulator; an episode ends at its horizon.
        learned_from: Episodes whose slates are shown again.
        held_out: Episodes of other users, who are compared with.
        catalog: The items of the log, on the CPU.
        windows: (S,) days for which the log watched each held-out episode, from its first slate on;
            simulated episodes are cut to windows drawn from them. None takes the horizon for all.
        users: Number of simulated users for each policy.
        policies: Largest number of policies, those with the most held-out users.
        seed: First seed of the simulated users.
    """
    groups = policies_of(held_out, policies)
    chosen = owner_of(learned_from)
    codes = {name: at for at, name in enumerate(learned_from.policies)}
    masks = []
    for name, code in groups:
        theirs = torch.ones_like(chosen) if code is None else chosen == codes.get(name, -2)
        masks.append((name, learned_from.real & theirs.bool().unsqueeze(1)))
    imitated = imitations(learned_from, catalog, masks)
    seen = totals_of(held_out, simulator.horizon_days)
    mine = owner_of(held_out).numpy()
    found = []
    for name, code in groups:
        if name not in imitated:
            continue
        theirs = np.ones(len(mine), dtype=bool) if code is None else mine == code
        cut = None if windows is None else np.asarray(windows, dtype=np.float64)[theirs]
        played = play(simulator, imitated[name], users=users, windows=cut, seed=seed)
        logged = Totals(seen.clicks[theirs], seen.visits[theirs])
        found.append(compare(name, played, logged))
    return found


def policies_of(sessions: Sessions, most: int) -> list[tuple[str, int | None]]:
    """Name and code of the policies with `FEWEST_USERS` episodes or more, after `EVERYBODY`."""
    owner = owner_of(sessions)
    count = torch.bincount(owner[owner >= 0], minlength=len(sessions.policies))
    order = count.argsort(descending=True, stable=True)[:most].tolist()
    kept = [code for code in order if int(count[code]) >= FEWEST_USERS]
    return [(EVERYBODY, None), *((sessions.policies[code], code) for code in kept)]


def owner_of(sessions: Sessions) -> Tensor:
    """The policy (S,) that chose every slate of an episode; -1 where there were several or none."""
    first = sessions.policy[:, 0]
    same = (sessions.policy == first.unsqueeze(1)) | ~sessions.real
    return first.where(same.all(dim=1), -1)


def totals_of(sessions: Sessions, horizon: float) -> Totals:
    """Count clicks and slates of every episode on the days before the horizon."""
    counted = sessions.real & (days_of(sessions) < horizon)
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
    means, ratio = ({}, {}), {}
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
