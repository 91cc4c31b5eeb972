"""PowerSGD on the GPU: the kernels' front. Signatures as in `reference.py`.

Memory: the factors, the left one in double as well, and rank / 64 of the matrix for the sums of the right one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _cuda
from ..._cuda import Call
from ...random import scalar
from ..cuda import add_identity_kernel, codec_input, identity_kernel
from ..cuda_kernels import make_largest_kernel
from ..device import on_device, upload
from ..state import PLAIN, State, Stream, Vector
from .cuda_kernels import KERNELS as KERNELS
from .cuda_kernels import (
    LANES,
    ROWS,
    TALL,
    add_kernel,
    check_kernel,
    memory_kernel,
    orthogonalise_kernel,
    peaks_kernel,
    right_kernel,
    rows_kernel,
    start_kernel,
    sums_kernel,
)


def powersgd(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    (rows, columns), rank, n = codec.shape, codec.rank, x.data.shape[0]
    key = np.uint64(scalar.hash_key(stream.seed, stream.step))
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        floats = call.empty((rows + columns) * rank, np.float32)
        q = call.empty(rank * columns, np.float32).reshape(rank, columns)
        left = call.empty(rank * rows, np.float64).reshape(rank, rows)
        blocks = -(-rows // ROWS)
        sums = call.empty(blocks * rank * columns, np.float32).reshape(blocks, rank, columns)
        top, peaks, warm = call.zeros(1), call.zeros(rank), None if mode == PLAIN else _warm(state, x.data)
        if warm is not None:
            call.run(peaks_kernel, columns * rank, warm, peaks)
        call.run(make_largest_kernel("float32"), min(n, 1 << 18), p, top)
        call.run(start_kernel, columns * rank, q.reshape(columns, rank) if warm is None else warm, peaks, key, q)
        call.run(rows_kernel, LANES * rows * rank, p, top, q, left)
        call.run(orthogonalise_kernel, 1, key, left, floats, threads=TALL)
        call.run(sums_kernel, blocks * rank * columns, p, top, floats, sums)
        call.run(right_kernel, columns * rank, sums, top, _most(rank), floats)
        call.run(identity_kernel, floats.size, floats, floats, PLAIN, _cuda.view(body))
        if mode != PLAIN:
            call.run(memory_kernel, n, floats, columns, rank, p, memory, mode)
            state.extra["right"] = floats[rows * rank :].reshape(columns, rank)
    return int(rank)


def _warm(state: State, like: Any) -> Any:
    """The right factor of the step before, if there was one; from a checkpoint, or a step on the host, it moves here."""
    warm = state.extra.get("right")
    return warm if warm is None or on_device(warm) else _cuda.view(upload(warm, like))


def _most(rank: int) -> np.float32:
    """2^127 / sqrt(rank), sqrt(rank) rounded up to a power of two."""
    return np.float32(2.0 ** (127 - ((rank - 1).bit_length() + 1) // 2))


def check_powersgd(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    rows, columns = codec.shape
    call.run(check_kernel, max(rows, columns * codec.rank), body, rows, columns, codec.rank, _most(codec.rank), flags)


def add_powersgd(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    floats = call.empty(sum(codec.shape) * codec.rank, np.float32)
    call.run(add_identity_kernel, floats.size, body, scale, False, floats)
    call.run(add_kernel, header.n, floats, codec.shape[1], codec.rank, scale, add, out)
