"""The league: cells are played once and go on, and contenders meet the same shoppers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from agents import AGENTS, TrainedAgent, TrainingSetup
from agents.evaluate import evaluate
from agents.places import Site
from agents.statistics import critical
from benchmarks.agents import behaviour
from benchmarks.agents.league import Config, play_missing, read_cells
from benchmarks.agents.league_figure import band, frontier, profile
from benchmarks.agents.league_report import analyse, summary
from benchmarks.lab import league_cells
from benchmarks.lab.league_cells import CURVE, KEY, ROW, Cell, cells, contenders
from benchmarks.lab.league_statistics import at, curve_of, first_above, matrix, ratio, to_pass
from benchmarks.lab.places import CONTROL, MARKET, PLACES, REGULARS, Opening, Place
from benchmarks.lab.run import Run
from benchmarks.lab.statistics import iqm, stratified
from benchmarks.speed import latency
from policies import POLICIES, PolicyInputs
from policies.composer import Composer
from policies.observations import candidates_of
from policies.oracles import ORACLES, OracleParameters, OracleState, oracle_specs
from recsim_env import make_simulator
from recsim_env.estimates import Estimate
from recsim_env.shoppers.market import MarketShopper
from recsim_env.types import Observation
from tests.support.places import only
from tests.support.policy_toys import TOY_FACTS
from tests.support.toys import registered_toys

TOY = "toy/League-v0"


class MadeUpRanker:
    """Log-odds that fall with the item's number."""

    def logits(self, observation: Observation) -> Tensor:
        items = candidates_of(observation, 31)
        return (-0.1 * items.float()).masked_fill(items < 0, -math.inf)


def open_toy(place: Place, told: Opening) -> Site:
    simulator = make_simulator(place.env, device="cpu")
    inputs = PolicyInputs(
        simulator.catalog,
        simulator.observation_space,
        simulator.slate_size,
        MadeUpRanker(),
        facts=TOY_FACTS,
    )
    return Site(place.env, inputs, device="cpu")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Config]:
    """A league with one place, where toy shoppers come."""
    place = Place(TOY, 0, False, open_toy, oracles=False, log=False)
    only(monkeypatch, place)
    config = Config(
        runs=(0, 1),
        steps={TOY: 64},
        contenders=("uniform", "greedy_ctr", "cap"),
        shoppers=8,
        episodes=12,
        watched=5,
        trials=2,
        tuning_episodes=6,
        batch=8,
        device="cpu",
        threads=1,
        work=tmp_path / "work",
        results=tmp_path / "results",
    )
    with registered_toys(TOY):
        yield config


# ---- cells ---------------------------------------------------------------------------------------


