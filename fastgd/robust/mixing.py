"""Pre-aggregation: n vectors become n' that a rule then finds closer together."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _threads
from .._checks import array_out, count, index_list
from .._dispatch import Operand, find, runs
from .._rows import Rows, parse
from ..random.reference import bits32
from .distances import parse_sqdist
from .subsets import finite_sqdist, nearest


@runs("robust.pairwise_sqdist", "robust.nearest:float64", "robust.combine")
def nnm(x: Any, f: int, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Nearest-neighbour mixing: y_i is the mean of the n - f vectors nearest to x_i, itself included.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Byzantine vectors to tolerate, 0 <= f < n.
    out : array or list of vectors, structured like x, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    n vectors, structured like x
        Added in index order in float64 and rounded once to the dtype of x (float64: compensated). Vectors at the same
        distance are taken in index order. A vector with a NaN or an Inf is nobody's neighbour; its own y_i is the mean of
        the finite vectors.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; f is negative or n or more; more than f vectors have a NaN or an Inf; `out` does
        not fit.

    Notes
    -----
    A rule that is (f, kappa)-robust becomes (f, kappa')-robust with kappa' <= 8 f / (n - f) (kappa + 1). `aggregate` does
    this and a rule without making the n vectors.
    Cost: that of `pairwise_sqdist`, one more read of the data, n (n - f) d additions, one write. Deterministic.

    References
    ----------
    Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan: Fixing by Mixing: A Recipe for Optimal Byzantine ML under
    Heterogeneity (AISTATS 2023).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.nnm(np.array([[1.0], [3.0], [2.0], [np.nan]]), 2)
    array([[1.5],
           [2.5],
           [1.5],
           [2. ]])
    """
    rows = parse(x)
    f = count(f, "f", 0, rows.n - 1)
    outs = None if out is None else rows.check_outs(out, rows.n)
    sqdist, bad = finite_sqdist(rows, f, backend, num_threads)
    stacks, direct = _memory(rows, rows.n, out, outs)
    combine, threads = find("robust.combine", rows.operand, backend), _threads.budget(num_threads, rows.nbytes)
    combine(rows, nnm_counts(rows.operand, sqdist, bad, f, backend), float(rows.n - f), stacks, threads)
    if bad.any():
        finite = np.where(bad, 0.0, 1.0)
        first, *others = np.flatnonzero(bad)
        combine(rows, finite[None], float(np.count_nonzero(~bad)), [stack[first : first + 1] for stack in stacks], threads)
        for stack in stacks:
            for i in others:
                stack[i, ...] = stack[first, ...]
    return out if direct else _store(rows, stacks, out, outs)


@runs("robust.nearest")
def nnm_weights(sqdist: Any, f: int, *, out: Any = None, backend: str | None = None) -> Any:
    """The matrix W of nearest-neighbour mixing, y = W x, from a distance matrix.

    Parameters
    ----------
    sqdist : (n, n) float64 array
        Squared distances; row i belongs to vector i. The diagonal is ignored; a row that is +inf off the diagonal marks a
        dropped vector. A device array is copied to the host: logic on n x n numbers runs there, and so does the result live
        there.
    f : int
        Byzantine vectors to tolerate, 0 <= f < n.
    out : (n, n) float64 array, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.

    Returns
    -------
    (n, n) float64 array
        Row i has 1 / (n - f) at the n - f least distances, itself included, the lowest index on ties, and 0 elsewhere;
        the row of a dropped vector weighs all others equally, and its column is 0.

    Raises
    ------
    ValueError, TypeError
        `sqdist` is not square, not float64, or holds a NaN or a negative distance; f is negative or n or more; more than f
        vectors are dropped.

    Notes
    -----
    Cost: O(n^2). Deterministic.

    References
    ----------
    Allouah et al. (AISTATS 2023), Algorithm 2.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([0.0, 1.0, 5.0])
    >>> fastgd.robust.nnm_weights((x[:, None] - x) ** 2, 1)
    array([[0.5, 0.5, 0. ],
           [0.5, 0.5, 0. ],
           [0. , 0.5, 0.5]])
    """
    data, operand, wrap = parse_sqdist(sqdist)
    n = len(data)
    f = count(f, "f", 0, n - 1)
    view = None if out is None else array_out(out, (n, n), "float64", "cpu")
    bad = (np.isinf(data).sum(axis=1) == n - 1) & (n > 1)
    if bad.sum() > f:
        raise ValueError(f"rows {index_list(bad)} of sqdist are infinite: {bad.sum()} dropped vectors, but only f={f} were "
                         "declared: raise f or remove them")
    weights = nnm_counts(operand, data, bad, f, backend) / (n - f)
    weights[bad] = np.where(bad, 0.0, 1.0 / max(1, int(np.count_nonzero(~bad))))
    if view is None:
        return wrap(weights) if operand.device == "cpu" else weights
    view[...] = weights
    return out


