"""The CPU kernels' front: hands csrc/dro_sets.c and csrc/dro_tilts.c memory, and splits their passes. Signatures: `reference.py`.

One thread does all passes in one call. Several share each pass, and the caller folds between them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import _threads
from ..._native import ffi, lib
from .power import power as power

_SET, _JOB = ffi.typeof("fgd_set *"), ffi.typeof("fgd_job *")
_CHARS, _DOUBLES = ffi.typeof("char[]"), ffi.typeof("double[]")
_LINEAR, _TILTED, _CAPPED, _QUANTILE = range(4)
_PART = lib.fgd_sets_part()


def linear(z: np.ndarray, radius: float | None, unit: float | None, floor: float, weights: np.ndarray, threads: int) -> float:
    return _solve(z, weights, threads, kind=_LINEAR, radius=math.inf if radius is None else radius, unit=unit or 0.0, floor=floor)


def tilted(z: np.ndarray, radius: float | None, penalty: float | None, floor: float, logs: bool, weights: np.ndarray,
           threads: int) -> float:
    return _solve(z, weights, threads, kind=_TILTED, radius=math.inf if radius is None else radius, unit=penalty or 0.0,
                  floor=floor, logs=logs)


def capped(z: np.ndarray, alpha: float, penalty: float, weights: np.ndarray, threads: int) -> float:
    return _solve(z, weights, threads, kind=_CAPPED, radius=math.inf, unit=penalty, alpha=alpha)


def quantile(z: np.ndarray, alpha: float, weights: np.ndarray, threads: int) -> float:
    return _solve(z, weights, threads, kind=_QUANTILE, alpha=alpha)


def _solve(z: np.ndarray, weights: np.ndarray, threads: int, **parameters: Any) -> float:
    """Run the passes; the worst case. `Unusable` before anything is written."""
    n = len(z)
    part = ffi.from_buffer(_DOUBLES, np.empty(_PART * lib.fgd_sets_blocks(n)))
    data, w = ffi.from_buffer(_CHARS, z), ffi.from_buffer(_DOUBLES, weights, require_writable=True)
    s = ffi.new(_SET, {"z": data, "w": w, "part": part, "n": n, "dtype": int(z.dtype == np.float64), **parameters})
    if threads == 1:
        lib.fgd_sets_solve(s)
    else:
        job, tickets, more = ffi.new(_JOB), lib.fgd_sets_tickets(n), 1
        while more:
            job.next = 0
            _threads.run(lambda: lib.fgd_sets_pass(s, job), threads=threads, chunks=tickets, keep=(s, data, w, part, parameters))
            more = lib.fgd_sets_fold(s)
    return math.nan if s.bad else s.value
