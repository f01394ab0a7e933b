"""The columns of a shop's own log and catalogue, and the names that they have in its files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsim_env import checks
from recsim_env.logs.schema import LogError

USER_PREFIX = "user_"
"""Columns of the log that begin so hold what was known of a user before the visit."""
NO_FEATURE = "user_id"
"""A column of this name numbers the users: it is no feature although it begins with `user_`."""


@dataclass(frozen=True)
class PlainColumn:
    """One column of a plain table."""

    name: str
    meaning: str
    """What a value means, with its unit."""
    required: bool = False


LOG_COLUMNS = (
    PlainColumn("user", "who was shown the item: a text or a whole number", True),
    PlainColumn(
        "timestamp",
        "time of the exposure: YYYY-MM-DD HH:MM:SS with or without a zone, or seconds, ms, us or "
        "ns since 1970",
        True,
    ),
    PlainColumn("item", "what was shown: an item of the catalogue", True),
    PlainColumn("click", "0 or 1, true or false, yes or no, or a count of clicks", True),
    PlainColumn("session", "the visit; without it half an hour of silence ends a visit"),
    PlainColumn("page", "number of the slate within the visit"),
    PlainColumn(
        "position", "place of the item in its slate, from 0 or 1; without it the rows' order"
    ),
    PlainColumn("purchase", "whether the item was bought, written like a click"),
    PlainColumn("policy", "name of the policy that chose the slate"),
    PlainColumn(
        "propensity",
        "probability with which the policy put the item there, given the items above it",
    ),
    PlainColumn("scenario", "what kind of slate it was, such as `home` or `search`"),
    PlainColumn("query", "words that were searched for"),
    PlainColumn("cart", "items in the cart before the slate, as a text such as `milk|eggs`"),
    PlainColumn(
        "discount", "share of its price, from 0 to 1, that was off the slate if bought whole"
    ),
)
"""The log has one row an impressed item; `user_*` columns stand beside these."""

CATALOG_COLUMNS = (
    PlainColumn("item", "identifies the item, once in the table", True),
    PlainColumn("title", "what the shopper reads", True),
    PlainColumn("category", "the broadest category", True),
    PlainColumn("price", "currency units a piece"),
    PlainColumn("category2", "a category within `category`"),
    PlainColumn("category3", "a category within `category2`"),
    PlainColumn("brand", "maker of the item"),
    PlainColumn("embedding", "a vector of numbers: a list, or a text such as `0.1 0.2 -0.3`"),
)
"""The catalogue has one row an item."""

_LOG = {column.name for column in LOG_COLUMNS}
_CATALOG = {column.name for column in CATALOG_COLUMNS}
_OF_CATALOG = "catalog."


def column_names(columns: Mapping[str, str] | str | None) -> dict[str, str]:
    """Check which names the columns have in the user's files.

    Args:
        columns: Names by column, as a mapping or as the text `user=uid,item=sku`. `catalog.item`
            names the item column of the catalogue where it differs from that of the log.

    Returns:
        Names in the files by column; columns that keep their names are left out.

    Raises:
        ValueError: If a column is unknown or named twice, or a name is no text.
    """
    if columns is None:
        return {}
    if isinstance(columns, str):
        pairs = [pair.partition("=") for pair in columns.split(",") if pair.strip()]
        for name, equals, found in pairs:
            if not equals or not name.strip() or not found.strip():
                raise ValueError(
                    f"columns is {checks.told(columns)}, but it must be written as "
                    "column=name,column=name."
                )
        names = [name.strip() for name, _, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"columns is {checks.told(columns)}, but it must name {name!r} once."
                )
        columns = {name.strip(): found.strip() for name, _, found in pairs}
    named = checks.mapping("columns", columns)
    for name, found in named.items():
        checks.text(f"columns[{name!r}]", found)
        known = name in _LOG | _CATALOG or name.removeprefix(_OF_CATALOG) in _CATALOG
        if not known and not name.startswith(USER_PREFIX):
            raise ValueError(
                f"columns names {name!r}, but the columns are {', '.join(sorted(_LOG | _CATALOG))} "
                "and user_*."
            )
    return named


def log_columns(names: Mapping[str, str], header: Sequence[str], file: str) -> dict[str, str]:
    """Find the columns of the log in the header of its file.

    Args:
        names: What `column_names` returned.
        header: Names of the file's columns.
        file: The file that messages name.

    Returns:
        Names in the file by column, `user_*` columns included; required columns may be missing.

    Raises:
        LogError: If a name that was told is not in the file, or a column has two meanings.
    """
    told = {name: found for name, found in names.items() if name in _LOG or _is_feature(name)}
    _all_there(told, header, file)
    mapped = set(names.values())
    found = {name: told.get(name, name) for name in (c.name for c in LOG_COLUMNS)}
    features = {
        name: name
        for name in header
        if _is_feature(name) and name not in mapped and name not in _LOG
    }
    features |= {name: column for name, column in told.items() if _is_feature(name)}
    there = {
        name: column for name, column in {**found, **features}.items() if column in set(header)
    }
    _one_meaning_each(told, there, file)
    return there


def catalog_columns(names: Mapping[str, str], header: Sequence[str], file: str) -> dict[str, str]:
    """Find the columns of the catalogue in the header of its file.

    The item column is the one that was told for the catalogue, else `item`, else the one of the
    log.

    Raises:
        LogError: If a name that was told is not in the file, a column has two meanings, or a
            required column is missing.
    """
    told = {
        name.removeprefix(_OF_CATALOG): found
        for name, found in names.items()
        if name.startswith(_OF_CATALOG) or name in _CATALOG - _LOG
    }
    _all_there(told, header, file)
    if "item" not in told and "item" not in header and names.get("item") in header:
        told["item"] = names["item"]
    found = {column.name: told.get(column.name, column.name) for column in CATALOG_COLUMNS}
    there = {name: column for name, column in found.items() if column in set(header)}
    _one_meaning_each(told, there, file)
    for column in CATALOG_COLUMNS:
        if column.required and column.name not in there:
            raise missing(column.name, told.get(column.name), header, file, of_catalog=True)
    return there


def missing(
    name: str, told: str | None, header: Sequence[str], file: str, *, of_catalog: bool = False
) -> LogError:
    """Make the error for a required column that a file does not have; it guesses at the name."""
    known = CATALOG_COLUMNS if of_catalog else LOG_COLUMNS
    meaning = next(column.meaning for column in known if column.name == name)
    free = [column for column in header if column not in {one.name for one in known}]
    alike = difflib.get_close_matches(told or name, free, 1, 0.5)
    prefix = _OF_CATALOG if of_catalog and name in _LOG else ""
    guess = (
        f" (is it {alike[0]!r}? then say columns {prefix}{name}={alike[0]})"
        if alike
        else f" (if it has another name, say columns {prefix}{name}=NAME)"
    )
    found = checks.told(list(header))
    return LogError(
        f"{file}: column '{told or name}': found no such column among {found}{guess}, "
        f"expected {meaning}."
    )


def _is_feature(name: str) -> bool:
    return name.startswith(USER_PREFIX) and name not in (NO_FEATURE, USER_PREFIX)


def _one_meaning_each(told: Mapping[str, str], there: Mapping[str, str], file: str) -> None:
    """Raise LogError where one column of the file would be read as two things."""
    meanings: dict[str, str] = {}
    for name, column in there.items():
        other = meanings.setdefault(column, name)
        if other != name:
            new, old = (name, other) if name in told else (other, name)
            raise LogError(
                f"{file}: column '{column}': columns says that it is {new}, but it is {old} too: "
                f"say which column is {old}."
            )


def _all_there(told: Mapping[str, str], header: Sequence[str], file: str) -> None:
    for name, found in told.items():
        if found not in header:
            raise LogError(
                f"{file}: column '{found}': found no such column among "
                f"{checks.told(list(header))}, but columns says that it is {name}."
            )
