"""Does an agent that wins in a learned market win in the true one?

    python -m benchmarks.agents.transfer

From a market's log (`benchmarks.data.market_log`) come a CTR ranker and a user model. Every agent
is built from that ranker and plays the same seeds in the true market and in the one that the user
model makes; PPO is trained in each of the two and plays in both. `main` asks over worlds and
user-model seeds, `sweep` changes the size of the log and who wrote it, `ensemble` lets several user
models answer together, with and without pessimism. Each evaluation is a file of one row:

    runs/transfer/<market>/tuned.json                        knobs of the tuned constant re-ranker
    runs/transfer/<market>/<simulator>/model/                the user model, in seed0, seed1, ..
    runs/transfer/<market>/<simulator>/ppo-seed<k>.safetensors   PPO that was trained there
    runs/transfer/<market>/<simulator>/rows/<agent>.parquet      what an agent earned there

where <simulator> is `true`, `again` (the true market with other shoppers, for agents that were not
trained), `seed<k>` or an ensemble. What is there is not made again, so a run goes on where it
stopped, and several may run side by side: each leaves aside what another one measures.
`benchmarks.agents.transfer_report` makes figures of the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl

from agents.base import TrainingSetup
from agents.evaluate import evaluate
from agents.keeper import Keeper
from agents.places import REPORTED_SEED, Site, seeds
from agents.places.mixture import Mixture
from agents.ppo.agents import PPOComposerConfig, ppo_composer
from agents.ppo.config import PPOConfig
from benchmarks.agents.transfer_report import AGAIN, LOG, ROWS, TRUE, report
from benchmarks.lab.cells import all_rows, once, rows_at
from benchmarks.lab.command import run_command
from benchmarks.lab.contenders import FIXED, TUNED, contender, tune_constant
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.options import Cells, Markets, Results
from benchmarks.lab.playing import Task, end, play_cells, there
from benchmarks.lab.run import Run
from benchmarks.lab.saved import load_actor, save_actor
from benchmarks.lab.session_markets import fitted_session, market_of
from benchmarks.lab.settings import settings_of, share_settings
from benchmarks.lab.threads import use_threads
from policies import PolicyInputs
from recsim_env.settings import AMOUNT, Within
from recsim_env.shoppers.session.fit import SessionFitConfig
from recsim_env.shoppers.session.population import SessionPopulation
from recsim_env.shoppers.session.starts import Logged
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

Part = Literal["all", "main", "sweep", "ensemble", "report"]

OTHERS = 1_000_000
"""How far the seeds of `AGAIN` lie from those of everyone else."""
PPO_IN_BOTH = PPOConfig(
    learning_rate=4e-3, n_steps=20, batch_size=5120, n_epochs=5, gamma=0.99, gae_lambda=0.8
)
"""Hyper-parameters of PPO in both trainings. What counts is that they are alike, so the league's
tuned ones are not used."""


@dataclass(frozen=True)
class Config(Markets, Cells, Results):
    """Compare agents in a learned market and in the true one."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"pessimism": AMOUNT, "episodes": Within(1, OTHERS)}
    EMPTY: ClassVar[Collection[str]] = ("sizes", "mixtures", "pessimism")

    part: Part = "all"
    """What to measure. `main` compares all agents in both markets, `sweep` varies the log,
    `ensemble` puts several user models together, `all` does all of it, and `report` measures
    nothing. The report is about everything that was measured so far."""
    env: str = "recsim_env/Market-v0"
    """Id of the true market, whose log the learned market is fitted to."""
    worlds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the market's catalogues. Three tell worlds apart; `sweep` and `ensemble` use the
    first."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of user models and of PPO. `sweep` uses the first, `ensemble` puts the models of all
    seeds into one."""
    mixture: Mixture = "broad"
    """Mixture of policies that wrote the log. The default is the one whose slates differ most from
    each other."""
    sizes: tuple[int, ...] = (30_000, 100_000, 300_000, 1_000_000)
    """Numbers of logged slates in the sweep over the size of the log."""
    mixtures: tuple[Mixture, ...] = ("greedy", "uniform", "exploring", "broad")
    """Mixtures of policies in the sweep over who wrote the log."""
    pessimism: tuple[float, ...] = (0.0, 1.0)
    """Pessimism of each ensemble: how many standard deviations of its members are taken off its
    answer. An ensemble without any is the control, and so is that of a single seed."""
    model: SessionFitConfig = field(default_factory=SessionFitConfig)
    """The user model and its training."""
    ppo: PPOComposerConfig = field(default_factory=lambda: PPOComposerConfig(ppo=PPO_IN_BOTH))
    """The PPO agent and its training, the same in both markets."""
    steps: int = 300_000
    """Length of a PPO training in shopper-steps, the same in both markets."""
    shoppers: int = 1024
    """Number of shoppers that are served at once in a training."""
    trials: int = 20
    """Number of settings tried for the tuned constant re-ranker in the true market, those set by
    hand among them."""
    tuning_episodes: int = 128
    """Number of episodes of a trial."""
    episodes: int = 1024
    """Number of episodes of an evaluation, with the same seeds in every market."""
    batch: int = 512
    """Number of shoppers served at a time in an evaluation, which changes its speed alone."""
    work: Path = Path("runs/transfer")
    """Folder of what was measured so far, which is not measured again; delete it to start anew."""


FREE = ("part", "worlds", "seeds", "slates", "mixture", "sizes", "mixtures", "pessimism")
"""Settings in which runs that share a work folder may differ."""


@dataclass(frozen=True)
class Models:
    """Which user models make a learned market, and how they answer together."""

    seeds: tuple[int, ...]
    """Seeds of the user models that answer together."""
    pessimism: float = 0.0
    """Standard deviations of disagreement by which the mean answer is lowered; see
    `recsim_env.shoppers.session.population.SessionPopulation`."""

    @property
    def kind(self) -> str:
        """The name in the column `simulator` of the rows; `learned` is a single model."""
        if len(self.seeds) == 1:
            return "learned"
        return f"ensemble{len(self.seeds)}-pessimism{self.pessimism:g}"

    @property
    def name(self) -> str:
        """The name of the folder, which says which models."""
        if len(self.seeds) == 1:
            return f"seed{self.seeds[0]}"
        return f"ensemble{'-'.join(map(str, self.seeds))}-pessimism{self.pessimism:g}"


@dataclass(frozen=True)
class Cell:
    """A learned market beside the true one."""

    world: MarketWorld
    """The true market, whose log the user models are fitted to."""
    models: Models
    """The user models of the learned market."""
    ppo_seeds: tuple[int, ...]
    """Seeds of PPO, each trained in both markets."""


def cells(config: Config) -> list[Cell]:
    """The cells that `config.part` asks for."""
    found: list[Cell] = []
    one = MarketWorld(config.env, config.worlds[0], config.slates, config.mixture)
    seed = config.seeds[0]
    if config.part in ("all", "main"):
        worlds = [replace(one, world=number) for number in config.worlds]
        found += [Cell(world, Models((at,)), (at,)) for world in worlds for at in config.seeds]
    if config.part in ("all", "sweep"):
        others = [replace(one, slates=slates) for slates in config.sizes]
        others += [replace(one, mixture=mixture) for mixture in config.mixtures]
        found += [Cell(world, Models((seed,)), (seed,)) for world in others]
    if config.part in ("all", "ensemble"):
        found += [Cell(one, Models((at,)), (at,)) for at in config.seeds]
        several = config.pessimism if len(config.seeds) > 1 else (0.0,)
        found += [Cell(one, Models(config.seeds, doubt), config.seeds) for doubt in several]
    return list(dict.fromkeys(found))


# ---- agents --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agent:
    """Who plays, and in which simulator they were trained."""

    name: str
    """Name of the agent, as in the rows."""
    trained_in: str = LOG
    """`LOG` where nothing was trained in a simulator, else `TRUE` or a kind of learned market."""
    seed: int = 0
    """Seed of the training."""

    @property
    def file(self) -> str:
        """The stem of the name of its row's file."""
        name = self.name.replace(" ", "-").replace(".", "_")
        if self.trained_in == LOG:
            return name
        return f"{name}-{self.trained_in.replace('.', '_')}-seed{self.seed}"


