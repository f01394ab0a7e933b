"""Fit a simulator to a shop's own log: read, check, learn, judge, and write one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from recsim_env import files
from recsim_env.catalog import Catalog
from recsim_env.fitting.config import FitConfig
from recsim_env.fitting.judging import judged
from recsim_env.fitting.output import check_output, remember, versions, write_log
from recsim_env.fitting.parts import Parts, parts_of
from recsim_env.logs.plain import PlainLog, catalog_of, embed_items, read_plain
from recsim_env.logs.plain.reading import Plain
from recsim_env.rewards import Reward, as_reward, needs_of
from recsim_env.shop_file import SESSION, SHOP_FILE, UNFINISHED, Opinion, ShopFile
from recsim_env.shoppers.session.fit import fit_session
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import earlier_parts, save_session
from recsim_env.shoppers.weights import load_model, save_model
from recsim_env.types import best_device
from recsim_env.verdicts.findings import Findings
from recsim_env.verdicts.report import write_report

CLICKED = {"clicks": 1.0}
"""Weights of the reward where none is told."""
Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, and the number of its steps that are done and of all."""


@dataclass(frozen=True)
class Fitted:
    """What a fit wrote and found out."""

    folder: Path
    """The folder that `recsim_env.register` takes."""
    findings: Findings
    """What was found on users whom no model saw."""
    horizon_days: float
    """Length of an episode in days."""
    notes: tuple[str, ...]
    """How the log was read, what was left out, and what item vectors are made of, as sentences."""

    def __str__(self) -> str:
        """The verdicts, a line each."""
        return "\n".join(verdict.sentence for verdict in self.findings.verdicts)


def fit(
    log: Plain,
    catalog: Plain,
    folder: Path | str,
    *,
    columns: Mapping[str, str] | str | None = None,
    time_zone: str | None = None,
    reward: Reward | Mapping[str, float] | None = None,
    config: FitConfig | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = lambda stage, done, steps: None,
) -> Fitted:
    """Fit a simulator of shoppers to a log of one row an impressed item.

    The folder holds everything that an environment needs, with the log's tables, `report.md` and
    `report.html`; `shop.json` says that it is whole. A shop of an earlier fit stays as it is until
    the new one is whole. A fit that was interrupted goes on with the models that are missing.

    Args:
        log: CSV or parquet file, or a frame; see `recsim_env.logs.plain.LOG_COLUMNS`.
        catalog: The same for the catalogue; see `recsim_env.logs.plain.CATALOG_COLUMNS`.
        folder: What is written: a new or empty folder, or one of an earlier fit.
        columns: Names in the files by column, as a mapping or as `user=uid,item=sku`.
        time_zone: The zone of the shop's clock; see `recsim_env.logs.plain.read_plain`.
        reward: The reward of the environment, or the weight of each term; None means that every
            click counts 1.
        config: How it is fitted.
        device: Where the models are trained.
        progress: Called at the beginning of each stage and after each step of a training.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the folder holds something else, or an option is bad, such as a reward whose
            terms the shoppers cannot tell.
        LogError: If a file is not as said, or nothing can be learned from it. Nothing is written.
        OSError: If the folder cannot be written to.
    """
    config = config or FitConfig()
    weights = as_reward(CLICKED if reward is None else reward).weights
    device = best_device(device)
    path = check_output(folder, (log, catalog))

    # The log as tables, items and episodes.
    progress("reading the log", 0, 1)
    plain = read_plain(
        log,
        catalog,
        columns=columns,
        time_zone=time_zone,
        most_slates=config.most_slates,
        seed=config.seed,
    )
    parts = parts_of(plain, config)
    _check_reward(weights, parts, plain)
    with files.locked(files.made(path)):
        files.refill(path, path / UNFINISHED, SHOP_FILE, earlier_parts)
        remember(path, plain, config)
        progress("making item vectors", 0, 1)
        vectors = embed_items(plain, seed=config.seed)
        goods = catalog_of(plain, vectors=vectors)

        # The models, and a verdict on them.
        members = [
            _member(number, path, parts, goods, config, device, progress)
            for number in range(config.members)
        ]
        horizon = parts.horizon_days if config.horizon_days is None else config.horizon_days
        findings = judged(
            members, parts, goods, config, horizon, lambda stage: progress(stage, 0, 1)
        )
        notes = (*_notes(plain, parts), vectors.how, *_of_horizon(parts, config))

        # Everything beside an earlier shop, and then in its place.
        progress("writing the folder", 0, 1)
        findings = replace(findings, notes=[*notes, *findings.notes])
        told = _told(plain, parts, findings, config, horizon, weights)
        with files.refilling(path, path / UNFINISHED, SHOP_FILE, earlier_parts) as whole:
            save_session(whole, goods, members, parts.logged)
            write_log(plain, whole)
            write_report(findings, whole, title=path.resolve().name)
            files.write_json(whole / SHOP_FILE, told)
    return Fitted(path, findings, horizon, notes)


