"""A Plackett-Luce policy: it draws the slate itself, item after item without replacement.

    p(i_1 .. i_K) = prod_k exp(s_{i_k}) / sum over j not in {i_1 .. i_{k-1}} of exp(s_j)

Luce 1959; Plackett 1975, "The analysis of permutations"; sampling by Gumbel top-k: Kool et al.
2019, "Stochastic beams and where to find them", section 2.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policies.composer import Composer, View
from policies.learnable.kinds import Actor, ActorInputs, register_learnable
from policies.observations import check_draws
from policies.pool import Pool
from policies.rankers.networks import Standardizer, tower
from policies.slates import FARTHEST, filled
from recsim_env import checks
from recsim_env.noise import gumbel
from recsim_env.settings import POSITIVE, settle
from recsim_env.tensors import repeated
from recsim_env.types import Observation

EXCLUDED = -1e9
"""Score of an excluded item: as good as -inf, but differences of two are still numbers."""


def sample(scores: Tensor, draws: Tensor, size: int) -> Tensor:
    """Draw places in the pool without replacement, first drawn first.

    Shapes:
        scores:  (B, P), -inf = absent
        draws:   (B, P) uniform in [0, 1)
        returns: (B, size) int64, -1 where none is left
    """
    return ordered(scores + gumbel(draws), size)


def ordered(scores: Tensor, size: int) -> Tensor:
    """Order places in the pool by score (B, P), NaN last: (B, size), -1 where none is left."""
    scores = scores.nan_to_num(nan=-FARTHEST, posinf=FARTHEST, neginf=-math.inf)
    best = scores.topk(min(size, scores.shape[1]), dim=1)
    places = best.indices.where(best.values > -math.inf, -1)
    return torch.nn.functional.pad(places, (0, size - places.shape[1]), value=-1)


def judge(scores: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of ordered places, and an estimate of the entropy of the distribution.

    The estimate is the entropy of each pick given those before it, summed along the slate. Its
    expectation over slates is the entropy of the distribution (chain rule), so it is unbiased with
    one sample. Both are computed from the last pick to the first, adding one item at a time to
    those that were open, which takes O(P + K) and no tensor (B, K, P).

    Shapes:
        scores:  (B, P), -inf = absent
        places:  (B, K) int64, -1 = nothing was left to pick
        returns: (B,) each
    """
    picked = places >= 0
    scores = scores.clamp(min=EXCLUDED)
    of_pick = scores.gather(1, places.clamp(min=0)).where(picked, EXCLUDED)
    rest = scores.masked_fill(pick_order(places, scores.shape[1]) < places.shape[1], EXCLUDED)
    mass = rest.logsumexp(dim=1)  # log of the summed weights of what is open
    mean = (rest.softmax(dim=1) * rest).sum(dim=1)  # of the scores of what is open, by weight
    log_probability, entropy = torch.zeros_like(mass), torch.zeros_like(mass)
    for position in reversed(range(places.shape[1])):
        score, before = of_pick[:, position], mass
        mass = torch.logaddexp(before, score)
        mean = mean * torch.exp(before - mass) + score * torch.exp(score - mass)
        log_probability = log_probability + (score - mass) * picked[:, position]
        entropy = entropy + (mass - mean) * picked[:, position]
    return log_probability, entropy


def pick_order(places: Tensor, pool: int) -> Tensor:
    """Position at which each of `pool` places was picked: (B, K) to (B, pool), K = never."""
    size = places.shape[1]
    order = torch.full(
        (len(places), pool + 1), size, device=places.device
    )  # -1 writes to the last column
    positions = torch.arange(size, device=places.device).expand_as(places)
    return order.scatter(1, places.where(places >= 0, pool), positions)[:, :pool]


def places_of(pool: Tensor, slates: Tensor) -> Tensor:
    """Places of slates (B, K) in the pool (B, P): (B, K) int64, -1 at a repeated or absent item."""
    same = slates.unsqueeze(2) == pool.unsqueeze(1)  # (B, K, P)
    return same.to(torch.int8).argmax(dim=2).where(same.any(dim=2) & ~repeated(slates), -1)


