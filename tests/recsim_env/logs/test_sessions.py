"""A log as episodes: what was recorded comes back, and the shop knows at each logged slate what it
knew then."""

from __future__ import annotations

import dataclasses
import datetime
import math
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

from recsim_env import noise
from recsim_env.logs.record import record
from recsim_env.logs.schema import IMPRESSIONS, LogError
from recsim_env.logs.sessions import UNSAID, Sessions, replay
from recsim_env.shoppers.market import MarketConfig, MarketShopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation
from tests.support.toys import FunctionPolicy

CONFIG = MarketConfig(items=20, categories=4, width=3, favourites=2, leave_base=-5.0)
SEEDS = torch.arange(30, 42)
SIZE, HORIZON = 4, 14


def market(history: int = 5) -> SlateSimulator:
    return SlateSimulator(
        MarketShopper(torch.device("cpu"), SIZE, config=CONFIG),
        horizon_days=HORIZON,
        history=history,
    )


def uniform(observation: Observation, draws: Tensor) -> Tensor:
    return draws.topk(SIZE, dim=1).indices


def logged() -> pl.DataFrame:
    return record(market(), FunctionPolicy(uniform, len(market().catalog)), SEEDS)[0]


def declared(rows: Tensor = SEEDS) -> pl.DataFrame:
    said = market().reset(rows)["declared"].tolist()
    schema = {"shopper": pl.Int64(), "declared": pl.List(pl.Float32())}
    return pl.DataFrame({"shopper": range(len(rows)), "declared": said}, schema=schema)


class Played:
    """The same episodes as `logged`, without a log: every observation, slate and answer by shopper
    and visit."""

    def __init__(self, history: int = 5) -> None:
        simulator = market(history)
        self.length = torch.zeros(len(SEEDS), dtype=torch.int64)
        self.left = torch.zeros(len(SEEDS), dtype=torch.bool)
        self.observations: list[Observation] = []
        self.slates: list[Tensor] = []
        self.clicks: list[Tensor] = []
        observation = simulator.reset(SEEDS)
        keys = noise.episode_key(SEEDS, torch.zeros_like(SEEDS), stream=noise.Stream.POLICY)
        going = torch.ones(len(SEEDS), dtype=torch.bool)
        for visit in range(HORIZON):
            slates = uniform(observation, noise.uniform(keys, visit, 20))
            outcome = simulator.advance(slates)  # rows that are over play on, and are not looked at
            self.observations.append(observation)
            self.slates.append(slates)
            observation = simulator.observe()
            self.clicks.append(observation["recent_clicks"][:, 0].bool())
            self.length += going
            self.left |= going & outcome.terminated
            going = going & ~outcome.ended
        assert not going.any()


def table(**columns: Any) -> pl.DataFrame:
    """Impressions with the columns given; the rest is of no interest."""
    rows = len(columns["shopper"])
    start = datetime.datetime(2020, 1, 1)
    given = {
        "visit": list(range(rows)),
        "time": [start + datetime.timedelta(days=at) for at in range(rows)],
        "day": list(range(rows)),
        "week": [0] * rows,
        "store": [0] * rows,
        "scenario": ["shop"] * rows,
        "policy": [None] * rows,
        "page": [0] * rows,
        "click": [None] * rows,
        "placement": [None] * rows,
        "propensity": [None] * rows,
        "weight": [None] * rows,
        **{name: [None] * rows for name in ("query", "cart", "discount")},
        "gap": [1] * rows,
        "follow_up": [1] * rows,
        "split": ["train"] * rows,
        **columns,
    }
    given.setdefault("purchase", [None] * rows)
    return pl.DataFrame(
        {column.name: given[column.name] for column in IMPRESSIONS.columns},
        schema=IMPRESSIONS.schema,
    )


# --- a log as episodes ---


