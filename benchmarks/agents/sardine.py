"""Our agents, unchanged, on SARDINE and RecSim, environments of others.

    python -m benchmarks.agents.sardine
    python -m benchmarks.agents.sardine --ray auto   # on the machines of a Ray cluster

SARDINE (Deffayet et al. 2023, `pip install sardine-rec`) simulates users who get bored: five of the
last ten clicks in one hidden topic, and for five steps they click on nothing. Its own short-term
oracle knows what every user likes now and shows that; whoever plans does better. Our agents get the
item embeddings, what they showed and what was clicked.

RecSim's users (Ie et al. 2019, `pip install recsim-no-tf six`) stay the longer the better the
topics are that they watch, which are not those that they like. A rule that knows the quality of
every video shows how much lies beyond clicks now.

A training seed is a whole pipeline: log by a uniform policy, then by ever better exploring rankers;
fit a CTR ranker to it, and the general session model, which believes something about each user;
tune re-rankers; train PPO. Everything is then evaluated on the same users. With `--no-belief` the
CTR ranker alone tells what users like.
The settings are the same for all environments of SARDINE. Run again, it goes on with the training
seeds and trials that are missing; the users of others cannot be written down, so PPO itself begins
anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import polars as pl
import torch

from agents.base import TrainingSetup
from agents.evaluate import evaluate
from agents.places import seeds
from agents.places.believing import belief_folder, fitted_belief
from agents.ppo.agents import PPOComposerConfig, ppo_composer
from agents.ppo.config import PPOConfig
from agents.ppo.vec_env import TrainingReward
from agents.statistics import by_training_seed, over_training_seeds
from benchmarks.lab.command import run_command
from benchmarks.lab.measuring import RowCell, measure_and_report, read_cells
from benchmarks.lab.options import Cells, Results
from benchmarks.lab.plots import BLUE, RED, level_intervals
from benchmarks.lab.recsim_evolution import QualityRule, evolution
from benchmarks.lab.run import Report, Run
from benchmarks.lab.sardine_log import LOG_SEED, log_and_ranker
from benchmarks.lab.settings import settings_of
from benchmarks.lab.statistics import policy_difference, policy_mean
from benchmarks.lab.tables import markdown
from benchmarks.lab.tuning import defaults_of, policy_search, trials_of
from policies import POLICIES, PolicyInputs
from policies.composer import ComposerConfig
from policies.inputs import Ranker
from policies.lasting import lasting_value
from policies.learnable.intents import LOG_STD
from policies.learnable.sb3 import NetworkConfig
from policies.rankers.belief import BeliefRanker
from policies.rankers.two_tower import load_two_tower, save_two_tower
from recsim_env import noise
from recsim_env.belief.registry import load_belief
from recsim_env.estimates import Estimate
from recsim_env.files import made, read_tensors, write_tensors
from recsim_env.settings import NONE_OR_MORE, POSITIVE, SHARE, Within
from recsim_env.shoppers.outside import OutsideSpec, environment_seeds, outside_simulator
from recsim_env.shoppers.outside_catalog import clustered_catalog, topical_catalog
from recsim_env.shoppers.session.fit import SessionFitConfig
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

NAME = "sardine"
"""Name of the results with a belief."""
EVALUATION_SEED = 50_000_000
"""First seed of the evaluation's users, none of whom was met while anything was chosen."""
ORACLE, RANDOM = "greedy oracle", "random"
"""SARDINE's own two policies."""
BELIEF_GREEDY = "belief_greedy"
"""The most clicked items by the belief, where `greedy_ctr` shows those of the two-tower ranker."""
QUALITY = "quality rule"
"""The rule that knows the quality of RecSim's videos."""
MAIN, RECSIM = "sardine/SlateTopK-Bored-v0", "recsim/InterestEvolution-v0"
"""The environment of SARDINE whose figures bear no name, and that of RecSim."""
TUNED = ("mmr", "cap", "reward_greedy", "constant", "constant_budget", "constant_log_odds")
"""Re-rankers whose parameters are searched."""


