"""A folder with a fitted completion: the model, and the words of searches as vectors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recsim_env import checks, files
from recsim_env.catalog import Catalog
from recsim_env.logs.schema import read_baskets
from recsim_env.shoppers.carts.lift import PairLift, log_lift, pair_counts
from recsim_env.shoppers.carts.model import CartCompletion
from recsim_env.shoppers.household.replay import Visits
from recsim_env.shoppers.weights import load_model, present, read_tensors

QUERIES = "queries.safetensors"
"""Name of the file with the vectors of searches."""
OPEN = 4
"""Shops that are kept for the next environments of this process."""


def words_of(catalog: Catalog) -> tuple[str, ...]:
    """Return what is typed to find each item: the first part of its text, the type of product."""
    return tuple(text.split("; ")[0] for text in catalog.text)


def write_queries(folder: Path, vectors: Tensor, of_item: Sequence[int]) -> None:
    """Write the vectors of searches.

    Args:
        folder: the folder of the completion
        vectors: (W, E) float32 of unit length, one for each distinct search
        of_item: the search that finds each item
    """
    places = torch.tensor(of_item, dtype=torch.int64)
    files.write_tensors(folder / QUERIES, {"vectors": vectors.half(), "of_item": places})


@dataclass(frozen=True)
class CartShop:
    """What whole visits need beside a `household.shop.Shop`, on one device and never changed.

    Shapes: N items, W searches, D width of the model's vectors, E width of the catalogue's.
        vectors: (N, D) of the model's items
        queries: (W, E) float32 of unit length
        query_of: (N,) int64 the search that finds each item
        words: of each item's search
    """

    model: CartCompletion
    lift: PairLift
    vectors: Tensor
    queries: Tensor
    query_of: Tensor
    words: tuple[str, ...]


def load_cart_shop(folder: Path, household: Path, device: torch.device) -> CartShop:
    """Read a completion and the lift of the training weeks that it was fitted with.

    Args:
        folder: of the completion and the searches
        household: of the shop's tables
        device: where everything is put

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If what the folders hold is broken, or does not fit together.
    """
    paths = [folder / "config.json", folder / "model.safetensors", folder / QUERIES]
    paths += [household / "catalog.parquet", household / "baskets.parquet"]
    stamps = tuple(
        (path, stat.st_size, stat.st_mtime_ns) for path in paths for stat in [present(path).stat()]
    )
    return _opened(folder, household, device, stamps)


@functools.lru_cache(maxsize=OPEN)
@torch.inference_mode(False)
@torch.no_grad()
def _opened(folder: Path, household: Path, device: torch.device, stamps: object) -> CartShop:
    # the model, which must be of the household's items
    catalog = Catalog.load(household)
    n, text = len(catalog), catalog.embedding
    model = load_model(CartCompletion, folder).requires_grad_(False)
    width = None if text is None else text.shape[1]
    if text is None or (model.config.n_items, model.config.text_width) != (n, width):
        raise ValueError(
            f"{folder} holds a completion of {model.config.n_items} items with vectors of width "
            f"{model.config.text_width}, but the catalogue in {household} has {n} items with "
            f"vectors of width {width}."
        )

    # the searches, one for each item
    tensors = read_tensors(folder / QUERIES, lambda shapes: None)
    names = sorted(tensors)
    if names != ["of_item", "vectors"]:
        raise ValueError(f"{folder / QUERIES} holds {names}, but it must hold of_item and vectors.")
    queries, query_of = tensors["vectors"], tensors["of_item"]
    checks.tensor("of_item", query_of, (n,), torch.int64)
    checks.tensor("vectors", queries, (len(queries), text.shape[1]), torch.float16)
    if int(query_of.min()) < 0 or int(query_of.max()) >= len(queries):
        raise ValueError(
            f"{folder / QUERIES}: of_item goes from {int(query_of.min())} to "
            f"{int(query_of.max())}, but there are {len(queries)} searches."
        )

    # which items go together, from the baskets of the training weeks
    baskets = read_baskets(household / "baskets.parquet", n)
    train = torch.from_numpy((baskets["split"] == "train").to_numpy().copy()).nonzero().flatten()
    table = log_lift(pair_counts(Visits.of(baskets), train, n), len(train))
    return CartShop(
        model=model.to(device),  # type: ignore[arg-type]
        lift=PairLift(table.to(device), catalog.kind.to(device), catalog.category.to(device)),
        vectors=model.vectors(text.to(device)),
        queries=torch.nn.functional.normalize(queries.float(), dim=1).clamp(-1, 1).to(device),
        query_of=query_of.to(device),
        words=words_of(catalog),
    )
