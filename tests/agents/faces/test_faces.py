"""Faces mean what they say: 0 is greedy, a batch is its singles, libraries' checks pass."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from agents.evaluate import evaluate
from agents.faces import (
    IntentEnv,
    IntentFace,
    IntentVectorEnv,
    MaskedFace,
    MaskedSlateEnv,
    MaskedSlateVectorEnv,
    intent_vec_env,
    masked_vec_env,
)
from agents.faces.masked import masks_of, slates_at
from policies import POLICIES
from policies.composer import ComposerConfig
from policies.inputs import PolicyInputs
from policies.pool import Pool
from recsim_env.env import SlateEnv
from recsim_env.simulator import SlateSimulator
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

PLACES = 12
EITHER = pytest.mark.parametrize("kind", ["intent", "masked"])


def shop() -> tuple[SlateSimulator, PolicyInputs]:
    """A toy shop; at a visit 27 of its 40 items are candidates."""
    simulator = toy_simulator(items=40, horizon_days=40.0)
    return simulator, replace(toy_inputs(simulator), pool=PLACES)


def single(kind: str, **options: Any) -> Any:
    return (IntentEnv if kind == "intent" else MaskedSlateEnv)(*shop(), **options)


def vector(kind: str, num_envs: int, **options: Any) -> Any:
    env = IntentVectorEnv if kind == "intent" else MaskedSlateVectorEnv
    return env(*shop(), num_envs, **options)


def some_actions(space: gymnasium.Space[Any], steps: int) -> list[Any]:
    space.seed(5)
    return [space.sample() for _ in range(steps)]


def pool_of(*items: int) -> Pool:
    ids = torch.tensor([items])
    logits = torch.arange(len(items), 0, -1).float().unsqueeze(0).masked_fill(ids < 0, -torch.inf)
    return Pool(ids, logits, ids.clamp(min=0))


# ---- what others check ---------------------------------------------------------------------------


@EITHER
@pytest.mark.filterwarnings("ignore")
def test_gymnasium_and_sb3_find_nothing_wrong(kind: str) -> None:
    check_env(single(kind), skip_render_check=True)
    check_env_sb3(single(kind))


@EITHER
def test_a_batch_is_its_singles(kind: str) -> None:
    """Under NEXT_STEP a row that ended ignores one action; a single is reset there."""
    batch, size, steps = vector(kind, 5), 5, 40
    seen, _ = batch.reset(seed=30)
    singles = [single(kind) for _ in range(size)]
    firsts = [env.reset(seed=30 + row)[0] for row, env in enumerate(singles)]
    np.testing.assert_allclose(seen, np.stack(firsts), rtol=1e-5, atol=1e-5)
    over, ends = [False] * size, set()
    for actions in some_actions(batch.action_space, steps):
        seen, rewards, terminated, truncated, info = batch.step(actions)
        for row, env in enumerate(singles):
            if over[row]:
                found, reward, ended, cut = env.reset()[0], 0.0, False, False
                assert not info["_clicks"][row]
            else:
                found, reward, ended, cut, own = env.step(actions[row])
                assert info["clicks"][row] == own["clicks"]
            np.testing.assert_allclose(seen[row], found, rtol=1e-5, atol=1e-5)
            assert (rewards[row], terminated[row], truncated[row]) == (reward, ended, cut)
            over[row] = ended or cut
            ends |= {"left"} if ended else {"cut"} if cut else set()
    assert ends == {"left", "cut"}, "both ends occurred"


@EITHER
def test_the_last_observation_is_in_the_info_with_same_step(kind: str) -> None:
    batch, other = vector(kind, 4, autoreset_mode="SameStep"), vector(kind, 4)
    batch.reset(seed=3)
    other.reset(seed=3)
    for actions in some_actions(batch.action_space, 30):
        *_, terminated, truncated, info = batch.step(actions)
        last, *_, ended, cut, _ = other.step(actions)
        np.testing.assert_array_equal(terminated | truncated, ended | cut)
        if (terminated | truncated).any():
            for row in np.flatnonzero(info["_final_obs"]):
                np.testing.assert_allclose(info["final_obs"][row], last[row], rtol=1e-5, atol=1e-5)
            assert all(
                info["final_obs"][row] is None for row in np.flatnonzero(~info["_final_obs"])
            )
            return
    raise AssertionError("no episode ended")


@EITHER
def test_global_generators_do_not_move(kind: str) -> None:
    states = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
    env = single(kind)
    env.reset(seed=1)
    env.step(env.action_space.sample())
    assert torch.equal(states[0], torch.get_rng_state())
    assert str(states[1]) == str(np.random.get_state())  # noqa: NPY002
    assert states[2] == random.getstate()


@EITHER
def test_frames_are_those_of_the_slates(kind: str) -> None:
    simulator, inputs = shop()
    plain = SlateEnv(simulator, render_mode="ansi")
    first, _ = plain.reset(seed=1)
    batch = {name: torch.from_numpy(value).unsqueeze(0) for name, value in first.items()}
    greedy = POLICIES[NEUTRAL[kind]].build(inputs)(batch, torch.empty(1, 0))[0].numpy()
    plain.step(greedy)
    env = single(kind, render_mode="ansi")
    env.reset(seed=1)
    env.step(np.zeros(env.action_space.shape) if kind == "intent" else np.arange(len(greedy)))
    assert env.render() == plain.render()


# ---- what an action means ------------------------------------------------------------------------


NEUTRAL = {"intent": "reward_greedy", "masked": "greedy_ctr"}
"""The policy that each face's neutral action is."""


