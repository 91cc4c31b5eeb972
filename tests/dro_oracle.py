"""Answers to compare `fastgd.dro` with, from the formulas alone: slow, plain, sharing no code with the package.

Sets and projections are solved by sorting in extended precision (long double), so that a float64 result can be held to a few ulp;
where long double is no wider than float64, the same formulas run in float64.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import optimize, stats

from fastgd.random import bits32

Long = np.longdouble
LAST = float(np.nextafter(1.0, 0.0))


# -------------------------------------------------------------------------------------------------------- trees


def block_sum(block: Sequence[float]) -> float:
    total = block[0]
    for child in block[1:]:
        total += child
    return total


def levels(weights: Sequence[float]) -> list[list[float]]:
    """All levels of an 8-ary tree of sums, leaves first, each padded with zeros to whole blocks; the top is one block."""
    level = [float(w) for w in weights]
    tree = []
    while True:
        level += [0.0] * (-len(level) % 8)
        tree.append(level)
        if len(level) == 8:
            return tree
        level = [block_sum(level[i : i + 8]) for i in range(0, len(level), 8)]


def total(weights: Sequence[float]) -> float:
    return block_sum(levels(weights)[-1])


def descend(tree: list[list[float]], mass: float) -> int:
    node = 0
    for level in reversed(tree):
        before, running = 0.0, 0.0
        for j in range(8):
            before, running = running, running + level[8 * node + j]
            if mass < running:
                break
        else:
            raise AssertionError("mass beyond its node")
        child = level[8 * node + j]
        node, mass = 8 * node + j, min(mass - before, float(np.nextafter(child, 0.0)))
    return node


def exact_find(weights: Sequence[float], masses: Sequence[float]) -> list[int]:
    """For each mass the leaf i with prefix(i) <= mass < prefix(i + 1), in rational arithmetic."""
    prefix = list(itertools.accumulate(Fraction(float(weight)) for weight in weights))
    return [bisect.bisect_right(prefix, Fraction(float(mass))) for mass in masses]


def uniform53(seed: int, draw: int) -> float:
    low, high = (int(word) for word in bits32(seed, 0, 2 * draw, 2))
    return ((low | high << 32) >> 11) * 2.0**-53


def draws(weights: Sequence[float], size: int, method: str, seed: int, first: int = 0) -> list[int]:
    """The indices that a tree of this seed draws next, `first` draws having gone before."""
    tree = levels(weights)
    if method == "without_replacement":
        left, found = [float(w) for w in weights], []
        for j in range(size):
            found += draws(left, 1, "iid", seed, first + j)
            left[found[-1]] = 0.0
        return found
    whole = block_sum(tree[-1])
    u = {
        "iid": lambda j: uniform53(seed, first + j),
        "stratified": lambda j: (j + uniform53(seed, first + j)) / size,
        "systematic": lambda j: (j + uniform53(seed, first)) / size,
    }[method]
    return [descend(tree, min(u(j) * whole, float(np.nextafter(whole, 0.0)))) for j in range(size)]


def successive(weights: Sequence[float], size: int) -> dict[tuple[int, ...], float]:
    """The probability of every ordered outcome of `size` draws without replacement."""
    outcomes: dict[tuple[int, ...], Fraction] = {(): Fraction(1)}
    for _ in range(size):
        longer = {}
        for drawn, chance in outcomes.items():
            left = {i: Fraction(float(w)) for i, w in enumerate(weights) if i not in drawn and w > 0}
            longer.update({(*drawn, i): chance * w / sum(left.values()) for i, w in left.items()})
        outcomes = longer
    return {drawn: float(chance) for drawn, chance in outcomes.items()}


def fit(counts: Any, chances: Any) -> float:
    """The p-value of a chi-squared test of fit; cells expected below 5 are pooled, impossible ones must be empty."""
    counts, chances = np.asarray(counts, float), np.asarray(chances, float)
    assert not counts[chances == 0].any(), np.flatnonzero((chances == 0) & (counts > 0))
    expected = chances * counts.sum()
    rare = expected < 5
    observed, expected = ([*x[~rare], x[rare].sum()] for x in (counts, expected))
    if expected[-1] < 5:
        observed, expected = [*observed[:-2], sum(observed[-2:])], [*expected[:-2], sum(expected[-2:])]
    observed, expected = np.array(observed), np.array(expected)
    return float(stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1))


# -------------------------------------------------------------------------------------------------- divergences


def divergence(p: Any, kind: str | float) -> float:
    """D(p || 1/n), with f''(1) = 1; a number is the power k of Cressie and Read."""
    u = np.asarray(p, Long) * len(p)
    if not isinstance(kind, str):
        return float(((u**kind - kind * u + kind - 1) / (kind * (kind - 1))).mean())
    if kind == "chi2":
        return float(((u - 1) ** 2).mean() / 2)
    return float((np.where(u > 0, u * np.log(np.where(u > 0, u, 1)), 0) - u + 1).mean())


divergence_of = divergence  # where a parameter has the name


def _tops(s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k, mean and variance of the first k of `s` (sorted downwards, shifted by its first), for k = 1 .. n."""
    k = np.arange(1, len(s) + 1).astype(Long)
    mean = np.cumsum(s) / k
    return k, mean, np.maximum(np.cumsum(s * s) / k - mean * mean, 0)


