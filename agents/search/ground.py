"""Where a search plays intents: rounds with common shoppers, and how many steps they have taken."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from agents.base import TrainingSetup, training_seeds
from agents.search.playing import Base, Paid, first_visits, play
from agents.search.searchers import Searcher
from policies.composer import Composer
from policies.rerankers import SameForAll
from policies.units import fitted_units

UNIT_SHOPPERS, UNIT_VISITS = 16, 10
"""Shoppers, and visits of each, from which the units of intent are fitted."""
EPISODES = 25
"""Episodes of an intent in a round of CMA-ES. On the market with a belief, 400,000 steps found an
intent of 41.2 in rounds of 25 episodes and one of 40.1 in rounds of 100, on 1,024 fresh shoppers
(one search each)."""
UNITS = -1
"""Generation of `training_seeds` of these shoppers. Those of the rounds are 0 and above."""


class Ground:
    """Where intents are played, and how many steps that has taken.

    Args:
        setup: What an agent learns from.
        composer: What is steered.
        units: (A,) of an intent in those of the composer; None means that they are fitted to the
            first visits of some shoppers, which takes steps.
        expected_clicks: Whether clicks count as often as they were expected, and not as they fell.
        base: What the intents are added to; None means intent 0.
        paid: What a visit counts for in place of its reward.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        composer: Composer,
        units: Tensor | None = None,
        *,
        expected_clicks: bool = True,
        base: Base | None = None,
        paid: Paid | None = None,
    ) -> None:
        self._setup, self._expected_clicks = setup, expected_clicks
        self._base, self._paid = base, paid
        self._shoppers = min(setup.shoppers, setup.steps)
        self._played = self._episodes = 0
        self.composer = composer
        self.steps = 0
        """Shopper-steps so far."""
        self.units = self._fitted() if units is None else units
        """Units (A,) of an intent, in those of the composer."""

    def policy(self, intent: Tensor) -> SameForAll:
        """The policy that has an intent (A,), in fitted units, for everybody."""
        return SameForAll(self.composer, intent.to(self.units.device) * self.units)

    def play(
        self, intents: Tensor, generation: int, budget: int, episodes: int | None = None
    ) -> Tensor | None:
        """Play intents (G, A), in fitted units, each with the same shoppers.

        Args:
            intents: The intents.
            generation: Another number gives other shoppers.
            budget: Number of steps that must not be exceeded.
            episodes: Most episodes of an intent; None means as many as are served at once.

        Returns:
            The mean return of each: (G,) float64, on the CPU. It is None where the steps do not
            suffice for whole episodes: nothing is played where those before were too long for it.
        """
        each = max(self._shoppers // len(intents), 1)
        each = each if episodes is None else min(each, episodes)
        usual = self._played / max(self._episodes, 1)
        if self.steps + usual * len(intents) * each > budget:
            return None
        played = play(
            self.composer,
            self._setup.simulator,
            intents.to(self.units.device) * self.units,
            training_seeds(self._setup.seed, each, generation),
            budget - self.steps,
            expected_clicks=self._expected_clicks,
            base=self._base,
            paid=self._paid,
        )
        self.steps += played.steps
        self._played += played.steps
        self._episodes += len(intents) * each
        return played.returns.mean(dim=1).cpu() if played.whole else None

    def search(
        self,
        searcher: Searcher,
        budget: int,
        told: list[Tensor],
        episodes: int | None = None,
        after_round: Callable[[], None] = lambda: None,
    ) -> None:
        """Play rounds of what the searcher proposes, while the steps suffice for one more.

        Args:
            searcher: Proposes intents; it has heard what was told before.
            budget: Number of steps that must not be exceeded.
            told: What the rounds before earned; those of every new round are added.
            episodes: Most episodes of an intent in a round; None means as many as are served at
                once.
            after_round: Called after every round.
        """
        while True:
            generation = len(told) if searcher.fresh else 0
            returns = self.play(searcher.ask(), generation, budget, episodes)
            if returns is None:
                break
            told.append(returns)
            searcher.tell(returns)
            after_round()

    def _fitted(self) -> Tensor:
        """Units that some visits of a few shoppers give."""
        setup = self._setup
        few = training_seeds(setup.seed, min(UNIT_SHOPPERS, self._shoppers), UNITS)
        visits = max(min(UNIT_VISITS, setup.steps // len(few)), 1)
        seen = first_visits(self.composer, setup.simulator, few, visits)
        self.steps += len(few) * visits
        return fitted_units(self.composer, self.composer.view(seen))
