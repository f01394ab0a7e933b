"""The learned market: the session model at work, or several of them as an ensemble.

Shoppers who answer as a model fitted to a market's log says (`recsim_env.shoppers.session.model`),
in place of the closed-form ones of `recsim_env.shoppers.market`: same catalogue, same observation,
one visit a day. What a policy earns here and there tells how far a user model fitted to a log can
be trusted.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env import checks, files
from recsim_env.catalog import Catalog
from recsim_env.noise import normal
from recsim_env.shoppers.base import Description, Shopper, counted
from recsim_env.shoppers.encoder import Block, Cache
from recsim_env.shoppers.members import (
    PRECISIONS,
    agreed,
    check_ensemble,
    check_pessimism,
    check_precision,
    compile_parts,
    mixed,
)
from recsim_env.shoppers.profile import EVER, Profile, profile_spaces
from recsim_env.shoppers.session.memory import SessionMemory
from recsim_env.shoppers.session.model import (
    MOOD_CHANCES,
    TEMPERAMENT,
    LeaveHead,
    SessionShopper,
    Weariness,
    over_moods,
)
from recsim_env.shoppers.weights import (
    load_model,
    member_folders,
    present,
    read_tensors,
    save_model,
)
from recsim_env.types import Observation, Response
from recsim_env.waiting import waiting

SHIPPED = Path(__file__).parents[2] / "data" / "market"
"""The folder of `recsim_env/LearnedMarket-v0`."""
NEWCOMERS = "newcomers.safetensors"
"""File of `declared` (S, D), what the shoppers of the log declared."""
HALF = 0.002
"""Largest error of a number of an embedding that is written in half precision."""


@dataclass
class LearnedMarketState:
    """The state of B shoppers."""

    caches: list[Cache]
    """The visits so far, encoded by each member of the ensemble."""
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
    """(B,) float32, one a visit."""


class LearnedMarketShopper(Shopper[LearnedMarketState]):
    """The population of a learned market.

    They come once a day until they leave. Every item is a candidate at every visit. Observation:
    the keys of `recsim_env.shoppers.profile.profile_spaces`, and
        declared: (D,) float32, what the shopper said of its interest before the first visit, where
            the log has it

    A newcomer declares what a shopper of the log did, and has a temperament of its own (see
    `model`), both drawn at random. What else it likes shows in its clicks, each drawn given all
    before it.

    Clicks (in each mood) and leaving have the members' mean probability. With `pessimism` b, a
    click has their mean less b of their standard deviations, at least 0, and leaving the mean plus
    b of them, at most 1; see `members.agreed`.

    Args:
        catalog: the items
        members: fitted models of one catalogue and slate size, in any mode; they are set to
            `eval()` and frozen
        declared: (S, D) float32, what shoppers of the log declared; D = 0 where shops do not ask
        device: where the shoppers live
        pessimism: b >= 0, without unit; above 0 it needs two members or more
        precision: of the encoder, fp32 or bf16
        never_leave: whether nobody leaves; see `Shopper.staying`

    Raises:
        ValueError: If there is no member, members or catalogue differ in size, `pessimism` is
            negative or asked of a single member, or `precision` unknown.
    """

    tells_leaving = True
    trusted = True

    def __init__(
        self,
        catalog: Catalog,
        members: Sequence[SessionShopper],
        declared: Tensor,
        device: torch.device,
        *,
        pessimism: float = 0.0,
        precision: str = "fp32",
        never_leave: bool = False,
    ) -> None:
        _check_members(catalog, members, declared)
        size = members[0].config.slate_size
        super().__init__(
            catalog,
            size,
            device=device,
            start_draws=1 + TEMPERAMENT,
            visit_draws=size + 2,
            never_leave=never_leave,
        )
        self.members = [member.to(device).eval().requires_grad_(False) for member in members]  # type: ignore[arg-type]
        self.declared = declared.to(device)
        self.pessimism = check_pessimism(pessimism, len(members))
        self.precision = check_precision(precision)
        self._moods = torch.tensor(MOOD_CHANCES, dtype=torch.float32, device=device).cumsum(0)

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

    def start(self, draws: Tensor) -> LearnedMarketState:
        """Make newcomers, of whom nothing is known but what they declare."""
        batch, width = len(draws), self.catalog.embedding.shape[1]
        declared = self.declared[
            (draws[:, 0] * len(self.declared)).long().clamp(max=len(self.declared) - 1)
        ]
        return LearnedMarketState(
            caches=[
                member.empty_cache(member.welcome(declared)).to(PRECISIONS[self.precision])
                for member in self.members
            ],
            memory=SessionMemory.empty(
                batch, len(self.catalog), len(self.catalog.categories), width, self.device
            ),
            profile=Profile.empty(batch, self.catalog, self.slate_size, self.device),
            declared=declared,
            normal=normal(draws[:, 1:]),
            day=torch.zeros(batch, dtype=torch.float32, device=self.device),
        )

    def on_offer(self, state: LearnedMarketState, items: Tensor) -> Tensor:
        """Tell which of items (B, K) are no padding: every item is on offer."""
        return items >= 0

    def observe(self, state: LearnedMarketState) -> Observation:
        """Describe what the shopper declared, and what the shop remembers of its visits."""
        said = {"declared": state.declared.clone()} if self.declared.shape[1] else {}
        return {**said, **state.profile.observe()}

    @torch.no_grad()
    def respond(
        self, state: LearnedMarketState, slates: Tensor, shown: Tensor, draws: Tensor
    ) -> Response:
        """Click, remember, and come back tomorrow or never; `state` changes."""
        # What each member expects.
        category, embedding = self.catalog.category, self.catalog.embedding
        click_draw, mood_draw, leave_draw = draws.split([self.slate_size, 1, 1], dim=1)
        counters = state.memory.look(slates, category)
        states = [cache.state for cache in state.caches]
        tempers = [member.temperament(state.normal).unsqueeze(1) for member in self.members]
        asked = list(zip(self.members, states, tempers, strict=True))
        answers = [
            member.answer(before, temper, slates, counters) for member, before, temper in asked
        ]
        chances = [
            member.click_probability(before, temper, logits, shown).squeeze(1)
            for (member, before, temper), (logits, _) in zip(asked, answers, strict=True)
        ]

        # Clicks in the mood of the visit.
        in_moods = agreed(chances, -self.pessimism)
        mood = torch.bucketize(mood_draw.contiguous(), self._moods[:-1], right=True).unsqueeze(2)
        clicks = click_draw < in_moods.gather(1, mood.expand(-1, 1, self.slate_size)).squeeze(1)

        # Leaving, given the clicks.
        leavings = [
            torch.sigmoid(member.leave_logits(before, temper, weary, clicks, shown)).squeeze(1)
            for (member, before, temper), (_, weary) in zip(asked, answers, strict=True)
        ]
        leaving = agreed(leavings, self.pessimism)
        left = (leave_draw.squeeze(1) < leaving) & (not self.never_leave)

        # The visit is remembered and encoded.
        state.memory.record(slates, shown, clicks, category, embedding)
        state.profile.record(slates, shown, clicks, category, embedding)
        context = state.memory.context()
        for member, cache in zip(self.members, state.caches, strict=True):
            with mixed(self.device, self.precision):
                token = member.token(slates, shown, clicks, counters, context, state.declared)
                member.append_visit(cache, token, state.day)
        state.day = state.day + 1
        one, none = torch.ones_like(state.day), torch.zeros_like(state.day)
        return Response(
            clicks, over_moods(in_moods), left, days=one, elsewhere=none, leaving=leaving
        )

    def describe(self, state: LearnedMarketState, row: int) -> Description:
        """Describe the clicks in each category; how far the shopper looks is hidden."""
        member, before = self.members[0], state.caches[0].state[row].unsqueeze(0)
        temper = member.temperament(state.normal[row]).view(1, 1, -1)
        depth = float(member.log_looks(before, temper)[0, 0, -1].exp())
        clicks = state.profile.clicked[row, :, EVER]
        lines = [
            f"{counted(int(clicks[c]), 'click')} · {self.catalog.categories[c]}"
            for c in clicks.argsort(descending=True, stable=True)[:8].tolist()
            if clicks[c] > 0
        ]
        hidden = f"looks at the last position with chance {depth:.2f}"
        return {
            "date": f"visit {int(state.day[row]) + 1}",
            "store": "market",
            "history": lines,
            "hidden": hidden,
        }


def save_learned_market(
    folder: str | os.PathLike[str],
    catalog: Catalog,
    members: Sequence[SessionShopper],
    declared: Tensor,
) -> None:
    """Write a catalogue and its models, `model0/`, `model1/` and so on, in place of those before.

    Args:
        folder: where they are written
        catalog: the items
        members: the fitted models
        declared: (S, D) float32, what newcomers may declare

    Raises:
        ValueError: If there is no member, or members and catalogue differ in size.
        OSError: If the folder cannot be written to; the message names it.
    """
    _check_members(catalog, members, declared)
    path = files.made(folder)
    catalog.save(path)
    files.write_tensors(path / NEWCOMERS, {"declared": declared})
    for old in member_folders(path, 0):
        shutil.rmtree(old)
    for number, member in enumerate(members):
        save_model(member, path / f"model{number}")


def load_learned_market(
    device: torch.device,
    slate_size: int = 10,
    *,
    folder: str | os.PathLike[str] | None = None,
    ensemble: int = 1,
    pessimism: float = 0.0,
    precision: str = "fp32",
    compiled: bool = False,
) -> LearnedMarketShopper:
    """Open the shoppers of a learned market.

    Args:
        device: where the shoppers live
        slate_size: number of positions, which must be that of the models
        folder: of `save_learned_market`; None = the one that comes with the package
        ensemble: how many of its members answer together
        pessimism: see `LearnedMarketShopper`
        precision: see `LearnedMarketShopper`
        compiled: whether `torch.compile` fuses the networks; the first steps then take a minute
            longer

    Raises:
        FileNotFoundError: If the folder or a file in it is missing.
        TypeError: If `folder` is no path.
        ValueError: If an option is bad, the folder holds fewer members, the members answer slates
            of another size, or what the folder holds is broken or does not fit together; the
            sentence names file and key or tensor.
    """
    path = SHIPPED if folder is None else checks.path("folder", folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f"folder is {os.fspath(path)!r}, but there is no such folder with a learned market."
        )
    ensemble, fused = check_ensemble(ensemble), checks.flag("compiled", compiled)
    check_pessimism(pessimism, ensemble)
    there = member_folders(path, 0)
    if len(there) < ensemble:
        raise ValueError(
            f"ensemble is {ensemble}, but {os.fspath(path)!r} holds {len(there)} models."
        )
    with waiting(f"reading the shoppers in {path}"):
        members = [load_model(SessionShopper, found) for found in there[:ensemble]]
        declared = _read_declared(present(path / NEWCOMERS))
        catalog = _exact(Catalog.load(path), members, path)
    if members[0].config.slate_size != checks.whole("slate_size", slate_size, 1):
        raise ValueError(
            f"slate_size is {slate_size}, but the learned market answers slates of "
            f"{members[0].config.slate_size} "
            "positions."
        )
    for member in members if fused else ():
        compile_parts(member, (Block, Weariness, LeaveHead))
    return LearnedMarketShopper(
        catalog, members, declared, device, pessimism=pessimism, precision=precision
    )


def _read_declared(path: Path) -> Tensor:
    """Read `declared` (S, D) float32, whose numbers lie within -1 and 1."""

    def only_declared(shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes.keys() != {"declared"}:
            raise ValueError(
                f"{path} holds tensors {checks.told(sorted(shapes))}, but it must hold "
                "'declared' alone."
            )

    declared = read_tensors(path, only_declared)["declared"]
    try:
        checks.tensor("declared", declared, ("S", "D"), torch.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    beyond = (declared.abs() > 1).nonzero()
    if len(beyond):
        at = beyond[0].tolist()
        found = declared[tuple(at)].item()
        raise ValueError(
            f"{path}: declared holds {found} at {at}, but every number must lie within -1 and 1."
        )
    return declared


def _exact(catalog: Catalog, members: Sequence[SessionShopper], path: Path) -> Catalog:
    """Give the catalogue the exact embedding that the models hold.

    The file of the catalogue has half the digits, and must be the same but for that.
    """
    stored = members[0].embedding
    for member in members:
        same = member.embedding.shape == catalog.embedding.shape and torch.equal(
            member.category, catalog.category
        )
        if not same or not torch.allclose(member.embedding, catalog.embedding, rtol=0, atol=HALF):
            raise ValueError(
                f"{path} holds models of another catalog: their embedding or category is not "
                "the same."
            )
    return dataclasses.replace(catalog, embedding=stored.clone())


def _check_members(catalog: Catalog, members: Sequence[SessionShopper], declared: Tensor) -> None:
    if len(members) == 0:
        raise ValueError("members is empty, but a learned market needs at least one model.")
    if declared.ndim != 2 or len(declared) == 0:
        raise ValueError(
            f"declared has the shape {tuple(declared.shape)}, but it must be (S, D) with a "
            "row or more."
        )
    size = members[0].config.slate_size
    for member in members:
        if member.config.declared != declared.shape[1]:
            raise ValueError(
                f"declared has {declared.shape[1]} numbers a shopper, but members has a model of "
                f"{member.config.declared}."
            )
        if member.config.n_items != len(catalog):
            raise ValueError(
                f"members has a model of {member.config.n_items} items, but catalog has "
                f"{len(catalog)}."
            )
        if member.config.slate_size != size:
            raise ValueError(
                f"members has models of {size} and of {member.config.slate_size} positions, "
                "but all must be alike."
            )
