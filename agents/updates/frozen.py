"""Nothing is learned: what every update is compared with."""

from __future__ import annotations

from agents.updates.base import Update, register_update


@register_update("frozen")
class Frozen(Update):
    """Serves with the ranker of the first day for ever."""
