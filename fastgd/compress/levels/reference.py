"""The oracle of the levels: plain NumPy, whole vectors, slow. Shares no code with the kernels.

Signatures as in `cpu.py`; `decode_<codec>` makes the vector of a body, or says why there is none. Every formula is the one of
docs/wire.md, in float32 where that says so.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ...random import reference as random
from ..codecs import FP8, QSGD, Int8, Natural, TernGrad
from ..state import DIFFERENCE, FEEDBACK, State, Stream, Vector
from ..wire import Header

_F = np.float32
_TINY, _HUGE = _F(2.0**-126), np.finfo(np.float32).max


def qsgd(codec: QSGD, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    p = _input(x, state, mode)
    top = [_norm(part) if codec.norm == "l2" else _largest(part) for part in _buckets(p, codec.bucket)]
    r, step, each = _divided(p, top, codec.bucket, codec.levels)
    code = _stochastic(r, stream)
    _remember(state, mode, p, code.astype(_F) * each)
    bits = (code[:, None] + codec.levels >> np.arange(codec.width)) & 1
    _write(body, step, np.packbits(bits.astype(np.uint8), bitorder="little"))
    return codec.bucket


def int8(codec: Int8, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    p = _input(x, state, mode)
    r, step, each = _divided(p, [_largest(part) for part in _buckets(p, codec.bucket)], codec.bucket, 127)
    code = _stochastic(r, stream) if codec.stochastic else np.rint(r).astype(np.int64)
    _remember(state, mode, p, code.astype(_F) * each)
    _write(body, step, code.astype(np.int8))
    return codec.bucket


def fp8(codec: FP8, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    p, values = _input(x, state, mode), fp8_values(codec.format)
    r, step, each = _divided(p, [_largest(part) for part in _buckets(p, codec.bucket)], codec.bucket, values[-1])
    code = _nearest(np.abs(r), values) | np.where(np.signbit(r) & (each > 0), 128, 0)
    _remember(state, mode, p, _signed(values, code) * each)
    _write(body, step, code.astype(np.uint8))
    return codec.bucket


def terngrad(codec: TernGrad, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    p = _input(x, state, mode)
    r, _, scale = _divided(p, [_largest(p)], max(len(p), 1), 1)
    taken = _drawn(stream, len(p)) < _fine(np.abs(r))
    code = np.where(taken, np.where(p < 0, 2, 1), 0)
    _remember(state, mode, p, np.array([0, 1, -1], _F)[code] * scale)
    bits = (code[:, None] >> np.arange(2)) & 1
    _write(body, np.array([_largest(p)], _F), np.packbits(bits.astype(np.uint8), bitorder="little"))
    return 0


def natural(codec: Natural, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    p = _input(x, state, mode)
    bits = p.view(np.uint32)
    up = (bits & 0x7FFFFF) > (_words(stream, len(p)) >> np.uint32(9))
    exponent = np.minimum((bits >> np.uint32(23) & 255) + up, 254)
    negative = (p < 0) & (exponent > 0)
    _remember(state, mode, p, _power(exponent, negative))
    _write(body, exponent.astype(np.uint8), np.packbits(negative, bitorder="little"))
    return 0


# ---------------------------------------------------------------------------------------------------- decoding


def decode_qsgd(codec: QSGD, header: Header, body: np.ndarray) -> np.ndarray:
    each, rest = _steps(header.n, codec.bucket, codec.levels, body)
    code = _unpack(rest, header.n, codec.width) - codec.levels
    _refuse(code > codec.levels, "a code that does not exist")
    _refuse((code != 0) & (each == 0), "a code that is not 0 where the step is")
    return code.astype(_F) * each


def decode_int8(codec: Int8, header: Header, body: np.ndarray) -> np.ndarray:
    each, rest = _steps(header.n, codec.bucket, 127, body)
    code = rest.view(np.int8)
    _refuse(code == -128, "the code -128")
    _refuse((code != 0) & (each == 0), "a code that is not 0 where the step is")
    return code.astype(_F) * each


def decode_fp8(codec: FP8, header: Header, body: np.ndarray) -> np.ndarray:
    values = fp8_values(codec.format)
    each, code = _steps(header.n, codec.bucket, values[-1], body)
    _refuse((code & 127) >= len(values), "a code of Inf or NaN")
    _refuse((code != 0) & (each == 0), "a code that is not 0 where the step is")
    return _signed(values, code) * each


def decode_terngrad(codec: TernGrad, header: Header, body: np.ndarray) -> np.ndarray:
    scale, rest = _steps(1, 1, 1, body)
    code = _unpack(rest, header.n, 2)
    _refuse(code == 3, "the code 3")
    _refuse((code != 0) & (scale == 0), "a code that is not 0 where the scale is")
    return np.array([0, 1, -1], _F)[code] * scale


def decode_natural(codec: Natural, header: Header, body: np.ndarray) -> np.ndarray:
    exponent, negative = body[: header.n].astype(np.int64), _unpack(body[header.n :], header.n, 1)
    _refuse(exponent == 255, "the exponent 255")
    _refuse((negative == 1) & (exponent == 0), "a sign of 0")
    return _power(exponent, negative == 1)


# ---------------------------------------------------------------------------------------------------- formulas


def _input(x: Vector, state: State, mode: int) -> np.ndarray:
    """p: x, memory + x, or x - memory."""
    wide = (x.data.astype(np.uint32) << 16).view(_F) if x.dtype == "bfloat16" else x.data.astype(_F)
    if state.memory is None or mode not in (FEEDBACK, DIFFERENCE):
        return wide
    return state.memory + wide if mode == FEEDBACK else wide - state.memory


def _remember(state: State, mode: int, p: np.ndarray, c: np.ndarray) -> None:
    """The memory afterwards: p - c, or memory + c."""
    if state.memory is not None and mode in (FEEDBACK, DIFFERENCE):
        state.memory[:] = p - c if mode == FEEDBACK else state.memory + c


def _buckets(p: np.ndarray, bucket: int) -> list[np.ndarray]:
    return [p[lo : lo + bucket] for lo in range(0, len(p), bucket)]


def _largest(part: np.ndarray) -> np.float32:
    return _F(np.abs(part).max(initial=0.0))


def _norm(part: np.ndarray) -> np.float32:
    """Squares in double, 32 lanes, folded in halves."""
    rows = np.zeros((-(-len(part) // 32), 32))
    rows.ravel()[: len(part)] = part.astype(np.float64) ** 2
    lanes = np.zeros(32)
    for row in rows:
        lanes = lanes + row
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    with np.errstate(over="ignore"):
        return _F(max(min(_F(np.sqrt(lanes[0])), _HUGE), _largest(part)))


def _divided(p: np.ndarray, top: list[np.float32], bucket: int, levels: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r, which is at most `levels` in magnitude; each bucket's step; each coordinate's step."""
    measure, most = np.array(top, _F), _F(levels)
    with np.errstate(all="ignore"):
        step = measure / most
        step = np.where(np.isinf(step * most), np.nextafter(step, _F(0)), step)
        step = np.where((step < _TINY) & (step * most < measure), np.nextafter(step, _F(1)), step)
        before = np.where(step < _F(2.0**-100), _F(2.0**64), np.where(step > _F(2.0**126), _F(2.0**-64), _F(1)))
        inverse = np.where(step > 0, _F(1) / (step * before), _F(0))
        while np.any(beyond := measure * before * inverse > most):
            inverse = np.where(beyond, np.nextafter(inverse, _F(0)), inverse)
        each = [np.repeat(values, bucket)[: len(p)] for values in (before, inverse, step)]
    return p * each[0] * each[1], step, each[2]


