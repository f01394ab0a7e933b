"""A ranker and a cue that read what the shop believes."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from policies import POLICIES, PolicyInputs
from policies.cues import CUES, CueInputs
from policies.features import Recent
from policies.rankers.belief import KEYS, BeliefRanker
from policies.rankers.files import kind_of, load_ranker, save_ranker
from tests.support.toys import toy_catalog

ITEMS, GROUPS = 31, 5


def observed() -> dict[str, torch.Tensor]:
    return {
        "candidates": torch.tensor([[4, 9, 2, -1], [7, 3, -1, -1]]),
        "belief_logits": torch.tensor([[0.5, -1.0, 2.0, -50.0], [0.1, 0.2, -50.0, -50.0]]),
        "belief_looks": torch.tensor([[1.0, 0.5], [1.0, 0.9]]),
        "belief_weary": torch.rand(2, GROUPS, generator=torch.Generator().manual_seed(0)),
    }


def test_it_ranks_by_the_belief() -> None:
    ranker = BeliefRanker()
    expected = [[0.5, -1.0, 2.0, -math.inf], [0.1, 0.2, -math.inf, -math.inf]]
    torch.testing.assert_close(ranker.logits(observed()), torch.tensor(expected))
    assert torch.equal(ranker.looks(observed()), observed()["belief_looks"])
    bare = {name: value for name, value in observed().items() if name != "belief_logits"}
    with pytest.raises(ValueError, match="it must have 'belief_logits' too"):
        ranker.logits(bare)


def test_its_file_needs_an_observation_with_a_belief(tmp_path: Path) -> None:
    path = tmp_path / "ranker.safetensors"
    save_ranker(BeliefRanker(), path)
    assert kind_of(path) == "belief"
    box = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    space = gymnasium.spaces.Dict(dict.fromkeys(KEYS, box))
    assert isinstance(load_ranker(path, toy_catalog(), space, 2), BeliefRanker)
    bare = gymnasium.spaces.Dict({"candidates": box})
    with pytest.raises(ValueError, match=r"lacks \['belief_logits', 'belief_looks'\]"):
        load_ranker(path, toy_catalog(), bare, 2)


def test_greedy_shows_what_is_believed_to_be_clicked() -> None:
    seen = observed()
    space = gymnasium.spaces.Dict(
        {
            "candidates": gymnasium.spaces.Box(-1, ITEMS - 1, (4,), np.int64),
            "belief_logits": gymnasium.spaces.Box(-50, 50, (4,), np.float32),
            "belief_looks": gymnasium.spaces.Box(0, 1, (2,), np.float32),
            "belief_weary": gymnasium.spaces.Box(0, 9, (GROUPS,), np.float32),
        }
    )
    greedy = POLICIES["greedy_ctr"].build(PolicyInputs(toy_catalog(), space, 2, BeliefRanker()))
    assert greedy(seen, torch.zeros(2, greedy.draws)).tolist() == [[2, 4], [3, 7]]


def test_the_cue_is_the_weariness_of_the_items_category() -> None:
    seen, catalog = observed(), toy_catalog()
    assert CUES["weary"].keys == ("belief_weary",)
    assert CUES["weary"].default == 0
    category_of_pool = torch.tensor([[0, 4, 2], [1, 1, 3]])
    slates = {"recent_slates": torch.full((2, 1, 2), -1), "recent_clicks": torch.zeros(2, 1, 2)}
    inputs = CueInputs(
        {**seen, **slates},
        Recent.of({**seen, **slates}),
        None,  # type: ignore[arg-type]
        catalog.category,
        category_of_pool,
        GROUPS,
        2,
    )
    weary = seen["belief_weary"]
    expected = torch.stack([weary[0, [0, 4, 2]], weary[1, [1, 1, 3]]])
    assert torch.equal(CUES["weary"].values(inputs), expected)
