"""An autoregressive policy: it draws the slate item after item, each in view of those above it.

    p(i_1 .. i_K) = prod_k exp(s(i_k | above)) / sum over j not above of exp(s(j | above)),
    above = i_1 .. i_{k-1}

    s(i | slate) = scale (logit_i + cues_i . w + v_i . q
                          + u_c a_count [items of i's category in the slate]
                          + u_s a_similarity max(0, max cos(i, slate)))

(a_count, a_similarity, w, q) = a(x) is the output of one network of the state x: an intent, read as
`Composer` reads it. The most likely slate is therefore the one that the composer makes of a(x). The
two differ in where they explore: here in every position, there in the intent. With a = 0 the policy
is a Plackett-Luce softmax of the CTR logits. The factorisation into conditionals is equation 1 of
Bello et al. 2018, "Seq2Slate: re-ranking and slate optimization with RNNs"; masking what stands
above (section 3) makes it a draw without replacement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from policies.composer import Composer
from policies.learnable.kinds import ActorInputs, register_learnable
from policies.learnable.plackett_luce import EXCLUDED, SlateActorPolicy, pick_order, places_of
from policies.pool import Pool
from policies.rankers.networks import Standardizer, tower
from policies.slates import SlateScores, pick
from recsim_env import checks
from recsim_env.catalog import GRAM_LIMIT
from recsim_env.noise import gumbel
from recsim_env.settings import POSITIVE, settle
from recsim_env.types import Observation


def judge_along(scores: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """As `policies.learnable.plackett_luce.judge`, for scores that differ by position.

    Shapes:
        scores:  (B, K, P), -inf = absent
        places:  (B, K) int64, -1 = nothing was left to pick
        returns: (B,) each
    """
    picked = places >= 0
    order = pick_order(places, scores.shape[2]).masked_fill(scores[:, 0] == -math.inf, -1)
    closed = order.unsqueeze(1) < torch.arange(places.shape[1], device=places.device).unsqueeze(1)
    logs = scores.masked_fill(closed, EXCLUDED).log_softmax(dim=2)
    of_pick = logs.gather(2, places.clamp(min=0).unsqueeze(2)).squeeze(2)
    entropy = -(logs.exp() * logs).sum(dim=2)
    return (of_pick * picked).sum(dim=1), (entropy * picked).sum(dim=1)


@dataclass(frozen=True)
class AutoregressiveConfig:
    """Configuration of an autoregressive policy."""

    scale: float = 2.0
    """Inverse temperature: the scores are this many times the log-odds."""
    count: float = 0.0
    """Log-odds that an item gains, at the start, per item of its category above it. A number below
    0 is a penalty."""
    similarity: float = 0.0
    """Log-odds that an item gains, at the start, per unit of its largest cosine with the items
    above it."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(self, scale=POSITIVE)


@dataclass(frozen=True)
class ItemTables:
    """Tables in which the scores look up items.

    Shapes: N items, D components, E embedding width.
        vectors:   (N, D) float32, `Composer.offset_vectors`
        category:  (N,) int64
        embedding: (N, E) float32 of unit length
    """

    vectors: Tensor
    category: Tensor
    embedding: Tensor


