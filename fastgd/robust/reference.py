"""The oracle of the room: plain NumPy, one obvious line per formula, slow. Shares no code with the kernels.

Arithmetic is float64 for float32 and the halves, and longdouble (80 bits on x86) for float64.

Every function has the signature of its kernels in `cpu.py` and `cuda.py`: `rows` are the parsed vectors, `stacks` the
memory for the result (one (m, *shape) array per layer), and the number of threads, which the reference ignores.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays import narrow
from .._rows import Rows


def pairwise_sqdist(rows: Rows, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """D_ij = sum_c (x_ic - x_jc)^2, +inf beside a row with a NaN or an Inf; and which rows have one."""
    x = _wide(rows)
    bad = ~np.isfinite(x).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        sqdist = np.stack([((x - row) ** 2).sum(axis=1) for row in x]).astype(np.float64)
    sqdist[bad, :] = np.inf
    sqdist[:, bad] = np.inf
    np.fill_diagonal(sqdist, 0.0)
    return sqdist, bad


def krum_scores(sqdist: np.ndarray, k: int) -> np.ndarray:
    """For each row the sum of its k smallest entries off the diagonal."""
    n = len(sqdist)
    others = sqdist[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    return np.sort(others, axis=1)[:, :k].sum(axis=1)


def select(rows: Rows, k: int, m: int, threads: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The m rows with the lowest (score, index) that are not bad, ascending (-1 where there are fewer); scores; bad rows."""
    sqdist, bad = pairwise_sqdist(rows)
    scores = np.where(bad, np.inf, krum_scores(sqdist, k))
    order = np.lexsort((scores, bad))  # stable: good rows first, then by score, then by index
    selected = np.full(m, -1)
    good = np.sort(order[: min(m, np.count_nonzero(~bad))])
    selected[: len(good)] = good
    return selected, scores, bad


def bulyan_select(sqdist: np.ndarray, bad: np.ndarray, f: int) -> np.ndarray:
    """n - 2 f times the Krum choice among the rows left, with max(1, r - f - 2) neighbours while r are left; ascending."""
    left, selected = list(range(len(sqdist))), []
    while len(left) > 2 * f:
        k = max(1, len(left) - f - 2)
        scores = krum_scores(sqdist[np.ix_(left, left)], k)
        selected.append(min((bad[i], score, i) for i, score in zip(left, scores, strict=True))[2])
        left.remove(selected[-1])
    return np.sort(selected)


def nearest(sqdist: np.ndarray, bad: np.ndarray, own: np.ndarray, keep: int) -> np.ndarray:
    """(m, n): 1 at each row's `keep` least distances, the lowest index on ties; `own` first, bad vectors last."""
    weights = np.zeros(sqdist.shape)
    for row, distances, i in zip(weights, sqdist, own, strict=True):
        row[np.lexsort((distances, bad, np.arange(len(bad)) != i))[:keep]] = 1.0
    return weights


def combine(rows: Rows, weights: np.ndarray, divisor: float, stacks: list[np.ndarray], threads: int = 1) -> int:
    """y_a = sum_i W_ai x_i / divisor over the nonzero weights; the first coordinate that is not finite, or -1."""
    x = _wide(rows)
    y = np.full((len(weights), rows.d), -0.0, x.dtype)  # -0 is the one number that changes no sum
    with np.errstate(over="ignore", invalid="ignore"):
        for a, w in enumerate(weights):
            y[a] += 0.0 if not w.any() else -0.0
            for i in np.flatnonzero(w):
                y[a] += w[i] * x[i]
        y = (y / divisor).astype(np.float64)
    _fill(rows, stacks, y)
    return _first(~np.isfinite(y).all(axis=0))


def scale(rows: Rows, factor: np.ndarray, stacks: list[np.ndarray], threads: int = 1) -> None:
    """y_i = factor_i x_i; zero for a factor of zero."""
    _fill(rows, stacks, np.where(factor[:, None] == 0.0, 0.0, _wide(rows)) * factor[:, None])


def trimmed_mean(rows: Rows, f: int, stacks: list[np.ndarray], threads: int = 1) -> int:
    """Mean of the values of rank f .. n - f - 1, non-finite ones ranking last; the first coordinate with too many, or -1."""
    x = _wide(rows)
    finite = np.isfinite(x)
    x = np.where(finite, x, np.inf)
    order = np.lexsort((~np.signbit(x), x), axis=0)  # -0 before +0, so that the order of the rows leaves no trace
    kept = np.take_along_axis(x, order, axis=0)[f : rows.n - f]
    with np.errstate(invalid="ignore", over="ignore"):
        _fill(rows, stacks, (kept.sum(axis=0, initial=-0.0) / len(kept))[None].astype(np.float64))
    return _first((~finite).sum(axis=0) > f)


def median(rows: Rows, f: int, stacks: list[np.ndarray], threads: int = 1) -> int:
    """The trimmed mean of the one or two middle ranks: f is (n - 1) // 2."""
    return trimmed_mean(rows, f, stacks, threads)


