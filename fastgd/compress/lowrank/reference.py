"""The oracle of PowerSGD: plain NumPy with the sums of docs/wire.md, float32 and double where it says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...random import reference as random
from ..state import FEEDBACK, PLAIN, State, Stream, Vector
from ..wire import Header

_CHUNK, _LANES, _ROWS, _EIGHT = 1024, 16, 64, 8  # of a row, its lanes; rows of a partial sum; lanes of a column
_DRAWS, _MOST_RANK = 8, 64
_DEAD, _DEAD_WARM = 2.0**-46, np.float32(2.0**-20)


def powersgd(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    """P = orth(M Q), Q' = M'P, c = P Q'^T."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        g = (x.data.astype(np.uint32) << np.uint32(16)).view(np.float32) if x.dtype == "bfloat16" else x.data.astype(np.float32)
        p = g if mode == PLAIN else state.memory + g if mode == FEEDBACK else g - state.memory
        matrix = p.reshape(codec.shape)
        peak = np.abs(p).max()
        unit = np.float32(2.0**64 if 0 < peak < 2.0**-64 else 2.0**-64 if peak > 2.0**64 else 1.0)
        q = _start(codec, None if mode == PLAIN else state.extra.get("right"), stream)
        left = _orthonormal(_row_products(matrix * unit, q), stream).astype(np.float32)
        right = _limited(_column_sums(matrix * unit, left) / np.float64(unit), codec.rank)
        body[: 4 * (left.size + right.size)] = np.concatenate([left.ravel(), right.ravel()]).astype("<f4").view(np.uint8)
        if mode != PLAIN and state.memory is not None:
            c = _product(left, right)
            state.memory[...] = p - c if mode == FEEDBACK else state.memory + c
            state.extra["right"] = right
    return int(codec.rank)


def decode_powersgd(codec: Any, header: Header, body: np.ndarray) -> np.ndarray:
    split = header.n // header.b * header.a
    values = body.copy().view("<f4").astype(np.float32)
    left, right = values[:split].reshape(-1, header.a), values[split:].reshape(-1, header.a)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.add.accumulate(left.astype(np.float64) ** 2, axis=1)[:, -1]
        if not (lengths <= 1.0 + 2.0**-10).all() or not (np.abs(right) <= _most(header.a)).all():
            raise ValueError("the payload's body holds factors that are not finite or too large: no encoder writes that")
    return _product(left, right)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """c_ij = (P_i0 Q'_j0 + P_i1 Q'_j1) + .., flat."""
    c: np.ndarray = left[:, None, 0] * right[None, :, 0]
    for k in range(1, left.shape[1]):
        c += left[:, None, k] * right[None, :, k]
    return c.ravel()


def _most(rank: int) -> float:
    """2^127 / sqrt(rank), sqrt(rank) rounded up to a power of two."""
    return float(2.0 ** (127 - -(-((rank - 1).bit_length()) // 2)))


def _limited(values: np.ndarray, rank: int) -> np.ndarray:
    most = _most(rank)
    return np.where(values > most, most, np.where(values >= -most, values, -most)).astype(np.float32)


def _centred(seed: int, step: int, start: int, size: int) -> np.ndarray:
    """(2 (hash >> 8) + 1 - 2^24) 2^-24."""
    words = random.hash32(seed, step, start, size)
    return ((2.0 * (words >> np.uint32(8)) + 1.0 - 2.0**24) * 2.0**-24).astype(np.float32)


def _start(codec: Any, warm: np.ndarray | None, stream: Stream) -> np.ndarray:
    """Q: the last right factor with columns of magnitude [1, 2), or where such a column vanishes, drawn."""
    q = _centred(stream.seed, stream.step, 0, codec.shape[1] * codec.rank).reshape(codec.shape[1], codec.rank)
    if warm is None:
        return q
    peak = np.abs(warm).max(axis=0)
    most = max([v for v in peak if np.isfinite(v)], default=np.float32(0))
    for k in range(codec.rank):
        if np.isfinite(peak[k]) and peak[k] > 0 and peak[k] >= _DEAD_WARM * most:
            q[:, k] = np.ldexp(warm[:, k].astype(np.float64), 1 - int(np.frexp(float(peak[k]))[1]))
    return q


def _row_products(y: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Y Q: chunks of a row in 16 float32 lanes, folded and added in double."""
    (rows, columns), total = y.shape, np.zeros((len(y), q.shape[1]))
    for at in range(0, columns, _CHUNK):
        lane = np.zeros((rows, q.shape[1], _LANES), np.float32)
        for j in range(at, min(at + _CHUNK, columns), _LANES):
            part = np.arange(j, min(j + _LANES, columns, at + _CHUNK))
            lane[:, :, : len(part)] += y[:, None, part] * q.T[None, :, part]
        total += _fold(lane.astype(np.float64))
    return total


def _column_sums(y: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Y'P: 64 rows at a time in float32, those sums in double."""
    blocks = -(-len(y) // _ROWS)
    y = np.pad(y, ((0, blocks * _ROWS - len(y)), (0, 0))).reshape(blocks, _ROWS, -1, 1)
    left = np.pad(left, ((0, blocks * _ROWS - len(left)), (0, 0))).reshape(blocks, _ROWS, 1, -1)
    sums = np.zeros((blocks, y.shape[2], left.shape[3]), np.float32)
    for i in range(_ROWS):
        sums += left[:, i] * y[:, i]
    total: np.ndarray = np.add.accumulate(sums.astype(np.float64), axis=0)[-1]
    return total


def _orthonormal(columns: np.ndarray, stream: Stream) -> np.ndarray:
    """Gram-Schmidt, each column twice against all before it; one that vanishes is drawn."""
    rows, rank = columns.shape
    u = np.zeros((rank, rows))
    for k in range(rank):
        for draw in range(_DRAWS + 1):
            v = _centred(stream.seed, stream.step, (1 + _MOST_RANK * (draw - 1) + k) << 40, rows) if draw else columns[:, k]
            v = v.astype(np.float64)
            before = _dot(v, v)
            for _ in range(2):
                products = [_dot(u[m], v) for m in range(k)]
                for m in range(k):
                    v = v - products[m] * u[m]
            after = _dot(v, v)
            if 0.0 < before < np.inf and after >= _DEAD * before:
                u[k] = v / np.sqrt(after)
                break
    return u.T


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """In 8 lanes of doubles, folded in halves."""
    products = np.zeros(-(-len(a) // _EIGHT) * _EIGHT)
    products[: len(a)] = a * b
    return float(_fold(np.add.accumulate(products.reshape(-1, _EIGHT), axis=0)[-1]))


def _fold(lane: np.ndarray) -> np.ndarray:
    """Lane l adds lane l + half, until one is left."""
    while lane.shape[-1] > 1:
        half = lane.shape[-1] // 2
        lane = lane[..., :half] + lane[..., half:]
    return lane[..., 0]
