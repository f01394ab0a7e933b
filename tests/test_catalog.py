"""A catalogue comes back from disk as it was, its derived indices agree with its paths, and bad files are named."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from recsim_env.catalog import CATALOG_FILE, EMBEDDING_FILE, Catalog, CatalogError

PATHS = ("grocery/yogurt/multi", "grocery/yogurt/single", "dairy/yogurt/single", "grocery/yogurt/multi")


@pytest.fixture
def catalog() -> Catalog:
    embedding = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
    price = torch.tensor([1.5, 2.0, float("nan"), 4.0])
    product_id = torch.tensor([101, 7, 55, 9])
    cold = torch.tensor([False, True, False, False])
    return Catalog(("a", "b", "c", "d"), PATHS, price, embedding, product_id, cold)


def test_category_and_kind_number_the_sorted_names(catalog: Catalog) -> None:
    assert catalog.categories == ("dairy/yogurt", "grocery/yogurt")
    assert catalog.category.tolist() == [1, 1, 0, 1]
    assert catalog.kinds == ("dairy/yogurt/single", "grocery/yogurt/multi", "grocery/yogurt/single")
    assert catalog.kind.tolist() == [1, 2, 0, 1]


def test_saved_catalogue_comes_back(catalog: Catalog, tmp_path: Path) -> None:
    catalog.save(tmp_path)
    loaded = Catalog.load(tmp_path)
    assert (loaded.text, loaded.path) == (catalog.text, catalog.path)
    torch.testing.assert_close(loaded.price, catalog.price, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(loaded.embedding, catalog.embedding, rtol=0, atol=1e-3)  # float16 on disk
    torch.testing.assert_close(loaded.embedding.norm(dim=1), torch.ones(4))
    assert loaded.product_id is not None
    assert loaded.cold is not None
    assert loaded.product_id.tolist() == [101, 7, 55, 9]
    assert loaded.cold.tolist() == [False, True, False, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == [CATALOG_FILE, EMBEDDING_FILE]


def test_optional_columns_stay_absent(tmp_path: Path) -> None:
    Catalog.synthetic(6, 2, 4, torch.Generator().manual_seed(0)).save(tmp_path)
    loaded = Catalog.load(tmp_path)
    assert loaded.product_id is None
    assert loaded.cold is None


def test_synthetic_follows_its_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again = (Catalog.synthetic(20, 5, 8, torch.Generator().manual_seed(3)) for _ in range(2))
    other = Catalog.synthetic(20, 5, 8, torch.Generator().manual_seed(4))
    assert torch.equal(first.embedding, again.embedding)
    assert torch.equal(first.price, again.price)
    assert not torch.equal(first.embedding, other.embedding)
    assert torch.equal(before, torch.get_rng_state())


def test_synthetic_items_are_nearer_to_their_own_category() -> None:
    catalog = Catalog.synthetic(200, 5, 16, torch.Generator().manual_seed(0))
    likeness = catalog.embedding @ catalog.embedding.T
    same = catalog.category[:, None] == catalog.category
    assert len(catalog.categories) == 5
    assert likeness[same].mean() > likeness[~same].mean() + 0.3


def test_to_moves_every_tensor(catalog: Catalog) -> None:
    moved = catalog.to("meta")
    assert {moved.price.device.type, moved.category.device.type, moved.kind.device.type} == {"meta"}
    assert moved.product_id is not None
    assert moved.product_id.device.type == "meta"


def test_every_item_needs_an_embedding(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"^embedding: found 3 rows, expected 4, one for each text\.$"):
        Catalog(catalog.text, catalog.path, catalog.price, catalog.embedding[:3])


@pytest.mark.parametrize(
    ("column", "values", "complaint"),
    [
        ("item", [0, 1, 3, 2], "column 'item', row 2: found 3, expected the row number."),
        ("text", ["a", "b", "", "d"], "column 'text', row 2: found '', expected a text."),
        ("text", ["a", None, "", "d"], "column 'text', row 1: found None, expected a text."),
        (
            "path",
            ["a/b/c", "a/b", "a/b/c", "a/b/c"],
            "column 'path', row 1: found 'a/b', expected a path department/category/type.",
        ),
        ("price", [1.0, 2.0, 3.0, -1.0], "column 'price', row 3: found -1.0, expected a price >= 0 or NaN."),
        ("cold", [True, False, None, True], "column 'cold', row 2: found None, expected a value."),
        ("item", [0.0, 1.0, 2.0, 3.0], "column 'item', row 0: found Float64, expected Int64."),
    ],
)
def test_bad_row_is_named(catalog: Catalog, tmp_path: Path, column: str, values: list[object], complaint: str) -> None:
    catalog.save(tmp_path)
    file = tmp_path / CATALOG_FILE
    series = pl.Series(column, values)
    frame = pl.read_parquet(file)
    keep = frame.schema[column] if column == "price" else series.dtype
    frame.with_columns(series.cast(keep)).write_parquet(file)
    with pytest.raises(CatalogError) as error:
        Catalog.load(tmp_path)
    assert str(error.value) == f"{file}: {complaint}"


def test_missing_column_is_named(catalog: Catalog, tmp_path: Path) -> None:
    catalog.save(tmp_path)
    file = tmp_path / CATALOG_FILE
    pl.read_parquet(file).drop("path").write_parquet(file)
    with pytest.raises(CatalogError) as error:
        Catalog.load(tmp_path)
    assert str(error.value) == f"{file}: column 'path', row 0: found no such column, expected String."


def test_missing_and_broken_files_are_named(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(
        CatalogError, match=r"catalog\.parquet: found no such file, expected the catalogue as parquet\."
    ):
        Catalog.load(tmp_path)
    catalog.save(tmp_path)
    (tmp_path / EMBEDDING_FILE).write_bytes(b"nothing")
    with pytest.raises(CatalogError, match=r"embedding\.safetensors: found no readable safetensors"):
        Catalog.load(tmp_path)
    (tmp_path / EMBEDDING_FILE).unlink()
    with pytest.raises(CatalogError, match=r"embedding\.safetensors: found no such file, expected the embeddings of 4"):
        Catalog.load(tmp_path)


def test_bad_embeddings_are_named(catalog: Catalog, tmp_path: Path) -> None:
    catalog.save(tmp_path)
    file = tmp_path / EMBEDDING_FILE
    save_file({"embedding": torch.ones(3, 2)}, file)
    with pytest.raises(CatalogError) as error:
        Catalog.load(tmp_path)
    assert str(error.value) == f"{file}: found shape (3, 2), expected (4, E), one row an item."
    save_file({"embedding": torch.tensor([[1.0, 0], [2, 0], [0, 0], [3, 0]])}, file)
    with pytest.raises(CatalogError, match=r"column 'embedding', row 2: found length 0\.0, expected a vector > 0\."):
        Catalog.load(tmp_path)
