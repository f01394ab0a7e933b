"""Opens a place, and plays its log or fits its ranker where they are missing.

    runs/places/<name>-<digest>/    place.json, catalogue, impressions.parquet, declared.parquet,
                                    ranker.safetensors, belief-<digest>/

The digest is that of everything the log depends on, so a place that was changed has another folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import polars as pl

import recsim_env
from agents.places.believing import fitted_belief, reads_card, told_belief
from agents.places.exploring import (
    OF_CATEGORIES,
    PER_CATEGORY,
    TABLE_FILES,
    Exploration,
    fit_ranker,
    logged,
    policy_inputs,
    read_tables,
)
from agents.places.mixture import KNOBS, TEMPERATURES, Mixture
from agents.places.site import Site, is_slow
from policies.inputs import PolicyInputs, Ranker
from policies.rankers.ctr import WEIGHTS, CTRRanker
from policies.rankers.files import load_ranker, save_ranker
from recsim_env import SlateSimulator, checks, make_simulator
from recsim_env.belief.base import Belief
from recsim_env.files import locked, write_json
from recsim_env.logs.sessions import Sessions
from recsim_env.registration import PRESETS, Later, preset, shopper_options
from recsim_env.rewards import Reward, as_reward
from recsim_env.shop_file import LOG, RANKER, SHOP_FILE, ShopFile

PLACES = Path("runs/places")
"""The folder of the logs and rankers of all places."""
SHIPPED_RANKERS: Mapping[str, Path] = {"recsim_env/CompleteJourney-v0": WEIGHTS}
"""Id -> the ranker that was fitted to the log that its shoppers were fitted to."""
SLATES, SLOW_SLATES = 100_000, 3_000
"""Number of slates that are logged where nothing else is said, and where shoppers are stepped one
by one."""
VERSION = re.compile(r"-v\d+$")
"""End of an id, by which it is told from a path that does not exist."""
POPULATIONS = ("train", "evaluation")
"""The populations of shoppers, where there are several: agents learn with the first."""


@dataclass(frozen=True)
class Found:
    """An environment before anything is played in it."""

    env: str
    """Id of the environment."""
    simulator: SlateSimulator
    """Its training shoppers."""
    told: Mapping[str, Any]
    """Options of its simulators."""
    populations: bool
    """Whether agents learn with other shoppers than they are evaluated with."""
    folder: Path | None
    """The folder of the fitted shoppers, where that is what was named."""
    device: str | None
    """Device of the simulators."""

    def options(self, population: str) -> Mapping[str, Any]:
        """Options of the simulators of a population."""
        return {**self.told, **({"population": population} if self.populations else {})}


def open_place(
    env: str,
    *,
    options: Mapping[str, Any] | None = None,
    reward: Reward | Mapping[str, float] | None = None,
    slate_size: int | None = None,
    horizon_days: float | None = None,
    anyway: bool = False,
    log: Sessions | None = None,
    ranker: Path | str | Ranker | None = None,
    slates: int | None = None,
    mixture: Mixture = "exploring",
    belief: Path | str | Belief[Any] | None = None,
    cache: Path = PLACES,
    device: str | None = None,
    progress: bool = True,
) -> Site:
    """Open an environment with all that agents and policies are built from.

    Where no log is told and the environment has none, exploring policies play one; where no ranker
    is told and the environment has none, a two-tower ranker is fitted to the log. Both are kept in
    `cache`. An environment that ships with a ranker needs no log, and none is played.

    Args:
        env: A registered id, `module:id`, or a folder of `recsim_env.fit`.
        options: Options of the shoppers, as `recsim_env.make_simulator` takes them.
        reward: The reward, or the weight of each term; None means the environment's own.
        slate_size: Number of slate positions; None means the environment's own.
        horizon_days: Length of an episode in days; None means the environment's own.
        anyway: Open a folder even if its verdict on clicks is no.
        log: The log that policies and agents learn from.
        ranker: The ranker or its file.
        slates: Number of slates of a log that is played, about; None means `SLATES`, or
            `SLOW_SLATES` in an environment of somebody else.
        mixture: Who plays the log.
        belief: What the shop infers about each shopper, a folder of fitted shoppers that gives it,
            or "own": that of the fitted shoppers of `env`, or of a general shopper fitted to the
            place's log. It takes the place of the ranker. Where shoppers have a loyalty card, it is
            a ranker alone, which runs the fitted model on the card. None means that nothing is
            inferred.
        cache: The folder of the logs and rankers of all places.
        device: Device of the simulators, cpu or cuda; None means the best there is.
        progress: Whether progress bars are shown.

    Raises:
        gymnasium.error.NameNotFound: If the id is unknown.
        FileNotFoundError: If a folder or file is missing.
        TypeError: If an option is known to neither the environment nor the shoppers, or `cache` is
            no path.
        ValueError: If a value is out of its range, a ranker or belief does not fit, or the log that
            was played holds no click.
    """
    slates = None if slates is None else checks.whole("slates", slates, 1)
    checks.choice("mixture", mixture, get_args(Mixture))
    checks.flag("progress", progress)
    cache = checks.path("cache", cache)
    ranker = Path(ranker) if isinstance(ranker, str) else ranker
    found = find_place(env, options, reward, slate_size, horizon_days, device, anyway=anyway)
    simulator = found.simulator
    held = None
    if belief is not None:
        held = told_belief(belief, found.env, simulator, found.folder)
    is_fitted = belief is not None and held is None
    if held is not None and not isinstance(held, Belief):
        ranker, held = held, None  # what is known of a shopper is in the observation
    told = _told_ranker(found, ranker)
    if log is None:
        log = folder_log(found)

    # The log, where something is learned from it.
    if told is not None and log is None and not is_fitted:
        site = _site(found, _inputs(simulator, told, None), None)
    else:
        plan = plan_for(simulator, slates, mixture)
        about = description(found, plan, log)
        folder = cache / f"{slug(found.env)}-{digest_of(about)}"
        site = _with_log(found, folder, about, log, told, plan, progress)
        if is_fitted:
            title = f"belief of {found.env}" if progress else None
            held = fitted_belief(folder, site.logged, simulator, title=title)
    return site if held is None else site.believing(held)


def find_place(
    env: str,
    options: Mapping[str, Any] | None = None,
    reward: Reward | Mapping[str, float] | None = None,
    slate_size: int | None = None,
    horizon_days: float | None = None,
    device: str | None = None,
    *,
    anyway: bool = False,
) -> Found:
    """Find an environment and make its training shoppers; arguments are those of `open_place`."""
    env, folder = registered(env, anyway=anyway)
    told: dict[str, Any] = dict(checks.mapping("options", options or {}))
    changes = {"reward": reward, "slate_size": slate_size, "horizon_days": horizon_days}
    told |= {name: value for name, value in changes.items() if value is not None}
    populations = has_populations(env) and "population" not in told
    first = {"population": POPULATIONS[0]} if populations else {}
    simulator = make_simulator(env, device=device, **told, **first)
    return Found(env, simulator, told, populations, folder, device)


def registered(env: str, *, anyway: bool = False) -> tuple[str, Path | None]:
    """The id of an environment, and the folder of its shoppers where `env` is one.

    Args:
        env: A registered id, `module:id`, or a folder.
        anyway: Register a folder even if its verdict on clicks is no.

    Raises:
        gymnasium.error.NameNotFound: If `env` is neither a registered id nor a folder.
        FileNotFoundError: If `env` is a path of no folder, or of one without fitted shoppers.
        ValueError: If the folder's verdict on clicks is no.
    """
    env = checks.text("env", env)
    folder = Path(env)
    if env in PRESETS or not folder.is_dir():
        if env.startswith(("/", ".", "~")) or not (":" in env or VERSION.search(env)):
            raise FileNotFoundError(
                f"env is {checks.told(env)}, but there is no such folder, and the registered ids "
                f"are {sorted(PRESETS)}."
            )
        return env, _folder_of(env)
    if not (folder / SHOP_FILE).is_file():
        raise FileNotFoundError(
            f"env is the folder {env}, which has no {SHOP_FILE}: name a folder that "
            "recsim_env.fit wrote, or a registered id."
        )
    stem = re.sub(r"\W+", "", folder.resolve().name) or "Shop"
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6]
    id = f"shop/{stem}{digest}-v0"
    if id not in PRESETS:
        recsim_env.register(id, folder, anyway=anyway)
    return id, folder


def _folder_of(env: str) -> Path | None:
    """The folder of `recsim_env.fit` that an id was registered with, or None."""
    shopper = preset(env, "env").shopper  # imports a module, or says what is known
    if callable(shopper) or not (Path(shopper) / SHOP_FILE).is_file():
        return None
    return Path(shopper)


def has_populations(env: str) -> bool:
    """Whether an environment's shoppers are of several populations."""
    return "population" in shopper_options(preset(env))


