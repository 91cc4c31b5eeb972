"""The oracle of the room: plain NumPy in whole arrays of uint64 and float64, slow. Shares no code with the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_WHOLE = 1 << 64


def _words(seed: int, step: int, start: int, size: int, stream: int) -> np.ndarray:
    """W_stream[start .. start + size - 1], as uint64."""
    first = start // 4
    block = np.uint64(first) + np.arange((start + size + 3) // 4 - first, dtype=np.uint64)
    c = [block & _LOW, block >> _32, np.full_like(block, step), np.full_like(block, stream)]
    key = [seed % 2**32, seed // 2**32]
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> _32) ^ c[1] ^ np.uint64(key[0]), b & _LOW, (a >> _32) ^ c[3] ^ np.uint64(key[1]), a & _LOW]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return np.stack(c, axis=1).ravel()[start - 4 * first :][:size]


def bits32(seed: int, step: int, start: int, size: int, threads: int = 1) -> np.ndarray:
    """W_0[i]."""
    return _words(seed, step, start, size, 0).astype(np.uint32)


def uniform(seed: int, step: int, start: int, size: int, threads: int = 1) -> np.ndarray:
    """(W_0[i] >> 8) / 2^24."""
    return ((_words(seed, step, start, size, 0) >> np.uint64(8)) / 2.0**24).astype(np.float32)


def rademacher(seed: int, step: int, start: int, size: int, threads: int = 1) -> np.ndarray:
    """1 - 2 (bit i mod 32 of W_1[i div 32])."""
    first = start // 32
    words = _words(seed, step, first, (start + size + 31) // 32 - first, 1)
    bits = (words[:, None] >> np.arange(32, dtype=np.uint64)) & np.uint64(1)
    return (1.0 - 2.0 * bits.ravel()[start - 32 * first :][:size]).astype(np.float32)


def normal(seed: int, step: int, start: int, size: int, threads: int = 1) -> np.ndarray:
    """Box-Muller in float64, rounded once."""
    return normal64(seed, step, start, size).astype(np.float32)


def normal64(seed: int, step: int, start: int, size: int) -> np.ndarray:
    """The value that `normal` rounds."""
    first = start // 2 * 2
    words = _words(seed, step, first, (start + size + 1) // 2 * 2 - first, 2)
    return box_muller(words[0::2], words[1::2]).ravel()[start - first :][:size]


def box_muller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, 2): sqrt(-2 ln u) times the cosine and the sine of 2 pi b / 2^32."""
    u = np.where(a == 0, 0.5, a.astype(np.float32).astype(np.float64)) / 2.0**32
    radius = np.sqrt(-2.0 * np.log(u))
    # cos(2 pi b / 2^32) loses digits near its zeros, as 2 pi does: turn to the nearest quarter, in integers.
    quarter = (b.astype(np.int64) + 2**29) >> 30
    angle = (b.astype(np.int64) - (quarter << 30)) * (2.0 * np.pi / 2.0**32)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    turns = [(x, y), (-y, x), (-x, -y), (y, -x)]
    return np.stack([np.choose(quarter % 4, [turn[part] for turn in turns]) for part in range(2)], axis=1)


def _finaliser(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _WHOLE
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _WHOLE
    return z ^ (z >> 31)


def _mix(x: np.ndarray, inner: np.ndarray) -> np.ndarray:
    x = (((x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D)) & _LOW) ^ inner
    x = ((x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B)) & _LOW
    return x ^ (x >> np.uint64(16))


def hash32(seed: int, step: int, start: int, size: int, threads: int = 1) -> np.ndarray:
    """The keyed mix of i."""
    key = _finaliser((_finaliser(seed) + (step + 1) * 0x9E3779B97F4A7C15) % _WHOLE)
    i = np.uint64(start) + np.arange(size, dtype=np.uint64)
    segment = _mix(i >> _32, np.zeros_like(i))
    inner = (np.uint64(key >> 32) + segment) & _LOW
    return _mix((i & _LOW) ^ np.uint64(key % 2**32) ^ segment, inner).astype(np.uint32)


def perturb_(x: Any, seed: int, step: int, scale: float, signs: bool, threads: int = 1) -> None:
    """x += scale * noise, rounded after the product and after the sum."""
    noise = (rademacher if signs else normal)(seed, step, 0, x.size)
    x += (x.dtype.type(scale) * noise.astype(x.dtype)).reshape(x.shape)
