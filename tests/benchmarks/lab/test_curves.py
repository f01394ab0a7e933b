"""A curve is what the monitor logged, and passes a level where it stays above."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from stable_baselines3.common.logger import configure

from benchmarks.lab.curves import RETURN, Curve


def test_a_curve_is_read_from_the_events(tmp_path: Path) -> None:
    logger = configure(str(tmp_path), ["tensorboard"])
    for visits, value in ((0, 1.0), (100, 3.0), (200, 2.5)):
        logger.record(RETURN, value)
        logger.dump(visits)
    logger.close()
    curve = Curve.read(tmp_path)
    assert curve.visits.tolist() == [0, 100, 200]
    assert curve.returns.tolist() == [1.0, 3.0, 2.5]


def test_a_level_is_passed_for_good() -> None:
    curve = Curve(np.arange(4), np.array([1.0, 3.0, 2.0, 4.0]))
    assert curve.passed(0.5) == 0
    assert curve.passed(1.5) == 1
    assert curve.passed(2.5) == 3
    assert curve.passed(5.0) is None
