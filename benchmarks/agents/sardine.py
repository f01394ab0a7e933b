"""Our agents, unchanged, on SARDINE, an environment of others: python -m benchmarks.agents.sardine

SARDINE (Deffayet et al. 2023, `pip install sardine-rec`) simulates users who get bored: five of the
last ten clicks in one hidden topic, and for five steps they click on nothing. Its own short-term
oracle knows what every user likes now and shows that; whoever plans does better. Our agents get the
item embeddings, what they showed and what was clicked.

A training seed is a whole pipeline: log by a uniform policy, then by ever better exploring rankers;
fit a CTR ranker on it; tune re-rankers; train PPO. Everything is then evaluated on the same users.
Run again, it goes on with the training seeds and trials that are missing; SARDINE's users cannot be
written down, so PPO itself begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import optuna
import polars as pl
import torch
import tyro
from torch import Tensor

from agents.base import Ground
from agents.evaluate import evaluate
from agents.ppo.agents import PPOComposerConfig, ppo_composer
from agents.ppo.algorithm import PPOConfig
from agents.ppo.vec_env import TrainingReward
from benchmarks.agents.compare import difference, draw, estimate
from benchmarks.agents.tune import defaults_of, trials_of
from benchmarks.lab.run import RESULTS, Report, Run
from benchmarks.lab.settings import config_as_json, remember_settings
from benchmarks.lab.statistics import Estimate, by_training_seed, over_training_seeds
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import THREADS, use_threads
from benchmarks.lab.world import TUNING_SEED, seeds
from policies import POLICIES, PolicyInputs
from policies.base import candidates_of, top_slates
from policies.composer import Composer, ComposerConfig
from policies.learnable.sb3 import NetworkConfig
from policies.rankers.two_tower import TwoTowerRanker, fit_two_tower, load_two_tower, save_two_tower
from recsim_env import noise
from recsim_env.files import locked
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.outside import (
    OutsideSpec,
    clustered_catalog,
    environment_seeds,
    outside_simulator,
)
from recsim_env.simulator import SlateSimulator
from recsim_env.tables import write_parquet
from recsim_env.types import Observation, Policy

LOG_SEED = 40_000_000
"""First seed of the users that a log is of; training seed s starts a million times s later."""
EVALUATION_SEED = 50_000_000
"""First seed of the evaluation's users: none of them was met while the pool, the clusters or PPO
were chosen."""
ORACLE, RANDOM = "greedy oracle", "random"
"""SARDINE's own two."""


TUNED = ("mmr", "cap", "constant")
"""Re-rankers whose parameters are searched."""


@dataclass(frozen=True)
class Config:
    """Train on one part of SARDINE's users and compare on another."""

    env: str = "sardine/SlateTopK-Bored-v0"
    """Id of a SARDINE environment."""
    clusters: int = 10
    """Categories, made from the item embeddings: SARDINE's own topics are hidden."""
    log_users: int = 600
    """Users of the uniform log, and of each exploring log after it."""
    exploring: int = 3
    """Exploring logs, each by the ranker of all logs before it."""
    temperatures: tuple[float, ...] = (1.0, 0.5)
    """Of the exploring rankers: an equal part of the users meets each."""
    pool: int = 200
    """Best candidates that every re-ranker and the composer look at."""
    trials: int = 24
    """Settings tried for each tuned re-ranker."""
    tuning_users: int = 100
    """Users of a trial."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds, each a pipeline of its own."""
    steps: int = 400_000
    """Slates shown in a training of PPO."""
    shoppers: int = 512
    """Users served at once in a training."""
    ppo: PPOConfig = field(
        default_factory=lambda: PPOConfig(
            learning_rate=1e-3, n_steps=20, batch_size=2560, gamma=0.95
        )
    )
    """PPO. Boredom is over in five steps, so it need not look far ahead."""
    offset_dims: int = 0
    """Components of the item embedding along which PPO may move the query."""
    users: int = 100
    """Users of the evaluation, the same for all."""
    threads: int = THREADS
    """CPU threads."""
    work: Path = Path("runs/sardine")
    """Folder of what is done so far; delete it to start anew."""
    results: Path = RESULTS
    """Folder of the results."""


