"""Cressie-Read divergences of any order k > 1: a root finder over whole-array passes of NumPy, for the host backends.

With y = (z - max z) / range and r = 1 / (k - 1), the solution is n p_i = a (1 + s y_i)_+^r. One unknown is left: s for a ball
(the moment mean((n p)^k) grows with it), a for a penalty (s = g / a, and mean(n p) = 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def power(z: np.ndarray, k: float, radius: float | None, penalty: float | None, weights: np.ndarray, threads: int) -> float:
    """Weights of the worst case over divergence k, and its value; NaN where z is not finite. See `sets.worst_case`."""
    z = z.astype(np.float64)
    if not np.isfinite(z).all():
        return math.nan
    n, high, half = len(z), float(z.max()), 0.5 * float(z.max()) - 0.5 * float(z.min())
    ties = z == high
    if half == 0.0 or radius == 0.0:
        weights[:] = 1.0 / n
        return high + 2.0 * float(np.mean(0.5 * z - 0.5 * high))
    y = (0.5 * z - 0.5 * high) / half
    if penalty is not None:
        t = _penalised(y, k, 2.0 * half / penalty * (k - 1.0), float(n / ties.sum()))
    else:
        most = math.log1p(k * (k - 1.0) * float(radius or 0.0))
        t = np.where(ties, 0.0, -np.inf) if most >= (k - 1.0) * math.log(n / ties.sum()) else _ball(y, k, most)
    p = np.exp(t)
    weights[:] = p / p.sum()
    value = high + 2.0 * half * float(weights @ y)
    if penalty is None:
        return value
    divergence = np.mean(np.expm1(k * t) - k * np.expm1(t)) / (k * (k - 1.0))
    return value - penalty * float(divergence)


def _logs(y: np.ndarray, slope: float, k: float) -> np.ndarray:
    """log (1 + slope y)_+^r."""
    with np.errstate(divide="ignore"):
        return np.log1p(np.maximum(slope * y, -1.0)) / (k - 1.0)


def _ball(y: np.ndarray, k: float, most: float) -> np.ndarray:
    """log (1 + s y)_+^r with log mean((n p)^k) = most."""

    def excess(log_slope: float) -> float:
        t = _logs(y, math.exp(log_slope), k)
        return float(np.log1p(np.mean(np.expm1(k * t))) - k * np.log1p(np.mean(np.expm1(t)))) - most

    low = high = 0.0
    while excess(low) > 0.0:
        low -= 4.0
    while excess(high) < 0.0 and high < 709.0:
        high = min(high + 4.0, 709.0)
    return _logs(y, math.exp(_root(excess, low, high)), k)


def _penalised(y: np.ndarray, k: float, gain: float, spread: float) -> np.ndarray:
    """log of n p = (a + gain y)_+^r with mean 1."""
    gain = min(gain, 1e300)

    def log_weights(log_a: float) -> np.ndarray:
        return log_a / (k - 1.0) + _logs(y, gain / math.exp(log_a), k)

    def excess(log_a: float) -> float:
        return float(np.mean(np.expm1(log_weights(log_a))))

    most = min(math.log1p(gain), (k - 1.0) * math.log(spread))
    return log_weights(_root(excess, 0.0, most * (1.0 + 1e-9) + 1e-300))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    if function(low) >= 0.0:
        return low
    return high if function(high) <= 0.0 else float(brentq(function, low, high, xtol=1e-300, rtol=4 * np.finfo(float).eps))
