"""Terms that hold a slate against the whole shelf: how popular its items are, and its shares."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.rewards.inputs import RewardInputs
from recsim_env.rewards.terms import Term, reward_term
from recsim_env.rewards.variety import alike_shown
from recsim_env.tensors import looked_up, widened

TOLERANCE = 1e-6
"""By how much the sum of target shares may differ from 1."""


@reward_term("novelty", needs=["popularity"])
def novelty(inputs: RewardInputs) -> Tensor:
    """Return the mean over the positions of -log2 popularity, in bits: (B,), 0 or more.

    A position that shows nothing counts as 0, so that leaving one empty never pays. Vargas and
    Castells 2011, "Rank and relevance in novelty and diversity metrics for recommender systems",
    section 4.1 (self-information).

    Raises:
        ValueError: If the catalogue has no popularity.
    """
    if inputs.popularity is None:
        raise ValueError(
            "The reward term 'novelty' is the self-information of popularity, but this catalogue "
            "has no popularity (`Catalog.popularity`)."
        )
    bits = -widened(looked_up(inputs.popularity, inputs.slates)).log2()
    return (bits * inputs.shown).sum(dim=1) / inputs.slates.shape[1] + 0


@reward_term("exposure", needs=["category_share"])
def exposure(inputs: RewardInputs) -> Tensor:
    """Return minus the distance of the slate's shares of categories from the catalogue's: (B,).

    The target share of a category is that of its items among all items, so that every item has the
    same right to be shown. `exposure_toward` makes a term with other targets. The distance is that
    of total variation, half the sum of the absolute differences, from 0 to 1, of the slate of each
    shopper alone. A position that shows nothing belongs to no category, so that leaving one empty
    never pays: the value is the sum over categories of min(share, target), minus 1.

    Raises:
        ValueError: If the catalogue's shares are not told.
    """
    if inputs.category_share is None:
        raise ValueError(
            "The reward term 'exposure' compares with the catalogue's shares of categories, but "
            "they are not told here."
        )
    return _toward(inputs, looked_up(inputs.category_share, inputs.slates))


def exposure_toward(catalog: Catalog, shares: Mapping[str, float]) -> Term:
    """Make a term like `exposure` with target shares of one's own.

        reward_term("half_dairy")(exposure_toward(catalog, {"grocery/dairy": 0.5, ...}))

    Args:
        catalog: The catalogue of the environments that will use the term.
        shares: The target share of categories by their names in `catalog.categories`; one that is
            not named has the target 0.

    Raises:
        TypeError: If `shares` is no mapping.
        ValueError: If a category is unknown, a share is no number from 0 to 1, or if they do not
            sum to 1; and by the term, if the slates are of a catalogue of another size.
    """
    checks.instance("catalog", catalog, Catalog)
    targets = dict.fromkeys(catalog.categories, 0.0)
    for name, share in checks.mapping("shares", shares).items():
        known = checks.choice("a category of shares", name, list(targets))
        targets[known] = checks.number(f"shares[{name!r}]", share, 0, 1)
    total = sum(targets.values())
    if abs(total - 1) > TOLERANCE:
        raise ValueError(f"shares sum to {total:.6g}, but they must sum to 1.")
    of_category = torch.tensor(list(targets.values()), dtype=torch.float32, device=catalog.device)
    of_item = looked_up(of_category, catalog.category)

    def toward(inputs: RewardInputs) -> Tensor:
        """Return minus the distance of the slate's shares of categories from target shares."""
        if len(inputs.category) != len(of_item):
            raise ValueError(
                f"The catalogue has {len(inputs.category)} items, but the target shares are those "
                f"of a catalogue of {len(of_item)}."
            )
        return _toward(inputs, looked_up(of_item.to(inputs.slates.device), inputs.slates))

    return toward


def _toward(inputs: RewardInputs, target: Tensor) -> Tensor:
    """Return the overlap of the slate's shares with target shares, minus 1.

    Args:
        inputs: The slates.
        target: (B, K) float32, the target share of the category of each position's item.
    """
    size = inputs.slates.shape[1]
    count = alike_shown(inputs).clamp(min=1)  # every item of a category has its part of the overlap
    overlap = torch.minimum(count, size * widened(target)) / count / size
    return (overlap * inputs.shown).sum(dim=1).clamp(max=1) - 1