@runs("robust.combine")
def bucketing(x: Any, size: int, *, seed: int = 0, out: Any = None, backend: str | None = None,
              num_threads: int | None = None) -> Any:
    """Bucketing: the vectors are shuffled, and each `size` of them in a row become their mean.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    size : int
        Vectors in a bucket, at least 1; the last bucket has the rest.
    seed : int, optional
        0 <= seed < 2^64. Take another one each round.
    out : array or list of vectors, structured like the result, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    ceil(n / size) vectors, structured like x
        The vectors of a bucket are added in index order in float64, and rounded once to the dtype of x (float64:
        compensated). The shuffle sorts 64 random bits a vector, the stream (seed, step 0) of `fastgd.random`: it is the same
        on every backend.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; a vector has a NaN or an Inf; `size` or `seed` is out of range; `out` does not fit.

    Notes
    -----
    f Byzantine vectors spoil at most f buckets: give the rule that follows the same f.
    Cost: one read of the data, one write of n / size vectors. Deterministic.

    References
    ----------
    Karimireddy, He, Jaggi: Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing (ICLR 2022).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.bucketing(np.arange(6.0)[:, None], 6, seed=1)
    array([[2.5]])
    """
    rows = parse(x)
    size = min(count(size, "size", 1), rows.n)
    seed = count(seed, "seed", 0, 2**64 - 1)
    full, rest = divmod(rows.n, size)
    m = full + (rest > 0)
    outs = None if out is None else rows.check_outs(out, m)
    weights = np.zeros((m, rows.n))
    weights[np.arange(rows.n) // size, shuffle(rows.n, seed)] = 1.0
    stacks = rows.empty(m)
    combine, threads = find("robust.combine", rows.operand, backend), _threads.budget(num_threads, rows.nbytes)
    broken = combine(rows, weights[:full], float(size), [stack[:full] for stack in stacks], threads)
    if rest and broken < 0:
        broken = combine(rows, weights[full:], float(rest), [stack[full:] for stack in stacks], threads)
    if broken >= 0 and (bad := rows.bad_rows()).any():
        raise ValueError(f"rows {index_list(bad)} of {rows.name} have a NaN or an Inf, and bucketing tolerates none: "
                         "remove them first")
    return _store(rows, stacks, out, outs)


def shuffle(n: int, seed: int) -> np.ndarray:
    """A random permutation of 0 .. n - 1."""
    words = bits32(seed, 0, 0, 2 * n).astype(np.uint64)
    return np.argsort(words[::2] << np.uint64(32) | words[1::2], kind="stable")


def nnm_counts(operand: Operand, sqdist: np.ndarray, bad: np.ndarray, f: int, backend: str | None) -> np.ndarray:
    """1 at each row's n - f nearest and 0 elsewhere; the rows of bad vectors are 0."""
    n = len(bad)
    counts = nearest(operand, sqdist, bad, np.arange(n), n - f, backend)
    counts[bad] = 0.0
    return counts


def _memory(rows: Rows, m: int, out: Any, outs: list[list[Any]] | None) -> tuple[list[Any], bool]:
    """Memory for m vectors: that of `out=` itself where it is one array apart from the vectors, and whether it is."""
    if outs is None or rows.form != "stacked" or rows.may_overlap([part for parts in outs for part in parts]):
        return rows.empty(m), False
    layer = rows.layers[0]
    return [array_out(out, (m, *layer.shape), layer.dtype, rows.operand.device)], True


def _store(rows: Rows, stacks: list[Any], out: Any, outs: list[list[Any]] | None) -> Any:
    """m vectors as a new result, or copied into `out`."""
    if outs is None:
        return rows.vectors(stacks)
    for a, parts in enumerate(outs):
        rows.store([stack[a, ...] for stack in stacks], out, parts)
    return out
