"""Cases of options: what environments are made with, at every door, and the parameters of a
market."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from hypothesis import strategies as st

from recsim_env import EnvConfig, SlateEnv, SlateVectorEnv, make_simulator
from recsim_env.registration import PRESETS
from recsim_env.rendering import RENDER_MODES
from recsim_env.shoppers.base import FEWEST
from recsim_env.shoppers.bundles.choice import MOST_ITEMS
from recsim_env.shoppers.bundles.config import BUNDLES, BUNDLES_CONTROL, BundleConfig
from recsim_env.shoppers.bundles.population import DISCOUNTS
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.household.starts import POPULATIONS
from recsim_env.shoppers.market import CONTROL, MARKET, MILD, MarketConfig
from recsim_env.shoppers.members import PRECISIONS
from recsim_env.shoppers.session.starts import POPULATIONS as SESSION_POPULATIONS
from recsim_env.simulator import SlateSimulator
from recsim_env.vector import OUTPUTS
from tests.fuzz import ground
from tests.fuzz.judge import ACCEPT, EITHER, REFUSE, Case
from tests.fuzz.kinds import (
    REFUSED,
    UNSURE,
    Chances,
    Choice,
    Days,
    Device,
    Flag,
    Folder,
    Kind,
    Mode,
    Nullable,
    Number,
    RewardWeights,
    Right,
    Whole,
    fields_of,
)
from tests.fuzz.values import label_of, odd

FEW = MarketConfig(items=40, categories=4, width=4)
"""A market that is made at once."""
LEVELS = [(0.0,), (0.0, 0.5), DISCOUNTS]
"""Levels of discount of bundles."""
NOT_PLAYED = ("compiled",)
"""Options whose environments take a minute for the first step."""


class Market(Kind):
    """A `MarketConfig`."""

    def right(self, value: Any) -> Right:
        good = any(value is one for one in (MARKET, MILD, CONTROL, FEW))
        return Right(ACCEPT) if good else UNSURE if isinstance(value, MarketConfig) else REFUSED

    def good(self) -> Any:
        return st.sampled_from([MARKET, MILD, CONTROL, FEW])

    def near(self) -> Any:
        return st.sampled_from(
            [{}, {"items": 50}, MarketConfig, None, dataclasses.asdict(FEW), "MILD"]
        )


class Bundles(Kind):
    """A `BundleConfig`."""

    def right(self, value: Any) -> Right:
        good = any(value is one for one in (BUNDLES, BUNDLES_CONTROL))
        return Right(ACCEPT) if good else UNSURE if isinstance(value, BundleConfig) else REFUSED

    def good(self) -> Any:
        return st.sampled_from([BUNDLES, BUNDLES_CONTROL])

    def near(self) -> Any:
        return st.sampled_from([{}, BundleConfig, MARKET, None, "BUNDLES"])


# ---- which options there are, and what each may be given -----------------------------------------


def shared(id: str) -> dict[str, Kind]:
    """The options that all environments take."""
    ground.ids()
    size = PRESETS[id].slate_size
    sizes = Whole(1, sure=12)
    if id == "recsim_env/LearnedMarket-v0":
        sizes = Whole(1, size, size)
    elif "Bundle" in id:
        sizes = Whole(FEWEST, MOST_ITEMS, MOST_ITEMS)
    return {
        "reward": RewardWeights(),
        "slate_size": sizes,
        "horizon_days": Number(0, above=True, infinite=True, sure=(0.5, 1e6)),
        "history": Whole(1, sure=30),
        "strict": Flag(),
        "newcomers": Number(0, 1, sure=(0, 0)),  # more needs shoppers with a history
        "device": Device(),
    }


def own(id: str) -> dict[str, Kind]:
    """The options that the shopper of an environment takes, by what their docstrings say of
    them."""
    size = PRESETS[id].slate_size
    members = 3 if "Learned" in id else 2
    known: dict[str, Kind] = {
        "config": Bundles() if "Bundle" in id else Market(),
        "discounts": Choice(LEVELS),
        "world": Whole(0, sure=10_000),
        "alike": Flag(),
        "pages": Nullable(Whole(1, 1000, 20)),
        "folder": Folder(nullable=True),
        "ensemble": Whole(1, members, members),
        "pessimism": Number(0, sure=(0, 0)),  # more needs an ensemble too
        "precision": Choice(list(PRECISIONS)),
        "compiled": Flag(),
        "small": Bad(Flag()),  # what it asks for, not every folder holds
        "population": Choice([None, *SESSION_POPULATIONS] if members == 3 else POPULATIONS),
        "starts": Choice(["first"]),  # the shipped folder holds no histories
        "store_promotions": Flag(),
        "start_days": Days(ground.START_DAYS),
        "examination": Chances(size),
        "new_items": Number(0, 1, sure=(0, 0 if "drift" in ground.options_of(id) else 1)),
        "portrait": Bad(Flag()),
    }
    if "Visit" in id or "Regulars" in id:
        del known["config"]  # parameters of their own
    found = {name: known[name] for name in ground.options_of(id) if name in known}
    if id in ground.SLOW:  # another population is read anew, which takes half a minute
        for name in {"population", "start_days", "ensemble", "compiled"} & found.keys():
            found[name] = Bad(found[name])
    slow = id in ground.SLOW or "Regulars" in id  # histories without some items are played anew
    if slow and "new_items" in found:
        found["new_items"] = Bad(found["new_items"])
    return found


class Bad(Kind):
    """Of another kind, only what must be refused: where accepting takes long."""

    def __init__(self, inner: Kind) -> None:
        self.inner = inner

    def right(self, value: Any) -> Right:
        return self.inner.right(value)

    def any(self) -> Any:
        return st.one_of(self.inner.near(), odd()).filter(
            lambda value: self.right(value).outcome == REFUSE
        )


VECTOR: dict[str, Kind] = {
    "num_envs": Whole(1, sure=20),
    "autoreset_mode": Mode(),
    "output": Choice(OUTPUTS),
    "render_mode": Nullable(Choice(RENDER_MODES)),
}
SINGLE: dict[str, Kind] = {"render_mode": Nullable(Choice(RENDER_MODES))}

Door = tuple[Callable[..., Any], dict[str, Kind], dict[str, Any]]
DOORS: dict[str, Door] = {
    "make_simulator": (make_simulator, {}, {}),
    "SlateEnv": (SlateEnv, SINGLE, {}),
    "SlateVectorEnv": (SlateVectorEnv, VECTOR, {"num_envs": 2}),
    "gymnasium.make": (gymnasium.make, {}, {}),
    "gymnasium.make_vec": (
        gymnasium.make_vec,
        {name: kind for name, kind in VECTOR.items() if name not in ("render_mode", "num_envs")},
        {"num_envs": 2},
    ),
}
"""Where options are given: the call, the options of its own, and what is always given. Gymnasium
checks the render mode and the number of environments itself."""


def simulator_of(made: Any) -> SlateSimulator:
    """The simulator behind any face."""
    return made if isinstance(made, SlateSimulator) else made.unwrapped.simulator


def meaning(made: Any, name: str) -> Any:
    """What an option came to in what was made; None where it cannot be seen."""
    simulator = simulator_of(made)
    face = made if isinstance(made, SlateSimulator) else made.unwrapped
    if name == "reward":
        return dict(simulator.reward.weights)
    if name == "new_items":  # a share came to a mask, which is rounded to whole items
        return None
    if name in ("num_envs", "autoreset_mode", "output", "render_mode"):
        return getattr(face, name, None)
    for holder in (simulator, simulator.shopper, getattr(simulator.shopper, "options", None)):
        if holder is not None and hasattr(holder, name):
            return getattr(holder, name)
    return None


def same(found: Any, meant: Any) -> bool:
    """Whether an option came to what it means: equal, and no truth value in place of a number."""
    if isinstance(meant, dict):
        return found.keys() == meant.keys() and all(
            same(found[name], meant[name]) for name in meant
        )
    if isinstance(meant, float) and isinstance(found, (int, float)):
        found = float(found)
    return bool(found == meant) and isinstance(found, (bool, np.bool_)) == isinstance(meant, bool)


def together(rights: Mapping[str, Right]) -> str:
    """What must come of a call with several arguments."""
    outcomes = [right.outcome for right in rights.values()]
    return REFUSE if REFUSE in outcomes else EITHER if EITHER in outcomes else ACCEPT


@st.composite
def given_options(draw: st.DrawFn, id: str) -> Case:
    """One or two options of an environment, at any door."""
    ground.ids()
    door = draw(st.sampled_from(list(DOORS)))
    call, more, always = DOORS[door]
    kinds = {**shared(id), **own(id), **more}
    names = draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=2, unique=True))
    values = {name: draw(kinds[name].any()) for name in names}
    return option_case(
        door, call, id, values, always, {name: kinds[name].right(values[name]) for name in names}
    )


def option_case(
    door: str,
    call: Callable[..., Any],
    id: str,
    values: Mapping[str, Any],
    always: Mapping[str, Any],
    rights: Any,
) -> Case:
    """A case of some options."""
    options = {"device": "cpu", **always, **values}
    items = len(ground.simulator(id).catalog) if id not in ground.SLOW else 3500
    members: tuple[str, ...] = ()
    size = options.get("slate_size", PRESETS[id].slate_size)
    expected = together(rights)
    if (
        expected == ACCEPT
        and "slate_size" in values
        and (size > items or options.get("examination") is not None)
    ):
        expected, members = EITHER, ("examination",)
    if (
        expected == ACCEPT
        and "slate_size" in values
        and "config" in values
        and size > getattr(values["config"], "items", items)
    ):
        expected = REFUSE
    written = ", ".join(f"{name}={label_of(value)}" for name, value in values.items())

    def sound(made: Any) -> None:
        for name, right in rights.items():
            found = meaning(made, name)
            if right.value is not None and found is not None:
                assert same(found, right.value), (
                    f"{name} came to {label_of(found)}, not {label_of(right.value)}"
                )
        if not any(name in values for name in NOT_PLAYED):
            ground.plays(simulator_of(made))

    return Case(
        f"{door}({id!r}, {written})",
        lambda: call(id, **options),
        expected,
        (
            *(
                name
                for name, right in rights.items()
                if expected != REFUSE or right.outcome != ACCEPT
            ),
            *members,
        )
        or tuple(values),
        sound,
    )


@st.composite
def option_of_any(draw: st.DrawFn) -> Case:
    """Options of an environment that is made quickly."""
    return draw(given_options(draw(st.sampled_from(ground.quick_ids()))))


@st.composite
def option_of_slow(draw: st.DrawFn) -> Case:
    """Options of an environment that is not."""
    return draw(given_options(draw(st.sampled_from(ground.SLOW))))


@st.composite
def unknown_option(draw: st.DrawFn) -> Case:
    """An option that nobody knows, or that another environment knows."""
    id = draw(st.sampled_from(ground.quick_ids()))
    door = draw(st.sampled_from(list(DOORS)))
    call, _, always = DOORS[door]
    known = {*shared(id), *ground.options_of(id), *VECTOR, "simulator", "id", "self"}
    elsewhere = {name for other in ground.quick_ids() for name in ground.options_of(other)} | {
        "frameskip",
        "seed",
    }
    texts = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
    name = draw(
        st.one_of(st.sampled_from(sorted(elsewhere)), texts).filter(lambda name: name not in known)
    )
    value = draw(odd())
    return Case(
        f"{door}({id!r}, {name}={label_of(value)})",
        lambda: call(id, **{**always, name: value}),
        REFUSE,
        (name,),
        promised=(TypeError,),
    )


@st.composite
def source_of_environment(draw: st.DrawFn) -> Case:
    """Something odd in place of an id, a configuration or a simulator."""
    faces: dict[str, Callable[..., Any]] = {
        "make_simulator": lambda source: make_simulator(source, device="cpu"),
        "SlateEnv": lambda source: SlateEnv(source, device="cpu"),
        "SlateVectorEnv": lambda source: SlateVectorEnv(source, 2, device="cpu"),
    }
    face = draw(st.sampled_from(list(faces)))
    value = draw(
        st.one_of(
            odd(), st.text(), st.sampled_from(["recsim_env/Market-v1", "Market-v0", "recsim_env/"])
        )
    )
    good = isinstance(value, (EnvConfig, SlateSimulator)) or (
        isinstance(value, str) and value in PRESETS
    )
    return Case(
        f"{face}({label_of(value)})",
        lambda: faces[face](value),
        EITHER if good else REFUSE,
        ("id", "simulator"),
    )


@st.composite
def configuration(draw: st.DrawFn) -> Case:
    """Fields of an `EnvConfig`."""
    kinds = {**shared(ground.TOY_ID), "shopper_options": Options()}
    kinds.pop("device")
    kinds["reward"] = RewardWeights()
    names = draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=2, unique=True))
    values = {name: draw(kinds[name].any()) for name in names}
    rights = {name: kinds[name].right(values[name]) for name in names}
    written = ", ".join(f"{name}={label_of(value)}" for name, value in values.items())

    def sound(config: EnvConfig) -> None:
        for name, right in rights.items():
            found: Any = getattr(config, name)
            found = dict(found.weights) if name == "reward" else found
            assert right.value is None or same(found, right.value), (
                f"{name} came to {label_of(found)}"
            )
        if "shopper_options" not in values:
            ground.plays(make_simulator(config, device="cpu"))

    bad = tuple(name for name, right in rights.items() if right.outcome != ACCEPT)
    expected = together(rights)
    return Case(
        f"EnvConfig(make_market, {written})",
        lambda: EnvConfig(make_market, **values),
        expected,
        bad or tuple(names),
        sound,
    )


class Options(Kind):
    """A mapping with strings as keys."""

    def right(self, value: Any) -> Right:
        good = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        return Right(ACCEPT if good else REFUSE)

    def good(self) -> Any:
        return st.dictionaries(st.text(max_size=4), st.integers(), max_size=2)


# ---- markets -------------------------------------------------------------------------------------


def market_fields() -> dict[str, Kind]:
    """Every field of a `MarketConfig`, by what its docstring says; those that it says nothing of,
    by their type."""
    kinds = fields_of(MarketConfig)
    for name, kind in kinds.items():
        if isinstance(kind, Whole):
            kinds[name] = Whole(1, sure=10)
        elif name in ("examination", "satiation_decay", "fatigue_decay"):
            kinds[name] = Number(0, 1, sure=(0, 1))
        elif name.endswith(("_spread", "_noise")) or name in (
            "drift",
            "satiation_exposure",
            "satiation_click",
        ):
            kinds[name] = Number(0, sure=(0, 1.5))
        elif name == "leave_base":
            kinds[name] = LeaveBase()
        else:
            kinds[name] = Number(sure=(-20, 20))
    kinds["items"] = Whole(1, sure=2000)
    return kinds


class LeaveBase(Kind):
    """A number, or minus infinity."""

    def right(self, value: Any) -> Right:
        right = Number(infinite=True, sure=(-50, 20)).right(value)
        if right.value == math.inf:
            return REFUSED
        return (
            Right(ACCEPT, right.value)
            if right.value == -math.inf and isinstance(value, float)
            else right
        )

    def good(self) -> Any:
        return st.one_of(st.just(-math.inf), st.floats(-10, 5))


@st.composite
def market(draw: st.DrawFn) -> Case:
    """One or two fields of a `MarketConfig`; what is accepted must make shoppers whose observations
    are sound."""
    kinds = market_fields()
    names = draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=2, unique=True))
    values = {name: draw(kinds[name].any()) for name in names}
    rights = {name: kinds[name].right(values[name]) for name in names}
    expected = together(rights)
    sizes = {
        name: rights[name].value if name in rights else getattr(MARKET, name) for name in _SIZES
    }
    if expected != REFUSE and not sizes["favourites"] <= sizes["categories"] <= sizes["items"]:
        expected = REFUSE
        rights |= dict.fromkeys(_SIZES, UNSURE)
    bad = tuple(name for name, right in rights.items() if right.outcome != ACCEPT)
    written = ", ".join(f"{name}={label_of(value)}" for name, value in values.items())

    def sound(config: MarketConfig) -> None:
        for name, right in rights.items():
            if right.value is not None:
                found = getattr(config, name)
                assert same(found, right.value), (
                    f"{name} came to {label_of(found)}, not {label_of(right.value)}"
                )
        size = min(4, int(config.items))
        made = EnvConfig(make_market, slate_size=size, shopper_options={"config": config})
        ground.plays(make_simulator(made, device="cpu"))

    return Case(
        f"MarketConfig({written})",
        lambda: MarketConfig(**values),
        expected,
        bad or tuple(names),
        sound,
    )


_SIZES = ("favourites", "categories", "items")

SOURCES: dict[str, tuple[float, Callable[[], Any]]] = {
    "options": (0.45, option_of_any),
    "options of slow environments": (0.03, option_of_slow),
    "unknown options": (0.07, unknown_option),
    "source of an environment": (0.05, source_of_environment),
    "EnvConfig": (0.10, configuration),
    "MarketConfig": (0.30, market),
}
"""Where the cases of this part come from, with the share of each."""
