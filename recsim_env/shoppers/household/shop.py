"""A folder of fine-tuned shoppers, read and checked: models, tables, and start states."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.logs.facts import LogFacts
from recsim_env.logs.schema import read_baskets, read_popularity, read_promotions, read_shoppers
from recsim_env.shoppers import cold
from recsim_env.shoppers.encoder import Block
from recsim_env.shoppers.gaps import GapHead
from recsim_env.shoppers.household.features import ITEM_CONTEXT
from recsim_env.shoppers.household.memory import Keys
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.new_items import Envelope, Peaks
from recsim_env.shoppers.household.peaks import (
    PEAKS,
    SHOP_FILES,
    SMALL,
    read_peaks,
    table_digest,
)
from recsim_env.shoppers.household.promotions import StorePromotions, candidate_tables
from recsim_env.shoppers.household.prospects import prospects
from recsim_env.shoppers.household.replay import ints
from recsim_env.shoppers.household.slate_head import SlateHead
from recsim_env.shoppers.household.starts import Starts, start_states
from recsim_env.shoppers.household.states import LearnedState
from recsim_env.shoppers.members import compile_parts
from recsim_env.shoppers.weights import MODEL_FILES, load_model, member_folders, present
from recsim_env.types import MAX_DAYS
from recsim_env.waiting import waiting

MIN_CANDIDATES = 30
"""Promoted items that a store needs in a week to be visited."""
OPEN = 4
"""Shops that are kept for the next environments of this process."""


@dataclass(frozen=True)
class Member:
    """A fitted model and what it makes of the catalogue, on one device and never changed.

    Shapes: N items.
        vectors: (N, D) item vectors
        item_parts: (N, D + head_size + 1) what the slate head makes of them
        words: (N, TEXT) what the cold head reads of their texts; None where there is none
    """

    model: SlateShopper
    vectors: Tensor
    item_parts: Tensor
    words: Tensor | None = None

    @classmethod
    def of(cls, model: SlateShopper) -> Member:
        """Compute the item vectors of a model on its device."""
        vectors = model.items()
        words = model.cold_head.text if model.config.use_cold_head else None
        return cls(model, vectors, model.slate_head.items(vectors, model.items.known), words)


@dataclass(frozen=True)
class Shop:
    """What a folder of fine-tuned shoppers holds, on one device and never changed.

    Shapes: W store-weeks, C candidates; the last row of W + 1 is that of an unknown store.
        keys: the counters of the items
        members: the models that answer together
        envelope: the upper bound of their rates of new items
        candidates: (W + 1, C) int16 or int32 promoted items, padded with -1
        placement: (W + 1, C) uint8 codes, 0 where padded
        popularity: (W + 1, C) float32 purchases a visit in that week, 0 where padded
        week_of_day: (days,) int64
        starts: the shoppers at the start of an episode
        new: (N,) bool the items that are new, None where none is
        prospects: (weeks, N, PROSPECT) what is expected of them, likewise
    """

    catalog: Catalog
    keys: Keys
    members: tuple[Member, ...]
    envelope: Envelope
    promotions: StorePromotions
    candidates: Tensor
    placement: Tensor
    popularity: Tensor
    week_of_day: Tensor
    starts: Starts
    new: Tensor | None = None
    prospects: Tensor | None = None

    @property
    def model(self) -> SlateShopper:
        """The model of the first member."""
        return self.members[0].model

    @property
    def facts(self) -> LogFacts:
        """The facts of the log that all members are fitted to."""
        return self.model.config.log_facts

    @property
    def vectors(self) -> Tensor:
        """The item vectors of the first member."""
        return self.members[0].vectors


def load_shop(
    folder: Path,
    device: torch.device,
    population: str,
    start_days: tuple[int, int],
    ensemble: int = 1,
    compiled: bool = False,
    new_items: float = 0.0,
    small: bool = False,
) -> Shop:
    """Read a folder written by `benchmarks.data.finetune`, with its shoppers at their start states.

    The first model lies in the folder itself, the others in `model1/`, `model2/` and so on. A shop
    that was read before is handed out again, unless a file has changed since.

    Args:
        folder: an absolute path
        device: where the shop is put
        population: one of `starts.POPULATIONS`
        start_days: first and last day on which an episode may start
        ensemble: number of models that are read
        compiled: whether `torch.compile` fuses their networks at the first call
        new_items: share of items, from 0 to 1, that are new: their own rows of the models, their
            popularity and all purchases of them before an episode are taken away
        small: whether the model in `small/` is read instead, of which there is one

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If nobody can start on these days, the folder holds fewer models or no small
            one, or what it holds does not fit together; the sentence names file and column, tensor
            or key.
    """
    if small and not (folder / SMALL).is_dir():
        raise ValueError(
            f"small is True, but {str(folder)!r} holds no folder {SMALL!r} with a smaller model."
        )
    members = [folder / SMALL] if small else [folder, *member_folders(folder, 1)]
    if len(members) < ensemble:
        raise ValueError(
            f"ensemble is {ensemble}, but {str(folder)!r} holds {len(members)} "
            f"{'small ' * small}models."
        )
    files = [folder / name for name in SHOP_FILES]
    files += [member / name for member in members[:ensemble] for name in MODEL_FILES]
    stamps = tuple(
        (path, stat.st_size, stat.st_mtime_ns) for path in files for stat in [present(path).stat()]
    )
    with waiting(f"reading the shoppers in {folder}"):
        return _opened(
            folder,
            tuple(members[:ensemble]),
            device,
            population,
            start_days,
            compiled,
            new_items,
            stamps,
        )


@functools.lru_cache(maxsize=OPEN)
@torch.inference_mode(False)  # built outside inference mode, so autograd may use it
@torch.no_grad()
def _opened(
    folder: Path,
    members: tuple[Path, ...],
    device: torch.device,
    population: str,
    start_days: tuple[int, int],
    compiled: bool,
    of_items: float,
    stamps: tuple[object, ...],
) -> Shop:
    """Read a shop, as `load_shop` says; `stamps` tell changed files from those read before."""
    # Models and tables, read and checked on the CPU.
    catalog = Catalog.load(folder)
    models = [_model(member, catalog) for member in members]
    _check_alike(members, models)
    new = cold.new_items(len(catalog), of_items, 0)
    shoppers = read_shoppers(folder / "shoppers.parquet")
    baskets = read_baskets(folder / "baskets.parquet", len(catalog), len(shoppers))
    holdout = torch.from_numpy(shoppers["holdout"].to_numpy().copy())
    promotions = StorePromotions.of(
        read_promotions(
            folder / "promotions.parquet", len(catalog), models[0].config.log_facts.n_placements
        ),
        _known_alone(read_popularity(folder / "popularity.parquet", len(catalog)), new),
        len(catalog),
    )
    if new is not None:
        for model in models:
            model.items.known.masked_fill_(new, 0.0)

    # Start states need the store-weeks that can be visited.
    candidates, placement, popular = candidate_tables(promotions)
    enough = (candidates >= 0).sum(1) >= MIN_CANDIDATES
    keys = Keys.of(catalog.kind, catalog.category)
    starts = start_states(
        models, keys, promotions, baskets, holdout, enough, population, start_days, new
    )
    expected = None
    if new is not None:
        mailers = models[0].config.log_facts.placements[1]
        expected = prospects(catalog, promotions, mailers, new)
        promotions = promotions.expecting(expected[..., :ITEM_CONTEXT], new)
    promotions = promotions.to(device)

    # The upper bound of the rates of new items needs all start states, or their peaks.
    known = (
        _known_peaks(folder, members, models, population, start_days)
        if device.type == "cpu" and not compiled and new is None
        else None
    )
    if known is None:
        _check_states(members, starts.state)
    of_members = tuple(Member.of(model.to(device)) for model in models)  # type: ignore[arg-type]
    starts = starts.to(device)
    envelope = envelope_of(of_members, promotions, starts.state if known is None else known)
    for model in models if compiled else ():
        compile_parts(model, (Block, SlateHead, GapHead))
    return Shop(
        catalog=catalog.to(device),
        keys=keys.to(device),
        members=of_members,
        envelope=envelope,
        promotions=promotions,
        candidates=candidates.to(device),
        placement=placement.to(device),
        popularity=popular.to(device),
        week_of_day=calendar(baskets).to(device),
        starts=starts,
        new=None if new is None else new.to(device),
        prospects=None if expected is None else expected.to(device),
    )


def _known_alone(popularity: pl.DataFrame, new: Tensor | None) -> pl.DataFrame:
    """Keep what is known of the popularity of items that are not new."""
    if new is None:
        return popularity
    return popularity.filter(~pl.Series(new.numpy())[popularity["item"].cast(pl.Int64)])


def _known_peaks(
    folder: Path,
    members: Sequence[Path],
    models: Sequence[SlateShopper],
    population: str,
    start_days: tuple[int, int],
) -> list[Peaks] | None:
    """Read what `peaks.write_peaks` found for these members.

    Returns:
        The peaks of each member; None where there are none, or they were made of other files.
    """
    if not (folder / PEAKS).is_file():
        return None
    tables, found = table_digest(folder), []
    for member, model in zip(members, models, strict=True):
        sizes = (model.config.hidden_size, model.config.n_items)
        peaks = read_peaks(folder, member, sizes, tables, population, start_days)
        if peaks is None:
            return None
        found.append(peaks)
    return found


def _model(folder: Path, catalog: Catalog) -> SlateShopper:
    """Read the model of a member, which must be one of this catalogue."""
    model = load_model(SlateShopper, folder).requires_grad_(False)
    if model.config.n_items != len(catalog):
        raise ValueError(
            f"{folder} holds a model of {model.config.n_items} items, but catalog has "
            f"{len(catalog)}."
        )
    other = (model.items.category != catalog.category).nonzero().flatten()
    if len(other):
        raise ValueError(
            f"{folder} holds a model of another catalog: item {int(other[0])} has another "
            "category there."
        )
    return model


def _check_alike(members: Sequence[Path], models: Sequence[SlateShopper]) -> None:
    first = models[0].config
    for folder, model in zip(members, models, strict=True):
        for name in ("gap_edges", "lapse_days", "facts"):
            found, expected = getattr(model.config, name), getattr(first, name)
            if found != expected:
                raise ValueError(
                    f"{folder} holds a model whose {name} is {checks.told(found)}, but it must be "
                    f"{checks.told(expected)}, as in {members[0]}."
                )


def _check_states(members: Sequence[Path], state: LearnedState) -> None:
    for folder, cache in zip(members, state.caches, strict=True):
        if not bool(cache.state.isfinite().all()):
            raise ValueError(
                f"{folder / 'model.safetensors'} makes states of shoppers that are not finite."
            )


def calendar(baskets: pl.DataFrame) -> Tensor:
    """Find the week of each day of a log, (days,) int64.

    A day without visits has the week of the day before.

    Raises:
        ValueError: If a day lies beyond `MAX_DAYS`.
    """
    last = checks.whole("the last day of baskets", int(baskets["day"].max() or 0), 0, int(MAX_DAYS))  # type: ignore[arg-type]
    days = baskets.group_by("day").agg(pl.col("week").mode().min()).sort("day")
    week_of_day = torch.zeros(last + 1, dtype=torch.int64)
    week_of_day[ints(days, "day")] = ints(days, "week")
    return week_of_day.cummax(0).values


def envelope_of(
    members: Sequence[Member], promotions: StorePromotions, source: LearnedState | Sequence[Peaks]
) -> Envelope:
    """Bound the members' rates of new items from above.

    Args:
        members: the models
        promotions: popularity and discount by week
        source: the shoppers whose rates are bounded, or their known peaks
    """
    base = [
        member.model.new_item_base() + member.model.season(promotions.item_context)
        for member in members
    ]
    vectors = [member.vectors for member in members]
    if not isinstance(source, LearnedState):
        return Envelope.above(base, vectors, source)
    inside = source.inside(source.context())
    queries = [
        member.model.new_item_queries(own) for member, own in zip(members, inside, strict=True)
    ]
    return Envelope.over(base, vectors, queries)
