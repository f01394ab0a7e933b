"""A simulator with a belief: the belief follows every row, and nothing else changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from recsim_env import SlateEnv, SlateVectorEnv
from recsim_env.belief.base import PREFIX, SeenVisit
from recsim_env.belief.session import SessionBelief, SessionBeliefState
from recsim_env.shoppers.market import MarketConfig, MarketShopper, MarketState
from recsim_env.shoppers.regulars.config import RegularsConfig
from recsim_env.shoppers.regulars.population import RegularsShopper
from recsim_env.simulator import SlateSimulator
from recsim_env.trees import leaves
from recsim_env.types import Observation, Response
from tests.recsim_env.shoppers.session.test_model import GROUPS, ITEMS, SIZE, WIDTH, model

CONFIG = MarketConfig(items=ITEMS, categories=GROUPS, width=WIDTH, leave_base=-1.0)
CPU = torch.device("cpu")


class Scripted(MarketShopper):
    """Shoppers whose answers depend on the noise alone, whatever their hidden state is."""

    def respond(self, state: MarketState, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        """Move the state as in the market, and click by the draws."""
        answer = super().respond(state, slates, shown, draws)
        clicks = (draws[:, : self.slate_size] < 0.4) & shown
        return dataclasses.replace(answer, clicks=clicks, left=torch.zeros_like(answer.left))


def belief_of(shopper: MarketShopper | RegularsShopper, device: str = "cpu") -> SessionBelief:
    """A belief about the items of a market, of a model that nobody fitted."""
    member = model(declared=WIDTH)
    member.embedding.copy_(shopper.catalog.embedding)
    member.category.copy_(shopper.catalog.category)
    return SessionBelief(member, device, slate_size=shopper.slate_size)


def believing(kind: type[MarketShopper] = MarketShopper, *, size: int = SIZE) -> SlateSimulator:
    shopper = kind(CPU, size, config=CONFIG)
    return SlateSimulator(shopper, horizon_days=6, belief=belief_of(shopper))


def slates_of(visit: int, batch: int, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(visit)
    return torch.rand(1, ITEMS, generator=generator).topk(size).indices.expand(batch, -1).clone()


def believed(observation: Observation) -> Observation:
    return {name: value for name, value in observation.items() if name.startswith(PREFIX)}


def assert_close(left: Observation, right: Observation) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=0, atol=1e-5, msg=name)


def test_nothing_else_changes() -> None:
    plain = SlateSimulator(MarketShopper(CPU, SIZE, config=CONFIG), horizon_days=6)
    with_belief, seeds = believing(), torch.arange(20)
    seen, other = plain.reset(seeds), with_belief.reset(seeds)
    for visit in range(4):
        assert believed(other)
        for name, value in seen.items():
            assert torch.equal(value, other[name]), name
        one, two = (each.advance(slates_of(visit, 20)) for each in (plain, with_belief))
        assert torch.equal(one.reward, two.reward)
        assert torch.equal(one.terminated, two.terminated)
        seen, other = plain.observe(), with_belief.observe()
    assert plain.beliefs is None
    assert "beliefs" not in "".join(plain.state().tensors)


def test_the_hidden_state_is_not_read() -> None:
    """Every hidden tensor is perturbed after every visit, and the belief is the same."""
    left, right, seeds = believing(Scripted), believing(Scripted), torch.arange(12)
    one, two = left.reset(seeds), right.reset(seeds)
    generator = torch.Generator().manual_seed(1)
    perturbed = 0
    for visit in range(5):
        for _, part in leaves(right.hidden):
            part.copy_(torch.rand(part.shape, generator=generator))
            perturbed += 1
        two = right.observe()
        assert_close(believed(one), believed(two))
        assert not torch.equal(one["taste"], two["taste"])  # which is read from the hidden state
        slates = slates_of(visit, 12)
        left.advance(slates)
        right.advance(slates)
        one, two = left.observe(), right.observe()
    assert_close(believed(one), believed(two))
    assert perturbed >= 5 * 10
    start = believing(Scripted).reset(seeds)
    assert not torch.allclose(one["belief_logits"], start["belief_logits"], atol=0.1)


@pytest.mark.parametrize("staying", [False, True])
def test_a_batch_equals_as_many_batches_of_one(staying: bool) -> None:
    together, seeds = believing(), torch.arange(6)
    many = together.reset(seeds, staying=staying)
    singles = [believing() for _ in range(6)]
    alone = [one.reset(seeds[row : row + 1], staying=staying) for row, one in enumerate(singles)]
    for visit in range(3):
        for row, seen in enumerate(alone):
            assert_close(believed(seen), {k: v[row : row + 1] for k, v in believed(many).items()})
        together.advance(slates_of(visit, 6))
        many = together.observe()
        for row, one in enumerate(singles):
            one.advance(slates_of(visit, 1))
            alone[row] = one.observe()


def test_rows_are_restarted_kept_and_restored() -> None:
    simulator, seeds = believing(), torch.arange(5)
    first = simulator.reset(seeds)
    simulator.advance(slates_of(0, 5))
    before = believed(simulator.observe())
    written = simulator.state()

    # A row that starts again is believed to be a newcomer; the others stay.
    again = believed(simulator.reset_rows(torch.tensor([3]), torch.tensor([1])))
    for name, value in again.items():
        torch.testing.assert_close(value[3], first[name][1])
        assert torch.equal(value[[0, 1, 2, 4]], before[name][[0, 1, 2, 4]])
    simulator.keep(torch.tensor([4, 0]))
    assert_close(believed(simulator.observe()), {k: v[[4, 0]] for k, v in before.items()})

    # A simulator that was written down goes on where it stood.
    other = believing()
    other.restore(written)
    assert_close(believed(other.observe()), before)
    other.advance(slates_of(1, 5))
    simulator.restore(written)
    simulator.advance(slates_of(1, 5))
    assert_close(believed(other.observe()), believed(simulator.observe()))
    plain = SlateSimulator(MarketShopper(CPU, SIZE, config=CONFIG))
    with pytest.raises(ValueError, match="beliefs"):
        plain.restore(written)


def test_what_a_shop_keeps_for_a_user_is_what_the_simulator_believes() -> None:
    """No simulator: the observation, the slate, the clicks and the days are all that is needed."""
    simulator = believing()
    belief, seen = simulator.belief, simulator.reset(torch.arange(3))
    assert isinstance(belief, SessionBelief)
    saved = belief.save(belief.start({"declared": seen["declared"][1:2]}), 0)
    for visit in range(3):
        slates = slates_of(visit, 3)
        simulator.advance(slates)
        seen = simulator.observe()
        state: SessionBeliefState = belief.load(saved)
        clicks, days = seen["recent_clicks"][1:2, 0].bool(), seen["recent_days"][1:2, 0]
        shown = seen["recent_slates"][1:2, 0]
        belief.update(state, SeenVisit(shown.clamp(min=0), shown >= 0, clicks, days))
        saved = belief.save(state, 0)
    own = belief.observe(belief.load(saved), seen["candidates"][1:2])
    assert_close(own, {k: v[1:2] for k, v in believed(seen).items()})


def test_the_first_ranking_knows_shoppers_whom_the_shop_knew() -> None:
    config = RegularsConfig(
        items=ITEMS, categories=GROUPS, width=WIDTH, known=24, fewest_visits=3, most_visits=9
    )
    shopper = RegularsShopper(CPU, SIZE, config=config)
    belief = belief_of(shopper)
    simulator = SlateSimulator(shopper, history=2, horizon_days=6, belief=belief)
    seen = simulator.reset(torch.arange(12))

    # each shopper alone, visit after visit
    past = shopper.past(simulator.hidden, 9)
    assert past.slates.shape[1] == 9
    for row in range(12):
        state = belief.start({"declared": seen["declared"][row : row + 1]})
        count = int((past.slates[row, :, 0] >= 0).sum())
        assert 3 <= count <= 9
        for back in reversed(range(count)):
            slate = past.slates[row : row + 1, back]
            days = past.days[row, back] - (past.days[row, back - 1] if back else 0.0)
            clicks = past.clicks[row : row + 1, back]
            visit = SeenVisit(slate.clamp(min=0), slate >= 0, clicks, days.unsqueeze(0))
            belief.update(state, visit)
        expected = belief.observe(state, seen["candidates"][row : row + 1])
        assert_close({name: seen[name][row : row + 1] for name in expected}, expected)

    # whoever comes next is known as well, and a state that was kept is gone on from
    simulator.restart(torch.tensor([3, 7]))
    fresh = believed(simulator.observe())
    again = SlateSimulator(shopper, history=2, horizon_days=6, belief=belief)
    again.restore(simulator.state())
    assert_close(believed(again.observe()), fresh)
    others = [row for row in range(12) if row not in (3, 7)]
    kept = {name: value[others] for name, value in fresh.items()}
    assert_close(kept, {name: value[others] for name, value in believed(seen).items()})
    declared = simulator.observe()["declared"][[3, 7]]
    newcomers = belief.observe(belief.start({"declared": declared}), seen["candidates"][:2])
    moved = newcomers["belief_logits"] != fresh["belief_logits"][[3, 7]]
    assert bool(moved.any(dim=1).all())


@pytest.mark.parametrize("size", [SIZE, 2])
def test_both_faces_show_the_belief(size: int) -> None:
    env = SlateEnv(believing(size=size))
    seen, _ = env.reset(seed=3)
    assert env.observation_space.contains(seen)
    for visit in range(3):
        seen, _, left, cut, _ = env.step(slates_of(visit, 1, size)[0].numpy())
        assert env.observation_space.contains(seen)
        if left or cut:
            seen, _ = env.reset()
        assert env.observation_space.contains(seen)
    assert seen["belief_looks"].shape == (size,)
    many = SlateVectorEnv(believing(size=size), num_envs=4)
    together, _ = many.reset(seed=3)
    for visit in range(9):  # episodes end and begin anew
        together, *_ = many.step(slates_of(visit, 4, size).numpy())
        assert many.observation_space.contains(together)


def test_a_step_asks_no_tensor_for_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On `meta`, where tensors have no numbers, whatever would wait for a GPU fails."""
    monkeypatch.setattr("recsim_env.shoppers.market.best_device", torch.device)
    shopper = MarketShopper(torch.device("meta"), SIZE, config=CONFIG)
    belief = SessionBelief(model(declared=WIDTH), "meta")
    simulator = SlateSimulator(shopper, belief=belief)
    simulator.reset(torch.arange(8))
    slates = torch.zeros(8, SIZE, dtype=torch.int64, device="meta")
    simulator.advance(slates)
    simulator.restart(torch.zeros(2, dtype=torch.int64, device="meta"))
    seen = simulator.observe()
    assert {name: tuple(value.shape[1:]) for name, value in seen.items()} == {
        name: space.shape for name, space in simulator.observation_space.items()
    }


