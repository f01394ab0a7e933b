"""The ranker of a shop that was fitted to a log."""

from __future__ import annotations

from pathlib import Path

from agents.places.exploring import fit_ranker
from agents.places.opening import find_place, folder_log
from policies.rankers.files import save_ranker
from recsim_env.shop_file import RANKER


def fit_ranker_of(folder: Path, device: str | None) -> None:
    """Fit a ranker to the log in a folder, and write it there."""
    found = find_place(str(folder), device=device)
    log = folder_log(found)
    assert log is not None  # it was just written
    save_ranker(fit_ranker(log, found.simulator, "ranker"), folder / RANKER)
