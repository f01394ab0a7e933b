"""An impression log as episodes, from which user models, rankers and off-policy agents learn.

The observation that the shop had at each logged slate is made again from the slates and responses
before it, by the counters that a simulation keeps, so that training and decision see the same
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
    """Logged episodes of one slate a visit.

    Shapes: S episodes, T visits (padded at the end), K positions, D declared numbers.
    """

    slates: Tensor
    """(S, T, K) int64, -1 = padding or nothing shown."""
    clicks: Tensor
    """(S, T, K) bool, the responses."""
    length: Tensor
    """(S,) int64, the number of visits."""
    left: Tensor
    """(S,) bool, the shopper left after the last visit; False where the log ends before."""
    propensity: Tensor
    """(S, T) float32 log-probability of the ordered slate under the policy that logged it; NaN
    where it is unknown."""
    policy: Tensor
    """(S, T) int64 index into `policies`, the policy that chose the slate; -1 where it is unknown
    and where an episode is padded."""
    declared: Tensor
    """(S, D) float32, what each shopper declared of its interests before the first visit; D = 0
    where the shop does not ask."""
    policies: tuple[str, ...]
    """Names of the policies that chose the slates."""

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

    def take(self, rows: Tensor) -> Sessions:
        """Select episodes by indices or a mask, and cut them to the longest of them."""
        length = self.length[rows]
        longest = int(length.max()) if len(length) else 0
        cut = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "policies"}
        cut |= {
            name: cut[name][:, :longest] for name in ("slates", "clicks", "propensity", "policy")
        }
        return Sessions(**cut, policies=self.policies)

    def split(self, share: float, seed: int = 0) -> tuple[Sessions, Sessions]:
        """Split whole episodes at random: those to learn from, and a share of them to check on.

        Raises:
            ValueError: If `share` is no number from 0 to 1 or `seed` no whole number of 0 or more.
        """
        share = checks.number("share", share, 0, 1)
        seed = checks.whole("seed", seed, 0, checks.LARGEST_SEED)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        held = round(share * len(self))
        return self.take(order[held:].sort().values), self.take(order[:held].sort().values)

    @classmethod
    def of(cls, impressions: pl.DataFrame, declared: pl.DataFrame | None = None) -> Sessions:
        """Make episodes from an impression table of one page a visit (`recsim_env.logs.schema`).

        Responses are the clicks, or the purchases where there are none. A shopper whose last visit
        has no `gap` and was watched for some days has left.

        Args:
            impressions: The table; its rows may stand in any order.
            declared: One row a shopper, `shopper` Int64 and `declared` List(Float32), where the
                shop asks.

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
        # The catalogue is not known here, so items need only be numbers from 0 on.
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
                f"impressions has slates of {sizes.sort().to_list()} positions, "
                "but all must be alike."
            )

        # Each row's episode, and its place in it.
        size = int(sizes[0])
        responses = table.select(pl.coalesce("click", "purchase")).to_series()
        slate, click = (_matrix(column, size) for column in (table["slate"], responses))
        shopper = torch.from_numpy(table["shopper"].to_numpy().copy())
        _, owner, length = shopper.unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(shopper)) - (length.cumsum(0) - length)[owner]

        # Slates, responses, log-probabilities and policies by episode and place.
        shape = (len(length), int(length.max()) if len(length) else 0)
        slates = torch.full((*shape, size), -1, dtype=torch.int64)
        slates[owner, place] = slate
        clicks = torch.zeros((*shape, size), dtype=torch.bool)
        clicks[owner, place] = click.bool()
        propensity = torch.full(shape, torch.nan, dtype=torch.float32)
        chance = table["propensity"].cast(pl.Float32).fill_null(float("nan")).to_numpy().copy()
        propensity[owner, place] = torch.from_numpy(chance)

        names = tuple(table["policy"].drop_nulls().unique().sort())
        policy = torch.full(shape, -1, dtype=torch.int64)
        code = table["policy"].replace_strict(
            {name: at for at, name in enumerate(names)}, default=-1, return_dtype=pl.Int64
        )
        policy[owner, place] = torch.from_numpy(code.to_numpy().copy())

        # What holds for a whole episode stands in its last row.
        last = length.cumsum(0) - 1
        gone = torch.from_numpy(
            (table["gap"].is_null() & (table["follow_up"] > 0)).to_numpy().copy()
        )
        said = torch.zeros(len(length), 0, dtype=torch.float32)
        if declared is not None:
            said = _declared(declared, table["shopper"].unique().sort())
        return cls(slates, clicks, length, gone[last], propensity, policy, said, names)


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


def _matrix(column: pl.Series, width: int) -> Tensor:
    """Turn a column of lists into a (rows, width) int64 tensor."""
    return torch.from_numpy(column.explode().cast(pl.Int64).to_numpy().copy()).view(-1, width)


@dataclass(frozen=True)
class Moment:
    """All episodes of a log that have a visit of a number, with what was known before it."""

    visit: int
    """Number of the visit, from 0."""
    rows: Tensor
    """(B,) int64, the episodes that have this visit."""
    observation: Observation
    """What the shop knew before it, (B, ...): the keys of the simulator and of the profile."""
    slates: Tensor
    """(B, K) int64, the slates shown then; -1 = nothing."""
    clicks: Tensor
    """(B, K) bool, the responses to them."""


def replay(sessions: Sessions, catalog: Catalog, *, history: int = 10) -> Iterator[Moment]:
    """Give every visit of a log in order, all episodes side by side, with its observation.

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

    # What the shop remembers of episodes that are still going.
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

        # The visit becomes a part of what is remembered.
        shown = slates >= 0
        profile.record(
            slates.clamp(min=0), shown, clicks & shown, catalog.category, catalog.embedding
        )
        recent_slates = torch.cat([slates.unsqueeze(1), recent_slates[:, :-1]], dim=1)
        recent_clicks = torch.cat(
            [(clicks & shown).to(torch.int8).unsqueeze(1), recent_clicks[:, :-1]], dim=1
        )
