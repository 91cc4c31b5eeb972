"""The CPU kernel's front: hands csrc/compress_rotation.c memory and a job. Signature as in `reference.py`."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ..._native import ffi, lib
from ..calls import BYTES, FLOATS, null_or, run, vector
from ..state import State, Stream, Vector


def drive(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    body[:16] = np.frombuffer(struct.pack("<QII", stream.seed, stream.step, 0), np.uint8)
    n = len(x.data)
    if n:
        v, keep = vector(x)
        memory, place = null_or(FLOATS, state.memory), ffi.from_buffer(BYTES, body)
        run(lambda job: lib.fgd_compress_drive(v, memory, mode, codec.bits, codec.unbiased, stream.seed, stream.step, place, job),
            threads, lib.fgd_compress_drive_tickets(n), (keep, memory, place))
    return int(codec.bits)
