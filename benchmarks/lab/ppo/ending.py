"""The end of a training: a search, the choice among what was learned, and a folder of the best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from agents.evaluate import evaluate
from agents.folder import save_agent
from agents.places.site import seeds
from agents.ppo.algorithm import SlatePPO, frozen_policy_of
from agents.ppo.checkpoints import LAST, load_policy, save
from agents.ppo.choosing import chosen
from agents.ppo.constrained import CONTENDERS, ConstrainedConfig, polish_within
from agents.ppo.constrained_env import constrained_env_of
from agents.ppo.constraint import Limit
from agents.ppo.polish import choice_of, judge_of, polish
from agents.ppo.steering import steered
from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.ppo.model import Training
from benchmarks.lab.saved import AGENT, POLISHED, UNTRAINED
from policies import POLICIES
from policies.learnable.intents import ComposerPolicy, IntentActor
from recsim_env.estimates import Estimate
from recsim_env.types import Policy

KEPT = "kept.safetensors"
"""Name of the file of the policy that was chosen under a constraint."""
CALLED = {POLISHED: "polished", LAST: "trained", UNTRAINED: "untrained"}
"""What the checkpoints are called."""


@dataclass(frozen=True)
class Kept:
    """The policy that a training keeps."""

    file: str
    """Name of its checkpoint in the folder of the training."""
    policy: Policy
    """At its most likely action."""
    said: str
    """How it compared with the others."""
    limit: Limit | None = None
    """The limit that it holds, where there is one."""


def finish(training: Training, model: SlatePPO) -> str:
    """Search on from what was trained, write the best of all, and say what it reached.

    The last checkpoint of the model is written before; the model is changed.
    """
    polished = searched(training, model)
    best = best_within if training.constrained else best_of
    return written(training, best(training, model, polished=polished))


def searched(training: Training, model: SlatePPO) -> bool:
    """Search for what to add to all intents; tells whether it found something better."""
    most = training.sizes.polished
    if not most:
        return False
    together = f"{model.num_timesteps + most:,} with those of PPO"
    print(f"{training.title}: a search of at most {most:,} visits follows, {together}.")
    search = polish_within if training.constrained else polish
    better = search(training.setup, model, most)[0]
    if better:
        save(model, training.folder / POLISHED)
    return better


def best_of(training: Training, model: SlatePPO, *, polished: bool) -> Kept:
    """The best of untrained, trained and polished policies, on shoppers whom no update saw.

    The untrained one is left only for what surely earns more (`agents.ppo.polish`).
    """
    files = [UNTRAINED, LAST, *([POLISHED] if polished else [])]
    choices = [load_policy(training.folder / file, training.setup.inputs) for file in files]
    shoppers = training.sizes.monitor.episodes
    earned = judge_of(model)(training.setup, choices, shoppers)[0]
    best = choice_of(earned)
    means = zip(files, earned.mean(dim=1).tolist(), strict=True)
    compared = ", ".join(f"{CALLED[file]} {mean:.2f}" for file, mean in means)
    said = f"from {shoppers} training shoppers {compared}; kept is {CALLED[files[best]]}"
    return Kept(files[best], choices[best], said)


def best_within(training: Training, model: SlatePPO, *, polished: bool) -> Kept:
    """The best of those that keep the limit, some of them by turning the knob of the term to it.

    The trained model is changed.
    """
    setup, folder, reference = training.setup, training.folder, constrained_env_of(model).reference
    limit, length, enough = reference.limit, reference.length, setup.steps * CONTENDERS
    searched = load_policy(folder / UNTRAINED, setup.inputs), frozen_policy_of(model)
    contenders = dict(zip(("start", "trained"), searched, strict=True))
    turned = round(ConstrainedConfig().steered * setup.steps)
    on_limit, _ = steered(setup, model, turned, length)
    contenders |= {name: policy for name, (policy, _) in on_limit.items()}
    best, found, _ = chosen(setup, contenders, reference, enough, length)

    # a checkpoint of what was chosen
    kept, actor = contenders[best], model.policy.actor
    assert isinstance(kept, ComposerPolicy)
    assert isinstance(actor, IntentActor)
    actor.load_state_dict(kept.actor.state_dict())
    save(model, folder / KEPT)
    term, side = limit.constraint.term, limit.constraint.direction.replace("_", " ")
    earned = ", ".join(
        f"{name} {one.earned:.2f} ({term} {one.mean:.3f})" for name, one in found.items()
    )
    said = (
        f"{term} has to be {side} {limit.value:.3f} a visit; from {len(reference.greedy)} training "
        f"shoppers {earned}; kept is {best}"
    )
    return Kept(KEPT, kept, said, limit)


def written(training: Training, kept: Kept) -> str:
    """Compare what is kept with greedy CTR on the evaluation's shoppers, and write its folder."""
    # both serve the same shoppers, and the term of the limit is measured
    site, settings = training.site, training.sizes.monitor
    limit, constraint = kept.limit, None if kept.limit is None else kept.limit.constraint
    measured = {} if constraint is None else {constraint.term: 0.0}
    simulator = site.simulator("evaluation", reward={**measured, **site.reward})
    episodes = seeds(settings.first_seed, settings.episodes)
    ours, greedy = (
        evaluate(policy, simulator, episodes, batch=settings.batch).rows
        for policy in (kept.policy, POLICIES["greedy_ctr"].build(site.inputs))
    )

    # what is told of it, in the folder and to the reader
    returns = ours["return"].to_numpy()
    gain = paired_difference(returns, greedy["return"].to_numpy())
    scores: dict[str, Estimate | float] = {
        "return": estimate_mean(returns),
        "return_above_greedy_ctr": gain,
    }
    held = ""
    if constraint is not None and limit is not None:
        mean = _total(ours, constraint.term) / _total(ours, "visits")
        scores |= {f"{constraint.term}_per_visit": mean, "limit": limit.value}
        held = f"{constraint.term} {mean:.3f} a visit and "
    folder: Path = training.folder / AGENT
    save_agent(
        folder,
        training.folder / kept.file,
        site,
        env=training.config.place.env,
        scores=scores,
        constraint=constraint,
    )
    return (
        f"{kept.said}: {held}return {returns.mean():.2f}, {gain.value:+.2f} [{gain.low:.2f}, "
        f"{gain.high:.2f}] above greedy CTR in the same {settings.episodes} episodes; {folder}"
    )


def _total(rows: pl.DataFrame, column: str) -> float:
    return float(rows[column].cast(pl.Float64).sum())
