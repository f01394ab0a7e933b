"""The learned market: the session model as a shopper, alone and as an ensemble."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recsim_env import noise
from recsim_env.logs.record import record
from recsim_env.logs.sessions import UNSAID, Sessions
from recsim_env.shoppers.gaps import GapBins
from recsim_env.shoppers.market import MarketConfig, MarketShopper
from recsim_env.shoppers.session.availability import Availability
from recsim_env.shoppers.session.likelihood import over_moods
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import (
    SessionPopulation,
    load_session,
    save_session,
)
from recsim_env.shoppers.session.starts import FILE, Histories, Logged, SessionState, start_steps
from recsim_env.shoppers.session.visits import Visits
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_shopper
from recsim_env.trees import pick, put
from recsim_env.types import Observation, Response
from tests.recsim_env.shoppers.session.test_model import DECLARED, ITEMS, SIZE, catalog, log, model
from tests.support.toys import FunctionPolicy

CPU = torch.device("cpu")
SAID = torch.randn(5, DECLARED, generator=torch.Generator().manual_seed(9)).clamp(-1, 1)


def market(*seeds: int, pessimism: float = 0.0) -> SessionPopulation:
    return SessionPopulation(
        catalog(),
        [model(seed) for seed in seeds],
        Logged.newcomers(SAID),
        CPU,
        pessimism=pessimism,
    )


def uniform(observation: Observation, draws: Tensor) -> Tensor:
    return draws.topk(SIZE, dim=1).indices


def play(shopper: SessionPopulation, shoppers: int = 8, visits: int = 4) -> list[Response]:
    """The answers to the same random slates."""
    keys = noise.episode_key(torch.arange(shoppers), torch.zeros(shoppers, dtype=torch.int64))
    state = shopper.start(noise.uniform(keys, 0, shopper.start_draws))
    answers = []
    for visit in range(visits):
        slates = noise.uniform(keys, 100 + visit, ITEMS).topk(SIZE, dim=1).indices
        draws = noise.uniform(keys, visit + 1, shopper.visit_draws)
        answers.append(
            shopper.respond(state, slates, torch.ones_like(slates, dtype=torch.bool), draws)
        )
    return answers


def test_it_looks_like_the_true_market() -> None:
    config = MarketConfig(items=ITEMS, categories=3, width=4)
    true = MarketShopper(CPU, SIZE, config=config)
    learned = SessionPopulation(
        true.catalog, [model(declared=4)], Logged.newcomers(torch.zeros(1, 4)), CPU
    )
    assert learned.spaces() == true.spaces()
    assert learned.slate_size == true.slate_size
    state, other = (
        learned.start(torch.zeros(3, learned.start_draws)),
        true.start(torch.zeros(3, true.start_draws)),
    )
    assert {k: v.shape for k, v in learned.observe(state).items()} == {
        k: v.shape for k, v in true.observe(other).items()
    }
    assert torch.equal(learned.candidates(state), true.candidates(other))


@pytest.mark.parametrize("purchases", [False, True])
def test_a_simulated_log_has_the_chances_that_the_fit_would_give_it(purchases: bool) -> None:
    members = [model(0, purchases=purchases)]
    shopper = SessionPopulation(catalog(), members, Logged.newcomers(SAID), CPU)
    simulator = SlateSimulator(shopper, horizon_days=6)
    seeds = torch.arange(10)
    table, _ = record(simulator, FunctionPolicy(uniform, ITEMS), seeds)
    observation = simulator.reset(seeds)
    sessions = Sessions.of(table)
    assert (sessions.purchases is not None) == purchases
    sessions = dataclasses.replace(sessions, declared=observation["declared"])
    assert (sessions.gaps[sessions.real] == 0).any()  # pages of one visit
    assert (sessions.gaps > 1).any()
    visits = Visits.of(sessions, catalog())
    first = visits.length.cumsum(0) - visits.length
    keys = noise.episode_key(seeds, torch.zeros_like(seeds))
    state = shopper.start(noise.uniform(keys, 0, shopper.start_draws))
    with torch.no_grad():
        found = members[0](**visits.batch(seeds), normal=state.normal.unsqueeze(1))
        whole = over_moods(
            torch.exp(found["log_looks"].unsqueeze(2) + F.logsigmoid(found["click_logits"]))
        )[:, 0]
        leaving = torch.sigmoid(found["leave_logits"])[:, 0]
    for visit in range(int(visits.length.max())):
        here = visits.length > visit
        at = (first + visit).clamp(max=len(visits.slates) - 1)
        slates, shown = visits.slates[at], torch.ones(len(seeds), SIZE, dtype=torch.bool)
        draws = noise.uniform(keys, visit + 1, shopper.visit_draws)  # those of the simulation
        answer = shopper.respond(state, slates, shown, draws)
        assert torch.equal(answer.clicks[here], visits.clicks[at][here])
        torch.testing.assert_close(answer.probability[here], whole[at][here], rtol=0, atol=1e-5)
        assert answer.leaving is not None
        torch.testing.assert_close(answer.leaving[here], leaving[at][here], rtol=0, atol=1e-5)
        stays = here & (visits.gap[at] >= 0)
        assert torch.equal(answer.days[stays], visits.gap[at][stays])
        if visits.purchases is not None:
            assert answer.purchases is not None
            assert torch.equal(answer.purchases[here], visits.purchases[at][here])


def test_identical_members_are_one() -> None:
    for one, three in zip(play(market(0)), play(market(0, 0, 0)), strict=True):
        torch.testing.assert_close(three.probability, one.probability)
        assert torch.equal(three.clicks, one.clicks)


def test_without_pessimism_the_chance_is_the_mean_and_with_it_never_better() -> None:
    apart = [play(market(seed), visits=1)[0] for seed in (0, 1, 2)]
    together = play(market(0, 1, 2), visits=1)[0]
    careful = play(market(0, 1, 2, pessimism=1.5), visits=1)[0]
    every = torch.stack([answer.probability for answer in apart])
    torch.testing.assert_close(together.probability, every.mean(dim=0))
    assert (careful.probability <= together.probability).all()
    apart_most = every.std(dim=0).flatten().argmax()
    assert careful.probability.flatten()[apart_most] < together.probability.flatten()[apart_most]
    assert careful.leaving is not None
    assert together.leaving is not None
    same = (careful.clicks == together.clicks).all(dim=1)
    assert same.any()
    assert (careful.leaving >= together.leaving)[same].all()
    assert (careful.leaving <= 1).all()


def test_a_batch_is_its_shoppers_one_by_one() -> None:
    together = play(market(0, 1), shoppers=4)
    alone = play(market(0, 1), shoppers=1)
    for many, one in zip(together, alone, strict=True):
        torch.testing.assert_close(many.probability[:1], one.probability, rtol=0, atol=1e-6)


def test_nobody_leaves_where_nobody_may() -> None:
    shopper = market(0)
    state = shopper.start(torch.zeros(3, shopper.start_draws))
    slates, draws = torch.tensor([[0, 1, 2]] * 3), torch.zeros(3, shopper.visit_draws)
    shown = torch.ones_like(slates, dtype=torch.bool)
    assert shopper.respond(state, slates, shown, draws).left.all()
    shopper = shopper.staying()
    answer = shopper.respond(state, slates, shown, draws)
    assert not answer.left.any()
    assert answer.leaving is not None
    assert (answer.leaving > 0).all()


def moved(shopper: SessionPopulation, state: SessionState) -> Tensor:
    """Chances of a fixed slate."""
    slates = torch.tensor([[3, 4, 5]]).expand(len(state.day), -1)
    answer = shopper.respond(
        state,
        slates,
        torch.ones_like(slates, dtype=torch.bool),
        torch.ones(len(slates), shopper.visit_draws),
    )
    return answer.probability


def test_rows_are_selected_and_replaced() -> None:
    shopper = market(0, 1)
    state = shopper.start(torch.tensor([[0.0], [0.3], [0.9]]).expand(-1, shopper.start_draws))
    moved(shopper, state)
    fresh = shopper.start(torch.tensor([[0.5]]).expand(-1, shopper.start_draws))
    expected_fresh = moved(
        shopper, shopper.start(torch.tensor([[0.5]]).expand(-1, shopper.start_draws))
    )
    picked = pick(state, torch.tensor([2, 0]))
    put(state, torch.tensor([1]), fresh)
    after = moved(shopper, state)
    torch.testing.assert_close(after[1:2], expected_fresh)
    torch.testing.assert_close(moved(shopper, picked), after[[2, 0]])


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    said = Logged.newcomers(SAID)
    save_session(tmp_path, catalog(), [model(0), model(1), model(2)], said)
    save_session(tmp_path, catalog(), [model(0), model(1)], said)
    again = load_session(tmp_path, CPU, SIZE, ensemble=2, pessimism=0.5)
    for one, other in zip(play(again), play(market(0, 1, pessimism=0.5)), strict=True):
        torch.testing.assert_close(one.probability, other.probability, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"ensemble is 3, but .* holds 2 models"):
        load_session(tmp_path, CPU, SIZE, ensemble=3)
    with pytest.raises(
        ValueError, match="slate_size is 5, but the models answer slates of 3 positions at most"
    ):
        load_session(tmp_path, CPU, 5)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_session(tmp_path / "nowhere", CPU, SIZE)


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    nobody: list[SessionShopper] = []
    with pytest.raises(ValueError, match="members is empty"):
        SessionPopulation(catalog(), nobody, Logged.newcomers(SAID), CPU)
    with pytest.raises(ValueError, match="pessimism is -1"):
        market(0, pessimism=-1.0)
    alone = r"^pessimism is 5.0, but it must be 0 where ensemble is 1: it counts deviations"
    with pytest.raises(ValueError, match=alone):
        market(0, pessimism=5.0)
    with pytest.raises(ValueError, match=alone):
        load_session(tmp_path, CPU, SIZE, pessimism=5.0)
    with pytest.raises(ValueError, match="declared has 1 numbers"):
        SessionPopulation(catalog(), [model(0)], Logged.newcomers(SAID[:, :1]), CPU)
    several = [model(0), model(1, bins=GapBins((0, 1), 1))]
    with pytest.raises(ValueError, match="members has models of several logs"):
        SessionPopulation(catalog(), several, Logged.newcomers(SAID), CPU)


def test_a_shopper_reads_well() -> None:
    shopper = market(0)
    state = shopper.start(torch.zeros(1, shopper.start_draws))
    shopper.respond(
        state,
        torch.tensor([[0, 1, 2]]),
        torch.ones(1, SIZE, dtype=torch.bool),
        torch.zeros(1, shopper.visit_draws),
    )
    told = shopper.describe(state, 0)
    assert told["date"] == "visit 2"
    assert len(told["history"]) == 3
    assert str(told["hidden"]).startswith("looks at the last position with chance 0.")


# ---- shoppers of a log ----


def logged(episodes: int = 20, purchases: bool = False) -> Logged:
    """Shoppers with histories, every fourth of them kept for evaluation."""
    sessions = log(episodes, purchases=purchases)
    sessions = dataclasses.replace(
        sessions, declared=sessions.declared.clamp(-1, 1), first_day=torch.arange(episodes)
    )
    return Logged(sessions, torch.arange(episodes) % 4 == 0)


@pytest.mark.parametrize("starts", ["first", "history"])
@pytest.mark.parametrize("purchases", [False, True])
def test_the_promises_are_kept_whatever_is_asked_for(starts: str, purchases: bool) -> None:
    days = pl.DataFrame({"item": range(ITEMS), "first_day": [0] * 6 + [8] * 6, "last_day": 25})
    shopper = SessionPopulation(
        catalog(),
        [model(0, purchases=purchases), model(1, purchases=purchases)],
        logged(purchases=purchases),
        CPU,
        slate_size=2,
        starts=starts,
        available=Availability.of(days, ITEMS),
        pessimism=0.5,
    )
    check_shopper(shopper)


def test_a_history_is_what_a_simulation_would_remember() -> None:
    """The state at a logged visit against a newcomer's who is shown the same and answers alike."""
    population, members = logged(), [model(0), model(1)]
    sessions = population.sessions
    start = start_steps(sessions)
    histories = Histories(catalog(), members, sessions, SIZE, "fp32")
    everyone = torch.arange(len(sessions))
    found = histories.rows(everyone, torch.full((len(sessions), 5), 0.5))
    assert (start > 0).any()
    for row in everyone.tolist():
        first, number = (
            SessionPopulation(
                catalog(),
                members,
                Logged(sessions.take(torch.tensor([row])), torch.tensor([False])),
                CPU,
            ),
            int(start[row]),
        )
        state = first.start(torch.full((1, first.start_draws), 0.5))
        for step in range(number):
            slates, clicks = sessions.slates[[row], step], sessions.clicks[[row], step]
            counters = state.memory.look(slates, catalog().category)
            shown = torch.ones_like(clicks)
            first._keep(state, slates, shown, clicks, counters, None)
            state.profile.record(slates, shown, clicks, catalog().category, catalog().embedding)
            gap = sessions.gaps[[row], step]
            state.memory.wait(gap)
            state.since, state.day = gap, state.day + gap
        own = pick(found, torch.tensor([row]))
        for name in ("day", "since", "first_day", "declared"):
            assert torch.equal(getattr(own, name), getattr(state, name)), name
        for part in ("memory", "profile"):
            for name, value in vars(getattr(own, part)).items():
                torch.testing.assert_close(value, getattr(getattr(state, part), name))
        for one, other in zip(own.caches, state.caches, strict=True):
            torch.testing.assert_close(one.state, other.state, rtol=0, atol=1e-5)
            assert torch.equal(one.day, other.day)


