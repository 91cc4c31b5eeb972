"""One element at a time: the room's functions as plain Python over NumPy scalars, for Numba to compile (CPU, CUDA).

`functions(jit)` compiles one source with the given decorator: `njit_functions()` for Numba code on the CPU,
`fastgd.random.cuda` for its kernels. Decorated with nothing they run in Python, as the CUDA simulator does.

The arithmetic is written out so that every way of running it does the same: integers are uint64 holding 32-bit values
(Numba makes uint64 + literal a signed or even a floating number, so every constant is wrapped; products fit in 64 bits,
so NumPy has no overflow to warn of), and every float operation is float32 on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

_U, _F = np.uint64, np.float32
_LOW, _HEAD = _U(0xFFFFFFFF), np.uint32(0xFFFFF000)
_0, _1, _2, _3, _7, _8, _15, _16, _30, _31, _32 = (_U(n) for n in (0, 1, 2, 3, 7, 8, 15, 16, 30, 31, 32))
_M0, _M1, _W0, _W1 = _U(0xD2511F53), _U(0xCD9E8D57), _U(0x9E3779B9), _U(0xBB67AE85)
_MIX0, _MIX1 = _U(0x7FEB352D), _U(0x846CA68B)
_BITS, _SIGNS, _NORMAL = _U(0), _U(1), _U(2)

_EIGHTH_TURN, _QUARTER_MASK = _U(0x20000000), _U(0x3FFFFFFF)
_ZERO, _HALF, _ONE, _MINUS_ONE, _TINY, _STEP = _F(0), _F(0.5), _F(1), _F(-1), _F(1e-30), _F(2.0**-24)
_TWO_THIRDS, _MANTISSA = np.int32(0x3F2AAAAB), np.int32(0x7FFFFF)
_LN2_HEAD, _LN2_TAIL = _F(float.fromhex("0x1.62e4p-1")), _F(float.fromhex("0x1.7f7d1cp-20"))
_RADIAN_HEAD, _RADIAN_TAIL = _F(float.fromhex("0x1.92p-30")), _F(float.fromhex("0x1.fb5444p-42"))
# -ln(1 - x) = x + x^2 (1/2 + x L(x)) on |x| <= 1/3; sin y = y + y^3 S(y^2) and cos y = 1 - y^2/2 + y^4 C(y^2) on
# |y| <= pi/4: L, S and C are minimax, relative error below 2^-27.4.
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7 = (_F(float.fromhex(text)) for text in (
    "0x1.55550cp-2", "0x1.fffe5ep-3", "0x1.99ce42p-3", "0x1.55b7e8p-3", "0x1.1ef19cp-3", "0x1.f03c0ep-4",
    "0x1.1df344p-3", "0x1.0e2ad2p-3"))
_S0, _S1, _S2 = (_F(float.fromhex(text)) for text in ("-0x1.555546p-3", "0x1.110760p-7", "-0x1.994e88p-13"))
_C0, _C1, _C2 = (_F(float.fromhex(text)) for text in ("0x1.55554ap-5", "-0x1.6c0c8cp-10", "0x1.9a0232p-16"))

_WHOLE = 1 << 64


def philox(seed: Any, step: Any, stream: Any, block: Any) -> Any:
    c0, c1, c2, c3 = block & _LOW, block >> _32, step, stream
    k0, k1 = seed & _LOW, seed >> _32
    for _ in range(10):
        a, b = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (b >> _32) ^ c1 ^ k0, b & _LOW, (a >> _32) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def mix(x: Any, inner: Any) -> Any:
    x = (((x ^ (x >> _16)) * _MIX0) & _LOW) ^ inner
    x = ((x ^ (x >> _15)) * _MIX1) & _LOW
    return x ^ (x >> _16)


def hash32(key: Any, i: Any) -> Any:
    segment = mix(i >> _32, _0)
    return mix((i & _LOW) ^ (key & _LOW) ^ segment, ((key >> _32) + segment) & _LOW)


def to_uniform(word: Any) -> Any:
    return _F(np.uint32(word >> _8)) * _STEP


def to_sign(word: Any, bit: Any) -> Any:
    if (word >> bit) & _1 == _1:
        return _MINUS_ONE
    return _ONE


def head(x: Any) -> Any:
    """The upper 12 of 24 significant bits: the product of two such numbers is exact."""
    return np.uint32(_F(x).view(np.uint32) & _HEAD).view(np.float32)


def radius(word: Any) -> Any:
    """sqrt(-2 ln u) as head and tail, u = float32(word) / 2^32, half a step for 0.

    -ln u = count ln 2 - ln(mantissa), mantissa in [2/3, 4/3): for u near 1 count is 0 and nothing cancels. The root's
    tail comes from what its head's square, which is exact, leaves.
    """
    v = _HALF if word == _0 else _F(np.uint32(word))
    bits = np.int32(_F(v).view(np.int32) - _TWO_THIRDS)
    x = _ONE - np.int32((bits & _MANTISSA) + _TWO_THIRDS).view(np.float32)
    count = _F(np.int32(32) - (bits >> np.int32(23)))
    p = _L7 * x + _L6
    p = p * x + _L5
    p = p * x + _L4
    p = p * x + _L3
    p = p * x + _L2
    p = p * x + _L1
    p = p * x + _L0
    p = (p * x + _HALF) * (x * x)
    whole = count * _LN2_HEAD
    high = whole + x
    low = (x - (high - whole)) + (count * _LN2_TAIL + p)
    high += high
    low += low
    r = _F(math.sqrt(high + low))
    r_head = head(r)
    return r_head, ((high - r_head * r_head) + low) / ((r + r_head) + _TINY)


def to_normal(word: Any, turn: Any) -> Any:
    """r cos(angle), r sin(angle): every factor is a head and a tail, so little more than one rounding is left.

    The angle is measured from the nearest quarter turn, in integers, which is exact; the quarter then swaps and
    negates.
    """
    r_head, r_tail = radius(word)
    turned = (turn + _EIGHTH_TURN) & _LOW
    t = np.int32(np.int64(turned & _QUARTER_MASK) - np.int64(0x20000000))
    t_round = _F(t)
    t_head = head(t_round)
    t_tail = _F(np.int32(t - np.int32(t_head)))
    main = t_head * _RADIAN_HEAD
    rest = t_tail * _RADIAN_HEAD + t_round * _RADIAN_TAIL
    y = main + rest
    y_head = head(y)
    y_tail = (main - y_head) + rest
    z = y * y
    sine_tail = y_tail + (z * y) * ((z * _S2 + _S1) * z + _S0)
    square = y_head * (_HALF * y_head)
    cosine_head = head(_ONE - square)
    quartic = (z * z) * ((z * _C2 + _C1) * z + _C0)
    cosine_tail = ((_ONE - cosine_head) - square) + (quartic - y_tail * ((y + y_head) * _HALF))
    cosine = r_head * cosine_head + (r_head * cosine_tail + r_tail * (cosine_head + cosine_tail))
    sine = r_head * y_head + (r_head * sine_tail + r_tail * (y_head + sine_tail))
    quarter = turned >> _30
    if quarter == _0:
        return cosine, sine
    if quarter == _1:
        return -sine, cosine
    if quarter == _2:
        return -cosine, -sine
    return sine, -cosine


def word_of(seed: Any, step: Any, stream: Any, i: Any) -> Any:
    c0, c1, c2, c3 = philox(seed, step, stream, i >> _2)
    part = i & _3
    if part == _0:
        return c0
    if part == _1:
        return c1
    if part == _2:
        return c2
    return c3


def bits32(seed: Any, step: Any, i: Any) -> Any:
    return word_of(_U(seed), _U(step), _BITS, _U(i))


def uniform(seed: Any, step: Any, i: Any) -> Any:
    return to_uniform(word_of(_U(seed), _U(step), _BITS, _U(i)))


def rademacher(seed: Any, step: Any, i: Any) -> Any:
    return to_sign(word_of(_U(seed), _U(step), _SIGNS, _U(i) >> _U(5)), _U(i) & _31)


def normal(seed: Any, step: Any, i: Any) -> Any:
    c0, c1, c2, c3 = philox(_U(seed), _U(step), _NORMAL, _U(i) >> _2)
    if _U(i) & _2 == _0:
        x, y = to_normal(c0, c1)
    else:
        x, y = to_normal(c2, c3)
    return x if _U(i) & _1 == _0 else y


#: In the order of their calls: each is compiled after those it calls.
_SOURCES = (philox, mix, hash32, to_uniform, to_sign, head, radius, to_normal, word_of, bits32, uniform, rademacher,
            normal)


class Functions(NamedTuple):
    """Compiled scalar functions. Integer arguments are np.uint64, results np.uint64 (words) or np.float32."""

    philox: Callable[..., Any]  #: (seed, step, stream, block) -> the four words of P_stream(block)
    hash32: Callable[..., Any]  #: (key, i) -> word; key from `hash_key(seed, step)`
    to_uniform: Callable[..., Any]  #: word -> [0, 1)
    to_sign: Callable[..., Any]  #: (word, bit) -> +-1
    to_normal: Callable[..., Any]  #: (word, word) -> the two normals
    bits32: Callable[..., Any]  #: (seed, step, i) -> word
    uniform: Callable[..., Any]  #: (seed, step, i) -> [0, 1)
    rademacher: Callable[..., Any]  #: (seed, step, i) -> +-1
    normal: Callable[..., Any]  #: (seed, step, i) -> normal; `philox` and `to_normal` make four at once


def hash_key(seed: int, step: int) -> int:
    """The 64-bit key of `hash32` for (seed, step): computed once, with Python's integers."""
    z = seed
    for increment in (0, (step + 1) * 0x9E3779B97F4A7C15):
        z = (z + increment) % _WHOLE
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _WHOLE
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _WHOLE
        z ^= z >> 31
    return z


@cache
def njit_functions() -> Functions:
    """The functions compiled for Numba code on the CPU: `normal = fastgd.random.scalar.njit_functions().normal`."""
    from .._jit import kernel

    return functions(kernel)


def functions(jit: Callable[[Callable[..., Any]], Any]) -> Functions:
    """Compile this module's functions with the decorator `jit`, each seeing the compiled others under their names."""
    names = dict(globals())
    for source in _SOURCES:
        names[source.__name__] = jit(FunctionType(source.__code__, names, source.__name__))
    return Functions(*(names[field] for field in Functions._fields))
