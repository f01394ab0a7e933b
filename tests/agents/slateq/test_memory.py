"""The replay memory gives every visit together with the next one of its shopper."""

from __future__ import annotations

import pytest
import torch

from agents.slateq.memory import ReplayMemory
from agents.slateq.values import Visits


@pytest.mark.parametrize("rounds_added", [3, 11])
def test_the_memory_gives_every_visit_with_the_next_of_its_shopper(rounds_added: int) -> None:
    rounds, shoppers = 4, 3
    memory = ReplayMemory(rounds)
    flags = torch.ones(shoppers, dtype=torch.bool)
    for at in range(rounds_added):
        name = 10.0 * at + torch.arange(shoppers).float()  # of the visit: its round and its shopper
        visits = Visits(
            name.unsqueeze(1), name.view(-1, 1, 1), name.unsqueeze(1), torch.full((shoppers, 1), at)
        )
        memory.add(
            visits,
            torch.zeros(shoppers, 1, dtype=torch.int64),
            flags.unsqueeze(1),
            name,
            ~flags,
            flags,
        )
    batch = memory.draw(500, torch.Generator().manual_seed(0))
    names = batch.visits.features.squeeze(1)
    assert torch.equal(batch.reward, names)
    assert torch.equal(batch.following.features.squeeze(1), names + 10)
    oldest = max(rounds_added - rounds, 0)
    expected = {
        10.0 * at + row for at in range(oldest, rounds_added - 1) for row in range(shoppers)
    }
    assert set(names.tolist()) == expected
