"""Put a fitted completion of carts into the package: `python -m benchmarks.data.ship_carts`.

Beside the model that `benchmarks.shopper.carts` wrote, `CompleteJourneyVisit-v0` needs the vectors
of what is searched for. The log has no searches: the words are the type of a product that is then
bought, embedded by the text model of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from benchmarks.lab.logs import SHIPPED_SHOPPER
from recsim_env.catalog import Catalog
from recsim_env.logs.complete_journey.encoder import embed_texts
from recsim_env.shoppers.carts.model import CartCompletion
from recsim_env.shoppers.carts.shop import words_of, write_queries
from recsim_env.shoppers.weights import load_model, save_model


@dataclass(frozen=True)
class Config(Checked):
    """Copy a completion, and embed the words of searches."""

    completion: Path = Path("runs/carts")
    """Folder of the completion that `benchmarks.shopper.carts` wrote."""
    log: Path = SHIPPED_SHOPPER
    """Folder with the catalogue."""
    output: Path = SHIPPED_SHOPPER.parent / "complete_journey_carts"
    """Folder that is written into."""


def main(config: Config) -> None:
    """Read the completion, embed the words, and write both."""
    model = load_model(CartCompletion, config.completion)
    words = words_of(Catalog.load(config.log))
    distinct = sorted(set(words))
    place = {text: at for at, text in enumerate(distinct)}
    config.output.mkdir(parents=True, exist_ok=True)
    write_queries(config.output, embed_texts(distinct), [place[text] for text in words])
    save_model(model, config.output)
    Console().print(f"{len(distinct)} searches and a completion are in {config.output}")


if __name__ == "__main__":
    run_command(main, Config)
