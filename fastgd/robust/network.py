"""Sorting networks for a few order statistics: Batcher's odd-even merge sort, pruned to the ranks that are wanted.

A network is a list of comparators (i, j), i < j: put the smaller of the two values in place i, the larger in place j. It
is the same for every input, so one comparator acts on a whole vector register of coordinates at once and never branches.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def network(n: int, first: int, last: int, presorted: int = 1) -> np.ndarray:
    """Comparators that put ranks `first` .. `last` (ascending, counted from 0) of n values in their sorted places.

    Parameters
    ----------
    n : int
        Values to sort, n >= 1.
    first, last : int
        The ranks wanted, 0 <= first <= last < n.
    presorted : int
        A power of two: places 0 .. presorted - 1, the next presorted places, and so on are each in order already.

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
    comparators = _odd_even_merges(n, presorted)
    needed = np.zeros(n, bool)
    needed[first : last + 1] = True
    kept = []
    for i, j in reversed(comparators):
        if needed[i] or needed[j]:
            needed[i] = needed[j] = True
            kept.append((i, j))
    pairs = np.array(kept[::-1], np.int32).reshape(-1, 2)
    pairs.flags.writeable = False
    return pairs


def _odd_even_merges(n: int, run: int) -> list[tuple[int, int]]:
    """Batcher's merges of sorted runs, doubling until one is left. Places from n on would hold the largest values for
    ever, so comparators that touch them are left out."""
    comparators = []
    while run < n:
        step = run
        while step:
            for start in range(step % run, n - step, 2 * step):
                for i in range(start, min(start + step, n - step)):
                    if i // (2 * run) == (i + step) // (2 * run):
                        comparators.append((i, i + step))
            step //= 2
        run *= 2
    return comparators
