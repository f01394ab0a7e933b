"""Rollouts that stay on the device have the numbers, minibatches, callbacks and files of SB3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from torch import Tensor

from agents.ppo.algorithm import StockPPO, look_around, make_ppo, make_stock_ppo
from agents.ppo.config import PPOConfig
from agents.ppo.device_ppo import DevicePPO
from agents.ppo.goals import face_for
from agents.ppo.randomness import PrivateRandomness
from agents.ppo.rollout_buffer import DeviceRolloutBuffer
from agents.ppo.torch_vec_env import BatchObservation, BatchStep, FinishedEpisodes, TorchVecEnv
from agents.ppo.vec_env import IntentVecEnv, TrainingReward
from policies.composer import Composer, ComposerConfig
from policies.learnable.kinds import LEARNABLE
from policies.learnable.sb3 import NetworkConfig
from recsim_env import make_simulator, noise
from recsim_env.graphs import GraphedSimulator
from recsim_env.simulator import SlateSimulator
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

HORIZON = 5


class Chase(TorchVecEnv):
    """Two random numbers are observed; the reward is 1 - (action - first number) squared.

    Episodes have `HORIZON` steps, the rows begin at different ones. Even rows are cut off at the
    end, odd ones end.
    """

    def __init__(self, rows: int = 8) -> None:
        seen, acted = (spaces.Box(-1, 1, (width,), np.float32) for width in (2, 1))
        super().__init__(rows, seen, acted, torch.device("cpu"))
        self.acted: list[Tensor] = []

    def reset_tensors(self) -> BatchObservation:
        self.clock, self.sums = 0, torch.zeros(self.num_envs)
        self.age = torch.arange(self.num_envs) % HORIZON
        return self.look()

    def look(self) -> Tensor:
        keys = noise.episode_key(
            torch.arange(self.num_envs), torch.zeros(self.num_envs, dtype=torch.int64)
        )
        self.now = 2 * noise.uniform(keys, self.clock, 2) - 1
        return self.now

    def step_tensors(self, actions: Tensor) -> BatchStep:
        self.acted.append(actions)
        rewards = 1 - (actions[:, 0] - self.now[:, 0]).square()
        self.clock, self.age, self.sums = self.clock + 1, self.age + 1, self.sums + rewards
        ended, seen, ends = self.age == HORIZON, self.look(), None
        rows = ended.nonzero().squeeze(1)
        if len(rows):
            ends = FinishedEpisodes(
                rows,
                rows % 2 == 0,
                self.sums[rows],
                self.age[rows].float(),
                lambda which: -seen[rows[which]],
            )
            self.age, self.sums = self.age.where(~ended, 0), self.sums.where(~ended, 0.0)
        return BatchStep(seen, rewards, ended, ends)


@pytest.fixture(autouse=True)
def _private_generators() -> Iterator[None]:
    """SB3 seeds and draws from the global generators; the other tests see nothing of it."""
    with PrivateRandomness()():
        yield


def chaser(algorithm: type[PPO] = DevicePPO, rows: int = 8, **options: Any) -> Any:
    options = {"n_steps": 6, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu", **options}
    return algorithm("MlpPolicy", Chase(rows), **options)


# ---- the buffer ----------------------------------------------------------------------------------

FLAT = spaces.Box(-1, 1, (3,), np.float32)
NAMED = spaces.Dict({"features": FLAT, "pool": spaces.Box(-1, 9, (2, 2), np.int64)})
SLATES = spaces.MultiDiscrete([9, 9])


def filled(
    space: spaces.Space[Any], steps: int = 7, rows: int = 5
) -> tuple[RolloutBuffer, DeviceRolloutBuffer]:
    """SB3's buffer and ours after the same made-up rollout."""
    stock: Any = DictRolloutBuffer if isinstance(space, spaces.Dict) else RolloutBuffer
    options: Any = {"device": "cpu", "gamma": 0.9, "gae_lambda": 0.7, "n_envs": rows}
    theirs, ours = (
        stock(steps, space, SLATES, **options),
        DeviceRolloutBuffer(steps, space, SLATES, **options),
    )
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator)

    for _ in range(steps):
        pool = torch.randint(-1, 9, (rows, 2, 2), generator=generator)
        seen: Any = (
            {"features": numbers(3), "pool": pool} if isinstance(space, spaces.Dict) else numbers(3)
        )
        actions = torch.randint(0, 9, (rows, 2), generator=generator)
        rewards, starts, values, log_probs = numbers(), numbers() > 0.5, numbers(1), numbers()
        arrays: Any = (
            {name: part.numpy() for name, part in seen.items()}
            if isinstance(seen, dict)
            else seen.numpy()
        )
        theirs.add(arrays, actions.numpy(), rewards.numpy(), starts.numpy(), values, log_probs)
        ours.add(seen, actions, rewards, starts, values, log_probs)
    last, done = numbers(1), numbers() > 0.5
    theirs.compute_returns_and_advantage(last, done.numpy())
    ours.compute_returns_and_advantage(last, done)
    return theirs, ours


