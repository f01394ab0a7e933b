"""The check of a shopper of one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor

from recsim_env import checks, noise
from recsim_env.shoppers import promises
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.promises import broken
from recsim_env.tensors import among, first_places
from recsim_env.testing.generators import generators
from recsim_env.trees import leaves, pick, put
from recsim_env.types import Observation, Response

# ---- shoppers ------------------------------------------------------------------------------------


@torch.no_grad()
def check_shopper(
    shopper: Shopper[Any],
    *,
    batch: int = 8,
    visits: int = 6,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> None:
    """Raise unless a shopper keeps every promise of `Shopper` that can be tried.

    It is asked for some visits of a batch of shoppers, with slates of candidates, of repeated items
    and of items that are none. Then everything is done again in other ways that must lead to the
    same: with equal draws, row by row, in another order, with other shoppers in some rows, with
    some rows alone, and, where the shopper tells how likely it leaves, with nobody leaving. Last,
    as many visits are played as a simulator would, with new shoppers in place of those who left.

    Args:
        shopper: The shopper, as a simulator would get it; nobody else may use it meanwhile.
        batch: B, how many shoppers are asked at a time.
        visits: The most visits of each shopper; an episode must not be shorter by the shopper's own
            clock.
        seed: The seed of the draws and the slates.
        tolerance: By how much real numbers may differ between two ways, relative or absolute.

    Raises:
        ValueError: If the shopper breaks a promise; the message names the method and the promise.
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
    kit.check_put(played)
    kit.check_pick(played)
    kit.check_staying(played)
    kit.check_newcomers()
    kit.check_later()


@dataclass(frozen=True)
class _Visit:
    """A visit of a batch: (B, ...) each."""

    candidates: Tensor
    observation: Observation
    slates: Tensor
    shown: Tensor
    draws: Tensor
    running: Tensor  # (B,) bool, the episode was not over before
    response: Response

    def answers(self) -> Iterator[tuple[str, str, Tensor]]:
        """Yield method, key and tensor of everything that the shopper said."""
        yield "candidates", "candidates", self.candidates
        for key, value in self.observation.items():
            yield "observe", key, value
        yield from _parts(self.response)


def _parts(response: Response) -> Iterator[tuple[str, str, Tensor]]:
    for key, value in vars(response).items():
        if value is not None:
            yield "respond", key, value


