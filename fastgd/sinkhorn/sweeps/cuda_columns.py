"""Kernels that go over columns: exact columns, the fold of the chunks' sums, and the end of a sweep.

A block takes COLUMNS consecutive columns at a time, so that rows are read in whole sectors; thread t works on column t
mod COLUMNS and every (threads / COLUMNS)-th row or chunk. These parts are added in order. No atomics.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from . import cuda_device
from .cuda_device import LOGARITHM, block_sum, cost_of, exact_update, moved, opened
from .cuda_rows import costs

THREADS = 512
COLUMNS = cuda_device.COLUMNS


@cuda.jit(device=True)
def _column(kind: Any, c: Any, y: Any, scale: Any, row: Any, f: Any, j: Any, here: Any, shared: Any) -> Any:
    """The greatest f_i - K_ij of each of the block's columns, and the sum of the exponentials of what they are less that."""
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    part, parts, q = t // COLUMNS, threads // COLUMNS, t % COLUMNS
    top = -np.inf
    if here:
        for k in range(part, row.size, parts):
            top = max(top, cuda.fma(-scale, cost_of(kind, c, y, row[k], j), opened(f[row[k]])))
    cuda.syncthreads()
    shared[t] = top
    cuda.syncthreads()
    for p in range(parts):
        top = max(top, shared[p * COLUMNS + q])
    total = 0.0
    if here and top > -np.inf:
        for k in range(part, row.size, parts):
            total += math.exp(cuda.fma(-scale, cost_of(kind, c, y, row[k], j), opened(f[row[k]])) - top)
    return top, _over_parts(total, shared)


@cuda.jit(device=True)
def _over_parts(x: Any, shared: Any) -> Any:
    """The sum over the threads of one column, in order, the same in each of them."""
    t = cuda.threadIdx.x
    cuda.syncthreads()
    shared[t] = x
    cuda.syncthreads()
    total = shared[t % COLUMNS]
    for p in range(1, cuda.blockDim.x // COLUMNS):
        total += shared[p * COLUMNS + t % COLUMNS]
    return total


@cuda.jit
def columns_kernel(kind: Any, c: Any, y: Any, scale: Any, log_b: Any, tau: Any, row: Any, f: Any, g: Any) -> None:
    """g_j = tau (log b_j - log sum_i exp(f_i - K_ij)) from any f; -infinity where b_j = 0."""
    shared = cuda.shared.array(THREADS, np.float64)
    t = cuda.threadIdx.x
    for first in range(cuda.blockIdx.x * COLUMNS, g.size, cuda.gridDim.x * COLUMNS):
        j = first + t % COLUMNS
        here = j < g.size
        top, total = _column(kind, c, y, scale, row, f, j, here, shared)
        if here and t < COLUMNS:
            g[j] = exact_update(total, -top, log_b[j], tau) if log_b[j] > -np.inf else -np.inf


@cuda.jit
def fold_kernel(partial: Any, b: Any, log_b: Any, tau: Any, g: Any, column: Any, error: Any, errors: Any, at: Any,
                tol: Any) -> None:
    """column = sums over chunks; error[tile] = what these columns add to the error of a sweep."""
    shared = cuda.shared.array(THREADS, np.float64)
    sums = cuda.shared.array(32, np.float64)
    t, parts = cuda.threadIdx.x, cuda.blockDim.x // COLUMNS
    if at > 0 and errors[at - 1] <= tol:
        return
    for tile in range(cuda.blockIdx.x, error.size, cuda.gridDim.x):
        j = tile * COLUMNS + t % COLUMNS
        total, lost = 0.0, 0.0
        if j < g.size:
            for chunk in range(t // COLUMNS, partial.shape[0], parts):
                total += partial[chunk, j]
        total = _over_parts(total, shared)
        if j < g.size and t < COLUMNS:
            column[j] = total
            if tau == 1.0:
                lost = abs(total - b[j])
            elif total > 0.0:
                lost = total * abs(exact_update(total, opened(g[j]), log_b[j], tau) - opened(g[j]))
        lost = block_sum(lost, sums)
        if t == 0:
            error[tile] = lost


@cuda.jit
def finish_kernel(kind: Any, c: Any, y: Any, scale: Any, log_b: Any, tau: Any, relax: Any, least: Any, row: Any, f: Any, g: Any,
                  column: Any, by_rows: Any, by_columns: Any, errors: Any, at: Any, tol: Any) -> None:
    """The end of sweep `at`: its error, by every block for itself; above tol: g := tau (log b - log c + g).

    After an error of at most tol later sweeps do nothing. No launch reads an error that it writes.

    A column whose sum is below `least` is not to be trusted: it takes its exponentials again, the greatest of them 1.
    """
    shared = cuda.shared.array(THREADS, np.float64)
    sums = cuda.shared.array(32, np.float64)
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    if at > 0 and errors[at - 1] <= tol:
        if cuda.grid(1) == 0:
            errors[at] = errors[at - 1]
        return
    lost = 0.0
    for k in range(t, by_rows.size, threads):
        lost += by_rows[k]
    for k in range(t, by_columns.size, threads):
        lost += by_columns[k]
    lost = block_sum(lost, sums)
    if cuda.grid(1) == 0:
        errors[at] = lost
    if lost <= tol:
        return
    for first in range(cuda.blockIdx.x * COLUMNS, g.size, cuda.gridDim.x * COLUMNS):
        j = first + t % COLUMNS
        live = j < g.size and log_b[min(j, g.size - 1)] > -np.inf
        poor = live and column[min(j, g.size - 1)] < least
        base, total = 0.0, 0.0
        if cuda.syncthreads_or(np.int32(poor)):
            top, total = _column(kind, c, y, scale, row, f, j, poor, shared)
            base = -top
        if j < g.size and t < COLUMNS:
            if live and not poor:
                base, total = opened(g[j]), column[j]
            g[j] = moved(g[j], exact_update(total, base, log_b[j], tau), relax) if live else -np.inf


_VECTOR = "float64[::1]"
KERNELS: list[tuple[Any, ...]] = [
    (columns_kernel, costs(f"void(COST, {_VECTOR}, float64, int64[::1], {_VECTOR}, {_VECTOR})"), True, 80, *LOGARITHM),
    (fold_kernel, [f"void(float64[:, ::1], {_VECTOR}, {_VECTOR}, float64, {', '.join([_VECTOR] * 4)}, int64, float64)"], True,
     None, *LOGARITHM),
    (finish_kernel, costs(f"void(COST, {_VECTOR}, float64, float64, float64, int64[::1], {', '.join([_VECTOR] * 6)}, int64, "
                          f"float64)"), True, 80, *LOGARITHM),
]
