"""A placement code is a display and a mailer."""

from __future__ import annotations

import torch

from recsim_env.logs.complete_journey import FACTS
from recsim_env.logs.placements import display_of, mailer_of


def test_a_placement_is_taken_apart_as_it_was_put_together() -> None:
    displays, mailers = FACTS.placements
    display = torch.arange(displays).repeat_interleave(mailers)
    mailer = torch.arange(mailers).repeat(displays)
    placement = display * mailers + mailer
    assert placement.tolist() == list(range(displays * mailers))
    assert torch.equal(display_of(placement, mailers), display)
    assert torch.equal(mailer_of(placement, mailers), mailer)
