"""Kernels that look at costs: their range, and which rows a column can receive from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

#: Threads that each look at every PARTS-th element.
PARTS = 8192


@cuda.jit
def extent_kernel(x: Any, first: Any, step: Any, found: Any) -> None:
    """found, as three rows of PARTS: the least (NaN if any is), the greatest finite number, and whether one is +infinity."""
    for part in range(cuda.grid(1), PARTS, cuda.gridsize(1)):
        low, high, masked = np.inf, -np.inf, 0.0
        for i in range(first + part * step, x.size, PARTS * step):
            v = np.float64(x[i])
            if v < low or v != v:
                low = v
            if v < np.inf:
                high = max(high, v)
            if v == np.inf:
                masked = 1.0
        found[part], found[PARTS + part], found[2 * PARTS + part] = low, high, masked


@cuda.jit
def first_kernel(cost: Any, order: Any, found: Any) -> None:
    """found_j = the place in `order` of the first row that may send to column j, a thread a column."""
    for j in range(cuda.grid(1), found.size, cuda.gridsize(1)):
        place = np.int64(0)
        while place < order.size and not cost[order[place], j] < np.inf:
            place += 1
        found[j] = place


def _for_both(signature: str) -> list[str]:
    return [signature.replace("REAL", real) for real in ("float32", "float64")]


KERNELS: list[tuple[Any, ...]] = [
    (extent_kernel, _for_both("void(REAL[::1], int64, int64, float64[::1])"), True, None),
    (first_kernel, _for_both("void(REAL[:, ::1], int64[::1], int64[::1])"), True, None),
]