def test_what_was_recorded_comes_back() -> None:
    played, sessions = Played(), Sessions.of(logged())
    assert torch.equal(sessions.length, played.length)
    assert torch.equal(sessions.left, played.left)
    assert 0 < int(sessions.left.sum()) < len(SEEDS)  # some left, some stayed until the log ended
    assert sessions.slates.shape == (len(SEEDS), int(played.length.max()), SIZE)
    for row in range(len(SEEDS)):
        for visit in range(int(played.length[row])):
            assert torch.equal(sessions.slates[row, visit], played.slates[visit][row])
            assert torch.equal(sessions.clicks[row, visit], played.clicks[visit][row])
    assert (sessions.slates[~sessions.real] == -1).all()
    assert not sessions.clicks[~sessions.real].any()
    assert sessions.n_slates == int(played.length.sum()) == len(logged())
    assert sessions.propensity.isnan().all()
    assert sessions.policies == ()
    assert (sessions.policy == -1).all()
    assert sessions.declared.shape == (len(SEEDS), 0)


def test_a_small_table_by_hand() -> None:
    """Two shoppers, their rows mixed up; 7 comes twice and leaves, 3 comes once and the log
    ends."""
    sessions = Sessions.of(
        table(
            shopper=[7, 3, 7],
            visit=[11, 12, 10],
            time=[datetime.datetime(2020, 1, day) for day in (8, 3, 4)],
            day=[7, 2, 3],
            slate=[[2, 3], [4, 5], [0, 1]],
            click=[[True, False], [False, False], [False, True]],
            propensity=[-1.5, None, -0.5],
            policy=["b", "a", None],
            gap=[None, 4, 1],
            follow_up=[9, 9, 9],
        ),
        pl.DataFrame({"shopper": [7, 3], "declared": [[0.0, 1.0], [1.0, 0.0]]}),
    )
    assert sessions.slates.tolist() == [[[4, 5], [-1, -1]], [[0, 1], [2, 3]]]
    assert sessions.clicks.tolist() == [
        [[False, False], [False, False]],
        [[False, True], [True, False]],
    ]
    assert sessions.length.tolist() == [1, 2]
    assert sessions.left.tolist() == [False, True]
    assert sessions.propensity.nan_to_num(7).tolist() == [[7.0, 7.0], [-0.5, -1.5]]
    assert sessions.policies == ("a", "b")
    assert sessions.policy.tolist() == [[0, -1], [-1, 1]]
    assert sessions.declared.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert sessions.days.tolist() == [[0.0, 0.0], [0.0, 4.0]]
    assert sessions.first_day.tolist() == [2, 3]
    assert sessions.watched.tolist() == [9.0, 9.0]
    assert sessions.back.tolist() == [4.0, -1.0]
    assert sessions.gaps.tolist() == [[4.0, -1.0], [4.0, -1.0]]
    assert sessions.follow_up.tolist() == [[9.0, 0.0], [13.0, 9.0]]


