"""`report.md` and one self-contained `report.html` of the findings about a simulator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from recsim_env.estimates import Estimate
from recsim_env.files import write_text
from recsim_env.verdicts.closed_loop import ClosedLoop
from recsim_env.verdicts.counterfactual import Counterfactual
from recsim_env.verdicts.figures import drawable, figures
from recsim_env.verdicts.findings import Findings, SampledVisit
from recsim_env.verdicts.ratios import Ratio
from recsim_env.verdicts.scores import Score

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, names of the columns, and rows of a table."""
MARKS = {"yes": "✓", "no": "✗", "cannot tell": "?"}
EXPLAINED = {
    "Clicks": (
        "Held-out users. The lead is the simulator's score less that of the model in the row, on "
        "the same bootstrap samples of users. AUC is the chance that a click is ranked above a "
        "non-click; normalised entropy is log loss over that of always saying the mean click "
        "rate; ratio is predicted over observed clicks."
    ),
    "Leaving": "The chance of leaving after a slate, beside a table of leave rates.",
    "Predicted over observed clicks": (
        "1 is right. First slates are those of all users, those who were learned from among them. "
        "There nothing but the slate itself tells policies from each "
        "other, so differences there mean that policies used what the log does not hold, or what "
        "the model has not learned."
    ),
    "Closed loop": (
        "Logging policies played again by imitation: a simulated user is shown what the policy "
        "showed at the same visit to logged users with the most similar history."
    ),
    "Counterfactual": "The model was fitted without the policy, and predicted its users.",
    "Members": "Clicks of a user in the simulator of each member of the ensemble.",
}
"""What the tables mean, by the beginning of their titles."""
EXPLAIN = "In the simulator, recsim_env.explain(simulator, slates) tells what moved each response."


def write_report(findings: Findings, folder: Path | str, *, title: str = "Simulator") -> list[Path]:
    """Write `report.md` and `report.html` into a folder.

    Args:
        findings: What was found.
        folder: Where they are written.
        title: Name of the simulator.

    Returns:
        The two files.
    """
    paths = [Path(folder) / f"report.{end}" for end in ("md", "html")]
    write_text(paths[0], as_markdown(findings, title))
    write_text(paths[1], as_html(findings, title))
    return paths


# ---- tables --------------------------------------------------------------------------------------


def tables(findings: Findings) -> list[Table]:
    """Lay out every table that there are numbers for, as text."""
    found: list[Table] = [_scores("Clicks", findings.clicks)]
    if findings.leaving:
        found.append(_scores("Leaving", findings.leaving))
    if findings.leaving_by_visit:
        title = "Predicted over observed leavings by number of the slate"
        names = ("slate", "slates", "left after it", "predicted", "(predicted + 10) / (left + 10)")
        found.append((title, names, [_of_ratio(one) for one in findings.leaving_by_visit]))
    columns = ("group", "items shown", "clicks", "predicted", "predicted / observed")
    for title, groups in findings.ratios.items():
        rows = [_of_ratio(one) for one in groups]
        found.append((f"Predicted over observed clicks by {title}", columns, rows))

    # The simulator at work, hidden policies, and the members of an ensemble.
    if findings.closed_loop:
        head = ("policy", "users", "clicks a user", "ratio", "slates a user", "ratio of slates")
        loops = [_of_loop(one) for one in findings.closed_loop]
        found.append(("Closed loop: simulated / held-out users", head, loops))
    if findings.counterfactual:
        head = ("hidden policy", "episodes without it", "its users", "clicks", "AUC", "ratio")
        hidden = [_of_hidden(one) for one in findings.counterfactual]
        found.append(("Counterfactual: fitted without a policy", head, hidden))
    if findings.spread:
        spread: list[tuple[str, ...]] = [
            (one.policy, ", ".join(f"{value:.2f}" for value in one.members), f"{one.spread:.1%}")
            for one in findings.spread
        ]
        found.append(("Members of the ensemble", ("policy", "clicks a user", "spread"), spread))
    return found


def _of_ratio(one: Ratio) -> tuple[str, ...]:
    return (
        one.group,
        f"{one.rows:,}",
        f"{one.observed:,}",
        f"{one.predicted:,.0f}",
        told(one.ratio, 2),
    )


def _of_loop(one: ClosedLoop) -> tuple[str, ...]:
    return (
        one.policy,
        f"{one.users[0]:,} / {one.users[1]:,}",
        f"{one.simulated['clicks']:.2f} / {one.observed['clicks']:.2f}",
        told(one.ratio["clicks"], 2),
        f"{one.simulated['visits']:.1f} / {one.observed['visits']:.1f}",
        told(one.ratio["visits"], 2),
    )