def test_a_second_call_plays_nothing(toy: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    assert play_missing(toy) == []
    rows, _ = read_cells(toy.work)
    assert len(rows) == 3 * 2
    monkeypatch.setattr(
        league_cells, "play", lambda *arguments: pytest.fail("a cell that is there was played")
    )
    play_missing(toy)
    assert read_cells(toy.work)[0].equals(rows)


@pytest.mark.parametrize("command", [behaviour, latency])
def test_whoever_plays_cells_takes_none_of_other_settings(
    toy: Config, tmp_path: Path, command: ModuleType
) -> None:
    league_cells.check_work(toy)
    own = {"work": tmp_path / "own"} if command is latency else {}
    (place,) = PLACES
    config = command.Config(league=replace(toy, episodes=13), place=place, results=tmp_path, **own)
    with pytest.raises(ValueError, match=r"differs in \['episodes'\]"):
        command.main(config)


def test_an_interrupted_league_goes_on_with_the_cell_that_is_missing(
    toy: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_missing(toy)
    gone = cells(toy)[3]
    before = read_cells(toy.work)[0].drop("date")
    gone.path(toy).unlink()
    played: list[str] = []
    really = league_cells.play

    def play(cell: Cell, site: Site, config: Config) -> None:
        played.append(cell.name)
        really(cell, site, config)

    monkeypatch.setattr(league_cells, "play", play)
    play_missing(toy)
    assert played == [gone.name]
    assert read_cells(toy.work)[0].drop("date").equals(before)


def test_a_cell_does_not_depend_on_the_others(toy: Config, tmp_path: Path) -> None:
    alone = replace(toy, contenders=("cap",), runs=(1,), work=tmp_path / "alone")
    play_missing(toy)
    play_missing(alone)
    cell = cells(alone)[0]
    one, other = (pl.read_parquet(cell.path(config)).drop("date") for config in (toy, alone))
    assert one.equals(other)


def test_rows_are_means_of_the_episodes(toy: Config) -> None:
    play_missing(replace(toy, contenders=("greedy_ctr",), runs=(1,)))
    rows, curves = read_cells(toy.work)
    site = open_toy(Place(TOY), Opening(toy.markets, 0, None))
    episodes = torch.arange(30_100_000, 30_100_012)
    found = evaluate(POLICIES["greedy_ctr"].build(site.inputs), site.judging(), episodes)
    row, table = rows.row(0, named=True), found.rows
    returns = table["return"].to_numpy()
    assert rows.schema == ROW
    assert row["return"] == pytest.approx(returns.mean())
    assert row["return"] == pytest.approx(
        row["clicks"]
    )  # this place pays for clicks alone; the rest is looked at
    assert row["return_error"] == pytest.approx(returns.std(ddof=1) / math.sqrt(12))
    assert row["diversity"] == pytest.approx(
        (table["intra_list_distance"] / table["visits"]).to_numpy().mean()
    )
    assert row["category_coverage"] == pytest.approx(
        (table["category_coverage"] / table["visits"]).to_numpy().mean()
    )
    assert (row["coverage"], row["gini"]) == pytest.approx((found.coverage, found.gini))
    assert (row["run"], row["mode"], row["episodes"], row["steps"]) == (1, "deterministic", 12, 0)
    assert curves.schema == CURVE
    assert curves["return"].to_list() == pytest.approx([returns[:5].mean()])


def test_contenders_of_a_run_see_the_same_shoppers_and_runs_do_not(
    toy: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[list[int]]] = {}
    really = evaluate

    def spy(policy: object, simulator: object, seeds: Tensor, **options: object) -> object:
        asked.setdefault(type(policy).__name__, []).append(seeds.tolist())
        return really(policy, simulator, seeds, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(league_cells, "evaluate", spy)
    play_missing(replace(toy, contenders=("uniform", "greedy_ctr")))
    uniform, greedy = asked.values()
    assert uniform == greedy
    shoppers = [set(seeds) for seeds in uniform if len(seeds) == toy.episodes]
    assert len(shoppers) == 2
    assert not shoppers[0] & shoppers[1]


def test_an_agent_has_a_row_for_each_way_to_use_it_and_a_curve(
    toy: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        AGENTS, "toy_agent", dataclasses.replace(AGENTS["linucb"], learner=learn_nothing)
    )
    assert play_missing(replace(toy, contenders=("toy_agent",), runs=(0,))) == []
    rows, curves = read_cells(toy.work)
    assert rows["mode"].to_list() == ["deterministic", "untrained"]
    assert rows["steps"].to_list() == [64, 64]
    assert curves["steps"].to_list() == [0, 64]
    assert curves["minutes"].is_sorted()


def learn_nothing(ground: TrainingSetup, config: object) -> TrainedAgent:
    """An agent whose policies are uniform and greedy, and who cannot sample."""
    untrained, policy = (POLICIES[name].build(ground.inputs) for name in ("uniform", "greedy_ctr"))
    ground.watch(0, untrained)
    ground.watch(ground.steps, policy)
    return TrainedAgent(policy, None, untrained, None, ground.steps)


def test_a_cell_that_fails_stops_no_other(toy: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    really = league_cells.play

    def play(cell: Cell, *rest: object) -> None:
        if cell.contender == "cap":
            raise RuntimeError("told to fail")
        really(cell, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(league_cells, "play", play)
    failed = play_missing(replace(toy, runs=(0,)))
    assert failed == ["league-v0-world0--cap--run0"]
    assert sorted(read_cells(toy.work)[0]["contender"]) == ["greedy_ctr", "uniform"]


def test_a_place_that_is_not_registered_is_left_out(
    toy: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [
        Place(env, 0, False, open_toy, oracles=False, log=False) for env in (TOY, "toy/Nowhere-v0")
    ]
    only(monkeypatch, *places)
    assert play_missing(replace(toy, runs=(0,))) == []
    assert "toy/Nowhere-v0 is no registered environment" in capsys.readouterr().out


def test_other_settings_do_not_mix_with_what_was_played(toy: Config) -> None:
    league_cells.check_work(toy)
    league_cells.check_work(replace(toy, runs=(3,), contenders=("mmr",), threads=2))
    with pytest.raises(ValueError, match="differs in \\['episodes'\\]"):
        league_cells.check_work(replace(toy, episodes=13))


def test_what_there_is_not_cannot_be_asked_for(toy: Config) -> None:
    with pytest.raises(ValueError, match="contenders has \\['nobody'\\]"):
        cells(replace(toy, contenders=("nobody",)))
    with pytest.raises(ValueError, match=r"places\[0\] is 'nowhere', but it must be one of"):
        cells(replace(toy, places=("nowhere",)))


def test_a_search_is_read_where_it_was_made(toy: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    play_missing(replace(toy, runs=(0,)))
    (path,) = (toy.work / "tuned").rglob("*.json")
    assert path.relative_to(toy.work).as_posix() == "tuned/league-v0-world0/cap.json"
    monkeypatch.setattr(
        league_cells, "starts", lambda *arguments: pytest.fail("what was found was searched again")
    )
    assert play_missing(replace(toy, contenders=("cap",))) == []


def test_the_league_is_everyone_everywhere_they_can_play() -> None:
    found = cells(Config())
    assert len({cell.name for cell in found}) == len(found)
    market, journey = PLACES["market-v0-world0"], PLACES["completejourney-v0-world0"]
    assert set(contenders(market)) == {*POLICIES, *ORACLES, *AGENTS}
    assert not {"oracle_state", "reinforce", "ppo_plackett_luce"} & set(contenders(journey))
    swept = {(cell.contender, cell.weight) for cell in found if cell.weight is not None}
    assert ("ppo_composer", 3.0) in swept
    assert ("mmr", 8.0) in swept


# ---- figures -------------------------------------------------------------------------------------


def test_the_interquartile_mean_leaves_out_the_outer_quarters() -> None:
    scores = np.array([[1.0, 100.0], [2.0, 3.0], [4.0, -50.0], [5.0, 6.0]])
    assert iqm(scores.reshape(-1)) == pytest.approx((2 + 3 + 4 + 5) / 4)
    metrics = pytest.importorskip("rliable.metrics")
    assert iqm(scores.reshape(-1)) == pytest.approx(metrics.aggregate_iqm(scores))


def test_the_stratified_bootstrap_is_rliables() -> None:
    # with pandas 3 the package arch below rliable cannot be imported, which is no ImportError
    rliable = pytest.importorskip("rliable.library", exc_type=Exception)  # type: ignore[arg-type]
    scores = np.random.default_rng(0).normal([10.0, 30.0], 2.0, size=(8, 2))
    value, error = stratified(scores, iqm, np.random.default_rng(1), 20_000)
    state = np.random.get_state()  # noqa: NPY002 - rliable draws from it
    theirs, interval = rliable.get_interval_estimates(
        {"x": scores}, lambda x: np.array([iqm(x.reshape(-1))]), reps=5000
    )
    np.random.set_state(state)  # noqa: NPY002
    assert value == pytest.approx(theirs["x"][0])
    low, high = interval["x"][:, 0]
    assert math.sqrt(7 / 8) * error == pytest.approx(
        (high - low) / (2 * 1.96), rel=0.1
    )  # before the correction


def test_worlds_are_strata() -> None:
    scores = np.array(
        [[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]]
    )  # runs of a world agree: nothing is uncertain
    value, error = stratified(scores, lambda s: s.mean(axis=-1), np.random.default_rng(0))
    assert (float(value), float(error)) == (50.0, 0.0)
    curves = np.array([[0.0, 1.0], [0.0, 1.0], [100.0, 3.0]])
    low, high = band(curves, np.array([0, 0, 1]))
    assert low.tolist() == high.tolist() == pytest.approx([100 / 3, 5 / 3])


def test_the_error_of_a_mean_of_strata_is_the_analytic_one() -> None:
    scores = np.array([[0.0, 100.0], [3.0, 104.0], [6.0, 102.0]])  # variances 9 and 4
    _, error = stratified(scores, lambda s: s.mean(axis=-1), np.random.default_rng(0), 50_000)
    analytic = math.sqrt((9 / 3 + 4 / 3) / 4)  # of the mean of the two worlds' means
    assert error == pytest.approx(analytic, rel=0.02)
    low, high = band(scores.T.reshape(6, 1), np.array([0, 0, 0, 1, 1, 1]))
    assert (high - low).tolist() == pytest.approx([2 * critical(2 * 2 + 1) * analytic])


def test_worlds_of_one_run_have_no_band() -> None:
    low, high = band(np.array([[1.0], [2.0]]), np.array([0, 1]))
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_a_profile_is_the_share_above_each_threshold() -> None:
    assert profile(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 2.0, 4.0])).tolist() == [
        1.0,
        0.5,
        0.0,
    ]


def test_a_curve_has_passed_when_it_stays_above() -> None:
    assert (
        first_above(np.array([1.0, 3.0, 1.5, 2.5, 4.0]), 2.0) == 3
    )  # at 1 it passed, and fell back
    assert first_above(np.array([2.5, 3.0]), 2.0) == 0
    assert first_above(np.array([1.0, 3.0, 2.0]), 2.0) is None  # not above at the end


def test_steps_to_pass_on_a_curve_made_by_hand() -> None:
    steps = np.array([0.0, 10.0, 20.0, 30.0])
    returns = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 6.0]])  # mean 1, 1.5, 2.5, 5
    cost = np.broadcast_to(steps, returns.shape)
    generator = np.random.default_rng(0)
    found = to_pass(
        returns, cost, np.array([2.2, 1.8]), generator
    )  # mean level 2: the first row passes at 20,
    assert found is not None  # the second alone at 20 as well, and both rows at 20
    assert (found.value, found.low, found.high, found.n) == (20.0, 20.0, 20.0, 2)
    assert to_pass(returns, cost, np.array([9.0, 9.0]), generator) is None


def test_a_ratio_is_of_means_and_not_a_mean_of_ratios() -> None:
    found = ratio(np.array([2.0, 9.0]), np.array([1.0, 3.0]))
    assert found.value == pytest.approx((2 + 9) / (1 + 3))


def test_a_matrix_has_the_runs_that_every_world_has() -> None:
    rows = pl.DataFrame(
        {"world": [0, 1, 0, 1, 0], "run": [1, 1, 0, 0, 2], "return": [3.0, 4.0, 1.0, 2.0, 5.0]}
    )
    assert matrix(rows).tolist() == [[1.0, 2.0], [3.0, 4.0]]


NAMES = {
    "market_ppo_return",
    "market_ppo_over_belief_greedy_return",
    "market_ppo_minus_cma_return",
    "regulars_ppo_minus_tuned_reranker_share",
    "regulars_ppo_minus_cma_share",
    "market_ppo_over_greedy_return",
    "market_ppo_over_greedy_clicks",
    "market_ppo_minus_tuned_reranker_return",
    "control_ppo_over_greedy_return",
    "control_greedy_over_oracle_return",
    "steps_to_pass_greedy",
    "minutes_to_pass_greedy",
    "plackett_luce_trained_minus_untrained_return",
    "autoregressive_trained_minus_untrained_return",
}
EARNED = {
    "ppo_composer": 30.0,
    "greedy_ctr": 20.0,
    "constant": 28.0,
    "oracle_myopic": 25.0,
    "oracle_state": 40.0,
    "ppo_plackett_luce": 22.0,
    "ppo_autoregressive": 24.0,
    "mmr": 26.0,
    "cma": 29.0,
}


def made_up(market: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows and curves of two runs in two worlds and two environments, and a frontier."""
    rows, points = [], []
    for env, believing in ((market, False), (market, True), (CONTROL, False), (REGULARS, True)):
        for name, earned in EARNED.items():
            for world, run in ((0, 0), (0, 1), (1, 0), (1, 1)):
                key = key_of(env, world, believing, name, None, run)
                value = earned + run + 10 * world + 5 * believing
                rows.append(row(key, "deterministic", value))
                if name.startswith("ppo"):
                    rows.append(row(key, "untrained", value - 3))
                    points += [point(key, 100 * at, value - 15 + 5 * at) for at in range(4)]
                else:
                    points.append(point(key, 0, value))
    for name, weight in (("ppo_composer", 1.0), ("mmr", 2.0), ("mmr", 4.0)):
        key = key_of(market, 0, True, name, weight, 0)
        rows.append(row(key, "deterministic", 20.0 + weight))
    return pl.DataFrame(rows, schema=ROW), pl.DataFrame(points, schema=CURVE)


def key_of(*values: object) -> dict[str, object]:
    """The columns that say which cell a row is of."""
    return dict(zip(KEY, values, strict=True))


def row(key: dict[str, object], mode: str, value: float) -> dict[str, object]:
    """A row whose clicks are half of its return."""
    rest = dict.fromkeys(
        ("return_error", "diversity", "category_coverage", "visits", "coverage", "gini"), 0.5
    )
    return {
        **key,
        **rest,
        "mode": mode,
        "episodes": 9,
        "return": value,
        "clicks": value / 2,
        "steps": 300,
        "minutes": 3.0,
        "date": "",
    }


def point(key: dict[str, object], steps: int, value: float) -> dict[str, object]:
    """A point a minute for every hundred steps."""
    return {**key, "steps": steps, "minutes": steps / 100, "return": value}


def test_the_summary_has_every_figure_that_others_quote() -> None:
    rows, curves = made_up("recsim_env/Market-v0")
    found = analyse(rows, curves, "recsim_env/Market-v0", "A note.")
    assert found.summary.keys() == NAMES
    worlds = (0 + 1 + 10 + 11) / 4  # what runs and worlds add to everybody, on average
    # PPO has the belief, and greedy CTR has not, unless its name says so
    assert found.summary["market_ppo_return"].value == pytest.approx(35 + worlds)
    assert found.summary["market_ppo_over_greedy_return"].value == pytest.approx(
        (35 + worlds) / (20 + worlds)
    )
    assert found.summary["market_ppo_over_belief_greedy_return"].value == pytest.approx(
        (35 + worlds) / (25 + worlds)
    )
    assert found.summary["market_ppo_minus_cma_return"].value == pytest.approx(1.0)
    assert found.summary["regulars_ppo_minus_tuned_reranker_share"].value == pytest.approx(
        2 / (33 + worlds)
    )
    assert found.summary["control_greedy_over_oracle_return"].value == pytest.approx(
        (20 + worlds) / (25 + worlds)
    )
    gain = found.summary["market_ppo_minus_tuned_reranker_return"]
    assert (gain.value, gain.low, gain.high, gain.n) == pytest.approx(
        (2.0, 2.0, 2.0, 4)
    )  # paired: always 2
    assert found.summary["plackett_luce_trained_minus_untrained_return"].value == pytest.approx(3.0)
    # the curve is 15, 20, 25, 30 above what the run adds, and greedy 20
    assert found.summary["steps_to_pass_greedy"] == Estimate(200.0, 200.0, 200.0, 4)
    assert found.summary["minutes_to_pass_greedy"] == Estimate(2.0, 2.0, 2.0, 4)
    assert (
        found.table.index("oracle state")
        < found.table.index("ppo composer")
        < found.table.index("greedy ctr")
    )
    assert "| MarketControl-v0 |" in found.table
    assert found.table.endswith("A note.\n")


def test_a_summary_of_half_a_league_leaves_out_what_it_cannot_say() -> None:
    rows, curves = made_up("recsim_env/Market-v0")
    there = pl.col("contender").is_in(["ppo_composer", "greedy_ctr"]) & (
        pl.col("env") == "recsim_env/Market-v0"
    )
    found = summary(
        rows.filter(there & pl.col("weight").is_null()),
        curves.filter(there),
        "recsim_env/Market-v0",
    )
    left = {
        "market_ppo_return",
        "market_ppo_over_greedy_return",
        "market_ppo_over_greedy_clicks",
        "market_ppo_over_belief_greedy_return",
    }
    assert found.keys() == left | {"steps_to_pass_greedy", "minutes_to_pass_greedy"}
    lonely = pl.col("contender") == "ppo_composer"
    alone = summary(rows.filter(lonely), curves.filter(lonely), "recsim_env/Market-v0")
    assert alone.keys() == {"market_ppo_return"}


def test_curves_have_the_end_of_every_run_though_they_end_at_different_steps() -> None:
    rows = [
        point(key_of(MARKET, 0, True, "cma", None, run), steps, float(steps + run))
        for run, ends in ((0, 310), (1, 290))
        for steps in (0, 100, 150 + run, ends)
    ]
    runs, steps, returns, _ = curve_of(pl.DataFrame(rows, schema=CURVE), "cma")
    assert runs["run"].to_list() == [0, 1]
    assert steps.tolist() == [0, 100, 310]
    assert returns.tolist() == [[0, 100, 310], [1, 101, 291]]


def test_the_frontier_has_the_leagues_own_weight_too() -> None:
    rows, _ = made_up("recsim_env/Market-v0")
    rows = at(rows, "recsim_env/Market-v0", believing=True)
    rows = rows.filter(pl.col("mode") == "deterministic")
    assert frontier(rows, "ppo_composer", 0.3).rows() == [(0.3, 0.5, 17.5), (1.0, 0.5, 10.5)]
    assert frontier(rows, "mmr", None)["weight"].to_list() == [2.0, 4.0]


def test_the_report_of_a_league_that_was_played_is_saved(toy: Config) -> None:
    play_missing(toy)
    rows, curves = read_cells(toy.work)
    found = analyse(rows, curves, TOY, "")
    Run("league", toy, results=toy.results).save(
        rows, summary=found.summary, table=found.table, figure=found.figure
    )
    assert (toy.results / "league" / "figure.png").stat().st_size > 10_000
    assert [line.split(" | ")[0] for line in found.table.splitlines() if line.startswith("| ")][2:]


# ---- oracles -------------------------------------------------------------------------------------


def test_the_myopic_oracle_shows_the_likeliest_clicks() -> None:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    observation = simulator.reset(torch.arange(5))
    inputs = PolicyInputs(simulator.catalog, simulator.observation_space, simulator.slate_size)
    slates = oracle_specs(simulator)["oracle_myopic"].build(inputs)(observation, torch.zeros(5, 0))
    shopper = simulator.shopper
    assert isinstance(shopper, MarketShopper)
    best = shopper.log_odds(simulator.hidden, simulator.candidates).topk(10, dim=1).indices
    assert torch.equal(slates, best)


def test_a_count_that_costs_everything_gives_every_position_a_category_of_its_own() -> None:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    observation = simulator.reset(torch.arange(5))
    policy = OracleState(simulator, OracleParameters(extra=0.0, count=1e3))
    pool = behaviour.distinct(simulator.catalog.category[policy(observation, torch.zeros(5, 0))])
    greedy = OracleState(simulator, OracleParameters(extra=0.0, count=0.0, factor=1e-6))
    assert (
        pool
        > behaviour.distinct(simulator.catalog.category[greedy(observation, torch.zeros(5, 0))])
    ).all()


def test_an_oracle_reads_nobody_but_the_shoppers_of_a_market(toy: Config) -> None:
    with pytest.raises(ValueError, match="ToyShopper"):
        OracleState(make_simulator(TOY, device="cpu"), OracleParameters())


# ---- behaviour -----------------------------------------------------------------------------------


def test_distinct_categories_are_counted() -> None:
    shown = torch.tensor(
        [[3, 1, 3, 1], [5, 5, 5, 5], [4, 3, 2, 1], [0, -1, 0, -1], [-1, -1, -1, -1]]
    )
    assert behaviour.distinct(shown).tolist() == [
        2,
        1,
        4,
        1,
        0,
    ]  # an empty position is of no category


def test_boredom_weighs_each_position_by_the_chance_to_look_at_it() -> None:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    simulator.reset(torch.arange(2))
    state = simulator.hidden
    state.examination[:] = 0.5
    state.variety[:] = torch.tensor([1.0, 3.0])
    first = simulator.catalog.category[0]
    state.satiation[:, first] = 2.0
    others = (simulator.catalog.category != first).nonzero().squeeze(1)[:9]
    slates = torch.cat([torch.zeros(1, dtype=torch.int64), others]).expand(2, -1)
    seen = sum(0.5**position for position in range(10))
    found = behaviour.boredom(simulator.shopper, state, slates)
    assert found.tolist() == pytest.approx([1 * 2.0 / seen, 3 * 2.0 / seen])


def test_a_gain_is_paired_by_shopper() -> None:
    parts = {
        "ppo_composer": pl.DataFrame({"shopper": [1, 1, 2, 3], "reward": [1.0, 2.0, 5.0, 9.0]}),
        "constant": pl.DataFrame({"shopper": [2, 1, 2, 3], "reward": [1.0, 1.0, 1.0, 9.0]}),
    }
    found = behaviour.gain(parts)
    assert found.value == pytest.approx(((3 - 1) + (5 - 2) + (9 - 9)) / 3)


@pytest.mark.slow
def test_what_is_shown_is_told_apart_by_shopper() -> None:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    inputs = PolicyInputs(
        simulator.catalog, simulator.observation_space, 10, _TrueTaste(simulator.catalog.embedding)
    )
    composer = Composer(inputs)
    greedy, capped = (
        POLICIES["greedy_ctr"].build(inputs),
        POLICIES["cap"].build(inputs, {"limit": 1}),
    )
    named = {"greedy_ctr": greedy, "ppo_composer": greedy, "constant": capped}
    parts = [
        behaviour.visits(n, p, simulator, composer, torch.arange(60)) for n, p in named.items()
    ]
    rows = behaviour.with_thirds(pl.concat(parts))
    own = rows.filter(pl.col("policy") == "greedy_ctr")
    played = evaluate(greedy, simulator, torch.arange(60)).rows
    assert (
        own.group_by("shopper").len().sort("shopper")["len"].to_list() == played["visits"].to_list()
    )
    assert own["reward"].to_numpy().sum() == pytest.approx(
        played["return"].to_numpy().sum(), rel=1e-5
    )
    assert set(own.unique("shopper").group_by("variety_third").len()["len"]) == {20}
    lines = behaviour.by_group(rows)
    assert len(lines) == 3 * 5
    assert all(line["categories"].value < line["categories_constant"].value for line in lines)  # type: ignore[attr-defined]


class _TrueTaste:
    """Ranks by what the shopper declared."""

    def __init__(self, embedding: Tensor) -> None:
        self._embedding = embedding

    def logits(self, observation: Observation) -> Tensor:
        return 3 * observation["declared"] @ self._embedding.T
