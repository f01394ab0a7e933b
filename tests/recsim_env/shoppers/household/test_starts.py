"""Start states: what happened before an episode, computed at once; nothing of what comes later."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import recsim_env
from recsim_env.catalog import Catalog
from recsim_env.logs import schema
from recsim_env.shoppers.household import shop
from recsim_env.shoppers.household.memory import Keys, Memory
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.new_items import Peaks
from recsim_env.shoppers.household.peaks import read_peaks, table_digest, write_peaks
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.household.promotions import StorePromotions, candidate_tables
from recsim_env.shoppers.household.replay import Past, Visits
from recsim_env.shoppers.household.shop import envelope_of
from recsim_env.shoppers.household.starts import POPULATIONS, Starts, _stores
from recsim_env.shoppers.weights import load_model, save_model
from tests.support.fake_log import write_shop
from tests.support.fake_shoppers import member

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop")
    write_shop(path)
    member(path, 1).save_pretrained(path)
    return path


def opened(folder: Path, **options: Any) -> Starts:
    return load_shopper(
        folder, CPU, **{"population": "all", "start_days": (60, 80), **options}
    ).shop.starts


def tensors(value: Any, name: str = "starts") -> dict[str, Tensor]:
    """Every tensor inside, by its path."""
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, list):
        return {
            k: v for i, one in enumerate(value) for k, v in tensors(one, f"{name}[{i}]").items()
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, Keys):
        return {
            k: v
            for key, one in vars(value).items()
            for k, v in tensors(one, f"{name}.{key}").items()
        }
    return {}


@pytest.mark.parametrize("room", [192, 9])
def test_what_is_remembered_at_once_is_what_visits_record_one_by_one(
    folder: Path, room: int
) -> None:
    """Also by shoppers who bought more than there is room for."""
    catalog = Catalog.load(folder)
    visits = Visits.of(schema.read_baskets(folder / "baskets.parquet", len(catalog)))
    keys = Keys.of(catalog.kind, catalog.category)
    start = ((visits.rank == 20) | (visits.rank == visits.shopper)).nonzero().flatten()
    start = start[torch.from_numpy(np.unique(visits.shopper[start].numpy(), return_index=True)[1])][
        ::4
    ]
    past = Past.before(visits, start)
    found, rhythm = past.remembered(keys, room)

    expected = Memory.empty(keys, len(start), room)
    own, seen = [], past.number.cumsum(0) - past.number
    for shopper in range(len(start)):
        for visit in range(int(visits.rank[start[shopper]])):
            at = start[shopper : shopper + 1] - visits.rank[start[shopper]] + visit
            day = visits.day[at].float()
            own.append(expected.tally_of(torch.tensor([shopper]), day))
            expected.record(torch.tensor([shopper]), visits.padded(at), day)
    assert (past.number == visits.rank[start]).all()
    assert seen[-1] + past.number[-1] == len(own)
    torch.testing.assert_close(rhythm, torch.cat(own))
    for name in ("items", "counts", "days", "slots", "tallies"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    torch.testing.assert_close(found.table, expected.table)
    crowded = (found.table[:, : catalog.embedding.shape[0], 0] > 0).sum(1) > room
    assert bool(crowded.any()) == (room == 9)


def test_the_future_changes_no_start_state(folder: Path, tmp_path: Path) -> None:
    """From an episode's first visit on, everything is another: stores, baskets, days until the next
    visit. What is known when the episode starts is the day and store of that first visit."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = opened(folder)
    first = dict(zip(before.shopper.tolist(), before.state.day.tolist(), strict=True))
    items = len(Catalog.load(folder))
    baskets = schema.read_baskets(folder / "baskets.parquet", items)
    start = pl.col("shopper").replace_strict(first, default=0, return_dtype=pl.Float64)
    later, now = pl.col("day") > start, pl.col("day") == start
    changed = baskets.with_columns(
        store=pl.when(later).then(1 - pl.col("store")).otherwise("store").cast(pl.Int32),
        items=pl.when(later | now).then(pl.lit([0], dtype=pl.List(pl.Int32))).otherwise("items"),
        gap=pl.when(later | now).then(None).otherwise("gap"),
        follow_up=pl.when(later | now).then(0).otherwise("follow_up").cast(pl.Int32),
    )
    assert changed.filter(later)["store"].to_list() != baskets.filter(later)["store"].to_list()
    schema.write_baskets(changed, tmp_path / "baskets.parquet", items)
    after = tensors(opened(tmp_path))
    assert len(after) > 15
    for name, value in tensors(before).items():
        assert torch.equal(value, after[name]), name


def test_a_shoppers_stores_are_those_visited_up_to_the_start() -> None:
    """Shopper 0: 7, 8, 8, | 9, 9. Shopper 1: 5 (closed), | 5, 6. The bar is the start."""
    baskets = pl.DataFrame(
        {
            "shopper": [0, 0, 0, 0, 0, 1, 1, 1],
            "day": [1, 2, 3, 4, 5, 1, 2, 3],
            "week": 0,
            "store": [7, 8, 8, 9, 9, 5, 5, 6],
            "gap": None,
            "follow_up": 0,
            "items": [[0]] * 8,
        },
        schema_overrides={"gap": pl.Int32, "items": pl.List(pl.Int32)},
    )
    opens = torch.tensor([True, True, True, True, True, False, True, True])
    stores, shares = _stores(Visits.of(baskets), opens, torch.tensor([2, 6]))
    assert stores.tolist() == [[8, 7], [5, -1]]
    torch.testing.assert_close(shares, torch.tensor([[2 / 3, 1 / 3], [1.0, 0.0]]))


