"""What proposes intents: an evolution strategy, and a Parzen estimator.

A searcher knows nothing of shops. It is asked for some intents and told what they earned, in turns;
the same seed and the same answers give the same proposals. Intents are in units that `fitted_units`
found, in which all numbers weigh alike.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Searcher(Protocol):
    """Proposes intents, and learns from what they earned."""

    fresh: bool
    """Whether every round is played with shoppers of its own. Otherwise all are played with the
    same ones, and the best of them was partly lucky with these."""

    def ask(self) -> Tensor:
        """The intents of a round: (G, A) float32."""

    def tell(self, values: Tensor) -> None:
        """Learn what the intents of the round earned: (G,) float64, larger is better."""

    def finalists(self, most: int) -> Tensor:
        """The most promising intents so far, at most so many, the best first: (F, A) float32."""


class Covariance:
    """CMA-ES: a Gaussian whose mean and covariance follow the better half of what it drew.

    See Hansen 2016, "The CMA evolution strategy: a tutorial". The finalists are the average of the
    means of the second half of the rounds, and its last means. A mean is less lucky than the best
    intent that was drawn; yet that of a single round follows the luck of its shoppers.

    Args:
        size: length A of an intent
        seed: of everything that is drawn
        spread: standard deviation at the start
    """

    fresh = True

    def __init__(self, size: int, seed: int, spread: float) -> None:
        import cma  # slow to import, and nothing else needs it

        generator = np.random.default_rng(seed)
        options: dict[str, Any] = {
            "randn": lambda *shape: generator.standard_normal(shape),
            "seed": np.nan,  # the global generator stays as it is
            "verbose": -9,
            "verb_log": 0,
        }
        self._strategy = cma.CMAEvolutionStrategy(size * [0.0], spread, options)
        self._asked: list[Any] = []
        self._means: list[Any] = []

    def ask(self) -> Tensor:
        """The intents of a round: (G, A) float32."""
        self._asked = self._strategy.ask()
        return torch.from_numpy(np.stack(self._asked)).float()

    def tell(self, values: Tensor) -> None:
        """Learn what the intents of the round earned: (G,) float64."""
        self._strategy.tell(self._asked, (-values).tolist())
        self._means.append(np.array(self._strategy.mean))

    def finalists(self, most: int) -> Tensor:
        """The average of the later means, then the last ones, the newest first: (F, A) float32."""
        later = self._means[(len(self._means) + 1) // 2 :] or self._means
        found = [np.mean(later, axis=0), *self._means[::-1]]
        return torch.from_numpy(np.stack(found[:most])).float()


class Parzen:
    """TPE: densities of better and worse intents, number by number (Bergstra et al. 2011).

    The first intent is 0, and the others lie in a box.

    Args:
        size: length A of an intent
        seed: of everything that is drawn
        reach: half the width of the box
        several: number of intents G of a round
    """

    fresh = False

    def __init__(self, size: int, seed: int, reach: float, several: int) -> None:
        import optuna  # slow to import, and nothing else here needs it

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=several > 1)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._names = [str(at) for at in range(size)]
        self._study.enqueue_trial(dict.fromkeys(self._names, 0.0))
        self._reach, self._several = reach, several
        self._asked: list[Any] = []

    def ask(self) -> Tensor:
        """The intents of a round: (G, A) float32."""
        self._asked = [self._study.ask() for _ in range(self._several)]
        return torch.tensor(
            [
                [trial.suggest_float(name, -self._reach, self._reach) for name in self._names]
                for trial in self._asked
            ]
        )

    def tell(self, values: Tensor) -> None:
        """Learn what the intents of the round earned: (G,) float64."""
        for trial, value in zip(self._asked, values.tolist(), strict=True):
            self._study.tell(trial, value)

    def finalists(self, most: int) -> Tensor:
        """The intents that earned most, the best first: (F, A) float32."""
        told = sorted(self._study.trials, key=lambda trial: -(trial.value or -np.inf))
        return torch.tensor([[trial.params[name] for name in self._names] for trial in told[:most]])