def agents_of(cell: Cell) -> list[Agent]:
    """Everyone who plays in a cell."""
    kinds = (TRUE, cell.models.kind)
    return [Agent(name) for name in FIXED] + [
        Agent("ppo", kind, seed) for seed in cell.ppo_seeds for kind in kinds
    ]


@dataclass(frozen=True)
class OpenedCell:
    """A cell whose simulators and agents are made or read when they are needed."""

    config: Config
    """How the cell is measured."""
    cell: Cell
    """Which markets are compared."""

    @property
    def folder(self) -> Path:
        """The folder of the true market."""
        return self.config.work / self.cell.world.name

    @cached_property
    def site(self) -> Site:
        """The true market with its log and its ranker."""
        return self.cell.world.open(self.config.markets, self.config.device)

    @cached_property
    def inputs(self) -> PolicyInputs:
        """What every agent is built from, whichever market it plays in.

        Raises:
            ValueError: If the two markets show the shop different observations.
        """
        true, learned = (
            self.markets[kind].observation_space for kind in (TRUE, self.cell.models.kind)
        )
        if true != learned:
            raise ValueError(
                f"the learned market shows {learned}, but the true one {true}: "
                "no agent could play both."
            )
        return self.site.inputs

    @cached_property
    def markets(self) -> dict[str, SlateSimulator]:
        """The simulators to play in, by kind; trainings take new ones."""
        true, kind = self.simulator(TRUE), self.cell.models.kind
        return {TRUE: true, AGAIN: true, kind: self.simulator(kind)}

    def simulator(self, kind: str) -> SlateSimulator:
        """A new simulator of the true market (`TRUE`) or of the learned one."""
        if kind == TRUE:
            return self.cell.world.simulator(self.config.device)
        return learned_simulator(self.config, self.cell, self.site)

    def place(self, kind: str) -> Path:
        """The folder of a simulator."""
        return self.folder / (kind if kind in (TRUE, AGAIN) else self.cell.models.name)

    def policy(self, agent: Agent) -> Policy:
        """Build an agent, after training it in its simulator where that was not done yet."""
        if agent.trained_in != LOG:
            return self.trained(agent)
        tuned = self.tuned_knobs() if agent.name == TUNED else {}
        return contender(agent.name, self.inputs, tuned)

    def trained(self, agent: Agent) -> Policy:
        """PPO at its most likely action, from its file or trained."""
        config, place = self.config, self.place(agent.trained_in)
        path = place / f"ppo-seed{agent.seed}.safetensors"
        keeper = Keeper(path.with_suffix(".training.safetensors"))
        with once(path) as missing:
            if missing:
                simulator = self.simulator(agent.trained_in)
                inputs, sizes = self.site.inputs_for(simulator), (config.steps, config.shoppers)
                ground = TrainingSetup(simulator, inputs, agent.seed, *sizes, keeper=keeper)
                save_actor(ppo_composer(ground, config.ppo).policy, path)
            keeper.forget()
        return load_actor(path, config.ppo, self.inputs)

    def tuned_knobs(self) -> dict[str, float]:
        """The best knobs of the constant re-ranker, from their file or searched for."""
        return tune_constant(
            self.folder / "tuned.json",
            self.site,
            trials=self.config.trials,
            episodes=self.config.tuning_episodes,
            batch=self.config.batch,
        )