def test_pages_are_steps_and_slates_may_differ_in_size() -> None:
    """A shopper looks at two pages on day 3 and at one on day 5; another one at a single slate."""
    rows = table(
        shopper=[0, 0, 0, 4],
        visit=[5, 5, 6, 7],
        page=[0, 1, 0, 0],
        time=[datetime.datetime(2020, 1, day) for day in (4, 4, 6, 2)],
        day=[3, 3, 5, 1],
        slate=[[1], [2, 3, 4], [5, 6], [7, 8]],
        click=[[True], [False, True, False], [False, False], [True, True]],
        gap=[2, 2, None, 3],
        follow_up=[30, 30, 28, 30],
    )
    sessions = Sessions.of(rows.sample(fraction=1, shuffle=True, seed=1))
    padding = [-1, -1, -1]
    assert sessions.slates.tolist() == [
        [[1, -1, -1], [2, 3, 4], [5, 6, -1]],
        [[7, 8, -1], padding, padding],
    ]
    assert sessions.clicks[0].tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, False],
    ]
    assert sessions.days.tolist() == [[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]
    assert sessions.gaps.tolist() == [[0.0, 2.0, -1.0], [3.0, -1.0, -1.0]]
    assert sessions.follow_up.tolist() == [[30.0, 30.0, 28.0], [30.0, 0.0, 0.0]]
    assert sessions.left.tolist() == [True, False]
    assert sessions.purchases is None
    second, third = [m for m in replay(sessions, market().catalog, history=3) if m.visit > 0]
    assert second.observation["recent_days"].tolist() == [[0.0, 0.0, 0.0]]
    assert third.observation["recent_days"].tolist() == [[2.0, 2.0, 0.0]]
    narrow = Sessions.of(rows, slate_size=2)
    assert narrow.slates.tolist()[0] == [[1, -1], [2, 3], [5, 6]]
    assert narrow.clicks.tolist()[0] == [[True, False], [False, True], [False, False]]
    assert Sessions.of(rows, slate_size=5).slates.shape == (2, 3, 5)


def test_histories_are_cut_and_say_so() -> None:
    days = [0, 0, 2, 5, 9]
    rows = table(
        shopper=[0] * 5,
        slate=[[1, 2]] * 5,
        click=[[False, True]] * 5,
        time=[datetime.datetime(2020, 1, 1 + day) for day in days],
        day=days,
        gap=[0, 2, 3, 4, None],
        follow_up=[30 - day for day in days],
    )
    sessions = Sessions.of(rows, most_steps=3)
    assert (sessions.length.tolist(), sessions.left_out.tolist()) == ([3], [2])
    assert sessions.back.tolist() == [3.0]  # the fourth slate was seen three days later
    assert sessions.left.tolist() == [False]
    whole = Sessions.of(rows)
    assert (whole.length.tolist(), whole.left_out.tolist()) == ([5], [0])
    assert torch.equal(sessions.days, whole.days[:, :3])
    with pytest.raises(ValueError, match="most_steps is 0, but"):
        Sessions.of(rows, most_steps=0)


def test_purchases_stand_beside_clicks_where_they_differ() -> None:
    rows = {"shopper": [0, 0], "slate": [[2, 3, 4]] * 2}
    clicks, bought = [[True, True, False], [False, False, False]], [[True, False, False]] * 2
    sessions = Sessions.of(table(**rows, click=clicks, purchase=bought))
    assert sessions.purchases is not None
    assert sessions.purchases.tolist() == [bought]
    assert sessions.clicks.tolist() == [[clicks[0], bought[1]]]  # what was bought was clicked
    assert Sessions.of(table(**rows, click=bought, purchase=bought)).purchases is None
    assert Sessions.of(table(**rows, purchase=bought)).purchases is None
    one_unknown = Sessions.of(table(**rows, click=clicks, purchase=[bought[0], None]))
    assert one_unknown.purchases is not None
    assert one_unknown.purchases.tolist() == [[bought[0], [False] * 3]]
    short = sessions.take(torch.tensor([0]))
    assert short.purchases is not None
    assert torch.equal(short.purchases, sessions.purchases)


def test_episodes_made_by_hand_are_a_day_apart() -> None:
    made = Sessions.of(logged(), declared())
    plain = dataclasses.replace(made, days=UNSAID, watched=UNSAID, back=UNSAID)
    assert torch.equal(plain.days, made.days)
    assert torch.equal(plain.watched, made.watched.where(made.left, 0))
    assert torch.equal(plain.back, made.back)


def test_purchases_are_the_responses_where_no_clicks_were_kept() -> None:
    sessions = Sessions.of(table(shopper=[0], slate=[[2, 3]], purchase=[[False, True]]))
    assert sessions.clicks.tolist() == [[[False, True]]]


def test_nobody_is_known_to_have_left_who_was_not_watched_any_longer() -> None:
    rows = {"shopper": [0, 1], "slate": [[2, 3]] * 2, "purchase": [[False, True]] * 2}
    assert Sessions.of(table(**rows, gap=[None, None], follow_up=[0, 1])).left.tolist() == [
        False,
        True,
    ]


# --- the observation at each slate ---


@pytest.mark.parametrize("history", [3, 20])
def test_the_observation_of_every_logged_slate_is_that_of_the_simulator(history: int) -> None:
    played, sessions = Played(history), Sessions.of(logged(), declared())
    visits = 0
    for moment in replay(sessions, market().catalog, history=history):
        expected = played.observations[moment.visit]
        assert moment.observation.keys() == expected.keys()
        for name, value in moment.observation.items():
            assert value.dtype == expected[name].dtype, name
            assert torch.equal(value, expected[name][moment.rows]), (name, moment.visit)
        assert moment.rows.tolist() == (played.length > moment.visit).nonzero().flatten().tolist()
        assert torch.equal(moment.slates, played.slates[moment.visit][moment.rows])
        assert torch.equal(moment.clicks, played.clicks[moment.visit][moment.rows])
        visits += len(moment.rows)
    assert visits == sessions.n_slates


def test_what_a_moment_said_stays_as_it_was() -> None:
    moments = replay(Sessions.of(logged(), declared()), market().catalog)
    first = next(moments)
    kept = {name: value.clone() for name, value in first.observation.items()}
    for _ in moments:
        pass
    for name, value in first.observation.items():
        assert torch.equal(value, kept[name]), name


def test_without_declared_interests_the_key_is_not_there() -> None:
    first = next(replay(Sessions.of(logged()), market().catalog))
    assert "declared" not in first.observation


def test_an_empty_position_counts_as_nothing_shown() -> None:
    whole = Sessions.of(table(shopper=[0, 0], slate=[[2, 3], [0, 1]], purchase=[[True, False]] * 2))
    sessions = dataclasses.replace(whole, slates=torch.tensor([[[2, -1], [0, 1]]]))
    *_, second = replay(sessions, market().catalog, history=1)
    assert second.observation["recent_slates"].tolist() == [[[2, -1]]]
    assert second.observation["category_shown"][0, :, 2].sum().item() == 1
    assert second.observation["familiarity"].tolist() == [[0.0, 0.0, 1.0, 1.0]]


# --- parts of a log ---


def test_some_episodes_are_cut_to_the_longest_of_them() -> None:
    sessions = Sessions.of(logged(), declared())
    rows = sessions.length.argsort()[:3].sort().values
    short = sessions.take(rows)
    longest = int(sessions.length[rows].max())
    assert longest < int(sessions.length.max())
    assert len(short) == 3
    assert short.slates.shape == (3, longest, SIZE)
    assert torch.equal(short.slates, sessions.slates[rows, :longest])
    assert torch.equal(short.clicks, sessions.clicks[rows, :longest])
    assert torch.equal(short.declared, sessions.declared[rows])
    assert torch.equal(short.left, sessions.left[rows])
    mask = torch.zeros(len(sessions), dtype=torch.bool)
    mask[rows] = True
    assert torch.equal(sessions.take(mask).slates, short.slates)
    nobody = sessions.take(torch.zeros(0, dtype=torch.int64))
    assert (len(nobody), nobody.n_slates) == (0, 0)


def test_a_split_keeps_every_episode_whole_and_once() -> None:
    sessions = Sessions.of(logged(), declared())
    learn, check = sessions.split(0.25, seed=3)
    assert (len(learn), len(check)) == (9, 3)
    names = [tuple(row) for part in (learn, check) for row in part.declared.tolist()]
    assert sorted(names) == sorted(tuple(row) for row in sessions.declared.tolist())
    assert learn.n_slates + check.n_slates == sessions.n_slates
    assert torch.equal(check.declared, sessions.split(0.25, seed=3)[1].declared)
    others = [sessions.split(0.25, seed=seed)[1].declared for seed in range(4)]
    assert any(not torch.equal(check.declared, other) for other in others)
    state = torch.get_rng_state()
    sessions.split(0.5)
    assert torch.equal(torch.get_rng_state(), state)


# --- what is refused ---


def test_a_shopper_who_declared_nothing_is_refused() -> None:
    rows = {"shopper": [4, 6], "slate": [[1], [2]], "purchase": [[True], [False]]}
    with pytest.raises(
        ValueError, match=r"^declared has no row for shopper 6, but every shopper of the log"
    ):
        Sessions.of(table(**rows), pl.DataFrame({"shopper": [4], "declared": [[1.0]]}))


def test_a_shopper_declares_finite_numbers_once() -> None:
    rows = table(shopper=[4, 6], slate=[[1], [2]], purchase=[[True], [False]])
    good = {"shopper": [4, 6], "declared": [[1.0, 0.0], [0.0, 1.0]]}
    assert Sessions.of(rows, pl.DataFrame(good)).declared.tolist() == good["declared"]
    for bad in (math.nan, math.inf, None):
        said = pl.DataFrame({**good, "declared": [[1.0, 0.0], [0.0, bad]]})
        with pytest.raises(
            ValueError,
            match=r"declared of shopper 6 is \[0.0, .*\], but every number must be finite",
        ):
            Sessions.of(rows, said)
    for wrong, says in (
        (
            {"shopper": [4, 4, 6], "declared": [[1.0], [1.0], [1.0]]},
            "declared has several rows a shopper",
        ),
        ({"shopper": [4, 6], "declared": [[1.0], [1.0, 2.0]]}, "lists of several lengths"),
        ({"shopper": [4, 6]}, "declared has the columns .*, but it needs 'declared'"),
        ({"declared": [[1.0], [1.0]]}, "declared has the columns .*, but it needs 'shopper'"),
        (
            {"shopper": ["4", "6"], "declared": [[1.0], [1.0]]},
            "declared has the types String and List",
        ),
        ({"shopper": [4, 6], "declared": [1.0, 2.0]}, "declared has the types Int64 and Float64"),
        ({"shopper": [4, 6], "declared": [["a"], ["b"]]}, "declared has the types Int64 and List"),
    ):
        with pytest.raises(ValueError, match=says):
            Sessions.of(rows, pl.DataFrame(wrong))


def test_clicks_and_purchases_may_take_turns() -> None:
    """Where some visits have clicks, the others' purchases are their responses."""
    rows = table(
        shopper=[0, 0],
        slate=[[2, 3]] * 2,
        click=[None, [True, False]],
        purchase=[[False, True], None],
    )
    assert Sessions.of(rows).clicks.tolist() == [[[False, True], [True, False]]]


@pytest.mark.parametrize("bad", [None, 3, "log.parquet", {}, [], pl.LazyFrame()])
def test_a_log_is_a_frame(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"^frame is .*, but it must be a polars DataFrame"):
        Sessions.of(bad)
    if bad is not None:
        with pytest.raises(TypeError, match=r"^declared is .*, but it must be a polars DataFrame"):
            Sessions.of(table(shopper=[0], slate=[[2]], purchase=[[True]]), bad)


def test_a_log_is_what_its_schema_says() -> None:
    rows = table(shopper=[0], slate=[[2, 3]], purchase=[[False, True]])
    for bad, column in (
        (rows.drop("gap"), "gap"),
        (rows.drop("shopper"), "shopper"),
        (rows.with_columns(slate=pl.Series([[2, -1]], dtype=pl.List(pl.Int32))), "slate"),
        (rows.with_columns(slate=pl.Series([[2, 2]], dtype=pl.List(pl.Int32))), "slate"),
        (rows.with_columns(purchase=pl.Series([[True]])), "purchase"),
    ):
        with pytest.raises(LogError, match=rf"^impressions: column '{column}', row 0: found "):
            Sessions.of(bad)
    with pytest.raises(LogError, match="impressions: found no rows"):
        Sessions.of(rows.clear())


@pytest.mark.parametrize("share", [None, "3", -0.1, 1.5, math.nan, True, []])
def test_a_share_is_a_share(share: Any) -> None:
    sessions = Sessions.of(table(shopper=[0], slate=[[2]], purchase=[[True]]))
    with pytest.raises(
        ValueError, match=r"^share is .*, but it must be a finite number from 0 to 1"
    ):
        sessions.split(share)
    with pytest.raises(ValueError, match=r"^seed is .*, but it must be a whole number"):
        sessions.split(0.5, seed=-1)


@pytest.mark.parametrize("history", [None, "3", 0, -1, 2.5, True, 10**9])
def test_a_history_is_a_whole_number(history: Any) -> None:
    sessions = Sessions.of(table(shopper=[0], slate=[[2]], purchase=[[True]]))
    with pytest.raises(ValueError, match=r"^history is .*, but it must be a whole number"):
        next(replay(sessions, market().catalog, history=history))


def test_a_log_of_another_catalogue_is_refused() -> None:
    sessions = Sessions.of(table(shopper=[0], slate=[[20]], purchase=[[True]]))
    with pytest.raises(
        ValueError, match="sessions holds item 20, but the catalogue has the items 0 to 19"
    ):
        next(replay(sessions, market().catalog))


def test_the_default_type_of_torch_changes_nothing() -> None:
    log, said = logged(), declared()
    plain = list(replay(Sessions.of(log, said), market().catalog))
    torch.set_default_dtype(torch.float64)
    try:
        wide = list(replay(Sessions.of(log, said), market().catalog))
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(plain, wide, strict=True):
        for name, value in one.observation.items():
            assert value.dtype == other.observation[name].dtype, name
            assert torch.equal(value, other.observation[name]), name
