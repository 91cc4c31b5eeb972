"""The CPU kernels' front: hands csrc/random.c memory and a job, and splits the work.

Signatures as in `reference.py`. Formulas and costs stand with the kernels in csrc/random_body.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _threads
from .._native import ffi, lib

_from_buffer, _new = ffi.from_buffer, ffi.new
_JOB = ffi.typeof("fgd_job *")
_POINTERS = {np.dtype(np.uint32): ffi.typeof("uint32_t[]"), np.dtype(np.float32): ffi.typeof("float[]"),
             np.dtype(np.float64): ffi.typeof("double[]")}


def bits32(seed: int, step: int, start: int, size: int, threads: int) -> np.ndarray:
    return _fill(lib.fgd_random_bits32, np.uint32, seed, step, start, size, threads)


def hash32(seed: int, step: int, start: int, size: int, threads: int) -> np.ndarray:
    return _fill(lib.fgd_random_hash32, np.uint32, seed, step, start, size, threads)


def uniform(seed: int, step: int, start: int, size: int, threads: int) -> np.ndarray:
    return _fill(lib.fgd_random_uniform, np.float32, seed, step, start, size, threads)


def normal(seed: int, step: int, start: int, size: int, threads: int) -> np.ndarray:
    return _fill(lib.fgd_random_normal, np.float32, seed, step, start, size, threads)


def rademacher(seed: int, step: int, start: int, size: int, threads: int) -> np.ndarray:
    return _fill(lib.fgd_random_rademacher, np.float32, seed, step, start, size, threads)


def perturb_(x: np.ndarray, seed: int, step: int, scale: float, signs: bool, threads: int) -> None:
    function = lib.fgd_random_perturb_f32 if x.dtype == np.float32 else lib.fgd_random_perturb_f64
    pointer = _from_buffer(_POINTERS[x.dtype], x, require_writable=True)
    size = x.size
    _split(lambda job: function(seed, step, signs, scale, size, pointer, job), size, threads)


def _fill(function: Callable[..., None], dtype: Any, seed: int, step: int, start: int, size: int,
          threads: int) -> np.ndarray:
    out = np.empty(size, dtype)
    if size:
        pointer = _from_buffer(_POINTERS[out.dtype], out)
        _split(lambda job: function(seed, step, start, size, pointer, job), size, threads)
    return out


def _split(call: Callable[[Any], None], size: int, threads: int) -> None:
    job = _new(_JOB)
    _threads.run(lambda: call(job), threads=threads, chunks=lib.fgd_random_chunks(size))
