"""Rules that average a subset of the vectors: Bulyan, minimum diameter, least eigenvalue, nearest to a trusted one.

Each has its choice as a function of the distances alone, `_<rule>_logic(sqdist, bad, f, ..)`: weights whose sum is the
divisor. `composition.py` uses them on the distances of vectors that are never made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _threads
from .._arrays import to_host
from .._checks import count, index_list
from .._dispatch import Operand, find, runs
from .._rows import Rows, parse
from . import search
from .combinations import weighted_sum


@runs("robust.pairwise_sqdist", "robust.bulyan_select:float64", "robust.nearest_mean")
def bulyan(x: Any, f: int, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Bulyan: Krum chooses theta = n - 2 f vectors one by one; each coordinate averages beta = theta - 2 f middle values.

    Each choice is Krum's among the r vectors left, with their r - f - 2 nearest others (at least one). The second phase
    averages, per coordinate, the beta values of the chosen vectors that are nearest to the chosen vectors' median.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Byzantine vectors to tolerate, f >= 0 and n >= 4 f + 3.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector
        Ties of the first phase go to the lowest index. The values are added in ascending order in float64 and rounded once
        to the dtype of x (float64: compensated).

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; n < 4 f + 3; more than f vectors have a NaN or an Inf.

    Notes
    -----
    Cost: that of `pairwise_sqdist`, theta n^2 additions, and one read of the theta chosen vectors through a sorting network.
    Deterministic.

    References
    ----------
    El Mhamdi, Guerraoui, Rouault: The Hidden Vulnerability of Distributed Learning in Byzantium (ICML 2018).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [1e9]])
    >>> fastgd.robust.bulyan(x, 1)
    array([3.])
    """
    rows = parse(x)
    f = check_bulyan(rows.n, f)
    parts = None if out is None else rows.check_out(out)
    sqdist, bad = finite_sqdist(rows, f, backend, num_threads)
    selected = bulyan_selection(rows, sqdist, bad, f, backend)
    return nearest_mean(rows.take(selected.tolist()), len(selected) - 2 * f, out, parts, backend, num_threads)


