"""Shrinking a toy shopper: what is refused, what is written, and that it shops as it should."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.data import shrink
from benchmarks.data.shrink import Config
from benchmarks.lab.logs import Log
from recsim_env.registration import EnvConfig, make_simulator
from recsim_env.shoppers.household import peaks, shop
from recsim_env.shoppers.household.fit import FinetuneConfig, calibrate, fit, new_shopper
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.peaks import SHOP_TABLES, SMALL
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.weights import load_model, save_model
from tests.support.fake_log import write_shop

LARGE = FinetuneConfig(
    hidden_size=16, layers=2, window=8, head_size=8, batch_visits=200, epochs=2.0
)
SIZES: dict[str, Any] = {
    "layers": 1,
    "heads": 2,
    "hidden_size": 6,
    "intermediate_size": 10,
    "head_size": 4,
    "window": 4,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A toy log with a toy shopper, and what the command makes of both."""
    folder = tmp_path_factory.mktemp("shrink")
    write_shop(folder / "log")
    log = Log.load(folder / "log")
    model, examples = new_shopper(log.catalog, LARGE, log.facts), log.examples(cold_hidden=False)
    fit(model, examples, LARGE, folder / "training", stage="finetune")
    calibrate(model, examples, examples)
    (folder / "shopper").mkdir()
    save_model(model, folder / "shopper")
    for name in SHOP_TABLES:
        (folder / "shopper" / name).write_bytes((folder / "log" / name).read_bytes())
    config = Config(
        shopper=folder / "shopper",
        log=folder / "log",
        output=folder / "out",
        epochs=3.0,
        batch_visits=200,
        measured=40,
        threads=1,
        **SIZES,
    )
    shrink.main(config)
    return config


def test_the_small_model_has_the_sizes_that_were_asked_for(made: Config) -> None:
    large = load_model(SlateShopper, made.shopper)
    small = load_model(SlateShopper, made.output / "shopper")
    assert small.config.num_hidden_layers == SIZES["layers"]
    assert small.config.num_attention_heads == SIZES["heads"]
    assert small.config.width_of_head == large.config.width_of_head
    for name in ("hidden_size", "intermediate_size", "head_size", "window"):
        assert getattr(small.config, name) == SIZES[name]
    assert small.config.text_width == min(SIZES["hidden_size"], large.config.text_width)
    for name in ("facts", "gap_edges", "n_items"):
        assert getattr(small.config, name) == getattr(large.config, name)
    assert small.config.slate_calibration != large.config.slate_calibration
    card = (made.output / "shopper" / "README.md").read_text()
    assert "`hidden_size`: 6 of 16" in card


def test_the_cold_head_of_the_small_model_is_calibrated_for_itself(made: Config) -> None:
    """It learned calibrated chances, so the calibration of the fitted one is not its own."""
    small, large = (
        load_model(SlateShopper, folder).config
        for folder in (made.output / "shopper", made.shopper)
    )
    assert small.cold_calibration != large.cold_calibration


def test_nothing_is_written_into_the_shopper_or_the_log(made: Config) -> None:
    """And a second call with other sizes does not mix with the first."""
    assert {path.name for path in made.shopper.iterdir()} == {
        "config.json",
        "model.safetensors",
        *SHOP_TABLES,
    }
    with pytest.raises(ValueError, match=r"config\.json differs in \['hidden_size'\]"):
        shrink.main(replace(made, hidden_size=8))


@pytest.mark.parametrize(
    ("size", "value"),
    [("layers", 3), ("heads", 5), ("window", 9), ("hidden_size", 17), ("head_size", 10)],
)
def test_nothing_can_become_larger(made: Config, size: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{size} is {value}, but it must be "):
        shrink.main(replace(made, output=made.output / "other", **{size: value}))  # type: ignore[arg-type]
    assert not (made.output / "other").exists()


def test_small_and_large_shoppers_keep_the_same_promises(made: Config) -> None:
    """Both start alike and answer the same slates of the same candidates, each in its own way."""
    device, seeds = torch.device("cpu"), torch.arange(16)
    both = [
        make_simulator(EnvConfig(folder), device=device, slate_size=5)
        for folder in (made.shopper, made.output / "shopper")
    ]
    large, small = (simulator.reset(seeds) for simulator in both)
    assert large.keys() == small.keys()
    assert all(torch.equal(large[name], small[name]) for name in large)
    slates = large["candidates"][:, :5]
    outcomes = [simulator.advance(slates) for simulator in both]
    for outcome in outcomes:
        chance = outcome.response.probability
        assert ((chance > 0) & (chance < 1)).all()
        assert (outcome.response.days >= 0).all()
    assert not torch.equal(*(outcome.response.probability for outcome in outcomes))


def test_a_small_shopper_lies_beside_the_large_one(
    made: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`small=True` opens it; it answers as its own folder does, with peaks or without."""
    whole = tmp_path / "shop"
    whole.mkdir()
    for path in made.shopper.iterdir():
        (whole / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"small is True, but .* holds no folder 'small'"):
        load_shopper(whole, torch.device("cpu"), small=True)
    monkeypatch.setattr(shrink, "SHIPPED_SHOPPER", whole)
    shrink.ship(made.output / "shopper")
    assert {path.name for path in (whole / SMALL).iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    device, days = torch.device("cpu"), peaks.START_DAYS
    alone = load_shopper(made.output / "shopper", device, 5)
    beside = load_shopper(whole, device, 5, small=True)
    assert shop._known_peaks(whole, [whole / SMALL], [beside.shop.model], "train", days)
    for name, value in alone.shop.model.state_dict().items():
        assert torch.equal(value, beside.shop.model.state_dict()[name])
    torch.testing.assert_close(beside.shop.envelope.total, alone.shop.envelope.total)
    with pytest.raises(ValueError, match="holds 1 small models"):
        load_shopper(whole, device, 5, ensemble=2, small=True)


def test_rollouts_of_a_small_shopper_end(made: Config) -> None:
    simulator = make_simulator(
        EnvConfig(made.output / "shopper"), device="cpu", slate_size=5, horizon_days=20
    )
    observation = simulator.reset(torch.arange(4))
    for _ in range(30):
        outcome = simulator.advance(observation["candidates"][:, :5])
        over = (outcome.terminated | outcome.truncated).nonzero().flatten()
        simulator.restart(over)
        observation = simulator.observe()
    assert int(simulator.episodes.number.min()) >= 1
