"""Accounts that are no shoppers: whose clicks change and how, and what the report says."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from benchmarks.shopper.stress import (
    ACCOUNTS,
    AGENTS,
    BOTS,
    CLEAN,
    SCORES,
    SHILLING,
    report,
    stressed,
)
from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions

CATALOG = Catalog.synthetic(12, 3, 4, torch.Generator().manual_seed(0))
PEOPLE, STEPS, POSITIONS = 200, 5, 4


def log() -> Sessions:
    """Accounts that click the first position of each slate; the last position is empty."""
    generator = torch.Generator().manual_seed(1)
    slates = torch.randint(0, 12, (PEOPLE, STEPS, POSITIONS), generator=generator)
    slates[:, :, -1] = -1
    clicks = torch.zeros(slates.shape, dtype=torch.bool)
    clicks[:, :, 0] = True
    return Sessions(
        slates=slates,
        clicks=clicks,
        length=torch.full((PEOPLE,), STEPS),
        left=torch.ones(PEOPLE, dtype=torch.bool),
        propensity=torch.full((PEOPLE, STEPS), torch.nan),
        policy=torch.full((PEOPLE, STEPS), -1),
        declared=torch.zeros(PEOPLE, 0),
        policies=(),
    )


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_as_many_accounts_shill_as_asked_and_click_one_category_alone(share: float) -> None:
    clean = log()
    pushed = stressed(clean, CATALOG, SHILLING, share, rate=0.3, category=1)
    changed = (pushed.clicks != clean.clicks).flatten(1).any(dim=1)
    assert int(changed.sum()) == round(share * PEOPLE)
    of_category = CATALOG.category[clean.slates.clamp(min=0)] == 1
    assert torch.equal(pushed.clicks[changed], (of_category & (clean.slates >= 0))[changed])
    assert torch.equal(pushed.slates, clean.slates)


def test_bots_click_anything_with_one_chance_and_nothing_that_is_not_there() -> None:
    clean = log()
    noisy = stressed(clean, CATALOG, BOTS, 0.5, rate=0.3, category=1)
    chosen = clean.held_out(0.5, seed=ACCOUNTS)
    assert torch.equal(noisy.clicks[~chosen], clean.clicks[~chosen])
    assert not noisy.clicks[:, :, -1].any()
    rates = noisy.clicks[chosen][:, :, :-1].float().mean(dim=(0, 1))
    assert rates.tolist() == pytest.approx([0.3] * 3, abs=0.07)  # 500 clicks: 3.4 sd
    again = stressed(clean, CATALOG, BOTS, 0.5, rate=0.3, category=1)
    assert torch.equal(noisy.clicks, again.clicks)


def test_those_who_tell_a_fit_when_to_stop_are_stressed_as_often_as_all_others() -> None:
    clean = log()
    pushed = stressed(clean, CATALOG, SHILLING, 0.5, rate=0.3, category=1)
    changed = (pushed.clicks != clean.clicks).flatten(1).any(dim=1)
    for seed in (0, 1):  # the seeds of `fit_session`
        held = clean.held_out(0.5, seed=seed)
        assert 0.35 < float(changed[held].float().mean()) < 0.65


def test_a_clean_log_stays_as_it_is() -> None:
    clean = log()
    assert stressed(clean, CATALOG, CLEAN, 0.0, rate=0.3, category=1) is clean


def test_returns_are_compared_shopper_by_shopper() -> None:
    rows = []
    for kind, share, lost in ((CLEAN, 0.0, 0.0), (SHILLING, 0.2, 3.0)):
        told = [{"agent": "", "episode": -1, "what": name, "value": 0.5} for name in SCORES]
        for agent in AGENTS:
            told.append({"agent": agent, "episode": -1, "what": "shilled", "value": 0.1})
            told += [
                {"agent": agent, "episode": at, "what": "return", "value": 10.0 * at - lost}
                for at in range(3)
            ]
        rows += [{"kind": kind, "share": share} | row for row in told]
    found = report(pl.DataFrame(rows))
    less = found.summary["shilling-0.2/greedy_ctr_less_clean"]
    assert (less.value, less.low, less.high) == (-3.0, -3.0, -3.0)
    assert found.table.count("\n") == 4
    assert found.summary["clean-0/greedy_ctr_return"].value == 10.0
    assert "| none | 0.5000 | 0.5000 | 0.5000 | 0.5000 |" in found.table
    assert "| 20% shilling |" in found.table
