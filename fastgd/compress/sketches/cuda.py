"""CountSketch on the GPU. Signatures as in `reference.py`.

A thread adds a coordinate to a cell of each row: integers, with atomic operations, so no order matters. Memory: eight bytes a
cell and a row. For decoding the rows' values lie in shared memory, a column a thread, where a sorting network finds the median
without branches that depend on them.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numba import cuda, types

from ... import _cuda
from ..._cuda import Call
from ...random import scalar
from ..cuda import codec_input
from ..cuda_kernels import (
    THREADS,
    bits_of,
    check_stream_kernel,
    exponent_above,
    float_of,
    get_seed,
    get_word,
    make_largest_kernel,
    power64,
    product,
    product64,
    put_word,
    receive,
    remember,
)
from ..device import put
from ..state import PLAIN, State, Stream, Vector

_STREAM, _ROOM = 16, 48 << 10  # bytes: of the stream, of the shared memory that a block may have
_LARGEST = float(np.finfo(np.float32).max)
_SHIFT = 1.5 * 2.0**52  # adding it leaves no digit below 1, and the integer in the low bits
_SHIFT_BITS = int(np.float64(_SHIFT).view(np.int64))
_GOLDEN, _MIX0, _MIX1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)

_hash32 = scalar.functions(cuda.jit(device=True)).hash32


@cuda.jit(device=True)
def _mixed(z: Any) -> Any:
    """The finaliser of SplitMix64."""
    z = (z ^ (z >> _30)) * _MIX0
    z = (z ^ (z >> _27)) * _MIX1
    return z ^ (z >> _31)


@cuda.jit
def _keys_kernel(body: Any, keys: Any) -> None:
    """The hash key of each row, from the stream in the body: row r has the seed of rank r."""
    for r in range(cuda.grid(1), keys.size, cuda.gridsize(1)):
        step = np.uint64(get_word(body, 8)) + np.uint64(1)
        keys[r] = _mixed(_mixed(get_seed(body) + _mixed(np.uint64(r))) + step * _GOLDEN)


@cuda.jit(device=True)
def _place(word: Any, columns: Any) -> Any:
    return np.int64((word * np.uint64(columns)) >> np.uint64(32))


@cuda.jit
def _sums_kernel(p: Any, top: Any, digits: Any, keys: Any, columns: Any, sums: Any) -> None:
    """Each p_i, rounded to a multiple of the unit, into its cell of every row. Reads p; an atomic addition a row and element."""
    per_unit = power64(digits - exponent_above(top[0]))
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        whole = np.float64(product64(np.float64(p[i]), per_unit) + _SHIFT).view(np.int64) - np.int64(_SHIFT_BITS)
        for r in range(keys.size):
            word = _hash32(keys[r], np.uint64(i))
            signed = whole
            if word & np.uint64(1) == np.uint64(1):
                signed = -whole
            cuda.atomic.add(sums, r * columns + _place(word, columns), signed)


@cuda.jit
def _table_kernel(sums: Any, top: Any, digits: Any, body: Any) -> None:
    unit = power64(exponent_above(top[0]) - digits)
    for k in range(cuda.grid(1), sums.size, cuda.gridsize(1)):
        wide = product64(np.float64(sums[k]), unit)
        put_word(body, _STREAM + 4 * k, bits_of(np.float32(min(max(wide, -np.float64(_LARGEST)), np.float64(_LARGEST)))))


# --------------------------------------------------------------------------------------------------------- decoding


@cuda.jit(device=True)
def _sort(v: Any, rows: Any) -> None:
    """Batcher's merge exchange (Knuth, 5.2.2 M) of a thread's column: the same comparisons whatever the values."""
    thread, apart = cuda.threadIdx.x, cuda.blockDim.x
    top = 1
    while 2 * top < rows:
        top *= 2
    p = top if rows > 1 else 0
    while p > 0:
        q, r, d = 2 * top, 0, p
        while q > p:
            if q <= top:
                d, r = q - p, p
            for i in range(rows - d):
                if i & p == r:
                    a, b = v[i * apart + thread], v[(i + d) * apart + thread]
                    v[i * apart + thread] = min(a, b)
                    v[(i + d) * apart + thread] = max(a, b)
            q //= 2
        p //= 2


@cuda.jit(device=True)
def _median(body: Any, keys: Any, columns: Any, i: Any, v: Any) -> Any:
    """c_i: the median over rows of the cell with i's sign; of an even number, half of each of the middle two."""
    thread, apart, rows = cuda.threadIdx.x, cuda.blockDim.x, keys.size
    for r in range(rows):
        word = _hash32(keys[r], np.uint64(i))
        bits = get_word(body, _STREAM + 4 * (r * columns + _place(word, columns)))
        sign = np.uint32(np.uint32(word & np.uint64(1)) << np.uint32(31))
        v[r * apart + thread] = float_of(bits ^ sign) + np.float32(0)  # one zero only, as on the CPU
    _sort(v, rows)
    low, high = v[(rows - 1) // 2 * apart + thread], v[rows // 2 * apart + thread]
    if rows % 2 == 0:
        low = product(np.float32(0.5), low) + product(np.float32(0.5), high)
    return low


@cuda.jit
def _memory_kernel(body: Any, keys: Any, columns: Any, p: Any, memory: Any, mode: Any) -> None:
    v = cuda.shared.array(0, types.float32)
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        remember(memory, mode, i, p[i], _median(body, keys, columns, i, v))


@cuda.jit
def _add_kernel(body: Any, keys: Any, columns: Any, scale: Any, add: Any, out: Any) -> None:
    v = cuda.shared.array(0, types.float32)
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        receive(out, i, _median(body, keys, columns, i, v), scale, add)


@cuda.jit
def _check_kernel(body: Any, cells: Any, flags: Any) -> None:
    """Reason 1 for a cell that is not finite or -0."""
    for k in range(cuda.grid(1), cells, cuda.gridsize(1)):
        bits = get_word(body, _STREAM + 4 * k)
        if bits & np.uint32(0x7F800000) == np.uint32(0x7F800000) or bits == np.uint32(0x80000000):
            flags[1] = np.uint32(1)


KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    (_keys_kernel, ["void(uint8[::1], uint64[::1])"], False, None),
    (_sums_kernel, ["void(float32[::1], uint32[::1], int64, uint64[::1], int64, int64[::1])"], True, None),
    (_table_kernel, ["void(int64[::1], uint32[::1], int64, uint8[::1])"], True, None),
    (_memory_kernel, ["void(uint8[::1], uint64[::1], int64, float32[::1], float32[::1], int64)"], False, None),
    (_add_kernel, ["void(uint8[::1], uint64[::1], int64, float32, boolean, float32[::1])"], False, None),
    (_check_kernel, ["void(uint8[::1], int64, uint32[::1])"], False, None),
]


