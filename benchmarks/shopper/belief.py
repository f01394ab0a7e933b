"""How well a shop's belief knows shoppers whose truth is known, and whether it knows how well.

    python -m benchmarks.shopper.belief

A policy serves fresh shoppers of a market, and beside it the belief of a session model that was
fitted to that market's log (`recsim_env.belief.session`) follows them. Before each visit the truth
about each shopper is compared with what is believed:

    coverage  how often the 50 % and the 90 % interval of the interest in an item, and of each
              trait, hold the truth
    log-loss  of the clicks on what is shown: by the truth, the two-tower ranker, the belief, and
              the session model itself, whose temperaments are 512 particles in place of few

Interest in an item is what it adds to the log-odds of a click, in truth and as believed, which
agree but for a constant; so do traits. Those constants are the mean differences over all rows, and
over all newcomers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import polars as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from agents.places import REPORTED_SEED, seeds
from agents.statistics import estimate_mean
from benchmarks.lab.command import run_command
from benchmarks.lab.markets import MARKETS, MarketWorld
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.plots import BLUE, COLOURS, GREY, INK, intervals, panels
from benchmarks.lab.run import Report, Run
from benchmarks.lab.session_markets import market_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from policies import POLICIES
from policies.inputs import PolicyInputs, looks_of
from recsim_env.belief.base import Belief, SeenVisit
from recsim_env.belief.registry import load_belief
from recsim_env.belief.session import SessionBelief, SessionBeliefState, even_normals
from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate
from recsim_env.registration import PRESETS
from recsim_env.rollout import rollout
from recsim_env.shoppers.base import Past
from recsim_env.shoppers.market import MarketShopper, MarketState
from recsim_env.shoppers.session.heads import DEEP, OF_CATEGORY, PATIENT, TEMPERAMENT
from recsim_env.shoppers.session.likelihood import over_moods
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy

FRESH = 10**7
"""Distance of the seeds of these shoppers from those of reported results."""
ITEMS = 100
"""Items, evenly from the whole catalogue, in which the interest is judged."""
MANY = 512
"""Particles of the session model itself; more do not change its log-loss."""
WIDTHS = {50: 0.6745, 90: 1.6449}
"""Half the width of intervals of a normal distribution, in standard deviations, by their per
cent."""
TRAITS = {"weariness": OF_CATEGORY, "patience": PATIENT, "depth": DEEP}
"""Traits that a market and a session model both have, and their place in a temperament."""
SOURCES = ("truth", "two-tower", "belief", "session model")
VISITS = (0, 1, 5, 10, 20)
"""First visits of the groups of visits in the table."""


@dataclass(frozen=True)
class Config(Threads, Results):
    """Compare what is believed of the shoppers of a market with the truth."""

    market: MarketWorld = field(default_factory=lambda: MarketWorld(mixture="broad"))
    """The market, its log and its ranker, which are built where they are missing."""
    markets: Path = MARKETS
    """Folder of the markets' logs and rankers."""
    shop: Path | None = None
    """Folder of the session model that was fitted to this market's log, as
    `benchmarks.data.fit_market` writes it. By default it is that of `recsim_env/LearnedMarket-v0`.
    """
    policy: str = "reward_greedy"
    """Name of the policy that serves the shoppers, with its default parameters."""
    shoppers: int = 512
    """Number of shoppers, each served for an episode."""


def truth_of(state: MarketState, shopper: MarketShopper) -> tuple[Tensor, Tensor]:
    """What is true before a visit.

    Returns:
        (B, N) what each item adds to the log-odds by interest, and (B, len(TRAITS)) the traits as a
        temperament counts them.
    """
    liked = shopper.config.interest * state.interest @ shopper.catalog.embedding.T
    weary = (state.variety * state.speed).log()
    traits = torch.stack([weary, state.patience, state.examination.logit()], dim=1)
    return liked, traits


