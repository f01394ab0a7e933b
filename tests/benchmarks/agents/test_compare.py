"""Tune, train and compare on the toy shopper: each leaves what the next one needs."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, TUNING_SEED, seeds
from agents.ppo import monitor
from agents.ppo.checkpoints import LAST, load
from agents.ppo.config import PPOConfig
from agents.ppo.monitor import MonitorConfig, sample_slates
from benchmarks.agents import compare, demo, train, tune
from benchmarks.lab.ppo.config import folder_of
from benchmarks.lab.ppo.model import Training, make_model
from benchmarks.lab.ppo.sizes import rounded, sizes_of, visits_to_make
from benchmarks.lab.run import read_rows, read_summary
from benchmarks.lab.tuning import read_parameters
from benchmarks.lab.where import Where
from policies import POLICIES
from policies.learnable.kinds import LEARNABLE
from policies.rankers.ctr import save_model
from recsim_env.registration import PRESETS, EnvConfig, add_preset
from tests.policies.rankers.test_ctr import some_ranker
from tests.support.curves import points
from tests.support.policy_toys import TOY_FACTS, toy_inputs
from tests.support.toys import ToyShopper, make_toy_shopper, toy_simulator

TOY = "tests/ToyCompare-v0"


def make_shop(device: torch.device, slate_size: int, **options: int) -> ToyShopper:
    """Toy shoppers of a shop whose facts are known, which the composer's cues read."""
    shopper = make_toy_shopper(device, slate_size, **options)
    shopper.facts = TOY_FACTS
    return shopper


def make_world(folder: Path) -> Where:
    """A toy world with a ranker of its own, kept in `folder`."""
    if TOY not in PRESETS:
        add_preset(
            TOY,
            EnvConfig(
                shopper=make_shop,
                slate_size=4,
                horizon_days=60,
                shopper_options={"items": 30},
            ),
        )
    save_model(some_ranker().model, folder / "ranker.safetensors")
    return Where(env=TOY, ranker=folder / "ranker.safetensors", device="cpu", threads=1)


@pytest.fixture
def world(tmp_path: Path) -> Where:
    """A toy world, anew for every test."""
    return make_world(tmp_path)


def training(world: Where, folder: Path, visits: int = 16 * 4 * 3) -> train.Config:
    return train.Config(
        place=world,
        seeds=(0, 1),
        visits=visits,
        shoppers=16,
        ppo=PPOConfig(n_steps=4, batch_size=32, n_epochs=1),
        polished=0.0,
        monitor=MonitorConfig(evaluate_every=2, episodes=6, batch=6, pictures=1),
        output=folder / "train",
    )


def test_from_tuning_to_the_table(world: Where, tmp_path: Path) -> None:
    results = tmp_path / "results"
    parameters = results / "tune" / "parameters.json"
    tuning = tune.Config(
        place=world, trials=3, episodes=8, batch=8, work=tmp_path / "tune", results=results
    )
    tune.main(tuning)
    where, found = read_parameters(parameters)
    assert where == world.about
    assert read_parameters(tuning.folder / "parameters.json") == (where, found)
    assert set(found) == {name for name, spec in POLICIES.items() if spec.search()}
    trials = read_rows("tune", results=results)
    assert trials.group_by("policy").len()["len"].to_list() == [3] * len(found)  # equal budgets
    train.main(training(world, tmp_path))
    comparison = compare.Config(
        world,
        trained=tmp_path / "train",
        parameters=parameters,
        episodes=12,
        batch=5,
        results=results,
    )
    compare.main(comparison)
    rows, summary = read_rows("compare", results=results), read_summary("compare", results=results)
    agents = [
        "composer, untrained",
        "composer, untrained, sampled",
        "composer",
        "composer, sampled",
    ]
    playing = [name for name, spec in POLICIES.items() if not spec.needs_bundles]
    assert rows["policy"].unique(maintain_order=True).to_list() == [*playing, *agents]
    assert rows["episode"].unique().sort().to_list() == list(
        range(REPORTED_SEED, REPORTED_SEED + 12)
    )
    assert rows.height == 12 * (len(playing) + 2 * len(agents))
    assert int(rows["invalid_items"].sum()) == 0
    for short, name in (
        ("ppo", "composer"),
        ("greedy_ctr", "greedy_ctr"),
        ("tuned_reranker", "constant"),
    ):
        for column in ("return", "clicks", "diversity"):
            mean = rows.filter(pl.col("policy") == name)[column].to_numpy().mean()
            assert summary[f"{short}_{column}"].value == pytest.approx(mean)
    # untrained it is greedy in the reward, with every training seed
    site, untrained = world.open(), rows.filter(pl.col("policy") == "composer, untrained")
    greedy = evaluate(
        POLICIES["reward_greedy"].build(site.inputs),
        site.judging(),
        seeds(REPORTED_SEED, 12),
    ).rows["return"]
    assert untrained["return"].to_list() == 2 * greedy.to_list()
    assert summary["composer_untrained/return_above_greedy_ctr"].n == 2
    table = (results / "compare" / "table.md").read_text()
    assert all(f"| {name.replace('_', ' ')} |" in table for name in [*playing, *agents])

    # without what is sampled, the other rows are the same
    shorter = compare.measure(replace(comparison, policies=("greedy_ctr",), sampled=False))
    kept = rows.filter(pl.col("policy").is_in(["greedy_ctr", "composer, untrained", "composer"]))
    assert_frame_equal(shorter, kept.select(shorter.columns))
    assert (results / "compare" / "figure.png").stat().st_size > 5000


