"""A place with a belief: simulators, policies and agents have it, and a place without has not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from agents.evaluate import evaluate
from agents.folder import load_agent, save_agent
from agents.places import Site, open_place, seeds
from agents.ppo.algorithm import make_ppo
from agents.ppo.checkpoints import save
from agents.ppo.config import PPOConfig
from agents.ppo.vec_env import IntentVecEnv, TrainingReward
from policies import POLICIES
from policies.composer import Composer, ComposerConfig
from policies.learnable.sb3 import NetworkConfig
from policies.rankers.belief import BeliefRanker
from policies.rankers.two_tower import TwoTowerRanker
from recsim_env.belief.session import SessionBelief
from recsim_env.registration import PRESETS, EnvConfig, add_preset
from recsim_env.shoppers.market import MarketConfig, make_market
from recsim_env.shoppers.session.population import save_session
from recsim_env.shoppers.session.starts import Logged
from tests.recsim_env.belief.test_simulator import belief_of, believed
from tests.recsim_env.shoppers.session.test_model import GROUPS, ITEMS, SIZE, WIDTH

ID = "tests/BelievedMarket-v0"
CONFIG = MarketConfig(items=ITEMS, categories=GROUPS, width=WIDTH, favourites=2, base=-1.0)


@pytest.fixture(autouse=True)
def market() -> Iterator[None]:
    add_preset(
        ID,
        EnvConfig(
            make_market,
            {"clicks": 1.0},
            slate_size=SIZE,
            horizon_days=6,
            shopper_options={"config": CONFIG},
        ),
    )
    yield
    PRESETS.pop(ID, None)
    gymnasium.registry.pop(ID, None)


def opened(folder: Path, **options: Any) -> Site:
    told: dict[str, Any] = {"slates": 200, "mixture": "uniform", **options}
    return open_place(ID, cache=folder, device="cpu", progress=False, **told)


def test_every_simulator_of_the_place_believes_and_policies_rank_by_it(tmp_path: Path) -> None:
    plain = opened(tmp_path)
    belief = belief_of(plain.simulator().shopper)  # type: ignore[arg-type]
    site = opened(tmp_path, belief=belief)
    assert isinstance(plain.inputs.ranker, TwoTowerRanker)
    assert isinstance(site.inputs.ranker, BeliefRanker)
    for simulator in (site.simulator(), site.training(), site.judging()):
        assert simulator.belief is belief
        assert simulator.observation_space == site.inputs.observation_space
    assert plain.simulator().belief is None
    assert not believed(plain.simulator().reset(seeds(0, 2)))

    # Greedy shows the items that are believed to be clicked.
    greedy = POLICIES["greedy_ctr"].build(site.inputs)
    simulator = site.simulator()
    seen = simulator.reset(seeds(0, 8))
    expected = seen["belief_logits"].topk(SIZE, dim=1).indices
    assert torch.equal(greedy(seen, torch.zeros(8, greedy.draws)), expected)

    # The same policy earns the same, whether the shop believes anything or not.
    uniform = [POLICIES["uniform"].build(one.inputs) for one in (plain, site)]
    rows = [
        evaluate(policy, one.simulator(), 32, batch=batch).rows
        for policy, one, batch in zip(uniform, (plain, site), (32, 5), strict=True)
    ]
    assert rows[0].equals(rows[1])


def test_a_folder_of_fitted_shoppers_is_named_as_the_belief(tmp_path: Path) -> None:
    plain = opened(tmp_path)
    shopper = plain.simulator().shopper
    member = belief_of(shopper).model  # type: ignore[arg-type]
    said = Logged.newcomers(torch.zeros(1, WIDTH))
    save_session(tmp_path / "shop", shopper.catalog, [member], said)
    (tmp_path / "shop" / "shop.json").write_text(f'{{"kind": "session", "slate_size": {SIZE}}}')
    site = opened(tmp_path, belief=tmp_path / "shop")
    assert isinstance(site.belief, SessionBelief)
    assert believed(site.simulator().reset(seeds(0, 2)))


def test_an_agent_learns_with_the_belief_and_is_saved_with_its_ranker(tmp_path: Path) -> None:
    plain = opened(tmp_path)
    site = plain.believing(belief_of(plain.simulator().shopper))  # type: ignore[arg-type]
    composer = Composer(site.inputs, ComposerConfig(pool=12))
    assert "weary" in composer.knobs
    reward = replace(TrainingReward(), survival=True)
    model = make_ppo(
        "composer",
        IntentVecEnv(site.training(), composer, 8, 0, reward),
        PPOConfig(learning_rate=0.1, n_steps=4, batch_size=32, n_epochs=2),
        NetworkConfig((8,), (8,)),
        seed=0,
    )
    model.learn(64)
    save(model, tmp_path / "checkpoint.safetensors")
    save_agent(tmp_path / "agent", tmp_path / "checkpoint.safetensors", site)
    agent = load_agent(tmp_path / "agent", "cpu")
    seen = site.simulator().reset(seeds(5, 4))
    slates = agent.recommend(seen)
    assert slates.shape == (4, SIZE)
    bare = {name: value for name, value in seen.items() if name != "belief_logits"}
    with pytest.raises(ValueError, match="belief_logits"):
        agent.recommend(bare)
