"""The items that can be shown: their texts, categories, prices and embeddings, checked."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.tensors import widened

GRAM_LIMIT = 5000
"""Items up to which the cosines of all pairs are kept in memory (100 MB); beyond, they are computed
when asked for."""
MOST_ITEMS = 10**7
"""Items of the largest made-up catalogue."""
MOST_NUMBERS = 10**8
"""Numbers in the largest made-up table of embeddings, 400 MB."""
LEVELS = 3  # of a path: department, category, type
UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of an embedding may be: what rounding to float16 does to it, twice
over."""


class CatalogError(ValueError):
    """A catalogue is broken: the message names column, row, finding, expectation and file."""


@dataclass(frozen=True, eq=False)
class Catalog:
    """N items; an item is its row number 0..N-1.

    Shapes: N items, E embedding width.
        text:       N sentences
        path:       N category paths "department/category/type"
        price:      (N,) float32, currency units a piece, NaN where unknown
        embedding:  (N, E) float32, unit length: what agents may use
        product_id: (N,) int64 number in the source, or None
        cold:       (N,) bool, kept out of every training exposure, or None
        popularity: (N,) float32, above 0 and at most 1, the share of shoppers or visits that chose
                    the item, or None
        category:   (N,) int64, derived: index into `categories` ("department/category", sorted)
        kind:       (N,) int64, derived: index into `kinds` (whole paths, sorted)

    Raises:
        CatalogError: If a field is not as said. Every catalogue is checked, whether it is made in
            memory or read from files; on a `meta` device, which holds no numbers, only types and
            sizes are.
    """

    text: tuple[str, ...]
    path: tuple[str, ...]
    price: Tensor
    embedding: Tensor
    product_id: Tensor | None = None
    cold: Tensor | None = None
    popularity: Tensor | None = None
    category: Tensor = field(init=False)
    categories: tuple[str, ...] = field(init=False)
    kind: Tensor = field(init=False)
    kinds: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _strings("text", self.text))
        object.__setattr__(self, "path", _strings("path", self.path))
        _check(self)
        device = self.embedding.device
        categories, category = _index(["/".join(path.split("/")[:2]) for path in self.path])
        kinds, kind = _index(self.path)
        object.__setattr__(self, "categories", categories)
        object.__setattr__(self, "category", category.to(device))
        object.__setattr__(self, "kinds", kinds)
        object.__setattr__(self, "kind", kind.to(device))

    def __len__(self) -> int:
        return len(self.text)

    @property
    def device(self) -> torch.device:
        """The device on which the tensors live."""
        return self.embedding.device

    @functools.cached_property
    @torch.inference_mode(False)  # whoever asks first, others may learn with it
    def cosines(self) -> Tensor | None:
        """The cosines of all pairs of items: (N, N) float32; None above `GRAM_LIMIT` items.

        They are computed when they are first asked for.
        """
        if len(self) > GRAM_LIMIT:
            return None
        exact = widened(self.embedding)  # so that rewards do not depend on the device
        return (exact @ exact.T).float()

    @functools.cached_property
    def known_price(self) -> Tensor | None:
        """The prices (N,) float32 where every one is known; otherwise None."""
        if self.price.is_meta or not bool(self.price.isnan().any()):
            return self.price
        return None

    @functools.cached_property
    @torch.inference_mode(False)  # whoever asks first, others may learn with it
    def category_share(self) -> Tensor:
        """The share of all items that are of the category of each item: (N,) float32."""
        count = torch.zeros(len(self.categories), dtype=torch.float32, device=self.device)
        count.index_add_(0, self.category, torch.ones_like(self.category, dtype=count.dtype))
        return count[self.category] / len(self)

    def category_name(self, number: int) -> str:
        """Name a category as people read it, without the department in front."""
        return self.categories[number].split("/")[-1]

    def to(self, device: torch.device | str) -> Catalog:
        """Copy the catalogue to a device."""
        tensors = {"price": self.price, "embedding": self.embedding, **extras(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in tensors.items()}
        return replace(self, **moved)

    def save(self, folder: Path | str) -> None:
        """Write `catalog.parquet` and `embedding.safetensors` (float32), each in one move.

        Raises:
            TypeError: If `folder` is no path.
            OSError: If a file cannot be written.
        """
        from recsim_env.catalog_files import (
            save,  # polars: only who reads or writes a file pays for its import
        )

        save(self, checks.path("folder", folder))

    @classmethod
    def load(cls, folder: Path | str) -> Catalog:
        """Read and check a saved catalogue.

        A float32 embedding comes back as it is. In files by another hand it may have another
        floating-point type, such as float16; then it is brought back to the unit length that
        rounding took from it.

        Raises:
            TypeError: If `folder` is no path.
            CatalogError: If a file is missing, unreadable, or not as said.
        """
        from recsim_env.catalog_files import load

        return load(checks.path("folder", folder))

    @classmethod
    def synthetic(
        cls, n_items: int, n_categories: int, width: int, generator: torch.Generator
    ) -> Catalog:
        """Invent items that lie near the centre of their category, with log-normal prices.

        The categories are taken in turn: 0, 1, .. and 0 again. Each of them has two types.

        Args:
            n_items: N, how many items.
            n_categories: How many categories.
            width: E, the width of the embeddings.
            generator: A CPU generator; all randomness comes from it.

        Raises:
            ValueError: If a number is no whole number above 0 or is beyond `MOST_ITEMS` or
                `MOST_NUMBERS`, or if `generator` is none.
        """
        n_items = checks.whole("n_items", n_items, 1, MOST_ITEMS)
        n_categories = checks.whole("n_categories", n_categories, 1, MOST_ITEMS)
        width = checks.whole("width", width, 1, MOST_NUMBERS // max(n_items, n_categories))
        if not isinstance(generator, torch.Generator):
            raise ValueError(
                f"generator is {checks.told(generator)}, but it must be a torch.Generator."
            )
        category = torch.arange(n_items) % n_categories
        kind = torch.arange(n_items) // n_categories % 2
        normal = functools.partial(torch.randn, generator=generator, dtype=torch.float32)
        centres = normal(n_categories, width)
        points = centres[category] + 0.5 * normal(n_items, width)
        price = torch.exp(1 + 0.5 * normal(n_items))
        pairs = list(zip(category.tolist(), kind.tolist(), strict=True))
        return cls(
            text=tuple(f"item {item}; type {k}; category {c}" for item, (c, k) in enumerate(pairs)),
            path=tuple(f"department {c % 3}/category {c}/type {k}" for c, k in pairs),
            price=price,
            embedding=torch.nn.functional.normalize(points, dim=1),
        )


def extras(catalog: Catalog) -> dict[str, Tensor]:
    """Return the optional columns that a catalogue has."""
    extras = {name: getattr(catalog, name) for name in ("product_id", "cold", "popularity")}
    return {name: value for name, value in extras.items() if value is not None}


def _index(names: list[str] | tuple[str, ...]) -> tuple[tuple[str, ...], Tensor]:
    """Return the distinct names, sorted, and the place of each name among them: (N,) int64."""
    distinct = tuple(sorted(set(names)))
    place = {name: i for i, name in enumerate(distinct)}
    return distinct, torch.tensor([place[name] for name in names], dtype=torch.int64)


# ---- the one check of a catalogue ----------------------------------------------------------------


def _strings(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (tuple, list)):
        raise CatalogError(
            f"column '{name}': found {checks.told(value)}, expected a tuple of texts, one an item."
        )
    return tuple(value)


def _check(catalog: Catalog) -> None:
    """Raise CatalogError where a field is not as `Catalog` says."""
    n, device = len(catalog.text), getattr(catalog.embedding, "device", None)
    if n == 0:
        raise CatalogError("column 'text': found no rows, expected at least one item.")
    _check_texts(catalog)
    expected = {
        "embedding": torch.float32,
        "price": torch.float32,
        "product_id": torch.int64,
        "cold": torch.bool,
        "popularity": torch.float32,
    }
    for name, tensor in {
        "embedding": catalog.embedding,
        "price": catalog.price,
        **extras(catalog),
    }.items():
        shape = (n, "E") if name == "embedding" else (n,)
        try:
            checks.tensor(f"column '{name}'", tensor, shape, expected[name], finite=False)
        except (TypeError, ValueError) as error:
            raise CatalogError(str(error)) from None
        if tensor.device != device:
            raise CatalogError(
                f"column '{name}': found a tensor on {tensor.device}, expected it on {device} as "
                "all."
            )
    if catalog.embedding.device.type != "meta":
        _check_numbers(catalog)


def _check_texts(catalog: Catalog) -> None:
    if len(catalog.path) != len(catalog.text):
        found = f"found {len(catalog.path)} rows, expected {len(catalog.text)}, one for each text"
        raise CatalogError(f"column 'path': {found}.")
    for row, text in enumerate(catalog.text):
        if not isinstance(text, str) or not text:
            raise fault("text", row, text, "a text")
    for row, path in enumerate(catalog.path):
        levels = path.split("/") if isinstance(path, str) else []
        if len(levels) != LEVELS or not all(levels):
            raise fault("path", row, path, "a path department/category/type")


def _check_numbers(catalog: Catalog) -> None:
    price, length = catalog.price, catalog.embedding.norm(dim=1)
    if catalog.embedding.shape[1] == 0:
        raise CatalogError(
            "column 'embedding': found vectors of no numbers, expected at least one number an item."
        )
    dear = ~(price.isnan() | ((price >= 0) & price.isfinite()))
    for row in dear.nonzero().flatten()[:1].tolist():
        raise fault("price", row, float(price[row]), "a price >= 0 or NaN")
    if catalog.popularity is not None:
        share = catalog.popularity
        for row in (~((share > 0) & (share <= 1))).nonzero().flatten()[:1].tolist():
            raise fault("popularity", row, float(share[row]), "a share above 0 and at most 1")
    for row in (~((length - 1).abs() <= UNIT_TOLERANCE)).nonzero().flatten()[:1].tolist():
        raise fault(
            "embedding",
            row,
            f"length {float(length[row]):.6g}",
            "a vector of length 1",
            quoted=False,
        )


def fault(
    column: str, row: int, found: object, expected: str, *, quoted: bool = True
) -> CatalogError:
    """Make the error that says what stands in a row of a column and what was expected there."""
    shown = checks.told(found) if quoted else found
    return CatalogError(f"column '{column}', row {row}: found {shown}, expected {expected}.")
