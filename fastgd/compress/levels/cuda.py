"""QSGD, Int8, FP8, TernGrad and Natural on the GPU: the kernels' front. Signatures as in `reference.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _cuda
from ..._cuda import Call
from ...random import scalar
from ..cuda import codec_input
from ..cuda_kernels import LANES, make_largest_kernel
from ..device import put
from ..state import State, Stream, Vector
from .cuda_kernels import (
    E4M3,
    E5M2,
    NEAREST,
    STOCHASTIC,
    TERNARY,
    add_levels_kernel,
    add_natural_kernel,
    buckets_kernel,
    check_levels_kernel,
    check_natural_kernel,
    natural_kernel,
    pack_kernel,
    terngrad_kernel,
)
from .cuda_kernels import KERNELS as KERNELS


def qsgd(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    return _buckets(x, state, mode, stream, body, STOCHASTIC, codec.bucket, codec.levels, codec.norm == "l2", codec.levels,
                    codec.width)


def int8(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    return _buckets(x, state, mode, stream, body, STOCHASTIC if codec.stochastic else NEAREST, codec.bucket, 127)


def fp8(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    kind, levels = _format(codec)
    return _buckets(x, state, mode, stream, body, kind, codec.bucket, levels)


def _format(codec: Any) -> tuple[int, int]:
    return (E5M2, 57344) if codec.format == "e5m2" else (E4M3, 448)


def _buckets(x: Vector, state: State, mode: int, stream: Stream, body: Any, kind: int, bucket: int, levels: int, l2: bool = False,
             offset: int = 0, width: int = 8) -> int:
    n = x.data.shape[0]
    if n == 0:
        return bucket
    count = -(-n // bucket)
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        view = _cuda.view(body)
        packed = view[4 * count : 4 * count + -(-n * width // 8)]
        codes = packed if width == 8 else call.empty(n, np.uint8)
        call.run(buckets_kernel, LANES * count, p, memory, mode, kind, bucket, np.float32(levels), l2, offset, _key(stream),
                 view, codes)
        if width < 8:
            call.run(pack_kernel, -(-n // 8), codes, width, packed)
    return bucket


def terngrad(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    n = x.data.shape[0]
    if n == 0:
        put(body, 0, bytes(4))
        return 0
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        top = call.zeros(1)
        call.run(make_largest_kernel("float32"), min(n, 1 << 18), p, top)
        call.run(terngrad_kernel, -(-n // 4), p, memory, mode, top, _key(stream), _cuda.view(body))
    return 0


def natural(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        call.run(natural_kernel, -(-x.data.shape[0] // 8), p, memory, mode, _key(stream), _cuda.view(body))
    return 0


def _key(stream: Stream) -> np.uint64:
    return np.uint64(scalar.hash_key(stream.rounding, stream.step))


def check_qsgd(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    _check(call, header, body, flags, STOCHASTIC, codec.bucket, codec.levels, codec.levels, codec.width)


def check_int8(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    _check(call, header, body, flags, NEAREST, codec.bucket, 127)


def check_fp8(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    kind, levels = _format(codec)
    _check(call, header, body, flags, kind, codec.bucket, levels)


def check_terngrad(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    _check(call, header, body, flags, TERNARY, max(header.n, 1), 1, 0, 2, 1)  # a scale even of nothing


def check_natural(call: Call, codec: Any, header: Any, body: Any, flags: Any) -> None:
    call.run(check_natural_kernel, header.n, body, header.n, flags)


def _check(call: Call, header: Any, body: Any, flags: Any, kind: int, bucket: int, levels: int, offset: int = 0,
           width: int = 8, steps: int | None = None) -> None:
    steps = -(-header.n // bucket) if steps is None else steps
    call.run(check_levels_kernel, max(header.n, steps), body, steps, header.n, kind, bucket, np.float32(levels), offset,
             width, flags)


def add_qsgd(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    call.run(add_levels_kernel, header.n, body, STOCHASTIC, codec.bucket, codec.levels, codec.width, scale, add, out)


def add_int8(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    call.run(add_levels_kernel, header.n, body, NEAREST, codec.bucket, 0, 8, scale, add, out)


def add_fp8(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    call.run(add_levels_kernel, header.n, body, _format(codec)[0], codec.bucket, 0, 8, scale, add, out)


def add_terngrad(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    call.run(add_levels_kernel, header.n, body, TERNARY, max(header.n, 1), 0, 2, scale, add, out)


def add_natural(call: Call, codec: Any, header: Any, body: Any, scale: Any, add: bool, out: Any) -> None:
    call.run(add_natural_kernel, header.n, body, scale, add, out)
