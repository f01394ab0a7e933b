"""Cases of files: configurations, folders, tables, weights, paths and checkpoints that are not what
was written."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import math
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.ppo import checkpoints
from policies.rankers import ctr, two_tower
from recsim_env import Catalog, register
from recsim_env.logs import schema
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.session.config import SessionShopperConfig
from recsim_env.shoppers.session.population import load_session
from recsim_env.simulator import SlateSimulator
from tests.fuzz import ground
from tests.fuzz.judge import ACCEPT, EITHER, REFUSE, Case
from tests.fuzz.kinds import Folder, Kind, Whole
from tests.fuzz.options import own as options_of
from tests.fuzz.options import together
from tests.fuzz.values import label_of, odd, weighted

CPU = torch.device("cpu")
_number = itertools.count()


def fresh(folder: Path) -> Path:
    """A copy of a folder under a name of its own; the copy before goes."""
    number = next(_number)
    for old in ground.scratch().glob(f"{folder.name}-copy-*"):
        shutil.rmtree(old, ignore_errors=True)
    target = ground.scratch() / f"{folder.name}-copy-{number}"
    shutil.copytree(folder, target)
    return target


def shop(folder: Path, ensemble: int = 1) -> SlateSimulator:
    """A simulator of the shoppers in a folder."""
    days = ground.START_DAYS[1]
    return SlateSimulator(load_shopper(folder, CPU, 5, ensemble=ensemble, start_days=days))


def market(folder: Path, ensemble: int = 1) -> SlateSimulator:
    """A simulator of the learned market in a folder."""
    return SlateSimulator(load_session(folder, CPU, 4, ensemble=ensemble))


def shop_files() -> tuple[str, ...]:
    """The files that a folder of shoppers must hold; its impressions are there for fitting only."""
    return tuple(
        path.name
        for path in sorted(ground.shopper_folder().iterdir())
        if path.is_file() and path.stem not in FOR_FITTING
    )


FOR_FITTING = ("case_control", "policy", "uniform", "facts")
"""Stems of files that only fitting reads: the model's configuration holds the facts."""


# ---- config.json ---------------------------------------------------------------------------------

SIZES = ("n_items", "n_categories", "text_width", "width", "slate_size", "declared", "hidden_size")
"""Keys on which the shapes of the weights depend."""
SIZES_TOO = ("num_hidden_layers", "intermediate_size", "head_size")
SWITCHES = ("use_text", "use_counters", "use_cache")
CHANCES = ("dropout", "gap_dropout", "id_dropout", "state_dropout")
DANGEROUS: dict[str, Any] = {
    "attn_implementation": "owner/kernel",
    "_attn_implementation": "owner/kernel",
    "experts_implementation": "owner/kernel",
    "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "trust_remote_code": True,
    "_name_or_path": "owner/model",
    "base_model_name_or_path": "owner/model",
    "torch_dtype": "float16",
    "custom_pipelines": {"x": {"impl": "evil.Evil"}},
}
"""Keys that make transformers look for code, for another model or for another type of number."""
JSON: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 16, 10**6, 10**9, 10**12, -(10**12), 2**63, 10**30, 0.0, 0.5, 1.5, -0.5, 1e308,
    math.nan, math.inf, -math.inf, "", "x", "16", "owner/kernel",
    [], [1], [0.5, 0.5], [math.nan, 0.0], [[1.0]], {}, {"a": 1},
)  # fmt: skip
"""Values of JSON; NaN and infinity are what Python's reader takes as well."""


def meant_key(key: str, value: Any, known: Mapping[str, Any]) -> str:
    """What must come of a configuration with this value of this key."""
    if key in known and type(known[key]) is type(value) and known[key] == value:
        return ACCEPT
    if key not in known:
        return REFUSE
    number = (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    )
    if key in SWITCHES:
        return EITHER if isinstance(value, bool) else REFUSE
    if key in CHANCES:
        return EITHER if number and 0 <= value <= 1 else REFUSE
    if key in (*SIZES, *SIZES_TOO):
        return EITHER if number and value == known[key] else REFUSE
    if key in ("window", "num_attention_heads"):
        return EITHER if number and value == int(value) and value >= 1 else REFUSE
    if key in ("explore_calibration", "gap_calibration"):
        return EITHER if number else REFUSE
    if key in ("slate_calibration", "repeat_ceilings"):
        return (
            EITHER
            if isinstance(value, list) and key == "slate_calibration" and len(value) == 2
            else REFUSE
        )
    return EITHER


