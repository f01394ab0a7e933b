"""What a click brings later is learned from a log: a regression, worked out in a second way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from policies.lasting import lasting_value
from recsim_env.logs.sessions import Sessions
from tests.support.toys import toy_catalog

CATALOG = toy_catalog(items=6, categories=3)  # item i is of category i % 3


def log_of(slates: Tensor, clicks: Tensor, length: Tensor) -> Sessions:
    """A log of episodes: slates and clicks (S, T, K), length (S,)."""
    real = torch.arange(slates.shape[1]) < length.unsqueeze(1)
    return Sessions(
        slates=slates.where(real.unsqueeze(2), -1),
        clicks=clicks & real.unsqueeze(2),
        length=length,
        left=torch.ones(len(length), dtype=torch.bool),
        propensity=torch.full(real.shape, torch.nan),
        policy=torch.full(real.shape, -1),
        declared=torch.zeros(len(length), 0),
        policies=(),
    )


def random_log(shoppers: int, steps: int, seed: int = 0) -> Sessions:
    """Slates of two random items, clicked at random; episodes end at random."""
    generator = torch.Generator().manual_seed(seed)
    slates = torch.rand(shoppers, steps, 6, generator=generator).argsort(dim=2)[:, :, :2]
    clicks = torch.rand(shoppers, steps, 2, generator=generator) < 0.4
    return log_of(slates, clicks, torch.randint(1, steps + 1, (shoppers,), generator=generator))


def test_two_shoppers_by_hand() -> None:
    """Both see the items 0 and 1; one clicks on 0, the other on 1 and then once more."""
    slates = torch.tensor([[[0, 1], [2, 5]], [[0, 1], [2, 5]]])
    clicks = torch.tensor([[[1, 0], [0, 0]], [[0, 1], [1, 0]]]).bool()
    found = lasting_value(log_of(slates, clicks, torch.tensor([2, 2])), CATALOG)

    # At the first step the clicks of categories 0 and 1 are +-1/2 around their means, and the
    # clicks after it -1/2 and +1/2. At the second step nothing comes later; category 2 differs by
    # +-1/2 there. Thus w_0 = -w_1 and w_2 = 0, with 1/2 w_0 - (-1/2) w_1 as what is fitted:
    # (1/2 + s) w_0 - 1/2 w_1 = -1/2, where s is the mean square of what comes later.
    shrinkage = (0.25 + 0.25 + 0 + 0) / 4
    of_category = -0.5 / (1.0 + shrinkage)
    residual = -0.5 - of_category  # of the first shopper's click: -1/2 is 1/2 w_0 - 1/2 w_1
    own = residual / (1 + shrinkage)
    values = [of_category + own, -of_category - own, 0.0, of_category, -of_category, 0.0]
    torch.testing.assert_close(found, torch.tensor(values))  # clicks on 0, 1 and 2: the mean is 0


def test_the_values_are_those_of_a_ridge_regression() -> None:
    log = random_log(shoppers=200, steps=6)
    features, target, items = [], [], []
    for shopper in range(200):
        steps = int(log.length[shopper])
        for step in range(steps):
            x = np.zeros(7 + 6)
            for position in range(2):
                item = int(log.slates[shopper, step, position])
                x[item % 3] += float(log.clicks[shopper, step, position])
                x[3 + item % 3] += 1
            x[6] = float(log.clicks[shopper, :step].sum())
            x[7 + step] = 1e4  # a mean for each step, which the penalty hardly reaches
            features.append(x)
            target.append(float(log.clicks[shopper, step + 1 : steps].sum()))
            items.append(log.slates[shopper, step][log.clicks[shopper, step]].tolist())
    steps_of = np.array([int(x[7:].argmax()) for x in features])
    later = np.array(target)
    means = np.array([later[steps_of == step].mean() for step in range(6)])
    shrinkage = float(np.mean((later - means[steps_of]) ** 2))
    ridge = Ridge(alpha=shrinkage, fit_intercept=False).fit(np.array(features), later)

    residual = later - ridge.predict(np.array(features))
    total, clicks = np.zeros(6), np.zeros(6)
    for row, clicked in enumerate(items):
        for item in clicked:
            total[item] += residual[row]
            clicks[item] += 1
    value = ridge.coef_[np.arange(6) % 3] + total / (clicks + shrinkage)
    value -= (value * clicks).sum() / clicks.sum()
    found = lasting_value(log, CATALOG)
    np.testing.assert_allclose(found.numpy(), value, atol=2e-4)


def test_what_keeps_shoppers_is_worth_the_clicks_that_they_stay_for() -> None:
    """A click on category 0 gives two more visits of half a click each; one on 1 takes two."""
    generator = torch.Generator().manual_seed(3)
    shoppers, longest = 6_000, 40
    slates = torch.rand(shoppers, longest, 6, generator=generator).argsort(dim=2)[:, :, :1]
    clicks = torch.rand(shoppers, longest, 1, generator=generator) < 0.5
    budget, length = torch.full((shoppers,), 8), torch.zeros(shoppers, dtype=torch.int64)
    for step in range(longest):
        alive = budget > 0
        length += alive
        category = slates[:, step, 0] % 3
        effect = 2 * (category == 0).long() - 2 * (category == 1).long()
        budget = budget - alive.long() + effect * clicks[:, step, 0] * alive
    value = lasting_value(log_of(slates, clicks, length), CATALOG)
    by_category = value.view(2, 3).mean(dim=0)
    differences = by_category - by_category[2]
    assert 0.6 < float(differences[0]) < 1.4
    assert -1.4 < float(differences[1]) < -0.6


def test_where_nothing_comes_later_nothing_lasts() -> None:
    alone = log_of(
        torch.tensor([[[0, 1]], [[2, 3]]]), torch.ones(2, 1, 2).bool(), torch.tensor([1, 1])
    )
    assert lasting_value(alone, CATALOG).tolist() == [0.0] * 6


def test_an_item_beyond_the_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^log holds item 4, .* the items 0 to 2"):
        lasting_value(random_log(3, 2), toy_catalog(items=3, categories=3))


@pytest.mark.parametrize("name", ["log", "catalog"])
def test_other_classes_are_refused(name: str) -> None:
    right: dict[str, object] = {"log": random_log(3, 2), "catalog": CATALOG, name: 3}
    with pytest.raises(TypeError, match=rf"^{name} is 3, but"):
        lasting_value(**right)  # type: ignore[arg-type]
