"""Play survives the way into a Minari dataset and back into a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import polars as pl
import pytest
import torch

from policies import POLICIES, PolicyInputs
from recsim_env.logs.minari_data import acting, collect, log_of, write_minari
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.vector import SlateVectorEnv

minari = pytest.importorskip("minari", reason="needs the extra `offline`")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def market(num_envs: int = 8, env: str = "recsim_env/Market-v0", **options: Any) -> Any:
    return gymnasium.make_vec(env, num_envs=num_envs, horizon_days=6, slate_size=4, **options)


def uniform(envs: Any) -> Any:
    simulator = envs.unwrapped.simulator
    inputs = PolicyInputs(simulator.catalog, simulator.observation_space, simulator.slate_size)
    return POLICIES["uniform"].build(inputs)


def test_a_dataset_becomes_the_log_that_the_same_seeds_record() -> None:
    envs = market()
    policy = uniform(envs)
    dataset = write_minari("shop/uniform-v0", envs, acting(policy, envs), seed=5, algorithm="even")
    assert dataset.total_episodes == 8
    table, declared = log_of(minari.load_dataset("shop/uniform-v0"), split="test")
    simulator = envs.unwrapped.simulator
    seeds = torch.arange(5, 13)
    recorded, _ = record(simulator, policy, seeds, policy_name="even")
    same = pl.coalesce("click", "purchase").alias("click"), pl.lit(None).alias("purchase")
    assert table.equals(recorded.with_columns(*same).cast(table.schema))
    assert table["gap"].null_count() > 0, "somebody left"
    said = simulator.reset(seeds)["declared"]
    assert declared is not None
    assert declared["declared"].to_list() == [pytest.approx(row.tolist()) for row in said]
    assert Sessions.of(table, declared).n_slates == len(recorded)


def test_the_environment_is_recovered_with_its_options() -> None:
    envs = market(world=3)
    dataset = write_minari("shop/world-v0", envs, acting(uniform(envs), envs))
    env: Any = minari.load_dataset("shop/world-v0").recover_environment()
    assert torch.equal(
        env.unwrapped.simulator.catalog.embedding, envs.unwrapped.simulator.catalog.embedding
    )
    assert env.observation_space == dataset.observation_space == envs.single_observation_space
    assert env.action_space == dataset.action_space == envs.single_action_space

    # The actions of an episode lead to the same rewards again.
    for episode in dataset.sample_episodes(2):
        seed = dataset.storage.get_episode_metadata([episode.id])
        env.reset(seed=next(iter(seed))["seed"])
        again = [env.step(action)[1] for action in episode.actions]
        assert again == episode.rewards.tolist()


def test_every_row_plays_as_many_episodes() -> None:
    envs = market(num_envs=3)
    episodes = collect(envs, acting(uniform(envs), envs), rounds=2)
    assert len(episodes) == 6
    assert [episode.seed for episode in episodes] == [0, None, 1, None, 2, None]
    for episode in episodes:
        assert isinstance(episode.observations, dict)
        assert isinstance(episode.actions, np.ndarray)
        assert len(episode.observations["recent_slates"]) == len(episode.actions) + 1
        assert [
            bool(a or b) for a, b in zip(episode.terminations, episode.truncations, strict=True)
        ] == [
            *([False] * (len(episode) - 1)),
            True,
        ]
        first, last = (episode.observations["recent_slates"][at] for at in (0, 1))
        assert (first == -1).all()
        assert (last[0] >= 0).all()


def test_what_cannot_be_is_told() -> None:
    envs = market(num_envs=1)
    act = acting(uniform(envs), envs)
    write_minari("shop/twice-v0", envs, act)
    with pytest.raises(ValueError, match="dataset_id is 'shop/twice-v0', but there is"):
        write_minari("shop/twice-v0", envs, act)
    with pytest.raises(ValueError, match="envs has no specification, but gym"):
        write_minari("shop/other-v0", SlateVectorEnv("recsim_env/Market-v0", 1), act)
    with pytest.raises(ValueError, match="rounds is 0"):
        write_minari("shop/other-v0", envs, act, rounds=0)
    same = market(num_envs=1, autoreset_mode="SameStep")
    with pytest.raises(ValueError, match="autoreset_mode of envs is SAME_STEP, but it must be"):
        write_minari("shop/other-v0", same, act)
    assert list(minari.list_local_datasets()) == ["shop/twice-v0"]
    with pytest.raises(TypeError, match="policy is 3, but it must be a Policy"):
        acting(3, envs)  # type: ignore[arg-type]


def test_datasets_that_are_no_log_are_told() -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=1, vectorization_mode="sync")
    act = lambda seen: np.ones(len(seen), dtype=np.int64)  # noqa: E731
    with pytest.raises(ValueError, match=r"envs is .*, but a policy of slates plays in a Slate"):
        acting(uniform(market()), envs)
    poles = write_minari("poles-v0", envs, act)
    with pytest.raises(ValueError, match="dataset has observations without 'recent_slates', but"):
        log_of(poles)
    visits = market(num_envs=1, env="recsim_env/MarketVisit-v0")
    carts = write_minari("visits-v0", visits, acting(uniform(visits), visits))
    with pytest.raises(ValueError, match="dataset is of whole visits, whose clicks go into a cart"):
        log_of(carts)
