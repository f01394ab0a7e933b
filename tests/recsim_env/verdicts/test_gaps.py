"""The model's days between visits are compared with all days between visits on equal terms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from recsim_env.fitting.judging import predicted
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.gaps import GapBins
from recsim_env.shoppers.session.fit import SessionFitConfig, new_session_shopper
from recsim_env.verdicts.assess import gap_lead
from tests.support.verdict_toys import toy_log, verdict_catalog


def pairs(gaps: list[float], watched: list[float]) -> Sessions:
    """Users of two visits, so many days apart, with days that the log goes on after the second."""
    sessions, _ = toy_log(400, 2)
    both = sessions.take(torch.nonzero(sessions.length == 2).flatten()[: len(gaps)])
    second = torch.tensor(gaps)
    return replace(
        both,
        days=torch.stack([torch.zeros_like(second), second], dim=1),
        watched=torch.tensor(watched),
        back=torch.full_like(second, -1.0),
        left=torch.tensor(watched) > 0,
    )


def test_neither_pays_for_days_that_the_log_does_not_reach() -> None:
    learned = pairs([1.0, 1.0, 2.0, 3.0], [9.0] * 4)
    held = pairs([1.0, 2.0, 1.0], [9.0, 9.0, 0.0])
    # Lengths of 0 to 3 days were met 0, 2, 1 and 1 times, and one more of each is counted. The log
    # of the last user ends on the day of the second visit, so 3 days were out of reach.
    base = [3 / 8, 2 / 8, 3 / 4]
    said = [0.5, 0.2, 0.6]
    nll = torch.tensor([[-math.log(one), torch.nan] for one in said]).flatten()
    lead, gaps, distinct = gap_lead(learned, held, nll)
    assert (gaps, distinct) == (3, 2)
    assert lead is not None
    expected = sum(math.log(all_) - math.log(own) for own, all_ in zip(said, base, strict=True)) / 3
    assert lead.value == pytest.approx(expected)


def test_the_chances_of_all_days_that_the_log_reaches_add_up_to_one() -> None:
    """Whatever the chance to leave, given that the user comes back some day must be the day."""
    reached = 6
    learned = pairs([float(gap) for gap in range(reached + 1)], [float(reached)] * (reached + 1))
    bins = GapBins(tuple(range(reached + 1)), reached)
    model = new_session_shopper(
        verdict_catalog(), learned.slates.shape[2], SessionFitConfig(), gap_bins=bins
    )
    one = learned.take(torch.zeros(reached + 1, dtype=torch.int64))
    days = torch.arange(reached + 1.0)
    alike = replace(
        one,
        days=torch.stack([torch.zeros_like(days), days], dim=1),
        watched=reached - days,
        left=reached - days > 0,
    )
    nll = predicted(model, alike, verdict_catalog()).gap_nll
    assert nll is not None
    chances = torch.exp(-nll[::2])
    assert chances.min() > 0
    assert chances.sum() == pytest.approx(1.0, abs=1e-4)
