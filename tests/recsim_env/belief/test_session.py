"""The belief of a session model: its weights, its chances, and that it learns who a shopper is."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsim_env import noise
from recsim_env.belief.base import SeenVisit
from recsim_env.belief.registry import load_belief
from recsim_env.belief.session import (
    FEWEST,
    PARTICLES,
    SessionBelief,
    SessionBeliefState,
    even_normals,
)
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.base import Past
from recsim_env.shoppers.session.heads import DEEP, KEEN, OF_CATEGORY, OF_ITEM, TEMPERAMENT
from recsim_env.shoppers.session.likelihood import MOOD_CHANCES
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import SessionPopulation, save_session
from recsim_env.shoppers.session.starts import Logged
from recsim_env.shoppers.session.visits import Visits
from recsim_env.tensors import first_places
from recsim_env.trees import leaves, pick, put
from tests.recsim_env.shoppers.session.test_model import (
    DECLARED,
    GROUPS,
    ITEMS,
    SIZE,
    catalog,
    log,
    model,
)

CPU = torch.device("cpu")


def replayed(belief: SessionBelief, sessions: Sessions, visits: int) -> SessionBeliefState:
    """What is believed after so many visits of logged shoppers, who all came back."""
    state = belief.start({"declared": sessions.declared})
    for step in range(visits):
        raw = sessions.slates[:, step]
        bought = None if sessions.purchases is None else sessions.purchases[:, step]
        belief.update(
            state,
            SeenVisit(
                raw.clamp(min=0),
                first_places(raw),
                sessions.clicks[:, step],
                sessions.gaps[:, step].clamp(min=0),
                bought,
            ),
        )
    return state


def exact(belief: SessionBelief, state: SessionBeliefState) -> Tensor:
    """Log-odds (B, N) of a click on every item by the model itself, all particles averaged."""
    batch, member = len(state.day), belief.model
    everything = torch.arange(ITEMS).expand(batch, -1)
    before = member.arrive(state.cache.state, state.since)
    counters = state.memory.look(everything, member.category)
    wanted = member.wanted(before, state.interest.mean)
    logits, _ = member.answer(before, wanted, state.temperaments, everything, counters)
    chance = torch.einsum(
        "bsmn,m,bs->bn",
        logits.double().sigmoid(),
        torch.tensor(MOOD_CHANCES, dtype=torch.float64),
        state.log_weight.double().exp(),
    )
    return chance.logit().float()


def spread(member: SessionShopper, scale: float) -> SessionShopper:
    """A copy whose shoppers differ more."""
    other = copy.deepcopy(member)
    with torch.no_grad():
        other.temper.weight.mul_(scale)
        other.weariness.of_category.fill_(1.0)
    return other


# ---- weights ----


@pytest.mark.parametrize("purchases", [False, True])
def test_the_weights_are_those_of_the_models_own_likelihood(purchases: bool) -> None:
    member, visits = model(purchases=purchases), 7
    sessions = log(visits=visits, episodes=14, purchases=purchases)
    sessions = sessions.take(torch.tensor([6, 13]))  # the two with all visits
    numbers = even_normals(16)
    belief = SessionBelief(copy.deepcopy(member), CPU, numbers=numbers, renews=False)
    state = replayed(belief, sessions, visits - 1)
    whole = Visits.of(sessions, catalog())
    with torch.no_grad():
        found = member(
            **whole.batch(torch.arange(2)), normal=numbers.expand(2, -1, -1).contiguous()
        )
    of_click, of_return = (
        found[name].unflatten(0, (2, visits))[:, :-1].sum(dim=1)
        for name in ("click_log_likelihood", "return_log_likelihood")
    )
    expected = (of_click + of_return).log_softmax(dim=1)
    assert expected.std(dim=1).min() > 0.05  # so that the particles do differ
    torch.testing.assert_close(state.log_weight, expected, rtol=0, atol=2e-5)


def test_what_was_not_shown_says_nothing() -> None:
    belief = SessionBelief(model(), CPU)
    slates = torch.tensor([[3, 0, 0], [3, 7, 9]])
    shown = torch.tensor([[True, False, False]] * 2)
    clicks = torch.zeros_like(shown)
    state = belief.start({"declared": torch.zeros(2, DECLARED)})
    belief.update(state, SeenVisit(slates, shown, clicks, torch.ones(2)))
    torch.testing.assert_close(state.log_weight[0], state.log_weight[1])


def test_the_points_are_standard_normal() -> None:
    points = even_normals(PARTICLES)
    torch.testing.assert_close(points.mean(dim=0), torch.zeros(TEMPERAMENT), rtol=0, atol=1e-6)
    covariance = points.T @ points / PARTICLES
    torch.testing.assert_close(covariance, torch.eye(TEMPERAMENT), rtol=0, atol=1e-5)
    assert torch.equal(even_normals(PARTICLES), points)
    with pytest.raises(ValueError, match="count is 4"):
        even_normals(4)


# ---- chances ----


@pytest.mark.parametrize("size", [SIZE, 2])
def test_one_particle_has_the_chances_of_the_shopper_of_that_temperament(size: int) -> None:
    shopper = SessionPopulation(
        catalog(),
        [model()],
        Logged.newcomers(torch.zeros(1, DECLARED)),
        CPU,
        slate_size=size,
        never_leave=True,  # nothing is believed of those who left
    )
    point = torch.tensor([[0.3, 1.2, -0.7, 0.5, -0.9]])
    belief = SessionBelief(model(), CPU, slate_size=size, numbers=point)
    state = shopper.start(torch.zeros(4, shopper.start_draws))
    state.normal = point.expand(4, -1)
    believed = belief.start(shopper.observe(state))
    keys = noise.episode_key(torch.arange(4), torch.zeros(4, dtype=torch.int64))
    for visit in range(5):
        seen = belief.observe(believed, shopper.candidates(state))
        slates = noise.uniform(keys, 100 + visit, ITEMS).topk(size, dim=1).indices
        shown = torch.ones_like(slates, dtype=torch.bool)
        answer = shopper.respond(
            state, slates, shown, noise.uniform(keys, visit + 1, shopper.visit_draws)
        )
        chance = seen["belief_logits"].gather(1, slates).sigmoid() * seen["belief_looks"]
        torch.testing.assert_close(chance, answer.probability, rtol=0, atol=2e-4)
        belief.update(believed, SeenVisit(slates, shown, answer.clicks, answer.days))
        torch.testing.assert_close(believed.cache.state, state.caches[0].state)
    temperament = belief.model.temperament(point)
    torch.testing.assert_close(seen["belief_traits"][:, :TEMPERAMENT], temperament.expand(4, -1))
    assert (seen["belief_traits"][:, TEMPERAMENT:] == 0).all()


def test_the_log_odds_are_those_of_the_mean_chance() -> None:
    sessions = log(visits=7, episodes=14)
    sessions = dataclasses.replace(sessions, purchases=None)
    for scale, error in ((1.0, 0.01), (2.0, 0.1)):
        belief = SessionBelief(spread(model(3), scale), CPU)
        for visits in (0, 3):
            state = replayed(belief, sessions, visits)
            torch.testing.assert_close(
                belief.logits(state), exact(belief, state), rtol=0, atol=error
            )
    plain = state.temperaments[..., OF_CATEGORY].exp()
    weight, worn = state.log_weight.exp(), belief.observe(state, torch.tensor([[0, -1]] * 14))
    counters = state.memory.look(torch.arange(ITEMS).expand(14, -1), catalog().category)
    neutral = torch.zeros(1, 1, TEMPERAMENT)
    of_items = belief.model.weariness(
        counters / belief.model.counter_scale[: counters.shape[2]], neutral
    )
    expected = of_items[:, 0, :, 0] * (weight * plain).sum(
        dim=1, keepdim=True
    )  # every category has an item
    torch.testing.assert_close(
        worn["belief_weary"].gather(1, catalog().category.expand(14, -1)), expected
    )


def test_a_mean_of_log_odds_would_not_do() -> None:
    """Chances are averaged: where shoppers differ much, the mean of log-odds is far off."""
    belief = SessionBelief(spread(model(), 2.0), CPU)
    state = replayed(belief, dataclasses.replace(log(episodes=14), purchases=None), 3)
    before = belief.model.arrive(state.cache.state, state.since)
    everything = torch.arange(ITEMS).expand(14, -1)
    counters = state.memory.look(everything, belief.model.category)
    wanted = belief.model.wanted(before, state.interest.mean)
    logits, _ = belief.model.answer(before, wanted, state.temperaments, everything, counters)
    naive = torch.einsum("bsmn,bs->bmn", logits, state.log_weight.exp())[:, 1]
    right = exact(belief, state)
    assert (naive - right).abs().max() > 10 * (belief.logits(state) - right).abs().max()


def test_candidates_have_their_own_column_and_padding_the_least() -> None:
    belief = SessionBelief(model(), CPU)
    state = belief.start({"declared": torch.rand(3, DECLARED)})
    whole = belief.observe(state, torch.arange(ITEMS).expand(3, -1))["belief_logits"]
    some = torch.tensor([[4, 2, -1], [0, -1, -1], [11, 3, 7]])
    apart = belief.observe(state, some)["belief_logits"]
    shared = belief.observe(state, some[:1].expand(3, -1))["belief_logits"]
    assert torch.equal(apart[2], whole[2, [11, 3, 7]])
    assert torch.equal(shared[:, :2], whole[:, [4, 2]])
    assert (shared[:, 2] == apart[1, 1]).all()
    assert apart[1, 1] < whole.min() - 10


def test_the_spread_is_that_of_the_interest_in_each_item() -> None:
    belief = SessionBelief(model(), CPU)
    state = replayed(belief, dataclasses.replace(log(), purchases=None), 2)
    candidates = torch.tensor([[4, 2, -1]] * 6)
    spread = belief.observe(state, candidates)["belief_spread"]
    along = belief.model.embedding @ belief.model.directions
    covariance = state.interest.covariance[:, : along.shape[1], : along.shape[1]]
    for column, item in enumerate((4, 2)):
        expected = torch.einsum("d,bde,e->b", along[item], covariance, along[item]).sqrt()
        torch.testing.assert_close(spread[:, column], expected)
    assert (spread[:, 2] == 0).all()
    first = belief.observe(replayed(belief, log(), 0), candidates)["belief_spread"]
    assert (spread[:, :2] != first[:, :2]).all()


# ---- traits ----


def test_it_learns_who_a_shopper_is_and_says_how_well() -> None:
    """Shoppers of the model itself: posterior means find their traits, and errors are as large as
    the standard deviations say."""
    member = spread(model(), 2.0)
    with torch.no_grad():  # nobody leaves, so that those who stay are no selection
        member.leave_head.answered.bias.fill_(-30)
        member.base.bias.fill_(-1.0)  # clicks that tell something
        member.temper.weight.copy_(torch.diag(torch.tensor([1.2, 0.8, 0.8, 0.8, 0.8])))
        member.leave_head.slopes.fill_(-30)
    shopper = SessionPopulation(
        catalog(), [copy.deepcopy(member)], Logged.newcomers(torch.zeros(1, DECLARED)), CPU
    )
    belief = SessionBelief(member, CPU)
    kept = SessionBelief(member, CPU, renews=False)
    number = 400
    keys = noise.episode_key(torch.arange(number), torch.zeros(number, dtype=torch.int64))
    state = shopper.start(noise.uniform(keys, 0, shopper.start_draws))
    believed = belief.start(shopper.observe(state))
    stuck = kept.start(shopper.observe(state))
    truth = member.temperament(state.normal)
    everyone = torch.ones(number, SIZE, dtype=torch.bool)
    for visit in range(25):
        slates = noise.uniform(keys, 100 + visit, ITEMS).topk(SIZE, dim=1).indices
        answer = shopper.respond(
            state, slates, everyone, noise.uniform(keys, visit + 1, shopper.visit_draws)
        )
        visited = SeenVisit(slates, everyone, answer.clicks, answer.days)
        belief.update(believed, visited)
        kept.update(stuck, visited)
    seen = belief.observe(believed, torch.arange(ITEMS).expand(number, -1))
    mean, deviation = seen["belief_traits"].split(TEMPERAMENT, dim=1)
    prior = belief.prior.std(dim=0)
    for trait, least in (
        (KEEN, 0.6),
        (DEEP, 0.2),
    ):  # slates of three positions tell little of depth
        found = torch.corrcoef(torch.stack([mean[:, trait], truth[:, trait]]))[0, 1]
        assert found > least, trait
        assert (deviation[:, trait].mean() < 0.98 * prior[trait]).item()
    scores = ((truth - mean) / deviation)[:, [KEEN, OF_CATEGORY, OF_ITEM, DEEP]]
    assert 0.8 < scores.square().mean() < 1.25  # 1 where the deviations are right

    # Particles that are never spread anew may end with all weight on one of them.
    def worth(state: SessionBeliefState) -> Tensor:
        return 1 / state.log_weight.exp().square().sum(dim=1)

    assert worth(believed).min() >= FEWEST * PARTICLES
    assert worth(stuck).min() < 2


# ---- rows and files ----


def past_of(sessions: Sessions, visits: list[int]) -> Past:
    """So many last visits of logged shoppers before now, when their next gap is over."""
    most, rows = max(visits), len(visits)
    slates = torch.full((rows, most, SIZE), -1)
    clicks, days = torch.zeros(rows, most, SIZE, dtype=torch.bool), torch.zeros(rows, most)
    for row, count in enumerate(visits):
        ago = 0.0
        for back in range(count):  # newest first
            step = count - 1 - back
            raw = sessions.slates[row, step]
            shown = first_places(raw.unsqueeze(0))[0]
            slates[row, back] = raw.where(shown, -1)
            clicks[row, back] = sessions.clicks[row, step] & shown
            ago += float(sessions.gaps[row, step].clamp(min=0))
            days[row, back] = ago
    return Past(slates, clicks, days)


def test_a_belief_that_starts_from_a_past_is_one_that_followed_the_visits() -> None:
    belief, sessions = SessionBelief(model(), CPU), log(episodes=8, visits=4)
    assert sessions.length.tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    visits = [1, 0, 3, 4, 1, 2, 2, 3]
    rows = torch.arange(len(visits))
    known = {"declared": sessions.declared[rows]}
    found = belief.start(known, past_of(sessions, visits))
    everything = torch.arange(ITEMS).expand(len(visits), -1)
    told = belief.observe(found, everything)
    for row, count in enumerate(visits):
        followed = replayed(belief, sessions, count)
        expected = belief.observe(pick(followed, torch.tensor([row])), everything[:1])
        for name, value in expected.items():
            torch.testing.assert_close(told[name][row], value[0], rtol=1e-4, atol=1e-5)
    newcomers = belief.observe(belief.start(known), everything)
    moved = (told["belief_logits"] != newcomers["belief_logits"]).any(dim=1)
    assert moved.tolist() == [count > 0 for count in visits]


def test_rows_are_taken_put_saved_and_loaded(tmp_path: Path) -> None:
    belief = SessionBelief(model(), CPU)
    sessions = dataclasses.replace(log(episodes=6), purchases=None)
    state = replayed(belief, sessions, 4)
    everything = torch.arange(ITEMS).expand(6, -1)
    seen = belief.observe(state, everything)
    alone = replayed(belief, sessions.take(torch.tensor([3])), 4)
    one = belief.observe(alone, everything[:1])
    picked = belief.observe(pick(state, torch.tensor([3])), everything[:1])
    loaded = belief.load(belief.save(state, 3))
    again = belief.observe(loaded, everything[:1])
    for name, value in seen.items():
        torch.testing.assert_close(one[name], value[3:4], rtol=0, atol=1e-5)
        assert torch.equal(picked[name], again[name]), name
    put(state, torch.tensor([0]), loaded)
    assert torch.equal(state.log_weight[0], state.log_weight[3])
    assert all(value.device == CPU for value in belief.save(state, 3).values())


def test_what_was_not_saved_is_refused() -> None:
    belief = SessionBelief(model(), CPU)
    saved = belief.save(belief.blank(1), 0)
    with pytest.raises(ValueError, match="differs in \\['day'\\]"):
        belief.load({name: value for name, value in saved.items() if name != "day"})
    with pytest.raises(TypeError, match=r"tensors is 'x', but it must be a mapping"):
        belief.load("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'log_weight'"):
        belief.load({**saved, "log_weight": torch.zeros(1, 3)})
    with pytest.raises(ValueError, match="slate_size is 4"):
        SessionBelief(model(), CPU, slate_size=4)


def test_observations_are_new_tensors_inside_their_space() -> None:
    belief = SessionBelief(model(), CPU)
    state = replayed(belief, dataclasses.replace(log(), purchases=None), 2)
    seen = belief.observe(state, torch.arange(ITEMS).expand(6, -1))
    spaces = belief.spaces(ITEMS)
    assert seen.keys() == spaces.keys()
    for name, value in seen.items():
        assert spaces[name].contains(value[0].numpy()), name
    held = {part.data_ptr() for _, part in leaves(state) if isinstance(part, Tensor)}
    assert not held & {value.data_ptr() for value in seen.values()}
    assert seen["belief_weary"].shape == (6, GROUPS)
    assert (seen["belief_leaving"] > 0).all()
    assert (seen["belief_leaving"][:, 0] != seen["belief_leaving"][:, 1]).all()


def test_a_folder_of_fitted_shoppers_gives_a_belief(tmp_path: Path) -> None:
    save_session(tmp_path, catalog(), [model()], Logged.newcomers(torch.zeros(1, DECLARED)))
    with pytest.raises(ValueError, match="household shoppers, but beliefs are registered for"):
        load_belief(tmp_path, CPU)
    (tmp_path / "shop.json").write_text(f'{{"kind": "session", "slate_size": {SIZE}}}')
    belief = load_belief(tmp_path, CPU, 2)
    assert belief.slate_size == 2
    expected = SessionBelief(model(), CPU, slate_size=2)
    every = torch.arange(ITEMS).expand(1, -1)
    for name, value in belief.observe(belief.blank(1), every).items():
        assert torch.equal(value, expected.observe(expected.blank(1), every)[name]), name
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_belief(tmp_path / "nowhere", CPU)
