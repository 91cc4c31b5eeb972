"""The oracle of the one-bit codecs: plain NumPy, float32 where docs/wire.md says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..common import codec_input, refuse, total, unpack_bits, update_memory
from ..state import State, Stream, Vector
from ..wire import Header


def sign(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    """c_i = -s where p_i < 0, else s; s = sum |p_i| / n."""
    p = codec_input(x, state, mode)
    scale = np.float32(total(np.abs(p)) / max(len(p), 1))
    _write(body, [scale], p < 0)
    update_memory(state, mode, p, np.where(p < 0, -scale, scale))
    return 0


def onebit(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    """c_i is the mean of its side of zero."""
    p = codec_input(x, state, mode)
    below = p < 0
    means = [np.float32(total(np.where(side, np.abs(p), 0)) / max(int(side.sum()), 1)) for side in (~below, below)]
    upper, lower = means[0], np.float32(0.0) - means[1]
    _write(body, [upper, lower], below)
    update_memory(state, mode, p, np.where(below, lower, upper))
    return 0


def decode_sign(codec: Any, header: Header, body: np.ndarray) -> np.ndarray:
    scale = body[:4].copy().view("<f4")[0]
    refuse(not np.isfinite(scale) or bool(np.signbit(scale)), "has a scale that is negative or not finite")
    return np.where(unpack_bits(body[4:], header.n), -scale, scale)


def decode_onebit(codec: Any, header: Header, body: np.ndarray) -> np.ndarray:
    upper, lower = body[:8].copy().view("<f4")
    refuse(not (np.isfinite(upper) and np.isfinite(lower)) or bool(np.signbit(upper)), "has a mean on the wrong side of zero")
    refuse(bool(lower > 0) or bool(lower == 0 and np.signbit(lower)), "has a mean on the wrong side of zero")
    return np.where(unpack_bits(body[8:], header.n), lower, upper)


def vote(bits: list[np.ndarray], n: int, out: np.ndarray, threads: int = 1) -> None:
    """1 where more than half of the strings have a 1."""
    counts = sum(np.unpackbits(string, bitorder="little").astype(np.int64) for string in bits)
    out[...] = np.packbits(2 * counts > len(bits), bitorder="little")


def _write(body: np.ndarray, scales: list[np.float32], bits: np.ndarray) -> None:
    data = np.array(scales, "<f4").tobytes() + np.packbits(bits, bitorder="little").tobytes()
    body[: len(data)] = np.frombuffer(data, np.uint8)
