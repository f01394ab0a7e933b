"""The options of every command are checked when its configuration is made, in one sentence."""

from __future__ import annotations

import importlib
import math
import typing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from benchmarks.agents import compare, league, train
from benchmarks.lab.checked import Checked, hints_of, kinds_in, told_of
from benchmarks.lab.where import Elsewhere, Where
from tests.benchmarks.test_commands import CONFIGURED

Case = tuple[Any, str, Any]
"""A configuration, one of its options, and a value that the option must not have."""


def cases(config: Any) -> list[Case]:
    """Odd values of every option of a configuration, and of the configurations inside it."""
    found: list[Case] = []
    for name, kind in hints_of(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, Checked):
            found += cases(value)
        elif isinstance(value, tuple):
            found += [(config, name, odd) for odd in odd_lists(config, name, kind, value)]
        elif isinstance(value, dict):
            inner = [*odd_values(config, name, typing.get_args(kind)[1])]
            found += [(config, name, {"x": odd}) for odd in inner] + [(config, name, 3)]
        else:
            found += [(config, name, odd) for odd in odd_values(config, name, kind)]
    return found


def odd_lists(config: Any, name: str, kind: Any, value: tuple[Any, ...]) -> list[Any]:
    """Lists that are none, empty, hold a value twice, or an odd one."""
    found: list[Any] = [3, None]
    if name not in type(config).EMPTY:
        found.append(())
    if name not in type(config).REPEATED:
        found.append((*value, value[0]) if value else ("x", "x"))
    return found + [(odd,) for odd in odd_values(config, name, typing.get_args(kind)[0])]


def odd_values(config: Any, name: str, kind: Any) -> list[Any]:
    """Values that an option of a type must not have."""
    kinds = kinds_in(kind)
    within = told_of(type(config), "BOUNDS").get(name)
    low = getattr(within, "low", 1)
    if bool in kinds:
        return ["no", 1, 0]
    if int in kinds:
        return [low - 1, -1, 0.5, True, "1", 10**20]
    if float in kinds:
        assert within is not None, f"{name} has no range"
        above = [] if within.infinite else [2 * within.high + 1]
        return [math.nan, "1", True, within.low - 1, *above]
    if str in kinds:
        return ["", 1]
    if any(typing.get_origin(one) is Literal for one in kinds):
        return ["nope", ""]
    if name in getattr(type(config), "FOLDERS", ()):
        return [Path(__file__)]
    return [3] if is_dataclass(kind) else []


@pytest.mark.parametrize("command", CONFIGURED)
def test_every_odd_value_is_refused_in_a_sentence_that_names_the_option(command: str) -> None:
    config = importlib.import_module(command).Config()
    found = cases(config)
    assert len(found) >= sum(not isinstance(value, Path) for value in vars(config).values()) - 1
    for config, name, odd in found:
        with pytest.raises((ValueError, TypeError)) as error:
            replace(config, **{name: odd})
        assert str(error.value).startswith(name), (name, odd)
        assert len(str(error.value).splitlines()) == 1
        assert str(error.value).endswith("."), (name, odd)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"visits": 0}, "visits is 0, but it must be a whole number from 1 to"),
        ({"visits": -5}, "visits is -5, but"),
        ({"seeds": ()}, "seeds is empty, but it must hold one value or more"),
        ({"seeds": (-1,)}, r"seeds\[0\] is -1, but it must be a whole number from 0 to 4294967295"),
        ({"seeds": (2**32,)}, r"seeds\[0\] is 4294967296, but"),
        ({"seeds": (1, 1)}, r"seeds is \(1, 1\), but nothing in it may be named twice"),
        ({"shoppers": 0}, "shoppers is 0, but"),
    ],
)
def test_a_training_that_would_do_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train.Config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policies": ("greedy_ctr", "foo")}, r"policies\[1\] is 'foo', but it must be one of"),
        ({"policies": ("greedy_ctr",) * 2}, "nothing in it may be named twice"),
        ({"policies": ("uniform",)}, "greedy_ctr must be among them"),
        ({"agents": ("composer",) * 2}, "agents is .*named twice"),
        ({"episodes": -1}, "episodes is -1, but"),
    ],
)
def test_a_comparison_of_odd_things_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare.Config(**options)


def test_numbers_inside_mappings_and_bounds_of_parts_are_checked() -> None:
    with pytest.raises(ValueError, match=r"steps\['a'\] is 0, but"):
        league.Config(steps={"a": 0})
    with pytest.raises(ValueError, match=r"factors\['a'\] is -1.0, but"):
        league.Config(factors={"a": -1.0})
    with pytest.raises(ValueError, match=r"runs\[0\] is 90, but it must be .* from 0 to 89"):
        league.Config(runs=(90,))
    with pytest.raises(ValueError, match="horizon_days is 0, but"):
        Where(horizon_days=0)
    assert Where(horizon_days=math.inf).horizon_days == math.inf


def test_what_belongs_to_an_environment_needs_one() -> None:
    with pytest.raises(ValueError, match="reward is 'clicks=1', but it belongs to an environment"):
        league.Config(elsewhere=Elsewhere(reward="clicks=1"))
    assert league.Config(elsewhere=Elsewhere("a:b/C-v0", reward="clicks=1"))


ALIKE = {
    "learning_rate": {"model", "ppo"},
    "scale": {"plackett_luce", "autoregressive", "learned_reward"},
    "episodes": {"monitor", "league"},
    "batch": {"monitor", "league"},
    "work": {"league"},
    "slate_size": {"fit"},
    "horizon_days": {"fit"},
    "shoppers": {"league"},
}
"""Names that several parts of one configuration have for different things."""


def named(config: Any, part: str = "") -> list[tuple[str, str]]:
    """Name of every option, and the part of the configuration that it belongs to."""
    found: list[tuple[str, str]] = []
    for field in fields(config):
        value = getattr(config, field.name)
        inner = is_dataclass(value) and not isinstance(value, type)
        found += named(value, field.name) if inner else [(field.name, part)]
    return found


@pytest.mark.parametrize("command", CONFIGURED)
def test_nothing_can_be_told_in_two_places(command: str) -> None:
    """Of two options for one thing, one would do nothing."""
    parts: dict[str, set[str]] = {}
    for name, part in named(importlib.import_module(command).Config()):
        assert part not in parts.get(name, set())
        parts.setdefault(name, set()).add(part)
    twice = {name: found for name, found in parts.items() if len(found) > 1}
    assert all(found - {""} <= ALIKE.get(name, set()) for name, found in twice.items()), twice


def paths(config: Any) -> list[Path]:
    """Every path in a configuration and in those inside it."""
    found = [value for value in vars(config).values() if isinstance(value, Path)]
    inner = [value for value in vars(config).values() if isinstance(value, Checked)]
    return found + [path for one in inner for path in paths(one)]


@pytest.mark.parametrize("command", CONFIGURED)
def test_what_the_checkout_holds_is_found_from_any_folder(command: str) -> None:
    for path in paths(importlib.import_module(command).Config()):
        assert path.is_absolute() or path.parts[0] in ("runs", ".cache"), path


def test_what_may_be_empty_or_zero_may_be() -> None:
    assert compare.Config(agents=()).agents == ()
    assert league.Config(places=(), frontier=(0.0,)).frontier == (0.0,)
    assert train.Config(seeds=(0,), output=Path("x")).seeds == (0,)
