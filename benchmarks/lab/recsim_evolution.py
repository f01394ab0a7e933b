"""RecSim's interest evolution as an outside environment, and the rule that knows its quality.

RecSim (Ie et al. 2019, `pip install recsim-no-tf six`) shows videos of twenty topics. A user has an
interest in each, and a budget of time that what is watched uses up; the better a video is, the less
of it. The topics that are watched for are not the good ones, so whoever shows what is clicked loses
the user early. RecSim makes new videos at every visit, but a shop has a catalogue: the same 200
videos are dealt here like cards, ten of them at a visit, three of which are shown.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from policies.observations import candidates_of
from policies.slates import top_slates
from recsim_env.shoppers.outside import OutsideSpec
from recsim_env.shoppers.outside_catalog import topical_catalog
from recsim_env.types import Observation

VIDEOS, OFFERED, SLATE = 200, 10, 3
"""Number of videos, of those that may be shown at a visit, and of those that are."""
VISITS = 300
"""Steps after which an episode is cut off; users are gone before."""


class FromGym(gymnasium.Env[Any, Any]):
    """RecSim's environment as Gymnasium has it, with random numbers of its own.

    RecSim was written for an older gym, and draws from numpy's library-wide generator.

    Args:
        make: makes the environment of the older gym
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._numbers: Any = np.random.MT19937(0).state
        with self._own_numbers():
            self._old = make()
        sizes = np.array(self._old.action_space.nvec, dtype=np.int64)
        self.action_space = gymnasium.spaces.MultiDiscrete(sizes)

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        before = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._numbers)  # noqa: NPY002
        try:
            yield
        finally:
            self._numbers = np.random.get_state()  # noqa: NPY002
            np.random.set_state(before)  # noqa: NPY002

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin with a new user, who depends on the seed alone where there is one."""
        super().reset(seed=seed)
        if seed is not None:
            self._numbers = np.random.MT19937(seed).state
        with self._own_numbers():
            if seed is not None:
                shop = self._old.environment
                shop.user_model._user_sampler._seed = shop._document_sampler._seed = seed
                self._old.reset_sampler()
            return self._old.reset(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Show the videos at some places of the offer."""
        with self._own_numbers():
            observation, reward, done, info = self._old.step(action)
        return observation, float(reward), bool(done), False, info


def _module(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older gym
        return importlib.import_module(name)


def evolution() -> tuple[OutsideSpec, Tensor]:
    """What the adapter needs to know of it, and the quality (N,) of each video, which it does not.

    Raises:
        ModuleNotFoundError: If `recsim-no-tf` or `six` is not installed.
    """
    world, choice = (
        _module("recsim.environments.interest_evolution"),
        _module("recsim.choice_model"),
    )
    shops, gyms = _module("recsim.simulator.environment"), _module("recsim.simulator.recsim_gym")
    sampler = world.UtilityModelVideoSampler(seed=0)
    videos = [sampler.sample_document() for _ in range(VIDEOS)]

    class Dealt(world.UtilityModelVideoSampler):  # type: ignore[misc, name-defined]
        """Deals the videos like cards, so that those of an offer are distinct."""

        def reset_sampler(self) -> None:
            super().reset_sampler()
            self.cards: list[int] = []

        def sample_document(self) -> Any:
            if not self.cards:
                self.cards = self._rng.permutation(VIDEOS).tolist()
            return videos[self.cards.pop()]

    def make() -> Any:
        user = world.IEvUserModel(
            SLATE,
            choice_model_ctor=choice.MultinomialProportionalChoiceModel,
            user_state_ctor=world.IEvUserState,
        )
        shop = shops.Environment(user, Dealt(), num_candidates=OFFERED, slate_size=SLATE)
        return gyms.RecSimGymEnv(shop, world.total_clicks_reward)

    topics = np.stack([video.create_observation() for video in videos]).astype(np.float32)
    spec = OutsideSpec(
        make=lambda: FromGym(make),
        catalog=topical_catalog(torch.from_numpy(topics)),
        visits=VISITS,
        clicks=lambda observation, info: [each["click"] for each in observation["response"]],
        candidates=lambda observation, info: [int(name) for name in observation["doc"]],
        most_candidates=OFFERED,
        places=True,
    )
    return spec, torch.tensor([video.quality for video in videos], dtype=torch.float32)


class QualityRule:
    """Shows the candidates of the highest quality, which no policy of a shop can know.

    Args:
        quality: (N,) of each video
    """

    draws = 0

    def __init__(self, quality: Tensor) -> None:
        self._quality = quality

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Show the best (B, K)."""
        candidates = candidates_of(observation, len(self._quality))
        return top_slates(self._quality[candidates.clamp(min=0)], candidates, SLATE)