def test_the_temperament_of_a_history_is_drawn_given_what_was_done() -> None:
    """Whoever clicked everything is keener than whoever clicked nothing, and newcomers are neither."""
    sessions = log(40, visits=7)
    most = torch.full((40,), 7)
    clicks = (torch.arange(40) < 20).view(-1, 1, 1).expand(-1, 7, SIZE)
    generator = torch.Generator().manual_seed(0)
    slates = torch.rand(40, 7, ITEMS, generator=generator).argsort(dim=2)[:, :, :SIZE]
    sessions = dataclasses.replace(sessions, slates=slates, clicks=clicks, length=most, days=UNSAID)
    member = model(0)
    histories = Histories(catalog(), [member], sessions, SIZE, "fp32")
    draws = torch.rand(40, 5, generator=generator)
    normals = histories.rows(torch.arange(40), draws).normal
    keen = member.temperament(normals)[:, 0].detach()
    late = start_steps(sessions) >= 3
    done = torch.arange(40) < 20
    assert float(keen[late & done].mean()) > float(keen[late & ~done].mean()) + 0.2


def test_every_visit_is_as_likely_to_start_from() -> None:
    sessions = dataclasses.replace(
        log(2000),
        days=torch.tensor([0.0, 0, 1, 1, 1, 2, 2]).expand(2000, -1),
        length=torch.full((2000,), 7),
    )
    share = torch.bincount(start_steps(sessions), minlength=7) / 2000
    assert share.tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 0, 1 / 3, 0], abs=0.04)