@pytest.mark.parametrize("agent", LEARNABLE)
def test_an_interrupted_training_goes_on_and_a_finished_one_rests(
    world: Where, tmp_path: Path, agent: Literal["composer", "plackett_luce", "autoregressive"]
) -> None:
    config = replace(training(world, tmp_path, visits=16 * 4 * 2), seeds=(0,), agent=agent)
    checkpoint = train.train(config, 0)
    assert train.train(config, 0) == checkpoint
    before = checkpoint.read_bytes()
    train.train(config, 0)
    assert checkpoint.read_bytes() == before  # nothing left to do
    longer = replace(config, visits=16 * 4 * 5)
    steps: list[int] = []
    train.train(longer, 0)
    model = make_model(Training.of(longer, 0))
    load(model, checkpoint)
    steps.append(model.num_timesteps)
    assert steps == [16 * 4 * 5]
    events = list((tmp_path / "train" / agent / "seed0").glob("events.*"))
    assert len(events) == 2  # one of each part that trained


def test_a_training_that_breaks_off_keeps_its_last_update(
    world: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(training(world, tmp_path, visits=16 * 4 * 6), seeds=(0,))
    saved: list[int] = []

    class Killed(Exception):
        """Stands for the machine going down."""

    keep = monitor.Monitor._keep

    def break_off(self: monitor.Monitor) -> None:
        keep(self)
        saved.append(self.num_timesteps)
        if len(saved) == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(monitor.Monitor, "_keep", break_off)
        patch.setattr("agents.keeper.Clock.due", lambda clock: True)
        with pytest.raises(Killed):
            train.train(config, 0)
    model = make_model(Training.of(config, 0))
    load(model, folder_of(config, 0) / LAST)
    assert (
        model.num_timesteps == saved[-1] == 16 * 4 * 2
    )  # kept before the first update, after one, and after two
    train.train(config, 0)
    load(model, folder_of(config, 0) / LAST)
    assert model.num_timesteps == 16 * 4 * 6


def test_other_settings_are_refused(world: Where, tmp_path: Path) -> None:
    config = replace(training(world, tmp_path, visits=16 * 4), seeds=(0,))
    train.train(config, 0)
    with pytest.raises(ValueError, match=r"differs in \['ppo'\]"):
        train.train(replace(config, ppo=replace(config.ppo, gamma=0.5)), 0)
    work = tune.Config(place=world, work=tmp_path / "tune")
    tune.check_work(work, 4)
    with pytest.raises(ValueError, match="delete the folder"):
        tune.check_work(work, 3)


def test_tuned_and_reported_episodes_are_never_the_same() -> None:
    most = 1_000_000
    evaluated = MonitorConfig().first_seed
    assert evaluated + most <= TUNING_SEED
    assert TUNING_SEED + most <= REPORTED_SEED


def test_what_is_missing_is_named(world: Where, tmp_path: Path) -> None:
    config = compare.Config(world, trained=tmp_path / "none", parameters=tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.agents\.tune"):
        compare.measure(config)
    (tmp_path / "none.json").write_text(json.dumps({}))
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.agents\.train"):
        compare.measure(replace(config, policies=("greedy_ctr",), episodes=2))


def test_tensorboard_gets_returns_terms_hyperparameters_and_a_picture(
    world: Where, tmp_path: Path
) -> None:
    config = replace(training(world, tmp_path, visits=16 * 4 * 12), seeds=(0,))
    train.train(config, 0)
    tags = set(points(folder_of(config, 0)))
    terms = ("return", "visits", "clicks", "intra_list_distance")
    assert {f"evaluation/{term}" for term in terms} <= tags
    assert {f"evaluation_sampled/{term}" for term in terms} <= tags
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean"} <= tags
    assert {
        f"episodes/{term}" for term in ("clicks", "lapsed", "reward_terms/intra_list_distance")
    } <= tags
    assert not {"episodes/return", "episodes/visits"} & tags  # told once, by SB3's names
    assert {
        "train/value_loss",
        "train/approx_kl",
        "train/std",
        "slates",
        "_hparams_/session_start_info",
    } <= tags


def test_a_picture_for_every_seed() -> None:
    simulator = toy_simulator()
    policy = POLICIES["greedy_ctr"].build(toy_inputs(simulator))
    one = sample_slates(policy, simulator, torch.arange(1), visits=2)
    three = sample_slates(policy, simulator, torch.arange(3), visits=2)
    assert three.shape == (3 * one.shape[0], *one.shape[1:])


def test_the_demo_leaves_a_report_and_rests_when_it_is_done(
    world: Where, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(training(world, tmp_path), seeds=(0,))
    config = demo.Config(**{**vars(small), "output": tmp_path / "demo"}, episodes=6)
    demo.main(config)
    report = (config.output / "report.md").read_text()
    assert "| greedy ctr |" in report
    assert "| composer, untrained |" in report
    assert (config.output / "compare" / "figure.png").stat().st_size > 1000
    assert f"tensorboard --logdir {config.output}" in capsys.readouterr().out.replace("\n", "")
    trained = (config.output / "train" / "composer" / "seed0" / LAST).read_bytes()
    demo.main(config)
    assert (config.output / "train" / "composer" / "seed0" / LAST).read_bytes() == trained


def test_sizes_that_do_not_fit_are_said_and_the_report_tells_what_was_made(
    world: Where, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ppo = PPOConfig(n_steps=4, batch_size=48, n_epochs=1)
    small = replace(training(world, tmp_path, visits=100), seeds=(0,), ppo=ppo)
    config = demo.Config(**{**vars(small), "output": tmp_path / "demo"}, episodes=6)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "You have specified a mini-batch size")
        demo.main(config)
    report = (config.output / "report.md").read_text()
    assert "Training seed 0, 128 visits each; 6 episodes" in report
    told = capsys.readouterr()
    assert "visits is 100 and is rounded up to 128, which are whole rollouts of 64" in told.out
    assert "the last minibatch of each pass has 16." in told.out
    assert "100%, 128 of 128 visits, finished" in told.err
    assert max(map(int, re.findall(r"(\d+)%, [\d,]+ of", told.err))) == 100


def test_what_is_rounded_is_said_in_a_sentence_each() -> None:
    ppo = PPOConfig(n_steps=4, batch_size=32)
    config = train.Config(visits=128, shoppers=16, ppo=ppo, polished=0.0)
    sizes = sizes_of(config)
    assert list(rounded(sizes, ppo)) == []
    assert visits_to_make(sizes, ppo) == 128
    assert visits_to_make(replace(sizes, visits=129), ppo) == 192
    assert visits_to_make(replace(sizes, visits=129), ppo, made=128) == 192
    assert visits_to_make(replace(sizes, visits=1), ppo, made=128) == 128
    searching = replace(config, visits=200, polished=0.36)
    assert list(rounded(sizes_of(searching), ppo)) == []
    assert sizes_of(searching).polished == 72
    assert sizes_of(searching).steps == 200
    (line,) = rounded(sizes_of(replace(searching, visits=201)), ppo)
    assert line.startswith("PPO's part of the visits is 129 and is rounded up to 192, which are")
    (line,) = rounded(sizes, replace(ppo, batch_size=65))
    assert line == "ppo.batch_size is 65, but a rollout has 64 visits: each is one minibatch."
