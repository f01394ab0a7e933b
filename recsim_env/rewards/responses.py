"""Terms on what shoppers did: clicks, purchases, revenue, coming back."""

from __future__ import annotations

from torch import Tensor

from recsim_env.rewards.inputs import RewardInputs
from recsim_env.rewards.terms import reward_term, zero_or_more, zero_to_one, zero_to_size
from recsim_env.tensors import looked_up, widened


@reward_term("clicks", linear=True, bounds=zero_to_size)
def clicks(inputs: RewardInputs) -> Tensor:
    """Count the positions that were responded to: (B,), from 0 to K."""
    return inputs.clicks.sum(dim=1)


@reward_term("purchases", linear=True, needs=["purchases"], bounds=zero_to_size)
def purchases(inputs: RewardInputs) -> Tensor:
    """Count what was bought: (B,), from 0 to the clicks.

    Where shoppers have a cart, it is counted at the page at which it is paid for, whatever page of
    the visit it was put into the cart from.

    Raises:
        ValueError: If the shoppers do not tell purchases from clicks.
    """
    if inputs.purchases is None:
        raise ValueError(
            "The reward term 'purchases' counts what was bought, but these shoppers do not tell "
            "purchases from clicks."
        )
    bought = inputs.purchases.sum(dim=1)
    return bought if inputs.carried is None else bought + (inputs.carried >= 0).sum(dim=1)


@reward_term("outside_reward", needs=["outside_reward"])
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


@reward_term("revenue", linear=True, needs=["price"], bounds=zero_or_more)
def revenue(inputs: RewardInputs) -> Tensor:
    """Sum the prices paid for what was bought: (B,), 0 or more.

    Where shoppers do not tell purchases from clicks, as in a grocer's log, what was clicked was
    bought. Where they have a cart, what earlier slates of the visit put into it is paid for too.
    The shop pays for a discount: a bundle that is taken whole brings the sum of its prices less the
    discount.

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
    if inputs.carried is not None:
        earlier = widened(looked_up(inputs.price, inputs.carried.clamp(min=0)))
        earned = earned + (earlier * (inputs.carried >= 0)).sum(dim=1)
    if inputs.whole is not None and inputs.discount is not None:
        earned = earned - (price * inputs.shown).sum(dim=1) * inputs.discount * inputs.whole
    return earned


@reward_term("kept", linear=True, bounds=zero_to_one)
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
