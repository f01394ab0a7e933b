"""Whatever is handed to rewards, catalogues, markets, outsiders and logs is right, or is named in
one sentence.

Each case says for one argument which of the odd values are right; every other one must raise a
sentence that names it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsim_env.catalog import Catalog
from recsim_env.logs import complete_journey, schema
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions, replay
from recsim_env.rewards import REWARD_TERMS, Reward, as_reward, reward_term
from recsim_env.shoppers import market
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import MarketConfig
from recsim_env.shoppers.outside import OutsideSpec, outside_simulator
from recsim_env.shoppers.outside_catalog import clustered_catalog, topical_catalog
from recsim_env.shoppers.visits.population import make_visits
from tests.recsim_env.shoppers.test_outside import tap_spec
from tests.support.toys import FunctionPolicy, toy_catalog, toy_simulator

ODD: dict[str, Any] = {
    "None": None,
    "string": "3",
    "empty string": "",
    "bytes": b"3",
    "list": [],
    "list of one": [1],
    "dict": {},
    "tuple": (),
    "set": {1},
    "object": object(),
    "class": int,
    "function": len,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "-1": -1,
    "0": 0,
    "1": 1,
    "half": 0.5,
    "1.0": 1.0,
    "huge int": 2**70,
    "huge float": 1e308,
    "beyond float": 10**400,
    "True": True,
    "False": False,
    "numpy true": np.bool_(True),
    "numpy int": np.int64(1),
    "numpy float": np.float32(0.5),
    "numpy nan": np.float64("nan"),
    "complex": 1j,
    "tensor 0-d": torch.tensor(1.0),
    "tensor int": torch.tensor(1),
    "tensor": torch.ones(2, 2),
    "meta tensor": torch.ones(2, device="meta"),
    "sparse tensor": torch.eye(2).to_sparse(),
    "array": np.ones(2),
    "array 0-d": np.array(1),
    "frame": pl.DataFrame(),
    "path": Path("nowhere/at/all"),
}
WHOLE_1 = {"1", "numpy int"}
WHOLE_0 = {*WHOLE_1, "0"}
SHARE = {*WHOLE_0, "half", "1.0", "numpy float"}
FLAGS = {"True", "False", "numpy true"}
PATHS = {"string", "empty string", "path"}


RIGHT = "right"
SIGNED = {*SHARE, "-1"}
NUMBERS = [field.name for field in fields(MarketConfig)]
RECIPE = [field.name for field in fields(complete_journey.Recipe)]


@dataclass
class Case:
    """An argument: how it is handed over, which of `ODD` are right, and by which words a message
    names it."""

    argument: str
    call: Callable[[Any], object]
    right: Collection[str] = ()
    says: str = ""


def varied(make: Callable[..., object], good: dict[str, Any], name: str) -> Callable[[Any], object]:
    """Call with good arguments but for one."""
    return lambda value: make(**{**good, name: value})


def market_cases(folder: Path) -> list[Case]:
    small = {"items": 4, "categories": 1, "favourites": 1}
    not_negative = {name for name, (low, _) in market._RANGES.items() if low == 0}
    right: dict[str, Collection[str]] = {
        **{name: SHARE if name in not_negative else SIGNED for name in NUMBERS},
        **dict.fromkeys(("items", "categories", "width", "favourites"), WHOLE_1),
        "leave_base": {*SIGNED, "-inf"},
    }
    cpu = {"device": torch.device("cpu")}
    return [
        *(Case(name, varied(MarketConfig, small, name), right[name]) for name in NUMBERS),
        Case("config", varied(make_market, cpu, "config")),
        Case("world", varied(make_market, cpu, "world"), WHOLE_0),
        Case("alike", varied(make_market, cpu, "alike"), FLAGS),
        Case("slate_size", varied(make_market, cpu, "slate_size"), WHOLE_1),
        Case("drift", varied(make_market, cpu, "drift"), {"None"}),
        Case(
            "new_items",
            varied(make_market, cpu, "new_items"),
            {"None", "0", "half", "numpy float", "dict"},
        ),
        Case("first_day", varied(make_market, cpu, "first_day"), WHOLE_0),
        Case("pages", varied(make_visits, cpu, "pages"), {*WHOLE_1, "None"}),
    ]


def catalogue_cases(folder: Path) -> list[Case]:
    good: dict[str, Any] = {
        "text": ("a",),
        "path": ("d/c/t",),
        "price": torch.ones(1),
        "embedding": torch.ones(1, 1),
    }
    made: dict[str, Any] = {
        "n_items": 1,
        "n_categories": 1,
        "width": 1,
        "generator": torch.Generator(),
    }
    return [
        *(
            Case(name, varied(Catalog, good, name))
            for name in ("text", "path", "price", "embedding")
        ),
        *(Case(name, varied(Catalog, good, name), {"None"}) for name in ("product_id", "cold")),
        *(
            Case(name, varied(Catalog.synthetic, made, name), WHOLE_1)
            for name in ("n_items", "n_categories", "width")
        ),
        Case("generator", varied(Catalog.synthetic, made, "generator")),
        Case("folder", Catalog.load, (), "folder is|catalog.parquet: found no"),
    ]


def registered(term: Any) -> None:
    """Register a term for a moment."""
    reward_term("odd")(term)
    del REWARD_TERMS["odd"]


def reward_cases(folder: Path) -> list[Case]:
    return [
        Case("reward", Reward),
        Case("reward", as_reward, {"None"}),
        Case(
            "reward['clicks']",
            lambda value: Reward({"clicks": value}),
            SIGNED,
            r"reward\['clicks'\] is",
        ),
        Case("name", reward_term, {"string"}),
        Case("term", registered, {"class", "function"}),
    ]


def outside_cases(folder: Path) -> list[Case]:
    spec, functions = tap_spec(), {"class", "function"}
    good: dict[str, Any] = {field.name: getattr(spec, field.name) for field in fields(spec)}
    right: dict[str, Collection[str]] = {
        "make": functions,
        "clicks": functions,
        "visits": WHOLE_1,
        "candidates": {"None"},
        "most_candidates": {"None"},
        "places": {"False"},
    }
    clustered: dict[str, Any] = {"embedding": torch.eye(3), "clusters": 1}
    topical: dict[str, Any] = {"embedding": torch.eye(3), "topics": None}
    return [
        *(Case(name, varied(OutsideSpec, good, name), right.get(name, ())) for name in good),
        Case("spec", outside_simulator),
        Case("clusters", varied(clustered_catalog, clustered, "clusters"), WHOLE_1),
        Case("seed", varied(clustered_catalog, clustered, "seed"), WHOLE_0),
        Case("embedding", varied(clustered_catalog, clustered, "embedding"), {"tensor"}),
        Case("topics", varied(topical_catalog, topical, "topics"), {"None"}),
        Case("embedding", varied(topical_catalog, topical, "embedding"), {"tensor"}),
    ]


def table_cases(folder: Path) -> list[Case]:
    rows = log()
    readers = (
        schema.read_impressions,
        schema.read_baskets,
        schema.read_promotions,
        schema.read_popularity,
    )
    writing = {"frame": rows, "path": folder / "a.parquet", "n_items": 31}
    return [
        *(
            Case("path", varied(read, {"n_items": 5}, "path"), (), "path is|: found ")
            for read in readers
        ),
        Case("path", schema.read_shoppers, (), "path is|: found "),
        Case("path", varied(schema.write_impressions, writing, "path"), {"string", "path"}),
        Case(
            "n_items",
            varied(schema.write_impressions, writing, "n_items"),
            (),
            "n_items is|column 'slate'",
        ),
        Case(
            "frame",
            varied(schema.write_impressions, writing, "frame"),
            (),
            "frame is|column 'shopper'",
        ),
    ]


def log_cases(folder: Path) -> list[Case]:
    rows = log()
    sessions = Sessions.of(rows)
    recording: dict[str, Any] = {
        "simulator": toy_simulator(horizon_days=1),
        "policy": FunctionPolicy(lambda seen, draws: seen["candidates"][:, :4]),
        "seeds": torch.arange(2),
    }
    right: dict[str, Collection[str]] = {"scenario": {"string"}, "policy_name": {"string", "None"}}
    weights = ("item_weight", "category_weight", "popularity_weight")
    of_recipe: dict[str, Collection[str]] = {
        **dict.fromkeys(RECIPE, WHOLE_0),
        **dict.fromkeys(("n_items", "slate_size"), WHOLE_1),
        **dict.fromkeys(weights, SIGNED),
        "holdout": SHARE,
    }
    return [
        Case("folder", lambda value: complete_journey.is_built(value, 0), PATHS - {"empty string"}),
        *(
            Case(name, varied(complete_journey.Recipe, {}, name), of_recipe[name])
            for name in RECIPE
        ),
        *(
            Case(name, varied(record, recording, name), right.get(name, ()), f"^{name} ")
            for name in ("simulator", "policy", "seeds", "scenario", "policy_name", "split")
        ),
        Case("impressions", Sessions.of, (), "frame is|impressions: "),
        Case("declared", lambda value: Sessions.of(rows, value), {"None"}),
        Case("share", sessions.split, SHARE),
        Case("seed", lambda value: sessions.split(0.5, value), WHOLE_0),
        Case(
            "history", lambda value: next(replay(sessions, toy_catalog(), history=value)), WHOLE_1
        ),
    ]


def log() -> pl.DataFrame:
    return record(
        toy_simulator(horizon_days=9),
        FunctionPolicy(lambda seen, draws: seen["candidates"][:, :4]),
        torch.arange(2),
    )[0]


def outcome(case: Case, value: Any) -> str:
    """What came of it: "right", or the message."""
    try:
        case.call(value)
    except (ValueError, TypeError, OSError) as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}"
    return RIGHT


GROUPS = (market_cases, catalogue_cases, reward_cases, outside_cases, table_cases, log_cases)


@pytest.mark.parametrize("group", GROUPS)
def test_odd_inputs_are_right_or_named(
    group: Callable[[Path], list[Case]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = []
    cases = group(tmp_path)
    for case in cases:
        for name, value in ODD.items():
            found = outcome(case, value)
            named = re.search(case.says or rf"\b{re.escape(case.argument)}\b", found) is not None
            if (found == RIGHT) != (name in case.right) or not (found == RIGHT or named):
                wrong.append(f"{case.argument} = {name}: {found}")
    assert not wrong, "\n".join(wrong)
    assert len(cases) >= 5


words = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    texts=st.lists(words, min_size=1, max_size=6),
    width=st.integers(1, 5),
    levels=st.tuples(words, words, words),
    seed=st.integers(0, 2**31),
    extras=st.booleans(),
)
def test_a_catalogue_survives_its_files(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    width: int,
    levels: tuple[str, ...],
    seed: int,
    extras: bool,
) -> None:
    rng, n = torch.Generator().manual_seed(seed), len(texts)
    price = torch.rand(n, generator=rng)
    price[0] = torch.nan
    embedding = torch.nn.functional.normalize(torch.randn(n, width, generator=rng), dim=1)
    more = {
        "product_id": torch.randint(-(2**62), 2**62, (n,), generator=rng),
        "cold": torch.rand(n, generator=rng) < 0.5,
    }
    catalog = Catalog(
        tuple(texts), ("/".join(levels),) * n, price, embedding, **(more if extras else {})
    )
    folder = tmp_path_factory.mktemp("catalogue")
    catalog.save(folder)
    loaded = Catalog.load(folder)
    assert (loaded.text, loaded.path, loaded.categories, loaded.kinds) == (
        catalog.text,
        catalog.path,
        catalog.categories,
        catalog.kinds,
    )
    assert torch.equal(loaded.embedding, embedding)
    assert torch.equal(loaded.price.view(torch.int32), price.view(torch.int32))
    for name in more:
        one, other = getattr(loaded, name), getattr(catalog, name)
        assert (one is None) == (other is None) == (not extras)
        assert one is None or torch.equal(one, other)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    column=st.sampled_from(schema.PROMOTIONS.columns),
    numbers=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4, unique=True),
)
def test_a_column_of_any_numbers_lies_in_its_range_or_is_named(
    column: schema.Column, numbers: list[int]
) -> None:
    rows = len(numbers)
    good = {"store": range(rows), "week": [1] * rows, "item": [3] * rows, "placement": [109] * rows}
    frame = pl.DataFrame(
        {**good, column.name: sorted(numbers)}, schema=dict.fromkeys(good, pl.Int64)
    ).sort("store", "item")
    low, high = (0, 4) if column.items else column.span or (0, 0)
    bits = 2 ** (int(str(column.dtype).removeprefix("Int")) - 1)
    assume(all(-bits <= number < bits for number in numbers))
    typed = frame.cast(schema.PROMOTIONS.schema)  # type: ignore[arg-type]
    if all(low <= number <= high for number in numbers):
        assert len(schema.check_table(schema.PROMOTIONS, typed, "rows", 5)) == rows
    else:
        with pytest.raises(
            schema.LogError, match=f"rows: column '{column.name}', row .* from {low} to {high}"
        ):
            schema.check_table(schema.PROMOTIONS, typed, "rows", 5)
