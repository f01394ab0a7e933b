"""The progress line moves with visits, tells evaluation from training, and forecasts the rest."""

from __future__ import annotations

import io

from agents.progress import FILE_S, TERMINAL_S, Progress


class Clock:
    """Time by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def whole_training(progress: Progress, clock: Clock) -> list[tuple[float, float]]:
    """4 updates: 10 batches of 100 visits (2 s), learning (5 s); evaluations at 0, 2, 4 (30 s).

    Forecast and truth, in seconds, after everything that happened.
    """
    told: list[tuple[float, float | None]] = []

    def passes(seconds: float) -> None:
        clock.now += seconds

    def evaluated() -> None:
        with progress.evaluating() as tell:
            for _ in range(10):
                passes(3.0)
                tell(64)
                told.append((clock.now, progress.left_s()))

    evaluated()
    for update in range(4):
        for _ in range(10):
            passes(2.0)
            progress.trained(100)
            told.append((clock.now, progress.left_s()))
        passes(5.0)
        progress.learned()
        told.append((clock.now, progress.left_s()))
        if update % 2 == 1:
            evaluated()
    return [(left, clock.now - at) for at, left in told if left is not None]


def test_the_forecast_is_right_through_evaluations() -> None:
    clock = Clock()
    pairs = whole_training(
        Progress("it", 4000, evaluations=3, clock=clock, out=io.StringIO()), clock
    )
    whole = 4 * (10 * 2.0 + 5.0) + 3 * 30.0
    assert clock.now == whole
    assert len(pairs) == 4 * 11 + 2 * 10
    # the first rollout does not know yet that learning takes time as well: 4 x 5 s
    assert max(abs(left - true) for left, true in pairs) <= 4 * 5.0 + 1e-9
    assert max(abs(left - true) for left, true in pairs[11:]) <= 2 * 5.0 + 1e-9
    assert pairs[-1] == (0.0, 0.0)


def test_every_batch_of_visits_moves_the_line_in_a_terminal() -> None:
    clock, out = Clock(), Terminal()
    progress = Progress("it", 4000, evaluations=3, clock=clock, out=out)
    whole_training(progress, clock)
    progress.close()
    lines = out.getvalue().split("\r")[1:]
    assert len(lines) == 1 + 3 * 10 + 4 * 11 + 1  # start, evaluations, training, end
    assert len(set(lines)) == len(lines)


def test_a_file_gets_a_line_in_half_a_minute() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress("it", 4000, evaluations=3, clock=clock, out=out)
    whole_training(progress, clock)
    progress.close()
    lines = out.getvalue().splitlines()
    assert 2 < len(lines) <= 2 + clock.now / FILE_S
    assert "\r" not in out.getvalue()


def test_refreshes_in_a_terminal_are_no_closer_than_said() -> None:
    clock, out = Clock(), Terminal()
    progress = Progress("it", 1000, clock=clock, out=out)
    for _ in range(1000):
        clock.now += TERMINAL_S / 10
        progress.trained(1)
    assert out.getvalue().count("\r") <= 1 + 1000 / 10


def test_the_line_says_what_is_done() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress("it", 4000, 1000, evaluations=2, clock=clock, out=out)
    clock.now = 4.0
    progress.trained(200)
    assert progress.line() == "1,200 of 4,000 visits, training, 50 visits/s, more than 00:56 left"
    with progress.evaluating() as tell:
        clock.now += 10.0
        tell(300)
        assert progress.line().startswith(
            "1,200 of 4,000 visits, evaluating (300 visits), 50 visits/s"
        )
    progress.note("return 3.21")
    with progress.evaluating() as tell:
        tell(150)
        assert "evaluating (150 of about 300 visits)" in progress.line()
    progress.learned()
    assert (
        progress.line() == "1,200 of 4,000 visits, learning, 50 visits/s, 00:56 left, return 3.21"
    )
    progress.trained(2800)
    progress.close()
    assert (
        out.getvalue().splitlines()[-1]
        == "it: 100%, 4,000 of 4,000 visits, finished, 750 visits/s, return 3.21"
    )
