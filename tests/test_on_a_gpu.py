"""Every environment, agent and policy on a GPU, and a shop's belief."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from agents import AGENTS, TrainingSetup
from policies import POLICIES
from recsim_env import make_simulator, noise
from recsim_env.belief.base import PREFIX
from recsim_env.belief.registry import load_belief
from recsim_env.registration import PRESETS
from recsim_env.simulator import SlateSimulator
from tests.agents.test_reinforce import uniform_log
from tests.support.agent_toys import QUICK, SHOPPERS, quick_steps, small_market, tensors_of
from tests.support.policy_toys import toy_inputs

pytestmark = pytest.mark.gpu
LEARNED = "recsim_env/LearnedMarket-v0"
VISITS = 10


def played(simulator: SlateSimulator, shoppers: int = 32) -> list[dict[str, Tensor]]:
    """What some visits with random slates of candidates led to, on the CPU."""
    simulator.reset(torch.arange(shoppers))
    found = []
    for _ in range(VISITS):
        at, candidates = simulator.episodes, simulator.candidates
        draws = noise.uniform(
            noise.episode_key(at.seed, at.number, stream=5), at.visit, simulator.slate_size
        )
        real = (candidates >= 0).sum(dim=1, keepdim=True)
        outcome = simulator.advance(candidates.gather(1, (draws * real).long()))
        simulator.restart(outcome.ended.nonzero().flatten())
        told = {"reward": outcome.reward, "ended": outcome.ended, **outcome.info}
        found.append({name: value.cpu() for name, value in told.items()})
    return found


@pytest.mark.parametrize("id", sorted(id for id in PRESETS if id.startswith("recsim_env/")))
def test_every_environment_plays_the_same_episodes(id: str) -> None:
    """But for a shopper or two, whose chance fell so near to a draw that rounding decided."""
    shopper = PRESETS[id].shopper
    if not callable(shopper) and not Path(shopper).is_dir():
        pytest.skip(f"{shopper} is not here")
    here, there = (played(make_simulator(id, device=device)) for device in ("cpu", "cuda"))
    same = torch.ones(32, dtype=torch.bool)
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            close = torch.isclose(value.float(), other[name].float(), 1e-3, 1e-3, equal_nan=True)
            same &= close.flatten(1).all(dim=1) if close.dim() > 1 else close
    assert int(same.sum()) >= 30


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_agent_trains_there(name: str) -> None:
    simulator = small_market("cuda")
    log = uniform_log(small_market(), 20) if AGENTS[name].needs_log else None
    setup = TrainingSetup(
        simulator, toy_inputs(simulator), 0, quick_steps(name), shoppers=SHOPPERS, log=log
    )
    found = AGENTS[name].learn(setup, QUICK[name])
    before, after = tensors_of(found.untrained), tensors_of(found.policy)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    draws = torch.rand(8, found.policy.draws, device="cuda")
    slates = found.policy(simulator.reset(torch.arange(8)), draws)
    assert slates.device.type == "cuda"
    simulator.check(slates)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_shows_the_same_slates(name: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        simulator = small_market(device)
        policy = POLICIES[name].build(toy_inputs(simulator))
        draws = torch.rand(32, policy.draws, generator=torch.Generator().manual_seed(0))
        found.append(policy(simulator.reset(torch.arange(32)), draws.to(device)).cpu())
    assert int((found[0] == found[1]).all(dim=1).sum()) >= 30


def test_a_belief_infers_the_same() -> None:
    found = []
    for device in ("cpu", "cuda"):
        belief = load_belief(Path(str(PRESETS[LEARNED].shopper)), device)
        simulator = make_simulator(LEARNED, device=device, belief=belief)
        played(simulator)
        seen = simulator.observe()
        found.append({name: seen[name].cpu() for name in seen if name.startswith(PREFIX)})
    here, there = found
    assert len(here) > 2
    for name, value in here.items():
        close = torch.isclose(value, there[name], 1e-2, 1e-2).flatten(1).all(dim=1)
        assert int(close.sum()) >= 30, name
