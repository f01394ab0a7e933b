"""Who comes to a simulated shop: shoppers of a log, new or as they stood at a logged visit.

A newcomer declares what a shopper of the log did and comes on the day of that shopper's first
slate. A shopper with a history stands before one of its logged visits, chosen at random once: what
it did before is replayed, and its temperament is drawn given what it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from recsim_env import checks, files, noise
from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions
from recsim_env.noise import normal
from recsim_env.shoppers.encoder import Cache
from recsim_env.shoppers.members import PRECISIONS
from recsim_env.shoppers.profile import Profile
from recsim_env.shoppers.session.heads import TEMPERAMENT
from recsim_env.shoppers.session.interest import Interest
from recsim_env.shoppers.session.memory import SessionMemory
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.visits import Visits, spread_out
from recsim_env.shoppers.weights import present, read_tensors
from recsim_env.tensors import first_places
from recsim_env.trees import pick, put

POPULATIONS = ("train", "evaluation")
"""The two halves of a log's shoppers: those that agents may learn with, and those for tests."""
STARTS = ("first", "history")
FILE = "population.safetensors"
"""The file of `Logged`."""
GROUP = 64
"""Shoppers that are replayed together."""
TEMPERAMENTS = 64
"""Temperaments of which one is drawn given a history; more tell it finer."""


@dataclass
class SessionState:
    """The state of B shoppers."""

    caches: list[Cache]
    """The visits so far, encoded by each member of the ensemble."""
    interests: list[Interest]
    """What each member knows of the interest."""
    memory: SessionMemory
    """Counters that all members see."""
    profile: Profile
    """What the shop remembers."""
    declared: Tensor
    """(B, D) float32, what the shopper said of its interest before the first visit."""
    normal: Tensor
    """(B, TEMPERAMENT) float32, the hidden numbers that each member makes the shopper's temperament
    of."""
    day: Tensor
    """(B,) float32 days since the shopper's first slate."""
    since: Tensor
    """(B,) float32 days since the last slate, 1 where there was none."""
    first_day: Tensor
    """(B,) float32 day of the log of the shopper's first slate."""


