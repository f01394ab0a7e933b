"""What ranking in two stages misses of the best candidates, and what it saves.

    python -m benchmarks.speed.two_stages

Shoppers of the Complete Journey are served by greedy CTR for some visits, with the candidates of
every visit ranked twice: all by the CTR model, and in two stages (`CTRRanker.leading`), for a pool
as large as that of the composer. `recall` is the share of the pool that both find, `recall_slate`
that of the best slate; `over_one_stage` is the processor time of one stage over that of two.
`return_minus_one_stage` is what `reward_greedy` earns with two stages less what it earns with one,
paired by episode.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch
from torch import Tensor

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, open_place, seeds
from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Device, Results, Threads
from benchmarks.lab.run import Report, Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from policies import POLICIES
from policies.inputs import PolicyInputs, Ranker, TwoStageRanker
from recsim_env.types import Observation

ENV = "recsim_env/CompleteJourney-v0"
"""The environment whose ranker has two stages."""
POLICY = "reward_greedy"
"""The policy whose return is compared."""


@dataclass(frozen=True)
class Config(Device, Threads, Results):
    """Measure ranking in two stages."""

    shoppers: int = 256
    """Number of shoppers that are ranked for at once."""
    visits: int = 8
    """Number of visits of each."""
    episodes: int = 256
    """Number of episodes of each way to rank."""


class OneStage:
    """A ranker without its first stage."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker

    def logits(self, observation: Observation) -> Tensor:
        """The logits of all candidates."""
        return self._ranker.logits(observation)


def recalls(config: Config, inputs: PolicyInputs, simulator: Any) -> list[dict[str, Any]]:
    """A row a visit: shares of the best that two stages find, and seconds."""
    ranker = inputs.need_ranker("two_stages")
    assert isinstance(ranker, TwoStageRanker)
    size, slate = inputs.pool, inputs.slate_size
    observation = simulator.reset(seeds(REPORTED_SEED, config.shoppers).to(simulator.device))
    greedy, rows = POLICIES["greedy_ctr"].build(inputs), []
    for visit in range(config.visits):
        began = time.process_time()
        logits = ranker.logits(observation)
        middle = time.process_time()
        _, columns = ranker.leading(observation, size)
        two = time.process_time() - middle
        found = torch.ones_like(logits, dtype=torch.bool)
        if columns is not None:
            found = torch.zeros_like(found).scatter_(1, columns, True)
        shares = {
            name: float(found.gather(1, logits.topk(best, dim=1).indices).float().mean())
            for name, best in (("recall", size), ("recall_slate", slate))
        }
        rows.append({"visit": visit, **shares, "one_s": middle - began, "two_s": two})
        outcome = simulator.advance(greedy(observation, torch.zeros(len(logits), 0)))
        simulator.restart(outcome.ended.nonzero().squeeze(1))
        observation = simulator.observe()
    return rows


def measure(config: Config) -> pl.DataFrame:
    """A row a visit, and a row an episode and way to rank."""
    site = open_place(ENV, device=config.device)
    parts = [pl.DataFrame(recalls(config, site.inputs, site.judging()))]
    alone = replace(site.inputs, ranker=OneStage(site.inputs.need_ranker("two_stages")))
    for stages, inputs in ((2, site.inputs), (1, alone)):
        policy = POLICIES[POLICY].build(inputs)
        rows = evaluate(policy, site.judging(), seeds(REPORTED_SEED, config.episodes)).rows
        parts.append(rows.select("seed", "return").with_columns(stages=pl.lit(stages)))
    return pl.concat(parts, how="diagonal")


def report(rows: pl.DataFrame) -> Report:
    """Make table and summary of the rows."""
    visits = rows.drop_nulls("visit")
    one, two = (visits[f"{name}_s"].to_numpy() for name in ("one", "two"))
    ends = [
        rows.filter(pl.col("stages") == stages).sort("seed")["return"].to_numpy()
        for stages in (2, 1)
    ]
    summary = {
        "recall": estimate_mean(visits["recall"].to_numpy()),
        "recall_slate": estimate_mean(visits["recall_slate"].to_numpy()),
        "over_one_stage": estimate_mean(one / two, weights=two),
        "return": estimate_mean(ends[0]),
        "return_minus_one_stage": paired_difference(*ends),
    }
    headers = {
        "recall": "share of the pool found",
        "recall_slate": "share of the best slate",
        "over_one_stage": "times as fast as one stage",
        "return": "return",
        "return_minus_one_stage": "return less that of one stage",
    }
    return Report(markdown([summary], headers), summary)


def main(config: Config) -> None:
    """Rank in both ways, then report."""
    use_threads(config.threads)
    run = Run("two_stages", config, results=config.results)
    rows = measure(config)
    run.publish(rows, report(rows))


if __name__ == "__main__":
    run_command(main, Config)