def project_chi2(w: Any, radius: float, floor: float = 0.0) -> np.ndarray:
    """The nearest point of {sum p = 1, p >= floor / n, chi-squared <= radius}; long double."""
    w = np.asarray(w, Long)
    n, floor = len(w), Long(floor)
    w = (w - floor / n) / (1 - floor)
    top = w.max()
    k, mean, variance = _tops(np.sort(w - top)[::-1])
    ratio = (1 + 2 * Long(radius) / (1 - floor) ** 2) * k / n - 1
    by_sum = mean - 1 / k
    by_ball = np.where(ratio > 0, mean - np.sqrt(variance / np.where(ratio > 0, ratio, 1)), np.inf)
    theta = np.minimum(by_sum, by_ball)
    last = np.flatnonzero(np.sort(w - top)[::-1] > theta)[-1]
    q = np.maximum(w - top - theta[last], 0)
    q /= q.sum() if by_ball[last] < by_sum[last] else 1
    return floor / n + (1 - floor) * q


def project_by_roots(w: Any, radius: float, floor: float = 0.0, power: float = 2.0) -> np.ndarray:
    """By the optimality conditions: p^(k - 1) = max(floor / n, c w - t), t inside from the sum, c outside from the ball.

    w is the point before projection to the power k - 1: for k = 2 this is the chi-squared projection.
    """
    w = np.asarray(w, float)
    low = floor / len(w)

    def values(y: np.ndarray, t: float) -> np.ndarray:
        return np.maximum(low, np.maximum(y - t, 0) ** (1 / (power - 1)))

    def point(c: float) -> np.ndarray:
        y = c * w
        t = optimize.brentq(lambda t: values(y, t).sum() - 1, y.min() - 1, y.max(), xtol=1e-17, rtol=8.9e-16)
        return values(y, t)

    def excess(c: float) -> float:
        return divergence(point(c), power) - radius

    if excess(1.0) <= 0:
        return point(1.0)
    return point(optimize.brentq(excess, 0.0, 1.0, xtol=1e-17, rtol=8.9e-16))


def _capped_power(logs: np.ndarray, gamma: float, floor: Long) -> np.ndarray:
    """max(floor / n, C exp(gamma logs)) with the C that makes it sum to 1."""
    n = len(logs)
    v = np.exp(gamma * (logs - logs.max()))
    s = np.sort(v)[::-1]
    scales = (1 - floor * (n - np.arange(1, n + 1)) / n) / np.cumsum(s)
    above = np.flatnonzero(scales * s > floor / n)
    if not len(above):
        return np.full(n, 1 / Long(n))
    return np.maximum(scales[above[-1]] * v, floor / n)


