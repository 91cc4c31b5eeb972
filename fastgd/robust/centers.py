"""Centers: points that are near all vectors in a robust sense, found in the space of weights from distances alone."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import _threads
from .._arrays import to_host
from .._checks import array_out, count, index_list, number
from .._dispatch import Operand, find, runs
from .._rows import Rows, parse
from .clipping import distances_to
from .combinations import _weights, weighted_sum
from .distances import parse_sqdist

#: A vector whose share times its distance exceeds this many typical distances has no say: the distances to it, rounded,
#: no longer tell its direction.
_FAR = 2.0**23
#: A smoothing below this many typical distances counts as zero: the exact median is within it, and better defined.
_FINE = 2.0**-10
#: Distances longer than this many radii make `centered_clip` measure anew in each iteration.
_WIDE = 2.0**12


class GeometricMedianInfo(NamedTuple):
    """How a geometric median was found."""

    weights: np.ndarray  #: (n,) float64, >= 0, of sum 1: the median is this mean of the vectors
    iterations: int  #: steps made
    status: str  #: "converged" or "max_iter"
    objective: float  #: sum of a_i ||x_i - v|| over the finite vectors, their shares a_i of sum 1
    bad_rows: np.ndarray  #: (n,) bool, True where a vector has a NaN or an Inf


@runs("robust.pairwise_sqdist", "robust.combine")
def geometric_median(x: Any, *, weights: Any = None, smoothing: float = 1e-6, tol: float = 1e-10, max_iter: int = 1000,
                     return_info: bool = False, out: Any = None, backend: str | None = None,
                     num_threads: int | None = None) -> Any:
    """Geometric median: the point v with the least sum of distances a_i ||x_i - v||.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    weights : (n,) array of finite numbers >= 0, optional
        The a_i, normalised to sum 1. Default: all equal.
    smoothing : float, optional
        nu >= 0, a length in the units of x: at the median v = sum b_i x_i / sum b_i with b_i = a_i / max(nu, ||x_i - v||),
        that is, distances r < nu are replaced by (r^2 / nu + nu) / 2. It matters only where a vector lies within nu of v, and
        moves v by about nu at most. Below 1/1024 of the typical distance (see Notes) it is taken as 0, which gives
        the exact median. GM(c x; c nu) = c GM(x; nu), and a translation of x translates the result.
    tol : float, optional
        Stop when the pull on v, ||sum_i b_i (x_i - v)||, is at most this. It has no unit: a single vector pulls with a_i.
    max_iter : int, optional
        Steps at most.
    return_info : bool, optional
        Also return a `GeometricMedianInfo`.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector, or (vector, GeometricMedianInfo)
        A bitwise copy of a vector where that is the exact median, as for collinear vectors, whose weighted median it is (the
        lowest index, should two or a segment between them qualify).

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; `weights`, `smoothing`, `tol` or `max_iter` does not fit; no vector that has a weight is
        finite; float64 vectors so far apart (1e154) that no half of the weight has finite squared distances.

    Notes
    -----
    Vectors with a NaN or an Inf are left out. While the honest vectors have more than half of the weight, the result stays
    within a bounded distance of them: (f, kappa)-robust with kappa = 4 (1 + f / (n - 2f))^2. A vector farther than 2^23 / a_i
    typical distances (the least of the vectors' weighted median distances to the others) is left out as well: distances
    so unequal no longer tell its direction.
    Cost: that of `pairwise_sqdist`, plus one read of the data; the steps work on n x n numbers, n^3 / 3 operations each,
    and converge quadratically. The objective never rises. "converged" includes that rounding allows no further progress.
    Deterministic.

    References
    ----------
    Weiszfeld: Sur le point pour lequel la somme des distances de n points donnés est minimum (Tohoku Math. J. 1937). Vardi,
    Zhang: The multivariate L1-median and associated data depth (PNAS 2000). Pillutla, Kakade, Harchaoui: Robust Aggregation for
    Federated Learning (IEEE TSP 2022).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    >>> fastgd.robust.geometric_median(square)
    array([1., 1.])
    """
    rows = parse(x)
    share = _shares(weights, rows.n)
    limits = _check_limits(smoothing, tol, max_iter)
    parts = None if out is None else rows.check_out(out)
    threads = _threads.budget(num_threads, rows.nbytes)
    sqdist, bad = map(to_host, find("robust.pairwise_sqdist", rows.operand, backend)(rows, threads))
    if (bad | (share == 0.0)).all():
        raise ValueError(_nothing_left(rows))
    found = _solve(sqdist, np.where(bad, 0.0, share), limits, rows.operand, backend)
    vector = weighted_sum(rows, found[0][None], math.fsum(found[0]), out, parts, backend, num_threads)
    return (vector, GeometricMedianInfo(*found, bad)) if return_info else vector


@runs("robust.geometric_median")
def geometric_median_weights(sqdist: Any, *, weights: Any = None, smoothing: float = 1e-6, tol: float = 1e-10,
                             max_iter: int = 1000, return_info: bool = False, out: Any = None,
                             backend: str | None = None) -> Any:
    """Weights of the geometric median from a distance matrix: the median is sum_i w_i x_i.

    Parameters
    ----------
    sqdist : (n, n) float64 array
        Squared distances, as made by `pairwise_sqdist`. A device array is copied to the host, where the result lives.
    weights : (n,) array of finite numbers >= 0, optional
        Shares of the vectors, normalised to sum 1. Default: all equal.
    smoothing : float, optional
        As in `geometric_median`.
    tol : float, optional
        As in `geometric_median`.
    max_iter : int, optional
        Steps at most.
    return_info : bool, optional
        Also return a `GeometricMedianInfo`.
    out : (n,) float64 array, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.

    Returns
    -------
    (n,) float64 array, or (weights, GeometricMedianInfo)
        Nonnegative, of sum 1; 0 for a vector at an infinite distance from all others.

    Raises
    ------
    ValueError, TypeError
        `sqdist` is not square, not float64, or holds a NaN or a negative distance; another argument does not fit; no half of
        the weight has finite distances.

    Notes
    -----
    Cost: n^3 / 3 operations a step, a handful of steps, O(n^2) memory. Deterministic.

    References
    ----------
    Weiszfeld (Tohoku Math. J. 1937); Vardi, Zhang (PNAS 2000).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([0.0, 1.0, 10.0])
    >>> fastgd.robust.geometric_median_weights((x[:, None] - x) ** 2, smoothing=0.0)
    array([0., 1., 0.])
    """
    host, operand, wrap = parse_sqdist(sqdist)
    n = len(host)
    share = _shares(weights, n)
    limits = _check_limits(smoothing, tol, max_iter)
    view = None if out is None else array_out(out, (n,), "float64", "cpu")
    bad = np.isinf(host).sum(axis=1) == n - 1
    bad &= not (bad | (share == 0.0)).all()
    found = _solve(host, np.where(bad, 0.0, share), limits, operand, backend)
    if view is None:
        result = wrap(found[0].copy()) if operand.device == "cpu" else found[0].copy()
    else:
        view[...] = found[0]
        result = out
    return (result, GeometricMedianInfo(*found, bad)) if return_info else result


@runs("robust.sqdist_to", "robust.combine")
def centered_clip(x: Any, *, radius: float, start: Any = None, iterations: int = 1, out: Any = None,
                  backend: str | None = None, num_threads: int | None = None) -> Any:
    """Centered clipping: v <- v + (1/m) sum_i (x_i - v) min(1, radius / ||x_i - v||), over the m finite vectors.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    radius : float
        tau > 0, in the units of x: no vector moves v by more than radius / m an iteration.
    start : array or list of layer arrays, shaped like one vector, optional
        The first v, such as the previous aggregate: finite, of the dtype and device of x. Default: the coordinate-wise
        median of the finite vectors.
    iterations : int, optional
        How often, at least 1.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector
        One combination of the vectors and `start`, added in float64 and rounded once.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; no vector is finite; `start` does not fit or is not finite; `radius` or `iterations` does
        not fit.

    Notes
    -----
    Vectors with a NaN or an Inf are left out; those of any other size pull with at most radius / m.
    Cost: two reads of the data, and that of `median` without `start`. Several iterations work on the weights: they cost
    one more `pairwise_sqdist`, unless vectors are farther apart than 4096 radii, which takes two reads an iteration.
    Deterministic.

    References
    ----------
    Karimireddy, He, Jaggi: Learning from History for Byzantine Robust Optimization (ICML 2021).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([[0.0], [1.0], [2.0], [1e30]])
    >>> fastgd.robust.centered_clip(x, radius=4.0, start=np.array([1.0]))
    array([2.])
    """
    rows = parse(x)
    radius = number(radius, "radius", 0.0, above=True)
    iterations = count(iterations, "iterations", 1)
    parts = None if out is None else rows.check_out(out)
    if start is None:
        rows, point, distance = _from_median(rows, backend, num_threads)
    else:
        point = rows.single(rows.parse_one(start, "start"))
        if distances_to(point, None, backend, num_threads)[1].any():
            raise ValueError("start has a NaN or an Inf: pass a finite vector, or None for the coordinate-wise median")
        distance, bad = distances_to(rows, point, backend, num_threads)
        rows, distance = _finite(rows, bad), distance[~bad]
    both = rows.append([layer.data[0] for layer in point.layers])
    pulls = _pulls(distance, radius)
    if iterations > 1:
        pulls = _iterate(rows, both, pulls, radius, iterations, backend, num_threads)
    return weighted_sum(both, pulls[None], float(rows.n), out, parts, backend, num_threads)


def _pulls(distance: np.ndarray, radius: float) -> np.ndarray:
    """The m weights min(1, radius / distance), and the start's: what is left of m."""
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        clipped = np.minimum(1.0, radius / distance).astype(np.float64)
    return np.append(clipped, len(distance) - math.fsum(clipped))


def _iterate(rows: Rows, both: Rows, pulls: np.ndarray, radius: float, iterations: int, backend: str | None,
             num_threads: int | None) -> np.ndarray:
    """The weights of the vectors and the start, of sum m, after all iterations; `pulls` are those after the first."""
    m, weights = rows.n, pulls
    threads = _threads.budget(num_threads, both.nbytes)
    sqdist = to_host(find("robust.pairwise_sqdist", both.operand, backend)(both, threads)[0])
    measured = sqdist.max() > (_WIDE * radius) ** 2
    for _ in range(iterations - 1):
        if measured:
            stacks = both.empty(1)
            find("robust.combine", both.operand, backend)(both, weights[None], float(m), stacks, threads)
            point = both.single([stack[0, ...] for stack in stacks])
            distance = distances_to(rows, point, backend, num_threads)[0]
        else:
            spread = (sqdist * weights).sum(axis=1) / m
            distance = np.sqrt(np.maximum(spread - (spread * weights).sum() / (2 * m), 0.0))[:m]
        step = _pulls(distance, radius)
        weights = weights * (step[-1] / m)
        weights[:-1] += step[:-1]
    return weights


def _from_median(rows: Rows, backend: str | None, num_threads: int | None) -> tuple[Rows, Rows, np.ndarray]:
    """The finite vectors, their coordinate-wise median as rows of one, and their distances to it."""
    kernel, threads = find("robust.median", rows.operand, backend), _threads.budget(num_threads, rows.nbytes)
    while True:
        stacks = rows.empty(1)
        broken = kernel(rows, (rows.n - 1) // 2, stacks, threads)
        point = rows.single([stack[0, ...] for stack in stacks])
        if broken >= 0:
            rows = _finite(rows, rows.bad_rows())
            continue
        distance, bad = distances_to(rows, point, backend, num_threads)
        if not bad.any():
            return rows, point, distance
        rows = _finite(rows, bad)


def _finite(rows: Rows, bad: np.ndarray) -> Rows:
    """The vectors that are not bad."""
    if bad.all():
        raise ValueError(_nothing_left(rows))
    return rows.take(np.flatnonzero(~bad).tolist()) if bad.any() else rows


def _nothing_left(rows: Rows) -> str:
    return (f"rows {index_list(rows.bad_rows())} of {rows.name} have a NaN or an Inf, and no finite vector with a weight is "
            "left: remove or repair them")


def _check_limits(smoothing: float, tol: float, max_iter: int) -> tuple[float, float, int]:
    return number(smoothing, "smoothing", 0.0), number(tol, "tol", 0.0), count(max_iter, "max_iter", 1)


def _shares(weights: Any, n: int) -> np.ndarray:
    """Client weights as (n,) float64 with a maximum near 1."""
    if weights is None:
        return np.ones(n)
    w = _weights(weights, n)
    if w.ndim != 1 or (w < 0.0).any() or not w.any():
        raise ValueError("weights must be one number >= 0 per vector, at least one of them positive")
    return np.ldexp(w, -int(np.frexp(w.max())[1]))


def _solve(sqdist: np.ndarray, share: np.ndarray, limits: tuple[float, float, int], operand: Operand,
           backend: str | None) -> tuple[np.ndarray, int, str, float]:
    """Weights, iterations, status and objective of the geometric median of the vectors with a share."""
    smoothing, tol, max_iter = limits
    kernel = find("robust.geometric_median", operand._replace(dtype="float64"), backend)
    weights, chosen = np.zeros(len(share)), np.flatnonzero(share)
    share = share[chosen] / math.fsum(share)
    sqdist = sqdist[np.ix_(chosen, chosen)]
    center, typical = _center(sqdist, share)
    distance = np.sqrt(sqdist[center])
    near = (share * distance <= _FAR * max(typical, smoothing)) & (distance < 2.0**508)
    unit = typical or float(distance[near].max())  # 0: half of the weight is in one place
    if smoothing < _FINE * unit:
        smoothing = 0.0
    # Scaling by a power of two is exact: the weights do not depend on the units of x, if those of the smoothing follow.
    exponent = math.frexp(unit)[1]
    scaled = np.ldexp(sqdist[np.ix_(near, near)], -2 * exponent)
    nu = math.ldexp(smoothing, -exponent) if scaled.any() else 0.0
    mass = math.fsum(share[near])
    weights[chosen[near]], objective, iterations, converged = kernel(scaled, share[near] / mass, nu, tol, max_iter)
    total = mass * math.ldexp(objective, exponent) + math.fsum(share[~near] * distance[~near])
    return weights, iterations, "converged" if converged else "max_iter", total


def _center(sqdist: np.ndarray, share: np.ndarray) -> tuple[int, float]:
    """The vector to which half of the weight is nearest, and how near."""
    order = np.argsort(sqdist, axis=1, kind="stable")
    mass = np.cumsum(share[order], axis=1)
    place = (mass >= 0.5 * (1.0 - 1e-12) * mass[:, -1:]).argmax(axis=1)[:, None]
    typical = np.take_along_axis(sqdist, np.take_along_axis(order, place, axis=1), axis=1)[:, 0]
    center = int(typical.argmin())
    if not typical[center] < np.inf:
        raise ValueError("no half of the vectors' weight is at finite squared distances of each other: scale the vectors down, "
                         "to differences below 1e150")
    return center, math.sqrt(typical[center])
