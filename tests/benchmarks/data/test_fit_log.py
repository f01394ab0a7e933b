"""The command that fits a simulator and a ranker to a log."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.data import fit_log
from recsim_env.verdicts.verdict import Verdict


@pytest.mark.parametrize(("holds", "fitted"), [(True, True), (None, True), (False, False)])
def test_a_shop_that_is_refused_gets_no_ranker(
    holds: bool | None,
    fitted: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verdict = Verdict("clicks", holds, "Clicks: as said.")
    findings = SimpleNamespace(verdict={"clicks": verdict}.__getitem__)
    rankers: list[Any] = []
    monkeypatch.setattr(fit_log, "fit", lambda *_, **__: SimpleNamespace(findings=findings))
    monkeypatch.setattr(fit_log, "fit_ranker_of", lambda *told: rankers.append(told))
    config = fit_log.Config(log=Path("log.csv"), catalog=Path("items.csv"), output=tmp_path)
    if fitted:
        fit_log.main(config)
        assert f"--env {tmp_path}" in capsys.readouterr().out
    else:
        with pytest.raises(SystemExit, match="No ranker was fitted"):
            fit_log.main(config)
    assert "report.html" in capsys.readouterr().out or fitted
    assert bool(rankers) is fitted
