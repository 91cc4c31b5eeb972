"""The CPU kernel's front: hands csrc/compress_rotation.c memory and a job. Signature as in `reference.py`."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ..._native import lib
from ..calls import BYTES, memory, pointer, run, vector
from ..state import State, Stream, Vector


def drive(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    struct.pack_into("<QII", body.data, 0, stream.seed, stream.step, 0)
    n = len(x.data)
    if n:
        v, own, place = vector(x), memory(state, mode), pointer(BYTES, body)
        run(lambda job: lib.fgd_compress_drive(v, own, mode, codec.bits, codec.unbiased, stream.seed, stream.step, place, job),
            threads, lambda: lib.fgd_compress_drive_tickets(n), (x, state, body))
    return int(codec.bits)
