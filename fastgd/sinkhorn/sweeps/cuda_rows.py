"""Kernels that go over rows: the fused sweep, exact rows, products, the dense plan.

A block takes a chunk of rows, as many at once as it has warps, and works on these twice: first a warp a row, whose lanes share
the columns and fold their sums as a tree; then a thread a column, which adds the rows' exponentials in order. They are computed
again there, of costs that are still in the caches: kept exponentials would need memory for each block and every column.

Cost:  2 exponentials an entry, one read of C from memory and a second one from the caches; the chunk's sums of columns are read
       and written once for as many rows as there are warps.
Order: as above, chunks in order (`cuda_columns.fold_kernel`); chunks depend on the number of rows alone. No atomics: the same
       bits on every launch.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from .cuda_device import (
    LARGE,
    LOGARITHM,
    SMALL,
    SWELL,
    block_sum,
    cost_of,
    entry,
    exact_update,
    growth,
    moved,
    opened,
    row_error,
    warp_max,
    warp_sum,
)

THREADS = 128
WARPS = 32  # of a block, at most


@cuda.jit(device=True)
def _top(kind: Any, c: Any, y: Any, scale: Any, g: Any, i: Any, lane: Any, lanes: Any) -> Any:
    """The greatest g_j - K_ij of a row, by a warp."""
    top = -np.inf
    for j in range(lane, g.size, lanes):
        top = max(top, cuda.fma(-scale, cost_of(kind, c, y, i, j), opened(g[j])))
    return warp_max(top)


@cuda.jit(device=True)
def _row_sum(kind: Any, c: Any, y: Any, scale: Any, g: Any, base: Any, i: Any, lane: Any, lanes: Any) -> Any:
    """sum_j exp(base + g_j - K_ij), by a warp."""
    total = 0.0
    for j in range(lane, g.size, lanes):
        total += entry(kind, c, y, scale, base + opened(g[j]), i, j)
    return warp_sum(total)


@cuda.jit(device=True)
def _row_sum_single(kind: Any, c: Any, y: Any, scale: Any, g: Any, base: Any, i: Any, lane: Any, lanes: Any) -> Any:
    """The same in float32."""
    total = np.float32(0.0)
    for j in range(lane, g.size, lanes):
        total += _entry_single(kind, c, y, scale, np.float32(base) + np.float32(opened(g[j])), i, j)
    return np.float64(warp_sum(total))


@cuda.jit(device=True)
def _entry_single(kind: Any, c: Any, y: Any, scale: Any, base: Any, i: Any, j: Any) -> Any:
    """`entry` in float32, cut at exp(80)."""
    if kind == 0:
        cost = np.float32(c[i, j])
    else:
        cost = np.float32(0.0)
        for k in range(y.shape[0]):
            step = np.float32(c[i, k]) - np.float32(y[k, j])
            cost = cuda.fma(step, step, cost)
        if kind == 2:
            cost = np.float32(math.sqrt(cost))
    return np.float32(math.exp(min(cuda.fma(-np.float32(scale), cost, base), np.float32(80.0))))


@cache
def make_update(single: bool) -> Any:
    """The update of one row by one warp, with exponentials in float32 or float64.

    s = sum_j exp(f_i + g_j - K_ij); f_i := tau (log a_i - log s + f_i), or the part `relax` of that step. A row whose sum is not
    to be trusted, after jumps of g, takes its exponentials again, the greatest of them 1. Into bases[slot] and factors[slot] goes
    what makes the row's new entries: factor exp(base + g_j - K_ij). Without `here` nothing is sent, and f stays. Returns what the
    row adds to the error, in the first lane.
    """
    small, large, swell = (2.0**-80, 2.0**100, 2.0**30) if single else (SMALL, LARGE, SWELL)
    row_sum = _row_sum_single if single else _row_sum

    @cuda.jit(device=True)
    def update(kind: Any, c: Any, y: Any, scale: Any, a: Any, log_a: Any, tau: Any, relax: Any, i: Any, here: Any, slot: Any,
               f: Any, g: Any, bases: Any, factors: Any) -> Any:
        lanes = min(32, cuda.blockDim.x)
        lane = cuda.threadIdx.x % lanes
        old, simple = f[i], tau == 1.0 and relax == 1.0
        base = opened(old) if here else -np.inf
        total = row_sum(kind, c, y, scale, g, base, i, lane, lanes)
        exact = exact_update(total, base, log_a[i], tau)
        following = moved(old, exact, relax)
        factor = growth(total, base, following, a[i], simple)
        if here and not (small <= total <= large and factor <= swell):
            top = _top(kind, c, y, scale, g, i, lane, lanes)
            base = -top if top > -np.inf else top
            total = row_sum(kind, c, y, scale, g, base, i, lane, lanes)
            exact = exact_update(total, base, log_a[i], tau)
            following = moved(old, exact, relax)
            factor = growth(total, base, following, a[i], simple)
        if lane > 0 or not here:
            if lane == 0 and slot >= 0:
                bases[slot], factors[slot] = -np.inf, 0.0
            return 0.0
        bases[slot], factors[slot], f[i] = base, factor, following
        return row_error(total, factor, exact, following, a[i], tau, simple)

    return update


@cache
def make_sweep_kernel(single: bool) -> Any:
    """Rows of a sweep; partial[chunk] = sums over its rows of the new entries; error[chunk] = what the rows add to the error."""
    real, update, one = (np.float32, make_update(True), _entry_single) if single else (np.float64, make_update(False), entry)

    @cuda.jit
    def sweep_kernel(kind: Any, c: Any, y: Any, scale: Any, a: Any, log_a: Any, tau: Any, relax: Any, row: Any, per: Any, f: Any,
                     g: Any, partial: Any, error: Any, errors: Any, at: Any, tol: Any) -> None:
        bases = cuda.shared.array(WARPS, np.float64)  # the simulator tells shared arrays apart by their lines
        factors = cuda.shared.array(WARPS, np.float64)
        sums = cuda.shared.array(WARPS, np.float64)
        t, threads = cuda.threadIdx.x, cuda.blockDim.x
        warp, warps = t // min(32, threads), threads // min(32, threads)
        if at > 0 and errors[at - 1] <= tol:  # an earlier sweep converged
            return
        for chunk in range(cuda.blockIdx.x, partial.shape[0], cuda.gridDim.x):
            lost = 0.0
            for j in range(t, g.size, threads):
                partial[chunk, j] = 0.0
            stop = min(row.size, (chunk + 1) * per)
            for first in range(chunk * per, stop, warps):
                own = first + warp
                cuda.syncthreads()  # the rows before have been added
                i = row[min(own, stop - 1)]
                lost += update(kind, c, y, scale, a, log_a, tau, relax, i, own < stop, warp, f, g, bases, factors)
                cuda.syncthreads()
                for j in range(t, g.size, threads):
                    total = real(0.0)
                    for r in range(min(warps, stop - first)):
                        base = real(bases[r]) + real(opened(g[j]))
                        total += real(factors[r]) * one(kind, c, y, scale, base, row[first + r], j)
                    partial[chunk, j] += np.float64(total)
            lost = block_sum(lost, sums)
            if t == 0:
                error[chunk] = lost

    return sweep_kernel


@cuda.jit
def rows_kernel(kind: Any, c: Any, y: Any, scale: Any, log_a: Any, tau: Any, row: Any, f: Any, g: Any) -> None:
    """f_i = tau (log a_i - log sum_j exp(g_j - K_ij)), a warp a row, from any g: the greatest exponential is 1."""
    lanes = min(32, cuda.blockDim.x)
    lane, warps = cuda.threadIdx.x % lanes, cuda.blockDim.x // lanes
    for first in range(cuda.blockIdx.x * warps, row.size, cuda.gridDim.x * warps):
        own = first + cuda.threadIdx.x // lanes
        i = row[min(own, row.size - 1)]
        top = _top(kind, c, y, scale, g, i, lane, lanes)
        base = -top if top > -np.inf else top
        total = _row_sum(kind, c, y, scale, g, base, i, lane, lanes)
        if lane == 0 and own < row.size:
            f[i] = exact_update(total, base, log_a[i], tau)


@cuda.jit
def product_kernel(kind: Any, c: Any, y: Any, scale: Any, row: Any, per: Any, f: Any, g: Any, u: Any, v: Any, sums: Any,
                   spent: Any, partial: Any) -> None:
    """sums = P v, spent_i = sum_j C_ij P_ij (0 infinity = 0), partial[chunk] = sums over the chunk's rows of u_i P_ij."""
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    lanes = min(32, threads)
    lane, warps = t % lanes, threads // lanes
    for chunk in range(cuda.blockIdx.x, partial.shape[0], cuda.gridDim.x):
        stop = min(row.size, (chunk + 1) * per)
        for first in range(chunk * per, stop, warps):
            own = first + t // lanes
            i = row[min(own, stop - 1)]
            total, costs = 0.0, 0.0
            for j in range(lane, g.size, lanes):
                p = entry(kind, c, y, scale, opened(f[i]) + opened(g[j]), i, j)
                total += p * v[j]
                if p > 0.0:
                    costs += p * cost_of(kind, c, y, i, j)
            total, costs = warp_sum(total), warp_sum(costs)
            if lane == 0 and own < stop:
                sums[i], spent[i] = total, costs
        for j in range(t, g.size, threads):
            total = 0.0
            for k in range(chunk * per, stop):
                total += u[row[k]] * entry(kind, c, y, scale, opened(f[row[k]]) + opened(g[j]), row[k], j)
            partial[chunk, j] = total


