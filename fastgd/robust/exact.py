"""Exact results and error budgets for the room's benchmark cases.

Results are computed in float64, block by block of columns, with the formulas of `reference.py` and from the arrays as
the caller holds them. Errors are returned in units of the budget: up to 1 passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .._arrays import unpack, widen

#: Bits of the fraction, and exponent of the smallest normal number.
_FORMAT = {"float32": (23, -126), "float64": (52, -1022), "float16": (10, -14), "bfloat16": (7, -126)}
_BLOCK = 1 << 14


def columns(x: Any) -> Iterator[np.ndarray]:
    """Blocks of columns of the vectors as float64 (n, <= _BLOCK) arrays."""
    if isinstance(x, list):
        for layer in zip(*x, strict=True):
            yield from columns(np.stack([part.reshape(-1) for part in layer]))
        return
    data, operand, _ = unpack(x, "x")
    for start in range(0, data.shape[1], _BLOCK):
        yield widen(data[:, start : start + _BLOCK], operand.dtype)


# ------------------------------------------------------------------------------------------------ exact results


_known: list[tuple[Any, np.ndarray]] = []  # the vectors seen last, and their distances: cases share vectors


def sqdist(inputs: dict[str, Any]) -> np.ndarray:
    """D_ij, +inf beside a row with a NaN or an Inf."""
    x = inputs["x"]
    if not _known or _known[0][0] is not x:
        _known[:] = [(x, _sqdist(x))]
    return _known[0][1].copy()


def _sqdist(x: Any) -> np.ndarray:
    n = len(x)
    total, bad = np.zeros((n, n)), np.zeros(n, bool)
    with np.errstate(invalid="ignore", over="ignore"):
        for block in columns(x):
            bad |= ~np.isfinite(block).all(axis=1)
            for i in range(n - 1):
                difference = block[i + 1 :] - block[i]
                total[i, i + 1 :] += np.einsum("ij,ij->i", difference, difference)
    total += total.T
    total[bad, :] = total[:, bad] = np.inf
    np.fill_diagonal(total, 0.0)
    return total


def order(inputs: dict[str, Any]) -> np.ndarray:
    """Vectors by Krum score."""
    distances = sqdist(inputs)
    nearest = np.sort(distances, axis=1)[:, 1 : len(distances) - inputs["f"] - 1]  # place 0 is the vector itself
    return np.argsort(nearest.sum(axis=1), kind="stable")


def krum(inputs: dict[str, Any]) -> np.ndarray:
    """The vector with the least score."""
    best = order(inputs)[0]
    return np.concatenate([block[best] for block in columns(inputs["x"])])


def multikrum(inputs: dict[str, Any]) -> np.ndarray:
    """The mean of the m vectors with the least scores."""
    selected = np.sort(order(inputs)[: inputs["m"]])
    return np.concatenate([block[selected].mean(axis=0) for block in columns(inputs["x"])])


def ranks(inputs: dict[str, Any], f: int) -> np.ndarray:
    """The mean of ranks f .. n - f - 1 of each coordinate, non-finite values ranking last."""

    def middle(block: np.ndarray) -> np.ndarray:
        return np.sort(np.where(np.isfinite(block), block, np.inf), axis=0)[f : len(block) - f].mean(axis=0)

    return np.concatenate([middle(block) for block in columns(inputs["x"])])


def trimmed_mean(inputs: dict[str, Any]) -> np.ndarray:
    """The mean without the f smallest and the f largest values of each coordinate."""
    return ranks(inputs, inputs["f"])


def median(inputs: dict[str, Any]) -> np.ndarray:
    """The middle value of each coordinate, or the mean of the two."""
    return ranks(inputs, (len(inputs["x"]) - 1) // 2)


def mean(inputs: dict[str, Any]) -> np.ndarray:
    """The mean of the vectors."""
    return np.concatenate([block.mean(axis=0) for block in columns(inputs["x"])])


def combine(inputs: dict[str, Any]) -> np.ndarray:
    """The vectors' sum by `weights`."""
    return np.concatenate([inputs["weights"] @ block for block in columns(inputs["x"])], axis=-1)


