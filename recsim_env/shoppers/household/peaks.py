"""The largest rates of new items of a folder's shoppers, computed once and kept in the folder.

All else of a start state is replayed for whoever starts; `new_items.Envelope` needs all shoppers.
The file names the digest of the files that it was made of, so that it is never used for others.
After a change of the folder, of `START_DAYS`, or of how visits are replayed,
`python -m recsim_env.shoppers.household.peaks FOLDER` makes it again.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recsim_env import checks, files
from recsim_env.shoppers.household.new_items import Peaks
from recsim_env.shoppers.household.starts import POPULATIONS
from recsim_env.shoppers.weights import MODEL_FILES, member_folders, read_tensors

PEAKS = "peaks.safetensors"
SMALL = "small"
"""Folder, inside that of a shop, of a smaller model of it, by `benchmarks.data.shrink`."""
SHOP_TABLES = (
    "catalog.parquet",
    "embedding.safetensors",
    "shoppers.parquet",
    "baskets.parquet",
    "promotions.parquet",
    "popularity.parquet",
)
SHOP_FILES = (*MODEL_FILES, *SHOP_TABLES)
START_DAYS = (56, 182)
"""The days of `ShopperOptions` that the file is made for."""
VERSION = "1"
"""Number of the way visits are replayed: raise it when a start state changes beyond rounding."""


def table_digest(folder: Path) -> str:
    """Compute the digest of a shop's tables."""
    return _digest(folder, SHOP_TABLES, VERSION)


def read_peaks(
    folder: Path,
    member: Path,
    sizes: tuple[int, int],
    tables: str,
    population: str,
    start_days: tuple[int, int],
) -> Peaks | None:
    """Read the peaks of a member's shoppers of a population.

    Args:
        folder: the shop
        member: the folder of the model
        sizes: width of the model's item vectors, and number of items
        tables: `table_digest` of the shop
        population: one of `starts.POPULATIONS`
        start_days: days on which episodes may start

    Returns:
        The peaks; None where the file has none, or was made of other files.
    """
    path, name = folder / PEAKS, f"{population}.{_label(folder, member)}"
    if start_days != START_DAYS or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            made_of = (file.metadata() or {}).get(name)
        if made_of != _of(member, tables):
            raise ValueError("it was made of other files")
        tensors = read_tensors(path, lambda shapes: None)
        centre, height = tensors[f"{name}.centre"], tensors[f"{name}.height"]
        checks.tensor(f"{name}.centre", centre, sizes[:1], torch.float32)
        checks.tensor(f"{name}.height", height, sizes[1:], torch.float32)
        return Peaks(centre, height)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        print(
            f"recsim_env: {path} is not used ({error}): all shoppers are replayed ..",
            file=sys.stderr,
        )
        return None


def write_peaks(folder: Path) -> Path:
    """Compute the peaks of all members and populations of a folder, and write them there."""
    from recsim_env.shoppers.household.shop import load_shop  # it reads them

    members = [folder, *member_folders(folder, 1)]
    tables = table_digest(folder)
    sets = [(members, False)] + [([folder / SMALL], True)] * (folder / SMALL).is_dir()
    tensors: dict[str, Tensor] = {}
    made_of: dict[str, str] = {}
    (folder / PEAKS).unlink(missing_ok=True)  # so that they are worked out
    for population, (of_set, small) in itertools.product(POPULATIONS, sets):
        device = torch.device("cpu")
        shop = load_shop(folder, device, population, START_DAYS, len(of_set), small=small)
        state = shop.starts.state
        for path, member, inside in zip(
            of_set, shop.members, state.inside(state.context()), strict=True
        ):
            name = f"{population}.{_label(folder, path)}"
            base = member.model.new_item_base() + member.model.season(shop.promotions.item_context)
            peaks = Peaks.of(base, member.vectors, member.model.new_item_queries(inside))
            tensors |= {f"{name}.centre": peaks.centre, f"{name}.height": peaks.height}
            made_of[name] = _of(path, tables)
    files.write_tensors(folder / PEAKS, tensors, made_of)
    return folder / PEAKS


def _label(folder: Path, member: Path) -> str:
    """The number of a member, 0 for the folder itself, or `SMALL`."""
    return "0" if member == folder else member.name.removeprefix("model")


def _of(member: Path, tables: str) -> str:
    return _digest(member, MODEL_FILES, tables)


def _digest(folder: Path, names: tuple[str, ...], start: str) -> str:
    found = hashlib.sha256(start.encode())
    for name in names:
        content = (folder / name).read_bytes()
        found.update(f"{name} {len(content)} ".encode())
        found.update(content)
    return found.hexdigest()


if __name__ == "__main__":
    with torch.no_grad():
        print(write_peaks(Path(sys.argv[1]).resolve()))
