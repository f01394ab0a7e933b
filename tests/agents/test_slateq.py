"""SlateQ finds the values that dynamic programming finds, looks at the next state, and starts as greedy CTR."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.base import AGENTS, Ground, Learned
from agents.slateq import (
    BELIEVED_CLICKS,
    Batch,
    Choice,
    FactorisedValues,
    ItemValues,
    Memory,
    PositionBased,
    SingleChoice,
    SlateQChancesConfig,
    SlateQConfig,
    SlateQLearner,
    SlateQPolicy,
    Visits,
    greedy,
    serve,
    top_k,
)
from policies.base import POLICIES
from recsim_env import make_simulator
from recsim_env.rewards import Reward
from recsim_env.shoppers.base import Shopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy, Response
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_catalog

# ---- a market small enough to be solved ------------------------------------------------------------------------------

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
    """Q (3, ITEMS + 1), no click last; the best slate of each mood; its value (3,); the most clicked slate."""

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
    gamma=GAMMA, temperature=3.0, learning_rate=0.05, batch_size=256, memory=20_480, warm_up=512, target_rate=0.1,
    reward_scale=1.0,
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


# ---- the target ------------------------------------------------------------------------------------------------------


def two_states(rows: list[int]) -> Visits:
    """Visits in states 0 or 1 with a pool of three items that appeal as much as clicking nothing does."""
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


# ---- the best slate --------------------------------------------------------------------------------------------------


def random_pool(rows: int, pool: int) -> tuple[Tensor, Tensor]:
    """Logits and gains (rows, pool), some gains below 0."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, pool, generator=generator), 0.5 + torch.randn(
        rows, pool, generator=generator
    )


def worth_of(choice: Choice, logits: Tensor, gains: Tensor, places: Tensor) -> Tensor:
    return (choice.chances(logits.gather(1, places)) * gains.gather(1, places)).sum(dim=1)


def best_worth(choice: Choice, logits: Tensor, gains: Tensor, size: int) -> Tensor:
    """Of all ordered slates."""
    orders = [
        torch.tensor(order).expand(len(logits), -1)
        for order in permutations(range(logits.shape[1]), size)
    ]
    return (
        torch.stack([worth_of(choice, logits, gains, places) for places in orders])
        .max(dim=0)
        .values
    )


def fading_choice() -> PositionBased:
    """Positions looked at less and less."""
    choice = PositionBased(3)
    logits = torch.zeros(1000, 3)
    clicks = torch.arange(1000).unsqueeze(1) < torch.tensor([450, 300, 100])
    choice.learn(logits, clicks, torch.ones_like(clicks))
    return choice


def test_under_position_based_clicks_top_k_is_exact() -> None:
    logits, gains = random_pool(200, 6)
    choice = fading_choice()
    found = worth_of(choice, logits, gains, choice.best(logits, gains, 3))
    torch.testing.assert_close(found, best_worth(choice, logits, gains, 3))


def test_under_a_single_choice_greedy_is_nearly_exact_and_beats_top_k() -> None:
    logits, gains = random_pool(200, 6)
    choice = SingleChoice(1.0)
    best = best_worth(choice, logits, gains, 3)
    by_greedy = worth_of(choice, logits, gains, greedy(logits.exp(), gains, 1.0, 3))
    by_top_k = worth_of(choice, logits, gains, top_k(logits.exp(), gains, 3))
    assert (torch.maximum(by_greedy, by_top_k) <= best + 1e-6).all()
    assert (by_greedy > best - 1e-6).float().mean() > 0.9
    assert by_greedy.mean() > by_top_k.mean()
    one = worth_of(choice, logits, gains, greedy(logits.exp(), gains, 1.0, 1))
    torch.testing.assert_close(one, best_worth(choice, logits, gains, 1))


def test_a_case_by_hand_where_greedy_beats_top_k() -> None:
    appeal, gains = torch.tensor([[10.0, 1.0, 1.0]]), torch.tensor([[0.2, 1.0, 0.9]])
    assert top_k(appeal, gains, 2).tolist() == [[0, 1]]  # appeal * gain: 2, 1, .9
    assert greedy(appeal, gains, 1.0, 2).tolist() == [
        [1, 2]
    ]  # 1 / 2 > 2 / 11; then 1.9 / 3 > 3 / 12


def test_a_missing_item_is_never_preferred_to_a_harmful_one() -> None:
    logits, gains = torch.tensor([[0.0, -torch.inf, 1.0]]), torch.tensor([[-1.0, 9.0, -2.0]])
    for choice in (SingleChoice(1.0), SingleChoice(1.0, quick=True), PositionBased(2)):
        assert set(choice.best(logits, gains, 2)[0].tolist()) == {0, 2}
    visits = Visits(torch.zeros(1, 1), torch.zeros(1, 3, 1), logits, torch.tensor([[7, -1, 4]]))
    assert visits.slates(PositionBased(3).best(logits, gains, 3), 4).tolist() == [[7, 4, 7, 7]]