@st.composite
def config(draw: st.DrawFn) -> Case:
    """One key of a `config.json` changed, left out or added, in a folder of shoppers or of a
    learned market."""
    of_market = draw(st.booleans())
    source = ground.market_folder() if of_market else ground.shopper_folder()
    kind: Any = SessionShopperConfig if of_market else SlateShopperConfig
    place = Path("model0/config.json") if of_market else Path("config.json")
    known = json.loads((source / place).read_text())
    own = [name for name in inspect.signature(kind).parameters if name != "kwargs"]
    what = draw(
        st.sampled_from(
            ["change", "change", "change", "leave out", "dangerous", "unknown", "content"]
        )
    )
    content = dict(known)
    expected = EITHER
    names: tuple[str, ...] = ("config.json", "model.safetensors")
    label = what
    text = None
    if what == "change":
        key = draw(st.sampled_from([name for name in own if name in known]))
        value = draw(st.one_of(st.sampled_from(JSON), st.integers(), st.floats(-2, 2)))
        content[key] = value
        expected, label, names = (
            meant_key(key, value, known),
            f"{key}={label_of(value)}",
            (key, *names),
        )
    elif what == "leave out":
        key = draw(st.sampled_from(list(known)))
        del content[key]
        label, names = f"without {key}", (key, *names)
    elif what == "dangerous":
        key = draw(st.sampled_from(list(DANGEROUS)))
        content[key] = DANGEROUS[key]
        expected, label, names = REFUSE, f"{key}={DANGEROUS[key]}", (key,)
    elif what == "unknown":
        key = draw(
            st.from_regex(r"[a-z]{3,8}", fullmatch=True).filter(
                lambda name: name not in (*known, *own, "dtype")
            )
        )
        content[key] = draw(st.sampled_from(JSON))
        expected, label, names = REFUSE, f"{key}={label_of(content[key])}", (key,)
    else:
        text = draw(
            st.sampled_from(
                [
                    "",
                    "{",
                    "[]",
                    "3",
                    "null",
                    '"x"',
                    "{}x",
                    "\0",
                    '{"a": }',
                    "[" * 20_000,
                    "{}" + " " * 99,
                ]
            )
        )
        expected, label = REFUSE, f"the text {label_of(text)}"
        if text.strip() == "{}":
            expected = EITHER

    def call() -> SlateSimulator:
        folder = fresh(source)
        (folder / place).write_text(json.dumps(content) if text is None else text)
        simulator = market(folder) if of_market else shop(folder)
        ground.plays(simulator)
        return simulator

    return Case(f"{source.name}/{place} with {label}", call, expected, names)


