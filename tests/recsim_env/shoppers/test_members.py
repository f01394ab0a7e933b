"""A fitted network in bfloat16, or compiled, answers as in float32 to the same questions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsim_env import make_simulator
from recsim_env.shoppers.encoder import Block
from recsim_env.shoppers.gaps import GapHead
from recsim_env.shoppers.household import shop
from recsim_env.shoppers.household.slate_head import SlateHead
from recsim_env.shoppers.members import PRECISIONS, compile_parts
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Step

learned = pytest.mark.parametrize("name", ["CompleteJourney-v0", "LearnedMarket-v0"])


def opened(name: str, shoppers: int = 256, **options: Any) -> SlateSimulator:
    simulator = make_simulator(f"recsim_env/{name}", device="cpu", **options)
    simulator.reset(torch.arange(shoppers))
    return simulator


def first_slates(simulator: SlateSimulator) -> Tensor:
    return simulator.candidates[:, : simulator.slate_size].contiguous()


def one_step(simulator: SlateSimulator) -> Step:
    """With the first candidates; rows whose episode is over are moved as well."""
    return simulator.step(first_slates(simulator), validate=False)


def chances(simulator: SlateSimulator) -> Tensor:
    """Of a response to each item of a slate, after a visit that all remember alike."""
    slates = first_slates(simulator)
    shopper, state = simulator.shopper, simulator.hidden
    draws = torch.full((len(slates), shopper.visit_draws), 0.5)
    shown = torch.ones_like(slates, dtype=torch.bool)
    shopper.respond(state, slates, shown, draws)
    return shopper.respond(state, slates, shown, draws).probability


@learned
def test_bfloat16_is_float32_but_for_rounding(name: str) -> None:
    plain, half = chances(opened(name)), chances(opened(name, precision="bf16"))
    assert not torch.equal(plain, half)
    apart = torch.logit(half.double(), eps=1e-9) - torch.logit(plain.double(), eps=1e-9)
    assert apart.abs().mean() < 0.02
    assert apart.mean().abs() < 0.01  # and no leaning to either side: the calibration holds
    torch.testing.assert_close(half.mean(), plain.mean(), rtol=0.01, atol=0)


@learned
def test_keys_and_values_have_the_precision_and_all_else_is_float32(name: str) -> None:
    for precision, dtype in PRECISIONS.items():
        simulator = opened(name, shoppers=8, precision=precision)
        for _ in range(3):
            step = one_step(simulator)
        cache = simulator.hidden.caches[0]
        assert (cache.keys.dtype, cache.values.dtype, cache.state.dtype) == (
            dtype,
            dtype,
            torch.float32,
        )
        assert {value.dtype for value in step.observation.values()} <= {
            torch.float32,
            torch.int64,
            torch.int8,
            torch.uint8,
        }
        simulator.reset_rows(torch.tensor([1, 5]))
        one_step(simulator)


@learned
def test_an_unknown_precision_is_said_in_one_sentence(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"precision is 'fp8', but it must be one of 'fp32', 'bf16'\."
    ):
        make_simulator(f"recsim_env/{name}", device="cpu", precision="fp8")


@pytest.fixture
def double_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def played(name: str, **options: Any) -> list[Step]:
    simulator = opened(name, shoppers=24, **options)
    steps = []
    for _ in range(5):
        steps.append(one_step(simulator))
        simulator.reset_rows(steps[-1].ended.nonzero().flatten())
    return steps


@learned
def test_the_default_type_of_the_process_changes_nothing(
    name: str, request: pytest.FixtureRequest
) -> None:
    expected = played(name)
    request.getfixturevalue("double_by_default")
    shop._opened.cache_clear()
    for left, right in zip(expected, played(name), strict=True):
        assert torch.equal(left.reward, right.reward)
        for mine, theirs in ((left.observation, right.observation), (left.info, right.info)):
            for key, value in mine.items():
                assert torch.equal(theirs[key], value), key
                assert theirs[key].dtype == value.dtype, key
    shop._opened.cache_clear()


@pytest.fixture
def traced_only() -> Iterator[None]:
    """torch.compile traces and runs what it traced, without a compiler of C++."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(suppress_errors=False):
        yield
    torch._dynamo.reset()


@learned
@pytest.mark.usefixtures("traced_only")
def test_compiled_networks_play_the_same_episodes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for another number of shoppers: one trace is for any."""
    compiled: list[nn.Module] = []

    def trace(module: nn.Module, **options: Any) -> None:
        compiled.append(module)
        module._compiled_call_impl = torch.compile(
            module._call_impl, backend="eager", fullgraph=True, **options
        )

    monkeypatch.setattr(nn.Module, "compile", trace)
    for shoppers in (7, 12):
        plain, fused = opened(name, shoppers), opened(name, shoppers, compiled=True)
        for _ in range(3):
            assert_same(one_step(plain), one_step(fused))
    assert compiled


def test_only_the_named_parts_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda module, **_: named.append(type(module).__name__)
    )
    shopper = opened("CompleteJourney-v0", shoppers=1).shopper
    compile_parts(shopper.shop.model, (Block, SlateHead, GapHead))  # type: ignore[attr-defined]
    assert sorted(named) == ["Block", "Block", "GapHead", "SlateHead"]


def assert_same(left: Step, right: Step) -> None:
    for name, value in left.observation.items():
        assert torch.equal(value, right.observation[name]), name
    torch.testing.assert_close(left.reward, right.reward)
    assert torch.equal(left.terminated, right.terminated)
