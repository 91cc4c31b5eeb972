"""TopK, Threshold and RandK on the GPU: the kernels' front. Signatures as in `reference.py`."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from ... import _cuda
from ..._cuda import Call
from ...random import scalar
from ..cuda import check_values, codec_input
from ..cuda_kernels import THREADS, check_stream_kernel
from ..device import put
from ..state import State, Stream, Vector
from .cuda_kernels import KERNELS as KERNELS
from .cuda_kernels import (
    ROUNDS,
    add_randk_kernel,
    add_sparse_kernel,
    check_codes_kernel,
    check_indices_kernel,
    clear_kernel,
    gather_kernel,
    tables_kernel,
)
from .cuda_select import (
    BINS,
    BUCKET,
    DIGITS,
    SCAN,
    TILE,
    count_kernel,
    emit_kernel,
    histogram_kernel,
    narrow_kernel,
    quantise_kernel,
    scan_kernel,
    set_kernel,
)


def topk(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    n = x.data.shape[0]
    k: int = codec.kept(n)
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        if k == 0:
            return k
        found, bins = call.empty(2, np.int64), call.zeros(BINS)
        call.run(set_kernel, 1, 0, k, found)
        for shift, bits in DIGITS:
            call.run(histogram_kernel, min(n, 1 << 18), p, shift, bits, found, bins)
            call.run(narrow_kernel, THREADS, bits, bins, found)
        eight, view = codec.bits == 8, _cuda.view(body)
        room = k if eight else 1
        index, value = call.empty(room, np.uint32), call.empty(room, np.float32)
        _emit(call, p, memory, mode, found, eight, index, value, view)
        if eight:
            call.run(quantise_kernel, THREADS * -(-k // BUCKET), index, value, memory, mode, view)
    return k


def threshold(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    key = int(np.float32(codec.value).view(np.uint32)) & 0x7FFFFFFF
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        if not x.data.shape[0]:
            return 0
        found = call.empty(2, np.int64)
        call.run(set_kernel, 1, key - 1, 0, found)  # what is above key - 1, and nothing that equals it
        total = _emit(call, p, memory, mode, found, False, call.empty(1, np.uint32), call.empty(1, np.float32), _cuda.view(body))
        return int(call.read(total)[0])


def _emit(call: Call, p: Any, memory: Any, mode: int, found: Any, eight: bool, index: Any, value: Any, body: Any) -> Any:
    """Count, sum up, write; how many are above the magnitude found, and equal to it."""
    tiles = -(-p.shape[0] // TILE)
    count, total = call.empty(2 * tiles, np.int64).reshape(2, tiles), call.empty(2, np.int64)
    call.run(count_kernel, THREADS * tiles, p, found, count)
    call.run(scan_kernel, 1, count, total, threads=SCAN)
    call.run(emit_kernel, THREADS * tiles, p, memory, mode, found, count, total, eight, index, value, body)
    return total


def randk(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    n = x.data.shape[0]
    k: int = codec.kept(n)
    put(body, 0, struct.pack("<QII", stream.seed, stream.step, 0))
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        if k:
            a, b, tables = _tables(call, n, stream.seed, stream.step)
            call.run(gather_kernel, k, p, memory, mode, k, n / k, codec.scaled, a, b, tables, _cuda.view(body))
    return k


def _tables(call: Call, n: int, seed: int, step: int) -> tuple[int, int, Any]:
    """The sides of the rectangle, and what the rounds add."""
    b = max(8, math.isqrt(n - 1) + 1)
    a = max(8, -(-n // b))
    width = max(a, b)
    tables = call.empty(ROUNDS * width, np.uint32).reshape(ROUNDS, width)
    call.run(tables_kernel, ROUNDS * width, np.uint64(scalar.hash_key(seed, step)), a, b, tables)
    return a, b, tables


def check_topk(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    k = header.a
    call.run(check_indices_kernel, k, body, k, header.n, flags)
    if codec.bits == 8:
        call.run(check_codes_kernel, k, body, k, flags)
    else:
        check_values(call, body, 4 * k, k, flags)


def check_threshold(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    call.run(check_indices_kernel, header.a, body, header.a, header.n, flags)
    check_values(call, body, 4 * header.a, header.a, flags)


def check_randk(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    call.run(check_stream_kernel, 1, body, flags)
    check_values(call, body, 16, header.a, flags)


def add_topk(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    if not add:
        call.run(clear_kernel, header.n, out)
    call.run(add_sparse_kernel, header.a, body, header.a, bool(header.codec == 1 and header.option), scale, add, out)


add_threshold = add_topk


def add_randk(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    if not add:
        call.run(clear_kernel, header.n, out)
    if header.a:
        seed, step, _ = struct.unpack("<QII", call.read(body[:16]).tobytes())
        a, b, tables = _tables(call, header.n, seed, step)
        call.run(add_randk_kernel, header.a, body, header.a, a, b, tables, scale, add, out)
