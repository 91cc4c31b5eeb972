"""Oracles for every rule of `fastgd.robust`, in d dimensions and as slow as the definitions read.

Nothing here calls fastgd, and nothing here uses a matrix of distances where the definition speaks of vectors: rules
that the package evaluates on n x n numbers are evaluated on the vectors. Vectors are float64 (n, d) arrays of finite
numbers; `f` is the number of vectors that may be Byzantine. tests/test_rules_oracle.py checks this module by hand-made
examples.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np

# ------------------------------------------------------------------------------------------------ exact distances


def exact_sqdist(x: Any) -> np.ndarray:
    """Squared distances by differences in float64 and correctly rounded sums (math.fsum); diagonal zero."""
    x = np.asarray(x, np.float64)
    n = len(x)
    sqdist = np.zeros((n, n))
    for i in range(n):
        squares = (x[i + 1 :] - x[i]) ** 2
        sqdist[i, i + 1 :] = [math.fsum(row) for row in squares.tolist()]
    return sqdist + sqdist.T


def rational_sqdist(a: Any, b: Any) -> Fraction:
    """One squared distance without any rounding."""
    return sum(((Fraction(float(p)) - Fraction(float(q))) ** 2 for p, q in zip(a, b, strict=True)), Fraction(0))


def exact_scores(sqdist: np.ndarray, neighbors: int) -> list[float]:
    """Krum scores, each sum of smallest distances correctly rounded."""
    return [math.fsum(sorted(np.delete(row, i).tolist())[:neighbors]) for i, row in enumerate(sqdist)]


def best_of(scores: list[float], m: int) -> list[int]:
    """The m lowest scores' indices, ties to the lowest index, in ascending order."""
    return sorted(sorted(range(len(scores)), key=lambda i: (scores[i], i))[:m])


def krum(x: np.ndarray, f: int, m: int = 1, neighbors: int | None = None) -> list[int]:
    """The indices that (Multi-)Krum chooses."""
    neighbors = len(x) - f - 2 if neighbors is None else neighbors
    return best_of(exact_scores(exact_sqdist(x), neighbors), m)


# ------------------------------------------------------------------------------------------ coordinate-wise rules