@EITHER
def test_the_neutral_action_is_greedy(kind: str) -> None:
    simulator, inputs = shop()
    seeds = torch.arange(40)
    greedy = evaluate(POLICIES[NEUTRAL[kind]].build(inputs), simulator, seeds).rows
    face: Any = (IntentFace if kind == "intent" else MaskedFace)(simulator, inputs)
    size = (
        np.zeros(face.action_space.shape, np.float32)
        if kind == "intent"
        else np.arange(inputs.slate_size)
    )
    played = face.policy(lambda seen, masks=None: np.tile(size, (len(seen), 1)))
    assert evaluate(played, simulator, seeds, batch=7).rows.equals(greedy)


def test_an_intent_composes_the_slate_of_the_composer() -> None:
    env = IntentEnv(*shop(), config=ComposerConfig(pool=9, offset_dims=2))
    simulator, inputs = shop()
    twin = SlateEnv(simulator)
    env.reset(seed=4)
    seen, _ = twin.reset(seed=4)
    composer = IntentFace(shop()[0], inputs, ComposerConfig(pool=9, offset_dims=2)).composer
    for action in some_actions(env.action_space, 5):
        batch = {name: torch.from_numpy(value).unsqueeze(0) for name, value in seen.items()}
        slate = composer.compose(batch, torch.from_numpy(action).unsqueeze(0))[0].numpy()
        _, reward, ended, cut, _ = env.step(action)
        seen, expected, *_ = twin.step(slate)
        assert reward == expected
        if ended or cut:
            return


def test_intents_beyond_the_limit_are_the_limit() -> None:
    face = IntentFace(*shop(), limit=1.5)
    size = face.action_space.shape[0]
    assert face.action_space.high.tolist() == [1.5] * size
    found = face.checked(np.full(size, 99.0), (size,), "action")
    assert found.tolist() == [1.5] * size


def test_places_are_taken_from_the_list_and_what_cannot_be_falls_to_the_best_left() -> None:
    pool = pool_of(30, 31, 32, 33, -1)
    for places, expected in {
        (2, 0, 1): [32, 30, 31],
        (2, 2, 2): [32, 30, 31],  # named above: the best two that nobody names
        (4, 1, 4): [30, 31, 32],  # no candidate there
        (3, 3, 0): [33, 31, 30],  # place 0 is named further down and stays there
    }.items():
        assert slates_at(pool, torch.tensor([places]))[0].tolist() == expected
    short = pool_of(7, 8, -1, -1)
    assert slates_at(short, torch.tensor([[3, 1, 1]]))[0].tolist() == [7, 8, 7]  # none is left
    assert slates_at(pool_of(-1, -1), torch.tensor([[1, 0]]))[0].tolist() == [0, 0]


def test_masks_are_where_candidates_are() -> None:
    masks = masks_of(pool_of(5, 6, -1), slate_size=2)
    assert masks.tolist() == [[True, True, False, True, True, False]]
    assert masks_of(pool_of(-1, -1), slate_size=1).tolist() == [[True, False]]


def test_every_sample_shows_a_whole_slate() -> None:
    env: Any = MaskedSlateEnv(*shop())
    env.reset(seed=2)
    masks = env.action_masks()
    assert masks.shape == (env.action_space.nvec.sum(),)
    assert masks.all(), "the shop has more candidates than the list"
    for action in some_actions(env.action_space, 60):
        *_, ended, cut, info = env.step(action)
        assert info["invalid_items"] == 0
        if ended or cut:
            env.reset()


