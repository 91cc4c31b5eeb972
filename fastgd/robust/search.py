"""Exact search for the best subset of n - f vectors, on their squared distances alone: branch and bound.

`least_diameter` (for `mda`) asks for the least t such that the graph of pairs farther apart than t has a vertex cover of at
most f vertices: binary search over t, and a bounded search tree for each t. `least_eigenvalue` (for `smea`) prunes by the
scatter of what is already in, and by the spread along eigenvectors of what can still be in. Both then walk through the
vectors in ascending order and keep each one that some best subset allows: the lexicographically first of the best.

Distances are those of finite vectors: no NaN, but +inf where a square overflowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

#: Largest eigenvalues that differ by less than this part are ties.
TIE = 1e-9
#: Search nodes after which a search is given up.
MOST_NODES = 20_000


def least_diameter(sqdist: np.ndarray, keep: int) -> np.ndarray:
    """The lexicographically first `keep` vectors whose largest distance is least, ascending."""
    n = len(sqdist)
    nearest = np.sort(sqdist, axis=1)[:, keep - 1]
    # `keep` vectors must have keep - 1 others within t; and the ball of some `keep` vectors is a subset.
    balls = np.argsort(sqdist, axis=1, kind="stable")[:, :keep]
    low, high = np.sort(nearest)[keep - 1], min(sqdist[np.ix_(ball, ball)].max() for ball in balls)
    candidates = np.unique(sqdist[(sqdist >= low) & (sqdist <= high)])
    first, last = 0, len(candidates) - 1
    while first < last:
        middle = (first + last) // 2
        if _cover(_conflicts(sqdist, candidates[middle]), (1 << n) - 1, n - keep) is None:
            first = middle + 1
        else:
            last = middle
    return _first_independent(_conflicts(sqdist, candidates[first]), n, keep)


def _conflicts(sqdist: np.ndarray, limit: float) -> list[int]:
    """For each vector the set, as bits, of those farther away than `limit`."""
    rows = np.packbits(sqdist > limit, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _cover(adjacent: list[int], alive: int, budget: int) -> int | None:
    """At most `budget` vertices that touch every edge between `alive` vertices, as bits; None where there are none."""
    cover = 0
    while budget >= 0:
        degrees = {v: (adjacent[v] & alive).bit_count() for v in _bits(alive)}
        alive = sum(1 << v for v, degree in degrees.items() if degree)
        if not alive:
            return cover
        top = max(degrees, key=degrees.__getitem__)
        # The best `budget` vertices cannot touch more edges than their degrees say.
        if sum(sorted(degrees.values())[-budget:] if budget else ()) < sum(degrees.values()) // 2:
            return None
        leaf = next((v for v, degree in degrees.items() if degree == 1), None)
        if leaf is not None:
            take = adjacent[leaf] & alive
        elif degrees[top] > budget or degrees[top] == 2:  # too many neighbours to take them; or nothing left but cycles
            take = 1 << top
        else:
            break
        cover |= take
        alive &= ~take
        budget -= 1
    else:
        return None
    for take in (1 << top, adjacent[top] & alive):
        rest = _cover(adjacent, alive & ~take & ~(1 << top), budget - take.bit_count())
        if rest is not None:
            return cover | take | rest
    return None


def _first_independent(adjacent: list[int], n: int, keep: int) -> np.ndarray:
    """The lexicographically first `keep` vertices without an edge between them; there are such."""
    alive = (1 << n) - 1
    witness = _cover(adjacent, alive, n - keep) or 0  # vertices that may go
    gone = 0
    kept: list[int] = []
    for v in range(n):
        if len(kept) == keep:
            break
        if gone >> v & 1:
            continue
        if witness >> v & 1:
            lost = gone | adjacent[v]
            rest = _cover(adjacent, alive & ~lost & ~(1 << v), n - keep - lost.bit_count())
            if rest is None:
                gone |= 1 << v
                continue
            witness = lost | rest
        gone |= adjacent[v]
        kept.append(v)
    return np.array(kept)


# ------------------------------------------------------------------------------------------------- least eigenvalue


def least_eigenvalue(sqdist: np.ndarray, keep: int) -> np.ndarray:
    """The lexicographically first `keep` vectors whose covariance has the least largest eigenvalue, ascending.

    RuntimeError when the search takes more than MOST_NODES nodes.
    """
    balls = np.sort(np.argsort(sqdist, axis=1, kind="stable")[:, :keep], axis=1)
    best = min(scatter(sqdist[np.ix_(ball, ball)]) for ball in np.unique(balls, axis=0))
    if not best < np.inf:
        return np.arange(keep)
    # Two vectors in a subset spread it by half their squared distance: whoever is too far from too many is in no best
    # subset. What is left has distances of one order of magnitude, so that no sum below can cancel.
    inside = np.flatnonzero((sqdist > 2.0 * best * (1.0 + 1e-6)).sum(axis=1) <= len(sqdist) - keep)
    if best == 0.0:
        return inside[:keep]
    search = _Search(sqdist[np.ix_(inside, inside)], keep)
    search.limit = best * (1.0 + TIE)
    everything = np.ones(len(inside), bool)
    search.run(everything, everything)
    search.stop_at_first = True
    search.limit = search.value * (1.0 + 2.0 * TIE)
    witness: Any = search.found
    free, alive = everything.copy(), everything.copy()
    for i in range(len(inside)):
        if np.count_nonzero(alive & ~free) == keep:
            break
        free[i] = False  # in, if a best subset allows
        if not witness[i]:
            search.found = None
            search.run(alive, free)
            if search.found is None:
                alive[i] = False
            else:
                witness = search.found
    return inside[np.flatnonzero(alive & ~free)]


def scatter(sqdist: np.ndarray) -> float:
    """Largest eigenvalue of sum_i (x_i - mean)(x_i - mean)' from the distances; inf when one of them is."""
    largest = sqdist.max()
    if not 0.0 < largest < np.inf:
        return float(largest)
    return float(np.linalg.eigvalsh(centred(sqdist / largest))[-1] * largest)


