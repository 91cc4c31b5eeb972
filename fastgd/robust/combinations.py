"""Linear combinations of the vectors: the last pass of every distance rule, and the mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _threads
from .._checks import index_list
from .._dispatch import find, runs
from .._rows import Rows, parse


@runs("robust.combine")
def combine(x: Any, weights: Any, *, out: Any = None, backend: str | None = None,
            num_threads: int | None = None) -> Any:
    """Weighted sums of the vectors: y_a = sum_i W_ai x_i, one read of the data for all a.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    weights : (n,) or (m, n) array of finite numbers
        One weight per vector, or m rows of them. Used as float64, not normalised.
    out : array or list of layer arrays, optional
        Where to put the result: shaped like one vector, or like m vectors.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    one vector, or m vectors for (m, n) weights
        Added in index order in float64 and rounded once to the dtype of x (float64: compensated, except for the
        rounding of each product). A vector of weight zero is skipped, so its NaN and Inf do not enter; those of other vectors do.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; `weights` has another shape or is not finite; `out` does not fit.

    Notes
    -----
    Cost: one read of the vectors with a weight, m n d multiply-adds. Deterministic.

    References
    ----------
    Blanchard et al. (NIPS 2017): the linear rules of their Lemma 3.1.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.combine(np.array([[1.0, 2.0], [3.0, 4.0], [np.inf, 0.0]]), [0.5, 0.5, 0.0])
    array([2., 3.])
    """
    rows = parse(x)
    w = _weights(weights, rows.n)
    if w.ndim == 1:
        parts = None if out is None else rows.check_out(out)
        return weighted_sum(rows, w[None], 1.0, out, parts, backend, num_threads)
    outs = None if out is None else rows.check_outs(out, len(w))
    return weighted_sums(rows, w, out, outs, backend, num_threads)


@runs("robust.combine")
def mean(x: Any, *, weights: Any = None, out: Any = None, backend: str | None = None,
         num_threads: int | None = None) -> Any:
    """Weighted mean of the vectors: sum_i w_i x_i / sum_i w_i.

    Not robust: one vector moves it anywhere (Lemma 3.1 of Blanchard et al.). It is here as the baseline and for
    vectors that are trusted.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    weights : (n,) array of finite numbers >= 0, optional
        Normalised to sum to one; at least one is positive. Default: all equal.
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
        `x` has none of the three forms; a vector with a weight has a NaN or an Inf; `weights` does not fit.

    Notes
    -----
    Cost: one read of the data. Deterministic. With `out=`, one vector of scratch memory.

    References
    ----------
    Blanchard et al. (NIPS 2017), Lemma 3.1.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.mean(np.array([[1.0, 2.0], [3.0, 4.0]]), weights=[3, 1])
    array([1.5, 2.5])
    """
    rows = parse(x)
    w, total = np.ones((1, rows.n)), float(rows.n)
    if weights is not None:
        w = _weights(weights, rows.n)
        if w.ndim != 1 or (w < 0.0).any() or not w.any():
            raise ValueError("weights of a mean must be one number >= 0 per vector, at least one of them positive")
        # Scaled, the sum of huge weights is finite; a positive weight stays positive, so its row is still looked at.
        # Scaling by a power of two is exact.
        w = np.maximum(np.ldexp(w, -int(np.frexp(w.max())[1])), np.finfo(np.float64).tiny * (w > 0.0))[None]
        total = float(w.sum())
    parts = None if out is None else rows.check_out(out)
    stacks = rows.empty(1)
    broken = find("robust.combine", rows.operand, backend)(rows, w, total, stacks, _threads.budget(num_threads, rows.nbytes))
    if broken >= 0:
        bad = rows.bad_rows() & (w[0] != 0.0)
        if bad.any():
            raise ValueError(f"rows {index_list(bad)} of {rows.name} have a NaN or an Inf, and a mean tolerates none: "
                             "remove them, or use a robust rule such as median or trimmed_mean")
    return rows.store([stack[0, ...] for stack in stacks], out, parts)


def weighted_sum(rows: Rows, weights: np.ndarray, divisor: float, out: Any, parts: list[Any] | None, backend: str | None,
             num_threads: int | None) -> Any:
    """One combination of the rows, written straight to `out` when there is one."""
    direct = parts is not None and not rows.may_overlap(parts)
    stacks = [part[None] for part in parts] if parts is not None and direct else rows.empty(1)
    find("robust.combine", rows.operand, backend)(rows, weights, divisor, stacks, _threads.budget(num_threads, rows.nbytes))
    return out if direct else rows.store([stack[0, ...] for stack in stacks], out, parts)


def weighted_sums(rows: Rows, weights: np.ndarray, out: Any, outs: list[list[Any]] | None, backend: str | None,
                  num_threads: int | None) -> Any:
    """Several combinations of the rows; `outs` are the parts of `out`."""
    stacks = rows.empty(len(weights))
    find("robust.combine", rows.operand, backend)(rows, weights, 1.0, stacks, _threads.budget(num_threads, rows.nbytes))
    if outs is None:
        return rows.vectors(stacks)
    for a, parts in enumerate(outs):
        rows.store([stack[a, ...] for stack in stacks], out, parts)
    return out


def _weights(weights: Any, n: int) -> np.ndarray:
    """Weights as a finite float64 (n,) or (m, n) array."""
    try:
        w = np.asarray(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"weights must be an array of numbers on the host: {error}") from None
    if w.dtype.kind not in "fiu" or isinstance(weights, np.ma.MaskedArray):
        raise TypeError(f"weights must be an array of real numbers on the host, got {type(weights).__name__} of dtype {w.dtype}")
    w = np.require(w, np.float64, ["C", "A"])
    if w.ndim not in (1, 2) or w.shape[-1] != n:
        raise ValueError(f"weights has shape {w.shape}, but must be ({n},) or (m, {n}): one weight per vector")
    if not np.isfinite(w).all():
        raise ValueError("weights holds a NaN or an Inf: give a weight of 0 to skip a vector")
    return w
