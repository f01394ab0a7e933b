"""Checks for shoppers and reward terms of one's own, as `gymnasium.utils.env_checker.check_env` is for environments.

    from recsim_env.testing import check_shopper, check_term

    check_shopper(MyShopper(torch.device("cpu"), slate_size=10))
    check_term(my_term)

Either returns without a word or raises ValueError with one sentence: which promise was broken by
which method.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env import checks, noise
from recsim_env.catalog import Catalog
from recsim_env.rewards import RewardInputs, Term
from recsim_env.shoppers import promises
from recsim_env.shoppers.base import Shopper, name_of
from recsim_env.shoppers.promises import broken
from recsim_env.simulator import is_dense
from recsim_env.tensors import among, first_places
from recsim_env.types import Observation, Response

# ---- shoppers --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_shopper(
    shopper: Shopper[Any],
    *,
    batch: int = 8,
    visits: int = 3,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> None:
    """Raise unless a shopper keeps every promise of `recsim_env.shoppers.base.Shopper` that can be tried.

    It is asked for some visits of a batch of shoppers, with slates of candidates, of repeated items
    and of items that are none. Then everything is done again in other ways that must lead to the
    same: with equal draws, row by row, in another order, with some rows replaced, and with some
    rows alone. `when_and_where`, `describe`, `on_offer` and `never_leave` are tried where the
    shopper has them.

    Args:
        shopper: as a simulator would get it; nobody else may use it meanwhile
        batch: B, shoppers at a time
        visits: of each shopper, at most; an episode of the shopper must not be shorter by its own
            clock
        seed: of the draws and the slates
        tolerance: by how much real numbers may differ between two ways, relative or absolute

    Errors: ValueError, with the method and the promise that it broke.
    """
    batch, visits = (
        checks.whole("batch", batch, 4, 10_000),
        checks.whole("visits", visits, 1, 10_000),
    )
    promises.check_parts(shopper)
    kit = _Kit(
        shopper, batch, visits, checks.whole("seed", seed), checks.number("tolerance", tolerance, 0)
    )
    played = kit.play()
    kit.check_again(played)
    kit.check_rows(played)
    kit.check_replace(played)
    kit.check_select(played)
    kit.check_never_leave(played)


@dataclass(frozen=True)
class _Visit:
    """What a visit was, (B, ...) each."""

    candidates: Tensor
    observation: Observation
    slates: Tensor
    shown: Tensor
    draws: Tensor
    running: Tensor  # (B,) bool, the episode was not over before
    response: Response

    def answers(self) -> Iterator[tuple[str, str, Tensor]]:
        """Method, key and tensor of everything that the shopper said."""
        yield "candidates", "candidates", self.candidates
        for key, value in self.observation.items():
            yield "observe", key, value
        yield from _parts(self.response)


def _parts(response: Response) -> Iterator[tuple[str, str, Tensor]]:
    for key, value in vars(response).items():
        if value is not None:
            yield "respond", key, value


class _Kit:
    """The checks of one shopper."""

    def __init__(
        self, shopper: Shopper[Any], batch: int, visits: int, seed: int, tolerance: float
    ) -> None:
        self.shopper = shopper
        self.batch, self.visits, self.tolerance = batch, visits, tolerance
        self.spaces: Mapping[str, gymnasium.Space[Any]] = shopper.spaces()
        promises.check_spaces(shopper, self.spaces)
        self.seeds = torch.arange(seed, seed + batch, device=shopper.device)
        self.items = len(shopper.catalog)

    # What a shopper is asked.

    def ask(self, method: str, *arguments: Any) -> Any:
        """The answer of a method, which may neither draw from a global generator nor write into a tensor."""
        given = [value.clone() if isinstance(value, Tensor) else None for value in arguments]
        before = _generators()
        answer = getattr(self.shopper, method)(*arguments)
        if _generators() != before:
            broken(
                self.shopper,
                method,
                "drew from a global generator",
                "everything random must come from draws",
            )
        state_is_first = method not in (
            "start",
            "respond",
            "replace",
        )  # a state may be a tensor, and move
        for place, (value, copy) in enumerate(zip(arguments, given, strict=True)):
            if (
                copy is not None
                and (place > 0 or state_is_first or method == "start")
                and not torch.equal(value, copy)
            ):
                broken(
                    self.shopper,
                    method,
                    f"wrote into its argument {place + 1}",
                    "only the state may be changed",
                )
        return answer

    def start(self, number: int = 0, rows: Tensor | None = None) -> Any:
        """New shoppers of the episode of this number, all of them or some rows."""
        keys = noise.episode_key(self.seeds, torch.full_like(self.seeds, number))
        draws = noise.uniform(keys, 0, self.shopper.start_draws)
        return self.ask("start", draws if rows is None else draws[rows])

    def look(self, state: Any, batch: int) -> tuple[Tensor, Observation]:
        """The candidates and the observation of a visit, as promised."""
        candidates = self.ask("candidates", state)
        promises.check_candidates(self.shopper, candidates, batch)
        observation = self.ask("observe", state)
        promises.check_observation(self.shopper, self.spaces, observation, batch, state)
        return candidates, observation

    def play(self) -> list[_Visit]:
        """Some visits of new shoppers, every answer held against the promises.

        A row that left is asked once more, as a simulator may, and then the play is over.
        """
        state, played = self.start(), list[_Visit]()
        running = torch.ones(self.batch, dtype=torch.bool, device=self.shopper.device)
        said: list[tuple[str, str, Tensor, Tensor]] = []
        for number in range(self.visits):
            candidates, observation = self.look(state, self.batch)
            self._check_looks(state, candidates, observation)
            slates, draws = self.slates(candidates, number), self.draws(number)
            shown = among(slates, candidates, self.items) & first_places(slates)
            response = self.ask("respond", state, slates, shown, draws)
            promises.check_response(self.shopper, response, shown, running)
            visit = _Visit(candidates, observation, slates, shown, draws, running, response)
            said += [(*answer, answer[-1].clone()) for answer in visit.answers()]
            played.append(visit)
            if not bool(running.all()):
                break
            running = running & ~response.left
        for method, key, value, copy in said:
            if not self.same(value, copy):
                broken(
                    self.shopper,
                    method,
                    f"returned {key!r}, which a later call changed",
                    "what is returned must be new",
                )
        return played

    def slates(self, candidates: Tensor, visit: int, *, valid: bool = False) -> Tensor:
        """(B, K) in turn: distinct candidates, any items, one candidate at every position, items that are none.

        valid: distinct candidates in all rows, as far as there are so many.
        """
        size = self.shopper.slate_size
        key = noise.episode_key(
            self.seeds, torch.full_like(self.seeds, visit), stream=noise.Stream.CHECKS
        )
        anything = (noise.uniform(key, 0, size) * self.items).long().clamp(max=self.items - 1)
        order = (
            noise.uniform(key, 1, candidates.shape[1])
            .masked_fill(candidates < 0, 2.0)
            .argsort(dim=1)
        )
        found = candidates.gather(1, order[:, :size])
        good = anything.clone()
        good[:, : found.shape[1]] = found.where(found >= 0, anything[:, : found.shape[1]])
        strangers = anything.where(~among(anything, candidates, self.items), good[:, :1])
        kinds = torch.stack([good, anything, good[:, :1].expand(-1, size), strangers])
        rows = torch.arange(self.batch, device=candidates.device)
        return good if valid else kinds[rows % len(kinds), rows]

    def draws(self, visit: int) -> Tensor:
        """(B, visit_draws) of a visit."""
        key = noise.episode_key(self.seeds, torch.zeros_like(self.seeds))
        return noise.uniform(key, visit + 1, self.shopper.visit_draws)

    # Two ways that must agree.

    def same(self, found: Tensor, expected: Tensor) -> bool:
        """Whether two tensors hold the same numbers, real ones within the tolerance."""
        if found.shape != expected.shape:
            return False
        if found.is_floating_point():
            return torch.allclose(
                found, expected, rtol=self.tolerance, atol=self.tolerance, equal_nan=True
            )
        return torch.equal(found, expected)

    def replay(self, played: list[_Visit], rows: Tensor) -> Iterator[tuple[_Visit, _Visit]]:
        """The same visits again for some rows of the batch: what they were, and what they are now."""
        state = self.start(0, rows)
        for visit in played:
            candidates, observation = self.look(state, len(rows))
            slates, shown, draws = visit.slates[rows], visit.shown[rows], visit.draws[rows]
            response = self.ask("respond", state, slates, shown, draws)
            promises.check_response(self.shopper, response, shown, visit.running[rows])
            yield (
                _rows(visit, rows),
                _Visit(
                    candidates, observation, slates, shown, draws, visit.running[rows], response
                ),
            )

    def difference(self, expected: _Visit, found: _Visit) -> tuple[str, str] | None:
        """Method and key of the first answer that is another one, in rows whose episode is not over."""
        rows = expected.running.nonzero()[:, 0]
        for (method, key, value), (_, _, other) in zip(
            _rows(expected, rows).answers(), _rows(found, rows).answers(), strict=True
        ):
            if key != "basket" and not self.same(
                value, other
            ):  # a basket may be padded to another length
                return method, key
        return None

    def check_again(self, played: list[_Visit]) -> None:
        """Equal draws give equal shoppers."""
        everyone = torch.arange(self.batch, device=self.shopper.device)
        for number, (expected, found) in enumerate(self.replay(played, everyone)):
            differs = self.difference(expected, found)
            if differs is None:
                continue
            method, key = differs
            if number == 0 and method != "respond":
                method, key = "start", f"shopper, with another {key!r},"
            else:
                key = repr(key)
            broken(
                self.shopper,
                method,
                f"returned another {key} for equal draws",
                "all chance must come from draws",
            )

    def check_rows(self, played: list[_Visit]) -> None:
        """Row b of a result depends on row b of the arguments alone."""
        device = self.shopper.device
        backwards = torch.arange(self.batch - 1, -1, -1, device=device)
        alone = [torch.tensor([row], device=device) for row in (0, self.batch - 1)]
        for rows in (*alone, backwards):
            how = "alone" if len(rows) == 1 else "in another order"
            for expected, found in self.replay(played, rows):
                differs = self.difference(expected, found)
                if differs is not None:
                    broken(
                        self.shopper,
                        differs[0],
                        f"returned another {differs[1]!r} for rows {how} than for the batch",
                        "a row must depend on that row of the arguments alone",
                    )

    def check_replace(self, played: list[_Visit]) -> None:
        """The fresh shoppers stand in the rows that were named, and all others as they were."""
        rows = torch.arange(self.batch - 1, 0, -2, device=self.shopper.device)
        state, untouched, fresh = self._moved(played), self._moved(played), self.start(1, rows)
        if self.ask("replace", state, rows, fresh) is not None:
            broken(
                self.shopper,
                "replace",
                "returned something",
                "it must change the state in place and return None",
            )
        found = self._next(state, self.batch)
        rest = torch.ones(self.batch, dtype=torch.bool, device=rows.device).index_fill(
            0, rows, False
        )
        others = (rest & ~played[0].response.left).nonzero()[:, 0]
        self._compare(
            "replace",
            _rows(self._next(untouched, self.batch, like=found), others),
            _rows(found, others),
            "changed {key!r} of other rows",
            "only the rows that are named may change",
        )
        part = _rows(found, rows)
        self._compare(
            "replace",
            self._next(self.start(1, rows), len(rows), like=part),
            part,
            "did not put the fresh shoppers into the rows: {key!r} is not theirs",
            "the rows must be those of fresh, in that order",
        )

    def check_select(self, played: list[_Visit]) -> None:
        """The state of some rows is theirs, in the order in which they were named; of none, it is empty."""
        rows = torch.arange(self.batch - 1, 0, -2, device=self.shopper.device)
        whole = self._next(self._moved(played), self.batch)
        part = self.ask("select", self._moved(played), rows)
        running = ~played[0].response.left[rows]
        expected = dataclasses.replace(_rows(whole, rows), running=running)
        self._compare(
            "select",
            expected,
            self._next(part, len(rows), like=expected),
            "returned a state with another {key!r}",
            "it must be the state of the rows that are named, in that order",
        )
        self.look(self.ask("select", self._moved(played), rows[:0]), 0)

    def check_never_leave(self, played: list[_Visit]) -> None:
        """Where `never_leave` is True nobody lapses, and the clicks are the same."""
        if not hasattr(self.shopper, "never_leave"):
            return
        if self.shopper.never_leave is not False:
            found = checks.told(self.shopper.never_leave)
            raise ValueError(
                f"{name_of(self.shopper)}.never_leave is {found}, but it must be False at first."
            )
        if played[0].response.leaving is None:
            broken(
                self.shopper,
                "respond",
                "returned no leaving",
                "a shopper with never_leave must say how likely it is",
            )
        self.shopper.never_leave = True
        try:
            everyone = torch.arange(self.batch, device=self.shopper.device)
            for number, (expected, now) in enumerate(self.replay(played, everyone)):
                if bool(now.response.left.any()):
                    broken(
                        self.shopper, "respond", "returned left with True", "never_leave is True"
                    )
                if number == 0 and not torch.equal(expected.response.clicks, now.response.clicks):
                    broken(
                        self.shopper,
                        "respond",
                        "returned other clicks",
                        "never_leave may change leaving only",
                    )
        finally:
            self.shopper.never_leave = False

    # Inside.

    def _check_looks(self, state: Any, candidates: Tensor, observation: Observation) -> None:
        """Looking changes nothing, and what was handed out is the caller's to write into."""
        self._check_own_memory("observe", state)
        if callable(getattr(self.shopper, "when_and_where", None)):
            promises.check_place(self.shopper, self.ask("when_and_where", state), self.batch)
            self._check_own_memory("when_and_where", state)
        if callable(getattr(self.shopper, "describe", None)):
            promises.check_description(self.shopper, self.ask("describe", state, self.batch - 1))
        if callable(getattr(self.shopper, "on_offer", None)):
            self._check_on_offer(state, candidates)
        again, seen = self.look(state, self.batch)
        if not self.same(again, candidates):
            broken(
                self.shopper,
                "candidates",
                "returned others when asked again",
                "looking must change nothing",
            )
        for key, value in observation.items():
            if not self.same(seen[key], value):
                broken(
                    self.shopper,
                    "observe",
                    f"returned another {key!r} when asked again",
                    "looking changes nothing",
                )

    def _check_own_memory(self, method: str, state: Any) -> None:
        given = self.ask(method, state)
        copies = {key: value.clone() for key, value in given.items()}
        for key, value in given.items():
            if any(
                stride == 0 and size > 1
                for stride, size in zip(value.stride(), value.shape, strict=True)
            ):
                found = f"returned {key!r}, in which several numbers lie at one place"
                broken(
                    self.shopper,
                    method,
                    found,
                    "the caller may write into what is returned: it must be a clone",
                )
            value.zero_()
        for key, value in self.ask(method, state).items():
            if not self.same(value, copies[key]):
                found = f"returned memory of the shopper's own as {key!r}"
                broken(
                    self.shopper,
                    method,
                    found,
                    "the caller may write into what is returned: it must be a clone",
                )

    def _check_on_offer(self, state: Any, candidates: Tensor) -> None:
        items = self.slates(candidates, 0)
        found = self.ask("on_offer", state, items)
        if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != items.shape:
            broken(
                self.shopper, "on_offer", f"returned {checks.told(found)}", "it must be (B, K) bool"
            )
        if not torch.equal(found, among(items, candidates, self.items)):
            broken(
                self.shopper,
                "on_offer",
                "contradicted candidates",
                "an item is on offer where it is a candidate",
            )

    def _moved(self, played: list[_Visit]) -> Any:
        """The shoppers after their first visit."""
        state, first = self.start(), played[0]
        self.ask("respond", state, first.slates, first.shown, first.draws)
        return state

    def _next(self, state: Any, batch: int, like: _Visit | None = None) -> _Visit:
        """The next visit of the whole batch, or of some rows with the slates of another visit."""
        candidates, observation = self.look(state, batch)
        slates = self.slates(candidates, 1, valid=True) if like is None else like.slates
        shown = among(slates, candidates, self.items) & first_places(slates)
        draws = self.draws(1) if like is None else like.draws
        response = self.ask("respond", state, slates, shown, draws)
        running = torch.ones(batch, dtype=torch.bool, device=slates.device)
        return _Visit(candidates, observation, slates, shown, draws, running, response)

    def _compare(
        self, method: str, expected: _Visit, found: _Visit, what: str, promise: str
    ) -> None:
        differs = self.difference(expected, found)
        if differs is not None:
            broken(self.shopper, method, what.format(key=differs[1]), promise)


