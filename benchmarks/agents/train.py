"""Train PPO agents.

    python -m benchmarks.agents.train

One training for each seed, all from the greedy CTR ranker. Run again, it goes on from the last
checkpoint; a training that is finished is left as it is. Watch with `tensorboard --logdir
runs/train`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from stable_baselines3.common.logger import configure

from agents.ppo.algorithm import SlatePPO, fit_standardizers, make_ppo
from agents.ppo.checkpoints import LAST, load, save
from agents.ppo.config import PPOConfig
from agents.ppo.events import cut_events
from agents.ppo.monitor import Monitor, MonitorConfig
from agents.ppo.vec_env import IntentVecEnv, SlateVecEnv, TrainingReward
from benchmarks.lab.checked import Checked
from benchmarks.lab.saved import UNTRAINED
from benchmarks.lab.settings import check_settings, settings_of, write_settings
from benchmarks.lab.where import Where
from benchmarks.lab.threads import use_threads
from benchmarks.lab.trainings import VISITS
from policies.composer import Composer, ComposerConfig
from policies.learnable.autoregressive import AutoregressiveConfig
from policies.learnable.intents import IntentConfig
from policies.learnable.kinds import LEARNABLE
from policies.learnable.plackett_luce import PlackettLuceConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env.files import locked


@dataclass(frozen=True)
class Config(Checked):
    """Train PPO over slates."""

    world: World = field(default_factory=World)
    """Environment, populations and device to train in, and the number of threads."""
    agent: Literal["composer", "plackett_luce", "autoregressive"] = "composer"
    """What PPO acts in: the intents of the slate composer, or slates themselves, whose items are
    drawn at once (plackett_luce) or one by one (autoregressive)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds, each of which is a run of its own. Three show how much runs differ."""
    visits: int = 300_000
    """Length of a run in visits, those of all shoppers together."""
    shoppers: int = 512
    """Number of shoppers that are served at once."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Hyper-parameters of the PPO algorithm."""
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(log_std=-1.5))
    """Sizes and start of actor and critic."""
    composer: ComposerConfig = field(default_factory=ComposerConfig)
    """What the agent sees of a visit and how it may steer."""
    plackett_luce: PlackettLuceConfig = field(default_factory=PlackettLuceConfig)
    """How the scores of the Plackett-Luce agent start."""
    autoregressive: AutoregressiveConfig = field(default_factory=AutoregressiveConfig)
    """How the scores of the autoregressive agent start."""
    reward: TrainingReward = field(default_factory=TrainingReward)
    """How the reward is changed before it is learned from."""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """Evaluations before the first update, on the way and at the end."""
    output: Path = Path("runs/train")
    """Folder of the runs: checkpoints and TensorBoard events in `<agent>/seed<k>/`."""


def folder_of(config: Config, seed: int) -> Path:
    """The folder of a training seed's checkpoint and events."""
    return config.output / config.agent / f"seed{seed}"


def make_model(config: Config, seed: int) -> SlatePPO:
    """Make an agent before its first update."""
    simulator = config.world.simulator("train")
    composer = Composer(config.world.inputs(simulator), config.composer)
    face = IntentVecEnv if LEARNABLE[config.agent].intents else SlateVecEnv
    env = face(simulator, composer, config.shoppers, seed, config.reward)
    starts = {
        "composer": IntentConfig(config.network.log_std),
        "plackett_luce": config.plackett_luce,
        "autoregressive": config.autoregressive,
    }
    start = starts[config.agent]
    return make_ppo(
        config.agent,
        env,
        config.ppo,
        config.network,
        start=start,
        seed=seed,
        device=simulator.device,
    )


