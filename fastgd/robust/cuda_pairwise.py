"""The kernels of the squared distances: differences first, squares after, in tiles of 32 x 32 pairs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from .._cuda import simulated
from .cuda_device import Format

TILE = 32  # rows of one side of a tile of pairs, and columns staged at a time
_PITCH = TILE + 1  # of a staged tile: neither its rows nor its columns then share a memory bank
PAIR_THREADS = 64  # 8 x 8 threads, each with the 4 x 4 pairs of rows ty + 8 r and tx + 8 s
SEGMENT = 512  # columns added in the data's real type before the sums go to float64

#: Six blocks on a multiprocessor instead of five; no value is spilled. The simulator does not know the option.
_OCCUPANCY = {} if simulated() else {"max_registers": 168}


@cuda.jit(device=True)
def _squares(total: Any, a: Any, b: Any) -> Any:
    """total_s + (a - b_s)^2 for four s, each rounded twice: the difference, the sum."""
    p, q, r, s = a - b[0], a - b[1], a - b[2], a - b[3]
    return cuda.fma(p, p, total[0]), cuda.fma(q, q, total[1]), cuda.fma(r, r, total[2]), cuda.fma(s, s, total[3])


@cuda.jit(device=True)
def _plus(a: Any, b: Any) -> Any:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@cuda.jit(device=True)
def _flush(wide: Any, row: Any, total: Any, mask: Any, factor: Any) -> None:
    """wide[row + s] += total_s factor for the s whose bit is set; exact products, factor is a power of two."""
    for s in range(4):
        if mask >> (row + s) & 1:
            wide[row + s, cuda.threadIdx.x] += np.float64(total[s]) * factor


@cache
def make_pairwise_kernel(form: Format) -> Any:
    real, load = form.real, form.load
    single = form.dtype in ("float32", "bfloat16")  # where squares can leave the range of the real type
    zero, unit, limit = real(0), real(1), np.finfo(real).max
    tiny = real(2.0**-100) if single else zero
    down, up = (real(2.0**-80), real(2.0**100)) if single else (unit, unit)
    undo_down, undo_up = np.float64(2.0**160), np.float64(2.0**-200)

    @cuda.jit(device=True)
    def fill(tile: Any, bad: Any, base: Any, x: Any, first: Any, column: Any, stop: Any, scale: Any) -> None:
        """Stage 32 columns of 32 rows, transposed, times `scale` and clamped to finite; zeros beyond the data."""
        lane = cuda.threadIdx.x % TILE
        last = x.shape[0] - 1
        for k in range(cuda.threadIdx.x // TILE, TILE, PAIR_THREADS // TILE):
            value = zero
            if column + lane < stop:
                value = load(x[min(first + k, last), column + lane])
                if not abs(value) <= limit:
                    bad[base + k] = 1  # all writers write the same
                    value = zero
                value = value * scale
                if value > limit:
                    value = limit
                if value < -limit:
                    value = -limit
            tile[lane, k] = value

    @cuda.jit(device=True)
    def sums(x: Any, a: Any, b: Any, bad: Any, first: Any, second: Any, start: Any, stop: Any, scale: Any) -> Any:
        """sum_c ((x_ic - x_jc) scale)^2 over start <= c < stop for this thread's 16 pairs."""
        ty, tx = cuda.threadIdx.x // 8, cuda.threadIdx.x % 8
        t0 = t1 = t2 = t3 = (zero, zero, zero, zero)
        for column in range(start, stop, TILE):
            fill(a, bad, 0, x, first, column, stop, scale)
            fill(b, bad, TILE, x, second, column, stop, scale)
            cuda.syncthreads()
            s0 = s1 = s2 = s3 = (zero, zero, zero, zero)
            for k in range(TILE):
                others = (b[k, tx], b[k, tx + 8], b[k, tx + 16], b[k, tx + 24])
                s0 = _squares(s0, a[k, ty], others)
                s1 = _squares(s1, a[k, ty + 8], others)
                s2 = _squares(s2, a[k, ty + 16], others)
                s3 = _squares(s3, a[k, ty + 24], others)
            t0, t1, t2, t3 = _plus(t0, s0), _plus(t1, s1), _plus(t2, s2), _plus(t3, s3)
            cuda.syncthreads()
        return t0, t1, t2, t3

    @cuda.jit(device=True)
    def unsafe(total: Any, i: Any, j: Any, n: Any) -> Any:
        """Bits s for sums that overflowed and 16 + s for sums that may have lost underflowed squares."""
        bits = 0
        for s in range(4):
            if i < j + 8 * s and j + 8 * s < n:
                value = total[s]
                if not value <= limit:
                    bits |= 1 << s
                elif value < tiny:
                    bits |= 1 << (16 + s)
        return bits

    @cuda.jit(device=True)
    def flush(wide: Any, total: Any, mask: Any, factor: Any) -> None:
        _flush(wide, 0, total[0], mask, factor)
        _flush(wide, 4, total[1], mask, factor)
        _flush(wide, 8, total[2], mask, factor)
        _flush(wide, 12, total[3], mask, factor)

    @cuda.jit(**_OCCUPANCY)
    def pairwise_kernel(x: Any, chunks: Any, columns: Any, partial: Any, bad_rows: Any) -> None:
        """Formula: partial[h, i, j] = sum_c (x_ic - x_jc)^2 over the h-th run of `columns` columns, for i < j.

        Cost: reads x about n / 32 times, from L2 after the first; n^2 d / 2 subtractions and as many fused
        multiply-adds in the real type. A block makes one (run, tile of 32 x 32 pairs) at a time.
        Order: 32 columns ascending, 16 such sums to a segment, segments added in float64. In float32, a segment whose
        sum overflowed or is below 2^-100 is done again with the data scaled by 2^-80 or 2^100, which is exact where it
        matters: no finite row is too large or too small. (Equal rows, whose sum is 0, pay for that pass too.) NaN and
        Inf count as 0 here, and their pairs get +inf at the end.
        """
        a = cuda.shared.array((TILE, _PITCH), real)
        b = cuda.shared.array((TILE, _PITCH), real)
        bad = cuda.shared.array(PAIR_THREADS, np.int32)  # of the 32 + 32 rows
        wide = cuda.shared.array((16, PAIR_THREADS), np.float64)  # each thread's 16 sums; registers are for the tile
        t = cuda.threadIdx.x
        ty, tx = t // 8, t % 8
        n, size = x.shape[0], x.shape[1]
        tiles = (n + TILE - 1) // TILE
        pairs = tiles * (tiles + 1) // 2
        for block in range(cuda.blockIdx.x, pairs * chunks, cuda.gridDim.x):
            chunk, pair, upper = block // pairs, block % pairs, 0
            while pair >= tiles - upper:
                pair -= tiles - upper
                upper += 1
            first, second = upper * TILE, (upper + pair) * TILE
            i, j = first + ty, second + tx
            bad[t] = 0
            cuda.syncthreads()
            for p in range(16):
                wide[p, t] = 0.0
            for start in range(chunk * columns, min(size, (chunk + 1) * columns), SEGMENT):
                stop = min(start + SEGMENT, size)
                total = sums(x, a, b, bad, first, second, start, stop, unit)
                bits = 0
                if single:
                    bits = (unsafe(total[0], i, j, n) | unsafe(total[1], i + 8, j, n) << 4
                            | unsafe(total[2], i + 16, j, n) << 8 | unsafe(total[3], i + 24, j, n) << 12)
                flush(wide, total, ~(bits | bits >> 16), np.float64(1.0))
                if single:
                    for again in range(2):
                        mask = bits & 0xFFFF if again == 0 else bits >> 16
                        if cuda.syncthreads_or(mask):  # the same answer in all threads of the block
                            scale, undo = (down, undo_down) if again == 0 else (up, undo_up)
                            flush(wide, sums(x, a, b, bad, first, second, start, stop, scale), mask, undo)
            for p in range(16):
                row, other = ty + 8 * (p // 4), tx + 8 * (p % 4)
                if first + row < second + other and second + other < n:
                    broken = bad[row] or bad[TILE + other]
                    partial[chunk, first + row, second + other] = np.float64(np.inf) if broken else wide[p, t]
            if pair == 0 and t < TILE and first + t < n:
                bad_rows[chunk, first + t] = np.float32(bad[t])
            cuda.syncthreads()

    return pairwise_kernel


#: Threads that share the runs of one pair, at most.
SLICES = 16


@cuda.jit
def reduce_kernel(partial: Any, bad_rows: Any, add: Any, sqdist: Any, bad: Any) -> None:
    """Formula: D_ij = D_ji = sum_h partial[h, i, j], D_ii = 0, bad_i = any_h bad_rows[h, i]; `add`: onto the old ones.

    Cost: one read of the partial sums.
    Order: thread s of a pair adds the runs s, s + S, s + 2 S, ..; the S sums are then added in ascending s. S depends
    on the number of runs alone.
    """
    sums = cuda.shared.array((SLICES, 32), np.float64)
    lane, s, slices = cuda.threadIdx.x % 32, cuda.threadIdx.x // 32, cuda.blockDim.x // 32
    n = sqdist.shape[0]
    for base in range(np.int64(cuda.blockIdx.x) * 32, n * n, np.int64(cuda.gridDim.x) * 32):
        i = (base + lane) // n
        j = (base + lane) - i * n
        total = np.float64(0.0)
        if i < n and i <= j:
            for h in range(s, partial.shape[0], slices):
                total += np.float64(bad_rows[h, i]) if i == j else partial[h, i, j]
        sums[s, lane] = total
        cuda.syncthreads()
        if s == 0 and i < n and i <= j:
            for other in range(1, slices):
                total += sums[other, lane]
            if i == j:
                bad[i] = np.float32(1.0 if total > 0.0 or (add and bad[i] > 0.0) else 0.0)
                sqdist[i, i] = 0.0
            else:
                if add:
                    total += sqdist[i, j]
                sqdist[i, j] = total
                sqdist[j, i] = total
        cuda.syncthreads()