class _Kit:
    """The checks of one shopper, over the same visits."""

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

    def ask(self, method: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return the answer of a method, which may neither draw globally nor change a tensor."""
        given = [value.clone() if isinstance(value, Tensor) else None for value in arguments]
        before = generators()
        answer = call(*arguments)
        if generators() != before:
            broken(
                self.shopper,
                method,
                "drew from a global generator",
                "everything random must come from draws",
            )
        state_is_first = method not in ("start", "respond")  # a state may be a tensor, and move
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
        """Start new shoppers of the episode of this number, in all rows or in some."""
        keys = noise.episode_key(self.seeds, torch.full_like(self.seeds, number))
        draws = noise.uniform(keys, 0, self.shopper.start_draws)
        state = self.ask("start", self.shopper.start, draws if rows is None else draws[rows])
        promises.check_state(self.shopper, state, len(self.seeds) if rows is None else len(rows))
        return state

    def look(self, state: Any, batch: int) -> tuple[Tensor, Observation]:
        """Return the candidates and the observation of a visit, once they are as promised."""
        candidates = self.ask("candidates", self.shopper.candidates, state)
        promises.check_candidates(self.shopper, candidates, batch)
        observation = self.ask("observe", self.shopper.observe, state)
        promises.check_observation(self.shopper, self.spaces, observation, batch, state)
        return candidates, observation

    def play(self) -> list[_Visit]:
        """Play some visits of new shoppers, and hold every answer against the promises.

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
            response = self.ask("respond", self.shopper.respond, state, slates, shown, draws)
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
        """Make slates (B, K) of four kinds in turn.

        They hold distinct candidates, any items, one candidate at every position, or items that are
        none. With `valid` all hold distinct candidates, as far as there are so many.
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
        """Return the draws of a visit: (B, visit_draws)."""
        key = noise.episode_key(self.seeds, torch.zeros_like(self.seeds))
        return noise.uniform(key, visit + 1, self.shopper.visit_draws)

    # Two ways that must agree.

    def same(self, found: Tensor, expected: Tensor) -> bool:
        """Tell whether two tensors hold the same numbers, real ones within the tolerance."""
        if found.shape != expected.shape:
            return False
        if found.is_floating_point():
            return torch.allclose(
                found, expected, rtol=self.tolerance, atol=self.tolerance, equal_nan=True
            )
        return torch.equal(found, expected)

    def replay(self, played: list[_Visit], rows: Tensor) -> Iterator[tuple[_Visit, _Visit]]:
        """Play the same visits again for some rows, and yield what they were and are now."""
        state = self.start(0, rows)
        for visit in played:
            candidates, observation = self.look(state, len(rows))
            slates, shown, draws = visit.slates[rows], visit.shown[rows], visit.draws[rows]
            response = self.ask("respond", self.shopper.respond, state, slates, shown, draws)
            promises.check_response(self.shopper, response, shown, visit.running[rows])
            yield (
                _rows(visit, rows),
                _Visit(
                    candidates, observation, slates, shown, draws, visit.running[rows], response
                ),
            )

    def difference(self, expected: _Visit, found: _Visit) -> tuple[str, str] | None:
        """Return method and key of the first answer that differs in running episodes."""
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
        """Check that equal draws give equal shoppers."""
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
        """Check that row b of a result depends on row b of the arguments alone."""
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

    def check_put(self, played: list[_Visit]) -> None:
        """Check that shoppers put into some rows stand there, and that all others are as before."""
        rows = torch.arange(self.batch - 1, 0, -2, device=self.shopper.device)
        state, untouched = self._moved(played), self._moved(played)
        put(state, rows, self.start(1, rows))
        found = self._next(state, self.batch)
        rest = torch.ones(self.batch, dtype=torch.bool, device=rows.device).index_fill(
            0, rows, False
        )
        others = (rest & ~played[0].response.left).nonzero()[:, 0]
        self._compare(
            _rows(self._next(untouched, self.batch, like=found), others),
            _rows(found, others),
            "returned a state in which a row hangs on others: {key!r} changed with them",
        )
        part = _rows(found, rows)
        self._compare(
            self._next(self.start(1, rows), len(rows), like=part),
            part,
            "returned a state that leaves something out: {key!r} is not that of a row put into it",
        )

    def check_pick(self, played: list[_Visit]) -> None:
        """Check that the state of some rows is theirs, in the order in which they were named."""
        rows = torch.arange(self.batch - 1, 0, -2, device=self.shopper.device)
        whole = self._next(self._moved(played), self.batch)
        part = pick(self._moved(played), rows)
        running = ~played[0].response.left[rows]
        expected = dataclasses.replace(_rows(whole, rows), running=running)
        self._compare(
            expected,
            self._next(part, len(rows), like=expected),
            "returned a state that leaves something out: {key!r} is not that of a row taken from "
            "it",
        )
        self.look(pick(self._moved(played), rows[:0]), 0)

    def check_newcomers(self) -> None:
        """Check that newcomers have a state of the same make, and that each depends on its draws.

        Where everybody is new this is `start` already.
        """
        if not self.shopper.serves_newcomers:
            return
        rows = torch.arange(self.batch - 1, 0, -2, device=self.shopper.device)
        keys = noise.episode_key(self.seeds, torch.zeros_like(self.seeds))
        draws = noise.uniform(keys, 0, self.shopper.start_draws)
        whole = self.ask("start_new", self.shopper.start_new, draws)
        promises.check_state(self.shopper, whole, self.batch)
        part = self.ask("start_new", self.shopper.start_new, draws[rows])
        self.look(whole, self.batch)
        put(self.start(), rows, part)  # as a simulator puts them beside the others
        pairs = zip(leaves(pick(whole, rows)), leaves(part), strict=True)
        for (place, expected), (_, found) in pairs:
            if isinstance(expected, Tensor) and not self.same(found, expected):
                broken(
                    self.shopper,
                    "start_new",
                    f"returned another {place.removeprefix('/')!r} for some rows than for the "
                    "batch",
                    "a row must depend on that row of the arguments alone",
                )

    def check_staying(self, played: list[_Visit]) -> None:
        """Check that under `never_leave` nobody lapses and the clicks are the same."""
        if not self.shopper.tells_leaving:
            return
        everyone = torch.arange(self.batch, device=self.shopper.device)
        leaving, self.shopper = self.shopper, self.shopper.staying()
        for number, (expected, now) in enumerate(self.replay(played, everyone)):
            if bool(now.response.left.any()):
                broken(self.shopper, "respond", "returned left with True", "never_leave is True")
            if number == 0 and not torch.equal(expected.response.clicks, now.response.clicks):
                promise = "never_leave may change leaving only"
                broken(self.shopper, "respond", "returned other clicks", promise)
        self.shopper = leaving

    def check_later(self) -> None:
        """Check the answers of every visit, with new shoppers in place of those who left."""
        state = self.start()
        for number in range(self.visits):
            candidates, _ = self.look(state, self.batch)
            slates, draws = self.slates(candidates, number, valid=True), self.draws(number)
            shown = among(slates, candidates, self.items) & first_places(slates)
            response = self.ask("respond", self.shopper.respond, state, slates, shown, draws)
            promises.check_response(self.shopper, response, shown)
            gone = response.left.nonzero()[:, 0]
            if len(gone):
                put(state, gone, self.start(number + 1, gone))

    # Inside.

    def _check_looks(self, state: Any, candidates: Tensor, observation: Observation) -> None:
        """Check that looking changes nothing, and that the caller may change what it is given."""
        self._check_own_memory("observe", self.shopper.observe, state)
        self._check_own_memory("when_and_where", self.shopper.when_and_where, state)
        where = self.ask("when_and_where", self.shopper.when_and_where, state)
        promises.check_place(self.shopper, where, self.batch)
        told = self.ask("describe", self.shopper.describe, state, self.batch - 1)
        promises.check_description(self.shopper, told)
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

    def _check_own_memory(self, method: str, call: Callable[..., Any], state: Any) -> None:
        given = self.ask(method, call, state)
        copies = {key: value.clone() for key, value in given.items()}
        for key, value in given.items():
            if promises.overlaps(value):
                found = f"returned {key!r}, in which several numbers lie at one place"
                broken(
                    self.shopper,
                    method,
                    found,
                    "the caller may write into what is returned: it must be a clone",
                )
            value.zero_()
        for key, value in self.ask(method, call, state).items():
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
        found = self.ask("on_offer", self.shopper.on_offer, state, items)
        if found is None:
            return
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
        """Return the shoppers after their first visit."""
        state, first = self.start(), played[0]
        self.ask("respond", self.shopper.respond, state, first.slates, first.shown, first.draws)
        return state

    def _next(self, state: Any, batch: int, like: _Visit | None = None) -> _Visit:
        """Return the next visit of a batch, or of some rows with the slates of another visit."""
        candidates, observation = self.look(state, batch)
        slates = self.slates(candidates, 1, valid=True) if like is None else like.slates
        shown = among(slates, candidates, self.items) & first_places(slates)
        draws = self.draws(1) if like is None else like.draws
        response = self.ask("respond", self.shopper.respond, state, slates, shown, draws)
        running = torch.ones(batch, dtype=torch.bool, device=slates.device)
        promises.check_response(self.shopper, response, shown)
        return _Visit(candidates, observation, slates, shown, draws, running, response)

    def _compare(self, expected: _Visit, found: _Visit, what: str) -> None:
        differs = self.difference(expected, found)
        if differs is not None:
            promise = "the state must hold all that a shopper is, a row each"
            broken(self.shopper, "start", what.format(key=differs[1]), promise)


def _rows(visit: _Visit, rows: Tensor) -> _Visit:
    """Return some rows of a visit."""
    response: dict[str, Any] = {
        key: None if value is None else value[rows] for key, value in vars(visit.response).items()
    }
    parts = {key: value[rows] for key, value in vars(visit).items() if isinstance(value, Tensor)}
    observation = {key: value[rows] for key, value in visit.observation.items()}
    return _Visit(**parts, observation=observation, response=Response(**response))
