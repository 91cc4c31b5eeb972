"""The oracle of the tree: plain NumPy, one query at a time, every sum made anew. Shares no code with the kernels.

The sums are kept as the list of levels, each padded with zeros to whole blocks of 8. `Tree` has the methods of every backend.
Changes return 0, or what is wrong and nothing has changed: 1 an index, 2 a weight, 3 a total that overflows, 4 no memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...random.reference import bits32
from .arrays import HostArrays


def block_sum(block: np.ndarray) -> float:
    """((c_0 + c_1) + c_2) + .. + c_7; 0 for no children."""
    total = 0.0
    for child in block.tolist():
        total = total + child
    return total


def levels_of(weights: np.ndarray) -> list[np.ndarray]:
    """All levels above the weights, these included: node j is the sum of block j below."""
    levels = []
    values = weights
    while True:
        padded = np.zeros(-(-max(len(values), 1) // 8) * 8)
        padded[: len(values)] = values
        levels.append(padded)
        if len(padded) == 8:
            return levels
        values = np.array([block_sum(block) for block in padded.reshape(-1, 8)])


def descend(levels: list[np.ndarray], mass: float) -> int:
    """The leaf that 0 <= mass < total falls on."""
    node = 0
    for level in reversed(levels):
        block = level[8 * node : 8 * node + 8].tolist()
        child, before = 0, 0.0
        while mass >= before + block[child]:
            child, before = child + 1, before + block[child]
        mass = min(mass - before, float(np.nextafter(block[child], 0.0)))
        node = 8 * node + child
    return node


def uniform(seed: int, draw: int) -> float:
    """The u in [0, 1) of a draw: 53 of 64 bits."""
    low, high = (int(word) for word in bits32(seed, 0, 2 * draw, 2))
    return ((low | high << 32) >> 11) * 2.0**-53


class Tree(HostArrays):
    """Weights and the sums above them."""

    def __init__(self, n: int) -> None:
        self._set(np.zeros(n))

    def _set(self, weights: np.ndarray) -> None:
        self._weights, self._levels = weights, levels_of(weights)

    def _change(self, weights: np.ndarray, new: np.ndarray) -> int:
        if not ((new >= 0) & (new < np.inf)).all():
            return 2
        levels = levels_of(weights)
        if block_sum(levels[-1]) == np.inf:
            return 3
        self._weights, self._levels = weights, levels
        return 0

    @property
    def n(self) -> int:
        return len(self._weights)

    def total(self) -> float:
        return block_sum(self._levels[-1])

    def update(self, index: np.ndarray, weight: np.ndarray) -> int:
        if index.size and (index.min() < 0 or index.max() >= self.n):
            return 1
        weights = self._weights.copy()
        for i, w in zip(index, weight, strict=True):
            weights[i] = w + 0.0
        return self._change(weights, weight)

    def update_one(self, index: int, weight: float) -> int:
        return self.update(np.array([index]), np.array([weight]))

    def append(self, weights: np.ndarray) -> int:
        return self._change(np.concatenate([self._weights, weights + 0.0]), weights)

    def weights(self, index: np.ndarray | None) -> Any:
        """A copy; None where an index is outside."""
        if index is None:
            return self._weights.copy()
        if index.size and (index.min() < 0 or index.max() >= self.n):
            return None
        return self._weights[index]

    def extremes(self) -> tuple[float, float]:
        positive = self._weights[self._weights > 0]
        return (float(positive.min()), float(positive.max())) if len(positive) else (float("inf"), 0.0)

    def sum(self, lo: int, hi: int) -> float:
        """Level by level: behind `lo` from left to right, before `hi` likewise with the sum of the levels below last."""
        left = right = 0.0
        for level in self._levels:
            if lo == hi:
                break
            if lo // 8 == (hi - 1) // 8:
                return left + (block_sum(level[lo:hi]) + right)
            while lo % 8:
                left, lo = left + float(level[lo]), lo + 1
            right = block_sum(level[hi // 8 * 8 : hi]) + right
            lo, hi = lo // 8, hi // 8
        return left + right

    def find(self, mass: np.ndarray) -> np.ndarray | None:
        """None where a mass is outside [0, total)."""
        if not ((mass >= 0) & (mass < self.total())).all():
            return None
        return np.array([descend(self._levels, float(value)) for value in mass.ravel()], np.int64).reshape(mass.shape)

    def find_one(self, mass: float) -> int:
        return descend(self._levels, mass) if 0 <= mass < self.total() else -1

    def sample(self, size: int, method: str, seed: int, drawn: int, out: np.ndarray) -> int:
        """Fills `out`; returns how many positive weights there were to draw, at most `size`."""
        kept = self._weights, self._levels
        for j in range(size):
            total = self.total()
            if total == 0:
                self._weights, self._levels = kept
                return j
            u = uniform(seed, drawn if method == "systematic" else drawn + j)
            if method in ("stratified", "systematic"):
                u = (j + u) / size
            out[j] = descend(self._levels, min(u * total, float(np.nextafter(total, 0.0))))
            if method == "without_replacement":
                weights = self._weights.copy()
                weights[out[j]] = 0.0
                self._set(weights)
        self._weights, self._levels = kept
        return size

    def sample_one(self, seed: int, drawn: int) -> int:
        out = np.empty(1, np.int64)
        return int(out[0]) if self.sample(1, "iid", seed, drawn, out) else -1


tree = Tree
