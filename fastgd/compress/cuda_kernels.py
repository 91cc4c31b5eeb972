"""What the GPU kernels of all codecs share: arithmetic that is never contracted, bytes, the codec's input, sums.

A kernel works on p, a float32 vector: x itself, the memory (feedback: it holds p until the codec takes c from it), or a new
one. Every product goes through `product`, which the compiler does not fuse with an addition. Bodies are read and written byte
by byte, because they start at any address.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from .. import _cuda
from .._cuda_fill import fill_kernel
from ..robust.cuda_device import FORMATS

THREADS = 128
LANES, CHUNK = 32, 2048
_WARPS = THREADS // LANES

if _cuda.simulated():

    @cuda.jit(device=True)
    def product(a: Any, b: Any) -> Any:
        return a * b

    @cuda.jit(device=True)
    def quotient(a: Any, b: Any) -> Any:
        return a / b

    @cuda.jit(device=True)
    def nearest(a: Any) -> Any:
        return np.int64(np.rint(a)) if np.isfinite(a) else np.int64(0)

    product64, quotient64 = product, quotient

    @cuda.jit(device=True)
    def root64(a: Any) -> Any:
        return np.sqrt(a)
else:
    from numba.cuda import libdevice

    @cuda.jit(device=True)
    def product(a: Any, b: Any) -> Any:
        return libdevice.fmul_rn(a, b)

    @cuda.jit(device=True)
    def quotient(a: Any, b: Any) -> Any:
        return libdevice.fdiv_rn(a, b)

    @cuda.jit(device=True)
    def nearest(a: Any) -> Any:
        """The nearest integer, ties to even."""
        return libdevice.float2ll_rn(a)

    @cuda.jit(device=True)
    def product64(a: Any, b: Any) -> Any:
        return libdevice.dmul_rn(a, b)

    @cuda.jit(device=True)
    def quotient64(a: Any, b: Any) -> Any:
        return libdevice.ddiv_rn(a, b)

    @cuda.jit(device=True)
    def root64(a: Any) -> Any:
        return libdevice.dsqrt_rn(a)


# ------------------------------------------------------------------------------------------------------------- bytes


@cuda.jit(device=True)
def bits_of(v: Any) -> Any:
    return np.float32(v).view(np.uint32)


@cuda.jit(device=True)
def float_of(word: Any) -> Any:
    return np.uint32(word).view(np.float32)


@cuda.jit(device=True)
def magnitude(v: Any) -> Any:
    """|v| as an integer: in the order of the magnitudes, NaN above all."""
    return np.int64(np.float32(v).view(np.uint32) & np.uint32(0x7FFFFFFF))


@cuda.jit(device=True)
def exponent_above(bits: Any) -> Any:
    """The least E with 2^E above the magnitude with these bits; 0 for 0, 128 for what is not finite."""
    exponent = np.int64(0)
    if bits >= np.uint32(0x800000):
        exponent = min(np.int64(bits >> np.uint32(23)) - 126, np.int64(128))
    elif bits > np.uint32(0):
        exponent = np.int64(np.float32(bits).view(np.uint32) >> np.uint32(23)) - 126 - 149
    return exponent


@cuda.jit(device=True)
def put_word(body: Any, at: Any, word: Any) -> None:
    body[at] = np.uint8(word & np.uint32(255))
    body[at + 1] = np.uint8((word >> np.uint32(8)) & np.uint32(255))
    body[at + 2] = np.uint8((word >> np.uint32(16)) & np.uint32(255))
    body[at + 3] = np.uint8((word >> np.uint32(24)) & np.uint32(255))


@cuda.jit(device=True)
def get_word(body: Any, at: Any) -> Any:
    low = np.uint32(body[at]) | (np.uint32(body[at + 1]) << np.uint32(8))
    high = np.uint32(body[at + 2]) | (np.uint32(body[at + 3]) << np.uint32(8))
    return np.uint32(low | (high << np.uint32(16)))


@cuda.jit(device=True)
def get_seed(body: Any) -> Any:
    """The seed of the stream that a body starts with; its step is the word behind it."""
    return np.uint64(get_word(body, 0)) | (np.uint64(get_word(body, 4)) << np.uint64(32))


@cuda.jit(device=True)
def power64(exponent: Any) -> Any:
    """2^exponent in double, of a normal number."""
    return np.int64((np.int64(exponent) + 1023) << 52).view(np.float64)


@cuda.jit(device=True)
def remember(memory: Any, mode: Any, i: Any, p: Any, c: Any) -> None:
    """The memory afterwards: p - c, or memory + c."""
    if mode == 1:
        memory[i] = p - c
    elif mode == 2:
        memory[i] = memory[i] + c


@cuda.jit(device=True)
def receive(out: Any, i: Any, c: Any, scale: Any, add: Any) -> None:
    """out_i = c, or out_i + fl(scale c)."""
    out[i] = out[i] + product(scale, c) if add else c


# ------------------------------------------------------------------------------------------------------- the input


@cache
def make_input_kernel(dtype: str) -> Any:
    load = FORMATS[dtype].load

    @cuda.jit
    def _input_kernel(x: Any, memory: Any, mode: Any, out: Any) -> None:
        """p = x, memory + x or x - memory; `out` may be the memory."""
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            v = load(x[i])
            if mode == 1:
                v = memory[i] + v
            elif mode == 2:
                v = v - memory[i]
            out[i] = v

    return _input_kernel


@cache
def make_largest_kernel(dtype: str) -> Any:
    load = FORMATS[dtype].load

    @cuda.jit
    def _largest_kernel(x: Any, top: Any) -> None:
        """The bits of the largest magnitude into top[0], which starts as 0."""
        most = np.int64(0)
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            most = max(most, magnitude(load(x[i])))
        if most > np.int64(top[0]):  # an old value costs an atomic operation, no more
            cuda.atomic.max(top, 0, np.uint32(most))

    return _largest_kernel


@cache
def make_clean_kernel(dtype: str) -> Any:
    load = FORMATS[dtype].load

    @cuda.jit
    def _clean_kernel(x: Any, out: Any) -> None:
        """x with 0 in place of NaN and Inf."""
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            v = load(x[i])
            out[i] = v if magnitude(v) < 0x7F800000 else np.float32(0)

    return _clean_kernel


@cuda.jit
def scale_kernel(factor: Any, x: Any) -> None:
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        x[i] = product(x[i], factor)


@cuda.jit
def blend_kernel(keep: Any, average: Any, share: Any, x: Any, out: Any) -> None:
    """fl(keep average) + fl(share x)."""
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        out[i] = product(keep, average[i]) + product(share, x[i])


@cuda.jit
def check_stream_kernel(body: Any, flags: Any) -> None:
    """Reason 4 for bits behind the step of a body's stream."""
    if cuda.grid(1) == 0 and get_word(body, 12) != np.uint32(0):
        flags[4] = np.uint32(1)


