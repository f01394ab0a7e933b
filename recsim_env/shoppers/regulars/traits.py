"""What regular customers differ by, and keep for good."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from recsim_env.noise import normal
from recsim_env.shoppers.regulars.config import RegularsConfig
from recsim_env.shoppers.worlds import share_moved


@dataclass
class Traits:
    """The hidden traits of B shoppers, (B,) float32 each."""

    habit: Tensor
    """How much the shopper wants categories that it knows, below 0 new ones; no unit."""
    speed: Tensor
    """How fast the shopper is sated, 1 for the median one."""
    recovery: Tensor
    """Days in which half of a satiation is gone."""
    rhythm: Tensor
    """Mean number of days between two visits."""
    memory: Tensor
    """Share of the satisfaction of the visits before that is left at the next one."""
    patience: Tensor
    """Log-odds of staying, 0 for the median shopper."""
    examination: Tensor
    """Chance to look one position further."""

    @classmethod
    def drawn(cls, config: RegularsConfig, draws: Tensor) -> Traits:
        """Draw the traits of shoppers from uniform numbers (B, `len(TRAITS)`)."""
        habit, speed, recovery, rhythm, memory, patience, depth = normal(draws).unbind(dim=1)
        return cls(
            habit=config.habit_mean + config.habit_spread * habit,
            speed=torch.exp(config.speed_spread * speed),
            recovery=config.recovery * torch.exp(config.recovery_spread * recovery),
            rhythm=(config.rhythm * torch.exp(config.rhythm_spread * rhythm)).clamp(min=1),
            memory=share_moved(config.memory, config.memory_spread * memory),
            patience=config.patience_spread * patience,
            examination=share_moved(config.examination, config.examination_spread * depth),
        )

    def numbers(self) -> Tensor:
        """Return them as numbers (B, `len(TRAITS)`) of the order of 1, for those who know them."""
        return torch.stack(
            [
                self.habit,
                self.speed.log(),
                self.recovery.log(),
                self.rhythm.log(),
                self.memory.logit(eps=1e-6),
                self.patience,
                self.examination.logit(eps=1e-6),
            ],
            dim=1,
        )


TRAITS = tuple(field.name for field in fields(Traits))
"""The names of the traits, in the order of `Traits.drawn` and `Traits.numbers`."""