@st.composite
def shape(draw: st.DrawFn) -> Case:
    """One key of the description that a file of a ranker's weights holds."""
    name = draw(st.sampled_from(list(ranker_files())))
    path = ranker_files()[name]
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    entry = draw(st.sampled_from(sorted(metadata)))
    told = _parsed(metadata[entry])
    value = draw(st.sampled_from(JSON))
    expected, key = EITHER, entry
    if isinstance(told, dict) and draw(st.booleans()):
        key = draw(st.sampled_from([*told, "unknown"]))
        expected = (
            REFUSE
            if key == "unknown" or value is None or isinstance(value, (str, dict))
            else EITHER
        )
        content = json.dumps({**told, key: value})
    else:
        content = draw(st.sampled_from(["", "{", "null", "[]", "x", json.dumps(value)]))
        expected = EITHER if _parsed(content) == told else REFUSE
    load = ctr.load_model if name == "ctr" else two_tower.load_two_tower

    def call() -> Any:
        target = fresh(path.parent) / path.name
        save_file(tensors, target, {**metadata, entry: content})
        return load(target)

    return Case(
        f"{path.name} with {entry}: {key}={label_of(value)}",
        call,
        expected,
        (key, entry, path.name),
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@functools.cache
def ranker_files() -> dict[str, Path]:
    """The weights of a small ranker of each kind."""
    from policies.rankers.pair_features import RankerCatalog

    folder = ground.scratch() / "rankers"
    folder.mkdir(exist_ok=True)
    catalog = ground.simulator(ground.TOY_ID).catalog
    model = ctr.CTRModel(ctr.config_for(RankerCatalog.of(catalog), ("category",), ("item",), 3))
    ctr.save_model(model, folder / "ctr.safetensors")
    towers = two_tower.TwoTower(
        catalog.embedding, catalog.category, 5, 3, 4, two_tower.TwoTowerConfig(hidden=4, dims=4)
    )
    two_tower.save_two_tower(two_tower.TwoTowerRanker(towers), folder / "towers.safetensors")
    return {"ctr": folder / "ctr.safetensors", "two towers": folder / "towers.safetensors"}


# ---- files of a folder ---------------------------------------------------------------------------


def _flip(path: Path, place: float, bit: int) -> None:
    held = bytearray(path.read_bytes())
    held[int(place * (len(held) - 1))] ^= 1 << bit
    path.write_bytes(held)


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _linked(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


@st.composite
def file(draw: st.DrawFn) -> Case:
    """One file of a folder of shoppers, missing, empty, cut, linked or with bits flipped."""
    name = draw(
        st.sampled_from(
            [*shop_files(), *(f"model1/{name}" for name in ("config.json", "model.safetensors"))]
        )
    )
    source = ground.shopper_folder()
    place, bit, share = draw(st.floats(0, 1)), draw(st.integers(0, 7)), draw(st.floats(0, 0.99))
    junk = draw(st.binary(min_size=1, max_size=40))
    damages: dict[str, tuple[str, Callable[[Path], object]]] = {
        "missing": (REFUSE, Path.unlink),
        "empty": (REFUSE, lambda path: path.write_bytes(b"")),
        f"cut to {share:.2f}": (
            REFUSE,
            lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)]),
        ),
        f"junk {junk!r}": (REFUSE, lambda path: path.write_bytes(junk)),
        "a folder": (REFUSE, _as_folder),
        "a link to nothing": (REFUSE, lambda path: _linked(path, Path("nowhere"))),
        "a link to itself": (REFUSE, lambda path: _linked(path, path)),
        "a link": (ACCEPT, lambda path: _linked(path, source / name)),
        f"bit {bit} at {place:.3f} flipped": (EITHER, lambda path: _flip(path, place, bit)),
        f"bit {bit} at {place / 50:.4f} flipped": (
            EITHER,
            lambda path: _flip(path, place / 50, bit),
        ),
        "twice as long": (EITHER, lambda path: path.write_bytes(2 * path.read_bytes())),
        "another file": (
            REFUSE,
            lambda path: shutil.copy(
                source / ("config.json" if "tens" in name else "baskets.parquet"), path
            ),
        ),
    }
    what = draw(st.sampled_from(list(damages)))
    expected, damage = damages[what]
    if what == "another file" and name == "baskets.parquet":
        expected = ACCEPT
    if what.startswith("cut") and name.endswith("config.json") and share > 0.98:
        expected = EITHER

    def call() -> SlateSimulator:
        folder = fresh(source)
        damage(folder / name)
        simulator = shop(folder, 2 if "model1" in name else 1)
        ground.plays(simulator)
        return simulator

    stem = Path(name).name
    return Case(
        f"{name}: {what}",
        call,
        expected,
        (stem, Path(name).stem, *(("model1",) if "model1" in name else ())),
    )


# ---- tables --------------------------------------------------------------------------------------


def _with(frame: pl.DataFrame, column: str, row: int, value: Any) -> pl.DataFrame:
    """A frame with one value replaced; the type of the column stays."""
    held = frame[column].to_list()
    held[row] = value
    return frame.with_columns(pl.Series(column, held, dtype=frame.schema[column], strict=False))


def _ends(dtype: Any) -> tuple[int, int]:
    bits = {pl.Int16: 15, pl.Int32: 31, pl.Int64: 63, pl.Int8: 7}[type(dtype)]
    return -(2**bits), 2**bits - 1


FREE = ("household_id",)
"""Columns of whole numbers that may hold any."""
LARGE = ("page", "follow_up", "gap", "visit", "shopper")
"""Columns whose largest number may be defensible."""


