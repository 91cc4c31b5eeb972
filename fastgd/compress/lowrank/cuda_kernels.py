"""The kernels of PowerSGD. Sums have the orders of docs/wire.md, which the CPU has too.

`p` is the matrix, row by row; `floats` has both factors as a body has them, the left one first. The matrix is read once for each
column of the factors, mostly from caches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from ...random import scalar
from ..cuda_kernels import (
    THREADS,
    bits_of,
    exponent_above,
    float_of,
    get_word,
    magnitude,
    power64,
    product,
    product64,
    quotient64,
    receive,
    remember,
    root64,
)

LANES, CHUNK = 16, 1024  # of a row: its lanes, and what they add up before they are folded
ROWS = 64  # rows summed in float32
EIGHT, TALL = 8, 512  # lanes of a column; threads that work on the columns
DRAWS, MOST_RANK = 8, 64  # of a column that vanishes; columns at most
_INFINITY = np.uint32(0x7F800000)
_TINY, _HUGE = np.float32(2.0**-64), np.float32(2.0**64)
_DEAD, _DEAD_WARM = 2.0**-46, np.float32(2.0**-20)

_hash32 = scalar.functions(cuda.jit(device=True)).hash32


@cuda.jit(device=True)
def _draw(key: Any, i: Any) -> Any:
    """An odd multiple of 2^-24 in (-1, 1)."""
    word = np.int64(_hash32(key, np.uint64(i)))
    return product(np.float32(2 * (word >> 8) + 1 - (1 << 24)), np.float32(2.0**-24))


@cuda.jit(device=True)
def _unit(top: Any) -> Any:
    """The power of two that the matrix is multiplied by, from the bits of its largest magnitude."""
    peak = float_of(top)
    unit = np.float32(1)
    if np.float32(0) < peak < _TINY:
        unit = _HUGE
    elif peak > _HUGE:
        unit = _TINY
    return unit


@cuda.jit(device=True)
def _fold(lanes: Any, width: Any) -> None:
    """Lane l of each `width` adds lane l + width / 2, then / 4, .. 1; between two barriers."""
    lane, half = cuda.threadIdx.x % width, width // 2
    cuda.syncthreads()
    while half > 0:
        if lane < half:
            lanes[cuda.threadIdx.x] = lanes[cuda.threadIdx.x] + lanes[cuda.threadIdx.x + half]
        cuda.syncthreads()
        half //= 2


# ---------------------------------------------------------------------------------------------------------- encoding


@cuda.jit
def peaks_kernel(warm: Any, peaks: Any) -> None:
    """The bits of the largest magnitude of each column; peaks start as 0."""
    rank = warm.shape[1]
    for at in range(cuda.grid(1), warm.size, cuda.gridsize(1)):
        cuda.atomic.max(peaks, at % rank, np.uint32(magnitude(warm[at // rank, at % rank])))


@cuda.jit
def start_kernel(warm: Any, peaks: Any, key: Any, q: Any) -> None:
    """Q, a line a column: of the last right factor, brought into [1, 2), or drawn where that vanishes or its peak is 0."""
    rank, columns = q.shape
    for at in range(cuda.grid(1), q.size, cuda.gridsize(1)):
        k, j = at // columns, at % columns
        most = np.uint32(0)
        for other in range(rank):
            if peaks[other] < _INFINITY:
                most = max(most, peaks[other])
        peak = peaks[k]
        if np.uint32(0) < peak < _INFINITY and float_of(peak) >= product(_DEAD_WARM, float_of(most)):
            q[k, j] = np.float32(product64(np.float64(warm[j, k]), power64(1 - exponent_above(peak))))
        else:
            q[k, j] = _draw(key, j * rank + k)


@cuda.jit
def rows_kernel(p: Any, top: Any, q: Any, left: Any) -> None:
    """Y Q, a line a column: 16 threads a row and column, the chunks of a row one after the other."""
    lanes = cuda.shared.array(THREADS, np.float64)
    rank, columns = q.shape
    lane, unit, most = cuda.threadIdx.x % LANES, _unit(top[0]), left.shape[1] * rank
    groups = cuda.blockDim.x // LANES
    for first in range(cuda.blockIdx.x * groups, most, cuda.gridDim.x * groups):
        own = first + cuda.threadIdx.x // LANES
        row, k = own // rank, own % rank
        total = np.float64(0)
        for at in range(0, columns, CHUNK):
            part = np.float32(0)
            for j in range(at + lane, min(at + CHUNK, columns) if own < most else 0, LANES):
                part += product(product(p[row * columns + j], unit), q[k, j])
            lanes[cuda.threadIdx.x] = np.float64(part)
            _fold(lanes, LANES)
            total += lanes[cuda.threadIdx.x - lane]
            cuda.syncthreads()  # the sum has been read
        if lane == 0 and own < most:
            left[k, row] = total


@cuda.jit(device=True)
def _products(left: Any, first: Any, last: Any, k: Any, lanes: Any, out: Any) -> None:
    """out[m] = <column m, column k> for first <= m < last: eight threads each; between two barriers."""
    rows, lane, groups = left.shape[1], cuda.threadIdx.x % EIGHT, cuda.blockDim.x // EIGHT
    for start in range(first, last, groups):
        m = start + cuda.threadIdx.x // EIGHT
        total, i = np.float64(0), lane
        if m < last:
            while i + 3 * EIGHT < rows:  # four at a time: the additions wait for each other, the reads need not
                a = product64(left[m, i], left[k, i])
                b = product64(left[m, i + EIGHT], left[k, i + EIGHT])
                c = product64(left[m, i + 2 * EIGHT], left[k, i + 2 * EIGHT])
                e = product64(left[m, i + 3 * EIGHT], left[k, i + 3 * EIGHT])
                total = (((total + a) + b) + c) + e
                i += 4 * EIGHT
            while i < rows:
                total += product64(left[m, i], left[k, i])
                i += EIGHT
        lanes[cuda.threadIdx.x] = total
        _fold(lanes, EIGHT)
        if lane == 0 and m < last:
            out[m] = lanes[cuda.threadIdx.x]
        cuda.syncthreads()


@cuda.jit(device=True)
def _take(left: Any, k: Any, products: Any) -> None:
    """Takes from column k what it has of the columns before it, in their order; a barrier ends it."""
    for i in range(cuda.threadIdx.x, left.shape[1], cuda.blockDim.x):
        v = left[k, i]
        for m in range(k):
            v = v - product64(products[m], left[m, i])
        left[k, i] = v
    cuda.syncthreads()


@cuda.jit
def orthogonalise_kernel(key: Any, left: Any, floats: Any) -> None:
    """Gram-Schmidt, each column twice against all before it, by one block; one that vanishes is drawn. P into `floats`."""
    lanes = cuda.shared.array(TALL, np.float64)
    products = cuda.shared.array(MOST_RANK, np.float64)
    rank, rows = left.shape
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    for k in range(rank if cuda.blockIdx.x == 0 else 0):
        draw, length = 0, np.float64(0)
        while draw <= DRAWS and length == np.float64(0):
            if draw > 0:
                for i in range(thread, rows, threads):
                    left[k, i] = np.float64(_draw(key, ((1 + MOST_RANK * (draw - 1) + k) << 40) + i))
            cuda.syncthreads()
            before = np.float64(0)
            for turn in range(4):  # its square, what is before it twice, its square: one loop, as the code for sums is long
                if turn == 0 or turn == 3:
                    first, last = k, k + 1
                else:
                    first, last = 0, k
                _products(left, first, last, k, lanes, products)
                if turn == 0:
                    before = products[k]
                elif turn < 3:
                    _take(left, k, products)
            after = products[k]
            if np.float64(0) < before < np.float64(np.inf) and after >= product64(_DEAD, before):
                length = root64(after)
            draw += 1
        for i in range(thread, rows, threads):
            v = np.float64(0)
            if length > np.float64(0):
                v = quotient64(left[k, i], length)
            left[k, i] = v
            floats[i * rank + k] = np.float32(v)


@cuda.jit
def sums_kernel(p: Any, top: Any, floats: Any, sums: Any) -> None:
    """Y'P of each 64 rows: sums[b, k, j], a thread each."""
    rank, columns = sums.shape[1], sums.shape[2]
    rows, unit = p.size // columns, _unit(top[0])
    for at in range(cuda.grid(1), sums.size, cuda.gridsize(1)):
        j, k, b = at % columns, at // columns % rank, at // columns // rank
        part = np.float32(0)
        for i in range(b * ROWS, min((b + 1) * ROWS, rows)):
            part += product(floats[i * rank + k], product(p[i * columns + j], unit))
        sums[b, k, j] = part