def countsketch(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    n, cells = x.data.shape[0], codec.rows * codec.cols
    put(body, 0, struct.pack("<QII", stream.seed, stream.step, 0))
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        view, keys = _cuda.view(body), _keys(call, codec, _cuda.view(body))
        top, sums, digits = call.zeros(1), call.zeros(2 * cells).view(np.int64), min(50, 62 - n.bit_length())
        call.run(make_largest_kernel("float32"), min(n, 1 << 18), p, top)
        call.run(_sums_kernel, n, p, top, digits, keys, codec.cols, sums)
        call.run(_table_kernel, cells, sums, top, digits, view)
        if mode != PLAIN:
            _decode(call, codec, _memory_kernel, n, view, keys, codec.cols, p, memory, mode)
    return int(codec.rows)


def _keys(call: Call, codec: Any, body: Any) -> Any:
    keys = call.empty(codec.rows, np.uint64)
    call.run(_keys_kernel, codec.rows, body, keys)
    return keys


def _decode(call: Call, codec: Any, kernel: Any, n: int, *arguments: Any) -> None:
    """As many threads a block as there is room for their columns."""
    threads = min(THREADS, _ROOM // (4 * codec.rows) // 32 * 32)
    call.run(kernel, n, *arguments, threads=threads, shared=4 * codec.rows * threads)


def check_countsketch(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    call.run(check_stream_kernel, 1, body, flags)
    call.run(_check_kernel, codec.rows * codec.cols, body, codec.rows * codec.cols, flags)


def add_countsketch(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    _decode(call, codec, _add_kernel, header.n, body, _keys(call, codec, body), codec.cols, scale, add, out)
