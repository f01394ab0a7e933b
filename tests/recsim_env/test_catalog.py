"""A catalogue comes back from disk as it was, and bad files and fields are named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

import recsim_env
from recsim_env.catalog import Catalog, CatalogError
from recsim_env.catalog_files import CATALOG_FILE, EMBEDDING_FILE

PATHS = (
    "grocery/yogurt/multi",
    "grocery/yogurt/single",
    "dairy/yogurt/single",
    "grocery/yogurt/multi",
)


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
    assert torch.equal(loaded.embedding, catalog.embedding)
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
    expected = (
        r"^column 'embedding' is a .* of shape \(3, 2\), "
        r"but it must be a float32 tensor of shape \(4, E\)\.$"
    )
    with pytest.raises(CatalogError, match=expected):
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
        (
            "price",
            [1.0, 2.0, 3.0, -1.0],
            "column 'price', row 3: found -1.0, expected a price >= 0 or NaN.",
        ),
        ("cold", [True, False, None, True], "column 'cold', row 2: found None, expected a value."),
        ("item", [0.0, 1.0, 2.0, 3.0], "column 'item', row 0: found Float64, expected Int64."),
    ],
)
def test_bad_row_is_named(
    catalog: Catalog, tmp_path: Path, column: str, values: list[object], complaint: str
) -> None:
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
    assert (
        str(error.value) == f"{file}: column 'path', row 0: found no such column, expected String."
    )


def test_missing_and_broken_files_are_named(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(
        CatalogError,
        match=r"catalog\.parquet: found no such file, expected the catalogue as parquet\.",
    ):
        Catalog.load(tmp_path)
    catalog.save(tmp_path)
    (tmp_path / EMBEDDING_FILE).write_bytes(b"nothing")
    with pytest.raises(
        CatalogError, match=r"embedding\.safetensors: found no readable safetensors"
    ):
        Catalog.load(tmp_path)
    (tmp_path / EMBEDDING_FILE).unlink()
    with pytest.raises(
        CatalogError,
        match=r"embedding\.safetensors: found no such file, expected the embeddings of 4",
    ):
        Catalog.load(tmp_path)


def test_bad_embeddings_are_named(catalog: Catalog, tmp_path: Path) -> None:
    catalog.save(tmp_path)
    file = tmp_path / EMBEDDING_FILE
    save_file({"embedding": torch.ones(3, 2)}, file)
    with pytest.raises(CatalogError) as error:
        Catalog.load(tmp_path)
    found = (
        "found a float32 tensor of shape (3, 2), expected floats of shape (4, E), one row an item"
    )
    assert str(error.value) == f"{file}: {found}."
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for row, length in ((2, 0.0), (1, 3.0), (0, math.nan), (3, math.inf), (2, 0.5)):
            bad = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, -1]], dtype=dtype)
            bad[row] *= length
            save_file({"embedding": bad}, file)
            with pytest.raises(
                CatalogError,
                match=rf"column 'embedding', row {row}: found length .*, expected a vector",
            ):
                Catalog.load(tmp_path)
    for tensor in (torch.ones(4, 2, dtype=torch.int64), torch.ones(4), torch.ones(4, 2, 1)):
        save_file({"embedding": tensor}, file)
        with pytest.raises(
            CatalogError,
            match=r"embedding\.safetensors: found a .*, expected floats of shape \(4, E\)",
        ):
            Catalog.load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_embedding_that_was_rounded_comes_back_with_length_1(
    catalog: Catalog, tmp_path: Path, dtype: torch.dtype
) -> None:
    catalog.save(tmp_path)
    save_file({"embedding": catalog.embedding.to(dtype)}, tmp_path / EMBEDDING_FILE)
    loaded = Catalog.load(tmp_path)
    torch.testing.assert_close(loaded.embedding, catalog.embedding, rtol=0, atol=4e-3)
    torch.testing.assert_close(loaded.embedding.norm(dim=1), torch.ones(4))
    loaded.save(tmp_path)
    assert torch.equal(Catalog.load(tmp_path).embedding, loaded.embedding)


@pytest.mark.parametrize("folder", ["complete_journey", "market"])
def test_the_shipped_catalogues_survive_saving_and_loading_bit_for_bit(
    folder: str, tmp_path: Path
) -> None:
    shipped = Catalog.load(Path(recsim_env.__file__).parent / "data" / folder)
    shipped.save(tmp_path)
    again = Catalog.load(tmp_path)
    assert torch.equal(again.embedding, shipped.embedding)
    assert torch.equal(again.price.nan_to_num(-1), shipped.price.nan_to_num(-1))
    assert (again.text, again.path) == (shipped.text, shipped.path)


GOOD: dict[str, Any] = {
    "text": ("a", "b"),
    "path": ("d/c/t", "d/c/u"),
    "price": torch.tensor([1.0, math.nan]),
    "embedding": torch.eye(2),
    "product_id": torch.tensor([5, 3]),
    "cold": torch.tensor([True, False]),
}
BAD_FIELDS: list[tuple[str, list[Any]]] = [
    (
        "text",
        [
            None,
            3,
            "ab",
            (),
            ("a",),
            ("a", ""),
            ("a", None),
            ("a", 3),
            torch.zeros(2),
            {"a": 1, "b": 2},
        ],
    ),
    (
        "path",
        [
            None,
            ("d/c/t",),
            ("d/c/t", "d/c"),
            ("d/c/t", "d//t"),
            ("d/c/t", "d/c/t/u"),
            ("d/c/t", 3),
            "d/c/t",
        ],
    ),
    (
        "price",
        [
            None,
            3.0,
            [1.0, 2.0],
            torch.ones(2, dtype=torch.float64),
            torch.ones(2, 1),
            torch.ones(3),
            torch.zeros(2, 0),
            torch.tensor([1.0, -0.5]),
            torch.tensor([1.0, math.inf]),
            torch.tensor([-math.inf, 1.0]),
            torch.ones(2) * 1j,
            torch.ones(2, device="meta"),
        ],
    ),
    (
        "embedding",
        [
            None,
            3,
            [[1.0, 0.0], [0.0, 1.0]],
            torch.eye(2).double(),
            torch.eye(2).half(),
            torch.ones(2),
            torch.eye(3),
            3 * torch.eye(2),
            0.1 * torch.eye(2),
            torch.zeros(2, 2),
            torch.eye(2) * math.nan,
            torch.eye(2) * 1e30,
            torch.zeros(2, 0),
            torch.eye(2).to_sparse(),
            np.eye(2),
            torch.tensor([[1.0, 0.0], [0.0, 1.01]]),
        ],
    ),
    (
        "product_id",
        [3, [5, 3], torch.tensor([5.0, 3.0]), torch.tensor([5]), torch.tensor([[5, 3]])],
    ),
    ("cold", [True, [True, False], torch.tensor([1, 0]), torch.tensor([True])]),
]


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD_FIELDS for value in values]
)
def test_a_catalogue_in_memory_is_checked_as_one_on_disk(field: str, value: Any) -> None:
    """Three times the embedding made .773 of an intra-list distance .5; none at all was NaN."""
    assert len(Catalog(**GOOD)) == 2
    with pytest.raises(CatalogError, match=r"column '.*'"):
        Catalog(**{**GOOD, field: value})


def test_an_embedding_rounded_to_float16_is_long_enough() -> None:
    points = torch.nn.functional.normalize(
        torch.randn(500, 384, generator=torch.Generator().manual_seed(0)), dim=1
    )
    texts = tuple("a" for _ in points)
    rounded = points.half().float()
    paths = tuple("d/c/t" for _ in points)
    assert Catalog(texts, paths, torch.ones(500), rounded).embedding is rounded


@pytest.mark.parametrize("argument", ["n_items", "n_categories", "width", "generator"])
@pytest.mark.parametrize("value", [None, "3", 0, -1, 2.5, True, [], math.nan, math.inf])
def test_made_up_catalogues_have_whole_numbers(argument: str, value: Any) -> None:
    good: dict[str, Any] = {
        "n_items": 4,
        "n_categories": 2,
        "width": 3,
        "generator": torch.Generator(),
    }
    with pytest.raises(ValueError, match=rf"{argument} is .*, but it must be"):
        Catalog.synthetic(**{**good, argument: value})


def test_a_made_up_catalogue_is_the_same_whatever_the_default_type() -> None:
    plain = Catalog.synthetic(20, 5, 8, torch.Generator().manual_seed(3))
    torch.set_default_dtype(torch.float64)
    try:
        wide = Catalog.synthetic(20, 5, 8, torch.Generator().manual_seed(3))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(plain.embedding, wide.embedding)
    assert torch.equal(plain.price, wide.price)


@pytest.mark.parametrize("folder", [None, 3, [], {}, object()])
def test_a_folder_is_a_path(catalog: Catalog, folder: Any) -> None:
    for call in (Catalog.load, catalog.save):
        with pytest.raises(TypeError, match=r"folder is .*, but it must be a path"):
            call(folder)


def test_folders_and_cut_files_are_named(catalog: Catalog, tmp_path: Path) -> None:
    catalog.save(tmp_path)
    for name in (CATALOG_FILE, EMBEDDING_FILE):
        whole = (tmp_path / name).read_bytes()
        for content in (b"", whole[:-5], whole[: len(whole) // 2], whole[5:], b"x" * len(whole)):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(CatalogError, match=name):
                Catalog.load(tmp_path)
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        with pytest.raises(CatalogError, match=name):
            Catalog.load(tmp_path)
        (tmp_path / name).rmdir()
        (tmp_path / name).write_bytes(whole)
    assert len(Catalog.load(tmp_path)) == 4
