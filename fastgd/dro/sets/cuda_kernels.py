"""GPU kernels of the linear sets: passes over chunks of the vector, their totals, and the weights.

Cost: a pass reads the vector once; a chunk is read a second time from the caches.
Order: thread t of a chunk's block takes every THREADS-th element from the t-th on, threads are merged as a tree; then one block
merges chunks the same way. No atomics: the same bits on every launch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

THREADS = 128
CHUNK = 16 * THREADS


@cuda.jit(device=True)
def _merge_range(a: Any, i: Any, j: Any) -> None:
    """Column i of a := both: whether bad, least, greatest, how many equal the greatest."""
    ties = 0.0
    if a[2, i] >= a[2, j]:
        ties += a[3, i]
    if a[2, j] >= a[2, i]:
        ties += a[3, j]
    a[0, i] += a[0, j]
    a[1, i] = min(a[1, i], a[1, j])
    a[2, i] = max(a[2, i], a[2, j])
    a[3, i] = ties


@cuda.jit(device=True)
def _merge_moments(a: Any, i: Any, j: Any) -> None:
    """Column i of a := both: number, mean, squares about it, least (Chan, Golub, LeVeque)."""
    if a[0, j] > 0.0:
        n, step = a[0, i] + a[0, j], a[1, j] - a[1, i]
        if a[0, i] > 0.0:
            a[2, i] = (a[2, i] + a[2, j]) + step * step * (a[0, i] / n * a[0, j])
            a[1, i] += step * (a[0, j] / n)
        else:
            a[1, i], a[2, i] = a[1, j], a[2, j]
        a[0, i] = n
        a[3, i] = min(a[3, i], a[3, j])


@cuda.jit(device=True)
def _tree(a: Any, t: Any, moments: Any) -> None:
    """Column 0 of a := all THREADS columns."""
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            if moments:
                _merge_moments(a, t, t + half)
            else:
                _merge_range(a, t, t + half)
        half //= 2
    cuda.syncthreads()


@cuda.jit
def range_kernel(z: Any, partial: Any) -> None:
    """partial[chunk] = whether a number is not finite, the least, the greatest, how often."""
    a = cuda.shared.array((4, THREADS), np.float64)
    t = cuda.threadIdx.x
    for chunk in range(cuda.blockIdx.x, partial.shape[0], cuda.gridDim.x):
        bad, low, high, ties = 0.0, np.inf, -np.inf, 0.0
        for i in range(chunk * CHUNK + t, min(z.size, (chunk + 1) * CHUNK), THREADS):
            v = np.float64(z[i])
            if not abs(v) <= 1.7976931348623157e308:
                bad = 1.0
            low = min(low, v)
            if v > high:
                high, ties = v, 0.0
            if v == high:
                ties += 1.0
        a[0, t], a[1, t], a[2, t], a[3, t] = bad, low, high, ties
        _tree(a, t, False)
        if t < 4:
            partial[chunk, t] = a[t, 0]
        cuda.syncthreads()


@cuda.jit
def moments_kernel(z: Any, head: Any, centre: Any, scale: Any, cut: Any, partial: Any) -> None:
    """partial[chunk] = number, mean, squares about it and least of the y = (z head - centre) scale above the cut."""
    a = cuda.shared.array((4, THREADS), np.float64)
    t = cuda.threadIdx.x
    for chunk in range(cuda.blockIdx.x, partial.shape[0], cuda.gridDim.x):
        stop = min(z.size, (chunk + 1) * CHUNK)
        n, total, squares, low = 0.0, 0.0, 0.0, np.inf
        for i in range(chunk * CHUNK + t, stop, THREADS):
            y = (np.float64(z[i]) * head - centre) * scale
            if y > cut:
                n += 1.0
                total += y
                low = min(low, y)
        mean = total / max(n, 1.0)
        for i in range(chunk * CHUNK + t, stop, THREADS):
            y = (np.float64(z[i]) * head - centre) * scale
            if y > cut:
                squares += (y - mean) * (y - mean)
        a[0, t], a[1, t], a[2, t], a[3, t] = n, mean, squares, low
        _tree(a, t, True)
        if t < 4:
            partial[chunk, t] = a[t, 0]
        cuda.syncthreads()


@cuda.jit
def total_kernel(partial: Any, moments: Any, total: Any) -> None:
    """total = all chunks as one, by the first block."""
    a = cuda.shared.array((4, 2 * THREADS), np.float64)  # column THREADS + t: the chunk that joins column t
    t = cuda.threadIdx.x
    if cuda.blockIdx.x == 0:
        a[0, t], a[1, t], a[2, t], a[3, t] = 0.0, np.inf, -np.inf, 0.0
        if moments:
            a[1, t], a[2, t], a[3, t] = 0.0, 0.0, np.inf
        for chunk in range(t, partial.shape[0], THREADS):
            for k in range(4):
                a[k, THREADS + t] = partial[chunk, k]
            if moments:
                _merge_moments(a, t, THREADS + t)
            else:
                _merge_range(a, t, THREADS + t)
        _tree(a, t, moments)
        if t < 4:
            total[t] = a[t, 0]


@cuda.jit
def linear_kernel(z: Any, head: Any, centre: Any, scale: Any, base: Any, mean: Any, gain: Any, least: Any, out: Any) -> None:
    """p = least + (base + (y - mean) gain)_+."""
    for i in range(cuda.grid(1), z.size, cuda.gridsize(1)):
        y = (np.float64(z[i]) * head - centre) * scale
        out[i] = least + max(base + (y - mean) * gain, 0.0)


@cuda.jit
def ties_kernel(z: Any, high: Any, equal: Any, below: Any, out: Any) -> None:
    """p = equal where z is the largest, else below."""
    for i in range(cuda.grid(1), z.size, cuda.gridsize(1)):
        out[i] = equal if np.float64(z[i]) == high else below


def _for_both(signature: str) -> list[str]:
    return [signature.replace("REAL", real) for real in ("float32", "float64")]


KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    (range_kernel, _for_both("void(REAL[::1], float64[:, ::1])"), True, None),
    (moments_kernel, _for_both("void(REAL[::1], float64, float64, float64, float64, float64[:, ::1])"), True, None),
    (total_kernel, ["void(float64[:, ::1], boolean, float64[::1])"], True, None),
    (linear_kernel, _for_both("void(REAL[::1], float64, float64, float64, float64, float64, float64, float64, float64[::1])"), True,
     None),
    (ties_kernel, _for_both("void(REAL[::1], float64, float64, float64, float64[::1])"), True, None),
]
