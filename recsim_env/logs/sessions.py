"""An impression log as episodes: what user models, rankers and off-policy agents learn from.

The observation that the shop had at each logged slate is made again from the slates and responses before it, by the
very counters that a simulation keeps, so training and decision see the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import polars as pl
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.shoppers.profile import Profile
from recsim_env.types import Observation


@dataclass(frozen=True)
class Sessions:
    """S logged episodes of one slate a visit. Shapes: S episodes, T visits (padded at the end), K positions."""

    slates: Tensor
    """(S, T, K) int64, -1 = padding or nothing shown."""
    clicks: Tensor
    """(S, T, K) bool, the responses."""
    length: Tensor
    """(S,) int64, visits."""
    left: Tensor
    """(S,) bool, the shopper left after the last visit; False where the log ends before."""
    propensity: Tensor
    """(S, T) float32 log-probability of the ordered slate under who logged it; NaN where unknown."""
    scenario: Tensor
    """(S,) int64 index into `scenarios`, who logged it."""
    declared: Tensor
    """(S, D) float32, what each shopper said of its interest before the first visit; D = 0 where shops do not ask."""
    scenarios: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.length)

    @property
    def n_slates(self) -> int:
        """Logged slates."""
        return int(self.length.sum())

    @property
    def real(self) -> Tensor:
        """(S, T) bool, False at padding."""
        return torch.arange(self.slates.shape[1], device=self.length.device) < self.length.unsqueeze(1)

    def take(self, rows: Tensor) -> Sessions:
        """Some episodes: indices or a mask, cut to the longest of them."""
        length = self.length[rows]
        longest = int(length.max()) if len(length) else 0
        cut = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "scenarios"}
        cut |= {name: cut[name][:, :longest] for name in ("slates", "clicks", "propensity")}
        return Sessions(**cut, scenarios=self.scenarios)

    def split(self, share: float, seed: int = 0) -> tuple[Sessions, Sessions]:
        """Episodes to learn from and `share` of them to check on, whole episodes each."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        held = round(share * len(self))
        return self.take(order[held:].sort().values), self.take(order[:held].sort().values)

    @classmethod
    def of(cls, impressions: pl.DataFrame, declared: pl.DataFrame | None = None) -> Sessions:
        """From an impression table (`recsim_env.logs.schema`), one page a visit; clicks, or purchases without them.

        A shopper whose last visit has no `gap` and was watched for some days has left.

        declared: a row a shopper, `shopper` i64 and `declared` list[f32], where the shop asks

        Errors: ValueError where slates differ in size, a visit has several pages, or a shopper declared nothing.
        """
        table = impressions.sort("shopper", "visit")
        if table.select("shopper", "visit").is_duplicated().any():
            raise ValueError("impressions has several pages a visit, but sessions hold one slate a visit.")
        sizes = table["slate"].list.len().unique()
        if len(sizes) != 1:
            raise ValueError(f"impressions has slates of {sizes.sort().to_list()} positions, but all must be alike.")
        size = int(sizes[0])
        responses = table["click"] if table["click"].null_count() < len(table) else table["purchase"]
        slate, click = (_matrix(column, size) for column in (table["slate"], responses))
        shopper = torch.from_numpy(table["shopper"].to_numpy().copy())
        _, owner, length = shopper.unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(shopper)) - (length.cumsum(0) - length)[owner]
        shape = (len(length), int(length.max()) if len(length) else 0)
        slates = torch.full((*shape, size), -1)
        slates[owner, place] = slate
        clicks = torch.zeros((*shape, size), dtype=torch.bool)
        clicks[owner, place] = click.bool()
        propensity = torch.full(shape, torch.nan)
        chance = table["propensity"].cast(pl.Float32).fill_null(float("nan")).to_numpy().copy()
        propensity[owner, place] = torch.from_numpy(chance)
        last = length.cumsum(0) - 1
        gone = torch.from_numpy((table["gap"].is_null() & (table["follow_up"] > 0)).to_numpy().copy())
        names = tuple(table["scenario"].unique().sort())
        code = table["scenario"].replace_strict({name: at for at, name in enumerate(names)}, return_dtype=pl.Int64)
        scenario = torch.from_numpy(code.to_numpy().copy())[last]
        said = torch.zeros(len(length), 0)
        if declared is not None:
            of_shopper = (
                table.select("shopper")
                .unique()
                .sort("shopper")
                .join(declared, on="shopper", how="left", maintain_order="left")
            )
            if of_shopper["declared"].null_count():
                missing = of_shopper.filter(pl.col("declared").is_null())["shopper"][0]
                raise ValueError(f"declared has no row for shopper {missing}, but every shopper of the log needs one.")
            if len(of_shopper) != len(length) or of_shopper["declared"].list.len().n_unique() != 1:
                raise ValueError("declared has several rows a shopper or lists of several lengths, but needs one each.")
            flat = of_shopper["declared"].explode().cast(pl.Float32).to_numpy().copy()
            said = torch.from_numpy(flat).view(len(length), -1)
        return cls(slates, clicks, length, gone[last], propensity, scenario, said, names)