def test_every_shopper_starts_in_a_store_of_its_own(folder: Path) -> None:
    starts = opened(folder)
    assert (starts.stores == starts.state.store.unsqueeze(1)).any(1).all()
    torch.testing.assert_close(starts.store_shares.sum(1), torch.ones(len(starts.shopper)))


def test_a_folder_that_changed_is_read_again(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    first = load_shopper(tmp_path, CPU, start_days=(60, 80)).shop
    assert load_shopper(tmp_path, CPU, start_days=[60, 80]).shop is first  # type: ignore[arg-type]
    member(folder, 2).save_pretrained(tmp_path)
    again = load_shopper(tmp_path, CPU, start_days=(60, 80)).shop
    assert not torch.equal(again.model.gap_head.outer.bias, first.model.gap_head.outer.bias)
    assert not torch.equal(again.starts.state.cache.state, first.starts.state.cache.state)


def test_a_start_state_does_not_depend_on_who_else_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group may be replayed at its first start, or all at once; rows are copies."""
    monkeypatch.setattr("recsim_env.shoppers.household.starts.GROUP", 7)
    shop._opened.cache_clear()
    whole = opened(folder)
    expected = tensors(whole.state)
    shop._opened.cache_clear()
    monkeypatch.setattr(shop, "_check_states", lambda members, state: None)
    monkeypatch.setattr(shop, "_known_peaks", lambda *_: [Peaks(torch.zeros(16), torch.zeros(40))])
    starts = opened(folder)
    assert len(starts._asleep) == 9
    for who in (torch.tensor([5]), torch.tensor([5, 44, 5]), torch.arange(60)):
        asleep = len(starts._asleep)
        found = tensors(starts.rows(who))
        assert len(starts._asleep) >= asleep - len(who)
        for name, value in expected.items():
            dimension = 1 if name.endswith(("keys", "values")) else 0
            assert torch.equal(found[name], value.index_select(dimension, who)), name
        starts.rows(who).memory.table.fill_(3.0)
    assert not starts._asleep
    shop._opened.cache_clear()


def test_the_shipped_peaks_are_those_of_the_shipped_shoppers() -> None:
    """If this fails, make the file again: see `recsim_env.shoppers.household.peaks`."""
    shipped = Path(recsim_env.__file__).parent / "data" / "complete_journey"
    tables = table_digest(shipped)
    for population in POPULATIONS:
        for number in (0, 1):
            member = shipped / f"model{number}" if number else shipped
            assert (
                read_peaks(shipped, member, (64, 3500), tables, population, (56, 182)) is not None
            )
    opened = load_shopper(shipped, CPU, population="evaluation").shop
    known = read_peaks(shipped, shipped, (64, 3500), tables, "evaluation", (56, 182))
    assert known is not None
    found = envelope_of(opened.members, opened.promotions, opened.starts.state)
    torch.testing.assert_close(found.centres[0], known.centre, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.total, opened.envelope.total, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.edges, opened.envelope.edges, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spoilt", ["tables", "model", "nan", "size", "cut", "nothing"])
def test_peaks_of_other_files_are_never_used(
    folder: Path, tmp_path: Path, spoilt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "peaks.safetensors"
    save_file({"train.0.height": torch.zeros(1)}, path)
    made = load_shopper(tmp_path, CPU).shop.envelope
    with torch.no_grad():
        write_peaks(tmp_path)
    shop._opened.cache_clear()
    with safe_open(path, "pt") as file:
        digests = file.metadata()
        good = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    if spoilt == "tables":
        baskets = schema.read_baskets(
            folder / "baskets.parquet", items := len(Catalog.load(folder))
        )
        gap, follow_up = pl.lit(None, dtype=pl.Int32), pl.lit(0, dtype=pl.Int32)
        changed = baskets.with_columns(gap=gap, follow_up=follow_up)
        schema.write_baskets(changed, tmp_path / "baskets.parquet", items)
    elif spoilt == "model":
        model = load_model(SlateShopper, tmp_path)
        model.config.gap_calibration += 0.5
        save_model(model, tmp_path)
    elif spoilt == "nan":
        save_file(good | {"train.0.height": torch.full((40,), torch.nan)}, path, digests)
    elif spoilt == "size":
        save_file(good | {"train.0.height": torch.zeros(41)}, path, digests)
    elif spoilt == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    capsys.readouterr()
    found = load_shopper(tmp_path, CPU).shop
    assert bool(found.starts._asleep) == (spoilt == "nothing")
    assert ("is not used" in capsys.readouterr().err) == (spoilt != "nothing")
    torch.testing.assert_close(found.envelope.edges, made.edges, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("items", "dtype"), [(6, torch.int16), (40_000, torch.int32)])
def test_candidates_by_hand(items: int, dtype: torch.dtype) -> None:
    """Two weeks of store 0, the last items promoted; int16 does not hold a large catalogue."""
    last = items - 1
    promotions = pl.DataFrame(
        {"store": [0, 0, 0], "week": [0, 0, 1], "item": [1, last, last], "placement": [3, 4, 5]}
    )
    popularity = pl.DataFrame(
        {"week": [0, 1], "item": [last, last], "popularity": [0.25, 0.5], "discount": [0.0, 0.1]}
    )
    candidates, placement, popular = candidate_tables(
        StorePromotions.of(promotions, popularity, items)
    )
    assert candidates.dtype == dtype
    assert candidates.tolist() == [[1, last], [last, -1], [-1, -1]]
    assert placement.tolist() == [[3, 4], [5, 0], [0, 0]]
    torch.testing.assert_close(popular, torch.tensor([[0.0, 0.25], [0.5, 0.0], [0.0, 0.0]]))