def project_kl(w: Any = None, radius: float = math.inf, floor: float = 0.0, *, logs: Any = None) -> np.ndarray:
    """argmin KL(p || w) over {sum p = 1, p >= floor / n, KL(p || 1/n) <= radius}; long double. `logs`: log w."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.asarray(w, Long)) if logs is None else np.asarray(logs, Long)

    def excess(gamma: float) -> float:
        return divergence(_capped_power(logs, gamma, Long(floor)), "kl") - radius

    if excess(1.0) <= 0:
        return _capped_power(logs, 1.0, Long(floor))
    return _capped_power(logs, optimize.brentq(excess, 1e-300, 1.0, xtol=1e-18, rtol=8.9e-16), Long(floor))


def project(w: Any, *, radius: float, divergence: str = "chi2", floor: float = 0.0) -> np.ndarray:
    return (project_chi2 if divergence == "chi2" else project_kl)(w, radius, floor)


def mirror_step(p: Any, index: Any, loss: Any, *, step_size: float, radius: float, divergence: str, floor: float) -> np.ndarray:
    """One step of the sampler from probabilities p."""
    p, index = np.asarray(p, Long), np.asarray(index)
    gain = np.zeros(len(p), Long)
    np.add.at(gain, index, Long(step_size) * np.asarray(loss, Long) / (len(index) * p[index]))
    if divergence == "chi2":
        return project_chi2(p + gain, radius, floor)
    with np.errstate(divide="ignore"):
        return project_kl(None, radius, floor, logs=np.log(p) + np.minimum(gain, 50))


# ---------------------------------------------------------------------------------------------------- worst cases


def _simplex(y: np.ndarray) -> np.ndarray:
    """The nearest point of {p >= 0, sum p = 1} to y."""
    s = np.sort(y - y.max())[::-1]
    theta = (np.cumsum(s) - 1) / np.arange(1, len(s) + 1)
    return np.maximum(y - y.max() - theta[np.flatnonzero(s > theta)[-1]], 0)


def _top_uniform(z: np.ndarray) -> np.ndarray:
    best = z == z.max()
    return best / Long(best.sum())


def worst_weights(losses: Any, *, radius: float | None = None, penalty: float | None = None, divergence: str = "chi2",
                  alpha: float | None = None) -> np.ndarray:
    """The maximiser; long double."""
    z = np.asarray(losses, Long)
    z, n = z - z.max(), len(z)
    ties = int((z == 0).sum())
    if divergence == "cvar":
        order, p, left = np.argsort(-z, kind="stable"), np.zeros(n, Long), Long(1)
        for i in order:
            p[i] = min(left, 1 / (Long(alpha) * n))
            left -= p[i]
        return p
    if divergence == "kl-cvar":
        order, cap = np.argsort(-z, kind="stable"), 1 / (Long(alpha) * n)
        for k in range(n):  # the k largest are capped
            v = np.exp(np.minimum(z - z[order[k]], 0) / Long(penalty))
            scale = (1 - k * cap) / v[order[k:]].sum()
            if scale <= cap * (1 + Long(1e-17)):
                break
        p = np.minimum(scale * v, cap)
        p[order[:k]] = cap
        return p
    if penalty is not None:
        if divergence == "chi2":
            return _simplex(z / (Long(penalty) * n))
        v = np.exp(z / Long(penalty))
        return v / v.sum()
    if divergence == "chi2":
        if Long(n) / ties <= 1 + 2 * Long(radius):
            return _top_uniform(z)
        s = np.sort(z)[::-1]
        k, mean, variance = _tops(s)
        ratio = (1 + 2 * Long(radius)) * k / n - 1
        theta = np.where(ratio > 0, mean - np.sqrt(variance / np.where(ratio > 0, ratio, 1)), np.inf)
        p = np.maximum(z - theta[np.flatnonzero(s > theta)[-1]], 0)
        return p / p.sum() if p.any() else np.full(n, 1 / Long(n))
    if radius >= math.log(n / ties):
        return _top_uniform(z)

    z = z / -z.min()

    def tilted(beta: float) -> np.ndarray:
        v = np.exp(Long(beta) * z)
        return v / v.sum()

    high = 1.0
    while divergence_of(tilted(high), "kl") < radius:
        high *= 2
    root = optimize.brentq(lambda b: divergence_of(tilted(b), "kl") - radius, 0, high, xtol=1e-300, rtol=8.9e-16)
    return tilted(root)


def worst_value(losses: Any, p: Any, *, penalty: float | None = None, divergence: str = "chi2", **_: Any) -> float:
    value = float(np.asarray(p, Long) @ np.asarray(losses, Long))
    if penalty is None:
        return value
    return value - penalty * divergence_of(p, "chi2" if divergence == "chi2" else "kl")


def dual_value(losses: Any, *, radius: float | None = None, penalty: float | None = None, divergence: str = "chi2",
               alpha: float | None = None) -> float:
    """The same number as the least value of a convex function of one or two numbers."""
    z = np.asarray(losses, float)
    z, top = z - z.max(), float(z.max())
    width = float(-z.min()) + 1.0

    def plus(eta: float) -> np.ndarray:
        return np.maximum(z - eta, 0)

    def least(function: Callable[[float], float], low: float, high: float) -> float:
        found = optimize.minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": 1e-13 * (high - low)})
        return min(float(found.fun), function(low), function(high)) + top

    if divergence == "cvar":
        return min(eta + float(plus(eta).mean()) / alpha for eta in z) + top
    if divergence == "kl-cvar":  # inf over eta of eta + lambda mean f*((z - eta) / lambda), f* of min(e^s, 1/alpha)
        def conjugate(s: np.ndarray) -> np.ndarray:
            knee = -math.log(alpha)
            return np.where(s < knee, np.exp(np.minimum(s, knee)) - 1, 1 / alpha - 1 + (s - knee) / alpha)

        return least(lambda eta: eta + penalty * float(conjugate((z - eta) / penalty).mean()), float(z.min()), 0.0)
    if divergence == "chi2" and radius is not None:
        far = width * (2 + 2 / math.sqrt(2 * radius))
        return least(lambda eta: eta + math.sqrt((1 + 2 * radius) * float((plus(eta) ** 2).mean())), -far, 0.0)
    if divergence == "chi2":
        return least(lambda eta: eta + penalty / 2 + float((plus(eta) ** 2).mean()) / (2 * penalty), -width - penalty * len(z), 0)
    if radius is not None:
        def of_log(t: float) -> float:
            tau = math.exp(t)
            return tau * radius + tau * math.log(float(np.exp(z / tau).mean()))

        return least(of_log, math.log(width) - 45, math.log(width) + 12)
    return penalty * math.log(float(np.exp(z / penalty).mean())) + top


# -------------------------------------------------------------------------------------------------- small functions


def allocate(scores: Sequence[float], budget: int, minimum: int = 0) -> list[int]:
    """Largest remainders, in rational arithmetic; ties go to the lower index."""
    exact = [Fraction(float(s)) for s in scores]
    rest = budget - minimum * len(exact)
    quotas = [rest * s / sum(exact) for s in exact]
    given = [math.floor(q) for q in quotas]
    order = sorted(range(len(exact)), key=lambda i: (given[i] - quotas[i], i))
    for i in order[: rest - sum(given)]:
        given[i] += 1
    return [minimum + g for g in given]


def pacing(kind: str, t: int, *, total: int, start: int, end: int) -> float:
    """Before rounding; clipped to [start, end]."""
    r = min(t / total, 1.0)
    share = {
        "linear": r,
        "quadratic": r * r,
        "root": math.sqrt(r),
        "exponential": math.expm1(10 * r) / math.expm1(10),
        "log": 1 + 0.1 * math.log(r + math.exp(-10)),
        "step": math.floor(r),
    }[kind]
    return start + (end - start) * min(max(share, 0.0), 1.0)


# -------------------------------------------------------------------------------------------------- states, refusals


def frozen(value: Any) -> Any:
    """Any state as nested tuples that compare by bits."""
    if isinstance(value, dict):
        return tuple(sorted((str(key), frozen(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    if isinstance(value, np.ndarray | np.generic):
        return (str(value.dtype), value.shape, value.tobytes())
    return (type(value).__name__, repr(value))


def refuses(names: str | Sequence[str], call: Callable[..., Any], *args: Any, **kw: Any) -> str:
    """The call raises ValueError or TypeError with a message that holds one of `names` as a word; returns the message."""
    names = [names] if isinstance(names, str) else list(names)
    try:
        got = call(*args, **kw)
    except (ValueError, TypeError) as error:
        text = str(error)
        assert not isinstance(error, UnicodeError)
        assert any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names), (names, text)
        return text
    raise AssertionError(f"accepted; {names} should have been refused; got {got!r}")
