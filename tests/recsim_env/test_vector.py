"""The face of B shoppers: row for row what B single environments give, in every autoreset mode."""

from __future__ import annotations

import random
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import recsim_env
from recsim_env.env import SlateEnv
from recsim_env.types import Response
from recsim_env.vector import SlateVectorEnv
from tests.support.toys import make_toy_shopper, responses_of, toy_simulator

ID = "toys/ManyShoppers-v0"
recsim_env.register(ID, make_toy_shopper, slate_size=4, horizon_days=20)
ROWS = 5
MODES = list(AutoresetMode)
each_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)


def toy_vector(
    rows: int = ROWS, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **settings: Any
) -> SlateVectorEnv:
    output = settings.pop("output", "numpy")
    return SlateVectorEnv(
        toy_simulator(**{"horizon_days": 20, **settings}), rows, autoreset_mode=mode, output=output
    )


def toy_rows(rows: int = ROWS, mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> SyncVectorEnv:
    """The same as B environments that Gymnasium steps one by one."""
    return SyncVectorEnv(
        [lambda: SlateEnv(toy_simulator(horizon_days=20))] * rows, autoreset_mode=mode
    )


def assert_same(found: Any, expected: Any, path: str = "") -> None:
    """Equal values all the way down; a key that only `found` has belongs to no row."""
    if isinstance(expected, dict):
        assert expected.keys() <= found.keys(), path
        for name, value in expected.items():
            assert_same(found[name], value, f"{path}/{name}")
        for name in found.keys() - expected.keys():
            assert not np.any(found[name if name.startswith("_") else f"_{name}"]), f"{path}/{name}"
    elif isinstance(expected, tuple):
        assert len(found) == len(expected), path
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{path}/{number}")
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        assert [value is None for value in found] == [value is None for value in expected], path
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, path)
    elif expected is None:
        assert found is None, path
    else:
        np.testing.assert_array_equal(found, expected, err_msg=path)


def assert_no_shared_memory(values: Any, others: Any) -> None:
    for one in leaves(values):
        assert not any(np.shares_memory(one, other) for other in leaves(others))


def leaves(value: Any) -> list[np.ndarray[Any, Any]]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, (tuple, list)) or (
        isinstance(value, np.ndarray) and value.dtype == object
    ):
        return [leaf for part in value for leaf in leaves(part)]
    if isinstance(value, torch.Tensor):
        return [value.numpy()]
    return [value] if isinstance(value, np.ndarray) else []


def restart_ended(env: Any, step: Any) -> Any:
    """What a caller does in the mode DISABLED."""
    ended = step[2] | step[3]
    return env.reset(options={"reset_mask": ended}) if ended.any() else None


# --- the same as B environments of one ---


