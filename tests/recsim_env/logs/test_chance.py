"""Whether slates look drawn at random: few false alarms, and power where it is claimed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recsim_env.logs.chance import drawn_at_random, exposures, lift_of, unrelated

SIZE = 6


def drawn(
    generator: np.random.Generator, users: int, items: int, weights: np.ndarray | None = None
) -> pl.DataFrame:
    """Two slates a user, drawn without replacement by Gumbel noise."""
    noise = generator.gumbel(size=(2 * users, items))
    scores = noise if weights is None else noise + np.log(weights)
    slates = np.argsort(-scores, axis=1)[:, :SIZE].tolist()
    return pl.DataFrame({"shopper": np.repeat(np.arange(users), 2), "slate": slates})


@pytest.mark.parametrize(("users", "items"), [(100, 50), (100, 2000), (2000, 300)])
def test_uniform_slates_are_taken_for_random(users: int, items: int) -> None:
    category = np.arange(items) % 7
    for seed in range(20):
        slates = drawn(np.random.default_rng(seed), users, items)
        assert drawn_at_random(exposures(slates, items)) is True
        assert unrelated(slates, category) in (True, None)


@pytest.mark.parametrize(("users", "items"), [(100, 50), (200, 2000), (2000, 300)])
def test_skewed_slates_are_not(users: int, items: int) -> None:
    """Log-normal weights with a standard deviation of 1, as of a softmax with much noise."""
    for seed in range(20):
        generator = np.random.default_rng(seed)
        slates = drawn(generator, users, items, np.exp(generator.normal(size=items)))
        assert drawn_at_random(exposures(slates, items)) is False


def test_few_exposures_say_nothing() -> None:
    slates = drawn(np.random.default_rng(0), 5, 1000)
    assert drawn_at_random(exposures(slates, 1000)) is None
    assert unrelated(slates, np.arange(1000) % 7) is None


@pytest.mark.parametrize("several", [1, SIZE])
def test_favourite_categories_are_not_chance(several: int) -> None:
    """Whether a slate shows one category or six of them that are the user's own."""
    generator, items, groups = np.random.default_rng(0), 120, 12
    rows = []
    for user in range(300):
        liked = generator.choice(groups, several, replace=False)
        for _ in range(2):
            picks = generator.permutation(items // groups)[:SIZE] * groups
            rows.append((user, (picks + np.resize(liked, SIZE)).tolist()))
    slates = pl.DataFrame(rows, schema=["shopper", "slate"], orient="row")
    assert drawn_at_random(exposures(slates, items)) is True
    assert unrelated(slates, np.arange(items) % groups) is False


def test_an_even_policy_lifts_nothing() -> None:
    """Over 30 logs in which a policy and chance show the same items to alike users."""
    errors = []
    for seed in range(30):
        generator = np.random.default_rng(seed)
        liked = generator.uniform(0.05, 0.4, 60)
        policy = drawn(generator, 150, 60, liked)
        random = drawn(generator, 300, 60)
        policy, random = (
            slates.with_columns(
                click=pl.Series(
                    [(generator.random(SIZE) < liked[slate]).tolist() for slate in slates["slate"]]
                )
            )
            for slates in (policy, random)
        )
        found = lift_of(policy.unique("shopper", keep="first", maintain_order=True), random)
        assert found is not None
        errors.append(found[1])
    assert abs(float(np.mean(errors))) < 1
    assert float(np.std(errors)) < 1.5
    assert max(map(abs, errors)) < 4
