"""Folders of scripts are replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.lab.folders import replace_folder


def test_a_replacement_that_was_cut_off_between_its_moves_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, text in ((source, "new"), (tmp_path / "target.old", "old")):
        folder.mkdir()
        (folder / "text").write_text(text)

    def copied(*_: object) -> list[str]:
        assert (target / "text").read_text() == "old"  # while the new one is not whole
        return []

    monkeypatch.setattr("shutil.ignore_patterns", lambda *_: copied)
    replace_folder(source, target)
    assert (target / "text").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
