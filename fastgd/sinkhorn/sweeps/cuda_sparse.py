"""Kernels that keep the plan's large entries: p >= limit_i, in CSR by rows and, for products with the transpose, by columns too.

Both find the same bits for an entry, so they keep the same ones. Rows: a warp a row; lanes share consecutive columns and find
their places by ballots. Columns: a thread for each column and band of rows, so that rows are read in whole sectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from .cuda_device import ALL_LANES, entry, opened
from .cuda_rows import costs

#: Bands of rows; each of a column's bands is one thread's.
BANDS = 32
THREADS = 256


@cuda.jit
def keep_rows_kernel(kind: Any, c: Any, y: Any, scale: Any, f: Any, g: Any, limit: Any, write: Any, start: Any, index: Any,
                     value: Any) -> None:
    """start[i + 1] = how many entries of row i are kept; or, to `write`, these from start[i] on, columns ascending."""
    lanes = min(32, cuda.blockDim.x)
    lane, warps = cuda.threadIdx.x % lanes, cuda.blockDim.x // lanes
    for first in range(cuda.blockIdx.x * warps, f.size, cuda.gridDim.x * warps):
        own = first + cuda.threadIdx.x // lanes
        i = min(own, f.size - 1)
        count = start[i] if write else np.int64(0)
        for base in range(0, g.size, lanes):
            j = base + lane
            p = entry(kind, c, y, scale, opened(f[i]) + opened(g[j]), i, j) if j < g.size else 0.0
            kept = own < f.size and p >= limit[i]
            votes = np.int64(cuda.ballot_sync(ALL_LANES, kept)) & ALL_LANES
            if kept and write:
                place = count + cuda.popc(votes & ((1 << lane) - 1))
                index[place], value[place] = j, p
            count += cuda.popc(votes)
        if not write and lane == 0 and own < f.size:
            start[i + 1] = count


@cuda.jit
def keep_columns_kernel(kind: Any, c: Any, y: Any, scale: Any, f: Any, g: Any, limit: Any, write: Any, start: Any, index: Any,
                        value: Any) -> None:
    """start[j BANDS + band + 1] = how many entries of column j are kept in the band; or these from start[.. - 1] on."""
    per = (f.size + BANDS - 1) // BANDS
    for place in range(cuda.grid(1), g.size * BANDS, cuda.gridsize(1)):
        j, band = place % g.size, place // g.size
        own = j * BANDS + band
        count = start[own] if write else np.int64(0)
        for i in range(band * per, min(f.size, (band + 1) * per)):
            p = entry(kind, c, y, scale, opened(f[i]) + opened(g[j]), i, j)
            if p >= limit[i]:
                if write:
                    index[count], value[count] = i, p
                count += 1
        if not write:
            start[own + 1] = count


@cuda.jit
def scan_kernel(start: Any) -> None:
    """start[k] := start[1] + .. + start[k], start[0] = 0, by one block: each thread sums a stretch, then all before it."""
    sums = cuda.shared.array(THREADS, np.int64)
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    if cuda.blockIdx.x > 0:
        return
    per = (start.size + threads - 1) // threads
    total = np.int64(0)
    for k in range(t * per, min(start.size, (t + 1) * per)):
        if k > 0:
            total += start[k]
    sums[t] = total
    cuda.syncthreads()
    total = np.int64(0)
    for other in range(t):
        total += sums[other]
    for k in range(t * per, min(start.size, (t + 1) * per)):
        total += start[k] if k > 0 else np.int64(0)
        start[k] = total


_KEEP = costs("void(COST, float64[::1], float64[::1], float64[::1], boolean, int64[::1], int64[::1], float64[::1])")
KERNELS: list[tuple[Any, ...]] = [
    (keep_rows_kernel, _KEEP, True, 80),
    (keep_columns_kernel, _KEEP, True, 80),
    (scan_kernel, ["void(int64[::1])"], True, None),
]
