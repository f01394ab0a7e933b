"""Purchases that never were: what households did before a visit, lived through once more.

The visits before an episode are those of the log. Those of the episode are played again, from the
slates that the simulator remembers and the same noise, so that their baskets need not be kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsim_env import noise, trees
from recsim_env.explaining.case import Case, World
from recsim_env.shoppers.carts.population import CartState
from recsim_env.shoppers.household.population import LearnedShopper
from recsim_env.shoppers.household.replay import Past
from recsim_env.shoppers.household.starts import lived_through
from recsim_env.shoppers.members import PRECISIONS

PAST = "visits before"
"""Where a case keeps them."""


def too_many_visits(case: Case) -> str:
    """Say why purchases cannot be told, where the simulator has forgotten slates; else ""."""
    simulator = case.simulator
    most = int(simulator.episodes.visit.max())
    if most <= simulator.history:
        return ""
    return (
        f"purchases are told only where the simulator remembers the whole episode: {most} slates "
        f"were shown, and history is {simulator.history}."
    )


def drop(world: World, dropped: Tensor) -> None:
    """Take purchases out of a world: (R, N) bool; counters and encoded visits follow."""
    world.dropped = dropped if world.dropped is None else world.dropped | dropped
    world.last("purchases", _live_again)


def _live_again(world: World) -> None:
    """Replay the visits of a world without what was dropped, in place."""
    shopper, state, device = world.case.shopper, world.state, world.rows.device
    assert isinstance(shopper, LearnedShopper)
    assert world.dropped is not None
    past = visits_before(world.case).only(world.rows.cpu()).without(world.dropped.cpu())
    models = [(member.model, member.vectors) for member in shopper.shop.members]
    memory, caches = lived_through(past, shopper.shop.keys.to(torch.device("cpu")), models)
    precision = PRECISIONS[shopper.options.precision]
    state.memory, state.caches = (
        trees.moved(memory, device),
        [cache.to(precision) for cache in caches],
    )
    state.rhythm = state.memory.tally(state.day)


def visits_before(case: Case) -> Past:
    """Return every visit of B shoppers before this one, on the CPU; it is worked out once."""
    if PAST not in case.memo:
        case.memo[PAST] = _played_again(case)
    past: Past = case.memo[PAST]
    return past


def _played_again(case: Case) -> Past:
    simulator, shopper = case.simulator, case.shopper
    assert isinstance(shopper, LearnedShopper)
    episodes = simulator.episodes
    past = shopper.shop.starts.past(case.state.who).of_known(~episodes.newcomer.cpu())
    state = simulator.arrivals(episodes)
    everyone = torch.arange(len(episodes.seed), device=simulator.device)
    for visit in range(int(episodes.visit.max())):
        slates = episodes.recent_slates[everyone, (episodes.visit - 1 - visit).clamp(min=0)]
        draws = noise.uniform(episodes.key, visit + 1, shopper.visit_draws)
        day, since = state.day.clone(), state.since.clone()
        response = shopper.respond(state, slates.clamp(min=0), slates >= 0, draws)
        assert response.basket is not None
        ended = state.page == 0 if isinstance(state, CartState) else torch.ones_like(day).bool()
        there = (ended & (visit < episodes.visit)).nonzero().flatten()
        past = past.followed_by(
            _one_visit(there, response.basket[there], day[there], since[there], len(everyone))
        )
    return past


def _one_visit(who: Tensor, basket: Tensor, day: Tensor, since: Tensor, shoppers: int) -> Past:
    """Return one visit of each of some shoppers (R,) of B, as a past."""
    who, basket = who.cpu(), basket.cpu()
    size = (basket >= 0).sum(dim=1)
    return Past(
        torch.bincount(who, minlength=shoppers),
        who,
        day.cpu(),
        since.cpu(),
        basket[basket >= 0],
        size.cumsum(0) - size,
        size,
    )
