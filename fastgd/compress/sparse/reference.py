"""The oracle of TopK, Threshold and RandK: plain NumPy, whole arrays. Shares no code with the kernels.

Signatures as in `cpu.py`. Float32 arithmetic is that of docs/wire.md, one rounding an operation.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from ...random.reference import hash32
from ..state import DIFFERENCE, FEEDBACK, State, Stream, Vector

_BUCKET = 512
_LARGEST = float(np.finfo(np.float32).max)


def topk(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    """k largest |p|, the lower index first among equals; indices ascending, then values or steps and codes."""
    p = _input(x, state, mode)
    k = codec.kept(len(p))
    index = np.sort(np.argsort(-_keys(p).astype(np.int64), kind="stable")[:k])
    values = p[index]
    if codec.bits == 32:
        _write(body, index.astype("<u4"), values)
        _remember(state, mode, p, index, values)
    else:
        steps, codes = _quantised(values)
        _write(body, index.astype("<u4"), steps, codes)
        _remember(state, mode, p, index, _dequantised(steps, codes))
    return k


def threshold(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    """All |p| >= value."""
    p = _input(x, state, mode)
    index = np.flatnonzero(np.abs(p) >= np.float32(codec.value))
    _write(body, index.astype("<u4"), p[index])
    _remember(state, mode, p, index, p[index])
    return len(index)


def randk(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    """p at pi(0) .. pi(k - 1)."""
    p = _input(x, state, mode)
    k = codec.kept(len(p))
    index = permutation(len(p), k, stream.seed, stream.step)
    values = p[index]
    if codec.scaled and k:
        values = np.clip(values.astype(np.float64) * (len(p) / k), -_LARGEST, _LARGEST).astype(np.float32)
    body[:16] = np.frombuffer(struct.pack("<QII", stream.seed, stream.step, 0), np.uint8)
    _write(body[16:], values)
    _remember(state, mode, p, index, values)
    return k


def permutation(n: int, k: int, seed: int, step: int) -> np.ndarray:
    """pi(0) .. pi(k - 1): a Feistel network of 8 rounds on pairs (l, r), walked on until l b + r is below n."""
    b = max(8, math.isqrt(max(n - 1, 0)) + 1)
    a = max(8, -(-n // b))
    tables = [hash32(seed, step, t << 32, (b, a)[t % 2]).astype(np.uint64) * np.uint64((a, b)[t % 2]) >> np.uint64(32)
              for t in range(8)]
    left, right = np.divmod(np.arange(k, dtype=np.uint64), np.uint64(b))
    walking = np.ones(k, bool)
    while walking.any():
        u, v = left[walking], right[walking]
        for t in range(8):
            if t % 2 == 0:
                u = (u + tables[t][v]) % np.uint64(a)
            else:
                v = (v + tables[t][u]) % np.uint64(b)
        left[walking], right[walking] = u, v
        walking = left * np.uint64(b) + right >= n
    return (left * np.uint64(b) + right).astype(np.int64)


# -------------------------------------------------------------------------------------------------------------- decoding


def decode_topk(codec: Any, header: Any, body: np.ndarray) -> np.ndarray:
    k = header.a
    index = _indices(body, k, header.n)
    if codec.bits == 32:
        values = _finite(body[4 * k :])
    else:
        buckets = -(-k // _BUCKET)
        steps = np.frombuffer(body[4 * k : 4 * (k + buckets)].tobytes(), "<f4")
        codes = body[4 * (k + buckets) :].view(np.int8)
        if np.signbit(steps).any() or not np.isfinite(_times_127(steps)).all():
            raise ValueError("a step is negative or too large")
        if np.any(codes == -128) or codes[np.repeat(steps, _BUCKET)[:k] == 0].any():
            raise ValueError("a code does not exist")
        values = _dequantised(steps, codes)
    return _scattered(header.n, index, values)


def decode_threshold(codec: Any, header: Any, body: np.ndarray) -> np.ndarray:
    k = header.a
    return _scattered(header.n, _indices(body, k, header.n), _finite(body[4 * k :]))


def decode_randk(codec: Any, header: Any, body: np.ndarray) -> np.ndarray:
    seed, step, zero = struct.unpack("<QII", body[:16].tobytes())
    if zero:
        raise ValueError("bits are set beyond the step")
    return _scattered(header.n, permutation(header.n, header.a, seed, step), _finite(body[16:]))


def _indices(body: np.ndarray, k: int, n: int) -> np.ndarray:
    index = np.frombuffer(body[: 4 * k].tobytes(), "<u4").astype(np.int64)
    if np.any(np.diff(index) <= 0) or np.any(index >= n):
        raise ValueError("indices are not ascending or not below n")
    return index


def _finite(body: np.ndarray) -> np.ndarray:
    values = np.frombuffer(body.tobytes(), "<f4")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    return values


def _scattered(n: int, index: np.ndarray, values: np.ndarray) -> np.ndarray:
    c = np.zeros(n, np.float32)
    c[index] = values
    return c


# -------------------------------------------------------------------------------------------------------------- encoding


def _input(x: Vector, state: State, mode: int) -> np.ndarray:
    """p in float32."""
    data, memory = np.asarray(x.data), np.asarray(state.memory)
    g = (data.astype(np.uint32) << np.uint32(16)).view(np.float32) if x.dtype == "bfloat16" else data.astype(np.float32)
    if mode == FEEDBACK:
        return np.asarray(memory + g)
    return np.asarray(g - memory) if mode == DIFFERENCE else g


def _remember(state: State, mode: int, p: np.ndarray, index: np.ndarray, values: np.ndarray) -> None:
    """memory = p - c, or memory += c; c is 0 outside of `index`."""
    memory = np.asarray(state.memory)
    if mode == FEEDBACK:
        memory[:] = p
        memory[index] = p[index] - values
    elif mode == DIFFERENCE:
        memory[index] += values


def _keys(p: np.ndarray) -> np.ndarray:
    return p.view(np.uint32) & np.uint32(0x7FFFFFFF)


def _write(body: np.ndarray, *parts: np.ndarray) -> None:
    at = 0
    for part in parts:
        body[at : at + part.nbytes] = part.view(np.uint8)
        at += part.nbytes


def _quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and codes as Int8's, buckets of 512."""
    steps, codes = [], [np.empty(0, np.int8)]
    for first in range(0, len(values), _BUCKET):
        x = values[first : first + _BUCKET]
        largest, levels = np.abs(x).max(), np.float32(127)
        step = largest / levels
        if np.isinf(_times_127(step)):
            step = np.nextafter(step, np.float32(0))
        h = np.float32(2.0**64 if largest < 2.0**-64 else 2.0**-64 if largest > 2.0**64 else 1)
        r = (x * h) * (levels / (largest * h)) if step else np.zeros_like(x)
        steps.append(step)
        codes.append(np.rint(r).astype(np.int8))
    return np.array(steps, np.float32), np.concatenate(codes)


def _times_127(steps: Any) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        return steps * np.float32(127)


def _dequantised(steps: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.float32) * np.repeat(steps, _BUCKET)[: len(codes)]
