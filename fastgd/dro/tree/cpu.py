"""The CPU kernels' front: holds the tree's memory and hands csrc/dro_tree.c pointers.

Methods as in `reference.py`. Formulas, costs and orders of summation stand with the kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._native import ffi, lib
from .arrays import HostArrays

_from_buffer = ffi.from_buffer
_DOUBLES, _INTS = ffi.typeof("double[]"), ffi.typeof("int64_t[]")
_METHODS = {"iid": lib.FGD_TREE_IID, "stratified": lib.FGD_TREE_STRATIFIED, "systematic": lib.FGD_TREE_SYSTEMATIC}

_update, _update_one, _find_one = lib.fgd_tree_update, lib.fgd_tree_update_one, lib.fgd_tree_find_one
_sample, _sample_one, _sample_distinct = lib.fgd_tree_sample, lib.fgd_tree_sample_one, lib.fgd_tree_sample_distinct


class Tree(HostArrays):
    """Weights and the sums above them: `data`, one array with all levels, level l from `tree.first[l]` on."""

    def __init__(self, n: int) -> None:
        self._extremes, self._shown = ffi.new("fgd_extremes *"), False
        self._allocate(max(n, 1))
        self.tree.n = n

    def _allocate(self, capacity: int) -> None:
        self.tree = ffi.new("fgd_tree *")
        size = lib.fgd_tree_layout(self.tree, 0, capacity)
        memory = np.zeros(size + 8)
        start = -memory.ctypes.data % 64 // 8
        self.data = memory[start : start + size]
        self.tree.data = _from_buffer(_DOUBLES, self.data)

    @property
    def n(self) -> int:
        return self.tree.n

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The memory, and where its levels begin. Whoever writes there does not tell of smallest and largest weights."""
        self._shown = True
        return self.data, np.array(list(self.tree.first)[: self.tree.levels], np.int64)

    def total(self) -> float:
        return lib.fgd_tree_sum(self.tree, 0, self.tree.n)

    def update(self, index: np.ndarray, weight: np.ndarray) -> int:
        return _update(self.tree, len(index), _from_buffer(_INTS, index), _from_buffer(_DOUBLES, weight))

    def update_one(self, index: int, weight: float) -> int:
        return _update_one(self.tree, index, weight)

    def append(self, weights: np.ndarray) -> int:
        """Leaves double when there is no room: O(1) a weight in the long run."""
        n, count = self.n, len(weights)
        old = self.tree, self.data
        if n + count > self.tree.capacity:
            self._allocate(max(n + count, 2 * n))
            lib.fgd_tree_fill(self.tree, 0, n, _from_buffer(_DOUBLES, old[1]))
            self.tree.extremes = old[0].extremes
        status = lib.fgd_tree_fill(self.tree, n, count, _from_buffer(_DOUBLES, weights))
        if status:
            self.tree, self.data = old
        return status

    def weights(self, index: np.ndarray | None) -> Any:
        if index is None:
            return self.data[: self.n].copy()
        out = np.empty(index.shape)
        status = lib.fgd_tree_weights(self.tree, index.size, _from_buffer(_INTS, index), _from_buffer(_DOUBLES, out))
        return None if status else out

    def extremes(self) -> tuple[float, float]:
        found = self._extremes
        if not self.tree.extremes or self._shown:
            found.stale = 1
            self.tree.extremes = found
        lib.fgd_tree_extremes(self.tree)
        return found.least, found.most

    def sum(self, lo: int, hi: int) -> float:
        return lib.fgd_tree_sum(self.tree, lo, hi)

    def find(self, mass: np.ndarray) -> np.ndarray | None:
        out = np.empty(mass.shape, np.int64)
        outside = lib.fgd_tree_find(self.tree, mass.size, _from_buffer(_DOUBLES, mass), _from_buffer(_INTS, out))
        return None if outside else out

    def find_one(self, mass: float) -> int:
        return _find_one(self.tree, mass)

    def sample(self, size: int, method: str, seed: int, drawn: int, out: np.ndarray) -> int:
        pointer = _from_buffer(_INTS, out)
        if method != "without_replacement":
            return size if _sample(self.tree, seed, drawn, _METHODS[method], size, pointer) == 0 else 0
        found = _sample_distinct(self.tree, seed, drawn, size, pointer)
        if found < 0:
            raise MemoryError(f"no memory to remember the weights of {size} draws without replacement")
        return found

    def sample_one(self, seed: int, drawn: int) -> int:
        return _sample_one(self.tree, seed, drawn)


tree = Tree
