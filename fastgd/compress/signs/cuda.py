"""Sign, OneBit and the majority vote on the GPU. Signatures as in `reference.py`.

Two passes over p, one for the sums and one for bits and memory. Nothing of a step is left to the next one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from ... import _cuda
from ..._cuda import Call
from ..cuda import codec_input
from ..cuda_kernels import CHUNK, LANES, get_word, put_word, quotient64, receive, remember, sums_kernel, total
from ..device import put
from ..state import State, Stream, Vector


@cuda.jit
def _means_kernel(sums: Any, n: Any, sides: Any, means: Any, body: Any) -> None:
    """The scale, or the two means, from the chunks' sums: by one block of 32 threads."""
    lanes = cuda.shared.array(LANES, np.float64)
    if cuda.blockIdx.x == 0:
        lower, upper, below = total(sums[0], lanes), total(sums[1], lanes), total(sums[2], lanes)
        if cuda.threadIdx.x == 0:
            if sides == 0:
                scale = np.float32(quotient64(lower, max(np.float64(n), np.float64(1))))
                means[0], means[1] = scale, -scale
                put_word(body, 0, scale.view(np.uint32))
            else:
                above = max(np.float64(n) - below, np.float64(1))
                up = np.float32(quotient64(upper, above))
                low = np.float32(0) - np.float32(quotient64(lower, max(below, np.float64(1))))
                means[0], means[1] = up, low
                put_word(body, 0, up.view(np.uint32))
                put_word(body, 4, low.view(np.uint32))


@cuda.jit
def _bits_kernel(p: Any, memory: Any, mode: Any, means: Any, bits: Any) -> None:
    """Bit i = p_i < 0, and the memory afterwards; a byte a thread. Reads p, writes bits and the memory."""
    up, low = means[0], means[1]
    for at in range(cuda.grid(1), (p.size + 7) // 8, cuda.gridsize(1)):
        byte = 0
        for i in range(8 * at, min(8 * at + 8, p.size)):
            v = p[i]
            c = up
            if v < np.float32(0):
                c = low
                byte |= 1 << (i - 8 * at)
            remember(memory, mode, i, v, c)
        bits[at] = np.uint8(byte)


@cuda.jit
def _check_kernel(body: Any, sides: Any, n: Any, flags: Any) -> None:
    """The means and the padding: by one thread."""
    if cuda.grid(1) == 0:
        head = 4 + 4 * sides
        if get_word(body, 0) >= np.uint32(0x7F800000):
            flags[1] = np.uint32(1)
        if sides == 1:
            low = get_word(body, 4)
            if low != np.uint32(0) and not np.uint32(0x80000000) < low < np.uint32(0xFF800000):
                flags[1] = np.uint32(1)
        if n % 8 != 0 and np.int64(body[head + n // 8]) >> (n % 8) != 0:
            flags[4] = np.uint32(1)


@cuda.jit
def _add_kernel(body: Any, sides: Any, scale: Any, add: Any, out: Any) -> None:
    up = get_word(body, 0).view(np.float32)
    low = -up
    head = 4
    if sides == 1:
        low = get_word(body, 4).view(np.float32)
        head = 8
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        receive(out, i, low if (np.int64(body[head + i // 8]) >> (i % 8)) & 1 else up, scale, add)


@cuda.jit
def _count_kernel(bits: Any, counts: Any) -> None:
    for i in range(cuda.grid(1), counts.size, cuda.gridsize(1)):
        counts[i] = np.uint32(counts[i] + ((np.uint32(bits[i // 8]) >> np.uint32(i % 8)) & np.uint32(1)))


@cuda.jit
def _majority_kernel(counts: Any, voters: Any, out: Any) -> None:
    for at in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        byte = 0
        for i in range(8 * at, min(8 * at + 8, counts.size)):
            if 2 * np.int64(counts[i]) > voters:
                byte |= 1 << (i - 8 * at)
        out[at] = np.uint8(byte)


KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    (_means_kernel, ["void(float64[:, ::1], int64, int64, float32[::1], uint8[::1])"], True, None),
    (_bits_kernel, ["void(float32[::1], float32[::1], int64, float32[::1], uint8[::1])"], False, None),
    (_check_kernel, ["void(uint8[::1], int64, int64, uint32[::1])"], False, None),
    (_add_kernel, ["void(uint8[::1], int64, float32, boolean, float32[::1])"], False, None),
    (_count_kernel, ["void(uint8[::1], uint32[::1])"], False, None),
    (_majority_kernel, ["void(uint32[::1], int64, uint8[::1])"], False, None),
]


def sign(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    return _encode(x, state, mode, body, 0)


def onebit(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    return _encode(x, state, mode, body, 1)


def _encode(x: Vector, state: State, mode: int, body: Any, sides: int) -> int:
    n = x.data.shape[0]
    if n == 0:
        put(body, 0, bytes(4 + 4 * sides))
        return 0
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        chunks = -(-n // CHUNK)
        sums, means, view = call.empty(3 * chunks, np.float64).reshape(3, chunks), call.empty(2, np.float32), _cuda.view(body)
        call.run(sums_kernel, 32 * chunks, p, sides, sums)
        call.run(_means_kernel, 1, sums, n, sides, means, view, threads=LANES)
        call.run(_bits_kernel, -(-n // 8), p, memory, mode, means, view[4 + 4 * sides :])
    return 0


def vote(bits: list[Any], n: int, out: Any, threads: int = 1) -> None:
    with Call(out) as call:
        counts = call.zeros(n)[:n]
        for string in bits:
            call.run(_count_kernel, n, _cuda.view(string), counts)
        call.run(_majority_kernel, -(-n // 8), counts, len(bits), _cuda.view(out))


def check_sign(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    call.run(_check_kernel, 1, body, 0, header.n, flags)


def check_onebit(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    call.run(_check_kernel, 1, body, 1, header.n, flags)


def add_sign(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    call.run(_add_kernel, header.n, body, 0, scale, add, out)


def add_onebit(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    call.run(_add_kernel, header.n, body, 1, scale, add, out)
