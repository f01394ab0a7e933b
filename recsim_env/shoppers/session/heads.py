"""What a session model says of a shopper who is weary, leaves or buys, in each temperament.

The module `recsim_env.shoppers.session.model` has the equations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsim_env.shoppers.profile import DECAYS
from recsim_env.shoppers.session.config import SessionShopperConfig
from recsim_env.shoppers.session.memory import CATEGORY_COUNTERS
from recsim_env.tensors import numbered

OF_CATEGORIES = (len(DECAYS), len(DECAYS) + 1, 2 * len(DECAYS), 2 * len(DECAYS) + 1)
"""Counters that make weary of a category: showings by position, and responses, each of the last few
visits (decay 0.7) and of the last ten (0.9). How much of the recent and of the older counts is
learned once for both, for counters that are alike in the log need not be alike elsewhere: weights
of all nine, each learned by itself, do no better on held-out visits."""
OF_ITEMS = (CATEGORY_COUNTERS, CATEGORY_COUNTERS + 1)
"""Counters that make weary of an item: showings of the last few visits (decay 0.7) and of the last
ten (0.9)."""
TEMPERAMENT = 5
"""Numbers of a temperament: log-odds of a click, log of how weary of categories and of items,
log-odds to stay, and log-odds to look further."""
KEEN, OF_CATEGORY, OF_ITEM, PATIENT, DEEP = range(TEMPERAMENT)
MAX_LOG_FACTOR = 4.0  # of weariness: a likelihood that runs off in a batch comes back


class Weariness(nn.Module):
    """How weary a shopper is of what is shown: of its category, and of the item itself.

    Both grow in proportion to how often it was met, as in McAlister 1982, equation 1: the counters
    above with weights >= 0 that all shoppers share, times a factor > 0 of the shopper's own. So a
    policy that repeats itself more than any policy of the log is answered by a slope, and not by a
    network outside of its training data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_category = nn.Parameter(torch.zeros(2))
        self.recent = nn.Parameter(torch.zeros(()))  # log-odds of the share of the faster decay
        self.of_item = nn.Parameter(torch.zeros(2))

    def weights(self) -> tuple[Tensor, Tensor]:
        """Compute the weights >= 0 of `OF_CATEGORIES` and of `OF_ITEMS`."""
        share = torch.stack([self.recent.sigmoid(), (-self.recent).sigmoid()])
        of_category = F.softplus(self.of_category).unsqueeze(1) * share
        return of_category.flatten(), F.softplus(self.of_item)

    def forward(self, amounts: Tensor, temperament: Tensor) -> Tensor:
        """Compute weariness in log-odds >= 0, of the category and of the item.

        Shapes: amounts (V, K, COUNTERS) >= 0, temperament (V, S, R) -> (V, S, K, 2).
        """
        weights = self.weights()
        of_category, of_item = (
            amounts.index_select(-1, numbered(columns, amounts.device)) @ weight
            for columns, weight in zip((OF_CATEGORIES, OF_ITEMS), weights, strict=True)
        )
        common = torch.stack([of_category, of_item], dim=-1)
        factors = temperament[..., OF_CATEGORY : OF_ITEM + 1].clamp(max=MAX_LOG_FACTOR).exp()
        return common.unsqueeze(1) * factors.unsqueeze(2)


class LeaveHead(nn.Module):
    """Log-odds of leaving after a visit: what clicks and weariness add, and a bounded network.

    See the module docstring for the equation. That those who stay are the patient ones shows as a
    chance to leave that falls from visit to visit, which a network that knows the number of visits
    could say as well, and then patience would not differ. So the network begins at 0 and learns
    more slowly than the numbers that all shoppers share.
    """

    def __init__(self, config: SessionShopperConfig) -> None:
        super().__init__()
        self.answered = nn.Linear(2, 1)
        self.slopes = nn.Parameter(torch.zeros(2))
        self.inner = nn.Linear(config.hidden_size + 2, config.head_size // 2)
        self.outer = nn.Linear(config.head_size // 2, 1, bias=False)

    def forward(self, state: Tensor, temperament: Tensor, weary: Tensor, clicks: Tensor) -> Tensor:
        """Compute the log-odds (V, S) of leaving.

        Shapes: state (V, D) before the visit, temperament (V, S, R), weary (V, S, 2), clicks (V,
        K).
        """
        number = clicks.float().sum(dim=-1, keepdim=True)
        counted = torch.cat([(number == 0).float(), torch.log1p(number)], dim=-1)
        bounded = self.outer(torch.tanh(self.inner(torch.cat([state, counted], dim=-1))))
        common: Tensor = self.answered(counted) + bounded
        return common + weary @ F.softplus(self.slopes) - temperament[..., PATIENT]


class PurchaseHead(nn.Module):
    """Log-odds that what is clicked is bought: a taste of its own, and each item's share."""

    def __init__(self, config: SessionShopperConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.width)
        self.base = nn.Linear(config.hidden_size, 1)
        self.item_bias = nn.Embedding(config.n_items, 1)
        self.token = nn.Linear(config.width + 1, config.hidden_size, bias=False)

    def forward(self, state: Tensor, slates: Tensor, vectors: Tensor) -> Tensor:
        """Compute the log-odds (V, K).

        Shapes: state (V, D) before the visit, slates (V, K), vectors (V, K, E) of their items.
        """
        liked = torch.einsum("ve,vke->vk", self.query(state), vectors)
        logits: Tensor = self.base(state) + liked + self.item_bias(slates).squeeze(-1)
        return logits

    def told(self, vectors: Tensor, purchases: Tensor) -> Tensor:
        """Compute what purchases (..., K) of items (..., K, E) add to a token: (..., D)."""
        bought = purchases.float()
        summed = torch.einsum("...k,...ke->...e", bought, vectors)
        added: Tensor = self.token(torch.cat([summed, bought.sum(dim=-1, keepdim=True)], dim=-1))
        return added
