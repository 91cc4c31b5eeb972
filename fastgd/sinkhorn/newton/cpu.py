"""The CPU kernels' front: hands csrc/sinkhorn_newton*.c memory, and splits their passes. Signatures: `reference.py`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ... import _threads
from ..._native import ffi, lib
from .trial import Direction, Trial

_NO_MEMORY = "no memory for the entries of the plan that the Hessian keeps: use method='sinkhorn'"
_JOB = ffi.typeof("fgd_job *")


def semidual(transport: Any) -> Semidual:
    return Semidual(transport)


def _free(keep: list[Any], struct: Any) -> None:
    """What the core allocated hangs on arrays of `keep`, which must outlive it."""
    lib.fgd_semidual_free(struct)
    keep.clear()


class Semidual:
    """F at the potentials held, the trial beside it, and the sparsified Hessian. What a pass keeps is memory of the C core."""

    def __init__(self, transport: Any) -> None:
        t = transport.struct
        self._threads = transport.threads
        width, rows, chunks = t.width, t.rows, lib.fgd_semidual_chunks(t)
        numbers = {"part": chunks * (width + 8), "f": t.n, "g": width, "next": width, "c": width,
                   "x": width + 8, "work": 4 * (width + 8) + rows + 16}
        self._keep: list[Any] = [transport]
        self._struct = s = ffi.gc(ffi.new("fgd_semidual *"), partial(_free, self._keep))
        for name, size in numbers.items():
            setattr(s, name, self._memory("double", size))
        s.size, s.turned_size = self._memory("int32_t", rows), self._memory("int32_t", width)
        s.next_place = self._memory("int64_t", width)
        s.kept = self._memory("fgd_kept", chunks)
        s.t, s.chunks = t, chunks

    def _memory(self, kind: str, size: int) -> Any:
        """Zeros, aligned to a cache line."""
        raw = np.zeros(size * ffi.sizeof(kind) + 64, np.uint8)
        skip = -raw.ctypes.data % 64
        self._keep.append(raw)
        return ffi.cast(f"{kind} *", ffi.from_buffer(raw[skip:]))

    def evaluate(self, step: float, drop: float) -> Trial:
        s = self._struct
        s.drop = max(drop, 2.0**-52)
        if self._threads == 1:
            status = lib.fgd_semidual_evaluate(s, step)
        else:
            job, states = ffi.new(_JOB), [0]
            lib.fgd_semidual_begin(s, step)
            _threads.run(lambda: states.append(lib.fgd_semidual_pass(s, job)), threads=self._threads, chunks=s.chunks,
                         keep=(s, self._keep))
            lib.fgd_semidual_fold(s)
            status = min(states)
        if status:
            raise MemoryError(_NO_MEMORY)
        return Trial(s.error, s.change, s.noise)

    def accept(self) -> None:
        lib.fgd_semidual_accept(self._struct)

    def solve(self, shift: float, tol: float, limit: int) -> Direction:
        s = self._struct
        s.tol, s.limit = tol, limit
        if lib.fgd_semidual_solve(s, shift):
            raise MemoryError(_NO_MEMORY)
        return Direction(s.count, s.slope, s.longest)

    def update(self) -> None:
        lib.fgd_semidual_update(self._struct)

    @property
    def density(self) -> float:
        t = self._struct.t
        return self._struct.entries / (t.n * t.m)


def sns_solve(start: np.ndarray, index: np.ndarray, w: np.ndarray, r: np.ndarray, v: np.ndarray, tol: float,
              limit: int) -> tuple[np.ndarray, int]:
    y, n = np.empty_like(r), len(start) - 1
    places, columns = ffi.from_buffer("int64_t[]", start), ffi.from_buffer("int32_t[]", index)
    values, right, null, out = (ffi.from_buffer("double[]", array) for array in (w, r, v, y))
    count = lib.fgd_sns_solve(n, len(r) - n, places, columns, values, right, null, tol, limit, out)
    if count < 0:
        raise MemoryError("no memory for the vectors of the conjugate gradients")
    return y, count
