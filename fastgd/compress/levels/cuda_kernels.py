"""The kernels of QSGD, Int8, FP8, TernGrad and Natural.

A warp codes a bucket: its largest magnitude (and its squares, in the lanes of docs/wire.md), then codes and memory. Codes of
fewer than eight bits are packed afterwards, a group of eight a thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from ...random import scalar
from ..cuda_kernels import (
    LANES,
    THREADS,
    bits_of,
    float_of,
    fold,
    get_word,
    magnitude,
    nearest,
    product,
    product64,
    put_word,
    quotient,
    receive,
    remember,
    root64,
)

_WARPS = THREADS // LANES
NEAREST, STOCHASTIC, E4M3, E5M2, TERNARY = range(5)
_LARGEST = np.float32(np.finfo(np.float32).max)
_ZERO, _ONE, _FINE = np.float32(0), np.float32(1), np.float32(2.0**24)
_TINY, _SMALL, _BIG = np.float32(2.0**-126), np.float32(2.0**-100), np.float32(2.0**126)
_UP, _DOWN = np.float32(2.0**64), np.float32(2.0**-64)

_hash32 = scalar.functions(cuda.jit(device=True)).hash32


@cuda.jit(device=True)
def _ruler(top: Any, levels: Any) -> Any:
    """A bucket's step, the power of two before it, and the inverse (docs/wire.md). The bound on the rounds is for NaN."""
    step, before, inverse = quotient(top, levels), _ONE, _ZERO
    if top == _ZERO:
        return step, before, inverse
    whole = product(step, levels)
    if whole > _LARGEST:
        step = float_of(bits_of(step) - np.uint32(1))
    elif step < _TINY and whole < top:
        step = float_of(bits_of(step) + np.uint32(1))
    if step < _SMALL:
        before = _UP
    elif step > _BIG:
        before = _DOWN
    inverse = quotient(_ONE, product(step, before))
    rounds = 0
    while rounds < 8 and product(product(top, before), inverse) > levels:
        inverse = float_of(bits_of(inverse) - np.uint32(1))
        rounds += 1
    return step, before, inverse


