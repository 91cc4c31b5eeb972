"""The CPU kernels' front: hands csrc/compress_levels.c the vector, the memory and the body, and splits the work.

Signatures as in `reference.py`. Formulas, costs and orders of summation stand with the kernels in csrc/compress_levels_body.h.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _threads
from ..._native import ffi, lib
from ..codecs import FP8, QSGD, Int8, Natural, TernGrad
from ..state import PLAIN, State, Stream, Vector

_NEAREST, _STOCHASTIC, _E4M3, _E5M2, _TERNARY, _NATURAL = range(6)  # as in csrc/compress_levels.c
_DTYPES = {"float32": 0, "float16": 2, "bfloat16": 3}

_from_buffer, _new = ffi.from_buffer, ffi.new
_BYTES, _OCTETS, _FLOATS = ffi.typeof("char[]"), ffi.typeof("uint8_t[]"), ffi.typeof("float[]")
_JOB, _VECTOR, _LEVELS, _WORD = (ffi.typeof(name) for name in ("fgd_job *", "fgd_vector *", "fgd_levels *", "uint32_t *"))


def qsgd(codec: QSGD, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    return _encode(x, state, mode, stream, body, threads, kind=_STOCHASTIC, width=codec.width, offset=codec.levels,
                   l2=codec.norm == "l2", bucket=codec.bucket, levels=codec.levels)


def int8(codec: Int8, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    return _encode(x, state, mode, stream, body, threads, kind=_STOCHASTIC if codec.stochastic else _NEAREST,
                   bucket=codec.bucket, levels=127.0)


def fp8(codec: FP8, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    kind, largest = (_E5M2, 57344.0) if codec.format == "e5m2" else (_E4M3, 448.0)
    return _encode(x, state, mode, stream, body, threads, kind=kind, bucket=codec.bucket, levels=largest)


def terngrad(codec: TernGrad, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    vector, memory = _pointers(x, state, mode)
    top = _new(_WORD)
    job = _new(_JOB)
    chunks = lib.fgd_compress_levels_tickets(_new(_LEVELS, {"kind": _TERNARY}), vector.n)
    _threads.run(lambda: lib.fgd_compress_largest(vector, memory, mode, top, job), threads=threads, chunks=chunks,
                 keep=(x, state))
    largest = np.array(top[0], np.uint32).view(np.float32)
    body[:4] = np.frombuffer(largest.tobytes(), np.uint8)
    _encode(x, state, mode, stream, body, threads, kind=_TERNARY, width=2, levels=1.0, largest=float(largest))
    return 0


def natural(codec: Natural, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    _encode(x, state, mode, stream, body, threads, kind=_NATURAL)
    return 0


def _encode(x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int, **fields: Any) -> int:
    """Run the encoder; the bucket's length."""
    vector, memory = _pointers(x, state, mode)
    how = _new(_LEVELS, {"width": 8, "seed": stream.rounding, "step": stream.step} | fields)
    out, job = _from_buffer(_OCTETS, body, require_writable=True), _new(_JOB)
    _threads.run(lambda: lib.fgd_compress_levels(vector, memory, mode, how, out, job), threads=threads,
                 chunks=lib.fgd_compress_levels_tickets(how, vector.n), keep=(x, state, body))
    return int(how.bucket)


def _pointers(x: Vector, state: State, mode: int) -> tuple[Any, Any]:
    """The vector and the memory for C. They live no longer than `x` and `state`."""
    data = _from_buffer(_BYTES, x.data)
    vector = _new(_VECTOR, {"data": data, "dtype": _DTYPES[x.dtype], "n": len(x.data)})
    memory = ffi.NULL if mode == PLAIN else _from_buffer(_FLOATS, state.memory, require_writable=True)
    return vector, memory