def make_quietly(config: Config, seed: int) -> SlatePPO:
    """Make an agent without the warning of Stable-Baselines3 that `rounded` says in a sentence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You have specified a mini-batch size", UserWarning)
        return make_model(config, seed)


def visits_to_make(config: Config, made: int = 0) -> int:
    """The number of visits at the end of a training, which makes whole rollouts.

    Args:
        config: The training.
        made: The number of visits that it has made before.
    """
    rollout = config.shoppers * config.ppo.n_steps
    return made + math.ceil(max(config.visits - made, 0) / rollout) * rollout


def rounded(config: Config, made: int = 0) -> Iterator[str]:
    """Say what is rounded, because visits, rollouts and minibatches do not fit into each other."""
    rollout, batch = config.shoppers * config.ppo.n_steps, config.ppo.batch_size
    told = f"whole rollouts of {rollout:,} visits (shoppers x ppo.n_steps)"
    if (visits := visits_to_make(config, made)) != config.visits:
        yield f"visits is {config.visits:,} and is rounded up to {visits:,}, which are {told}."
    if batch > rollout:
        yield (
            f"ppo.batch_size is {batch:,}, but a rollout has {rollout:,} visits: "
            "each is one minibatch."
        )
    elif last := rollout % batch:
        yield (
            f"ppo.batch_size is {batch:,}, but a rollout has {rollout:,} visits: "
            f"the last minibatch of each pass has {last:,}."
        )


def train(config: Config, seed: int) -> Path:
    """Train one seed to its end, from the last checkpoint where there is one.

    Returns:
        The path of the last checkpoint.

    Raises:
        ValueError: If the folder holds a training with other settings.
        RuntimeError: If another process trains there.
    """
    with locked(folder_of(config, seed)):
        return _train(config, seed)


def _train(config: Config, seed: int) -> Path:
    folder = folder_of(config, seed)
    told = _settings(config)
    check_settings(folder, told, free=(VISITS,))

    # take up what an interrupted training left, or begin
    model = make_quietly(config, seed)
    goes_on = (folder / LAST).exists()
    if goes_on:
        load(model, folder / LAST)
    else:
        fit_standardizers(model)
        save(model, folder / UNTRAINED)
    write_settings(folder, told)
    left = config.visits - model.num_timesteps
    if left <= 0:
        print(
            f"{config.agent}, seed {seed}: was finished before, "
            f"at {model.num_timesteps:,} visits; {folder / LAST}"
        )
        return folder / LAST

    for line in rounded(config, model.num_timesteps):
        print(f"{config.agent}, seed {seed}: {line}")

    # train on, with a monitor that evaluates, logs and keeps checkpoints
    cut_events(folder, model.num_timesteps if goes_on else None)
    model.set_logger(configure(str(folder), ["tensorboard"]))
    simulator = config.world.simulator("evaluation")
    title = f"{config.agent}, seed {seed}"
    monitor = Monitor(config.monitor, simulator, folder, flat(told), title=title, goes_on=goes_on)
    at_once: Any = {
        "log_interval": None
    }  # SB3 takes None, its types do not: the monitor writes the log
    model.learn(left, monitor, reset_num_timesteps=model.num_timesteps == 0, **at_once)
    outcome = _outcome(monitor.returns, goes_on)
    print(f"{title}: {outcome} after {model.num_timesteps:,} visits; {folder / LAST}")
    return folder / LAST


def _outcome(returns: Sequence[float], goes_on: bool) -> str:
    """Say what return an agent reached, and what it had untrained if that was measured."""
    before = "" if goes_on else f" (untrained {returns[0]:.2f})"
    return f"return {returns[-1]:.2f}{before}"


def _settings(config: Config) -> dict[str, Any]:
    """The settings of a training, of which only the number of visits may change on the way."""
    return settings_of(config, free=("seeds", "monitor", "output"))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | str | float | None]:
    """Turn nested settings into `part/field` names for TensorBoard, and lists into text."""
    out: dict[str, bool | str | float | None] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}/")
        else:
            out[f"{prefix}{key}"] = (
                value if isinstance(value, (bool, str, float, int)) else str(value)
            )
    return out


def train_all(config: Config) -> None:
    """Train every seed, and print one line on each."""
    config.world.check()
    use_threads(config.world.threads)
    for seed in config.seeds:
        train(config, seed)


def main(config: Config) -> None:
    """Train every seed, and say what comes next."""
    train_all(config)
    options = f"--trained {config.output} --agents {config.agent}"
    print(f"Next: python -m benchmarks.agents.compare {options}")


if __name__ == "__main__":
    main(tyro.cli(Config))