@dataclass(frozen=True)
class Config(Cells, Results):
    """Train agents on one part of SARDINE's users, and compare them on another part."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "exploring": NONE_OR_MORE,
        "clusters": NONE_OR_MORE,
        "recsim_gamma": SHARE,
        "temperatures": POSITIVE,
        "offset_dims": NONE_OR_MORE,
        "log_std": LOG_STD,
    }

    envs: tuple[str, ...] = (
        MAIN,
        "sardine/SlateTopK-BoredInf-v0",
        "sardine/SlateTopK-Uncertain-v0",
        RECSIM,
    )
    """Environments: ids of SARDINE, where users get bored, and RecSim's interest evolution."""
    clusters: int = 0
    """Number of categories that are clusters of SARDINE's item embeddings. With 0 the categories
    are topics, the largest dimension of each item's embedding."""
    belief: bool = True
    """Whether rankers and cues are those of a belief, which is fitted to the log; without it they
    are those of the two-tower ranker, and the results have a folder of their own,
    `sardine_two_tower`."""
    model: SessionFitConfig = field(
        default_factory=lambda: SessionFitConfig(epochs=4.0, temperaments=16)
    )
    """How the model that believes is fitted."""
    log_users: int = 600
    """Number of users of the uniform log, and of each exploring log after it."""
    exploring: int = 3
    """Number of exploring logs, each of which the ranker of all logs before it serves."""
    temperatures: tuple[float, ...] = (1.0, 0.5)
    """Temperatures of the exploring rankers, each of which serves an equal part of the users."""
    pool: int = 200
    """Number of best candidates that every re-ranker and the composer look at."""
    trials: int = 24
    """Number of settings tried for each tuned re-ranker, the same for all to be fair."""
    tuning_users: int = 100
    """Number of users of a trial."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds, each a pipeline of its own from the first log to PPO."""
    steps: int = 400_000
    """Length of a PPO training on SARDINE, in slates shown."""
    shoppers: int = 512
    """Number of users that are served at once in a training on SARDINE."""
    ppo: PPOConfig = field(
        default_factory=lambda: PPOConfig(
            learning_rate=5e-3, n_steps=20, batch_size=2560, gamma=0.95
        )
    )
    """Hyper-parameters of PPO on SARDINE. Boredom is over in five steps, so PPO need not look far
    ahead."""
    recsim_steps: int = 100_000
    """Length of a PPO training on RecSim, in slates shown."""
    recsim_shoppers: int = 128
    """Number of users that are served at once in a training on RecSim."""
    recsim_gamma: float = 0.995
    """Discount of PPO on RecSim, whose other hyper-parameters are those on SARDINE, with as many
    batches in a rollout. What is watched now prolongs an episode at its end, so PPO must look as
    far ahead as that."""
    log_std: float = -0.3
    """Logarithm of the initial width of exploration, in units of an intent."""
    offset_dims: int = 0
    """Number of components of the item embedding along which PPO may move the query. By default
    PPO uses the knobs alone."""
    users: int = 100
    """Number of users of the evaluation, the same for all policies."""
    work: Path = Path("runs/sardine")
    """Folder of what was done so far, which is not done again; delete it to start anew."""

    @property
    def benchmark(self) -> str:
        """The name of the results."""
        return NAME if self.belief else f"{NAME}_two_tower"


def recsim_ppo(config: Config) -> PPOConfig:
    """The hyper-parameters of PPO on RecSim."""
    batch = config.ppo.batch_size * config.recsim_shoppers // config.shoppers
    return replace(config.ppo, gamma=config.recsim_gamma, batch_size=max(batch, 1))


