"""FIRM: the weights of several objectives at a client, as a regularised least-norm point of their gradients' hull."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..._checks import array_out, number
from ..._dispatch import runs
from ..._rows import parse
from .gram import gram

ENUMERATED = 8  # objectives up to which all 2^M - 1 supports are tried
TOLERANCE = 1e-12  # of the optimality conditions, relative to the largest entry of the problem's matrix


class FIRMInfo(NamedTuple):
    """What the weights were computed from, and how good they are."""

    gram: np.ndarray  #: (M, M) float64, the inner products of the gradients
    residual: float  #: violation of the optimality conditions, relative to the largest entry of the problem's matrix
    status: str  #: "converged", or "stalled" where rounding left a residual above 1e-12
    iterations: int  #: linear systems solved after the first; 0 where all supports were tried


@runs("optim.gram")
def firm_weights(gradients: Any, beta: float, *, preference: Any = None, return_info: bool = False, out: Any = None,
                 backend: str | None = None, num_threads: int | None = None) -> Any:
    """Weights of M objectives: argmin over the simplex of 1/2 ||sum_j w_j g_j||^2 + beta/2 ||w - p||^2.

    With beta = 0 this is MGDA: d = sum_j w_j g_j is the least-norm point of the gradients' hull, and -d decreases every
    objective, <g_j, d> >= ||d||^2. With beta > 0 the weights are unique and change by O(1/beta) with the gradients, so that
    clients that see the same objectives on other data stay together; beta to infinity gives w = p.

    Parameters
    ----------
    gradients : (M, d) array, or sequence of M arrays, or sequence of M sequences of layer arrays
        One gradient per objective, M >= 1; float32, float64, float16 or bfloat16, on the host.
    beta : float
        Regularisation, at least 0, in the units of a squared gradient.
    preference : (M,) array of numbers >= 0, optional
        p, normalised to sum to one. Default: all equal.
    return_info : bool, optional
        Also return a `FIRMInfo`.
    out : (M,) float64 array, optional
        Where to put the result.
    backend : {"auto", "cpu", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    (M,) float64 NumPy array, or (array, FIRMInfo)
        At least 0 each, of sum one. The direction is ``fastgd.robust.combine(gradients, weights)``.

    Raises
    ------
    ValueError, TypeError
        `gradients` has none of the three forms, holds a NaN or an Inf, or coordinates beyond 1e150; `beta`,
        `preference` or `out` does not fit.
    BackendError
        The gradients are on a GPU.

    Notes
    -----
    Cost: one read of the gradients, M (M + 1) d / 2 multiply-adds for their inner products. Up to 8 objectives every
    support is tried, which is exact; above, Wolfe's active-set method, which ends after finitely many M x M systems.
    Deterministic: inner products have the same bits for every number of threads and every machine, the small systems
    those of NumPy's LAPACK.

    References
    ----------
    Nourzad, Roknilamouki, Ekici, Liu, Shroff: FIRM, Federated In-client Regularized Multi-objective Alignment for Large
    Language Models (2025), arXiv 2511.16992.
    Desideri: Multiple-gradient descent algorithm (Comptes Rendus Mathematique 2012).
    Wolfe: Finding the nearest point in a polytope (Mathematical Programming 1976).

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.optim.federated import firm_weights
    >>> gradients = np.array([[1.0, 1.0], [-1.0, 1.0], [0.0, 3.0]])
    >>> firm_weights(gradients, 0.0)
    array([0.5, 0.5, 0. ])
    >>> firm_weights(gradients, 1e9).round(6)
    array([0.333333, 0.333333, 0.333333])
    """
    beta = number(beta, "beta", 0.0)
    rows = parse(gradients, "gradients")
    p = _preference(preference, rows.n)
    view = None if out is None else _check_out(out, rows.n)
    products = gram(rows, "gradients", backend, num_threads)
    matrix = _hull(products, beta, p)
    if rows.n <= ENUMERATED:
        weights, iterations = _enumerate(matrix), 0
    else:
        weights, iterations = _wolfe(matrix)
    if view is not None:
        view[...] = weights
        weights = out
    if not return_info:
        return weights
    residual = _residual(matrix, weights)
    return weights, FIRMInfo(products, residual, "converged" if residual <= TOLERANCE else "stalled", iterations)


def _hull(products: np.ndarray, beta: float, p: np.ndarray) -> np.ndarray:
    """The inner products of the vectors (g_j, sqrt(beta) (e_j - p)): the least-norm point of their hull is what is sought.

    Scaled so that the largest entry is about 1, whatever the units; zero where all weights are equally good.
    """
    scale = max(float(np.abs(products).max()), beta)
    if scale == 0.0:
        return np.eye(len(p)) - p[:, None] - p + p @ p
    return products / scale + beta / scale * (np.eye(len(p)) - p[:, None] - p + p @ p)


def _enumerate(matrix: np.ndarray) -> np.ndarray:
    """The best of the stationary points of all faces of the simplex: the solution is one of them. Small faces come first."""
    m = len(matrix)
    inside = _faces(m)
    bordered = np.zeros((len(inside), m + 1, m + 1))
    bordered[:, :m, :m] = np.where(inside[:, :, None] & inside[:, None, :], matrix, np.eye(m))
    bordered[:, :m, m] = bordered[:, m, :m] = inside
    # Singular: the face's gradients are affinely dependent, and a smaller face has its point.
    systems = bordered[np.linalg.det(bordered) != 0.0]
    points = np.linalg.solve(systems, np.eye(m + 1)[m:].T[None])[:, :m, 0]
    points = points[np.isfinite(points).all(axis=1) & (points >= 0.0).all(axis=1) & (points.sum(axis=1) > 0.0)]
    points /= points.sum(axis=1, keepdims=True)
    values = ((points @ matrix) * points).sum(axis=1)
    return points[values.argmin()]


@cache
def _faces(m: int) -> np.ndarray:
    """(2^m - 1, m) bool: which vertices belong to each face of the simplex, small faces first."""
    supports = [face for size in range(1, m + 1) for face in itertools.combinations(range(m), size)]
    return np.array([[j in face for j in range(m)] for face in supports])


def _stationary(matrix: np.ndarray) -> np.ndarray | None:
    """The w of sum one with all (Q w)_j equal; None where the vectors are affinely dependent: a smaller face has the point."""
    m = len(matrix)
    bordered = np.ones((m + 1, m + 1))
    bordered[:m, :m] = matrix
    bordered[m, m] = 0.0
    try:
        w = np.linalg.solve(bordered, np.r_[np.zeros(m), 1.0])[:m]
    except np.linalg.LinAlgError:
        return None
    return w / w.sum() if np.isfinite(w).all() and w.sum() > 0.0 else None


def _wolfe(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """Wolfe's method: add the vertex that lies furthest this side of the point, then drop what gets a negative weight."""
    face = [int(np.diag(matrix).argmin())]
    w = np.ones(1)
    solved = 0
    for _ in range(50 * len(matrix)):
        slopes = matrix[:, face] @ w
        entering = int(slopes.argmin())
        if entering in face or slopes[entering] >= w @ slopes[face] - 1e-15:
            break
        face, w = [*face, entering], np.r_[w, 0.0]
        while True:
            point = _stationary(matrix[np.ix_(face, face)])
            solved += 1
            if point is None:  # what entered lies, up to rounding, in the span of the others: it brings nothing
                face, w = face[:-1], w[:-1] / w[:-1].sum()
                return _spread(face, w, len(matrix)), solved
            if (point > 0.0).all():
                w = point
                break
            falling = point <= 0.0
            steps = np.where(falling, w / np.where(falling, w - point, 1.0), np.inf)
            step = steps.min()
            w = w + step * (point - w)
            kept = (w > 0.0) & (steps > step)
            face, w = [j for j, keep in zip(face, kept, strict=True) if keep], w[kept] / w[kept].sum()
    return _spread(face, w, len(matrix)), solved


def _spread(face: list[int], w: np.ndarray, m: int) -> np.ndarray:
    weights = np.zeros(m)
    weights[face] = w
    return weights


def _residual(matrix: np.ndarray, weights: np.ndarray) -> float:
    """How far from (Q w)_j >= w' Q w with equality on the support, relative to the largest entry of Q."""
    slopes = matrix @ weights
    value = float(weights @ slopes)
    below = max(0.0, value - float(slopes.min()))
    apart = float(np.abs(slopes - value)[weights > 0.0].max())
    return max(below, apart) / float(np.abs(matrix).max())


def _preference(preference: Any, m: int) -> np.ndarray:
    """p as a point of the simplex."""
    if preference is None:
        return np.full(m, 1.0 / m)
    try:
        p = np.asarray(preference, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"preference must be {m} numbers on the host, got {type(preference).__name__}") from None
    if p.shape != (m,) or not np.isfinite(p).all() or (p < 0.0).any() or not p.any():
        raise ValueError(f"preference must be ({m},) finite numbers >= 0, one per objective, at least one of them positive, "
                         f"got {preference!r}")
    p = p / p.max()  # the sum of huge numbers is finite then
    return p / p.sum()


def _check_out(out: Any, m: int) -> Any:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    return array_out(out, (m,), "float64", "cpu")
