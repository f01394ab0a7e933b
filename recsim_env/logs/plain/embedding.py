"""Vectors of a shop's items, from their titles and from what is clicked by the same users."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.logs.plain.items import texts_of
from recsim_env.logs.plain.reading import PlainLog

WIDTH = 32
"""Numbers of each of the two parts, at most."""
ROUNDS = 4  # power iterations of the randomised SVD: more change no digit that matters


@dataclass(frozen=True)
class ItemVectors:
    """A vector for each item, and where it comes from."""

    vectors: Tensor
    """(N, E) float32 of length 1."""
    how: str
    """What the vectors were made from, as a sentence."""


def embed_items(plain: PlainLog, *, seed: int = 0) -> ItemVectors:
    """Make a vector of length 1 for each item.

    Vectors that the catalogue gives are used as they are, but for their length. Otherwise there are
    two parts, each scaled to length 1: the principal components of MiniLM's vectors of the titles,
    where MiniLM is installed (`pip install 'recsim-env[data]'`), and a singular value decomposition
    of who clicked what, which sees the training users' clicks alone.

    Args:
        plain: The log and its items.
        seed: Seed of the randomised decomposition.
    """
    seed = checks.whole("seed", seed, 0, checks.LARGEST_SEED)
    given = plain.items["embedding"]
    if not given.null_count():
        vectors = torch.from_numpy(given.explode().to_numpy().copy()).view(len(given), -1).double()
        # Numbers as large or small as a Float32 can be: their squares are not.
        vectors = vectors / vectors.abs().amax(dim=1, keepdim=True)
        return ItemVectors(
            normalize(vectors, dim=1).float(), "Item vectors are those of the catalogue."
        )

    clicked, bare = _for_all(_of_clicks(plain, seed), plain.items)
    of_clicks = f"co-clicks of the training users ({clicked.shape[1]} singular vectors)"
    texts = _of_texts(list(texts_of(plain.items)))
    if texts is None:
        vectors = clicked
        how = (
            f"Item vectors are made of {of_clicks} alone: MiniLM, which reads titles, is not "
            "installed (pip install 'recsim-env[data]')."
        )
    else:
        vectors = normalize(torch.cat([normalize(texts, dim=1), clicked], dim=1), dim=1)
        how = (
            f"Item vectors are made of MiniLM's vectors of titles ({texts.shape[1]} principal "
            f"components) and {of_clicks}."
        )
    if bare:
        how += f" {bare:,} items without clicks have the co-clicks of their category."
    return ItemVectors(vectors, how)


def catalog_of(plain: PlainLog, *, seed: int = 0, vectors: ItemVectors | None = None) -> Catalog:
    """Make the catalogue of a log's items.

    Args:
        plain: The log and its items.
        seed: Seed of `embed_items`.
        vectors: What `embed_items` returned; None calls it.
    """
    made = embed_items(plain, seed=seed) if vectors is None else vectors
    price = plain.items["price"].fill_null(float("nan")).to_numpy().copy()
    return Catalog(
        text=tuple(texts_of(plain.items)),
        path=tuple(plain.items["path"]),
        price=torch.from_numpy(price),
        embedding=made.vectors,
    )


def _of_texts(texts: list[str]) -> Tensor | None:
    """Principal components of MiniLM's vectors (N, W); None where MiniLM is not installed."""
    from recsim_env.logs.complete_journey.encoder import embed_texts, encoder_folder

    try:
        encoder_folder()
    except ModuleNotFoundError:
        return None
    vectors = embed_texts(texts)
    centred = (vectors - vectors.mean(dim=0)).double()
    _, directions = torch.linalg.eigh(centred.T @ centred)  # by ascending variance
    width = min(WIDTH, len(texts), vectors.shape[1])
    return (centred @ _signed(directions.flip(1)[:, :width])).float()


def _of_clicks(plain: PlainLog, seed: int) -> Tensor:
    """Singular vectors of the training users' clicks (N, W), scaled by the singular values.

    A click counts 1 / sqrt(clicks of the user, clicks of the item), so that the first singular
    vector is popularity, and is left out.
    """
    pairs = (
        plain.impressions.filter(pl.col("split") == "train")
        .select("shopper", "slate", "click")
        .explode("slate", "click")
        .filter("click")
        .select("shopper", "slate")
        .unique(maintain_order=True)
    )
    user = torch.from_numpy(pairs["shopper"].to_numpy().copy())
    item = torch.from_numpy(pairs["slate"].cast(pl.Int64).to_numpy().copy())
    users, items = int(user.max()) + 1, len(plain.items)
    of_user, of_item = user.bincount(minlength=users), item.bincount(minlength=items)
    weight = (of_user[user] * of_item[item]).double().rsqrt()
    matrix = torch.sparse_coo_tensor(
        torch.stack([user, item]), weight, (users, items), check_invariants=False
    ).coalesce()
    width = min(WIDTH + 1, users, items)
    if width == 1:  # one direction, which would be left out: all items are alike
        return torch.ones(items, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, size, vectors = torch.svd_lowrank(matrix, q=width, niter=ROUNDS)
    return (_signed(vectors) * size)[:, 1:].float()


def _signed(columns: Tensor) -> Tensor:
    """Columns whose largest entry is positive, so that a decomposition has one result."""
    largest = columns.abs().argmax(dim=0, keepdim=True)
    return columns * columns.gather(0, largest).sign()


def _for_all(vectors: Tensor, items: pl.DataFrame) -> tuple[Tensor, int]:
    """Scale vectors to length 1; items without one get the mean of their category, or of all."""
    vectors = normalize(vectors, dim=1)
    bare = vectors.norm(dim=1) < 0.5  # of numerical noise
    vectors = vectors.masked_fill(bare.unsqueeze(1), 0)
    if bare.any():
        category = items["path"].rank("dense") - 1
        of = torch.from_numpy(category.cast(pl.Int64).to_numpy().copy())
        mean = torch.zeros(int(of.max()) + 1, vectors.shape[1]).index_add_(0, of, vectors)
        everything = vectors.mean(dim=0)
        if everything.norm() < 1e-6:
            everything = torch.ones_like(everything)
        mean = torch.where(mean.norm(dim=1, keepdim=True) < 1e-6, everything, mean)
        vectors = torch.where(bare.unsqueeze(1), mean[of], vectors)
    return normalize(vectors, dim=1), int(bare.sum())