@cuda.jit
def dense_kernel(kind: Any, c: Any, y: Any, scale: Any, f: Any, g: Any, threshold: Any, plan: Any) -> None:
    """P, without its entries up to the threshold."""
    for place in range(cuda.grid(1), plan.size, cuda.gridsize(1)):
        i, j = place // g.size, place % g.size
        p = entry(kind, c, y, scale, opened(f[i]) + opened(g[j]), i, j)
        plan[i, j] = p if p > threshold else 0.0


@cuda.jit
def transpose_kernel(x: Any, out: Any) -> None:
    for place in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        i, j = place // out.shape[1], place % out.shape[1]
        out[i, j] = x[j, i]


@cuda.jit
def convert_kernel(x: Any, out: Any) -> None:
    """Points as float64."""
    for place in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        i, j = place // out.shape[1], place % out.shape[1]
        out[i, j] = np.float64(x[i, j])


_VECTOR = "float64[::1]"


def costs(signature: str) -> list[str]:
    """A signature for each kind of cost; COST is what describes it: its kind, its two arrays, its scale."""
    stored = [f"int64, {real}[:, ::1], float64[:, ::1], float64" for real in ("float32", "float64")]
    return [signature.replace("COST", cost) for cost in stored]


_SWEEP = costs(f"void(COST, {_VECTOR}, {_VECTOR}, float64, float64, int64[::1], int64, {_VECTOR}, {_VECTOR}, "
               f"float64[:, ::1], {_VECTOR}, {_VECTOR}, int64, float64)")
KERNELS: list[tuple[Any, ...]] = [
    (make_sweep_kernel(False), _SWEEP, True, 112, *LOGARITHM),
    (make_sweep_kernel(True), _SWEEP, True, 112, *LOGARITHM, "ex2.approx"),
    (rows_kernel, costs(f"void(COST, {_VECTOR}, float64, int64[::1], {_VECTOR}, {_VECTOR})"), True, 80, *LOGARITHM),
    (product_kernel, costs(f"void(COST, int64[::1], int64, {', '.join([_VECTOR] * 6)}, float64[:, ::1])"), True, 112),
    (dense_kernel, costs(f"void(COST, {_VECTOR}, {_VECTOR}, float64, float64[:, ::1])"), True, None),
    (transpose_kernel, ["void(float64[:, ::1], float64[:, ::1])"], True, None),
    (convert_kernel, ["void(float32[:, ::1], float64[:, ::1])"], True, None),
]
