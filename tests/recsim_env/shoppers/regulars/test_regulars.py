"""Regular customers: what a visit does to them by hand, their histories, and who differs."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from recsim_env import make_simulator
from recsim_env.registration import PRESETS
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import MarketConfig
from recsim_env.shoppers.profile import EVER, Profile
from recsim_env.shoppers.regulars.behaviour import Behaviour, RegularsState
from recsim_env.shoppers.regulars.config import REGULARS, RegularsConfig
from recsim_env.shoppers.regulars.history import (
    LoggingPolicy,
    known_regulars,
    registered,
    start_draws,
    visits_before,
)
from recsim_env.shoppers.regulars.population import RegularsShopper, make_regulars
from recsim_env.shoppers.regulars.traits import TRAITS, Traits
from recsim_env.shoppers.worlds import world_of
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_shopper

CPU = torch.device("cpu")
SMALL = RegularsConfig(items=40, categories=4, width=8, known=24, fewest_visits=3, most_visits=9)


def newcomer(config: RegularsConfig, **traits: float) -> tuple[Behaviour, RegularsState]:
    """One shopper at registration, some of whose traits are told."""
    catalog, quality = world_of(config, 0)
    behaviour = Behaviour(config, catalog, quality, 2)
    state = registered(behaviour, torch.tensor([0]), torch.full((1, start_draws(config)), 0.3))
    for name, value in traits.items():
        setattr(state.traits, name, torch.tensor([value]))
    return behaviour, state


def visit(behaviour: Behaviour, state: RegularsState, slate: list[int], click: float) -> Tensor:
    """Show a slate with the same draw for every click; the chance to leave (1,)."""
    draws = torch.full((1, behaviour.draws), 0.5)
    draws[:, : behaviour.slate_size] = click
    slates = torch.tensor([slate])
    return behaviour.visit(state, slates, torch.ones_like(slates, dtype=torch.bool), draws).leaving


# ---- one visit, by hand ----


def test_a_visit_moves_needs_familiarity_and_satisfaction_as_written() -> None:
    told = {"habit": 0.5, "speed": 2.0, "recovery": 4.0, "rhythm": 3.5, "memory": 0.8}
    behaviour, state = newcomer(SMALL, patience=0.25, examination=0.5, **told)
    category = int(behaviour.catalog.category[0])
    other = int((behaviour.catalog.category == category).nonzero()[1])
    leaving = visit(behaviour, state, [0, other], click=0.0)  # both are clicked

    days = math.ceil(3.0 * math.log(2))  # the draw is 1/2, the mean before rounding up 3
    sated = 2.0 * (SMALL.sated_exposure * 1.5 + SMALL.sated_click * 2) * 2 ** (-days / 4.0)
    assert state.sated[0, category].item() == pytest.approx(sated, rel=1e-5)
    assert state.clicked[0].sum().item() == 2.0
    assert state.day.item() == days
    satisfaction = 0.2 * (1 + SMALL.habit_pleased * 0.5 * (0 - 0.5))  # nothing was familiar
    assert state.satisfaction.item() == pytest.approx(satisfaction, rel=1e-5)
    odds = SMALL.leave_base - 0.25 - SMALL.leave_satisfied * satisfaction
    assert leaving.item() == pytest.approx(1 / (1 + math.exp(-odds)), rel=1e-5)


def test_familiarity_draws_one_shopper_and_repels_another() -> None:
    for habit in (-1.0, 1.0):
        behaviour, state = newcomer(SMALL, habit=habit)
        item = torch.tensor([[0]])
        before = behaviour.log_odds(state, item)
        state.clicked += 1.0
        moved = SMALL.habit_click * habit * (1 - math.exp(-1))
        assert (behaviour.log_odds(state, item) - before).item() == pytest.approx(moved, rel=1e-4)


def test_the_same_slate_keeps_one_shopper_and_loses_another() -> None:
    left = {}
    for habit in (-1.0, 1.0):
        for known in (0.0, 5.0):
            behaviour, state = newcomer(SMALL, habit=habit)
            state.clicked += known
            left[habit, known] = visit(behaviour, state, [0, 1], click=1.0).item()
    assert left[1.0, 5.0] < left[1.0, 0.0]
    assert left[-1.0, 5.0] > left[-1.0, 0.0]


def test_log_odds_of_the_catalogue_are_those_of_its_items() -> None:
    shopper = make_regulars(CPU, 3, config=SMALL)
    state = shopper.start(torch.tensor([[0.1], [0.6], [0.9]]))
    items = torch.arange(40).expand(3, -1)
    torch.testing.assert_close(shopper.log_odds_of_all(state), shopper.log_odds(state, items))


def test_items_are_those_of_a_market_of_the_same_world() -> None:
    catalog, quality = world_of(SMALL, 3)
    market = make_market(CPU, 2, config=MarketConfig(items=40, categories=4, width=8), world=3)
    assert torch.equal(catalog.embedding, market.catalog.embedding)
    assert torch.equal(quality, market.quality)


# ---- histories ----


def test_counters_at_the_first_visit_are_those_of_the_slates_before() -> None:
    known = known_regulars(SMALL, 0, 3, 9)
    catalog, _ = world_of(SMALL, 0)
    for row in range(SMALL.known):
        again = Profile.empty(1, catalog, 3, CPU)
        length = int(known.state.profile.visits[row])
        assert SMALL.fewest_visits <= length <= SMALL.most_visits
        for at in reversed(range(length)):  # the oldest first
            slate = known.past.slates[row : row + 1, at]
            told = (slate.clamp(min=0), slate >= 0, known.past.clicks[row : row + 1, at])
            again.record(*told, catalog.category, catalog.embedding)
        for name, value in vars(again).items():
            found = vars(known.state.profile)[name][row : row + 1]
            torch.testing.assert_close(found, value, msg=name)
        assert (known.past.slates[row, length:] == -1).all()
        assert (known.past.days[row, :length].diff() > 0).all()
        assert (known.past.days[row, length:] == 0).all()


def test_a_regular_has_one_history_however_many_there_are() -> None:
    many, few = known_regulars(SMALL, 0, 3, 9), dataclasses.replace(SMALL, known=5)
    alone = known_regulars(few, 0, 3, 9)
    assert torch.equal(alone.past.slates, many.past.slates[:5])
    torch.testing.assert_close(alone.state.satisfaction, many.state.satisfaction[:5])
    torch.testing.assert_close(alone.state.interest, many.state.interest[:5])
    assert known_regulars(SMALL, 0, 3, 9) is many  # played once
    assert not torch.equal(known_regulars(SMALL, 1, 3, 9).past.slates, many.past.slates)


def test_lengths_of_histories_are_even_in_the_logarithm() -> None:
    draws = torch.arange(10_000) / 10_000
    found = visits_before(REGULARS, draws)
    assert (int(found.min()), int(found.max())) == (30, 300)
    assert float(found.float().median()) == pytest.approx(math.sqrt(30 * 300), rel=0.02)


def test_slates_before_show_what_was_declared_more_often() -> None:
    catalog, _ = world_of(SMALL, 0)
    policy = LoggingPolicy(catalog, 3, 0.5)
    centre = catalog.embedding[catalog.category == 1].mean(dim=0, keepdim=True)
    shares = policy.shares(torch.nn.functional.normalize(centre, dim=1))
    assert shares.sum().item() == pytest.approx(1)
    assert int(shares.argmax()) == 1
    assert float(shares.min()) >= 0.5 / 4
    draws = torch.rand(2000, policy.draws, generator=torch.Generator().manual_seed(0))
    slates = policy.slates(shares.cumsum(dim=1).repeat(2000, 1), draws)
    counts = catalog.category[slates].flatten().bincount(minlength=4) / slates.numel()
    torch.testing.assert_close(counts, shares[0], rtol=0, atol=0.03)


# ---- the shoppers at work ----


def simulator(**options: object) -> SlateSimulator:
    shopper = make_regulars(CPU, 3, config=SMALL, **options)  # type: ignore[arg-type]
    return SlateSimulator(shopper, {"clicks": 1.0}, history=4, horizon_days=30)


def test_the_first_visit_holds_what_the_shop_remembers() -> None:
    shop = simulator()
    seen, known = shop.reset(torch.arange(6)), known_regulars(SMALL, 0, 3, 100)
    who = shop.hidden.who
    assert torch.equal(seen["visits"][:, 0], known.state.profile.visits[who])
    assert torch.equal(seen["recent_slates"], known.past.slates[who, :4])
    assert torch.equal(seen["recent_clicks"].bool(), known.past.clicks[who, :4])
    assert torch.equal(seen["recent_days"], known.past.days[who, :4])
    assert float(seen["category_clicked"][:, :, EVER].sum()) > 0

    slates = torch.tensor([[0, 1, 2]]).expand(6, -1)
    step = shop.step(slates)
    assert torch.equal(step.observation["recent_slates"][:, 0], slates)
    assert torch.equal(step.observation["recent_slates"][:, 1:], seen["recent_slates"][:, :3])
    shop.reset_rows(torch.tensor([2]))
    again = known.past.slates[int(shop.hidden.who[2]), :4]
    assert torch.equal(shop.observe()["recent_slates"][2], again)


def test_agents_are_judged_with_other_regulars_than_they_learn_with() -> None:
    learned, judged = simulator(population="train"), simulator(population="evaluation")
    learned.reset(torch.arange(400))
    judged.reset(torch.arange(400))
    assert set(learned.hidden.who.tolist()) == set(range(18))
    assert set(judged.hidden.who.tolist()) == set(range(18, 24))
    known = known_regulars(SMALL, 0, 3, 100)
    remembered = judged.observe()["recent_slates"]
    assert torch.equal(remembered, known.past.slates[judged.hidden.who, :4])


def test_shoppers_keep_their_promises() -> None:
    check_shopper(make_regulars(CPU, 3, config=SMALL))
    check_shopper(make_regulars(CPU, 3, config=SMALL, alike=True, population="evaluation"))


def test_an_episode_leaves_the_histories_as_they_were() -> None:
    shop = simulator()
    before = shop.reset(torch.arange(5))
    for _ in range(3):
        shop.advance(torch.tensor([[3, 4, 5]]).expand(5, -1))
    after = shop.reset(torch.arange(5))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


# ---- traits ----


def test_alike_shoppers_are_all_the_median_one() -> None:
    draws = torch.rand(50, len(TRAITS), generator=torch.Generator().manual_seed(0))
    same = Traits.drawn(REGULARS.alike(), draws)
    median = Traits.drawn(REGULARS, torch.full((1, len(TRAITS)), 0.5))
    for name, value in vars(same).items():
        torch.testing.assert_close(value, vars(median)[name].expand(50), msg=name)
    different = Traits.drawn(REGULARS, draws)
    assert all(float(value.std()) > 0 for value in vars(different).values())
    assert REGULARS.alike().quality_spread == REGULARS.quality_spread  # of items


def test_traits_can_be_known_from_the_counters_at_the_first_visit() -> None:
    """Simple counters tell habit, depth and rhythm, which is what an agent may build on."""
    known = known_regulars(dataclasses.replace(REGULARS, known=384), 0, 10, 10)
    profile, traits = known.state.profile, known.state.traits
    shown, clicked, shown_new, clicked_new = profile.familiarity.unbind(dim=1)
    repeats = torch.log((clicked + 1) / (shown + 10) / ((clicked_new + 1) / (shown_new + 10)))
    depth = profile.position_clicks @ torch.arange(10.0) / profile.position_clicks.sum(dim=1)
    gap = (known.past.days[:, 9] / 10).log()
    for trait, counter, least in (
        (traits.habit, repeats, 0.55),
        (traits.examination.logit(), depth, 0.7),
        (traits.rhythm.log(), gap, 0.7),
    ):
        assert np.corrcoef(trait.numpy(), counter.numpy())[0, 1] > least

    # shares of clicks that fell on familiar categories differ as repeat rates of households do
    share = (clicked / (clicked + clicked_new)).quantile(torch.tensor([0.05, 0.95]))
    assert float(share[0]) < 0.25
    assert float(share[1]) > 0.65


# ---- the presets, and what is refused ----


def test_the_presets_are_the_regulars_and_their_control() -> None:
    options = {
        name: PRESETS[f"recsim_env/{name}-v0"].shopper_options["config"]
        for name in ("MarketRegulars", "MarketRegularsAlike")
    }
    assert options == {"MarketRegulars": REGULARS, "MarketRegularsAlike": REGULARS.alike()}


def test_a_description_tells_clicks_and_hides_traits() -> None:
    shop = simulator()
    shop.reset(torch.arange(2))
    told, everything = shop.describe(0), shop.describe(0, hidden=True)
    assert "hidden" not in told
    assert told["date"].startswith("day 1, visit ")  # type: ignore[union-attr]
    assert everything["hidden"][0].startswith("habit ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"habit_spread": -1.0}, "habit_spread is -1.0, but it must be a finite number from 0.0"),
        ({"recovery": 0.5}, "recovery is 0.5, but it must be a finite number from 1.0 to 365.0."),
        ({"known": 0}, "known is 0, but it must be a whole number from 1 to 1000000."),
        ({"categories": 2}, "categories is 2, but it must be from 3 (favourites) to 400 (items)."),
        ({"fewest_visits": 301}, "fewest_visits is 301, but it must be from 1 to 300"),
        ({"items": 10**6}, "items is 1000000, but items times width and items times known"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        dataclasses.replace(REGULARS, **changes)  # type: ignore[arg-type]


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="config is 3, but it must be a RegularsConfig"):
        make_regulars(CPU, 3, config=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="config is None, but it must be a RegularsConfig"):
        RegularsShopper(CPU, 3, config=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="population is 'test'"):
        make_regulars(CPU, 3, config=SMALL, population="test")
    with pytest.raises(ValueError, match="slate_size is 41"):
        make_regulars(CPU, 41, config=SMALL)


def test_the_registered_regulars_can_be_made() -> None:
    shop = make_simulator("recsim_env/MarketRegulars-v0", device="cpu", config=SMALL, slate_size=3)
    assert float(shop.reset(torch.arange(2))["visits"].min()) >= 3
