"""The CPU kernels' front: hands csrc/compress_signs.c memory and a job, and splits the work. Signatures as in `reference.py`.

In feedback mode the memory keeps the last p, and `state.extra` what is to be taken from it, one value for each side of
zero: the scale is known only after the pass, and the next pass over the memory subtracts it on its way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._native import ffi, lib
from ..calls import BYTES, FLOATS, null_or, run, vector
from ..state import DIFFERENCE, FEEDBACK, State, Stream, Vector

_DOUBLES = ffi.typeof("double[]")


def sign(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    sums = _signs(x, state, mode, body[4:], 0, threads)
    scale = np.float32(_total(sums[0]) / max(len(x.data), 1))
    _finish(state, mode, body, [scale], scale, -scale, len(x.data), threads)
    return 0


def onebit(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    n = len(x.data)
    sums = _signs(x, state, mode, body[8:], 1, threads)
    below = int(sums[2].sum())
    upper = np.float32(_total(sums[1]) / max(n - below, 1))
    lower = np.float32(0.0) - np.float32(_total(sums[0]) / max(below, 1))
    _finish(state, mode, body, [upper, lower], upper, lower, n, threads)
    return 0


def settle(codec: Any, state: State) -> None:
    """Take from the memory what the last step left to be taken."""
    if state.extra and state.memory is not None:
        upper, lower = np.float32(state.extra.pop("upper")), np.float32(state.extra.pop("lower"))
        state.memory -= np.where(state.memory < 0, lower, upper)


def vote(bits: list[np.ndarray], n: int, out: np.ndarray, threads: int = 1) -> None:
    pointers = [ffi.from_buffer(BYTES, string) for string in bits]
    table, result = ffi.new("uint8_t *[]", pointers), ffi.from_buffer(BYTES, out)
    run(lambda j: lib.fgd_compress_vote(table, len(bits), n, result, j), threads, lib.fgd_compress_vote_tickets(n), pointers)


def _signs(x: Vector, state: State, mode: int, bits: np.ndarray, sides: int, threads: int) -> np.ndarray:
    """The bits and the memory; and for each chunk sums of magnitudes of the lower side (or all) and the upper, and how many are
    in the lower."""
    n = len(x.data)
    sums = np.zeros((3, -(-n // 2048)))
    if n == 0:
        return sums
    v, keep = vector(x)
    upper, lower = (state.extra.get(name, 0.0) for name in ("upper", "lower"))
    memory, place, numbers = null_or(FLOATS, state.memory), ffi.from_buffer(BYTES, bits), ffi.from_buffer(_DOUBLES, sums)
    run(lambda j: lib.fgd_compress_signs(v, memory, mode, upper, lower, place, numbers, sides, j), threads,
        lib.fgd_compress_signs_tickets(n), keep)
    return sums


def _total(sums: np.ndarray) -> float:
    sums = np.ascontiguousarray(sums)
    return lib.fgd_compress_total(ffi.from_buffer(_DOUBLES, sums), len(sums)) if len(sums) else 0.0


def _finish(state: State, mode: int, body: np.ndarray, scales: list[np.float32], upper: np.float32, lower: np.float32, n: int,
            threads: int) -> None:
    head = 4 * len(scales)
    body[:head] = np.array(scales, "<f4").view(np.uint8)
    if mode == FEEDBACK:
        state.extra.update(upper=float(upper), lower=float(lower))
    elif mode == DIFFERENCE and n:
        bits, memory = ffi.from_buffer(BYTES, body[head:]), ffi.from_buffer(FLOATS, state.memory)
        run(lambda j: lib.fgd_compress_add_bits(bits, n, upper, lower, memory, j), threads, lib.fgd_compress_signs_tickets(n),
            body)
