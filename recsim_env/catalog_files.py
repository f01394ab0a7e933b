"""The files of a catalogue: `catalog.parquet` (texts, paths, prices), `embedding.safetensors`."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog, CatalogError, extras, fault
from recsim_env.files import write_tensors
from recsim_env.tables import read_parquet, write_parquet

CATALOG_FILE = "catalog.parquet"
EMBEDDING_FILE = "embedding.safetensors"
ROUNDING = 1e-2
"""How far from 1 a length may be in a file that is not float32, to be brought back: what bfloat16
does to it."""
_COLUMNS = {"item": pl.Int64(), "text": pl.String(), "path": pl.String(), "price": pl.Float32()}
_OPTIONAL = {"product_id": pl.Int64(), "cold": pl.Boolean(), "popularity": pl.Float32()}


def save(catalog: Catalog, folder: Path) -> None:
    """Write a catalogue: see `Catalog.save`."""
    columns = {
        "item": torch.arange(len(catalog)).numpy(),
        "text": catalog.text,
        "path": catalog.path,
    }
    tensors = {"price": catalog.price, **extras(catalog)}
    columns |= {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    write_tensors(folder / EMBEDDING_FILE, {"embedding": catalog.embedding})
    write_parquet(folder / CATALOG_FILE, pl.DataFrame(columns, schema_overrides=_COLUMNS))


def load(folder: Path) -> Catalog:
    """Read a catalogue: see `Catalog.load`."""
    frame = _read_frame(folder / CATALOG_FILE)
    embedding = _read_embedding(folder / EMBEDDING_FILE, len(frame))
    optional = {
        name: torch.from_numpy(frame[name].to_numpy().copy()) for name in _OPTIONAL if name in frame
    }
    price = torch.from_numpy(frame["price"].fill_null(float("nan")).to_numpy().copy())
    try:
        return Catalog(tuple(frame["text"]), tuple(frame["path"]), price, embedding, **optional)
    except CatalogError as error:
        file = EMBEDDING_FILE if str(error).startswith("column 'embedding'") else CATALOG_FILE
        raise CatalogError(f"{folder / file}: {error}") from None


def _read_frame(path: Path) -> pl.DataFrame:
    try:
        frame = read_parquet(path, "the catalogue")
    except ValueError as error:
        raise CatalogError(str(error)) from error
    for name, dtype in {**_COLUMNS, **_OPTIONAL}.items():
        if name not in frame.columns and name in _OPTIONAL:
            continue
        found = frame.schema.get(name, "no such column")
        if found != dtype:
            raise CatalogError(f"{path}: column '{name}', row 0: found {found}, expected {dtype}.")
    rules = {
        "item": (pl.col("item") == pl.int_range(pl.len()), "the row number"),
        **{name: (pl.col(name).is_not_null(), "a value") for name in _OPTIONAL if name in frame},
    }
    for name, (holds, expected) in rules.items():
        for row in frame.select((~holds).fill_null(True).arg_true()).to_series()[:1]:
            raise CatalogError(f"{path}: {fault(name, row, frame[name][row], expected)}")
    return frame


def _read_embedding(path: Path, n_items: int) -> Tensor:
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise CatalogError(
            f"{path}: found no such file, expected the embeddings of {n_items} items."
        ) from None
    except (OSError, SafetensorError) as error:
        found = f"found no readable safetensors ({error})"
        raise CatalogError(f"{path}: {found}, expected the item embeddings.") from error
    if "embedding" not in tensors:
        raise CatalogError(
            f"{path}: found tensors {sorted(tensors)}, expected one named 'embedding'."
        )
    stored = tensors["embedding"]
    if stored.ndim != 2 or len(stored) != n_items or not stored.is_floating_point():
        found = f"found {checks.told(stored)}"
        raise CatalogError(
            f"{path}: {found}, expected floats of shape ({n_items}, E), one row an item."
        )
    if stored.dtype == torch.float32:
        return stored
    embedding = stored.float()
    length = embedding.norm(dim=1, keepdim=True)
    unit: Tensor = embedding / length.where((length - 1).abs() <= ROUNDING, 1)
    return unit
