"""The check of policies: who keeps the promises passes, and each broken one has its sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies import POLICIES
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_policy
from recsim_env.types import Observation
from tests.support.policy_toys import toy_inputs
from tests.support.toys import FunctionPolicy, ToyShopper, ToyState, toy_simulator

SIZE, ITEMS = 4, 31


def top(scores: Tensor, observation: Observation) -> Tensor:
    """The candidates of the highest scores (B, C); the first one again where there are too few."""
    candidates = observation["candidates"]
    best = scores.masked_fill(candidates < 0, -1).argsort(dim=1, descending=True, stable=True)
    slates = candidates.gather(1, best[:, :SIZE])
    return slates.where(slates >= 0, candidates[:, :1])


def drawn(observation: Observation, draws: Tensor) -> Tensor:
    return top(draws[:, : observation["candidates"].shape[1]], observation)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_registered_policy_keeps_its_promises(name: str) -> None:
    simulator = toy_simulator()
    check_policy(POLICIES[name].build(toy_inputs(simulator)), simulator)


def test_a_policy_of_a_function_passes_and_nothing_global_moves() -> None:
    before = torch.get_rng_state()
    check_policy(FunctionPolicy(drawn, ITEMS), toy_simulator(), batch=3, visits=7, seed=9)
    assert torch.equal(torch.get_rng_state(), before)


def test_where_there_are_too_few_candidates_the_first_one_may_be_repeated() -> None:
    class Few(ToyShopper):
        def candidates(self, state: ToyState) -> Tensor:
            offers = super().candidates(state).clone()
            offers[:, 2:] = -1
            return offers

    check_policy(FunctionPolicy(drawn, ITEMS), SlateSimulator(Few()))
    strangers = FunctionPolicy(
        lambda seen, _: torch.arange(SIZE).expand(len(seen["recent_days"]), -1)
    )
    with pytest.raises(ValueError, match="it must choose among the candidates"):
        check_policy(strangers, SlateSimulator(Few()))


counter = iter(range(10**6))
first: list[tuple[float, Tensor]] = []  # the largest number and the slates of the first visit


def mended(observation: Observation, draws: Tensor) -> Tensor:
    """Writes into the slates of the first visit once it has seen another one."""
    slates = drawn(observation, draws)
    if not first:
        first.append((float(draws.max()), slates))
    elif len(draws) == len(first[0][1]) and float(draws.max()) != first[0][0]:
        first[0][1].zero_()
    return slates


def centred(observation: Observation, draws: Tensor) -> Tensor:
    """Scores that hang on the mean of the batch."""
    scores = draws[:, : observation["candidates"].shape[1]]
    return top((scores - scores.mean(dim=0)).abs(), observation)


BAD: list[tuple[Callable[[Observation, Tensor], Any], str]] = [
    (lambda seen, draws: None, r"returned None, but it must return int64 slates \(8, 4\)"),
    (lambda seen, draws: drawn(seen, draws).int(), "returned a int32 tensor"),
    (lambda seen, draws: drawn(seen, draws).tolist(), r"returned \[\["),
    (lambda seen, draws: drawn(seen, draws)[:, :3], r"returned a int64 tensor of shape \(8, 3\)"),
    (lambda seen, draws: drawn(seen, draws)[:1], r"returned a int64 tensor of shape \(1, 4\)"),
    (lambda seen, draws: drawn(seen, draws).to("meta"), "returned slates on meta"),
    (lambda seen, draws: drawn(seen, draws) - 40, r"returned -\d+ at \[0, 0\], but an item is a"),
    (
        lambda seen, draws: drawn(seen, draws)[:, :1].repeat(1, SIZE),
        r"repeated the item \d+ at \[0, 1\], but the items must be distinct",
    ),
    (
        lambda seen, draws: torch.arange(SIZE).repeat(len(draws), 1),
        r"returned the item 0 at \[0, 0\], but it must choose among the candidates",
    ),
    (
        lambda seen, draws: drawn(seen, torch.rand(draws.shape)),
        "drew from a global generator, but everything random must come from draws",
    ),
    (
        lambda seen, draws: drawn(seen, torch.as_tensor(np.random.random(draws.shape))),  # noqa: NPY002
        "drew from a global generator",
    ),
    (
        lambda seen, draws: drawn(seen, (draws + next(counter) * 0.37) % 1),
        "returned other slates for equal draws, but all chance must come from draws",
    ),
    (
        lambda seen, draws: (drawn(seen, draws), seen["recent_days"].add_(1))[0],
        "wrote into 'recent_days', but it must leave what it is given as it is",
    ),
    (lambda seen, draws: (drawn(seen, draws), draws.zero_())[0], "wrote into 'draws'"),
    (centred, "returned other slates for rows alone than for the batch, but a slate must depend"),
    (
        lambda seen, draws: drawn(seen, (draws + torch.arange(len(draws))[:, None] * 0.3) % 1),
        "returned other slates for rows (alone|in another order) than for the batch",
    ),
    (mended, "changed slates that it had returned, but a slate must be a new tensor"),
]


@pytest.mark.parametrize(("choose", "sentence"), BAD, ids=[sentence[:30] for _, sentence in BAD])
def test_each_broken_promise_has_its_sentence(choose: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"^The policy FunctionPolicy {sentence}"):
        check_policy(FunctionPolicy(choose, ITEMS), toy_simulator())


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"policy": None}, TypeError, "policy is None, but it must be a Policy"),
        ({"policy": drawn}, TypeError, "policy is .*, but it must be a Policy"),
        ({"policy": FunctionPolicy}, TypeError, "policy is the class FunctionPolicy, but"),
        ({"policy": FunctionPolicy(drawn, -1)}, ValueError, "policy.draws is -1, but it must be"),
        ({"policy": FunctionPolicy(drawn, 2.5)}, ValueError, "policy.draws is 2.5"),  # type: ignore[arg-type]
        ({"simulator": None}, TypeError, "simulator is None, but it must be a SlateSimulator"),
        ({"batch": 1}, ValueError, "batch is 1"),
        ({"visits": 0}, ValueError, "visits is 0"),
        ({"seed": "1"}, ValueError, "seed is '1'"),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    good: dict[str, Any] = {"policy": FunctionPolicy(drawn, ITEMS), "simulator": toy_simulator()}
    with pytest.raises(error, match=f"^{sentence}"):
        check_policy(**{**good, **arguments})
