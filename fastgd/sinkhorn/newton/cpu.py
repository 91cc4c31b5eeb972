"""The CPU kernels' front: hands csrc/sinkhorn_newton*.c memory, and splits their passes. Signatures: `reference.py`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ... import _threads
from ..._native import ffi, lib
from .trial import Direction, Trial

_NO_MEMORY = "no memory for the entries of the plan that the Hessian keeps: use method='sinkhorn'"
_JOB, _SEMIDUAL, _DOUBLES = ffi.typeof("fgd_job *"), ffi.typeof("fgd_semidual *"), ffi.typeof("double *")
_KINDS = {"size": ffi.typeof("int32_t *"), "turned_size": ffi.typeof("int32_t *"), "next_place": ffi.typeof("int64_t *"),
          "kept": ffi.typeof("fgd_kept *")}


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
        sizes = {"part": 8 * chunks * (width + 8), "f": 8 * t.n, "g": 8 * width, "next": 8 * width, "c": 8 * width,
                 "x": 8 * (width + 8), "work": 8 * (4 * (width + 8) + rows + 16), "size": 4 * rows, "turned_size": 4 * width,
                 "next_place": 8 * width, "kept": ffi.sizeof("fgd_kept") * chunks}
        memory = np.zeros(sum(sizes.values()) + 64 * len(sizes), np.uint8)  # arrays that begin at cache lines
        self._keep: list[Any] = [transport, memory]
        self._struct = s = ffi.gc(ffi.new(_SEMIDUAL), partial(_free, self._keep))
        place = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
        for name, size in sizes.items():
            place = -(-place // 64) * 64
            setattr(s, name, ffi.cast(_KINDS.get(name, _DOUBLES), place))
            place += size
        s.t, s.chunks = t, chunks

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
