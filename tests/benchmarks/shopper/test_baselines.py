"""Baselines: columns by hand, calibration that solves its equations, and hazards of gaps."""

import math

import numpy as np
import pytest
import torch

from benchmarks.lab.logs import Log, rows_of
from benchmarks.shopper import baselines, gap_baselines
from recsim_env.logs.schema import SPLITS
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.memory import COUNT
from tests.support.fake_log import FACTS, placement_of, write_shop

BINS = len(gap_baselines.REPORTED_BINS)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    folder = tmp_path_factory.mktemp("log")
    write_shop(folder)
    return Log.load(folder).examples(cold_hidden=False)


# ---- responses -----------------------------------------------------------------------------------


def test_placements_are_split_by_the_codes_of_the_log(examples: Examples) -> None:
    """Four display and three mailer codes, where the Complete Journey has ten and eleven."""
    rows = rows_of(examples, "test", ("policy",))
    columns = baselines.features(examples, rows, FACTS.placements)
    code = placement_of(examples.row_item[rows]).numpy()
    assert (columns["display"] == code // 3).all()
    assert (columns["mailer"] == code % 3).all()
    one_hot = np.stack([columns[f"placement_{i}"] for i in range(4 + 3)], axis=1)
    assert f"placement_{4 + 3}" not in columns
    assert (one_hot.argmax(axis=1) == code // 3).all()
    assert (one_hot[:, 4:].argmax(axis=1) == code % 3).all()
    assert (one_hot.sum(axis=1) == 2).all()


def test_counters_are_those_of_the_baskets_before(examples: Examples) -> None:
    rows = rows_of(examples, "valid", ("policy",))[:50]
    columns = baselines.features(examples, rows, FACTS.placements)
    visits = examples.visits
    for at, row in enumerate(rows.tolist()):
        visit, item = int(examples.row_visit[row]), int(examples.row_item[row])
        first = visit - int(visits.rank[visit])
        earlier = visits.items[visits.starts[first] : visits.starts[visit]]
        count = int((earlier == item).sum())
        assert columns["item_count"][at] == count
        assert columns["item_never"][at] == float(count == 0)
        assert columns["weekday"][at] == int(visits.day[visit]) % 7


def test_a_baseline_sees_its_own_columns_and_ranks_by_them(examples: Examples) -> None:
    train, test = (rows_of(examples, split, ("case_control",)) for split in ("train", "test"))
    tables = [baselines.features(examples, rows, FACTS.placements) for rows in (train, test)]
    known = baselines.baselines(list(tables[0]))
    assert known["popularity"].columns == ("popularity", "discount")
    assert all(set(one.columns) <= tables[0].keys() for one in known.values())
    assert not set(known["gbdt"].columns) & {"placement_0", "log_item_count", "label"}
    label = examples.row_label[train].numpy()
    (logit,) = baselines.fit_predict(known["frequency"], tables[0], label, tables[1:])
    assert logit.shape == (len(test),)
    often = examples.row_stats[test, 0, COUNT].numpy() >= 5
    assert logit[often].mean() > logit[~often].mean() + 1


def test_platt_finds_the_scale_and_shift_that_made_the_labels() -> None:
    random = torch.Generator().manual_seed(0)
    logit = torch.randn(20_000, generator=random)
    label = torch.bernoulli(torch.sigmoid(0.5 * logit - 2), generator=random)
    assert baselines.platt(logit, label, torch.ones(20_000)) == pytest.approx((0.5, -2.0), abs=0.06)


def test_platt_solves_its_equations_where_responses_are_rare_and_weights_are_large() -> None:
    """As in full exposure: a search that looks at the change of so flat a loss stops too soon."""
    random = torch.Generator().manual_seed(0)
    logit = 2 * torch.randn(20_000, generator=random) - 5
    label = torch.bernoulli(torch.sigmoid(logit), generator=random)
    weight = torch.where(label > 0, 1.0, 40.0)
    scale, shift = baselines.platt(logit, label, weight)
    gap = weight.double() * (torch.sigmoid(logit.double() * scale + shift) - label)
    assert float(gap.sum()) == pytest.approx(0, abs=1e-6 * float(weight.sum()))
    assert float((gap * logit).sum()) == pytest.approx(0, abs=1e-6 * float(weight.sum()))


def test_platt_needs_both_kinds_of_label() -> None:
    with pytest.raises(ValueError, match="label must hold both responses and non-responses"):
        baselines.platt(torch.zeros(3), torch.zeros(3), torch.ones(3))


# ---- gaps ----------------------------------------------------------------------------------------


def test_a_gaps_loss_is_that_of_its_bin_and_a_censored_one_that_of_all_later_bins() -> None:
    chance = torch.full((3, len(gap_baselines.REPORTED_BINS)), 0.02)
    chance[:, 3], chance[:, 9], chance[:, -1] = 0.3, 0.2, 0.28
    gap = torch.tensor([3, 12, -1])  # days 10 to 13 are one bin, the tenth
    follow_up = torch.tensor([30, 30, 9])  # watched through day 9: the bins from day 10 on are left
    by_hand = [-math.log(0.3), -math.log(0.2), -math.log(0.2 + 0.02 + 0.02 + 0.28)]
    assert gap_baselines.REPORTED_BINS[9] == 10
    assert gap_baselines.gap_log_loss(chance, gap, follow_up).tolist() == pytest.approx(
        by_hand, rel=1e-5
    )


def test_hazards_of_everybody_are_those_of_kaplan_and_meier(examples: Examples) -> None:
    train = (examples.split == SPLITS.index("train")).nonzero().flatten()
    found = gap_baselines.marginal_gap(examples, train)
    ends = [*gap_baselines.REPORTED_BINS[1:], math.inf]
    left, by_hand = 1.0, []
    for at, end in enumerate(ends):
        returned = watched = 0
        for visit in train.tolist():
            gap, follow_up = int(examples.visits.gap[visit]), int(examples.visits.follow_up[visit])
            first = gap_baselines.REPORTED_BINS[at]
            # Watched through the bin: came back in it or later, or was followed to its end.
            seen = gap >= first if gap >= 0 else follow_up + 1 >= end
            watched += seen
            returned += 0 <= gap < end and seen
        hazard = returned / watched if watched and end < math.inf else float(end == math.inf)
        by_hand.append(left * hazard)
        left *= 1 - hazard
    assert found.tolist() == pytest.approx(by_hand, abs=1e-6)
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
    assert by_hand[0] == by_hand[1] == 0  # nobody of this log is back before two days
    assert by_hand[2] > 0.05


def test_a_household_is_between_its_own_hazards_and_those_of_all(examples: Examples) -> None:
    train, test = (
        (examples.split == SPLITS.index(name)).nonzero().flatten() for name in ("train", "test")
    )
    everybody = gap_baselines.marginal_gap(examples, train)
    drawn = gap_baselines.household_gap(examples, train, test, strength=1e9)
    torch.testing.assert_close(drawn, everybody.expand(len(test), -1), rtol=0, atol=1e-4)
    own = gap_baselines.household_gap(examples, train, test, strength=0.0)
    shopper = examples.visits.shopper
    only = train[shopper[train] == shopper[test[0]]]
    alone = gap_baselines.marginal_gap(examples, only)
    torch.testing.assert_close(own[0], alone, rtol=0, atol=1e-5)


def test_boosted_hazards_are_chances_that_learn_the_gaps_of_the_log(examples: Examples) -> None:
    train, test = (
        (examples.split == SPLITS.index(name)).nonzero().flatten() for name in ("train", "test")
    )
    found = gap_baselines.gbdt_gap(examples, train, test)
    assert found.shape == (len(test), BINS)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(test)))
    assert float(found[:, 2:9].sum(dim=1).min()) > 0.99  # two to nine days apart
    assert float(found[:, 2:9].mean(dim=0).min()) > 0.05


def test_hazards_of_the_shopper_become_chances_of_the_reported_bins() -> None:
    """Of even hazards, a bin's chance is the sum over the hazard bins that it is made of."""
    hazard, edges = 0.2, (0, 1, 2, 5, 11, 12, 35, 50)
    logits = torch.full((1, len(edges)), math.log(hazard / (1 - hazard)))
    found = gap_baselines.gap_chances(logits, edges)[0]
    by_hand = [0.0] * BINS
    for at, edge in enumerate(edges):
        place = sum(first <= edge for first in gap_baselines.REPORTED_BINS) - 1
        by_hand[place] += (1 - hazard) ** at * hazard
    by_hand[-1] += (1 - hazard) ** len(edges)  # who lapses
    assert found.tolist() == pytest.approx(by_hand, abs=1e-6)
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