@each_mode
def test_it_equals_gymnasiums_vector_of_single_environments(mode: AutoresetMode) -> None:
    ours, theirs = toy_vector(mode=mode), toy_rows(mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert_same(ours.reset(seed=30), theirs.reset(seed=30))
    theirs.action_space.seed(1)
    ends = 0
    for _ in range(14):
        actions = theirs.action_space.sample()
        step, expected = ours.step(actions), theirs.step(actions)
        ends += int(np.logical_or(expected[2], expected[3]).sum())
        assert_same(step, expected)
        if mode is AutoresetMode.DISABLED:
            assert_same(restart_ended(ours, step), restart_ended(theirs, expected))
    assert ends >= 2 * ROWS
    assert_same(ours.reset(), theirs.reset())
    assert_same(ours.reset(seed=[4, 9, 1, 1, 0]), theirs.reset(seed=[4, 9, 1, 1, 0]))
    mask = np.array([True, False, False, True, False])
    assert_same(
        ours.reset(options={"reset_mask": mask.copy()}),
        theirs.reset(options={"reset_mask": mask.copy()}),
    )
    assert_same(
        ours.reset(seed=70, options={"reset_mask": mask.copy()}),
        theirs.reset(seed=70, options={"reset_mask": mask.copy()}),
    )


def test_a_row_replays_the_single_environment_over_several_episodes() -> None:
    vector, row = toy_vector(rows=4, mode=AutoresetMode.SAME_STEP), 2
    single = SlateEnv(toy_simulator(horizon_days=20))
    seen, _ = vector.reset(seed=100)
    alone, _ = single.reset(seed=100 + row)
    finished = 0
    while finished < 4:
        assert all(np.array_equal(value[row], alone[name]) for name, value in seen.items())
        action = alone["candidates"][:4]
        seen, rewards, *ends, info = vector.step(
            np.stack([values[:4] for values in seen["candidates"]])
        )
        alone, reward, *single_ends, single_info = single.step(action)
        assert rewards[row] == reward
        assert [end[row] for end in ends] == single_ends
        if any(single_ends):
            finished += 1
            assert all(
                np.array_equal(value, alone[name]) for name, value in info["final_obs"][row].items()
            )
            assert {name: info["final_info"][name][row] for name in single_info} == single_info
            alone, _ = single.reset()
        else:
            assert {name: info[name][row] for name in single_info} == single_info


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_a_row_does_not_depend_on_how_many_there_are(rows: int) -> None:
    many, few = toy_vector(rows=8), toy_vector(rows=rows)
    many.reset(seed=5)
    few.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(10):
        actions = rng.integers(31, size=(8, 4))
        large, small = many.step(actions), few.step(actions[:rows])
        for one, other in zip(leaves(large), leaves(small), strict=True):
            np.testing.assert_array_equal(one[:rows], other)


@each_mode
def test_tensors_equal_arrays(mode: AutoresetMode) -> None:
    arrays, tensors = toy_vector(mode=mode), toy_vector(mode=mode, output="torch")
    assert_same(numbers(tensors.reset(seed=3)), arrays.reset(seed=3))
    rng = np.random.default_rng(0)
    for _ in range(10):
        actions = rng.integers(31, size=(ROWS, 4))
        given, expected = tensors.step(torch.from_numpy(actions)), arrays.step(actions)
        final = given[4].pop("final_obs", None), expected[4].pop("final_obs", None)
        assert_same(numbers(given), expected)
        if final[1] is not None:
            for row in np.flatnonzero(expected[4]["_final_obs"]):
                assert_same(
                    {name: value[row].numpy() for name, value in final[0].items()}, final[1][row]
                )
        if mode is AutoresetMode.DISABLED:
            assert_same(numbers(restart_ended(tensors, given)), restart_ended(arrays, expected))


def numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: numbers(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(numbers(part) for part in value)
    return value.numpy() if isinstance(value, torch.Tensor) else value


# --- autoreset ---


@each_mode
@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_the_chances_before_the_noise_are_never_handed_out(
    mode: AutoresetMode, output: str
) -> None:
    env = toy_vector(mode=mode, output=output)
    answers = responses_of(env.simulator)
    env.reset(seed=3)
    told = set()
    for number in range(8):
        step = env.step(np.tile(np.array([1, 2, 4, 5]) + number, (ROWS, 1)))
        chances = answers[-1].probability.flatten().tolist()
        told |= {0.54, 0.486, 0.4374} & {round(chance, 6) for chance in chances}
        numbers = {round(float(n), 6) for leaf in leaves(step) for n in leaf.ravel()}
        assert numbers & {0.54, 0.486, 0.4374} == set()
        assert_no_shared_memory(list(step), [value.numpy() for value in vars_of(answers[-1])])
        restart_ended(env, step) if mode is AutoresetMode.DISABLED else None
    assert told


def vars_of(response: Response) -> list[torch.Tensor]:
    return [value for value in vars(response).values() if value is not None]


def test_next_step_ignores_the_action_of_a_row_that_starts_again() -> None:
    env = toy_vector(rows=2, lapse=0.0)
    env.reset(seed=0)
    good = np.array([[1, 2, 4, 5]] * 2)
    ended = np.zeros(2, dtype=bool)
    while ended.all() or not ended.any():
        ended = np.asarray(env.step(good)[3])
    wild = np.where(ended[:, None], 10**6, good)
    seen, reward, terminated, truncated, info = env.step(wild)
    row = int(ended.argmax())
    assert (reward[row], terminated[row], truncated[row], info["_clicks"][row]) == (
        0,
        False,
        False,
        False,
    )
    assert (seen["recent_slates"][row] == -1).all()
    assert env.simulator.episodes.visit[row] == 0
    assert info["_clicks"][1 - row]
    assert info["day"][1 - row] > 0


@pytest.mark.parametrize("strict", [False, True])
def test_next_step_under_strict_ignores_it_too(strict: bool) -> None:
    env = toy_vector(rows=2, lapse=0.0, horizon_days=1, strict=strict)
    env.reset(seed=0)
    env.step(np.array([[1, 2, 4, 5]] * 2))
    _, reward, *_ = env.step(np.zeros((2, 4), dtype=np.int64))
    assert reward.tolist() == [0, 0]


def test_disabled_waits_for_a_reset_with_a_mask() -> None:
    env = toy_vector(rows=2, mode=AutoresetMode.DISABLED, lapse=0.0, horizon_days=1)
    env.reset(seed=0)
    actions = np.array([[1, 2, 4, 5]] * 2)
    env.step(actions)
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match="The episode of row 1 is over"):
        env.step(actions)
    env.reset(options={"reset_mask": np.array([False, True])})
    env.step(actions)


def test_the_mode_is_in_the_metadata_of_the_instance_alone() -> None:
    env = gymnasium.make_vec(ID, num_envs=2, autoreset_mode="SameStep")
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert SlateVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


# --- Gymnasium around it ---


def test_make_vec_gives_the_native_environment_without_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    env = gymnasium.make_vec(ID, num_envs=3, device="cpu", horizon_days=7, items=40, output="torch")
    assert isinstance(env, SlateVectorEnv)
    assert env.num_envs == 3
    assert env.simulator.horizon_days == 7
    assert env.action_space.shape == (3, 4)
    seen, _ = env.reset(seed=0)
    assert isinstance(seen["candidates"], torch.Tensor)
    assert [str(warning.message) for warning in recwarn] == []
    env.close()


def test_make_vec_sync_gives_the_same_episodes() -> None:
    ours, theirs = (
        gymnasium.make_vec(ID, num_envs=2),
        gymnasium.make_vec(ID, num_envs=2, vectorization_mode="sync"),
    )
    assert isinstance(theirs, SyncVectorEnv)
    assert_same(ours.reset(seed=1), theirs.reset(seed=1))
    actions = np.array([[1, 2, 4, 5], [8, 7, 5, 4]])
    for _ in range(10):
        assert_same(ours.step(actions), theirs.step(actions))


@each_mode
def test_a_limit_of_steps_truncates_as_gymnasium_makes_it(mode: AutoresetMode) -> None:
    settings: dict[str, Any] = {
        "num_envs": 3,
        "max_episode_steps": 4,
        "lapse": 0.5,
        "horizon_days": 30,
    }
    ours = gymnasium.make_vec(ID, autoreset_mode=mode, **settings)
    vector_kwargs = {"autoreset_mode": mode}
    theirs = gymnasium.make_vec(
        ID, vectorization_mode="sync", vector_kwargs=vector_kwargs, **settings
    )
    assert isinstance(ours, SlateVectorEnv)
    assert_same(ours.reset(seed=1), theirs.reset(seed=1))
    rng, ends, late = np.random.default_rng(0), 0, 0
    for _ in range(25):
        actions = rng.integers(31, size=(3, 4))
        step, expected = ours.step(actions), theirs.step(actions)
        assert_same(step, expected)
        ends, late = ends + int(expected[2].sum()), late + int(expected[3].sum())
        if mode is AutoresetMode.DISABLED:
            assert_same(restart_ended(ours, step), restart_ended(theirs, expected))
    assert ends > 3
    assert late > 3
    assert ours.spec is not None
    again = gymnasium.make_vec(ours.spec)
    assert isinstance(again, SlateVectorEnv)
    assert again.max_episode_steps == 4


def test_a_row_waits_after_its_last_step() -> None:
    env = SlateVectorEnv(
        toy_simulator(lapse=0.0), 2, autoreset_mode="Disabled", max_episode_steps=1
    )
    env.reset(seed=0)
    assert env.step(np.array([[1, 2, 4, 5]] * 2))[3].tolist() == [True, True]
    with pytest.raises(ResetNeeded, match="The episode of row 0 is over"):
        env.step(np.array([[1, 2, 4, 5]] * 2))
    assert SlateVectorEnv(toy_simulator(), 2, max_episode_steps=-1).max_episode_steps is None


def test_numpy_numbers_are_a_number_of_environments() -> None:
    three: Any = np.int64(3)
    env = SlateVectorEnv(toy_simulator(), three)
    assert type(env.num_envs) is int
    assert env.action_space.shape == (3, 4)


def test_more_shoppers_than_memory_holds_are_refused_before_anything_is_asked_for() -> None:
    with pytest.raises(
        ValueError,
        match=r"^num_envs is 1000000000000, but it must be at most \d+: memory holds no more",
    ):
        SlateVectorEnv(toy_simulator(), 10**12)


@pytest.mark.parametrize(
    "mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=lambda mode: mode.value
)
def test_gymnasiums_episode_statistics_are_right(mode: AutoresetMode) -> None:
    env = RecordEpisodeStatistics(cast(Any, toy_vector(mode=mode)))
    env.reset(seed=9)
    single = SlateEnv(toy_simulator(horizon_days=20))
    single.reset(seed=9)
    action, returned, length, over = np.array([1, 2, 4, 5]), 0.0, 0, False
    while not over:
        _, reward, terminated, truncated, _ = single.step(action)
        returned, length, over = returned + reward, length + 1, terminated or truncated
    info: dict[str, Any] = {}
    while not info.get("_episode", np.zeros(1))[0]:
        *_, info = env.step(np.tile(action, (ROWS, 1)))
    assert info["episode"]["r"][0] == pytest.approx(returned)
    assert info["episode"]["l"][0] == length


@each_mode
def test_observations_and_actions_lie_in_their_spaces(mode: AutoresetMode) -> None:
    env = toy_vector(mode=mode)
    seen, _ = env.reset(seed=0)
    for _ in range(12):
        assert seen in env.observation_space
        actions = env.action_space.sample()
        assert actions in env.action_space
        seen, reward, terminated, truncated, _ = step = env.step(actions)
        assert [str(value.dtype) for value in (reward, terminated, truncated)] == [
            "float64",
            "bool",
            "bool",
        ]
        if mode is AutoresetMode.DISABLED:
            restart_ended(env, step)


# --- memory and generators ---


@pytest.mark.parametrize("output", ["numpy", "torch"])
@each_mode
def test_what_is_handed_out_is_never_touched_again_and_may_be_written_to(
    mode: AutoresetMode, output: str
) -> None:
    env, twin = toy_vector(mode=mode, output=output), toy_vector(mode=mode, output=output)
    given: Any = env.reset(seed=1)
    twin.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(8):
        actions = rng.integers(31, size=(ROWS, 4))
        step, expected = env.step(actions), twin.step(actions)
        for one, other in zip(leaves(step), leaves(expected), strict=True):
            np.testing.assert_array_equal(one, other)
        assert_no_shared_memory(step, given)
        if mode is AutoresetMode.DISABLED:
            restart_ended(env, tuple(map(numbers, step)))
            restart_ended(twin, tuple(map(numbers, expected)))
        for value in leaves(step):
            value.fill(0)
        given = step


def test_no_global_generator_moves() -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    env = toy_vector()
    env.reset()
    for _ in range(10):
        env.step(np.array([[1, 2, 4, 5]] * ROWS))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]  # noqa: NPY002


