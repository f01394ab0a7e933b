"""The folder that a fit writes, and what is kept of an unfinished one."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from recsim_env import checks, files
from recsim_env.fitting.config import FitConfig
from recsim_env.logs.plain import PlainLog
from recsim_env.logs.schema import IMPRESSIONS, write_table
from recsim_env.shop_file import LOG, SHOP_FILE, UNFINISHED
from recsim_env.tables import write_parquet

SETTINGS = "settings.json"
"""File in the unfinished folder that says what its models are fitted to."""
PACKAGES = ("recsim-env", "torch", "transformers", "polars")


def check_output(folder: object, inputs: tuple[object, ...]) -> Path:
    """Check that a folder may be written to: a new or empty one, or one of an earlier fit.

    Raises:
        TypeError: If it is no path.
        ValueError: If it holds something else, is a file, or an input lies in it.
    """
    path = checks.path("folder", folder)
    if path.exists() and not path.is_dir():
        raise ValueError(f"folder is {str(path)!r}, but that is a file.")
    for one in inputs:
        if isinstance(one, (str, Path)) and Path(one).resolve().is_relative_to(path.resolve()):
            raise ValueError(
                f"folder is {str(path)!r}, but {str(one)!r} lies in it: nothing is written where "
                "inputs are."
            )
    ours = (SHOP_FILE, f"{UNFINISHED}/{SETTINGS}", f"{UNFINISHED}/{files.COMING}")
    if path.is_dir() and not any((path / one).exists() for one in ours) and not _bare(path):
        raise ValueError(
            f"folder is {str(path)!r}, which holds files that are not those of a fit: name a new "
            "or an empty folder."
        )
    return path


def _bare(folder: Path) -> bool:
    """Whether a folder is empty, but for what a fit that was killed at once leaves there."""
    return all(
        one.name in (files.LOCK, files.HOLDER)
        or bool(files.TEMPORARY.fullmatch(one.name))
        or (one.name == UNFINISHED and one.is_dir() and _bare(one))
        for one in folder.iterdir()
    )


def write_log(plain: PlainLog, folder: Path) -> None:
    """Write the tables that rankers and agents learn from."""
    log = files.made(folder / LOG)
    write_table(IMPRESSIONS, plain.impressions, log / "impressions.parquet", len(plain.items))
    write_parquet(log / "users.parquet", plain.users)
    if plain.declared is not None:
        write_parquet(log / "declared.parquet", plain.declared)
    plain.facts.write(log)


def remember(folder: Path, plain: PlainLog, config: FitConfig) -> None:
    """Write down what an unfinished fit learns from and how.

    Raises:
        ValueError: If the folder holds models that were fitted to something else.
    """
    told = {
        "log": digest(plain.impressions, plain.declared),
        "items": digest(plain.items),
        "model": asdict(config.model) | {"seed": config.seed},
        "slate_size": config.slate_size,
        "most_steps": config.most_steps,
    }
    path = folder / UNFINISHED / SETTINGS
    if path.is_file():
        if files.read_object(path) != json.loads(json.dumps(told)):
            raise ValueError(
                f"{path.parent} holds models of an unfinished fit to another log or with other "
                "settings: delete it to begin anew."
            )
        return
    shutil.rmtree(path.parent, ignore_errors=True)  # what a killed process had begun to remove
    files.made(path.parent)
    files.write_json(path, told)


def digest(*frames: pl.DataFrame | None) -> str:
    """Fingerprint of tables: equal rows give equal text."""
    found = hashlib.sha256()
    for frame in frames:
        if frame is not None:
            found.update(str(frame.schema).encode())
            found.update(frame.hash_rows().to_numpy().tobytes())
    return found.hexdigest()


def versions() -> Mapping[str, Any]:
    """Versions of the packages that decide a fit."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}
