"""Markdown tables in which every number shows as many digits as are known of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import polars as pl

from recsim_env.estimates import Estimate

EQUAL = 1e-9
"""Part of a figure below which a difference is a rounding error."""


def markdown(
    rows: pl.DataFrame | Sequence[Mapping[str, object]],
    columns: Sequence[str] | Mapping[str, str] | None = None,
    *,
    digits: int = 2,
) -> str:
    """A markdown table of `rows`, numbers to the right.

    columns: which columns, in this order; a mapping also names their headers. All of the first row
        by default.
    digits:  significant digits of a float, and of half an estimate's interval. An estimate reads
             `53.0 [51.8, 54.3]`; all estimates of a column show the same number of decimals.
    """
    lines = list(rows.iter_rows(named=True)) if isinstance(rows, pl.DataFrame) else list(rows)
    if columns is None:
        columns = list(lines[0]) if lines else []
    headers = columns if isinstance(columns, Mapping) else {name: name for name in columns}
    if not headers:
        raise ValueError("a table needs columns: give rows, or name the columns")
    cells = {name: _column([line[name] for line in lines], digits) for name in headers}
    numeric = {name: any(_is_number(line[name]) for line in lines) for name in headers}
    table = [
        [_escape(header) for header in headers.values()],
        ["---:" if numeric[name] else "---" for name in headers],
        *([cells[name][i] for name in headers] for i in range(len(lines))),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Estimate)) and not isinstance(value, bool)


def _column(values: Sequence[object], digits: int) -> list[str]:
    estimates = [value for value in values if isinstance(value, Estimate)]
    widths = [(one.high - one.low) / 2 for one in estimates]
    # an interval of rounding errors has no digits to show
    least = EQUAL * max((abs(one.value) for one in estimates), default=0.0)
    widths = [width for width in widths if width > least]
    decimals = max((_decimals(width, digits) for width in widths), default=None)
    return [_cell(value, digits, decimals) for value in values]


def _cell(value: object, digits: int, decimals: int | None) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return _number(value, _decimals(value, digits))
        case Estimate():
            places = _decimals(value.value, digits + 1) if decimals is None else decimals
            centre = _number(value.value, places)
            if math.isnan(value.low):
                return centre
            return f"{centre} [{_number(value.low, places)}, {_number(value.high, places)}]"
        case _:
            return _escape(str(value))


def _decimals(value: float, digits: int) -> int:
    """Decimal places that show `digits` significant digits of `value`."""
    if not math.isfinite(value) or value == 0:
        return 0
    exponent = int(
        f"{value:.{digits - 1}e}".partition("e")[2]
    )  # after rounding: 0.0999... counts as 0.10
    return max(0, digits - 1 - exponent)


def _number(value: float, places: int) -> str:
    return f"{value:,.{places}f}" if math.isfinite(value) else "–"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
