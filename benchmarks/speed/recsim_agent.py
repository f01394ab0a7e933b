"""RecSim's own learning agent on RecSim's own environment, as a user of RecSim would run it.

RecSim (Ie et al. 2019, `pip install recsim-no-tf six`) has two agents that learn from one episode
to the next and run without TensorFlow 1; this is its tabular Q-learning, at its defaults, in its
environment of long-term satisfaction: sweet documents engage at once and wear the user out,
wholesome ones the other way round. SARDINE has no agent that learns, so it is not here (ours learn
on it in `benchmarks.agents.sardine`).
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from agents.ppo.randomness import PrivateRandomness

CANDIDATES = 10
"""Number of documents of a visit, of which one is shown; they are drawn anew at every visit."""
Choice = Callable[[float, Any], Any]
"""Gives the slate, from the last reward and the observation."""


@contextmanager
def as_it_was_written(randomness: PrivateRandomness) -> Iterator[None]:
    """Let RecSim run inside the block as it was written for an older numpy.

    RecSim draws from numpy's library-wide generator, of which it gets a state of its own, and asks
    for `numpy.Inf`, a name that NumPy 2 took away and that is there meanwhile.
    """
    missing = not hasattr(np, "Inf")
    if missing:
        cast(Any, np).Inf = np.inf
    try:
        with randomness(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if missing:
            del cast(Any, np).Inf


class RecSimTraining:
    """RecSim's tabular Q-learning, and the two policies that it is measured by.

    `random` shows any document, `greedy` the sweetest one.

    Raises:
        ModuleNotFoundError: If `recsim-no-tf` or `six` is not installed.
    """

    def __init__(self, seed: int) -> None:
        self._randomness = PrivateRandomness()
        with as_it_was_written(self._randomness):
            agents: Any = importlib.import_module("recsim.agents.tabular_q_agent")
            self._env, self._judging = environment(seed + 1), environment(0)
            self._agent: Any = agents.TabularQAgent(
                self._env.observation_space, self._env.action_space
            )
        self._seed = seed
        self._episodes = 0
        self.steps = 0
        self.seconds = 0.0

    def learn(self, episodes: int) -> None:
        """Train for some more episodes; `steps` and `seconds` (of the wall clock) count them."""
        began = time.perf_counter()
        with as_it_was_written(self._randomness):
            for _ in range(episodes):
                first = 1_000_000 * (self._seed + 1) + self._episodes
                _, steps = play(self._env, self._agent.step, first, self._agent.end_episode)
                self._episodes, self.steps = self._episodes + 1, self.steps + steps
        self.seconds += time.perf_counter() - began

    def returns(self, who: str, episodes: int) -> list[float]:
        """The returns of some episodes, which are the same for all and none of training's.

        Args:
            who: `random`, `greedy` or `agent`, which does not learn meanwhile.
            episodes: The number of episodes.
        """
        generator = np.random.default_rng(0)
        choices: dict[str, Choice] = {
            "random": lambda reward, seen: [int(generator.integers(CANDIDATES))],
            "greedy": lambda reward, seen: [
                int(np.argmax([float(value[0]) for value in seen["doc"].values()]))
            ],
            "agent": self._agent.step,
        }
        self._judging.reset_sampler()
        self._agent._eval_mode = (
            True  # RecSim's runner makes a second agent for it, from the first one's checkpoint
        )
        try:
            with as_it_was_written(self._randomness):
                return [
                    play(self._judging, choices[who], episode)[0] for episode in range(episodes)
                ]
        finally:
            self._agent._eval_mode = False


def environment(seed: int) -> Any:
    """Make RecSim's environment of long-term satisfaction with a seed of one's own."""
    world: Any = importlib.import_module("recsim.environments.long_term_satisfaction")
    users = world.LTSUserModel(
        1, user_state_ctor=world.LTSUserState, response_model_ctor=world.LTSResponse, seed=seed
    )
    documents = world.LTSDocumentSampler(seed=seed)
    shop = world.environment.Environment(users, documents, CANDIDATES, 1, resample_documents=True)
    return world.recsim_gym.RecSimGymEnv(shop, world.clicked_engagement_reward)


def play(
    env: Any, choose: Choice, seed: int, end: Callable[[float, Any], None] | None = None
) -> tuple[float, int]:
    """Play an episode; its return and number of steps. `end` is told the last reward."""
    env.seed(seed)
    seen, reward, total, steps, done = env.reset(), 0.0, 0.0, 0, False
    while not done:
        seen, reward, done, _ = env.step(choose(reward, seen))
        total, steps = total + float(reward), steps + 1
    if end is not None:
        end(reward, seen)
    return total, steps
