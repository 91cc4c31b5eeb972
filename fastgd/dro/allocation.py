"""A budget of integers in proportion to scores: largest remainders, exactly."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np

from .._arrays import unpack, widen
from .._checks import count, index_list
from .._dispatch import check_host
from .tree.arrays import check_out

#: Budgets and quotas are exact as float64 below this.
_MOST = 2**53


def allocate(scores: Any, budget: int, *, minimum: int = 0, out: Any = None, backend: str | None = None) -> Any:
    """Integers n_i with sum `budget`, in proportion to scores: `minimum` each, the rest B by the method of largest remainders.

    quota_i = B s_i / sum(s); n_i = minimum + floor(quota_i), and 1 more for the largest quota_i - floor(quota_i), ties by index.

    Parameters
    ----------
    scores : (n,) array
        float32, float64, float16 or bfloat16 on the host, finite and >= 0, of any size. All zero: equal shares.
    budget : int
        n * minimum <= budget <= 2^53.
    minimum : int
        What each gets at least, >= 0.
    out : (n,) int64 array, optional
        Where to put the result.
    backend : {"auto", "cpu", "reference"}, optional
        See `fastgd.use`; both are the same plain code on the host.

    Returns
    -------
    (n,) array of int64
        Each is less than 1 away from minimum + quota_i; a score of 0 gets `minimum`.

    Raises
    ------
    ValueError, TypeError
        `scores` is not one non-empty vector, or has a negative or non-finite number; `budget` or `minimum` is out of its range.

    Notes
    -----
    Remainders B s_i - floor(quota_i) sum(s) are computed in two float64 words (about 100 bits), so rounding moves no unit.
    For samples per prompt as in GVM, pass the scores G_i / sqrt(p_i + alpha / p_i^(beta - 1)), 0 where G_i or p_i is: they
    minimise sum_i G_i^2 / ((p_i + alpha / p_i^(beta - 1)) n_i).
    Cost: O(n log n). Deterministic.

    References
    ----------
    Balinski and Young: Fair Representation (1982), on the method of largest remainders.
    Yao et al.: Optimizing Chain-of-Thought Reasoners via Gradient Variance Minimization in Rejection Sampling and RL (2025).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> p = np.array([0.1, 0.25, 0.5, 1.0])
    >>> fastgd.dro.allocate(1 / np.sqrt(p + 1e-3 / p), 32)
    array([13,  9,  6,  4])
    """
    check_host("dro.allocate", backend)
    data, operand, wrap = unpack(scores, "scores")
    if operand.device != "cpu":
        raise ValueError("scores must be on the host: pass scores.cpu() (torch) or scores.get() (CuPy)")
    if data.ndim != 1 or not data.size:
        raise ValueError(f"scores must be one vector of at least one number, got shape {data.shape}: pass scores.reshape(-1)")
    s, n = widen(data, operand.dtype), len(data)
    bad = ~(np.isfinite(s) & (s >= 0))
    if bad.any():
        raise ValueError(f"scores must be finite and at least 0, but are not at {index_list(bad)}: shift or clip them")
    minimum = count(minimum, "minimum", 0)
    budget = count(budget, "budget", 0, _MOST)
    if n * minimum > budget:
        raise ValueError(f"budget must be at least n * minimum = {n * minimum}, got {budget}")
    if out is not None:
        check_out(out, n)
    if not s.any():
        s = np.ones(n)
    shares = minimum + _largest_remainders(np.ldexp(s, -math.frexp(s.max())[1]), budget - n * minimum)
    if out is None:
        return wrap(shares)
    out[...] = shares
    return out


def _largest_remainders(s: np.ndarray, budget: int) -> np.ndarray:
    """Shares of `budget` for scores at most 1."""
    total = math.fsum(s)
    rest = math.fsum(chain(s, (-total,)))  # the exact sum is total + rest
    floors = np.minimum(np.floor(budget * (s / total)), budget)
    high, low = _remainders(s, budget, floors, total, rest)
    step = np.where(high < 0, -1.0, np.where((high > total) | ((high == total) & (low >= rest)), 1.0, 0.0))
    if step.any():
        floors += step
        high, low = _remainders(s, budget, floors, total, rest)
    shares = floors.astype(np.int64)
    left = budget - int(shares.sum())
    shares[np.lexsort((-low, -high))[:left]] += 1  # stable: ties by index
    return shares


def _remainders(s: np.ndarray, budget: int, floors: np.ndarray, total: float, rest: float) -> tuple[np.ndarray, np.ndarray]:
    """budget s - floors (total + rest) as two words."""
    whole, part = _product(s, float(budget))
    taken, error = _product(floors, total)
    high, low = _sum(whole, -taken)
    return _sum(high, low + ((part - error) - floors * rest))


def _product(a: np.ndarray, b: float) -> tuple[np.ndarray, np.ndarray]:
    """a b as a rounded product and its error (Dekker)."""
    a_high = a * 134217729.0 - (a * 134217729.0 - a)
    b_high = b * 134217729.0 - (b * 134217729.0 - b)
    p = a * b
    return p, ((a_high * b_high - p) + a_high * (b - b_high) + (a - a_high) * b_high) + (a - a_high) * (b - b_high)


def _sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b as a rounded sum and its error (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)
