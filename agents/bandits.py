"""Linear contextual bandits over slate positions: LinUCB and Thompson sampling.

A bandit learns which items are clicked while it serves, and nothing about the effect of a slate on
later visits. Every item of the pool has a context x (`Contexts`), every position j a probability
e_j that it is examined, and

    P(click on x at position j) = e_j theta . x

This is the position-based model (Lagrée et al. 2016, section 2).

One theta serves all items (Chu et al. 2011, "Contextual bandits with linear payoff functions",
algorithm 1); Li et al. 2010 use one for each item. A response c at position j gives the observation
c / e_j of theta . x. Its variance is about theta . x / e_j, so its weight is e_j. With contexts x,
clicks c and prior mean m this gives a ridge regression:

    A = ridge I + sum e_j x x^T,    b = ridge m + sum c x,    mean = A^-1 b

For one-hot contexts and no ridge the mean is the estimator S_k / sum e_j of PBM-UCB (Lagrée et al.
2016). The examination probabilities e_j are not known in advance: they are estimated from the same
clicks, see `Evidence.examination`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from agents.base import TrainedAgent, TrainingSetup, register_agent, training_seeds
from policies.composer import Composer, ComposerConfig
from policies.features import Recent, mean_vector
from policies.parameters import tunable
from policies.pool import Pool
from policies.slates import filled
from recsim_env import noise
from recsim_env.rollout import draws_for
from recsim_env.settings import ONE_OR_MORE, POSITIVE, RATE, Within, settle
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

WATCHES = 10
"""Number of times that `TrainingSetup.watch` is called before the end of the training."""
LOGIT_UNIT = 10.0
"""Unit in which the CTR logit is a context, so that this context is of the order of 1."""
SUMS = ("gram", "clicked", "total", "clicks")
"""Names of the sums that `Evidence` keeps."""
LEAST_EXAMINED = 0.02
"""Lower bound of an estimated examination probability."""


# ---- contexts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoolContexts:
    """The pools of B visits with a context for each item."""

    pool: Pool
    """The items and their CTR logits, (B, P) each."""
    contexts: Tensor
    """(B, P, W) float32, 0 where the pool has no item."""

    def slates(self, places: Tensor, size: int) -> Tensor:
        """Item ids (B, size) of pool indices (B, at most size), -1 = no item left."""
        return filled(self.pool.items.gather(1, places.clamp(min=0)).where(places >= 0, -1), size)

    def of(self, places: Tensor) -> Tensor:
        """Contexts (B, K, W) of pool indices (B, K); those of index 0 at -1."""
        index = places.clamp(min=0).unsqueeze(2).expand(-1, -1, self.contexts.shape[2])
        return self.contexts.gather(1, index)


class Contexts:
    """Computes what a bandit knows of each pool item at a visit.

    A context has W numbers: the click probability p of the ranker, a constant, the logit of the
    ranker, the cues of the composer, p times the cues, and the principal components of the item
    times those of the items that the shopper clicked recently.
    """

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.width = 3 + 2 * len(composer.cues) + composer.offset_vectors.shape[1]

    @torch.no_grad()
    def __call__(self, observation: Observation) -> PoolContexts:
        """Pools and contexts of B visits."""
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
        return PoolContexts(view.pool, torch.cat(parts, dim=2) * present)

    def prior_mean(self) -> Tensor:
        """The theta (W,) float32 that trusts the ranker: theta . x = p."""
        mean = torch.zeros(self.width, device=self.composer.offset_vectors.device)
        mean[0] = 1.0
        return mean


# ---- ridge regression ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Posterior:
    """A Gaussian posterior of theta with precision A = L L^T, up to the variance of the noise."""

    mean: Tensor
    """(W,) float32, the posterior mean of theta."""
    inverse_root: Tensor
    """(W, W) float32, L^-1, lower triangular; its Gram matrix is A^-1."""

    @classmethod
    def of(cls, precision: Tensor, moment: Tensor) -> Posterior:
        """The posterior of A (W, W) float64, positive definite, and b (W,) float64."""
        root = torch.linalg.cholesky(precision)
        mean = torch.cholesky_solve(moment.unsqueeze(1), root).squeeze(1)
        identity = torch.eye(len(root), dtype=root.dtype, device=root.device)
        return cls(mean.float(), torch.linalg.solve_triangular(root, identity, upper=False).float())

    def spread(self, contexts: Tensor) -> Tensor:
        """The standard deviations sqrt(x^T A^-1 x), (...), of contexts (..., W)."""
        lengths: Tensor = torch.linalg.vector_norm(contexts @ self.inverse_root.T, dim=-1)
        return lengths

    def sample(self, draws: Tensor, scale: float) -> Tensor:
        """Samples (B, W) of N(mean, scale^2 A^-1), made from the uniform numbers `draws` (B, W)."""
        thetas: Tensor = self.mean + scale * noise.normal(draws) @ self.inverse_root
        return thetas


class Evidence:
    """Sums over everything that was shown and clicked, separately for each position.

    Because the sums are separate, a new estimate of e_j applies to all observations so far.

    Args:
        prior_mean: m, (W,) float32
        ridge: number of observations that the prior counts as
        examination: prior of e_j, (K,) float32, 1 at the top
        examination_clicks: number of expected clicks per position that the prior of e_j counts as;
            inf = e_j is known

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
        """(K,) float64, the probability e_j that a position is examined, 1 at the top.

        Given the mean of theta it solves clicks_j = e_j theta . (sum of x shown at j): the clicks
        of a position divided by those expected under full examination, relative to the top.
        """

    def add(self, contexts: Tensor, clicks: Tensor, shown: Tensor) -> None:
        """Add B slates: contexts (B, K, W), clicks (B, K) bool, shown (B, K) bool.

        Positions where `shown` is False are ignored.
        """
        seen = (contexts * shown.unsqueeze(2)).double().transpose(0, 1)  # (K, B, W)
        clicked = (clicks & shown).double().T.unsqueeze(1)  # (K, 1, B)
        self._gram += seen.transpose(1, 2) @ seen
        self._clicked += (clicked @ seen).squeeze(1)
        self._total += seen.sum(dim=1)
        self._clicks += clicked.sum(dim=(1, 2))

    def state(self) -> dict[str, Tensor]:
        """The sums and the examination probabilities, for `restore`."""
        return {name: getattr(self, f"_{name}") for name in SUMS} | {
            "examination": self.examination
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the result of `state`."""
        for name in SUMS:
            setattr(self, f"_{name}", state[name])
        self.examination = state["examination"]

    def posterior(self) -> Posterior:
        """The result of the ridge regression on everything that was added, given `examination`."""
        identity = torch.eye(len(self._prior_mean), dtype=torch.float64, device=self._gram.device)
        precision = self._ridge * identity + torch.einsum("k,kvw->vw", self.examination, self._gram)
        return Posterior.of(precision, self._ridge * self._prior_mean + self._clicked.sum(dim=0))

    def update(self, rounds: int = 1) -> Posterior:
        """Estimate theta and `examination` alternately, and return the posterior of theta."""
        posterior = self.posterior()
        if self._belief_clicks == float("inf"):
            return posterior
        for _ in range(rounds):
            expected = (self._total @ posterior.mean.double()).clamp(min=0) + self._belief_clicks
            rate = (self._clicks + self._belief_clicks * self._belief) / expected
            self.examination = (rate / rate[0]).clamp(LEAST_EXAMINED, 1.0)
            posterior = self.posterior()
        return posterior


# ---- policies ------------------------------------------------------------------------------------


class Explorer(Protocol):
    """A rule by which a bandit scores the items of the pool."""

    def draws(self, width: int) -> int:
        """Number of uniform numbers that a visit takes, for contexts of width W."""

    def scores(self, posterior: Posterior, contexts: Tensor, draws: Tensor) -> Tensor:
        """Scores (B, P) of contexts (B, P, W), with uniform numbers (B, `draws`)."""


@dataclass(frozen=True)
class Exploit:
    """Scores by the expected click: the mean of theta . x."""

    def draws(self, width: int) -> int:
        """No uniform number, since the scores are deterministic."""
        return 0

    def scores(self, posterior: Posterior, contexts: Tensor, draws: Tensor) -> Tensor:
        """Scores (B, P) of the items."""
        return contexts @ posterior.mean


@dataclass(frozen=True)
class Optimism:
    """Scores by the upper confidence bound, mean . x + alpha sqrt(x^T A^-1 x).

    See Li et al. 2010, equation 5.
    """

    alpha: float

    def draws(self, width: int) -> int:
        """No uniform number, since the scores are deterministic."""
        return 0

    def scores(self, posterior: Posterior, contexts: Tensor, draws: Tensor) -> Tensor:
        """Scores (B, P) of the items."""
        return contexts @ posterior.mean + self.alpha * posterior.spread(contexts)


@dataclass(frozen=True)
class Sampling:
    """Scores by a theta that is drawn from N(mean, scale^2 A^-1) for each shopper and visit.

    See Agrawal and Goyal 2013, algorithm 1.
    """

    scale: float

    def draws(self, width: int) -> int:
        """One uniform number for each dimension of theta."""
        return width

    def scores(self, posterior: Posterior, contexts: Tensor, draws: Tensor) -> Tensor:
        """Scores (B, P) of the items."""
        return torch.einsum("bpw,bw->bp", contexts, posterior.sample(draws, self.scale))


class BanditPolicy:
    """Shows the K pool items with the best scores, best first; ties go to the better CTR logit."""

    def __init__(self, contexts: Contexts, posterior: Posterior, explorer: Explorer) -> None:
        self.contexts = contexts
        self.posterior = posterior
        self.explorer = explorer
        self.draws = explorer.draws(contexts.width)

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K) for B shoppers."""
        pool = self.contexts(observation)
        return pool.slates(self.choose(pool, draws), self.contexts.composer.slate_size)

    def choose(self, pool: PoolContexts, draws: Tensor) -> Tensor:
        """Pool indices (B, K) of the slates, -1 where no item is left."""
        scores = self.explorer.scores(self.posterior, pool.contexts, draws)
        scores = scores.masked_fill(pool.pool.items < 0, -torch.inf)
        best = scores.sort(dim=1, descending=True, stable=True)
        places = best.indices.where(best.values > -torch.inf, -1)[
            :, : self.contexts.composer.slate_size
        ]
        missing = self.contexts.composer.slate_size - places.shape[1]
        return torch.nn.functional.pad(places, (0, missing), value=-1)


# ---- learning ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BanditConfig:
    """Options that both bandits share."""

    pool: int = 64
    """Number P of candidates, the best by predicted click rate, from which a slate is chosen."""
    ridge: float = tunable(10.0, 1.0, 1000.0, log=True)
    """Weight of the prior that the CTR ranker is right, in examined positions."""
    looks_on: float = 0.85
    """Prior probability that a shopper who examined a position examines the next one: e_j starts
    as this to the power of j."""
    examination_clicks: float = 50.0
    """Weight of that prior in expected clicks per position; inf = e_j is not estimated."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        settle(
            self,
            pool=ONE_OR_MORE,
            ridge=POSITIVE,
            looks_on=RATE,
            examination_clicks=Within(0, math.inf, above=True, infinite=True),
        )

    def evidence(self, prior_mean: Tensor, slate_size: int) -> Evidence:
        """The evidence before the first visit: the prior alone."""
        believed = self.looks_on ** torch.arange(slate_size)
        return Evidence(prior_mean, self.ridge, believed, self.examination_clicks)


@dataclass(frozen=True)
class LinUCBConfig(BanditConfig):
    """Options of LinUCB (Li et al. 2010)."""

    ridge: float = tunable(1.63, 1.0, 1000.0, log=True)
    """Weight of the prior that the CTR ranker is right, in examined positions. The default was
    chosen by `benchmarks.agents.tune_agents`."""
    alpha: float = tunable(0.174, 0.0, 2.0)
    """Width of the confidence bound, in standard deviations of a click whose variance is 1. The
    default was chosen by `benchmarks.agents.tune_agents`."""


@dataclass(frozen=True)
class ThompsonConfig(BanditConfig):
    """Options of linear Thompson sampling (Agrawal and Goyal 2013)."""

    scale: float = tunable(0.3, 0.0, 2.0)
    """Factor v on the standard deviation of the posterior; about the standard deviation of a click.
    The default was chosen by `benchmarks.agents.tune_agents`."""


@register_agent("linucb", LinUCBConfig)
def linucb(setup: TrainingSetup, config: LinUCBConfig) -> TrainedAgent:
    """Serve by upper confidence bounds and learn from every click.

    Raises:
        ValueError: If there is no shopper or no step.
    """
    return _serve(setup, config, Optimism(config.alpha))


@register_agent("thompson", ThompsonConfig)
def thompson(setup: TrainingSetup, config: ThompsonConfig) -> TrainedAgent:
    """Serve by samples of the posterior and learn from every click.

    Raises:
        ValueError: If there is no shopper or no step.
    """
    return _serve(setup, config, Sampling(config.scale))


def _serve(setup: TrainingSetup, config: BanditConfig, explorer: Explorer) -> TrainedAgent:
    """Fit one regression for all shoppers, again after every round of visits.

    Raises:
        ValueError: If there is no shopper or no step.
    """
    shoppers = setup.need_shoppers("a bandit")
    simulator = setup.simulator
    contexts = Contexts(Composer(setup.inputs, ComposerConfig(pool=config.pool)))
    evidence = config.evidence(contexts.prior_mean(), simulator.slate_size)
    untrained = posterior = evidence.posterior()
    rounds = setup.steps // shoppers
    observation = simulator.reset(training_seeds(setup.seed, shoppers))

    # continue an interrupted training
    clicks = torch.zeros((), dtype=torch.int64, device=simulator.device)
    first, like = 0, {"round": 0, "clicks": clicks, "evidence": evidence.state(), "simulator": None}
    if found := setup.keeper.found(setup.about(config), like, simulator.device):
        first, clicks = found["round"], found["clicks"]
        evidence.restore(found["evidence"])
        simulator.restore(found["simulator"])
        posterior, observation = evidence.posterior(), simulator.observe()

    for at in range(first, rounds):
        setup.keeper.keep(partial(_state, at, clicks, evidence, simulator))
        if at % max(rounds // WATCHES, 1) == 0:
            setup.watch(at * shoppers, BanditPolicy(contexts, posterior, Exploit()))

        # one visit of every shopper
        policy, episodes = BanditPolicy(contexts, posterior, explorer), simulator.episodes
        pool = contexts(observation)
        places = policy.choose(
            pool, draws_for(policy, episodes.seed, episodes.visit, episodes.number)
        )
        outcome = simulator.advance(pool.slates(places, simulator.slate_size))
        shown, clicked = (
            simulator.episodes.recent_slates[:, 0] >= 0,
            simulator.episodes.recent_clicks[:, 0],
        )

        # what it teaches
        evidence.add(pool.of(places), clicked, shown)
        posterior = evidence.update()
        clicks += clicked.sum()
        simulator.restart(outcome.ended.nonzero().squeeze(1))
        observation = simulator.observe()

    setup.watch(rounds * shoppers, BanditPolicy(contexts, posterior, Exploit()))
    facts = {"clicks_per_visit": float(clicks) / (rounds * shoppers)}
    facts |= {f"examination/{j}": chance for j, chance in enumerate(evidence.examination.tolist())}
    return TrainedAgent(
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
    """What `_serve` needs to continue with round `at`."""
    return {
        "round": at,
        "clicks": clicks,
        "evidence": evidence.state(),
        "simulator": simulator.state(),
    }