# ---- the learned market --------------------------------------------------------------------------


def learned_simulator(config: Config, cell: Cell, site: Site) -> SlateSimulator:
    """The market that user models make: catalogue, reward and horizon are those of the true one."""
    true = site.simulator()
    fitted = [fitted_shopper(config, cell.world, site, seed) for seed in cell.models.seeds]
    members = [member for shopper in fitted for member in shopper.members]
    logged = Logged.newcomers(fitted[0].declared.cpu())
    shopper = SessionPopulation(
        true.catalog, members, logged, true.device, pessimism=cell.models.pessimism
    )
    return market_of(shopper, true)


def fitted_shopper(config: Config, world: MarketWorld, site: Site, seed: int) -> SessionPopulation:
    """One user model of a log, from its folder or fitted."""
    folder = config.work / world.name / f"seed{seed}" / "model"
    title = f"user model {seed} of {world.name}"
    with once(folder):
        return fitted_session(folder, site.logged, site.simulator(), config.model, seed, title)


# ---- rows ----------------------------------------------------------------------------------------


def measure(config: Config, found: Sequence[Cell]) -> list[str]:
    """Let every agent play in both markets of each cell, wherever its row is missing.

    Returns:
        The names of what failed.
    """
    tasks = [task for cell in found for task in tasks_of(config, cell)]
    return play_cells(tasks, config, "transfer")


