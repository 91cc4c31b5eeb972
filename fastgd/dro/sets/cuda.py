"""The linear sets on the GPU: parallel passes of Michelot's algorithm, one read of 32 bytes between two of them.

The method is that of csrc/dro_sets.c, in the same references; sums run in another order, so results agree to rounding.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ... import _cuda
from ..._arrays import empty_like_array
from . import cuda_kernels as kernels
from .cuda_kernels import KERNELS as KERNELS


class _Reference(NamedTuple):
    """y = (z - c) 2^-e, as (z head - centre) scale; see csrc/dro_sets.h."""

    c: float
    e: int
    head: float
    centre: float
    scale: float

    def y(self, z: float) -> float:
        return (z * self.head - self.centre) * self.scale

    def place(self, y: float) -> float:
        half = 0.5 * self.c + float(np.ldexp(y, self.e - 1))
        return 2.0 * half if self.e > 1020 else self.c + float(np.ldexp(y, self.e))


def _reference(c: float, e: int) -> _Reference:
    e = max(e, -1073)
    head = 0.5 if e > 1020 else 2.0**100 if e < -900 else 1.0
    return _Reference(c, e, head, c * head, float(np.ldexp(1.0 / head, -e)))


def _exponent(high: float, low: float) -> int:
    span = high - low
    return math.frexp(0.5 * high - 0.5 * low)[1] + 1 if math.isinf(span) else math.frexp(span)[1]


class _Passes:
    """One call's memory and launches."""

    def __init__(self, z: Any) -> None:
        self.stream, self.z, n = _cuda.stream_of(z), _cuda.view(z), z.shape[0]
        if not self.z.is_c_contiguous():
            packed = empty_like_array(z, (n,), str(z.dtype).removeprefix("torch."))
            packed[:] = z
            self.z = _cuda.view(packed)
        self.chunks = -(-n // kernels.CHUNK)
        self.partial = _cuda.view(empty_like_array(z, (self.chunks, 4), "float64"))
        self.total = _cuda.view(empty_like_array(z, (4,), "float64"))

    def find(self, moments: bool, kernel: Any, *arguments: float) -> list[float]:
        """A pass: what `kernel` finds in all of z. The host waits for it."""
        grid = _cuda.blocks(self.chunks, 1)
        _cuda.launch(kernel, grid, kernels.THREADS, self.stream, self.z, *arguments, self.partial)
        _cuda.launch(kernels.total_kernel, 1, kernels.THREADS, self.stream, self.partial, moments, self.total)
        found = self.total.copy_to_host(stream=self.stream)
        self.stream.synchronize()
        return [float(number) for number in found]

    def write(self, kernel: Any, *arguments: float) -> None:
        *numbers, out = arguments
        _cuda.launch(kernel, _cuda.blocks(self.z.size, 128), 128, self.stream, self.z, *numbers, _cuda.view(out))


def linear(z: Any, radius: float | None, unit: float | None, floor: float, weights: Any, threads: int) -> float:
    with _cuda.device_of(z), np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return _linear(_Passes(z), z.shape[0], math.inf if radius is None else radius, unit or 0.0, floor, weights)


def _linear(passes: _Passes, n: int, radius: float, unit: float, floor: float, weights: Any) -> float:
    bad, low, high, ties = passes.find(False, kernels.range_kernel)
    if bad:
        return math.nan
    least = floor / n
    equal = 1.0 / n if ties == n else least + (1.0 - floor) / ties
    if ties == n or (unit == 0.0 and n - ties <= 2.0 * radius * ties):
        passes.write(kernels.ties_kernel, high, equal, least, weights)
        return high
    at, cut = _reference(high, _exponent(high, low)), -math.inf
    if unit > 0.0 and radius == math.inf:
        cut = min(-float(np.ldexp(unit, -at.e)), -5e-324)
    for again in range(1000):
        left, mean, squares, low = passes.find(True, kernels.moments_kernel, at.head, at.centre, at.scale, cut)
        top = at.y(high)
        if left == ties:
            passes.write(kernels.ties_kernel, high, equal, least, weights)
            return high - unit * ((n - left) / (2.0 * left * n))
        if low >= top:  # alike from here, but not from nearer
            at, cut = _reference(high, at.e - 1074 if at.c == high else at.e - 50), -4.0
            continue
        depth = _depth(n, left, squares / left, radius, float(np.ldexp(unit, -at.e)), mean - cut)
        near = _reference(at.place(mean), at.e + _exponent(top, low))
        if ((abs(mean) > 16.0 * depth and near.c != at.c) or top - low < 2.0**-100) and again < 64:
            cut = -float(np.ldexp(depth * (1.0 + 2.0**-20), at.e - near.e) + np.ldexp(abs(near.c) * 2.0**-52, -near.e))
            at = near
            continue
        theta = min(mean - depth, math.nextafter(top, -math.inf))
        if low > theta:
            break
        cut = theta
    share = (1.0 - floor) / left
    passes.write(kernels.linear_kernel, at.head, at.centre, at.scale, share, mean, share / depth, least, weights)
    gap = mean + (0.5 if unit > 0.0 else 1.0) * (squares / left / depth)
    loss = float(np.ldexp(unit, -at.e)) * (n - left) / (2.0 * left * n) if unit > 0.0 and left < n else 0.0
    return at.place(gap - loss)


def _depth(n: int, left: float, spread: float, radius: float, unit: float, most: float) -> float:
    """mean - theta for the elements that are left; see csrc/dro_sets.c."""
    narrow = 2.0 * radius if left == n else (left - n + 2.0 * radius * left) / n
    ball = 0.0 if radius == math.inf else math.sqrt(spread) / math.sqrt(narrow) if narrow > 0.0 else math.inf
    return min(max(ball, unit / left), most)
