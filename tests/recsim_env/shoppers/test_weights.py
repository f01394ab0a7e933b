"""Models in folders: what does not fit is refused by name, and nothing else is opened."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from recsim_env.catalog import Catalog
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.household.text import TextTunedShopper
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import load_session, save_session
from recsim_env.shoppers.session.starts import FILE, Logged
from recsim_env.shoppers.weights import CheckedModel, load_model, read_config, save_model
from tests.recsim_env.shoppers.session.test_model import catalog, model
from tests.recsim_env.shoppers.session.test_population import SAID
from tests.support.fake_log import write_shop
from tests.support.fake_shoppers import member

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Family:
    """A folder of fitted shoppers, where its model lies in it, and how it is opened."""

    kind: type[CheckedModel]
    folder: Path
    model: Path
    load: Callable[[Path], Any]

    @property
    def config(self) -> Path:
        return self.model / "config.json"

    @property
    def weights(self) -> Path:
        return self.model / "model.safetensors"

    def copy(self, to: Path) -> Family:
        shutil.copytree(self.folder, to, dirs_exist_ok=True)
        return Family(self.kind, to, to / self.model.relative_to(self.folder), self.load)

    def refuses(self, *named: str) -> None:
        """Assert that shopper, and model if at fault, are refused in a sentence with these."""
        with pytest.raises((ValueError, OSError)) as told:
            self.load(self.folder)
        assert "\n" not in str(told.value)
        assert len(str(told.value)) < 700
        for name in named:
            assert name in str(told.value)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    journey, market = tmp_path_factory.mktemp("journey"), tmp_path_factory.mktemp("market")
    write_shop(journey)
    save_model(member(journey, 1), journey)
    save_session(market, catalog(), [model()], Logged.newcomers(SAID))

    def opened(folder: Path) -> object:
        return load_shopper(folder, CPU, population="all", start_days=(60, 80))

    return {
        "journey": Family(SlateShopper, journey, journey, opened),
        "market": Family(
            SessionShopper,
            market,
            market / "model0",
            lambda folder: load_session(folder, CPU, 3),
        ),
    }


@pytest.fixture(params=["journey", "market"])
def family(request: pytest.FixtureRequest, originals: dict[str, Family], tmp_path: Path) -> Family:
    """A copy that may be spoilt."""
    return originals[request.param].copy(tmp_path / "copy")


def test_what_save_model_writes_is_what_transformers_writes(family: Family, tmp_path: Path) -> None:
    made = load_model(family.kind, family.model)
    made.save_pretrained(tmp_path / "other")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "other" / name).read_bytes() == (family.model / name).read_bytes()


# --- config.json ---

ODD: tuple[Any, ...] = (
    None,
    True,
    "",
    "owner/kernel",
    1.5,
    -1,
    10**12,
    1e308,
    math.nan,
    -math.inf,
    [],
    [math.nan, 0.0],
    {"a": 1},
)
"""None of them is a right value of any key, but those of `HARMLESS`."""
HARMLESS = {
    ("use_text", True),
    ("use_counters", True),
    ("use_habit", True),
    ("use_cold_head", True),
    ("use_cache", True),
    ("purchases", True),
    ("architectures", "[]"),
} | {
    ("transformers_version", "owner/kernel"),
    *((name, 1.5) for name in ("explore_calibration", "gap_calibration")),
    *((name, -1) for name in ("explore_calibration", "gap_calibration")),
}


def test_every_key_of_a_configuration_is_typed_and_bounded(family: Family) -> None:
    """They are checked before anything is allocated: some sizes would ask for terabytes."""
    config = json.loads(family.config.read_text())
    for key in config:
        for value in ODD:
            if (
                key,
                str(value)
                if value == []
                else value
                if not isinstance(value, (list, dict))
                else None,
            ) in HARMLESS:
                continue
            family.config.write_text(json.dumps(config | {key: value}))
            with pytest.raises(ValueError, match=key) as told:
                load_model(family.kind, family.model)
            assert str(family.config) in str(told.value)


@pytest.mark.parametrize(
    "key",
    [
        "attn_implementation", "_attn_implementation_internal", "auto_map", "quantization_config",
        "torch_dtype",
        "per_layer_config", "name_or_path", "transformers_weights", "id2label", "a_key_of_nobody",
    ],
)  # fmt: skip
def test_a_key_that_nobody_knows_is_refused_and_not_followed(family: Family, key: str) -> None:
    config = json.loads(family.config.read_text())
    family.config.write_text(json.dumps(config | {key: "owner/kernel"}))
    family.refuses("config.json", key)
    with pytest.raises(ValueError, match=key):
        AutoModel.from_pretrained(family.model)


def test_every_key_of_its_own_must_be_there(family: Family) -> None:
    config = json.loads(family.config.read_text())
    for key in family.kind.config_class.own_keys():
        family.config.write_text(
            json.dumps({name: value for name, value in config.items() if name != key})
        )
        earlier = family.kind.config_class.values_before()
        if key in earlier:
            found = getattr(read_config(family.kind.config_class, family.config), key)
            assert json.loads(json.dumps(found)) == earlier[key]
        else:
            family.refuses(str(family.config), key, "missing")


def test_keys_that_nothing_reads_any_more_are_let_pass(family: Family) -> None:
    config = json.loads(family.config.read_text())
    kind = family.kind.config_class
    family.config.write_text(json.dumps(config | dict.fromkeys(kind.keys_before(), 0.1)))
    read = read_config(kind, family.config)
    assert not any(hasattr(read, key) for key in kind.keys_before())


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a"', "[" * 100_000, "\x00"])
def test_what_is_no_configuration_names_the_file(family: Family, text: str) -> None:
    family.config.write_text(text)
    family.refuses(str(family.config))


def test_sizes_are_compared_before_anything_is_read(family: Family) -> None:
    """The header of the weights says how large they are."""
    config = json.loads(family.config.read_text())
    for key, value in (
        ("intermediate_size", 60_000),
        ("n_items", 9_000_000),
        ("num_hidden_layers", 60),
    ):
        family.config.write_text(json.dumps(config | {key: value}))
        family.refuses(str(family.weights), "do not fit", "the first is")


def test_an_adapter_is_not_followed(family: Family) -> None:
    (family.model / "adapter_config.json").write_text("{}")
    family.refuses("adapter_config.json")


def test_an_encoder_of_texts_that_points_elsewhere_is_refused(
    originals: dict[str, Family], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "attn_implementation": "owner/kernel"}'
    )
    with pytest.raises(ValueError, match=r"config\.json has the keys \['attn_implementation'\]"):
        TextTunedShopper(member(originals["journey"].folder, 1), ("a",), tmp_path, "full")


# --- weights ---


def test_a_number_that_is_not_finite_is_named_with_its_tensor(family: Family) -> None:
    weights = load_file(family.weights)
    for name, tensor in weights.items():
        spoilt = tensor.clone()
        spoilt.view(-1)[-1] = math.nan if tensor.is_floating_point() else -1
        save_file(weights | {name: spoilt}, family.weights, {"format": "pt"})
        with pytest.raises(ValueError, match=rf"model\.safetensors: {name} holds (nan|-1)"):
            load_model(family.kind, family.model)
        if name.endswith("outer.bias"):
            with pytest.raises(ValueError, match=f"{name} holds nan"):
                AutoModel.from_pretrained(family.model)


def test_weights_of_another_type_are_refused_by_name(family: Family) -> None:
    weights = load_file(family.weights)
    for name, dtype in ((next(iter(weights)), torch.float16), (list(weights)[-1], torch.int32)):
        save_file(weights | {name: weights[name].to(dtype)}, family.weights, {"format": "pt"})
        family.refuses(str(family.weights), name, "it must be")


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    model().save_pretrained(str(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    weights["leave_head.spread"] = weights.pop("leave_head.slopes")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    named = (
        r"model\.safetensors: its tensors do not fit .*"
        r"\['leave_head.slopes', 'leave_head.spread'\]; the first is"
    )
    with pytest.raises(ValueError, match=rf"{named} not there, but it must be \(2,\)\.$"):
        load_model(SessionShopper, tmp_path)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    model().save_pretrained(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"head_size": 16}))
    with pytest.raises(
        ValueError,
        match=r"\['gap_head.inner.bias', .*the first is \(4,\), but it must be \(8,\)\.$",
    ):
        load_model(SessionShopper, tmp_path)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    made = model()
    made.save_pretrained(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(made.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        load_model(SessionShopper, tmp_path)


# --- the folder ---


def test_a_file_that_is_missing_empty_cut_or_junk_is_named(family: Family, tmp_path: Path) -> None:
    files = [path for path in sorted(family.folder.rglob("*")) if path.is_file()]
    for_fitting = ("case_control.parquet", "policy.parquet", "uniform.parquet", "facts.json")
    read = {path for path in files if path.name not in for_fitting}
    assert len(read) > 4
    for path in sorted(read):
        whole = path.read_bytes()
        path.unlink()
        family.refuses(path.name)
        for spoilt in (
            b"",
            whole[: len(whole) // 2],
            b"\xff" * 8 + whole,
            b"\x80\x04\x95" + whole,
            os.urandom(500),
        ):
            path.write_bytes(spoilt)
            family.refuses(path.name)
        path.write_bytes(whole)
    family.load(family.folder)


def test_a_catalogue_of_the_same_size_is_not_mistaken_for_the_models(family: Family) -> None:
    size = {SlateShopper: (40, 4, 8), SessionShopper: (12, 3, 4)}[family.kind]
    Catalog.synthetic(*size, torch.Generator().manual_seed(77)).save(family.folder)
    family.refuses(str(family.folder), "another catalog")


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        (torch.full((3, 2), math.nan), "declared holds nan at [0, 0]"),
        (torch.full((3, 2), 1.5), "declared holds 1.5 at [0, 0]"),
        (torch.zeros(0, 2), "declared"),
        (torch.zeros(3, 2, dtype=torch.float16), "declared is a float16 tensor"),
        (torch.zeros(3, 9), "declared has 9 numbers a shopper"),
    ],
)
def test_what_newcomers_declare_is_checked(
    originals: dict[str, Family], tmp_path: Path, declared: torch.Tensor, named: str
) -> None:
    market = originals["market"].copy(tmp_path / "copy")
    tensors = load_file(market.folder / FILE)
    number = len(declared)
    tensors |= {name: tensors[name][:number] for name in ("evaluation", "first_day", "length")}
    save_file(tensors | {"declared": declared}, market.folder / FILE)
    market.refuses(named)


def test_shoppers_without_a_row_are_refused(originals: dict[str, Family], tmp_path: Path) -> None:
    import polars as pl

    journey = originals["journey"].copy(tmp_path / "copy")
    shoppers = pl.read_parquet(journey.folder / "shoppers.parquet")
    cases = (
        (shoppers.head(0), "shoppers.parquet"),
        (shoppers.head(10), "baskets.parquet"),  # which name shoppers that the table does not have
        (shoppers.tail(10), "shoppers.parquet"),
    )
    for few, named in cases:
        few.write_parquet(journey.folder / "shoppers.parquet")
        journey.refuses(named, "shopper")


# --- transformers' own door ---


def test_a_key_that_older_transformers_add_when_they_read_is_known(family: Family) -> None:
    values = json.loads((family.model / "config.json").read_text())
    read = family.kind.config_class.from_dict(values | {"_commit_hash": None})
    own = set(read.own_keys()) & values.keys()
    assert own
    assert {name: read.to_dict()[name] for name in own} == {name: values[name] for name in own}


def test_transformers_knows_the_models_once_they_are_imported(family: Family) -> None:
    """As the model card says."""
    assert isinstance(AutoConfig.from_pretrained(family.model), family.kind.config_class)
    found, expected = AutoModel.from_pretrained(family.model), load_model(family.kind, family.model)
    assert type(found) is family.kind
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
