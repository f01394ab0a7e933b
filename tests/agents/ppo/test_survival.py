"""Training weighted by survival: the same expected return as dropping shoppers when they leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents.evaluate import evaluate
from agents.ppo.algorithm import make_ppo
from agents.ppo.config import PPOConfig
from agents.ppo.torch_vec_env import TrainingRewards
from agents.ppo.vec_env import ROULETTE, IntentVecEnv, SlateVecEnv, TrainingReward
from policies import POLICIES
from policies.composer import Composer, ComposerConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env import make_simulator
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation
from tests.support.policy_toys import toy_inputs
from tests.support.toys import ToyShopper, responses_of, toy_simulator


def environment(
    simulator: SlateSimulator, rows: int, reward: TrainingReward, face: Any = IntentVecEnv
) -> Any:
    composer = Composer(toy_inputs(simulator), ComposerConfig(offset_dims=0))
    return face(simulator, composer, rows, 0, reward)


def returns_of_first_episodes(env: Any) -> np.ndarray:
    """The sum of the rewards to learn from in each row's first episode, under greedy slates."""
    env = TrainingRewards(env)
    env.reset()
    total, running = np.zeros(env.num_envs), np.ones(env.num_envs, dtype=bool)
    while running.any():
        env.step_async(np.zeros((env.num_envs, env.composer.intent_size), dtype=np.float32))
        _, rewards, done, _ = env.step_wait()
        total += rewards * running
        running &= ~done
    return total


def toy(lapse: float) -> SlateSimulator:
    return toy_simulator(lapse=lapse, horizon_days=60.0)


def market(lapse: float) -> SlateSimulator:
    return make_simulator("recsim_env/Market-v0", device="cpu", horizon_days=12.0)


@pytest.mark.parametrize("make", [toy, market])
def test_the_expected_return_is_that_of_shoppers_who_leave(make: Any) -> None:
    rows = 3000
    plain = returns_of_first_episodes(
        environment(make(0.3), rows, TrainingReward(1.0, expected_clicks=False))
    )
    weighted = returns_of_first_episodes(
        environment(make(0.3), rows, TrainingReward(1.0, survival=True))
    )
    error = (plain.var() / rows + weighted.var() / rows) ** 0.5
    assert abs(plain.mean() - weighted.mean()) < 3.5 * error
    assert weighted.var() < plain.var()


def test_a_reward_is_weighted_by_the_chance_to_be_there() -> None:
    env: Any = TrainingRewards(
        environment(toy(0.5), 64, TrainingReward(1.0, expected_clicks=False, survival=True))
    )
    seen = env.reset()
    assert (seen[:, -1] == 1).all()
    intents = np.zeros((64, env.composer.intent_size), dtype=np.float32)
    answers = responses_of(env.simulator)
    first, _, _, _ = env.step(intents)
    answer = answers[-1]
    np.testing.assert_allclose(first[:, -1], 1 - 0.5 * (~answer.clicks.any(dim=1)).float().numpy())
    before = first[:, -1]
    _, rewards, _, _ = env.step(intents)
    slates = env.simulator.episodes.recent_slates[:, 0]
    clicks = answers[-1].clicks.sum(dim=1)
    shown = (slates.clamp(min=0), slates >= 0, answers[-1])
    told = env.simulator._reward_inputs(env.simulator.episodes, *shown, discount=None)
    distance, _ = env.simulator.reward(told)
    alive = np.isin(slates[:, 0].numpy() >= 0, True)
    expected = distance.numpy() * before
    assert clicks.sum() > 0
    np.testing.assert_allclose(rewards[alive], expected[alive], rtol=1e-5)


def test_who_became_unlikely_is_let_go_by_chance_and_nobody_falls_below_the_roulette() -> None:
    env: Any = TrainingRewards(environment(toy(0.9), 256, TrainingReward(survival=True)))
    env.reset()
    lowest, ended = 1.0, 0
    for _ in range(12):
        seen, _, done, _ = env.step(np.zeros((256, env.composer.intent_size), dtype=np.float32))
        lowest, ended = min(lowest, float(seen[:, -1].min())), ended + int(done.sum())
    assert lowest == pytest.approx(ROULETTE)
    assert ended > 0


@pytest.mark.parametrize("face", [IntentVecEnv, SlateVecEnv])
def test_the_value_is_proportional_to_survival(face: Any) -> None:
    env = environment(toy(0.3), 4, TrainingReward(survival=True), face)
    kind = "composer" if face is IntentVecEnv else "plackett_luce"
    model = make_ppo(kind, env, PPOConfig(n_steps=4, batch_size=16), NetworkConfig(), seed=0)
    seen: Any = model.policy.obs_to_tensor(env.reset())[0]
    full = model.policy.predict_values(seen)

    def at(observation: Any, survival: float) -> Observation | torch.Tensor:
        if isinstance(observation, dict):
            return {**observation, "survival": torch.full_like(observation["survival"], survival)}
        return torch.cat(
            [observation[:, :-1], torch.full_like(observation[:, -1:], survival)], dim=1
        )

    torch.testing.assert_close(model.policy.predict_values(at(seen, 0.25)), 0.25 * full)
    assert full.abs().min() > 0


def test_cohorts_tell_return_visits_and_lapses_of_shoppers_who_leave() -> None:
    rows = 2000
    env = environment(toy(0.3), rows, TrainingReward(survival=True))
    learned, statistics = TrainingRewards(env), {"": 0.0}
    learned.reset()
    env.pop_statistics()  # the cohort of those who begin together
    statistics.clear()
    while not statistics:
        learned.step(np.zeros((rows, env.composer.intent_size), dtype=np.float32))
        statistics = env.pop_statistics()
    simulator = toy(0.3)
    greedy = POLICIES["reward_greedy"].build(toy_inputs(simulator))
    played = evaluate(greedy, simulator, torch.arange(rows), batch=rows).rows
    for name in ("return", "visits", "lapsed", "clicks"):
        true = played[name].cast(float).to_numpy()
        error = (2 * true.var() / rows) ** 0.5  # weighted episodes vary less
        assert abs(statistics[name] - true.mean()) < 3.5 * error, name


def test_survival_is_switched_off_where_nobody_tells_the_chance_of_leaving(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Mute(ToyShopper):
        tells_leaving = False

    env = environment(SlateSimulator(Mute()), 4, TrainingReward(survival=True, scale=0.5))
    assert not env.weighs_survival
    told = capsys.readouterr().err
    assert told.startswith("Rewards are not weighted by survival: Mute does not tell how likely")
    plain = environment(SlateSimulator(Mute()), 4, TrainingReward(scale=0.5))
    assert capsys.readouterr().err == ""
    assert env.observation_space == plain.observation_space


def test_the_fine_tuned_shoppers_say_how_likely_they_lapse_and_can_stay() -> None:
    def lapses(stay: bool) -> tuple[float, float]:
        simulator = make_simulator("recsim_env/CompleteJourney-v0", device="cpu")
        observation = simulator.reset(torch.arange(256), staying=stay)
        left = chance = 0.0
        for _ in range(4):
            step = simulator.step(observation["candidates"][:, :10], validate=False)
            observation = step.observation
            assert step.response.leaving is not None
            left += float(step.response.left.float().sum())
            chance += float(step.response.leaving.sum())
        return left, chance

    left, chance = lapses(stay=False)
    assert abs(left - chance) < 4 * chance**0.5  # a sum of rare events
    assert chance > 5
    assert lapses(stay=True)[0] == 0