# ------------------------------------------------------------------------------------------------------------ sums


@cuda.jit(device=True)
def fold(lanes: Any) -> None:
    """Lane l of each 32 adds lane l + 16, then l + 8, 4, 2, 1; all threads of the block, after a barrier. A barrier ends it."""
    lane, half = cuda.threadIdx.x % LANES, LANES // 2
    while half > 0:
        if lane < half:
            lanes[cuda.threadIdx.x] = lanes[cuda.threadIdx.x] + lanes[cuda.threadIdx.x + half]
        cuda.syncthreads()
        half //= 2


@cuda.jit
def sums_kernel(p: Any, sides: Any, sums: Any) -> None:
    """For each chunk, by a warp: sums[0] of |p| below 0 (of all without `sides`), sums[1] of the others, sums[2] how
    many are below.

    The lanes of docs/wire.md. Reads p.
    """
    lower = cuda.shared.array(THREADS, np.float64)
    upper = cuda.shared.array(THREADS, np.float64)
    count = cuda.shared.array(THREADS, np.float64)
    thread = cuda.threadIdx.x
    chunks = sums.shape[1]
    for first in range(cuda.blockIdx.x * _WARPS, chunks, cuda.gridDim.x * _WARPS):
        chunk = first + thread // LANES
        below, above, negatives = np.float64(0), np.float64(0), np.float64(0)
        for i in range(chunk * CHUNK + thread % LANES, min((chunk + 1) * CHUNK, p.size), LANES):
            v = p[i]
            size = np.float64(abs(v))
            if sides == 0 or v < np.float32(0):
                below += size
                negatives += np.float64(1)
            else:
                above += size
        cuda.syncthreads()  # the sums before have been read
        lower[thread] = below
        upper[thread] = above
        count[thread] = negatives
        cuda.syncthreads()
        fold(lower)
        fold(upper)
        fold(count)
        if thread % LANES == 0 and chunk < chunks:
            sums[0, chunk] = lower[thread]
            sums[1, chunk] = upper[thread]
            sums[2, chunk] = count[thread]


@cuda.jit(device=True)
def total(row: Any, lanes: Any) -> Any:
    """The chunks' sums in lanes, folded: by the 32 threads of a block."""
    lane = cuda.threadIdx.x
    own = np.float64(0)
    for chunk in range(lane, row.size, LANES):
        own += row[chunk]
    cuda.syncthreads()
    lanes[lane] = own
    cuda.syncthreads()
    fold(lanes)
    return lanes[0]


_ELEMENTS = ("float32", "float16", "bfloat16")

KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    *((make_input_kernel(name), [f"void({FORMATS[name].element}[::1], float32[::1], int64, float32[::1])"], False, None)
      for name in _ELEMENTS),
    *((make_largest_kernel(name), [f"void({FORMATS[name].element}[::1], uint32[::1])"], False, None) for name in _ELEMENTS),
    *((make_clean_kernel(name), [f"void({FORMATS[name].element}[::1], float32[::1])"], False, None) for name in _ELEMENTS),
    (fill_kernel, ["void(uint32, uint32[::1])"], False, None),
    (fill_kernel, ["void(float32, float32[::1])"], False, None),
    (scale_kernel, ["void(float32, float32[::1])"], False, None),
    (blend_kernel, ["void(float32, float32[::1], float32, float32[::1], float32[::1])"], False, None),
    (check_stream_kernel, ["void(uint8[::1], uint32[::1])"], False, None),
    (sums_kernel, ["void(float32[::1], int64, float64[:, ::1])"], True, None),
]
