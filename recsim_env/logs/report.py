"""What is in a shop's log and what can be learned from it, told in seconds and without training."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from recsim_env import checks
from recsim_env.logs.findings import (
    BANDIT_KIND,
    FEEDBACK_KIND,
    TOPICS,
    Finding,
    Served,
    findings_of,
    kind_of,
    served_by,
)
from recsim_env.logs.plain.columns import column_names, missing
from recsim_env.logs.plain.reading import MOST_ROWS, MOST_SLATES, Plain, PlainLog, read_leniently
from recsim_env.logs.plain.sources import open_source
from recsim_env.logs.plain.visits import NO_SCENARIO

LARGE_SLATE = 200
"""Items of a slate from which on several slates have probably been taken for one."""
_FEEDBACK = ("rating", "ratings", "stars", "score", "purchase", "quantity")
"""Columns of logs that tell deeds without what was shown beside them."""
_WIDTH = 100
_BARS = 40
_MOST_SHOWN = 15


@dataclass(frozen=True)
class LogReport:
    """What `check_log` found. Printed, it is a text."""

    log: str
    """The file of the log."""
    catalog: str
    """The file of the catalogue."""
    kind: str
    """`impressions`, `ratings or purchases without exposures` or `bandit rows without users`."""
    counts: dict[str, Any]
    """Numbers of rows, slates, users and so on, by name."""
    by_position: tuple[tuple[int, int, int], ...]
    """Position from 0, items shown there, clicks on them."""
    policies: tuple[Served, ...]
    """What each logging policy did."""
    scenarios: dict[str, int]
    """Slates by scenario; empty where the log tells none."""
    dropped: tuple[tuple[str, int], ...]
    """Why rows are not used, and how many."""
    notes: tuple[str, ...]
    """How values that can be meant in several ways were read."""
    warnings: tuple[str, ...]
    """What looks wrong in the log, as sentences."""
    ignored: tuple[str, ...]
    """Columns of the log that are not known."""
    ignored_of_catalog: tuple[str, ...]
    """Columns of the catalogue that are not known."""
    findings: tuple[Finding, ...]
    """One for each of `recsim_env.logs.findings.TOPICS`."""

    def can(self, topic: str) -> bool:
        """Whether clicks, order, levels, leaving, returning or positions can be learned.

        Raises:
            ValueError: If `topic` is none of these.
        """
        return self.finding(topic).holds

    def finding(self, topic: str) -> Finding:
        """Return what was found about a topic.

        Raises:
            ValueError: If there is no such topic.
        """
        checks.choice("topic", topic, TOPICS)
        return next(finding for finding in self.findings if finding.topic == topic)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(_text(self))


def check_log(
    log: Plain,
    catalog: Plain,
    columns: Mapping[str, str] | str | None = None,
    *,
    time_zone: str | None = None,
    most_slates: int = MOST_SLATES,
    most_rows: int = MOST_ROWS,
    seed: int = 0,
) -> LogReport:
    """Tell what is in a log and what can be learned from it, in seconds and without training.

    The arguments are those of `recsim_env.logs.plain.read_plain`. A log from which nothing can be
    learned gives a report that says why: one without users or clicks, for example.

    Raises:
        TypeError: If `log` or `catalog` is neither a path nor a frame.
        ValueError: If another argument is not as said.
        LogError: If a file is not as said.
    """
    plain = read_leniently(
        log,
        catalog,
        columns=columns,
        time_zone=time_zone,
        most_slates=most_slates,
        most_rows=most_rows,
        seed=seed,
    )
    if "click" not in plain.columns:
        header = open_source(log, "log").header
        if not any(name.lower() in _FEEDBACK for name in header):
            raise missing("click", column_names(columns).get("click"), header, plain.name)
    return report_of(plain)


def report_of(plain: PlainLog) -> LogReport:
    """Tell what is in a log that was read."""
    kind = kind_of(plain)
    served = served_by(plain)
    scenario = plain.impressions["scenario"].value_counts(sort=True)
    scenarios = dict(scenario.iter_rows()) if "scenario" in plain.columns else {}
    counts = _counts(plain)
    return LogReport(
        log=plain.name,
        catalog=plain.catalog_name,
        kind=kind,
        counts=counts,
        by_position=tuple(plain.by_position.iter_rows()),
        policies=served,
        scenarios={name or NO_SCENARIO: int(count) for name, count in scenarios.items()},
        dropped=tuple((dropped.reason, dropped.rows) for dropped in plain.dropped),
        notes=plain.notes,
        warnings=tuple(_warnings(plain, kind, counts)),
        ignored=plain.ignored,
        ignored_of_catalog=plain.ignored_of_catalog,
        findings=findings_of(plain, kind, served),
    )


def _counts(plain: PlainLog) -> dict[str, Any]:
    table = plain.impressions
    sizes = table["slate"].list.len()
    by_user = table.group_by("shopper").agg(slates=pl.len(), visits=pl.col("visit").n_unique())
    shown = table.select("slate", "split").explode("slate")
    start, end = table.select(start=pl.col("time").min(), end=pl.col("time").max()).row(0)
    bought = table["purchase"].list.sum().sum() if "purchase" in plain.columns else None
    clicks = int(table["click"].list.sum().sum())
    training = shown.filter(pl.col("split") == "train")["slate"].n_unique()
    return {
        "rows": plain.rows,
        "slates": len(table),
        "shown": len(shown),
        "clicks": clicks,
        "click_rate": clicks / len(shown),
        "purchases": None if bought is None else int(bought),
        "users": len(by_user),
        "visits": int(by_user["visits"].sum()),
        "items": len(plain.items),
        "items_shown": shown["slate"].n_unique(),
        "items_shown_to_training_users": training,
        "categories": plain.items["path"].n_unique(),
        "slate_size": [int(sizes.min()), int(sizes.mode().max()), int(sizes.max())],  # type: ignore[arg-type]
        "slates_a_user": _spread(by_user["slates"]),
        "visits_a_user": _spread(by_user["visits"]),
        "first": start.isoformat(sep=" "),
        "last": end.isoformat(sep=" "),
        "days": (end.date() - start.date()).days + 1,
        "features": {feature.name: len(feature.names) for feature in plain.features},
    }


def _spread(values: pl.Series) -> list[float]:
    """The median, the mean and the largest."""
    return [float(values.median()), round(float(values.mean()), 2), float(values.max())]  # type: ignore[arg-type]


def _warnings(plain: PlainLog, kind: str, counts: Mapping[str, Any]) -> list[str]:
    """Say what looks wrong in times, slates and features."""
    table, said = plain.impressions, list(plain.problems)
    if "user" not in plain.columns:
        said.append(
            "The log has no column user: every row is taken for a user of its own. Where users "
            "have another name, say so with columns, as in 'user=customer'."
        )
    if "click" not in plain.columns:
        said.append("The log has no clicks: every row is taken for one.")
    elif kind == FEEDBACK_KIND and not plain.problems:
        said.append(
            f"{counts['click_rate']:.0%} of the rows are clicks and no user meets an item twice: "
            "the rows look like ratings and not like exposures."
        )

    # Times that tell nothing, or too little.
    times = table["time"]
    if times.n_unique() == 1:
        said.append(f"All times are {times[0]}: they tell nothing.")
    elif bool((times == times.dt.truncate("1d")).all()) and kind != BANDIT_KIND:
        said.append(
            "All times are midnights: without `session` and `page` all rows of a user's day are "
            "one slate."
        )
    latest: datetime.datetime = times.max()  # type: ignore[assignment]
    if latest > datetime.datetime.now() + datetime.timedelta(days=1):
        said.append(f"The log ends on {latest:%Y-%m-%d}, which is later than today.")

    # Slates that were put together wrongly, and items that only held-out users saw.
    if counts["slate_size"][2] > LARGE_SLATE:
        said.append(
            f"The largest slate has {counts['slate_size'][2]:,} items: rows of several slates have "
            "probably been taken together, which `session` and `page` would tell apart."
        )
    if counts["slate_size"][2] == 1 and kind != BANDIT_KIND:
        said.append(
            "Every slate has one item. Where the rows of a slate have times of their own, `page` "
            "or `position` must tell which of them belong together."
        )
    unseen = counts["items_shown"] - counts["items_shown_to_training_users"]
    if unseen:
        said.append(f"{unseen:,} items were shown to held-out users only.")
    return said


# ---- the text ------------------------------------------------------------------------------------


def _text(report: LogReport) -> list[str]:
    counts = report.counts
    lines = [f"{report.log} with {report.catalog}: {report.kind}", "", "In the log"]
    lines += _table(
        [
            ("rows", f"{counts['rows']:,}"),
            ("period", f"{counts['first']} to {counts['last']} ({counts['days']:,} days)"),
            ("users", f"{counts['users']:,}"),
            ("visits", f"{counts['visits']:,}; {_three(counts['visits_a_user'])} a user"),
            ("slates", f"{counts['slates']:,}; {_three(counts['slates_a_user'])} a user"),
            (
                "items a slate",
                "{} to {}, mostly {}".format(*(counts["slate_size"][i] for i in (0, 2, 1))),
            ),
            (
                "items",
                f"{counts['items']:,} in {counts['categories']:,} categories, "
                f"{counts['items_shown']:,} of them shown",
            ),
            ("clicks", _rate(counts["clicks"], counts["shown"])),
            *([] if counts["purchases"] is None else [("purchases", f"{counts['purchases']:,}")]),
            *_features(counts["features"]),
        ]
    )

    # Clicks by position, by policy and by scenario.
    lines += _positions(report) + _policies(report)
    if report.scenarios:
        told = ", ".join(f"{name} {count:,}" for name, count in report.scenarios.items())
        lines += ["", *_wrapped(f"Slates by scenario: {told}", "  ")]

    # How rows were read, which were left out, and what can be learned from the rest.
    for title, said in (
        ("How it was read", report.notes),
        ("Not used", [f"{rows:,} rows. {reason}" for reason, rows in report.dropped]),
        ("What looks wrong", report.warnings),
    ):
        lines += ["", title, *(line for text in said for line in _item(text))] if said else []
    for what, names in (("log", report.ignored), ("catalogue", report.ignored_of_catalog)):
        if names:
            lines += [
                "",
                *_wrapped(f"Unknown columns of the {what}, ignored: {', '.join(names)}", ""),
            ]
    lines += ["", "What can be learned"]
    for finding in report.findings:
        verdict = "can be learned: " if finding.holds else "cannot, because "
        lines += _wrapped(f"  {finding.topic:11s}{verdict}{finding.sentence}.", " " * 13)
    return lines


def _positions(report: LogReport) -> list[str]:
    rows = report.by_position[:_MOST_SHOWN]
    rates = [clicks / shown if shown else 0.0 for _, shown, clicks in rows]
    most = max(rates, default=0.0) or 1.0
    lines = ["", "Clicks by position"]
    for (position, shown, _), rate in zip(rows, rates, strict=True):
        bar = "#" * round(_BARS * rate / most)
        lines.append(f"  {position + 1:3d}  {rate:7.2%} of {shown:<10,} {bar}".rstrip())
    if len(report.by_position) > len(rows):
        lines.append(f"  and {len(report.by_position) - len(rows):,} positions more")
    return lines


def _policies(report: LogReport) -> list[str]:
    if not any(who.name for who in report.policies):
        who = report.policies[0]
        return ["", f"Policies: none is named; {_random(who)}"]
    lines = ["", "Policies"]
    width = max(len(str(who.name or "unknown")) for who in report.policies[:_MOST_SHOWN])
    lines += [
        f"  {who.name or 'unknown':{width}s}  {who.slates:9,} slates  "
        f"{who.clicks / who.slates:5.2f} clicks a slate  {_random(who)}"
        for who in report.policies[:_MOST_SHOWN]
    ]
    if len(report.policies) > _MOST_SHOWN:
        lines.append(f"  and {len(report.policies) - _MOST_SHOWN:,} policies more")
    return lines


def _random(who: Served) -> str:
    if who.random is None:
        return "too few slates to tell whether at random"
    if who.random:
        return "slates look drawn at random"
    if who.lift is not None:
        return f"not at random; first slates clicked {who.lift:.2f} times as often as at random"
    return "not at random"


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return [line for name, value in rows for line in _wrapped(f"  {name:15s}{value}", " " * 17)]


def _features(features: Mapping[str, int]) -> list[tuple[str, str]]:
    told = [f"{name} ({numbers} number{'s' * (numbers > 1)})" for name, numbers in features.items()]
    return [("known of users", ", ".join(told))] if told else []


def _rate(clicks: int, shown: int) -> str:
    return f"{clicks:,} on {shown:,} shown items ({clicks / shown:.2%})"


def _three(spread: list[float]) -> str:
    median, mean, most = spread
    return f"median {median:g}, mean {mean:g}, most {most:g}"


def _item(text: str) -> list[str]:
    return _wrapped(f"  - {text}", "    ")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
