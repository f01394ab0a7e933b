r"""Train PPO agents.

    python -m benchmarks.agents.train
    python -m benchmarks.agents.train --env recsim_env/Market-v0 --options world=1
    python -m benchmarks.agents.train --env my_module:shop/Mine-v0 --reward clicks=1 --slate-size 6
    python -m benchmarks.agents.train --agent constrained --constraint.term clicks \
        --constraint.direction at_least --constraint.limit 0.9 --constraint.relative

One training for each seed, all from the greedy CTR ranker; where the environment has none, a log is
played and a ranker fitted to it first. A search moves what PPO learned, and the best of
polished, trained and untrained policies is kept. Each training leaves its agent as a folder of
its own, which `agents.folder.load_agent` loads. Run again, it goes on from the last checkpoint; a
training that is finished is left as it is. Watch with `tensorboard --logdir runs/train`.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import configure

from agents.folder import ABOUT
from agents.places.site import Site
from agents.ppo.algorithm import SlatePPO, look_around
from agents.ppo.checkpoints import LAST, load, save
from agents.ppo.constrained import ConstrainedConfig
from agents.ppo.convergence import verdict_of
from agents.ppo.events import cut_events
from agents.ppo.monitor import Monitor
from agents.ppo.steering import start_within
from benchmarks.lab.command import run_command
from benchmarks.lab.ppo.config import Config as Config
from benchmarks.lab.ppo.config import folder_of
from benchmarks.lab.ppo.ending import finish
from benchmarks.lab.ppo.model import Training, make_model
from benchmarks.lab.ppo.sizes import rounded
from benchmarks.lab.saved import AGENT, UNTRAINED
from benchmarks.lab.settings import check_settings, settings_of, write_settings
from benchmarks.lab.threads import use_threads
from benchmarks.lab.trainings import VISITS
from recsim_env.files import locked


def train(config: Config, seed: int, site: Site | None = None) -> Path:
    """Train one seed to its end, from the last checkpoint where there is one.

    Args:
        config: The training.
        seed: Its seed.
        site: The place, where it is open already.

    Returns:
        The path of the last checkpoint.

    Raises:
        ValueError: If the folder holds a training with other settings.
        RuntimeError: If another process trains there.
    """
    with locked(folder_of(config, seed)):
        return _train(Training.of(config, seed, site))


def _train(training: Training) -> Path:
    folder, title, sizes = training.folder, training.title, training.sizes
    told = _settings(training)
    check_settings(folder, told, free=(VISITS,))

    # take up what an interrupted training left, or begin
    model = make_model(training)
    goes_on = (folder / LAST).exists()
    if goes_on:
        load(model, folder / LAST)
    else:
        look_around(model)
        if training.constrained:
            turned = round(ConstrainedConfig().steered * sizes.steps)
            start_within(training.setup, model, turned)
        save(model, folder / UNTRAINED)
    write_settings(folder, told)
    left = sizes.visits - model.num_timesteps
    if left <= 0 and (folder / AGENT / ABOUT).exists():
        print(f"{title}: was finished before, at {model.num_timesteps:,} visits; {folder / AGENT}")
        return folder / LAST

    # train on, with a monitor that evaluates, logs and keeps checkpoints
    simulator = training.site.simulator("evaluation")
    monitor = Monitor(sizes.monitor, simulator, folder, flat(told), title=title, goes_on=goes_on)
    if left > 0:
        for line in rounded(sizes, training.config.ppo, model.num_timesteps):
            print(f"{title}: {line}")
        cut_events(folder, model.num_timesteps if goes_on else None)
        model.set_logger(configure(str(folder), ["tensorboard"]))
        at_once: Any = {
            "log_interval": None
        }  # SB3 takes None, its types do not: the monitor writes the log
        model.learn(left, monitor, reset_num_timesteps=model.num_timesteps == 0, **at_once)
    print(f"{title}: {finish(training, model)}")
    if left > 0:
        print(f"{title}: {convergence(training, monitor, model)}")
    return folder / LAST


def convergence(training: Training, monitor: Monitor, model: SlatePPO) -> str:
    """Whether a training has converged, and what to type where it has not, in one line."""
    found = verdict_of(
        [at for at, _ in monitor.explored],
        [value for _, value in monitor.explored],
        total=model.num_timesteps,
        kl=monitor.losses["approx_kl"],
        explained_variance=monitor.losses["explained_variance"],
        learning_rate=training.config.ppo.learning_rate,
        search=training.sizes.polished,
    )
    return f"{found.line} Try {found.advice}." if found.advice else found.line


def _settings(training: Training) -> dict[str, Any]:
    """The settings of a training, of which only the number of visits may change on the way."""
    config, sizes = training.config, training.sizes
    told = settings_of(config, free=("seeds", "monitor", "output", "constraint"))
    if training.constrained:
        told["constraint"] = dataclasses.asdict(config.constraint.constraint)
    return told | {VISITS: sizes.visits, "shoppers": sizes.shoppers}


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


def train_all(config: Config) -> Site:
    """Train every seed, and print one line on each; returns the place, opened."""
    config.place.check()
    use_threads(config.place.threads)
    site = config.place.open()
    for seed in config.seeds:
        train(config, seed, site)
    return site


def main(config: Config) -> None:
    """Train every seed, and say what comes next."""
    train_all(config)
    output = shlex.quote(str(config.output))
    options = f"--trained {output} --agents {config.agent}"
    print(f"Watch: tensorboard --logdir {output}")
    print(f"Next:  python -m benchmarks.agents.compare{config.place.arguments} {options}")


if __name__ == "__main__":
    run_command(main, Config)