def sardine_spec(env: str, clusters: int = 0) -> OutsideSpec:
    """What the adapter needs to know of a SARDINE environment.

    The items' embeddings are the "ideal" ones of SARDINE's `TopK` wrapper, which are not negative.

    Args:
        env: id of the environment
        clusters: number of clusters that are the categories; 0 = topics of the embeddings

    Raises:
        ModuleNotFoundError: If `sardine-rec` is not installed.
    """

    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(f"sardine:{env}", disable_env_checker=True)

    one: Any = make().unwrapped
    embedding = torch.from_numpy(one.item_embedd)
    catalog = clustered_catalog(embedding, clusters) if clusters else topical_catalog(embedding)
    return OutsideSpec(make, catalog, visits=one.H)


def spec_of(config: Config, env: str) -> OutsideSpec:
    """What the adapter needs to know of an environment."""
    return evolution()[0] if env == RECSIM else sardine_spec(env, config.clusters)


def folder_of(config: Config, env: str) -> Path:
    """Where the work on an environment is kept."""
    name = env.rpartition("/")[2]
    return config.work / (name if config.belief else f"{name}-two_tower")


# ---- a log and what is learned from it -----------------------------------------------------------


def inputs_of(
    simulator: SlateSimulator,
    ranker: Ranker | None = None,
    pool: int = 64,
    lasting: torch.Tensor | None = None,
) -> PolicyInputs:
    """What policies are built from on an outside environment."""
    return PolicyInputs(
        simulator.catalog,
        simulator.observation_space,
        simulator.slate_size,
        ranker,
        pool=pool,
        reward=simulator.reward,
        lasting=lasting,
    )


def tune(
    config: Config, name: str, simulator: SlateSimulator, inputs: PolicyInputs, folder: Path
) -> dict[str, float]:
    """The best parameters of a re-ranker on training users, of those that there is a cue for."""
    first = [defaults_of(POLICIES[name].parameters(), POLICIES[name].search())]
    search = policy_search(name, inputs, simulator, first, config.trials, config.tuning_users)
    return dict(trials_of(folder / f"{name}.trials.json", search).best_params)


# ---- rows ----------------------------------------------------------------------------------------


def rows_of(
    policy: Policy, name: str, seed: int | None, simulator: SlateSimulator, users: int
) -> pl.DataFrame:
    """Play a policy: one row a user."""
    rows = evaluate(policy, simulator, seeds(EVALUATION_SEED, users), title=name).rows
    return labelled(rows.select(pl.col("seed").alias("episode"), "return", "visits"), name, seed)


