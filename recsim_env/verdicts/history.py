"""Counters of what was known before each slate, computed from held-out or training rows alone."""

from __future__ import annotations

import numpy as np

from recsim_env.estimates import Floats, Ints
from recsim_env.verdicts.rows import Rows


def before(visit: Ints, groups: tuple[Ints, ...], value: Floats) -> Floats:
    """Sum a value over the rows of the same group at earlier slates.

    Args:
        visit: (R,) number of the row's slate.
        groups: (R,) each; rows are of one group where all of them are the same.
        value: (R,) what is summed.

    Returns:
        (R,), 0 where there is no earlier slate.
    """
    order = np.lexsort((visit, *groups[::-1]))
    changes = [np.diff(group[order], prepend=group[order][:1] - 1) != 0 for group in groups]
    new_group = np.logical_or.reduce(changes)
    new_slate = new_group | (np.diff(visit[order], prepend=-1) != 0)

    # Sums of all rows above the first one of the slate, less those above the first of the group.
    ordered = value[order].astype(np.float64)
    above = np.cumsum(ordered) - ordered
    place = np.arange(len(order))
    first_of_slate = np.maximum.accumulate(np.where(new_slate, place, 0))
    first_of_group = np.maximum.accumulate(np.where(new_group, place, 0))
    found = np.empty(len(order))
    found[order] = above[first_of_slate] - above[first_of_group]
    return found


def in_last_slate(rows: Rows, group: Ints, value: Floats) -> Floats:
    """Sum a value over the rows of the same group in the slate before: (R,)."""
    groups, slates = int(group.max(initial=0)) + 1, int(rows.visit.max(initial=0)) + 2
    code = (rows.user * slates + rows.visit + 1) * groups + group
    known, place = np.unique(code, return_inverse=True)
    sums = np.bincount(place, value)
    wanted = code - groups  # the same group one slate earlier
    at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.asarray(np.where(known[at] == wanted, sums[at], 0.0))


def in_slate(rows: Rows, group: Ints) -> Floats:
    """Count the rows of the same group in the same slate: (R,)."""
    groups, slates = int(group.max(initial=0)) + 1, int(rows.visit.max(initial=0)) + 1
    code = (rows.user * slates + rows.visit) * groups + group
    _, place, count = np.unique(code, return_inverse=True, return_counts=True)
    return np.asarray(count[place], dtype=np.float64)


def taste_match(rows: Rows, embedding: Floats) -> Floats:
    """Cosine (R,) of each item with the sum of what its user clicked before; 0 with no click.

    Args:
        rows: Rows of whole episodes, user by user and slate by slate.
        embedding: (N, E) of the items, of length 1.
    """
    # Sums of clicked embeddings by slate, then over the earlier slates of the user.
    slates = int(rows.visit.max(initial=0)) + 1
    code, first, place = np.unique(
        rows.user * slates + rows.visit, return_index=True, return_inverse=True
    )
    clicked = np.zeros((len(code), embedding.shape[1]))
    np.add.at(clicked, place[rows.label], embedding[rows.item[rows.label]])
    above = np.cumsum(clicked, axis=0) - clicked
    user = rows.user[first]
    new_user = np.diff(user, prepend=-1) != 0
    start = np.maximum.accumulate(np.where(new_user, np.arange(len(code)), 0))
    taste = above - above[start]

    length = np.linalg.norm(taste, axis=1)
    length[length < 1e-3] = np.inf  # sums of nothing are 0 but for rounding
    return np.asarray(
        np.einsum("re,re->r", taste[place], embedding[rows.item]) / length[place], dtype=np.float64
    )
