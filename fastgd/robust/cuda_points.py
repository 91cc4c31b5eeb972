"""The kernels of the squared distances from n vectors to one point: differences first, squares after."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from .cuda_device import Format

THREADS = 128
ROWS = 4  # vectors of a block, which share a read of the point
_STRIP = 16  # columns of a thread added in the data's real type before the sum goes to float64
SEGMENT = THREADS * _STRIP


@cuda.jit(device=True)
def _block_sums(sums: Any, t: Any) -> None:
    """sums[:, 0] += the rest, as a balanced tree over the threads' entries."""
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            for r in range(sums.shape[0]):
                sums[r, t] += sums[r, t + half]
        half //= 2
    cuda.syncthreads()


@cache
def make_sqdist_to_kernel(form: Format, origin: bool) -> Any:
    real, load = form.real, form.load
    zero, limit = real(0), np.finfo(real).max
    # Where squares can leave the range of the real type, and float64 holds them.
    tiny = real(2.0**-100) if form.dtype in ("float32", "bfloat16") else zero

    @cuda.jit(device=True)
    def careful(x: Any, point: Any, i: Any, start: Any, stop: Any) -> Any:
        """A thread's strip of one row again, in float64; NaN and Inf count as 0. And whether there were any."""
        total, bad = np.float64(0.0), False
        for k in range(_STRIP):
            c = start + k * THREADS
            if c < stop:
                value = load(x[i, c])
                if abs(value) <= limit:
                    difference = np.float64(value)
                    if not origin:
                        difference -= np.float64(load(point[0, c]))
                    total += difference * difference
                else:
                    bad = True
        return total, bad

    @cuda.jit
    def sqdist_to_kernel(x: Any, point: Any, runs: Any, columns: Any, partial: Any, bad_rows: Any) -> None:
        """Formula: partial[h, i] = sum_c (x_ic - p_c)^2 over the h-th run of `columns` columns; p = 0 for `origin`.

        Cost: one read of x, n / 4 reads of p, from L2 after the first; 2 n d operations in the real type. A block makes
        one (run, group of 4 rows) at a time.
        Order: every 128th column ascending in strips of 16, strips added in float64, the threads' sums as a tree. A
        strip whose sum overflowed, is below 2^-100 (float32, bfloat16) or has a NaN or an Inf is done again in float64.
        """
        sums = cuda.shared.array((ROWS, THREADS), np.float64)
        flags = cuda.shared.array(ROWS, np.int32)
        total = cuda.local.array(ROWS, real)
        wide = cuda.local.array(ROWS, np.float64)
        t, n, size = cuda.threadIdx.x, x.shape[0], x.shape[1]
        groups = (n + ROWS - 1) // ROWS
        for block in range(cuda.blockIdx.x, groups * runs, cuda.gridDim.x):
            first, run = block % groups * ROWS, block // groups
            if t < ROWS:
                flags[t] = 0
            cuda.syncthreads()
            for r in range(ROWS):
                wide[r] = 0.0
            stop = min(size, (run + 1) * columns)
            for start in range(run * columns + t, stop, SEGMENT):
                for r in range(ROWS):
                    total[r] = zero
                for k in range(_STRIP):
                    c = min(start + k * THREADS, stop - 1)  # beyond the end the last column, which then counts as 0
                    centre = zero if origin else load(point[0, c])
                    for r in range(ROWS):
                        difference = load(x[min(first + r, n - 1), c]) - centre
                        if start + k * THREADS >= stop:
                            difference = zero
                        total[r] = cuda.fma(difference, difference, total[r])
                for r in range(ROWS):
                    if total[r] <= limit and not total[r] < tiny:
                        wide[r] += np.float64(total[r])
                    else:
                        again, bad = careful(x, point, min(first + r, n - 1), start, stop)
                        wide[r] += again
                        if bad:
                            flags[r] = 1  # all writers write the same
            for r in range(ROWS):
                sums[r, t] = wide[r]
            _block_sums(sums, t)
            if t < ROWS and first + t < n:
                partial[run, first + t] = sums[t, 0]
                bad_rows[run, first + t] = np.float32(flags[t])
            cuda.syncthreads()

    return sqdist_to_kernel


@cuda.jit
def total_kernel(partial: Any, bad_rows: Any, status: Any) -> None:
    """Formula: status[i] = sum_h partial[h, i], +inf for a bad row; status[n + i] = 1 for a bad row, else 0.

    Cost: one read of the partial sums, one block a row.
    Order: thread t adds the runs t, t + 128, ..; the threads' sums as a tree.
    """
    sums = cuda.shared.array((2, THREADS), np.float64)
    t, n = cuda.threadIdx.x, partial.shape[1]
    for i in range(cuda.blockIdx.x, n, cuda.gridDim.x):
        total, bad = np.float64(0.0), np.float64(0.0)
        for h in range(t, partial.shape[0], THREADS):
            total += partial[h, i]
            bad += np.float64(bad_rows[h, i])
        sums[0, t], sums[1, t] = total, bad
        _block_sums(sums, t)
        if t == 0:
            status[i] = np.float64(np.inf) if sums[1, 0] > 0.0 else sums[0, 0]
            status[n + i] = 1.0 if sums[1, 0] > 0.0 else 0.0
        cuda.syncthreads()
