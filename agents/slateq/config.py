"""Hyper-parameters of the two SlateQ agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.parameters import tunable
from recsim_env.settings import AMOUNT, ONE_OR_MORE, POSITIVE, RATE, SHARE, WIDTH, settle


@dataclass(frozen=True)
class SlateQConfig:
    """Hyper-parameters of SlateQ that learns from clicked items."""

    gamma: float = tunable(0.9, 0.9, 0.99)
    """Discount per visit, at least 0 and below 1. The default was chosen by
    `benchmarks.agents.tune_agents`."""
    temperature: float = tunable(1.27, 0.1, 1.5)
    """Scale of the Gumbel noise that exploration adds to the logits: the untrained agent samples
    from their softmax at this temperature. The default was chosen by
    `benchmarks.agents.tune_agents`."""
    attribution: Literal["clicks", "chances"] = "clicks"
    """Which values a visit updates: "clicks" updates those of the clicked items, as in the paper;
    "chances" updates those of all shown items, each weighted by its click probability. See
    `agents.slateq` for a comparison."""
    learning_rate: float = 2e-3
    """Learning rate of Adam at the first update; it decreases linearly to 0 at the last."""
    batch_size: int = 512
    """Number of visits in the minibatch of an update."""
    updates: int = 3
    """Number of updates after each round, in which every shopper makes one visit."""
    memory: int = 20_480
    """Number of visits that the replay memory holds; older ones are overwritten."""
    warm_up: int = 5_120
    """Number of visits that are served before the first update, so that the features have a scale
    by then."""
    target_rate: float = 0.02
    """Share of the way that the averaged network moves towards the trained one at an update."""
    reward_scale: float = 0.1
    """Factor on the environment's reward: a network learns values of the order of 1 faster."""
    huber: float = 10.0
    """Size of an error, in scaled reward, from which on the loss is linear. A shopper who leaves is
    an error of the order of a whole return and must keep its weight, so this only prevents
    divergence."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient; a longer one is shortened to it."""
    pool: int = 64
    """Number P of candidates, the best by predicted click rate, from which a slate is chosen."""
    hidden: int = 64
    """Width of the two hidden layers that encode the state."""
    item_hidden: int = 32
    """Width of the layer in which state and item are combined; it is computed for every pool item,
    so it is the smaller one."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        settle(
            self,
            gamma=SHARE,
            temperature=AMOUNT,
            learning_rate=RATE,
            batch_size=ONE_OR_MORE,
            updates=ONE_OR_MORE,
            memory=ONE_OR_MORE,
            target_rate=RATE,
            reward_scale=POSITIVE,
            huber=POSITIVE,
            max_grad_norm=POSITIVE,
            pool=ONE_OR_MORE,
            hidden=WIDTH,
            item_hidden=WIDTH,
        )
        if self.gamma == 1:
            raise ValueError(f"gamma is {self.gamma!r}, but it must be at least 0 and below 1.")


@dataclass(frozen=True)
class SlateQChancesConfig(SlateQConfig):
    """Hyper-parameters of SlateQ that learns from all shown items."""

    gamma: float = tunable(0.97, 0.9, 0.99)
    """Discount per visit, at least 0 and below 1. The default was chosen by
    `benchmarks.agents.tune_agents`."""
    temperature: float = tunable(0.5, 0.1, 1.5)
    """Scale of the Gumbel noise that exploration adds to the logits. The default was chosen by
    `benchmarks.agents.tune_agents`."""
    attribution: Literal["clicks", "chances"] = "chances"
    """Which values a visit updates; this agent updates those of all shown items."""
