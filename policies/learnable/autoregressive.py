"""An autoregressive policy: it draws the slate item after item, each in view of those above it.

    p(i_1 .. i_K) = prod_k exp(s(i_k | above)) / sum over j not above of exp(s(j | above)),
    above = i_1 .. i_{k-1}

    s(i | slate) = scale log_odds(i | slate)
    log_odds(i | slate) = logit_i + cues_i . w + v_i . q
                          + u_c a_count [items of i's category in the slate]
                          + u_s a_similarity max(0, max cos(i, slate))
                          + u_t a_together sum over j in the slate of lift(category j, category i)

(a_count, a_similarity, a_together, w, q) = a(x) is the output of one network of the state x: an
intent, read as `Composer` reads it. Where clicks on all items earn the same, the most likely slate
is therefore the one that the composer makes of a(x). The two differ in where they explore: here in
every position, there in the intent. With a = 0 the policy is a Plackett-Luce softmax of the CTR
logits. The factorisation into conditionals is equation 1 of Bello et al. 2018, "Seq2Slate:
re-ranking and slate optimization with RNNs"; masking what stands above (section 3) makes it a draw
without replacement.

Where a click on item i earns w_i, such as its price, and the composer is greedy in the reward,

    s(i | slate) = scale log(w_i sigmoid(log_odds(i | slate)))

The term of the lift is there where slates are bundles and a log told the lift (`policies.lift`).
Bundles have a level of discount too, l = 0 .. L - 1, which does not depend on the items:

    p(l) = exp(d_l + START [l = 0]) / sum over m of exp(d_m + START [m = 0])

d = d(x) are L further numbers of the network, so that none is the most likely level at the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from policies.composer import Composer
from policies.gains import click_worth
from policies.learnable.kinds import ActorInputs, register_learnable
from policies.learnable.plackett_luce import EXCLUDED, SlateActorPolicy, pick_order, places_of
from policies.pool import Pool
from policies.rankers.networks import Standardizer, tower
from policies.slates import SlateScores, pick
from recsim_env import checks
from recsim_env.catalog import GRAM_LIMIT, Catalog
from recsim_env.noise import gumbel
from recsim_env.settings import POSITIVE, settle
from recsim_env.types import Observation

START = 1.0
"""How much likelier no discount is at the start than any other level, as log-odds."""
ON_SLATE = ("count", "similarity", "together")
"""The composer's knobs on the slate so far that the scores have too, where they are there."""
LEAST = 1e-6
"""What a click on an item earns at least, as a part of the most that one earns."""


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

    Shapes: N items, D components, E embedding width, G categories.
        vectors:   (N, D) float32, `Composer.offset_vectors`
        category:  (N,) int64
        embedding: (N, E) float32 of unit length
        lift:      (G, G) float32, log lift of each pair of categories; None = there is none
        worth:     (N,) float32, logarithm of what a click earns; None = all earn the same
    """

    vectors: Tensor
    category: Tensor
    embedding: Tensor
    lift: Tensor | None = None
    worth: Tensor | None = None


class AutoregressiveActor(nn.Module):
    """Draws slates position by position, as the module says.

    Args:
        width: number of features F
        cues: number of cues J
        items: tables in which the scores look up items
        units: (S,) log-odds per unit of a_count, a_similarity and, where there is a lift,
            a_together, as in `Composer.units`
        slate_size: number of slate positions K
        hidden: widths of the hidden layers
        config: how the scores start
        generator: of the initial weights
        levels: number of levels of discount L; 0 = slates name none

    It observes what `policies.learnable.plackett_luce.slate_observation` makes of a visit. Its
    intents have the width A = S + J + D, and the network L numbers more. Slates have the shape
    (B, K), or (B, K + 1) with the level behind the items.
    """

    vectors: Tensor
    category: Tensor
    cosine_table: Tensor
    units: Tensor
    lift: Tensor | None
    worth: Tensor | None

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
        levels: int = 0,
    ) -> None:
        super().__init__()
        self._tabled = len(items.embedding) <= GRAM_LIMIT
        table = items.embedding @ items.embedding.T if self._tabled else items.embedding
        self.register_buffer("vectors", items.vectors, persistent=False)
        self.register_buffer("category", items.category, persistent=False)
        self.register_buffer("cosine_table", table, persistent=False)
        self.register_buffer("units", units.clone(), persistent=False)
        self.register_buffer("lift", items.lift, persistent=False)
        self.register_buffer("worth", items.worth, persistent=False)
        self.standardize = Standardizer(width)
        self.config = config
        self.slate_size = slate_size
        self.levels = levels
        self._intent_parts = [len(units), cues, items.vectors.shape[1]]
        size = sum(self._intent_parts)
        self.tower = tower(width, hidden, size + levels, generator, gain=0.0)
        start = torch.zeros(size, dtype=torch.float32)
        told = torch.tensor([config.count, config.similarity], dtype=torch.float32)
        start[:2] = told / units[:2].cpu()
        self.start_at(start)

    @torch.no_grad()
    def start_at(self, intent: Tensor) -> None:
        """Set the bias of a(x) to an intent (A,); the weights of the last layer start at 0."""
        last = self.tower[-1]
        assert isinstance(last, nn.Linear)
        last.bias[: len(intent)] = intent.to(last.bias)

    def intent(self, features: Tensor) -> Tensor:
        """Intents a(x) in states (B, F): (B, A)."""
        return self._told(features)[0]

    def _told(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Intents a(x) (B, A) and the scores of the levels (B, L) in states (B, F)."""
        told: Tensor = self.tower(self.standardize(features))
        intent, levels = told.split([sum(self._intent_parts), self.levels], dim=1)
        return intent, levels + START * (torch.arange(self.levels, device=levels.device) == 0)

    def act(self, observation: Observation, draws: Tensor | None) -> Tensor:
        """Choose slates (B, K) or (B, K + 1).

        Args:
            observation: what the actor sees of the visits
            draws: (B, K * P + L) uniform numbers, by which a sample is drawn; None = the most
                likely items, one after the other, and the most likely level
        """
        items = observation["pool"].long()
        intent, levels = self._told(observation["features"])
        fixed, in_slate = self._weighted(observation, intent)
        of_items = None if draws is None else draws[:, : self.slate_size * items.shape[1]]
        context = _Scores(self, items, fixed, in_slate, of_items)
        slates = pick(
            Pool(items, observation["logits"], torch.zeros_like(items)), self.slate_size, context
        )
        if not self.levels:
            return slates
        if draws is not None:
            levels = levels + gumbel(draws[:, -self.levels :])
        return torch.cat([slates, levels.argmax(dim=1, keepdim=True)], dim=1)

    def judge(self, observation: Observation, slates: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of slates (B, K) or (B, K + 1), and entropy along them: (B,) each."""
        items = observation["pool"].long()
        places = places_of(items, slates[:, : self.slate_size].long())
        intent, levels = self._told(observation["features"])
        along = self._scores_along(observation, places, intent)
        log_probability, entropy = judge_along(along, places)
        if self.levels:
            logs = levels.log_softmax(dim=1)
            level = slates[:, self.slate_size :].long()
            log_probability = log_probability + logs.gather(1, level).squeeze(1)
            entropy = entropy - (logs.exp() * logs).sum(dim=1)
        return log_probability, entropy

    def scores_along(self, observation: Observation, places: Tensor) -> Tensor:
        """Scores of the pool at each position of given slates, of taken items too: (B, K, P).

        Args:
            observation: what the actor sees of the visits
            places: (B, K) int64 place in the pool of each item of the slates; scores behind a -1
                have no meaning
        """
        return self._scores_along(observation, places, self.intent(observation["features"]))

    def _scores_along(self, observation: Observation, places: Tensor, intent: Tensor) -> Tensor:
        items = observation["pool"].long()
        fixed, in_slate = self._weighted(observation, intent)
        chosen = items.clamp(min=0).gather(1, places.clamp(min=0))
        count = _above(self.alike(chosen, items), torch.add)
        similarity = _above(self.cosines(chosen, items), torch.maximum)
        of_count, of_similarity, *of_lift = in_slate.unsqueeze(2).unsqueeze(3).unbind(dim=1)
        log_odds = fixed.unsqueeze(1) + of_count * count + of_similarity * similarity
        for weight in of_lift:
            log_odds = log_odds + weight * _above(self.lifts(chosen, items), torch.add)
        return self.scored(log_odds, items.unsqueeze(1))

    def scored(self, log_odds: Tensor, items: Tensor) -> Tensor:
        """Scores (B, .., P) of items with log-odds (B, .., P), -inf = absent."""
        if self.worth is not None:
            earned = nn.functional.logsigmoid(log_odds) + self.worth[items.clamp(min=0)]
            log_odds = earned.masked_fill(items < 0, -math.inf)
        return self.config.scale * log_odds

    def lifts(self, chosen: Tensor, items: Tensor) -> Tensor:
        """Log lift of chosen items (B, K) with those of the pool (B, P): (B, K, P) float32."""
        assert self.lift is not None  # there is a unit for it
        category = self.category[items.clamp(min=0)]
        return self.lift[self.category[chosen].unsqueeze(2), category.unsqueeze(1)]

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

    def _weighted(self, observation: Observation, intent: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds without the slate (B, P), -inf = absent, and weights on the slate (B, S)."""
        items = observation["pool"].long()
        in_slate, cues, offset = intent.split(self._intent_parts, dim=1)
        score = observation["logits"] + torch.einsum("bpj,bj->bp", observation["cues"], cues)
        score = score + torch.einsum("bpd,bd->bp", self.vectors[items.clamp(min=0)], offset)
        return score.masked_fill(items < 0, -math.inf), in_slate * self.units


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
        self._of_count, self._of_similarity, *self._of_lift = in_slate.split(1, dim=1)  # (B, 1)
        self._noise = (
            None if draws is None else gumbel(draws).view(len(draws), -1, items.shape[1])
        )  # (B, K, P)
        self._position = 0
        self._count = torch.zeros_like(fixed)
        self._similarity = torch.zeros_like(fixed)
        self._lift = torch.zeros_like(fixed)

    def scores(self) -> Tensor:
        log_odds: Tensor = (
            self._fixed + self._of_count * self._count + self._of_similarity * self._similarity
        )
        for weight in self._of_lift:
            log_odds = log_odds + weight * self._lift
        scores = self._actor.scored(log_odds, self._items)
        return scores if self._noise is None else scores + self._noise[:, self._position]

    def add(self, chosen: Tensor) -> None:
        items = self._items.clamp(min=0).gather(1, chosen.unsqueeze(1))  # (B, 1)
        self._count = self._count + self._actor.alike(items, self._items).squeeze(1)
        self._similarity = torch.maximum(
            self._similarity, self._actor.cosines(items, self._items).squeeze(1)
        )
        if self._of_lift:
            self._lift = self._lift + self._actor.lifts(items, self._items).squeeze(1)
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
        self.draws = 0
        if not deterministic:
            self.draws = composer.slate_size * composer.pool_size + actor.levels


@register_learnable(
    "autoregressive", AutoregressiveConfig, AutoregressivePolicy, intents=False, levels=True
)
def autoregressive_actor(inputs: ActorInputs, config: AutoregressiveConfig) -> AutoregressiveActor:
    """Build an untrained actor over slates."""
    composer, catalog = inputs.composer, inputs.catalog
    on_slate = [composer.knobs.index(name) for name in ON_SLATE if name in composer.knobs]
    tables = ItemTables(
        composer.offset_vectors,
        catalog.category,
        catalog.embedding,
        composer.lift,
        log_worth(composer, catalog),
    )
    return AutoregressiveActor(
        inputs.width,
        len(composer.cues),
        tables,
        composer.units[on_slate],
        composer.slate_size,
        inputs.hidden,
        config,
        inputs.generator,
        composer.levels,
    )


def log_worth(composer: Composer, catalog: Catalog) -> Tensor | None:
    """Logarithm of what a click on each item earns, (N,) float32; None where all earn the same.

    They count as the same where the composer is not greedy in the reward, too.
    """
    if composer.config.form != "reward":
        return None
    worth = click_worth(composer.reward, catalog)
    most = worth.max()
    if bool(most <= 0) or torch.equal(worth, most.expand_as(worth)):
        return None
    return worth.clamp(min=LEAST * float(most)).log()