def test_a_belief_about_others_is_refused() -> None:
    shopper = MarketShopper(CPU, SIZE, config=CONFIG)

    def refused(words: str, belief: Any, other: Any = shopper) -> None:
        with pytest.raises((TypeError, ValueError), match=words):
            SlateSimulator(other, belief=belief)

    refused("belief is 3, but it must be a Belief", 3)
    refused("not those of the shoppers", SessionBelief(model(declared=WIDTH), CPU))
    refused(
        f"slates of 2 positions, but the shoppers answer {SIZE}",
        belief_of(MarketShopper(CPU, 2, config=CONFIG)),
    )
    asking = model(declared=2)
    asking.embedding.copy_(shopper.catalog.embedding)
    asking.category.copy_(shopper.catalog.category)
    refused(
        "reads 2 numbers that a shopper declares, but the shoppers declare 4",
        SessionBelief(asking, CPU),
    )
    elsewhere = belief_of(shopper)
    elsewhere.device = torch.device("meta")
    refused("belief lives on meta, but the shoppers live on cpu", elsewhere)
    taken = belief_of(shopper)
    taken.spaces = lambda candidates: {"taste": gymnasium.spaces.Box(0, 1, (1,))}  # type: ignore[method-assign]
    refused("belief tells \\['taste'\\]", taken)
