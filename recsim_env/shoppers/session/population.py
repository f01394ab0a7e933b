"""Shoppers of an impression log at work: the session model, or several of them as an ensemble.

Shoppers who answer as a model fitted to a log says (`recsim_env.shoppers.session.model`). Those of
`recsim_env/LearnedMarket-v0` stand in place of the closed-form ones of
`recsim_env.shoppers.market`: same catalogue, same observation, one visit a day. What a policy earns
here and there tells how far a user model fitted to a log can be trusted.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsim_env import checks, files
from recsim_env.catalog import Catalog
from recsim_env.noise import normal
from recsim_env.shop_file import LOG, RANKER
from recsim_env.shoppers import cold
from recsim_env.shoppers.base import Description, Shopper, counted
from recsim_env.shoppers.encoder import Block
from recsim_env.shoppers.gaps import back_by, sample_gap
from recsim_env.shoppers.members import (
    agreed,
    check_ensemble,
    check_pessimism,
    check_precision,
    compile_parts,
    mixed,
)
from recsim_env.shoppers.profile import EVER, profile_spaces
from recsim_env.shoppers.session.availability import Availability
from recsim_env.shoppers.session.heads import TEMPERAMENT, LeaveHead, Weariness
from recsim_env.shoppers.session.likelihood import MOOD_CHANCES, over_moods
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.starts import (
    FILE,
    STARTS,
    Histories,
    Logged,
    SessionState,
    newcomers,
    without_items,
)
from recsim_env.shoppers.weights import CONFIG, load_model, member_folders, save_model
from recsim_env.tables import write_parquet
from recsim_env.tensors import filled_up
from recsim_env.types import Observation, Response
from recsim_env.waiting import waiting

AVAILABLE = "available.parquet"
"""File of the days on which items are there, where they are not always: `Availability`."""
HALF = 0.002
"""Largest error of a number of an embedding that is written in half precision."""


class SessionPopulation(Shopper[SessionState]):
    """The shoppers of an impression log.

    A step is one slate; after it they leave, or come back after some days, 0 for the next page of
    the same visit. Observation: the keys of `recsim_env.shoppers.profile.profile_spaces`, and
        declared: (D,) float32, what the shopper said of its interest before the first visit, where
            the log has it

    With `starts="first"` newcomers come: they declare what a shopper of the log did, come on the
    day of its first slate, and have a temperament of their own (see `model`), all drawn at random.
    With `starts="history"` a shopper of the log stands before one of its visits, and counters,
    states and temperament hold what it did before; the simulator's own `recent_slates` begin empty.
    What else a shopper likes shows in its clicks, each drawn given all before it. Only there can
    newcomers be asked for beside the others (`SlateSimulator`'s `newcomers`): they declare what a
    shopper of the log did, and come on the day on which that one would have.

    Clicks (in each mood), purchases and leaving have the members' mean probability. With
    `pessimism` b, a click has their mean less b of their standard deviations, at least 0, and
    leaving the mean plus b of them, at most 1; see `members.agreed`.

    Args:
        catalog: the items
        members: fitted models of one catalogue, slate size and log, in any mode; they are set to
            `eval()` and frozen
        logged: the shoppers of the log
        device: where the shoppers live
        slate_size: positions of a slate, at most those of the models; None means as many
        starts: first or history
        available: which items are there on which day; None means all, always
        pessimism: b >= 0, without unit; above 0 it needs two members or more
        precision: of the encoder, fp32 or bf16
        new: (N,) bool, items that no history holds and of which the models know no more than the
            catalogue says; None means none
        never_leave: whether nobody leaves; see `Shopper.staying`

    Raises:
        ValueError: If there is no member, members or catalogue differ in size, `pessimism` is
            negative or asked of a single member, or another option is not as said.
    """

    tells_leaving = True
    trusted = True

    def __init__(
        self,
        catalog: Catalog,
        members: Sequence[SessionShopper],
        logged: Logged,
        device: torch.device,
        *,
        slate_size: int | None = None,
        starts: str = "first",
        available: Availability | None = None,
        pessimism: float = 0.0,
        precision: str = "fp32",
        new: Tensor | None = None,
        never_leave: bool = False,
    ) -> None:
        # What is answered, and how many numbers it takes.
        _check_members(catalog, members, logged)
        most = members[0].config.slate_size
        size = most if slate_size is None else checks.whole("slate_size", slate_size, 1)
        if size > most:
            raise ValueError(
                f"slate_size is {size}, but the models answer slates of {most} positions at most."
            )
        buys = members[0].config.purchases
        super().__init__(
            catalog,
            size,
            device=device,
            start_draws=1 + TEMPERAMENT,
            visit_draws=size + 4 + (size if buys else 0),
            max_candidates=None if available is None else available.items.shape[1],
            never_leave=never_leave,
        )

        # Who answers, and who comes.
        self.members = [member.to(device).eval().requires_grad_(False) for member in members]  # type: ignore[arg-type]
        self.tells_purchases = buys
        self.pessimism = check_pessimism(pessimism, len(members))
        self.precision = check_precision(precision)
        self.starts = checks.choice("starts", starts, STARTS)
        self.serves_newcomers = self.starts == "history"
        self.new_items = None if new is None else new.to(self.device)
        if new is not None:
            logged = dataclasses.replace(logged, sessions=without_items(logged.sessions, new))
            self.members = [member.without_items(self.new_items) for member in self.members]
        self.available = None if available is None else available.to(self.device)
        self.declared = logged.sessions.declared.to(device)
        self._first_day = logged.sessions.first_day.to(device)
        self._moods = torch.tensor(MOOD_CHANCES, dtype=torch.float32, device=device).cumsum(0)
        self._histories = self._with_histories(logged) if starts == "history" else None

    def _with_histories(self, logged: Logged) -> Histories:
        sessions = logged.sessions
        rows = (sessions.length > 0).nonzero().flatten()
        if len(rows) == 0:
            raise ValueError(
                "starts is 'history', but the folder holds what shoppers declared and not what "
                "they did."
            )
        return Histories(
            self.catalog, self.members, sessions.take(rows), self.slate_size, self.precision
        )

    # ---- the methods of a shopper ----

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the space of each key of `observe`, for one shopper."""
        own = profile_spaces(self.catalog, self.slate_size)
        if self.declared.shape[1] == 0:
            return own
        return {
            "declared": gymnasium.spaces.Box(-1, 1, (self.declared.shape[1],), np.float32),
            **own,
        }

    def start(self, draws: Tensor) -> SessionState:
        """Make newcomers, of whom only what they declare is known, or take known shoppers."""
        if self._histories is not None:
            return self._histories.rows(_one_of(draws[:, 0], len(self._histories)), draws[:, 1:])
        who = _one_of(draws[:, 0], len(self.declared))
        return self._newcomers(self.declared[who], self._first_day[who], draws)

    def start_new(self, draws: Tensor) -> SessionState:
        """Make newcomers in place of known shoppers: what these declared, on the day of theirs."""
        assert self._histories is not None
        who = _one_of(draws[:, 0], len(self._histories))
        return self._newcomers(*self._histories.arrivals(who), draws)

    def _newcomers(self, declared: Tensor, day: Tensor, draws: Tensor) -> SessionState:
        return newcomers(
            self.catalog,
            self.members,
            declared,
            day,
            normal(draws[:, 1:]),
            self.slate_size,
            self.precision,
        )

    def candidates(self, state: SessionState) -> Tensor:
        """Return the items that are there on the day of the visit."""
        if self.available is None:
            return super().candidates(state)
        return self.available.candidates(state.first_day + state.day)

    def on_offer(self, state: SessionState, items: Tensor) -> Tensor:
        """Tell which of items (B, K) are there on the day of the visit."""
        if self.available is None:
            return items >= 0
        return self.available.offers(state.first_day + state.day, items)

    def observe(self, state: SessionState) -> Observation:
        """Describe what the shopper declared, and what the shop remembers of its visits."""
        said = {"declared": state.declared.clone()} if self.declared.shape[1] else {}
        return {**said, **state.profile.observe()}

    @torch.no_grad()
    def respond(
        self, state: SessionState, slates: Tensor, shown: Tensor, draws: Tensor
    ) -> Response:
        """Click, buy, remember, and come back or not; `state` changes."""
        # What each member expects; the models see slates of their own size.
        size = self.slate_size
        click_draw, mood_draw, leave_draw, gap_draws, buy_draw = draws.split(
            [size, 1, 1, 2, draws.shape[1] - size - 4], dim=1
        )
        narrow, seen = (slates, shown), self._wide(shown)
        slates = self._wide(slates)
        counters = state.memory.look(slates, self.catalog.category)
        states = [
            member.arrive(cache.state, state.since)
            for member, cache in zip(self.members, state.caches, strict=True)
        ]
        tempers = [member.temperament(state.normal).unsqueeze(1) for member in self.members]
        asked = list(zip(self.members, states, tempers, strict=True))
        answers = [
            member.answer(before, member.wanted(before, known.mean), temper, slates, counters)
            for (member, before, temper), known in zip(asked, state.interests, strict=True)
        ]
        chances = [
            member.click_probability(before, temper, logits, seen).squeeze(1)
            for (member, before, temper), (logits, _) in zip(asked, answers, strict=True)
        ]

        # Clicks in the mood of the visit, and purchases of what is clicked.
        in_moods = agreed(chances, -self.pessimism)[..., :size]
        mood = torch.bucketize(mood_draw.contiguous(), self._moods[:-1], right=True).unsqueeze(2)
        clicked = click_draw < in_moods.gather(1, mood.expand(-1, 1, size)).squeeze(1)
        purchases = None
        if self.tells_purchases:
            buying = [
                torch.sigmoid(member.purchase_logits(before, narrow[0]))
                for member, before, _ in asked
            ]
            purchases = clicked & (buy_draw < agreed(buying, -self.pessimism))
        clicks = self._wide(clicked)

        # Leaving, given the clicks, and the days until the next slate.
        leavings = [
            torch.sigmoid(member.leave_logits(before, temper, weary, clicks, seen)).squeeze(1)
            for (member, before, temper), (_, weary) in zip(asked, answers, strict=True)
        ]
        leaving = agreed(leavings, self.pessimism)
        left = (leave_draw.squeeze(1) < leaving) & (not self.never_leave)
        bins = self.members[0].config.gap_bins
        back, _ = back_by([member.hazards(before, clicks) for member, before, _ in asked], 0.0)
        gap, _ = sample_gap(bins, back, *gap_draws.unbind(dim=1))

        # The visit is remembered and encoded.
        state.interests = [
            member.follow(known, before, slates, seen, clicks, counters, state.declared, gap)
            for (member, before, _), known in zip(asked, state.interests, strict=True)
        ]
        self._keep(state, slates, seen, clicks, counters, purchases)
        state.profile.record(*narrow, clicked, self.catalog.category, self.catalog.embedding)
        state.memory.wait(gap)
        state.since, state.day = gap, state.day + gap
        return Response(
            clicked,
            over_moods(in_moods),
            left,
            days=gap.where(~left, float(bins.lapse_days)),
            elsewhere=torch.zeros_like(gap),
            leaving=leaving,
            purchases=purchases,
        )

    def _keep(
        self,
        state: SessionState,
        slates: Tensor,
        shown: Tensor,
        clicks: Tensor,
        counters: Tensor,
        purchases: Tensor | None,
    ) -> None:
        """Add a visit to the counters and to each member's cache, in place."""
        category, embedding = self.catalog.category, self.catalog.embedding
        state.memory.record(slates, shown, clicks, category, embedding)
        context = state.memory.context()
        bought = None if purchases is None else self._wide(purchases)
        told = (context, state.declared, state.since, bought)
        for member, cache in zip(self.members, state.caches, strict=True):
            with mixed(self.device, self.precision):
                token = member.token(slates, shown, clicks, counters, *told)
                member.append_visit(cache, token, state.day)

    def _wide(self, values: Tensor) -> Tensor:
        """Pad values (B, K) to the positions of the models; nothing is shown there."""
        return filled_up(values, self.members[0].config.slate_size)

    def describe(self, state: SessionState, row: int) -> Description:
        """Describe the clicks in each category; how far the shopper looks is hidden."""
        member, before = self.members[0], state.caches[0].state[row].unsqueeze(0)
        temper = member.temperament(state.normal[row]).view(1, 1, -1)
        depth = float(member.log_looks(before, temper)[0, 0, -1].exp())
        clicks = state.profile.clicked[row, :, EVER]
        lines = [
            f"{counted(int(clicks[c]), 'click')} · {self.catalog.category_name(c)}"
            for c in clicks.argsort(descending=True, stable=True)[:8].tolist()
            if clicks[c] > 0
        ]
        hidden = f"looks at the last position with chance {depth:.2f}"
        return {
            "date": f"visit {int(state.memory.visits[row]) + 1}",
            "store": "shop",
            "history": lines,
            "hidden": hidden,
        }


def _one_of(draws: Tensor, number: int) -> Tensor:
    """Turn uniform draws (B,) into numbers from 0 to `number` - 1."""
    return (draws * number).long().clamp(max=number - 1)


def save_session(
    folder: str | os.PathLike[str],
    catalog: Catalog,
    members: Sequence[SessionShopper],
    logged: Logged,
    *,
    available: pl.DataFrame | None = None,
) -> None:
    """Write a catalogue, its models and their shoppers, in place of those before.

    The models are `model0/`, `model1/` and so on.

    Args:
        folder: where they are written
        catalog: the items
        members: the fitted models
        logged: the shoppers of the log
        available: which items are there on which days, see `Availability.of`; None means all

    Raises:
        ValueError: If there is no member, or members, catalogue and shoppers do not fit together.
        OSError: If the folder cannot be written to; the message names it.
    """
    _check_members(catalog, members, logged)
    if available is not None:
        Availability.of(available, len(catalog))
    path = files.made(folder)
    catalog.save(path)
    logged.save(path / FILE)
    (path / AVAILABLE).unlink(missing_ok=True)
    if available is not None:
        write_parquet(path / AVAILABLE, available)
    for old in member_folders(path, 0):
        shutil.rmtree(old)
    for number, member in enumerate(members):
        save_model(member, path / f"model{number}")


def earlier_parts(folder: Path) -> list[Path]:
    """List what a folder of shoppers may hold that others in its place need not have."""
    return [*member_folders(folder, 0), folder / AVAILABLE, folder / RANKER, folder / LOG]


def load_session(
    folder: str | os.PathLike[str],
    device: torch.device,
    slate_size: int = 10,
    *,
    starts: str = "first",
    population: str | None = None,
    ensemble: int = 1,
    pessimism: float = 0.0,
    precision: str = "fp32",
    compiled: bool = False,
    new_items: float = 0.0,
) -> SessionPopulation:
    """Open the shoppers of an impression log.

    Args:
        folder: of `save_session`
        device: where the shoppers live
        slate_size: number of positions, at most that of the models
        starts: see `SessionPopulation`
        population: train or evaluation, the shoppers that agents learn with or those for tests;
            None = all
        ensemble: how many of its members answer together
        pessimism: see `SessionPopulation`
        precision: see `SessionPopulation`
        compiled: whether `torch.compile` fuses the networks; the first steps then take a minute
            longer
        new_items: share of items, from 0 to 1, that no history holds and of which the models know
            no more than the catalogue says

    Raises:
        FileNotFoundError: If the folder or a file in it is missing.
        TypeError: If `folder` is no path.
        ValueError: If an option is bad, the folder holds fewer members, the members answer shorter
            slates, or what the folder holds is broken or does not fit together; the sentence names
            file and key or tensor.
    """
    path = checks.path("folder", folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f"folder is {os.fspath(path)!r}, but there is no such folder with shoppers of a log."
        )
    slate_size = checks.whole("slate_size", slate_size, 1)
    ensemble, fused = check_ensemble(ensemble), checks.flag("compiled", compiled)
    check_pessimism(pessimism, ensemble)
    of_items = cold.share("new_items", new_items)
    there = member_folders(path, 0)
    if len(there) < ensemble:
        raise ValueError(
            f"ensemble is {ensemble}, but {os.fspath(path)!r} holds {len(there)} models."
        )

    # Models, catalogue and shoppers.
    with waiting(f"reading the shoppers in {path}"):
        members = [load_model(SessionShopper, found) for found in there[:ensemble]]
        catalog = _exact(Catalog.load(path), members, path)
        logged = Logged.load(path / FILE, len(catalog)).only(population)
        available = None
        if (path / AVAILABLE).exists():
            available = Availability.read(path / AVAILABLE, len(catalog))
    for member in members if fused else ():
        compile_parts(member, (Block, Weariness, LeaveHead))
    return SessionPopulation(
        catalog,
        members,
        logged,
        device,
        slate_size=slate_size,
        starts=starts,
        available=available,
        pessimism=pessimism,
        precision=precision,
        new=cold.new_items(len(catalog), of_items, 0),
    )


def _exact(catalog: Catalog, members: Sequence[SessionShopper], path: Path) -> Catalog:
    """Give the catalogue the exact embedding that the models hold.

    The file of the catalogue has half the digits, and must be the same but for that.
    """
    stored = members[0].embedding
    for number, member in enumerate(members):
        if member.config.n_categories != len(catalog.categories):
            raise ValueError(
                f"{path / f'model{number}' / CONFIG}: n_categories is "
                f"{member.config.n_categories}, but the catalogue has {len(catalog.categories)}."
            )
        same = member.embedding.shape == catalog.embedding.shape and torch.equal(
            member.category, catalog.category
        )
        if not same or not torch.allclose(member.embedding, catalog.embedding, rtol=0, atol=HALF):
            raise ValueError(
                f"{path} holds models of another catalog: their embedding or category is not "
                "the same."
            )
    return dataclasses.replace(catalog, embedding=stored.clone())


def _check_members(catalog: Catalog, members: Sequence[SessionShopper], logged: Logged) -> None:
    """Check that models, catalogue and shoppers fit together; raise ValueError if not."""
    if len(members) == 0:
        raise ValueError("members is empty, but a population needs at least one model.")
    first, told = members[0].config, logged.sessions.declared.shape[1]
    for config in (member.config for member in members):
        if config.declared != told:
            raise ValueError(
                f"declared has {told} numbers a shopper, but members has a model of "
                f"{config.declared}."
            )
        if config.n_items != len(catalog):
            raise ValueError(
                f"members has a model of {config.n_items} items, but catalog has {len(catalog)}."
            )
        if config.slate_size != first.slate_size:
            raise ValueError(
                f"members has models of {first.slate_size} and of {config.slate_size} positions, "
                "but all must be alike."
            )
        if config.gap_bins != first.gap_bins or config.purchases != first.purchases:
            raise ValueError(
                "members has models of several logs: their gap_edges, lapse_days or purchases are "
                "not the same."
            )
