"""What a fitted simulator can be trusted with: one sentence and one figure for each question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recsim_env.estimates import Estimate, Floats, from_samples, resamples
from recsim_env.verdicts.baselines import ITEM_USER, LEAVING
from recsim_env.verdicts.ratios import FEW, Ratio, by_user, policy_groups
from recsim_env.verdicts.rows import Rows
from recsim_env.verdicts.scores import Score, found_of

Topic = Literal["clicks", "order of policies", "levels", "leaving", "returning", "positions"]

EXPLAINED_SHARE = 0.30
"""Least `PolicyLevels.explained` of a simulator whose levels can be trusted. In the three worlds of
`benchmarks.shopper.verdict_cases`, logs that held what their policies knew gave .44 to .48, with
errors of at most 5 % in greedy CTR's return; logs that did not gave .13 to .18, with 20 to 43 %."""
LEVEL_LIMIT = 1.25
"""Largest factor by which clicks at the first slates of all policies may be over- or underrated."""
TIE = 0.002
"""Largest difference of two AUCs that count as alike: where the means of items are the truth, a
model that found it is a little above or below them."""
ALIKE_SPREAD = 0.10
"""Largest `PolicyLevels.misjudged` at which policies count as misjudged alike, whatever share of
their differences is explained."""
POSITION_LIMIT = 1.25
"""Largest factor by which clicks at a position may be over- or underrated."""
LEAVE_LIMIT = 1.25
"""The same of leaving."""
SLATE_LIMIT = 1.5
"""Largest factor by which leaving may be over- or underrated at slates of a number, ten leavings
added to both. Two models of the example shop with ten times its users, of which all else was right,
reached 1.32 and 1.47; one that says of users who all leave after two slates that 11 % leave after
the first gets 2 and more from a hundred users on."""
LEAVERS = 30
"""Users who left, or stayed, that a verdict on leaving needs at least."""
ALIKE_SHARE = 0.9
"""Share of the pairs of policies that must be ordered as they were observed."""
SAMPLES = 1_000


@dataclass(frozen=True)
class Verdict:
    """The answer to one question about a fitted simulator."""

    topic: Topic
    """What is judged."""
    holds: bool | None
    """Whether the simulator can be trusted with it; None where the log cannot tell."""
    sentence: str
    """The answer as one sentence, with its figure."""
    figure: Estimate | None = None
    """The figure that decided, with its interval."""

    @property
    def answer(self) -> str:
        """`yes`, `no` or `cannot tell`."""
        return {True: "yes", False: "no", None: "cannot tell"}[self.holds]


# ---- clicks --------------------------------------------------------------------------------------


def clicks(scores: Sequence[Score], judged: str) -> Verdict:
    """Judge whether the model ranks clicks better than item and user means do.

    Every figure is judged with its interval over users: one that chance may have made is no reason
    to refuse a model, and none to trust it.
    """
    # The figures, where there are any.
    own, base = (found_of(scores, name, "auc") for name in (judged, ITEM_USER))
    entropy = found_of(scores, judged, "ne")
    if own is None or base is None or base.lead is None or entropy is None:
        return Verdict("clicks", None, "Clicks: nothing was predicted beside item and user means.")
    lead = base.lead
    pair = f"AUC {_plain(own.value)} against {base.value.value:.3f} of item and user means"
    if not math.isfinite(lead.value) or math.isnan(lead.low):
        sentence = "Clicks: the held-out rows are too few to rank, or all alike."
        return Verdict("clicks", None, sentence, lead)

    # What is worse than means beyond chance is refused.
    if entropy.value.low >= 1:
        sentence = (
            "Clicks: the model predicts worse than the mean click rate does (normalised entropy "
            f"{_plain(entropy.value)}, {pair})."
        )
        return Verdict("clicks", False, sentence, entropy.value)
    if lead.value < -TIE and lead.high < 0:
        sentence = f"Clicks: two means rank held-out clicks better than the model ({pair})."
        return Verdict("clicks", False, sentence, lead)

    # What chance may have made is neither refused nor trusted.
    if abs(lead.value) <= TIE:
        sentence = f"Clicks: the model ranks held-out clicks as two means do ({pair})."
        return Verdict("clicks", None, sentence, lead)
    if lead.low <= 0:
        sentence = f"Clicks: no clear lead over two means on so few users ({pair})."
        return Verdict("clicks", None, sentence, lead)
    if not entropy.value.high < 1:
        sentence = (
            "Clicks: no clear lead over the mean click rate on so few users (normalised entropy "
            f"{_plain(entropy.value)}, {pair})."
        )
        return Verdict("clicks", None, sentence, entropy.value)

    # A clear lead, and who leads by more.
    others = [
        one for one in scores if one.metric == "auc" and one.lead is not None and one.lead.high < 0
    ]
    beaten = f"; {others[0].model} ranks better still" if others else ""
    sentence = f"Clicks: the model ranks held-out clicks better than two means ({pair}{beaten})."
    return Verdict("clicks", True, sentence, lead)


