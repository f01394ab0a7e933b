"""The slate composer: a greedy slate of a CTR model's best candidates, steered by a low-dimensional intent.

    score(i | slate) = logit_i + sum_j u_j a_j cue_j(i) + offset . v_i
                       + u a_count [items of i's category in the slate] + u a_similarity max cos(i,
                       slate)

The intent a (A numbers) says how much each cue counts; `offset` are its last numbers and v_i the
principal components of item i's embedding. Intent 0 is the greedy CTR ranker exactly. One unit of
intent is a strong change of behaviour: that, and not the learning rate, decides how fast a Gaussian
policy over it learns. Maximal marginal relevance (Carbonell & Goldstein 1998) is the case of
`similarity` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.cosines import Cosines
from policies.features import Recent, Summary, principal
from policies.inputs import PolicyInputs
from policies.placements import MAILERS
from policies.pool import Pool, Pooling
from policies.slates import Adjust, pick
from recsim_env import checks
from recsim_env.registry import Registry
from recsim_env.settings import AMOUNT, LARGEST, ONE_OR_MORE, settle
from recsim_env.tensors import looked_up
from recsim_env.types import Observation


@dataclass(frozen=True)
class ComposerConfig:
    """What the composer looks at and how it may be steered."""

    pool: int | None = None
    """How many of the best candidates by CTR are looked at; None = as many as every re-ranker,
    `PolicyInputs.pool`."""
    offset_dims: int = 8
    """Components of the item embedding that the intent can move the query along."""
    offset_unit: float = 0.3
    """Log-odds by which one unit of intent moves an item that is one standard deviation out along a
    component."""
    summary_dims: int = 8
    """Components of the item embedding in which the flat state describes taste."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(self, pool=ONE_OR_MORE, offset_unit=AMOUNT)


# ---- cues ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CueInputs:
    """What a cue sees. Shapes: recent (B, R) each, category (N,) int64, of_pool (B, P) int64."""

    observation: Observation
    recent: Recent
    pool: Pool
    category: Tensor
    of_pool: Tensor
    """Category of each item of the pool."""
    groups: int
    """G, how many categories there are."""
    slate_size: int


@dataclass(frozen=True)
class Cue:
    """Something about each candidate that a re-ranker may hold for or against it."""

    unit: float
    """Log-odds per unit of intent and of the cue."""
    keys: tuple[str, ...]
    """Observation keys it needs."""
    values: Callable[[CueInputs], Tensor]
    """(B, P) float32, finite, of the order of 1."""


CUES: Registry[Cue] = Registry("cue")
"""Every cue by name; a composer uses those whose keys the environment has."""


def cue(
    name: str, unit: float, *keys: str
) -> Callable[[Callable[[CueInputs], Tensor]], Callable[[CueInputs], Tensor]]:
    """Register a cue: `@cue("shown", 2.0, "recent_slates")` above a function of `CueInputs`.

    Raises:
        ValueError: If other code took the name.
    """

    def add(values: Callable[[CueInputs], Tensor]) -> Callable[[CueInputs], Tensor]:
        CUES.add(name, Cue(unit, keys, values), values)
        return values

    return add


@cue("clicked", 2.0, "recent_slates", "recent_clicks")
def clicked_category(inputs: CueInputs) -> Tensor:
    """Recent responses in the item's category, decayed by slate."""
    by_category = inputs.recent.by_group(inputs.category, inputs.groups, inputs.recent.clicked)
    return by_category.gather(1, inputs.of_pool)


@cue("shown", 2.0, "recent_slates")
def shown_category(inputs: CueInputs) -> Tensor:
    """Recent exposures of the item's category, decayed by slate, in slates."""
    by_category = inputs.recent.by_group(
        inputs.category, inputs.groups, inputs.recent.shown / inputs.slate_size
    )
    return by_category.gather(1, inputs.of_pool)


@cue("repeated", 1.0, "recent_slates")
def shown_item(inputs: CueInputs) -> Tensor:
    """Recent exposures of the item itself, decayed by slate."""
    return inputs.recent.of_items(inputs.pool.ids, inputs.recent.shown, len(inputs.category))


@cue("habit", 1.0, "bought_items", "bought_counts")
def own_purchases(inputs: CueInputs) -> Tensor:
    """Log of one plus how often the shopper bought the item."""
    items, counts = inputs.observation["bought_items"], inputs.observation["bought_counts"]
    return torch.log1p(_of_bought(inputs.pool.ids, items, counts.clamp(min=0)))