def nearest_mean(rows: Rows, window: int, tolerated: int, stacks: list[np.ndarray], threads: int = 1) -> int:
    """Mean of the `window` values nearest to the median of each coordinate, non-finite ones ranking last.

    In ascending order s they are neighbours, s[lo] .. s[lo + window - 1]: from 0 on, lo moves up while s[lo + window] is
    strictly nearer to the median than s[lo], that is s[lo] + s[lo + window] < twice the median, with both sums halved and
    rounded to float64. Returns the first coordinate with more than `tolerated` values that are not finite, or -1.
    """
    x = _wide(rows)
    finite = np.isfinite(x)
    x = np.where(finite, x, np.inf)
    s = np.take_along_axis(x, np.lexsort((~np.signbit(x), x), axis=0), axis=0)
    n, half = rows.n, s.astype(np.float64) / 2
    median = half[(n - 1) // 2] + half[n // 2]
    start = (half[: n - window] + half[window:] < median).sum(axis=0)  # true for the first ones, then false
    kept = np.take_along_axis(s, start + np.arange(window)[:, None], axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        _fill(rows, stacks, (kept.sum(axis=0, initial=-0.0) / window)[None].astype(np.float64))
    return _first((~finite).sum(axis=0) > tolerated)


def sqdist_to(rows: Rows, point: Rows | None, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(n,) squared distances of the vectors to `point`, one vector of the same layers (None: the origin); and bad rows.

    +inf for a row with a NaN or an Inf. The point is finite.
    """
    x = _wide(rows)
    bad = ~np.isfinite(x).all(axis=1)
    origin = 0.0 if point is None else _wide(point)
    with np.errstate(over="ignore", invalid="ignore"):
        sqdist = ((x - origin) ** 2).sum(axis=1).astype(np.float64)
    return np.where(bad, np.inf, sqdist), bad


def pairwise_row(rows: Rows, index: int, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Row `index` of `pairwise_sqdist`, and which rows are bad."""
    sqdist, bad = pairwise_sqdist(rows)
    return sqdist[index], bad


def geometric_median(sqdist: np.ndarray, share: np.ndarray, smoothing: float, tol: float,
                     max_iter: int) -> tuple[np.ndarray, float, int, bool]:
    """Weights of the minimiser of sum_i share_i max(smoothing, |v - x_i|)-smoothed distances, by Weiszfeld's steps.

    Returns also the objective, the steps made, and whether the pull on v fell to `tol`. All of it in 80-bit arithmetic, by
    |v - x_i|^2 = (D w)_i - w'D w / 2; a start below every point's own objective keeps v off the points.
    """
    sqdist, share, nu = sqdist.astype(np.longdouble), share.astype(np.longdouble), np.longdouble(smoothing)

    def cost(distance: np.ndarray) -> Any:
        near = distance < nu
        return (share * np.where(near, (distance**2 / np.where(near, nu, 1) + nu) / 2, distance)).sum(axis=-1)

    def step(w: np.ndarray) -> tuple[np.ndarray, Any, Any]:
        """Weiszfeld's weights after w, the cost of w, and the pull on it."""
        distance = np.sqrt(np.maximum(sqdist @ w - w @ sqdist @ w / 2, 0))
        b = share / np.maximum(np.maximum(distance, nu), np.finfo(np.longdouble).tiny)
        move = b / b.sum() - w
        return b / b.sum(), cost(distance), b.sum() * np.sqrt(max(-move @ sqdist @ move / 2, 0))

    best = int(np.argmin(cost(np.sqrt(sqdist))))
    w = np.zeros_like(share)
    w[best] = 1.0
    apart = sqdist[best] > 0
    force = np.where(apart, share / np.sqrt(np.where(apart, sqdist[best], 1)), 0)
    inner = (sqdist[best] + sqdist[best][:, None] - sqdist) / 2
    pull, own = np.sqrt(max(force @ inner @ force, 0)), share[~apart].sum()
    if pull <= own + tol and nu == 0:
        return w.astype(np.float64), float(cost(np.sqrt(sqdist[best]))), 0, True
    if pull > own:
        w = own / pull * w + (1 - own / pull) * force / force.sum()
    for iteration in range(max_iter + 1):
        image, _, gradient = step(w)
        if gradient <= tol or iteration == max_iter:
            break
        w = image
    return image.astype(np.float64), float(step(image)[1]), iteration, bool(gradient <= tol)


def _wide(rows: Rows) -> np.ndarray:
    """The (n, d) vectors in a precision above their own."""
    return rows.matrix().astype(np.longdouble if rows.operand.dtype == "float64" else np.float64, copy=False)


def _fill(rows: Rows, stacks: list[Any], y: np.ndarray) -> None:
    """Split the (m, d) values into the layers' stacks, rounded to their dtypes."""
    ends = np.cumsum([layer.size for layer in rows.layers])
    for layer, stack, part in zip(rows.layers, stacks, np.split(y, ends[:-1], axis=1), strict=True):
        stack[...] = narrow(part, layer.dtype).reshape(stack.shape)


def _first(mask: np.ndarray) -> int:
    """Index of the first true element, -1 if there is none."""
    return int(mask.argmax()) if mask.any() else -1
