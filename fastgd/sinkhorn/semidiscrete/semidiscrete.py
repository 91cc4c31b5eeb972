"""Semi-discrete transport: arguments, schedules and the result. What a step computes is the work of a backend's `descend`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ... import _threads
from ..._checks import count, index_list, number
from ..._dispatch import Operand, find, runs
from ..arguments import numbers

_FLOAT64 = Operand("cpu", "float64")
_FACTORS = {"sqeuclidean": 1.0, "half_sqeuclidean": 0.5}
#: Steps between two calls of the sampler, and the most numbers it is asked for at once.
_BLOCK, _NUMBERS = 1024, 1 << 20


@runs("sinkhorn.descend:float64", "sinkhorn.assign:float64", array=False)
def semidiscrete(sample: Callable[[int, np.random.Generator], Any], y: Any, weights: Any = None, *, cost: str = "sqeuclidean",
                 steps: int, batch: int = 1, seed: int = 0, reg0: float = 0.1, reg_decay: float = 0.33, step0: float | None =
                 None, step_decay: float = 2 / 3, averaging: str = "uniform", backend: str | None = None) -> SemiDiscrete:
    """Transport from a source that can be drawn from to weighted atoms (DRAG: decreasing regularisation, averaged gradient).

    max over g of E min_j (c(x, y_j) - g_j) + sum_j w_j g_j. Step t draws a batch, smooths the minimum by reg_t = reg0
    t^-reg_decay,

        g <- clip(g - step_t (mean chi - w), +-B),   chi_j ~ w_j exp((g_j - c(x, y_j)) / reg_t),   step_t = step0 t^-step_decay,

    and averages all g. B is the largest cost seen so far, a bound of the optimal g. Regularisation makes early steps smooth, its
    decrease leaves no bias.

    Parameters
    ----------
    sample : function of (size, rng)
        Returns `size` independent draws of the source, an array (size, d); rng is a NumPy Generator.
    y : (m, d) array
        Atoms, finite.
    weights : (m,) array, optional
        Finite, at least 0, some above 0; they are normalised. Uniform by default. An atom of weight 0 has g = -inf.
    cost : {"sqeuclidean", "half_sqeuclidean"}
        c = |x - y|^2, or half of it.
    steps : int, at least 1
        Gradient steps.
    batch : int, at least 1
        Draws of each step.
    seed : int, 0 <= seed < 2^64
        Of the generator that `sample` is given.
    reg0, reg_decay : float, at least 0
        In units of the cost, and its exponent. reg0 = 0: plain stochastic gradients.
    step0 : float, above 0, optional
        In units of the cost; by default the cost of the diagonal of the box around the atoms, times 2 sqrt(batch).
    step_decay : float, at least 0
        The theory asks for 1/2 < step_decay < 1, 2 reg_decay < step_decay and reg_decay + step_decay < 1.
    averaging : {"uniform", "log2"}
        Weights 1, or log(t + 1)^2, which forget the start sooner.
    backend : {"auto", "cpu", "reference"}, optional
        Where to run; see `fastgd.use`.

    Returns
    -------
    SemiDiscrete
        The averaged potential, and the map it defines.

    Raises
    ------
    ValueError, TypeError
        An argument out of range, or draws that are no finite (size, d) array; the message names it. What `sample` raises.

    Notes
    -----
    Converges as E |g_t - g|^2 = O(1/t) for the average, and the map's error in L2 as O(t^-1/2), at reg_decay near 1/3.
    Cost: O(d m) a draw, with exponentials for the few atoms that count; memory O(d m). Deterministic: the same draws give the
    same bits on every instruction set.

    References
    ----------
    Genans, Godichon-Baggioni, Vialard, Wintenberger: Decreasing Entropic Regularization Averaged Gradient for Semi-Discrete
    Optimal Transport (NeurIPS 2025).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> y = np.array([[0.25], [0.75]])
    >>> found = fastgd.sinkhorn.semidiscrete(lambda size, rng: rng.random((size, 1)), y, steps=2000)
    >>> found.assign(np.array([[0.1], [0.9]]))
    array([0, 1])
    """
    if not callable(sample):
        raise TypeError(f"sample must be a function of (size, rng) that returns draws, got {type(sample).__name__}")
    factor = _choice(cost, "cost", _FACTORS)
    weigh = _choice(averaging, "averaging", {"uniform": np.ones_like, "log2": lambda t: np.log(t + 1.0) ** 2})
    atoms = _points(y, "y")
    w = _weights(weights, len(atoms))
    steps, batch, seed = count(steps, "steps", 1), count(batch, "batch", 1), count(seed, "seed", 0, 2**64 - 1)
    reg0, reg_decay = number(reg0, "reg0", 0.0), number(reg_decay, "reg_decay", 0.0)
    step_decay = number(step_decay, "step_decay", 0.0)
    descend = find("sinkhorn.descend", _FLOAT64, backend)
    live = np.flatnonzero(w > 0.0)
    kept, masses = np.ascontiguousarray(atoms[live]), w[live]
    box = kept.min(axis=0), kept.max(axis=0)
    if step0 is None:
        step0 = 2.0 * factor * float(((box[1] - box[0]) ** 2).sum()) * float(np.sqrt(batch)) or 1.0
    step0 = number(step0, "step0", 0.0, above=True)

    rng = np.random.default_rng(seed)
    g, average, history, largest, total = np.zeros(len(kept)), np.zeros(len(kept)), [], 0.0, 0.0
    block = max(1, min(_BLOCK, _NUMBERS // (batch * kept.shape[1])))
    for start in range(0, steps, block):
        t = np.arange(start + 1.0, min(steps, start + block) + 1.0)
        x = _draws(sample, len(t), batch, kept.shape[1], rng)
        bound = np.maximum.accumulate(np.maximum(_farthest(x, box, factor), largest))
        mass = weigh(t)
        totals = total + np.cumsum(mass)
        values = descend(x, kept, masses, factor, reg0 * t**-reg_decay, step0 * t**-step_decay, bound, mass / totals, g, average)
        largest, total = float(bound[-1]), float(totals[-1])
        history.append(float(values.mean()))
    potential = np.full(len(atoms), -np.inf)
    potential[live] = average - masses @ average
    return SemiDiscrete(atoms, w, potential, factor, np.array(history), backend)


class SemiDiscrete:
    """What `semidiscrete` found.

    Attributes
    ----------
    g : (m,) array of float64
        The averaged potential, in units of the cost, of mean zero under the weights; -inf at atoms of weight 0.
    history : array of float64
        For each block of up to 1024 steps the mean of the (smoothed) semi-dual objective at its draws: noisy estimates of the
        cost of transport, from below in the mean.
    """

    g: np.ndarray
    history: np.ndarray

    def __init__(self, atoms: np.ndarray, weights: np.ndarray, g: np.ndarray, factor: float, history: np.ndarray,
                 backend: str | None) -> None:
        self._atoms, self._weights, self.g, self._factor, self.history = atoms, weights, g, factor, history
        self._backend = backend

    def assign(self, x: Any, *, num_threads: int | None = None) -> np.ndarray:
        """The map: for each point the atom j of least c(x, y_j) - g_j, the first of equals.

        int64 (size,) for points (size, d).
        """
        return self._cells(x, num_threads)[0]

    def cost(self, x: Any, *, num_threads: int | None = None) -> float:
        """The semi-dual objective mean_i min_j (c(x_i, y_j) - g_j) + sum_j w_j g_j at points (size, d) of the source.

        For draws an unbiased estimate of a lower bound of the cost of transport, which is off by O(|g - g*|^2).
        """
        least = self._cells(x, num_threads)[1]
        if not len(least):
            raise ValueError("x must hold at least one point, got none: there is no mean")
        live = self._weights > 0.0
        return float(least.mean()) + float(self._weights[live] @ self.g[live])

    def _cells(self, x: Any, num_threads: int | None) -> tuple[np.ndarray, np.ndarray]:
        x = _points(x, "x", empty=True)
        if x.shape[1] != self._atoms.shape[1]:
            raise ValueError(f"x must have {self._atoms.shape[1]} coordinates as the atoms have, got {x.shape[1]}")
        threads = _threads.budget(num_threads, 8 * len(x) * self._atoms.size)
        live = np.flatnonzero(self._weights > 0.0)
        index, least = find("sinkhorn.assign", _FLOAT64, self._backend)(x, np.ascontiguousarray(self._atoms[live]), self.g[live],
                                                                      self._factor, threads)
        return live[index], least

    def __repr__(self) -> str:
        m, d = self._atoms.shape
        return f"SemiDiscrete({m} atoms in {d} dimensions)"


def _choice(value: Any, name: str, choices: dict[str, Any]) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return choices[value]


def _points(x: Any, name: str, empty: bool = False) -> np.ndarray:
    """`x` as float64 (size, d), finite."""
    values = numbers(x, name)
    if values.ndim != 2 or values.shape[1] == 0 or (len(values) == 0 and not empty):
        raise ValueError(f"{name} must have shape (points, coordinates) without a 0, got {values.shape}")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise ValueError(f"{name} has a NaN or an Inf in row {index_list(bad)}")
    return values.copy() if values is x else values


def _weights(weights: Any, m: int) -> np.ndarray:
    if weights is None:
        return np.full(m, 1.0 / m)
    w = numbers(weights, "weights")
    if w.shape != (m,):
        raise ValueError(f"weights must have shape ({m},) as there are atoms, got {w.shape}")
    total = float(w.sum())
    if not (np.isfinite(total) and total > 0.0 and w.min() >= 0.0):
        raise ValueError(f"weights must be finite, at least 0 and not all 0, got a sum of {total:g} and a least of {w.min():g}")
    return w / total


def _draws(sample: Callable[..., Any], steps: int, batch: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """(steps, batch, d) numbers from the user's function."""
    x = numbers(sample(steps * batch, rng), "sample(size, rng)")
    if x.shape != (steps * batch, d):
        raise ValueError(f"sample must return an array of shape {(steps * batch, d)}, got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("sample returned a NaN or an Inf: draws must be finite")
    return x.reshape(steps, batch, d)


def _farthest(x: np.ndarray, box: tuple[np.ndarray, np.ndarray], factor: float) -> np.ndarray:
    """For each step a bound of the cost between its draws and any atom in the box."""
    gaps = np.maximum(np.abs(x - box[0]), np.abs(x - box[1]))
    return factor * (gaps * gaps).sum(axis=2).max(axis=1)
