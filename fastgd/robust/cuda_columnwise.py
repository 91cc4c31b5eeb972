"""The kernels that work coordinate by coordinate: linear combinations and means of ranks."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
from numba import cuda, types

from .cuda_device import Format, divide, sorter, two_sum

#: Threads of a block.
THREADS = 128
#: Rows of `terms` before the weights.
HEADER = 3


@cache
def make_combine_kernel(form: Format) -> Any:
    real, load, store, odd = form.real, form.load, form.store, form.odd
    single = real is np.float32
    zero, one, limit, normal = real(0), real(1), np.finfo(real).max, np.finfo(real).tiny
    small, boost, unboost = (real(2.0**e) for e in ((-60, 80, -80) if single else (-900, 600, -600)))

    @cuda.jit
    def combine_kernel(x: Any, picks: Any, terms: Any, out: Any, offset: Any, broken: Any) -> None:
        """Formula: y_ac = 2^E_a (sum_k V_ak x[picks[a, k], c]) / D_a.

        The host scales each row of weights by a power of two so that sum_k |V_ak| <= 1/2: no partial sum overflows,
        and the mean of huge vectors is finite. picks[a] = (count, row, row, ..). terms[a] = (D high, D low),
        (2^E as three factors), .., (V high, V low), ...
        Cost: one read of the vectors with a weight per a, later ones mostly from L2; 11 operations a term.
        Order: ascending k, exact products and sums in two words (their errors are added in the real type), one rounding
        at the end: error below half a unit of the result + 2^-46 (float64: 2^-104) sum_k |V_k x_k| / D. Where all terms
        are so small that the errors of the products would underflow, the coordinate is done again, scaled.
        A coordinate with a non-finite sum lowers `broken` to its number.
        """
        m, size = out.shape[0], out.shape[1]
        columns = (size + THREADS - 1) // THREADS
        for block in range(cuda.blockIdx.x, m * columns, cuda.gridDim.x):
            a = block % m
            c = block // m * THREADS + cuda.threadIdx.x
            if c < size:
                s, e, scale, back = zero, zero, one, one
                for again in range(2):
                    s, e, largest, nonzero = zero, zero, zero, False
                    for k in range(picks[a, 0]):
                        value = load(x[picks[a, k + 1], c])
                        high = terms[a, k + HEADER, 0] * scale
                        product = cuda.fma(high, value, zero)
                        error = cuda.fma(terms[a, k + HEADER, 1] * scale, value, cuda.fma(high, value, -product))
                        s, rest = two_sum(s, product)
                        e += rest + error
                        largest = max(largest, abs(product))
                        nonzero = nonzero or value != zero
                    if again == 1 or largest >= small or not nonzero:
                        break
                    scale, back = boost, unboost
                if abs(s) <= limit:
                    high, low = divide(s, e, terms[a, 0, 0], terms[a, 0, 1])
                    f0, f1, f2 = terms[a, 1, 0], terms[a, 1, 1], terms[a, 2, 0]
                    if abs(high * f0 * back * f1 * f2) < normal:
                        high, low = odd(high, low), zero  # the scaling will round
                    out[a, c] = store(high * f0 * back * f1 * f2, low * f0 * back * f1 * f2)
                else:
                    out[a, c] = store(s, zero)
                    cuda.atomic.min(broken, 0, offset + c)

    return combine_kernel


# -------------------------------------------------------------------------------------- means of ranks


@cache
def _steps(form: Format) -> tuple[Any, Any]:
    """Device functions (gather, average) on the n values at `values[at + k step]`."""
    real, load = form.real, form.load
    single = real is np.float32
    zero, one, limit, infinity = real(0), real(1), np.finfo(real).max, real(np.inf)
    huge, down, up = (real(2.0**e) for e in ((100, -24, 24) if single else (990, -32, 32)))

    @cuda.jit(device=True)
    def gather(x: Any, c: Any, n: Any, values: Any, at: Any, step: Any) -> Any:
        """Load a coordinate, NaN and Inf as +inf; returns how many there were."""
        bad = 0
        for i in range(n):
            value = load(x[i, c])
            if not abs(value) <= limit:
                value = infinity
                bad += 1
            values[at + i * step] = value
        return bad

    @cuda.jit(device=True)
    def average(values: Any, at: Any, step: Any, first: Any, last: Any, divisor: Any) -> Any:
        """The mean of ranks first .. last of the sorted values, as two words; no sum of finite values overflows."""
        low_end, high_end = values[at + first * step], values[at + last * step]
        if first == last:
            return low_end, zero
        big = max(abs(low_end), abs(high_end)) > huge
        scale, back = (down, up) if big else (one, one)
        s, e = low_end * scale, zero
        for k in range(first + 1, last + 1):
            s, rest = two_sum(s, values[at + k * step] * scale)
            e += rest
        if not abs(s) <= limit:
            return s, zero
        high, low = divide(s, e, divisor, zero)
        return high * back, low * back

    return gather, average


@lru_cache(maxsize=64)
def make_register_kernel(form: Format, n: int, f: int) -> Any:
    real, store = form.real, form.store
    gather, average = _steps(form)
    first, last, divisor = f, n - f - 1, real(n - 2 * f)
    sort = sorter(n, first, last)

    @cuda.jit
    def rank_mean_kernel(x: Any, out: Any, offset: Any, tolerated: Any, broken: Any) -> None:
        """Formula: y_c = mean of ranks f .. n - f - 1 of x_1c .. x_nc; for a given (n, f), one thread a coordinate.

        Cost: one read of the data; about n log^2(n) / 4 compare-exchanges a coordinate, all values in registers.
        Order: sorted, then added in ascending order in two words, divided, rounded once: independent of the vectors'
        order to the bit. A coordinate with more than `tolerated` non-finite values lowers `broken` to its number.
        """
        values = cuda.local.array(n, real)
        for c in range(cuda.grid(1), out.shape[1], cuda.gridsize(1)):
            bad = gather(x, c, n, values, 0, 1)
            sort(values)
            high, low = average(values, 0, 1, first, last, divisor)
            out[0, c] = store(high, low)
            if bad > tolerated:
                cuda.atomic.min(broken, 0, offset + c)

    return rank_mean_kernel


@cache
def make_tile_kernel(form: Format, shared: bool) -> Any:
    store, kind = form.store, types.float64 if form.real is np.float64 else types.float32
    gather, average = _steps(form)

    @cuda.jit
    def tile_rank_mean_kernel(x: Any, pairs: Any, first: Any, last: Any, divisor: Any, scratch: Any, out: Any,
                              offset: Any, tolerated: Any, broken: Any) -> None:
        """Formula, order: as `rank_mean_kernel`, for any n; the comparators come as an array.

        Cost: a thread's values lie `step` apart, so a warp's accesses are adjacent; 4 accesses a comparator, to shared
        memory while n values a thread fit there, else to `scratch` in global memory (mostly L2).
        """
        if shared:
            values, at, step = cuda.shared.array(0, kind), cuda.threadIdx.x, cuda.blockDim.x
        else:
            values, at, step = scratch, cuda.grid(1), cuda.gridsize(1)
        for c in range(cuda.grid(1), out.shape[1], cuda.gridsize(1)):
            bad = gather(x, c, x.shape[0], values, at, step)
            for k in range(pairs.shape[0]):
                i, j = at + pairs[k, 0] * step, at + pairs[k, 1] * step
                a, b = values[i], values[j]
                swap = b < a
                values[i] = b if swap else a
                values[j] = a if swap else b
            high, low = average(values, at, step, first, last, divisor)
            out[0, c] = store(high, low)
            if bad > tolerated:
                cuda.atomic.min(broken, 0, offset + c)

    return tile_rank_mean_kernel
