"""Does an agent that wins in a learned market win in the true one? python -m benchmarks.agents.transfer

From a market's log (`benchmarks.data.market_log`) come a CTR ranker and a user model. Every agent
is built from that ranker and plays the same seeds in the true market and in the one that the user
model makes; PPO is trained in each of the two and plays in both. `main` asks over worlds and
user-model seeds, `sweep` changes the size of the log and who wrote it, `ensemble` lets several user
models answer together, with and without pessimism. Each evaluation is a file of one row:

    runs/transfer/<market>/tuned.json                        knobs of the tuned constant re-ranker
    runs/transfer/<market>/<simulator>/model/                the user model, where <simulator> is seed0, seed1, ..
    runs/transfer/<market>/<simulator>/ppo-seed<k>.safetensors   PPO that was trained there
    runs/transfer/<market>/<simulator>/rows/<agent>.parquet      what an agent earned there

where <simulator> is `true`, `again` (the true market with other shoppers, for agents that were not
trained), `seed<k>` or an ensemble. What is there is not made again, so a run goes on where it
stopped, and two may run side by side on different markets (`--worlds`, `--mixture`, `--slates`).
`benchmarks.agents.transfer_report` makes figures of the rows.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import optuna
import polars as pl
import torch
import tyro
from tqdm.auto import tqdm

from agents.base import Ground
from agents.evaluate import evaluate
from agents.keeper import Keeper
from agents.ppo.agents import PPOComposerConfig, ppo_composer
from agents.ppo.algorithm import PPOConfig
from agents.ppo.checkpoints import check_finite
from benchmarks.agents.transfer_report import AGAIN, LOG, ROWS, TRUE, report
from benchmarks.agents.tune import trials_of
from benchmarks.data.market_log import BuiltMarket, Logging, MarketWorld, Mixture, build
from benchmarks.lab.run import RESULTS, Run
from benchmarks.lab.settings import config_as_json, remember_settings
from benchmarks.lab.threads import THREADS, use_threads
from benchmarks.lab.world import REPORTED_SEED, TUNING_SEED, seeds
from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig, ComposerPolicy, IntentActor
from recsim_env.files import locked, read_tensors, write_json, write_tensors
from recsim_env.shoppers.session.fit import SessionFitConfig, fit_session
from recsim_env.shoppers.session.population import (
    LearnedMarketShopper,
    load_learned_market,
    save_learned_market,
)
from recsim_env.simulator import SlateSimulator
from recsim_env.tables import write_parquet
from recsim_env.types import Policy

Part = Literal["all", "main", "sweep", "ensemble", "report"]

HAND = (
    {"count": -1.0, "similarity": -0.5},
    {"count": -1.0, "similarity": -0.5, "sated": -0.5, "flooded": -0.5},
    {"count": -1.0, "similarity": -0.5, "sated": -1.0, "flooded": -2.0},
    {"sated": -2.0, "flooded": -2.0},
)

"""Knobs of constant re-rankers, set by hand; the search for the tuned one starts from them."""
RERANKERS: dict[str, tuple[str, dict[str, float]]] = {
    "uniform": ("uniform", {}),
    "popular": ("popular", {}),
    "greedy_ctr": ("greedy_ctr", {}),
    "mmr 0.3": ("mmr", {"weight": 0.3}),
    "mmr 1": ("mmr", {"weight": 1.0}),
    "mmr 3": ("mmr", {"weight": 3.0}),
    "cap 1": ("cap", {"limit": 1}),
    "cap 2": ("cap", {"limit": 2}),
    "cap 3": ("cap", {"limit": 3}),
    "dpp 1": ("dpp", {"alpha": 1.0}),
    "dpp 4": ("dpp", {"alpha": 4.0}),
    **{
        f"constant {letter}": ("constant", knobs)
        for letter, knobs in zip("abcd", HAND, strict=True)
    },
}
"""Name -> registered policy and its parameters."""
SOFTMAX = {"softmax 0.5": 0.5, "softmax 1": 1.0}
"""Name -> temperature of the greedy ranker with noise on its log-odds."""
TUNED = "constant tuned"
OTHERS = 1_000_000
"""How far the seeds of `AGAIN` lie from those of everyone else."""
PPO_IN_BOTH = PPOConfig(
    learning_rate=4e-3, n_steps=20, batch_size=5120, n_epochs=5, gamma=0.99, gae_lambda=0.8
)
"""PPO of both trainings: what counts is that they are alike, so the league's tuning is no part of
it."""
FIXED = (*RERANKERS, *SOFTMAX, TUNED)
"""Names of the agents that are built from the log and not trained in a simulator."""


@dataclass(frozen=True)
class Config:
    """Compare agents in a learned and in the true market."""

    part: Part = "all"
    """What to measure; `report` measures nothing. The report is about everything that was measured
    so far."""
    env: str = "recsim_env/Market-v0"
    """Id of a market."""
    worlds: tuple[int, ...] = (0, 1, 2)
    """Seeds of its catalogues; `sweep` and `ensemble` use the first."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of user models and of PPO; `sweep` uses the first, `ensemble` puts the models of all into
    one."""
    slates: int = 300_000
    """Logged slates, about."""
    mixture: Mixture = "broad"
    """Who wrote the log."""
    sizes: tuple[int, ...] = (30_000, 100_000, 300_000, 1_000_000)
    """Logged slates in the sweep."""
    mixtures: tuple[Mixture, ...] = ("greedy", "uniform", "exploring", "broad")
    """Who wrote the log in the sweep."""
    pessimism: tuple[float, ...] = (0.0, 1.0)
    """Of the ensembles: standard deviations of its members."""
    model: SessionFitConfig = field(default_factory=SessionFitConfig)
    """The user model; its seed is replaced."""
    ppo: PPOComposerConfig = field(default_factory=lambda: PPOComposerConfig(ppo=PPO_IN_BOTH))
    """PPO."""
    steps: int = 300_000
    """Slates shown in a training of PPO."""
    shoppers: int = 1024
    """Shoppers served at once in a training."""
    trials: int = 20
    """Settings tried for the tuned constant re-ranker, in the true market."""
    tuning_episodes: int = 128
    """Episodes of a trial."""
    episodes: int = 1024
    """Episodes of an evaluation, the same seeds in every market."""
    batch: int = 512
    """Shoppers at a time in an evaluation."""
    device: str | None = None
    """cpu or cuda; None for the best there is."""
    threads: int = THREADS
    """CPU threads."""
    markets: Path = Path("runs/market")
    """Folder of logs and rankers; what is missing there is built."""
    work: Path = Path("runs/transfer")
    """Folder of what is measured so far; delete it to start anew."""
    results: Path = RESULTS
    """Folder of the results."""


FREE = (
    "part",
    "worlds",
    "seeds",
    "slates",
    "mixture",
    "sizes",
    "mixtures",
    "pessimism",
    "device",
    "threads",
    "markets",
)
"""Fields of `Config` in which runs that share a work folder may differ."""


@dataclass(frozen=True)
class Models:
    """Which user models make a market, and how they agree."""

    seeds: tuple[int, ...]
    """Of the user models that answer together."""
    pessimism: float = 0.0
    """See `recsim_env.shoppers.session.population.LearnedMarketShopper`."""

    @property
    def kind(self) -> str:
        """As in the rows: `learned` is one model."""
        return (
            "learned"
            if len(self.seeds) == 1
            else f"ensemble{len(self.seeds)}-pessimism{self.pessimism:g}"
        )

    @property
    def name(self) -> str:
        """Of the folder; says which models."""
        if len(self.seeds) == 1:
            return f"seed{self.seeds[0]}"
        return f"ensemble{'-'.join(map(str, self.seeds))}-pessimism{self.pessimism:g}"


@dataclass(frozen=True)
class Cell:
    """A learned market beside the true one."""

    world: MarketWorld
    models: Models
    ppo_seeds: tuple[int, ...]
    """Seeds of PPO, each trained in both markets."""


def cells(config: Config) -> list[Cell]:
    """What `config.part` measures."""
    found: list[Cell] = []
    one, seed = (
        MarketWorld(config.env, config.worlds[0], config.slates, config.mixture),
        config.seeds[0],
    )
    if config.part in ("all", "main"):
        worlds = [replace(one, world=number) for number in config.worlds]
        found += [Cell(world, Models((at,)), (at,)) for world in worlds for at in config.seeds]
    if config.part in ("all", "sweep"):
        others = [replace(one, slates=slates) for slates in config.sizes]
        others += [replace(one, mixture=mixture) for mixture in config.mixtures]
        found += [Cell(world, Models((seed,)), (seed,)) for world in others]
    if config.part in ("all", "ensemble"):
        found += [Cell(one, Models((at,)), (at,)) for at in config.seeds]
        found += [
            Cell(one, Models(config.seeds, pessimism), config.seeds)
            for pessimism in config.pessimism
        ]
    return list(dict.fromkeys(found))


# ---- agents --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agent:
    """Who plays, and in which simulator they were trained."""

    name: str
    trained_in: str = LOG
    """`LOG` where nothing was trained in a simulator, else `TRUE` or a kind of learned market."""
    seed: int = 0
    """Of the training."""

    @property
    def file(self) -> str:
        """Name of the file of its row, without what follows the dot."""
        name = self.name.replace(" ", "-").replace(".", "_")
        return (
            name
            if self.trained_in == LOG
            else f"{name}-{self.trained_in.replace('.', '_')}-seed{self.seed}"
        )


def agents_of(cell: Cell) -> list[Agent]:
    """Everyone who plays in a cell."""
    kinds = (TRUE, cell.models.kind)
    return [Agent(name) for name in FIXED] + [
        Agent("ppo", kind, seed) for seed in cell.ppo_seeds for kind in kinds
    ]


@dataclass(frozen=True)
class Bench:
    """A cell at work: makes, keeps and finds whatever an evaluation needs. Nothing is made before it is asked for."""

    config: Config
    cell: Cell

    @property
    def folder(self) -> Path:
        """Of this market."""
        return self.config.work / self.cell.world.name

    @cached_property
    def built(self) -> BuiltMarket:
        """The market, its log and its ranker."""
        return build(self.cell.world, self.config.markets, self.config.device)

    @cached_property
    def inputs(self) -> PolicyInputs:
        """What every agent is built from, whichever market it plays in: both show the shop the same.

        Raises:
            ValueError: If they do not.
        """
        true, learned = (
            self.markets[TRUE].observation_space,
            self.markets[self.cell.models.kind].observation_space,
        )
        if true != learned:
            raise ValueError(
                f"the learned market shows {learned}, but the true one {true}: no agent could play both."
            )
        return self.built.inputs()

    @cached_property
    def markets(self) -> dict[str, SlateSimulator]:
        """Both markets, to play in; training takes new ones."""
        true = self.simulator(TRUE)
        return {
            TRUE: true,
            AGAIN: true,
            self.cell.models.kind: self.simulator(self.cell.models.kind),
        }

    def simulator(self, kind: str) -> SlateSimulator:
        """A new simulator: `TRUE`, or the learned market of the cell."""
        if kind == TRUE:
            return self.cell.world.simulator(self.config.device)
        return learned_simulator(self.config, self.built, self.cell.models)

    def place(self, kind: str) -> Path:
        """The folder of a simulator."""
        return self.folder / (kind if kind in (TRUE, AGAIN) else self.cell.models.name)

    def policy(self, agent: Agent) -> Policy:
        """Build an agent; train it first where that was not done yet."""
        if agent.trained_in != LOG:
            return self.trained(agent)
        if agent.name in SOFTMAX:
            return Logging(
                Composer(self.inputs, ComposerConfig(offset_dims=0)), {}, SOFTMAX[agent.name]
            )
        if agent.name == TUNED:
            return POLICIES["constant"].build(self.inputs, self.tuned_knobs())
        policy, parameters = RERANKERS[agent.name]
        return POLICIES[policy].build(self.inputs, parameters)

    def trained(self, agent: Agent) -> Policy:
        """PPO at its most likely action, from its file or trained."""
        path = self.place(agent.trained_in) / f"ppo-seed{agent.seed}.safetensors"
        keeper = Keeper(path.with_suffix(".training.safetensors"))
        if not path.exists():
            simulator = self.simulator(agent.trained_in)
            inputs = self.built.inputs(simulator)
            ground = Ground(
                simulator,
                inputs,
                agent.seed,
                self.config.steps,
                self.config.shoppers,
                keeper=keeper,
            )
            save_actor(ppo_composer(ground, self.config.ppo).policy, path)
        keeper.forget()
        return load_actor(path, self.config.ppo, self.inputs)

    def tuned_knobs(self) -> dict[str, float]:
        """The best knobs of the constant re-ranker, from their file or searched for."""
        path = self.folder / "tuned.json"
        if not path.exists():
            write_json(
                path, tune_constant(self.config, self.built, path.with_suffix(".trials.json"))
            )
        knobs: dict[str, float] = json.loads(path.read_text())
        return knobs


def tune_constant(config: Config, built: BuiltMarket, path: Path) -> dict[str, float]:
    """Search the knobs that this market has by what they earn in the true one; first come those set by hand.

    path: where the trials of an interrupted search are kept.
    """
    spec, inputs = POLICIES["constant"], built.inputs()
    here = Composer(inputs, ComposerConfig(offset_dims=0)).knobs
    ranges = {name: allowed for name, allowed in spec.search().items() if name in here}
    first = [dict.fromkeys(ranges, 0.0) | knobs for knobs in HAND]
    episodes = seeds(TUNING_SEED, config.tuning_episodes)

    def value(knobs: dict[str, float], number: int) -> float:
        found = evaluate(spec.build(inputs, knobs), built.simulator, episodes, batch=config.batch)
        return float(found.rows["return"].to_numpy().mean())

    return dict(trials_of(path, value, ranges, first, config.trials, 0, TUNED).best_params)


def save_actor(policy: Policy, path: Path) -> None:
    """Write what a composer policy has learned (safetensors), whole or not at all."""
    assert isinstance(policy, ComposerPolicy)
    write_tensors(path, policy.actor.state_dict())


def load_actor(path: Path, config: PPOComposerConfig, inputs: PolicyInputs) -> ComposerPolicy:
    """Read what `save_actor` wrote.

    Raises:
        RuntimeError: If the weights do not fit `config` and `inputs`.
        ValueError: If the file is cut off, or one of them is not finite.
    """
    weights, composer = read_tensors(path)[0], Composer(inputs, config.composer)
    check_finite(path, weights)
    generator = torch.Generator().manual_seed(0)  # of weights that are overwritten
    width, hidden = len(weights["standardize.mean"]), config.network.actor_hidden
    actor = IntentActor(width, composer.intent_size, hidden, config.network.log_std, generator)
    actor.load_state_dict(weights)
    return ComposerPolicy(composer, actor.to(inputs.catalog.device).requires_grad_(False))


# ---- the learned market --------------------------------------------------------------------------


def learned_simulator(config: Config, built: BuiltMarket, models: Models) -> SlateSimulator:
    """The market that user models of a log make: catalogue, reward and horizon of the true one."""
    true = built.simulator
    fitted = [fitted_shopper(config, built, seed) for seed in models.seeds]
    members = [member for shopper in fitted for member in shopper.members]
    shopper = LearnedMarketShopper(
        true.catalog, members, fitted[0].declared, true.device, pessimism=models.pessimism
    )
    return SlateSimulator(
        shopper, true.reward, horizon_days=true.horizon_days, history=true.history
    )


def fitted_shopper(config: Config, built: BuiltMarket, seed: int) -> LearnedMarketShopper:
    """One user model of a log, from its folder or fitted."""
    true = built.simulator
    folder = config.work / built.world.name / f"seed{seed}" / "model"
    if not folder.exists():
        catalog, settings = true.catalog.to("cpu"), replace(config.model, seed=seed)
        with tqdm(desc=f"user model {seed} of {built.world.name}", unit="step", leave=False) as bar:
            model = fit_session(
                built.log, catalog, settings, device=true.device, progress=partial(_advance, bar)
            )
        part = folder.with_name("model.part")
        shutil.rmtree(part, ignore_errors=True)
        save_learned_market(part, catalog, [model], built.log.declared)
        part.rename(folder)
    return load_learned_market(true.device, true.slate_size, folder=folder)


def _advance(bar: Any, step: int, steps: int) -> None:
    bar.total = steps
    bar.update(step - bar.n)


# ---- rows ----------------------------------------------------------------------------------------


def measure(config: Config, cell: Cell) -> None:
    """Let everyone play in both markets of a cell, wherever the row is not there yet.

    Raises:
        RuntimeError: If another process measures in the same market.
    """
    bench = Bench(config, cell)
    with locked(bench.folder):
        _measure(bench)


def _measure(bench: Bench) -> None:
    config, cell = bench.config, bench.cell
    with tqdm(
        total=len(agents_of(cell)), desc=f"{cell.world.name}, {cell.models.name}", unit="agent"
    ) as bar:
        for agent in agents_of(cell):
            again = (
                (AGAIN,) if agent.trained_in == LOG and cell.world.mixture == config.mixture else ()
            )
            kinds = (TRUE, cell.models.kind, *again)
            paths = {kind: bench.place(kind) / "rows" / f"{agent.file}.parquet" for kind in kinds}
            for kind, path in paths.items():
                if not path.exists():
                    write_parquet(path, row(bench, agent, kind))
            bar.update()


def row(bench: Bench, agent: Agent, kind: str) -> pl.DataFrame:
    """What an agent earned in a simulator: one row, columns `transfer_report.ROWS`."""
    config, world, models = bench.config, bench.cell.world, bench.cell.models
    episodes = seeds(REPORTED_SEED + OTHERS * (kind == AGAIN), config.episodes)
    found = evaluate(bench.policy(agent), bench.markets[kind], episodes, batch=config.batch).rows
    returns = found["return"].to_numpy()
    return pl.DataFrame(
        {
            "world": world.world,
            "slates": world.slates,
            "mixture": world.mixture,
            "simulator": kind,
            "model_seed": models.seeds[0]
            if kind not in (TRUE, AGAIN) and len(models.seeds) == 1
            else None,
            "agent": agent.name,
            "trained_in": agent.trained_in,
            "agent_seed": agent.seed,
            "episodes": len(returns),
            "return": float(returns.mean()),
            "return_se": float(returns.std(ddof=1) / len(returns) ** 0.5),
            "clicks": float(found["clicks"].to_numpy().mean()),
            "visits": float(found["visits"].to_numpy().mean()),
        },
        schema=ROWS,
    )


def read_work(work: Path) -> pl.DataFrame:
    """All rows that were measured so far.

    Raises:
        FileNotFoundError: If there are none.
    """
    paths = sorted(work.glob("*/*/rows/[!.]*.parquet"))
    if not paths:
        raise FileNotFoundError(
            f"{work} has no rows yet: run python -m benchmarks.agents.transfer."
        )
    return pl.concat([pl.read_parquet(path) for path in paths])


def check_work(config: Config) -> None:
    """Remember what the rows in `config.work` belong to.

    Raises:
        ValueError: If they belong to another configuration.
    """
    told = {
        key: value
        for key, value in config_as_json(config).items()
        if key not in (*FREE, "work", "results")
    }
    remember_settings(config.work, told)


def main(config: Config) -> None:
    """Measure what is missing, then report on all there is."""
    use_threads(config.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_work(config)
    run = Run("transfer", config, results=config.results)
    for cell in cells(config):
        measure(config, cell)
    rows = read_work(config.work)
    found = report(rows, config.slates, config.mixture)
    print(found.table)
    run.save(rows, **vars(found))


if __name__ == "__main__":
    main(tyro.cli(Config))
