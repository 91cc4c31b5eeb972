"""Clipping of norms: pre-aggregation that scales long vectors down, and the distances it needs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _threads
from .._arrays import to_host, unpack, widen
from .._checks import index_list, number
from .._dispatch import find, runs
from .._rows import Rows, parse
from .subsets import check_majority, refuse_bad


@runs("robust.sqdist_to", "robust.scale")
def clip(x: Any, radius: float, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Static clipping: y_i = x_i min(1, radius / ||x_i||).

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    radius : float
        The largest norm, above 0.
    out : array or list of layer arrays, shaped like x, optional
        Where to put the result; may be `x` itself.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    n vectors structured like x
        Vectors no longer than `radius` are copied bit for bit; the others are multiplied by one float64 factor each.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; a vector has a NaN or an Inf; `radius` is not a finite number above 0;
        `out` does not fit.

    Notes
    -----
    Norms are taken in float64, so that a vector of any finite size is scaled to length `radius`.
    Cost: two reads of the data and one write. Deterministic.

    References
    ----------
    Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks (ICML 2013).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.clip(np.array([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    array([[0.6, 0.8],
           [0.3, 0.4]])
    """
    rows = parse(x)
    radius = number(radius, "radius", 0.0, above=True)
    outs = None if out is None else rows.check_outs(out, rows.n)
    norm, bad = distances_to(rows, None, backend, num_threads)
    if bad.any():
        raise ValueError(f"rows {index_list(bad)} of {rows.name} have a NaN or an Inf, which no factor clips: remove them, or "
                         "use arc, which tolerates f of them")
    return _shorten(rows, norm, radius, out, outs, backend, num_threads)


@runs("robust.sqdist_to", "robust.scale")
def arc(x: Any, f: int, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Adaptive robust clipping: the k = floor(2 f (n - f) / n) longest vectors are clipped to the next longest norm.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Byzantine vectors to tolerate, f >= 0 and n > 2 f.
    out : array or list of layer arrays, shaped like x, optional
        Where to put the result; may be `x` itself.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    n vectors structured like x
        At least n - k of them bit for bit; the others are multiplied by one float64 factor each.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; n <= 2 f; more than f vectors have a NaN or an Inf; `out` does not fit.

    Notes
    -----
    A vector with a NaN or an Inf counts among the longest and becomes zero. f = 0 clips nothing.
    Cost: two reads of the data and one write. Deterministic.

    References
    ----------
    Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan: Adaptive Gradient Clipping for Robust Federated Learning (ICLR 2025).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.robust.arc(np.array([[1.0], [-2.0], [3.0], [-400.0]]), 1)
    array([[ 1.],
           [-2.],
           [ 3.],
           [-3.]])
    """
    rows = parse(x)
    f = check_majority("arc", rows.n, f)
    outs = None if out is None else rows.check_outs(out, rows.n)
    norm, bad = distances_to(rows, None, backend, num_threads)
    refuse_bad(rows, bad, f)
    return _shorten(rows, norm, arc_limit(norm, f), out, outs, backend, num_threads)


def arc_limit(norm: np.ndarray, f: int) -> Any:
    """The longest norm that is left when the 2 f (n - f) // n longest are set aside."""
    n = len(norm)
    return np.sort(norm)[n - 1 - 2 * f * (n - f) // n]


def scales(norm: np.ndarray, longest: Any) -> np.ndarray:
    """The factors that give every vector a norm of at most `longest`; 0 for an infinite norm."""
    factor = np.ones(len(norm))
    long = norm > longest
    factor[long] = longest / norm[long]
    return factor


def _shorten(rows: Rows, norm: np.ndarray, longest: Any, out: Any, outs: Any, backend: str | None,
             num_threads: int | None) -> Any:
    """Every vector scaled to a norm of at most `longest`."""
    direct = outs is not None and rows.form == "stacked" and not rows.may_overlap([parts[0] for parts in outs])
    stacks = [unpack(out, "out")[0]] if direct else rows.empty(rows.n)
    find("robust.scale", rows.operand, backend)(rows, scales(norm, longest), stacks, _threads.budget(num_threads, rows.nbytes))
    return out if direct else rows.store_all(stacks, out, outs)


def distances_to(rows: Rows, point: Rows | None, backend: str | None, num_threads: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(n,) distances of the vectors to `point` (None: the origin), +inf for bad ones; and which are bad. On the host.

    In extended precision, whose range holds the norm of any vector of float64.
    """
    kernel = find("robust.sqdist_to", rows.operand, backend)
    sqdist, bad = map(to_host, kernel(rows, point, _threads.budget(num_threads, rows.nbytes)))
    distance = np.sqrt(sqdist).astype(np.longdouble)
    if any(layer.dtype == "float64" for layer in rows.layers):  # only there squares can leave the range of numbers
        for i in np.flatnonzero(((sqdist > 2.0**1000) | (sqdist < 2.0**-900)) & ~bad):
            distance[i] = _scaled_distance(rows, int(i), point)
    return distance, bad


def _scaled_distance(rows: Rows, index: int, point: Rows | None) -> np.longdouble:
    """The distance of one vector to the point, scaled so that no square overflows or underflows."""
    parts = []
    for k, layer in enumerate(rows.layers):
        part = widen(layer.data[index], layer.dtype).ravel() / 2  # halves: their difference does not overflow
        parts.append(part if point is None else part - widen(point.layers[k].data[0], layer.dtype).ravel() / 2)
    difference = np.concatenate(parts)
    exponent = int(np.frexp(np.abs(difference).max(initial=0.0))[1])
    scaled = np.ldexp(difference, -exponent)
    with np.errstate(under="ignore"):
        return np.ldexp(np.longdouble(math.sqrt(math.fsum(scaled * scaled))), exponent + 1)
