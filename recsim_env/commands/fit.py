"""The command `fit`: a folder of simulated shoppers from a shop's log, with verdicts.

python -m recsim_env fit --log log.csv --catalog items.csv --output shop
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from recsim_env.commands.check_log import add_log_options

SUMMARY = "Fit a simulator to a log, judge it on held-out users, and write one folder."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command. Whoever needs more of them calls `recsim_env.fit`."""
    add_log_options(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder to write: a new or empty one, or one of an earlier fit",
    )

    # Size and length of the fit.
    parser.add_argument(
        "--members", type=int, default=2, help="number of models (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs",
        type=float,
        default=8.0,
        help="passes over the users learned from; a small log is passed over more often "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--most-slates",
        type=int,
        default=300_000,
        help="slates that are used at most; users are drawn at random (default: %(default)s)",
    )
    parser.add_argument(
        "--slate-size", type=int, help="number of positions (default: that of the longest slate)"
    )
    parser.add_argument(
        "--horizon-days",
        type=float,
        help="days of an episode (default: those that 95 %% of the users stayed within)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Fit, show progress, and print the verdicts and what comes next."""
    from recsim_env.fitting import FitConfig, fit
    from recsim_env.fitting.bar import stage_bar
    from recsim_env.shop_file import CLICKS
    from recsim_env.shoppers.session.fit import SessionFitConfig

    config = FitConfig(
        members=options.members,
        most_slates=options.most_slates,
        slate_size=options.slate_size,
        horizon_days=options.horizon_days,
        seed=options.seed,
        model=SessionFitConfig(epochs=options.epochs),
    )
    with stage_bar() as progress:
        fitted = fit(
            options.log,
            options.catalog,
            options.output,
            columns=options.columns,
            time_zone=options.time_zone,
            config=config,
            device=options.device,
            progress=progress,
        )
    print(fitted)
    folder = json.dumps(str(fitted.folder), ensure_ascii=False)
    if fitted.findings.verdict(CLICKS).holds is False:
        print(
            "Shoppers who are predicted so badly teach agents nothing: a longer log, or "
            "embeddings of your own, may help. To use them nonetheless: "
            f'recsim_env.register("shop/Mine-v0", {folder}, anyway=True)'
        )
    else:
        print(f'Next: recsim_env.register("shop/Mine-v0", {folder})')
