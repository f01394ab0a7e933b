"""The slate as a person would see it: what the frames say, and that looking changes nothing."""

from __future__ import annotations

import builtins
import dataclasses
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode

from recsim_env.env import SlateEnv
from recsim_env.rendering import (
    RENDER_MODES,
    Card,
    Ending,
    Scene,
    Why,
    arrival,
    as_picture,
    as_text,
    draw,
)
from recsim_env.rendering.scene import _card
from recsim_env.shoppers.base import ago, counted
from recsim_env.vector import SlateVectorEnv
from tests.support.toys import toy_simulator

ENDING = Ending(
    1.25, {"clicks": 1.0, "intra_list_distance": 0.83}, 4, 6.0, 71.0, lapsed=False, truncated=False
)
SCENE = Scene(
    description={
        "date": "Thu 14 Sep 2017",
        "store": "store 367",
        "shopper": "household 1228",
        "last visit": "9 days ago",
        "history": ["9 days ago · 2x · fluid milk", "bananas"],
    },
    candidates=412,
    slate_size=3,
    cards=(
        Card("frozen pizza", "private brand; 21.5 oz", "frozen", 0, 4.99, shown=True, bought=True),
        Card("yogurt", "", "dairy", 1, float("nan"), shown=True, bought=False),
        Card("yogurt", "", "dairy", 1, 0.6, shown=False, bought=False),
    ),
    ending=ENDING,
)
GREEN = (47, 133, 90)  # the tick of a bought item


def coloured(frame: Any, colour: tuple[int, int, int]) -> int:
    return int((frame == np.array(colour)).all(axis=2).sum())


def test_the_text_says_what_happened() -> None:
    assert as_text(SCENE).splitlines() == [
        "Thu 14 Sep 2017  store 367  household 1228",
        "------------------------------------------",
        "412 items could be shown",
        f"  1 [x] {'frozen pizza; private brand; 21.5 oz':60s}     4.99  frozen",
        f"  2 [ ] {'yogurt':60s}           dairy",
        f"  3  -  {'yogurt':60s}     0.60  dairy  (not shown)",
        "reward 1.25 (clicks 1.00, intra_list_distance 0.83); 4 more bought elsewhere in the store",
        "day 71: comes back after 6 days",
        "last visit: 9 days ago",
        "lately:",
        "  9 days ago · 2x · fluid milk",
        "  bananas",
    ]


def test_a_card_leaves_out_what_the_category_says() -> None:
    simulator = toy_simulator(items=3)
    text = (
        "hot dog buns; baked bread/buns/rolls; grocery; private brand; 11 oz",
        "bananas; fruit",
        "milk",
    )
    path = (
        "grocery/baked bread & buns & rolls/hot dog buns",
        "produce/fruit/bananas",
        "dairy/milk/milk",
    )
    simulator.catalog = dataclasses.replace(simulator.catalog, text=text, path=path)
    cards = [_card(simulator, item, True, False) for item in range(3)]
    assert [(card.title, card.details) for card in cards] == [
        ("hot dog buns", "private brand; 11 oz"),
        ("bananas", ""),
        ("milk", ""),
    ]
    assert [card.category for card in cards] == ["baked bread & buns & rolls", "fruit", "milk"]


@pytest.mark.parametrize(
    ("days", "lapsed", "truncated", "sentence"),
    [
        (1.0, False, False, "comes back after 1 day"),
        (6.0, False, True, "comes back after 6 days, beyond the horizon"),
        (56.0, True, False, "lapsed: does not come back"),
        (0.0, False, False, "stays: the next slate comes on the same day"),
    ],
)
def test_what_the_shopper_does_next_in_words(
    days: float, lapsed: bool, truncated: bool, sentence: str
) -> None:
    assert Ending(0.0, {}, 0, days, 9.0, lapsed, truncated).sentence == sentence


def test_counts_have_their_plural() -> None:
    assert [counted(number, "click") for number in (0, 1, 2)] == ["0 clicks", "1 click", "2 clicks"]
    assert [ago(days) for days in (0, 1, 2)] == ["today", "1 day ago", "2 days ago"]
    alone = dataclasses.replace(
        SCENE, candidates=1, ending=dataclasses.replace(ENDING, elsewhere=0)
    )
    assert as_text(alone).splitlines()[2] == "1 item could be shown"
    assert "elsewhere" not in as_text(alone)


# --- what agents must not see ---