def _matrix(column: pl.Series, width: int) -> Tensor:
    """A list column as (rows, width) int64."""
    return torch.from_numpy(column.explode().cast(pl.Int64).to_numpy().copy()).view(-1, width)


@dataclass(frozen=True)
class Moment:
    """All episodes of a log at their visit number `visit`."""

    visit: int
    rows: Tensor
    """(B,) int64, the episodes that have this visit."""
    observation: Observation
    """What the shop knew before it, (B, ...): the simulator's generic keys and the profile's."""
    slates: Tensor
    """(B, K) int64, what was shown then; -1 = nothing."""
    clicks: Tensor
    """(B, K) bool."""


def replay(sessions: Sessions, catalog: Catalog, *, history: int = 10) -> Iterator[Moment]:
    """Every visit of a log in order, all episodes side by side, with the observation before it.

    The observation has `recent_slates`, `recent_clicks`, `recent_days`, `candidates` (the whole catalogue) and the
    keys of `recsim_env.shoppers.profile`, and `declared` where the log has it; visits are a day apart.
    """
    device, size = catalog.device, sessions.slates.shape[2]
    profile = Profile.empty(len(sessions), catalog, size, device)
    everything = torch.arange(len(catalog), device=device)
    recent_slates = torch.full((len(sessions), history, size), -1, device=device)
    recent_clicks = torch.zeros((len(sessions), history, size), dtype=torch.int8, device=device)
    rows = torch.arange(len(sessions), device=device)
    for visit in range(sessions.slates.shape[1]):
        going = sessions.length.to(device)[rows] > visit
        rows, profile = rows[going], profile.select(going.nonzero().squeeze(1))
        recent_slates, recent_clicks = recent_slates[going], recent_clicks[going]
        slates = sessions.slates[:, visit].to(device)[rows]
        clicks = sessions.clicks[:, visit].to(device)[rows]
        ago = torch.arange(1, history + 1, device=device)
        days = ago.where(ago <= visit, 0)
        observation = {
            "recent_slates": recent_slates,
            "recent_clicks": recent_clicks,
            "recent_days": days.float().expand(len(rows), -1),
            "candidates": everything.expand(len(rows), -1),
            **profile.observe(),
        }
        if sessions.declared.shape[1]:
            observation["declared"] = sessions.declared.to(device)[rows]
        yield Moment(visit, rows, observation, slates, clicks)
        shown = slates >= 0
        profile.record(slates.clamp(min=0), shown, clicks & shown, catalog.category, catalog.embedding)
        recent_slates = torch.cat([slates.unsqueeze(1), recent_slates[:, :-1]], dim=1)
        recent_clicks = torch.cat([(clicks & shown).to(torch.int8).unsqueeze(1), recent_clicks[:, :-1]], dim=1)
