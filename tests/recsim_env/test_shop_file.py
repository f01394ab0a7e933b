"""`shop.json` says what a folder holds, and what of it is not to be trusted."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from recsim_env.registration import PRESETS, EnvConfig, register
from recsim_env.shop_file import SHOP_FILE, UNFINISHED, Opinion, ShopFile, doubt_levels

RIGHT = {
    "kind": "session",
    "slate_size": 6,
    "horizon_days": 40.0,
    "reward": {"clicks": 1.0, "category_coverage": 0.5},
    "verdicts": {"clicks": {"holds": True, "sentence": "Clicks: well."}},
}


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Forget what a test registered, whose folder is gone when others walk the registry."""
    tables: tuple[dict[str, Any], ...] = (PRESETS, gymnasium.registry)
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


def folder(path: Path, **changes: Any) -> Path:
    (path / SHOP_FILE).write_text(json.dumps(RIGHT | changes))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    shop = ShopFile("session", 6, 40.0, {"clicks": 1.0}, {"levels": Opinion(None, "Levels: so.")})
    (tmp_path / SHOP_FILE).write_text(json.dumps(shop.plain()))
    assert ShopFile.read(tmp_path) == shop


def test_a_folder_without_the_file_holds_households(tmp_path: Path) -> None:
    assert ShopFile.read(tmp_path) == ShopFile("household")


def test_a_folder_of_an_unfinished_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED).mkdir()
    with pytest.raises(ValueError, match="which holds an unfinished fit: call the same fit again"):
        register("shopfile/Half-v0", tmp_path)
    assert "shopfile/Half-v0" not in PRESETS
    folder(tmp_path)  # finished, but its leavings are not removed yet
    register("shopfile/Half-v0", tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "robots"}, "kind is 'robots'"),
        ({"slate_size": 0}, "slate_size is 0"),
        ({"slate_size": "six"}, "slate_size is 'six'"),
        ({"horizon_days": -1}, "horizon_days is -1"),
        ({"reward": [1]}, "reward is"),
        ({"reward": {"clicks": "much"}}, r"reward\['clicks'\] is 'much'"),
        ({"verdicts": 3}, "verdicts is 3"),
        ({"verdicts": {"clicks": {"holds": "yes", "sentence": "x"}}}, "holds"),
        ({"verdicts": {"clicks": {"holds": None}}}, "sentence"),
    ],
)
def test_a_bad_file_is_named(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = folder(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"{SHOP_FILE}: .*{told}"):
        ShopFile.read(path)


def test_a_file_without_a_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / SHOP_FILE).write_text("{}")
    with pytest.raises(ValueError, match=r"shop\.json: kind is missing"):
        ShopFile.read(tmp_path)


def test_an_environment_is_what_its_folder_says(tmp_path: Path) -> None:
    register("shopfile/Told-v0", folder(tmp_path))
    config = PRESETS["shopfile/Told-v0"]
    assert (config.slate_size, config.horizon_days) == (6, 40.0)
    assert dict(config.reward.weights) == RIGHT["reward"]  # type: ignore[union-attr]
    register("shopfile/Other-v0", tmp_path, slate_size=4, horizon_days=9, reward={"clicks": 2.0})
    config = PRESETS["shopfile/Other-v0"]
    assert (config.slate_size, config.horizon_days) == (4, 9)
    assert dict(config.reward.weights) == {"clicks": 2.0}  # type: ignore[union-attr]


def test_a_folder_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    folder(tmp_path / "shop")
    monkeypatch.chdir(tmp_path)
    register("shopfile/Near-v0", "shop")
    assert EnvConfig("shop").shopper == PRESETS["shopfile/Near-v0"].shopper == tmp_path / "shop"


def test_shoppers_whom_two_means_beat_are_registered_on_request_only(tmp_path: Path) -> None:
    told = {"clicks": {"holds": False, "sentence": "Clicks: two means rank better."}}
    path = folder(tmp_path, verdicts=told)
    with pytest.raises(ValueError, match=r"Clicks: two means rank better\. Give anyway=True"):
        register("shopfile/Refused-v0", path)
    assert "shopfile/Refused-v0" not in PRESETS
    register("shopfile/Refused-v0", path, anyway=True)
    assert "shopfile/Refused-v0" in PRESETS


@pytest.mark.parametrize(("holds", "warned"), [(True, 0), (False, 1), (None, 1)])
def test_doubtful_levels_are_told_once(holds: bool | None, warned: int, tmp_path: Path) -> None:
    path = folder(tmp_path, verdicts={"levels": {"holds": holds, "sentence": "Levels: hm."}})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            doubt_levels(path)
    assert {one.filename for one in caught} <= {__file__}  # the line that asked for it
    assert [str(one.message) for one in caught] == [f"{path}: Levels: hm."] * warned


def test_a_folder_of_anything_else_is_refused_where_it_is_registered(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Milk, bread.")
    told = r"which holds no shoppers: .* recsim_env\.fit has shop\.json, .* has config\.json\.$"
    with pytest.raises(FileNotFoundError, match=told):
        register("shopfile/Nothing-v0", tmp_path)
    assert "shopfile/Nothing-v0" not in PRESETS
