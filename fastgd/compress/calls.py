"""How the CPU fronts of all codecs call C: pointers, and jobs that several threads share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _threads
from .._native import ffi, lib
from .state import PLAIN, State, Vector

BYTES, FLOATS = ffi.typeof("uint8_t[]"), ffi.typeof("float[]")
_CHARS, _JOB, _SCAN, _VECTOR = (ffi.typeof(name) for name in ("char[]", "fgd_job *", "fgd_scan *", "fgd_vector *"))
_DTYPES = {"float32": 0, "float16": 2, "bfloat16": 3}

pointer, new = ffi.from_buffer, ffi.new


def vector(x: Vector) -> Any:
    """The vector as a struct, made once; it points into `x.data`, which must live as long."""
    v = x.native
    if v is None:
        v = x.native = new(_VECTOR)
        v.data, v.dtype, v.n = pointer(_CHARS, x.data), _DTYPES[x.dtype], len(x.data)
    return v


def memory(state: State, mode: int) -> Any:
    """A pointer to the memory, or NULL where none is used."""
    return ffi.NULL if mode == PLAIN else pointer(FLOATS, state.memory)


def null_or(kind: Any, array: np.ndarray | None) -> Any:
    """A pointer to an array, or NULL."""
    return ffi.NULL if array is None else pointer(kind, array)


def run(call: Callable[[Any], Any], threads: int, tickets: Callable[[], int], keep: Any) -> None:
    """`call` with one job, from as many threads as there are tickets for."""
    job = new(_JOB)
    if threads == 1:
        call(job)
    else:
        _threads.run(lambda: call(job), threads=threads, chunks=tickets(), keep=(keep, job))


def largest(x: Vector, state: State, mode: int, threads: int) -> float:
    """max |p_i|, 0 for no elements; not finite where one is not."""
    v, place, scan = vector(x), memory(state, mode), new(_SCAN)
    if threads == 1:
        lib.fgd_compress_largest(v, place, mode, scan)
    else:
        _threads.run(lambda: lib.fgd_compress_largest(v, place, mode, scan), threads=threads,
                     chunks=lib.fgd_compress_tickets(len(x.data)), keep=(x, state, scan))
    most: float = scan.most
    return most
