"""The configuration of the household model: sizes, dropout, calibration, facts of its log."""

from __future__ import annotations

from typing import Any

from recsim_env import checks
from recsim_env.logs.facts import LogFacts
from recsim_env.shoppers.encoder import EncoderConfig
from recsim_env.shoppers.gaps import GapBins
from recsim_env.shoppers.household.features import RECENCIES, SHARES
from recsim_env.shoppers.weights import MOST

LOGIT = 50.0
"""Largest shift of a logit or a log rate by calibration: exponentials of more overflow in sums."""


class SlateShopperConfig(EncoderConfig):
    """The configuration of the household model, `SlateShopper`.

    The names of keys stay as they were saved first: `explore_calibration` belongs to new items.

    Args:
        n_items, n_categories: size of the catalogue
        text_width: width of the text embeddings that the item vectors start from
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the encoder over
            visits
        window: visits that a visit can attend to, itself among them
        head_size: width of the slate head
        head_width: width of each attention head; 0 means its share of the hidden size, as in
            configurations of earlier versions
        use_text, use_counters: False removes the input (ablations)
        use_habit: whether the gap head reads `gap_habit`; configurations of earlier versions did
            not
        use_cold_head: whether there is a head for items that nobody knows; models of earlier
            versions have none
        dropout, gap_dropout, id_dropout: training only; chance to hide activations of the encoder
            and of the gap head, and an item's id
        slate_calibration, cold_calibration: scale and shift of the logits of the slate head and of
            the cold head, fitted on validation weeks
        explore_calibration, gap_calibration: shift of the log rates of new items and of the log
            hazards, likewise
        repeat_ceilings: upper bounds of the chance to buy an item again outside a slate, by
            `repeat_bucket`: where nothing outside is promoted, and where promotions are as in the
            log; likewise
        gap_edges, lapse_days: see `GapBins`; configurations of earlier versions lack them
        facts: `LogFacts.to_json` of the log that the model is fitted to; configurations of earlier
            versions lack it, and were fitted to the Complete Journey log
    """

    model_type = "slate_shopper"

    def __init__(
        self,
        n_items: int = 8,
        n_categories: int = 2,
        text_width: int = 384,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        intermediate_size: int = 256,
        window: int = 64,
        head_size: int = 64,
        head_width: int = 0,
        use_text: bool = True,
        use_counters: bool = True,
        use_habit: bool = True,
        use_cold_head: bool = True,
        dropout: float = 0.1,
        gap_dropout: float = 0.1,
        id_dropout: float = 0.15,
        slate_calibration: tuple[float, float] = (1.0, 0.0),
        cold_calibration: tuple[float, float] = (1.0, 0.0),
        explore_calibration: float = 0.0,
        gap_calibration: float = 0.0,
        repeat_ceilings: tuple[tuple[float, ...], ...] = ((1.0,) * SHARES * RECENCIES,) * 2,
        gap_edges: tuple[int, ...] = GapBins.edges,
        lapse_days: int = GapBins.lapse_days,
        facts: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Sizes.
        self.set_sizes(
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
            window=window,
            dropout=dropout,
            head_width=head_width,
        )
        self.n_items = checks.whole("n_items", n_items, 1, MOST["items"])
        self.n_categories = checks.whole("n_categories", n_categories, 1, MOST["items"])
        self.text_width = checks.whole("text_width", text_width, 1, MOST["width"])
        self.head_size = checks.whole("head_size", head_size, 2, MOST["width"])

        # What is left out, always or in training.
        self.use_text = checks.flag("use_text", use_text)
        self.use_counters = checks.flag("use_counters", use_counters)
        self.use_habit = checks.flag("use_habit", use_habit)
        self.use_cold_head = checks.flag("use_cold_head", use_cold_head)
        self.gap_dropout = checks.number("gap_dropout", gap_dropout, 0, 1)
        self.id_dropout = checks.number("id_dropout", id_dropout, 0, 1)

        # Calibration.
        self.slate_calibration = _line("slate_calibration", slate_calibration)
        self.cold_calibration = _line("cold_calibration", cold_calibration)
        self.explore_calibration = checks.number(
            "explore_calibration", explore_calibration, -LOGIT, LOGIT
        )
        self.gap_calibration = checks.number("gap_calibration", gap_calibration, -LOGIT, LOGIT)
        unpromoted, promoted = checks.several("repeat_ceilings", repeat_ceilings, 2)
        self.repeat_ceilings: tuple[tuple[float, ...], ...] = (
            _ceilings(0, unpromoted),
            _ceilings(1, promoted),
        )

        # The log.
        bins = GapBins(gap_edges, lapse_days)
        self.gap_edges, self.lapse_days = bins.edges, bins.lapse_days
        self.facts = None if facts is None else LogFacts.of_json(facts).to_json()

    @property
    def gap_bins(self) -> GapBins:
        """The bins of the hazard of the next visit."""
        return GapBins(self.gap_edges, self.lapse_days)

    @property
    def log_facts(self) -> LogFacts:
        """The facts of the log that the model is fitted to.

        Raises:
            ValueError: If the configuration has none.
        """
        if self.facts is None:
            raise ValueError(
                "facts is None, but a model needs the facts of the log it is fitted to."
            )
        return LogFacts.of_json(self.facts)

    @classmethod
    def keys_before(cls) -> tuple[str, ...]:
        """Return the keys of earlier versions that are none any more."""
        return ("unknown_dropout",)

    @classmethod
    def values_before(cls) -> dict[str, Any]:
        """Return the values of keys that configurations of earlier versions lack."""
        from recsim_env.logs.complete_journey import FACTS

        bins = GapBins()
        return {
            "head_width": 0,
            "gap_edges": list(bins.edges),
            "lapse_days": bins.lapse_days,
            "facts": FACTS.to_json(),
            "cold_calibration": [1.0, 0.0],
            "use_habit": False,
            "use_cold_head": False,
        }


def _line(name: str, values: object) -> tuple[float, float]:
    """Check a scale and a shift of logits."""
    scale, shift = checks.several(name, values, 2)
    return (
        checks.number(f"{name}[0]", scale, -LOGIT, LOGIT),
        checks.number(f"{name}[1]", shift, -LOGIT, LOGIT),
    )


def _ceilings(row: int, values: object) -> tuple[float, ...]:
    name = f"repeat_ceilings[{row}]"
    several = checks.several(name, values, SHARES * RECENCIES)
    return tuple(
        checks.number(f"{name}[{place}]", value, 0, 1) for place, value in enumerate(several)
    )
