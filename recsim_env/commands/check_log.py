"""The command `check-log`: what is in a shop's log, and what can be learned from it.

python -m recsim_env check-log --log log.csv --catalog items.csv --columns user=uid,item=sku
"""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "Tell what is in a log and what can be learned from it, in seconds and without training."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command; `add_log_options` are those of all that read a log."""
    add_log_options(parser)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the report to a JSON file"
    )


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which log is read, and how."""
    parser.add_argument(
        "--log", type=Path, required=True, help="CSV or parquet file, one row an impressed item"
    )
    parser.add_argument(
        "--catalog", type=Path, required=True, help="CSV or parquet file, one row an item"
    )
    parser.add_argument(
        "--columns",
        metavar="COLUMN=NAME,..",
        help="names that columns have in the files, such as user=uid,item=sku",
    )
    parser.add_argument(
        "--time-zone",
        metavar="ZONE",
        help="zone of the shop's clock, such as Europe/Berlin, to which times that say their zone "
        "and numbers are converted (default: UTC)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the split of the users (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    """Print the report, and write it where that is asked for.

    Raises:
        ValueError: If the report would be written over a folder or an input.
    """
    from recsim_env.files import write_json
    from recsim_env.logs.report import check_log

    if options.json is not None:
        check_report(options.json, (options.log, options.catalog))
    report = check_log(
        options.log,
        options.catalog,
        options.columns,
        time_zone=options.time_zone,
        seed=options.seed,
    )
    print(report)
    if options.json is not None:
        write_json(options.json, report.to_json())


def check_report(path: Path, inputs: tuple[Path, ...]) -> None:
    """Check, before anything is read, that a file may be written: it is no folder and no input.

    Raises:
        ValueError: If it is.
    """
    if path.is_dir():
        raise ValueError(f"json is {str(path)!r}, but that is a folder, and it must be a file.")
    if any(path.resolve() == one.resolve() for one in inputs):
        raise ValueError(
            f"json is {str(path)!r}, but that is read: the report must be another file."
        )