@pytest.mark.parametrize(
    ("id", "secrets"),
    [
        ("Market-v0", ["speed", "variety", "patience", "examination"]),
        ("MarketVisit-v0", ["speed", "variety", "sensitivity to prices"]),
        ("LearnedMarket-v0", ["chance", "position"]),
    ],
)
@pytest.mark.parametrize("make", [SlateEnv, SlateVectorEnv])
def test_hidden_traits_are_rendered_on_request_only(make: Any, id: str, secrets: list[str]) -> None:
    frames = {}
    for hidden in (False, True):
        env = make(f"recsim_env/{id}", device="cpu", render_mode="ansi", render_hidden=hidden)
        seen, _ = env.reset(seed=3)
        env.step(seen["candidates"][..., :10])
        frames[hidden] = env.render() if isinstance(env.render(), str) else env.render()[0]
    assert not any(secret in frames[False] for secret in secrets)
    assert all(secret in frames[True] for secret in secrets)
    kept = [line for line in frames[True].splitlines() if not line.startswith("hidden: ")]
    assert kept == frames[False].splitlines()


@pytest.mark.parametrize("make", [SlateEnv, SlateVectorEnv])
def test_hidden_traits_are_not_asked_for_where_nothing_is_drawn(make: Any) -> None:
    with pytest.raises(ValueError, match="render_hidden is True, but render_mode is None"):
        make("recsim_env/Market-v0", device="cpu", render_hidden=True)


def test_what_the_market_hides_does_not_change_a_frame() -> None:
    env = SlateEnv("recsim_env/Market-v0", device="cpu", render_mode="ansi")
    env.reset(seed=1)
    env.step(np.arange(10))
    hidden = env.simulator.hidden
    before = as_text(arrival(env.simulator, 0))
    for name in ("interest", "satiation", "fatigue", "speed", "variety", "patience", "examination"):
        setattr(hidden, name, getattr(hidden, name) + 1)
        assert as_text(arrival(env.simulator, 0)) == before, name
    assert as_text(arrival(env.simulator, 0, hidden=True)) != before


def test_a_description_tells_the_hidden_part_on_request_only() -> None:
    env = SlateEnv("recsim_env/Market-v0", device="cpu")
    env.reset(seed=1)
    assert env.simulator.describe(0).keys() == {"date", "store", "history"}
    assert env.simulator.describe(0, hidden=True).keys() == {"date", "store", "history", "hidden"}


def test_the_frame_follows_the_visit() -> None:
    env = SlateEnv(toy_simulator(), render_mode="ansi")
    env.reset(seed=1)
    arrived = env.render()
    assert isinstance(arrived, str)
    assert "day 0  toy store  toy shopper 0" in arrived
    assert "no slate yet" in arrived
    *_, info = env.step(np.array([1, 2, 2, 3]))
    text = env.render()
    assert isinstance(text, str)
    assert text.startswith("day 0")  # the visit that was, not the next one
    lines = text.splitlines()[3:7]
    assert [f" item {item} " in line for item, line in zip([1, 2, 2, 3], lines, strict=True)] == [
        True
    ] * 4
    assert ["(not shown)" in line for line in lines] == [False, False, True, True]
    assert sum("[x]" in line for line in lines) == info["clicks"]
    assert f"day {info['day']:.0f}" in text


def test_the_picture_marks_what_was_bought() -> None:
    bought = as_picture(SCENE)
    nothing = as_picture(Scene(SCENE.description, 412, 3, SCENE.cards[1:2] * 3, None))
    assert bought.dtype == np.uint8
    assert coloured(bought, GREEN) > 300
    assert coloured(nothing, GREEN) == 0


@pytest.mark.parametrize("size", [1, 3, 5, 10, 12])
def test_every_frame_of_an_environment_has_one_shape(size: int) -> None:
    cards = (SCENE.cards * 4)[:size]
    frames = [
        as_picture(Scene(SCENE.description, 412, size)),
        as_picture(Scene({}, 0, size, cards, SCENE.ending)),
        as_picture(Scene(SCENE.description, 412, size, cards, SCENE.ending)),
    ]
    assert len({frame.shape for frame in frames}) == 1
    assert frames[0].shape[2] == 3
    assert not np.array_equal(frames[0], frames[2])


def test_long_texts_stay_inside_the_frame() -> None:
    words = " ".join(["reallylong"] * 200)
    card = Card(words * 2, words, words, 3, 1e9, shown=True, bought=True)
    scene = Scene(
        {"date": words, "store": words, "shopper": words, "history": [words] * 99},
        1,
        10,
        (card,) * 10,
        SCENE.ending,
    )
    short = as_picture(
        Scene(SCENE.description, 1, 10, SCENE.cards * 3 + SCENE.cards[:1], SCENE.ending)
    )
    frame = as_picture(scene)
    assert frame.shape == short.shape
    assert (frame[:, :20][100:] == short[:, :20][100:]).all()  # the margins are empty
    assert (frame[:, -20:][100:] == short[:, -20:][100:]).all()