def test_a_list_longer_than_the_candidates_is_masked() -> None:
    inputs = shop()[1]
    offered = toy_simulator(items=13, horizon_days=40.0)  # 8 or 9 candidates a visit
    env = MaskedSlateEnv(offered, toy_inputs(offered), candidates=13)
    env.reset(seed=0)
    counts = set()
    for _ in range(6):
        masks = env.action_masks().reshape(inputs.slate_size, -1)
        assert (masks == masks[0]).all()
        counts.add(int(masks[0].sum()))
        *_, ended, cut, _ = env.step(np.arange(inputs.slate_size))
        if ended or cut:
            env.reset()
    assert counts == {8, 9}


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "action", "error", "says"),
    [
        ("intent", lambda n: np.full(n, np.nan), ValueError, r"action holds nan at \[0\]"),
        ("intent", lambda n: np.zeros(n + 1), ValueError, r"shape \(\d+,\), but it must be"),
        ("intent", lambda n: ["a"] * n, TypeError, "must hold numbers"),
        ("intent", lambda n: [[1.0], [1.0, 2.0]], ValueError, "must be an array"),
        ("masked", lambda n: np.full(n, PLACES), ValueError, "a place is a number from 0 to 11"),
        ("masked", lambda n: np.full(n, -1), ValueError, "holds -1 at"),
        ("masked", lambda n: np.zeros(n), TypeError, "must hold whole numbers"),
    ],
)
def test_actions_that_cannot_be_are_refused_and_nothing_happens(
    kind: str, action: Any, error: type[Exception], says: str
) -> None:
    env = single(kind)
    env.reset(seed=0)
    before = env.simulator.episodes.visit.clone()
    with pytest.raises(error, match=says):
        env.step(action(env.action_space.shape[0]))
    assert torch.equal(env.simulator.episodes.visit, before)


@EITHER
def test_a_step_needs_a_reset(kind: str) -> None:
    for env in (single(kind), vector(kind, 2)):
        with pytest.raises(ResetNeeded):
            env.step(env.action_space.sample())


def test_a_face_needs_a_ranker() -> None:
    simulator, inputs = shop()
    with pytest.raises(ValueError, match="ranker is None"):
        IntentEnv(simulator, replace(inputs, ranker=None))


# ---- Stable-Baselines3 ---------------------------------------------------------------------------


def test_the_masked_batch_of_sb3_is_the_batch_of_gymnasium() -> None:
    simulator, inputs = shop()
    env = masked_vec_env(simulator, inputs, 6, seed=1)
    face = MaskedFace(shop()[0], inputs)
    env.reset()
    twin = toy_simulator(items=40, horizon_days=40.0)
    observation = twin.reset(env.simulator.episodes.seed)
    for actions in some_actions(gymnasium.vector.utils.batch_space(env.action_space, 6), 10):
        view = face.view(observation)
        masks = face.masks(view).numpy()
        np.testing.assert_array_equal(np.stack(env.env_method("action_masks")), masks)
        np.testing.assert_array_equal(env.env_method("action_masks", indices=[4, 2]), masks[[4, 2]])
        _, rewards, dones, _ = env.step(actions)
        step = twin.step(face.compose(view, torch.from_numpy(actions)))
        np.testing.assert_array_equal(rewards, step.reward.numpy())
        ended = (step.terminated | step.truncated).nonzero().squeeze(1)
        np.testing.assert_array_equal(np.flatnonzero(dones), ended.numpy())
        observation = twin.reset_rows(ended)
    assert env.has_attr("action_masks")
    with pytest.raises(NotImplementedError):
        env.env_method("render")


def test_the_intents_of_sb3_are_those_of_the_face() -> None:
    simulator, inputs = shop()
    env = intent_vec_env(simulator, inputs, 3)
    assert env.observation_space == IntentFace(*shop()).observation_space
    assert env.action_space.shape == IntentFace(*shop()).action_space.shape


@EITHER
def test_with_objectives_rewards_are_told_side_by_side(kind: str) -> None:
    goals = ("clicks", "intra_list_distance")
    simulators = [toy_simulator(items=40, horizon_days=40.0, objectives=goals) for _ in range(2)]
    inputs = replace(toy_inputs(simulators[0]), pool=PLACES)
    one = (IntentEnv if kind == "intent" else MaskedSlateEnv)(simulators[0], inputs)
    many = (IntentVectorEnv if kind == "intent" else MaskedSlateVectorEnv)(simulators[1], inputs, 3)
    plain = single(kind)
    assert one.reward_space.shape == many.reward_space.shape == (2,)
    assert not hasattr(plain, "reward_space")
    (action,) = some_actions(one.action_space, 1)
    for env in (plain, one, many):
        env.reset(seed=4)
    reward, pair = plain.step(action)[1], np.asarray(one.step(action)[1])
    weights = plain.simulator.reward.weights
    assert reward == pytest.approx(sum(weights[goal] * pair[at] for at, goal in enumerate(goals)))
    rows = many.step(np.stack([action] * 3))[1]
    assert rows.shape == (3, 2)
    np.testing.assert_allclose(rows[0], pair, rtol=1e-6)