def test_advantages_and_returns_are_those_of_sb3() -> None:
    theirs, ours = filled(FLAT)
    for name in (
        "advantages",
        "returns",
        "rewards",
        "values",
        "log_probs",
        "episode_starts",
        "actions",
        "observations",
    ):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-6)


def test_advantages_by_hand() -> None:
    buffer = DeviceRolloutBuffer(2, FLAT, SLATES, "cpu", gae_lambda=0.5, gamma=0.9, n_envs=2)
    nothing = torch.zeros(2, 3), torch.zeros(2, 2)
    ended = torch.tensor([False, True])  # the second row's first step ended its episode
    buffer.add(
        *nothing,
        torch.tensor([1.0, 2.0]),
        torch.tensor([True, True]),
        torch.tensor([3.0, 4.0]),
        torch.zeros(2),
    )
    buffer.add(*nothing, torch.tensor([5.0, 6.0]), ended, torch.tensor([7.0, 8.0]), torch.zeros(2))
    buffer.compute_returns_and_advantage(torch.tensor([[9.0], [10.0]]), torch.tensor([False, True]))
    second = [5 + 0.9 * 9 - 7, 6 - 8]
    first = [1 + 0.9 * 7 - 3 + 0.9 * 0.5 * second[0], 2 - 4]
    np.testing.assert_allclose(buffer.advantages, [first, second], rtol=1e-6)
    np.testing.assert_allclose(
        buffer.returns, [[first[0] + 3, first[1] + 4], [second[0] + 7, second[1] + 8]], rtol=1e-6
    )


@pytest.mark.parametrize("space", [FLAT, NAMED])
@pytest.mark.parametrize("batch_size", [None, 8, 35])
def test_minibatches_are_those_of_sb3(space: spaces.Space[Any], batch_size: int | None) -> None:
    theirs, ours = filled(space)
    one, two = PrivateRandomness(), PrivateRandomness()  # the same state twice
    for _ in range(2):  # epochs
        with one():
            expected = list(theirs.get(batch_size))
        with two():
            found = list(ours.get(batch_size))
        assert len(found) == len(expected)
        for mine, sb3 in zip(found, expected, strict=True):
            assert type(mine) is type(sb3)
            for name, value in sb3._asdict().items():
                given = getattr(mine, name)
                parts = (
                    zip(given.values(), value.values(), strict=True)
                    if isinstance(value, dict)
                    else [(given, value)]
                )
                for part, other in parts:
                    torch.testing.assert_close(part, other, rtol=1e-6, atol=1e-6)


def test_every_sample_comes_once_an_epoch() -> None:
    _, ours = filled(FLAT)
    for _ in range(2):
        drawn = torch.cat([batch.old_log_prob for batch in ours.get(8)])
        assert torch.equal(drawn.sort().values, ours.kept["log_probs"].flatten().sort().values)
    ours.reset()
    with pytest.raises(AssertionError, match="complete"):
        next(ours.get(8))


# ---- the loop is SB3's ---------------------------------------------------------------------------


def slate_model(make: Any, kind: str, survival: bool) -> StockPPO:
    simulator = (
        make_simulator("recsim_env/Market-v0", device="cpu", horizon_days=6.0)
        if survival
        else toy_simulator(items=40, horizon_days=40.0)
    )
    composer = Composer(toy_inputs(simulator), ComposerConfig(pool=12))
    env = face_for(kind)(simulator, composer, 16, 0, TrainingReward(survival=survival))
    network = NetworkConfig((16,), (16,))
    model: StockPPO = make(
        kind, env, PPOConfig(n_steps=10, batch_size=40, n_epochs=2), network, seed=0
    )
    look_around(model)
    return model


