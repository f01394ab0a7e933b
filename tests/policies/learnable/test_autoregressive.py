"""Autoregressive slates: probabilities against an enumeration, the composer as the likeliest."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from policies.composer import Composer, ComposerConfig
from policies.learnable import autoregressive
from policies.learnable.autoregressive import (
    AutoregressiveActor,
    AutoregressiveConfig,
    AutoregressivePolicy,
    ItemTables,
    judge_along,
)
from policies.learnable.plackett_luce import (
    PlackettLuceActor,
    PlackettLuceConfig,
    judge,
    places_of,
    slate_observation,
)
from recsim_env.types import Observation
from tests.policies.test_composer import some_visits
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

CATEGORY = [0, 0, 1, 1]
VECTORS = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]]
LOGITS = [0.5, 0.2, -0.1, -0.3]
SCALE, COUNT, SIMILARITY = 1.5, -0.7, -0.4


def four_items(
    config: AutoregressiveConfig, slate_size: int
) -> tuple[AutoregressiveActor, Observation]:
    """A pool of four items, no cues and no offset, seen once."""
    items = ItemTables(torch.zeros(4, 0), torch.tensor(CATEGORY), torch.tensor(VECTORS))
    generator = torch.Generator().manual_seed(0)
    actor = AutoregressiveActor(
        1, 0, items, torch.tensor([2.0, 1.0]), slate_size, (4,), config, generator
    )
    seen = {
        "features": torch.zeros(1, 1),
        "pool": torch.arange(4).unsqueeze(0),
        "logits": torch.tensor([LOGITS]),
        "cues": torch.zeros(1, 4, 0),
    }
    return actor, seen


def many(seen: Observation, times: int) -> Observation:
    return {name: value.expand(times, *value.shape[1:]) for name, value in seen.items()}


def score(item: int, above: tuple[int, ...]) -> float:
    """The module's equation by hand."""
    count = sum(CATEGORY[other] == CATEGORY[item] for other in above)
    cosines = [
        sum(a * b for a, b in zip(VECTORS[item], VECTORS[other], strict=True)) for other in above
    ]
    return SCALE * (LOGITS[item] + COUNT * count + SIMILARITY * max(0.0, *cosines, 0.0))


def by_hand(size: int) -> dict[tuple[int, ...], float]:
    """The probability of every slate of `size` = K items."""
    slates = {}
    for slate in itertools.permutations(range(4), size):
        probability = 1.0
        for position, item in enumerate(slate):
            above = slate[:position]
            weights = {
                other: math.exp(score(other, above)) for other in range(4) if other not in above
            }
            probability *= weights[item] / sum(weights.values())
        slates[slate] = probability
    return slates


STEERED = AutoregressiveConfig(SCALE, COUNT, SIMILARITY)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_log_probability_and_entropy_equal_brute_force(size: int) -> None:
    slates = by_hand(size)
    assert abs(sum(slates.values()) - 1) < 1e-12
    actor, seen = four_items(STEERED, size)
    with torch.no_grad():
        log_probability, along = actor.judge(many(seen, len(slates)), torch.tensor(list(slates)))
    torch.testing.assert_close(
        log_probability, torch.tensor(list(slates.values())).log(), atol=1e-5, rtol=0
    )
    assert abs(float(log_probability.exp().sum()) - 1) < 1e-5
    exact = -sum(p * math.log(p) for p in slates.values())
    assert abs(float((log_probability.exp() * along).sum()) - exact) < 1e-5  # the chain rule


def test_samples_come_as_often_as_their_probability() -> None:
    actor, seen = four_items(STEERED, 2)
    times = 100_000
    draws = torch.rand(times, 2 * 4, generator=torch.Generator().manual_seed(0))
    codes = actor.act(many(seen, times), draws) @ torch.tensor([4, 1])
    shares = torch.bincount(codes, minlength=16) / times
    for slate, probability in by_hand(2).items():
        tolerance = 4 * math.sqrt(probability * (1 - probability) / times)
        assert abs(float(shares[slate[0] * 4 + slate[1]]) - probability) < tolerance


