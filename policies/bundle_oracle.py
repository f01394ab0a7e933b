"""The oracle of bundles: it searches the best combination and discount under the true utility.

It reads the hidden state of the shoppers, as the oracles of `policies.oracles` do, so it is no
entry of `POLICIES`. The value of a bundle is the expected reward of the visit, exact under the
choice model of the shoppers (`recsim_env.shoppers.bundles.choice`). A bundle is filled greedily,
each position with the item that adds most to the value given those before. Then it is improved for
each level of discount: position by position the best item comes in place of the present one,
`SWEEPS` times. The best level is kept. It is greedy in the visit and not the optimum of an
episode.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from policies.inputs import PolicyInputs
from policies.parameters import NoParameters
from policies.registry import PolicySpec
from recsim_env import checks
from recsim_env.rewards.inputs import RewardInputs, catalog_tables
from recsim_env.shoppers.bundles.choice import chances
from recsim_env.shoppers.bundles.population import BundleShopper, BundleState, price_response
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import looked_up
from recsim_env.types import Observation, Policy

ORACLE_BUNDLE = "oracle_bundle"
"""Name of the oracle in results."""
BEST = 24
"""Items that are worth most on their own, which are tried at every position."""
PER_CATEGORY = 1
"""Items of each category that are tried too, because of what goes with the others."""
SWEEPS = 1
"""How often each position is tried again once the bundle is full."""


class OracleBundle:
    """Offers the bundle with the largest expected reward; plays in one simulator only.

    Args:
        simulator: its shoppers are read at every visit
        levels: the levels of discount that are tried; None means all of them

    Raises:
        TypeError: If it is no simulator.
        ValueError: If its shoppers are not offered bundles, or there is no such level.
    """

    draws = 0

    def __init__(self, simulator: SlateSimulator, levels: tuple[int, ...] | None = None) -> None:
        checks.instance("simulator", simulator, SlateSimulator)
        if not isinstance(simulator.shopper, BundleShopper):
            raise ValueError(
                f"simulator has {type(simulator.shopper).__name__}, but the oracle of bundles "
                "reads a BundleShopper."
            )
        self._simulator, self._shopper = simulator, simulator.shopper
        self._tables: dict[str, Any] = catalog_tables(simulator.catalog)
        known = range(len(simulator.discounts))
        self._levels = tuple(known) if levels is None else levels
        if not self._levels or not set(self._levels) <= set(known):
            raise ValueError(f"levels is {levels}, but the levels of discount are {list(known)}.")

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose bundles (B, K + 1) for the shoppers as they are; the observation is not read."""
        state: BundleState = self._simulator.hidden
        tried = self._tried(state)
        size = self._simulator.slate_size
        slates = tried[:, :1].expand(-1, size).clone()
        shown = torch.zeros_like(slates, dtype=torch.bool)
        first, _ = self._improved(state, tried, slates, shown, range(size), self._levels[0])

        # every level begins with the bundle that was filled at the first
        everywhere = torch.ones_like(shown)
        again = list(range(size)) * SWEEPS
        found = [
            self._improved(state, tried, first.clone(), everywhere.clone(), again, level)
            for level in self._levels
        ]
        best = torch.stack([value for _, value in found], dim=1).argmax(dim=1)
        rows = torch.arange(len(best), device=best.device)
        chosen = torch.stack([bundle for bundle, _ in found], dim=1)[rows, best]
        level = torch.tensor(self._levels, device=best.device)[best]
        return torch.cat([chosen, level.unsqueeze(1)], dim=1)

    def value(self, slates: Tensor, shown: Tensor, level: int) -> Tensor:
        """The expected reward (B,) of bundles (B, K) at a level, for the shoppers as they are."""
        state: BundleState = self._simulator.hidden
        utility = self._shopper.utilities(state, slates)
        one = (slates.unsqueeze(1), utility.unsqueeze(1), shown.unsqueeze(1))
        return self._values(state, *one, level).squeeze(1)

    # ---- inside ----

    def _tried(self, state: BundleState) -> Tensor:
        """The items (B, P) that are tried; one may stand there twice."""
        candidates, catalog = self._simulator.candidates, self._simulator.catalog
        slates = candidates.unsqueeze(2)
        utility = self._shopper.utilities(state, candidates).unsqueeze(2)
        shown = torch.ones_like(slates, dtype=torch.bool)
        alone = self._values(state, slates, utility, shown, 0)
        places = [alone.topk(min(BEST, alone.shape[1]), dim=1).indices]
        category = looked_up(catalog.category, candidates)
        for group in range(len(catalog.categories)):
            of_group = alone.masked_fill(category != group, -torch.inf)
            places.append(of_group.topk(min(PER_CATEGORY, alone.shape[1]), dim=1).indices)
        return candidates.gather(1, torch.cat(places, dim=1))

    def _improved(
        self,
        state: BundleState,
        tried: Tensor,
        slates: Tensor,
        shown: Tensor,
        positions: Iterable[int],
        level: int,
    ) -> tuple[Tensor, Tensor]:
        """Put the best item at each of some positions in turn.

        Returns:
            The bundles (B, K), which were written into, and their values (B,).
        """
        best = torch.zeros(len(slates), device=slates.device)
        alone = self._shopper.utilities(state, tried)
        held = self._shopper.utilities(state, slates)
        for position in positions:
            shown[:, position] = True
            others, utility = (
                part.unsqueeze(1).repeat(1, tried.shape[1], 1) for part in (slates, held)
            )
            others[:, :, position], utility[:, :, position] = tried, alone
            twice = (others == tried.unsqueeze(2)) & shown.unsqueeze(1)
            seen = shown.unsqueeze(1).expand_as(others)
            values = self._values(state, others, utility, seen, level)
            values = values.masked_fill(twice.sum(dim=2) > 1, -torch.inf)
            best, place = values.max(dim=1)
            slates[:, position] = tried.gather(1, place.unsqueeze(1)).squeeze(1)
            held[:, position] = alone.gather(1, place.unsqueeze(1)).squeeze(1)
        return slates, best

    def _values(
        self, state: BundleState, slates: Tensor, utility: Tensor, shown: Tensor, level: int
    ) -> Tensor:
        """The expected reward (B, P) of P bundles (B, P, K) of known utilities at a level."""
        shopper, (batch, number, _) = self._shopper, slates.shape
        items, seen = slates.flatten(0, 1), shown.flatten(0, 1)
        discount = torch.full((len(items),), shopper.discounts[level], device=items.device)
        sensitivity = state.sensitivity.repeat_interleave(number)
        response = price_response(sensitivity, seen, discount)
        found = chances(utility.flatten(0, 1), shopper.pairs_in(items), response, seen)
        nothing = torch.zeros_like(discount)
        inputs = RewardInputs(
            items,
            seen,
            found.item,
            cosines=self._simulator.catalog.cosines,
            purchases=found.item,
            discount=discount,
            whole=found.whole,
            left=nothing,
            days=nothing,
            recent_slates=torch.full_like(items, -1).unsqueeze(1),
            **self._tables,
        )
        return self._simulator.reward(inputs)[0].view(batch, number)


def bundle_oracle_spec(simulator: SlateSimulator) -> PolicySpec:
    """The oracle of one simulator, to be built like a registered policy."""

    def build(inputs: PolicyInputs, parameters: NoParameters) -> Policy:
        return OracleBundle(simulator)

    return PolicySpec(NoParameters, build, False, ORACLE_BUNDLE, needs_hidden=BundleShopper)
