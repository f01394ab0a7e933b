"""The composer: greedy slates of a ranker's best candidates, steered by an intent.

An intent a moves the log-odds of a click,

    log_odds(i | slate) = logit_i + sum_j u_j a_j cue_j(i) + offset . v_i
                          + u a_count [items of i's category in the slate]
                          + u a_similarity max cos(i, slate)
                          + budget(i | slate) + together(i | slate)

(`policies.budget`, and for bundles `policies.together`), and each position of the slate takes the
item that adds most to the reward of the visit:

    score(i | slate) = sum_t w_t exp(u a_t) gain_t(i | slate, look sigmoid(log_odds(i | slate)))
                       + u a_worth look sigmoid(log_odds(i | slate))

The last line is there where the reward does not pay for clicks in every row: what they are worth
for later visits. w_t is the weight of a reward term, gain_t its gain (`policies.gains`), and look
the chance that the position is looked at, where the ranker knows it. `offset` are the last numbers
of an intent and v_i the principal components of item i's embedding. Intent 0 is the slate that is
greedy in the reward itself. One unit of intent changes the behaviour strongly: this size, and not
the learning rate, decides how fast a Gaussian policy over intents learns.

With `form="log_odds"` the score is the log-odds themselves, and intent 0 the greedy CTR ranker.
Maximal marginal relevance (Carbonell & Goldstein 1998) is the case in which only `similarity` is
not 0. Log-odds and the reward are of different units, so this form has to be told by its knobs what
the other knows from the reward.

With `goals` the weights w_t are those of the row, which its observation brings along
(`policies.goals`), in place of those of the reward. They are among the features in both forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from policies.budget import Budget, Remembered
from policies.cosines import Cosines
from policies.cues import (
    BUDGET_KNOBS,
    BUNDLE_KNOBS,
    CUES,
    SLATE_KNOBS,
    WORTH_KNOBS,
    Cue,
    CueInputs,
)
from policies.features import Recent, Summary, principal
from policies.filling import LogOddsScores, SlateCue, SlateSoFar
from policies.gains import SCALE, Gains, RewardScores
from policies.goals import goals_space, told_weights, usual_weights
from policies.inputs import PolicyInputs, looks_of
from policies.pool import SHOPPERS_AT_ONCE, Pool, Pooling
from policies.slates import FARTHEST, SlateScores, pick
from policies.together import Together, at_level
from recsim_env import checks
from recsim_env.rewards import Reward, as_reward
from recsim_env.settings import AMOUNT, LARGEST, ONE_OR_MORE, Within, settle
from recsim_env.shoppers.visits.pages import SCENARIOS
from recsim_env.tensors import constant, looked_up
from recsim_env.types import Observation

Form = Literal["reward", "log_odds"]
"""What a slate is greedy in."""


@dataclass(frozen=True)
class ComposerConfig:
    """Sizes of what the composer looks at, and how far an intent moves it."""

    form: Form = "reward"
    """What the slate is greedy in: `reward`, what an item adds to the reward of the visit;
    `log_odds`, the log-odds of a click, whatever the reward."""
    pool: int | None = None
    """Number of best candidates by CTR that are looked at. None takes the number of every
    re-ranker."""
    offset_dims: int = 8
    """Number of principal components of the item embedding along which the intent can move the
    query; 0 leaves only the named knobs."""
    offset_unit: float = 0.3
    """Log-odds by which one unit of intent moves an item that is one standard deviation out along a
    component."""
    summary_dims: int = 8
    """Number of principal components in which the state of a network describes taste."""
    budget: bool = False
    """Whether intents set a budget of clicks by category, for shoppers whom a category bores beyond
    some number of clicks and not before. It has four numbers, which an agent has to learn as well.
    """
    scenario: int | None = None
    """Scenario of whole visits, as its place in `recsim_env.shoppers.visits.pages.SCENARIOS`, on
    whose pages alone intents move the slates; on other pages they are those of intent 0. None means
    all pages."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        last = len(SCENARIOS) - 1
        settle(self, pool=ONE_OR_MORE, offset_unit=AMOUNT, scenario=Within(0, last))
        checks.choice("form", self.form, get_args(Form))


