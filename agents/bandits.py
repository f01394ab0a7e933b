"""Linear contextual bandits over slate positions: LinUCB and Thompson sampling.

A bandit learns which items are clicked, while serving, and nothing about what a slate does to later
visits. Every item of the pool has a context x (`Contexts`), every position j a chance e_j to be
looked at, and

    P(click on x at position j) = e_j theta . x                    (position-based model, Lagrée et al. 2016, section 2)

One theta serves all items (Chu et al. 2011, "Contextual bandits with linear payoff functions",
algorithm 1); Li et al. 2010 keep one for each. A click at position j is an observation click / e_j
of theta . x with the weight e_j, since its variance is about theta . x / e_j. With contexts x,
clicks c and prior mean m that makes a ridge regression:

    A = ridge I + sum e_j x x^T,    b = ridge m + sum c x,    mean = A^-1 b

For one-hot contexts and no ridge the mean is PBM-UCB's estimator S_k / sum e_j (Lagrée et al.
2016). The chances e_j are no prior knowledge: they are estimated from the same clicks, see
`Evidence.examination`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from agents.base import Ground, Learned, register_agent
from policies.base import Pool, filled, tuned
from policies.composer import Composer, ComposerConfig
from policies.features import Recent, mean_vector
from recsim_env import noise
from recsim_env.rollout import draws_for
from recsim_env.settings import ONE_OR_MORE, POSITIVE, RATE, Within, settle
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

WATCHES = 10
"""How often `Ground.watch` is called on the way."""
LOGIT_UNIT = 10.0
"""The CTR logit is a context in units of this, so that it is of the order of 1."""
ADDED = ("gram", "clicked", "total", "clicks")
"""The sums of `Evidence`."""
LEAST_EXAMINED = 0.02
"""Lower bound of an estimated chance to look at a position."""


# ---- contexts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sight:
    """The pool of a visit with a context for each item. Shapes: contexts (B, P, W) float32."""

    pool: Pool
    contexts: Tensor

    def slates(self, places: Tensor, size: int) -> Tensor:
        """Item ids (B, size) of places in the pool (B, at most size), -1 = none left."""
        return filled(self.pool.items.gather(1, places.clamp(min=0)).where(places >= 0, -1), size)

    def of(self, places: Tensor) -> Tensor:
        """Contexts (B, K, W) of places (B, K); those of place 0 at -1."""
        index = places.clamp(min=0).unsqueeze(2).expand(-1, -1, self.contexts.shape[2])
        return self.contexts.gather(1, index)


class Contexts:
    """What a bandit knows of each pool item at a visit.

    W numbers an item: the ranker's probability p, a constant, the ranker's logit, the composer's
    cues, p times the cues, and the item's principal components times those of what the shopper
    clicked lately.
    """

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.width = 3 + 2 * len(composer.cues) + composer.offset_vectors.shape[1]

    @torch.no_grad()
    def __call__(self, observation: Observation) -> Sight:
        """Look at B visits."""
        view = self.composer.view(observation)
        recent = Recent.of(observation)
        present = (view.pool.items >= 0).unsqueeze(2)
        logit = view.pool.logits.unsqueeze(2).masked_fill(~present, 0.0)
        chance = torch.sigmoid(logit)
        unit = self.composer.config.offset_unit
        taste = mean_vector(
            self.composer.offset_vectors / unit, recent.items, recent.clicked
        ).unsqueeze(1)
        parts = [
            chance,
            torch.ones_like(chance),
            logit.clamp(-LOGIT_UNIT, LOGIT_UNIT) / LOGIT_UNIT,
            view.cues,
            chance * view.cues,
            taste * view.vectors / unit,
        ]
        return Sight(view.pool, torch.cat(parts, dim=2) * present)

    def prior_mean(self) -> Tensor:
        """(W,) float32 that trusts the ranker: theta . x = p. On the catalogue's device."""
        mean = torch.zeros(self.width, device=self.composer.offset_vectors.device)
        mean[0] = 1.0
        return mean


