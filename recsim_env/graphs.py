"""Steps as CUDA graphs: captured once, then replayed.

A step of thousands of shoppers takes a GPU less time than Python takes to ask for its hundreds of
kernels. A CUDA graph asks for all of them at once (Gray 2019, "Getting started with CUDA graphs").
What is captured reads and writes memory at fixed places, so inputs are copied there before a
replay, and results are copied out after it: they are the caller's to keep, as without graphs.

`Captured` does this for a function, and `GraphedSimulator` for the steps of a simulator.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from recsim_env import trees
from recsim_env.episodes import Episodes
from recsim_env.shoppers.base import name_of
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import copied, shared
from recsim_env.types import Observation, Outcome

WARM_UP = 2
"""Calls of a shape before the one that is captured: what is made once is made in them."""

P = ParamSpec("P")
R = TypeVar("R")


class Captured(Generic[P, R]):
    """A function of trees of tensors, which replays a CUDA graph of itself.

    The first calls with tensors of some shapes run as usual. Other shapes are captured anew, in
    place of those before. On a CPU every call runs as usual.

    Args:
        function: Takes trees (`recsim_env.trees`) and returns one. It must do the same whatever the
            numbers in the tensors are, must not wait for the GPU, and must not keep state other
            than in tensors that it writes in place.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function
        self._shapes: Any = None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: Any = None
        self._result: Any = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, or replay what it did in the memory of the captured call."""
        given = (args, kwargs)
        shapes = _shapes_of(given)
        if shapes != self._shapes:
            self.forget()
            self._shapes = shapes
        if self._graph is None:
            if not _on_gpu(given) or self._calls < WARM_UP:
                self._calls += 1
                return self._function(*args, **kwargs)
            self._capture(given)
        else:
            trees.overwrite(self._given, given)
        assert self._graph is not None
        self._graph.replay()
        return cast(R, _copied(self._result))

    def forget(self) -> None:
        """Give back the memory of what was captured."""
        self._graph = self._given = self._result = None
        self._calls = 0

    def _capture(self, given: Any) -> None:
        self._given = _copied(given)
        args, kwargs = self._given
        graph = torch.cuda.CUDAGraph()
        with no_collection(), torch.cuda.graph(graph):
            self._result = self._function(*args, **kwargs)
        self._graph = graph


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect garbage before, and none inside.

    A graph that is thrown away while another one is captured would make that capture fail.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class GraphedSimulator(SlateSimulator):
    """A simulator whose steps and observations are CUDA graphs, once they have been warmed up.

    It gives the same episodes as `SlateSimulator` by the same calls. After `reset`, `restore` and
    `keep` the first steps run as usual, and the next one is captured; what a step needs for its
    work stays allocated. On a CPU all steps run as usual.

    Raises:
        ValueError: If the shoppers say that their steps cannot be replayed (`Shopper.replayable`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.shopper.replayable:
            raise ValueError(
                f"graphs is True, but a step of {name_of(self.shopper)} depends on numbers that "
                "only the step finds out, so that it cannot be replayed: leave graphs out."
            )
        self._forget()

    def reset(self, seeds: Tensor, *, staying: bool = False) -> Observation:
        """Do what `SlateSimulator.reset` does."""
        self._forget()
        return super().reset(seeds, staying=staying)

    def restore(self, state: trees.Flat) -> None:
        """Do what `SlateSimulator.restore` does."""
        self._forget()
        super().restore(state)

    def keep(self, rows: Tensor) -> None:
        """Do what `SlateSimulator.keep` does."""
        self._forget()
        super().keep(rows)

    @torch.no_grad()
    def advance(self, slates: Tensor) -> Outcome:
        """Do what `SlateSimulator.advance` does."""
        self._settle()
        outcome, self._episodes = self._advancing(self.episodes, slates)
        self._go_on()
        return outcome

    @torch.no_grad()
    def observe(self) -> Observation:
        """Do what `SlateSimulator.observe` does."""
        if self._fixed is None:  # before the first step
            return super().observe()
        self._settle()
        episodes = self.episodes
        seen = self._observing(episodes)
        self._episodes = episodes
        self._go_on()
        return seen

    # ---- inside ----

    def _forget(self) -> None:
        """Capture anew, because the state is to have other tensors or another size."""
        self._fixed: Any = None  # shoppers and beliefs, in the tensors that the graphs work on
        self._advancing = Captured(self._advanced)
        self._observing = Captured(self._observed)

    def _settle(self) -> None:
        """Bring what happened beside the graphs, such as restarts, to the tensors they work on."""
        current = (self._shoppers, self._beliefs)
        if self._fixed is None:
            self._fixed = _with_own_containers(current)
        trees.overwrite(self._fixed, current)
        self._go_on()

    def _go_on(self) -> None:
        """Take the tensors that the graphs work on as the state."""
        self._shoppers, self._beliefs = _with_own_containers(self._fixed)
        self._candidates = None

    def _advanced(self, episodes: Episodes, slates: Tensor) -> tuple[Outcome, Episodes]:
        self._episodes = episodes
        outcome = super().advance(slates)
        trees.overwrite(self._fixed, (self._shoppers, self._beliefs))
        return outcome, self.episodes

    def _observed(self, episodes: Episodes) -> Observation:
        self._episodes = episodes
        return super().observe()


def _with_own_containers(tree: Any) -> Any:
    """The same tensors in other containers: shoppers put fresh tensors in theirs."""
    return trees.mapped(tree, lambda tensor: tensor)


def _copied(tree: Any) -> Any:
    return trees.mapped(tree, copied, anything=True)


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    trees.mapped(tree, noted, anything=True)
    return found


def _shapes_of(tree: Any) -> list[tuple[Any, ...]]:
    return [(part.shape, part.dtype, part.device, shared(part)) for part in _tensors(tree)]


def _on_gpu(tree: Any) -> bool:
    return torch.cuda.is_available() and all(part.is_cuda for part in _tensors(tree))
