"""What a frame shows of a visit, before it is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from recsim_env.shoppers.base import Description, counted
from recsim_env.types import Outcome

if TYPE_CHECKING:
    from recsim_env.explaining import Explanation
    from recsim_env.simulator import SlateSimulator

MOST_REASONS = 2
"""Causes of a response that a frame names."""


@dataclass(frozen=True)
class Why:
    """A cause of a response as it is drawn."""

    name: str
    times: str
    """The factor by which it moved the chance, such as x1.4."""
    raised: bool
    """Whether it made the response likelier."""


@dataclass(frozen=True)
class Card:
    """A position of the slate as it is drawn."""

    title: str
    """The item's text up to its first semicolon."""
    details: str
    """The rest of the text, less what its category path says anyway."""
    category: str
    shade: int
    """Index of the category, for its colour."""
    price: float
    """Currency units; NaN where unknown."""
    shown: bool
    """False for a repeated item, and for one that is no candidate."""
    bought: bool
    reasons: tuple[Why, ...] = ()
    """What moved the response most, the strongest first; empty where it is not explained."""


@dataclass(frozen=True)
class Ending:
    """The end of a visit as it is drawn."""

    reward: float
    terms: dict[str, float]
    elsewhere: int
    gap_days: float
    day: float
    lapsed: bool
    truncated: bool
    carried: int = 0

    @property
    def sentence(self) -> str:
        """What the shopper does next, in words."""
        if self.lapsed:
            return "lapsed: does not come back"
        if self.gap_days == 0 and not self.truncated:
            return "stays: the next slate comes on the same day"
        days = counted(round(self.gap_days), "day")
        return f"comes back after {days}" + (", beyond the horizon" if self.truncated else "")

    @property
    def besides(self) -> str:
        """What was bought outside of the slate, in words; empty where nothing was."""
        counts = {
            "from earlier pages": self.carried,
            "elsewhere in the store": self.elsewhere - self.carried,
        }
        return ", ".join(f"{count} more bought {where}" for where, count in counts.items() if count)


@dataclass(frozen=True)
class Scene:
    """Everything that a frame shows of a shopper."""

    description: Description
    """The shopper and the visit, before the slate."""
    candidates: int
    """How many items could have been shown."""
    slate_size: int
    """Positions of a slate, which the picture leaves room for."""
    cards: tuple[Card, ...] = ()
    """The slate, top position first; empty where the shopper has just arrived."""
    ending: Ending | None = None
    """None where the shopper has just arrived."""
    bundles: bool = False
    """Whether slates are bundles, which the picture leaves room for."""
    explained: bool = False
    """Whether responses are explained, which the picture leaves room for."""
    bundle: tuple[str, ...] = ()
    """Where the slate was a bundle: its price, what was taken, and why it goes together."""

    def says(self, key: str) -> str:
        """Return a string of the description; it is empty where the shopper model has none."""
        value = self.description.get(key, "")
        return value if isinstance(value, str) else ", ".join(value)

    @property
    def history(self) -> list[str]:
        """What the shopper did lately, newest first."""
        lines = self.description.get("history", [])
        return [lines] if isinstance(lines, str) else lines

    @property
    def remarks(self) -> list[str]:
        """Further strings of the description, each with its key."""
        known = ("shopper", "date", "store", "history")
        return [f"{key}: {self.says(key)}" for key in self.description if key not in known]


def arrival(
    simulator: SlateSimulator, row: int, *, hidden: bool = False, explained: bool = False
) -> Scene:
    """Return the scene of a shopper who has just come in.

    Args:
        simulator: The simulator.
        row: The row of the shopper.
        hidden: Whether it shows what agents must not see.
        explained: Whether the responses of the visit will be explained.
    """
    candidates = int((simulator.candidates[row] >= 0).sum())
    description = simulator.describe(row, hidden=hidden)
    bundles = bool(simulator.discounts)
    return Scene(
        description, candidates, simulator.slate_size, bundles=bundles, explained=explained
    )


