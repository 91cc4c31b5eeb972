"""The kernels that choose: TopK and Threshold.

TopK finds the k-th largest magnitude digit by digit (11, 10, 10 bits), each from a pass over p into histograms; then, as
Threshold does, tiles are counted, the counts summed up, and what is kept is written at its place. Five reads of p.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from ..cuda_kernels import THREADS, magnitude, nearest, product, put_word, quotient, remember

BINS = 2048
_EACH = 8  # elements of a tile that a thread looks at
TILE = THREADS * _EACH
BUCKET = 512
SCAN = 256
DIGITS = (20, 11), (10, 10), (0, 10)  # shifts, bits
_LARGEST = float(np.finfo(np.float32).max)


# `found` has the upper digits of the k-th largest magnitude, and how many are still to be found below them: in the end the
# magnitude, and how many of those equal to it are kept. `count` has for each tile the elements above it and equal to it.


@cuda.jit
def histogram_kernel(p: Any, shift: Any, bits: Any, found: Any, bins: Any) -> None:
    """How many magnitudes that start with the digits found have which digit next."""
    own = cuda.shared.array(BINS, np.uint32)
    for b in range(cuda.threadIdx.x, BINS, cuda.blockDim.x):
        own[b] = np.uint32(0)
    cuda.syncthreads()
    prefix, size = found[0], 1 << bits
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        key = magnitude(p[i]) >> shift
        if key >> bits == prefix:
            cuda.atomic.add(own, key & (size - 1), np.uint32(1))
    cuda.syncthreads()
    for b in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        if own[b] != np.uint32(0):
            cuda.atomic.add(bins, b, own[b])


@cuda.jit
def narrow_kernel(bits: Any, bins: Any, found: Any) -> None:
    """The next digit: by one block. The bins become 0 again."""
    part = cuda.shared.array(THREADS, np.int64)
    if cuda.blockIdx.x == 0:
        each = (1 << bits) // THREADS
        first = cuda.threadIdx.x * each
        mine = np.int64(0)
        for b in range(first, first + each):
            mine += np.int64(bins[b])
        part[cuda.threadIdx.x] = mine
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            left, t = found[1], THREADS - 1
            while t > 0 and part[t] < left:
                left -= part[t]
                t -= 1
            b = t * each + each - 1
            while b > t * each and np.int64(bins[b]) < left:
                left -= np.int64(bins[b])
                b -= 1
            found[0] = (found[0] << bits) + b
            found[1] = left
        cuda.syncthreads()
        for b in range(first, first + each):
            bins[b] = np.uint32(0)


@cuda.jit
def set_kernel(first: Any, second: Any, found: Any) -> None:
    if cuda.grid(1) == 0:
        found[0] = first
        found[1] = second


@cuda.jit
def count_kernel(p: Any, found: Any, count: Any) -> None:
    """The elements of each tile above and equal to the magnitude found."""
    both = cuda.shared.array(2, np.int32)
    key = found[0]
    for tile in range(cuda.blockIdx.x, count.shape[1], cuda.gridDim.x):
        if cuda.threadIdx.x < 2:
            both[cuda.threadIdx.x] = 0
        cuda.syncthreads()
        above, equal = 0, 0
        for i in range(tile * TILE + cuda.threadIdx.x, min((tile + 1) * TILE, p.size), THREADS):
            size = magnitude(p[i])
            if size > key:
                above += 1
            elif size == key:
                equal += 1
        if above > 0:
            cuda.atomic.add(both, 0, np.int32(above))
        if equal > 0:
            cuda.atomic.add(both, 1, np.int32(equal))
        cuda.syncthreads()
        if cuda.threadIdx.x < 2:
            count[cuda.threadIdx.x, tile] = both[cuda.threadIdx.x]
        cuda.syncthreads()


@cuda.jit
def scan_kernel(count: Any, total: Any) -> None:
    """count becomes what the tiles before have, total what all have: by one block."""
    part = cuda.shared.array(SCAN, np.int64)
    thread = cuda.threadIdx.x
    if cuda.blockIdx.x == 0:
        tiles = count.shape[1]
        each = (tiles + SCAN - 1) // SCAN
        for row in range(2):
            mine = np.int64(0)
            for tile in range(thread * each, min((thread + 1) * each, tiles)):
                mine += count[row, tile]
            part[thread] = mine
            cuda.syncthreads()
            if thread == 0:
                before = np.int64(0)
                for t in range(SCAN):
                    own = part[t]
                    part[t] = before
                    before += own
                total[row] = before
            cuda.syncthreads()
            before = part[thread]
            for tile in range(thread * each, min((thread + 1) * each, tiles)):
                own = count[row, tile]
                count[row, tile] = before
                before += own
            cuda.syncthreads()


@cuda.jit
def emit_kernel(p: Any, memory: Any, mode: Any, found: Any, before: Any, total: Any, eight: Any, index: Any, value: Any,
                 body: Any) -> None:
    """Indices into the body; values behind them, with the memory, or for eight bits into `value`, with indices in `index`.

    An element's place: those above it that come before, and as many of the equal ones as are kept.
    """
    above_of = cuda.shared.array(THREADS, np.int32)
    equal_of = cuda.shared.array(THREADS, np.int32)
    thread = cuda.threadIdx.x
    key, most = found[0], found[1]
    kept = total[0] + min(total[1], most)
    for tile in range(cuda.blockIdx.x, before.shape[1], cuda.gridDim.x):
        first = tile * TILE + thread * _EACH
        above, equal = 0, 0
        for i in range(first, min(first + _EACH, p.size)):
            size = magnitude(p[i])
            if size > key:
                above += 1
            elif size == key:
                equal += 1
        above_of[thread] = above
        equal_of[thread] = equal
        cuda.syncthreads()
        step = 1
        while step < THREADS:  # sums of all threads up to this one
            more, alike = 0, 0
            if thread >= step:
                more, alike = above_of[thread - step], equal_of[thread - step]
            cuda.syncthreads()
            above_of[thread] += more
            equal_of[thread] += alike
            cuda.syncthreads()
            step *= 2
        larger = before[0, tile] + above_of[thread] - above
        same = before[1, tile] + equal_of[thread] - equal
        if above + equal > 0:
            for i in range(first, min(first + _EACH, p.size)):
                v = p[i]
                size = magnitude(v)
                at = larger + min(same, most)
                taken = size > key
                if size == key:
                    taken = same < most
                    same += 1
                elif taken:
                    larger += 1
                if taken:
                    put_word(body, 4 * at, np.uint32(i))
                    if eight:
                        index[at] = np.uint32(i)
                        value[at] = v
                    else:
                        put_word(body, 4 * (kept + at), v.view(np.uint32))
                        remember(memory, mode, i, v, v)
        cuda.syncthreads()


@cuda.jit
def quantise_kernel(index: Any, value: Any, memory: Any, mode: Any, body: Any) -> None:
    """Steps and codes of the values kept, like Int8's: a block for each bucket of 512."""
    top = cuda.shared.array(1, np.int32)
    k = value.size
    buckets = (k + BUCKET - 1) // BUCKET
    for bucket in range(cuda.blockIdx.x, buckets, cuda.gridDim.x):
        if cuda.threadIdx.x == 0:
            top[0] = 0
        cuda.syncthreads()
        most = np.int64(0)
        for j in range(bucket * BUCKET + cuda.threadIdx.x, min((bucket + 1) * BUCKET, k), cuda.blockDim.x):
            most = max(most, magnitude(value[j]))
        cuda.atomic.max(top, 0, np.int32(most))
        cuda.syncthreads()
        largest = np.uint32(top[0]).view(np.float32)
        step = quotient(largest, np.float32(127))
        if product(step, np.float32(127)) > np.float32(_LARGEST):
            step = np.uint32(step.view(np.uint32) - np.uint32(1)).view(np.float32)
        h, inverse = np.float32(1), np.float32(0)
        if largest < np.float32(2.0**-64):
            h = np.float32(2.0**64)
        elif largest > np.float32(2.0**64):
            h = np.float32(2.0**-64)
        if step != np.float32(0):
            inverse = quotient(np.float32(127), product(largest, h))
        if cuda.threadIdx.x == 0:
            put_word(body, 4 * k + 4 * bucket, step.view(np.uint32))
        for j in range(bucket * BUCKET + cuda.threadIdx.x, min((bucket + 1) * BUCKET, k), cuda.blockDim.x):
            v = value[j]
            code = nearest(product(product(v, h), inverse))
            body[4 * (k + buckets) + j] = np.uint8(code & 255)
            remember(memory, mode, np.int64(index[j]), v, product(np.float32(code), step))
        cuda.syncthreads()


KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    (histogram_kernel, ["void(float32[::1], int64, int64, int64[::1], uint32[::1])"], False, None),
    (narrow_kernel, ["void(int64, uint32[::1], int64[::1])"], False, None),
    (set_kernel, ["void(int64, int64, int64[::1])"], False, None),
    (count_kernel, ["void(float32[::1], int64[::1], int64[:, ::1])"], False, None),
    (scan_kernel, ["void(int64[:, ::1], int64[::1])"], False, None),
    (emit_kernel, ["void(float32[::1], float32[::1], int64, int64[::1], int64[:, ::1], int64[::1], boolean, uint32[::1], "
                    "float32[::1], uint8[::1])"], False, None),
    (quantise_kernel, ["void(uint32[::1], float32[::1], float32[::1], int64, uint8[::1])"], False, None),
]