def damages(
    table: schema.Table, frame: pl.DataFrame, column: schema.Column, row: int
) -> dict[str, tuple[str, Any]]:
    """What may be wrong with a column: the frame, and what must come of it."""
    name, dtype = column.name, column.dtype
    found: dict[str, tuple[str, Any]] = {
        "missing": (REFUSE, frame.drop(name)),
        "of texts": (
            REFUSE if dtype != pl.String() else ACCEPT,
            frame.with_columns(pl.Series(name, ["x"] * len(frame))),
        ),
        "null in a row": (EITHER if column.nullable else REFUSE, _with(frame, name, row, None)),
        "of nulls": (
            REFUSE if not column.nullable or name == "purchase" else EITHER,
            frame.with_columns(pl.lit(None, dtype=pl.Null()).alias(name)),
        ),
        "as it was": (ACCEPT, frame),
    }
    if dtype == pl.String():
        found["of texts"] = (EITHER if name != "split" else REFUSE, found["of texts"][1])
    if isinstance(dtype, (pl.Int16, pl.Int32, pl.Int64)):
        low, high = _ends(dtype)
        free = EITHER if name in FREE else REFUSE
        found["least"] = (free, _with(frame, name, row, low))
        found["negative"] = (free, _with(frame, name, row, -1))
        found["largest"] = (EITHER if name in LARGE else free, _with(frame, name, row, high))
        found["floats"] = (REFUSE, frame.with_columns(pl.col(name).cast(pl.Float64)))
        found["another width"] = (
            EITHER,
            frame.with_columns(pl.col(name).cast(pl.Int8, strict=False).fill_null(0)),
        )
    if isinstance(dtype, (pl.Float32, pl.Float64)):
        for value in (math.nan, math.inf, -math.inf, 7.0, -1e30):
            wrong = EITHER if name == "propensity" and value == -1e30 else REFUSE
            found[f"{value}"] = (wrong, _with(frame, name, row, value))
    if isinstance(dtype, pl.List):
        held = frame[name].to_list()[row]
        size = 3 if held is None else len(held)
        if isinstance(dtype.inner, (pl.Int16, pl.Int32)):
            items = name in ("slate", "items")
            for label, value in (
                ("least", _ends(dtype.inner)[0]),
                ("negative", -1),
                ("largest", _ends(dtype.inner)[1]),
            ):
                found[label] = (
                    REFUSE,
                    _with(frame, name, row, [value] * (1 if name == "items" else size)),
                )
            if items:
                found["twice"] = (REFUSE, _with(frame, name, row, [1] * max(size, 2)))
        if isinstance(dtype.inner, pl.Float32):
            for value in (math.nan, math.inf, 0.0, -1.0):
                found[f"{value}"] = (REFUSE, _with(frame, name, row, [value] * size))
        found["null in a list"] = (REFUSE, _with(frame, name, row, [None] * max(size, 1)))
        found["longer"] = (REFUSE, _with(frame, name, row, (held or [0] * size) * 2))
        found["empty"] = (ACCEPT if name == "items" else REFUSE, _with(frame, name, row, []))
    if name == "split":
        found["unknown"] = (REFUSE, _with(frame, name, row, "holdout"))
    return found


