"""A shop's own log and catalogue: one row an impressed item, one row an item, CSV or parquet."""

from __future__ import annotations

from recsim_env.logs.plain.columns import CATALOG_COLUMNS, LOG_COLUMNS
from recsim_env.logs.plain.embedding import ItemVectors, catalog_of, embed_items
from recsim_env.logs.plain.reading import PlainLog, read_plain
from recsim_env.logs.plain.writing import write_plain

__all__ = [
    "CATALOG_COLUMNS",
    "LOG_COLUMNS",
    "ItemVectors",
    "PlainLog",
    "catalog_of",
    "embed_items",
    "read_plain",
    "write_plain",
]
