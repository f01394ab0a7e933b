"""What a reward term sees."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from recsim_env.catalog import Catalog

TABLES = ("embedding", "category", "cosines", "price", "popularity", "category_share")
"""Fields of `RewardInputs` that are tables of the catalogue; the others have a row a shopper."""


@dataclass(frozen=True)
class RewardInputs:
    """What a reward term sees.

    A field that is None is not known here, and a term that needs it raises a ValueError. What
    follows a visit (`days`, `left`) is known to rewards and never to the shop at that visit.

    Shapes: B shoppers, K positions, H remembered slates, L places of a cart, N items, E embedding
    width.
    """

    slates: Tensor
    """(B, K) int64 item ids, top position first."""
    shown: Tensor
    """(B, K) bool, False = a repeated item or no candidate."""
    clicks: Tensor
    """(B, K) bool, the responses; for a linear term also their chances, float32."""
    embedding: Tensor
    """(N, E) float32 of unit length, the catalogue's."""
    category: Tensor
    """(N,) int64, the catalogue's."""
    cosines: Tensor | None = None
    """(N, N) float32 of all pairs of items, where the catalogue is small; otherwise they come from
    `embedding`."""
    purchases: Tensor | None = None
    """(B, K) bool, what was bought of what was clicked; None where shoppers do not tell purchases
    from clicks (`Shopper.tells_purchases`)."""
    outside_reward: Tensor | None = None
    """(B,) float32, what somebody else's environment paid; None where the shoppers are our own."""
    price: Tensor | None = None
    """(N,) float32, the catalogue's; None where it does not know every price."""
    popularity: Tensor | None = None
    """(N,) float32, the catalogue's; None where it has no such column."""
    category_share: Tensor | None = None
    """(N,) float32, the share of the catalogue's items that are of the category of each item."""
    days: Tensor | None = None
    """(B,) float32, days until the next visit; until lapsing was certain, where `left`."""
    left: Tensor | None = None
    """(B,) bool, the shopper lapsed; for a linear term also the chance of it, float32."""
    discount: Tensor | None = None
    """(B,) float32, the share of its price that is off a bundle which is taken whole; None where
    slates are no bundles."""
    whole: Tensor | None = None
    """(B,) bool, the bundle was taken whole; for a linear term also the chance of it, float32."""
    recent_slates: Tensor | None = None
    """(B, H, K) int64, the slates that the shop remembered before this one, newest first; -1 where
    nothing was shown."""
    carried: Tensor | None = None
    """(B, L) int64, what was bought now from earlier slates of the visit, -1 padded; None where
    shoppers have no cart."""

    def rows(self) -> dict[str, Tensor]:
        """Return the fields that are known and have a row for each shopper, by name."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            name: value for name, value in told.items() if name not in TABLES and value is not None
        }


def catalog_tables(catalog: Catalog) -> dict[str, Tensor | None]:
    """Return the fields of `RewardInputs` that a catalogue fills, all but the cosines."""
    return {
        "embedding": catalog.embedding,
        "category": catalog.category,
        "price": catalog.known_price,
        "popularity": catalog.popularity,
        "category_share": catalog.category_share,
    }
