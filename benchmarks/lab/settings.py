"""Configurations as JSON, and folders whose contents were all made with the same settings."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from benchmarks.lab.provenance import ROOT
from recsim_env.files import locked, read_object, sweep, write_text
from recsim_env.registration import PRESETS

TABLES = "tables"
"""Name of the setting that is a digest of the tables from which a folder was filled."""
FREE = ("cache", "device", "markets", "ray", "results", "threads", "work")
"""Fields that say where a command runs and where its files lie, and nothing of what they hold."""


def config_as_json(config: object) -> dict[str, Any]:
    """Turn a config dataclass into plain JSON values.

    Enums become their value, tuples become lists and paths become text; a path inside the checkout
    is told from its root.

    Raises:
        TypeError: If `config` is no dataclass, or holds what JSON cannot.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(
            f"a benchmark's config is a dataclass instance, found {type(config).__name__}"
        )

    def plain(value: object) -> object:
        if isinstance(value, os.PathLike):
            path = Path(value)
            return os.fspath(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
        if isinstance(value, enum.Enum):
            return value.value
        raise TypeError(
            f"the config holds a {type(value).__name__}, which config.json cannot: {value!r}"
        )

    loaded: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=plain))
    return loaded


def settings_of(
    config: object, *, only: Collection[str] | None = None, free: Collection[str] = ()
) -> dict[str, Any]:
    """The settings that all contents of a work folder share.

    Args:
        config: A configuration.
        only: The fields that are shared; by default all but those of `FREE`.
        free: Further fields in which runs that share a folder may differ.
    """
    told = config_as_json(config)
    names = told.keys() - {*FREE, *free} if only is None else set(only)
    return {name: value for name, value in told.items() if name in names}


def check_settings(folder: Path, told: Mapping[str, Any], *, free: Collection[str] = ()) -> None:
    """Compare settings with those in `folder`/config.json, where that is there.

    Args:
        folder: A work folder.
        told: The settings; a digest of the tables that are read is called `TABLES`.
        free: Settings that are not compared.

    Raises:
        ValueError: If the contents of the folder were made with other settings, or from other
            tables, or the file is no readable JSON.
    """
    path = folder / "config.json"
    if not path.exists():
        return
    found = read_object(path)
    other = [name for name in differing(told, found) if name not in free]
    if other == [TABLES]:
        raise ValueError(
            f"{path} differs in {other}: what lies there was made from other tables than those "
            "that are read now; name another folder, or delete the folder."
        )
    if other:
        raise ValueError(
            f"{path} differs in {other}: give the same settings, name another folder, "
            "or delete the folder."
        )


def write_settings(folder: Path, told: Mapping[str, Any]) -> None:
    """Write settings into `folder`/config.json."""
    write_text(folder / "config.json", json.dumps(told, indent=1) + "\n")


def remember_settings(folder: Path, told: Mapping[str, Any]) -> None:
    """Check the settings of a folder, write them down, and remove what killed processes left there.

    Raises:
        ValueError: If the contents of the folder were made with other settings.
    """
    check_settings(folder, told)
    sweep(folder)
    write_settings(folder, told)


def presets_told(envs: Collection[str]) -> dict[str, str]:
    """Reward and shoppers of registered environments, for folders that hang on them."""
    return {env: f"{PRESETS[env].reward} {PRESETS[env].shopper_options}" for env in envs}


def share_settings(folder: Path, told: Mapping[str, Any]) -> None:
    """Remember the settings of a folder in which several processes may work, one after the other.

    Raises:
        ValueError: If the contents of the folder were made with other settings.
    """
    with locked(folder, wait=True):
        remember_settings(folder, told)


def read_settings(folder: Path) -> dict[str, Any]:
    """Read what `write_settings` wrote.

    Raises:
        FileNotFoundError: If the folder has no settings.
        ValueError: If the file is no readable JSON object.
    """
    return read_object(folder / "config.json")


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of the settings in which two differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