def nearest(block: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` values of each column nearest to its median."""
    s = np.sort(np.where(np.isfinite(block), block, np.inf), axis=0)
    n = len(s)
    middle = (s[(n - 1) // 2] + s[n // 2]) / 2
    start = (s[: n - window] + s[window:] < 2 * middle).sum(axis=0)  # the next value is nearer than the first
    return np.take_along_axis(s, start + np.arange(window)[:, None], axis=0).mean(axis=0)


def meamed(inputs: dict[str, Any]) -> np.ndarray:
    """The mean of the n - f values nearest to each coordinate's median."""
    return np.concatenate([nearest(block, len(block) - inputs["f"]) for block in columns(inputs["x"])])


def bulyan(inputs: dict[str, Any]) -> np.ndarray:
    """Krum's choice, taken away, n - 2f times; then the mean of the n - 4f values nearest to each coordinate's median."""
    distances, f = sqdist(inputs), inputs["f"]
    left = list(range(len(distances)))
    chosen = []
    for _ in range(len(distances) - 2 * f):
        near = np.sort(distances[np.ix_(left, left)], axis=1)[:, 1 : 1 + max(1, len(left) - f - 2)]
        chosen.append(left.pop(int(near.sum(axis=1).argmin())))
    return np.concatenate([nearest(block[chosen], len(distances) - 4 * f) for block in columns(inputs["x"])])


def mixing(inputs: dict[str, Any]) -> np.ndarray:
    """Row i averages the n - f vectors nearest to vector i, or all finite ones where vector i is not."""
    distances = sqdist(inputs)
    weights = np.zeros_like(distances)
    count = len(distances) - inputs["f"]
    np.put_along_axis(weights, np.argsort(distances, axis=1, kind="stable")[:, :count], 1.0 / count, axis=1)
    bad = np.isinf(distances).sum(axis=1) == len(distances) - 1
    weights[bad] = ~bad / np.count_nonzero(~bad)
    return weights


def mixed(inputs: dict[str, Any]) -> Iterator[np.ndarray]:
    """Blocks of columns of the mixed vectors."""
    weights = mixing(inputs)
    used = weights.any(axis=0)
    for block in columns(inputs["x"]):
        yield weights[:, used] @ block[used]


def nnm(inputs: dict[str, Any]) -> np.ndarray:
    """Every vector replaced by the mean of its neighbours."""
    return np.concatenate(list(mixed(inputs)), axis=1)


def nnm_krum(inputs: dict[str, Any]) -> np.ndarray:
    """Krum on the mixed vectors."""
    n = len(inputs["x"])
    distances = np.zeros((n, n))
    for block in mixed(inputs):
        for i in range(n - 1):
            distances[i, i + 1 :] += ((block[i + 1 :] - block[i]) ** 2).sum(axis=1)
    distances += distances.T
    best = np.sort(distances, axis=1)[:, 1 : n - inputs["f"] - 1].sum(axis=1).argmin()
    return np.concatenate([block[best] for block in mixed(inputs)])


def geometric_median(inputs: dict[str, Any]) -> np.ndarray:
    """Weiszfeld's iteration on weights until they stand still; vectors a million spreads away have none."""
    distances = sqdist(inputs)
    central = distances[np.median(distances, axis=1).argmin()]
    near = np.flatnonzero(central <= 1e12 * np.median(central))
    distances = distances[np.ix_(near, near)]
    w = np.full(len(distances), 1.0 / len(distances))
    for _ in range(10000):
        pull = 1.0 / np.sqrt(np.maximum(distances @ w - 0.5 * (w @ distances @ w), np.finfo(float).tiny))
        new = pull / pull.sum()
        if np.abs(new - w).sum() < 1e-14:
            break
        w = new
    return np.concatenate([w @ block[near] for block in columns(inputs["x"])])


def updated_row(inputs: dict[str, Any]) -> np.ndarray:
    """Squared distances of `value`, which takes the place of vector 1, to all."""
    x, value = inputs["x"], inputs["value"].astype(np.float64)
    row = np.array([((vector - value) ** 2).sum() for vector in x])
    row[1] = 0.0
    return row


# ----------------------------------------------------------------------------------------------- error budgets


def flat(result: Any) -> np.ndarray:
    """A result as float64, layers joined."""
    if isinstance(result, list):
        return np.concatenate([flat(part).ravel() for part in result])
    data, operand, _ = unpack(result, "result")
    return widen(data, operand.dtype)


def check_sqdist(dtype: str, result: Any, expected: np.ndarray) -> float:
    """Relative error in units of 1e-13 for float64, else 1e-6; symmetry, the zero diagonal and +inf must be exact."""
    got = flat(result)
    if got.shape != expected.shape or (got != got.T).any() or got.diagonal().any():
        return float("inf")
    known = np.isfinite(expected) & (expected > 0)
    if not np.array_equal(got[~known], expected[~known]):
        return float("inf")
    error = (np.abs(got - expected)[known] / expected[known]).max(initial=0.0)
    return float(error) / (1e-13 if dtype == "float64" else 1e-6)


def check_row(result: Any, expected: np.ndarray) -> float:
    """Relative error of a row of distances in units of 1e-6."""
    return float((np.abs(result - expected) / np.maximum(expected, 1e-300)).max() / 1e-6)


def check_same(dtype: str, result: Any, expected: np.ndarray) -> float:
    """Exactly one of the inputs."""
    return 0.0 if np.array_equal(flat(result), expected) else float("inf")


def check_relative(budget: float, dtype: str, result: Any, expected: np.ndarray) -> float:
    """Largest error in units of `budget` roundings to the dtype of the largest value; float64 gets those of float32."""
    got = flat(result)
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    bits = min(_FORMAT[dtype][0], 23)
    return float(np.abs(got - expected).max(initial=0.0) / (budget * 2.0**-bits * np.abs(expected).max(initial=1e-300)))


def check_bits(result: Any, expected: np.ndarray) -> float:
    """Hashes: at most one bit in 10^5 may differ, those whose projections are zero to rounding."""
    if result.shape != expected.shape:
        return float("inf")
    return float(np.unpackbits(result ^ expected).mean() / 1e-5)


def check_ulp(budget: float, dtype: str, result: Any, expected: np.ndarray) -> float:
    """Error in units of `budget` times the spacing of the dtype's numbers at the exact value.

    The exact value is itself a float64 sum: a few roundings of the largest value are allowed on top.
    """
    got = flat(result)
    if got.size == expected.size:
        got = got.reshape(expected.shape)  # vectors that came as lists of layers
    if got.shape != expected.shape:
        return float("inf")
    bits, smallest = _FORMAT[dtype]
    spacing = np.ldexp(1.0, np.maximum(np.frexp(expected)[1] - 1, smallest) - bits)
    slack = 8 * np.spacing(np.abs(expected).max(initial=0.0))
    error = np.abs(got - expected) / (budget * spacing + slack)
    return float("inf") if np.isnan(error).any() else float(error.max(initial=0.0))


def check_median(n: int, dtype: str, result: Any, expected: np.ndarray) -> float:
    """Odd n: one of the inputs. Even n: the mean of the two middle values, rounded once."""
    return check_same(dtype, result, expected) if n % 2 else check_ulp(0.5, dtype, result, expected)