class AutoregressiveActor(nn.Module):
    """Draws slates position by position, as the module says.

    Args:
        width: number of features F
        cues: number of cues J
        items: tables in which the scores look up items
        units: (2,) log-odds per unit of a_count and a_similarity, the first two of `Composer.units`
        slate_size: number of slate positions K
        hidden: widths of the hidden layers
        config: how the scores start
        generator: of the initial weights

    It observes what `policies.learnable.plackett_luce.slate_observation` makes of a visit. Its
    intents have the width A = 2 + J + D.
    """

    vectors: Tensor
    category: Tensor
    cosine_table: Tensor
    units: Tensor

    def __init__(
        self,
        width: int,
        cues: int,
        items: ItemTables,
        units: Tensor,
        slate_size: int,
        hidden: tuple[int, ...],
        config: AutoregressiveConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._tabled = len(items.embedding) <= GRAM_LIMIT
        table = items.embedding @ items.embedding.T if self._tabled else items.embedding
        self.register_buffer("vectors", items.vectors, persistent=False)
        self.register_buffer("category", items.category, persistent=False)
        self.register_buffer("cosine_table", table, persistent=False)
        self.register_buffer("units", units.clone(), persistent=False)
        self.standardize = Standardizer(width)
        self.tower = tower(width, hidden, 2 + cues + items.vectors.shape[1], generator, gain=0.0)
        self.config = config
        self.slate_size = slate_size
        self._cues = cues
        start = torch.zeros(2 + cues + items.vectors.shape[1], dtype=torch.float32)
        start[:2] = (
            torch.tensor([config.count, config.similarity], dtype=torch.float32) / units.cpu()
        )
        self.start_at(start)

    @torch.no_grad()
    def start_at(self, intent: Tensor) -> None:
        """Set the bias of a(x) to an intent (A,); the weights of the last layer start at 0."""
        last = self.tower[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(intent)

    def intent(self, features: Tensor) -> Tensor:
        """Intents a(x) in states (B, F): (B, A)."""
        intent: Tensor = self.tower(self.standardize(features))
        return intent

    def act(self, observation: Observation, draws: Tensor | None) -> Tensor:
        """Choose slates (B, K): the most likely items, or a sample by uniform draws (B, K * P)."""
        items = observation["pool"].long()
        fixed, in_slate = self._weighted(observation)
        context = _Scores(self, items, fixed, in_slate, draws)
        return pick(
            Pool(items, observation["logits"], torch.zeros_like(items)), self.slate_size, context
        )

    def judge(self, observation: Observation, slates: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of slates (B, K) and entropy along them, at once: (B,) each."""
        items = observation["pool"].long()
        places = places_of(items, slates.long())
        return judge_along(self.scores_along(observation, places), places)

    def scores_along(self, observation: Observation, places: Tensor) -> Tensor:
        """Scores of the pool at each position of given slates, of taken items too: (B, K, P).

        Args:
            observation: what the actor sees of the visits
            places: (B, K) int64 place in the pool of each item of the slates; scores behind a -1
                have no meaning
        """
        items = observation["pool"].long()
        fixed, in_slate = self._weighted(observation)
        chosen = items.clamp(min=0).gather(1, places.clamp(min=0))
        count = _above(self.alike(chosen, items), torch.add)
        similarity = _above(self.cosines(chosen, items), torch.maximum)
        of_count, of_similarity = in_slate.view(-1, 2, 1, 1).unbind(dim=1)
        return fixed.unsqueeze(1) + of_count * count + of_similarity * similarity

    def alike(self, chosen: Tensor, items: Tensor) -> Tensor:
        """1 where an item of the pool (B, P) has the category of a chosen one (B, K): (B, K, P)."""
        category = self.category[items.clamp(min=0)]
        return (self.category[chosen].unsqueeze(2) == category.unsqueeze(1)).float()

    def cosines(self, chosen: Tensor, items: Tensor) -> Tensor:
        """Cosines of chosen items (B, K) with those of the pool (B, P): (B, K, P) float32."""
        items = items.clamp(min=0)
        table = self.cosine_table
        if self._tabled:
            return table[chosen.unsqueeze(2), items.unsqueeze(1)]
        return table[chosen] @ table[items].transpose(1, 2)

    def _weighted(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Scores without the slate (B, P), -inf = absent, and the weights on the slate (B, 2)."""
        items = observation["pool"].long()
        in_slate, cues, offset = self.intent(observation["features"]).tensor_split(
            [2, 2 + self._cues], dim=1
        )
        score = observation["logits"] + torch.einsum("bpj,bj->bp", observation["cues"], cues)
        score = score + torch.einsum("bpd,bd->bp", self.vectors[items.clamp(min=0)], offset)
        return (self.config.scale * score).masked_fill(
            items < 0, -math.inf
        ), self.config.scale * in_slate * self.units


class _Scores(SlateScores):
    """Scores as the slate fills, with the noise of each position, for `policies.slates.pick`."""

    def __init__(
        self,
        actor: AutoregressiveActor,
        items: Tensor,
        fixed: Tensor,
        in_slate: Tensor,
        draws: Tensor | None,
    ) -> None:
        self._actor, self._items, self._fixed = actor, items, fixed
        self._of_count, self._of_similarity = in_slate.split(1, dim=1)  # (B, 1) each
        self._noise = (
            None if draws is None else gumbel(draws).view(len(draws), -1, items.shape[1])
        )  # (B, K, P)
        self._position = 0
        self._count = torch.zeros_like(fixed)
        self._similarity = torch.zeros_like(fixed)

    def scores(self) -> Tensor:
        scores: Tensor = (
            self._fixed + self._of_count * self._count + self._of_similarity * self._similarity
        )
        return scores if self._noise is None else scores + self._noise[:, self._position]

    def add(self, chosen: Tensor) -> None:
        items = self._items.clamp(min=0).gather(1, chosen.unsqueeze(1))  # (B, 1)
        self._count = self._count + self._actor.alike(items, self._items).squeeze(1)
        self._similarity = torch.maximum(
            self._similarity, self._actor.cosines(items, self._items).squeeze(1)
        )
        self._position += 1


def _above(values: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine the values (B, K, P) of the positions above each position; 0 at the top."""
    *above, _ = values.unbind(dim=1)
    return torch.stack(
        list(accumulate(above, combine, initial=torch.zeros_like(values[:, 0]))), dim=1
    )


class AutoregressivePolicy(SlateActorPolicy):
    """An `AutoregressiveActor` on what a `Composer` sees.

    Args:
        composer: looks at a visit
        actor: chooses the slates
        deterministic: whether it shows the most likely slates, and not a sample

    Raises:
        TypeError: If an argument is of another class.
    """

    def __init__(
        self, composer: Composer, actor: AutoregressiveActor, *, deterministic: bool = True
    ) -> None:
        checks.instance("composer", composer, Composer)
        checks.instance("actor", actor, AutoregressiveActor)
        self.composer = composer
        self.actor = actor
        self.draws = 0 if deterministic else composer.slate_size * composer.pool_size


@register_learnable("autoregressive", AutoregressiveConfig, AutoregressivePolicy, intents=False)
def autoregressive_actor(inputs: ActorInputs, config: AutoregressiveConfig) -> AutoregressiveActor:
    """Build an untrained actor over slates."""
    composer, catalog = inputs.composer, inputs.catalog
    return AutoregressiveActor(
        inputs.width,
        len(composer.cues),
        ItemTables(composer.offset_vectors, catalog.category, catalog.embedding),
        composer.units[:2],
        composer.slate_size,
        inputs.hidden,
        config,
        inputs.generator,
    )
