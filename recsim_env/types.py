"""The types of a batched visit.

Dimensions used everywhere: B shoppers, K slate positions, C candidates (padded with -1), N
catalogue items, H remembered slates, E item-embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from recsim_env.checks import told
from recsim_env.rewards.inputs import RewardInputs

Observation = dict[str, Tensor]
"""What the shop knows about B shoppers: one tensor a key, the first dimension is B."""

MAX_DAYS = 36_500.0
"""Upper bound of every number of days in an observation space: a hundred years."""


@dataclass(frozen=True)
class Response:
    """The shoppers' answer to their slates, and how the visit ended.

    Shapes: B shoppers, K slate positions, L items of a basket.
    """

    clicks: Tensor
    """(B, K) bool, what was responded to (in a grocer's log: bought); False wherever `shown`
    was."""
    probability: Tensor
    """(B, K) float32, the chance of each before the noise; 0 wherever `shown` was False. Hidden
    from agents."""
    left: Tensor
    """(B,) bool, the shopper lapsed."""
    days: Tensor
    """(B,) float32, days until the next visit; until lapsing was certain, where `left`."""
    elsewhere: Tensor
    """(B,) float32, items bought in the same visit outside the slate, those of earlier slates
    among them."""
    basket: Tensor | None = None
    """(B, L) int64, everything bought in the visit, -1 padded; None = what was responded to. For
    logs, not agents."""
    leaving: Tensor | None = None
    """(B,) float32, the chance that the shopper lapses, before the noise; None where the model does
    not say."""
    purchases: Tensor | None = None
    """(B, K) bool, what was bought of what was clicked; None where shoppers do not tell purchases
    from clicks."""
    purchase_probability: Tensor | None = None
    """(B, K) float32, the chance of each purchase before the noise, 0 wherever `shown` was False;
    None where the model does not say. Hidden from agents."""
    whole: Tensor | None = None
    """(B,) bool, the slate was a bundle and everything in it was bought; None where shoppers take
    no bundles."""
    whole_probability: Tensor | None = None
    """(B,) float32, the chance of that before the noise: the rating of a combination given a
    history. Hidden from agents."""
    outside_reward: Tensor | None = None
    """(B,) float32, what somebody else's environment paid for the slate; None where the shoppers
    are our own."""
    carried: Tensor | None = None
    """(B, L) int64, what was bought now and had been put into the cart from earlier slates of the
    visit, -1 padded; None where shoppers have no cart."""


@dataclass(frozen=True)
class Outcome:
    """What one visit of each shopper led to.

    Shapes: B shoppers.
    """

    reward: Tensor
    """(B,) float32, the weighted sum of the reward terms."""
    terminated: Tensor
    """(B,) bool, the shopper lapsed: there is no next visit."""
    truncated: Tensor
    """(B,) bool, the next visit falls after the horizon, and the shopper did not lapse."""
    info: dict[str, Tensor]
    """(B,) each: `clicks` int64 responses in the slate, `reward_terms/<name>` float32 each term
    before its weight, `invalid_items` int64 positions repeated or holding no candidate, `gap_days`
    float32 days until the next visit, `elsewhere` float32 items bought in the visit outside the
    slate, `day` float32 days since the episode began; of bundles `discount` float32, the share of
    the price that was offered off, 0 where fewer than two items were shown, and `whole` int64, 1
    where it was taken whole; and in somebody else's environment `outside_reward` float32, what it
    paid."""
    response: Response = field(repr=False)
    """The shoppers' own answer, with the chances before the noise. It is for logs and for training
    inside the library; agents and the Gymnasium faces never see it."""
    inputs: RewardInputs = field(repr=False)
    """What the reward terms saw, for training inside the library, as `response` is."""
    objectives: Tensor | None = None
    """(B, n) float32, the values of the simulator's `objectives` in their order; None where it has
    none."""

    @property
    def ended(self) -> Tensor:
        """(B,) bool, whether the episode is over, for either reason."""
        return self.terminated | self.truncated


@dataclass(frozen=True, kw_only=True)
class Step(Outcome):
    """An outcome together with what the shop knows at the next visit."""

    observation: Observation
    """What the shop knows at the next visit, `SlateSimulator.observation_space` with a first
    dimension of B."""


class Policy(Protocol):
    """Turns what the shop knows about B shoppers into a slate for each.

    `recsim_env.testing.check_policy` tries everything that is promised here.
    """

    @property
    def draws(self) -> int:
        """How many uniform numbers the policy takes for one slate; 0 if it is deterministic."""

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Choose the slates: (B, K) int64, top position first.

        Where slates are bundles they may be (B, K + 1), with the level of the discount behind the
        items; without it there is no discount. A slate holds distinct candidates where there are K
        of them. Otherwise the first one is repeated at the positions that are left over.

        Shapes:
            observation: (B, ...) each; the policy does not write into it
            draws: (B, self.draws) float32, uniform in [0, 1): the only source of randomness
        """


def best_device(device: torch.device | str | None = None) -> torch.device:
    """Return the device asked for, or the best there is where none is asked for.

    Raises:
        ValueError: If the device is unknown, is neither a CPU nor a CUDA GPU, or is a GPU that is
            not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = "it must be 'cpu', 'cuda' or 'cuda:0', 'cuda:1', .., or None for the best there is."
    try:
        asked = torch.device(device) if isinstance(device, (str, torch.device)) else None
    except RuntimeError as error:
        raise ValueError(f"device is {told(device)}, but {expected}") from error
    if asked is None or asked.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {told(device)}, but {expected}")
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {told(device)}, but torch sees {torch.cuda.device_count()} GPUs here; "
            f"{expected}"
        )
    return asked


def to_numpy(tensor: Tensor) -> Any:
    """Copy a tensor into an array, which never shares its memory."""
    return tensor.detach().cpu().numpy().copy()
