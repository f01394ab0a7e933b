"""Where a simulator stands can be written to a file, and what is read back goes on bit for bit."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from gymnasium.error import ResetNeeded
from safetensors.torch import load_file
from torch import Tensor

from recsim_env import make_simulator, noise
from recsim_env.files import write_tensors
from recsim_env.registration import PRESETS
from recsim_env.simulator import SlateSimulator
from recsim_env.trees import Flat
from tests.recsim_env.shoppers.test_outside import tap_simulator
from tests.support.toys import toy_simulator

BUILT_IN = sorted(id for id in PRESETS if id.startswith("recsim_env/"))


def visit(simulator: SlateSimulator) -> dict[str, Tensor]:
    """All results of a visit with slates from the rows' seeds; a row that ended starts again."""
    at = simulator.episodes
    order = noise.uniform(
        noise.episode_key(at.seed, at.number, stream=9), at.visit, simulator.candidates.shape[1]
    )
    order = order.masked_fill(simulator.candidates < 0, 2)
    step = simulator.step(
        simulator.candidates.gather(1, order.argsort(dim=1)[:, : simulator.slate_size])
    )
    simulator.restart(step.ended.nonzero().squeeze(1))
    return {**simulator.observe(), **step.info, "reward": step.reward, "ended": step.ended}


def through_a_file(state: Flat, folder: Path) -> Flat:
    path = folder / "state.safetensors"
    write_tensors(path, state.tensors)
    return Flat(load_file(path), json.loads(json.dumps(state.outline)))


@pytest.mark.parametrize("id", BUILT_IN)
def test_every_registered_environment_goes_on_bit_for_bit(id: str, tmp_path: Path) -> None:
    one = make_simulator(id, device="cpu")
    other = SlateSimulator(
        one.shopper, one.reward, horizon_days=one.horizon_days, history=one.history
    )
    one.reset(torch.arange(100, 107))
    for _ in range(6):
        visit(one)
    began = time.perf_counter()
    state = one.state()
    other.restore(through_a_file(state, tmp_path))
    size = (tmp_path / "state.safetensors").stat().st_size
    print(f"{id}: {size / 7 / 1024:.0f} KiB a shopper, {time.perf_counter() - began:.3f} s for 7")
    again = one.state()
    assert all(torch.equal(value, again.tensors[name]) for name, value in state.tensors.items())
    for _ in range(8):
        for (name, value), (same, found) in zip(
            visit(one).items(), visit(other).items(), strict=True
        ):
            assert name == same
            assert torch.equal(value, found), name
    assert other.num_envs == 7


def test_a_state_does_not_fit_another_simulator() -> None:
    one, other = toy_simulator(items=31), toy_simulator(items=40)
    one.reset(torch.arange(4))
    with pytest.raises(ResetNeeded):
        other.state()
    with pytest.raises(
        ValueError,
        match=r"^'shoppers/bought' is a float32 tensor of shape \(4, 31\), but .*\(4, 40\)",
    ):
        other.restore(one.state())
    assert other.num_envs == 0
    with pytest.raises(
        ValueError, match="state has None as 'episodes/seed', but it must be an int64 tensor"
    ):
        other.restore(Flat({}, {}))


def test_a_shopper_that_cannot_be_written_down_says_so() -> None:
    simulator = tap_simulator()
    simulator.reset(torch.arange(2))
    with pytest.raises(
        TypeError, match=r"^state/shoppers/environments/0 is .*, which cannot be written down\.$"
    ):
        simulator.state()