def test_examination_is_clicks_by_what_was_promised() -> None:
    choice = PositionBased(2)
    assert choice.examination.tolist() == [1.0, 1.0]
    logits, shown = torch.zeros(40, 2), torch.ones(40, 2, dtype=torch.bool)
    shown[:10, 1] = False
    choice.learn(logits, (torch.arange(40) >= 22).unsqueeze(1).expand(-1, 2), shown)
    believed = BELIEVED_CLICKS
    assert choice.examination.tolist() == pytest.approx(
        [(believed + 18) / (believed + 20), (believed + 18) / (believed + 15)]
    )


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds_added", [3, 11])
def test_the_memory_gives_every_visit_with_the_next_of_its_shopper(rounds_added: int) -> None:
    rounds, shoppers = 4, 3
    memory = Memory(rounds)
    flags = torch.ones(shoppers, dtype=torch.bool)
    for at in range(rounds_added):
        name = 10.0 * at + torch.arange(shoppers).float()  # of the visit: its round and its shopper
        visits = Visits(
            name.unsqueeze(1), name.view(-1, 1, 1), name.unsqueeze(1), torch.full((shoppers, 1), at)
        )
        memory.add(
            visits,
            torch.zeros(shoppers, 1, dtype=torch.int64),
            flags.unsqueeze(1),
            name,
            ~flags,
            flags,
        )
    batch = memory.draw(500, torch.Generator().manual_seed(0))
    names = batch.visits.features.squeeze(1)
    assert torch.equal(batch.reward, names)
    assert torch.equal(batch.following.features.squeeze(1), names + 10)
    oldest = max(rounds_added - rounds, 0)
    expected = {
        10.0 * at + row for at in range(oldest, rounds_added - 1) for row in range(shoppers)
    }
    assert set(names.tolist()) == expected


# ---- the agent -------------------------------------------------------------------------------------------------------

SMALL = {
    "warm_up": 96,
    "batch_size": 64,
    "memory": 320,
    "hidden": 16,
    "item_hidden": 8,
    "pool": 24,
    "updates": 2,
}


def learn(
    seed: int = 0, steps: int = 480, watched: list[int] | None = None, name: str = "slateq"
) -> Learned:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", world=0)

    def watch(at: int, policy: Policy) -> None:
        if watched is not None:
            watched.append(at)

    ground = Ground(
        simulator, toy_inputs(simulator), seed=seed, steps=steps, shoppers=32, watch=watch
    )
    return AGENTS[name].learn(ground, SMALL)


def weights(policy: Policy) -> Tensor:
    assert isinstance(policy, SlateQPolicy)
    return torch.cat([value.flatten() for value in policy.network.state_dict().values()])


def global_generators() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002


def test_the_same_seed_gives_the_same_agent_and_no_global_generator_moves() -> None:
    before = global_generators()
    first, second, other = learn(), learn(), learn(seed=1)
    assert torch.equal(weights(first.policy), weights(second.policy))
    assert not torch.equal(weights(first.policy), weights(other.policy))
    assert global_generators() == before


@pytest.mark.parametrize("name", ["slateq", "slateq_chances"])
def test_it_learns_in_the_market_from_greedy_ctr(name: str) -> None:
    watched: list[int] = []
    learned = learn(watched=watched, name=name)
    assert learned.steps == 480
    assert (watched[0], watched[-1]) == (0, 480)
    assert watched == sorted(watched)
    assert learned.facts["updates"] == 2 * (480 - 96 + 32) / 32
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", world=0)
    observation = simulator.reset(torch.arange(50))
    ctr = POLICIES["greedy_ctr"].build(toy_inputs(simulator))
    nothing = torch.zeros(50, 0)
    assert torch.equal(learned.untrained(observation, nothing), ctr(observation, nothing))
    assert not torch.equal(weights(learned.untrained), weights(learned.policy))
    assert learned.sampled is not None
    draws = torch.rand(50, learned.sampled.draws, generator=torch.Generator().manual_seed(0))
    for policy in (learned.policy, learned.sampled):
        simulator.check(policy(observation, draws))
    noisy = learned.sampled(observation, draws)
    assert (noisy.sort(dim=1).values.diff(dim=1) > 0).all()  # distinct items
    assert not torch.equal(noisy, learned.sampled(observation, 1 - draws))


def test_exploration_samples_from_the_softmax_of_the_logits() -> None:
    """With one position and equal gains, at temperature 2: chances exp(logit / 2)."""
    network = FactorisedValues(1, 1, SlateQConfig(), torch.Generator().manual_seed(0))
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, -1)
    visits = Visits(
        torch.zeros(20_000, 1),
        torch.zeros(20_000, 3, 1),
        logits,
        torch.arange(3).expand(20_000, -1),
    )
    policy = SlateQPolicy(
        lambda seen: visits, network, PositionBased(1), 1, pool=3, temperature=2.0
    )
    places = policy.choose(
        visits, torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    )
    shares = torch.bincount(places.flatten(), minlength=3) / 20_000
    torch.testing.assert_close(shares, torch.softmax(logits[0] / 2, dim=0), atol=0.015, rtol=0)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"gamma is 1\.0"):
        SlateQConfig(gamma=1.0)
    with pytest.raises(ValueError, match="updates is 0"):
        SlateQConfig(updates=0)
    with pytest.raises(ValueError, match="attribution is 'views'"):
        SlateQConfig(attribution="views")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none is 0"):
        SingleChoice(0.0)
    with pytest.raises(ValueError, match="steps is 0"):
        learn(steps=0)
    with pytest.raises(ValueError, match="memory holds no visit"):
        Memory(2).draw(1, torch.Generator())
