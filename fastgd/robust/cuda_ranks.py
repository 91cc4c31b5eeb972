"""The kernels that sort each coordinate and average some of its ranks: the middle ones, or those nearest to the median.

Up to 64 vectors a thread sorts its coordinate in registers; for more, in shared memory while 32 coordinates fit there;
beyond, a block sorts one coordinate at a time.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
from numba import cuda, types

from .cuda_device import Format, block_sort, divide, sorter, two_sum

#: Threads of a block, at most.
THREADS = 128


@cache
def _arithmetic(form: Format) -> tuple[Any, Any, Any]:
    """Device functions (nearer, spread, mean) of the kernels below."""
    real = form.real
    single = real is np.float32
    zero, one, half, limit = real(0), real(1), real(0.5), np.finfo(real).max
    huge, down, up = (real(2.0**e) for e in ((100, -24, 24) if single else (990, -32, 32)))

    @cuda.jit(device=True)
    def nearer(a: Any, b: Any, p: Any, q: Any) -> bool:
        """a + b < p + q, told exactly: sums that are rounded alike differ in their errors. False where b is +inf."""
        if max(abs(a), abs(b)) > huge or max(abs(p), abs(q)) > huge:
            a, b, p, q = a * half, b * half, p * half, q * half
        s, rest = two_sum(a, b)
        t, other = two_sum(p, q)
        return s < t or (s == t and rest < other)

    @cuda.jit(device=True)
    def spread(low_end: Any, high_end: Any) -> Any:
        """(scale, what undoes it) for sums of values between the two."""
        if max(abs(low_end), abs(high_end)) > huge:
            return down, up
        return one, one

    @cuda.jit(device=True)
    def mean(s: Any, e: Any, divisor: Any, back: Any) -> Any:
        """(s + e) / divisor back as two words."""
        if not abs(s) <= limit:
            return s, zero
        high, low = divide(s, e, divisor, zero)
        return high * back, low * back

    return nearer, spread, mean


@cache
def _strided(form: Format) -> tuple[Any, Any, Any]:
    """Device functions (gather, average, nearest) on the n values at `values[at + k step]`."""
    real, load = form.real, form.load
    zero, limit, infinity = real(0), np.finfo(real).max, real(np.inf)
    nearer, spread, mean = _arithmetic(form)

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
        scale, back = spread(low_end, high_end)
        s, e = low_end * scale, zero
        for k in range(first + 1, last + 1):
            s, rest = two_sum(s, values[at + k * step] * scale)
            e += rest
        return mean(s, e, divisor, back)

    @cuda.jit(device=True)
    def nearest(values: Any, at: Any, step: Any, n: Any, window: Any) -> Any:
        """First of the `window` neighbouring ranks that are nearest to the median.

        Rank lo + window is nearer to the median than rank lo, s[lo] + s[lo + window] < 2 median, up to some lo: bisected.
        """
        p, q = values[at + (n - 1) // 2 * step], values[at + n // 2 * step]
        low, high = 0, n - window
        while low < high:
            middle = (low + high) // 2
            if nearer(values[at + middle * step], values[at + (middle + window) * step], p, q):
                low = middle + 1
            else:
                high = middle
        return low

    return gather, average, nearest


# -------------------------------------------------------------------------------------------------- in registers


@lru_cache(maxsize=64)
def make_register_kernel(form: Format, n: int, f: int) -> Any:
    real, store = form.real, form.store
    gather, average, _ = _strided(form)
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


#: Windows compared by one compiled function, see `cuda_device.sorter`.
_GROUP = 16


def _scan(form: Format, n: int, window: int) -> Any:
    """A device function (values, p, q, state) -> state that compares all neighbouring windows in turn.

    A state is (start of the best window, its first value, its last value).
    """
    nearer, _, _ = _arithmetic(form)

    def part(begin: int, before: Any) -> Any:
        count = min(_GROUP, n - window - begin)

        @cuda.jit(device=True)
        def scan(values: Any, p: Any, q: Any, state: Any) -> Any:
            start, left, right = state if before is None else before(values, p, q, state)
            for k in range(count):
                if nearer(values[begin + k], values[begin + k + window], p, q):
                    start = begin + k + 1
                    left, right = values[begin + k + 1], values[begin + k + window]
            return start, left, right

        return scan

    function = part(0, None)
    for begin in range(_GROUP, n - window, _GROUP):
        function = part(begin, function)
    return function


@lru_cache(maxsize=64)
def make_nearest_register_kernel(form: Format, n: int, window: int) -> Any:
    real, store = form.real, form.store
    zero, divisor = real(0), real(window)
    _, spread, mean = _arithmetic(form)
    gather, _, _ = _strided(form)
    sort, scan = sorter(n, 0, n - 1), _scan(form, n, window)
    below, above = (n - 1) // 2, n // 2

    @cuda.jit
    def nearest_mean_kernel(x: Any, out: Any, offset: Any, tolerated: Any, broken: Any) -> None:
        """Formula: y_c = mean of the `window` values nearest to the median, neighbours in order (`nearest`).

        Cost: one read of the data; a full sorting network, then 20 operations a value to choose the window and 10 to
        add it. Every rank has its register, so the window is chosen by comparing all, and the others are added as 0.
        Order: as `rank_mean_kernel`; the choice is exact.
        """
        values = cuda.local.array(n, real)
        for c in range(cuda.grid(1), out.shape[1], cuda.gridsize(1)):
            bad = gather(x, c, n, values, 0, 1)
            sort(values)
            p, q = values[below], values[above]
            start, left, right = scan(values, p, q, (0, values[0], values[window - 1]))
            high, low = left, zero
            if window > 1:
                scale, back = spread(left, right)
                s, e = zero, zero
                for k in range(n):
                    value = values[k] * scale if start <= k and k < start + window else zero
                    s, rest = two_sum(s, value)
                    e += rest
                high, low = mean(s, e, divisor, back)
            out[0, c] = store(high, low)
            if bad > tolerated:
                cuda.atomic.min(broken, 0, offset + c)

    return nearest_mean_kernel


# ------------------------------------------------------------------------------------- in shared and global memory


@cache
def make_tile_kernel(form: Format, near: bool) -> Any:
    store, kind = form.store, types.float64 if form.real is np.float64 else types.float32
    gather, average, nearest = _strided(form)

    @cuda.jit
    def tile_rank_mean_kernel(x: Any, pairs: Any, first: Any, last: Any, divisor: Any, out: Any, offset: Any,
                              tolerated: Any, broken: Any) -> None:
        """Formula, order: as `rank_mean_kernel`, or `nearest_mean_kernel` for `near` with a window of last - first + 1.

        Cost: the comparators come as an array; 4 accesses to shared memory a comparator. A thread's values lie `step`
        apart, so a warp's accesses are adjacent.
        """
        values, at, step = cuda.shared.array(0, kind), cuda.threadIdx.x, cuda.blockDim.x
        n = x.shape[0]
        for c in range(cuda.grid(1), out.shape[1], cuda.gridsize(1)):
            bad = gather(x, c, n, values, at, step)
            for k in range(pairs.shape[0]):
                i, j = at + pairs[k, 0] * step, at + pairs[k, 1] * step
                a, b = values[i], values[j]
                swap = b < a
                values[i] = b if swap else a
                values[j] = a if swap else b
            low_rank, high_rank = first, last
            if near:
                low_rank = nearest(values, at, step, n, last - first + 1)
                high_rank = low_rank + (last - first)
            high, low = average(values, at, step, low_rank, high_rank, divisor)
            out[0, c] = store(high, low)
            if bad > tolerated:
                cuda.atomic.min(broken, 0, offset + c)

    return tile_rank_mean_kernel


@cache
def make_block_kernel(form: Format, near: bool, shared: bool) -> Any:
    real, store, load, kind = form.real, form.store, form.load, types.float64 if form.real is np.float64 else types.float32
    zero, limit, infinity = form.real(0), np.finfo(form.real).max, form.real(np.inf)
    _, spread, mean = _arithmetic(form)
    _, _, nearest = _strided(form)

    @cuda.jit
    def block_rank_mean_kernel(x: Any, padded: Any, first: Any, last: Any, divisor: Any, scratch: Any, out: Any,
                               offset: Any, tolerated: Any, broken: Any) -> None:
        """Formula: as `tile_rank_mean_kernel`; a block sorts one coordinate, padded with +inf to a power of two.

        Cost: one read of the data from memory, where neighbouring blocks share what a sector holds; about
        n log^2(n) / 4 compare-exchanges a coordinate, in shared memory or in `scratch` of `padded` values a block.
        Order: as `rank_mean_kernel`, but first in equal stretches of ranks, one a thread, then stretch by stretch.
        """
        sums = cuda.shared.array(THREADS, real)
        errors = cuda.shared.array(THREADS, real)
        counts = cuda.shared.array(2, np.int32)  # of values that are not finite; the first rank of the window
        t, n, threads = cuda.threadIdx.x, x.shape[0], cuda.blockDim.x
        if shared:
            values, at = cuda.shared.array(0, kind), 0
        else:
            values, at = scratch, cuda.blockIdx.x * padded
        for c in range(cuda.blockIdx.x, out.shape[1], cuda.gridDim.x):
            if t == 0:
                counts[0] = 0
            cuda.syncthreads()
            for i in range(t, padded, threads):
                value = infinity
                if i < n:
                    value = load(x[i, c])
                    if not abs(value) <= limit:
                        value = infinity
                        cuda.atomic.add(counts, 0, 1)
                values[at + i] = value
            cuda.syncthreads()
            block_sort(values, at, padded)
            if t == 0:
                counts[1] = nearest(values, at, 1, n, last - first + 1) if near else first
            cuda.syncthreads()
            begin = np.int64(counts[1])
            end = begin + (last - first) + 1
            scale, back = spread(values[at + begin], values[at + end - 1])
            stretch = (end - begin + threads - 1) // threads
            s, e = zero, zero
            for k in range(begin + t * stretch, min(end, begin + (t + 1) * stretch)):
                s, rest = two_sum(s, values[at + k] * scale)
                e += rest
            sums[t], errors[t] = s, e
            cuda.syncthreads()
            if t == 0:
                for other in range(1, threads):
                    s, rest = two_sum(s, sums[other])
                    e += rest + errors[other]
                high, low = mean(s, e, divisor, back)
                out[0, c] = store(high, low)
                if counts[0] > tolerated:
                    cuda.atomic.min(broken, 0, offset + c)
            cuda.syncthreads()

    return block_rank_mean_kernel