@st.composite
def table(draw: st.DrawFn) -> Case:
    """A table of a log that is not what its schema says, read, written or checked."""
    name = draw(st.sampled_from(list(ground.tables())))
    known, frame, items = ground.tables()[name]
    door = draw(st.sampled_from(["read", "write", "check_table"]))
    row = draw(st.integers(0, len(frame) - 1))
    if draw(st.integers(0, 4)) == 0:
        whole: dict[str, tuple[str, tuple[str, ...], pl.DataFrame]] = {
            "an unknown column": (REFUSE, ("unknown",), frame.with_columns(unknown=pl.lit(1))),
            "rows in reverse": (REFUSE, known.key, frame.reverse()),
            "a row twice": (
                REFUSE,
                (*known.key, "visit"),
                pl.concat([frame.head(row + 1), frame.slice(row)]),
            ),
            "no rows": (
                REFUSE if name in ("shoppers", "baskets") else EITHER,
                (name, "rows"),
                frame.clear(),
            ),
            "columns in another order": (ACCEPT, (name,), frame.select(reversed(frame.columns))),
            "no columns": (REFUSE, known.key, pl.DataFrame()),
        }
        what = draw(st.sampled_from(list(whole)))
        expected, names, changed = whole[what]
    else:
        column = draw(st.sampled_from(known.columns))
        found = damages(known, frame, column, row)
        what = draw(st.sampled_from(list(found)))
        expected, changed = found[what]
        names = (
            (column.name, *known.key, "rows")
            if what in ("another width",)
            else (column.name, *_beside(column.name))
        )
        what = f"column {column.name!r} {what}"
    path = ground.scratch() / "tables" / f"{name}.parquet"
    counted = (items,) if items is not None else ()

    def call() -> Any:
        path.parent.mkdir(exist_ok=True)
        if door == "check_table":
            return schema.check_table(known, changed, path, items)
        if door == "read":
            changed.write_parquet(path)
            return getattr(schema, f"read_{name}")(path, *counted)
        getattr(schema, f"write_{name}")(changed, path, *counted)
        return getattr(schema, f"read_{name}")(path, *counted)

    def sound(result: Any) -> None:
        assert isinstance(result, pl.DataFrame)
        assert result.columns == list(known.schema), "other columns came back"
        assert len(result) == len(changed), "another number of rows came back"

    return Case(f"{door} {name}: {what}, row {row}", call, expected, tuple(names), sound)


def _beside(name: str) -> tuple[str, ...]:
    """Columns that may be told of instead, since two rules are broken at once."""
    return {
        "slate": ("click", "purchase", "placement", "weight"),
        "purchase": ("click", "slate"),
        "click": ("purchase",),
        "gap": ("follow_up",),
        "follow_up": ("gap",),
        "day": ("week",),
        "week": ("day", "store", "item"),
        "store": ("week", "item"),
        "item": ("store", "week"),
        "time": ("shopper", "day"),
        "visit": ("shopper", "time"),
        "shopper": ("visit", "time", "day"),
        "page": ("visit", "shopper"),
    }.get(name, ())


