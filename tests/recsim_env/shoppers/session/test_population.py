"""The learned market: the session model as a shopper, alone and as an ensemble."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recsim_env import noise
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.market import MarketConfig, MarketShopper
from recsim_env.shoppers.session.fit import Visits
from recsim_env.shoppers.session.model import SessionShopper, over_moods
from recsim_env.shoppers.session.population import (
    LearnedMarketShopper,
    LearnedMarketState,
    load_learned_market,
    save_learned_market,
)
from recsim_env.simulator import SlateSimulator
from recsim_env.trees import pick, put
from recsim_env.types import Observation, Response
from tests.recsim_env.shoppers.session.test_model import DECLARED, ITEMS, SIZE, catalog, model
from tests.support.toys import FunctionPolicy

CPU = torch.device("cpu")
SAID = torch.randn(5, DECLARED, generator=torch.Generator().manual_seed(9)).clamp(-1, 1)


def market(*seeds: int, pessimism: float = 0.0) -> LearnedMarketShopper:
    return LearnedMarketShopper(
        catalog(), [model(seed) for seed in seeds], SAID, CPU, pessimism=pessimism
    )


def uniform(observation: Observation, draws: Tensor) -> Tensor:
    return draws.topk(SIZE, dim=1).indices


def play(shopper: LearnedMarketShopper, shoppers: int = 8, visits: int = 4) -> list[Response]:
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
    learned = LearnedMarketShopper(true.catalog, [model(declared=4)], torch.zeros(1, 4), CPU)
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


def test_a_simulated_log_has_the_chances_that_the_fit_would_give_it() -> None:
    shopper = market(0)
    simulator = SlateSimulator(shopper, horizon_days=6)
    seeds = torch.arange(10)
    table, _ = record(simulator, FunctionPolicy(uniform, ITEMS), seeds)
    observation = simulator.reset(seeds)
    sessions = Sessions.of(table)
    sessions = Sessions(**{**vars(sessions), "declared": observation["declared"]})
    visits = Visits.of(sessions, catalog())
    first = visits.length.cumsum(0) - visits.length
    keys = noise.episode_key(seeds, torch.zeros_like(seeds))
    state = shopper.start(noise.uniform(keys, 0, shopper.start_draws))
    with torch.no_grad():
        found = shopper.members[0](**visits.batch(seeds), normal=state.normal.unsqueeze(1))
        whole = over_moods(
            torch.exp(found["log_looks"].unsqueeze(2) + F.logsigmoid(found["click_logits"]))
        )[:, 0]
        leaving = torch.sigmoid(found["leave_logits"])[:, 0]
    for visit in range(int(visits.length.max())):
        here = visits.length > visit
        at = (first + visit).clamp(max=len(visits.slates) - 1)
        slates, clicks = visits.slates[at], visits.clicks[at]
        draws = torch.cat(
            [(~clicks).float(), torch.ones(len(seeds), 2)], dim=1
        )  # make them click as logged
        answer = shopper.respond(state, slates, torch.ones_like(clicks), draws)
        assert torch.equal(answer.clicks[here], clicks[here])
        torch.testing.assert_close(answer.probability[here], whole[at][here], rtol=0, atol=1e-5)
        assert answer.leaving is not None
        torch.testing.assert_close(answer.leaving[here], leaving[at][here], rtol=0, atol=1e-5)


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


def moved(shopper: LearnedMarketShopper, state: LearnedMarketState) -> Tensor:
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
    save_learned_market(tmp_path, catalog(), [model(0), model(1), model(2)], SAID)
    save_learned_market(tmp_path, catalog(), [model(0), model(1)], SAID)
    again = load_learned_market(CPU, SIZE, folder=tmp_path, ensemble=2, pessimism=0.5)
    for one, other in zip(play(again), play(market(0, 1, pessimism=0.5)), strict=True):
        torch.testing.assert_close(one.probability, other.probability, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"ensemble is 3, but .* holds 2 models"):
        load_learned_market(CPU, SIZE, folder=tmp_path, ensemble=3)
    with pytest.raises(
        ValueError, match="slate_size is 5, but the learned market answers slates of 3"
    ):
        load_learned_market(CPU, 5, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_learned_market(CPU, SIZE, folder=tmp_path / "nowhere")


def test_what_does_not_fit_together_is_refused() -> None:
    nobody: list[SessionShopper] = []
    with pytest.raises(ValueError, match="members is empty"):
        LearnedMarketShopper(catalog(), nobody, SAID, CPU)
    with pytest.raises(ValueError, match="pessimism is -1"):
        market(0, pessimism=-1.0)
    alone = r"^pessimism is 5.0, but it must be 0 where ensemble is 1: it counts deviations"
    with pytest.raises(ValueError, match=alone):
        market(0, pessimism=5.0)
    with pytest.raises(ValueError, match=alone):
        load_learned_market(CPU, SIZE, pessimism=5.0)
    with pytest.raises(ValueError, match="declared has 1 numbers"):
        LearnedMarketShopper(catalog(), [model(0)], SAID[:, :1], CPU)


def test_a_shopper_reads_well() -> None:
    shopper = market(0)
    state = shopper.start(torch.zeros(1, shopper.start_draws))
    shopper.respond(
        state,
        torch.tensor([[0, 1, 2]]),
        torch.ones(1, SIZE, dtype=torch.bool),
        torch.zeros(1, SIZE + 2),
    )
    told = shopper.describe(state, 0)
    assert told["date"] == "visit 2"
    assert len(told["history"]) == 3
    assert str(told["hidden"]).startswith("looks at the last position with chance 0.")
