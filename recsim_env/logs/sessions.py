"""An impression log as episodes: what user models, rankers and off-policy agents learn from.

The observation that the shop had at each logged slate is made again from the slates and responses
before it, by the very counters that a simulation keeps, so training and decision see the same
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import polars as pl
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.logs.schema import IMPRESSIONS, MOST_ITEMS, check_table
from recsim_env.shoppers.profile import Profile
from recsim_env.trees import pick
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
    """(S, T) float32 log-probability of the ordered slate under who logged it; NaN where
    unknown."""
    scenario: Tensor
    """(S,) int64 index into `scenarios`, who logged it."""
    declared: Tensor
    """(S, D) float32, what each shopper said of its interest before the first visit; D = 0 where
    shops do not ask."""
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
        return torch.arange(
            self.slates.shape[1], device=self.length.device
        ) < self.length.unsqueeze(1)

    def take(self, rows: Tensor) -> Sessions:
        """Some episodes: indices or a mask, cut to the longest of them."""
        length = self.length[rows]
        longest = int(length.max()) if len(length) else 0
        cut = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "scenarios"}
        cut |= {name: cut[name][:, :longest] for name in ("slates", "clicks", "propensity")}
        return Sessions(**cut, scenarios=self.scenarios)

    def split(self, share: float, seed: int = 0) -> tuple[Sessions, Sessions]:
        """Episodes to learn from and `share` of them to check on, whole episodes each.

        Raises:
            ValueError: If `share` is no number from 0 to 1 or `seed` no whole number of 0 or more.
        """
        share, seed = checks.number("share", share, 0, 1), checks.whole("seed", seed, 0, 2**63 - 1)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        held = round(share * len(self))
        return self.take(order[held:].sort().values), self.take(order[:held].sort().values)

    @classmethod
    def of(cls, impressions: pl.DataFrame, declared: pl.DataFrame | None = None) -> Sessions:
        """From an impression table (`recsim_env.logs.schema`), one page a visit; clicks, or purchases without them.

        A shopper whose last visit has no `gap` and was watched for some days has left.

        Args:
            impressions: its rows may stand in any order
            declared: a row a shopper, `shopper` i64 and `declared` list[f32], where the shop asks

        Raises:
            TypeError: If a table is no frame.
            LogError: If `impressions` is not what the schema says.
            ValueError: If slates differ in size, a visit has several pages, or a shopper declared
                nothing or no finite numbers.
        """
        if isinstance(impressions, pl.DataFrame) and set(IMPRESSIONS.key) <= set(
            impressions.columns
        ):
            impressions = impressions.sort(IMPRESSIONS.key)
        # the catalogue is not known here, so items need only be numbers from 0 on
        table = check_table(IMPRESSIONS, impressions, "impressions", MOST_ITEMS).sort(
            "shopper", "visit"
        )
        if table.select("shopper", "visit").is_duplicated().any():
            raise ValueError(
                "impressions has several pages a visit, but sessions hold one slate a visit."
            )
        sizes = table["slate"].list.len().unique()
        if len(sizes) != 1:
            raise ValueError(
                f"impressions has slates of {sizes.sort().to_list()} positions, but all must be alike."
            )
        size = int(sizes[0])
        responses = table.select(pl.coalesce("click", "purchase")).to_series()
        slate, click = (_matrix(column, size) for column in (table["slate"], responses))
        shopper = torch.from_numpy(table["shopper"].to_numpy().copy())
        _, owner, length = shopper.unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(shopper)) - (length.cumsum(0) - length)[owner]
        shape = (len(length), int(length.max()) if len(length) else 0)
        slates = torch.full((*shape, size), -1, dtype=torch.int64)
        slates[owner, place] = slate
        clicks = torch.zeros((*shape, size), dtype=torch.bool)
        clicks[owner, place] = click.bool()
        propensity = torch.full(shape, torch.nan, dtype=torch.float32)
        chance = table["propensity"].cast(pl.Float32).fill_null(float("nan")).to_numpy().copy()
        propensity[owner, place] = torch.from_numpy(chance)
        last = length.cumsum(0) - 1
        gone = torch.from_numpy(
            (table["gap"].is_null() & (table["follow_up"] > 0)).to_numpy().copy()
        )
        names = tuple(table["scenario"].unique().sort())
        code = table["scenario"].replace_strict(
            {name: at for at, name in enumerate(names)}, return_dtype=pl.Int64
        )
        scenario = torch.from_numpy(code.to_numpy().copy())[last]
        said = torch.zeros(len(length), 0, dtype=torch.float32)
        if declared is not None:
            said = _declared(declared, table["shopper"].unique().sort())
        return cls(slates, clicks, length, gone[last], propensity, scenario, said, names)


def _declared(declared: pl.DataFrame, shoppers: pl.Series) -> Tensor:
    """What each of the shoppers declared: (S, D) float32. Errors: as `Sessions.of`."""
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
            f"declared of shopper {rows['shopper'][row]} is {told}, but every number must be finite."
        )
    return said


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

    The observation has `recent_slates`, `recent_clicks`, `recent_days`, `candidates` (the whole
    catalogue) and the keys of `recsim_env.shoppers.profile`, and `declared` where the log has it;
    visits are a day apart.

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
    device, size = catalog.device, sessions.slates.shape[2]
    profile = Profile.empty(len(sessions), catalog, size, device)
    everything = torch.arange(len(catalog), device=device)
    recent_slates = torch.full((len(sessions), history, size), -1, dtype=torch.int64, device=device)
    recent_clicks = torch.zeros((len(sessions), history, size), dtype=torch.int8, device=device)
    rows = torch.arange(len(sessions), device=device)
    for visit in range(sessions.slates.shape[1]):
        going = sessions.length.to(device)[rows] > visit
        rows, profile = rows[going], pick(profile, going.nonzero().squeeze(1))
        recent_slates, recent_clicks = recent_slates[going], recent_clicks[going]
        slates = sessions.slates[:, visit].to(device)[rows]
        clicks = sessions.clicks[:, visit].to(device)[rows]
        ago = torch.arange(1, history + 1, device=device)
        days = ago.where(ago <= visit, 0)
        observation = {
            "recent_slates": recent_slates,
            "recent_clicks": recent_clicks,
            "recent_days": days.to(torch.float32).expand(len(rows), -1),
            "candidates": everything.expand(len(rows), -1),
            **profile.observe(),
        }
        if sessions.declared.shape[1]:
            observation["declared"] = sessions.declared.to(device)[rows]
        yield Moment(visit, rows, observation, slates, clicks)
        shown = slates >= 0
        profile.record(
            slates.clamp(min=0), shown, clicks & shown, catalog.category, catalog.embedding
        )
        recent_slates = torch.cat([slates.unsqueeze(1), recent_slates[:, :-1]], dim=1)
        recent_clicks = torch.cat(
            [(clicks & shown).to(torch.int8).unsqueeze(1), recent_clicks[:, :-1]], dim=1
        )
