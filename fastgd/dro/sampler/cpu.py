"""The CPU kernels' front: holds csrc/dro_chi2.c's and csrc/dro_kl.c's structs and their memory. Classes as in `reference.py`.

`power` is the reference's class: other exponents than those two have no C kernel, and the NumPy path is the one there is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._native import ffi, lib
from .reference import power

__all__ = ["chi2", "kl", "power"]

_INDEX, _DOUBLE, _INT = ffi.typeof("int64_t[]"), ffi.typeof("double[]"), ffi.typeof("int32_t[]")
_from_buffer = ffi.from_buffer


class _Player:
    """A struct whose arrays Python owns; `_keep` holds them."""

    _NUMBERS: tuple[str, ...]  # the struct's own numbers, all of the state but arrays
    _name: str

    def __init__(self, n: int, radius: float, floor: float, step_size: float, seed: int, exponent: float) -> None:
        self._arguments = (n, radius, floor, step_size, seed, exponent)
        self._w = w = ffi.new(f"fgd_{self._name} *")
        own = w.own
        own.n, own.floor, own.step_size, own.seed = n, floor, step_size, seed
        own.fixed = n == 1 or 2.0 * radius * n < 2.0**-110  # no n p_i differs from 1 by a rounding error then
        self._n = n
        self._update, self._sample = getattr(lib, f"fgd_{self._name}_update"), getattr(lib, f"fgd_{self._name}_sample")
        self._probability = getattr(lib, f"fgd_{self._name}_probability")
        self._keep: list[Any] = []
        self._start(radius)

    def _start(self, radius: float) -> None:
        raise NotImplementedError

    def _zeros(self, size: int, dtype: Any, ctype: Any, offset: int = 0) -> Any:
        """Zeroed memory, `offset` elements behind a boundary of 64 bytes: pages that are never touched cost nothing."""
        itemsize = np.dtype(dtype).itemsize
        raw = np.zeros(size + offset + 64 // itemsize, dtype)
        start = (-raw.ctypes.data % 64) // itemsize + offset
        pointer = _from_buffer(ctype, raw[start : start + size])
        self._keep.append(pointer)
        return pointer

    def sample(self, size: int) -> np.ndarray:
        out = np.empty(size, np.int64)
        self._sample(self._w, size, _from_buffer(_INDEX, out))
        return out

    def update(self, index: np.ndarray, loss: np.ndarray) -> int:
        refused = self._update(self._w, len(index), _from_buffer(_INDEX, index), _from_buffer(_DOUBLE, loss))
        if refused < 0:
            raise MemoryError("no memory for the gains of this batch")
        return refused

    def probability(self, index: np.ndarray) -> np.ndarray:
        out = np.empty(len(index))
        self._probability(self._w, len(index), _from_buffer(_INDEX, index), _from_buffer(_DOUBLE, out))
        return out

    def probabilities(self) -> np.ndarray:
        out = np.empty(self._n)
        self._probability(self._w, self._n, ffi.NULL, _from_buffer(_DOUBLE, out))
        return out


class chi2(_Player):
    _NUMBERS = ("v", "a", "s", "sum", "square", "active", "age")
    _name = "chi2"

    def _start(self, radius: float) -> None:
        w, n = self._w, self._n
        keep = 1.0 - w.own.floor
        w.excess, w.v, w.a = 2.0 * radius / keep / keep, 1.0 / n, 1.0
        w.tree.data = self._zeros(lib.fgd_chi2_layout(w, n), np.float64, _DOUBLE)
        nodes = w.tree.first[w.tree.levels] - w.tree.first[1]
        w.count = self._zeros(nodes, np.int32, _INT)
        w.key, w.item = self._zeros(n, np.float64, _DOUBLE, 7), self._zeros(n, np.int32, _INT)
        w.slot = self._zeros(n, np.int32, _INT)

    def divergence(self) -> float:
        return lib.fgd_chi2_divergence(self._w)
