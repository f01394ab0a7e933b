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

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stable_baselines3.common.logger import configure

from agents import AGENTS, TrainingSetup
from agents.evaluate import evaluate
from agents.folder import ABOUT, save_agent
from agents.places.site import Site, is_slow, seeds
from agents.ppo.agents import PPOComposerConfig
from agents.ppo.algorithm import SlatePPO, environment_of, frozen_policy_of, look_around, make_ppo
from agents.ppo.checkpoints import LAST, load, load_policy, save
from agents.ppo.config import PPOConfig, annealed_rate
from agents.ppo.constrained import (
    CONTENDERS,
    ConstrainedConfig,
    chosen,
    constrained_env_of,
    face_of,
    planned_for,
    polish_within,
    reference_of,
    start_within,
    steered,
)
from agents.ppo.constraint import Constraint, totals_of
from agents.ppo.convergence import verdict_of
from agents.ppo.events import cut_events
from agents.ppo.goals import face_for
from agents.ppo.monitor import Monitor, MonitorConfig
from agents.ppo.polish import choice_of, judge_of, polish
from agents.ppo.vec_env import SimulatorVecEnv, TrainingReward
from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from benchmarks.lab.saved import AGENT, POLISHED, UNTRAINED
from benchmarks.lab.settings import check_settings, settings_of, write_settings
from benchmarks.lab.threads import use_threads
from benchmarks.lab.trainings import VISITS
from benchmarks.lab.where import Here, Where
from policies import POLICIES
from policies.composer import ComposerConfig
from policies.learnable.autoregressive import AutoregressiveConfig
from policies.learnable.conditioned import ConditionedConfig
from policies.learnable.intents import ComposerPolicy, IntentActor, IntentConfig
from policies.learnable.kinds import LEARNABLE
from policies.learnable.plackett_luce import PlackettLuceConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env.estimates import Estimate
from recsim_env.files import locked
from recsim_env.settings import SHARE, put, settle

USUAL_VISITS, USUAL_SHOPPERS = 300_000, 512
SLOW_VISITS, SLOW_SHOPPERS, SLOW_EPISODES = 20_000, 32, 32
"""Sizes of a training by default, in most environments and where shoppers are served one by one."""
CONSTRAINED = "constrained"
"""The agent that has a constraint."""
KEPT = "kept.safetensors"
"""Name of the file of the policy that was chosen under a constraint."""
CALLED = {POLISHED: "polished", LAST: "trained", UNTRAINED: "untrained"}
"""What the checkpoints are called."""


@dataclass(frozen=True)
class Config(Checked):
    """Train PPO over slates."""

    place: Here = field(default_factory=Where)
    """Environment, log and ranker to train with."""
    agent: Literal["composer", "conditioned", "constrained", "plackett_luce", "autoregressive"] = (
        "composer"
    )
    """What PPO acts in: the intents of the slate composer, for one reward (composer), for any
    weights of its terms (conditioned) or with a limit on the mean of a term (constrained), or
    slates themselves, whose items are drawn at once (plackett_luce) or one by one
    (autoregressive)."""
    constraint: Constraint = field(default_factory=lambda: ConstrainedConfig().constraint)
    """The limit of the agent `constrained`; what is not told keeps its default, at least
    0.95 times the clicks of greedy CTR."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds, each of which is a run of its own. Three show how much runs differ."""
    visits: int | None = None
    """Length of a run in visits, those of all shoppers together. By default it is 300,000, and
    20,000 in environments of others, whose shoppers are served one by one."""
    shoppers: int | None = None
    """Number of shoppers that are served at once. By default it is 512, and 32 in environments of
    others."""
    ppo: PPOConfig = field(default_factory=lambda: PPOComposerConfig().ppo)
    """Hyper-parameters of the PPO algorithm. By default they are those that are registered for the
    agent; where one of them is told, the others are those of `composer`."""
    annealed: float = PPOComposerConfig().annealed
    """Factor on the learning rate at the end, reached linearly from 1; 1 keeps the rate
    constant."""
    polished: float = PPOComposerConfig().polished
    """Share of the visits with which, after PPO, CMA-ES searches for what to add to the intents of
    all states; 0 leaves them as PPO learned them. Only `composer` and `constrained` have such a
    search."""
    network: NetworkConfig = field(default_factory=lambda: PPOComposerConfig().network)
    """Sizes and initial values of actor and critic."""
    composer: ComposerConfig = field(default_factory=lambda: PPOComposerConfig().composer)
    """What the agent sees of a visit and how it may steer."""
    plackett_luce: PlackettLuceConfig = field(default_factory=PlackettLuceConfig)
    """How the scores of the Plackett-Luce agent start."""
    autoregressive: AutoregressiveConfig = field(default_factory=AutoregressiveConfig)
    """How the scores of the autoregressive agent start."""
    learned_reward: TrainingReward = field(default_factory=lambda: PPOComposerConfig().reward)
    """How the reward of the simulator becomes the reward that PPO learns from."""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """Evaluations before the first update, on the way and at the end. In environments of others
    they have 32 episodes unless another number than the default is given."""
    output: Path = Path("runs/train")
    """Folder of the runs: checkpoints and TensorBoard events in `<agent>/seed<k>/`."""

    def __post_init__(self) -> None:
        """Check every option, and take the agent's own hyper-parameters where none is told."""
        super().__post_init__()
        settle(self, annealed=SHARE, polished=SHARE)
        if self.ppo == PPOComposerConfig().ppo:
            put(self, ppo=AGENTS[f"ppo_{self.agent}"].config().ppo)


