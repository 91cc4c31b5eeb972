"""The CPU kernels' front: hands csrc/hashing.c the vectors, memory and jobs, and splits the work.

Signatures as in `reference.py`. Formulas, costs and orders of summation stand with the kernels in csrc/hashing_body.h.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ... import _threads
from ..._native import ffi, lib
from ..._rows import Rows
from ...random.cpu import hash32
from ..cpu import _check, _rows

FOLD = 4096  # positions onto which the coordinates are folded
GROUP = 256  # planes that share one folding
_BATCH = 512  # vectors folded at a time
_FEW = 16  # vectors up to which the positions are split among threads as well
_VECTORS = 64  # normal vectors onto which a matrix is projected at a time
RESCUE = 2.0**-80  # brings sums of any finite doubles into range

_from_buffer, _new = ffi.from_buffer, ffi.new
_BYTES, _OCTETS, _WORDS, _DOUBLES, _INTS = (ffi.typeof(name) for name in ("char[]", "uint8_t[]", "uint32_t[]", "double[]",
                                                                          "int64_t[]"))
_JOB = ffi.typeof("fgd_job *")


def turns(seed: int, group: int, d: int) -> np.ndarray:
    """By how much each block of coordinates is turned before it is folded."""
    words = hash32(seed, 1 + group, 0, -(-d // FOLD), 1)
    words %= FOLD
    words[:1] = 0
    return words


def simhash(rows: Rows, bits: int, seed: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    n, width = rows.n, min(rows.d, FOLD)
    hashes, bad = np.zeros((n, -(-bits // 8)), np.uint8), np.zeros(n, np.bool_)
    if not width:
        return hashes, bad
    x, keep = _rows(rows)
    sums = np.empty((min(n, _BATCH), width))
    for plane in range(0, bits, GROUP):
        turn = turns(seed, plane // GROUP, rows.d)
        for first in range(0, n, _BATCH):
            count = min(_BATCH, n - first)
            unsafe = _fold(x, keep, seed, plane // GROUP, turn, first, np.ones(count), sums, threads)
            if unsafe.any():
                scale = np.where(unsafe, RESCUE, 1.0)
                _fold(x, keep, seed, plane // GROUP, turn, first, scale, sums, threads)
            finite = np.isfinite(sums[:count]).all(axis=1)
            if not finite.all():
                bad[first : first + count] |= ~finite
            else:
                _planes(sums, count, width, seed, plane, min(GROUP, bits - plane), hashes[first:], threads)
        if bad.any():
            break
    return hashes, bad


def _fold(x: Any, keep: Any, seed: int, group: int, turn: np.ndarray, first: int, scale: np.ndarray, sums: np.ndarray,
          threads: int) -> np.ndarray:
    """Fold len(scale) vectors into `sums`; which of them have sums that may have overflowed."""
    count = len(scale)
    unsafe = np.zeros(count, np.bool_)
    tiles = 4 if count <= _FEW else 1
    turn_pointer, scale_pointer = _from_buffer(_WORDS, turn), _from_buffer(_DOUBLES, scale)
    sums_pointer, unsafe_pointer = _from_buffer(_DOUBLES, sums), _from_buffer(_BYTES, unsafe)
    _split(lambda job: _check(lib.fgd_hashing_fold(x, seed, 1 + group, turn_pointer, first, count, tiles, scale_pointer,
                                                   sums_pointer, unsafe_pointer, job)),
           lib.fgd_hashing_fold_chunks(count, tiles), threads, keep)
    return unsafe


def _planes(sums: np.ndarray, count: int, width: int, seed: int, plane: int, bits: int, hashes: np.ndarray,
            threads: int) -> None:
    sums_pointer, hash_pointer = _from_buffer(_DOUBLES, sums), _from_buffer(_OCTETS, hashes)
    _split(lambda job: lib.fgd_hashing_planes(sums_pointer, count, width, seed, plane, bits, hash_pointer, hashes.shape[1], job),
           lib.fgd_hashing_planes_chunks(count, bits), threads, None)


def lshgm(rows: Rows, shapes: list[tuple[int, int]], bits: int, seed: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    flags = np.zeros((rows.n, bits * sum(columns for _, columns in shapes)), np.uint8)
    bad = np.zeros(rows.n, np.bool_)
    x, keep = _rows(rows)
    bad_pointer, offset = _from_buffer(_BYTES, bad), 0
    for k, (length, columns) in enumerate(shapes):
        if length and columns:
            _columns(x, keep, rows.n, k, length, columns, bits, seed, flags, offset, bad_pointer, threads)
        offset += bits * columns
    return np.packbits(flags, axis=1, bitorder="little"), bad


def _columns(x: Any, keep: Any, n: int, layer: int, length: int, columns: int, bits: int, seed: int, flags: np.ndarray,
             offset: int, bad: Any, threads: int) -> None:
    base = _from_buffer(_OCTETS, flags) + offset
    for first in range(0, bits, _VECTORS):
        shape = length, columns, first, min(_VECTORS, bits - first)
        run = partial(lib.fgd_hashing_columns, x, layer, *shape, seed, base + first * columns, flags.shape[1], bad)
        _split(_checked(run), lib.fgd_hashing_columns_chunks(n, columns), threads, (keep, flags))


def _checked(run: Callable[[Any], int]) -> Callable[[Any], None]:
    return lambda job: _check(run(job))


def hamming(a: np.ndarray, b: np.ndarray, threads: int) -> np.ndarray:
    n, m, width = len(a), len(b), a.shape[1]
    distances = np.zeros((n, m), np.int64)
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if distances.size:
        left, right, out = _from_buffer(_OCTETS, a), _from_buffer(_OCTETS, b), _from_buffer(_INTS, distances)
        _split(lambda job: lib.fgd_hashing_hamming(left, right, n, m, width, out, job), lib.fgd_hashing_hamming_chunks(n, m),
               threads, None)
    return distances


def _split(call: Callable[[Any], Any], chunks: int, threads: int, keep: Any) -> None:
    job = _new(_JOB)
    _threads.run(lambda: call(job), threads=threads, chunks=chunks, keep=keep)