# ---- ridge regression ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Posterior:
    """What is known of theta: a Gaussian with the precision A = L L^T, up to the noise's variance.

    Shapes:
        mean:         (W,) float32
        inverse_root: (W, W) float32, L^-1, lower triangular: its Gram matrix is A^-1
    """

    mean: Tensor
    inverse_root: Tensor

    @classmethod
    def of(cls, precision: Tensor, moment: Tensor) -> Posterior:
        """From A (W, W) float64, positive definite, and b (W,) float64."""
        root = torch.linalg.cholesky(precision)
        mean = torch.cholesky_solve(moment.unsqueeze(1), root).squeeze(1)
        identity = torch.eye(len(root), dtype=root.dtype, device=root.device)
        return cls(mean.float(), torch.linalg.solve_triangular(root, identity, upper=False).float())

    def spread(self, contexts: Tensor) -> Tensor:
        """sqrt(x^T A^-1 x) of contexts (..., W): (...)."""
        lengths: Tensor = torch.linalg.vector_norm(contexts @ self.inverse_root.T, dim=-1)
        return lengths

    def sample(self, draws: Tensor, scale: float) -> Tensor:
        """Thetas (B, W) from N(mean, scale^2 A^-1), by the uniform numbers draws (B, W)."""
        thetas: Tensor = self.mean + scale * noise.normal(draws) @ self.inverse_root
        return thetas