def nearest_mean_1d(values: list[float], count: int) -> float:
    """The mean of the `count` values nearest to the median (the mean of the two middle values for an even number).

    Of values that are equally near, the lower.
    """
    exact = sorted(Fraction(float(value)) for value in values)
    middle = (exact[(len(exact) - 1) // 2] + exact[len(exact) // 2]) / 2
    return float(sum(sorted(exact, key=lambda value: (abs(value - middle), value))[:count]) / count)


def meamed(x: np.ndarray, f: int) -> np.ndarray:
    """Per coordinate, the mean of the n - f values nearest to the median."""
    return np.array([nearest_mean_1d(column.tolist(), len(x) - f) for column in x.T])


def median(x: np.ndarray) -> np.ndarray:
    ranked = np.sort(x, axis=0)
    return (ranked[(len(x) - 1) // 2] + ranked[len(x) // 2]) / 2


def bulyan_selection(x: np.ndarray, f: int) -> list[int]:
    """The n - 2 f vectors that Krum, repeated on what is left, chooses one after the other."""
    left, chosen = list(range(len(x))), []
    while len(chosen) < len(x) - 2 * f:
        sqdist = exact_sqdist(x[left])
        scores = exact_scores(sqdist, max(1, len(left) - f - 2))
        chosen.append(left.pop(best_of(scores, 1)[0]))
    return chosen


def bulyan(x: np.ndarray, f: int) -> np.ndarray:
    """Per coordinate, the mean of the n - 4 f chosen values nearest to the chosen values' median."""
    chosen = x[bulyan_selection(x, f)]
    return np.array([nearest_mean_1d(column.tolist(), len(x) - 4 * f) for column in chosen.T])


# --------------------------------------------------------------------------------------------- geometric median


def gm_objective(x: np.ndarray, v: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The weighted mean of the distances to v."""
    return float(np.average(np.linalg.norm(x - v, axis=1), weights=weights))


def gm_slope(x: np.ndarray, v: np.ndarray, weights: np.ndarray | None = None) -> float:
    """How far v is from stationary: |sum of a_i times the unit vectors to the others| minus the weight at v, or 0."""
    a = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    a = a / a.sum()
    gap = np.linalg.norm(x - v, axis=1)
    away = gap > 0
    pull = (a[away, None] * (x[away] - v) / gap[away, None]).sum(axis=0)
    return max(0.0, float(np.linalg.norm(pull) - a[~away].sum()))


def geometric_median(x: np.ndarray, weights: np.ndarray | None = None, iterations: int = 200_000) -> np.ndarray:
    """Weiszfeld's iteration on the vector itself, to convergence; a data point that is the median is found first."""
    a = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    for i in range(len(x)):
        if a[i] > 0 and gm_slope(x, x[i], a) == 0.0:
            return x[i].copy()
    v = np.average(x, axis=0, weights=a)
    for _ in range(iterations):
        gap = np.linalg.norm(x - v, axis=1)
        away = gap > 1e-9 * gap.max()
        if not away.all():  # at a vector that is not the median: downhill from it, as far as it is downhill
            pull = (a[away, None] * (x[away] - v) / gap[away, None]).sum(axis=0)
            step = gap.max()
            while gm_objective(x, v + step * pull / np.linalg.norm(pull), a) >= gm_objective(x, v, a):
                step /= 2
            v = v + step * pull / np.linalg.norm(pull)
            continue
        pull = a / gap
        new = pull @ x / pull.sum()
        done = np.linalg.norm(new - v) <= 1e-15 * (1.0 + np.linalg.norm(v))
        v = new
        if done:
            break
    return v


def weiszfeld(x: np.ndarray, iterations: int) -> list[np.ndarray]:
    """The iterates of Weiszfeld on the vector, from the mean."""
    path = [x.mean(axis=0)]
    for _ in range(iterations):
        pull = 1.0 / np.linalg.norm(x - path[-1], axis=1)
        path.append(pull @ x / pull.sum())
    return path


# ------------------------------------------------------------------------------------------------ other rules


def centered_clip(x: np.ndarray, radius: float, start: np.ndarray | None = None, iterations: int = 1) -> np.ndarray:
    v = median(x) if start is None else np.array(start, float)
    for _ in range(iterations):
        step = np.zeros_like(v)
        for row in x:
            gap = math.hypot(*(row - v))
            step += (row - v) * (min(1.0, radius / gap) if gap > 0 else 1.0)
        v = v + step / len(x)
    return v


def mda(x: np.ndarray, f: int) -> tuple[int, ...]:
    """The first subset of n - f vectors in lexicographic order with the smallest largest distance."""
    sqdist = exact_sqdist(x)
    best, least = (), math.inf
    for subset in combinations(range(len(x)), len(x) - f):
        diameter = max((sqdist[i, j] for i, j in combinations(subset, 2)), default=0.0)
        if diameter < least:
            best, least = subset, diameter
    return best


def largest_eigenvalue(x: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """Top eigenpair of the d x d (weighted, biased) covariance."""
    mu = np.average(x, axis=0, weights=weights)
    c = np.ones(len(x)) if weights is None else weights
    values, vectors = np.linalg.eigh(((x - mu).T * c) @ (x - mu) / c.sum())
    return float(values[-1]), vectors[:, -1]


def smea(x: np.ndarray, f: int) -> tuple[int, ...]:
    """The subset of n - f vectors whose covariance has the smallest largest eigenvalue; ties within rounding: the first."""
    subsets = list(combinations(range(len(x)), len(x) - f))
    tops = [largest_eigenvalue(x[list(subset)])[0] for subset in subsets]
    least = min(tops)
    return next(s for s, top in zip(subsets, tops, strict=True) if top <= least + 1e-12 * abs(least))


def caf(x: np.ndarray, f: int) -> np.ndarray:
    n = len(x)
    c, kept, least = np.ones(n), x.mean(axis=0), math.inf
    while c.sum() > n - 2 * f:
        top, direction = largest_eigenvalue(x, c)
        mu = np.average(x, axis=0, weights=c)
        if top < least:
            kept, least = mu, top
        tau = ((x - mu) @ direction) ** 2
        ceiling = tau[c > 0].max()
        if ceiling == 0.0:
            break
        c = np.where(c > 0, c * (1.0 - np.minimum(tau / ceiling, 1.0)), 0.0)
    return kept


def nearest_to(x: np.ndarray, i: int, count: int) -> list[int]:
    """The `count` vectors nearest to vector i, itself among them, ties to the lowest index (itself first)."""
    gap = [(-1.0 if j == i else math.fsum(((x[j] - x[i]) ** 2).tolist()), j) for j in range(len(x))]
    return sorted(j for _, j in sorted(gap)[:count])


def monna(x: np.ndarray, f: int, trusted: int) -> np.ndarray:
    return x[nearest_to(x, trusted, len(x) - f)].mean(axis=0)


def nnm(x: np.ndarray, f: int) -> np.ndarray:
    return np.stack([x[nearest_to(x, i, len(x) - f)].mean(axis=0) for i in range(len(x))])


def arc_radius(x: np.ndarray, f: int) -> float:
    """The norm to which the floor(2 f (n - f) / n) longest vectors are clipped."""
    n = len(x)
    longest_first = sorted((math.hypot(*row) for row in x), reverse=True)
    return longest_first[2 * f * (n - f) // n]


def clip(x: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([row if math.hypot(*row) <= radius else row * (radius / math.hypot(*row)) for row in x])


def arc(x: np.ndarray, f: int) -> np.ndarray:
    return clip(x, arc_radius(x, f))


def hamming(a: np.ndarray, b: np.ndarray) -> int:
    """Bits that differ, counted one by one."""
    return sum(bin(int(p) ^ int(q)).count("1") for p, q in zip(a, b, strict=True))


# ------------------------------------------------------------------------------------------------------- bounds


def spread(honest: np.ndarray) -> float:
    """(1 / |S|) sum over S of ||x_i - mean of S||^2."""
    return float(((honest - honest.mean(axis=0)) ** 2).sum() / len(honest))


def diameter(honest: np.ndarray) -> float:
    return max((math.hypot(*(a - b)) for a, b in combinations(honest, 2)), default=0.0)


def attacks(honest: np.ndarray, f: int, rng: np.random.Generator) -> list[np.ndarray]:
    """f Byzantine vectors each: the attacks of the literature and random ones, over a range of strengths."""
    mu, deviation = honest.mean(axis=0), honest.std(axis=0, ddof=1)
    d = honest.shape[1]
    found = [np.tile(honest[0], (f, 1)), np.tile(-mu, (f, 1)), np.tile(honest[len(honest) // 2], (f, 1)), np.full((f, d), 1e8)]
    # The worst case of trimming: hide among the extreme honest vectors of one direction.
    for _ in range(2):
        direction = rng.standard_normal(d)
        direction /= np.linalg.norm(direction)
        order = np.argsort(honest @ direction)
        found.append(honest[order[-f:]] + 1e-3 * rng.standard_normal((f, d)))
        for strength in (0.3, 1.0, 2.0, 4.0, 10.0, 100.0):
            found.append(mu + strength * math.sqrt(spread(honest)) * np.tile(direction, (f, 1)))
    for strength in (0.1, 0.5, 1.0, 1.5, 2.5, 5.0):
        found.append(np.tile(mu + strength * deviation, (f, 1)))
        found.append(np.tile(-strength * mu, (f, 1)))
        found.append(mu + strength * rng.standard_normal((f, d)) * deviation)
    return found


def placed(honest: np.ndarray, byzantine: np.ndarray, where: np.ndarray) -> np.ndarray:
    """All vectors, the Byzantine ones at the indices `where`."""
    x = np.empty((len(honest) + len(byzantine), honest.shape[1]))
    x[where] = byzantine
    x[np.setdiff1d(np.arange(len(x)), where)] = honest
    return x
