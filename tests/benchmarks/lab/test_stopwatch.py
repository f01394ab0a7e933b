"""Clocks add up the time of what they are put on, and of nothing else."""

from __future__ import annotations

import pytest
import torch

from benchmarks.lab.stopwatch import Clock, Stopwatch


class Steps:
    """A clock by hand."""

    def __init__(self, watch: Stopwatch) -> None:
        self.at = 0.0
        watch.now = lambda: self.at  # type: ignore[method-assign]

    def outer(self) -> None:
        self.at += 1.0
        self.inner()

    def inner(self) -> None:
        self.at += 10.0


def test_a_timed_method_inside_of_a_timed_one_counts_once() -> None:
    watch = Stopwatch(torch.device("cpu"), ("act", "learn"))
    steps = Steps(watch)
    watch.watch("act", steps, "outer")
    watch.watch("learn", steps, "inner")
    steps.outer()
    steps.inner()
    assert watch.seconds["act"] == 11.0
    assert watch.seconds["learn"] == 10.0


def test_released_methods_are_those_of_the_class_again() -> None:
    watch = Stopwatch(torch.device("cpu"), ("act",))
    steps = Steps(watch)
    watch.watch("act", steps, "outer")
    assert "outer" in vars(steps)
    watch.release()
    assert "outer" not in vars(steps)


def test_a_method_that_is_missing_is_named() -> None:
    watch = Stopwatch(torch.device("cpu"), ("act",))
    with pytest.raises(AttributeError, match="'Steps' object has no attribute 'renamed'"):
        watch.watch("act", Steps(watch), "renamed")


def test_a_clock_adds_up_and_gives_back_what_the_work_returns() -> None:
    clock = Clock(torch.device("cpu"))
    assert [clock.timed(lambda: 3), clock.timed(lambda: 4)] == [3, 4]
    assert clock.wall > 0