@dataclass(frozen=True)
class View:
    """A visit as the composer sees it: everything that does not depend on the intent.

    Shapes: B shoppers, P pool, J cues, D offset dimensions, K positions, F features.
        cues:     (B, P, J) float32, in log-odds per unit of intent
        vectors:  (B, P, D) float32, likewise
        looks:    (B, K) or (1, K) float32, chance that each position is looked at
        features: (B, F) float32, the state that a network sees
    """

    pool: Pool
    cues: Tensor
    vectors: Tensor
    looks: Tensor
    features: Tensor
    remembered: Remembered | None = None
    """The clicks in the slates that the shop remembers, where there is a budget."""
    weights: Tensor | None = None
    """(B, G) float32, the weights of the goals of each row, where the composer has goals."""
    moved: Tensor | None = None
    """(B,) bool, whether intents move the slate, where the composer has a scenario."""

    def rows(self, part: slice | Tensor) -> View:
        """Some of the shoppers."""
        looks = self.looks if len(self.looks) == 1 else self.looks[part]
        return View(
            self.pool.rows(part),
            self.cues[part],
            self.vectors[part],
            looks,
            self.features[part],
            None if self.remembered is None else self.remembered.rows(part),
            None if self.weights is None else self.weights[part],
            None if self.moved is None else self.moved[part],
        )