def sardine_spec(env: str, clusters: int) -> OutsideSpec:
    """What the adapter needs to know of a SARDINE environment: the embeddings are its `TopK` wrapper's "ideal" ones.

    Raises:
        ModuleNotFoundError: If `sardine-rec` is not installed.
    """

    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(f"sardine:{env}", disable_env_checker=True)

    one: Any = make().unwrapped
    return OutsideSpec(
        make, clustered_catalog(torch.from_numpy(one.item_embedd), clusters), visits=one.H
    )


# ---- a log and what is learned from it -----------------------------------------------------------


class Exploring:
    """K candidates drawn one after the other with chances in proportion to exp(logit / temperature).

    By adding Gumbel noise and taking the best: Yellott 1977, "The relationship between Luce's
    choice axiom, Thurstone's theory of comparative judgment, and the double exponential
    distribution".
    """

    def __init__(
        self, ranker: TwoTowerRanker, items: int, slate_size: int, temperature: float
    ) -> None:
        self._ranker = ranker
        self._slate_size = slate_size
        self._temperature = temperature
        self.draws = items

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K); draws (B, N)."""
        scores = self._ranker.logits(observation) / self._temperature + noise.gumbel(draws)
        return top_slates(scores, candidates_of(observation, self.draws), self._slate_size)


def learn_ranker(config: Config, simulator: SlateSimulator, seed: int) -> TwoTowerRanker:
    """Log, fit, log with what was fitted, and so on; the last fit."""
    items, size = len(simulator.catalog), simulator.slate_size
    uniform = POLICIES["uniform"].build(inputs_of(simulator))
    writers: list[Policy] = [uniform]
    tables: list[pl.DataFrame] = []
    users = 0
    for round_number in range(config.exploring + 1):
        for writer in writers:
            share = config.log_users // len(writers)
            first = LOG_SEED + 1_000_000 * seed + users
            table, _ = record(simulator, writer, seeds(first, share), split="train")
            tables.append(
                table.with_columns(pl.col("shopper") + users, pl.col("visit") + users * 1_000)
            )
            users += share
        ranker = fit_two_tower(
            Sessions.of(pl.concat(tables)),
            simulator.catalog,
            size,
            title=f"seed {seed}, ranker {round_number}",
        )
        writers = [
            Exploring(ranker, items, size, temperature) for temperature in config.temperatures
        ]
    return ranker


def inputs_of(
    simulator: SlateSimulator, ranker: TwoTowerRanker | None = None, pool: int = 64
) -> PolicyInputs:
    """What policies are built from."""
    return PolicyInputs(
        simulator.catalog, simulator.observation_space, simulator.slate_size, ranker, pool=pool
    )


def tune(
    config: Config,
    name: str,
    simulator: SlateSimulator,
    inputs: PolicyInputs,
    folder: Path,
) -> dict[str, float]:
    """The best of some settings on training users; only knobs that this environment has."""
    knobs = Composer(inputs).knobs
    search = {
        key: span
        for key, span in POLICIES[name].search().items()
        if name != "constant" or key in knobs
    }
    start = defaults_of(POLICIES[name].parameters(), search)
    users = seeds(TUNING_SEED, config.tuning_users)

    def value(parameters: dict[str, float], number: int) -> float:
        policy = POLICIES[name].build(inputs, parameters)
        return float(evaluate(policy, simulator, users).rows["return"].to_numpy().mean())

    path = folder / f"{name}.trials.json"
    return dict(trials_of(path, value, search, [start], config.trials, 0, name).best_params)


# ---- rows ----------------------------------------------------------------------------------------


def rows_of(
    policy: Policy, name: str, seed: int | None, simulator: SlateSimulator, users: int
) -> pl.DataFrame:
    """One row a user."""
    rows = evaluate(policy, simulator, seeds(EVALUATION_SEED, users), title=name).rows
    return labelled(rows.select(pl.col("seed").alias("episode"), "return", "visits"), name, seed)


def labelled(rows: pl.DataFrame, name: str, seed: int | None) -> pl.DataFrame:
    """The columns that say whose rows these are; `steps` and `minutes` of a training stand in where there is one."""
    columns = {
        "policy": pl.lit(name),
        "training_seed": pl.lit(seed, dtype=pl.Int64),
        "steps": pl.lit(None, dtype=pl.Int64),
        "minutes": pl.lit(None, dtype=pl.Float64),
    }
    return rows.with_columns(
        **{key: value for key, value in columns.items() if key not in rows.columns}
    )


def play_outside(spec: OutsideSpec, name: str, users: int) -> pl.DataFrame:
    """SARDINE's greedy oracle or its random policy in the environment itself, without our adapter.

    As its `EpsilonGreedyOracle` has them with epsilon 0 and 1, which draws from numpy's global
    generator even so: a slate of -1 is filled by the environment with what the user likes best now;
    random items may repeat.
    """
    episodes = seeds(EVALUATION_SEED, users)
    draws = noise.uniform(noise.episode_key(episodes, torch.zeros_like(episodes)), 0, 2)
    environment = spec.make()
    space = environment.action_space
    assert isinstance(space, gymnasium.spaces.MultiDiscrete)
    returns, visits = [], []
    for seed in environment_seeds(draws):
        environment.reset(seed=seed)
        generator = np.random.default_rng(seed)
        total, steps, over = 0.0, 0, False
        while not over:
            slate = (
                np.full(len(space.nvec), -1) if name == ORACLE else generator.integers(space.nvec)
            )
            _, reward, terminated, truncated, _ = environment.step(slate)
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
        returns.append(total)
        visits.append(steps)
    return labelled(
        pl.DataFrame({"episode": episodes.numpy(), "return": returns, "visits": visits}), name, None
    )


def references(config: Config, spec: OutsideSpec) -> pl.DataFrame:
    """Rows that no training changes."""
    simulator = outside_simulator(spec)
    uniform = POLICIES["uniform"].build(inputs_of(simulator))
    own = [play_outside(spec, name, config.users) for name in (RANDOM, ORACLE)]
    return pl.concat([own[0], rows_of(uniform, "uniform", None, simulator, config.users), own[1]])


def pipeline(config: Config, spec: OutsideSpec, seed: int) -> pl.DataFrame:
    """Everything of one training seed, from the first log to the rows."""
    folder = config.work / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    simulator = outside_simulator(spec)
    path = folder / "ranker.safetensors"
    if not path.exists():
        save_two_tower(learn_ranker(config, simulator, seed), path)
    inputs = inputs_of(simulator, load_two_tower(path), config.pool)
    parts = [
        rows_of(POLICIES["greedy_ctr"].build(inputs), "greedy_ctr", seed, simulator, config.users)
    ]
    for name in TUNED:
        best = tune(config, name, simulator, inputs, folder)
        parts.append(
            rows_of(POLICIES[name].build(inputs, best), name, seed, simulator, config.users)
        )
    agent = PPOComposerConfig(
        ppo=config.ppo,
        network=NetworkConfig(),
        composer=ComposerConfig(offset_dims=config.offset_dims),
        reward=TrainingReward(expected_clicks=False),  # an outsider does not tell its probabilities
    )
    learned = ppo_composer(
        Ground(outside_simulator(spec), inputs, seed, config.steps, config.shoppers), agent
    )
    assert learned.sampled is not None
    for name, policy in (("ppo", learned.policy), ("ppo, sampled", learned.sampled)):
        rows = rows_of(policy, name, seed, simulator, config.users).drop("steps", "minutes")
        parts.append(
            labelled(
                rows.with_columns(steps=learned.steps, minutes=learned.facts["minutes"]), name, seed
            )
        )
    return pl.concat(parts, how="diagonal_relaxed").select(parts[0].columns)


def part(config: Config, name: str, measure: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """Rows from `work/<name>.parquet`, measured only where they are not there yet."""
    path = config.work / f"{name}.parquet"
    if not path.exists():
        write_parquet(path, measure())
    return pl.read_parquet(path)


def check_work(config: Config) -> None:
    """Remember what the parts in `config.work` belong to.

    Raises:
        ValueError: If they belong to another configuration.
    """
    free = ("seeds", "threads", "work", "results")
    told = {key: value for key, value in config_as_json(config).items() if key not in free}
    remember_settings(config.work, told)


# ---- analysis ------------------------------------------------------------------------------------

SHORT = {ORACLE: "greedy_oracle", "ppo, sampled": "ppo_sampled"}
"""Names in the summary that differ from those in the table."""
HEADERS = {
    "policy": "policy",
    "runs": "training seeds",
    "return": "clicks in 100 steps",
    "above": "above the greedy oracle",
    "minutes": "minutes of training",
}


def analyse(rows: pl.DataFrame) -> tuple[list[dict[str, object]], dict[str, Estimate]]:
    """The lines of the table, and the figures by name."""
    names = rows["policy"].unique(maintain_order=True).to_list()
    parts = {name: rows.filter(pl.col("policy") == name) for name in names}
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    for name, of_policy in parts.items():
        found = estimate(of_policy, "return")
        above = None if name == ORACLE else difference(of_policy, parts[ORACLE], "return")
        trained = of_policy["training_seed"].null_count() == 0
        minutes = of_policy["minutes"].drop_nulls().to_numpy()
        lines.append(
            {
                "policy": name.replace("_", " "),
                "runs": of_policy["training_seed"].n_unique() if trained else None,
                "return": found,
                "above": above,
                "minutes": float(minutes.mean()) if len(minutes) else None,
            }
        )
        short = SHORT.get(name, name)
        summary[f"{short}_return"] = found
        if above is not None:
            summary[f"{short}_minus_oracle"] = above
    summary["ppo_minus_constant"] = over_seeds_and_users(parts["ppo"], parts["constant"])
    minutes = parts["ppo"].unique("training_seed")["minutes"].to_numpy()
    summary["ppo_minutes"] = Estimate(float(minutes.mean()), n=len(minutes))
    summary["ppo_steps"] = Estimate(float(parts["ppo"]["steps"][0]), n=len(minutes))
    return lines, summary


def over_seeds_and_users(one: pl.DataFrame, other: pl.DataFrame) -> Estimate:
    """By how much one is above the other, paired by training seed and user."""
    tables = [by_training_seed(rows, "return", seed="training_seed") for rows in (one, other)]
    return over_training_seeds(tables[0] - tables[1])


def report(rows: pl.DataFrame) -> Report:
    """What the rows say."""
    lines, summary = analyse(rows)
    return Report(markdown(lines, HEADERS), summary, draw(lines))


def main(config: Config) -> None:
    """Measure what is missing, then report.

    Raises:
        RuntimeError: If another process measures in the same folder.
    """
    with locked(config.work):
        _measure(config)


def _measure(config: Config) -> None:
    use_threads(config.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = sardine_spec(config.env, config.clusters)
    check_work(config)
    run = Run("sardine", config, results=config.results)
    parts = [part(config, "references", partial(references, config, spec))]
    parts += [
        part(config, f"seed{seed}", partial(pipeline, config, spec, seed)) for seed in config.seeds
    ]
    rows = pl.concat(parts)
    found = report(rows)
    print(found.table)
    run.save(rows, **vars(found))


if __name__ == "__main__":
    main(tyro.cli(Config))
