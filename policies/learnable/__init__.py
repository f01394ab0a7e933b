"""Policies that a gradient trains. Importing the package fills the registry `LEARNABLE`."""

from policies.learnable import autoregressive, conditioned, intents, plackett_luce
from policies.learnable.kinds import LEARNABLE

__all__ = ["LEARNABLE", "autoregressive", "conditioned", "intents", "plackett_luce"]