def _words(stream: Stream, n: int) -> np.ndarray:
    """Sixteen hashes serve 32 coordinates: as they are, then with their halves exchanged."""
    hashes = random.hash32(stream.rounding, stream.step, 0, 16 * -(-n // 32)).reshape(-1, 1, 16)
    return np.concatenate([hashes, hashes << np.uint32(16) | hashes >> np.uint32(16)], axis=1).ravel()[:n]


def _drawn(stream: Stream, n: int) -> np.ndarray:
    return (_words(stream, n) >> np.uint32(8)).astype(np.int64)


def _fine(r: np.ndarray) -> np.ndarray:
    """With 24 bits behind the point."""
    return np.rint(r.astype(np.float64) * 2.0**24).astype(np.int64)


def _stochastic(r: np.ndarray, stream: Stream) -> np.ndarray:
    return (_fine(r) + _drawn(stream, len(r))) >> 24


@cache
def fp8_values(format: str) -> np.ndarray:
    """What the codes 0, 1, .. stand for, up to the largest finite one."""
    fraction, bias, last = (2, 15, 0x7B) if format == "e5m2" else (3, 7, 0x7E)
    code = np.arange(last + 1)
    exponent, digits = code >> fraction, code & (1 << fraction) - 1
    normal = 2.0 ** (exponent - bias) * (1 + digits / 2**fraction)
    return np.where(exponent == 0, 2.0 ** (1 - bias) * digits / 2**fraction, normal).astype(_F)


def _nearest(size: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The codes of the nearest values; between two of them the even one."""
    middle = (values[:-1].astype(np.float64) + values[1:]) / 2
    code = np.searchsorted(middle, size, side="left")
    at = np.minimum(code, len(middle) - 1)
    return code + ((size == middle[at]) & (code < len(middle)) & (code % 2 == 1))


def _signed(values: np.ndarray, code: np.ndarray) -> np.ndarray:
    return np.where(code & 128, -values[code & 127], values[code & 127])


def _power(exponent: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """2^(exponent - 127) with its sign; 0 for exponent 0."""
    value = np.where(exponent > 0, np.ldexp(1.0, exponent.astype(np.int64) - 127), 0.0).astype(_F)
    return np.where(negative, -value, value)


# ---------------------------------------------------------------------------------------------------- bytes


def _write(body: np.ndarray, *parts: np.ndarray) -> None:
    data = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    body[: len(data)] = np.frombuffer(data, np.uint8)


def _steps(n: int, bucket: int, levels: float, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each coordinate's step, and the rest of the body."""
    end = 4 * -(-n // bucket)
    step = np.frombuffer(body[:end].tobytes(), "<f4")
    with np.errstate(all="ignore"):
        _refuse(np.signbit(step) | ~np.isfinite(step) | ~np.isfinite(step * _F(levels)), "a step that no encoder writes")
    return np.repeat(step, bucket)[:n], body[end:]


def _unpack(packed: np.ndarray, n: int, width: int) -> np.ndarray:
    bits = np.unpackbits(packed, bitorder="little").astype(np.int64)
    _refuse(bits[n * width :] == 1, "bits beyond the last coordinate")
    return bits[: n * width].reshape(n, width) @ (1 << np.arange(width))


def _refuse(wrong: np.ndarray, what: str) -> None:
    if np.any(wrong):
        raise ValueError(f"the body holds {what}")
