"""Steps as CUDA graphs give the episodes of steps as usual."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from recsim_env import make_simulator, trees
from recsim_env.graphs import Captured, GraphedSimulator, no_collection
from recsim_env.shoppers.encoder import attended, attended_once
from recsim_env.simulator import SlateSimulator

ENVS = (
    "Market-v0",
    "MarketVisit-v0",
    "Bundle-v0",
    "MarketRegulars-v0",
    "LearnedMarket-v0",
    "CompleteJourney-v0",
)
SHOPPERS = 24


def graphed(name: str, device: str = "cpu", **options: Any) -> GraphedSimulator:
    """A simulator of the graphed kind on any device."""
    plain = make_simulator(f"recsim_env/{name}", device=device, **options)
    return GraphedSimulator(plain.shopper, plain.reward, horizon_days=plain.horizon_days)


def played(simulator: SlateSimulator, visits: int = 14, shoppers: int = SHOPPERS) -> list[Tensor]:
    """Everything that is told in some visits, with restarts, a state that is restored, and `keep`."""
    found: list[Tensor] = []
    generator = torch.Generator().manual_seed(3)

    def show(number: int) -> None:
        for _ in range(number):
            candidates = simulator.candidates.cpu()
            real = (candidates >= 0).sum(dim=1, keepdim=True)
            draws = torch.rand(len(candidates), simulator.slate_size, generator=generator)
            slates = candidates.gather(1, (draws * real).long()).to(simulator.device)
            before = simulator.episodes
            visit = before.visit.clone()
            outcome = simulator.advance(slates)
            assert torch.equal(before.visit, visit), "what was handed out has changed"
            over = outcome.ended.nonzero().flatten()
            simulator.restart(over)
            seen = simulator.observe()
            found.extend([outcome.reward, outcome.ended, *outcome.info.values(), *seen.values()])

    simulator.reset(torch.arange(shoppers))
    show(visits)
    state = simulator.state()
    show(4)
    simulator.restore(state)
    show(4)
    simulator.keep(torch.arange(0, shoppers, 2))
    show(4)
    return found


@pytest.mark.parametrize("name", ENVS)
def test_steps_in_fixed_tensors_are_those_in_fresh_ones(name: str) -> None:
    """Off a GPU nothing is captured; that the state stays in its tensors is tested all the same."""
    plain = make_simulator(f"recsim_env/{name}", device="cpu")
    for one, other in zip(played(plain), played(graphed(name)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_captured_steps_are_those_as_usual(name: str, precision: str) -> None:
    learned = name in ("LearnedMarket-v0", "CompleteJourney-v0")
    if precision == "bf16" and not learned:
        pytest.skip("has no network")
    options = {"precision": precision} if learned else {}
    plain = make_simulator(f"recsim_env/{name}", device="cuda", **options)
    captured = make_simulator(f"recsim_env/{name}", device="cuda", graphs=True, **options)
    assert isinstance(captured, GraphedSimulator)
    for one, other in zip(played(plain), played(captured), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LearnedMarket-v0", {"precision": "bf16"}),
        ("CompleteJourney-v0", {"precision": "bf16"}),
        ("CompleteJourneyVisit-v0", {}),
    ],
)
def test_many_shoppers_step_at_once(name: str, options: dict[str, Any]) -> None:
    """More than the attention of torch and cuDNN takes at once, 65,535."""
    simulator = make_simulator(f"recsim_env/{name}", device="cuda", **options)
    simulator.reset(torch.arange(66_000))
    step = simulator.step(simulator.candidates[:, : simulator.slate_size].contiguous())
    assert bool(step.reward.isfinite().all())


def test_graphs_need_a_gpu() -> None:
    with pytest.raises(
        ValueError, match=r"^graphs is True, but the device is cpu: CUDA graphs need a GPU\.$"
    ):
        make_simulator("recsim_env/Market-v0", device="cpu", graphs=True)


def test_steps_that_depend_on_their_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^graphs is True, but a step of CartShopper depends on"):
        graphed("CompleteJourneyVisit-v0")


def test_a_captured_function_runs_as_usual_on_a_cpu() -> None:
    calls: list[int] = []

    def twice(values: dict[str, Tensor]) -> dict[str, Tensor]:
        calls.append(1)
        return {name: 2 * value for name, value in values.items()}

    captured = Captured(twice)
    for number in range(5):
        assert captured({"a": torch.tensor([float(number)])})["a"].tolist() == [2.0 * number]
    assert len(calls) == 5


@pytest.mark.gpu
def test_a_captured_function_takes_new_numbers_and_new_shapes() -> None:
    captured = Captured(lambda rows, by: (rows * by).sum(dim=1))
    results: list[tuple[Tensor, Tensor]] = []
    for size in (3, 3, 3, 3, 5, 5, 5, 3):
        rows = torch.arange(2.0 * size, device="cuda").view(2, size) + len(results)
        by = torch.full((1, size), 2.0, device="cuda").expand(2, size)
        results.append((captured(rows, by), (rows * 2).sum(dim=1)))
    for found, expected in results:  # what was handed out stays as it was
        assert torch.equal(found, expected)


@pytest.mark.gpu
def test_a_graph_that_is_thrown_away_disturbs_no_other_capture() -> None:
    thresholds = gc.get_threshold()
    gc.disable()
    try:
        played(graphed("Market-v0", "cuda"))  # garbage that holds graphs
        gc.enable()
        gc.set_threshold(1, 1, 1)
        played(graphed("Market-v0", "cuda"))
    finally:
        gc.enable()
        gc.set_threshold(*thresholds)


def test_nothing_is_collected_during_a_capture_and_as_before_after_it() -> None:
    class Ring:
        """Garbage that only the collector finds."""

        def __init__(self) -> None:
            self.me = self

    dropped = weakref.ref(Ring())
    with no_collection():
        assert dropped() is None
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


@dataclass
class Pair:
    """A tree of two tensors."""

    one: Tensor
    other: Tensor


def test_numbers_that_change_places_are_overwritten_at_once() -> None:
    tree = Pair(torch.tensor([1.0]), torch.tensor([2.0]))
    before = (tree.one, tree.other)
    trees.overwrite(tree, Pair(tree.other, torch.tensor([3.0])))
    assert (tree.one, tree.other) == before
    assert [tree.one.item(), tree.other.item()] == [2.0, 3.0]
    trees.overwrite(tree, Pair(tree.other, tree.one))
    assert [tree.one.item(), tree.other.item()] == [3.0, 2.0]


@pytest.mark.parametrize(
    ("fresh", "told"),
    [
        (Pair(torch.zeros(2), torch.zeros(1)), r"^state/one is "),
        (Pair(torch.zeros(1), torch.zeros(1, dtype=torch.int64)), r"^state/other is "),
        ({"one": torch.zeros(1)}, r"^state is "),
    ],
)
def test_what_is_made_otherwise_is_refused(fresh: Any, told: str) -> None:
    tree = Pair(torch.tensor([1.0]), torch.tensor([2.0]))
    with pytest.raises(TypeError, match=told):
        trees.overwrite(tree, fresh)
    assert [tree.one.item(), tree.other.item()] == [1.0, 2.0]


def test_a_single_query_attends_the_same_by_products_of_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(5, 4, n, 16, generator=generator) for n in (1, 9, 9))
    bias = torch.randn(5, 4, 1, 9, generator=generator).masked_fill(torch.arange(9) > 6, -torch.inf)
    torch.testing.assert_close(
        attended(query, key, value, bias), attended_once(query, key, value, bias)
    )