@pytest.mark.parametrize("mode", RENDER_MODES)
def test_looking_changes_nothing(mode: str) -> None:
    watched, alone = SlateEnv(toy_simulator(), render_mode=mode), SlateEnv(toy_simulator())
    watched.reset(seed=1)
    alone.reset(seed=1)
    for _ in range(3):
        first, second = watched.render(), watched.render()
        assert data_equivalence(first, second, exact=True)
        action = np.array([1, 2, 4, 5])
        assert data_equivalence(watched.step(action), alone.step(action), exact=True)


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
def test_a_vector_gives_the_frames_of_its_rows(mode: AutoresetMode) -> None:
    vector = SlateVectorEnv(
        toy_simulator(lapse=0.0, horizon_days=1), 2, autoreset_mode=mode, render_mode="ansi"
    )
    with pytest.raises(ResetNeeded):
        vector.render()
    single = SlateEnv(toy_simulator(lapse=0.0, horizon_days=1), render_mode="ansi")
    actions = np.array([[1, 2, 4, 5]] * 2)

    def second_row() -> str:
        frames = vector.render()
        assert frames is not None
        assert len(frames) == 2
        return str(frames[1]).replace("toy shopper 1", "toy shopper 0")

    vector.reset(seed=5)
    single.reset(seed=6)
    assert second_row() == single.render()
    vector.step(actions)
    single.step(actions[1])
    if mode is AutoresetMode.SAME_STEP:  # the next shopper is already there
        single.reset()
    assert second_row() == single.render()
    if mode is AutoresetMode.NEXT_STEP:
        vector.step(actions)
        single.reset()
    assert second_row() == single.render()


@pytest.mark.parametrize("make", [SlateEnv, SlateVectorEnv])
def test_without_a_render_mode_render_warns_and_shows_nothing(make: Any) -> None:
    env = make(toy_simulator())
    env.reset(seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert env.render() is None
    assert "render_mode is None, so render() shows nothing" in str(caught[0].message)


def test_without_pillow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pillow(name: str, *rest: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    assert isinstance(draw(SCENE, "ansi"), str)
    with pytest.raises(ImportError, match=r"needs Pillow: pip install 'recsim-env\[render\]'"):
        draw(SCENE, "rgb_array")


def test_gymnasium_can_record_frames() -> None:
    env = gymnasium.wrappers.RenderCollection(SlateEnv(toy_simulator(), render_mode="rgb_array"))
    env.reset(seed=0)
    env.step(np.array([1, 2, 4, 5]))
    frames = env.render()
    assert isinstance(frames, list)
    assert len({np.asarray(frame).shape for frame in frames}) == 1


def test_what_moved_a_response_stands_under_it_and_in_its_card() -> None:
    why = (
        Why("on the front page", "x1.4", raised=True),
        Why("at position 2", "x0.6", raised=False),
    )
    cards = (dataclasses.replace(SCENE.cards[0], reasons=why), *SCENE.cards[1:])
    explained = dataclasses.replace(SCENE, cards=cards, explained=True)
    lines = as_text(explained).splitlines()
    assert lines[4:6] == ["        on the front page: x1.4", "        at position 2: x0.6"]
    assert len(lines) == len(as_text(SCENE).splitlines()) + 2
    plain, room = as_picture(SCENE), as_picture(dataclasses.replace(SCENE, explained=True))
    picture = as_picture(explained)
    assert picture.shape == room.shape
    assert picture.shape[0] > plain.shape[0]
    assert coloured(picture, GREEN) > coloured(room, GREEN)


def test_explaining_frames_changes_no_episode() -> None:
    def play(**options: Any) -> tuple[str, list[float]]:
        env = SlateEnv("recsim_env/Market-v0", device="cpu", render_mode="ansi", **options)
        env.reset(seed=0)
        rewards = [env.step(np.arange(10) * 7)[1] for _ in range(3)]
        return str(env.render()), rewards

    told, rewards = play(render_explained=True)
    plain, expected = play()
    assert rewards == expected
    assert "shown lately: x0." in told
    assert [line for line in told.splitlines() if ": x" not in line] == plain.splitlines()
    with pytest.raises(ValueError, match="render_explained is True, but render_mode is None"):
        SlateEnv("recsim_env/Market-v0", device="cpu", render_explained=True)