# ---- the ranker and the log ----------------------------------------------------------------------


def _told_ranker(found: Found, ranker: Path | Ranker | None) -> Ranker | None:
    """The ranker that is told, or that the folder or the package holds."""
    simulator = found.simulator
    if ranker is not None and not isinstance(ranker, Path):
        return ranker
    if ranker is None and found.folder is not None and _fits_folder(found):
        own = found.folder / RANKER
        ranker = own if own.is_file() else None
    if ranker is None:
        ranker = SHIPPED_RANKERS.get(found.env.rpartition(":")[2])
    if ranker is None:
        return None
    return load_ranker(ranker, simulator.catalog, simulator.observation_space, simulator.slate_size)


def _fits_folder(found: Found) -> bool:
    """Whether the simulator's slates are of the size that the folder's log and ranker know."""
    assert found.folder is not None
    return ShopFile.read(found.folder).slate_size == found.simulator.slate_size


def folder_log(found: Found) -> Sessions | None:
    """The log of a folder of fitted shoppers: that of its training shoppers."""
    if found.folder is None or not (found.folder / LOG / "impressions.parquet").is_file():
        return None
    if not _fits_folder(found):
        return None
    rows, declared = read_tables(found.folder / LOG, len(found.simulator.catalog))
    rows = rows.filter(pl.col("split") == "train")
    if declared is not None:
        declared = declared.join(rows.select("shopper").unique(), on="shopper", how="semi")
    return Sessions.of(rows, declared)


