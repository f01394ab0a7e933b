"""Places: environments opened with all that agents and policies are built from.

`open_place` takes any registered id, the id of a module of one's own, or a folder of shoppers that
were fitted to a log. Where there is no log, exploring policies play one; where there is no ranker,
one is fitted to the log. Both are kept.
"""

from agents.places.exploring import learn_ranker
from agents.places.opening import open_place
from agents.places.site import REPORTED_SEED, TUNING_SEED, Site, seeds

__all__ = ["REPORTED_SEED", "TUNING_SEED", "Site", "learn_ranker", "open_place", "seeds"]
