"""The CPU kernels' front: hands csrc/compress_lowrank.c memory and jobs, and splits the work. Signatures as in `reference.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._native import ffi, lib
from ..calls import BYTES, FLOATS, memory, new, null_or, pointer, run, vector
from ..state import PLAIN, State, Stream, Vector

_WORK, _DOUBLES = ffi.typeof("fgd_lowrank *"), ffi.typeof("double[]")
_APART = 16  # floats between lines, which else would often lie a power of two apart and share few places in the cache


def powersgd(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    (rows, columns), rank = codec.shape, codec.rank
    stride, pitch = -(-rows // 8) * 8, columns + _APART
    left, right = np.empty(rank * stride), np.empty(rank * pitch, np.float32)
    w = new(_WORK, {
        "x": vector(x), "memory": memory(state, mode), "mode": mode, "rows": rows, "columns": columns, "rank": rank,
        "seed": stream.seed, "step": stream.step, "fresh": 1, "unit": 1.0, "most": lib.fgd_lowrank_most(rank), "stride": stride,
        "left": pointer(_DOUBLES, left), "pitch": pitch, "right": pointer(FLOATS, right), "body": pointer(BYTES, body)})
    keep = left, right, x, state, body
    warm = None if mode == PLAIN else _warm(state, columns, rank)
    lib.fgd_lowrank_start(w, null_or(FLOATS, warm))

    def row_tickets() -> int:
        return int(lib.fgd_lowrank_row_tickets(w))

    run(lambda job: lib.fgd_lowrank_left(w, job), threads, row_tickets, keep)
    w.fresh = 0
    peak = float(np.array(w.peak, np.uint32).view(np.float32))
    if 0.0 < peak < 2.0**-64 or peak > 2.0**64:
        w.unit = 2.0**64 if peak < 1.0 else 2.0**-64
        run(lambda job: lib.fgd_lowrank_left(w, job), threads, row_tickets, keep)
    lib.fgd_lowrank_orthogonalise(w)
    w.panel = lib.fgd_lowrank_panel(w, threads)
    run(lambda job: _check(lib.fgd_lowrank_right(w, job)), threads, lambda: -(-columns // w.panel), keep)
    if mode != PLAIN:
        run(lambda job: lib.fgd_lowrank_finish(w, job), threads, row_tickets, keep)
        state.extra["right"] = np.ascontiguousarray(right.reshape(rank, pitch)[:, :columns].T)
    return int(rank)


def _warm(state: State, columns: int, rank: int) -> np.ndarray | None:
    """The right factor of the step before, if there was one."""
    warm = state.extra.get("right")
    if warm is None:
        return None
    warm = np.ascontiguousarray(warm, np.float32)
    if warm.shape != (columns, rank):
        raise ValueError(f"the state holds a right factor of shape {warm.shape}, but the codec's is {(columns, rank)}")
    return warm


def _check(status: int) -> None:
    if status:
        raise MemoryError("no memory for the sums of a right factor")
