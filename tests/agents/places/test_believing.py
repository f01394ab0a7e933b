"""A place with a belief: simulators, policies and agents have it, and a place without has not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents.evaluate import evaluate
from agents.folder import BELIEF, Agent, load_agent, save_agent
from agents.places import Site, open_place, seeds
from agents.ppo.algorithm import make_ppo
from agents.ppo.checkpoints import save
from agents.ppo.config import PPOConfig
from agents.ppo.vec_env import IntentVecEnv, TrainingReward
from benchmarks.agents import tune
from benchmarks.lab.tuning import parameters_for
from benchmarks.lab.where import Elsewhere, Where
from policies import POLICIES
from policies.composer import Composer, ComposerConfig
from policies.learnable.intents import ComposerPolicy
from policies.learnable.sb3 import NetworkConfig
from policies.rankers.belief import BeliefRanker
from policies.rankers.two_tower import TwoTowerRanker
from policies.serving.recommender import Recommender
from recsim_env.belief.base import PREFIX
from recsim_env.belief.registry import save_belief
from recsim_env.belief.session import SessionBelief
from recsim_env.registration import PRESETS, EnvConfig, add_preset
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import MarketConfig
from recsim_env.shoppers.session import fit
from recsim_env.shoppers.session.fit import SessionFitConfig
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import save_session
from recsim_env.shoppers.session.starts import Logged
from recsim_env.shoppers.weights import load_model
from recsim_env.types import Observation
from tests.agents.places.test_every_place import agent_of, played, steps
from tests.recsim_env.belief.test_simulator import belief_of, believed
from tests.recsim_env.shoppers.session.test_model import GROUPS, ITEMS, SIZE, WIDTH
from tests.support.outside_toys import register_songs

ID, SONGS = "tests/BelievedMarket-v0", "tests/BelievedSongs-v0"
QUICK: dict[str, Any] = {
    "epochs": 2.0,
    "least_steps": 60,
    "hidden_size": 16,
    "head_size": 16,
    "temperaments": 8,
}
"""A fit of seconds."""
CONFIG = MarketConfig(items=ITEMS, categories=GROUPS, width=WIDTH, favourites=2, base=-1.0)


def register() -> None:
    gymnasium.registry.pop(ID, None)
    add_preset(
        ID,
        EnvConfig(
            make_market,
            {"clicks": 1.0},
            slate_size=SIZE,
            horizon_days=6,
            shopper_options={"config": CONFIG},
        ),
    )


@pytest.fixture(autouse=True)
def market() -> Iterator[None]:
    register()
    yield
    for id in (ID, SONGS):
        PRESETS.pop(id, None)
        gymnasium.registry.pop(id, None)


def opened(folder: Path, **options: Any) -> Site:
    told: dict[str, Any] = {"slates": 200, "mixture": "uniform", **options}
    return open_place(ID, cache=folder, device="cpu", progress=False, **told)


def test_every_simulator_of_the_place_believes_and_policies_rank_by_it(tmp_path: Path) -> None:
    plain = opened(tmp_path)
    belief = belief_of(plain.simulator().shopper)  # type: ignore[arg-type]
    site = opened(tmp_path, belief=belief)
    assert isinstance(plain.inputs.ranker, TwoTowerRanker)
    assert isinstance(site.inputs.ranker, BeliefRanker)
    for simulator in (site.simulator(), site.training(), site.judging()):
        assert simulator.belief is belief
        assert simulator.observation_space == site.inputs.observation_space
    assert plain.simulator().belief is None
    assert not believed(plain.simulator().reset(seeds(0, 2)))

    # Greedy shows the items that are believed to be clicked.
    greedy = POLICIES["greedy_ctr"].build(site.inputs)
    simulator = site.simulator()
    seen = simulator.reset(seeds(0, 8))
    expected = seen["belief_logits"].topk(SIZE, dim=1).indices
    assert torch.equal(greedy(seen, torch.zeros(8, greedy.draws)), expected)

    # The same policy earns the same, whether the shop believes anything or not.
    uniform = [POLICIES["uniform"].build(one.inputs) for one in (plain, site)]
    rows = [
        evaluate(policy, one.simulator(), 32, batch=batch).rows
        for policy, one, batch in zip(uniform, (plain, site), (32, 5), strict=True)
    ]
    assert rows[0].equals(rows[1])


def fitted_shop(folder: Path) -> Path:
    """A folder of fitted shoppers of the market; nobody fitted them."""
    shopper = make_market(torch.device("cpu"), SIZE, config=CONFIG)
    member = belief_of(shopper).model
    save_session(
        folder / "shop", shopper.catalog, [member], Logged.newcomers(torch.zeros(1, WIDTH))
    )
    (folder / "shop" / "shop.json").write_text(
        f'{{"kind": "session", "slate_size": {SIZE}, "horizon_days": 6}}'
    )
    return folder / "shop"


def test_a_folder_of_fitted_shoppers_is_named_as_the_belief(tmp_path: Path) -> None:
    site = opened(tmp_path, belief=fitted_shop(tmp_path))
    assert isinstance(site.belief, SessionBelief)
    assert believed(site.simulator().reset(seeds(0, 2)))


def test_an_agent_learns_with_the_belief_and_is_saved_with_it(tmp_path: Path) -> None:
    plain = opened(tmp_path)
    site = plain.believing(belief_of(plain.simulator().shopper))  # type: ignore[arg-type]
    assert "weary" in Composer(site.inputs, ComposerConfig(pool=12)).knobs
    agent = trained(site, tmp_path)
    seen = site.simulator().reset(seeds(5, 4))
    slates = agent.recommend(seen)
    assert slates.shape == (4, SIZE)
    bare = {name: value for name, value in seen.items() if name != "belief_logits"}
    with pytest.raises(ValueError, match=r"belief_logits.*agent\.belief\.start"):
        agent.recommend(bare)


def trained(site: Site, folder: Path) -> Agent:
    """An agent after two updates, from its folder, which nothing else is needed for."""
    model = make_ppo(
        "composer",
        IntentVecEnv(
            site.training(),
            Composer(site.inputs, ComposerConfig(pool=12)),
            8,
            0,
            replace(TrainingReward(), survival=True),
        ),
        PPOConfig(learning_rate=0.1, n_steps=4, batch_size=32, n_epochs=2),
        NetworkConfig((8,), (8,)),
        seed=0,
    )
    model.learn(64)
    save(model, folder / "checkpoint.safetensors")
    save_agent(folder / "agent", folder / "checkpoint.safetensors", site)
    (folder / "agent").rename(folder / "sent")
    return load_agent(folder / "sent", "cpu")


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Agent, Path]:
    """A place with a belief, an agent that was trained there, and its folder."""
    folder = tmp_path_factory.mktemp("believing")
    register()
    plain = opened(folder)
    site = plain.believing(belief_of(plain.simulator().shopper))  # type: ignore[arg-type]
    agent = trained(site, folder)
    shutil.rmtree(next(path for path in folder.iterdir() if path.name.startswith("believedm")))
    return site, agent, folder / "sent"


def without_belief(seen: Observation) -> Observation:
    return {name: value for name, value in seen.items() if not name.startswith(PREFIX)}


def test_a_shop_keeps_the_belief_that_the_simulator_keeps(sent: tuple[Site, Agent, Path]) -> None:
    site, agent, _ = sent
    keeper = agent.belief
    assert keeper is not None
    simulator = site.simulator()
    seen = simulator.reset(seeds(5, 6), staying=True)
    everybody = keeper.start(without_belief(seen))
    users = [
        keeper.start({name: value[row].numpy() for name, value in without_belief(seen).items()})
        for row in range(6)
    ]
    for _ in range(4):
        known = without_belief(seen)
        slates = agent.recommend(known, everybody)
        assert torch.equal(torch.as_tensor(slates), torch.as_tensor(agent.recommend(seen)))
        for row, user in enumerate(users):  # one by one, as arrays
            one = {name: value[row].numpy() for name, value in known.items()}
            alone = agent.recommend(one, user)
            assert isinstance(alone, np.ndarray)
            assert alone.tolist() == slates[row].tolist()
        step = simulator.step(torch.as_tensor(slates))
        seen, answer = step.observation, step.response
        keeper.update(everybody, slates, answer.clicks, answer.days)
        for row, user in enumerate(users):
            clicks, days = answer.clicks[row].numpy(), float(answer.days[row])
            keeper.update(user, slates[row].numpy(), clicks, days)
    assert int(torch.as_tensor(step.response.clicks).sum()) > 0
    believed_now = keeper.observed(without_belief(seen), everybody)
    for name, value in believed(seen).items():
        torch.testing.assert_close(believed_now[name], value, rtol=0, atol=1e-5, msg=name)

    # What is saved for each user comes back, alone and as a batch.
    saved = [keeper.save(user) for user in users]
    again = keeper.load(saved)
    expected = agent.recommend(without_belief(seen), everybody)
    assert torch.equal(
        torch.as_tensor(agent.recommend(without_belief(seen), again)), torch.as_tensor(expected)
    )
    fourth = {name: value[3:4] for name, value in without_belief(seen).items()}
    alone = agent.recommend(fourth, keeper.load(keeper.save(everybody, 3)))
    assert torch.as_tensor(alone).tolist() == [torch.as_tensor(expected)[3].tolist()]


def test_a_recommender_takes_the_state_too(sent: tuple[Site, Agent, Path]) -> None:
    site, agent, _ = sent
    seen = site.simulator().reset(seeds(5, 3))
    keeper, policy = agent.belief, agent.policy
    assert keeper is not None
    assert isinstance(policy, ComposerPolicy)
    made = Recommender(agent.inputs, policy, None, belief=keeper.belief)
    state = keeper.start(without_belief(seen))
    assert torch.equal(made.recommend(without_belief(seen), state), made.recommend(seen))
    with pytest.raises(ValueError, match="belief is about 3 shoppers, but observation is of 2"):
        made.recommend({name: value[:2] for name, value in without_belief(seen).items()}, state)
    with pytest.raises(ValueError, match="recommender was made without one"):
        Recommender(agent.inputs, policy, None).recommend(without_belief(seen), state)


VISIT: dict[str, Any] = {"slate": [0, 1, 2], "clicks": [0, 1, 0], "days": 1.0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"slate": [0, 1]}, ValueError, r"slate has the shape \(2,\), but it must be \(3,\)"),
        ({"slate": [0, 1, ITEMS]}, ValueError, f"slate holds {ITEMS}, but it must be from -1 to"),
        ({"slate": [[0, 1, 2]] * 2}, ValueError, "slate is of 2 visits, but belief is about 1"),
        ({"slate": [0.5, 1, 2]}, TypeError, "slate is .* must hold numbers of torch.int64"),
        ({"clicks": [0, 2, 0]}, ValueError, "clicks holds 2, but it must be from 0 to 1"),
        ({"slate": [0, -1, 2]}, ValueError, r"clicks holds 1 at \[0, 1\], but nothing was shown"),
        ({"days": -1}, ValueError, "days holds -1.0, but it must be from 0 to"),
        ({"days": float("nan")}, ValueError, "days holds nan"),
        ({"days": [1.0, 2.0]}, ValueError, "days is of 2 visits, but belief is about 1"),
        ({"purchases": [1, 0, 0]}, ValueError, "purchases holds 1 .* but there was no click"),
    ],
)
def test_what_is_wrong_with_a_visit_is_said_and_changes_nothing(
    sent: tuple[Site, Agent, Path], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    site, agent, _ = sent
    assert agent.belief is not None
    state = agent.belief.start(without_belief(site.simulator().reset(seeds(5, 1))))
    before = agent.belief.save(state)
    with pytest.raises(error, match=message) as caught:
        agent.belief.update(state, **{**VISIT, **change})
    assert len(str(caught.value).splitlines()) == 1
    after = agent.belief.save(state)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_folder_without_its_belief_or_with_another_one_is_refused(
    sent: tuple[Site, Agent, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sent[2], copy)
    weights = copy / BELIEF / "model0" / "model.safetensors"
    weights.rename(tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="model0"):
        load_agent(copy)
    shutil.rmtree(copy / BELIEF)
    with pytest.raises(FileNotFoundError, match="says that the agent reads a belief: copy the"):
        load_agent(copy)
    other = make_market(torch.device("cpu"), SIZE, config=CONFIG, world=1)
    save_belief(belief_of(other), copy / BELIEF)
    with pytest.raises(ValueError, match="does not belong to this agent: belief is about a catalo"):
        load_agent(copy)


def test_an_agent_without_a_belief_takes_none(tmp_path: Path) -> None:
    site = opened(tmp_path)
    agent = trained(site, tmp_path)
    assert agent.belief is None
    with pytest.raises(ValueError, match="belief is given, but this agent was trained without"):
        agent.recommend(site.simulator().reset(seeds(5, 2)), {})


def test_a_belief_that_no_folder_holds_is_said_before_an_agent_is_replaced(
    sent: tuple[Site, Agent, Path], tmp_path: Path
) -> None:
    belief = belief_of(sent[0].simulator().shopper)  # type: ignore[arg-type]
    belief.kind = "foreign"
    with pytest.raises(ValueError, match="of the kind 'foreign', but what is kept in a folder is"):
        save_belief(belief, tmp_path / "belief")
    assert not (tmp_path / "belief").exists()


# ---- the belief of the place itself ----


def test_the_own_belief_of_a_folder_is_the_model_of_its_shoppers(tmp_path: Path) -> None:
    shop = fitted_shop(tmp_path)
    site = open_place(
        str(shop),
        belief="own",
        slates=200,
        mixture="uniform",
        cache=tmp_path,
        device="cpu",
        progress=False,
    )
    assert isinstance(site.belief, SessionBelief)
    kept = load_model(SessionShopper, shop / "model0")
    found = site.belief.model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in kept.state_dict().items())
    assert not list(tmp_path.glob("*/belief-*"))


def test_the_own_belief_of_another_place_is_fitted_once_to_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "SessionFitConfig", partial(SessionFitConfig, **QUICK))
    site = opened(tmp_path, belief="own", slates=600)
    assert isinstance(site.belief, SessionBelief)
    assert site.belief.model.config.declared == WIDTH
    (kept,) = tmp_path.glob("*/belief-*")
    assert {path.name for path in kept.iterdir()} == {"shop.json", "model0"}
    monkeypatch.setattr(fit, "fit_session", None)  # is not called again
    again = opened(tmp_path, belief="own", slates=600)
    seen = [one.simulator().reset(seeds(0, 3))["belief_logits"] for one in (site, again)]
    assert torch.equal(*seen)
    assert seen[0].std(dim=1).min() > 0.01
    assert opened(tmp_path, slates=600).belief is None


def test_commands_work_in_somebody_elses_environment_with_its_own_belief(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Songs: a user likes one kind of four, which clicks tell."""
    monkeypatch.setattr(fit, "SessionFitConfig", partial(SessionFitConfig, **QUICK))
    monkeypatch.chdir(tmp_path)
    register_songs(SONGS)
    where = Where(SONGS, belief="own", log_slates=600, cache=tmp_path / "places", device="cpu")
    steps(where, tmp_path)
    told = capsys.readouterr().out
    assert f"Next:  python -m benchmarks.agents.compare --env {SONGS} --belief own" in told
    assert {"greedy_ctr", "composer", "constant"} <= played(tmp_path)
    assert len(list((tmp_path / "places").glob("*/belief-*"))) == 1
    agent = load_agent(agent_of(tmp_path), "cpu")
    assert agent.belief is not None
    seen = where.open().simulator().reset(seeds(0, 3))
    user = agent.belief.start(without_belief(seen))
    assert torch.equal(
        torch.as_tensor(agent.recommend(without_belief(seen), user)),
        torch.as_tensor(agent.recommend(seen)),
    )

    # Its parameters are those of the place with the belief.
    tune.main(tune.Config(place=where, policies=("constant",), trials=2, episodes=3, batch=4))
    (file,) = (tmp_path / "runs" / "tune").glob("*/parameters.json")
    assert json.loads(file.read_text())["place"]["belief"] == "own"
    assert {"weary"} <= json.loads(file.read_text())["constant"].keys()
    assert parameters_for(where, None, tmp_path / "runs" / "tune")
    assert not parameters_for(Where(SONGS), None, tmp_path / "runs" / "tune")


def test_a_place_has_a_ranker_or_a_belief(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a belief ranks itself: give one of them"):
        Where(env=ID, belief="own", ranker=tmp_path / "ranker.safetensors")
    with pytest.raises(ValueError, match="it belongs to an environment, and env names none"):
        Elsewhere(belief="own")
    place = Elsewhere(env=ID, belief="own").where("cpu", 1)
    assert place is not None
    assert place.belief == "own"


def test_a_command_says_what_a_belief_cannot_be_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Where(env=ID, belief=str(tmp_path / "nowhere")).check()
    shop = fitted_shop(tmp_path)
    Where(env=ID, belief=str(shop)).check()
    with pytest.raises(ValueError, match="that are not those of the shoppers"):
        Where(env=ID, options="world=1", belief=str(shop)).check()
    place = Where(env=ID, belief=str(shop))
    assert place.arguments == f" --env {ID} --belief {shop}"
    assert place.name != Where(env=ID).name
    assert place.about["belief"] == str(shop)