def test_populations_are_kept_apart(tmp_path: Path) -> None:
    save_session(tmp_path, catalog(), [model()], logged())
    every = {"train": 15, "evaluation": 5, None: 20}
    for population, number in every.items():
        shopper = load_session(tmp_path, CPU, SIZE, population=population)
        assert len(shopper.declared) == number
    said = logged().sessions.declared
    evaluation = load_session(tmp_path, CPU, SIZE, population="evaluation", starts="history")
    state = evaluation.start(torch.rand(200, evaluation.start_draws))
    theirs = {tuple(row) for row in said[::4].tolist()}
    assert {tuple(row) for row in state.declared.tolist()} == theirs
    with pytest.raises(ValueError, match="population is 'all', but it must be one of"):
        load_session(tmp_path, CPU, SIZE, population="all")
    save_session(tmp_path, catalog(), [model()], Logged.newcomers(SAID))
    with pytest.raises(ValueError, match="population is 'evaluation', but all of the 5 shoppers"):
        load_session(tmp_path, CPU, SIZE, population="evaluation")
    with pytest.raises(ValueError, match="starts is 'history', but the folder holds what shoppers"):
        load_session(tmp_path, CPU, SIZE, starts="history")


def test_histories_come_back_from_a_file(tmp_path: Path) -> None:
    whole = logged(purchases=True)
    whole.save(tmp_path / FILE)
    again = Logged.load(tmp_path / FILE, ITEMS)
    assert torch.equal(again.evaluation, whole.evaluation)
    for name in ("slates", "clicks", "purchases", "days", "length", "declared", "first_day"):
        assert torch.equal(getattr(again.sessions, name), getattr(whole.sessions, name)), name
    with pytest.raises(ValueError, match="slates holds what is no item: the items are 0 to 2"):
        Logged.load(tmp_path / FILE, 3)


