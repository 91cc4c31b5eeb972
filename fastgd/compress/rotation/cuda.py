"""Drive on the GPU. Signatures as in `reference.py`.

A block of threads takes a block of coordinates through all steps in shared memory: the transform four elements a thread, the
stages in the CPU's order, so every butterfly has its bits; sums by 32 threads, a lane each. With a memory a second kernel decodes
what the first one wrote.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numba import cuda

from ... import _cuda
from ..._cuda import Call
from ...random.cuda import sign_words
from ..codecs import DRIVE_BLOCK
from ..cuda import codec_input
from ..cuda_kernels import (
    LANES,
    THREADS,
    bits_of,
    check_stream_kernel,
    float_of,
    fold,
    get_seed,
    get_word,
    magnitude,
    power64,
    product,
    product64,
    put_word,
    quotient64,
    receive,
    remember,
    root64,
)
from ..device import put
from ..state import PLAIN, State, Stream, Vector

_STREAM, _WORDS = 16, DRIVE_BLOCK // 32
_LARGEST = float(np.finfo(np.float32).max)
#: The positive levels of 0 (none), 1, .. 4 bits, as docs/wire.md has them.
_LEVELS = np.zeros((5, 8), np.float32)
_LEVELS[1, :1] = 1
_LEVELS[2, :2] = 464, 1547
_LEVELS[3, :4] = 251, 774, 1376, 2204
_LEVELS[4, :8] = 131, 397, 673, 965, 1286, 1657, 2119, 2798


@cuda.jit(device=True)
def _log_size(n: Any, j: Any) -> Any:
    """The codes of block j of n coordinates stand for 2^this: the least power of two that holds them."""
    count, log = min(n - j * DRIVE_BLOCK, DRIVE_BLOCK), 0
    while (1 << log) < count:
        log += 1
    return log


@cuda.jit(device=True)
def _transform(y: Any, log: Any) -> None:
    """The Hadamard transform of 2^log elements, not normalised, by all threads of the block; between two barriers.

    Stages of distance 1, 2, 4, .. in this order, two at a time: where their number is odd, the first one by itself.
    """
    near = log % 2
    cuda.syncthreads()
    if near == 1:
        for t in range(cuda.threadIdx.x, (1 << log) // 2, cuda.blockDim.x):
            a, b = y[2 * t], y[2 * t + 1]
            y[2 * t] = a + b
            y[2 * t + 1] = a - b
        cuda.syncthreads()
    while near < log:
        d = 1 << near
        for t in range(cuda.threadIdx.x, (1 << log) // 4, cuda.blockDim.x):
            i = ((t >> near) << (near + 2)) + (t & (d - 1))
            a, b, c, e = y[i], y[i + d], y[i + 2 * d], y[i + 3 * d]
            a, b, c, e = a + b, a - b, c + e, c - e
            y[i] = a + c
            y[i + d] = b + e
            y[i + 2 * d] = a - c
            y[i + 3 * d] = b - e
        near += 2
        cuda.syncthreads()


@cuda.jit(device=True)
def _turned(v: Any, words: Any, i: Any) -> Any:
    """v with the sign of the block's element i."""
    return float_of(bits_of(v) ^ np.uint32(np.uint32(words[i // 32] >> np.uint32(i % 32)) << np.uint32(31)))


# ---------------------------------------------------------------------------------------------------------- encoding


@cuda.jit(device=True)
def _measure(y: Any, size: Any, tops: Any, sums: Any) -> Any:
    """The largest magnitude's bits, and the sum of squares in a bucket's lanes; between two barriers."""
    lane = cuda.threadIdx.x
    most, square = np.int64(0), np.float64(0)
    cuda.syncthreads()
    if lane < LANES:
        for i in range(lane, size, LANES):
            v = y[i]
            most = max(most, magnitude(v))
            square += product64(np.float64(v), np.float64(v))
        tops[lane] = most
    sums[lane] = square
    cuda.syncthreads()
    fold(sums)
    for other in range(LANES):
        most = max(most, tops[other])
    return most, sums[0]


@cuda.jit(device=True)
def _quantise(y: Any, size: Any, half: Any, levels: Any, sigma: Any, codes: Any, sums: Any, squares: Any) -> Any:
    """Codes, the sum of fl(|y| |Q|) in a bucket's lanes, and that of Q Q, which is exact. y becomes fl(|y| |Q|)."""
    lane = cuda.threadIdx.x
    for i in range(lane, size, cuda.blockDim.x):
        v = y[i]
        count = 0
        for k in range(half - 1):
            if abs(v) >= product(sigma, product(levels[k] + levels[k + 1], np.float32(2.0**-11))):
                count += 1
        y[i] = product(abs(v), levels[count])
        codes[i] = np.uint8(count + half if v < np.float32(0) else count)
    cuda.syncthreads()
    along, square = np.float64(0), np.float64(0)
    if lane < LANES:
        for i in range(lane, size, LANES):
            level = np.float64(levels[np.int64(codes[i]) & (half - 1)])
            along += np.float64(y[i])
            square += product64(level, level)
    sums[lane] = along
    squares[lane] = square
    cuda.syncthreads()
    fold(sums)
    fold(squares)
    return sums[0], squares[0]


@cuda.jit
def _encode_kernel(p: Any, bits: Any, unbiased: Any, body: Any) -> None:
    """Scales and codes, behind the stream that is in the body."""
    y = cuda.shared.array(DRIVE_BLOCK, np.float32)
    codes = cuda.shared.array(DRIVE_BLOCK, np.uint8)
    words = cuda.shared.array(_WORDS, np.uint32)
    tops = cuda.shared.array(LANES, np.int64)
    sums = cuda.shared.array(THREADS, np.float64)
    squares = cuda.shared.array(THREADS, np.float64)
    levels = cuda.const.array_like(_LEVELS)[bits]
    n, thread, threads = p.size, cuda.threadIdx.x, cuda.blockDim.x
    blocks = (n + DRIVE_BLOCK - 1) // DRIVE_BLOCK
    for j in range(cuda.blockIdx.x, blocks, cuda.gridDim.x):
        start, log, half = j * DRIVE_BLOCK, _log_size(n, j), 1 << (bits - 1)
        size = 1 << log
        sign_words(get_seed(body), np.uint64(get_word(body, 8)), j, words)
        for i in range(thread, size, threads):
            y[i] = p[start + i] if start + i < n else np.float32(0)
        most, norm = _measure(y, size, tops, sums)
        exponent = min(max(most >> 23, np.int64(1)), np.int64(253)) - 127
        shrink = np.float32(power64(-exponent))
        for i in range(thread, size, threads):
            y[i] = _turned(product(y[i], shrink), words, i)
        _transform(y, log)
        norm = product64(norm, power64(-2 * exponent))
        along, square = _quantise(y, size, half, levels, np.float32(root64(norm)), codes, sums, squares)
        scale = np.float32(0)
        if most > 0:
            if unbiased:
                wide = quotient64(norm, along)
            else:
                wide = quotient64(along, product64(np.float64(size), square))
            scale = np.float32(min(product64(wide, power64(exponent)), np.float64(_LARGEST)))
        if thread == 0:
            put_word(body, _STREAM + 4 * j, bits_of(scale))
        first = _STREAM + 4 * blocks + j * (DRIVE_BLOCK // 8 * bits)
        for at in range(thread, (size * bits + 7) // 8, threads):
            byte = 0
            if scale != np.float32(0):
                for bit in range(8 * at, min(8 * at + 8, size * bits)):
                    byte |= ((np.int64(codes[bit & (size - 1)]) >> (bit >> log)) & 1) << (bit - 8 * at)
            body[first + at] = np.uint8(byte)


# --------------------------------------------------------------------------------------------------------- decoding


@cuda.jit(device=True)
def _values(body: Any, n: Any, j: Any, bits: Any, levels: Any, words: Any, y: Any) -> Any:
    """The transform of block j's codes into y, its signs into `words`; the scale. All sums are exact."""
    blocks, log, half = (n + DRIVE_BLOCK - 1) // DRIVE_BLOCK, _log_size(n, j), 1 << (bits - 1)
    sign_words(get_seed(body), np.uint64(get_word(body, 8)), j, words)
    first = 8 * (_STREAM + 4 * blocks + j * (DRIVE_BLOCK // 8 * bits))
    for i in range(cuda.threadIdx.x, 1 << log, cuda.blockDim.x):
        code = 0
        for k in range(bits):
            at = first + (k << log) + i
            code |= ((np.int64(body[at // 8]) >> (at % 8)) & 1) << k
        level = levels[code & (half - 1)]
        y[i] = -level if code >= half else level
    _transform(y, log)
    return float_of(get_word(body, _STREAM + 4 * j))


@cuda.jit(device=True)
def _value(y: Any, words: Any, scale: Any, i: Any) -> Any:
    """c of the block's element i."""
    c = product(y[i], scale)
    c = _turned(min(max(c, -np.float32(_LARGEST)), np.float32(_LARGEST)), words, i)
    return c if scale != np.float32(0) else np.float32(0)


@cuda.jit
def _memory_kernel(body: Any, bits: Any, p: Any, memory: Any, mode: Any) -> None:
    y = cuda.shared.array(DRIVE_BLOCK, np.float32)
    words = cuda.shared.array(_WORDS, np.uint32)
    levels = cuda.const.array_like(_LEVELS)[bits]
    for j in range(cuda.blockIdx.x, (p.size + DRIVE_BLOCK - 1) // DRIVE_BLOCK, cuda.gridDim.x):
        start = j * DRIVE_BLOCK
        scale = _values(body, p.size, j, bits, levels, words, y)
        for i in range(cuda.threadIdx.x, min(p.size - start, DRIVE_BLOCK), cuda.blockDim.x):
            remember(memory, mode, start + i, p[start + i], _value(y, words, scale, i))


@cuda.jit
def _add_kernel(body: Any, bits: Any, scale: Any, add: Any, out: Any) -> None:
    y = cuda.shared.array(DRIVE_BLOCK, np.float32)
    words = cuda.shared.array(_WORDS, np.uint32)
    levels = cuda.const.array_like(_LEVELS)[bits]
    for j in range(cuda.blockIdx.x, (out.size + DRIVE_BLOCK - 1) // DRIVE_BLOCK, cuda.gridDim.x):
        start = j * DRIVE_BLOCK
        own = _values(body, out.size, j, bits, levels, words, y)
        for i in range(cuda.threadIdx.x, min(out.size - start, DRIVE_BLOCK), cuda.blockDim.x):
            receive(out, start + i, _value(y, words, own, i), scale, add)


@cuda.jit
def _check_kernel(body: Any, n: Any, bits: Any, flags: Any) -> None:
    """Reasons 1 (scales), 3 (codes where the scale is 0) and 4 (padding)."""
    blocks = (n + DRIVE_BLOCK - 1) // DRIVE_BLOCK
    first = _STREAM + 4 * blocks
    for j in range(cuda.grid(1), blocks, cuda.gridsize(1)):
        if get_word(body, _STREAM + 4 * j) >= np.uint32(0x7F800000):
            flags[1] = np.uint32(1)
    for at in range(cuda.grid(1), body.size - first, cuda.gridsize(1)):
        scale = get_word(body, _STREAM + 4 * (at // (DRIVE_BLOCK // 8 * bits)))
        if scale == np.uint32(0) and body[first + at] != np.uint8(0):
            flags[3] = np.uint32(1)
    if cuda.grid(1) == 0 and n > 0:
        rest = (bits << _log_size(n, blocks - 1)) % 8  # only a block of less than 8 has one
        if rest > 0 and np.int64(body[body.size - 1]) >> rest != 0:
            flags[4] = np.uint32(1)


KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    (_encode_kernel, ["void(float32[::1], int64, boolean, uint8[::1])"], True, None),
    (_memory_kernel, ["void(uint8[::1], int64, float32[::1], float32[::1], int64)"], False, None),
    (_add_kernel, ["void(uint8[::1], int64, float32, boolean, float32[::1])"], False, None),
    (_check_kernel, ["void(uint8[::1], int64, int64, uint32[::1])"], False, None),
]


def drive(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    n = x.data.shape[0]
    put(body, 0, struct.pack("<QII", stream.seed, stream.step, 0))
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        view, work = _cuda.view(body), THREADS * -(-n // DRIVE_BLOCK)
        call.run(_encode_kernel, work, p, codec.bits, codec.unbiased, view)
        if mode != PLAIN:
            call.run(_memory_kernel, work, view, codec.bits, p, memory, mode)
    return int(codec.bits)


def check_drive(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    call.run(check_stream_kernel, 1, body, flags)
    call.run(_check_kernel, max(header.n, 1), body, header.n, codec.bits, flags)


def add_drive(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    call.run(_add_kernel, THREADS * -(-header.n // DRIVE_BLOCK), body, codec.bits, scale, add, out)
