"""The CPU kernels' front: hands csrc/compress_levels.c the vector, the memory and the body, and splits the work.

Signatures as in `reference.py`. Formulas, costs and orders of summation stand with the kernels in csrc/compress_levels_body.h.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ..._native import ffi, lib
from ..calls import BYTES, largest, memory, new, pointer, run, vector
from ..codecs import FP8, QSGD, Int8, Natural, TernGrad
from ..state import State, Stream, Vector

_NEAREST, _STOCHASTIC, _E4M3, _E5M2, _TERNARY, _NATURAL = range(6)  # as in csrc/compress_levels.c
_LEVELS = ffi.typeof("fgd_levels *")


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
    most = largest(x, state, mode, threads)
    struct.pack_into("<f", body.data, 0, most)
    _encode(x, state, mode, stream, body, threads, kind=_TERNARY, width=2, levels=1.0, largest=most)
    return 0


def natural(codec: Natural, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    _encode(x, state, mode, stream, body, threads, kind=_NATURAL)
    return 0


def _encode(x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int, **fields: Any) -> int:
    """Run the encoder; the bucket's length. The struct of a codec with memory is made once."""
    v, own, out, how = vector(x), memory(state, mode), pointer(BYTES, body), state.room.get("levels")
    if how is None:
        how = state.room["levels"] = new(_LEVELS, {"width": 8} | fields)
    how.seed, how.step = stream.rounding, stream.step
    if "largest" in fields:
        how.largest = fields["largest"]
    run(lambda job: lib.fgd_compress_levels(v, own, mode, how, out, job), threads,
        lambda: lib.fgd_compress_levels_tickets(how, len(x.data)), (x, state, body, how))
    bucket: int = how.bucket
    return bucket