def centred(sqdist: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Inner products of x_i - mean from the distances, for the (weighted) mean: -J D J' / 2 with J = I - 1 w'."""
    w = np.full(len(sqdist), 1.0 / len(sqdist)) if weights is None else weights
    means = sqdist @ w
    return -0.5 * (sqdist - means - means[:, None] + w @ means)


class _Search:
    """Depth first over what to remove, the vector farthest along the first eigenvector first."""

    def __init__(self, sqdist: np.ndarray, keep: int) -> None:
        self.scale = float(sqdist.max()) or 1.0
        self.sqdist = sqdist / self.scale
        self.keep = keep
        self.nodes = 0
        self.limit = np.inf  #: only subsets with a smaller scatter count
        self.stop_at_first = False
        self.found: np.ndarray | None = None
        self.value = np.inf

    def run(self, alive: np.ndarray, free: np.ndarray) -> bool:
        """Look for a better subset of `alive` that has everything not `free`; whether the search is over."""
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise RuntimeError
        members = np.flatnonzero(alive)
        remove = len(members) - self.keep
        if remove < 0:
            return False
        values, vectors = np.linalg.eigh(centred(self.sqdist[np.ix_(members, members)]))
        value = max(float(values[-1]), 0.0) * self.scale
        open_ = free[members]
        if value < self.limit and (remove == 0 or self.stop_at_first):
            if remove > np.count_nonzero(open_):
                return False
            self.value, self.found = value, alive.copy()
            self.found[members[np.flatnonzero(open_)[len(open_[open_]) - remove :]]] = False
            if self.stop_at_first:
                return True
            self.limit = value * (1.0 - TIE)
        if remove == 0:
            return False
        along = vectors * np.sqrt(np.maximum(values, 0.0))
        free = free.copy()
        for u in np.flatnonzero(open_)[np.argsort(-np.abs(along[open_, -1]), kind="stable")]:
            if self._bound(along, values, free[members], remove) * self.scale >= self.limit or self._fixed(alive & ~free):
                return False
            alive[members[u]] = False
            if self.run(alive, free):
                alive[members[u]] = True
                return True
            alive[members[u]] = True
            free[members[u]] = False
        return False

    def _fixed(self, inside: np.ndarray) -> bool:
        """Whether the vectors that are in for good are spread too much: adding vectors never shrinks their scatter."""
        members = np.flatnonzero(inside)
        return len(members) > 1 and scatter(self.sqdist[np.ix_(members, members)]) * self.scale >= self.limit

    def _bound(self, along: np.ndarray, values: np.ndarray, open_: np.ndarray, remove: int) -> float:
        """A lower bound of the scatter left after removing `remove` of the `open_` vectors: the best along each eigenvector.

        On a line those to remove are the lowest few and the highest few. `along` has mean zero in each column.
        """
        line = np.sort(along[open_], axis=0)
        if len(line) < remove:
            return np.inf
        ends = np.zeros((2, remove + 1, along.shape[1]))
        ends[0, 1:], ends[1, 1:] = np.cumsum(line[:remove], axis=0), np.cumsum(line[::-1][:remove], axis=0)
        total = ends[0] + ends[1, ::-1]
        ends[0, 1:], ends[1, 1:] = np.cumsum(line[:remove] ** 2, axis=0), np.cumsum(line[::-1][:remove] ** 2, axis=0)
        left = values - (ends[0] + ends[1, ::-1]) - total**2 / self.keep
        return float(left.min(axis=0).max())