@cuda.jit
def right_kernel(sums: Any, top: Any, most: Any, floats: Any) -> None:
    """Q' behind P: the sums of all rows in double, over the unit, at most `most` in magnitude."""
    rank, columns = sums.shape[1], sums.shape[2]
    first, unit, limit = floats.size - columns * rank, np.float64(_unit(top[0])), np.float64(most)
    for at in range(cuda.grid(1), columns * rank, cuda.gridsize(1)):
        j, k = at % columns, at // columns
        total = np.float64(0)
        for b in range(sums.shape[0]):
            total += np.float64(sums[b, k, j])
        value = quotient64(total, unit)
        if value > limit:
            value = limit
        elif not value >= -limit:
            value = -limit
        floats[first + j * rank + k] = np.float32(value)


# --------------------------------------------------------------------------------------------------------- decoding


@cuda.jit(device=True)
def _entry(floats: Any, split: Any, columns: Any, rank: Any, at: Any) -> Any:
    """c of entry `at`: its row of P times its row of Q', which start at 0 and at `split`."""
    i, j = at // columns * rank, split + at % columns * rank
    c = product(floats[i], floats[j])
    for k in range(1, rank):
        c = c + product(floats[i + k], floats[j + k])
    return c


@cuda.jit
def memory_kernel(floats: Any, columns: Any, rank: Any, p: Any, memory: Any, mode: Any) -> None:
    for at in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        remember(memory, mode, at, p[at], _entry(floats, floats.size - columns * rank, columns, rank, at))


