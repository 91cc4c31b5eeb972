"""Distance rules: one pass for the squared distances, logic on them, a copy or a combination of what was chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import _threads
from .._arrays import to_host, unpack
from .._checks import array_out, count, index_list
from .._dispatch import Operand, find, runs
from .._rows import Rows, parse
from .combinations import weighted_sum


class KrumInfo(NamedTuple):
    """What a Krum rule saw and chose."""

    selected: np.ndarray  #: (m,) int64, the chosen vectors in ascending order
    scores: np.ndarray  #: (n,) float64, +inf for dropped vectors
    bad_rows: np.ndarray  #: (n,) bool, True where a vector has a NaN or an Inf



@runs("robust.pairwise_sqdist")
def pairwise_sqdist(x: Any, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Squared Euclidean distances between all pairs of vectors: D_ij = sum_c (x_ic - x_jc)^2.

    Differences are taken first and squared after, so no cancellation occurs however far the vectors are from the
    origin, and no vector, however large, costs the others accuracy (the Gram identity |x|^2 - 2xy + |y|^2 loses both).
    Above 96 vectors that identity is used on vectors centred by a central one of them, wherever it provably loses nothing.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    out : (n, n) float64 array, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    (n, n) float64 array
        Exactly symmetric, the diagonal exactly 0. The row and column of a vector with any NaN or Inf are +inf off the
        diagonal. Relative error for float32 and the halves: typically 1e-8, below 2.3e-6 for any input (above 96 vectors
        1e-7, below 1.2e-5); for float64 below 1e-13, as long as squared differences neither overflow nor underflow
        (1e-150 to 1e150).

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms or an unsupported dtype; `out` does not fit.

    Notes
    -----
    Cost: one read of x, n (n - 1) d fused or plain vector operations, half as many above 96 vectors;
    O(n^2 + threads x block) memory. Deterministic.

    References
    ----------
    Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries (NIPS 2017).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.pairwise_sqdist(np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([[ 0., 25.],
           [25.,  0.]])
    """
    rows = parse(x)
    view = None if out is None else array_out(out, (rows.n, rows.n), "float64", rows.operand.device)
    sqdist, _ = find("robust.pairwise_sqdist", rows.operand, backend)(rows, _threads.budget(num_threads, rows.nbytes))
    if view is None:
        return rows.wrap(sqdist)
    view[...] = sqdist
    return out


@runs("robust.krum_scores")
def krum_scores(sqdist: Any, f: int, *, neighbors: int | None = None, out: Any = None,
                backend: str | None = None) -> Any:
    """Krum scores from a distance matrix: s_i = sum of the k smallest D_ij over j != i, with k = n - f - 2.

    Parameters
    ----------
    sqdist : (n, n) float64 array
        Squared distances; row i belongs to vector i. The diagonal is ignored; +inf marks dropped vectors. A device array
        is copied to the host: logic on n x n numbers runs there, and so does the result live there.
    f : int
        Byzantine vectors to tolerate, f >= 0 and n >= 2 f + 3 (n > 2 f when `neighbors` is given).
    neighbors : int, optional
        k, from 1 to n - 1. Default n - f - 2 as in the paper; some libraries use n - f - 1.
    out : (n,) float64 array, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.

    Returns
    -------
    (n,) float64 array
        The k distances are added in ascending order, so equal multisets of distances give equal bits.

    Raises
    ------
    ValueError, TypeError
        `sqdist` is not square, not float64, or holds a NaN or a negative distance; n, f, k do not fit.

    Notes
    -----
    Cost: O(n^2 log^2 n) vectorised comparisons in a sorting network, O(n^2) memory. Deterministic.

    References
    ----------
    Blanchard et al. (NIPS 2017), section 4.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([0.0, 1.0, 2.0, 3.0, 100.0])
    >>> fastgd.robust.krum_scores((x[:, None] - x) ** 2, 1)
    array([5.0000e+00, 2.0000e+00, 2.0000e+00, 5.0000e+00, 1.9013e+04])
    """
    data, operand, wrap = parse_sqdist(sqdist)
    n = len(data)
    k = _check_krum(n, f, neighbors)
    view = None if out is None else array_out(out, (n,), "float64", "cpu")
    scores = find("robust.krum_scores", operand, backend)(data, k)
    if view is None:
        return wrap(scores) if operand.device == "cpu" else scores
    view[...] = scores
    return out


def parse_sqdist(sqdist: Any) -> tuple[np.ndarray, Operand, Callable[[Any], Any]]:
    """A distance matrix as a copy on the host with a zero diagonal, and the rest of what `unpack` gives."""
    data, operand, wrap = unpack(sqdist, "sqdist")
    if data.ndim != 2 or data.shape[0] != data.shape[1] or operand.dtype != "float64" or not data.shape[0]:
        raise ValueError(f"sqdist is {operand.dtype} {tuple(data.shape)}, but must be float64 (n, n), as made by pairwise_sqdist")
    host = np.array(to_host(data))
    np.fill_diagonal(host, 0.0)
    if not (host >= 0.0).all():
        raise ValueError("sqdist holds a NaN or a negative distance: pass the output of pairwise_sqdist")
    return host, operand, wrap


