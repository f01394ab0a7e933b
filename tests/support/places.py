"""Places of the league for tests."""

from __future__ import annotations

import pytest

from benchmarks.lab.places import PLACES, Place


def only(patch: pytest.MonkeyPatch, *places: Place) -> None:
    """Have the league know these places alone, for as long as the patch lasts."""
    for name in reversed(list(PLACES)):  # what is taken out first is put back last: the order stays
        patch.delitem(PLACES, name)
    for place in places:
        patch.setitem(PLACES, place.name, place)