@st.composite
def table_in_folder(draw: st.DrawFn) -> Case:
    """A table of a folder of shoppers with one number at the end of its type."""
    folder_tables = {
        name: ground.tables()[name] for name in ("baskets", "promotions", "popularity", "shoppers")
    }
    name = draw(st.sampled_from(list(folder_tables)))
    known = folder_tables[name][0]
    columns = [
        column
        for column in known.columns
        if isinstance(column.dtype, (pl.Int16, pl.Int32, pl.Int64))
    ]
    column = draw(st.sampled_from(columns))
    high = draw(st.sampled_from([_ends(column.dtype)[1], -1, _ends(column.dtype)[1] // 3]))
    whole = pl.read_parquet(ground.shopper_folder() / f"{name}.parquet")
    changed = _with(whole, column.name, len(whole) - 1, high)
    where = draw(st.booleans())
    changed = changed if where else whole.clear()
    free = EITHER if column.name in FREE or (column.name in LARGE and high > 0) else REFUSE
    if not where:
        free = REFUSE if name in ("baskets", "shoppers") else EITHER

    def call() -> SlateSimulator:
        folder = fresh(ground.shopper_folder())
        changed.write_parquet(folder / f"{name}.parquet")
        simulator = shop(folder)
        ground.plays(simulator)
        return simulator

    label = f"column {column.name!r} {high}" if where else "no rows"
    names = (
        (name, column.name) if where else (name, "start_days")
    )  # without promotions nobody starts
    return Case(f"a folder whose {name} has {label}", call, free, names)


# ---- weights -------------------------------------------------------------------------------------

Loader = Callable[[Path], Any]


def _played(simulator: SlateSimulator) -> SlateSimulator:
    ground.plays(simulator)
    return simulator


def weight_files() -> dict[str, tuple[Path, str, Loader]]:
    """Files of weights: the folder they lie in, their name there, and what loads them."""
    files = ranker_files()
    return {
        "shopper": (
            ground.shopper_folder(),
            "model.safetensors",
            lambda folder: _played(shop(folder)),
        ),
        "second shopper": (
            ground.shopper_folder(),
            "model1/model.safetensors",
            lambda folder: _played(shop(folder, 2)),
        ),
        "embedding": (
            ground.shopper_folder(),
            "embedding.safetensors",
            lambda folder: _played(shop(folder)),
        ),
        "market": (
            ground.market_folder(),
            "model0/model.safetensors",
            lambda folder: _played(market(folder)),
        ),
        "newcomers": (
            ground.market_folder(),
            "population.safetensors",
            lambda folder: _played(market(folder)),
        ),
        "ctr": (
            files["ctr"].parent,
            "ctr.safetensors",
            lambda folder: ctr.load_model(folder / "ctr.safetensors"),
        ),
        "towers": (
            files["two towers"].parent,
            "towers.safetensors",
            lambda folder: two_tower.load_two_tower(folder / "towers.safetensors"),
        ),
    }


@st.composite
def weights(draw: st.DrawFn) -> Case:
    """One tensor of a file of weights with a number that is none, of another shape or type,
    missing, or one more."""
    kind = draw(st.sampled_from(list(weight_files())))
    source, name, load = weight_files()[kind]
    tensors = load_file(source / name)
    with safe_open(source / name, framework="pt") as opened:
        metadata = opened.metadata()
    at = draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[at]
    place = draw(st.floats(0, 1))
    changes: dict[str, tuple[str, Callable[[], Tensor | None]]] = {
        "missing": (REFUSE, lambda: None),
        "one row more": (REFUSE, lambda: torch.cat([tensor.view(-1), tensor.view(-1)[:1]])),
        "as whole numbers": (
            ACCEPT if tensor.dtype == torch.int64 else REFUSE,
            lambda: tensor.long(),
        ),
        "in half precision": (EITHER, lambda: tensor.half()),
        "as it was": (ACCEPT, lambda: tensor),
    }
    if tensor.is_floating_point() and tensor.numel():
        for value in (math.nan, math.inf, -math.inf):
            changes[f"{value}"] = (REFUSE, lambda value=value: _number_at(tensor, place, value))  # type: ignore[misc]
    what = draw(
        st.sampled_from(
            [*changes, *([f"{math.nan}"] * 3 if f"{math.nan}" in changes else []), "one more"]
        )
    )

    def call() -> Any:
        folder = fresh(source)
        changed = dict(tensors)
        if what == "one more":
            changed["one.more"] = torch.zeros(2)
        else:
            value = changes[what][1]()
            changed.pop(at)
            if value is not None:
                changed[at] = value.contiguous()
        save_file(changed, folder / name, metadata)
        return load(folder)

    expected = REFUSE if what == "one more" else changes[what][0]
    if kind == "embedding" and what in ("one more",):
        expected = EITHER
    shapes = what in ("missing", "one row more", "one more")
    names = (
        at,
        "one.more",
        *((Path(name).name, source.name) if shapes or kind == "embedding" else ()),
    )
    return Case(f"{kind}: {at} {what}", call, expected, names)


def _number_at(tensor: Tensor, place: float, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[int(place * (changed.numel() - 1))] = value
    return changed


# ---- code ----------------------------------------------------------------------------------------


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (marker(),))


def marker() -> Path:
    """The file that shows that code was executed."""
    return ground.scratch() / "executed"


@st.composite
def code(draw: st.DrawFn) -> Case:
    """Code in a folder of shoppers, in place of a file or beside the files: it must not be
    executed."""
    held = {
        "a pickle": pickle.dumps(Evil()),
        "torch's format": _zipped(),
        "a module": b"open('executed', 'w')\n",
    }
    what = draw(st.sampled_from(list(held)))
    targets = [
        *shop_files(),
        "pytorch_model.bin",
        "model.bin",
        "evil.py",
        "adapter_config.json",
        "model.safetensors.index.json",
    ]
    target = draw(st.sampled_from(targets))
    alone = draw(st.booleans())
    expected = REFUSE if target in shop_files() else EITHER

    def call() -> Any:
        marker().unlink(missing_ok=True)
        folder = fresh(ground.shopper_folder())
        (folder / target).write_bytes(held[what])
        if alone and target.endswith(".bin"):
            (folder / "model.safetensors").unlink()
        if target == "evil.py":
            content = json.loads((folder / "config.json").read_text())
            content["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
            (folder / "config.json").write_text(json.dumps(content))
        try:
            return shop(folder)
        finally:
            if marker().exists():
                raise AssertionError("code of the folder was executed")

    names = (target, Path(target).stem, "model.safetensors", "auto_map", "config.json")
    return Case(f"{what} as {target}{' alone' if alone else ''}", call, expected, names)


def _zipped() -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save({"weights": Evil()}, buffer)
    return buffer.getvalue()


# ---- loaders and paths ---------------------------------------------------------------------------


@st.composite
def loader(draw: st.DrawFn) -> Case:
    """An option of a function that makes shoppers, called by itself."""
    doors: dict[str, tuple[Callable[..., Any], str, int]] = {
        "load_shopper": (
            lambda **o: load_shopper(ground.shopper_folder(), CPU, **o),
            ground.FOLDER_ID,
            5,
        ),
        "load_session": (
            lambda **o: load_session(ground.MARKET, CPU, **o),
            "recsim_env/LearnedMarket-v0",
            10,
        ),
        "make_market": (lambda **o: make_market(CPU, **o), "recsim_env/Market-v0", 5),
    }
    name = draw(st.sampled_from(list(doors)))
    make, id, size = doors[name]
    ground.ids()
    kinds: dict[str, Kind] = {
        "slate_size": Whole(size, size, size) if size == 10 else Whole(1, sure=8),
        **options_of(id),
    }
    names = draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=2, unique=True))
    values = {one: draw(kinds[one].any()) for one in names}
    rights = {one: kinds[one].right(values[one]) for one in names}
    always: dict[str, Any] = {"slate_size": size}
    if name == "load_shopper":
        always["start_days"] = ground.START_DAYS[1]
    expected = together(rights)
    if expected == ACCEPT and "slate_size" in values and {"examination", "config"} & values.keys():
        expected = EITHER
    bad = tuple(one for one, right in rights.items() if right.outcome != ACCEPT)
    written = ", ".join(f"{one}={label_of(value)}" for one, value in values.items())

    def sound(shopper: Any) -> None:
        if "compiled" not in values:
            ground.plays(SlateSimulator(shopper))

    return Case(
        f"{name}({written})",
        lambda: make(**{**always, **values}),
        expected,
        bad or tuple(names),
        sound,
    )


def path_doors() -> dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]]:
    """Functions that take a path of something to be read, with what they call it."""
    doors: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
        "load_shopper": (lambda path: load_shopper(path, CPU, 5), ("folder",)),
        "load_session": (lambda path: load_session(path, CPU, 4), ("folder",)),
        "Catalog.load": (Catalog.load, ("folder",)),
        "register": (lambda path: register("net/Path-v0", path), ("shopper",)),
        "rankers.load_model": (ctr.load_model, ("path",)),
        "two_tower.load_two_tower": (two_tower.load_two_tower, ("path",)),
    }
    for name, (_, _, items) in ground.tables().items():
        counted = (items,) if items is not None else ()
        doors[f"read_{name}"] = (_reader(getattr(schema, f"read_{name}"), counted), ("path",))
    return doors


