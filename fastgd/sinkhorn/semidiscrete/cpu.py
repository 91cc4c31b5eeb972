"""The CPU kernels' front: hands csrc/sinkhorn_semidiscrete.c memory. Signatures: `reference.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _threads
from ..._native import ffi, lib

_ATOMS, _DESCENT, _DOUBLES, _INTEGERS = map(ffi.typeof, ("fgd_atoms *", "fgd_descent *", "double[]", "int64_t[]"))
#: Points of a thread's ticket.
_CHUNK = 1024


def descend(x: np.ndarray, y: np.ndarray, weights: np.ndarray, factor: float, reg: np.ndarray, step: np.ndarray,
            bound: np.ndarray, share: np.ndarray, g: np.ndarray, average: np.ndarray) -> np.ndarray:
    atoms = _Atoms(y, g, factor, weights)
    mean, work, values = _padded(average, atoms.width, 0.0), np.empty(2 * atoms.width), np.empty(len(x))
    by = ffi.new(_DESCENT, {"reg": _doubles(reg), "step": _doubles(step), "bound": _doubles(bound), "share": _doubles(share),
                            "average": _doubles(mean), "work": _doubles(work)})
    lib.fgd_sinkhorn_descend(atoms.struct, _doubles(x), x.shape[0], x.shape[1], by, _doubles(values))
    g[:], average[:] = atoms.g[:len(g)], mean[:len(g)]
    return values


def assign(x: np.ndarray, y: np.ndarray, g: np.ndarray, factor: float, threads: int) -> tuple[np.ndarray, np.ndarray]:
    atoms = _Atoms(y, g, factor, np.ones(len(y)))
    index, least = np.empty(len(x), np.int64), np.empty(len(x))
    points, places, values = _doubles(x), ffi.from_buffer(_INTEGERS, index), _doubles(least)
    starts = range(0, len(x), _CHUNK)
    tickets = iter(starts)

    def task() -> None:
        for start in tickets:
            lib.fgd_sinkhorn_assign(atoms.struct, points, start, min(len(x), start + _CHUNK), places, values)

    _threads.run(task, threads=threads, chunks=len(starts), keep=(atoms, index, least))
    return index, least


class _Atoms:
    """The atoms as C sees them, and the memory behind them."""

    def __init__(self, y: np.ndarray, g: np.ndarray, factor: float, weights: np.ndarray) -> None:
        m, d = y.shape
        self.width = -(-m // 8) * 8
        self.y = np.full((d, self.width), np.inf)
        self.y[:, :m] = y.T
        self.w, self.logs = _padded(weights, self.width, 0.0), _padded(np.log(weights), self.width, -np.inf)
        self.g = _padded(g, self.width, 0.0)
        self.struct = ffi.new(_ATOMS, {"y": _doubles(self.y), "w": _doubles(self.w), "log_w": _doubles(self.logs),
                                       "g": _doubles(self.g), "factor": factor, "m": m, "d": d, "width": self.width})


def _padded(values: np.ndarray, width: int, fill: float) -> np.ndarray:
    padded = np.full(width, fill)
    padded[:len(values)] = values
    return padded


def _doubles(array: np.ndarray) -> Any:
    return ffi.from_buffer(_DOUBLES, array)
