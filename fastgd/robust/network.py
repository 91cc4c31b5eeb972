"""Sorting networks for a few order statistics: Batcher's odd-even merge sort, pruned to the ranks that are wanted.

A network is a list of comparators (i, j), i < j: put the smaller of the two values in place i, the larger in place j. It
is the same for every input, so one comparator acts on a whole vector register of coordinates at once and never branches.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def network(n: int, first: int, last: int) -> np.ndarray:
    """Comparators that put ranks `first` .. `last` (ascending, counted from 0) of n values in their sorted places.

    Parameters
    ----------
    n : int
        Values to sort, n >= 1.
    first, last : int
        The ranks wanted, 0 <= first <= last < n.

    Returns
    -------
    (c, 2) int32 array
        In order of execution; read-only and shared between calls. Places outside first .. last hold leftovers.

    Notes
    -----
    Walking the full network backwards, a comparator is kept when one of its places is still needed, and then both are.
    n = 16 takes 63 comparators in full and 53 for the median, n = 64 543 and 445.

    References
    ----------
    Batcher: Sorting Networks and Their Applications (AFIPS 1968).
    """
    needed = np.zeros(n, bool)
    needed[first : last + 1] = True
    kept = [np.empty((0, 2), np.int32)]
    for low, step in reversed(_layers(n)):
        low = low[needed[low] | needed[low + step]]
        needed[low] = needed[low + step] = True
        kept.append(np.stack([low, low + step], axis=1))
    pairs = np.concatenate(kept[::-1])
    pairs.flags.writeable = False
    return pairs


def _layers(n: int) -> list[tuple[np.ndarray, int]]:
    """Batcher's merges of sorted runs, doubling until one is left: comparators (i, i + step) of distinct places, as (all i,
    step). Places from n on would hold the largest values for ever, so comparators that touch them are left out."""
    layers, run = [], 1
    while run < n:
        step = run
        while step:
            low = np.arange(max(n - step, 0), dtype=np.int32)
            together = low // (2 * run) == (low + step) // (2 * run)
            layers.append((low[together & (low // step % 2 == int(step < run))], step))
            step //= 2
        run *= 2
    return layers
