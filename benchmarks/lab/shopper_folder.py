"""The folder of a household shopper: models, the tables that a simulation starts from, a card."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lab.folders import replace_folder
from recsim_env.files import made, write_text
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.peaks import SHOP_TABLES
from recsim_env.shoppers.weights import save_model


def write_shopper(
    folder: Path, members: Sequence[SlateShopper], tables: Path, card: str = ""
) -> None:
    """Write a folder; an old one is replaced at the end, when the new one is whole.

    The first member lies in the folder itself, the others in `model1/`, `model2/`, ..

    Args:
        folder: What is written.
        members: The finished models.
        tables: Folder of the tables, which are copied.
        card: The README; nothing means none.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    made(part)
    for number, member in enumerate(members):
        save_model(member, part / f"model{number}" if number else part)
    for name in SHOP_TABLES:
        shutil.copy(tables / name, part / name)
    if card:
        write_text(part / "README.md", card)
    replace_folder(part, folder)
    shutil.rmtree(part)
