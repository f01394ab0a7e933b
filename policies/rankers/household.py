"""A ranker that is the fitted household model, run on what the shop observes.

A shop with loyalty cards observes the whole input of the model, or a summary of it, at every visit.
So what it can infer about a shopper is no state of its own: the model is run on the observation
(`recsim_env.shoppers.household.card`), and ranks by the chance that it gives each candidate, in the
placement that the candidate has.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from policies.observations import candidates_of, check_keys
from policies.rankers.networks import read_model, write_model
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.shop_file import HOUSEHOLD
from recsim_env.shoppers.household import card
from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.features import ITEM_CONTEXT, POPULARITY
from recsim_env.shoppers.household.memory import Keys
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.promotions import log_popularity
from recsim_env.tensors import looked_up, places
from recsim_env.types import Observation

KIND, FIELDS = HOUSEHOLD, ("config",)
"""Description of its file: its kind, and what the model is built from."""
KEYS = (*card.KEYS, "placement", "popularity")
"""Observation keys that the ranker reads."""
PAIRS_AT_ONCE = 8192
"""Pairs that are scored together on a CPU, so that what they touch stays in its cache."""


class HouseholdRanker:
    """Ranks candidates by a household model; a `policies.inputs.Ranker`.

    Args:
        catalog: The items, on the device of the ranker.
        model: The fitted model; it is moved to the device and frozen.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the model was fitted to other items.
    """

    def __init__(self, catalog: Catalog, model: SlateShopper) -> None:
        checks.instance("catalog", catalog, Catalog)
        checks.instance("model", model, SlateShopper)
        category = model.items.category.to(catalog.device)
        if not torch.equal(category, catalog.category):
            raise ValueError(
                f"model is about {model.config.n_items} items that are not those of the catalogue, "
                f"which has {len(catalog)}."
            )
        frozen: SlateShopper = model.to(catalog.device).eval().requires_grad_(False)  # type: ignore[arg-type]
        self.model = frozen
        self._keys = Keys.of(catalog.kind, catalog.category)
        self._vectors = frozen.items()
        self._parts = frozen.slate_head.items(self._vectors, frozen.items.known)

    @torch.no_grad()
    def logits(self, observation: Observation) -> Tensor:
        """Log-odds of a response to every candidate: (B, C), -inf at padding.

        Raises:
            ValueError: If the observation lacks a key.
        """
        check_keys(observation, KEYS)
        model, candidates = self.model, candidates_of(observation, self._keys.n_items)
        shopper = model.slate_head.shoppers(card.state_of(observation, model, self._vectors))
        stats = card.stats_of(observation, self._keys, candidates)
        popular = log_popularity(observation["popularity"])
        item_context = F.pad(popular.unsqueeze(2), (POPULARITY, ITEM_CONTEXT - POPULARITY - 1))

        # Pairs of a shopper and a candidate, some at a time.
        rows, columns, _ = places(candidates >= 0)
        found = torch.full_like(popular, -math.inf)
        size = PAIRS_AT_ONCE if rows.is_cpu else max(len(rows), 1)
        for row, column in zip(rows.split(size), columns.split(size), strict=True):
            logits = model.slate_head(
                looked_up(shopper, row),
                looked_up(self._parts, candidates[row, column].clamp(min=0)),
                stats[row, column],
                item_context[row, column],
                observation["placement"][row, column].long(),
            )
            found[row, column] = model.calibrated(logits)
        return found.where(candidates >= 0, -math.inf)


def save_household_ranker(ranker: HouseholdRanker, path: Path) -> None:
    """Write the model of a ranker to a file (safetensors), as a whole or not at all."""
    config = ranker.model.config
    told = {name: getattr(config, name) for name in SlateShopperConfig.own_keys()}
    write_model(path, ranker.model, KIND, {"config": told})


def load_household_ranker(path: Path, catalog: Catalog) -> HouseholdRanker:
    """Read what `save_household_ranker` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken, or the model was fitted to other items.
    """
    tensors, told = read_model(path, KIND, FIELDS)
    try:
        config: Any = SlateShopperConfig(**checks.mapping("config", told["config"]))
        with torch.device("meta"):  # sizes only
            model = SlateShopper(config)
        model.load_state_dict(tensors, assign=True)
        return HouseholdRanker(catalog, model)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} holds no household model of this shop: {error}") from None