def _of_hidden(one: Counterfactual) -> tuple[str, ...]:
    return (
        one.policy,
        f"{one.episodes[0]:,}",
        f"{one.episodes[1]:,}",
        f"{one.clicks:,}",
        f"{one.auc:.3f}",
        told(one.ratio, 2),
    )


def _scores(title: str, scores: Sequence[Score]) -> Table:
    names = list(dict.fromkeys(one.model for one in scores))
    at = {(one.model, one.metric): one for one in scores}
    rows: list[tuple[str, ...]] = []
    for name in names:
        auc, ne, ratio = (at[name, metric] for metric in ("auc", "ne", "ratio"))
        lead = "" if auc.lead is None else told(auc.lead, 3, sign=True)
        rows.append((name, told(auc.value), lead, told(ne.value), told(ratio.value, 2)))
    return title, ("model", "AUC", "lead in AUC", "normalised entropy", "ratio"), rows


def told(estimate: Estimate, digits: int = 3, *, sign: bool = False) -> str:
    """Write a figure with its interval; a dash where it is not defined."""
    if not math.isfinite(estimate.value):
        return "–"
    plus = "+" if sign else ""
    value = f"{estimate.value:{plus}.{digits}f}"
    if math.isnan(estimate.low):
        return value
    return f"{value} [{estimate.low:{plus}.{digits}f}, {estimate.high:{plus}.{digits}f}]"


# ---- Markdown ------------------------------------------------------------------------------------


