"""Throughput: everyone takes turns, rows hold what is said, and the figures are the rows'."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import pytest
import torch
from torch import Tensor

from benchmarks.speed import throughput
from benchmarks.speed.needs import shares
from benchmarks.speed.players import LEARNED, MARKET, TRANSFORMER, Crowd, state_bytes
from benchmarks.speed.throughput import (
    ROW,
    SINGLE,
    Config,
    best_batch,
    draw,
    lines,
    measure,
    seats,
    summarise,
)

CPU = torch.device("cpu")


def test_bytes_of_a_state_by_hand() -> None:
    @dataclass
    class State:
        a: Tensor
        parts: list[Tensor]

    shared = torch.zeros(10)
    assert state_bytes(State(shared, [shared, torch.zeros(3, dtype=torch.int64)])) == 40 + 24
    assert state_bytes(State(shared[:2], [])) == 40  # a view keeps the whole


@pytest.mark.parametrize("env", [MARKET, *LEARNED])
def test_memory_is_flat_over_an_episode(env: str) -> None:
    crowd = Crowd(env, 8, CPU)
    crowd.step(crowd.slates())
    sizes = set()
    for _ in range(12):
        crowd.step(crowd.slates())
        sizes.add(state_bytes(crowd.simulator.hidden) + state_bytes(crowd.simulator.episodes))
    assert len(sizes) == 1


def test_random_slates_hold_candidates() -> None:
    crowd = Crowd(TRANSFORMER, 16, CPU)
    slates, candidates = crowd.slates(), crowd.simulator.candidates
    assert bool((slates.unsqueeze(2) == candidates.unsqueeze(1)).any(2).all())


@pytest.mark.parametrize("env", LEARNED)
def test_networks_take_a_share_of_a_step(env: str) -> None:
    found = shares(Crowd(env, 64, CPU), steps=2)
    assert 0 < found["forward_share"] < 1
    assert 0 < found["counters_share"] < 1 - found["forward_share"]
    crowd = Crowd(env, 64, CPU)
    shares(crowd, steps=1)
    assert "stats" not in vars(crowd.simulator.hidden.memory)  # nothing stays watched


def test_everyone_plays_and_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "PEERS", {})
    config = Config(
        device="cpu", envs=(MARKET,), batches=(1, 4), twice=8, crowd=0, rounds=2, seconds=0.01
    )
    rows = measure(config)
    assert rows.schema == pl.Schema(ROW)
    speed = rows.filter(pl.col("what") == "speed")
    assert speed.group_by("batch", "threads").len()["len"].to_list() == [2] * 5
    assert bool((speed["steps"] >= speed["batch"]).all())
    summary = summarise(rows)
    assert summary["single_step_ms_market"].value > 0
    assert len(lines(rows, summary)) == 1
    assert len(draw(rows).axes) == 1


def test_an_id_that_is_not_registered_is_named() -> None:
    with pytest.raises(ValueError, match="envs has \\['recsim_env/Nowhere-v0'\\], but there are"):
        seats(Config(envs=("recsim_env/Nowhere-v0",)), CPU)


def row(
    what: str,
    system: str,
    batch: int = SINGLE,
    threads: int = 1,
    value: float | None = None,
    **told: float,
) -> dict[str, object]:
    common = {
        "device": "cpu",
        "precision": "fp32",
        "round": 0,
        "steps": None,
        "wall_s": None,
        "cpu_s": None,
    }
    return {
        **common,
        "what": what,
        "system": system,
        "batch": batch,
        "threads": threads,
        "value": value,
        **told,
    }


def test_figures_by_hand() -> None:
    rows = pl.DataFrame(
        [
            row("speed", "SARDINE", steps=100, wall_s=0.2, cpu_s=0.1),  # 1,000 a CPU second
            row("speed", TRANSFORMER, steps=50, wall_s=0.1, cpu_s=0.1),  # 2 ms a step
            row("speed", TRANSFORMER, 64, steps=6400, wall_s=1.0, cpu_s=0.8),
            row("speed", TRANSFORMER, 256, steps=25600, wall_s=3.0, cpu_s=2.56),  # 10,000 a second
            row("speed", TRANSFORMER, 256, 2, steps=25600, wall_s=2.0, cpu_s=4.0),
            *(row(what, TRANSFORMER, 1024, value=value) for what, value in {
                "bytes": 2048.0, "flops": 1e6, "moved_bytes": 1e4, "forward_share": 0.7,
                "counters_share": 0.2, "early_s": 1e-4, "late_s": 1.1e-4,
            }.items()),
            row("matmul_flops", "machine", value=5e10),  # 20 microseconds
            row("copy_bytes", "machine", value=1e10),  # 1 microsecond
        ],
        schema=ROW,
    )  # fmt: skip
    assert (
        best_batch(
            rows.filter(pl.col("what") == "speed").with_columns(
                rate=pl.col("steps") / pl.col("cpu_s")
            ),
            TRANSFORMER,
        )
        == 256
    )
    summary = summarise(rows)
    expected = {
        "transformer_over_sardine_per_cpu": 10.0,
        "single_step_ms_transformer": 2.0,
        "two_threads_over_one": 1.5,
        "roofline_share": 0.2,
        "overhead_share": 0.3,
        "counters_share": 0.2,
    }
    assert {name: summary[name].value for name in expected} == pytest.approx(expected)
    assert summary[f"late_over_early/{TRANSFORMER}"].value == pytest.approx(1.1)


def test_networks_play_in_every_way_that_is_asked_for_and_markets_in_one() -> None:
    config = Config(
        envs=(MARKET, LEARNED[1]), batches=(8,), twice=8, precisions=("fp32", "bf16"), compiled=True
    )
    crowds = [seat for seat in seats(config, CPU) if seat.batch == 8 and seat.threads == 1]
    ways = ["", ", bf16", ", bf16, compiled", ", compiled"]
    assert sorted(seat.name for seat in crowds) == sorted(
        [MARKET, *(LEARNED[1] + way for way in ways)]
    )
    half = next(seat for seat in crowds if seat.name.endswith("bf16")).player(CPU)
    assert isinstance(half, Crowd)
    assert half.simulator.hidden.caches[0].keys.dtype == torch.bfloat16
