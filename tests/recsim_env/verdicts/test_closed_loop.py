"""A simulator that is the truth agrees with its own log; one that is too kind does not."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from policies.heuristics import Uniform
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.market import MarketConfig, MarketShopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy
from recsim_env.verdicts.closed_loop import (
    EVERYBODY,
    SEVERAL,
    closed_loop,
    owner_of,
    play,
    totals_of,
)
from recsim_env.verdicts.counterfactual import counterfactual
from recsim_env.verdicts.imitation import ALIKE, Imitation, class_starts, imitations
from recsim_env.verdicts.spread import spread
from tests.support.verdict_toys import toy_log, verdict_catalog

SMALL = MarketConfig(items=40, categories=4, width=8, base=-1.5, leave_base=-3.0)


def market(config: MarketConfig = SMALL) -> SlateSimulator:
    shopper = MarketShopper(torch.device("cpu"), 5, config=config)
    return SlateSimulator(shopper, {"clicks": 1.0}, horizon_days=15)


class Middle:
    """Shows a window of the catalogue that begins at a random item, the same at every visit."""

    draws = 0

    def __call__(self, observation: dict[str, torch.Tensor], draws: torch.Tensor) -> torch.Tensor:
        return torch.arange(10, 15).expand(len(draws), -1)


@cache
def logged() -> Sessions:
    """300 episodes of uniform slates, and 300 of the same five items."""
    simulator = market()
    parts = []
    policies: dict[str, Policy] = {"uniform": Uniform(40, 40, 5), "middle": Middle()}
    for at, (name, policy) in enumerate(policies.items()):
        table, _ = record(
            simulator, policy, torch.arange(300) + 1000 * at, policy_name=name, split="train"
        )
        parts.append(
            table.with_columns(pl.col("shopper") + 1000 * at, pl.col("visit") + 100_000 * at)
        )
    return Sessions.of(pl.concat(parts))


def halves() -> tuple[Sessions, Sessions]:
    log = logged()
    even = torch.arange(len(log)) % 2 == 0
    return log.take(even), log.take(~even)


def test_the_truth_agrees_with_its_own_log() -> None:
    learned, held = halves()
    found = closed_loop(market(), learned, held, market().catalog, users=400)
    assert [one.policy for one in found] == [EVERYBODY, "middle", "uniform"]
    for one in found:
        assert one.users[0] >= 400
        for what in ("clicks", "visits"):
            assert one.ratio[what].low < 1 < one.ratio[what].high, (one.policy, what)
            assert 0.8 < one.ratio[what].value < 1.25
    assert found[0].observed["visits"] == pytest.approx(float(held.length.double().mean()))


def test_a_simulator_that_is_too_kind_is_seen() -> None:
    learned, held = halves()
    kind = market(replace(SMALL, base=-0.5))
    everybody = closed_loop(kind, learned, held, kind.catalog, users=400)[0]
    assert everybody.ratio["clicks"].low > 1.2


def test_windows_cut_simulated_episodes() -> None:
    policy = Uniform(40, 40, 5)
    whole = play(market(), policy, users=200)
    cut = play(market(), policy, users=200, windows=np.array([3.0]))
    assert cut.visits.tolist() == np.minimum(whole.visits, 3).tolist()
    assert cut.clicks.sum() < whole.clicks.sum()


def test_a_batch_changes_nothing() -> None:
    all_at_once, few = (play(market(), Uniform(40, 40, 5), users=50, batch=n) for n in (50, 7))
    assert all_at_once.clicks.tolist() == few.clicks.tolist()


def test_owners_and_totals_by_hand() -> None:
    sessions, _ = toy_log(50, 4, policies=("a", "b"))
    assert owner_of(sessions).tolist() == sessions.policy[:, 0].tolist()
    policy = sessions.policy.clone()
    policy[:, 1] = policy[:, 1].where(sessions.length > 1, -1) * 0
    policy[:, 0] = 1
    mixed = replace(sessions, policy=policy.where(sessions.real, -1))
    assert owner_of(mixed).tolist() == [1 if n == 1 else -1 for n in sessions.length.tolist()]
    totals = totals_of(sessions, 2.0)  # a visit a day: two visits count
    assert totals.visits.tolist() == sessions.length.clamp(max=2).tolist()
    assert totals.clicks.tolist() == sessions.clicks[:, :2].sum(dim=(1, 2)).tolist()
    assert SEVERAL not in sessions.policies


def test_an_imitation_shows_logged_slates_of_the_same_visit() -> None:
    log = logged()
    catalog = market().catalog
    uniform = log.policy == log.policies.index("uniform")
    imitated = imitations(log, catalog, [("uniform", uniform)])["uniform"]
    simulator = market()
    observation = simulator.reset(torch.arange(100))
    slates = imitated(observation, torch.rand(100, 1, generator=torch.Generator().manual_seed(0)))
    first = {tuple(row) for row in log.slates[:, 0][uniform[:, 0]].tolist()}
    assert {tuple(row) for row in slates.tolist()} <= first
    assert len({tuple(row) for row in slates.tolist()}) > 1


def test_an_imitation_follows_the_most_similar_history() -> None:
    """Shoppers who declared one thing were shown items 0 to 2, the others items 5 to 7."""
    declared = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat_interleave(ALIKE, dim=0)
    slates = torch.tensor([[0, 1, 2], [5, 6, 7]]).repeat_interleave(ALIKE, dim=0)
    history = torch.cat([torch.zeros(2 * ALIKE, 3), declared], dim=1)
    imitated = Imitation(slates, history, torch.zeros(2 * ALIKE, dtype=torch.int64))
    observation = {
        "taste": torch.zeros(2, 2, 2),
        "position_clicks": torch.zeros(2, 3),
        "declared": torch.tensor([[0.1, 0.9], [0.9, 0.1]]),
        "visits": torch.zeros(2, 1),
    }
    for draw in (0.0, 0.5, 0.999):
        assert imitated(observation, torch.full((2, 1), draw)).tolist() == [[5, 6, 7], [0, 1, 2]]


def test_empty_positions_stay_empty() -> None:
    slates = torch.tensor([[3, -1, 4]]).expand(3, -1)
    imitated = Imitation(slates, torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64))
    observation = {
        "taste": torch.zeros(1, 2, 2),
        "position_clicks": torch.zeros(1, 3),
        "visits": torch.full((1, 1), 7.0),
    }
    assert imitated(observation, torch.zeros(1, 1)).tolist() == [[3, 3, 4]]  # 3 is shown once


def test_visits_share_a_class_until_it_holds_enough() -> None:
    visit = torch.tensor([0] * 300 + [1] * 150 + [2] * 60 + [3] * 60 + [4] * 30)
    assert class_starts(visit).tolist() == [0, 1, 2]
    assert class_starts(torch.tensor([4, 5])).tolist() == [0]


def test_members_that_are_one_agree_and_others_do_not() -> None:
    policies = {"uniform": Uniform(40, 40, 5)}
    same = spread([market(), market()], policies, users=100)[0]
    assert same.members[0] == same.members[1]
    assert same.spread == 0
    other = spread([market(), market(replace(SMALL, base=-0.5))], policies, users=100)[0]
    assert other.spread > 0.1
    assert other.spread == pytest.approx(np.std(other.members, ddof=1) / np.mean(other.members))


def test_a_hidden_policy_is_predicted_without_having_been_seen() -> None:
    sessions, _ = toy_log(1200, 3, policies=("blind", "clever"))
    learned, held = sessions.take(torch.arange(800)), sessions.take(torch.arange(800, 1200))
    seen: list[Sessions] = []

    def fit(others: Sessions):  # type: ignore[no-untyped-def]
        seen.append(others)
        mean = float(others.clicks.sum() / (others.slates >= 0).sum())
        return lambda asked: torch.full(asked.slates[asked.real].shape, mean)

    found, why = counterfactual(fit, learned, held, verdict_catalog())
    assert why is None
    assert sorted(one.policy for one in found) == ["blind", "clever"]
    for one, others in zip(found, seen, strict=True):
        hidden = sessions.policies.index(one.policy)
        assert not (others.policy == hidden).any()
        assert one.auc == 0.5
        assert one.episodes == (len(others), int((owner_of(held) == hidden).sum()))
    by_name = {one.policy: one.ratio for one in found}
    assert by_name["clever"].high < 0.8  # blind clicks are fewer than clever ones
    assert by_name["blind"].low > 1.25


def test_a_counterfactual_that_cannot_be_made_says_why() -> None:
    def fit(others: Sessions):  # type: ignore[no-untyped-def]
        raise AssertionError("nothing may be fitted")

    one, _ = toy_log(300, 2)
    found, why = counterfactual(fit, one, one, verdict_catalog())
    assert (found, why) == ([], "the log has a single policy, so none can be hidden")
    small, _ = toy_log(100, 2, policies=("a", "b"))
    found, why = counterfactual(fit, small, small, verdict_catalog())
    assert found == []
    assert "200 episodes without it" in str(why)
