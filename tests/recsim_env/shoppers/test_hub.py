"""User models go to the Hub with a card, and come back by their id; nothing goes to the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCardData, constants
from huggingface_hub.repocard import RepoCard
from transformers import AutoModel

import recsim_env
from benchmarks.data.fit_market import market_card
from recsim_env.shoppers import hub
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.weights import load_model

DATA = Path(recsim_env.__file__).parent / "data"
FAMILIES: dict[str, Any] = {"complete_journey": SlateShopper, "market/model0": SessionShopper}
CARDS = ("complete_journey/README.md", "market/README.md")


class FakeHub:
    """Keeps what is uploaded in the layout of the Hub's cache, where reading by id finds it."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.told = cache, dict[str, Any]()

    def api(self, token: str | None = None) -> FakeHub:
        self.told["token"] = token
        return self

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        self.told |= {"private": private, "exist_ok": exist_ok}
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(
        self, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str
    ) -> Any:
        repository = self.cache / f"models--{repo_id.replace('/', '--')}"
        snapshot = repository / "snapshots" / ("a" * 40)
        files = [Path(folder_path) / name for name in allow_patterns]
        assert sorted(files) == sorted(Path(folder_path).iterdir())
        snapshot.mkdir(parents=True)
        for file in files:
            shutil.copy(file, snapshot)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("a" * 40)
        self.told["commit_message"] = commit_message
        url = f"https://huggingface.co/{repo_id}/commit/{'a' * 40}"
        return type("Commit", (), {"commit_url": url})


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A Hub in a folder, with the network switched off."""
    fake = FakeHub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return fake


@pytest.mark.parametrize("folder", FAMILIES)
def test_a_model_is_pushed_and_read_by_its_id(folder: str, fake_hub: FakeHub) -> None:
    model: Any = load_model(FAMILIES[folder], DATA / folder)
    address = model.push_to_hub("shop/user-model", token="secret")
    assert address == f"https://huggingface.co/shop/user-model/commit/{'a' * 40}"
    assert fake_hub.told == {
        "token": "secret",
        "private": True,
        "exist_ok": True,
        "commit_message": f"Upload a {model.config.model_type}",
    }
    found: Any = AutoModel.from_pretrained("shop/user-model", cache_dir=fake_hub.cache)
    assert type(found) is FAMILIES[folder]
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    card = next(fake_hub.cache.rglob("snapshots/*/README.md")).read_text()
    assert card == hub.card_of(model.config.model_type)


def test_a_card_of_ones_own_is_pushed(fake_hub: FakeHub) -> None:
    model: Any = load_model(SessionShopper, DATA / "market" / "model0")
    card = hub.card_of("session_shopper", data="My shop.", training={"seed": 3}, license="mit")
    model.push_to_hub("shop/mine", card=card, private=False)
    written = next(fake_hub.cache.rglob("snapshots/*/README.md")).read_text()
    assert written == card
    assert "## Data\n\nMy shop.\n" in written
    assert json.loads(written.split("```json\n")[1].split("```")[0]) == {"seed": 3}


def test_a_pushed_configuration_that_names_code_is_refused(fake_hub: FakeHub) -> None:
    model: Any = load_model(SessionShopper, DATA / "market" / "model0")
    model.push_to_hub("shop/evil")
    path = next(fake_hub.cache.rglob("snapshots/*/config.json"))
    content = json.loads(path.read_text()) | {"auto_map": {"AutoModel": "evil.Evil"}}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'auto_map'"):
        AutoModel.from_pretrained("shop/evil", cache_dir=fake_hub.cache)


@pytest.mark.parametrize("file", CARDS)
def test_the_cards_of_the_shipped_models_are_complete(file: str) -> None:
    card = RepoCard((DATA / file).read_text(), ignore_metadata_errors=False)
    fields: dict[str, Any] = vars(card.data)
    told = ModelCardData(**fields)
    assert (told.license, told.library_name) == ("mit", "transformers")
    assert told.tags is not None
    assert "recsim-env" in told.tags
    parts = card.text.split("\n## ")
    headings = [part.partition("\n")[0] for part in parts[1:]]
    assert headings[:3] == ["Use and limits", "Data", "Training"]
    assert headings[3].startswith("Held-out")
    assert all(len(part) > 100 for part in parts)
    assert "Not told." not in card.text
    assert hub.LIMITS in card.text


def test_the_card_of_the_market_is_what_its_fit_says() -> None:
    told = json.loads((DATA / "market" / "fit.json").read_text())
    assert (DATA / "market" / "README.md").read_text() == market_card(told)


def test_what_cannot_be_pushed_is_told(fake_hub: FakeHub) -> None:
    model: Any = load_model(SessionShopper, DATA / "market" / "model0")
    with pytest.raises(ValueError, match="repo_id is ''"):
        model.push_to_hub("")
    with pytest.raises(ValueError, match="model_type is 'bert', but it must be one of"):
        hub.card_of("bert")
    with pytest.raises(ValueError, match="card is ''"):
        model.push_to_hub("shop/mine", card="")
    assert fake_hub.told == {}
