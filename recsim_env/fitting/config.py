"""How a simulator is fitted to a shop's own log."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsim_env import checks
from recsim_env.arguments import checked_horizon
from recsim_env.settings import ONE_OR_MORE, SEED, Within, settle
from recsim_env.shoppers.session.fit import SessionFitConfig


@dataclass(frozen=True)
class FitConfig:
    """How a simulator is fitted to a log and judged."""

    members: int = 2
    """Number of models, which differ in their seed. Two show where the log leaves open what
    shoppers do; `ensemble=2` lets them answer together."""
    most_slates: int = 300_000
    """Number of logged slates that are used at most; users are drawn at random until there are so
    many. More slates than these hardly change a model of the default size."""
    most_steps: int = 256
    """Number of slates of a user that are used at most, the first ones. Memory and time of a
    training step grow with the longest history."""
    slate_size: int | None = None
    """Number of positions; longer slates are cut, shorter ones are padded. None means that of the
    longest slate."""
    horizon_days: float | None = None
    """Length of a simulated episode in days. None means the time that 95 % of the users
    stayed within. Longer episodes extrapolate: returns of a market came out 30 % too high."""
    judged_users: int = 512
    """Number of users simulated for each logging policy, to compare with held-out users."""
    counterfactual: bool = True
    """Whether policies are hidden from a fit and predicted; each of at most two costs a fit."""
    seed: int = 0
    """Seed of the split of the users, of item vectors, and of the first model. The other models
    have those that follow it."""
    model: SessionFitConfig = field(default_factory=SessionFitConfig)
    """The model and its training."""

    def __post_init__(self) -> None:
        """Check the type and the range of every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            members=Within(1, 16),
            most_slates=ONE_OR_MORE,
            most_steps=ONE_OR_MORE,
            judged_users=ONE_OR_MORE,
            seed=SEED,
        )
        if self.slate_size is not None:
            checks.whole("slate_size", self.slate_size, 1)
        if self.horizon_days is not None:
            checked_horizon(self.horizon_days)
        checks.flag("counterfactual", self.counterfactual)
        checks.instance("model", self.model, SessionFitConfig)