def kind_of(config: Config) -> str:
    """The kind of policy that is trained, a name in `LEARNABLE`."""
    return "composer" if config.agent == CONSTRAINED else config.agent


def folder_of(config: Config, seed: int) -> Path:
    """The folder of a training seed's checkpoint and events."""
    return config.output / config.agent / f"seed{seed}"


@dataclass(frozen=True)
class Sizes:
    """How much is trained and evaluated."""

    visits: int
    """Length of PPO's part of a run in visits."""
    polished: int
    """Most visits of the search that follows it."""
    shoppers: int
    """Number of shoppers that are served at once."""
    monitor: MonitorConfig
    """Evaluations on the way."""


def sizes_of(config: Config, *, slow: bool = False) -> Sizes:
    """The sizes that are told, and others by default where shoppers are served one by one."""
    visits, shoppers = (SLOW_VISITS, SLOW_SHOPPERS) if slow else (USUAL_VISITS, USUAL_SHOPPERS)
    monitor = config.monitor
    if slow and monitor.episodes == MonitorConfig().episodes:
        monitor = replace(monitor, episodes=SLOW_EPISODES)
    visits = visits if config.visits is None else config.visits
    polished = round(config.polished * visits) if kind_of(config) == "composer" else 0
    shoppers = shoppers if config.shoppers is None else config.shoppers
    return Sizes(visits - polished, polished, shoppers, monitor)


def make_model(config: Config, seed: int, site: Site | None = None) -> SlatePPO:
    """Make an agent before its first update.

    Args:
        config: The training.
        seed: Its seed.
        site: The place, where it is open already.
    """
    site = site or config.place.open()
    simulator = site.simulator("train")
    sizes, inputs = sizes_of(config, slow=is_slow(simulator)), site.inputs_for(simulator)

    # what it acts in, which a limit changes
    face: Callable[..., SimulatorVecEnv] = face_for(kind_of(config))
    if config.agent == CONSTRAINED:
        agent = ConstrainedConfig(constraint=config.constraint)
        visits = sizes.visits + sizes.polished
        setup = TrainingSetup(simulator, inputs, seed, visits, sizes.shoppers)
        reference = reference_of(setup, agent)
        inputs = planned_for(inputs, reference.limit, agent.multiplier)
        face = face_of(agent, reference)

    # its network
    starts = {
        "composer": IntentConfig(config.network.log_std),
        "conditioned": ConditionedConfig(config.network.log_std),
        "plackett_luce": config.plackett_luce,
        "autoregressive": config.autoregressive,
    }
    start = starts[kind_of(config)]
    composer = LEARNABLE[kind_of(config)].composer_for(inputs, config.composer, start)
    env = face(simulator, composer, sizes.shoppers, seed, config.learned_reward)
    model = make_ppo(
        kind_of(config),
        env,
        config.ppo,
        config.network,
        start=start,
        seed=seed,
        device=simulator.device,
    )
    model.lr_schedule = partial(annealed_rate, config.ppo.learning_rate, config.annealed)
    return model


