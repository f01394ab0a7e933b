"""A report says every verdict, works without a network, and looks like something in a browser."""

import json
import re
import shutil
import subprocess
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate
from recsim_env.logs.sessions import Sessions
from recsim_env.verdicts import figures
from recsim_env.verdicts.assess import MODEL, Predicted, assess
from recsim_env.verdicts.findings import Findings
from recsim_env.verdicts.report import as_html, as_markdown, write_report
from tests.support.verdict_toys import rates, toy_log, verdict_catalog

TITLE = "<b>Shop & Sons</b>"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def strange_catalog() -> Catalog:
    """Titles that would break a page that does not escape them."""
    catalog = verdict_catalog()
    text = tuple(f"<script>alert({item})</script> | tea" for item in range(len(catalog)))
    return Catalog(text, catalog.path, catalog.price, catalog.embedding)


@cache
def findings() -> Findings:
    pytest.importorskip("sklearn")
    sessions, _ = toy_log(700, 4, policies=("blind", "clever"))
    learned, held = sessions.take(torch.arange(500)), sessions.take(torch.arange(500, 700))

    def chances(asked: Sessions) -> Tensor:
        return torch.from_numpy(rates())[asked.slates[asked.real].clamp(min=0)]

    def predict(asked: Sessions) -> Predicted:
        slates = asked.n_slates
        return Predicted(chances(asked), torch.full((slates,), 0.3), torch.full((slates,), 0.1))

    return assess(predict, learned, held, strange_catalog(), fit=lambda others: chances)


def test_every_question_has_a_verdict_with_its_figure() -> None:
    found = findings()
    assert found.topics == [
        "clicks", "order of policies", "levels", "leaving", "returning", "positions",
    ]  # fmt: skip
    for verdict in found.verdicts:
        assert verdict.sentence.endswith(".")
        assert verdict.holds is None or re.search(r"\d", verdict.sentence)
    assert found.verdict("levels").holds is False  # the clever policy knew what nobody wrote down
    assert found.counts["held-out users"] == 200
    assert len(found.visits) == 20
    with pytest.raises(KeyError, match="topic is 'price'"):
        found.verdict("price")


def test_a_log_that_tells_nothing_is_judged_without_an_error() -> None:
    """Nobody clicked among the held-out users, and nobody knows who served them."""
    pytest.importorskip("sklearn")
    sessions, _ = toy_log(60, 2, policies=())
    learned, held = sessions.take(torch.arange(40)), sessions.take(torch.arange(40, 60))
    held = replace(held, clicks=torch.zeros_like(held.clicks))
    found = assess(
        lambda asked: Predicted(torch.full(asked.slates[asked.real].shape, 0.2)),
        learned,
        held,
        verdict_catalog(),
        fit=lambda others: pytest.fail("there is no policy to hide"),
    )
    assert {one.topic for one in found.verdicts if one.holds is not None} == set()
    assert found.notes == [
        "No counterfactual check: the log names no policy, so none can be hidden."
    ]
    assert as_html(found, "Shop").count("cannot tell") == 6
    json.dumps(found.plain(), allow_nan=False)


def test_findings_are_json() -> None:
    plain = json.loads(json.dumps(findings().plain(), allow_nan=False))
    assert plain["model"] == MODEL
    assert plain["verdicts"][2]["holds"] is False
    assert {one["model"] for one in plain["clicks"]} > {MODEL, "item and user mean"}


def test_markdown_holds_every_verdict_and_the_sampled_slates() -> None:
    text = as_markdown(findings(), TITLE)
    for verdict in findings().verdicts:
        assert verdict.sentence.replace("|", "\\|") in text
    assert text.count("- user ") == 20
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) > 2


def test_the_page_needs_no_network_and_no_script() -> None:
    pytest.importorskip("matplotlib")
    page = as_html(findings(), TITLE)
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert "<b>Shop" not in page
    namespaces = r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>'
    assert "http" not in re.sub(namespaces, "", page, flags=re.DOTALL)
    assert not re.search(r"<(link|img|iframe|object)\b|@import|url\((?!#)", page)
    assert page.count("<svg") >= 6
    assert page == as_html(findings(), TITLE)


def test_names_of_policies_are_no_formulas_and_no_lines() -> None:
    """A dollar sign begins mathematics in matplotlib, and a line break a paragraph in Markdown."""
    pytest.importorskip("matplotlib")
    sessions, _ = toy_log(200, 2, policies=("$\\frac{$", "two\nlines"))
    learned, held = sessions.take(torch.arange(150)), sessions.take(torch.arange(150, 200))

    def predict(asked: Sessions) -> Predicted:
        return Predicted(torch.from_numpy(rates())[asked.slates[asked.real].clamp(min=0)])

    found = assess(predict, learned, held, verdict_catalog())
    assert "$\\frac{$" in as_html(found, TITLE)
    text = as_markdown(found, TITLE)
    assert "policy two lines" in text
    assert not re.search("^lines", text, flags=re.MULTILINE)


def test_names_of_any_script_stay_text_without_a_warning() -> None:
    """The browser has their glyphs; the font with which matplotlib measures them has not."""
    pytest.importorskip("matplotlib")
    lines = [("靴 👗", Estimate(1.0, 0.9, 1.1)), ("Röcke", Estimate(1.2, 1.0, 1.4))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figures._ratios(lines, "predicted over observed")
    assert "靴 👗" in drawn
    assert "Röcke" in drawn


@pytest.mark.skipif(BROWSER is None, reason="there is no headless Chromium")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    page = write_report(findings(), tmp_path / "report", title=TITLE)[1]
    picture = tmp_path / "page.png"
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1400"]
    command += [f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    shown = image.open(picture).convert("RGB")
    assert shown.size == (1000, 1400)
    colours = {colour for _, colour in shown.getcolors(maxcolors=10**6)}
    assert (194, 65, 12) in colours  # a verdict of no
    assert (36, 99, 165) in colours  # the simulator in a figure