def tasks_of(config: Config, cell: Cell) -> list[Task]:
    """Every agent of a cell, who plays in both markets and, where nothing was trained, again."""
    opened = OpenedCell(config, cell)
    title = f"{cell.world.name}, {cell.models.name}"
    tasks = []
    for agent in agents_of(cell):
        twice = agent.trained_in == LOG and cell.world.mixture == config.mixture
        kinds = (TRUE, cell.models.kind, *([AGAIN] if twice else []))
        paths = {kind: opened.place(kind) / "rows" / f"{agent.file}.parquet" for kind in kinds}
        tasks.append(
            Task(
                f"{title}, {agent.file}",
                opened.place(cell.models.kind) / "unfinished" / agent.file,
                title,
                partial(OpenedCell, config, cell),
                partial(play, agent, paths),
                partial(there, *paths.values()),
            )
        )
    return tasks


def play(agent: Agent, paths: Mapping[str, Path], opened: OpenedCell) -> None:
    """Let an agent play in the simulators of a cell where its row, by kind, is missing."""
    for kind, path in paths.items():
        rows_at(path, partial(row, opened, agent, kind))


def row(opened: OpenedCell, agent: Agent, kind: str) -> pl.DataFrame:
    """What an agent earned in a simulator: one row, with the columns `transfer_report.ROWS`."""
    config, world, models = opened.config, opened.cell.world, opened.cell.models
    episodes = seeds(REPORTED_SEED + OTHERS * (kind == AGAIN), config.episodes)
    simulator = opened.markets[kind]
    found = evaluate(opened.policy(agent), simulator, episodes, batch=config.batch).rows
    returns = found["return"].to_numpy()
    single = kind not in (TRUE, AGAIN) and len(models.seeds) == 1
    return pl.DataFrame(
        {
            "world": world.world,
            "slates": world.slates,
            "mixture": world.mixture,
            "simulator": kind,
            "model_seed": models.seeds[0] if single else None,
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
    """Read all rows that were measured so far.

    Raises:
        FileNotFoundError: If there are none.
    """
    paths = list(work.glob("*/*/rows/[!.]*.parquet"))
    return all_rows(paths, work, "benchmarks.agents.transfer")


def main(config: Config) -> None:
    """Measure what is missing, then report on all there is."""
    use_threads(config.threads)
    share_settings(config.work, settings_of(config, free=FREE))
    run = Run("transfer", config, results=config.results)
    failed = measure(config, cells(config))
    rows = read_work(config.work)
    found = report(rows, config.slates, config.mixture)
    run.publish(rows, found)
    end(failed)


if __name__ == "__main__":
    run_command(main, Config)
