"""Terms that hold a slate against the whole shelf: how popular its items are, and its shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.rewards.inputs import RewardInputs
from recsim_env.rewards.terms import Term, reward_term, zero_or_more
from recsim_env.rewards.variety import alike_shown
from recsim_env.tensors import looked_up, widened

TOLERANCE = 1e-6
"""By how much the sum of target shares may differ from 1."""


@reward_term("novelty", needs=["popularity"], bounds=zero_or_more)
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


@reward_term("exposure", needs=["category_share"], bounds=lambda size: (-1.0, 0.0))
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


class ShareOf:
    """The term that `share_of` makes.

    Args:
        counted: (N,) float32, 1 for every item of the named categories and 0 for the others.
    """

    def __init__(self, counted: Tensor) -> None:
        self._counted = counted

    def of(self, items: Tensor) -> Tensor:
        """Return 1 for items of the named categories and 0 for others, of the shape of `items`."""
        return looked_up(self._counted.to(items.device), items)

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """Return the share of the positions that show items of the named categories: (B,).

        Raises:
            ValueError: If the slates are of a catalogue of another size.
        """
        if len(inputs.category) != len(self._counted):
            raise ValueError(
                f"The catalogue has {len(inputs.category)} items, but the named categories are "
                f"those of a catalogue of {len(self._counted)}."
            )
        counted = widened(self.of(inputs.slates)) * inputs.shown
        return counted.sum(dim=1) / inputs.slates.shape[1]


def share_of(catalog: Catalog, categories: Iterable[str]) -> ShareOf:
    """Make a term of the share of the slate's positions that show items of some categories.

        reward_term("dairy", bounds=zero_to_one)(share_of(catalog, ["grocery/dairy"]))

    A position that shows nothing belongs to no category.

    Args:
        catalog: The catalogue of the environments that will use the term.
        categories: Names of categories in `catalog.categories`, or of departments, the level above
            them, which stand for all their categories.

    Raises:
        TypeError: If `catalog` is none.
        ValueError: If there is no name, or a name is unknown; and by the term, if the slates are of
            a catalogue of another size.
    """
    checks.instance("catalog", catalog, Catalog)
    names = checks.several("categories", categories)
    if not names:
        raise ValueError("categories is empty, but it must name at least one category.")
    departments = sorted({name.rpartition("/")[0] for name in catalog.categories} - {""})
    for at, name in enumerate(names):
        checks.choice(f"categories[{at}]", name, [*departments, *catalog.categories])
    named = [
        any(one == name or one.startswith(f"{name}/") for name in names)
        for one in catalog.categories
    ]
    of_category = torch.tensor(named, dtype=torch.float32, device=catalog.device)
    return ShareOf(looked_up(of_category, catalog.category))


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