@dataclass(frozen=True)
class PlackettLuceConfig:
    """Configuration of a Plackett-Luce policy."""

    scale: float = 6.0
    """Inverse temperature: the scores start as this many times the CTR logits."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(self, scale=POSITIVE)


class PlackettLuceActor(nn.Module):
    """Draws slates by scores of the pool: s_i = scale (logit_i + cues_i . w(x) + v_i . q(x)).

    w and q are networks of the features x that start at 0, so the policy starts as a softmax of the
    CTR logits. The vectors v are looked up by item, and are not in the observation.

    Shapes: B shoppers, P pool, J cues, D components.
        features: (B, F) float32
        pool:     (B, P) int64 item ids, -1 = absent
        logits:   (B, P) float32, 0 where absent
        cues:     (B, P, J) float32
        vectors:  (N, D) float32
    """

    vectors: Tensor

    def __init__(
        self,
        width: int,
        cues: int,
        vectors: Tensor,
        slate_size: int,
        hidden: tuple[int, ...],
        config: PlackettLuceConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)
        self.standardize = Standardizer(width)
        self.tower = tower(width, hidden, cues + vectors.shape[1], generator, gain=0.0)
        self.config = config
        self.slate_size = slate_size
        self._cues = cues

    def scores(self, observation: Observation) -> Tensor:
        """Scores of the items of the pool: (B, P), -inf = absent."""
        pool = observation["pool"].long()
        weights = self.tower(self.standardize(observation["features"]))
        score = observation["logits"] + torch.einsum(
            "bpj,bj->bp", observation["cues"], weights[:, : self._cues]
        )
        score = score + torch.einsum(
            "bpd,bd->bp", self.vectors[pool.clamp(min=0)], weights[:, self._cues :]
        )
        return (self.config.scale * score).masked_fill(pool < 0, -math.inf)

    def act(self, observation: Observation, draws: Tensor | None) -> Tensor:
        """Choose slates (B, K): the most probable order, or a sample by uniform draws (B, P)."""
        scores = self.scores(observation)
        places = (
            ordered(scores, self.slate_size)
            if draws is None
            else sample(scores, draws, self.slate_size)
        )
        slates = observation["pool"].long().gather(1, places.clamp(min=0)).where(places >= 0, -1)
        return filled(slates, self.slate_size)

    def judge(self, observation: Observation, slates: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of slates (B, K) and the entropy along them: (B,) each."""
        return judge(self.scores(observation), places_of(observation["pool"].long(), slates.long()))


def slate_observation(view: View) -> Observation:
    """What an actor over slates sees of a visit, as the keys of an observation."""
    pool: Pool = view.pool
    return {
        "features": view.features,
        "pool": pool.items,
        "logits": pool.logits.where(pool.items >= 0, 0.0),
        "cues": view.cues,
    }


class SlateActorPolicy:
    """What policies of an actor over slates share: the actor answers what a `Composer` sees."""

    composer: Composer
    """The composer that looks at a visit."""
    actor: Actor
    """The actor that chooses the slates."""
    draws: int
    """Number of uniform numbers for a slate; 0 where the policy is deterministic."""

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Choose slates (B, K)."""
        seen = slate_observation(self.composer.view(observation))
        if self.draws:
            check_draws(draws, len(seen["features"]), self.draws)
        return self.actor.act(seen, draws if self.draws else None)


class PlackettLucePolicy(SlateActorPolicy):
    """A `PlackettLuceActor` on what a `Composer` sees.

    Args:
        composer: looks at a visit
        actor: chooses the slates
        deterministic: whether it shows the most probable order, and not a sample

    Raises:
        TypeError: If an argument is of another class.
    """

    def __init__(
        self, composer: Composer, actor: PlackettLuceActor, *, deterministic: bool = True
    ) -> None:
        checks.instance("composer", composer, Composer)
        checks.instance("actor", actor, PlackettLuceActor)
        self.composer = composer
        self.actor = actor
        self.draws = 0 if deterministic else composer.pool_size


@register_learnable("plackett_luce", PlackettLuceConfig, PlackettLucePolicy, intents=False)
def plackett_luce_actor(inputs: ActorInputs, config: PlackettLuceConfig) -> PlackettLuceActor:
    """Build an untrained actor over slates."""
    composer = inputs.composer
    return PlackettLuceActor(
        inputs.width,
        len(composer.cues),
        composer.offset_vectors,
        composer.slate_size,
        inputs.hidden,
        config,
        inputs.generator,
    )