def _with_log(
    found: Found,
    folder: Path,
    about: Mapping[str, Any],
    log: Sessions | None,
    ranker: Ranker | None,
    plan: Exploration,
    progress: bool,
) -> Site:
    """A site with a log, which is played where there is none, and a ranker of it."""
    simulator = found.simulator
    path = folder / RANKER
    lacking = (log is None and not (folder / TABLE_FILES[1]).exists()) or (
        ranker is None and not path.exists()
    )
    with locked(folder, wait=True) if lacking else contextlib.nullcontext():
        if lacking:
            write_json(folder / "place.json", about)
        if log is None:
            log = logged(folder, simulator, plan, found.env if progress else None)
        if ranker is None and not path.exists():
            title = f"ranker of {found.env}" if progress else None
            save_ranker(fit_ranker(log, simulator, title), path)
    if ranker is None:
        space, size = simulator.observation_space, simulator.slate_size
        ranker = load_ranker(path, simulator.catalog, space, size)
    return _site(found, _inputs(simulator, ranker, log), log)


def _inputs(simulator: SlateSimulator, ranker: Ranker, log: Sessions | None) -> PolicyInputs:
    """What policies are built from; the pool of shoppers with a card is the best items alone."""
    inputs = policy_inputs(simulator, ranker, log)
    alone = isinstance(ranker, CTRRanker) or reads_card(ranker, simulator)
    return replace(inputs, per_category=0) if alone else inputs


def _site(found: Found, inputs: PolicyInputs, log: Sessions | None) -> Site:
    return Site(found.env, inputs, log, found.options, found.device)


# ---- what a log depends on -----------------------------------------------------------------------


def plan_for(simulator: SlateSimulator, slates: int | None, mixture: Mixture) -> Exploration:
    """Who plays the log of a simulator, and how long."""
    usual = SLOW_SLATES if is_slow(simulator) else SLATES
    return Exploration(usual if slates is None else slates, mixture, fewest=1)


def description(found: Found, plan: Exploration, log: Sessions | None) -> dict[str, Any]:
    """Everything that a played log and a fitted ranker depend on, as JSON."""
    simulator, config = found.simulator, preset(found.env)
    catalog = simulator.catalog
    apart = ("reward", "graphs")  # they change nothing that happens
    told = {name: value for name, value in found.told.items() if name not in apart}
    return {
        "env": found.env,
        "options": {name: plain(value) for name, value in sorted(told.items())},
        "shopper": {name: plain(value) for name, value in sorted(config.shopper_options.items())},
        "code": _code_of(config.shopper),
        "catalog": hashlib.sha256(
            repr((catalog.text, catalog.path)).encode()
            + catalog.embedding.cpu().contiguous().numpy().tobytes()
        ).hexdigest()[:16],
        "observation": sorted(simulator.observation_space.keys()),
        "slate_size": simulator.slate_size,
        "horizon_days": str(simulator.horizon_days),
        "history": simulator.history,
        "log": None if log is None else _digest_of_log(log),
        "slates": plan.slates,
        "mixture": plan.mixture,
        "rounds": list(plan.rounds),
        "knobs": {name: list(span) for name, span in KNOBS.items()},
        "temperatures": list(TEMPERATURES),
        "per_category": [PER_CATEGORY, OF_CATEGORIES],
    }


def digest_of(told: Mapping[str, Any]) -> str:
    """Eight characters that are others for every other description."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def slug(env: str) -> str:
    """The part of an environment's id that names its files."""
    name = env.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "place"


def plain(value: Any) -> Any:
    """A value as JSON: a number, flag or text as it is, anything else as Python writes it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, Reward):
        return {name: plain(one) for name, one in as_reward(value).weights.items()}
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _code_of(shopper: Any) -> str | None:
    """A digest of the code of a factory that is not the package's own.

    It is that of the file, and of the compiled functions where there is none, as in a notebook.
    """
    if isinstance(shopper, Later) or not callable(shopper):
        return None
    factory = inspect.unwrap(getattr(shopper, "func", shopper))
    if getattr(factory, "__module__", "").partition(".")[0] == recsim_env.__name__:
        return None
    try:
        path = inspect.getsourcefile(factory)
    except (TypeError, OSError):
        path = None
    if path is not None and Path(path).is_file():
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    parts = [factory, *vars(factory).values()] if inspect.isclass(factory) else [factory]
    codes = [part.__code__ for part in parts if inspect.isfunction(part)]
    written = repr([(code.co_code, code.co_names, plain(code.co_consts)) for code in codes])
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def _digest_of_log(log: Sessions) -> str:
    parts = (log.slates, log.clicks, log.length, log.declared)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