def test_shorter_slates_are_longer_ones_whose_end_is_empty() -> None:
    whole = market(0)
    short = SessionPopulation(catalog(), [model(0)], Logged.newcomers(SAID), CPU, slate_size=2)
    draws = torch.full((4, 6), 0.4)
    one, other = whole.start(draws), short.start(draws)
    for visit in range(3):
        slates = torch.tensor([[0, 1, 2]]).expand(4, -1) + visit
        shown = torch.tensor([[True, True, False]]).expand(4, -1)
        draw = torch.full((4, whole.visit_draws), 0.3)
        expected = whole.respond(one, slates, shown, draw)
        found = short.respond(other, slates[:, :2], shown[:, :2], draw[:, 1:])
        assert torch.equal(found.probability, expected.probability[:, :2])
        assert torch.equal(found.clicks, expected.clicks[:, :2])
        assert torch.equal(found.days, expected.days)


def test_items_are_there_on_their_days() -> None:
    table = pl.DataFrame(
        {"item": [0, 1, 2, 1], "first_day": [0, 2, 3, 8], "last_day": [9, 4, 9, 9]}
    )
    available = Availability.of(table, 4)
    days = torch.tensor([0.0, 2, 3, 4, 5, 7, 8, 30])
    there = [[0], [0, 1], [0, 1, 2], [0, 1, 2], [0, 2], [0, 2], [0, 1, 2], [0, 1, 2]]
    found = [[item for item in row if item >= 0] for row in available.candidates(days).tolist()]
    assert found == there
    items = torch.arange(-1, 4).expand(len(days), -1)
    offers = available.offers(days, items)
    assert [items[0][row].tolist() for row in offers] == there
    for wrong, says in (
        (table.head(0), "available has no rows"),
        (table.drop("item"), r"available lacks the columns \['item'\]"),
        (table.with_columns(item=pl.lit(7)), "available has 7 as 'item' in row 0"),
        (table.with_columns(last_day=pl.lit(1)), "last_day before the first_day in row 1"),
        (table.with_columns(first_day=pl.col("first_day") + 0.5), "no whole number in each row"),
        (
            pl.DataFrame({"item": [0, 0], "first_day": [0, 5], "last_day": [3, 9]}),
            "available has no item on day 4",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            Availability.of(wrong, 4)


def test_models_of_other_categories_are_refused(tmp_path: Path) -> None:
    other = model()
    other.config.n_categories = 4
    save_session(tmp_path, catalog(), [other], logged())
    with pytest.raises(
        ValueError, match=r"config\.json: n_categories is 4, but the catalogue has 3"
    ):
        load_session(tmp_path, CPU, SIZE)


def test_days_of_a_folder_are_read(tmp_path: Path) -> None:
    table = pl.DataFrame({"item": [3, 4], "first_day": [0, 0], "last_day": [9, 9]})
    save_session(tmp_path, catalog(), [model()], logged(), available=table)
    shopper = load_session(tmp_path, CPU, SIZE)
    assert shopper.candidates(shopper.start(torch.zeros(2, 6))).tolist() == [[3, 4]] * 2
    save_session(tmp_path, catalog(), [model()], logged())
    assert load_session(tmp_path, CPU, SIZE).max_candidates == ITEMS


def test_purchases_are_paid() -> None:
    """A step's reward is 2 a purchase where the reward says so, counted by hand."""
    members = [model(0, purchases=True)]
    shopper = SessionPopulation(catalog(), members, logged(purchases=True), CPU)
    simulator = SlateSimulator(shopper, {"purchases": 2.0})
    simulator.reset(torch.arange(50))
    outcome = simulator.step(torch.arange(SIZE).expand(50, -1))
    bought = outcome.response.purchases
    assert bought is not None
    assert 0 < int(bought.sum()) < int(outcome.response.clicks.sum())
    assert outcome.reward.tolist() == [2.0 * sum(row) for row in bought.tolist()]
    with pytest.raises(ValueError, match="reward has the term 'purchases', but SessionPopulation"):
        SlateSimulator(market(0), {"purchases": 1.0})
