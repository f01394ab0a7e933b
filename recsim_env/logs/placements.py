"""What a placement code says: on which display an item stands, and where in the mailer it is.

A placement is display * mailers + mailer, where `mailers` is the number of mailer codes of a shop
(`LogFacts.placements`), and both codes are 0 where there is none.
"""

from __future__ import annotations

from torch import Tensor


def display_of(placement: Tensor, mailers: int) -> Tensor:
    """Display code of each placement; 0 where the item is on no display."""
    return placement // mailers


def mailer_of(placement: Tensor, mailers: int) -> Tensor:
    """Mailer code of each placement; 0 where the item is not in the mailer."""
    return placement % mailers
