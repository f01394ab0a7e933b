"""Every registered environment answers any slate to the end, and its shoppers keep promises.

One test an id, so that its shoppers are loaded once. The slates: nothing that may be shown, one
item at every position, one candidate among strangers, and random items; each for three shoppers
together and for one alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gymnasium.error import ResetNeeded
from torch import Tensor

from recsim_env import make_simulator, noise
from recsim_env.registration import PRESETS
from recsim_env.shoppers.base import Shopper
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import among
from recsim_env.testing import check_shopper
from recsim_env.types import Outcome

SEEDS = torch.tensor(
    [12, 18, 38]
)  # of Complete Journey shoppers of whom nothing is asked if nothing is shown to them
KINDS = ("invalid", "repeated", "one valid", "random")
MOST_VISITS = 96  # twelve days with eight pages each


def slates_of(simulator: SlateSimulator, kind: str) -> Tensor:
    """Slates (B, K) of a kind; invalid is -1 where every item is a candidate."""
    at, size, items = simulator.episodes, simulator.slate_size, len(simulator.catalog)
    key = noise.episode_key(at.seed, at.number, stream=5)
    anything = (noise.uniform(key, at.visit, 4 * size) * items).long()
    if kind == "random":
        return anything[:, :size]
    best = simulator.candidates[:, :1]
    strangers = anything.where(~among(anything, simulator.candidates, items), -1)
    strangers = strangers.gather(1, (strangers < 0).to(torch.int8).argsort(dim=1, stable=True))[
        :, :size
    ]
    if kind == "invalid":
        return strangers
    return (
        best.expand(-1, size) if kind == "repeated" else torch.cat([best, strangers[:, 1:]], dim=1)
    )


def play(simulator: SlateSimulator, seeds: Tensor, kind: str) -> list[dict[str, Tensor]]:
    """What the visits led to until every first episode was over; -1 in rows that were over."""
    simulator.reset(seeds)
    over = torch.zeros(len(seeds), dtype=torch.bool)
    visits: list[dict[str, Tensor]] = []
    while not over.all():
        assert len(visits) < MOST_VISITS
        outcome = simulator.advance(slates_of(simulator, kind))
        check_outcome(simulator, outcome, kind)
        seen = simulator.observe()
        assert simulator.observation_space.contains(
            {name: value[0].numpy() for name, value in seen.items()}
        )
        told = {
            "reward": outcome.reward,
            "left": outcome.terminated,
            "ended": outcome.ended,
            **outcome.info,
        }
        visits.append({name: value.where(~over, -1) for name, value in told.items()})
        over |= outcome.ended
    return visits


def check_outcome(simulator: SlateSimulator, outcome: Outcome, kind: str) -> None:
    """What must hold of a slate of this kind, whoever met it."""
    size, clicks, invalid = (
        simulator.slate_size,
        outcome.info["clicks"],
        outcome.info["invalid_items"],
    )
    if kind == "invalid":
        assert (invalid == size).all()
        assert (clicks == 0).all()
        assert (outcome.reward == 0).all()
    elif kind == "random":
        assert ((clicks >= 0) & (clicks <= size - invalid)).all()
    else:
        assert (invalid == size - 1).all()
        expected = of_one_response(simulator, outcome)
        torch.testing.assert_close(outcome.reward, expected)  # no pair, no diversity
        assert (clicks <= 1).all()
    assert (outcome.info["gap_days"] >= 0).all()
    assert not (outcome.terminated & outcome.truncated).any()


def of_one_response(simulator: SlateSimulator, outcome: Outcome) -> Tensor:
    """The reward of slates that show one item: its clicks and purchases, or its price."""
    weights, clicks = simulator.reward.weights, outcome.info["clicks"].float()
    if "purchases" in weights:
        return (
            weights["clicks"] * clicks
            + weights["purchases"] * outcome.info["reward_terms/purchases"]
        )
    if "clicks" in weights:
        return weights["clicks"] * clicks
    return (
        weights["revenue"]
        * clicks
        * simulator.catalog.price[simulator.episodes.recent_slates[:, 0, 0]]
    )


@pytest.mark.parametrize("id", sorted(id for id in PRESETS if id.startswith("recsim_env/")))
def test_every_environment_answers_any_slate_to_the_end(id: str) -> None:
    shopper = PRESETS[id].shopper
    if not callable(shopper) and not Path(shopper).is_dir():
        pytest.skip(f"{shopper} is not here")
    simulator = make_simulator(id, device="cpu", horizon_days=12)
    for kind in KINDS:
        together = play(simulator, SEEDS, kind)
        for row, seed in enumerate(SEEDS):
            alone = play(simulator, seed.unsqueeze(0), kind)
            for visit, single in zip(together, alone, strict=False):
                assert {name: value[row].item() for name, value in visit.items()} == pytest.approx(
                    {name: value.item() for name, value in single.items()}, rel=1e-5
                )
            assert bool(alone[-1]["ended"])

    before = simulator.reset(SEEDS)
    told, everything = simulator.describe(1), simulator.describe(1, hidden=True)
    assert {name: everything[name] for name in told} == told
    assert everything.keys() - told.keys() == {"hidden"}
    assert "household" not in str(told)
    after = simulator.reset_rows(torch.zeros(0, dtype=torch.int64))
    assert all(torch.equal(before[name], value) for name, value in after.items())
    simulator.keep(torch.zeros(0, dtype=torch.int64))
    assert simulator.num_envs == 0
    assert {len(value) for value in simulator.observe().values()} == {0}
    with pytest.raises(ResetNeeded, match="The simulator has no shoppers left"):
        simulator.step(torch.zeros(0, simulator.slate_size, dtype=torch.int64))

    check_shopper(simulator.shopper)


def test_who_is_trusted_stands_behind_an_environment_that_is_checked_above() -> None:
    trusted = {
        "MarketShopper",
        "DriftingMarket",
        "RegularsShopper",
        "VisitsShopper",
        "BundleShopper",
        "SessionPopulation",
        "LearnedShopper",
        "CartShopper",
    }
    names = ("Market", "MarketRegulars", "MarketVisit", "Bundle", "LearnedMarket")
    ids = [f"{name}-v0" for name in (*names, "CompleteJourney", "CompleteJourneyVisit")]
    shoppers = [make_simulator(f"recsim_env/{id}", device="cpu").shopper for id in ids]
    moving = make_simulator("recsim_env/Market-v0", device="cpu", drift="all").shopper
    assert {type(shopper).__name__ for shopper in (*shoppers, moving)} == trusted
    assert _trusted(Shopper) == trusted


def _trusted(kind: type) -> set[str]:
    """The classes below a class, outside of tests, that are trusted."""
    below: set[str] = set().union(*map(_trusted, type.__subclasses__(kind)))
    own = vars(kind).get("trusted", False) and kind.__module__.startswith("recsim_env.")
    return below | ({kind.__name__} if own else set())