def _reader(read: Callable[..., Any], counted: tuple[int, ...]) -> Callable[[Any], Any]:
    return lambda path: read(path, *counted)


@st.composite
def path(draw: st.DrawFn) -> Case:
    """Something that is no path, or where nothing lies, at every function that reads."""
    name = draw(st.sampled_from(list(path_doors())))
    read, names = path_doors()[name]
    kind = Folder()
    value = draw(
        weighted(
            (3, kind.near()),
            (3, odd()),
            (1, st.sampled_from([Path("nowhere"), ground.scratch(), __file__])),
        )
    )
    if name == "load_session" and value is None:
        value = "nowhere"
    if name == "register" and callable(value):
        value = 5
    told = (
        tuple(part for part in Path(value).parts if len(part) > 1)[-1:] if _is_path(value) else ()
    )
    kinds: tuple[str, ...] = ("config", "catalog", "json", "safetensors", "parquet", "model")
    kinds += (
        ("file",) if isinstance(value, str) and not told else ()
    )  # no part of such a path is a name
    expected = REFUSE
    if name == "register" and _is_path(value) and os.path.isdir(value):
        expected = EITHER  # what a folder lacks may be told when the environment is made
    return Case(
        f"{name}({label_of(value)})", lambda: read(value), expected, (*names, *told, *kinds)
    )