@cuda.jit
def add_kernel(floats: Any, columns: Any, rank: Any, scale: Any, add: Any, out: Any) -> None:
    for at in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        receive(out, at, _entry(floats, floats.size - columns * rank, columns, rank, at), scale, add)


@cuda.jit
def check_kernel(body: Any, rows: Any, columns: Any, rank: Any, most: Any, flags: Any) -> None:
    """Reason 1 for a row of P longer than 1, but for rounding, or an entry of Q' beyond `most`; NaN is both."""
    for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
        length = np.float64(0)
        for k in range(rank):
            v = np.float64(float_of(get_word(body, 4 * (i * rank + k))))
            length += product64(v, v)
        if not length <= 1.0 + 2.0**-10:
            flags[1] = np.uint32(1)
    for at in range(cuda.grid(1), columns * rank, cuda.gridsize(1)):
        if magnitude(float_of(get_word(body, 4 * (rows * rank + at)))) > np.int64(bits_of(most)):
            flags[1] = np.uint32(1)


KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    (peaks_kernel, ["void(float32[:, ::1], uint32[::1])"], False, None),
    (start_kernel, ["void(float32[:, ::1], uint32[::1], uint64, float32[:, ::1])"], True, None),
    (rows_kernel, ["void(float32[::1], uint32[::1], float32[:, ::1], float64[:, ::1])"], True, None),
    (orthogonalise_kernel, ["void(uint64, float64[:, ::1], float32[::1])"], True, 80),
    (sums_kernel, ["void(float32[::1], uint32[::1], float32[::1], float32[:, :, ::1])"], False, None),
    (right_kernel, ["void(float32[:, :, ::1], uint32[::1], float32, float32[::1])"], True, None),
    (memory_kernel, ["void(float32[::1], int64, int64, float32[::1], float32[::1], int64)"], False, None),
    (add_kernel, ["void(float32[::1], int64, int64, float32, boolean, float32[::1])"], False, None),
    (check_kernel, ["void(uint8[::1], int64, int64, int64, float32, uint32[::1])"], True, None),
]