def test_without_a_seed_the_rows_differ_and_come_from_np_random() -> None:
    seeds = []
    for _ in range(2):
        env = toy_vector()
        env.np_random = np.random.default_rng(4)
        env.reset()
        seeds.append(env.simulator.episodes.seed.tolist())
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == ROWS


# --- errors, each before anything changes ---

ACTIONS = np.tile([1, 2, 4, 5], (ROWS, 1))


@pytest.mark.parametrize("tensor", [False, True], ids=["array", "tensor"])
@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        (ACTIONS[:4], ValueError, r"actions has the shape \(4, 4\), but it must be \(5, 4\)"),
        (ACTIONS[0], ValueError, r"actions has the shape \(4,\), but"),
        (ACTIONS + 0.5, TypeError, "actions has the dtype float64"),
        (ACTIONS * np.nan, TypeError, "actions has the dtype float64"),
        (
            ACTIONS + 27,
            ValueError,
            r"actions holds 31 at \[0, 2\], but an item is a number from 0 to 30",
        ),
        (ACTIONS - 2, ValueError, r"actions holds -1 at \[0, 0\]"),
    ],
)
def test_bad_actions_raise(
    actions: Any, error: type[Exception], message: str, tensor: bool
) -> None:
    env, twin = toy_vector(), toy_vector()
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(error, match=message):
        env.step(torch.from_numpy(actions) if tensor else actions)
    assert_same(env.step(ACTIONS), twin.step(ACTIONS))


