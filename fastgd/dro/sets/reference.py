"""The oracle of the uncertainty sets: sorting and bisection in NumPy's long double (80 bits where the machine has them), slow.

Shares no code with the kernels. All functions fill `weights` and return the worst case, NaN where z cannot be used.
"""

from __future__ import annotations

import math

import numpy as np

from .power import power as power

_LONG = np.longdouble


def linear(z: np.ndarray, radius: float | None, unit: float | None, floor: float, weights: np.ndarray, threads: int) -> float:
    """p = floor / n + (1 - floor) q, q_i ~ (z_i - theta)_+: theta from sums over the k largest, for the right k."""
    if not np.isfinite(z).all():
        return math.nan
    n, v = len(z), z.astype(_LONG)
    y = v - v.max()
    s, k = np.sort(y)[::-1], np.arange(1, n + 1, dtype=_LONG)
    mean = np.cumsum(s) / k
    depth = _depth(k, np.maximum(np.cumsum(s * s) / k - mean**2, 0), n, radius, unit)
    active = np.flatnonzero(s > mean - depth)
    top = s[: active[-1] + 1] if len(active) else s[s == 0]
    top = s[s == 0] if s[len(top) - 1] == 0 else top
    count, middle = len(top), top.mean()
    variance = np.mean((top - middle) ** 2)
    if variance == 0:
        tilt = np.where(y == 0, _LONG(0), -_LONG(1))
    else:
        tilt = np.maximum((y - middle) / _depth(_LONG(count), variance, n, radius, unit), -1)
    q = (1 + tilt) / count
    weights[:] = floor / _LONG(n) + (1 - _LONG(floor)) * q
    divergence = np.mean(np.where(tilt > -1, (n - count) / _LONG(count) + n / _LONG(count) * tilt, -1) ** 2) / 2
    return float(v.max() + q @ y - (unit * divergence / n if unit is not None else 0))


def _depth(k: np.ndarray, variance: np.ndarray, n: int, radius: float | None, unit: float | None) -> np.ndarray:
    """mean - theta for the k largest; 0 (so theta is too high) where the ball is smaller than any weights on k elements."""
    depth = np.zeros_like(variance) if unit is None else _LONG(unit) / k
    if radius is None:
        return depth
    narrow = (k - n) / n + 2 * _LONG(radius) * k / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(depth, np.where(narrow >= 0, np.sqrt(variance / np.maximum(narrow, 0)), 0))


def tilted(z: np.ndarray, radius: float | None, penalty: float | None, floor: float, logs: bool, weights: np.ndarray,
           threads: int) -> float:
    """p = max(floor / n, C e^x), x = slope z (or slope log z with slope <= 1)."""
    if not np.isfinite(z).all() or (logs and not (z > 0).all()):
        return math.nan
    n, v = len(z), np.log(z.astype(_LONG)) if logs else z.astype(_LONG)
    y = v - v.max()
    if penalty is not None:
        weights[:] = _floored(y / _LONG(penalty), floor)
        return float(v.max() + penalty * np.log1p(np.mean(np.expm1(y / _LONG(penalty)))))
    if (y == 0).all() or radius == 0:
        p = np.full(n, _LONG(1) / n)
    elif not logs and radius >= np.log(n / _LONG((y == 0).sum())):
        p = np.where(y == 0, _LONG(1), _LONG(0)) / (y == 0).sum()
    else:
        top = _LONG(0) if logs else 12 - np.log(-y[y < 0].max())
        p = _floored(y, floor)
        if radius is not None and (not logs or _divergence(p) > radius):
            low, high = top - 11500, top
            for _ in range(90):
                middle = (low + high) / 2
                below = _divergence(_floored(np.exp(middle) * y, floor)) < radius
                low, high = (middle, high) if below else (low, middle)
            p = _floored(np.exp(low) * y, floor)
    weights[:] = p
    return float(v.max() + p @ y)


def _floored(x: np.ndarray, floor: float) -> np.ndarray:
    """max(floor / n, C e^x) of sum 1, for x <= 0."""
    n = len(x)
    e = np.exp(x)
    s = np.sort(e)[::-1]
    factor = (1 - np.arange(n - 1, -1, -1) * (_LONG(floor) / n)) / np.cumsum(s)
    return np.maximum(_LONG(floor) / n, factor[np.flatnonzero(factor * s >= _LONG(floor) / n)[-1]] * e)


def _divergence(p: np.ndarray) -> np.longdouble:
    """sum p log(n p) as a mean of t log t - t + 1 >= 0."""
    t = len(p) * p
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.mean(np.where(t > 0, t * np.log(t), 0) - t + 1)


def capped(z: np.ndarray, alpha: float, penalty: float, weights: np.ndarray, threads: int) -> float:
    """p = min(e^(x - u), 1) / (alpha n): u for the smallest number of caps under which the rest stays."""
    if not np.isfinite(z).all():
        return math.nan
    n, v = len(z), z.astype(_LONG)
    places, s = _LONG(alpha) * n, np.sort(v)[::-1]
    log_rest = np.zeros(n, _LONG)  # log sum_{j >= m} exp(x_j - x_m)
    for m in range(n - 2, -1, -1):
        log_rest[m] = np.log1p(np.exp((s[m + 1] - s[m]) / _LONG(penalty) + log_rest[m + 1]))
    caps = np.arange(math.ceil(alpha * n))
    above = log_rest[caps] - np.log(places - caps)  # u - x_m
    m = np.append(np.flatnonzero(above >= 0), caps[-1])[0]
    x = (v - s[m]) / _LONG(penalty) - above[m]
    weights[:] = np.exp(np.minimum(x, 0)) / places
    if m == 0 and above[0] >= 0:
        return float(v.max() + penalty * np.log1p(np.mean(np.expm1((v - v.max()) / _LONG(penalty)))))
    capped = (v - s[m])[x > 0].sum() / places
    u = penalty * (above[m] * (places - (x > 0).sum()) / places + np.log(_LONG(alpha)))
    return float(s[m] + capped + u)


def quantile(z: np.ndarray, alpha: float, weights: np.ndarray, threads: int) -> float:
    """1 / (alpha n) above the ceil(alpha n)-th largest, what is left in equal parts on those that equal it."""
    if not np.isfinite(z).all():
        return math.nan
    n, v = len(z), z.astype(_LONG)
    places = _LONG(alpha * n)
    cut = np.sort(v)[n - min(max(math.ceil(places), 1), n)]
    above, equal = (v > cut).sum(), (v == cut).sum()
    p = np.where(v > cut, 1 / places, np.where(v == cut, (places - above) / places / equal, _LONG(0)))
    weights[:] = p
    return float(p @ v)