def believed_of(belief: SessionBelief, state: SessionBeliefState) -> tuple[Tensor, Tensor, Tensor]:
    """What is believed before a visit: (B, N) interest, and mean and deviation (B, TRAITS)."""
    model = belief.model
    before = model.arrive(state.cache.state, state.since)
    liked = model.wanted(before, state.interest.mean) @ model.embedding.T
    seen = belief.observe(state, torch.zeros(len(before), 1, dtype=torch.int64))["belief_traits"]
    mean, deviation = (part[:, list(TRAITS.values())] for part in seen.split(TEMPERAMENT, dim=1))
    return liked, mean, deviation


def chances_of(belief: SessionBelief, state: SessionBeliefState, slates: Tensor) -> Tensor:
    """The model's own chance (B, K) of a click at each position, its particles averaged."""
    model = belief.model
    before = model.arrive(state.cache.state, state.since)
    counters = state.memory.look(slates, model.category)
    wanted = model.wanted(before, state.interest.mean)
    logits, _ = model.answer(before, wanted, state.temperaments, slates, counters)
    shown = torch.ones_like(slates, dtype=torch.bool)
    chance = over_moods(model.click_probability(before, state.temperaments, logits, shown))
    return torch.einsum("bs,bsk->bk", state.log_weight.exp(), chance)


@dataclass
class BothStates:
    """What is believed with few and with many particles."""

    few: SessionBeliefState
    many: SessionBeliefState


class Both(Belief[BothStates]):
    """A belief with few particles, as a shop keeps it, and beside it one with many.

    Args:
        few: The belief that is judged; its keys are observed.
    """

    def __init__(self, few: SessionBelief) -> None:
        super().__init__(few.slate_size, few.device)
        self.few, self.past_visits = few, few.past_visits
        self.many = SessionBelief(
            copy.deepcopy(few.model),
            few.device,
            slate_size=few.slate_size,
            numbers=even_normals(MANY),
            renews=False,
        )

    def check_fits(
        self, catalog: Catalog, slate_size: int, known: Mapping[str, gymnasium.Space[Any]]
    ) -> None:
        """Check that the belief is about the shoppers of a place."""
        self.few.check_fits(catalog, slate_size, known)

    def spaces(self, candidates: int) -> dict[str, gymnasium.Space[Any]]:
        """Return the space of each key of the belief with few particles."""
        return self.few.spaces(candidates)

    def start(self, observation: Observation, past: Past | None = None) -> BothStates:
        """Return the beliefs about shoppers at the first visit of an episode."""
        return BothStates(self.few.start(observation, past), self.many.start(observation, past))

    def blank(self, batch: int) -> BothStates:
        """Return a state of so many rows."""
        return BothStates(self.few.blank(batch), self.many.blank(batch))

    def update(self, state: BothStates, visit: SeenVisit) -> None:
        """Learn from a visit of every shopper, in place."""
        self.few.update(state.few, visit)
        self.many.update(state.many, visit)

    def observe(self, state: BothStates, candidates: Tensor) -> Observation:
        """Tell what is believed with few particles."""
        return self.few.observe(state.few, candidates)


