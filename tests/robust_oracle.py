"""Oracles for the tests of `fastgd.robust`: the formulas once more, exact or in extended precision.

Nothing here calls fastgd: a mistake shared by the kernels and by `fastgd.robust.reference` still shows.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

#: Significand bits and smallest normal exponent of each dtype.
FORMATS = {"float16": (11, -14), "bfloat16": (8, -126), "float32": (24, -126), "float64": (53, -1022)}
DTYPES = tuple(FORMATS)
LARGEST = {
    "float16": 65504.0,
    "bfloat16": 3.38953139e38,
    "float32": 3.4028234663852886e38,
    "float64": 1.7976931348623157e308,
}


def ulp(values: Any, dtype: str) -> np.ndarray:
    """The spacing of a dtype's numbers at `values`."""
    bits, smallest = FORMATS[dtype]
    values = np.asarray(values, np.float64)
    exponent = np.where(values == 0.0, smallest, np.frexp(values)[1] - 1)
    return np.ldexp(1.0, np.maximum(exponent, smallest) - (bits - 1))


def round_to(values: Any, dtype: str) -> np.ndarray:
    """float64 `values` rounded once to a dtype, ties to even; as float64."""
    values = np.asarray(values, np.float64)
    unit = ulp(values, dtype)
    return values if dtype == "float64" else np.copysign(np.rint(values / unit) * unit, values)


def make(values: Any, dtype: str, library: str = "numpy") -> Any:
    """An array of a library; `values` are rounded to the dtype first."""
    with np.errstate(invalid="ignore"):
        values = np.asarray(values, np.float64)
        exact = np.where(np.isfinite(values), round_to(np.where(np.isfinite(values), values, 0.0), dtype), values)
    if library == "torch":
        import torch

        return torch.tensor(exact, dtype=torch.float64).to(getattr(torch, dtype))
    if dtype == "bfloat16":
        import ml_dtypes

        array = exact.astype(np.float32).astype(ml_dtypes.bfloat16)
    else:
        array = exact.astype(dtype)
    if library == "jax":
        import jax.numpy

        return jax.numpy.asarray(array)
    assert library == "numpy"
    return array


def floats(x: Any) -> np.ndarray:
    """The values of an array of any library as float64, exactly."""
    if type(x).__module__.startswith("torch"):
        return x.double().numpy()
    return np.asarray(x).astype(np.float64)


def bits(x: Any) -> bytes:
    """The bytes of an array of any library, in C order."""
    if type(x).__module__.startswith("torch"):
        import torch

        return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.ascontiguousarray(x).tobytes()


def flat(vectors: Any) -> np.ndarray:
    """Any of the three forms of x as a float64 (n, d) matrix."""
    if isinstance(vectors, list | tuple):
        return np.stack([flat_vector(vector) for vector in vectors])
    values = floats(vectors)
    return values.reshape(len(values), -1)


def flat_vector(vector: Any) -> np.ndarray:
    """One vector, in layers or not, as float64 (d,)."""
    layers = vector if isinstance(vector, list | tuple) else [vector]
    return np.concatenate([floats(layer).reshape(-1) for layer in layers])


# --------------------------------------------------------------------------------------------------- the formulas


def sqdist(x: Any) -> np.ndarray:
    """Squared distances in 80-bit arithmetic, rounded to float64."""
    wide = flat(x).astype(np.longdouble)
    finite = np.isfinite(wide).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.stack([((wide - row) ** 2).sum(axis=1) for row in wide]).astype(np.float64)
    exact[~finite, :] = exact[:, ~finite] = np.inf
    np.fill_diagonal(exact, 0.0)
    return exact


def scores(distances: np.ndarray, k: int) -> np.ndarray:
    """Krum scores of a distance matrix."""
    n = len(distances)
    return np.array([np.sort(np.delete(distances[i], i))[:k].astype(np.longdouble).sum() for i in range(n)], np.float64)


def krum(x: Any, f: int, neighbors: int | None = None) -> int:
    """The index that Krum selects: lowest score, then lowest index."""
    distances = sqdist(x)
    return int(np.argmin(scores(distances, len(distances) - f - 2 if neighbors is None else neighbors)))


def window(x: Any, f: int) -> np.ndarray:
    """The values of rank f .. n - f - 1 of each coordinate, ascending; those that are not finite rank last."""
    x = flat(x)
    return np.sort(np.where(np.isfinite(x), x, np.inf), axis=0)[f : len(x) - f]


def median(x: Any, dtype: str) -> np.ndarray:
    """The median, correctly rounded: float64 decides the rounding of the sum of two numbers of a shorter dtype."""
    middle = window(x, (len(x) - 1) // 2)
    with np.errstate(over="ignore"):
        total = middle[0] + middle[-1]
    half = np.where(np.isfinite(total), total / 2, middle[0] / 2 + middle[-1] / 2)
    return round_to(half, dtype)


def assert_means(got: Any, columns: np.ndarray, dtype: str, divisor: Any = None) -> None:
    """`got` is within 1 ulp of the exact mean of the rows of `columns` (float64 (m, d)).

    All coordinates are compared with 80-bit sums, some (first, last, a few between) with rational arithmetic. Sums in
    float64 may err by n / 2^53 of the sum of magnitudes for the short dtypes; float64 itself is summed compensated.
    """
    got, columns = flat_vector(got), np.asarray(columns, np.float64)
    m, d = columns.shape
    divisor = m if divisor is None else divisor
    assert got.shape == (d,)
    wide = columns.astype(np.longdouble)
    exact, size = wide.sum(axis=0) / divisor, np.abs(wide).sum(axis=0) / divisor
    slack = size * m * (2.0**-53 if dtype != "float64" else 2.0**-62)
    assert (np.abs(got - exact) <= ulp(exact.astype(np.float64), dtype) + slack).all()
    for c in sorted({0, d - 1, *range(0, d, max(1, d // 8))} & set(range(d))):
        rational = sum(map(Fraction, columns[:, c].tolist()), Fraction(0)) / Fraction(divisor)
        budget = Fraction(float(ulp(float(rational), dtype)))
        if dtype != "float64":
            budget += Fraction(float(size[c])) * m / 2**53
        assert abs(Fraction(float(got[c])) - rational) <= budget, c


def correct_mean(values: Any, dtype: str) -> float:
    """The mean of some numbers, rounded once to a dtype, from rational arithmetic."""
    exact = sum(map(Fraction, map(float, values)), Fraction(0)) / len(values)
    if dtype == "float64":
        return float(exact)
    unit = Fraction(float(ulp(float(exact), dtype)))
    return float(round(exact / unit) * unit)
