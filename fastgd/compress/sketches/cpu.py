"""The CPU kernels' front: hands csrc/compress_sketches.c memory and jobs. Signature as in `reference.py`.

Three sweeps over the vector: its largest magnitude, the sums (once for each group of rows), and with a memory what the table
stands for. Memory: eight bytes a cell, and as much for each thread where several add to the same row.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from ..._native import ffi, lib
from ..calls import BYTES, largest, memory, pointer, run, vector
from ..state import PLAIN, State, Stream, Vector

_SUMS = ffi.typeof("int64_t[]")
_TOGETHER = 1 << 18  # bytes of sums that one visit of a coordinate may touch: about the second-level cache
_OWN = 1 << 20  # bytes of sums that a thread may have to itself
_SEGMENT = 1 << 16  # coordinates, at least


def countsketch(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    n, rows, cols = len(x.data), codec.rows, codec.cols
    struct.pack_into("<QII", body.data, 0, stream.seed, stream.step, 0)
    table, sums = body[16 : 16 + 4 * rows * cols], np.zeros(rows * cols, np.int64)
    v, own, place, keep = vector(x), memory(state, mode), pointer(BYTES, body), (x, state, body)
    cells, values = pointer(BYTES, table), pointer(_SUMS, sums)
    unit = unit_exponent(largest(x, state, mode, threads), n)
    together = min(rows, max(1, _TOGETHER // (8 * cols)))
    groups = lib.fgd_compress_sketch_groups(rows, together)
    segments = _segments(n, together * cols, groups, threads)
    per_unit, failed = 2.0**-unit, list[int]()

    def add(job: Any) -> None:
        failed.append(lib.fgd_compress_sketch_sums(v, own, mode, stream.seed, stream.step, rows, cols, per_unit, together,
                                                   segments, values, job))

    run(add, threads, lambda: groups * segments, (keep, sums))
    if any(failed):
        raise MemoryError("no memory for a thread's part of a sketch")
    run(lambda job: lib.fgd_compress_sketch_table(values, len(sums), 2.0**unit, cells, job), threads,
        lambda: lib.fgd_compress_sketch_cells(len(sums)), (sums, body))
    if mode != PLAIN:
        run(lambda job: lib.fgd_compress_sketch_memory(v, own, mode, rows, cols, place, job), threads,
            lambda: lib.fgd_compress_sketch_tickets(n), keep)
    return int(rows)


def unit_exponent(largest: float, n: int) -> int:
    """The exponent of what the sums count: n magnitudes of at most `largest` stay below 2^62 of it."""
    exponent = math.frexp(largest)[1] if math.isfinite(largest) else 128
    return exponent - min(50, 62 - n.bit_length())


def _segments(n: int, cells: int, groups: int, threads: int) -> int:
    """Parts of the coordinates that threads work on apart, where the rows are too few for all."""
    if threads == 1 or groups >= 4 * threads or 8 * cells > _OWN:
        return 1
    return max(1, min(-(-4 * threads // groups), n // max(_SEGMENT, 4 * cells)))
