"""Models in folders: what does not fit is refused, and pickles are not opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recsim_env.shoppers.session import SessionShopper
from recsim_env.shoppers.weights import load_model
from tests.test_session import model


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    model().save_pretrained(str(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    weights["leave_head.spread"] = weights.pop("leave_head.slopes")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError,
        match=r"model\.safetensors: its tensors do not fit a SessionShopper of this config\.json: \['leave_head.slopes', 'leave_head.spread'\]",
    ):
        load_model(SessionShopper, tmp_path)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    model().save_pretrained(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"head_size": 16}))
    with pytest.raises(
        ValueError, match=r"do not fit a SessionShopper of this config\.json: \['leave_head.inner.bias'"
    ):
        load_model(SessionShopper, tmp_path)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    made = model()
    made.save_pretrained(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(made.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        load_model(SessionShopper, tmp_path)
