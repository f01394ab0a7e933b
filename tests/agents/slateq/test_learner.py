"""The update of SlateQ by hand, and a small problem whose values dynamic programming knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.slateq.agent import SlateQPolicy, serve
from agents.slateq.config import SlateQChancesConfig, SlateQConfig
from agents.slateq.learner import SlateQLearner
from agents.slateq.memory import Batch
from agents.slateq.values import ItemValues, Visits
from recsim_env.rewards import Reward
from recsim_env.shoppers.base import Shopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Response
from tests.support.single_choice import SingleChoice
from tests.support.toys import toy_catalog

# ---- a market small enough to be solved ----------------------------------------------------------

FRESH, KEEN, BORED, GONE = range(4)
ITEMS, SLATE, GAMMA = 5, 2, 0.8
APPEAL = (
    torch.tensor(  # of items 0 and 1 (candy), 2 and 3 (greens), 4 (bread); of clicking nothing: 1
        [
            [4.0, 3.0, 1.5, 1.0, 0.8],  # FRESH
            [8.0, 6.0, 3.0, 2.0, 1.6],  # KEEN
            [0.2, 0.2, 0.5, 0.3, 0.1],  # BORED
        ]
    )
)
NEXT = torch.tensor(  # mood after a click on each item, and in the last column after none
    [
        [BORED, BORED, KEEN, KEEN, FRESH, FRESH],
        [BORED, BORED, KEEN, KEEN, FRESH, FRESH],
        [GONE, GONE, FRESH, FRESH, FRESH, GONE],
    ]
)


@dataclass
class Moods:
    """B shoppers, whose mood (B,) int64 is all there is to know."""

    mood: Tensor


class MoodShopper(Shopper[Moods]):
    """Clicks on one item or none, and is then in another mood."""

    def __init__(self) -> None:
        super().__init__(toy_catalog(ITEMS, 2, 4), SLATE, device=torch.device("cpu"), visit_draws=1)

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        return {"mood": spaces.Box(0, 1, (3,), np.float32)}

    def start(self, draws: Tensor) -> Moods:
        return Moods((draws[:, 0] * 3).long())

    def observe(self, state: Moods) -> dict[str, Tensor]:
        return {"mood": nn.functional.one_hot(state.mood.clamp(max=BORED), 3).float()}

    def respond(self, state: Moods, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        appeal = APPEAL[state.mood.clamp(max=BORED)].gather(1, slates) * shown
        probability = appeal / (1 + appeal.sum(dim=1, keepdim=True))
        reach = probability.cumsum(dim=1)
        clicks = (draws < reach) & (draws >= reach - probability)
        choice = (slates * clicks).sum(dim=1).where(clicks.any(dim=1), ITEMS)
        state.mood = NEXT[state.mood.clamp(max=BORED), choice]
        one = torch.ones(len(slates))
        return Response(
            clicks, probability, state.mood == GONE, days=one, elsewhere=torch.zeros_like(one)
        )


def mood_visits(moods: Tensor) -> Visits:
    """Visits in moods (B, 3) one-hot; the pool is all items, each described by its number alone."""
    batch = len(moods)
    return Visits(
        features=moods,
        items=torch.eye(ITEMS).expand(batch, -1, -1),
        logits=moods @ APPEAL.log(),
        ids=torch.arange(ITEMS).expand(batch, -1),
    )


class TableValues(ItemValues):
    """A number for each state and one for each state and item."""

    def __init__(self, none: list[float], gains: list[list[float]]) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.tensor(none))
        self.gains = nn.Parameter(torch.tensor(gains))

    def forward(self, visits: Visits) -> tuple[Tensor, Tensor]:
        gains = torch.einsum("bs,sn,bpn->bp", visits.features, self.gains, visits.items)
        return visits.features @ self.none, gains


@dataclass(frozen=True)
class Solution:
    """Q (3, ITEMS + 1), no click last; the best slate of each mood, its value, the most clicked."""

    q: Tensor
    slates: list[set[int]]
    value: Tensor
    myopic: list[set[int]]


def chances_of(mood: int, slate: tuple[int, ...]) -> Tensor:
    """(ITEMS + 1,) chance of a click on each item, and of none."""
    weight = torch.zeros(ITEMS + 1)
    weight[list(slate)] = APPEAL[mood, list(slate)]
    weight[ITEMS] = 1.0
    return weight / weight.sum()


def solve() -> Solution:
    """Value iteration over all slates."""
    reward = torch.tensor([1.0] * ITEMS + [0.0])
    slates = list(combinations(range(ITEMS), SLATE))
    chances = torch.stack(
        [torch.stack([chances_of(mood, slate) for slate in slates]) for mood in range(3)]
    )
    value = torch.zeros(4)
    for _ in range(200):
        q = reward + GAMMA * value[NEXT]
        worth = torch.einsum("sai,si->sa", chances, q)
        value = torch.cat([worth.max(dim=1).values, torch.zeros(1)])
    most_clicked = chances[:, :, :ITEMS].sum(dim=2).argmax(dim=1)
    return Solution(
        q,
        [set(slates[at]) for at in worth.argmax(dim=1)],
        value[:3],
        [set(slates[at]) for at in most_clicked],
    )


def learn_moods(config: SlateQConfig) -> SlateQLearner:
    """Learn by serving the shop of moods, from equal gains on."""
    simulator = SlateSimulator(MoodShopper(), Reward({"clicks": 1.0}), horizon_days=30)
    learner = SlateQLearner(
        TableValues([0.0] * 3, [[1.0] * ITEMS] * 3), SingleChoice(1.0), SLATE, config
    )
    assert slates_in_every_mood(learner) == solve().myopic
    serve(
        simulator,
        lambda seen: mood_visits(seen["mood"]),
        learner,
        pool=ITEMS,
        seed=0,
        steps=46_080,
        shoppers=256,
    )
    return learner


def learnt_q(learner: SlateQLearner) -> Tensor:
    """(3, ITEMS + 1), no click last."""
    with torch.no_grad():
        none, gains = learner.network(mood_visits(torch.eye(3)))
    return torch.cat([none.unsqueeze(1) + gains, none.unsqueeze(1)], dim=1)


MOODS = SlateQConfig(
    gamma=GAMMA, temperature=3.0, learning_rate=0.05, batch_size=256, memory=20_480, warm_up=512,
    target_rate=0.1, reward_scale=1.0,
)  # fmt: skip


def test_the_shop_of_moods_is_one_where_the_most_clicked_slate_is_not_the_best() -> None:
    truth = solve()
    assert truth.myopic[FRESH] == {0, 1}  # candy: clicked with chance 7 / 8
    assert truth.slates[FRESH] == {2, 3}
    best = (1.5 * truth.q[FRESH, 2] + 1.0 * truth.q[FRESH, 3] + truth.q[FRESH, ITEMS]) / 3.5
    assert truth.value[FRESH].item() == pytest.approx(best.item())
    assert truth.q[FRESH, 2].item() == pytest.approx(1 + GAMMA * truth.value[KEEN].item())
    assert truth.q[BORED, ITEMS] == 0  # gone


@pytest.mark.slow
def test_it_finds_the_values_and_slates_of_dynamic_programming() -> None:
    learner, truth = learn_moods(MOODS), solve()
    torch.testing.assert_close(learnt_q(learner), truth.q, atol=0.05, rtol=0)
    assert slates_in_every_mood(learner) == truth.slates


@pytest.mark.slow
def test_by_chances_it_finds_the_values_of_all_slates_and_the_best_ones() -> None:
    learner, truth = learn_moods(replace(MOODS, attribution="chances")), solve()
    q = learnt_q(learner)
    for mood in range(3):
        for slate in combinations(range(ITEMS), SLATE):
            chances = chances_of(mood, slate)
            assert float(chances @ q[mood]) == pytest.approx(
                float(chances @ truth.q[mood]), abs=0.3
            )
    assert slates_in_every_mood(learner) == truth.slates


def slates_in_every_mood(learner: SlateQLearner) -> list[set[int]]:
    policy = SlateQPolicy(
        lambda seen: mood_visits(seen["mood"]), learner.network, learner.choice, SLATE
    )
    return [set(slate) for slate in policy({"mood": torch.eye(3)}, torch.zeros(3, 0)).tolist()]


# ---- the target ----------------------------------------------------------------------------------


def two_states(rows: list[int]) -> Visits:
    """Visits in states 0 or 1, with three items that appeal as much as clicking nothing."""
    batch = len(rows)
    return Visits(
        features=nn.functional.one_hot(torch.tensor(rows), 2).float(),
        items=torch.eye(3).expand(batch, -1, -1),
        logits=torch.zeros(batch, 3),
        ids=torch.arange(3).expand(batch, -1),
    )


def two_state_table() -> TableValues:
    return TableValues([0.5, 2.0], [[1.0, 0.0, 0.0], [0.3, 0.6, -0.2]])


def two_state_learner(table: TableValues | None = None) -> SlateQLearner:
    return SlateQLearner(table or two_state_table(), SingleChoice(1.0), 2, SlateQConfig(gamma=0.5))


def two_state_batch() -> Batch:
    """From state 0 to state 1, and from state 0 out of the shop."""
    return Batch(
        visits=two_states([0, 0]),
        places=torch.tensor([[0, 1], [0, 1]]),
        clicks=torch.tensor([[True, True], [False, False]]),
        reward=torch.tensor([1.0, 3.0]),
        terminated=torch.tensor([False, True]),
        following=two_states([1, 1]),
        known=torch.tensor([True, True]),
    )


def test_the_target_is_the_value_of_the_next_state() -> None:
    learner, batch = two_state_learner(), two_state_batch()
    of_next = 1.0 + 0.5 * (
        2.0 + 0.6 / 3 + 0.3 / 3
    )  # slate {1, 0}: each item is chosen with chance 1 / (1 + 1 + 1)
    of_same = 1.0 + 0.5 * (0.5 + 1.0 / 3 + 0.0 / 3)
    assert learner.targets(batch).tolist() == pytest.approx([of_next, 3.0])
    mistaken = replace(batch, following=batch.visits)
    assert learner.targets(mistaken)[0].item() == pytest.approx(of_same)
    assert of_next != of_same


def test_the_trained_network_chooses_and_the_averaged_one_judges() -> None:
    table, batch = two_state_table(), two_state_batch()
    learner = two_state_learner(table)
    with torch.no_grad():
        table.gains[1] = torch.tensor([0.0, 5.0, 4.0])  # chooses {1, 2}
    assert learner.targets(batch)[0].item() == pytest.approx(1.0 + 0.5 * (2.0 + 0.6 / 3 - 0.2 / 3))


def test_the_gains_of_all_clicks_add_up() -> None:
    assert two_state_learner().predictions(two_state_batch()).tolist() == pytest.approx(
        [0.5 + 1.0 + 0.0, 0.5]
    )


def test_or_the_gains_of_all_that_was_shown_by_chance() -> None:
    config = SlateQChancesConfig(gamma=0.5)
    learner = SlateQLearner(two_state_table(), SingleChoice(1.0), 2, config)
    assert learner.predictions(two_state_batch()).tolist() == pytest.approx(
        [0.5 + 1.0 / 3 + 0.0 / 3] * 2
    )


def test_an_update_is_a_step_towards_the_target_and_the_average_follows() -> None:
    table, batch = two_state_table(), two_state_batch()
    learner, before = two_state_learner(table), table.none.detach().clone()
    losses = [float(learner.update(batch)) for _ in range(20)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    averaged = dict(learner.averaged.named_parameters())["none"]
    assert 0 < averaged[0] - before[0] < table.none[0] - before[0]


def test_a_visit_that_the_horizon_cut_off_teaches_nothing() -> None:
    learner = two_state_learner()
    before = [value.clone() for value in learner.network.parameters()]
    batch = replace(
        two_state_batch(),
        known=torch.tensor([False, False]),
        terminated=torch.tensor([False, False]),
    )
    assert learner.update(batch) == 0
    for old, new in zip(before, learner.network.parameters(), strict=True):
        assert torch.equal(old, new)


def test_a_mad_reward_moves_nothing_further_than_a_learning_rate() -> None:
    table = two_state_table()
    learner, before = two_state_learner(table), table.none.detach().clone()
    learner.update(replace(two_state_batch(), reward=torch.tensor([1e30, -1e30])))
    assert (table.none - before).abs().max() <= 1.01 * learner.config.learning_rate