def _is_path(value: Any) -> bool:
    return (
        isinstance(value, (str, os.PathLike))
        and 0 < len(str(value)) < 500
        and "\0" not in str(value)
    )


# ---- checkpoints ---------------------------------------------------------------------------------


@functools.cache
def trained() -> tuple[Any, Path]:
    """A model that was hardly trained, and its checkpoint."""
    from tests.agents.ppo.test_algorithm import composer_model

    model = composer_model(shoppers=4)
    folder = ground.scratch() / "checkpoint"
    folder.mkdir(exist_ok=True)
    checkpoints.save(model, folder / checkpoints.LAST)
    return model, folder / checkpoints.LAST


@st.composite
def checkpoint(draw: st.DrawFn) -> Case:
    """A checkpoint of a training that is cut, lacks something or holds numbers that are none."""
    from tests.support.policy_toys import toy_inputs
    from tests.support.toys import toy_simulator

    model, source = trained()
    with safe_open(source, framework="pt") as opened:
        metadata, tensors = (
            opened.metadata(),
            {name: opened.get_tensor(name) for name in opened.keys()},  # noqa: SIM118
        )
    what = draw(
        st.sampled_from(
            [
                "empty",
                "cut",
                "junk",
                "missing",
                "without description",
                "description",
                "NaN",
                "tensor",
            ]
        )
    )
    key = draw(st.sampled_from(sorted(metadata)))
    floats = sorted(
        name for name, value in tensors.items() if value.is_floating_point() and value.numel()
    )
    at = draw(st.sampled_from(floats if what == "NaN" else sorted(tensors)))
    text = draw(st.sampled_from([None, "", "{", "null", "[]", "3", "{}"]))
    share = draw(st.floats(0.01, 0.99))
    whole = draw(st.booleans())

    def call() -> Any:
        target = fresh(source.parent) / source.name
        if what == "empty":
            target.write_bytes(b"")
        elif what == "cut":
            target.write_bytes(source.read_bytes()[: int(share * source.stat().st_size)])
        elif what == "junk":
            target.write_bytes(pickle.dumps({"weights": 1}))
        elif what == "missing":
            target.unlink()
        else:
            held = dict(tensors)
            told = dict(metadata)
            if what == "description":
                told.pop(key)
                told |= {} if text is None else {key: text}
            elif what == "NaN":
                held[at] = _number_at(held[at], share, math.nan)
            elif what == "tensor":
                held.pop(at)
            save_file(held, target, None if what == "without description" else told)
        if whole:
            from tests.agents.ppo.test_algorithm import composer_model

            return checkpoints.load(composer_model(shoppers=4), target)
        return checkpoints.load_policy(target, toy_inputs(toy_simulator(items=40)))

    del model
    expected = REFUSE
    if what == "description" or (
        what in ("NaN", "tensor") and not (whole or at.startswith("policy/actor."))
    ):
        expected = EITHER
    label = {"description": f"{key} {text}", "NaN": at, "tensor": f"without {at}"}.get(what, "")
    names = (
        (checkpoints.LAST, at) if what in ("NaN", "tensor") else (checkpoints.LAST, "checkpoint")
    )
    return Case(f"{'load' if whole else 'load_policy'}: {what} {label}", call, expected, names)


CONFIGS: dict[str, tuple[float, Callable[[], Any]]] = {
    "config.json": (0.9, config),
    "descriptions of rankers": (0.1, shape),
}
FILES: dict[str, tuple[float, Callable[[], Any]]] = {"files": (1.0, file)}
TABLES: dict[str, tuple[float, Callable[[], Any]]] = {
    "tables": (0.45, table),
    "tables in a folder": (0.07, table_in_folder),
    "weights": (0.12, weights),
    "code": (0.06, code),
    "loaders": (0.18, loader),
    "paths": (0.12, path),
}
CHECKPOINTS: dict[str, tuple[float, Callable[[], Any]]] = {"checkpoints": (1.0, checkpoint)}
SOURCES = {**CONFIGS, **FILES, **TABLES, **CHECKPOINTS}
