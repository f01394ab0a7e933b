"""Terms on what shoppers did: clicks, purchases, revenue, coming back."""

from __future__ import annotations

from torch import Tensor

from recsim_env.rewards.inputs import RewardInputs
from recsim_env.rewards.terms import reward_term
from recsim_env.tensors import looked_up, widened


@reward_term("clicks", linear=True)
def clicks(inputs: RewardInputs) -> Tensor:
    """Count the positions that were responded to: (B,), from 0 to K."""
    return inputs.clicks.sum(dim=1)


@reward_term("purchases", linear=True, needs=["purchases"])
def purchases(inputs: RewardInputs) -> Tensor:
    """Count the positions that were bought: (B,), from 0 to the clicks.

    Raises:
        ValueError: If the shoppers do not tell purchases from clicks.
    """
    if inputs.purchases is None:
        raise ValueError(
            "The reward term 'purchases' counts what was bought, but these shoppers do not tell "
            "purchases from clicks."
        )
    return inputs.purchases.sum(dim=1)


@reward_term("outside_reward")
def outside_reward(inputs: RewardInputs) -> Tensor:
    """Return what somebody else's environment paid for the slate: (B,).

    Raises:
        ValueError: If the shoppers are our own.
    """
    if inputs.outside_reward is None:
        raise ValueError(
            "The reward term 'outside_reward' is what an outside environment pays, but these "
            "shoppers are none (`recsim_env.shoppers.outside`)."
        )
    return inputs.outside_reward


@reward_term("revenue", linear=True, needs=["price"])
def revenue(inputs: RewardInputs) -> Tensor:
    """Sum the prices paid for what was bought from the slate: (B,), 0 or more.

    The shop pays for a discount: a bundle that is taken whole brings the sum of its prices less the
    discount. Where shoppers do not tell purchases from clicks, as in a grocer's log, what was
    clicked was bought.

    Raises:
        ValueError: If the catalogue does not know every price.
    """
    if inputs.price is None:
        raise ValueError(
            "The reward term 'revenue' sums prices, but this catalogue does not know the price of "
            "every item."
        )
    bought = inputs.clicks if inputs.purchases is None else inputs.purchases
    price = widened(looked_up(inputs.price, inputs.slates))
    earned = (price * bought).sum(dim=1)
    if inputs.whole is None or inputs.discount is None:
        return earned
    return earned - (price * inputs.shown).sum(dim=1) * inputs.discount * inputs.whole


@reward_term("kept", linear=True)
def kept(inputs: RewardInputs) -> Tensor:
    """Count a shopper who comes back as 1, and one who lapsed as 0: (B,).

    Raises:
        ValueError: If it is not told who lapsed.
    """
    if inputs.left is None:
        raise ValueError(
            "The reward term 'kept' counts who comes back, but it is not told here who lapsed."
        )
    return 1 - widened(inputs.left)