class _Watched:
    """A policy beside which is noted, before each visit, what is true and what is believed.

    Args:
        policy: The policy that plays.
        simulator: The market with the belief.
        ranker: The two-tower ranker's inputs.
    """

    def __init__(self, policy: Policy, simulator: SlateSimulator, inputs: PolicyInputs) -> None:
        self.draws = policy.draws
        self._policy, self._simulator, self._inputs = policy, simulator, inputs
        self.noted: dict[str, Tensor] = {}

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Choose slates (B, K), and note what is known before they are shown."""
        simulator, slates = self._simulator, self._policy(observation, draws)
        shopper, belief = simulator.shopper, simulator.belief
        assert isinstance(shopper, MarketShopper)
        assert isinstance(belief, Both)
        state = simulator.beliefs
        liked, traits = truth_of(simulator.hidden, shopper)
        believed, mean, deviation = believed_of(belief.few, state.few)
        ranker = self._inputs.need_ranker("two-tower")
        ranked = ranker.logits(observation).gather(1, slates).sigmoid()
        look = looks_of(ranker, observation, slates.shape[1])
        some = torch.linspace(0, liked.shape[1] - 1, min(ITEMS, liked.shape[1])).long()
        seen = observation["belief_logits"].gather(1, slates).sigmoid()
        self.noted = {
            "interest": (liked - believed)[:, some],
            "spread": observation["belief_spread"][:, some],
            "traits": traits - mean,
            "deviation": deviation,
            "two-tower": ranked * look,
            "belief": seen * observation["belief_looks"],
            "session model": chances_of(belief.many, state.many, slates),
            "visit": simulator.episodes.visit.clone(),
        }
        return slates


def shipped_shop() -> Path:
    """The folder of the shoppers of `recsim_env/LearnedMarket-v0`."""
    shopper = PRESETS["recsim_env/LearnedMarket-v0"].shopper
    assert isinstance(shopper, Path)
    return shopper


@torch.no_grad()
def measure(config: Config) -> pl.DataFrame:
    """Play the shoppers: a row a visit.

    The columns are: shopper · visit · for the interest and each of `TRAITS` `<what>_50` and
    `<what>_90` (share of intervals that hold the truth), `<what>_error` and `<what>_said` (mean
    square of the error, and what the belief says of it) · for each of `SOURCES` its log-loss a
    position.

    Raises:
        ValueError: If the folder gives another belief than that of a session model, or one about
            another market.
    """
    site = config.market.open(config.markets, "cpu")
    true = site.simulator()
    shop = config.shop or shipped_shop()
    few = load_belief(shop, "cpu", true.slate_size)
    if not isinstance(few, SessionBelief):
        raise ValueError(f"shop is {str(shop)!r}, but it must hold a session model.")
    simulator = market_of(true.shopper, true, belief=Both(few))
    policy = POLICIES[config.policy].build(site.inputs)
    watched = _Watched(policy, simulator, site.inputs)
    parts: list[dict[str, Tensor]] = []
    for visit in rollout(watched, simulator, seeds(REPORTED_SEED + FRESH, config.shoppers)):
        answer, noted = visit.outcome.response, dict(watched.noted)
        noted["truth"] = answer.probability
        for source in SOURCES:
            noted[source] = log_loss(noted[source], answer.clicks)
        parts.append(noted | {"shopper": visit.number.clone()})
    return judged({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def log_loss(chance: Tensor, clicks: Tensor) -> Tensor:
    """Compute the mean log-loss (B,) of chances (B, K) of clicks (B, K), in nats a position."""
    chance = chance.clamp(1e-6, 1 - 1e-6)
    return -torch.where(clicks, chance, 1 - chance).log().mean(dim=1)


def judged(noted: dict[str, Tensor]) -> pl.DataFrame:
    """Turn what was noted of R visits into the rows of `measure`."""
    first = noted["visit"] == 0
    away = {"interest": noted["interest"] - noted["interest"].mean()}
    said = {"interest": noted["spread"]}
    for at, trait in enumerate(TRAITS):
        differences = noted["traits"][:, at : at + 1]
        away[trait] = differences - differences[first].mean()
        said[trait] = noted["deviation"][:, at : at + 1]
    columns = {name: noted[name] for name in ("shopper", "visit", *SOURCES)}
    for what, error in away.items():
        for share, width in WIDTHS.items():
            inside = error.abs() <= width * said[what]
            columns[f"{what}_{share}"] = inside.float().mean(dim=1)
        columns[f"{what}_error"] = error.square().mean(dim=1)
        columns[f"{what}_said"] = said[what].square().mean(dim=1)
    return pl.DataFrame({name: value.numpy() for name, value in columns.items()})


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows of `measure`."""
    ends = [*VISITS[1:], 10**9]
    groups = [
        (low, rows.filter(pl.col("visit").is_between(low, high - 1)))
        for low, high in zip(VISITS, ends, strict=True)
    ]
    groups = [(low, group) for low, group in groups if len(group)]
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    for low, group in groups:
        last = int(group["visit"].max())  # type: ignore[arg-type]
        named = str(low + 1) if last == low else f"{low + 1}-{last + 1}"
        line: dict[str, object] = {"visits": named}
        for column in COLUMNS:
            line[column] = summary[f"visits_{named}/{column}"] = mean_of(group, column)
        for source in SOURCES[1:]:
            more = group.with_columns((pl.col(source) - pl.col("truth")).alias("more"))
            line[f"{source}_more"] = summary[f"visits_{named}/{source}_more"] = mean_of(
                more, "more"
            )
        lines.append(line)
    tables = [markdown(lines, {"visits": "visits"} | columns) for columns in (COVERAGE, LOSSES)]
    return Report("\n".join(tables), summary, draw(rows))


