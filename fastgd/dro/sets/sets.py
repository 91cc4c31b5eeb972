"""The worst case of a loss vector over an uncertainty set, and projections onto one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import _threads
from ..._arrays import Unpacked, empty_like_array, to_host, unpack, widen
from ..._checks import array_out, index_list, number
from ..._dispatch import Operand, find, runs

_ORDERS = {"chi2": 2.0, "kl": 1.0, "cvar": 0.0, "kl-cvar": 0.0}


@runs("dro.linear", "dro.tilted", "dro.capped", "dro.quantile", "dro.power")
def worst_case(losses: Any, *, radius: float | None = None, penalty: float | None = None, divergence: str | float = "chi2",
               alpha: float | None = None, out: Any = None, backend: str | None = None,
               num_threads: int | None = None) -> tuple[Any, float]:
    """The weights on the simplex that make a loss vector worst, and the worst value.

    A ball: max sum_i p_i l_i over D(p) <= R. A penalty: max sum_i p_i l_i - lambda D(p). Here D(p) = (1/n) sum_i f(n p_i).

    ============  ==============================  ==================================================  ==================
    divergence    f(t)                            weights                                             needs
    ============  ==============================  ==================================================  ==================
    "chi2"        (t - 1)^2 / 2                   c (l_i - theta)_+                                   radius or penalty
    "kl"          t log t - t + 1                 c exp(l_i / tau)                                    radius or penalty
    k > 1         (t^k - k t + k - 1) / (k(k-1))  c (l_i - theta)_+^(1/(k-1))                         radius or penalty
    "cvar"        0 for t <= 1 / alpha            1 / (alpha n) on the largest alpha n                alpha
    "kl-cvar"     as kl for t <= 1 / alpha        min(c exp(l_i / lambda), 1 / alpha) / n             alpha and penalty
    ============  ==============================  ==================================================  ==================

    Parameters
    ----------
    losses : (n,) array
        float32 or float64, n >= 1, finite, of any sign and size.
    radius : float, optional
        R >= 0, size of the ball. The paper's rho is n R. From the greatest divergence of all on ((n - 1) / 2 for chi2, log n for
        kl) the result is uniform on the largest losses.
    penalty : float, optional
        lambda > 0. The value then includes the penalty.
    divergence : {"chi2", "kl", "cvar", "kl-cvar"} or float
        The set. A number k > 1 is the Cressie-Read family; 2 is chi2.
    alpha : float, optional
        Level of the conditional value at risk, 0 < alpha <= 1: the mean of the worst alpha n losses.
    out : (n,) array of float64, optional
        Where to put the weights; may be `losses` itself.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`. On CUDA: chi2.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    weights : (n,) array of float64
        They sum to 1 to rounding. Equal losses have equal weights: what a cap leaves for several is shared.
    value : float
        The maximum.

    Raises
    ------
    ValueError, TypeError
        `losses` is not one non-empty vector or has a NaN or an Inf; a parameter is missing, is not of this divergence, or is out
        of its range; `out` does not fit.

    Notes
    -----
    Losses may be shifted by any constant: they are measured from the largest one, in a unit of their own.
    Cost: no sorting; about 4 to 8 passes over the losses; for a number k 10 to 30 slower ones in NumPy.
    Deterministic: the same bits for every number of threads and instruction set.

    References
    ----------
    Namkoong and Duchi, Stochastic Gradient Methods for Distributionally Robust Optimization with f-divergences (NIPS 2016).
    Levy, Carmon, Duchi, Sidford: Large-Scale Methods for Distributionally Robust Optimization (NeurIPS 2020).
    Michelot: A finite algorithm for finding the projection of a point onto the canonical simplex (JOTA 1986).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.dro.worst_case(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), radius=0.25)
    (array([0. , 0.1, 0.2, 0.3, 0.4]), 4.0)
    """
    radius, penalty, alpha, order = _parameters(radius, penalty, divergence, alpha)
    vector = _vector(losses, "losses")
    if divergence == "cvar":
        return _run(vector, "losses", out, backend, num_threads, "quantile", alpha)
    if divergence == "kl-cvar":
        return _run(vector, "losses", out, backend, num_threads, "capped", alpha, penalty)
    if order == 1.0:
        return _run(vector, "losses", out, backend, num_threads, "tilted", radius, penalty, 0.0, False)
    if order == 2.0:
        return _run(vector, "losses", out, backend, num_threads, "linear", radius, penalty, 0.0)
    return _run(vector, "losses", out, backend, num_threads, "power", order, radius, penalty)


@runs("dro.linear", "dro.tilted")
def project(weights: Any, *, radius: float, divergence: str = "chi2", floor: float = 0.0, out: Any = None,
            backend: str | None = None, num_threads: int | None = None) -> Any:
    """The probabilities nearest to a vector w: sum 1, p_i >= floor / n, and D(p) <= radius.

    "chi2": nearest in the Euclidean norm, p_i = floor / n + c (w_i - theta)_+ with c <= 1.
    "kl": nearest in sum_i p_i log(p_i / w_i), for positive w: p_i = max(floor / n, C w_i^gamma) with gamma <= 1.
    D(p) is that of `worst_case`.

    Parameters
    ----------
    weights : (n,) array
        float32 or float64, n >= 1, finite; for "kl" above 0. They need not sum to 1.
    radius : float
        R >= 0.
    divergence : {"chi2", "kl"}
        The ball, and what nearest means.
    floor : float
        0 <= floor < 1.
    out : (n,) array of float64, optional
        Where to put the result; may be `weights` itself.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`. On CUDA: chi2.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    (n,) array of float64
        They sum to 1 to rounding.

    Raises
    ------
    ValueError, TypeError
        `weights` is not one non-empty vector or has a NaN or an Inf, or for "kl" a number not above 0; a parameter is out of its
        range; `out` does not fit.

    Notes
    -----
    Cost: no sorting; 4 to 8 passes over the vector, more with a floor under "kl".
    Deterministic: the same bits for every number of threads and instruction set.

    References
    ----------
    Michelot: A finite algorithm for finding the projection of a point onto the canonical simplex (JOTA 1986).
    Namkoong and Duchi, Stochastic Gradient Methods for Distributionally Robust Optimization with f-divergences (NIPS 2016).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.dro.project(np.array([0.75, 0.25, 0.25, 0.25]), radius=0.5)
    array([0.625, 0.125, 0.125, 0.125])
    """
    if divergence not in ("chi2", "kl"):
        raise ValueError(f"divergence must be 'chi2' or 'kl', got {divergence!r}")
    radius, floor = number(radius, "radius", 0.0), number(floor, "floor", 0.0)
    if floor >= 1.0:
        raise ValueError(f"floor must be below 1, got {floor}: every p_i is at least floor / n")
    vector = _vector(weights, "weights")
    if divergence == "kl":
        return _run(vector, "weights", out, backend, num_threads, "tilted", radius, None, floor, True)[0]
    rest = 1.0 - floor
    return _run(vector, "weights", out, backend, num_threads, "linear", radius / (rest * rest), rest / vector[0].shape[0],
                floor)[0]


def _parameters(radius: Any, penalty: Any, divergence: Any, alpha: Any) -> tuple[Any, Any, Any, float]:
    """The parameters as floats, and the order of a Cressie-Read divergence (0 for the others); errors that say what is needed."""
    if isinstance(divergence, str):
        if divergence not in _ORDERS:
            raise ValueError(f"divergence must be one of {', '.join(_ORDERS)} or a number above 1, got {divergence!r}")
        order = _ORDERS[divergence]
    else:
        order = number(divergence, "divergence", 1.0, above=True)
    radius = None if radius is None else number(radius, "radius", 0.0)
    penalty = None if penalty is None else number(penalty, "penalty", 0.0, above=True)
    if alpha is not None:
        alpha = number(alpha, "alpha", 0.0, above=True)
        if alpha > 1.0:
            raise ValueError(f"alpha must be at most 1, got {alpha}: it is the share of the worst losses")
    has_radius, has_penalty = radius is not None, penalty is not None
    fits = has_radius != has_penalty if order else not has_radius and has_penalty == (divergence == "kl-cvar")
    if not fits or (alpha is None) == (order == 0.0):
        needs = "radius or penalty (one of them)" if order else "alpha" if divergence == "cvar" else "alpha and penalty"
        given = {"alpha": alpha, "radius": radius, "penalty": penalty}
        found = " and ".join(name for name, value in given.items() if value is not None)
        raise ValueError(f"divergence {divergence!r} needs {needs}, got {found or 'none'}")
    return radius, penalty, alpha, order


def _vector(x: Any, name: str) -> Unpacked:
    data, operand, wrap = unpack(x, name)
    if len(data.shape) != 1 or data.shape[0] == 0:
        raise ValueError(f"{name} must be one vector of at least one number, got shape {tuple(data.shape)}: pass "
                         f"{name}.reshape(-1)")
    if operand.device == "cpu" and operand.dtype in ("float16", "bfloat16"):  # weights are float64 whatever comes in
        return widen(data, operand.dtype), Operand("cpu", "float64"), wrap
    return data, operand, wrap


def _run(vector: Unpacked, name: str, out: Any, backend: str | None, num_threads: int | None, operation: str,
         *parameters: Any) -> tuple[Any, float]:
    """One kernel's weights in the caller's array type, and the value; ValueError for a vector with bad numbers."""
    data, operand, wrap = vector
    n = data.shape[0]
    run = find(f"dro.{operation}", operand, backend)
    threads = _threads.budget(num_threads, n * int(operand.dtype == "float64") * 4 + n * 4)
    result = None if out is None else array_out(out, (n,), "float64", operand.device)
    if operand.device == "cpu":
        data = np.ascontiguousarray(data)
        if result is not None and np.may_share_memory(result, data):
            data = data.copy()
    weights = empty_like_array(data, (n,), "float64") if result is None else result
    value = run(data, *parameters, weights, threads)
    if math.isnan(value):
        _refuse(to_host(vector[0]), name)
    return (wrap(weights) if out is None else out), value


def _refuse(z: np.ndarray, name: str) -> None:
    bad = ~np.isfinite(z)
    if bad.any():
        raise ValueError(f"{name} has a NaN or an Inf at {index_list(bad)}: remove these entries, or give them a finite number")
    raise ValueError(f"{name} must be above 0 for divergence 'kl', but is not at {index_list(z <= 0)}: an entry of 0 stays 0, "
                     "leave it out")
