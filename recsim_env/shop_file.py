"""`shop.json`: what a folder of fitted shoppers holds, and how far they can be trusted."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from recsim_env import checks, files

SHOP_FILE = "shop.json"
"""Name of the file in the folder; `recsim_env.fit` writes it last."""
HOUSEHOLD_FILE = "config.json"
"""Name of the file that a folder of households has, where `benchmarks.data.finetune` wrote it."""
UNFINISHED = "unfinished"
"""Folder in it of the models of a fit that is not finished."""
LOG = "log"
"""Folder in it of the tables that rankers and agents learn from."""
RANKER = "ranker.safetensors"
"""File in it of the ranker that `benchmarks.data.fit_log` fits to that log."""
HOUSEHOLD, SESSION = "household", "session"
KINDS = (HOUSEHOLD, SESSION)
"""Families of shoppers that a folder can hold; see `recsim_env.shoppers`."""
CLICKS, LEVELS = "clicks", "levels"
"""Verdicts that decide whether a folder is registered, and whether its returns are doubted."""


@dataclass(frozen=True)
class Opinion:
    """A verdict on one question, as the file keeps it."""

    holds: bool | None
    """Whether the simulator can be trusted with it; None where the log cannot tell."""
    sentence: str
    """The verdict as a sentence with its figure."""


@dataclass(frozen=True)
class ShopFile:
    """The content of `shop.json` that an environment is made of.

    Raises:
        ValueError: If a field is not as said; the sentence names it.
    """

    kind: str
    """The family of the shoppers, one of `KINDS`."""
    slate_size: int = 10
    """Number of slate positions that the models know."""
    horizon_days: float = 182.0
    """Length of an episode in days."""
    reward: Mapping[str, float] | None = None
    """Weights of the reward's terms; None means those of `recsim_env.Reward`."""
    verdicts: Mapping[str, Opinion] = field(default_factory=dict)
    """Topic -> what was found on held-out users."""

    def __post_init__(self) -> None:
        """Check the type and the range of every field."""
        checks.choice("kind", self.kind, KINDS)
        checks.whole("slate_size", self.slate_size, 1)
        checks.number("horizon_days", self.horizon_days, 0)
        if self.reward is not None:
            for name, weight in checks.mapping("reward", self.reward).items():
                checks.number(f"reward[{name!r}]", weight)

    def plain(self) -> dict[str, Any]:
        """The content of the file as JSON values."""
        return asdict(self) | {"reward": None if self.reward is None else dict(self.reward)}

    @classmethod
    def read(cls, folder: Path | str) -> ShopFile:
        """Read the file in a folder; a folder without one holds households.

        `benchmarks.data.finetune` fits shoppers of the household family, which need no such file.

        Raises:
            ValueError: If a fit of the folder is not finished, the file is no JSON object, or a
                field is missing or not as said; the sentence names the file.
        """
        path = Path(folder) / SHOP_FILE
        if not path.is_file():
            if (Path(folder) / UNFINISHED).is_dir():
                raise ValueError(
                    f"folder is {str(folder)!r}, which holds an unfinished fit: call the same fit "
                    "again, and it goes on."
                )
            return cls(HOUSEHOLD)
        content = files.read_object(path)
        try:
            if "kind" not in content:
                raise ValueError(f"kind is missing, but it must be one of {', '.join(KINDS)}.")
            said = checks.mapping("verdicts", content.get("verdicts", {}))
            told = {
                name: content[name]
                for name in ("slate_size", "horizon_days", "reward")
                if name in content
            }
            return cls(
                content["kind"],
                verdicts={topic: _opinion(topic, one) for topic, one in said.items()},
                **told,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None


def _opinion(topic: str, content: object) -> Opinion:
    told = checks.mapping(f"verdicts[{topic!r}]", content)
    holds = told.get("holds")
    if holds is not None:
        holds = checks.flag(f"verdicts[{topic!r}]['holds']", holds)
    return Opinion(holds, checks.text(f"verdicts[{topic!r}]['sentence']", told.get("sentence")))


def refuse_failed(shop: ShopFile, folder: Path | str) -> None:
    """Refuse shoppers who are predicted worse than two means predict them.

    Raises:
        ValueError: If the verdict on clicks is no.
    """
    found = shop.verdicts.get(CLICKS)
    if found is not None and found.holds is False:
        raise ValueError(
            f"folder is {str(folder)!r}, whose shoppers are not worth simulating. {found.sentence} "
            "Give anyway=True, or --anyway to a command, to use them nonetheless."
        )


@cache
def doubt_levels(folder: Path) -> None:
    """Warn once that the returns of an environment are not to be taken at face value."""
    found = ShopFile.read(folder).verdicts.get(LEVELS)
    if found is not None and found.holds is not True:
        warnings.warn(f"{folder}: {found.sentence}", UserWarning, stacklevel=_of_caller())


def _of_caller() -> int:
    """The `stacklevel` of the line outside of this project and of Gymnasium that led here.

    That is who made the environment; a command of this project has none, and no line is shown.
    """
    ours = {__name__.partition(".")[0], "gymnasium", "policies", "agents", "benchmarks"}
    level, frame = 1, inspect.currentframe()
    assert frame is not None  # CPython knows its frames
    while (frame := frame.f_back) is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in ours and not _runs_command(frame):
            return level
        level += 1
    return level


def _runs_command(frame: FrameType) -> bool:
    """Whether a frame is that of a module that is run as a command of this project."""
    spec = frame.f_globals.get("__spec__")
    return spec is not None and spec.name.partition(".")[0] == "benchmarks"
