"""What knowing is worth: the figure by hand, and a tiny run that goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from agents.ppo.agents import PPOComposerConfig
from agents.ppo.config import PPOConfig
from benchmarks.agents import knowing
from benchmarks.lab.run import read_rows, read_summary
from policies.learnable.sb3 import NetworkConfig
from recsim_env.registration import PRESETS, EnvConfig, add_preset
from recsim_env.shoppers.regulars.config import RegularsConfig
from recsim_env.shoppers.regulars.population import make_regulars

ID = "tests/TinyRegulars-v0"
TINY = RegularsConfig(items=40, categories=4, width=8, known=24, fewest_visits=3, most_visits=9)
PPO = PPOComposerConfig(
    ppo=PPOConfig(n_steps=4, batch_size=32, n_epochs=1),
    network=NetworkConfig(actor_hidden=(8,), critic_hidden=(8,)),
    polished=0.0,
)


def rows_of(env: str, pairs: list[tuple[float, float]]) -> list[dict[str, object]]:
    """Rows of runs in which the constant and PPO earned these returns."""
    found = []
    for seed, (constant, ppo) in enumerate(pairs):
        told = {knowing.GREEDY: 1.0, knowing.RERANKER: constant, knowing.PPO: ppo}
        found += [
            {"env": env, "seed": seed, "policy": name, "return": value}
            for name, value in told.items()
        ]
    return found


def test_the_value_is_the_mean_share_of_the_constant_over_seeds() -> None:
    rows = pl.DataFrame(rows_of("a/B-v0", [(10.0, 12.0), (20.0, 22.0), (10.0, 11.0)]))
    value = knowing.value_of_knowing(rows)
    assert value.value == pytest.approx((0.2 + 0.1 + 0.1) / 3)
    assert value.low < value.value < value.high
    assert value.n == 3


def test_the_report_says_where_constants_suffice() -> None:
    rows = rows_of("a/Known-v0", [(10.0, 12.0), (10.0, 12.2)])
    rows += rows_of("a/Same-v0", [(10.0, 10.1), (10.0, 9.9)])
    found = knowing.report(pl.DataFrame(rows))
    known, same = found.table.strip().splitlines()[2:]
    assert "`Known-v0`" in known
    assert known.rstrip(" |").endswith("no")
    assert same.rstrip(" |").endswith("yes")
    assert found.summary["Known-v0/value_of_knowing"].value == pytest.approx(0.21)
    assert found.figure is not None


def config(folder: Path, seeds: tuple[int, ...]) -> knowing.Config:
    return knowing.Config(
        envs=(ID,),
        seeds=seeds,
        steps=8 * 16,
        shoppers=8,
        trials=2,
        tuning_episodes=4,
        episodes=4,
        ppo=PPO,
        work=folder / "work",
        results=folder / "results",
        device="cpu",
    )


def test_a_run_goes_on_with_the_seeds_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_preset(
        ID,
        EnvConfig(
            make_regulars,
            {"clicks": 1.0, "intra_list_distance": 0.3},
            slate_size=3,
            horizon_days=20.0,
            shopper_options={"config": TINY},
        ),
    )
    try:
        knowing.main(config(tmp_path, (0,)))
        first = read_rows("knowing", results=tmp_path / "results")
        assert first["policy"].to_list() == ["reward_greedy", "constant", "ppo_composer"]
        assert (first["return"] > 0).all()

        knowing.main(config(tmp_path, (0, 1)))
        both = read_rows("knowing", results=tmp_path / "results")
        assert both.filter(pl.col("seed") == 0).equals(first)
        assert both["seed"].n_unique() == 2
        summary = read_summary("knowing", results=tmp_path / "results")
        wide = both.pivot("policy", index="seed", values="return")
        share = (wide["ppo_composer"] - wide["constant"]) / wide["constant"]
        assert summary["TinyRegulars-v0/value_of_knowing"].value == pytest.approx(share.mean())

        monkeypatch.setattr(knowing, "ground_of", lambda *told: pytest.fail("opened again"))
        knowing.main(config(tmp_path, (0, 1)))  # everything is there
    finally:
        del PRESETS[ID]


def test_shoppers_that_nobody_can_read_are_refused() -> None:
    with pytest.raises(ValueError, match="no truth is registered for its shoppers"):
        knowing.ground_of("recsim_env/CompleteJourney-v0", "cpu")
