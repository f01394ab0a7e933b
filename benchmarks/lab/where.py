"""Where a command works: the options that name an environment, shared by all commands."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from agents.places import Site, open_place
from agents.places.believing import told_belief
from agents.places.opening import PLACES, find_place, registered, slug
from agents.places.site import is_slow
from benchmarks.lab.checked import Checked
from benchmarks.lab.threads import THREADS
from policies.rankers.files import load_ranker
from recsim_env import checks
from recsim_env.belief.base import Belief
from recsim_env.registration import OWN
from recsim_env.rewards import as_reward
from recsim_env.settings import Within

SHIPPED = "recsim_env/CompleteJourney-v0"
"""The environment that commands work in where no other is named."""


@dataclass(frozen=True)
class Elsewhere(Checked):
    """An environment in place of those that a command knows."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "horizon_days": Within(0, math.inf, above=True, infinite=True)
    }

    env: str | None = None
    """A registered id, an id of a module of yours as `module:id`, which is imported first, or a
    folder that `recsim_env.fit` wrote. By default it is what the command knows."""
    options: str | None = None
    """Options of the shoppers, as in `world=1,alike=true`. By default they are the environment's
    own."""
    reward: str | None = None
    """Weight of each reward term, as in `clicks=1,intra_list_distance=0.5`. By default the reward
    is the environment's own."""
    slate_size: int | None = None
    """Number of slate positions. By default it is the environment's own."""
    horizon_days: float | None = None
    """Length of an episode in days. By default it is the environment's own."""
    ranker: Path | None = None
    """File of the ranker that policies start from, as `benchmarks.data.train_ranker` writes it. By
    default it is that of the folder or of the package, or one is fitted to the log."""
    belief: str | None = None
    """What the shop infers about each shopper, by which policies then rank: a folder of fitted
    shoppers that gives it, or `own`, which is that of the environment's own fitted shoppers, or of
    a general shopper fitted to the log. By default nothing is inferred."""
    log_slates: int | None = None
    """Number of slates, about, of the log that exploring policies play where there is none. By
    default it is 100,000, and 3,000 in environments of others, which are slow."""
    cache: Path = PLACES
    """Folder of the logs that were played and of the rankers that were fitted to them."""
    anyway: bool = False
    """Work in a folder even if its verdict on clicks is no: its shoppers are predicted worse than
    by the means of items and users."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ValueError: If an option is outside its range, `options` or `reward` cannot be read, or
                there is both a ranker and a belief.
        """
        super().__post_init__()
        given = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
        if self.env is None and given:
            raise ValueError(
                f"{given[0]} is {checks.told(getattr(self, given[0]))}, but it belongs to an "
                "environment, and env names none."
            )
        if self.belief is not None and self.ranker is not None:
            raise ValueError(
                f"belief is {self.belief!r} and ranker is {str(self.ranker)!r}, but a belief ranks "
                "itself: give one of them."
            )
        told_options(self.options)
        told_reward(self.reward)

    def where(self, device: str | None, threads: int) -> Where | None:
        """The place that is named, on a device and with some threads; None where none is named."""
        if self.env is None:
            return None
        told = {field.name: getattr(self, field.name) for field in fields(Elsewhere)}
        return Where(**told, device=device, threads=threads)


