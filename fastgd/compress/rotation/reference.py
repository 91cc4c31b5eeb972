"""The oracle of Drive: plain NumPy, all blocks of one size at a time, float32 where docs/wire.md says so."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ...random.reference import rademacher
from ..codecs import DRIVE_BLOCK
from ..common import LANES, codec_input, refuse, update_memory
from ..state import State, Stream, Vector
from ..wire import Header

LEVELS = {1: [1], 2: [464, 1547], 3: [251, 774, 1376, 2204], 4: [131, 397, 673, 965, 1286, 1657, 2119, 2798]}
_MOST = np.finfo(np.float32).max
_STREAM = 16


def hadamard(y: np.ndarray) -> np.ndarray:
    """The transform of each row, not normalised: twice gives the row times its length."""
    rows, size = y.shape
    d = 1
    while d < size:
        a, b = np.moveaxis(y.reshape(rows, -1, 2, d), 2, 0)
        y = np.stack([a + b, a - b], axis=2).reshape(rows, size)
        d *= 2
    return y


def drive(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    """Whole blocks together, then the last one."""
    p = codec_input(x, state, mode)
    signs = rademacher(stream.seed, stream.step, 0, len(p))
    scales, codes = [np.zeros(0, np.float32)], [b""]
    for part in _parts(len(p)):
        size = _padded(part)
        blocks, turned = (np.zeros(size, np.float32) for _ in range(2))
        blocks[: part.stop - part.start], turned[: part.stop - part.start] = p[part], signs[part]
        shape = -1, min(size, DRIVE_BLOCK)
        with np.errstate(all="ignore"):
            scale, code = _encode(blocks.reshape(shape), turned.reshape(shape), codec.bits, codec.unbiased)
        scales.append(scale)
        codes += [_pack(block, codec.bits) for block in code]
    data = struct.pack("<QII", stream.seed, stream.step, 0) + np.concatenate(scales).astype("<f4").tobytes() + b"".join(codes)
    body[: len(data)] = np.frombuffer(data, np.uint8)
    update_memory(state, mode, p, _decode(data, len(p), codec.bits))
    return int(codec.bits)


def decode_drive(codec: Any, header: Header, body: np.ndarray) -> np.ndarray:
    return _decode(body.tobytes(), header.n, codec.bits)


def _encode(x: np.ndarray, signs: np.ndarray, bits: int, unbiased: bool) -> tuple[np.ndarray, np.ndarray]:
    """A scale for each row, and codes."""
    size = x.shape[1]
    levels = np.array(LEVELS[bits], np.float32)
    most = np.abs(x).max(axis=1)
    exponent = np.clip(np.frexp(most)[1] - 1, -126, 126)
    power = np.ldexp(1.0, exponent)
    y = hadamard(x * np.ldexp(np.float32(1), -exponent)[:, None] * signs)
    norm = _lane_sums(x.astype(np.float64) ** 2) * np.ldexp(1.0, -2 * exponent)
    sigma = np.sqrt(norm).astype(np.float32)
    thresholds = (levels[1:] + levels[:-1]) / np.float32(2048)
    count = (np.abs(y)[:, :, None] >= sigma[:, None, None] * thresholds).sum(axis=2)
    q = levels[count]
    along, square = _lane_sums((np.abs(y) * q).astype(np.float64)), (q.astype(np.float64) ** 2).sum(axis=1)
    scale = power * (norm / along if unbiased else along / (size * square))
    scale = np.where(most > 0, np.minimum(scale, _MOST), 0.0).astype(np.float32)
    codes = np.where(scale[:, None] > 0, (y < 0) * (1 << (bits - 1)) + count, 0)
    return scale, codes


def _decode(data: bytes, n: int, bits: int) -> np.ndarray:
    blocks = -(-n // DRIVE_BLOCK)
    seed, step, zero = struct.unpack_from("<QII", data)
    scales = np.frombuffer(data, "<f4", blocks, _STREAM)
    refuse(zero != 0, "has a stream that does not end in zero")
    refuse(not np.isfinite(scales).all() or bool(np.signbit(scales).any()), "has a scale that is negative or not finite")
    signs = rademacher(seed, step, 0, n)
    c, at, levels = [np.zeros(0, np.float32)], _STREAM + 4 * blocks, np.array(LEVELS[bits], np.float32)
    for part in _parts(n):
        size, first = min(_padded(part), DRIVE_BLOCK), part.start // DRIVE_BLOCK
        rows = _padded(part) // size
        code = np.stack([_unpack(data[at + j * (size * bits // 8) :], size, bits) for j in range(rows)])
        at += rows * (size * bits // 8)
        scale = scales[first : first + rows, None]
        refuse(bool(code[scale[:, 0] == 0].any()), "has codes where the scale is zero")
        half = 1 << (bits - 1)
        w = hadamard(np.where(code >= half, -levels[code % half], levels[code % half]))
        with np.errstate(over="ignore"):
            values = np.clip(w * scale, -_MOST, _MOST).ravel()[: part.stop - part.start] * signs[part]
        c.append(np.where(np.repeat(scale[:, 0], size)[: len(values)] == 0, np.float32(0), values))
    return np.concatenate(c)


def _parts(n: int) -> list[slice]:
    """The whole blocks and what is left, where there are such."""
    whole = n // DRIVE_BLOCK * DRIVE_BLOCK
    return [part for part in (slice(0, whole), slice(whole, n)) if part.start < part.stop]


def _padded(part: slice) -> int:
    length = part.stop - part.start
    return length if length % DRIVE_BLOCK == 0 else 1 << (length - 1).bit_length()


def _pack(codes: np.ndarray, bits: int) -> bytes:
    """Run k holds bit k of all codes."""
    runs = [(codes >> k) & 1 for k in range(bits)]
    return np.packbits(np.concatenate(runs).astype(np.uint8), bitorder="little").tobytes()


def _unpack(data: bytes, size: int, bits: int) -> np.ndarray:
    flat = np.unpackbits(np.frombuffer(data, np.uint8, -(-size * bits // 8)), bitorder="little").astype(np.int64)
    refuse(bool(flat[size * bits :].any()), "has bits set beyond the last coordinate")
    runs = flat[: size * bits].reshape(bits, size)
    return (runs << np.arange(bits)[:, None]).sum(axis=0)


def _lane_sums(values: np.ndarray) -> np.ndarray:
    """Each row's sum in the lanes of a bucket."""
    rows, size = values.shape
    padded = np.zeros((rows, -(-size // LANES), LANES))
    padded.reshape(rows, -1)[:, :size] = values
    lane = np.zeros((rows, LANES))
    for k in range(padded.shape[1]):
        lane += padded[:, k]
    while lane.shape[1] > 1:
        half = lane.shape[1] // 2
        lane = lane[:, :half] + lane[:, half:]
    return lane[:, 0]
