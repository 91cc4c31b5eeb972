"""The C kernels of one call, everything around them prepared: what a call costs beyond them is fastgd's overhead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._native import ffi, lib
from .._rows import Layer, parse
from .cpu import _comparators, _identity, _Table

_BYTES, _DOUBLES = ffi.typeof("char[]"), ffi.typeof("double[]")


def prepare(operation: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    """A callable that runs nothing but the kernels of a public function on these inputs."""
    x, f, m = inputs["x"], inputs["f"], inputs["m"]
    n = len(x)
    if operation == "trimmed_mean":
        return _ranks(x, "float32", np.empty((1, x.shape[1]), np.float32), f, n - f - 1, 0)
    if operation == "median":
        return _ranks(x, "float32", np.empty((1, x.shape[1]), np.float32), (n - 1) // 2, n // 2, 0)
    if operation in ("mean", "combine"):
        return _combination(x, np.ones((1, n)))
    distances = _distances(x)
    if operation == "pairwise_sqdist":
        return distances
    scores = _ranks(np.zeros((n, n)), "float64", np.empty((1, n)), 1, n - f - 2, 0)
    if operation == "krum":
        return lambda: (distances(), scores())
    weights = np.zeros((1, n))
    weights[0, :m] = 1.0
    average = _combination(x, weights)
    return lambda: (distances(), scores(), average())


def _job() -> Any:
    job = ffi.new("fgd_job *")
    job.broken = -1
    return job


def _distances(x: np.ndarray) -> Callable[[], Any]:
    n, d = x.shape
    table, job = _Table(parse(x).layers, [x]), _job()
    chunks = lib.fgd_robust_pairwise_chunks(n, d)
    partial = np.empty(chunks * lib.fgd_robust_pairwise_partial(n))
    bad, sqdist = np.zeros(n, np.bool_), np.empty((n, n))
    partial_pointer, bad_pointer = ffi.from_buffer(_DOUBLES, partial), ffi.from_buffer(_BYTES, bad)
    sqdist_pointer = ffi.from_buffer(_DOUBLES, sqdist)

    def call() -> None:
        job.next = 0
        lib.fgd_robust_pairwise(table.struct, partial_pointer, bad_pointer, job)
        lib.fgd_robust_pairwise_sum(n, chunks, partial_pointer, bad_pointer, sqdist_pointer)

    return call


def _ranks(x: np.ndarray, dtype: str, out: np.ndarray, first: int, last: int, tolerated: int) -> Callable[[], Any]:
    n = len(x)
    table = _Table([Layer(x, dtype, x.shape[1:], _identity)], [x])
    result, job = _Table([Layer(out, dtype, x.shape[1:], _identity)], [out]), _job()
    comparators, length = _comparators(n, first, last)
    divisor = float(last - first + 1)

    def call() -> None:
        job.next = 0
        lib.fgd_robust_rank_mean(table.struct, comparators, length, first, last, divisor, tolerated, result.struct, job)

    return call


def _combination(x: np.ndarray, weights: np.ndarray) -> Callable[[], Any]:
    out = np.empty((1, x.shape[1]), x.dtype)
    rows = parse(x)
    table, result, job = _Table(rows.layers, [x]), _Table(rows.layers, [out]), _job()
    weights_pointer = ffi.from_buffer(_DOUBLES, weights)

    def call() -> None:
        job.next = 0
        lib.fgd_robust_combine(table.struct, weights_pointer, 1.0, result.struct, job)

    return call