def _rows(visit: _Visit, rows: Tensor) -> _Visit:
    """Some rows of a visit."""
    response: dict[str, Any] = {
        key: None if value is None else value[rows] for key, value in vars(visit.response).items()
    }
    parts = {key: value[rows] for key, value in vars(visit).items() if isinstance(value, Tensor)}
    observation = {key: value[rows] for key, value in visit.observation.items()}
    return _Visit(**parts, observation=observation, response=Response(**response))


# ---- reward terms ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_term(term: Term, *, batch: int = 8, seed: int = 0, tolerance: float = 1e-5) -> None:
    """Raise unless a reward term keeps every promise that can be tried.

    It is given slates of one position and of several, with repeated items, items that are no
    candidates, and nothing shown at all. It must return (B,) real and finite numbers; each from its
    own row alone; the same when asked again and where the catalogue's cosines are not at hand; the
    same whatever stands at a position that is not shown; and it must write into nothing and draw
    nothing.

    Args:
        term: a function of `RewardInputs`, such as one that `reward_term` registers
        batch: B, slates at a time
        seed: of the slates
        tolerance: by how much numbers may differ between two ways, relative or absolute

    Errors: ValueError, with the promise that was broken.
    """
    if not callable(term):
        raise ValueError(f"term is {checks.told(term)}, but it must be a function of RewardInputs.")
    batch, tolerance = (
        checks.whole("batch", batch, 4, 10_000),
        checks.number("tolerance", tolerance, 0),
    )
    generator = torch.Generator().manual_seed(checks.whole("seed", seed, 0))
    catalog = Catalog.synthetic(40, 5, 8, generator)
    for size in (1, 2, 7):
        _check_term(term, _inputs(catalog, batch, size, generator), catalog, tolerance)


