"""The Gymnasium face of one shopper: checkers pass, it is a batch of one, mistakes read well."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import recsim_env
from recsim_env.env import SlateEnv
from recsim_env.types import Response
from tests.support.toys import leaves, make_toy_shopper, responses_of, toy_simulator

ID = "toys/OneShopper-v0"
recsim_env.register(ID, make_toy_shopper, slate_size=4, horizon_days=40)
GOOD = np.array([1, 2, 4, 5])  # candidates of every first visit


def toy_env(**settings: Any) -> SlateEnv:
    return SlateEnv(toy_simulator(**settings))


def warnings_of(check: Callable[[], None]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check()
    return [str(warning.message) for warning in caught]


# --- the checkers ---


def test_gymnasiums_checker_passes_without_a_warning() -> None:
    assert warnings_of(lambda: check_env(gymnasium.make(ID).unwrapped)) == []


def test_sb3s_checker_passes_with_two_warnings_that_are_meant() -> None:
    found = warnings_of(
        lambda: check_env_for_sb3(gymnasium.make(ID).unwrapped, skip_render_check=False)
    )
    # Both are (H, K), tables of item ids and of clicks: SB3 would want them flat for its own
    # feature extractor, which could make nothing of item ids either. agents/ppo/vec_env.py gives
    # SB3 a flat vector of features instead.
    assert [message.split(" has an ")[0] for message in found] == [
        "Your observation recent_clicks",
        "Your observation recent_slates",
    ]


def test_gymnasium_make_takes_the_options_and_wraps_nothing_that_ends_an_episode() -> None:
    env = gymnasium.make(ID, device="cpu", horizon_days=5, strict=True, items=40)
    inside = env.unwrapped
    assert isinstance(inside, SlateEnv)
    assert inside.simulator.horizon_days == 5
    assert inside.simulator.strict
    assert inside.action_space.nvec.tolist() == [40] * 4
    assert env.spec is not None
    assert env.spec.max_episode_steps is None
    assert env.spec.to_json()


# --- a batch of one ---


def test_it_is_the_simulator_with_one_row() -> None:
    env, simulator = toy_env(), toy_simulator()
    seen, info = env.reset(seed=11)
    expected = simulator.reset(torch.tensor([11]))
    assert info == {}
    env.action_space.seed(0)
    for _ in range(8):
        assert seen.keys() == expected.keys() == env.observation_space.keys()
        assert all(np.array_equal(seen[name], value[0].numpy()) for name, value in expected.items())
        assert all(seen[name].dtype == value.numpy().dtype for name, value in expected.items())
        assert env.observation_space.contains(seen)
        action = env.action_space.sample()
        seen, reward, terminated, truncated, info = env.step(action)
        step = simulator.step(torch.from_numpy(action).unsqueeze(0))
        expected = step.observation
        assert (reward, terminated, truncated) == (
            step.reward.item(),
            bool(step.terminated),
            bool(step.truncated),
        )
        assert info == {name: value.item() for name, value in step.info.items()}
        if terminated or truncated:
            break


def test_the_types_are_those_that_gymnasium_asks_for() -> None:
    env = toy_env()
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(GOOD)
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert {name: type(value) for name, value in info.items()} == {
        "clicks": int,
        "invalid_items": int,
        "gap_days": float,
        "elsewhere": float,
        "day": float,
        "reward_terms/clicks": float,
        "reward_terms/intra_list_distance": float,
    }
    assert reward == pytest.approx(
        info["reward_terms/clicks"] + info["reward_terms/intra_list_distance"]
    )


def test_the_chances_before_the_noise_are_never_handed_out() -> None:
    env = toy_env(horizon_days=40)
    answers = responses_of(env.simulator)
    observation, info = env.reset(seed=3)
    handed = [observation, info]
    for _ in range(4):
        slate = observation["candidates"][:4]
        observation, _, terminated, truncated, info = env.step(slate)
        assert not any("response" in key or "probability" in key for key in (*observation, *info))
        handed += [observation, info]
        if terminated or truncated:
            observation, info = env.reset()
    chances = {round(float(chance), 6) for answer in answers for chance in answer.probability[0]}
    numbers = [np.asarray(leaf, dtype=float).round(6).ravel().tolist() for leaf in leaves(handed)]
    told = {0.54, 0.486, 0.4374} & chances  # of the toys' chances, those that nothing else can be
    assert told
    assert told & {number for row in numbers for number in row} == set()
    assert not any(isinstance(leaf, Response) for leaf in leaves(handed))


def test_sampled_actions_play_to_the_end() -> None:
    env = gymnasium.make(ID)
    env.action_space.seed(3)
    env.reset(seed=3)
    for _ in range(40):  # at least a day a visit, horizon 40 days
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    assert terminated != truncated
    assert truncated == (info["day"] >= 40 and not terminated)


# --- seeds ---


def episodes(env: SlateEnv, count: int, seed: int | None) -> list[Any]:
    """Everything that comes out of some episodes; only the first reset has a seed."""
    out: list[Any] = []
    for number in range(count):
        out.append(env.reset(seed=seed if number == 0 else None))
        over = False
        while not over:
            *_, terminated, truncated, _ = values = env.step(GOOD)
            out.append(values)
            over = terminated or truncated
    return out


def test_a_seed_fixes_a_whole_sequence_of_episodes() -> None:
    first, again = (
        episodes(toy_env(horizon_days=20), 3, 5),
        episodes(toy_env(horizon_days=20), 3, 5),
    )
    assert data_equivalence(first, again, exact=True)
    assert not data_equivalence(first, episodes(toy_env(horizon_days=20), 3, 6), exact=True)


def test_without_a_seed_it_comes_from_np_random() -> None:
    runs = []
    for _ in range(2):
        env = toy_env(horizon_days=20)
        env.np_random = np.random.default_rng(8)
        runs.append(episodes(env, 2, None))
    assert data_equivalence(runs[0], runs[1], exact=True)
    unseeded = [toy_env(), toy_env()]
    for env in unseeded:
        env.reset()
    assert (
        unseeded[0].simulator.episodes.seed != unseeded[1].simulator.episodes.seed
    )  # 1 in 2**31 to fail


def test_no_global_generator_moves() -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    episodes(toy_env(horizon_days=10), 2, None)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]  # noqa: NPY002


@pytest.mark.parametrize("seed", [np.int64(5), np.uint8(5), np.int32(5)])
def test_a_whole_number_of_numpy_is_a_seed(seed: Any) -> None:
    env, twin = toy_env(), toy_env()
    assert data_equivalence(env.reset(seed=seed), twin.reset(seed=5), exact=True)
    assert env.np_random.random() == twin.np_random.random()
    wrapped, plain = gymnasium.make(ID), gymnasium.make(ID)
    assert data_equivalence(wrapped.reset(seed=seed), plain.reset(seed=5), exact=True)


# --- memory ---


def test_the_catalogue_of_an_environment_that_was_stepped_can_be_learnt_with() -> None:
    env = toy_env()
    env.reset(seed=0)
    env.step(GOOD)
    cosines = env.simulator.catalog.cosines
    assert cosines is not None
    weight = torch.ones((), requires_grad=True)
    (weight * cosines).sum().backward()
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(cosines.sum().item())


def test_what_is_handed_out_and_in_is_not_shared() -> None:
    env, twin = toy_env(), toy_env()
    seen, _ = env.reset(seed=2)
    twin.reset(seed=2)
    for _ in range(4):
        for value in seen.values():
            value.fill(0)
        action = GOOD.copy()
        seen, *rest = env.step(action)
        action.fill(0)
        expected, *others = twin.step(GOOD)
        assert data_equivalence(seen, expected, exact=True)
        assert rest == others


# --- errors, each before anything changes ---


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (
            [1, 2, 4, 31],
            ValueError,
            r"action holds 31 at \[3\], but an item is a number from 0 to 30",
        ),
        ([1, -1, 4, 5], ValueError, r"action holds -1 at \[1\], but an item is"),
        (
            np.array([1, 2, 4, 2**63], dtype=np.uint64),
            ValueError,
            "action holds 9223372036854775808",
        ),
        ([1, 2, 4], ValueError, r"action has the shape \(3,\), but it must be \(4,\)"),
        ([[1, 2, 4, 5]], ValueError, r"action has the shape \(1, 4\), but it must be \(4,\)"),
        (3, ValueError, r"action has the shape \(\), but"),
        (
            [[1, 2], [3]],
            ValueError,
            r"action is \[\[1, 2\], \[3\]\], but it must be an array of the shape \(4,\)",
        ),
        (
            [1.0, 2.0, 4.0, 5.0],
            TypeError,
            "action has the dtype float64, but it must hold whole numbers",
        ),
        ([1, float("nan"), 4, 5], TypeError, "action has the dtype float64"),
        ([True, False, True, True], TypeError, "action has the dtype bool"),
        (["1", "2", "4", "5"], TypeError, "action has the dtype <U1"),
        (None, TypeError, "action is None, but it must hold whole numbers"),
    ],
)
def test_a_bad_action_raises(action: Any, error: type[Exception], message: str) -> None:
    env, twin = toy_env(), toy_env()
    env.reset(seed=2)
    twin.reset(seed=2)
    with pytest.raises(error, match=message):
        env.step(action)
    assert data_equivalence(env.step(GOOD), twin.step(GOOD), exact=True)


@pytest.mark.parametrize("as_type", [list, tuple, np.int32, np.uint8, torch.tensor])
def test_whole_numbers_of_any_kind_are_a_slate(as_type: Any) -> None:
    action = (
        GOOD.astype(as_type)
        if isinstance(as_type, type) and issubclass(as_type, np.integer)
        else as_type(GOOD)
    )
    env, twin = toy_env(), toy_env()
    env.reset(seed=2)
    twin.reset(seed=2)
    assert data_equivalence(env.step(action), twin.step(GOOD), exact=True)


def test_strict_raises_on_what_would_not_be_shown() -> None:
    env = toy_env(strict=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action holds 2 at \[2\], which stands higher up too"):
        env.step(np.array([1, 2, 2, 4]))
    env.step(GOOD)


def test_step_and_render_before_reset_and_after_the_end() -> None:
    env = SlateEnv(toy_simulator(lapse=0.0, horizon_days=1), render_mode="ansi")
    for call in (lambda: env.step(GOOD), env.render):
        with pytest.raises(ResetNeeded, match="was not reset"):
            call()
    env.reset(seed=0)
    assert env.step(GOOD)[3] is True
    with pytest.raises(ResetNeeded, match="The episode of row 0 is over"):
        env.step(GOOD)
    env.reset()
    env.step(GOOD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed is -1, but it must be a whole number from 0 to 9223372036854775807"),
        (
            {"seed": 2**63},
            "seed is 9223372036854775808, but it must be a whole number from 0 to "
            "9223372036854775807",
        ),
        ({"seed": 1.5}, "seed is 1.5, but it must be"),
        (
            {"seed": 0, "options": {"day": 3}},
            r"options has the keys \['day'\], but reset knows none",
        ),
    ],
)
def test_a_bad_reset_raises(arguments: dict[str, Any], message: str) -> None:
    env, twin = toy_env(), toy_env()
    env.reset(seed=2)
    twin.reset(seed=2)
    with pytest.raises(ValueError, match=message):
        env.reset(**arguments)
    assert data_equivalence(env.reset(), twin.reset(), exact=True)


def test_unknown_settings_raise() -> None:
    with pytest.raises(
        ValueError,
        match=r"render_mode is 'human', but it must be None or one of \['ansi', 'rgb_array'\]",
    ):
        SlateEnv(toy_simulator(), render_mode="human")
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'horizon_days', but a finished"
    ):
        SlateEnv(toy_simulator(), horizon_days=3)


def test_an_unknown_option_is_told_in_the_words_that_torchrl_looks_for() -> None:
    # torchrl.envs.GymEnv tries `frameskip` first, and goes on without it where the TypeError holds
    # these words.
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'") as raised:
        gymnasium.make(ID, frameskip=1, render_moode="ansi")
    assert (
        "the unexpected keyword argument 'render_moode', but the options are ['belief', "
        "'categories'," in str(raised.value)
    )
    with pytest.raises(
        TypeError,
        match="unexpected keyword argument 'frameskip', but a finished simulator takes no",
    ):
        SlateEnv(toy_simulator(), frameskip=1)


def test_every_space_of_the_shop_is_a_box() -> None:
    env = toy_env()  # wrappers of others, such as TorchRL's, know no MultiBinary of two dimensions
    assert {type(space) for space in env.observation_space.values()} == {gymnasium.spaces.Box}
    clicks = env.observation_space["recent_clicks"]
    assert clicks.shape == (10, 4)
    assert clicks.dtype == np.int8
    env.reset(seed=1)
    for _ in range(3):
        seen, *_ = env.step(GOOD)
        assert set(np.unique(seen["recent_clicks"])) <= {0, 1}


@pytest.mark.parametrize("mode", [5, ["ansi"], {}, 2.5, object()])
def test_gymnasium_make_tells_a_render_mode_that_is_no_text(mode: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"^render_mode is .*, but it must be None or one of \['ansi', 'rgb_array'\]",
    ):
        gymnasium.make(ID, render_mode=mode)
