"""How the fine-tuned shoppers behave in a simulation."""

from __future__ import annotations

from dataclasses import dataclass

from recsim_env import checks
from recsim_env.shoppers.household.starts import POPULATIONS
from recsim_env.shoppers.members import check_ensemble, check_pessimism, check_precision
from recsim_env.types import MAX_DAYS


@dataclass(frozen=True)
class ShopperOptions:
    """How the fine-tuned shoppers behave in a simulation."""

    population: str = "train"
    """Households whose start states are used: train, evaluation (no agent may be trained on them),
    or all."""
    store_promotions: bool = False
    """True: candidates left out of the slate keep their placement in the store, as in the log.
    False: the slate is the promotion, and what it leaves out sells like an unpromoted item."""
    start_days: tuple[int, int] = (56, 182)
    """An episode starts at a shopper's first visit after a day in this range, spread over it."""
    examination: tuple[float, ...] | None = None
    """Chance that a shopper looks at each position, top first. It is an assumption, for the log has
    no positions; by default every position is looked at."""
    ensemble: int = 1
    """Number of the folder's fitted models that answer together; one is the fastest."""
    pessimism: float = 0.0
    """Standard deviations between the models, 0 or more, by which clicks become rarer and leaving
    likelier; by default the shoppers act by the mean. It needs an `ensemble` of 2 or more. See
    `LearnedShopper`."""
    precision: str = "fp32"
    """Precision of encoder and slate head: fp32, or bf16, which saves time on a GPU."""

    def __post_init__(self) -> None:
        checks.choice("population", self.population, POPULATIONS)
        low, high = checks.several("start_days", self.start_days, 2)
        low = checks.whole("start_days[0]", low, 0, int(MAX_DAYS))
        high = checks.whole("start_days[1]", high, low, int(MAX_DAYS))
        ensemble = check_ensemble(self.ensemble)
        values = {
            "store_promotions": checks.flag("store_promotions", self.store_promotions),
            "start_days": (low, high),
            "examination": None if self.examination is None else _examination(self.examination),
            "ensemble": ensemble,
            "pessimism": check_pessimism(self.pessimism, ensemble),
            "precision": check_precision(self.precision),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _examination(chances: object) -> tuple[float, ...]:
    several = enumerate(checks.several("examination", chances))
    return tuple(checks.number(f"examination[{place}]", chance, 0, 1) for place, chance in several)