@dataclass(frozen=True)
class Where(Elsewhere):
    """An environment, its log, its ranker, and what is believed of its shoppers."""

    env: str = SHIPPED
    """A registered id, an id of a module of yours as `module:id`, which is imported first, or a
    folder that `recsim_env.fit` wrote."""
    device: str | None = None
    """Device of simulation and training, cpu or cuda. By default it is the best there is."""
    threads: int = THREADS
    """Number of CPU threads. One is the default because more are faster only where no other process
    wants the cores."""

    def check(self) -> None:
        """Check that the environment can be made, before anything is written.

        Raises:
            gymnasium.error.NameNotFound: If the environment is unknown.
            FileNotFoundError: If a folder or file is missing.
            TypeError: If an option is unknown.
            ValueError: If the ranker or the belief cannot be read, or does not fit.
        """
        found = find_place(*self._told(), self.device, anyway=self.anyway)
        simulator = found.simulator
        if self.belief is not None:
            belief = told_belief(self.belief, found.env, simulator, found.folder)
            if isinstance(belief, Belief):
                known = simulator.shopper.spaces()
                belief.check_fits(simulator.catalog, simulator.slate_size, known)
        if self.ranker is not None:
            space, size = simulator.observation_space, simulator.slate_size
            load_ranker(self.ranker, simulator.catalog, space, size)

    def open(self) -> Site:
        """Open the environment; its log is played and its ranker fitted where they are missing.

        Raises:
            ValueError: As `check`, or if the log holds no click.
        """
        env, options, reward, slate_size, horizon_days = self._told()
        return open_place(
            env,
            options=options,
            reward=reward,
            slate_size=slate_size,
            horizon_days=horizon_days,
            anyway=self.anyway,
            ranker=self.ranker,
            belief=self.belief,
            slates=self.log_slates,
            cache=self.cache,
            device=self.device,
        )

    @property
    def slow(self) -> bool:
        """Whether its shoppers are served one by one."""
        options = told_options(self.options)
        return is_slow(find_place(self.env, options, anyway=self.anyway).simulator)

    @property
    def name(self) -> str:
        """The name of files that belong to this place: another one for each other place."""
        stem = slug(self.env)
        told = {
            name: getattr(self, name)
            for name in ("options", "reward", "slate_size", "horizon_days", "ranker", "belief")
            if getattr(self, name) is not None
        }
        if not self.env.startswith(OWN):
            folder = Path(self.env)
            told["env"] = str(folder.resolve()) if folder.is_dir() else self.env
        if not told:
            return stem
        written = json.dumps(told, sort_keys=True, default=str)
        return f"{stem}-{hashlib.sha256(written.encode()).hexdigest()[:6]}"

    @property
    def about(self) -> dict[str, Any]:
        """What results in this place depend on, as JSON; not where files lie."""
        names = ("env", "options", "reward", "slate_size", "horizon_days", "belief")
        return {name: getattr(self, name) for name in names}

    @property
    def arguments(self) -> str:
        """The options as a command line, those at their default left out; begins with a space."""
        told = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is True:
                told.append(f" --{field.name.replace('_', '-')}")
            elif value != field.default:
                told.append(f" --{field.name.replace('_', '-')} {shlex.quote(str(value))}")
        return "".join(told)

    def _told(
        self,
    ) -> tuple[str, dict[str, Any], dict[str, float] | None, int | None, float | None]:
        # A module that is named may register the terms of its reward.
        registered(self.env, anyway=self.anyway)
        return (
            self.env,
            told_options(self.options),
            _known_terms(told_reward(self.reward)),
            self.slate_size,
            self.horizon_days,
        )


Here = Annotated[Where, tyro.conf.arg(name="")]
There = Annotated[Elsewhere, tyro.conf.arg(name="")]
"""A part of a configuration whose options are written without the name of the part."""


def told_options(text: str | None) -> dict[str, Any]:
    """Read `world=1,alike=true`: numbers, `true` and `false`, and texts.

    Raises:
        ValueError: If a part is not `name=value`, or a name comes twice.
    """
    return {name: _value(value) for name, value in _pairs("options", text).items()}


def told_reward(text: str | None) -> dict[str, float] | None:
    """Read `clicks=1,intra_list_distance=0.5`.

    Raises:
        ValueError: If a part is not `name=number`, or a name comes twice.
    """
    if text is None:
        return None
    weights = {}
    for name, value in _pairs("reward", text).items():
        found = _value(value)
        if isinstance(found, (str, bool)) or not math.isfinite(found):
            raise ValueError(
                f"reward is {text!r}, but the weight of {name!r} must be a finite number."
            )
        weights[name] = float(found)
    return weights


def fewer(config: Any, sizes: Mapping[str, int]) -> dict[str, int]:
    """Those of some smaller sizes whose option has its default, for shoppers who are slow."""
    default = {one.name: one.default for one in fields(config)}
    return {
        name: few
        for name, few in sizes.items()
        if name in default and getattr(config, name) == default[name]
    }


def _known_terms(weights: dict[str, float] | None) -> dict[str, float] | None:
    return None if weights is None else dict(as_reward(weights).weights)


def _pairs(option: str, text: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in () if text is None else text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name or not equals or not value or name in found:
            raise ValueError(
                f"{option} is {checks.told(text)}, but it must be name=value,name=value with every "
                "name once."
            )
        found[name] = value
    return found


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
