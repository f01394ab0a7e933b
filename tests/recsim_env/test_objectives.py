"""Objectives: values side by side, in the core and on both faces, and with MO-Gymnasium."""

from __future__ import annotations

from typing import Any

import gymnasium
import mo_gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from recsim_env import make_simulator
from recsim_env.env import SlateEnv
from recsim_env.simulator import SlateSimulator
from recsim_env.vector import SlateVectorEnv
from tests.support.toys import ToyShopper, toy_simulator

NAMES = ("clicks", "revenue", "intra_list_distance", "kept")
MARKET = "recsim_env/Market-v0"


def several(**options: Any) -> SlateSimulator:
    return SlateSimulator(ToyShopper(lapse=0.4), objectives=NAMES, **options)


def slates_of(simulator: SlateSimulator, batch: int, visit: int) -> torch.Tensor:
    items = torch.rand(
        batch, len(simulator.catalog), generator=torch.Generator().manual_seed(visit)
    )
    return items.argsort(dim=1)[:, : simulator.slate_size]


def test_objectives_are_the_terms_in_their_order_and_change_nothing_else() -> None:
    plain, told = SlateSimulator(ToyShopper(lapse=0.4)), several()
    plain.reset(torch.arange(8))
    told.reset(torch.arange(8))
    for visit in range(2):
        slates = slates_of(plain, 8, visit)
        one = plain.advance(slates)
        other = told.advance(slates)
        assert one.objectives is None
        assert other.objectives is not None
        assert torch.equal(one.reward, other.reward)
        assert one.info.keys() == other.info.keys()
        price = plain.catalog.price[slates].double()
        by_hand = [
            one.info["clicks"],
            (price * one.response.clicks).sum(dim=1),
            one.info["reward_terms/intra_list_distance"],
            ~one.terminated,
        ]
        expected = torch.stack([value.float() for value in by_hand], dim=1)
        torch.testing.assert_close(other.objectives, expected)


@pytest.mark.parametrize(
    ("objectives", "sentence"),
    [
        ((), r"^objectives is empty, but it must be different names out of \['category_"),
        (("clicks", "joy"), r"^objectives\[1\] is 'joy', but it must be one of"),
        (("clicks", "kept", "clicks"), "^objectives has 'clicks' twice, but it must be different"),
        ("clicks", "^objectives is 'clicks', but it must be different names"),
        ({"clicks": 1.0}, r"in a tuple, without weights, which belong to reward\.$"),
        (7, "^objectives is 7, but it must be different names"),
        (("clicks", 3), r"^objectives\[1\] is 3, but it must be one of"),
        (("clicks", "novelty"), "^objectives has the term 'novelty', but the catalogue of"),
        (("purchases",), "^objectives has the term 'purchases', but MarketShopper does not tell"),
    ],
)
def test_objectives_that_cannot_be_are_refused_when_made(objectives: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_simulator(MARKET, device="cpu", objectives=objectives)


def test_a_single_face_hands_out_vectors() -> None:
    env = gymnasium.make(MARKET, objectives=list(NAMES), disable_env_checker=True)
    scalar = gymnasium.make(MARKET)
    face = env.unwrapped
    assert isinstance(face, SlateEnv)
    assert face.reward_space.shape == (4,)
    assert not hasattr(scalar.unwrapped, "reward_space")
    env.reset(seed=3)
    scalar.reset(seed=3)
    env.action_space.seed(0)
    for _ in range(3):
        action = env.action_space.sample()
        _, vector, _, _, info = env.step(action)
        _, number, *_ = scalar.step(action)
        vector = np.asarray(vector)
        assert vector.shape == (4,)
        assert vector.dtype == np.float32
        assert face.reward_space.contains(vector)
        assert vector[0] == info["clicks"]
        assert vector[2] == info["reward_terms/intra_list_distance"]
        paid = face.simulator.reward.weights
        by_hand = paid["clicks"] * vector[0] + paid["intra_list_distance"] * vector[2]
        assert by_hand == pytest.approx(number, rel=1e-5)


@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_batch_is_its_singles_and_0_where_it_starts_again(
    mode: AutoresetMode, output: str
) -> None:
    envs = SlateVectorEnv(several(), 6, autoreset_mode=mode, output=output)
    assert envs.reward_space.shape == (4,)
    envs.reset(seed=0)
    ended = np.zeros(6, dtype=bool)
    waited = 0
    if mode is AutoresetMode.DISABLED:
        single = SlateEnv(several())
        single.reset(seed=2)
        action = slates_of(envs.simulator, 6, 0)
        _, rewards, *_ = envs.step(action)
        _, reward, *_ = single.step(action[2].numpy())
        assert np.array_equal(np.asarray(rewards)[2], reward)
        return
    for visit in range(12):
        _, found, terminated, truncated, _ = envs.step(slates_of(envs.simulator, 6, visit))
        rewards = np.asarray(found)
        assert rewards.shape == (6, 4)
        assert rewards.dtype == np.float32
        again = ended if mode is AutoresetMode.NEXT_STEP else np.zeros(6, dtype=bool)
        assert (rewards[again] == 0).all()
        waited += int(again.sum())
        gone = np.asarray(terminated)[~again]
        assert (rewards[~again][:, 3] == ~gone).all()
        ended = np.asarray(terminated) | np.asarray(truncated)
    assert waited > 3 or mode is AutoresetMode.SAME_STEP


def test_without_objectives_there_is_no_vector() -> None:
    envs = SlateVectorEnv(toy_simulator(), 3)
    envs.reset(seed=0)
    assert not hasattr(envs, "reward_space")
    assert np.asarray(envs.step(slates_of(envs.simulator, 3, 0))[1]).shape == (3,)


def test_mo_gymnasium_takes_the_faces() -> None:
    weight = np.array([1.0, 0.5, 2.0, 0.0])
    env = mo_gymnasium.make(MARKET, objectives=NAMES)
    linear = mo_gymnasium.wrappers.LinearReward(env, weight)
    linear.action_space.seed(0)
    linear.reset(seed=1)
    _, number, _, _, info = linear.step(linear.action_space.sample())
    assert number == pytest.approx(float(info["vector_reward"] @ weight))

    vector = mo_gymnasium.wrappers.vector
    makes = [lambda: mo_gymnasium.make(MARKET, objectives=NAMES) for _ in range(2)]
    envs = vector.MOSyncVectorEnv(makes)
    ours = gymnasium.make_vec(MARKET, num_envs=2, objectives=NAMES)
    assert envs.reward_space == getattr(ours.unwrapped, "reward_space", None)
    recorded = vector.MORecordEpisodeStatistics(ours)
    envs.reset(seed=5)
    recorded.reset(seed=5)
    envs.action_space.seed(0)
    episodes = 0
    for _ in range(30):
        action = envs.action_space.sample()
        _, theirs, *_ = envs.step(action)
        _, own, _, _, told = recorded.step(action)
        np.testing.assert_array_equal(theirs, own)
        episodes += int(told.get("_episode", np.zeros(2)).sum())
    assert episodes > 0
