"""An impression log as episodes, from which user models, rankers and off-policy agents learn.

A step of an episode is one slate: a page of a visit. Pages of one visit, and visits of one day, are
steps that no day lies between. The observation that the shop had at each logged slate is made again
from the slates and responses before it, by the counters that a simulation keeps, so that training
and decision see the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import cast

import polars as pl
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.logs.schema import IMPRESSIONS, MOST_ITEMS, check_table
from recsim_env.shoppers.profile import Profile
from recsim_env.trees import pick
from recsim_env.types import Observation

MOST_STEPS = 256
"""Slates of an episode that are kept unless another number is asked for: tensors are as long as the
longest episode, so that a robot with thousands of slates would fill the memory."""
BY_STEP = ("slates", "clicks", "purchases", "days", "propensity", "policy")
"""Fields of `Sessions` with a place for every step."""
UNSAID = cast(Tensor, None)  # replaced in `__post_init__`


@dataclass(frozen=True)
class Sessions:
    """Logged episodes, one for each shopper; a step is one slate.

    Shapes: S episodes, T steps (padded at the end), K positions, D declared numbers.
    """

    slates: Tensor
    """(S, T, K) int64, -1 = padding or nothing shown."""
    clicks: Tensor
    """(S, T, K) bool, the responses."""
    length: Tensor
    """(S,) int64, the number of steps."""
    left: Tensor
    """(S,) bool, the shopper was watched after the last step and not seen again; False where the
    log ends before."""
    propensity: Tensor
    """(S, T) float32 log-probability of the ordered slate under the policy that logged it; NaN
    where it is unknown."""
    policy: Tensor
    """(S, T) int64 index into `policies`, the policy that chose the slate; -1 where it is unknown
    and where an episode is padded."""
    declared: Tensor
    """(S, D) float32, what each shopper declared of its interests before the first step; D = 0
    where the shop does not ask."""
    policies: tuple[str, ...]
    """Names of the policies that chose the slates."""
    days: Tensor = UNSAID
    """(S, T) float32 whole days since the first step of the episode, which never fall; what is
    padded repeats the last. By default steps are a day apart."""
    watched: Tensor = UNSAID
    """(S,) float32 days through which the log goes on after the last step. By default one day after
    those who left, and none after the others."""
    back: Tensor = UNSAID
    """(S,) float32 days from the last step to the next time that the shopper was seen, where that
    step is not kept; -1 where the shopper was not seen again. By default those who did not leave
    were seen a day later."""
    first_day: Tensor = UNSAID
    """(S,) int64 day of the log of the first step; by default 0."""
    left_out: Tensor = UNSAID
    """(S,) int64 steps of the log behind the last one that is kept; by default none."""
    purchases: Tensor | None = None
    """(S, T, K) bool, what was bought of what was clicked; None where a log has no purchases beside
    its clicks."""

    def __post_init__(self) -> None:
        """Set what was not given to its default."""
        shape, left = self.slates.shape[:2], self.left
        steps = torch.arange(shape[1], dtype=torch.float32, device=left.device)
        nothing = torch.zeros_like(self.length)
        defaults = {
            "days": torch.minimum(steps, (self.length - 1).clamp(min=0).unsqueeze(1).float()),
            "watched": left.float(),
            "back": torch.where(left, -1.0, 1.0),
            "first_day": nothing,
            "left_out": nothing.clone(),
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.length)

    @property
    def n_slates(self) -> int:
        """Number of logged slates."""
        return int(self.length.sum())

    @property
    def real(self) -> Tensor:
        """(S, T) bool, False where an episode is padded."""
        return torch.arange(
            self.slates.shape[1], device=self.length.device
        ) < self.length.unsqueeze(1)

    @property
    def gaps(self) -> Tensor:
        """(S, T) float32 days from each step to the next, -1 where none was seen, and at padding.

        Zero days lie between the pages of a visit.
        """
        following = torch.cat([self.days[:, 1:], self.days[:, :1]], dim=1)
        last = torch.arange(self.slates.shape[1], device=self.length.device)
        last = last == self.length.unsqueeze(1) - 1
        gap = torch.where(last, self.back.unsqueeze(1), following - self.days)
        return gap.where(self.real, -1.0)

    @property
    def follow_up(self) -> Tensor:
        """(S, T) float32 days through which the shopper was watched after each step."""
        ends = self.days.gather(1, (self.length - 1).clamp(min=0).unsqueeze(1))
        after = torch.maximum(self.watched, self.back).unsqueeze(1)
        return (ends + after - self.days).where(self.real, 0.0)

    def take(self, rows: Tensor) -> Sessions:
        """Select episodes by indices or a mask, and cut them to the longest of them."""
        length = self.length[rows]
        longest = int(length.max()) if len(length) else 0
        cut: dict[str, Tensor | None] = {}
        for name in (f.name for f in fields(self) if f.name != "policies"):
            value = getattr(self, name)
            if value is not None:
                value = value[rows, :longest] if name in BY_STEP else value[rows]
            cut[name] = value
        return Sessions(**cut, policies=self.policies)  # type: ignore[arg-type]

    def held_out(self, share: float, seed: int = 0) -> Tensor:
        """Choose a share of the episodes at random: (S,) bool.

        Raises:
            ValueError: If `share` is no number from 0 to 1 or `seed` no whole number of 0 or more.
        """
        share = checks.number("share", share, 0, 1)
        seed = checks.whole("seed", seed, 0, checks.LARGEST_SEED)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        chosen = torch.zeros(len(self), dtype=torch.bool)
        return chosen.index_fill(0, order[: round(share * len(self))], True)

    def split(self, share: float, seed: int = 0) -> tuple[Sessions, Sessions]:
        """Split whole episodes at random: those to learn from, and a share of them to check on.

        Raises:
            ValueError: As in `held_out`.
        """
        held = self.held_out(share, seed)
        return self.take(~held), self.take(held)

    @classmethod
    def of(
        cls,
        impressions: pl.DataFrame,
        declared: pl.DataFrame | None = None,
        *,
        slate_size: int | None = None,
        most_steps: int = MOST_STEPS,
    ) -> Sessions:
        """Make episodes from an impression table (`recsim_env.logs.schema`).

        Every row is a step; the pages of a visit follow each other. Responses are the clicks, or
        the purchases where there are none. Where both are there and differ, purchases are kept
        beside the clicks, and what was bought counts as clicked. A shopper whose last visit has no
        `gap` and was watched for some days has left.

        Args:
            impressions: The table; its rows may stand in any order.
            declared: One row a shopper, `shopper` Int64 and `declared` List(Float32), where the
                shop asks.
            slate_size: K; shorter slates are padded, and of longer ones the first K positions are
                kept. None means that of the longest slate.
            most_steps: The first so many steps of every shopper are kept; `left_out` tells how many
                were not.

        Raises:
            TypeError: If a table is no frame.
            LogError: If `impressions` is not what the schema says.
            ValueError: If a shopper declared nothing or no finite numbers, or a number is out of
                its range.
        """
        most_steps = checks.whole("most_steps", most_steps, 1)
        if isinstance(impressions, pl.DataFrame) and set(IMPRESSIONS.key) <= set(
            impressions.columns
        ):
            impressions = impressions.sort(IMPRESSIONS.key)
        # The catalogue is not known here, so items need only be numbers from 0 on.
        table = check_table(IMPRESSIONS, impressions, "impressions", MOST_ITEMS)
        longest = int(table["slate"].list.len().max())  # type: ignore[arg-type]
        size = longest if slate_size is None else checks.whole("slate_size", slate_size, 1)

        # Each row's episode, and its place in it.
        shopper = torch.from_numpy(table["shopper"].to_numpy().copy())
        _, owner, whole = shopper.unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(shopper)) - (whole.cumsum(0) - whole)[owner]
        first_row, length = whole.cumsum(0) - whole, whole.clamp(max=most_steps)
        day = torch.from_numpy(table["day"].cast(pl.Int64).to_numpy().copy())
        first_day = day[first_row]

        # What holds for a whole episode stands in its last row, or behind what is kept.
        ends = first_row + length - 1
        cut = whole > length
        gap, follow_up = (
            torch.from_numpy(table[name].fill_null(-1).cast(pl.Float32).to_numpy().copy())[ends]
            for name in ("gap", "follow_up")
        )
        to_next = day[(ends + 1).clamp(max=len(day) - 1)] - day[ends]
        back = torch.where(cut, to_next.float(), gap)

        # Slates, responses and what else is known of a step, by episode and place.
        kept = (place < most_steps).numpy()
        table, owner, place, day = table.filter(kept), owner[kept], place[kept], day[kept]
        shape = (len(length), int(length.max()))

        def placed(values: Tensor, empty: float) -> Tensor:
            found = torch.full((*shape, *values.shape[1:]), empty, dtype=values.dtype)
            found[owner, place] = values
            return found

        slates = _matrix(table["slate"], size, -1)
        clicks = _matrix(table.select(pl.coalesce("click", "purchase")).to_series(), size, 0) > 0
        bought = _bought(table, size)
        if bought is not None:
            clicks |= bought
        days = placed((day - first_day[owner]).float(), -1.0).cummax(dim=1).values
        chance = table["propensity"].cast(pl.Float32).fill_null(float("nan")).to_numpy().copy()
        names = tuple(table["policy"].drop_nulls().unique().sort())
        code = table["policy"].replace_strict(
            {name: at for at, name in enumerate(names)}, default=-1, return_dtype=pl.Int64
        )
        said = torch.zeros(len(length), 0, dtype=torch.float32)
        if declared is not None:
            said = _declared(declared, table["shopper"].unique().sort())
        return cls(
            slates=placed(slates, -1),
            clicks=placed(clicks, 0),
            length=length,
            left=(back < 0) & (follow_up > 0),
            propensity=placed(torch.from_numpy(chance), float("nan")),
            policy=placed(torch.from_numpy(code.to_numpy().copy()), -1),
            declared=said,
            policies=names,
            days=days,
            watched=follow_up.clamp(min=0),
            back=back,
            first_day=first_day,
            left_out=whole - length,
            purchases=None if bought is None else placed(bought, 0),
        )


def _bought(table: pl.DataFrame, size: int) -> Tensor | None:
    """Purchases (rows, K) bool, or None where they say nothing beside the clicks.

    They say something where a row has both and they differ; rows without any count as nothing
    bought.
    """
    both = pl.col("click").is_not_null() & pl.col("purchase").is_not_null()
    if not table.select((both & (pl.col("click") != pl.col("purchase"))).any()).item():
        return None
    bought = pl.when(both).then("purchase").otherwise(pl.col("click").list.eval(pl.lit(False)))
    return _matrix(table.select(bought).to_series(), size, 0) > 0


def _declared(declared: pl.DataFrame, shoppers: pl.Series) -> Tensor:
    """Look up what each of the shoppers declared: (S, D) float32.

    Raises:
        TypeError: If `declared` is no frame.
        ValueError: If it is not as `Sessions.of` says.
    """
    # The columns and their types.
    if not isinstance(declared, pl.DataFrame):
        raise TypeError(f"declared is {checks.told(declared)}, but it must be a polars DataFrame.")
    for name in ("shopper", "declared"):
        if name not in declared.columns:
            raise ValueError(f"declared has the columns {declared.columns}, but it needs {name!r}.")
    known = declared.schema["shopper"].is_integer() and isinstance(
        declared.schema["declared"], pl.List
    )
    if not known or not declared.schema["declared"].inner.is_numeric():  # type: ignore[attr-defined]
        found = f"{declared.schema['shopper']} and {declared.schema['declared']}"
        raise ValueError(
            f"declared has the types {found}, but it must have Int64 and List(Float32)."
        )
    typed = declared.select(
        pl.col("shopper").cast(pl.Int64), pl.col("declared").cast(pl.List(pl.Float32))
    )

    # One list of finite numbers for each shopper, all of one length.
    rows = pl.DataFrame({"shopper": shoppers}).join(
        typed, on="shopper", how="left", maintain_order="left"
    )
    if rows["declared"].null_count():
        missing = rows.filter(pl.col("declared").is_null())["shopper"][0]
        raise ValueError(
            f"declared has no row for shopper {missing}, but every shopper of the log needs one."
        )
    if len(rows) != len(shoppers) or rows["declared"].list.len().n_unique() != 1:
        raise ValueError(
            "declared has several rows a shopper or lists of several lengths, but needs one each."
        )
    said = torch.from_numpy(
        rows["declared"].explode().fill_null(float("nan")).to_numpy().copy()
    ).view(len(shoppers), -1)
    for row in (~said.isfinite().all(dim=1)).nonzero().flatten()[:1].tolist():
        told = checks.told(rows["declared"][row].to_list())
        raise ValueError(
            f"declared of shopper {rows['shopper'][row]} is {told}, "
            "but every number must be finite."
        )
    return said


def _matrix(column: pl.Series, width: int, empty: int) -> Tensor:
    """Lay lists out as rows (rows, width) int64: padded with `empty`, and cut where too long."""
    length = torch.from_numpy(column.list.len().fill_null(0).cast(pl.Int64).to_numpy().copy())
    values = column.explode().drop_nulls().cast(pl.Int64).to_numpy().copy()
    row = torch.arange(len(length)).repeat_interleave(length)
    place = torch.arange(len(row)) - (length.cumsum(0) - length)[row]
    found = torch.full((len(length), width), empty, dtype=torch.int64)
    inside = place < width
    found[row[inside], place[inside]] = torch.from_numpy(values)[inside]
    return found


@dataclass(frozen=True)
class Moment:
    """All episodes of a log that have a step of a number, with what was known before it."""

    visit: int
    """Number of the step, from 0."""
    rows: Tensor
    """(B,) int64, the episodes that have this step."""
    observation: Observation
    """What the shop knew before it, (B, ...): the keys of the simulator and of the profile."""
    slates: Tensor
    """(B, K) int64, the slates shown then; -1 = nothing."""
    clicks: Tensor
    """(B, K) bool, the responses to them."""


def replay(sessions: Sessions, catalog: Catalog, *, history: int = 10) -> Iterator[Moment]:
    """Give every step of a log in order, all episodes side by side, with its observation.

    The observation has `recent_slates`, `recent_clicks`, `recent_days`, `candidates` (the whole
    catalogue) and the keys of `recsim_env.shoppers.profile`, and `declared` where the log has it.

    Raises:
        ValueError: If `history` is no whole number above 0, or a slate holds an item beyond the
            catalogue.
    """
    history = checks.whole("history", history, 1, 1000)
    if sessions.slates.numel() and int(sessions.slates.max()) >= len(catalog):
        found = f"holds item {int(sessions.slates.max())}"
        raise ValueError(
            f"sessions {found}, but the catalogue has the items 0 to {len(catalog) - 1}."
        )

    # What the shop remembers of episodes that are still going.
    device, size = catalog.device, sessions.slates.shape[2]
    profile = Profile.empty(len(sessions), catalog, size, device)
    everything = torch.arange(len(catalog), device=device)
    recent_slates = torch.full((len(sessions), history, size), -1, dtype=torch.int64, device=device)
    recent_clicks = torch.zeros((len(sessions), history, size), dtype=torch.int8, device=device)
    recent_day = torch.zeros((len(sessions), history), dtype=torch.float32, device=device)
    rows = torch.arange(len(sessions), device=device)
    for visit in range(sessions.slates.shape[1]):
        going = sessions.length.to(device)[rows] > visit
        rows, profile = rows[going], pick(profile, going.nonzero().squeeze(1))
        recent_slates, recent_clicks = recent_slates[going], recent_clicks[going]
        recent_day = recent_day[going]
        slates = sessions.slates[:, visit].to(device)[rows]
        clicks = sessions.clicks[:, visit].to(device)[rows]
        day = sessions.days[:, visit].to(device)[rows].unsqueeze(1)
        had_step = torch.arange(history, device=device) < visit
        observation = {
            "recent_slates": recent_slates,
            "recent_clicks": recent_clicks,
            "recent_days": (day - recent_day).where(had_step, 0),
            "candidates": everything.expand(len(rows), -1),
            **profile.observe(),
        }
        if sessions.declared.shape[1]:
            observation["declared"] = sessions.declared.to(device)[rows]

        yield Moment(visit, rows, observation, slates, clicks)

        # The step becomes a part of what is remembered.
        shown = slates >= 0
        profile.record(
            slates.clamp(min=0), shown, clicks & shown, catalog.category, catalog.embedding
        )
        recent_slates = torch.cat([slates.unsqueeze(1), recent_slates[:, :-1]], dim=1)
        recent_clicks = torch.cat(
            [(clicks & shown).to(torch.int8).unsqueeze(1), recent_clicks[:, :-1]], dim=1
        )
        recent_day = torch.cat([day, recent_day[:, :-1]], dim=1)
