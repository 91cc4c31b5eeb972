"""Device arithmetic of the room: dtypes in registers, two-word numbers, sorting networks as straight code.

A *real* is what kernels compute with: float64 for float64 arrays, float32 for the other three. Two-word numbers
`high + low` carry about 48 bits in float32, so that no kernel of a float32 array needs a float64 instruction.

Rules that keep these functions exact, and that the compiler does not know: a product that is later added is written
`cuda.fma(a, b, 0)`, because LLVM would fuse a plain product with the addition and break the error term; constants are
typed (`real(0)`), because a Python number would make Numba widen the expression to float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .network import network


class Format(NamedTuple):
    """How kernels see a dtype."""

    dtype: str
    element: str  # Numba's name of the array's elements; bfloat16 is seen as its 16-bit patterns
    real: type
    load: Any  # device function: element -> real, exact
    store: Any  # device function: (high, low) -> element, the sum rounded once
    odd: Any  # device function: (high, low) -> real, the sum rounded to odd


@cuda.jit(device=True)
def two_sum(a: Any, b: Any) -> Any:
    """a + b as a rounded sum and its exact error (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@cuda.jit(device=True)
def divide(high: Any, low: Any, divisor_high: Any, divisor_low: Any) -> Any:
    """(high + low) / (divisor_high + divisor_low) as two words, for |low| << |high| and finite `high`."""
    q = high / divisor_high
    r = cuda.fma(-q, divisor_low, cuda.fma(-q, divisor_high, high))
    return two_sum(q, (r + low) / divisor_high)


def _make_odd(real: type, integer: type) -> Any:
    zero, one, limit = real(0), integer(1), np.finfo(real).max

    @cuda.jit(device=True)
    def odd(high: Any, low: Any) -> Any:
        """high + low, |low| at most half a unit of `high`, rounded to the neighbour whose last bit is odd.

        Rounding the result again, to two bits less or fewer, gives what rounding the exact sum would have given.
        """
        bits = high.view(integer)
        if low != zero and (bits & one) == 0 and abs(high) <= limit:
            if (low > zero) == (high > zero):
                bits = integer(bits + one)
            else:
                bits = integer(bits - one)
        return integer(bits).view(real)

    return odd


_odd_float32, _odd_float64 = _make_odd(np.float32, np.int32), _make_odd(np.float64, np.int64)


@cuda.jit(device=True)
def _load_same(element: Any) -> Any:
    return element


@cuda.jit(device=True)
def _load_float16(element: Any) -> Any:
    return np.float32(element)


@cuda.jit(device=True)
def _load_bfloat16(element: Any) -> Any:
    return np.uint32(np.uint32(np.uint16(element)) << np.uint32(16)).view(np.float32)


@cuda.jit(device=True)
def _store_high(high: Any, low: Any) -> Any:
    return high


@cuda.jit(device=True)
def _store_float16(high: Any, low: Any) -> Any:
    return np.float16(_odd_float32(high, low))


@cuda.jit(device=True)
def _store_bfloat16(high: Any, low: Any) -> Any:
    value = _odd_float32(high, low)
    bits = np.int64(value.view(np.uint32))
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
    if value != value:
        rounded = np.int64(0x7FC0)
    return np.uint16(rounded).view(np.int16)


FORMATS = {
    "float32": Format("float32", "float32", np.float32, _load_same, _store_high, _odd_float32),
    "float64": Format("float64", "float64", np.float64, _load_same, _store_high, _odd_float64),
    "float16": Format("float16", "float16", np.float32, _load_float16, _store_float16, _odd_float32),
    "bfloat16": Format("bfloat16", "int16", np.float32, _load_bfloat16, _store_bfloat16, _odd_float32),
}

# ---------------------------------------------------------------------------------------- sorting by a whole block


@cuda.jit(device=True)
def block_sort(values: Any, at: Any, size: Any) -> None:
    """Put values[at], .., values[at + size - 1] in ascending order; `size` is a power of two.

    All threads of the block take part, after a barrier; a barrier ends it. Bitonic merges whose first step is mirrored,
    so that every comparator puts the smaller value first.
    """
    run = 2
    while run <= size:
        for t in range(cuda.threadIdx.x, size // 2, cuda.blockDim.x):
            k = t & (run // 2 - 1)
            _exchange(values, at + 2 * t - k, at + 2 * t - k + (run - 1 - 2 * k))
        cuda.syncthreads()
        step = run // 4
        while step > 0:
            for t in range(cuda.threadIdx.x, size // 2, cuda.blockDim.x):
                i = at + 2 * t - (t & (step - 1))
                _exchange(values, i, i + step)
            cuda.syncthreads()
            step //= 2
        run *= 2


@cuda.jit(device=True)
def _exchange(values: Any, i: Any, j: Any) -> None:
    a, b = values[i], values[j]
    if b < a:
        values[i] = b
        values[j] = a


# ---------------------------------------------------------------------------------------- straight-line networks

#: Comparators per compiled function: LLVM unrolls a loop of this length in full, so every index becomes a constant and
#: the values stay in registers. One loop over a whole network is too long for it and would run in local memory.
_GROUP = 32


def sorter(n: int, first: int, last: int) -> Any:
    """A device function that moves ranks first .. last of an n-element local array to their places."""
    pairs = network(n, first, last)
    if not len(pairs):
        return _nothing
    return _joined([_exchanges(pairs[k : k + _GROUP]) for k in range(0, len(pairs), _GROUP)])


@cuda.jit(device=True)
def _nothing(values: Any) -> None:
    pass


def _exchanges(pairs: np.ndarray) -> Any:
    places = pairs.astype(np.uint64)  # unsigned: no code for negative indices
    count = len(places)

    @cuda.jit(device=True)
    def exchanges(values: Any) -> None:
        for k in range(count):
            i, j = places[k, 0], places[k, 1]
            a, b = values[i], values[j]
            swap = b < a
            values[i] = b if swap else a
            values[j] = a if swap else b

    return exchanges


def _joined(functions: list[Any]) -> Any:
    """One function that calls all in order; a balanced tree, because Numba compiles callees recursively."""
    while len(functions) > 1:
        pairs = [functions[k : k + 2] for k in range(0, len(functions), 2)]
        functions = [_both(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return functions[0]


def _both(one: Callable[[Any], None], other: Callable[[Any], None]) -> Any:
    @cuda.jit(device=True)
    def both(values: Any) -> None:
        one(values)
        other(values)

    return both