class Composer:
    """Composes slates from intents; it is built from spaces, item embeddings and a ranker alone.

    Intents have the shape (B, A) with A = `intent_size`. `knobs` names the first numbers: `count`
    and `similarity`, those of a budget, of bundles and of what clicks are worth, the scales of
    reward terms, and then the cues; the rest is the offset. `pool_size` is P, and `reward` what the
    slates are composed for.

    Args:
        inputs: what the composer is built from
        config: sizes of what it looks at
        goals: names of reward terms that every row weighs by its own numbers, `goal_weights` (B, G)
            in its observation, in place of the reward; they are among the features too

    Raises:
        TypeError: If an argument is of another class.
        ValueError: If there is no ranker, a cue needs facts about the shop and there are none, a
            goal is no registered term or stands there twice, the reward's weight of it is negative,
            or the pages of the environment have no scenario and `config` names one.
    """

    def __init__(
        self,
        inputs: PolicyInputs,
        config: ComposerConfig | None = None,
        goals: Sequence[str] = (),
    ) -> None:
        self.config = ComposerConfig() if config is None else config
        checks.instance("inputs", inputs, PolicyInputs)
        checks.instance("config", self.config, ComposerConfig)

        # What the slates are made of
        self._inputs = inputs
        self.reward, space = as_reward(inputs.reward), inputs.observation_space
        self.goals = tuple(goals)
        if self.goals:
            self.usual_weights = usual_weights(self.goals, self.reward)
            self.reward = Reward(dict.fromkeys(self.goals, 1.0))
            space = goals_space(space, len(self.goals))
        if self.config.scenario is not None and "scenario" not in space.spaces:
            raise ValueError(
                f"config.scenario is {self.config.scenario}, but the pages of this environment "
                "have no scenario."
            )
        self._ranker = inputs.need_ranker("composer")
        self._pooling = Pooling(inputs, self.config.pool)
        self.pool_size = self._pooling.size
        self._cosines = Cosines(inputs.catalog)
        self._category = inputs.catalog.category
        self._categories = len(inputs.catalog.categories)

        # What an intent weighs: the slate so far, terms of the reward, the cues, an offset of the
        # query
        self.cues = _cues_for(inputs)
        self._gains = Gains(self.reward, self.goals) if self.config.form == "reward" else None
        scales = dict.fromkeys(self._gains.knobs, SCALE) if self._gains else {}
        on_slate = SLATE_KNOBS | (BUDGET_KNOBS if self.config.budget else {})
        on_slate |= {name: BUNDLE_KNOBS[name] for name in _bundle_knobs_for(inputs)}
        if self._gains is not None and not self._gains.always_clicks:
            on_slate |= WORTH_KNOBS
        known = {**on_slate, **scales, **self.cues}
        self.knobs = tuple(known)
        self._first_scale, self._first_cue = len(on_slate), len(on_slate) + len(scales)
        units = [knob.unit for knob in known.values()]
        self._units = tuple(units)
        self.offset_vectors = self.config.offset_unit * principal(
            inputs.catalog.embedding, self.config.offset_dims
        )
        self.intent_size = len(self.knobs) + self.offset_vectors.shape[1]

        # What a network sees
        self.summary = Summary(
            inputs.catalog,
            space,
            inputs.slate_size,
            max(self.config.summary_dims, 1),
        )

    @property
    def slate_size(self) -> int:
        """Number of slate positions K."""
        return self._inputs.slate_size

    @property
    def lift(self) -> Tensor | None:
        """(G, G) float32, log lift of each pair of categories in one bundle; None = not known."""
        return self._inputs.lift if "together" in self.knobs else None

    @property
    def levels(self) -> int:
        """Number of levels of discount that slates name; 0 = they name none."""
        return self._inputs.levels if "discount" in self.knobs else 0

    @property
    def units(self) -> Tensor:
        """Log-odds, or what else the knob is in, per unit of each named number: (J,) float32."""
        return torch.tensor(self._units, dtype=torch.float32)

    def intent(self, knobs: Mapping[str, float]) -> Tensor:
        """The constant intent (A,) that sets each knob to its log-odds per unit of the cue.

        Knobs that are not named are 0.

        Raises:
            TypeError: If `knobs` is no mapping.
            ValueError: If a knob is no finite number, or one that is not 0 is unknown in this
                environment.
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
        units = self.units
        for at, name in enumerate(self.knobs):
            intent[at] = knobs.get(name, 0.0) / units[at]
        return intent

    @torch.no_grad()
    def pool(self, observation: Observation) -> Pool:
        """Rank the candidates of a visit and take the pool."""
        return self._pooling.of(self._ranker, observation)

    @torch.no_grad()
    def view(self, observation: Observation, pool: Pool | None = None) -> View:
        """Look at a visit: take its pool, unless it is given, and compute every cue.

        Raises:
            ValueError: If there are goals and the observation brings no weights of them.
        """
        weights = told_weights(observation, self.goals) if self.goals else None
        pool = self.pool(observation) if pool is None else pool
        recent = Recent.of(observation)
        inputs = CueInputs(
            observation,
            recent,
            pool,
            self._category,
            looked_up(self._category, pool.ids),
            self._categories,
            self.slate_size,
            self._inputs.facts,
            self._inputs.lasting,
            self._inputs.catalog.embedding,
            self._inputs.lift,
        )
        cues = torch.stack(
            [cue.unit * cue.values(inputs) for cue in self.cues.values()], dim=1
        )  # cheaper than dim=2
        return View(
            pool,
            cues.transpose(1, 2),
            looked_up(self.offset_vectors, pool.ids),
            looks_of(self._ranker, observation, self.slate_size),
            self.summary(observation, pool, recent),
            Remembered.of(observation, self._category) if self.config.budget else None,
            weights,
            self._moved(observation),
        )

    def _moved(self, observation: Observation) -> Tensor | None:
        """Whether intents move the slate of each visit: (B,) bool; None where they always do."""
        if self.config.scenario is None:
            return None
        return observation["scenario"].squeeze(1) == self.config.scenario

    def features(self, observation: Observation) -> Tensor:
        """The state that a network sees of a visit: (B, F) float32."""
        return self.view(observation).features

    def compose(self, observation: Observation, intent: Tensor) -> Tensor:
        """Compose slates (B, K) from intents (B, A); (B, K + 1) of bundles at levels of discount.

        Raises:
            TypeError: If a value of the observation or the intents are of another type.
            ValueError: If they have another shape, or hold a number that cannot be.
        """
        view = self.view(observation)
        checks.tensor(
            "intent", intent, (len(view.features), self.intent_size), torch.float32, finite=False
        )
        return self.compose_view(view, intent)

    @torch.no_grad()
    def compose_view(self, view: View, intent: Tensor) -> Tensor:
        """Compose slates as `compose` does for a visit that was looked at already."""
        most = SHOPPERS_AT_ONCE if intent.device.type == "cpu" else max(len(intent), 1)
        if len(intent) <= most:
            return self._filled(view, intent)
        parts = [slice(start, start + most) for start in range(0, len(intent), most)]
        return torch.cat([self._filled(view.rows(part), intent[part]) for part in parts])

    def _filled(self, view: View, intent: Tensor) -> Tensor:
        """Compose the slates of some shoppers, whose numbers stay in the cache of a CPU."""
        if view.moved is not None:
            intent = intent.where(view.moved.unsqueeze(1), 0.0)
        units = constant(self._units, intent)
        on_slate, end = self._first_cue, len(self.knobs)
        of_slate = intent[:, :on_slate] * units[:on_slate]
        of_cues, offset = intent[:, on_slate:end], intent[:, end:]
        fixed = view.pool.logits.clone()
        for at in range(of_cues.shape[1]):  # cue by cue takes a tenth of a product of matrices
            fixed.addcmul_(view.cues[:, :, at], of_cues[:, at : at + 1])
        if offset.shape[1]:
            fixed = fixed + torch.einsum("bpd,bd->bp", view.vectors, offset)
        slate = SlateSoFar(view.pool, self._inputs.catalog, self._cosines, self.slate_size)
        named = {name: of_slate[:, at : at + 1] for at, name in enumerate(self.knobs[:on_slate])}
        further: list[SlateCue] = []
        if view.remembered is not None:
            of_budget = torch.cat([named[name] for name in BUDGET_KNOBS], dim=1)
            further.append(Budget(slate, view.remembered, view.looks, of_budget))
        if self._inputs.lift is not None and "together" in named:
            further.append(Together(slate, self._inputs.lift, named["together"]))
        log_odds = LogOddsScores(slate, fixed, named["count"], named["similarity"], further)
        scores: SlateScores = log_odds
        if self._gains is not None:
            scales = of_slate[:, self._first_scale :]
            scores = RewardScores(
                log_odds, self._gains, scales, view.looks, view.weights, named.get("worth")
            )
        slates = pick(view.pool, self.slate_size, scores)
        if "discount" not in named:
            return slates
        return at_level(slates, named["discount"].squeeze(1), self._inputs.levels)

    @torch.no_grad()
    def worth(self, view: View, slates: Tensor) -> Tensor:
        """The reward (B,) that the ranker expects of slates (B, K) from the pool of a visit.

        It is what intent 0 is greedy in, with nothing moved by cues or knobs; where the composer
        has goals, in the weights of each row.
        """
        nothing = torch.zeros(len(slates), 1, device=slates.device)
        slate = SlateSoFar(view.pool, self._inputs.catalog, self._cosines, self.slate_size)
        log_odds = LogOddsScores(slate, view.pool.logits, nothing, nothing)
        gains = Gains(self.reward, self.goals)
        scales = nothing.expand(-1, len(gains.knobs))
        gained = RewardScores(log_odds, gains, scales, view.looks, view.weights)
        total = torch.zeros(len(slates), device=slates.device)
        for position in range(self.slate_size):
            same = view.pool.items == slates[:, position : position + 1]
            place = same.int().argmax(dim=1)
            gain = gained.scores().gather(1, place.unsqueeze(1)).squeeze(1)
            total += gain.where(gain > -FARTHEST, 0.0)
            gained.add(place)
        return total


def _bundle_knobs_for(inputs: PolicyInputs) -> list[str]:
    """The knobs on bundles: for the lift where a log told it, and for the discount if any."""
    known = inputs.lift is not None
    there = {"together": known and inputs.levels > 0, "discount": inputs.levels > 1}
    return [name for name in BUNDLE_KNOBS if there[name]]


def _cues_for(inputs: PolicyInputs) -> dict[str, Cue]:
    """The cues whose keys the environment has, and what they need from the log.

    Raises:
        ValueError: If one of them needs facts about the shop and there are none.
    """
    found = {
        name: cue
        for name, cue in CUES.items()
        if set(cue.keys) <= inputs.observation_space.keys()
        and (inputs.lasting is not None or not cue.needs_lasting)
        and (inputs.lift is not None or not cue.needs_lift)
    }
    for name, cue in found.items():
        if cue.needs_facts:
            inputs.need_facts(f"cue {name!r}")
    return found