def test_scores_that_do_not_depend_on_the_slate_are_plackett_luce() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 5, generator=generator)
    scores[:, 4] = -math.inf  # absent
    places = torch.stack([torch.randperm(4, generator=generator)[:3] for _ in range(6)])
    places[0, 2] = -1
    for mine, theirs in zip(
        judge_along(scores[:, None].expand(-1, 3, -1), places), judge(scores, places), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


# ---- on visits of the toy shopper ----


def toy_composer() -> tuple[Composer, Observation]:
    simulator = toy_simulator(items=30, slate_size=3)
    return Composer(toy_inputs(simulator), ComposerConfig(form="log_odds", pool=8)), some_visits(
        simulator
    )


def make_actor(
    composer: Composer, seen: Observation, config: AutoregressiveConfig
) -> AutoregressiveActor:
    catalog = toy_simulator(items=30).catalog
    return AutoregressiveActor(
        seen["features"].shape[1],
        seen["cues"].shape[2],
        ItemTables(composer.offset_vectors, catalog.category, catalog.embedding),
        composer.units[:2],
        composer.slate_size,
        (8,),
        config,
        torch.Generator().manual_seed(0),
    )


def trained(actor: AutoregressiveActor) -> AutoregressiveActor:
    """With weights that say something about every state."""
    last = actor.tower[-1]
    torch.nn.init.normal_(last.weight, std=0.3, generator=torch.Generator().manual_seed(7))  # type: ignore[arg-type]
    return actor


def test_its_most_likely_slate_is_what_the_composer_makes_of_the_same_intent() -> None:
    composer, visits = toy_composer()
    seen = slate_observation(composer.view(visits))
    actor = trained(make_actor(composer, seen, AutoregressiveConfig(2.0, count=-0.5)))
    intent = actor.intent(seen["features"]).detach()
    assert float(intent.std(dim=0).min()) > 0.05  # not the same for everybody
    composed = composer.compose(visits, intent)
    assert torch.equal(AutoregressivePolicy(composer, actor)(visits, torch.zeros(24, 0)), composed)
    assert not torch.equal(
        composed, composer.compose(visits, torch.zeros(24, composer.intent_size))
    )


def test_all_positions_at_once_score_as_one_after_the_other() -> None:
    composer, visits = toy_composer()
    seen = slate_observation(composer.view(visits))
    actor = trained(
        make_actor(composer, seen, AutoregressiveConfig(2.0, count=-0.5, similarity=-0.3))
    )
    draws = torch.rand(24, 3 * 8, generator=torch.Generator().manual_seed(1))
    slates = actor.act(seen, draws)
    expected = step_by_step(actor, seen, slates)
    torch.testing.assert_close(actor.judge(seen, slates)[0], expected, atol=1e-5, rtol=0)


def step_by_step(actor: AutoregressiveActor, seen: Observation, slates: Tensor) -> Tensor:
    """Log-probability as the sampling goes: one position, then the next."""
    fixed, in_slate = actor._weighted(seen, actor.intent(seen["features"]))
    context = autoregressive._Scores(actor, seen["pool"], fixed, in_slate, None)
    total, open_places = torch.zeros(len(slates)), torch.ones_like(fixed, dtype=torch.bool)
    for place in places_of(seen["pool"], slates).unbind(dim=1):
        logs = context.scores().masked_fill(~open_places, -math.inf).log_softmax(dim=1)
        total = total + logs.gather(1, place.unsqueeze(1)).squeeze(1)
        open_places = open_places.scatter(1, place.unsqueeze(1), False)
        context.add(place)
    return total.detach()


def test_untrained_it_judges_as_plackett_luce_does() -> None:
    composer, visits = toy_composer()
    seen = slate_observation(composer.view(visits))
    actor = make_actor(composer, seen, AutoregressiveConfig(2.0))
    generator = torch.Generator().manual_seed(0)
    sizes = seen["features"].shape[1], seen["cues"].shape[2]
    other = PlackettLuceActor(
        *sizes, composer.offset_vectors, 3, (8,), PlackettLuceConfig(2.0), generator
    )
    slates = actor.act(seen, torch.rand(24, 24, generator=generator))
    for mine, theirs in zip(actor.judge(seen, slates), other.judge(seen, slates), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_cosines_of_a_large_catalogue_are_computed_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    composer, visits = toy_composer()
    seen = slate_observation(composer.view(visits))
    config = AutoregressiveConfig(2.0, similarity=-1.0)
    tabled = make_actor(composer, seen, config)
    monkeypatch.setattr(autoregressive, "GRAM_LIMIT", 29)
    computed = make_actor(composer, seen, config)
    assert (tabled.cosine_table.shape, computed.cosine_table.shape) == ((30, 30), (30, 8))
    slates = tabled.act(seen, torch.rand(24, 24, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(
        tabled.judge(seen, slates)[0], computed.judge(seen, slates)[0], atol=1e-5, rtol=0
    )


def test_a_pool_that_runs_out_is_filled_and_judged() -> None:
    actor, seen = four_items(STEERED, 3)
    short = seen | {
        "pool": torch.tensor([[2, 0, -1, -1]]),
        "logits": torch.tensor([[-0.1, 0.5, 0.0, 0.0]]),
    }
    slates = actor.act(short, torch.rand(1, 12, generator=torch.Generator().manual_seed(0)))
    first = int(slates[0, 0])
    assert set(slates[0, :2].tolist()) == {0, 2}
    assert int(slates[0, 2]) == first
    log_probability, entropy = actor.judge(short, slates)
    chance = 1 / (
        1 + math.exp(score(2 - first, ()) - score(first, ()))
    )  # the second pick is certain
    assert abs(float(log_probability.detach()) - math.log(chance)) < 1e-5
    assert (
        abs(
            float(entropy.detach())
            + chance * math.log(chance)
            + (1 - chance) * math.log(1 - chance)
        )
        < 1e-5
    )
    log_probability.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in actor.parameters() if p.grad is not None)


def test_the_count_penalty_at_the_start_is_in_log_odds() -> None:
    actor, seen = four_items(replace(STEERED, similarity=0.0), 2)
    scores = actor.scores_along(seen, torch.tensor([[0, 1]])).detach()
    torch.testing.assert_close(
        scores[0, 1] - scores[0, 0], torch.tensor([1.0, 1.0, 0.0, 0.0]) * SCALE * COUNT
    )
