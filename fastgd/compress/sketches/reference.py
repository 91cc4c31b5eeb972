"""The oracle of CountSketch: plain NumPy with int64 sums."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ...random.reference import hash32
from ..common import codec_input, refuse, update_memory
from ..state import State, Stream, Vector
from ..wire import Header

_MOST = np.finfo(np.float32).max
_STREAM, _MASK = 16, 2**64 - 1


def countsketch(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    """table[r, cell_r(i)] = sum of sign_r(i) x_i, each x_i rounded to a multiple of 2^e."""
    p = codec_input(x, state, mode)
    n = len(p)
    e = int(np.frexp(np.abs(p).max(initial=0.0))[1]) - min(50, 62 - n.bit_length())
    whole = np.rint(np.ldexp(p.astype(np.float64), -e)).astype(np.int64)
    table = np.zeros((codec.rows, codec.cols), np.int64)
    for r in range(codec.rows):
        cell, minus = _places(stream.seed, stream.step, r, n, codec.cols)
        np.add.at(table[r], cell, np.where(minus, -whole, whole))
    floats = np.clip(np.ldexp(table.astype(np.float64), e), -_MOST, _MOST).astype("<f4")
    data = struct.pack("<QII", stream.seed, stream.step, 0) + floats.tobytes()
    body[: len(data)] = np.frombuffer(data, np.uint8)
    update_memory(state, mode, p, _estimate(floats, stream.seed, stream.step, n))
    return int(codec.rows)


def decode_countsketch(codec: Any, header: Header, body: np.ndarray) -> np.ndarray:
    seed, step, zero = struct.unpack_from("<QII", body.tobytes())
    table = body[_STREAM:].copy().view("<f4").reshape(codec.rows, codec.cols)
    refuse(zero != 0, "has a stream that does not end in zero")
    refuse(not np.isfinite(table).all() or bool((np.signbit(table) & (table == 0)).any()), "has a cell that is not finite or -0")
    return _estimate(table, seed, step, header.n)


def _estimate(table: np.ndarray, seed: int, step: int, n: int) -> np.ndarray:
    """The median of the rows, half of each of the middle two where they are even."""
    rows, cols = table.shape
    values = np.zeros((rows, n), np.float32)
    for r in range(rows):
        cell, minus = _places(seed, step, r, n, cols)
        values[r] = np.where(minus, -table[r][cell], table[r][cell]) + np.float32(0)
    values.sort(axis=0)
    low, high = values[(rows - 1) // 2], values[rows // 2]
    return low if rows % 2 else np.float32(0.5) * low + np.float32(0.5) * high


def _places(seed: int, step: int, row: int, n: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Each coordinate's cell, and whether it is subtracted."""
    words = hash32((seed + _finaliser(row)) & _MASK, step, 0, n).astype(np.uint64)
    return ((words * np.uint64(cols)) >> np.uint64(32)).astype(np.int64), (words & np.uint64(1)).astype(np.bool_)


def _finaliser(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