# ---- policies ------------------------------------------------------------------------------------


def order_of_policies(rows: Rows, model: str) -> Verdict:
    """Judge whether logged policies are ordered by predicted click rates as by observed ones.

    Only pairs count whose observed rates differ beyond chance (95 % interval over users).
    """
    topic: Topic = "order of policies"
    group, names = policy_groups(rows)
    named = _named(names)
    if len(named) < 2:
        return Verdict(topic, None, "Order of policies: the log names fewer than two policies.")

    # Click rates of each policy, and in bootstrap samples of users.
    sums = by_user(rows, model, group, len(names))[:, :, named]
    draws = resamples(sums.shape[1], SAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        sampled = (draws @ sums[1]) / (draws @ sums[2])
        predicted, observed, count = sums.sum(axis=1)
        expected, seen = predicted / count, observed / count

    # Pairs that differ, and those that the model orders alike.
    pairs = alike = 0
    for a in range(len(named)):
        for b in range(a):
            differs = from_samples(seen[a] - seen[b], sampled[:, a] - sampled[:, b], sums.shape[1])
            if differs.low > 0 or differs.high < 0:
                pairs += 1
                alike += bool((expected[a] - expected[b]) * (seen[a] - seen[b]) > 0)
    if pairs == 0:
        sentence = f"Order of policies: no two of {len(named)} policies differ beyond chance."
        return Verdict(topic, None, sentence)
    share = Estimate(alike / pairs, n=pairs)
    sentence = (
        f"Order of policies: {alike} of {pairs} pairs of logged policies that differ beyond chance "
        "are ordered by predicted click rates as they were observed."
    )
    return Verdict(topic, share.value >= ALIKE_SHARE, sentence, share)


@dataclass(frozen=True)
class PolicyLevels:
    """How much of the differences between logging policies a model explains.

    Spreads are standard deviations of logarithms over policies, which weigh by their clicks, with
    the noise of the bootstrap over users taken off.
    """

    explained: Estimate
    """Slope of log predicted click rates on log observed ones: 1 where the model explains all
    differences, 0 where it explains none."""
    observed: float
    """Spread of the observed click rates."""
    misjudged: Estimate
    """Spread of predicted over observed click rates."""


def levels(first: Rows, model: str, table: Sequence[Ratio]) -> Verdict:
    """Judge whether the click rates of slates depend on what the log does not hold.

    At a user's first slate a model knows nothing that tells one logging policy from another but the
    slate itself. Where policies differ in their click rates and the model does not explain it, they
    chose by something that the log lacks: slates that were chosen blindly are overrated, and so is
    every new policy that chooses without it.

    Args:
        first: First slates of all users of the log, those learned from among them: a first slate
            has no history that could be learned by heart.
        model: Name of the model.
        table: `ratios.by_policy` of the rows, for the sentence.
    """
    names = policy_groups(first)[1]
    named = _named(names)
    if len(named) < 2:
        sentence = (
            f"Levels: fewer than two named policies have {FEW} clicks at first slates, so nothing "
            "shows whether policies used what the log does not hold."
        )
        return Verdict("levels", None, sentence)

    # All policies together, then their differences.
    found = policy_levels(first, model)
    worst = max(
        (one for one in table if one.group in {names[at] for at in named}),
        key=_distance,
    )
    told = (
        f"the worst policy at first slates is {worst.group}, predicted over observed clicks "
        f"{_plain(worst.ratio, 2)}"
    )
    level = overall(first, model)
    if _off(level, LEVEL_LIMIT):
        sentence = (
            "Levels: not to be trusted, for predicted over observed clicks at first slates are "
            f"{_plain(level, 2)}; {told}."
        )
        return Verdict("levels", False, sentence, level)
    if found.misjudged.value <= ALIKE_SPREAD:
        sentence = (
            "Levels: policies are misjudged alike at the first slates of all users, differing by "
            f"{found.misjudged.value:.0%} beyond chance; {told}."
        )
        return Verdict("levels", True, sentence, found.misjudged)

    # Policies that differ in what they are misjudged by.
    share = (
        f"{found.explained.value:.0%} of the differences between policies at first slates is "
        f"explained by what the log holds (at least {EXPLAINED_SHARE:.0%} is needed)"
    )
    if found.explained.value < EXPLAINED_SHARE:
        sentence = (
            f"Levels: not to be trusted, for only {share}: policies knew more, or the model has "
            f"not learned what they knew; {told}."
        )
        return Verdict("levels", False, sentence, found.explained)
    return Verdict("levels", True, f"Levels: {share}; {told}.", found.explained)


def overall(rows: Rows, model: str) -> Estimate:
    """Predicted over observed clicks of all rows."""
    predicted, observed, _ = by_user(rows, model, np.zeros(len(rows), dtype=np.int64), 1)[:, :, 0]
    draws = resamples(len(observed), SAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        sampled = (draws @ predicted) / (draws @ observed)
        return from_samples(float(predicted.sum() / observed.sum()), sampled, len(observed))


def policy_levels(first: Rows, model: str) -> PolicyLevels:
    """Compare predicted with observed click rates of the policies of first slates."""
    group, names = policy_groups(first)
    named = _named(names)
    sums = by_user(first, model, group, len(names))[:, :, named]
    users = sums.shape[1]
    draws = resamples(users, SAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.stack([draws @ part for part in sums])
        whole, sampled = (
            np.log(part[:2] / part[2]) for part in (sums.sum(axis=1), drawn)
        )  # predicted and observed rates
    sampled[~np.isfinite(sampled)] = np.nan
    weight = sums[1].sum(axis=0) / sums[1].sum()

    def moments(logs: Floats, noises: int) -> tuple[Floats, Floats, Floats]:
        """Covariance, variance of the observed rates, and of the misjudgement."""
        predicted, observed = logs - (weight * logs).sum(axis=-1, keepdims=True)
        noise = noises * (weight * (1 - weight) * np.nanvar(sampled[1], axis=0)).sum()
        misjudged = (weight * (predicted - observed) ** 2).sum(axis=-1) - noise
        return (
            (weight * predicted * observed).sum(axis=-1),
            (weight * observed**2).sum(axis=-1) - noise,
            np.maximum(misjudged, 0.0),
        )

    # A bootstrap sample has the noise of the log and its own, so it is taken off twice.
    (with_observed, observed, misjudged), (with_drawn, observed_drawn, misjudged_drawn) = (
        moments(whole, 1),
        moments(sampled, 2),
    )
    tiny = 1e-12
    return PolicyLevels(
        explained=from_samples(
            float(with_observed / max(float(observed), tiny)),
            with_drawn / np.where(observed_drawn > tiny, observed_drawn, np.nan),
            users,
        ),
        observed=math.sqrt(max(float(observed), 0.0)),
        misjudged=from_samples(math.sqrt(float(misjudged)), np.sqrt(misjudged_drawn), users),
    )


def _named(names: Sequence[str]) -> list[int]:
    """Places of the groups that are single policies with a name."""
    return [at for at, name in enumerate(names) if name not in ("unknown", "all others")]


# ---- leaving, returning, positions ---------------------------------------------------------------


def leaving(
    scores: Sequence[Score], judged: str, left: int, stayed: int, table: Sequence[Ratio] = ()
) -> Verdict:
    """Judge whether the model tells who leaves, how many, and after how many slates.

    Args:
        scores: Of the held-out slates, with `LEAVING` as the baseline.
        judged: Name of the model.
        left: Held-out users who left.
        stayed: Held-out slates after which the user stayed.
        table: `ratios.by_visit` of the held-out slates.
    """
    if left < LEAVERS or stayed < LEAVERS:
        sentence = f"Leaving: {left} held-out users left and {stayed} slates were followed by more"
        return Verdict("leaving", None, f"{sentence}, but {LEAVERS} of both are needed.")
    own, base, level = (
        found_of(scores, *key) for key in ((judged, "auc"), (LEAVING, "auc"), (judged, "ratio"))
    )
    if own is None or base is None or base.lead is None or level is None:
        return Verdict("leaving", None, "Leaving: the model does not predict it.")
    told = (
        f"AUC {_plain(own.value)} against {base.value.value:.3f} of a table by visit and click, "
        f"predicted over observed {_plain(level.value, 2)}"
    )
    off = _off(level.value, LEAVE_LIMIT)
    if base.lead.high < 0:
        sentence = f"Leaving: a table of leave rates tells better who leaves ({told})."
        return Verdict("leaving", False, sentence, base.lead)
    if off:
        return Verdict("leaving", False, f"Leaving: the number is wrong ({told}).", level.value)
    many = [one for one in table if max(one.observed, one.predicted) >= FEW]
    wrong = [one for one in many if _off(one.ratio, SLATE_LIMIT)]
    if wrong:
        worst = max(wrong, key=_distance)
        sentence = (
            f"Leaving: it is predicted after the wrong slates (after slate {worst.group} "
            f"{worst.predicted:.0f} users are expected to leave and {worst.observed} did, "
            f"{_plain(worst.ratio, 2)} with {FEW} added to both; {told})."
        )
        return Verdict("leaving", False, sentence, worst.ratio)
    return Verdict("leaving", True, f"Leaving: as observed ({told}).", base.lead)


def returning(lead: Estimate | None, gaps: int, distinct: int) -> Verdict:
    """Judge whether the model tells when users come back.

    Args:
        lead: Negative log-likelihood of a held-out gap under the model less that under the
            distribution of all gaps, nats, with its interval; None where there is no prediction.
        gaps: Number of held-out gaps.
        distinct: Number of different gaps in days.
    """
    if gaps < LEAVERS:
        sentence = f"Returning: {gaps} held-out gaps, but {LEAVERS} are needed."
        return Verdict("returning", None, sentence)
    if distinct < 2:
        sentence = "Returning: all gaps of the log are alike, so there is nothing to learn."
        return Verdict("returning", None, sentence)
    if lead is None:
        return Verdict("returning", None, "Returning: the model does not predict gaps.")
    told = f"{lead.value:+.3f} nats a gap [{lead.low:+.3f}, {lead.high:+.3f}]"
    if lead.low > 0:
        sentence = f"Returning: the distribution of all gaps tells more than the model ({told})."
        return Verdict("returning", False, sentence, lead)
    if lead.high >= 0:
        sentence = f"Returning: no better than the distribution of all gaps ({told})."
        return Verdict("returning", None, sentence, lead)
    sentence = f"Returning: better than the distribution of all gaps ({told})."
    return Verdict("returning", True, sentence, lead)


def positions(table: Sequence[Ratio]) -> Verdict:
    """Judge whether clicks at every position are as many as observed."""
    told = [one for one in table if one.observed >= FEW]
    if len(told) < 2:
        sentence = f"Positions: fewer than two positions have {FEW} held-out clicks."
        return Verdict("positions", None, sentence)
    off = [one for one in told if _off(one.ratio, POSITION_LIMIT)]
    worst = max(off or told, key=_distance)
    sentence = (
        f"the largest error {'beyond chance ' if off else ''}is at position {worst.group}, "
        f"predicted over observed {_plain(worst.ratio, 2)}"
    )
    if off:
        return Verdict(
            "positions", False, f"Positions: clicks are misplaced; {sentence}.", worst.ratio
        )
    return Verdict("positions", True, f"Positions: {sentence}.", worst.ratio)


def _off(ratio: Estimate, limit: float) -> bool:
    """Whether a ratio lies beyond the limit, and not by chance."""
    low, high = 1 / limit, limit
    clear = ratio.low > 1 or ratio.high < 1
    return clear and not low <= ratio.value <= high


def _distance(one: Ratio) -> float:
    """How far a ratio is from 1, on the scale of logarithms."""
    return abs(math.log(max(one.ratio.value, 1e-12)))


def _plain(estimate: Estimate, digits: int = 3) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
