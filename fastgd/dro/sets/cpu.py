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
_new, _from_buffer, _empty, _blocks, _solved = ffi.new, ffi.from_buffer, np.empty, lib.fgd_sets_blocks, lib.fgd_sets_solve


def linear(z: np.ndarray, radius: float | None, unit: float | None, floor: float, weights: np.ndarray, threads: int) -> float:
    s = _new(_SET)
    s.kind, s.radius, s.unit, s.floor = _LINEAR, math.inf if radius is None else radius, unit or 0.0, floor
    return _solve(s, z, weights, threads)


def tilted(z: np.ndarray, radius: float | None, penalty: float | None, floor: float, logs: bool, weights: np.ndarray,
           threads: int) -> float:
    s = _new(_SET)
    s.kind, s.radius, s.unit, s.floor = _TILTED, math.inf if radius is None else radius, penalty or 0.0, floor
    s.logs = logs
    return _solve(s, z, weights, threads)


def capped(z: np.ndarray, alpha: float, penalty: float, weights: np.ndarray, threads: int) -> float:
    s = _new(_SET)
    s.kind, s.radius, s.unit, s.alpha = _CAPPED, math.inf, penalty, alpha
    return _solve(s, z, weights, threads)


def quantile(z: np.ndarray, alpha: float, weights: np.ndarray, threads: int) -> float:
    s = _new(_SET)
    s.kind, s.alpha = _QUANTILE, alpha
    return _solve(s, z, weights, threads)


def _solve(s: Any, z: np.ndarray, weights: np.ndarray, threads: int) -> float:
    """Run the passes; the worst case, NaN where z has bad numbers."""
    s.n = n = len(z)
    s.dtype = z.itemsize == 8  # float64, not float32
    s.part = part = _from_buffer(_DOUBLES, _empty(_PART * _blocks(n)))
    s.z = data = _from_buffer(_CHARS, z)
    s.w = w = _from_buffer(_DOUBLES, weights)
    if threads == 1:
        _solved(s)
    else:
        job, tickets, more = _new(_JOB), lib.fgd_sets_tickets(n), 1
        while more:
            job.next = 0
            _threads.run(lambda: lib.fgd_sets_pass(s, job), threads=threads, chunks=tickets, keep=(s, data, w, part))
            more = lib.fgd_sets_fold(s)
    return math.nan if s.bad else s.value