@cue("lately", 1.0, "bought_items", "bought_days")
def bought_lately(inputs: CueInputs) -> Tensor:
    """1 where the shopper bought the item today, e^-1 a week ago, 0 never."""
    items, days = inputs.observation["bought_items"], inputs.observation["bought_days"]
    return _of_bought(inputs.pool.ids, items, torch.exp(-days.clamp(0, 365) / 7.0))


@cue("popular", 0.5, "popularity")
def popular_item(inputs: CueInputs) -> Tensor:
    """Log of the item's popularity less that of the pool's mean."""
    popularity = inputs.observation["popularity"].gather(1, inputs.pool.columns)
    logs = torch.log(popularity.clamp(min=0) + 1e-3)
    present = inputs.pool.items >= 0
    mean = (logs * present).sum(dim=1, keepdim=True) / present.sum(dim=1, keepdim=True).clamp(min=1)
    return (logs - mean) * present


@cue("promoted", 1.0, "placement")
def promotions_of_item(inputs: CueInputs) -> Tensor:
    """In how many ways the item is promoted: on display, in the mailer, or both."""
    placement = inputs.observation["placement"].gather(1, inputs.pool.columns)
    return (placement // MAILERS > 0).float() + (placement % MAILERS > 0).float()


@cue("sated", 2.0, "category_clicked")
def sated_category(inputs: CueInputs) -> Tensor:
    """Responses in the item's category in the last ten visits or so."""
    return inputs.observation["category_clicked"][:, :, 1].gather(1, inputs.of_pool)


@cue("flooded", 3.0, "category_shown")
def flooded_category(inputs: CueInputs) -> Tensor:
    """Exposures of the item's category in the last ten visits or so, in slates."""
    shown = inputs.observation["category_shown"][:, :, 1] / inputs.slate_size
    return shown.gather(1, inputs.of_pool)


@cue("loyal", 2.0, "category_clicked")
def loyal_category(inputs: CueInputs) -> Tensor:
    """Log of one plus all responses in the item's category so far."""
    ever = torch.log1p(inputs.observation["category_clicked"][:, :, 2])
    return ever.gather(1, inputs.of_pool)


def _of_bought(items: Tensor, bought: Tensor, values: Tensor) -> Tensor:
    """Values (B, M) of the remembered items bought (B, M) at items (B, P); 0 where an item was never bought."""
    same = (items.unsqueeze(2) == bought.unsqueeze(1)).to(values.dtype)
    return (same @ values.unsqueeze(2)).squeeze(2)


# ---- composer --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """A visit as the composer sees it: all that does not depend on the intent.

    Shapes: B shoppers, P pool, J cues, D offset dimensions, F features.
    """

    pool: Pool
    cues: Tensor
    """(B, P, J) float32, in log-odds per unit of intent."""
    vectors: Tensor
    """(B, P, D) float32, likewise."""
    category: Tensor
    """(B, P) int64."""
    features: Tensor
    """(B, F) float32, what a network sees."""


class Composer:
    """Composes slates from intents. Give it nothing but spaces, item embeddings and a ranker.

    Intent: (B, A) with A = `intent_size`; `knobs` names the first numbers, `count` and `similarity`
    and then the cues; the rest is the offset. `pool_size` is P.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If there is no ranker.
    """

    def __init__(self, inputs: PolicyInputs, config: ComposerConfig | None = None) -> None:
        self.config = ComposerConfig() if config is None else config
        checks.instance("inputs", inputs, PolicyInputs)
        checks.instance("config", self.config, ComposerConfig)
        self._inputs = inputs
        self._ranker = inputs.need_ranker("composer")
        self._cosines = Cosines(inputs.catalog)
        self._category = inputs.catalog.category
        self._groups = len(inputs.catalog.categories)
        self.summary = Summary(
            inputs.catalog,
            inputs.observation_space,
            inputs.slate_size,
            max(self.config.summary_dims, 1),
        )
        self.offset_vectors = self.config.offset_unit * principal(
            inputs.catalog.embedding, self.config.offset_dims
        )
        self.cues = {
            name: cue
            for name, cue in CUES.items()
            if set(cue.keys) <= inputs.observation_space.keys()
        }
        self.knobs = ("count", "similarity", *self.cues)
        units = [2.0, 1.0, *(cue.unit for cue in self.cues.values())]  # log-odds per unit of intent
        self.units = torch.tensor(units, dtype=torch.float32)
        self.intent_size = len(self.knobs) + self.offset_vectors.shape[1]
        self._pooling = Pooling(inputs, self.config.pool)
        self.pool_size = self._pooling.size

    @property
    def slate_size(self) -> int:
        """K."""
        return self._inputs.slate_size

    def intent(self, knobs: Mapping[str, float]) -> Tensor:
        """The constant intent (A,) that puts each named knob at so many log-odds per unit of its cue, the rest at 0.

        Raises:
            TypeError: If `knobs` is no mapping.
            ValueError: At a knob that is no finite number, and at one that is not 0 and that this
                environment does not have.
        """
        knobs = checks.mapping("knobs", knobs)
        knobs = {
            name: checks.number(f"knobs[{name!r}]", value, -LARGEST, LARGEST)
            for name, value in knobs.items()
        }
        unknown = sorted(
            name for name, value in knobs.items() if name not in self.knobs and value != 0
        )
        if unknown:
            raise ValueError(f"knobs names {unknown}, but this environment has {list(self.knobs)}.")
        intent = torch.zeros(self.intent_size, dtype=torch.float32)
        for at, name in enumerate(self.knobs):
            intent[at] = knobs.get(name, 0.0) / self.units[at]
        return intent

    @torch.no_grad()
    def pool(self, observation: Observation) -> Pool:
        """Rank the candidates of a visit and take the pool."""
        return self._pooling.of(self._ranker, observation)

    @torch.no_grad()
    def view(self, observation: Observation, pool: Pool | None = None) -> View:
        """Look at a visit: take its pool, if it is not given, and work out every cue."""
        pool = self.pool(observation) if pool is None else pool
        recent = Recent.of(observation)
        category = looked_up(self._category, pool.ids)
        inputs = CueInputs(
            observation, recent, pool, self._category, category, self._groups, self.slate_size
        )
        cues = torch.stack(
            [cue.unit * cue.values(inputs) for cue in self.cues.values()], dim=1
        )  # cheaper than dim=2
        vectors = looked_up(self.offset_vectors, pool.ids)
        return View(
            pool, cues.transpose(1, 2), vectors, category, self.summary(observation, pool, recent)
        )

    def features(self, observation: Observation) -> Tensor:
        """What a network sees of a visit: (B, F) float32."""
        return self.view(observation).features

    def compose(self, observation: Observation, intent: Tensor) -> Tensor:
        """Slates (B, K) from intents (B, A).

        Errors: TypeError or ValueError where the observation or the intents are not as said.
        """
        view = self.view(observation)
        checks.tensor(
            "intent", intent, (len(view.features), self.intent_size), torch.float32, finite=False
        )
        return self.compose_view(view, intent)

    @torch.no_grad()
    def compose_view(self, view: View, intent: Tensor) -> Tensor:
        """`compose` where the visit was looked at already."""
        units = self.units.to(intent.device)
        in_slate = intent[:, :2] * units[:2]
        fixed = intent[:, 2 : len(self.knobs)]
        offset = intent[:, len(self.knobs) :]
        scores = view.pool.logits + torch.einsum("bpj,bj->bp", view.cues, fixed)
        scores = scores + torch.einsum("bpd,bd->bp", view.vectors, offset)
        return pick(view.pool, self.slate_size, _Steered(view, scores, in_slate, self._cosines))


class _Steered(Adjust):
    """Scores as the slate fills: what stands fixed, plus the category count and the similarity to the slate."""

    def __init__(self, view: View, fixed: Tensor, weights: Tensor, cosines: Cosines) -> None:
        self._category, self._ids = view.category, view.pool.ids
        self._fixed = fixed  # (B, P)
        self._of_count, self._of_similarity = weights[:, :1], weights[:, 1:]  # (B, 1) each
        self._cosines = cosines
        self._count = torch.zeros_like(fixed)
        self._similarity = torch.zeros_like(fixed)
        self._same = torch.zeros_like(fixed)

    def scores(self) -> Tensor:
        return (
            (self._of_count * self._count)
            .add_(self._fixed)
            .add_(self._of_similarity * self._similarity)
        )

    def add(self, chosen: Tensor) -> None:
        at = chosen.unsqueeze(1)
        self._count += torch.eq(
            self._category, self._category.gather(1, at), out=self._same
        )  # 1.0 where they are
        cosine = self._cosines.between(self._ids.gather(1, at).squeeze(1), self._ids)
        torch.maximum(self._similarity, cosine, out=self._similarity)