COVERAGE = {
    f"{what}_{share}": f"{what}, {share} %" for what in ("interest", *TRAITS) for share in WIDTHS
}
"""Columns of the table of intervals, and their headers."""
LOSSES = {
    "truth": "log-loss, truth",
    **{f"{source}_more": f"{source}, less truth" for source in SOURCES[1:]},
}
"""Columns of the table of log-losses, and their headers."""
COLUMNS = (*COVERAGE, *SOURCES)
"""What is summarised of the rows."""


def mean_of(rows: pl.DataFrame, column: str) -> Estimate:
    """The mean over visits, whose independent units are shoppers."""
    return estimate_mean(rows[column].to_numpy(), clusters=rows["shopper"].to_numpy())


def draw(rows: pl.DataFrame) -> Figure:
    """Draw coverage, the error of the interest beside what is said of it, and log-loss by visit."""
    figure, (left, middle, right) = panels(15, 4.4, 3)
    visits = sorted(rows["visit"].unique().to_list())
    of = {visit: rows.filter(pl.col("visit") == visit) for visit in visits}
    visits = [visit for visit in visits if len(of[visit]) >= LEAST_SHOPPERS]
    places = [visit + 1 for visit in visits]

    # how often intervals hold the truth
    for what, colour in zip(("interest", *TRAITS), COLOURS, strict=False):
        for share in WIDTHS:
            found = [mean_of(of[visit], f"{what}_{share}") for visit in visits]
            label = what if share == max(WIDTHS) else None
            intervals(left, places, found, colour=colour, label=label, joined=True, scale=100)
    for share in WIDTHS:
        left.axhline(share, color=INK, linewidth=0.8)
    left.set_ylabel("intervals of 50 % and 90 % that hold the truth, %")

    # what the belief says of its own error
    for name, label, colour in (
        ("error", "the belief's error", BLUE),
        ("said", "what the belief says of it", GREY),
    ):
        found = [mean_of(of[visit], f"interest_{name}") for visit in visits]
        intervals(middle, places, found, colour=colour, label=label, joined=True)
    middle.set_ylabel("mean square in the interest, log-odds²")

    # what its chances are worth
    for source, colour in zip(SOURCES[1:], COLOURS, strict=False):
        more = [
            mean_of(of[visit].with_columns(more=pl.col(source) - pl.col("truth")), "more")
            for visit in visits
        ]
        intervals(right, places, more, colour=colour, label=source, joined=True, scale=1000)
    right.axhline(0, color=INK, linewidth=0.8)
    right.set_ylabel("log-loss above that of the truth, thousandths of a nat")
    for axes in (left, middle, right):
        axes.set_xlabel("visit")
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return figure


LEAST_SHOPPERS = 20
"""Fewest shoppers behind a point of the figure."""


def main(config: Config) -> None:
    """Play the shoppers, then report."""
    use_threads(config.threads)
    run = Run("belief", config, results=config.results)
    rows = measure(config)
    run.publish(rows, report(rows))


if __name__ == "__main__":
    run_command(main, Config)
