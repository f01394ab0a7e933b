"""Days until the next visit: the likelihood is a distribution, and sampling follows it."""

from __future__ import annotations

import pytest
import torch

from recsim_env.shoppers.gaps import (
    GapBins,
    all_back,
    back_by,
    bins_of,
    gap_log_likelihood,
    return_log_likelihood,
    sample_gap,
)
from recsim_env.types import MAX_DAYS

BINS = GapBins()
SHORT = GapBins((0, 1, 3, 7), 9)
"""Four bins, of one, two, four and three days."""


@pytest.mark.parametrize("bins", [BINS, SHORT])
def test_gap_probabilities_sum_to_one_with_those_who_lapse(bins: GapBins) -> None:
    logits = torch.randn(1, len(bins), generator=torch.Generator().manual_seed(2))
    firsts = torch.tensor(bins.edges, dtype=torch.float32)
    watched = torch.full_like(firsts, 400.0)
    some = gap_log_likelihood(bins, logits.expand(len(firsts), -1), firsts, watched).exp().sum()
    beyond = torch.tensor([bins.lapse_days + 1.0])
    lapsed = gap_log_likelihood(bins, logits, beyond, torch.tensor([400.0])).exp()
    torch.testing.assert_close(some + lapsed.squeeze(), torch.tensor(1.0))


def test_a_censored_visit_survives_only_the_bins_that_were_watched_to_their_end() -> None:
    logits = torch.zeros(1, len(BINS))  # every hazard is one half

    def watched(days: float) -> float:
        found = gap_log_likelihood(BINS, logits, torch.tensor([-1.0]), torch.tensor([days]))
        return found.exp().item()

    assert watched(0.0) == pytest.approx(0.5)  # day 0 is over
    assert watched(2.0) == pytest.approx(0.5**3)
    assert watched(16.0) == pytest.approx(0.5**15)  # the bin 15-17 is still open
    assert watched(17.0) == pytest.approx(0.5**16)


def test_every_day_of_a_bin_is_sampled_equally_often_and_the_rest_lapses() -> None:
    logits = torch.tensor([[-1.0, 0.5, 0.0, -2.0]])
    back, leaving = back_by([logits], pessimism=0.0)
    grid = (torch.arange(1200) + 0.5) / 1200
    draw, within = (part.flatten() for part in torch.meshgrid(grid, grid[::100], indexing="ij"))
    days, left = sample_gap(SHORT, back.expand(len(draw), -1), draw, within)
    share = torch.bincount(days[~left].long(), minlength=10) / len(days)

    hazard = torch.sigmoid(logits[0])
    alive = torch.cat([torch.ones(1), (1 - hazard).cumprod(0)])
    widths = torch.tensor([1, 2, 4, 3])
    expected = (alive[:-1] * hazard / widths).repeat_interleave(widths)
    torch.testing.assert_close(share, expected, rtol=0, atol=2e-3)
    assert left.float().mean().item() == pytest.approx(alive[-1].item(), abs=2e-3)
    assert leaving.item() == pytest.approx(alive[-1].item())
    assert days[left].unique().tolist() == [9.0]


@pytest.mark.parametrize(
    ("edges", "lapse_days", "message"),
    [
        ((), 9, "gap_edges is empty"),
        ((1, 2), 9, r"gap_edges\[0\]"),
        ((0, 3, 3), 9, r"gap_edges\[2\]"),
        ((0, 10), 9, r"gap_edges\[1\]"),
        ((0, 1.5), 9, r"gap_edges\[1\]"),
        ((0, 1), -1, "lapse_days"),
        ((0, 1), int(MAX_DAYS) + 1, "lapse_days"),
    ],
)
def test_bins_that_do_not_ascend_from_day_0_are_refused(
    edges: tuple[int, ...], lapse_days: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GapBins(edges, lapse_days)


def test_bins_are_those_of_the_log() -> None:
    assert bins_of(torch.ones(50)) == GapBins((0, 1), 1)
    assert bins_of(torch.zeros(3)) == GapBins((0, 1), 1)
    assert bins_of(torch.zeros(0)) == GapBins((0, 1), 1)
    assert bins_of(torch.tensor([0.0, 1.0, 16.0])) == GapBins((*range(15), 15), 16)
    many = torch.cat([torch.ones(999), torch.tensor([900.0])])
    assert bins_of(many) == GapBins((0, 1), 1)  # one in a thousand counts as the last day
    wide = bins_of(torch.tensor([100.0]))
    assert (wide.edges[-3:], wide.lapse_days) == ((56, 70, 87), 100)


def test_who_was_not_seen_again_left_or_stays_away_longer() -> None:
    """Returns after 0, 1-2 or 3-4 days with chances .5, .3 and .2; one in four leaves."""
    bins = GapBins((0, 1, 3), 4)
    hazards = all_back(torch.tensor([[0.5, 0.6]]).logit()).expand(7, -1)
    gap = torch.tensor([0.0, 2.0, 4.0, 9.0, -1.0, -1.0, -1.0])
    follow_up = torch.tensor([30.0, 30.0, 30.0, 30.0, 0.0, 2.0, 30.0])
    leave = torch.tensor(0.25).logit().expand(7, 1)
    found = return_log_likelihood(bins, hazards, leave, gap, follow_up).exp().squeeze(1)
    expected = [0.75 * 0.5, 0.75 * 0.3, 0.75 * 0.2, 0.75 * 0.2]
    expected += [0.25 + 0.75 * 0.5, 0.25 + 0.75 * 0.2, 0.25]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_nobody_lapses_of_those_who_come_back() -> None:
    bins = GapBins((0, 1), 1)
    back, leaving = back_by([all_back(torch.full((4, 1), -30.0))], pessimism=0.0)
    draw = torch.tensor([0.0, 0.3, 0.9999, 1 - 1e-7])
    days, left = sample_gap(bins, back, draw, draw)
    assert days.tolist() == [1.0] * 4
    assert not left.any()
    assert float(leaving.max()) < 1e-9