def visit(
    simulator: SlateSimulator,
    row: int,
    before: Scene,
    slates: Tensor,
    outcome: Outcome,
    explanation: Explanation | None = None,
) -> Scene:
    """Return the scene of a visit that has just ended.

    Args:
        simulator: The simulator.
        row: The row of the shopper.
        before: The row's `arrival`, taken before the step.
        slates: (B, K), as they were ordered, or (B, K + 1) of bundles.
        outcome: What the visit led to.
        explanation: What moved the responses, asked before the step; None where nobody asks.
    """
    episodes = simulator.episodes
    items = slates[row, : simulator.slate_size].tolist()
    shown = (episodes.recent_slates[row, 0] >= 0).tolist()
    bought = episodes.recent_clicks[row, 0].tolist()
    cards = tuple(
        _card(simulator, *position) for position in zip(items, shown, bought, strict=True)
    )
    if explanation is not None:
        cards = tuple(
            replace(card, reasons=_reasons(explanation, row, place))
            for place, card in enumerate(cards)
        )
    bundle = _bundle(simulator, row, items, cards, outcome) if simulator.discounts else ()
    return replace(before, cards=cards, ending=_ending(row, outcome), bundle=bundle)


def _reasons(explanation: Explanation, row: int, position: int) -> tuple[Why, ...]:
    felt = explanation.felt(row, position, MOST_REASONS)
    return tuple(Why(reason.name, reason.times, reason.factor > 1) for reason in felt)


def _bundle(
    simulator: SlateSimulator, row: int, items: list[int], cards: tuple[Card, ...], outcome: Outcome
) -> tuple[str, ...]:
    """Return the lines of a bundle: its price, what was taken, and why it goes together."""
    shown = [card for card in cards if card.shown]
    price, discount = sum(card.price for card in shown), outcome.info["discount"][row].item()
    offer = f"the bundle costs {price * (1 - discount):.2f}"
    if discount > 0:
        offer += f", {discount:.0%} off {price:.2f}"
    taken = sum(card.bought for card in shown)
    if bool(outcome.info["whole"][row]):
        answer = "taken whole"
    elif taken:
        answer = f"{taken} of {counted(len(shown), 'item')} taken, each at its own price"
    else:
        answer = "nothing taken"
    seen = [item for item, card in zip(items, cards, strict=True) if card.shown]
    why = simulator.shopper.goes_together(seen) or ["nothing in it goes together"]
    return f"{offer}: {answer}", "; ".join(why)


def _card(simulator: SlateSimulator, item: int, shown: bool, bought: bool) -> Card:
    catalog = simulator.catalog
    shade = int(catalog.category[item])
    return Card(
        title=catalog.text[item].split("; ")[0],
        details=_details(catalog.text[item], catalog.path[item]),
        category=catalog.category_name(shade),
        shade=shade,
        price=float(catalog.price[item]),
        shown=shown,
        bought=bought,
    )


def _details(text: str, path: str) -> str:
    levels = path.split("/")
    return "; ".join(
        part for part in text.split("; ")[1:] if part.replace("/", " & ") not in levels
    )


def _ending(row: int, outcome: Outcome) -> Ending:
    info = {name: value[row].item() for name, value in outcome.info.items()}
    prefix, carried = "reward_terms/", outcome.response.carried
    return Ending(
        reward=outcome.reward[row].item(),
        terms={
            name.removeprefix(prefix): value
            for name, value in info.items()
            if name.startswith(prefix)
        },
        elsewhere=int(info["elsewhere"]),
        carried=0 if carried is None else int((carried[row] >= 0).sum()),
        gap_days=info["gap_days"],
        day=info["day"],
        lapsed=bool(outcome.terminated[row]),
        truncated=bool(outcome.truncated[row]),
    )