@pytest.mark.parametrize("survival", [False, True])
@pytest.mark.parametrize("kind", [name for name, kind in LEARNABLE.items() if not kind.goals])
def test_slate_rollouts_and_updates_are_those_of_the_stock_loop(kind: str, survival: bool) -> None:
    ours, stock = slate_model(make_ppo, kind, survival), slate_model(make_stock_ppo, kind, survival)
    assert type(stock.rollout_buffer) in (RolloutBuffer, DictRolloutBuffer)
    for update in range(2):
        for model in (ours, stock):
            model.learn(160, reset_num_timesteps=update == 0)
        for name in ("rewards", "actions", "values", "log_probs", "advantages", "returns"):
            array = getattr(
                stock.rollout_buffer, name
            )  # SB3 flattened it, environment by environment
            own = getattr(ours.rollout_buffer, name)
            own = own.swapaxes(0, 1).reshape(160, *own.shape[2:]) if len(array) == 160 else own
            np.testing.assert_allclose(own.reshape(array.shape), array, rtol=1e-5, atol=1e-5)
        for one, other in zip(ours.policy.parameters(), stock.policy.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class Kept(KVWriter):
    """What is logged, a dictionary a dump."""

    def __init__(self) -> None:
        self.dumps: list[dict[str, Any]] = []

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        self.dumps.append(dict(key_values))

    def close(self) -> None:
        pass


def test_a_whole_training_logs_what_sb3_logs() -> None:
    logs = []
    for algorithm in (DevicePPO, PPO):
        with PrivateRandomness()():
            model, kept = chaser(algorithm), Kept()
            model.set_logger(Logger(None, [kept]))
            model.learn(8 * 6 * 4)
        logs.append(kept.dumps)
    ours, stock = logs
    assert [dump.keys() for dump in ours] == [dump.keys() for dump in stock]
    assert {
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "time/fps",
        "time/total_timesteps",
    } <= ours[-1].keys()
    for name in ours[-1].keys() - {"time/fps", "time/time_elapsed"}:
        assert ours[-1][name] == pytest.approx(stock[-1][name], rel=1e-3, abs=1e-5), name


class Diary(BaseCallback):
    """Writes down what it is called for; stops the training after so many steps."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.stop, self.events, self.rewards = stop, [""][:0], [Tensor()][:0]

    def _on_training_start(self) -> None:
        self.events.append("training start")

    def _on_rollout_start(self) -> None:
        self.events.append("rollout start")

    def _on_step(self) -> bool:
        self.events.append("step")
        assert {
            "new_obs",
            "rewards",
            "dones",
            "actions",
            "values",
            "log_probs",
            "batch_step",
            "env",
        } <= self.locals.keys()
        self.rewards.append(torch.as_tensor(self.locals["rewards"]).clone())
        return self.stop is None or len(self.rewards) < self.stop

    def _on_rollout_end(self) -> None:
        self.events.append("rollout end")

    def _on_training_end(self) -> None:
        self.events.append("training end")


def test_callbacks_are_called_as_in_sb3() -> None:
    model, diary = chaser(), Diary()
    model.learn(8 * 6 * 2, diary)
    rollout = ["rollout start", *["step"] * 6, "rollout end"]
    assert diary.events == ["training start", *rollout, *rollout, "training end"]
    assert model.num_timesteps == 8 * 6 * 2


def test_a_callback_stops_the_training() -> None:
    model, diary = chaser(), Diary(stop=8)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(8 * 6 * 4, diary)
    assert diary.events.count("rollout end") == 1
    assert diary.events[-1] == "training end"
    assert model.num_timesteps == 8 * 8
    assert model._n_updates == 2  # epochs of the one rollout that was complete
    assert any(
        not torch.equal(old, new)
        for old, new in zip(before, model.policy.parameters(), strict=True)
    )
    assert len(model.ep_info_buffer) == sum((row % HORIZON + 7) // HORIZON for row in range(8))


def test_a_cut_off_episode_is_bootstrapped_and_one_that_ended_is_not() -> None:
    model = chaser(gamma=0.5)
    with torch.no_grad():  # a critic that says what is seen first
        model.policy.predict_values = lambda seen: 100 * seen[:, :1]
    diary, env = Diary(), model.get_env()
    model.collect_rollouts(env, model._setup_learn(48, diary)[1], model.rollout_buffer, 6)
    added = model.rollout_buffer.rewards - torch.stack(diary.rewards).numpy()
    keys = noise.episode_key(torch.arange(8), torch.zeros(8, dtype=torch.int64))
    for step in range(6):
        last = -(2 * noise.uniform(keys, step + 1, 2) - 1)[:, 0]  # what `Chase` says was seen last
        ended = (torch.arange(8) + step + 1) % HORIZON == 0
        expected = (0.5 * 100 * last).where(ended & (torch.arange(8) % 2 == 0), 0.0)
        np.testing.assert_allclose(added[step], expected.numpy(), atol=1e-4)


def test_actions_are_cut_off_at_the_bounds_and_kept_as_drawn() -> None:
    model = chaser(policy_kwargs={"log_std_init": 2.0})
    model.learn(8 * 6)
    env = model.get_env()
    shown = torch.stack(env.acted)
    assert float(shown.abs().max()) == 1.0
    np.testing.assert_array_equal(shown.numpy(), model.rollout_buffer.actions.clip(-1, 1))


def test_what_is_saved_predicts_the_same_and_learns_on(tmp_path: Path) -> None:
    model = chaser()
    model.learn(8 * 6 * 2)
    model.save(tmp_path / "model")
    loaded = DevicePPO.load(tmp_path / "model", env=Chase(), device="cpu")
    seen: Any = Chase().reset()
    np.testing.assert_array_equal(
        loaded.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0]
    )
    loaded.learn(8 * 6, reset_num_timesteps=False)
    assert loaded.num_timesteps == 8 * 6 * 3


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(
        ValueError, match="use_sde is True, but DevicePPO takes its actions from the policy alone"
    ):
        chaser(use_sde=True)
    with pytest.raises(
        ValueError,
        match="rollout_buffer_class is RolloutBuffer, but it must be a DeviceRolloutBuffer",
    ):
        chaser(rollout_buffer_class=RolloutBuffer)
    pendulum = DevicePPO(
        "MlpPolicy", make_vec_env("Pendulum-v1"), n_steps=4, batch_size=4, device="cpu"
    )
    with pytest.raises(TypeError, match="env is a DummyVecEnv, but DevicePPO steps a TorchVecEnv"):
        pendulum.learn(4)


@pytest.mark.slow
def test_a_small_problem_is_learned_as_by_the_stock_loop() -> None:
    """The best action is the first number, which pays 1 a step; curves are compared by update."""
    curves = []
    for algorithm in (DevicePPO, PPO):
        kept = Kept()
        with PrivateRandomness()():
            model = chaser(
                algorithm, 64, n_steps=10, batch_size=160, n_epochs=8, learning_rate=5e-3, gamma=0.0
            )
            model.set_logger(Logger(None, [kept]))
            model.learn(64 * 10 * 30)
        curves.append([dump["rollout/ep_rew_mean"] / HORIZON for dump in kept.dumps])
    ours, stock = curves
    assert ours[0] < 0.5
    assert ours[-1] > 0.85
    np.testing.assert_allclose(ours, stock, atol=0.05)


@pytest.mark.gpu
def test_a_rollout_on_a_gpu_stays_there() -> None:
    simulator = toy_simulator(items=40, device="cuda")
    env = IntentVecEnv(simulator, Composer(toy_inputs(simulator), ComposerConfig(pool=12)), 64)
    model = make_ppo(
        "composer", env, PPOConfig(n_steps=8, batch_size=64), NetworkConfig(), seed=0, device="cuda"
    )
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(64 * 8)
    buffer = model.rollout_buffer
    assert isinstance(buffer, DeviceRolloutBuffer)
    assert {value.device.type for value in [*buffer.kept.values(), *buffer.kept_seen.values()]} == {
        "cuda"
    }
    assert any(
        not torch.equal(old, new)
        for old, new in zip(before, model.policy.parameters(), strict=True)
    )


@pytest.mark.gpu
def test_a_training_with_cuda_graphs_learns_the_same() -> None:
    learned = []
    for kind in (SlateSimulator, GraphedSimulator):
        toy = toy_simulator(items=40, device="cuda")
        simulator = kind(toy.shopper, toy.reward, horizon_days=toy.horizon_days)
        env = IntentVecEnv(simulator, Composer(toy_inputs(toy), ComposerConfig(pool=12)), 64)
        model = make_ppo(
            "composer",
            env,
            PPOConfig(n_steps=8, batch_size=256),
            NetworkConfig(),
            seed=0,
            device="cuda",
        )
        model.learn(64 * 8 * 3)
        learned.append(list(model.policy.parameters()))
    for usual, graphed in zip(*learned, strict=True):
        torch.testing.assert_close(usual, graphed, rtol=1e-3, atol=1e-4)