def labelled(rows: pl.DataFrame, name: str, seed: int | None) -> pl.DataFrame:
    """Add the columns that say whose rows these are, and those of a training where they lack."""
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
    """Play SARDINE's greedy oracle or its random policy in the environment itself.

    Both are as in SARDINE's `EpsilonGreedyOracle` with epsilon 0 and 1, which draws from numpy's
    global generator: the environment fills a slate of -1 with what the user likes best now, and
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


def references(config: Config, env: str, spec: OutsideSpec) -> pl.DataFrame:
    """Rows of the policies that are not trained."""
    simulator = outside_simulator(spec)
    uniform = POLICIES["uniform"].build(inputs_of(simulator))
    if env == RECSIM:
        rule = QualityRule(evolution()[1])
        best = rows_of(rule, QUALITY, None, simulator, config.users)
        return pl.concat([rows_of(uniform, "uniform", None, simulator, config.users), best])
    own = [play_outside(spec, name, config.users) for name in (RANDOM, ORACLE)]
    return pl.concat([own[0], rows_of(uniform, "uniform", None, simulator, config.users), own[1]])


def pipeline(config: Config, env: str, seed: int, spec: OutsideSpec) -> pl.DataFrame:
    """Rows of one training seed, from the first log to the evaluation."""
    folder = made(folder_of(config, env) / f"seed{seed}")

    # the log, what is learned from it, and the policies that need no training
    simulator = outside_simulator(spec)
    path, kept = folder / "ranker.safetensors", folder / "lasting.safetensors"
    if not path.exists():
        log, ranker = log_and_ranker(
            simulator,
            users=config.log_users,
            rounds=config.exploring,
            temperatures=config.temperatures,
            pool=config.pool,
            first_seed=LOG_SEED + 1_000_000 * seed,
            title=f"{env}, seed {seed}",
        )
        write_tensors(kept, {"lasting": lasting_value(log, simulator.catalog)})
        if config.belief:
            title = f"{env}, seed {seed}, belief"
            fitted_belief(folder, log, simulator, config=config.model, title=title)
        save_two_tower(ranker, path)
    lasting = read_tensors(kept)[0]["lasting"]
    inputs = inputs_of(simulator, load_two_tower(path), config.pool, lasting)
    greedy = POLICIES["greedy_ctr"]
    parts = [rows_of(greedy.build(inputs), "greedy_ctr", seed, simulator, config.users)]
    belief = None
    if config.belief:
        held = belief_folder(folder, config.model)
        belief = load_belief(held, simulator.device, simulator.slate_size)
        simulator = outside_simulator(spec, belief=belief)
        inputs = inputs_of(simulator, BeliefRanker(), config.pool, lasting)
        parts += [rows_of(greedy.build(inputs), BELIEF_GREEDY, seed, simulator, config.users)]
    for name in TUNED:
        best = tune(config, name, simulator, inputs, folder)
        parts.append(
            rows_of(POLICIES[name].build(inputs, best), name, seed, simulator, config.users)
        )

    # the agent, which starts from the same ranker and belief
    ours = env != RECSIM
    agent = PPOComposerConfig(
        ppo=config.ppo if ours else recsim_ppo(config),
        network=NetworkConfig(actor_hidden=(32,), log_std=config.log_std),
        composer=ComposerConfig(offset_dims=config.offset_dims, budget=True),
        reward=TrainingReward(expected_clicks=False),  # an outsider does not tell its probabilities
    )
    steps, shoppers = (
        (config.steps, config.shoppers) if ours else (config.recsim_steps, config.recsim_shoppers)
    )
    learned = ppo_composer(
        TrainingSetup(outside_simulator(spec, belief=belief), inputs, seed, steps, shoppers), agent
    )
    assert learned.sampled is not None

    # rows of the agent also say how long it was trained
    for name, policy in (("ppo", learned.policy), ("ppo, sampled", learned.sampled)):
        rows = rows_of(policy, name, seed, simulator, config.users).drop("steps", "minutes")
        parts.append(
            labelled(
                rows.with_columns(steps=learned.steps, minutes=learned.facts["minutes"]), name, seed
            )
        )
    return pl.concat(parts, how="diagonal_relaxed").select(parts[0].columns)


# ---- analysis ------------------------------------------------------------------------------------

SHORT = {ORACLE: "greedy_oracle", QUALITY: "quality_rule", "ppo, sampled": "ppo_sampled"}
"""Names in the summary that differ from those in the table."""
HEADERS = {
    "env": "environment",
    "policy": "policy",
    "runs": "training seeds",
    "return": "clicks in an episode",
    "above": "above the greedy oracle",
    "minutes": "minutes of training",
}


def prefix_of(env: str) -> str:
    """What the names of an environment's figures begin with."""
    if env in (MAIN, RECSIM):
        return {MAIN: "", RECSIM: "recsim_"}[env]
    name = env.rpartition("/")[2].removesuffix("-v0").removeprefix("SlateTopK-")
    return f"{name.lower().replace('-', '_')}_"


def analyse(rows: pl.DataFrame) -> tuple[list[dict[str, object]], dict[str, Estimate]]:
    """Make the lines of the table, and the figures by name, of all environments."""
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    for env in rows["env"].unique(maintain_order=True):
        found, figures = analyse_one(rows.filter(pl.col("env") == env))
        lines += [{"env": env.rpartition("/")[2], **line} for line in found]
        summary |= {prefix_of(env) + name: value for name, value in figures.items()}
    return lines, summary