class Evidence:
    """Everything that was shown and clicked, as sums for each position.

    Kept by position so that a better estimate of e_j holds for the first observation as for the
    last.

    Args:
        prior_mean: m, (W,) float32
        ridge: how many observations the prior counts as
        examination: e_j that is believed at first, (K,) float32, 1 at the top
        examination_clicks: how many expected clicks a position that belief counts as; inf = known
            for sure

    Shapes: B shoppers, K positions, W context width.
    """

    def __init__(
        self, prior_mean: Tensor, ridge: float, examination: Tensor, examination_clicks: float
    ) -> None:
        width, size, device = len(prior_mean), len(examination), prior_mean.device
        self._prior_mean = prior_mean.double()
        self._ridge = ridge
        self._belief = examination.double().to(device)
        self._belief_clicks = examination_clicks
        self._gram = torch.zeros(
            size, width, width, dtype=torch.float64, device=device
        )  # sum of x x^T
        self._clicked = torch.zeros(size, width, dtype=torch.float64, device=device)  # sum of c x
        self._total = torch.zeros(size, width, dtype=torch.float64, device=device)  # sum of x
        self._clicks = torch.zeros(size, dtype=torch.float64, device=device)  # sum of c
        self.examination = self._belief
        """(K,) float64, the chance to look at each position, 1 at the top.

        With mean theta it solves clicks_j = e_j theta . (sum of x shown at j): what a position was
        expected to get if it had been looked at, against what it got, relative to the top position.
        """

    def add(self, contexts: Tensor, clicks: Tensor, shown: Tensor) -> None:
        """Add B slates: contexts (B, K, W), clicks and shown (B, K) bool; where `shown` is False nothing happened."""
        seen = (contexts * shown.unsqueeze(2)).double().transpose(0, 1)  # (K, B, W)
        clicked = (clicks & shown).double().T.unsqueeze(1)  # (K, 1, B)
        self._gram += seen.transpose(1, 2) @ seen
        self._clicked += (clicked @ seen).squeeze(1)
        self._total += seen.sum(dim=1)
        self._clicks += clicked.sum(dim=(1, 2))

    def state(self) -> dict[str, Tensor]:
        """Everything that was added, for `restore`."""
        return {name: getattr(self, f"_{name}") for name in ADDED} | {
            "examination": self.examination
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state` gave."""
        for name in ADDED:
            setattr(self, f"_{name}", state[name])
        self.examination = state["examination"]

    def posterior(self) -> Posterior:
        """The ridge regression on all that was added, given `examination`."""
        identity = torch.eye(len(self._prior_mean), dtype=torch.float64, device=self._gram.device)
        precision = self._ridge * identity + torch.einsum("k,kvw->vw", self.examination, self._gram)
        return Posterior.of(precision, self._ridge * self._prior_mean + self._clicked.sum(dim=0))

    def update(self, rounds: int = 1) -> Posterior:
        """Estimate theta and `examination` in turns, and return the posterior at the end."""
        posterior = self.posterior()
        if self._belief_clicks == float("inf"):
            return posterior
        for _ in range(rounds):
            expected = (self._total @ posterior.mean.double()).clamp(min=0) + self._belief_clicks
            rate = (self._clicks + self._belief_clicks * self._belief) / expected
            self.examination = (rate / rate[0]).clamp(LEAST_EXAMINED, 1.0)
            posterior = self.posterior()
        return posterior


# ---- policies --------------------------------------------------------------------------------------------------------


class Explorer(Protocol):
    """How a bandit scores the pool."""

    def draws(self, width: int) -> int:
        """How many uniform numbers a visit takes, for contexts of width W."""

    def scores(self, posterior: Posterior, contexts: Tensor, draws: Tensor) -> Tensor:
        """(B, P) from contexts (B, P, W) and draws (B, `draws`)."""


@dataclass(frozen=True)
class Exploit:
    """The expected click, theta's mean . x."""

    def draws(self, width: int) -> int:
        """None."""
        return 0

    def scores(self, posterior: Posterior, contexts: Tensor, draws: Tensor) -> Tensor:
        """(B, P)."""
        return contexts @ posterior.mean


@dataclass(frozen=True)
class Optimism:
    """Upper confidence bound: mean . x + alpha sqrt(x^T A^-1 x) (Li et al. 2010, equation 5)."""

    alpha: float

    def draws(self, width: int) -> int:
        """None."""
        return 0

    def scores(self, posterior: Posterior, contexts: Tensor, draws: Tensor) -> Tensor:
        """(B, P)."""
        return contexts @ posterior.mean + self.alpha * posterior.spread(contexts)


@dataclass(frozen=True)
class Sampling:
    """One theta a shopper and visit, drawn from N(mean, scale^2 A^-1) (Agrawal & Goyal 2013, algorithm 1)."""

    scale: float

    def draws(self, width: int) -> int:
        """One a dimension."""
        return width

    def scores(self, posterior: Posterior, contexts: Tensor, draws: Tensor) -> Tensor:
        """(B, P)."""
        return torch.einsum("bpw,bw->bp", contexts, posterior.sample(draws, self.scale))


class BanditPolicy:
    """Shows the K pool items with the best scores, best first; ties go to the better CTR logit."""

    def __init__(self, contexts: Contexts, posterior: Posterior, explorer: Explorer) -> None:
        self.contexts = contexts
        self.posterior = posterior
        self.explorer = explorer
        self.draws = explorer.draws(contexts.width)

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K)."""
        sight = self.contexts(observation)
        return sight.slates(self.choose(sight, draws), self.contexts.composer.slate_size)

    def choose(self, sight: Sight, draws: Tensor) -> Tensor:
        """Places in the pool (B, K), -1 where none is left."""
        scores = self.explorer.scores(self.posterior, sight.contexts, draws)
        scores = scores.masked_fill(sight.pool.items < 0, -torch.inf)
        best = scores.sort(dim=1, descending=True, stable=True)
        places = best.indices.where(best.values > -torch.inf, -1)[
            :, : self.contexts.composer.slate_size
        ]
        missing = self.contexts.composer.slate_size - places.shape[1]
        return torch.nn.functional.pad(places, (0, missing), value=-1)


# ---- learning --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BanditConfig:
    """What both bandits share."""

    pool: int = 64
    """P, how many of the best candidates by CTR are looked at."""
    ridge: float = tuned(10.0, 1.0, 1000.0, log=True)
    """How many examined positions the prior, that the CTR ranker is right, counts as."""
    looks_on: float = 0.85
    """Chance to look one position further that is believed at first: e_j starts as this to the
    power of j."""
    examination_clicks: float = 50.0
    """How many expected clicks of each position that belief counts as; inf = it is known and never
    estimated."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            pool=ONE_OR_MORE,
            ridge=POSITIVE,
            looks_on=RATE,
            examination_clicks=Within(0, math.inf, above=True, infinite=True),
        )

    def evidence(self, prior_mean: Tensor, slate_size: int) -> Evidence:
        """Nothing seen yet."""
        believed = self.looks_on ** torch.arange(slate_size)
        return Evidence(prior_mean, self.ridge, believed, self.examination_clicks)


@dataclass(frozen=True)
class LinUCBConfig(BanditConfig):
    """LinUCB (Li et al. 2010)."""

    ridge: float = tuned(1.63, 1.0, 1000.0, log=True)
    """As in `BanditConfig`."""
    alpha: float = tuned(0.174, 0.0, 2.0)
    """Width of the confidence bound in standard deviations of a click whose variance is 1."""


@dataclass(frozen=True)
class ThompsonConfig(BanditConfig):
    """Linear Thompson sampling (Agrawal & Goyal 2013)."""

    scale: float = tuned(0.3, 0.0, 2.0)
    """v, by which the posterior's standard deviation is multiplied: about that of a click."""


@register_agent("linucb", LinUCBConfig)
def linucb(ground: Ground, config: LinUCBConfig) -> Learned:
    """Serve by upper confidence bounds, and learn from every click."""
    return _serve(ground, config, Optimism(config.alpha))


@register_agent("thompson", ThompsonConfig)
def thompson(ground: Ground, config: ThompsonConfig) -> Learned:
    """Serve by thetas drawn from the posterior, and learn from every click."""
    return _serve(ground, config, Sampling(config.scale))


def _serve(ground: Ground, config: BanditConfig, explorer: Explorer) -> Learned:
    """One regression for all shoppers, fitted again after every visit of all of them.

    Raises:
        ValueError: If there is no shopper or no step.
    """
    for name in ("steps", "shoppers"):
        if getattr(ground, name) < 1:
            raise ValueError(
                f"{name} is {getattr(ground, name)}, but a bandit learns from at least one."
            )
    simulator, shoppers = ground.simulator, min(ground.shoppers, ground.steps)
    contexts = Contexts(Composer(ground.inputs, ComposerConfig(pool=config.pool)))
    evidence = config.evidence(contexts.prior_mean(), simulator.slate_size)
    untrained = posterior = evidence.posterior()
    rounds = ground.steps // shoppers
    observation = simulator.reset(_training_seeds(ground.seed, shoppers))
    clicks = torch.zeros((), dtype=torch.int64, device=simulator.device)
    first, like = 0, {"round": 0, "clicks": clicks, "evidence": evidence.state(), "simulator": None}
    if found := ground.keeper.found(ground.about(config), like, simulator.device):
        first, clicks = found["round"], found["clicks"]
        evidence.restore(found["evidence"])
        simulator.restore(found["simulator"])
        posterior, observation = evidence.posterior(), simulator.observe()
    for at in range(first, rounds):
        ground.keeper.keep(partial(_state, at, clicks, evidence, simulator))
        if at % max(rounds // WATCHES, 1) == 0:
            ground.watch(at * shoppers, BanditPolicy(contexts, posterior, Exploit()))
        policy, episodes = BanditPolicy(contexts, posterior, explorer), simulator.episodes
        sight = contexts(observation)
        places = policy.choose(
            sight, draws_for(policy, episodes.seed, episodes.visit, episodes.number)
        )
        outcome = simulator.advance(sight.slates(places, simulator.slate_size))
        shown, clicked = (
            simulator.episodes.recent_slates[:, 0] >= 0,
            simulator.episodes.recent_clicks[:, 0],
        )
        evidence.add(sight.of(places), clicked, shown)
        posterior = evidence.update()
        clicks += clicked.sum()
        simulator.restart(outcome.ended.nonzero().squeeze(1))
        observation = simulator.observe()
    ground.watch(rounds * shoppers, BanditPolicy(contexts, posterior, Exploit()))
    facts = {"clicks_per_visit": float(clicks) / (rounds * shoppers)}
    facts |= {f"examination/{j}": chance for j, chance in enumerate(evidence.examination.tolist())}
    return Learned(
        policy=BanditPolicy(contexts, posterior, Exploit()),
        sampled=BanditPolicy(contexts, posterior, explorer),
        untrained=BanditPolicy(contexts, untrained, Exploit()),
        untrained_sampled=BanditPolicy(contexts, untrained, explorer),
        steps=rounds * shoppers,
        facts=facts,
    )


def _state(
    at: int, clicks: Tensor, evidence: Evidence, simulator: SlateSimulator
) -> dict[str, Any]:
    """What `_serve` needs to go on with round `at`."""
    return {
        "round": at,
        "clicks": clicks,
        "evidence": evidence.state(),
        "simulator": simulator.state(),
    }


def _training_seeds(seed: int, shoppers: int) -> Tensor:
    """(shoppers,) int64, other episodes for another seed."""
    key = noise.episode_key(torch.tensor([seed]), torch.tensor([0]), stream=noise.Stream.TRAINING)
    return noise.mix(key + torch.arange(shoppers))
