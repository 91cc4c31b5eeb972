"""Filters: weights are taken away from the vectors that spread the others most."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._dispatch import runs
from .._rows import parse
from .combinations import weighted_sum
from .search import centred
from .subsets import check_majority, finite_sqdist


@runs("robust.pairwise_sqdist", "robust.combine")
def caf(x: Any, f: int, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Covariance-bound agnostic filter: the weighted mean with the least largest eigenvalue while outliers lose weight.

    Starts with weights c_i = 1 and, while sum c > n - 2 f: takes the weighted mean mu, the first eigenvector v of the
    weighted covariance and tau_i = ((x_i - mu) . v)^2, and multiplies c_i by 1 - tau_i / max tau, the maximum over the
    vectors that still have weight. The result is the mu whose covariance had the least first eigenvalue.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Byzantine vectors to tolerate, f >= 0 and n > 2 f. With f = 0 the result is the mean.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector
        Added in index order in float64 and rounded once to the dtype of x (float64: compensated).

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; n <= 2 f; more than f vectors have a NaN or an Inf.

    Notes
    -----
    A vector with a NaN or an Inf has weight 0 from the start: it counts as filtered already, and n - 2 f stays as it is.
    One at an infinite distance (its square overflows float64) loses its weight before any eigenproblem.
    Cost: that of `pairwise_sqdist`, one read of the vectors with a weight, and at most n eigenproblems of n x n: v is never
    made, its products come from the eigenvector of the centred inner products. Deterministic, as far as the eigensolver is.

    References
    ----------
    Allouah, Guerraoui, Stephan: Towards Trustworthy Federated Learning with Untrusted Participants (ICML 2025).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.caf(np.array([[1.0], [2.0], [3.0], [2.0], [1e20]]), 1)
    array([2.])
    """
    rows = parse(x)
    f = check_majority("caf", rows.n, f)
    parts = None if out is None else rows.check_out(out)
    sqdist, bad = finite_sqdist(rows, f, backend, num_threads)
    weights = _caf_logic(sqdist, bad, f)
    return weighted_sum(rows, weights[None], float(weights.sum()), out, parts, backend, num_threads)


def _caf_logic(sqdist: np.ndarray, bad: np.ndarray, f: int) -> np.ndarray:
    """Weights whose sum is the divisor. Each round takes the weight of one vector to zero, so there are at most n."""
    n = len(bad)
    c = np.where(bad, 0.0, 1.0)
    best, least = c, np.inf
    while c.sum() > n - 2 * f:
        alive = np.flatnonzero(c)
        inner = sqdist[np.ix_(alive, alive)]
        largest = inner.max()
        if largest == np.inf:
            c = c.copy()
            c[alive[np.isinf(inner).sum(axis=1).argmax()]] = 0.0
            continue
        if largest == 0.0:
            return c
        p = c[alive] / c[alive].sum()
        root = np.sqrt(p)
        values, vectors = np.linalg.eigh(root[:, None] * centred(inner / largest, p) * root)
        if values[-1] * largest < least:
            best, least = c, values[-1] * largest
        tau = (vectors[:, -1] / root) ** 2  # of (x_i - mu) . v, up to the factor sqrt(eigenvalue)
        c = c.copy()
        c[alive] *= 1.0 - tau / tau.max()
    return best