def as_markdown(findings: Findings, title: str) -> str:
    """Write the findings as Markdown, without figures."""
    lines = [f"# {title}: what it can be trusted with", "", "| | question | answer |"]
    lines += ["| --- | --- | --- |"]
    lines += [
        f"| {MARKS[one.answer]} {one.answer} | {one.topic} | {_cell(one.sentence)} |"
        for one in findings.verdicts
    ]
    lines += ["", _counts(findings), ""]
    lines += [f"- {note}" for note in findings.notes]
    explained = set()
    for name, columns, rows in tables(findings):
        lines += ["", f"## {name}", ""]
        for start, text in EXPLAINED.items():
            if name.startswith(start) and start not in explained:
                explained.add(start)
                lines += [text, ""]
        lines += [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    if findings.visits:
        lines += ["", "## Sampled slates", "", "Clicked items are **bold**; the predicted chance"]
        lines += [f"of a click stands behind each item. {EXPLAIN}", ""]
    for visit in findings.visits:
        lines += [f"- {_cell(_heading(visit))}"]
        for place, item in enumerate(visit.items, 1):
            mark = "**" if item.clicked else ""
            lines += [f"  {place}. {mark}{_cell(item.title)}{mark} ({item.chance:.0%})"]
    return "\n".join(lines).strip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _counts(findings: Findings) -> str:
    """A sentence for each part of the log, whose name begins the names of its counts."""
    parts: dict[str, list[str]] = {}
    for name, number in findings.counts.items():
        part, _, what = name.partition(" ")
        parts.setdefault(part, []).append(f"{number:,} {what}")
    return " ".join(f"{part.capitalize()}: {', '.join(told)}." for part, told in parts.items())


def _heading(visit: SampledVisit) -> str:
    return f"user {visit.user}, slate {visit.visit + 1}, policy {visit.policy}"


# ---- HTML ----------------------------------------------------------------------------------------

STYLE = """
:root { --ink: #1f2933; --muted: #627282; --line: #e1e6eb; --soft: #f5f7f9; --blue: #2463a5;
  --yes: #1a7f4b; --no: #c2410c; --maybe: #8a6d1a; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 15px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .4rem; padding-top: 1rem; border-top: 1px solid
  var(--line); }
h3 { font-size: .95rem; margin: 1.6rem 0 .3rem; }
p { margin: .4rem 0; } .muted { color: var(--muted); font-size: .87rem; }
.verdicts { display: grid; gap: .6rem; margin: 1.4rem 0; }
.verdict { display: grid; grid-template-columns: 7.2rem 1fr; gap: 1rem; padding: .75rem 1rem;
  background: var(--soft); border-left: 4px solid var(--maybe); border-radius: 4px; }
.verdict b { color: var(--maybe); } .verdict.yes { border-color: var(--yes); }
.verdict.yes b { color: var(--yes); } .verdict.no { border-color: var(--no); }
.verdict.no b { color: var(--no); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; margin: .5rem 0 .2rem; width: 100%;
  font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--muted); border-bottom: 2px solid var(--line);
  padding: .3rem .6rem; vertical-align: bottom; }
td { text-align: right; border-bottom: 1px solid var(--line); padding: .28rem .6rem;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
details summary { cursor: pointer; color: var(--blue); font-size: .87rem; margin-top: .3rem; }
figure { margin: .6rem 0; } figure svg { max-width: 100%; height: auto; }
.slates { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr));
  gap: .9rem; margin-top: 1rem; }
.slate { border: 1px solid var(--line); border-radius: 6px; padding: .7rem .8rem; }
.slate h3 { margin: 0 0 .4rem; font-size: .82rem; color: var(--muted); font-weight: 600; }
.slate ol { margin: 0; padding: 0; list-style: none; font-size: .82rem; }
.slate li { display: grid; grid-template-columns: 1.3rem 1fr auto; gap: .4rem; padding: .16rem
  .3rem; border-radius: 3px; background: linear-gradient(to right, #dbe8f5 var(--chance, 0%),
  transparent 0); }
.slate li span:first-child { color: var(--muted); } .slate li span:last-child { color:
  var(--muted); }
.slate li.clicked { outline: 1.5px solid var(--yes); font-weight: 600; }
"""


def as_html(findings: Findings, title: str) -> str:
    """Write the findings as one page that needs no network and no script."""
    name = escape(title)
    parts = [
        f"<h1>{name}: what it can be trusted with</h1>",
        f'<p class="muted">{escape(_counts(findings))}</p>',
        '<div class="verdicts">',
        *(
            f'<div class="verdict {_class(one.answer)}"><div><b>{MARKS[one.answer]} '
            f"{one.answer}</b><br><span class=muted>{escape(one.topic)}</span></div>"
            f"<div>{escape(one.sentence)}</div></div>"
            for one in findings.verdicts
        ),
        "</div>",
        *(f'<p class="muted">{escape(note)}</p>' for note in findings.notes),
    ]

    # Tables with their figures, under headings that say what they mean.
    drawn = figures(findings) if drawable() else {}
    if not drawn:
        parts.append('<p class="muted">There are no figures: matplotlib is not installed.</p>')
    heading = ""
    for table in tables(findings):
        start = next((one for one in EXPLAINED if table[0].startswith(one)), table[0])
        if start != heading:
            heading = start
            parts.append(f"<h2>{escape(start)}</h2><p>{escape(EXPLAINED.get(start, ''))}</p>")
        parts.append(_section(table, heading, drawn))

    # Slates to look at.
    if findings.visits:
        parts.append(
            "<h2>Sampled slates</h2><p>Held-out slates, top first. Clicked items are framed; the "
            f"bar and the number are the predicted chance of a click. {escape(EXPLAIN)}</p>"
        )
        parts.append(f'<div class="slates">{"".join(map(_slate, findings.visits))}</div>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n"
    )


def _section(table: Table, heading: str, drawn: dict[str, str]) -> str:
    """A table with its figures above; a long one is folded where a figure shows the same."""
    title, columns, rows = table
    shown = [
        f"<figure>{'' if caption == title else _caption(caption)}{svg}</figure>"
        for caption, svg in drawn.items()
        if caption == title or (caption.startswith(f"{heading}:") and heading in title)
    ]
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    grid = f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
    if shown and len(rows) > 6:
        grid = f"<details><summary>the numbers</summary>{grid}</details>"
    name = "" if title == heading else f"<h3>{escape(title)}</h3>"
    return "".join([name, *shown, grid])


def _caption(text: str) -> str:
    return f"<figcaption class=muted>{escape(text)}</figcaption>"


def _class(answer: str) -> str:
    return answer if answer in ("yes", "no") else "maybe"


def _slate(visit: SampledVisit) -> str:
    lines = "".join(
        f"<li{' class=clicked' if item.clicked else ''} "
        f'style="--chance: {min(100 * item.chance, 100):.0f}%" title="{escape(item.category)}">'
        f"<span>{place}</span><span>{escape(item.title)}</span>"
        f"<span>{item.chance:.0%}</span></li>"
        for place, item in enumerate(visit.items, 1)
    )
    return f'<div class="slate"><h3>{escape(_heading(visit))}</h3><ol>{lines}</ol></div>'