def make_quietly(config: Config, seed: int, site: Site) -> SlatePPO:
    """Make an agent without the warning of Stable-Baselines3 that `rounded` says in a sentence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You have specified a mini-batch size", UserWarning)
        return make_model(config, seed, site)


def visits_to_make(config: Config, made: int = 0, *, slow: bool = False) -> int:
    """The number of visits at the end of PPO's part of a training, which makes whole rollouts.

    Args:
        config: The training.
        made: The number of visits that it has made before.
        slow: Whether shoppers are served one by one.
    """
    sizes = sizes_of(config, slow=slow)
    rollout = sizes.shoppers * config.ppo.n_steps
    return made + math.ceil(max(sizes.visits - made, 0) / rollout) * rollout


def rounded(config: Config, made: int = 0, *, slow: bool = False) -> Iterator[str]:
    """Say what is rounded, because visits, rollouts and minibatches do not fit into each other."""
    sizes = sizes_of(config, slow=slow)
    rollout, batch = sizes.shoppers * config.ppo.n_steps, config.ppo.batch_size
    told = f"whole rollouts of {rollout:,} visits (shoppers x ppo.n_steps)"
    if (visits := visits_to_make(config, made, slow=slow)) != sizes.visits:
        part = "visits is" if not sizes.polished else "PPO's part of the visits is"
        yield f"{part} {sizes.visits:,} and is rounded up to {visits:,}, which are {told}."
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
        return _train(config, seed, site or config.place.open())


def _train(config: Config, seed: int, site: Site) -> Path:
    folder = folder_of(config, seed)
    simulator = site.simulator("evaluation")
    slow = is_slow(simulator)
    sizes = sizes_of(config, slow=slow)
    title = f"{config.agent}, seed {seed}"
    told = _settings(config, sizes)
    check_settings(folder, told, free=(VISITS,))

    # take up what an interrupted training left, or begin
    model = make_quietly(config, seed, site)
    goes_on = (folder / LAST).exists()
    if goes_on:
        load(model, folder / LAST)
    else:
        look_around(model)
        if config.agent == CONSTRAINED:
            shoppers, most = environment_of(model).simulator, sizes.visits + sizes.polished
            inputs = site.inputs_for(shoppers)
            setup = TrainingSetup(shoppers, inputs, seed, most, sizes.shoppers)
            start_within(setup, model, round(ConstrainedConfig().steered * most))
        save(model, folder / UNTRAINED)
    write_settings(folder, told)
    left = sizes.visits - model.num_timesteps
    if left <= 0 and (folder / AGENT / ABOUT).exists():
        print(f"{title}: was finished before, at {model.num_timesteps:,} visits; {folder / AGENT}")
        return folder / LAST

    # train on, with a monitor that evaluates, logs and keeps checkpoints
    monitor = Monitor(sizes.monitor, simulator, folder, flat(told), title=title, goes_on=goes_on)
    if left > 0:
        for line in rounded(config, model.num_timesteps, slow=slow):
            print(f"{title}: {line}")
        cut_events(folder, model.num_timesteps if goes_on else None)
        model.set_logger(configure(str(folder), ["tensorboard"]))
        at_once: Any = {
            "log_interval": None
        }  # SB3 takes None, its types do not: the monitor writes the log
        model.learn(left, monitor, reset_num_timesteps=model.num_timesteps == 0, **at_once)
    print(f"{title}: {finish(config, seed, site, model)}")
    if left > 0:
        print(f"{title}: {convergence(config, monitor, model)}")
    return folder / LAST


def finish(config: Config, seed: int, site: Site, model: SlatePPO) -> str:
    """Search on from what was trained, write the best of all, and say what it reached.

    Untrained, trained and polished policies are compared on training shoppers whom no update saw,
    and the untrained one is left only for what surely earns more (`agents.ppo.polish`). The one
    that is kept is then compared with greedy CTR on the shoppers of the evaluation.

    Args:
        config: The training.
        seed: Its seed.
        site: The place.
        model: The trained model, whose last checkpoint is written; it is changed.
    """
    folder, simulator = folder_of(config, seed), site.simulator("evaluation")
    sizes = sizes_of(config, slow=is_slow(simulator))
    settings = sizes.monitor

    # the search and the comparison have the training's own shoppers
    shoppers, visits = environment_of(model).simulator, sizes.visits + sizes.polished
    setup = TrainingSetup(shoppers, site.inputs_for(shoppers), seed, visits, sizes.shoppers)
    files = [UNTRAINED, LAST]
    if most := sizes.polished:
        print(f"{config.agent}, seed {seed}: a search of at most {most:,} visits follows.")
        search = polish_within if config.agent == CONSTRAINED else polish
        if search(setup, model, most)[0]:
            save(model, folder / POLISHED)
            files.append(POLISHED)
    if config.agent == CONSTRAINED:
        return held(config, seed, site, model, setup)
    choices = [load_policy(folder / file, setup.inputs) for file in files]
    earned = judge_of(model)(setup, choices, settings.episodes)[0]
    best = files[choice_of(earned)]

    # what is kept is judged by the shoppers of the evaluation
    episodes = seeds(settings.first_seed, settings.episodes)
    policies = {
        "agent": choices[files.index(best)],
        "greedy": POLICIES["greedy_ctr"].build(site.inputs),
    }
    returns = {
        name: evaluate(policy, simulator, episodes, batch=settings.batch).rows["return"].to_numpy()
        for name, policy in policies.items()
    }
    found = {
        "return": estimate_mean(returns["agent"]),
        "return_above_greedy_ctr": paired_difference(returns["agent"], returns["greedy"]),
    }
    save_agent(folder / AGENT, folder / best, site, env=config.place.env, scores=found)
    gain = found["return_above_greedy_ctr"]
    means = zip(files, earned.mean(dim=1).tolist(), strict=True)
    compared = ", ".join(f"{CALLED[file]} {mean:.2f}" for file, mean in means)
    return (
        f"from {settings.episodes} training shoppers {compared}; kept is {CALLED[best]}: return "
        f"{found['return'].value:.2f}, {gain.value:+.2f} [{gain.low:.2f}, {gain.high:.2f}] above "
        f"greedy CTR in the same {settings.episodes} episodes; {folder / AGENT}"
    )


def held(config: Config, seed: int, site: Site, model: SlatePPO, setup: TrainingSetup) -> str:
    """Turn the knob of the term to its limit, and write the best that keeps it.

    Args:
        config: The training, under a constraint.
        seed: Its seed.
        site: The place.
        model: The trained model, which is changed.
        setup: What it learned from.
    """
    slow = is_slow(setup.simulator)
    folder, settings = folder_of(config, seed), sizes_of(config, slow=slow).monitor
    env, agent = constrained_env_of(model), ConstrainedConfig()
    reference, limit = env.reference, env.limit
    length, enough = reference.length, setup.steps * CONTENDERS
    searched = load_policy(folder / UNTRAINED, setup.inputs), frozen_policy_of(model)
    contenders = dict(zip(("start", "trained"), searched, strict=True))
    on_limit, _ = steered(setup, model, round(agent.steered * setup.steps), length)
    contenders |= {name: policy for name, (policy, _) in on_limit.items()}
    best, found, _ = chosen(setup, contenders, reference, enough, length)

    # the folder holds what was chosen
    kept, actor = contenders[best], model.policy.actor
    assert isinstance(kept, ComposerPolicy)
    assert isinstance(actor, IntentActor)
    actor.load_state_dict(kept.actor.state_dict())
    save(model, folder / KEPT)
    episodes, simulator = (
        seeds(settings.first_seed, settings.episodes),
        site.simulator("evaluation"),
    )
    term, batch = config.constraint.term, settings.batch
    greedy = POLICIES["greedy_ctr"].build(site.inputs)
    agents, others = (totals_of(one, simulator, episodes, term, batch) for one in (kept, greedy))
    gain = paired_difference(agents.returns, others.returns)
    scores: dict[str, Estimate | float] = {
        "return": estimate_mean(agents.returns),
        "return_above_greedy_ctr": gain,
        f"{term}_per_visit": agents.mean,
        "limit": limit.value,
    }
    save_agent(folder / AGENT, folder / KEPT, site, env=config.place.env, scores=scores)
    side = config.constraint.direction.replace("_", " ")
    earned = ", ".join(
        f"{name} {one.earned:.2f} ({term} {one.mean:.3f})" for name, one in found.items()
    )
    return (
        f"{term} has to be {side} {limit.value:.3f} a visit; from {len(reference.greedy)} training "
        f"shoppers {earned}; kept is {best}: {term} {agents.mean:.3f} and {gain.value:+.2f} "
        f"[{gain.low:.2f}, {gain.high:.2f}] above greedy CTR in the same {settings.episodes} "
        f"episodes; {folder / AGENT}"
    )


def convergence(config: Config, monitor: Monitor, model: SlatePPO) -> str:
    """Whether a training has converged, and what to type where it has not, in one line.

    Args:
        config: The training.
        monitor: The monitor of its last run.
        model: The trained model.
    """
    found = verdict_of(
        [at for at, _ in monitor.explored],
        [value for _, value in monitor.explored],
        total=model.num_timesteps,
        kl=monitor.losses["approx_kl"],
        explained_variance=monitor.losses["explained_variance"],
        learning_rate=config.ppo.learning_rate,
        search=sizes_of(config, slow=is_slow(environment_of(model).simulator)).polished,
    )
    return f"{found.line} Try {found.advice}." if found.advice else found.line


def _settings(config: Config, sizes: Sizes) -> dict[str, Any]:
    """The settings of a training, of which only the number of visits may change on the way."""
    told = settings_of(config, free=("seeds", "monitor", "output"))
    if config.agent != CONSTRAINED:
        del told["constraint"]
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
    options = f"--trained {config.output} --agents {config.agent}"
    print(f"Watch: tensorboard --logdir {config.output}")
    print(f"Next:  python -m benchmarks.agents.compare{config.place.arguments} {options}")


if __name__ == "__main__":
    run_command(main, Config)
