"""Places in the list of candidates as actions, with masks.

The list is the pool of re-rankers and composers: the best candidates by the ranker, best first. A
place therefore means the same at every visit, which an item id does not, and a network has tens of
outputs a position instead of thousands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agents.faces.face import Face, as_array
from agents.faces.single import FaceEnv
from agents.faces.vector import FaceVectorEnv
from policies.composer import ComposerConfig, View
from policies.inputs import PolicyInputs
from policies.pool import Pool
from policies.slates import filled
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import repeated


class MaskedFace(Face[spaces.MultiDiscrete]):
    """Action: MultiDiscrete([C] * K), places in the list of C candidates, top position first.

    Place p holds the candidate with the p-th best logit; 0, 1, .., K - 1 is greedy CTR exactly.
    Observation: Box(F), the state features of `policies.features`, then the logit of each place,
    then its cues (`policies.cues`), 0 where no candidate is.

    Args:
        simulator: the shoppers; it is reset once
        inputs: what policies are built from; it needs a ranker
        candidates: number of best candidates on the list; None takes the pool of `inputs`, and a
            number with `inputs.per_category` 0 the best ones whatever their category

    Raises:
        TypeError: As `Face`.
        ValueError: As `Face`, or if `candidates` is no whole number of 1 or more.
    """

    def __init__(
        self, simulator: SlateSimulator, inputs: PolicyInputs, candidates: int | None = None
    ) -> None:
        super().__init__(simulator, inputs, ComposerConfig(pool=candidates, offset_dims=0))

    def observe(self, view: View) -> Tensor:
        """Give features, logits and cues: (B, F)."""
        return masked_observation(view)

    def compose(self, view: View, actions: Tensor) -> Tensor:
        """Give the slates (B, K) at places (B, K)."""
        return slates_at(view.pool, actions)

    def masks(self, view: View) -> Tensor:
        """Tell which places hold a candidate, at every position: (B, K * C) bool."""
        return masks_of(view.pool, self.composer.slate_size)

    def checked(self, actions: Any, shape: tuple[int, ...], name: str) -> Tensor:
        """Return places from 0 to C - 1."""
        found = as_array(actions, shape, "iu", name)
        places = self.composer.pool_size
        wrong = np.argwhere((found < 0) | (found >= places))
        if len(wrong):
            value, at = found[tuple(wrong[0])], wrong[0].tolist()
            raise ValueError(
                f"{name} holds {value} at {at}, but a place is a number from 0 to {places - 1}."
            )
        return torch.as_tensor(found.astype(np.int64), device=self.device)

    def _action_space(self) -> spaces.MultiDiscrete:
        return place_space(self.composer.pool_size, self.composer.slate_size)


class MaskedSlateEnv(FaceEnv[spaces.MultiDiscrete]):
    """One shopper whose slate is chosen by places in the list of candidates, with `action_masks`.

    `sb3_contrib.MaskablePPO` finds the masks by itself.

    - observation: `Box` float32 (F,), features of what the shop remembers of the shopper, and the
      logit and the cues of every place
    - action: `MultiDiscrete([C] * K)`: the place of each position's item on the list, which is
      ordered by the ranker's logits; 0, 1, .., K - 1 is greedy CTR. Any sample is accepted: a place
      that is named above, or holds no candidate, falls to the best place that nobody names
    - reward, ends, info, seeding: those of `recsim_env.SlateEnv`

    Args:
        simulator: shoppers that nobody else steps
        inputs: what policies are built from; it needs a ranker
        candidates: number C of best candidates on the list; None takes the pool of `inputs`
        render_mode: as `SlateEnv`
    """

    def __init__(
        self,
        simulator: SlateSimulator,
        inputs: PolicyInputs,
        *,
        candidates: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        face = MaskedFace(simulator, inputs, candidates)
        super().__init__(simulator, face, render_mode=render_mode)

    def action_masks(self) -> NDArray[np.bool_]:
        """Tell which places hold a candidate, at every position: (K * C,) bool.

        Raises:
            ResetNeeded: Before `reset`.
        """
        masks = self.face.masks(self.view)
        assert masks is not None
        found: NDArray[np.bool_] = masks[0].cpu().numpy()
        return found


class MaskedSlateVectorEnv(FaceVectorEnv[spaces.MultiDiscrete]):
    """B shoppers at once; row b is the one that `MaskedSlateEnv` would meet under the row's seed.

    Args:
        simulator: shoppers that nobody else steps
        inputs: what policies are built from; it needs a ranker
        num_envs: B
        candidates: number C of best candidates on the list; None takes the pool of `inputs`
        options: what `FaceVectorEnv` takes: `autoreset_mode`, `max_episode_steps`, `render_mode`
    """

    def __init__(
        self,
        simulator: SlateSimulator,
        inputs: PolicyInputs,
        num_envs: int = 1,
        *,
        candidates: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(simulator, MaskedFace(simulator, inputs, candidates), num_envs, **options)

    def action_masks(self) -> NDArray[np.bool_]:
        """Tell which places hold a candidate, at every position: (B, K * C) bool.

        Raises:
            ResetNeeded: Before `reset`.
        """
        masks = self.face.masks(self.view)
        assert masks is not None
        found: NDArray[np.bool_] = masks.cpu().numpy()
        return found


def place_space(places: int, slate_size: int) -> spaces.MultiDiscrete:
    """Space of K places among C: MultiDiscrete([C] * K)."""
    return spaces.MultiDiscrete(np.full(slate_size, places, dtype=np.int64))


def masked_observation(view: View) -> Tensor:
    """Features of a visit, logits of the places, then their cues: (B, F) float32."""
    logits = view.pool.logits.where(view.pool.items >= 0, 0.0)
    return torch.cat([view.features, logits, view.cues.flatten(1)], dim=1)


def masks_of(pool: Pool, slate_size: int) -> Tensor:
    """Tell which places of a pool (B, C) hold a candidate, for each position: (B, K * C) bool.

    Where there is no candidate at all, the first place is open: a distribution needs one.
    """
    there = pool.items >= 0
    there[:, 0] = True
    return there.unsqueeze(1).expand(-1, slate_size, -1).flatten(1)


def slates_at(pool: Pool, places: Tensor) -> Tensor:
    """Give the slates (B, K) at places (B, K) of a pool (B, C).

    A place that is named above, or holds no candidate, falls to the best place that nobody names,
    so that a slate holds distinct candidates as long as there are K of them.
    """
    size, last = places.shape[1], pool.items.shape[1]

    # places that are taken as they are, and those that nobody names, best first
    taken = (pool.items.gather(1, places) >= 0) & ~repeated(places)
    named = torch.zeros(len(places), last + 1, dtype=torch.bool, device=places.device)
    named = named.scatter_(1, places.where(taken, last), True)[:, :last]
    free = ~named & (pool.items >= 0)
    best_free = (~free).to(torch.int8).argsort(dim=1, stable=True)

    # the others take the free ones in turn
    turn = (~taken).cumsum(dim=1) - 1
    instead = best_free.gather(1, turn.clamp(0, last - 1))
    items = pool.items.gather(1, places.where(taken, instead))
    none_left = ~taken & (turn >= free.sum(dim=1, keepdim=True))
    return filled(items.masked_fill(none_left, -1), size)