def _inputs(catalog: Catalog, batch: int, size: int, generator: torch.Generator) -> RewardInputs:
    """Slates in turn: distinct items, any items, one item at every position, nothing shown; clicks on what is shown."""
    numbers = torch.rand(batch, len(catalog), generator=generator)
    slates, kind = numbers.argsort(dim=1)[:, :size].contiguous(), torch.arange(batch) % 4
    anything = torch.randint(len(catalog) // 4, (batch, size), generator=generator)
    slates = torch.where((kind == 1).unsqueeze(1), anything, slates)
    slates = torch.where((kind == 2).unsqueeze(1), slates[:, :1], slates)
    candidate = torch.rand(batch, size, generator=generator) < 0.8
    shown = first_places(slates) & (candidate | (kind == 0).unsqueeze(1)) & (kind != 3).unsqueeze(1)
    clicks = shown & (torch.rand(batch, size, generator=generator) < 0.5)
    return RewardInputs(slates, shown, clicks, catalog.embedding, catalog.category, catalog.cosines)


def _check_term(term: Term, inputs: RewardInputs, catalog: Catalog, tolerance: float) -> None:
    """The promises of a term, for these inputs."""
    name, positions = getattr(term, "__name__", type(term).__name__), inputs.slates.shape[1]

    def fail(found: str, expected: str) -> None:
        raise ValueError(f"The reward term {name} {found} (K = {positions}), but {expected}.")

    def compare(changed: RewardInputs, expected: Tensor, found: str, promise: str) -> None:
        value = _value(term, changed, fail)
        if not torch.allclose(value.double(), expected.double(), rtol=tolerance, atol=tolerance):
            fail(found, promise)

    value = _value(term, inputs, fail)
    compare(
        inputs,
        value,
        "returned other numbers when asked again",
        "it must be a function of its inputs alone",
    )
    for row in range(len(inputs.slates)):
        at = slice(row, row + 1)
        alone = dataclasses.replace(
            inputs, slates=inputs.slates[at], shown=inputs.shown[at], clicks=inputs.clicks[at]
        )
        compare(
            alone,
            value[at],
            f"returned another number for row {row} alone than for the batch",
            "a row must depend on that row of the inputs alone",
        )
    others = dataclasses.replace(
        inputs, slates=inputs.slates.where(inputs.shown, (inputs.slates + 7) % len(catalog))
    )
    compare(
        others,
        value,
        "returned another number for another item at a position that is not shown",
        "what is not shown must count for nothing",
    )
    compare(
        dataclasses.replace(inputs, cosines=None),
        value,
        "returned another number without cosines",
        "inputs.cosines is None for large catalogues, and the cosines are those of inputs.embedding",
    )


def _value(term: Term, inputs: RewardInputs, fail: Callable[[str, str], None]) -> Tensor:
    """What a term returns, once it is what a term may return and nothing else was touched."""
    copies = {
        key: value.clone() for key, value in vars(inputs).items() if isinstance(value, Tensor)
    }
    before, batch = _generators(), len(inputs.slates)
    try:
        value = term(inputs)
    except Exception as error:
        without = " without cosines" if inputs.cosines is None else ""
        said = " ".join(str(error).split())[: checks.LONGEST]
        fail(f"raised {type(error).__name__}{without}, {said!r}", "it must answer any slate")
        raise
    if _generators() != before:
        fail("drew from a global generator", "it must be a function of its inputs alone")
    for key, copy in copies.items():
        if not torch.equal(getattr(inputs, key).nan_to_num(), copy.nan_to_num()):
            fail(f"wrote into inputs.{key}", "it must leave its inputs as they are")
    if not is_dense(value) or value.is_complex() or value.shape != (batch,):
        fail(
            f"returned {checks.told(value)}",
            f"it must return a tensor of real numbers of shape ({batch},)",
        )
    if not bool(value.isfinite().all()):
        row = int((~value.isfinite()).nonzero()[0])
        fail(f"returned {value[row].item()} in row {row}", "every number must be finite")
    return value


def _generators() -> tuple[Any, ...]:
    """Where the global generators stand."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    states = (state.numpy().tobytes() for state in (torch.get_rng_state(), *cuda))
    return (*states, random.getstate(), name, np.asarray(keys).tobytes(), *rest)
