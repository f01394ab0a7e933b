"""The training of the session model: batches, the best weights, going on after a stop."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.gaps import GapBins
from recsim_env.shoppers.session import fit as fitting
from recsim_env.shoppers.session.fit import (
    Batches,
    SessionFitConfig,
    fit_session,
    learn_and_check,
    new_session_shopper,
)
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.scores import predict, score
from recsim_env.shoppers.session.visits import Visits
from recsim_env.shoppers.training import checkpoints
from tests.recsim_env.shoppers.session.test_model import SIZE, catalog, log

QUICK = SessionFitConfig(
    epochs=4,
    least_steps=1,
    batch_episodes=8,
    temperaments=4,
    hidden_size=16,
    head_size=8,
    layers=1,
)
quickly = partial(fit_session, validation=0.2)


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "EVALUATIONS", 6)


def weights(model: SessionShopper) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: SessionShopper, other: SessionShopper) -> bool:
    second = weights(other)
    return all(torch.equal(value, second[name]) for name, value in weights(one).items())


def test_a_pass_holds_every_visit_once_and_shares_are_of_its_visits() -> None:
    visits = Visits.of(log(50), catalog())
    batches = Batches(visits, QUICK)
    one_pass = len(batches) // 4
    for number in range(2):
        parts = [batches[step] for step in range(number * one_pass, (number + 1) * one_pass)]
        assert sum(len(part["slates"]) for part in parts) == len(visits.slates)
        assert sum(float(part["share"]) for part in parts) == pytest.approx(one_pass)
        most = max(parts, key=lambda part: len(part["slates"]))
        mean = len(visits.slates) / one_pass
        assert float(most["share"]) == pytest.approx(len(most["slates"]) / mean)
    again = Batches(visits, QUICK)[one_pass + 1]  # whatever was asked for before
    assert all(torch.equal(value, again[name]) for name, value in batches[one_pass + 1].items())
    assert not torch.equal(batches[0]["normal"][:1], batches[1]["normal"][:1])


def test_small_logs_get_steps_enough() -> None:
    visits = Visits.of(log(50), catalog())
    assert len(Batches(visits, dataclasses.replace(QUICK, least_steps=500))) == 500


def test_a_training_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    sessions = log(60)
    whole = quickly(sessions, catalog(), QUICK, folder=tmp_path / "whole")
    assert list((tmp_path / "whole").glob("runs/*/events*")) or list(
        (tmp_path / "whole").rglob("events*")
    )

    def cut(step: int, steps: int) -> None:
        if step == steps // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quickly(sessions, catalog(), QUICK, progress=cut, folder=tmp_path / "cut")
    assert checkpoints(tmp_path / "cut")
    steps: list[int] = []
    resumed = quickly(
        sessions,
        catalog(),
        QUICK,
        progress=lambda step, every: steps.append(step),
        folder=tmp_path / "cut",
    )
    assert steps[0] > 1
    assert same(whole, resumed)
    assert same(whole, quickly(sessions, catalog(), QUICK, folder=tmp_path / "cut"))
    assert same(whole, quickly(sessions, catalog(), QUICK))  # without a folder


def looks(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    """Let the validation episodes say these losses, one at each look."""
    said = iter(losses)
    monkeypatch.setattr(fitting, "nll_of", lambda *unused: next(said))


def test_the_weights_that_do_best_on_validation_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(monkeypatch, 3.0, 1.0, 2.0, 5.0, 4.0, 6.0)
    config = dataclasses.replace(QUICK, patience=50)
    model = quickly(log(60), catalog(), config, folder=tmp_path)
    every = checkpoints(tmp_path)
    assert len(every) == 3  # the last two, and the best
    state = json.loads((every[-1] / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]) == every[0]
    kept, found = load_file(every[0] / "model.safetensors"), weights(model)
    root, symmetric = kept.pop("temper.weight"), found.pop("temper.weight")
    assert all(torch.equal(value, found[name]) for name, value in kept.items())
    torch.testing.assert_close(symmetric @ symmetric.T, root @ root.T)


def test_a_training_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(QUICK, patience=2)
    made: list[tuple[int, int]] = []
    looks(monkeypatch, 3.0, 1.0, 2.0, 5.0)
    stopped = quickly(
        log(60), catalog(), config, progress=lambda *at: made.append(at), folder=tmp_path
    )
    step, steps = made[-1]
    assert step == 4 * (steps // 6) < steps
    again = quickly(
        log(60), catalog(), config, progress=lambda *at: made.append(at), folder=tmp_path
    )
    assert made[-1] == (step, steps)  # it goes no further
    assert same(stopped, again)
    looks(monkeypatch, *range(1, 20))
    least = dataclasses.replace(config, least_steps=steps)
    quickly(log(60), catalog(), least, progress=lambda *at: made.append(at))
    assert made[-1] == (steps, steps)


def test_all_episodes_may_be_learned_from() -> None:
    assert [len(part) for part in learn_and_check(log(30), 0.0)] == [30, 0]
    fast = dataclasses.replace(QUICK, learning_rate=0.03)  # the last weights are not the best ones
    every = quickly(log(30), catalog(), fast, held_out=0.0, validation=0.0)
    most = quickly(log(30), catalog(), fast, validation=0.0)
    assert not torch.equal(every.counter_mean, most.counter_mean)
    other = quickly(log(30), catalog(), fast, held_out=0.0, validation=log(9, seed=4))
    assert torch.equal(every.counter_mean, other.counter_mean)
    assert not same(every, other)


def test_members_differ_in_their_seed() -> None:
    first, second = (quickly(log(30), catalog(), QUICK, seed=seed) for seed in (0, 1))
    assert torch.equal(first.counter_mean, second.counter_mean)
    assert not same(first, second)


def test_the_model_is_that_of_its_log() -> None:
    model = quickly(log(60), catalog(), QUICK)
    assert model.config.gap_bins == GapBins((0, 1, 2, 3), 3)
    first = new_session_shopper(
        catalog(), SIZE, QUICK, declared=2, gap_bins=GapBins((0, 1, 2, 3), 3)
    )
    visits = Visits.of(log(60), catalog())
    fitting._standardise(first, visits)
    chance = torch.bincount(visits.gap[visits.gap >= 0].long(), minlength=4).float()
    hazards = torch.sigmoid(first.hazards(torch.zeros(1, 16), visits.clicks[:1]))[0, :3]
    expected = chance[:3] / chance.flip(0).cumsum(0).flip(0)[:3]
    torch.testing.assert_close(hazards.detach(), expected, rtol=0, atol=0.02)
    assert model.config.purchases
    plain = quickly(log(60, purchases=False), catalog(), QUICK)
    assert not plain.config.purchases
    assert score(plain, Visits.of(log(20, purchases=False), catalog())).purchase_auc is None


def test_any_catalogue_will_do() -> None:
    """One level of categories, no prices, embeddings of any width, slates of several sizes."""
    width = 70
    embedding = torch.nn.functional.normalize(
        torch.randn(12, width, generator=torch.Generator().manual_seed(1)), dim=1
    )
    made = Catalog(
        text=tuple(f"item {at}" for at in range(12)),
        path=tuple("{0}/{0}/{0}".format(("bread", "milk", "fruit")[at % 3]) for at in range(12)),
        price=torch.full((12,), torch.nan),
        embedding=embedding,
    )
    sessions = log(40)
    short = sessions.slates.clone()
    short[::2, :, SIZE - 1] = -1
    sessions = dataclasses.replace(
        sessions, slates=short, clicks=sessions.clicks & (short >= 0), purchases=None
    )
    model = quickly(sessions, made, QUICK)
    found = predict(model, Visits.of(sessions, made))
    assert found.clicks.shape == (sessions.n_slates, SIZE)
    assert found.nll > 0


def gap_log(episodes: int = 1500, visits: int = 8) -> Sessions:
    """Who clicked comes back on the same day; anybody else after three days with chance .6, after a
    week with .2, and else never. The log is watched for 40 days."""
    generator = torch.Generator().manual_seed(0)
    slates = torch.rand(episodes, visits, 12, generator=generator).argsort(dim=2)[:, :, :SIZE]
    clicks = torch.rand(slates.shape, generator=generator) < 0.2
    draw = torch.rand(episodes, visits, generator=generator)
    gap = torch.where(draw < 0.6, 3.0, torch.where(draw < 0.8, 7.0, -1.0))
    gap = torch.where(clicks.any(dim=2), 0.0, gap)
    came = torch.cat([torch.zeros(episodes, 1), gap[:, :-1].clamp(min=0).cumsum(dim=1)], dim=1)
    never = (
        torch.cat([torch.zeros(episodes, 1), (gap < 0).float().cumsum(dim=1)[:, :-1]], dim=1) > 0
    )
    length = ((came <= 40) & ~never).sum(dim=1)
    last = (length - 1).unsqueeze(1)
    end = gap.gather(1, last).squeeze(1)
    watched = 40 - came.gather(1, last).squeeze(1)
    back = torch.where((end >= 0) & (end <= watched), end, -1.0)
    real = torch.arange(visits) < length.unsqueeze(1)
    return Sessions(
        slates=slates.masked_fill(~real.unsqueeze(2), -1),
        clicks=clicks & real.unsqueeze(2),
        length=length,
        left=(back < 0) & (watched > 0),
        propensity=torch.full((episodes, visits), torch.nan),
        policy=torch.zeros(episodes, visits, dtype=torch.int64),
        declared=torch.zeros(episodes, 0),
        policies=("known",),
        days=came.where(real, 0).cummax(dim=1).values,
        watched=watched,
        back=back,
    )


@pytest.mark.slow
def test_leaving_is_told_from_staying_away() -> None:
    sessions = gap_log()
    config = SessionFitConfig(epochs=8, batch_episodes=32, hidden_size=16, head_size=32, layers=1)
    model = fit_session(sessions, catalog(), config)
    visits = Visits.of(sessions.split(0.1)[1], catalog())
    with torch.no_grad():
        batch = visits.batch(torch.arange(len(visits)))
        normal = torch.zeros(len(visits), 1, 5)
        found = model(**batch, normal=normal)
    leaving = torch.sigmoid(found["leave_logits"])[:, 0]
    hazard = torch.sigmoid(found["hazards"])
    chance = hazard * torch.cat([torch.ones(len(hazard), 1), (1 - hazard)[:, :-1]], 1).cumprod(1)
    clicked = visits.clicks.any(dim=1)
    edges = list(model.config.gap_edges)
    assert model.config.lapse_days == 7
    assert float(leaving[clicked].mean()) < 0.03
    assert float(leaving[~clicked].mean()) == pytest.approx(0.2, abs=0.05)
    assert float(chance[clicked, 0].mean()) > 0.95
    assert float(chance[~clicked][:, edges.index(3)].mean()) == pytest.approx(0.75, abs=0.06)
    assert float(chance[~clicked][:, edges.index(7)].mean()) == pytest.approx(0.25, abs=0.06)
    assert score(model, visits).leave_ratio == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("bad", [{"least_steps": -1}, {"patience": 0}])
def test_what_is_wrong_is_named(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} is"):
        SessionFitConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="precision is 'half'"):
        SessionFitConfig(precision="half")


@pytest.mark.parametrize("bad", [{"validation": 0.95}, {"held_out": 1.0}, {"seed": -1}])
def test_what_is_told_beside_the_settings_is_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} is"):
        fit_session(log(30), catalog(), QUICK, **bad)


def test_streams_of_numbers_are_apart() -> None:
    seeds = {
        int(fitting._generator(seed, stream, number).initial_seed())
        for seed in range(3)
        for stream in range(2)
        for number in range(50)
    }
    assert len(seeds) == 3 * 2 * 50
    assert all(0 <= seed < np.iinfo(np.int64).max for seed in seeds)
