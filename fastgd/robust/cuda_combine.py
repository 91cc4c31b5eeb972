"""Linear combinations of the vectors: the host's preparation of the weights, and the kernel."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .cuda_device import Format, divide, two_sum

#: Threads of a block.
THREADS = 128
#: Outputs a thread computes side by side, from one read of its column, where there are several.
TOGETHER = 8


class Terms(NamedTuple):
    """Weights as the kernel reads them; g counts groups of `width` outputs."""

    picks: np.ndarray  #: (g, 1 + most) int64: count, then the rows with a weight for any output of the group, ascending
    values: np.ndarray  #: (g, most, width, 2): the weights of these rows, V high and V low, scaled; zeros fill up
    factors: np.ndarray  #: (m, 3, 2): (D high, D low), (2^E as three factors), nothing


@np.errstate(under="ignore")
def make_terms(weights: np.ndarray, divisor: float, real: type) -> Terms:
    """Scale the (m, n) weights row by row by powers of two so that sum_k |V_ak| <= 1/2, and split them into two words."""
    m = len(weights)
    width = 1 if m == 1 else TOGETHER
    exponent = np.frexp(np.abs(weights).max(axis=1, initial=0.0))[1]
    scaled = np.ldexp(weights, -exponent[:, None])
    shift = np.frexp(np.abs(scaled).sum(axis=1))[1] + 1
    words = _words(np.ldexp(scaled, -shift[:, None]), real)
    lost = (weights != 0.0) & (words[..., 0] == 0.0)  # still lets a NaN through
    words[lost, 0] = np.finfo(real).smallest_subnormal
    weighted = np.zeros((-(-m // width), width, weights.shape[1]), bool)
    weighted.reshape(-1, weights.shape[1])[:m] = weights != 0.0
    used = np.logical_or.reduce(weighted, axis=1)
    most = max(1, int(used.sum(axis=1).max(initial=0)))
    picks = np.zeros((len(used), 1 + most), np.int64)
    values: np.ndarray = np.zeros((len(used), most, width, 2), real)
    for g, mask in enumerate(used):
        rows = np.flatnonzero(mask)
        picks[g, 0], picks[g, 1 : 1 + len(rows)] = len(rows), rows
        part = words[g * width : (g + 1) * width, rows]
        values[g, : len(rows), : len(part)] = part.swapaxes(0, 1)
    return Terms(picks, values, _factors(exponent + shift, divisor, real))


def _factors(exponent: np.ndarray, divisor: float, real: type) -> np.ndarray:
    mantissa, divisor_exponent = np.frexp(divisor)
    factors: np.ndarray = np.zeros((len(exponent), 3, 2), real)
    factors[:, 0] = _words(np.array(2.0 * mantissa), real)
    left = exponent - (divisor_exponent - 1)
    step = 100 if real is np.float32 else 1000  # leaves room for the kernel's own scaling between the factors
    for place in ((1, 0), (1, 1), (2, 0)):
        part = np.clip(left, -step, step)
        factors[:, place[0], place[1]] = np.ldexp(1.0, part)
        left = left - part
    return factors


def _words(values: np.ndarray, real: type) -> np.ndarray:
    high: np.ndarray = values.astype(real)
    return np.stack([high, (values - high).astype(real)], axis=-1)


@cache
def make_combine_kernel(form: Format, width: int) -> Any:
    real, load, store, odd = form.real, form.load, form.store, form.odd
    single = real is np.float32
    zero, one, limit, normal = real(0), real(1), np.finfo(real).max, np.finfo(real).tiny
    small, boost, unboost = (real(2.0**e) for e in ((-60, 80, -80) if single else (-900, 600, -600)))

    @cuda.jit(device=True)
    def add_product(total: Any, error: Any, high: Any, low: Any, value: Any) -> Any:
        """(total + error) + (high + low) value: the product in two words, its sum by TwoSum."""
        product = cuda.fma(high, value, zero)
        rest = cuda.fma(low, value, cuda.fma(high, value, -product))
        total, other = two_sum(total, product)
        return total, error + (other + rest)

    @cuda.jit(device=True)
    def again(x: Any, c: Any, picks: Any, values: Any, g: Any, r: Any, total: Any, error: Any) -> Any:
        """A sum near zero: done again with scaled weights where all its terms are near zero; and what undoes the scale."""
        largest = zero
        for k in range(picks[g, 0]):
            weight = values[g, k, r, 0]
            if weight != zero:
                largest = max(largest, abs(weight * load(x[picks[g, k + 1], c])))
        if largest >= small:
            return total, error, one
        total, error = zero, zero
        for k in range(picks[g, 0]):
            high, low = values[g, k, r, 0], values[g, k, r, 1]
            if high != zero:
                total, error = add_product(total, error, high * boost, low * boost, load(x[picks[g, k + 1], c]))
        return total, error, unboost

    @cuda.jit(device=True)
    def finish(out: Any, factors: Any, a: Any, c: Any, total: Any, error: Any, back: Any) -> bool:
        """Divide, scale back, round once and write; whether the sum was finite."""
        if not abs(total) <= limit:
            out[a, c] = store(total, zero)
            return False
        high, low = divide(total, error, factors[a, 0, 0], factors[a, 0, 1])
        f0, f1, f2 = factors[a, 1, 0], factors[a, 1, 1], factors[a, 2, 0]
        if abs(high * f0 * back * f1 * f2) < normal:
            high, low = odd(high, low), zero  # the scaling will round
        out[a, c] = store(high * f0 * back * f1 * f2, low * f0 * back * f1 * f2)
        return True

    @cuda.jit
    def combine_kernel(x: Any, picks: Any, values: Any, factors: Any, out: Any, offset: Any, broken: Any) -> None:
        """Formula: y_ac = 2^E_a (sum_k V_ak x[picks[g, k], c]) / D_a for the outputs a = g width .. (g + 1) width - 1.

        No partial sum overflows, because sum_k |V_ak| <= 1/2, and the mean of huge vectors is finite.
        Cost: one read of the vectors with a weight per group of `width` outputs, later ones mostly from L2; 11
        operations a term that is not zero. m = n outputs are bound by these operations, not by memory.
        Order: ascending k, exact products and sums in two words (their errors are added in the real type), one rounding
        at the end: error below half a unit of the result + 2^-46 (float64: 2^-104) sum_k |V_k x_k| / D. Where all terms
        are so small that the errors of the products would underflow, the coordinate is done again, scaled. An output
        has the same bits in any group.
        A coordinate with a non-finite sum lowers `broken` to its number.
        """
        m, size = out.shape[0], out.shape[1]
        groups, columns = picks.shape[0], (size + THREADS - 1) // THREADS
        totals = cuda.local.array(width, real)
        errors = cuda.local.array(width, real)
        sums = cuda.shared.array((width, THREADS), real)  # each thread's own, so that one piece of code finishes any r
        rests = cuda.shared.array((width, THREADS), real)
        t = cuda.threadIdx.x
        for block in range(cuda.blockIdx.x, groups * columns, cuda.gridDim.x):
            g = block % groups
            c = block // groups * THREADS + t
            if c < size:
                nonzero = False
                for r in range(width):
                    totals[r], errors[r] = zero, zero
                for k in range(picks[g, 0]):
                    value = load(x[picks[g, k + 1], c])
                    nonzero = nonzero or value != zero
                    for r in range(width):
                        high = values[g, k, r, 0]
                        if high != zero:
                            totals[r], errors[r] = add_product(totals[r], errors[r], high, values[g, k, r, 1], value)
                for r in range(width):
                    sums[r, t], rests[r, t] = totals[r], errors[r]
                for r in range(min(width, m - g * width)):
                    total, error, back = sums[r, t], rests[r, t], one
                    if nonzero and abs(total) < small:
                        total, error, back = again(x, c, picks, values, g, r, total, error)
                    if not finish(out, factors, g * width + r, c, total, error, back):
                        cuda.atomic.min(broken, 0, offset + c)

    return combine_kernel
