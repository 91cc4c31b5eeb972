"""How the CPU fronts of all codecs call C: pointers, and jobs that several threads share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _threads
from .._native import ffi, lib
from .state import PLAIN, State, Vector

BYTES, FLOATS = ffi.typeof("uint8_t[]"), ffi.typeof("float[]")
_WORD = ffi.typeof("uint32_t *")
_CHARS, _JOB, _VECTOR = ffi.typeof("char[]"), ffi.typeof("fgd_job *"), ffi.typeof("fgd_vector *")
_DTYPES = {"float32": 0, "float16": 2, "bfloat16": 3}


def vector(x: Vector) -> tuple[Any, Any]:
    """The vector as a struct, and what must live as long as it is used."""
    data = ffi.from_buffer(_CHARS, x.data)
    return ffi.new(_VECTOR, {"data": data, "dtype": _DTYPES[x.dtype], "n": len(x.data)}), data


def null_or(kind: Any, array: np.ndarray | None) -> Any:
    """A pointer to an array, or NULL."""
    return ffi.NULL if array is None else ffi.from_buffer(kind, array)


def run(call: Callable[[Any], Any], threads: int, tickets: int, keep: Any) -> None:
    """`call` with one job, from as many threads as there are tickets for."""
    job = ffi.new(_JOB)
    _threads.run(lambda: call(job), threads=threads, chunks=tickets, keep=(keep, job))


def largest(x: Vector, state: State, mode: int, threads: int) -> np.float32:
    """max |p_i|, 0 for no elements; not finite where one is not."""
    most = ffi.new(_WORD)
    v, keep = vector(x)
    memory = null_or(FLOATS, None if mode == PLAIN else state.memory)
    run(lambda job: lib.fgd_compress_largest(v, memory, mode, most, job), threads, lib.fgd_compress_tickets(len(x.data)), keep)
    return np.float32(np.array([most[0]], np.uint32).view(np.float32)[0])
