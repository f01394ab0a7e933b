"""Cold start: the same episodes without it; who is new, what is new, and nothing else changes."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import recsim_env
from agents.evaluate import evaluate
from agents.places.exploring import Exploration, before_new_items, play_log
from policies.heuristics import Uniform
from recsim_env.registration import EnvConfig, make_simulator
from recsim_env.shoppers import cold
from recsim_env.shoppers.household.features import ITEM_CONTEXT
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.household.states import REMEMBERED
from recsim_env.shoppers.regulars.config import RegularsConfig
from recsim_env.shoppers.regulars.history import registered_regulars
from recsim_env.shoppers.regulars.population import RegularsShopper, make_regulars
from recsim_env.shoppers.session.population import (
    SessionPopulation,
    load_session,
    save_session,
)
from recsim_env.shoppers.session.starts import without_items
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_shopper
from recsim_env.trees import pick
from tests.recsim_env.shoppers.session.test_model import SIZE, catalog, model
from tests.recsim_env.shoppers.session.test_population import logged
from tests.support.fake_log import write_shop
from tests.support.fake_shoppers import member
from tests.support.toys import ToyShopper, ToyState

CPU = torch.device("cpu")
SMALL = RegularsConfig(items=40, categories=4, width=8, known=24, fewest_visits=3, most_visits=9)
SEEDS = torch.arange(12)
RECORDED_CLICKS = [43, 38, 34, 24, 18, 29]
RECORDED_DAYS = [399, 369, 315, 307, 347, 355]
"""What 64 of the small regulars did before there were newcomers and new items."""


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journey")
    write_shop(path)
    member(path, 1).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("session")
    save_session(path, catalog(), [model()], logged())
    return path


@pytest.fixture
def config(request: pytest.FixtureRequest, journey: Path, session: Path) -> EnvConfig:
    """The environment of a kind of shoppers with a history."""
    reward = {"clicks": 1.0}
    return {
        "regulars": EnvConfig(
            make_regulars, reward, slate_size=5, shopper_options={"config": SMALL}
        ),
        "session": EnvConfig(
            partial(load_session, session),
            reward,
            slate_size=SIZE,
            shopper_options={"starts": "history"},
        ),
        "household": EnvConfig(
            journey,
            reward,
            slate_size=5,
            shopper_options={"population": "all", "start_days": (60, 80)},
        ),
    }[request.param]


EVERY = pytest.mark.parametrize("config", ["regulars", "session", "household"], indirect=True)


def make(config: EnvConfig, **options: Any) -> SlateSimulator:
    return make_simulator(config, device="cpu", **options)


def played(simulator: SlateSimulator, seeds: Tensor, visits: int = 4) -> list[dict[str, Tensor]]:
    """Everything that is seen and told of some visits, rows that are over started again."""
    found = [dict(simulator.reset(seeds))]
    for _ in range(visits):
        step = simulator.step(simulator.candidates[:, : simulator.slate_size].clamp(min=0))
        found.append({"reward": step.reward, **step.info})
        simulator.restart(step.ended.nonzero().squeeze(1))
        found.append(dict(simulator.observe()))
    return found


# ---- what is drawn ----


def test_a_share_of_the_items_is_new_and_a_larger_share_holds_a_smaller() -> None:
    few, many = cold.new_items(40, 0.1, 3), cold.new_items(40, 0.5, 3)
    assert few is not None
    assert many is not None
    assert (int(few.sum()), int(many.sum())) == (4, 20)
    assert bool(many[few].all())
    other = cold.new_items(40, 0.5, 4)
    assert other is not None
    assert not torch.equal(many, other)
    assert cold.new_items(40, 0.01, 3) is None  # less than half an item
    everything = cold.new_items(40, 1.0, 3)
    assert everything is not None
    assert bool(everything.all())


def test_newcomers_depend_on_seed_and_number_alone_and_are_a_share() -> None:
    seeds, zero = torch.arange(4000), torch.zeros(4000, dtype=torch.int64)
    found = cold.newcomers(seeds, zero, 0.3)
    assert float(found.float().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 4000))
    assert torch.equal(found[7:9], cold.newcomers(seeds[7:9], zero[7:9], 0.3))
    assert not torch.equal(found, cold.newcomers(seeds, zero + 1, 0.3))
    assert bool(cold.newcomers(seeds, zero, 1.0).all())


# ---- the same without it ----


def test_regulars_play_the_episodes_that_they_played_before_there_was_a_cold_start() -> None:
    simulator = make(
        EnvConfig(make_regulars, {"clicks": 1.0}, 5, shopper_options={"config": SMALL})
    )
    seen = played(simulator, torch.arange(64), 6)
    clicks = [int(visit["clicks"].sum()) for visit in seen[1::2]]
    days = [int(visit["gap_days"].sum()) for visit in seen[1::2]]
    assert clicks == RECORDED_CLICKS
    assert days == RECORDED_DAYS


@EVERY
def test_shares_of_nothing_change_nothing(config: EnvConfig) -> None:
    plain = played(make(config), SEEDS)
    none = played(make(config, newcomers=0.0, new_items=0.0, portrait=False), SEEDS)
    for before, now in zip(plain, none, strict=True):
        assert before.keys() == now.keys()
        assert all(torch.equal(value, now[name]) for name, value in before.items())
    assert not {"newcomer", "new_candidates", "new_shown"} & (plain[0].keys() | plain[1].keys())


@EVERY
def test_who_is_no_newcomer_comes_as_without_newcomers(config: EnvConfig) -> None:
    """Until the first episode is over: the next one is another draw."""
    with_some = make(config, newcomers=0.5)
    seen, plain = with_some.reset(SEEDS), make(config).reset(SEEDS)
    known = seen["newcomer"].squeeze(1) == 0
    assert 0 < int(known.sum()) < len(known)
    for name, value in plain.items():
        assert torch.equal(value[known], seen[name][known]), name


# ---- newcomers ----


@EVERY
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_nothing_is_known_of_a_newcomer(config: EnvConfig, share: float) -> None:
    simulator = make(config, newcomers=share)
    seen = simulator.reset(SEEDS)
    new = seen["newcomer"].squeeze(1) == 1
    assert bool(new.any())
    assert bool((seen["recent_slates"][new] == -1).all())
    assert not bool(seen["recent_clicks"][new].any())
    assert not bool(seen["recent_days"][new].any())
    for name in ("visits", "category_counts", "category_clicked", "taste", "bought_counts"):
        if name in seen:
            assert not bool(seen[name][new].any()), name
    if "bought_items" in seen:
        assert bool((seen["bought_items"][new] == -1).all())
    space = simulator.observation_space
    assert space.contains({name: value[0].numpy() for name, value in seen.items()})


@EVERY
def test_a_cold_episode_is_the_same_alone_and_in_a_batch_and_from_its_state(
    config: EnvConfig,
) -> None:
    options = {"newcomers": 0.5, "new_items": 0.25}
    together = played(make(config, **options), SEEDS)
    for row in (0, 5, 11):
        alone = played(make(config, **options), SEEDS[row : row + 1])
        for many, one in zip(together, alone, strict=True):
            for name, value in one.items():
                assert torch.allclose(many[name][row], value[0], atol=1e-4), name
    first, second = make(config, **options), make(config, **options)
    first.reset(SEEDS)
    second.restore(first.state())
    assert all(
        torch.equal(value, second.observe()[name]) for name, value in first.observe().items()
    )
    assert torch.equal(first.episodes.newcomer, second.episodes.newcomer)


def test_a_newcomer_of_the_regulars_is_a_regular_at_registration() -> None:
    shopper = RegularsShopper(CPU, 5, config=SMALL)
    draws = torch.rand(6, 1, generator=torch.Generator().manual_seed(0))
    state, known = shopper.start_new(draws), shopper.start(draws)
    assert torch.equal(state.who, known.who)
    assert torch.equal(state.traits.habit, known.traits.habit)
    assert torch.equal(state.declared, known.declared)
    assert not torch.equal(state.interest, known.interest)  # it drifted since
    first = registered_regulars(shopper._behaviour, 0)
    assert torch.equal(state.interest, pick(first, state.who).interest)
    state.interest.zero_()  # a state is its own
    assert torch.equal(shopper.start_new(draws).interest, pick(first, known.who).interest)


def test_a_newcomer_of_the_households_has_the_newcomers_state_of_the_model(journey: Path) -> None:
    shopper = load_shopper(journey, CPU, 5, population="all", start_days=(60, 80))
    draws = torch.tensor([[0.1], [0.7]])
    state, known = shopper.start_new(draws), shopper.start(draws)
    expected = shopper.shop.model.newcomers(2)
    assert torch.equal(state.cache.state, expected)
    assert not torch.equal(known.cache.state, expected)
    assert torch.equal(state.day, known.day)
    assert torch.equal(state.store, known.store)
    assert not bool(state.rhythm.any())
    everyone = torch.arange(2)
    item = known.memory.items[:, :1]
    assert bool((state.memory.slots_of(everyone, item) == REMEMBERED).all())


# ---- new items ----


@EVERY
def test_no_past_holds_a_new_item(config: EnvConfig) -> None:
    plain, simulator = make(config), make(config, new_items=0.25)
    new, seeds = simulator.shopper.new_items, torch.arange(40)
    assert new is not None
    assert int(new.sum()) == round(0.25 * len(simulator.catalog))

    def held(seen: dict[str, Tensor]) -> int:
        """How many new items what is remembered holds."""
        past = [seen[name] for name in ("recent_slates", "bought_items") if name in seen]
        return sum(int((new[items.clamp(min=0)] & (items >= 0)).sum()) for items in past)

    seen = simulator.reset(seeds)
    assert held(dict(seen)) == 0
    if "visits" not in plain.observation_space.spaces or simulator.shopper.past(
        simulator.hidden, 1
    ):  # a past that is told
        assert held(dict(plain.reset(seeds))) > 0
    flags = seen["new_candidates"]
    expected = new[seen["candidates"].clamp(min=0)] & (seen["candidates"] >= 0)
    assert torch.equal(flags.bool(), expected)


@EVERY
def test_what_is_shown_and_answered_of_new_items_is_counted(config: EnvConfig) -> None:
    simulator = make(config, new_items=0.5, newcomers=0.5)
    new = simulator.shopper.new_items
    assert new is not None
    simulator.reset(SEEDS)
    candidates = simulator.candidates
    order = (~new[candidates.clamp(min=0)] | (candidates < 0)).int().argsort(dim=1, stable=True)
    slates = candidates.gather(1, order)[:, : simulator.slate_size]
    wanted = (new[slates.clamp(min=0)] & (slates >= 0)).sum(dim=1)
    newcomer = simulator.episodes.newcomer
    step = simulator.step(slates.clamp(min=0))
    assert torch.equal(step.info["new_shown"], wanted)
    assert torch.equal(step.info["newcomer"], newcomer.long())
    clicked = (step.response.clicks & new[slates.clamp(min=0)]).sum(dim=1)
    assert torch.equal(step.info["new_clicks"], clicked)

    size = simulator.slate_size
    uniform = Uniform(len(simulator.catalog), simulator.shopper.max_candidates, size)
    rows = evaluate(uniform, simulator, 16, batch=7).rows
    assert (
        rows["newcomer"].to_list()
        == cold.newcomers(torch.arange(16), torch.zeros(16, dtype=torch.int64), 0.5).tolist()
    )
    assert bool((rows["new_clicks"] <= rows["clicks"]).all())
    assert bool((rows["new_shown"] >= rows["new_clicks"]).all())


def test_households_answer_a_new_item_without_its_row(journey: Path) -> None:
    plain = load_shopper(journey, CPU, 5, population="all", start_days=(60, 80))
    shopper = load_shopper(journey, CPU, 5, population="all", start_days=(60, 80), new_items=0.25)
    new = shopper.shop.new
    assert new is not None
    assert shopper.shop is not plain.shop
    known = shopper.shop.model.items.known
    assert not bool(known[new].any())
    assert torch.equal(known[~new], plain.shop.model.items.known[~new])
    context = shopper.shop.promotions.item_context
    assert shopper.shop.prospects is not None
    assert torch.equal(context[:, new], shopper.shop.prospects[:, new, :ITEM_CONTEXT])
    assert torch.equal(context[:, ~new], plain.shop.promotions.item_context[:, ~new])


def test_the_cold_head_answers_a_new_item_until_the_shopper_buys_it(journey: Path) -> None:
    """Random effects of items and counters of the item do not matter to it; others are as before."""
    shopper = load_shopper(journey, CPU, 5, population="all", start_days=(60, 80), new_items=0.5)
    new, model = shopper.shop.new, shopper.shop.model
    assert new is not None
    state = shopper.start(torch.rand(16, 1, generator=torch.Generator().manual_seed(0)))
    slates = shopper.candidates(state)[:, :5]
    shown = torch.ones_like(slates, dtype=torch.bool)
    draws = torch.rand(16, shopper.visit_draws, generator=torch.Generator().manual_seed(1))

    def chances() -> Tensor:
        return shopper.respond(copy.deepcopy(state), slates, shown, draws).probability

    before = chances()
    last, bias = model.cold_head.last, model.config.cold_calibration
    with torch.no_grad():
        last.bias.add_(1.0)
    moved = torch.logit(chances()) - torch.logit(before)
    with torch.no_grad():
        last.bias.sub_(1.0)
    expected = torch.where(new[slates], bias[0], 0.0)
    torch.testing.assert_close(moved, expected, atol=1e-3, rtol=0)
    state.memory.record(torch.arange(16), slates, state.day)
    after = chances()
    with torch.no_grad():
        last.bias.add_(1.0)
    torch.testing.assert_close(chances(), after)


def test_sessions_lose_the_items_and_keep_the_rest() -> None:
    log, new = logged().sessions, cold.new_items(len(catalog()), 0.3, 0)
    assert new is not None
    left = without_items(log, new)
    gone = new[log.slates.clamp(min=0)] & (log.slates >= 0)
    assert bool(gone.any())
    assert torch.equal(left.slates, log.slates.masked_fill(gone, -1))
    assert not bool(left.clicks[gone].any())
    assert torch.equal(left.clicks[~gone], log.clicks[~gone])


def test_sessions_with_new_items_leave_the_models_that_they_were_given_as_they_are() -> None:
    given, new = model(), cold.new_items(len(catalog()), 0.3, 0)
    assert new is not None
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    population = SessionPopulation(catalog(), [given], logged(), CPU, starts="history", new=new)
    assert all(torch.equal(before[name], now) for name, now in given.state_dict().items())
    bias = population.members[0].item_bias.weight.flatten()
    torch.testing.assert_close(
        bias[new], given.item_bias.weight[~new].mean().expand(int(new.sum()))
    )
    assert torch.equal(bias[~new], given.item_bias.weight.flatten()[~new])


def test_a_log_is_that_of_the_shop_before_new_items_came() -> None:
    config = EnvConfig(make_regulars, {"clicks": 1.0}, 5, shopper_options={"config": SMALL})
    simulator = make(config, new_items=0.5, horizon_days=30)
    new = simulator.shopper.new_items
    assert new is not None
    earlier = before_new_items(simulator)
    earlier.reset(SEEDS)
    candidates = earlier.candidates
    assert (candidates >= 0).sum(dim=1).tolist() == [20] * len(SEEDS)
    assert not bool(new[candidates[candidates >= 0]].any())
    only_new = new.nonzero().squeeze(1)[:5].expand(len(SEEDS), -1)
    assert earlier.step(only_new).info["invalid_items"].tolist() == [5] * len(SEEDS)

    impressions, _ = play_log(simulator, Exploration(60, "uniform", fewest=1))
    assert not bool(
        new[torch.from_numpy(impressions["slate"].explode().to_numpy().copy()).clamp(min=0)].any()
    )
    assert before_new_items(make(config)).withholds_new is False


def test_a_slate_of_known_candidates_alone_cannot_come_from_a_store(journey: Path) -> None:
    shopper = load_shopper(journey, CPU, 5, population="all", start_days=(60, 80), new_items=0.25)
    with pytest.raises(ValueError, match=r"^withholds_new is True, but LearnedShopper tells \["):
        SlateSimulator(shopper, withholds_new=True)


@EVERY
def test_cold_shoppers_keep_their_promises(config: EnvConfig) -> None:
    check_shopper(make(config, new_items=0.25).shopper)


class Regular(ToyShopper):
    """A toy whose shoppers have a history: a newcomer is told by another number of visits."""

    serves_newcomers = True

    def start_new(self, draws: Tensor) -> ToyState:
        """Make the shoppers of `start`."""
        return self.start(draws)


def test_the_kit_checks_newcomers_of_shoppers_of_ones_own() -> None:
    class Crowd(Regular):
        def start_new(self, draws: Tensor) -> ToyState:
            return self.start(draws.flip(0))

    class Absent(ToyShopper):
        serves_newcomers = True

    check_shopper(Regular())
    with pytest.raises(ValueError, match=r"^Crowd.start_new returned another '\w+' for some rows"):
        check_shopper(Crowd())
    with pytest.raises(NotImplementedError, match="Absent serves newcomers, but has no method"):
        check_shopper(Absent())
    simulator = SlateSimulator(Regular(), newcomers=0.5)
    seen = simulator.reset(SEEDS)
    assert torch.equal(seen["newcomer"].squeeze(1) > 0, simulator.episodes.newcomer)


def test_a_mask_of_new_items_has_a_flag_an_item() -> None:
    shopper = ToyShopper()
    shopper.new_items = torch.zeros(3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^ToyShopper.new_items is"):
        SlateSimulator(shopper)


# ---- what is refused ----


@EVERY
@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan, math.inf, "half", None, True, [0.5]])
@pytest.mark.parametrize("name", ["newcomers", "new_items"])
def test_what_is_no_share_is_refused(config: EnvConfig, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*, but it must be a finite number from 0"):
        make(config, **{name: value})


@pytest.mark.parametrize(
    "id", ["Market", "MarketControl", "MarketVisit", "Bundle", "LearnedMarket"]
)
def test_shoppers_who_are_all_new_have_no_newcomers_among_them(id: str) -> None:
    with pytest.raises(ValueError, match=r"^newcomers is 0.5, but \w+ has no shoppers with a hist"):
        make_simulator(f"recsim_env/{id}-v0", device="cpu", newcomers=0.5)
    assert make_simulator(f"recsim_env/{id}-v0", device="cpu", newcomers=0).newcomers == 0


@pytest.mark.parametrize(("name", "value"), [("new_items", 0.5), ("portrait", True)])
def test_what_shoppers_cannot_serve_is_refused(name: str, value: Any) -> None:
    expected = rf"^{name} is {value}, but the shoppers of this environment cannot serve it"
    with pytest.raises(ValueError, match=expected):
        make_simulator("recsim_env/MarketVisit-v0", device="cpu", **{name: value})
    with pytest.raises(ValueError, match=rf"^{name} is 'x', but it must be"):
        make_simulator("recsim_env/MarketVisit-v0", device="cpu", **{name: "x"})


def test_regulars_need_an_item_that_is_not_new() -> None:
    with pytest.raises(ValueError, match=r"^new_items is 1\.0, but regulars have a history"):
        make_regulars(CPU, 5, config=SMALL, new_items=1.0)


def test_regulars_whose_categories_are_new_as_a_whole_have_histories_of_the_others() -> None:
    small = RegularsConfig(items=8, categories=4, width=8, known=24, fewest_visits=3, most_visits=9)
    shopper = RegularsShopper(CPU, 2, config=small, new_items=0.75)
    new, past = shopper.new_items, shopper._past
    assert new is not None
    gone = shopper.catalog.category[~new].unique()
    assert len(gone) < 4  # two items are left, of two categories at most
    seen = past.slates[past.slates >= 0]
    assert len(seen) > 0
    assert not bool(new[seen].any())


def test_the_gymnasium_face_tells_a_cold_start() -> None:
    import gymnasium

    recsim_env.register(
        "cold/Small-v0", make_regulars, slate_size=5, shopper_options={"config": SMALL}
    )
    env = gymnasium.make("cold/Small-v0", newcomers=1.0, new_items=0.25, device="cpu")
    observation, _ = env.reset(seed=0)
    assert observation["newcomer"].tolist() == [1.0]
    assert observation["new_candidates"].sum() == 10
    _, _, _, _, info = env.step(env.action_space.sample())
    assert info["newcomer"] == 1
    assert {"new_shown", "new_clicks"} <= info.keys()
    many = gymnasium.make_vec("cold/Small-v0", num_envs=3, newcomers=0.5, device="cpu")
    seen, _ = many.reset(seed=1)
    assert seen["newcomer"].shape == (3, 1)