@runs("robust.select")
def krum(x: Any, f: int, *, neighbors: int | None = None, return_info: bool = False, out: Any = None,
         backend: str | None = None, num_threads: int | None = None) -> Any:
    """Krum: the one vector whose k = n - f - 2 nearest other vectors are closest in sum of squared distances.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Byzantine vectors to tolerate, f >= 0 and n >= 2 f + 3 (n > 2 f when `neighbors` is given).
    neighbors : int, optional
        k, from 1 to n - 1. Default n - f - 2 as in the paper; some libraries use n - f - 1.
    return_info : bool, optional
        Also return a `KrumInfo`.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector, or (vector, KrumInfo)
        A bitwise copy of the chosen vector. Ties go to the lowest index.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; n, f and k do not fit; more than f vectors have a NaN or an Inf.

    Notes
    -----
    Cost: that of `pairwise_sqdist`, plus one vector copied. Deterministic. On the CPU the choice among more than 96 float32
    (or half) vectors is certified to be the one that distances summed in double lead to. If 2f + 2 < n and the honest vectors are
    i.i.d. estimates of g with E||x_i - g||^2 = d sigma^2, Krum is (alpha, f)-resilient with
    sin(alpha) = eta sqrt(d) sigma / ||g||, eta^2 = 2 (n - f + (f (n-f-2) + f^2 (n-f-1)) / (n-2f-2)).

    References
    ----------
    Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries (NIPS 2017), Proposition 4.3.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([[10.0], [11.0], [9.0], [13.0], [np.nan]])
    >>> vector, info = fastgd.robust.krum(x, 1, return_info=True)
    >>> vector, info.selected
    (array([10.]), array([0]))
    """
    rows = parse(x)
    k = _check_krum(rows.n, f, neighbors)
    parts = None if out is None else rows.check_out(out)
    info, chosen = _select(rows, f, k, 1, backend, num_threads)
    vector = rows.copy_row(info.selected[0], out, parts) if chosen is None else rows.store(chosen, out, parts)
    return (vector, info) if return_info else vector


@runs("robust.select", "robust.combine")
def multikrum(x: Any, f: int, *, m: int | None = None, neighbors: int | None = None, return_info: bool = False,
              out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Multi-Krum: the mean of the m vectors with the lowest Krum scores.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Byzantine vectors to tolerate, f >= 0 and n >= 2 f + 3 (n > 2 f when `neighbors` is given).
    m : int, optional
        Vectors to average, 1 to n. Default n - f - 2, the largest for which the paper's guarantee holds.
    neighbors : int, optional
        k, from 1 to n - 1. Default n - f - 2 as in the paper.
    return_info : bool, optional
        Also return a `KrumInfo`.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector, or (vector, KrumInfo)
        Ties go to the lowest index; the chosen vectors are added in index order, in float64.

    Raises
    ------
    ValueError, TypeError
        As `krum`; also when fewer than m vectors are finite.

    Notes
    -----
    Cost: that of `pairwise_sqdist`, plus one read of m vectors. Deterministic.

    References
    ----------
    Blanchard et al. (NIPS 2017), section 5.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([[1.0], [2.0], [3.0], [2.5], [1e20]])
    >>> fastgd.robust.multikrum(x, 1, m=2)
    array([2.25])
    """
    rows = parse(x)
    n = rows.n
    k = _check_krum(n, f, neighbors)
    m = max(1, n - f - 2) if m is None else count(m, "m", 1, n)
    parts = None if out is None else rows.check_out(out)
    info, chosen = _select(rows, f, k, m, backend, num_threads)
    if chosen is not None:
        vector = rows.store(chosen, out, parts)
        return (vector, info) if return_info else vector
    weights = np.zeros((1, n))
    weights[0, info.selected] = 1.0
    vector = weighted_sum(rows, weights, float(m), out, parts, backend, num_threads)
    return (vector, info) if return_info else vector


def _check_krum(n: int, f: int, neighbors: int | None) -> int:
    """The number of neighbours k, after checking that n, f and k fit together."""
    f = count(f, "f", 0)
    if neighbors is None:
        if n < 2 * f + 3:
            raise ValueError(f"Krum needs n >= 2 f + 3 vectors, got n={n} and f={f}: add vectors, lower f, or pass "
                             "neighbors= (then n > 2 f is enough)")
        return n - f - 2
    if n <= 2 * f:
        raise ValueError(f"Krum with neighbors= needs n > 2 f vectors, got n={n} and f={f}: add vectors or lower f")
    if n < 2:
        raise ValueError(f"Krum needs n >= 2 vectors, so that each has a neighbour, got n={n}: add vectors")
    return count(neighbors, "neighbors", 1, n - 1)


def _select(rows: Rows, f: int, k: int, m: int, backend: str | None,
            num_threads: int | None) -> tuple[KrumInfo, list[Any] | None]:
    """The m rows with the lowest scores; ValueError when more than f rows are bad, or fewer than m are not.

    On a GPU also the parts of their mean, which the kernels wrote there before the host learned the choice; else None.
    """
    kernel = find("robust.select", rows.operand, backend)
    threads = _threads.budget(num_threads, rows.nbytes)
    chosen = None
    if rows.operand.device == "cuda":
        stacks = rows.empty(1)
        selected, scores, bad = kernel(rows, k, m, threads, stacks)
        chosen = [stack[0, ...] for stack in stacks]
    else:
        selected, scores, bad = kernel(rows, k, m, threads)
    if selected[-1] < 0 or np.count_nonzero(bad) > f:
        raise ValueError(_too_many_bad(rows, f, m))
    return KrumInfo(selected, scores, bad), chosen


def _too_many_bad(rows: Rows, f: int, m: int) -> str:
    bad = rows.bad_rows()  # the choice stops looking at a row when all others are known to be bad
    count_bad = np.count_nonzero(bad)
    found = f"rows {index_list(bad)} of {rows.name} have a NaN or an Inf: "
    if count_bad > f:
        return found + f"{count_bad} bad vectors, but only f={f} were declared: raise f or remove them"
    return found + f"m={m} vectors are to be averaged, but only {rows.n - count_bad} are finite: lower m"