def _check_reward(reward: Mapping[str, float], parts: Parts, plain: PlainLog) -> None:
    """Raise ValueError where the shoppers will not tell what a term of the reward counts."""
    for name in reward:
        needs = needs_of(name)
        if "outside_reward" in needs:
            raise ValueError(f"reward has the term {name!r}, which only outside environments pay.")
        if "purchases" in needs and parts.sessions.purchases is None:
            raise ValueError(
                f"reward has the term {name!r}, but {plain.name} has no purchases that differ from "
                "its clicks."
            )


def _member(
    number: int,
    folder: Path,
    parts: Parts,
    catalog: Catalog,
    config: FitConfig,
    device: torch.device | str,
    progress: Progress,
) -> SessionShopper:
    """Fit one model, or read it where it was fitted before."""
    kept = folder / UNFINISHED / f"model{number}"
    if not kept.exists():
        title = f"model {number + 1} of {config.members}"
        model = fit_session(
            parts.part("train"),
            catalog,
            config.model,
            seed=config.seed + number,
            held_out=0.0,
            validation=parts.part("valid"),
            device=device,
            progress=lambda step, steps: progress(title, step, steps),
            folder=folder / UNFINISHED / f"training{number}",
        )
        with files.building(kept) as part:
            save_model(model, part)
    found: SessionShopper = load_model(SessionShopper, kept).to(device)  # type: ignore[arg-type]
    return found


def _notes(plain: PlainLog, parts: Parts) -> list[str]:
    """Sentences on how the log was read, and what of it is not used."""
    notes = [*plain.notes, *(f"{one.rows:,} rows: {one.reason}" for one in plain.dropped)]
    if plain.ignored:
        notes.append(f"Columns that are not known were ignored: {', '.join(plain.ignored)}.")
    cut = int((parts.sessions.left_out > 0).sum())
    if cut:
        steps = int(parts.sessions.left_out.sum())
        notes.append(
            f"{cut:,} users have long histories; their last {steps:,} slates are left out."
        )
    return notes


def _of_horizon(parts: Parts, config: FitConfig) -> list[str]:
    """A sentence where episodes are longer than the log shows."""
    if config.horizon_days is None or config.horizon_days <= parts.horizon_days:
        return []
    return [
        f"Episodes of {config.horizon_days:g} days extrapolate: 95 % of the logged users stayed "
        f"within {parts.horizon_days:g} days."
    ]


def _told(
    plain: PlainLog,
    parts: Parts,
    findings: Findings,
    config: FitConfig,
    horizon: float,
    reward: Mapping[str, float],
) -> dict[str, Any]:
    """The content of `shop.json`."""
    found = findings.plain()
    found.pop("visits")
    shop = ShopFile(
        SESSION,
        parts.sessions.slates.shape[2],
        horizon,
        reward,
        {one.topic: Opinion(one.holds, one.sentence) for one in findings.verdicts},
    )
    return shop.plain() | {
        "log": {
            "files": [plain.name, plain.catalog_name],
            "columns": dict(plain.columns),
            "first_day": plain.facts.day_zero.isoformat(),
            "days": parts.log_days,
            "declared": list(plain.declared_names),
        },
        "config": asdict(config),
        "versions": dict(versions()),
        "findings": found,
    }
