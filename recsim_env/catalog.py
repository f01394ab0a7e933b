"""The items that can be shown: text, category path, price and embedding; loaded and checked, or made from a seed."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

if TYPE_CHECKING:  # a fifth of a second to import: only who reads or writes a file pays
    import polars as pl

CATALOG_FILE = "catalog.parquet"
EMBEDDING_FILE = "embedding.safetensors"
GRAM_LIMIT = 5000
"""Items up to which the cosines of all pairs are kept in memory (100 MB); beyond, they are computed when asked for."""
LEVELS = 3  # of a path: department, category, type
_COLUMNS = {"item": "Int64", "text": "String", "path": "String", "price": "Float32"}
_OPTIONAL = {"product_id": "Int64", "cold": "Boolean"}
"""Columns of the catalogue's file and their types in polars."""


class CatalogError(ValueError):
    """A catalogue file is not what it should be; the message names file, column, row, finding and expectation."""


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
        category:   (N,) int64, derived: index into `categories` ("department/category", sorted)
        kind:       (N,) int64, derived: index into `kinds` (whole paths, sorted)
    """

    text: tuple[str, ...]
    path: tuple[str, ...]
    price: Tensor
    embedding: Tensor
    product_id: Tensor | None = None
    cold: Tensor | None = None
    category: Tensor = field(init=False)
    categories: tuple[str, ...] = field(init=False)
    kind: Tensor = field(init=False)
    kinds: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        _check_sizes(self)
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
        """Where the tensors live."""
        return self.embedding.device

    @functools.cached_property
    @torch.inference_mode(False)  # whoever asks first, others may learn with it
    def cosines(self) -> Tensor | None:
        """(N, N) float32 cosines of all pairs of items; None above `GRAM_LIMIT` items. Made when first asked for."""
        if len(self) > GRAM_LIMIT:
            return None
        exact = self.embedding.double()  # so that rewards do not depend on the device
        return (exact @ exact.T).float()

    def to(self, device: torch.device | str) -> Catalog:
        """Copy to a device."""
        product_id = None if self.product_id is None else self.product_id.to(device)
        cold = None if self.cold is None else self.cold.to(device)
        price, embedding = self.price.to(device), self.embedding.to(device)
        return replace(self, price=price, embedding=embedding, product_id=product_id, cold=cold)

    def save(self, folder: Path | str) -> None:
        """Write `catalog.parquet` and `embedding.safetensors` (float16), each in one move."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        columns = {"item": torch.arange(len(self)).numpy(), "text": self.text, "path": self.path}
        tensors = {"price": self.price, **{k: v for k, v in _extras(self).items() if v is not None}}
        columns |= {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        import polars as pl

        frame = pl.DataFrame(columns, schema_overrides={name: getattr(pl, dtype) for name, dtype in _COLUMNS.items()})
        half = self.embedding.to("cpu", torch.float16).contiguous()
        with _moved_to(folder / EMBEDDING_FILE) as path:
            path.partial.write_bytes(save({"embedding": half}))
        with _moved_to(folder / CATALOG_FILE) as path:
            frame.write_parquet(path.partial)

    @classmethod
    def load(cls, folder: Path | str) -> Catalog:
        """Read and check a saved catalogue; the embedding comes back as float32 of unit length."""
        folder = Path(folder)
        frame = _read_frame(folder / CATALOG_FILE)
        embedding = _read_embedding(folder / EMBEDDING_FILE, len(frame))
        optional = {name: torch.from_numpy(frame[name].to_numpy().copy()) for name in _OPTIONAL if name in frame}
        price = torch.from_numpy(frame["price"].fill_null(float("nan")).to_numpy().copy())
        return cls(tuple(frame["text"]), tuple(frame["path"]), price, embedding, **optional)

    @classmethod
    def synthetic(cls, n_items: int, n_categories: int, width: int, generator: torch.Generator) -> Catalog:
        """Invent items: each lies near the centre of its category, in turn category 0, 1, ..; prices are log-normal.

        All randomness comes from `generator` (a CPU one). Each category has two types.
        """
        category = torch.arange(n_items) % n_categories
        kind = torch.arange(n_items) // n_categories % 2
        centres = torch.randn(n_categories, width, generator=generator)
        points = centres[category] + 0.5 * torch.randn(n_items, width, generator=generator)
        price = torch.exp(1 + 0.5 * torch.randn(n_items, generator=generator))
        pairs = list(zip(category.tolist(), kind.tolist(), strict=True))
        return cls(
            text=tuple(f"item {item}; type {k}; category {c}" for item, (c, k) in enumerate(pairs)),
            path=tuple(f"department {c % 3}/category {c}/type {k}" for c, k in pairs),
            price=price,
            embedding=torch.nn.functional.normalize(points, dim=1),
        )


def _extras(catalog: Catalog) -> dict[str, Tensor | None]:
    return {"product_id": catalog.product_id, "cold": catalog.cold}


def _index(names: list[str] | tuple[str, ...]) -> tuple[tuple[str, ...], Tensor]:
    """The distinct names, sorted, and each name's place among them (N,) int64."""
    distinct = tuple(sorted(set(names)))
    place = {name: i for i, name in enumerate(distinct)}
    return distinct, torch.tensor([place[name] for name in names], dtype=torch.int64)


def _check_sizes(catalog: Catalog) -> None:
    n = len(catalog.text)
    if catalog.embedding.ndim != 2:
        raise CatalogError(f"embedding: found shape {tuple(catalog.embedding.shape)}, expected (N, E).")
    sizes = {"path": len(catalog.path), "price": len(catalog.price), "embedding": len(catalog.embedding)}
    sizes |= {name: len(value) for name, value in _extras(catalog).items() if value is not None}
    for name, size in sizes.items():
        if size != n:
            raise CatalogError(f"{name}: found {size} rows, expected {n}, one for each text.")


class _moved_to:
    """Context manager: write to `.partial`; on success it becomes the file, on failure it goes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> _moved_to:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            os.replace(self.partial, self.path)
        self.partial.unlink(missing_ok=True)


def _read_frame(path: Path) -> pl.DataFrame:
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError:
        raise CatalogError(f"{path}: found no such file, expected the catalogue as parquet.") from None
    except pl.exceptions.PolarsError as error:
        raise CatalogError(f"{path}: found no readable parquet, expected the catalogue.") from error
    for name, dtype in {**_COLUMNS, **_OPTIONAL}.items():
        if name not in frame.columns and name in _OPTIONAL:
            continue
        found = frame.schema.get(name, "no such column")
        if str(found) != dtype:
            raise CatalogError(f"{path}: column '{name}', row 0: found {found}, expected {dtype}.")
    _check_frame(frame, path)
    return frame


def _check_frame(frame: pl.DataFrame, path: Path) -> None:
    import polars as pl

    depth = pl.col("path").str.count_matches("/", literal=True) + 1
    rules = {
        "item": (pl.col("item") == pl.int_range(pl.len()), "the row number"),
        "text": (pl.col("text").str.len_chars() > 0, "a text"),
        "path": (depth == LEVELS, "a path department/category/type"),
        "price": (pl.col("price").is_null() | pl.col("price").is_nan() | (pl.col("price") >= 0), "a price >= 0 or NaN"),
        **{name: (pl.col(name).is_not_null(), "a value") for name in _OPTIONAL if name in frame},
    }
    for name, (holds, expected) in rules.items():
        rows = frame.select((~holds).fill_null(True).arg_true()).to_series()
        if len(rows):
            found = frame[name][int(rows[0])]
            raise CatalogError(f"{path}: column '{name}', row {rows[0]}: found {found!r}, expected {expected}.")


def _read_embedding(path: Path, n_items: int) -> Tensor:
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise CatalogError(f"{path}: found no such file, expected the embeddings of {n_items} items.") from None
    except SafetensorError as error:
        raise CatalogError(f"{path}: found no readable safetensors, expected the item embeddings.") from error
    if "embedding" not in tensors:
        raise CatalogError(f"{path}: found tensors {sorted(tensors)}, expected one named 'embedding'.")
    stored = tensors["embedding"]
    if stored.ndim != 2 or len(stored) != n_items:
        raise CatalogError(f"{path}: found shape {tuple(stored.shape)}, expected ({n_items}, E), one row an item.")
    embedding = stored.float()
    norms = embedding.norm(dim=1)
    bad = ~(torch.isfinite(norms) & (norms > 0))
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise CatalogError(f"{path}: column 'embedding', row {row}: found length {norms[row]}, expected a vector > 0.")
    unit: Tensor = embedding / norms[:, None]
    return unit