@cuda.jit(device=True)
def _word(key: Any, i: Any) -> Any:
    """Sixteen hashes serve 32 coordinates: as they are, then with their halves exchanged."""
    word = np.uint32(_hash32(key, np.uint64(16 * (i // 32) + i % 16)))
    if i % 32 >= 16:
        word = np.uint32((word << np.uint32(16)) | (word >> np.uint32(16)))
    return word


@cuda.jit(device=True)
def _minifloat(r: Any, fraction: Any, least: Any) -> Any:
    """The code of r in a format of so many fraction bits and that least exponent, and its value.

    In `shifted` the unit of r's place in the format is the last bit, so the addition rounds, and counts units.
    """
    sign, size = bits_of(r) & np.uint32(0x80000000), bits_of(r) & np.uint32(0x7FFFFFFF)
    lowest = np.uint32((127 + least) << 23)
    exponent = max(np.uint32(size & np.uint32(0x7F800000)), lowest)
    shift = np.uint32(exponent + np.uint32((23 - fraction) << 23))
    shifted = float_of(size) + float_of(shift)
    code = np.int64(np.uint32(exponent - lowest) >> np.uint32(23 - fraction)) + np.int64(bits_of(shifted)) - np.int64(shift)
    value = float_of(bits_of(shifted - float_of(shift)) | sign)
    return code | np.int64(sign >> np.uint32(24)), value


@cuda.jit(device=True)
def _code(kind: Any, p: Any, step: Any, before: Any, inverse: Any, key: Any, i: Any) -> Any:
    """The code of p and what it decodes to; without a step both are 0."""
    if step == _ZERO:
        return np.int64(0), _ZERO
    r = product(product(p, before), inverse)
    if kind == NEAREST:
        code = nearest(r)
        value = np.float32(code)
    elif kind == STOCHASTIC:
        code = (nearest(product(r, _FINE)) + np.int64(_word(key, i) >> np.uint32(8))) >> 24
        value = np.float32(code)
    elif kind == TERNARY:
        code, value = np.int64(0), _ZERO
        if np.int64(_word(key, i) >> np.uint32(8)) < nearest(product(abs(r), _FINE)):
            code, value = np.int64(1), _ONE
            if p < _ZERO:
                code, value = np.int64(2), -_ONE
    elif kind == E4M3:
        code, value = _minifloat(r, 3, -6)
    else:
        code, value = _minifloat(r, 2, -14)
    return code, product(value, step)


@cuda.jit
def buckets_kernel(p: Any, memory: Any, mode: Any, kind: Any, bucket: Any, levels: Any, l2: Any, offset: Any, key: Any,
                    steps: Any, codes: Any) -> None:
    """Steps, and codes of a byte each: a warp a bucket."""
    tops = cuda.shared.array(THREADS, np.int64)
    squares = cuda.shared.array(THREADS, np.float64)
    thread = cuda.threadIdx.x
    lane, buckets = thread % LANES, (p.size + bucket - 1) // bucket
    for first in range(cuda.blockIdx.x * _WARPS, buckets, cuda.gridDim.x * _WARPS):
        own = first + thread // LANES
        start, end = own * bucket + lane, min((own + 1) * bucket, p.size)
        most, sum_of = np.int64(0), np.float64(0)
        for i in range(start, end, LANES):
            v = p[i]
            most = max(most, magnitude(v))
            if l2:
                sum_of += product64(np.float64(v), np.float64(v))
        cuda.syncthreads()  # those of the buckets before have been read
        tops[thread] = most
        squares[thread] = sum_of
        cuda.syncthreads()
        half = LANES // 2
        while half > 0:
            if lane < half:
                tops[thread] = max(tops[thread], tops[thread + half])
            cuda.syncthreads()
            half //= 2
        if l2:
            fold(squares)
        top = float_of(np.uint32(tops[thread - lane]))
        if l2:
            top = max(min(np.float32(root64(squares[thread - lane])), _LARGEST), top)
        step, before, inverse = _ruler(top, levels)
        if lane == 0 and own < buckets:
            put_word(steps, 4 * own, bits_of(step))
        for i in range(start, end, LANES):
            v = p[i]
            code, c = _code(kind, v, step, before, inverse, key, i)
            codes[i] = np.uint8((code + offset) & 255)
            remember(memory, mode, i, v, c)


@cuda.jit
def pack_kernel(codes: Any, width: Any, out: Any) -> None:
    """Eight codes into `width` bytes, the first in the lowest bits; a group a thread."""
    for group in range(cuda.grid(1), (codes.size + 7) // 8, cuda.gridsize(1)):
        word = np.uint64(0)
        for i in range(8 * group, min(8 * group + 8, codes.size)):
            word |= np.uint64(codes[i]) << np.uint64(width * (i - 8 * group))
        for b in range(width):
            if group * width + b < out.size:
                out[group * width + b] = np.uint8((word >> np.uint64(8 * b)) & np.uint64(255))


@cuda.jit
def terngrad_kernel(p: Any, memory: Any, mode: Any, top: Any, key: Any, body: Any) -> None:
    """The scale, four codes a byte, and the memory."""
    scale = top[0].view(np.float32)
    step, before, inverse = _ruler(scale, _ONE)
    if cuda.grid(1) == 0:
        put_word(body, 0, top[0])
    for at in range(cuda.grid(1), (p.size + 3) // 4, cuda.gridsize(1)):
        byte = np.int64(0)
        for i in range(4 * at, min(4 * at + 4, p.size)):
            v = p[i]
            code, c = _code(TERNARY, v, step, before, inverse, key, i)
            byte |= code << (2 * (i - 4 * at))
            remember(memory, mode, i, v, c)
        body[4 + at] = np.uint8(byte)


@cuda.jit
def natural_kernel(p: Any, memory: Any, mode: Any, key: Any, body: Any) -> None:
    """Exponents, signs, and the memory; eight elements a thread."""
    for at in range(cuda.grid(1), (p.size + 7) // 8, cuda.gridsize(1)):
        byte = 0
        for i in range(8 * at, min(8 * at + 8, p.size)):
            v = p[i]
            bits = bits_of(v)
            exponent = np.int64((bits >> np.uint32(23)) & np.uint32(255))
            if np.int64(bits & np.uint32(0x7FFFFF)) > np.int64(_word(key, i) >> np.uint32(9)):
                exponent += 1
            exponent = min(exponent, np.int64(254))
            c = float_of(np.uint32(exponent) << np.uint32(23))
            if exponent > 0 and v < _ZERO:
                byte |= 1 << (i - 8 * at)
                c = -c
            body[i] = np.uint8(exponent)
            remember(memory, mode, i, v, c)
        body[p.size + at] = np.uint8(byte)


# --------------------------------------------------------------------------------------------------------- decoding


@cuda.jit(device=True)
def _stored(body: Any, first: Any, width: Any, i: Any) -> Any:
    """Code i of `width` bits, from byte `first` on."""
    if width == 8:
        return np.int64(body[first + i])
    at = i * width
    low = np.int64(body[first + at // 8])
    if at % 8 + width > 8:
        low |= np.int64(body[first + at // 8 + 1]) << 8
    return (low >> (at % 8)) & ((1 << width) - 1)


@cuda.jit(device=True)
def _value(kind: Any, code: Any, offset: Any) -> Any:
    if kind == NEAREST:
        return np.float32(code - 256 if code > 127 else code)
    if kind == STOCHASTIC:
        return np.float32(code - offset)
    if kind == TERNARY:
        return np.float32((code & 1) - (code >> 1))
    fraction, least = 2, -14
    if kind == E4M3:
        fraction, least = 3, -6
    exponent, digits = (code & 127) >> fraction, code & ((1 << fraction) - 1)
    if exponent > 0:
        digits += 1 << fraction
    unit = float_of(np.uint32((max(exponent, np.int64(1)) - 1 + 127 + least - fraction) << 23))
    return float_of(bits_of(product(np.float32(digits), unit)) | np.uint32((code & 128) << 24))


@cuda.jit
def check_levels_kernel(body: Any, steps: Any, n: Any, kind: Any, bucket: Any, levels: Any, offset: Any, width: Any,
                         flags: Any) -> None:
    """Reasons 1 (steps), 3 (codes) and 4 (padding)."""
    first = 4 * steps
    for b in range(cuda.grid(1), steps, cuda.gridsize(1)):
        word = get_word(body, 4 * b)
        if word >= np.uint32(0x7F800000) or not product(float_of(word), levels) <= _LARGEST:
            flags[1] = np.uint32(1)
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        code = _stored(body, first, width, i)
        if kind == NEAREST:
            wrong = code == 128
        elif kind == STOCHASTIC:
            wrong = code > 2 * offset
        elif kind == TERNARY:
            wrong = code == 3
        elif kind == E4M3:
            wrong = (code & 127) > 0x7E
        else:
            wrong = (code & 127) > 0x7B
        if wrong or (code != offset and get_word(body, 4 * (i // bucket)) == np.uint32(0)):
            flags[3] = np.uint32(1)
    if cuda.grid(1) == 0 and n * width % 8 != 0 and np.int64(body[first + n * width // 8]) >> (n * width % 8) != 0:
        flags[4] = np.uint32(1)


@cuda.jit
def add_levels_kernel(body: Any, kind: Any, bucket: Any, offset: Any, width: Any, scale: Any, add: Any, out: Any) -> None:
    first = 4 * ((out.size + bucket - 1) // bucket)
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        step = float_of(get_word(body, 4 * (i // bucket)))
        receive(out, i, product(_value(kind, _stored(body, first, width, i), offset), step), scale, add)


@cuda.jit
def check_natural_kernel(body: Any, n: Any, flags: Any) -> None:
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        if body[i] == np.uint8(255):
            flags[3] = np.uint32(1)
        if body[i] == np.uint8(0) and (np.int64(body[n + i // 8]) >> (i % 8)) & 1:
            flags[1] = np.uint32(1)
    if cuda.grid(1) == 0 and n % 8 != 0 and np.int64(body[n + n // 8]) >> (n % 8) != 0:
        flags[4] = np.uint32(1)


@cuda.jit
def add_natural_kernel(body: Any, scale: Any, add: Any, out: Any) -> None:
    n = out.size
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        c = float_of(np.uint32(body[i]) << np.uint32(23))
        if (np.int64(body[n + i // 8]) >> (i % 8)) & 1:
            c = -c
        receive(out, i, c, scale, add)


KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    (buckets_kernel, ["void(float32[::1], float32[::1], int64, int64, int64, float32, boolean, int64, uint64, uint8[::1], "
                       "uint8[::1])"], True, None),
    (pack_kernel, ["void(uint8[::1], int64, uint8[::1])"], False, None),
    (terngrad_kernel, ["void(float32[::1], float32[::1], int64, uint32[::1], uint64, uint8[::1])"], False, None),
    (natural_kernel, ["void(float32[::1], float32[::1], int64, uint64, uint8[::1])"], False, None),
    (check_levels_kernel, ["void(uint8[::1], int64, int64, int64, int64, float32, int64, int64, uint32[::1])"], False, None),
    (add_levels_kernel, ["void(uint8[::1], int64, int64, int64, int64, float32, boolean, float32[::1])"], False, None),
    (check_natural_kernel, ["void(uint8[::1], int64, uint32[::1])"], False, None),
    (add_natural_kernel, ["void(uint8[::1], float32, boolean, float32[::1])"], False, None),
]
