"""The CPU kernels' front: hands csrc/robust.c the rows, the scratch memory and the job, and splits the work.

Signatures as in `reference.py`. Formulas, costs and orders of summation stand with the kernels in csrc/robust_body.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .. import _threads
from .._native import ffi, lib
from .._rows import Layer, Rows
from .network import network

_DTYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
_from_buffer, _new = ffi.from_buffer, ffi.new
_BYTES, _DOUBLES, _PAIRS = ffi.typeof("char[]"), ffi.typeof("double[]"), ffi.typeof("int32_t[]")
_ROWS, _LAYERS, _POINTERS, _JOB = (ffi.typeof(name) for name in ("fgd_rows *", "fgd_layer[]", "char *[]", "fgd_job *"))


def pairwise_sqdist(rows: Rows, threads: int) -> tuple[np.ndarray, np.ndarray]:
    x = _Table(rows.layers, [layer.data for layer in rows.layers])
    n = rows.n
    chunks = lib.fgd_robust_pairwise_chunks(n, rows.d)
    sqdist, bad, partial = np.empty((n, n)), np.zeros(n, np.bool_), np.empty(chunks * lib.fgd_robust_pairwise_partial(n))
    sqdist_pointer, bad_pointer = _from_buffer(_DOUBLES, sqdist), _from_buffer(_BYTES, bad)
    partial_pointer = _from_buffer(_DOUBLES, partial)
    _split(lambda job: lib.fgd_robust_pairwise(x.struct, partial_pointer, bad_pointer, job), rows.nbytes, chunks, threads)
    lib.fgd_robust_pairwise_sum(n, chunks, partial_pointer, bad_pointer, sqdist_pointer)
    return sqdist, bad


def krum_scores(sqdist: np.ndarray, k: int) -> np.ndarray:
    # Column i of the symmetric matrix holds the distances of vector i and, as its smallest value, the 0 of the diagonal:
    # the score is the sum of ranks 1 .. k of column i, and columns are what the network sorts.
    n = len(sqdist)
    scores = np.empty(n)
    layer = Layer(sqdist, "float64", (n,), _identity)
    x, out = _Table([layer], [sqdist]), _Table([layer], [scores[None]])
    comparators, length = _comparators(n, 0, k)
    _split(lambda job: lib.fgd_robust_rank_mean(x.struct, comparators, length, 1, k, 1.0, n, out.struct, job), 0, 1, 1)
    return scores


def combine(rows: Rows, weights: np.ndarray, divisor: float, stacks: list[np.ndarray], threads: int) -> int:
    x, out = _Table(rows.layers, [layer.data for layer in rows.layers]), _Table(rows.layers, stacks)
    weights_pointer = _from_buffer(_DOUBLES, weights)
    return _split(lambda job: lib.fgd_robust_combine(x.struct, weights_pointer, divisor, out.struct, job),
                  rows.nbytes, lib.fgd_robust_column_chunks(rows.d), threads)


def trimmed_mean(rows: Rows, f: int, stacks: list[np.ndarray], threads: int) -> int:
    x, out = _Table(rows.layers, [layer.data for layer in rows.layers]), _Table(rows.layers, stacks)
    first, last = f, rows.n - f - 1
    comparators, length = _comparators(rows.n, first, last)
    return _split(lambda job: lib.fgd_robust_rank_mean(x.struct, comparators, length, first, last,
                                                       float(last - first + 1), f, out.struct, job),
                  rows.nbytes, lib.fgd_robust_column_chunks(rows.d), threads)


median = trimmed_mean  # with f = (n - 1) // 2, see coordinates.py


def _identity(data: Any) -> Any:
    return data


class _Table:
    """An fgd_rows struct over layer arrays, and everything it points into."""

    __slots__ = ("_keep", "struct")

    def __init__(self, layers: Sequence[Layer], arrays: Sequence[Any]) -> None:
        table = _new(_LAYERS, len(layers))
        keep: list[Any] = [table]
        d = 0
        for entry, layer, array in zip(table, layers, arrays, strict=True):
            if isinstance(array, list):
                buffers = [_from_buffer(_BYTES, row) for row in array]
                entry.row = pointers = _new(_POINTERS, buffers)
                keep += (buffers, pointers)
            elif array.flags.c_contiguous:
                entry.base = buffer = _from_buffer(_BYTES, array)
                entry.stride = layer.size * array.itemsize
                keep.append(buffer)
            else:  # contiguous rows, any distance apart
                entry.base = ffi.cast("char *", array.__array_interface__["data"][0])
                entry.stride = array.strides[0]
                keep.append(array)
            entry.size = layer.size
            entry.dtype = _DTYPES[layer.dtype]
            d += layer.size
        self.struct = struct = _new(_ROWS)
        struct.n, struct.d, struct.n_layers, struct.layer = len(arrays[0]), d, len(layers), table
        self._keep = keep


@lru_cache(maxsize=64)
def _comparators(n: int, first: int, last: int) -> tuple[Any, int]:
    """The sorting network as a C array, kept alive by the cache, and its length."""
    pairs = network(n, first, last)
    return _from_buffer(_PAIRS, pairs), len(pairs)


def _split(call: Callable[[Any], int], nbytes: int, chunks: int, threads: int) -> int:
    """Run one job from several threads; the first coordinate it reports as broken, -1 if none."""
    job = _new(_JOB)
    job.broken = -1

    def task() -> None:
        if call(job):
            raise MemoryError("fastgd could not get scratch memory for its tiles")

    _threads.run(task, threads=threads, chunks=chunks, nbytes=nbytes)
    return job.broken
