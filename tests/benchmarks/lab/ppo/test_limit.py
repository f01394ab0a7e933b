"""A limit as options: told whole or not at all, and only to the agent that holds one."""

from __future__ import annotations

import pytest
import tyro

from agents.ppo.constrained import ConstrainedConfig
from agents.ppo.constraint import Constraint
from benchmarks.lab.ppo.config import Config
from benchmarks.lab.ppo.limit import LimitOptions


def told(*options: str) -> Constraint:
    config = tyro.cli(Config, args=["--agent", "constrained", *options])
    return config.constraint.constraint


def test_nothing_told_is_the_limit_of_the_agent() -> None:
    assert told() == ConstrainedConfig().constraint == Constraint("clicks", "at_least", 0.95, True)


def test_what_is_told_whole_is_in_the_unit_of_the_term_unless_it_is_relative() -> None:
    whole = ["--constraint.term", "kept", "--constraint.direction", "at_most"]
    whole += ["--constraint.limit", "0.5"]
    assert told(*whole) == Constraint("kept", "at_most", 0.5)
    assert told(*whole, "--constraint.relative") == Constraint("kept", "at_most", 0.5, True)


@pytest.mark.parametrize(
    ("options", "missing", "beside"),
    [
        ({"term": "clicks"}, "direction", "term"),
        ({"term": "clicks", "limit": 0.3}, "direction", "term"),
        ({"direction": "at_most", "limit": 0.3}, "term", "direction"),
        ({"term": "clicks", "direction": "at_most"}, "limit", "term"),
        ({"relative": True}, "term", "relative"),
    ],
)
def test_a_limit_told_in_part_is_refused(
    options: dict[str, object], missing: str, beside: str
) -> None:
    sentence = rf"^constraint\.{missing} is missing beside constraint\.{beside}, but a limit must"
    with pytest.raises(ValueError, match=sentence):
        LimitOptions(**options)  # type: ignore[arg-type]


def test_an_agent_without_a_limit_is_told_none() -> None:
    limit = LimitOptions("clicks", "at_least", 0.3)
    with pytest.raises(ValueError, match=r"^constraint\.term is told, but agent is 'composer': on"):
        Config(constraint=limit)
    assert Config(agent="constrained", constraint=limit).constraint is limit
