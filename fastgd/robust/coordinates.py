"""Coordinate-wise rules: each coordinate's n values are sorted, and a window of neighbours averaged.

The median is the trimmed mean that drops (n - 1) // 2 values on each side: one value is left for odd n, two for even n.
The window of `meamed` is placed by the values themselves.
"""

from __future__ import annotations

from typing import Any

from .. import _threads
from .._checks import count, index_list
from .._dispatch import find, runs
from .._rows import Rows, parse


@runs("robust.median")
def median(x: Any, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Coordinate-wise median: y_c = median(x_1c, .., x_nc); for even n the mean of the two middle values.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector
        For odd n every coordinate is one of the inputs, exactly; for even n it is rounded once.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; at some coordinate half of the values or more are NaN or Inf.

    Notes
    -----
    A NaN or an Inf of either sign counts as +inf at its coordinate; the result stays finite while fewer than half are.
    Cost: one read of the data, about n log^2(n) / 4 vectorised comparisons per coordinate. Deterministic; independent
    of the order of the vectors to the bit. With `out=`, one vector of scratch memory.

    References
    ----------
    Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning (ICML 2018). Batcher: Sorting Networks and
    Their Applications (AFIPS 1968).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.median(np.array([[1.0, 5.0], [2.0, np.nan], [9.0, 7.0]]))
    array([2., 7.])
    """
    rows = parse(x)
    f = (rows.n - 1) // 2
    return _coordinatewise("robust.median", rows, (f,), f, out, backend, num_threads)


@runs("robust.trimmed_mean")
def trimmed_mean(x: Any, f: int, *, out: Any = None, backend: str | None = None,
                 num_threads: int | None = None) -> Any:
    """Coordinate-wise trimmed mean: drop the f smallest and the f largest values, average the other n - 2 f.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Values to drop on each side, f >= 0 and n > 2 f.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector
        Added in ascending order in float64 and rounded once to the dtype of x (float64: compensated).

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; n <= 2 f; at some coordinate more than f values are NaN or Inf.

    Notes
    -----
    A NaN or an Inf of either sign counts as +inf at its coordinate and is dropped with the largest.
    Cost: one read of the data, about n log^2(n) / 4 vectorised comparisons per coordinate. Deterministic; independent
    of the order of the vectors to the bit. With `out=`, one vector of scratch memory.

    References
    ----------
    Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning (ICML 2018).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.trimmed_mean(np.array([[1.0], [2.0], [4.0], [np.inf], [-1e30]]), 1)
    array([2.33333333])
    """
    rows = parse(x)
    f = _minority("trimmed_mean", rows, f)
    return _coordinatewise("robust.trimmed_mean", rows, (f,), f, out, backend, num_threads)


@runs("robust.nearest_mean")
def meamed(x: Any, f: int, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Mean around the median: at each coordinate the mean of the n - f values that are nearest to the median.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Values to leave out, f >= 0 and n > 2 f.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector
        Added in ascending order in float64 and rounded once to the dtype of x (float64: compensated).

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; n <= 2 f; at some coordinate more than f values are NaN or Inf.

    Notes
    -----
    In ascending order s the n - f nearest values are neighbours, s_lo .. s_(lo + n - f - 1): lo counts the l < f with
    s_l + s_(l + n - f) < s_((n - 1) // 2) + s_(n // 2), that is where s_(l + n - f) is strictly nearer to the median than
    s_l. Of two values equally near, to the rounding of these sums in float64, the smaller one is kept.
    A NaN or an Inf of either sign counts as +inf at its coordinate.
    Cost: one read of the data, about n log^2(n) / 4 vectorised comparisons per coordinate. Deterministic; independent
    of the order of the vectors to the bit. With `out=`, one vector of scratch memory.

    References
    ----------
    Xie, Koyejo, Gupta: Generalized Byzantine-tolerant SGD (2018), arXiv:1802.10116.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.meamed(np.array([[1.0], [2.0], [4.0], [np.inf], [5.0]]), 1)
    array([3.])
    """
    rows = parse(x)
    f = _minority("meamed", rows, f)
    return _coordinatewise("robust.nearest_mean", rows, (rows.n - f, f), f, out, backend, num_threads)


def _minority(rule: str, rows: Rows, f: int) -> int:
    f = count(f, "f", 0)
    if rows.n <= 2 * f:
        raise ValueError(f"{rule} needs n > 2 f vectors, got n={rows.n} and f={f}: add vectors or lower f")
    return f


def _coordinatewise(operation: str, rows: Rows, arguments: tuple[int, ...], f: int, out: Any, backend: str | None,
                    num_threads: int | None) -> Any:
    parts = None if out is None else rows.check_out(out)
    stacks = rows.empty(1)
    broken = find(operation, rows.operand, backend)(rows, *arguments, stacks, _threads.budget(num_threads, rows.nbytes))
    if broken >= 0:
        bad = rows.bad_at(broken)
        raise ValueError(f"rows {index_list(bad)} of {rows.name} have a NaN or an Inf at coordinate {broken}: "
                         f"{bad.sum()} bad values, but at most {f} are tolerated there: remove those vectors")
    return rows.store([stack[0, ...] for stack in stacks], out, parts)