@dataclass(frozen=True)
class Logged:
    """The shoppers of a log, as far as a simulation needs them."""

    sessions: Sessions
    """What they declared, when they came first, and what they did; without any step where only
    newcomers are wanted."""
    evaluation: Tensor
    """(S,) bool, kept for evaluation: agents must not learn with these shoppers."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If there is no shopper, or `evaluation` or what was declared is not as said.
        """
        if len(self.sessions) == 0:
            raise ValueError("declared has no row, but a population needs at least one shopper.")
        checks.tensor("evaluation", self.evaluation, (len(self.sessions),), torch.bool)
        beyond = (~(self.sessions.declared.abs() <= 1)).nonzero()
        if len(beyond):
            at = beyond[0].tolist()
            found = self.sessions.declared[tuple(at)].item()
            raise ValueError(
                f"declared holds {found} at {at}, but every number must lie within -1 and 1."
            )

    @classmethod
    def newcomers(cls, declared: Tensor) -> Logged:
        """Make shoppers of whom only what they declared (S, D) is known."""
        checks.tensor("declared", declared, ("S", "D"), torch.float32)
        count = len(declared)
        nothing = torch.zeros(count, 0, 1)
        sessions = Sessions(
            slates=nothing.long(),
            clicks=nothing.bool(),
            length=torch.zeros(count, dtype=torch.int64),
            left=torch.zeros(count, dtype=torch.bool),
            propensity=nothing[:, :, 0],
            policy=nothing[:, :, 0].long(),
            declared=declared,
            policies=(),
        )
        return cls(sessions, torch.zeros(count, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.sessions)

    def some(self, most: int, seed: int = 0) -> Logged:
        """Keep so many shoppers at most, drawn at random."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        rows = order[:most].sort().values
        return Logged(self.sessions.take(rows), self.evaluation[rows])

    def only(self, population: str | None) -> Logged:
        """Keep one of `POPULATIONS`; None keeps all.

        Raises:
            ValueError: If there is no such population, or nobody in it.
        """
        if population is None:
            return self
        wanted = checks.choice("population", population, POPULATIONS) == "evaluation"
        rows = (self.evaluation == wanted).nonzero().flatten()
        if len(rows) == 0:
            raise ValueError(
                f"population is {population!r}, but all of the {len(self)} shoppers of the folder "
                "are of the other one, or it tells none apart."
            )
        return Logged(self.sessions.take(rows), self.evaluation[rows])

    def save(self, path: Path) -> None:
        """Write everything to a safetensors file, atomically."""
        log, real = self.sessions, self.sessions.real
        tensors = {
            "declared": log.declared,
            "evaluation": self.evaluation,
            "first_day": log.first_day,
            "length": log.length,
            "slates": log.slates[real].int(),
            "clicks": log.clicks[real],
            "days": log.days[real],
        }
        if log.purchases is not None:
            tensors["purchases"] = log.purchases[real]
        files.write_tensors(path, {name: value.contiguous() for name, value in tensors.items()})

    @classmethod
    def load(cls, path: Path, n_items: int) -> Logged:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it is no such file, or holds what cannot be; the sentence names it.
        """

        def known(shapes: dict[str, tuple[int, ...]]) -> None:
            wanted = {"declared", "evaluation", "first_day", "length", "slates", "clicks", "days"}
            if shapes.keys() - {"purchases"} != wanted:
                raise ValueError(
                    f"{path} holds tensors {checks.told(sorted(shapes))}, but it must hold "
                    f"{sorted(wanted)}."
                )

        tensors = read_tensors(present(path), known)
        try:
            return cls._of(tensors, n_items)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def _of(cls, tensors: dict[str, Tensor], n_items: int) -> Logged:
        count = len(checks.tensor("declared", tensors["declared"], ("S", "D"), torch.float32))
        length = checks.tensor("length", tensors["length"], (count,), torch.int64)
        if bool((length < 0).any()) or int(length.sum()) != len(tensors["slates"]):
            raise ValueError(
                f"length sums to {int(length.sum())}, but slates has {len(tensors['slates'])} rows."
            )
        slates = checks.tensor("slates", tensors["slates"], ("V", "K"), torch.int32).long()
        if slates.numel() and not -1 <= int(slates.min()) <= int(slates.max()) < n_items:
            raise ValueError(f"slates holds what is no item: the items are 0 to {n_items - 1}.")
        steps = tuple(slates.shape)
        checks.tensor("clicks", tensors["clicks"], steps, torch.bool)
        checks.tensor("days", tensors["days"], steps[:1], torch.float32)
        checks.tensor("first_day", tensors["first_day"], (count,), torch.int64)
        if "purchases" in tensors:
            checks.tensor("purchases", tensors["purchases"], steps, torch.bool)

        real = torch.arange(int(length.max()) if count else 0) < length.unsqueeze(1)

        def placed(name: str, values: Tensor, empty: float) -> Tensor:
            found = torch.full((*real.shape, *values.shape[1:]), empty, dtype=values.dtype)
            found[real] = values
            return found

        unknown = torch.full(real.shape, torch.nan)
        days = placed("days", tensors["days"], -1.0)
        if days.numel() and not bool((days[:, 0] <= 0).all() & (days.isfinite()).all()):
            raise ValueError("days must be finite numbers that begin with 0.")
        sessions = Sessions(
            slates=placed("slates", slates, -1),
            clicks=placed("clicks", tensors["clicks"], 0),
            length=length,
            left=torch.zeros(count, dtype=torch.bool),
            propensity=unknown,
            policy=torch.full(real.shape, -1),
            declared=tensors["declared"],
            policies=(),
            days=days.clamp(min=0).cummax(dim=1).values if days.numel() else days,
            first_day=tensors["first_day"],
            purchases=placed("purchases", tensors["purchases"], 0)
            if "purchases" in tensors
            else None,
        )
        return cls(sessions, tensors["evaluation"])


# ---- states --------------------------------------------------------------------------------------


def newcomers(
    catalog: Catalog,
    members: Sequence[SessionShopper],
    declared: Tensor,
    first_day: Tensor,
    numbers: Tensor,
    slate_size: int,
    precision: str,
) -> SessionState:
    """Make shoppers without visits.

    Args:
        catalog: the items
        members: the models, which all see the same visits
        declared: (B, D) what they declare
        first_day: (B,) day of the log
        numbers: (B, TEMPERAMENT) standard normal, of their temperaments
        slate_size: number of positions that the shop shows
        precision: of keys and values in the caches
    """
    batch, device = len(declared), declared.device
    width, groups = catalog.embedding.shape[1], len(catalog.categories)
    one = torch.ones(batch, dtype=torch.float32, device=device)
    return SessionState(
        caches=[
            member.empty_cache(member.welcome(declared)).to(PRECISIONS[precision])
            for member in members
        ],
        interests=[member.interest.newcomers(declared) for member in members],
        memory=SessionMemory.empty(batch, len(catalog), groups, width, device),
        profile=Profile.empty(batch, catalog, slate_size, device),
        declared=declared,
        normal=numbers,
        day=torch.zeros_like(one),
        since=one,
        first_day=first_day.float(),
    )


def without_items(sessions: Sessions, new: Tensor) -> Sessions:
    """Take items (N,) bool out of all slates of a log, as if nothing had been shown there."""
    gone = new.to(sessions.slates.device)[sessions.slates.clamp(min=0)] & (sessions.slates >= 0)
    purchases = sessions.purchases
    return replace(
        sessions,
        slates=sessions.slates.masked_fill(gone, -1),
        clicks=sessions.clicks & ~gone,
        purchases=None if purchases is None else purchases & ~gone,
    )


def start_steps(sessions: Sessions) -> Tensor:
    """Choose one visit of each shopper at random, always the same: the step (S,) of its first page.

    Every visit is as likely as every other.
    """
    days = sessions.days
    opens = torch.cat([torch.ones_like(days[:, :1]), days.diff(dim=1)], dim=1) > 0
    number = (opens & sessions.real).cumsum(dim=1)
    keys = noise.episode_key(torch.arange(len(sessions)), torch.zeros(len(sessions)).long())
    draw = noise.uniform(keys, 0, 1)
    total = number[:, -1:].clamp(min=1)
    chosen = (draw * total).long().clamp(max=total - 1) + 1
    return (number >= chosen).int().argmax(dim=1)


class Histories:
    """Every shopper of a log as it stood before one of its visits.

    A group of shoppers is replayed when the first of them is asked for, always as a whole: a
    shopper's state does not depend on who else is asked for.

    Args:
        catalog: the items, on the device of the states
        members: the models, there too, in eval mode
        sessions: what the shoppers did, one step or more each, on the CPU
        slate_size: number of positions that the shop shows
        precision: of keys and values in the caches
    """

    def __init__(
        self,
        catalog: Catalog,
        members: Sequence[SessionShopper],
        sessions: Sessions,
        slate_size: int,
        precision: str,
    ) -> None:
        self._catalog, self._members, self._precision = catalog, members, precision
        self._slate_size, self._device = slate_size, catalog.device
        start = start_steps(sessions)
        self._day = sessions.days.gather(1, start.unsqueeze(1)).squeeze(1)
        before = (start - 1).clamp(min=0).unsqueeze(1)
        since = self._day - sessions.days.gather(1, before).squeeze(1)
        self._since = torch.where(start > 0, since, 1.0)
        self._sessions = replace(
            sessions,
            length=start,
            left=torch.zeros_like(sessions.left),
            back=self._since,
            watched=self._since,
        )
        self._groups: dict[int, tuple[SessionState, Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def arrivals(self, who: Tensor) -> tuple[Tensor, Tensor]:
        """Return what shoppers who (B,) declared, and the day of the log on which they come.

        Returns:
            (B, D) float32 and (B,) float32.
        """
        at = who.to(self._day.device)
        day = self._sessions.first_day[at].float() + self._day[at]
        return self._sessions.declared[at].to(self._device), day.to(self._device)

    def rows(self, who: Tensor, draws: Tensor) -> SessionState:
        """Copy the states of shoppers who (B,) int64.

        Args:
            who: their numbers
            draws: (B, TEMPERAMENT) uniform, of their temperaments
        """
        group = who // GROUP
        for number in group.unique().tolist():
            if number not in self._groups:
                self._groups[number] = self._replayed(number)
        parts = [
            (at, self._picked(int(number), who[at] % GROUP, draws[at]))
            for number in group.unique()
            for at in [(group == number).nonzero().flatten()]
        ]
        if len(parts) == 1:
            return parts[0][1]
        first = parts[0][1]
        whole: SessionState = pick(first, torch.zeros(len(who), dtype=torch.int64).to(who.device))
        for at, state in parts:
            put(whole, at, state)
        return whole

    def _picked(self, number: int, rows: Tensor, draws: Tensor) -> SessionState:
        state, numbers, chance = self._groups[number]
        found: SessionState = pick(state, rows)
        drawn = (draws[:, :1] >= chance[rows]).sum(dim=1).clamp(max=TEMPERAMENTS - 1)
        known = numbers[rows, drawn]
        had_visits = (found.memory.visits > 0).unsqueeze(1)
        return replace(found, normal=torch.where(had_visits, known, normal(draws)))

    @torch.inference_mode(False)  # made outside inference mode, so that autograd may use it
    @torch.no_grad()
    def _replayed(self, number: int) -> tuple[SessionState, Tensor, Tensor]:
        """Replay a group.

        Returns:
            States, (G, TEMPERAMENTS, TEMPERAMENT) standard normal numbers of possible temperaments,
            and (G, TEMPERAMENTS) the chance of each of them or one before, given what was done.
        """
        rows = torch.arange(number * GROUP, min((number + 1) * GROUP, len(self)))
        sessions, catalog, device = self._sessions.take(rows), self._catalog, self._device
        generator = torch.Generator().manual_seed(number)
        numbers = spread_out(len(rows), TEMPERAMENTS, generator).to(device)
        state = newcomers(
            catalog,
            self._members,
            sessions.declared.to(device),
            sessions.first_day.to(device),
            torch.zeros(len(rows), TEMPERAMENT, device=device),
            self._slate_size,
            self._precision,
        )
        state.day, state.since = self._day[rows].to(device), self._since[rows].to(device)
        weight = torch.zeros(len(rows), TEMPERAMENTS, device=device)
        if sessions.n_slates:
            _remember(state, sessions, catalog, self._slate_size)
            given = Visits.of(sessions, catalog.to(torch.device("cpu"))).batch(
                torch.arange(len(rows))
            )
            given = {name: value.to(device) for name, value in given.items()}
            owner = given["real"].nonzero()[:, 0]
            interests = []
            for member, cache in zip(self._members, state.caches, strict=True):
                found = member(**given, normal=numbers)
                weight.index_add_(0, owner, found["log_likelihood"] / len(self._members))
                interests.append(Interest(found["interest"], found["interest_covariance"]))
                self._fill(member, cache, given, owner)
            state.interests = interests
        return state, numbers, weight.softmax(dim=1).cumsum(dim=1)

    def _fill(
        self, member: SessionShopper, cache: Cache, given: dict[str, Tensor], owner: Tensor
    ) -> None:
        """Encode the visits of a batch into a cache, in place."""
        token = member.token(
            given["slates"],
            given["shown"],
            given["clicks"],
            given["counters"],
            given["context"],
            given["declared"][owner],
            given["since"],
            given.get("purchases"),
        )
        real = given["real"]
        whole = member.prefill(token, given["days"].expand(real.shape)[real], real.sum(dim=1))
        rows = real.any(dim=1).nonzero().flatten()
        cache.put(rows, whole.pick(rows).to(PRECISIONS[self._precision]))


def _remember(state: SessionState, sessions: Sessions, catalog: Catalog, slate_size: int) -> None:
    """Replay the counters of shoppers and shop, in place."""
    device = catalog.device
    slates_of, clicks_of = sessions.slates.to(device), sessions.clicks.to(device)
    gaps, length = sessions.gaps.to(device), sessions.length.to(device)
    for step in range(slates_of.shape[1]):
        rows = (length > step).nonzero().flatten()
        memory, profile = pick(state.memory, rows), pick(state.profile, rows)
        shown = first_places(slates_of[rows, step])
        slates = slates_of[rows, step].clamp(min=0)
        clicks = clicks_of[rows, step] & shown
        memory.record(slates, shown, clicks, catalog.category, catalog.embedding)
        memory.wait(gaps[rows, step])
        seen = (slates[:, :slate_size], shown[:, :slate_size], clicks[:, :slate_size])
        profile.record(*seen, catalog.category, catalog.embedding)
        put(state.memory, rows, memory)
        put(state.profile, rows, profile)
