"""Which policies and agents can play in a place: the others are left out, and a line says why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agents import AGENTS
from agents.places import Site
from policies import POLICIES
from recsim_env.shoppers.base import Shopper


def playable(names: Iterable[str], site: Site, shopper: Shopper[Any] | None = None) -> list[str]:
    """Those registered policies and agents that find in a place what they need.

    Args:
        names: Names of policies and agents.
        site: The place.
        shopper: Its shoppers, for policies that read their hidden state.
    """
    found = []
    for name in names:
        lacking = (
            AGENTS[name].lacking(site.inputs, site.log)
            if name in AGENTS
            else POLICIES[name].lacking(site.inputs, shopper)
        )
        if lacking is None:
            found.append(name)
        else:
            print(f"{name} is left out: it needs {lacking}, which {site.env} does not have.")
    return found