def analyse_one(rows: pl.DataFrame) -> tuple[list[dict[str, object]], dict[str, Estimate]]:
    """Make the lines of the table, and the figures by name, of one environment."""
    names = rows["policy"].unique(maintain_order=True).to_list()
    parts = {name: rows.filter(pl.col("policy") == name) for name in names}
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}

    # a line for each policy
    for name, of_policy in parts.items():
        found = policy_mean(of_policy, "return")
        above = None
        if ORACLE in parts and name != ORACLE:
            above = policy_difference(of_policy, parts[ORACLE], "return")
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

    # PPO against its rivals, and what it cost
    ppo, greedy = parts["ppo"], parts["greedy_ctr"]
    constant = parts["constant_budget" if "constant_budget" in parts else "constant"]
    summary["ppo_minus_constant"] = over_seeds_and_users(ppo, constant)
    if QUALITY in parts:
        gap = summary["quality_rule_return"].value - summary["greedy_ctr_return"].value
        summary["ppo_share"] = over_seeds_and_users(ppo, greedy, scale=gap)
        summary["constant_share"] = over_seeds_and_users(constant, greedy, scale=gap)
    minutes = ppo.unique("training_seed")["minutes"].to_numpy()
    summary["ppo_minutes"] = Estimate(float(minutes.mean()), n=len(minutes))
    summary["ppo_steps"] = Estimate(float(ppo["steps"][0]), n=len(minutes))
    return lines, summary


def over_seeds_and_users(one: pl.DataFrame, other: pl.DataFrame, scale: float = 1.0) -> Estimate:
    """By how much one policy is above another, over `scale`, paired by training seed and user."""
    tables = [by_training_seed(rows, "return", seed="training_seed") for rows in (one, other)]
    return over_training_seeds((tables[0] - tables[1]) / scale)


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows; the figure is of the first environment.

    Rows without an environment are of `MAIN`.
    """
    if "env" not in rows.columns:
        rows = rows.with_columns(env=pl.lit(MAIN))
    lines, summary = analyse(rows)
    main = str(rows["env"][0])
    steps = int(rows.filter(pl.col("env") == main)["visits"].to_numpy().max())
    clicks, headers = f"clicks in {steps} steps", dict(HEADERS)
    if rows["env"].n_unique() == 1:
        headers.pop("env")
        headers["return"] = clicks
    values = [
        (str(line["policy"]), line["return"], BLUE if line["runs"] is None else RED)
        for line in lines
        if line["env"] == main.rpartition("/")[2]
    ]
    figure = level_intervals(
        [(name, value, colour) for name, value, colour in values if isinstance(value, Estimate)],
        f"{clicks}, mean and 95 % interval",
    )
    return Report(markdown(lines, headers), summary, figure)


def cells_of(config: Config) -> list[RowCell]:
    """The policies that are not trained, and every training seed, in every environment."""
    cells = []
    for env in config.envs:
        measured = {"references": partial(references, config, env)}
        measured |= {f"seed{seed}": partial(pipeline, config, env, seed) for seed in config.seeds}
        folder, opened = folder_of(config, env), partial(spec_of, config, env)
        cells += [
            RowCell(folder / f"{name}.parquet", env, opened, rows)
            for name, rows in measured.items()
        ]
    return cells


def read_work(cells: Sequence[RowCell]) -> pl.DataFrame:
    """The rows of all cells, with the environment of each."""
    return pl.concat(read_cells([cell]).with_columns(env=pl.lit(cell.place)) for cell in cells)


def main(config: Config) -> None:
    """Measure what is missing, then report; raises as `measure_and_report`."""
    run = Run(config.benchmark, config, results=config.results)
    told = settings_of(config, free=("envs", "seeds", "belief"))
    measure_and_report(run, config, cells_of(config), report, told, config.work, read_work)


if __name__ == "__main__":
    run_command(main, Config)