@runs("robust.pairwise_sqdist", "robust.combine")
def mda(x: Any, f: int, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Minimum-diameter averaging: the mean of the n - f vectors whose largest pairwise distance is least.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Byzantine vectors to tolerate, f >= 0 and n > 2 f.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector
        The chosen vectors are added in index order in float64 and rounded once to the dtype of x (float64: compensated).
        Of several subsets with the same diameter the lexicographically first counts.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; n <= 2 f; more than f vectors have a NaN or an Inf.

    Notes
    -----
    For each subset S of n - f vectors, the result is within 2 f / (n - f) diameters of S of its mean.
    Cost: that of `pairwise_sqdist`, one read of n - f vectors, and an exact search: O(log n) bounded vertex covers, each
    O(1.47^f n) in the worst case; milliseconds for n = 60 and f = 20. Deterministic.

    References
    ----------
    El Mhamdi, Guerraoui, Guirguis, Hoang, Rouault: Genuinely Distributed Byzantine Machine Learning (PODC 2020).
    Farhadkhani, Guerraoui, Gupta, Pinot, Stephan: Byzantine Machine Learning Made Easy by Resilient Averaging of Momentums
    (ICML 2022).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.mda(np.array([[1.0], [2.0], [9.0], [3.0], [-7.0]]), 2)
    array([2.])
    """
    return _average(x, f, "mda", _mda_logic, out, backend, num_threads)


@runs("robust.pairwise_sqdist", "robust.combine")
def smea(x: Any, f: int, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Smallest-maximum-eigenvalue averaging: the mean of the n - f vectors whose covariance has the least largest eigenvalue.

    The eigenvalues of a subset's covariance are those of -J D J / (2 (n - f)), with D its squared distances and
    J = I - 1 1' / (n - f): exact, and without a matrix over the coordinates.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Byzantine vectors to tolerate, f >= 0 and n > 2 f.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector
        The chosen vectors are added in index order in float64 and rounded once to the dtype of x (float64: compensated).
        Eigenvalues within 1e-9 of the least, relative, are ties; of those the lexicographically first subset counts.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; n <= 2 f; more than f vectors have a NaN or an Inf; the search for the
        best subset takes more than 20000 eigenproblems.

    Notes
    -----
    Cost: that of `pairwise_sqdist`, one read of n - f vectors, and an exact branch and bound over the subsets, exponential
    in f in the worst case: some hundred n x n eigenproblems at n = 20 to 30 and f = n / 5, minutes at n = 60 and f = 12. For
    more vectors `caf` is the polynomial rule with the same aim. Deterministic, as far as the eigensolver is.

    References
    ----------
    Allouah, Guerraoui, Gupta, Pinot, Stephan: On the Privacy-Robustness-Utility Trilemma in Distributed Learning (ICML 2023).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.smea(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]), 1)
    array([2.5, 3.5, 4.5])
    """
    return _average(x, f, "smea", _smea_logic, out, backend, num_threads)


@runs("robust.sqdist_to", "robust.nearest:float64", "robust.combine")
def monna(x: Any, f: int, trusted: int, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """MoNNA: the mean of the n - f vectors nearest to a trusted one, itself included.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Byzantine vectors to tolerate, f >= 0 and n > 2 f.
    trusted : int
        Index of the trusted vector, 0 to n - 1: usually the caller's own.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector
        The chosen vectors are added in index order in float64 and rounded once to the dtype of x (float64: compensated).
        Vectors at the same distance are taken in index order.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; n <= 2 f; more than f vectors have a NaN or an Inf, or the trusted one has;
        `trusted` is no index of a vector (a negative one is refused: here it would rather be a mistake).

    Notes
    -----
    Cost: one read of the data for the distances to one vector, one read of n - f vectors. Deterministic.

    References
    ----------
    Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan: Robust Collaborative Learning with Linear Gradient Overhead
    (ICML 2023).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.monna(np.array([[1.0], [2.0], [9.0], [3.0], [np.nan]]), 2, 1)
    array([2.])
    """
    rows = parse(x)
    f = check_majority("monna", rows.n, f)
    trusted = count(trusted, "trusted", 0, rows.n - 1)
    parts = None if out is None else rows.check_out(out)
    kernel = find("robust.sqdist_to", rows.operand, backend)
    sqdist, bad = map(to_host, kernel(rows, rows.take([trusted]), _threads.budget(num_threads, rows.nbytes)))
    if bad[trusted]:
        raise ValueError(f"the trusted vector {rows.name}[{trusted}] has a NaN or an Inf: pass the index of a finite one")
    refuse_bad(rows, bad, f)
    weights = nearest(rows.operand, sqdist[None], bad, np.array([trusted]), rows.n - f, backend)
    return weighted_sum(rows, weights, float(rows.n - f), out, parts, backend, num_threads)


# ------------------------------------------------------------------------------------------------- checks and logic


def check_bulyan(n: int, f: int) -> int:
    """`f` as an integer, after checking that it fits."""
    f = count(f, "f", 0)
    if n < 4 * f + 3:
        raise ValueError(f"bulyan needs n >= 4 f + 3 vectors, got n={n} and f={f}: add vectors or lower f")
    return f


def check_majority(rule: str, n: int, f: int) -> int:
    """`f` as an integer, after checking that more than half of the vectors may be honest."""
    f = count(f, "f", 0)
    if n <= 2 * f:
        raise ValueError(f"{rule} needs n > 2 f vectors, got n={n} and f={f}: add vectors or lower f")
    return f


def refuse_bad(rows: Rows, bad: np.ndarray, f: int) -> None:
    """ValueError when more than f vectors have a NaN or an Inf."""
    if np.count_nonzero(bad) > f:
        raise ValueError(f"rows {index_list(bad)} of {rows.name} have a NaN or an Inf: {bad.sum()} bad vectors, but only "
                         f"f={f} were declared: raise f or remove them")


def finite_sqdist(rows: Rows, f: int, backend: str | None, num_threads: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances on the host, and which rows are bad; ValueError when more than f are."""
    kernel = find("robust.pairwise_sqdist", rows.operand, backend)
    sqdist, bad = kernel(rows, _threads.budget(num_threads, rows.nbytes))
    refuse_bad(rows, bad, f)
    return to_host(sqdist), bad


def bulyan_selection(rows: Rows, sqdist: np.ndarray, bad: np.ndarray, f: int, backend: str | None) -> np.ndarray:
    """The vectors of Bulyan's first phase, ascending."""
    selected: np.ndarray = find("robust.bulyan_select", rows.operand._replace(dtype="float64"), backend)(sqdist, bad, f)
    return selected


def nearest(operand: Operand, sqdist: np.ndarray, bad: np.ndarray, own: np.ndarray, keep: int, backend: str | None) -> np.ndarray:
    """For each row of distances weights 1 at the `keep` nearest vectors, `own` included."""
    weights: np.ndarray = find("robust.nearest", operand._replace(dtype="float64"), backend)(sqdist, bad, own, keep)
    return weights


def nearest_mean(rows: Rows, window: int, out: Any, parts: list[Any] | None, backend: str | None, num_threads: int | None) -> Any:
    """Bulyan's second phase; the rows are finite."""
    stacks = rows.empty(1)
    find("robust.nearest_mean", rows.operand, backend)(rows, window, 0, stacks, _threads.budget(num_threads, rows.nbytes))
    return rows.store([stack[0, ...] for stack in stacks], out, parts)


def _average(x: Any, f: int, rule: str, logic: Any, out: Any, backend: str | None, num_threads: int | None) -> Any:
    rows = parse(x)
    f = check_majority(rule, rows.n, f)
    parts = None if out is None else rows.check_out(out)
    sqdist, bad = finite_sqdist(rows, f, backend, num_threads)
    weights = logic(sqdist, bad, f)
    return weighted_sum(rows, weights[None], float(weights.sum()), out, parts, backend, num_threads)


def _mda_logic(sqdist: np.ndarray, bad: np.ndarray, f: int) -> np.ndarray:
    return _chosen(sqdist, bad, f, search.least_diameter)


def _smea_logic(sqdist: np.ndarray, bad: np.ndarray, f: int) -> np.ndarray:
    try:
        return _chosen(sqdist, bad, f, search.least_eigenvalue)
    except RuntimeError:
        raise ValueError(f"smea gave up its search among the subsets of n={len(bad)} vectors for f={f}, which takes more than "
                         f"{search.MOST_NODES} eigenproblems: lower f or n, or use caf") from None


def _chosen(sqdist: np.ndarray, bad: np.ndarray, f: int, choose: Any) -> np.ndarray:
    """0/1 weights of the n - f vectors that `choose` takes from those that are not bad."""
    good = np.flatnonzero(~bad)
    weights = np.zeros(len(bad))
    weights[good[choose(sqdist[np.ix_(good, good)], len(bad) - f)]] = 1.0
    return weights
