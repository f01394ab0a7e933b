"""Hyper-parameters of proximal policy optimization (PPO)."""

from __future__ import annotations

from dataclasses import dataclass

from policies.parameters import tunable
from recsim_env.settings import AMOUNT, ONE_OR_MORE, POSITIVE, SHARE, Within, settle

NARROWED = Within(0.0, 20.0)
"""Legal falls of the log of a standard deviation in a training."""


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters of PPO (Schulman et al. 2017)."""

    learning_rate: float = tunable(1.5e-3, 3e-4, 2e-2, log=True)
    """Learning rate of the actor. That of the critic is `critic_lr_scale` times it."""
    n_steps: int = 20
    """Number of visits of each shopper between two updates."""
    batch_size: int = 2048
    """Number of visits in a minibatch."""
    n_epochs: int = 5
    """Number of passes over the visits of a rollout at each update."""
    gamma: float = tunable(0.97, 0.9, 0.999)
    """Discount of a reward for each visit that it lies ahead."""
    gae_lambda: float = tunable(0.8, 0.3, 1.0)
    """Lambda of the advantage estimate: 0 relies on the critic, 1 on the sampled returns."""
    clip_range: float = 0.2
    """Largest relative change of a probability that an update rewards, as in the paper."""
    ent_coef: float = tunable(0.0, 0.0, 0.02)
    """Weight of the bonus for entropy, which delays the end of exploration."""
    vf_coef: float = 0.5
    """Weight of the loss of the critic, as in Stable-Baselines3."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient; a longer one is shortened to it."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        settle(
            self,
            learning_rate=SHARE,
            n_steps=ONE_OR_MORE,
            batch_size=ONE_OR_MORE,
            n_epochs=ONE_OR_MORE,
            gamma=SHARE,
            gae_lambda=SHARE,
            clip_range=POSITIVE,
            vf_coef=AMOUNT,
            max_grad_norm=POSITIVE,
        )


def annealed(first: float, last: float, left: float) -> float:
    """What falls or rises linearly, when a share of the training is left.

    Args:
        first: its value at the start
        last: its value at the end
        left: share of the training that is left, from 1 to 0
    """
    return last + (first - last) * left


def annealed_rate(rate: float, last: float, left: float) -> float:
    """The learning rate when a share of the training is left: it falls linearly from 1 to `last`.

    Args:
        rate: learning rate at the start
        last: factor on it at the end
        left: share of the training that is left, from 1 to 0
    """
    return rate * annealed(1, last, left)