def test_before_reset() -> None:
    env = toy_vector()
    with pytest.raises(ResetNeeded, match="was not reset"):
        env.step(ACTIONS)
    with pytest.raises(ResetNeeded, match="the first reset must start every row"):
        env.reset(options={"reset_mask": np.array([True, False, False, False, False])})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": [1, 2]}, r"seed is \[1, 2\], but it must be one whole number or 5 of them"),
        ({"seed": [1, 2, None, 4, 5]}, r"seed\[2\] is None, but it must be a whole number from 0"),
        (
            {"seed": 2**63 - 2},
            "seed is 9223372036854775806, but it must be a whole number from 0 to "
            "9223372036854775803, or a",
        ),
        ({"seed": "1"}, "seed is '1', but it must be"),
        (
            {"options": {"mask": 1}},
            r"options has the keys \['mask'\], but reset knows \['reset_mask'\]",
        ),
        (
            {"options": {"reset_mask": [True] * 5}},
            r"is \[True, True, True, True, True\], but it must be bool of shape",
        ),
        (
            {"options": {"reset_mask": np.ones(4, dtype=bool)}},
            r"is a bool array of shape \(4,\), but it must be bool of shape",
        ),
        ({"options": {"reset_mask": np.ones(5)}}, r"is a float64 array of shape \(5,\)"),
        ({"options": {"reset_mask": np.zeros(5, dtype=bool)}}, "is False everywhere"),
    ],
)
def test_a_bad_reset_raises(arguments: dict[str, Any], message: str) -> None:
    env, twin = toy_vector(), toy_vector()
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(**arguments)
    assert_same(env.reset(), twin.reset())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0, but it must be a whole number of 1 or more"),
        ({"num_envs": 2.0}, "num_envs is 2.0"),
        ({"output": "jax"}, "output is 'jax', but it must be one of 'numpy', 'torch'"),
        (
            {"autoreset_mode": "never"},
            "autoreset_mode is 'never', but it must be an AutoresetMode or one of",
        ),
        ({"render_mode": "human"}, "render_mode is 'human', but"),
    ],
)
def test_bad_settings_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlateVectorEnv(toy_simulator(), **arguments)
