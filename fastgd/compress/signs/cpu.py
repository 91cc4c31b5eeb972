"""The CPU kernels' front: hands csrc/compress_signs.c memory and a job, and splits the work. Signatures as in `reference.py`.

In feedback mode the memory keeps the last p, and `state.extra` what is to be taken from it, one value for each side of
zero: the scale is known only after the pass, and the next pass over the memory subtracts it on its way.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ..._native import ffi, lib
from ..calls import BYTES, memory, new, pointer, run, vector
from ..state import DIFFERENCE, FEEDBACK, State, Stream, Vector

_DOUBLES, _STRINGS = ffi.typeof("double[]"), ffi.typeof("uint8_t *[]")
_ONE, _TWO = struct.Struct("<f"), struct.Struct("<2f")


def sign(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    place = _signs(x, state, mode, body, 0, threads)
    (scale,) = _ONE.unpack_from(body.data)
    _finish(x, state, mode, place + 4, scale, -scale, threads)
    return 0


def onebit(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    place = _signs(x, state, mode, body, 1, threads)
    upper, lower = _TWO.unpack_from(body.data)
    _finish(x, state, mode, place + 8, upper, lower, threads)
    return 0


def settle(codec: Any, state: State) -> None:
    """Take from the memory what the last step left to be taken."""
    if state.extra and state.memory is not None:
        upper, lower = np.float32(state.extra.pop("upper")), np.float32(state.extra.pop("lower"))
        state.memory -= np.where(state.memory < 0, lower, upper)


def vote(bits: list[np.ndarray], n: int, out: np.ndarray, threads: int = 1) -> None:
    table, result = new(_STRINGS, [pointer(BYTES, string) for string in bits]), pointer(BYTES, out)
    run(lambda job: lib.fgd_compress_vote(table, len(bits), n, result, job), threads, lambda: lib.fgd_compress_vote_tickets(n),
        (bits, table, out))


def _signs(x: Vector, state: State, mode: int, body: np.ndarray, sides: int, threads: int) -> Any:
    """The scales, the bits and the memory; a pointer to the body. Sums of magnitudes go chunk by chunk: of the lower side (or of
    all), of the upper, and how many are in the lower."""
    v, own, place, last, n = vector(x), memory(state, mode), pointer(BYTES, body), state.extra, len(x.data)
    upper, lower = (last["upper"], last["lower"]) if last else (0.0, 0.0)
    sums, bits = new(_DOUBLES, 3 * -(-n // 2048)), place + (8 if sides else 4)
    run(lambda job: lib.fgd_compress_signs(v, own, mode, upper, lower, bits, sums, sides, job), threads,
        lambda: lib.fgd_compress_signs_tickets(n), (x, state, body, sums))
    lib.fgd_compress_scales(sums, n, sides, place)
    return place


def _finish(x: Vector, state: State, mode: int, bits: Any, upper: float, lower: float, threads: int) -> None:
    """FEEDBACK: what the next step takes from the memory. DIFFERENCE: c is added to it."""
    if mode == FEEDBACK:
        state.extra["upper"], state.extra["lower"] = upper, lower
    elif mode == DIFFERENCE:
        n, own = len(x.data), memory(state, mode)
        run(lambda job: lib.fgd_compress_add_bits(bits, n, upper, lower, own, job), threads,
            lambda: lib.fgd_compress_signs_tickets(n), (bits, state))
