"""What Byzantine workers send: the attacks of the literature, to test an aggregation rule against.

Every attack is a function ``attack(honest, count, **options)``. It sees all honest vectors h_1 .. h_k, as an omniscient
adversary does, and returns the vectors of the `count` attackers. `ATTACKS` maps each attack's name to its function.

Notation: ``k`` honest vectors of ``d`` coordinates, ``f`` attackers (`count`), ``n = k + f``; mean(h) and std(h) are
coordinate-wise, std with denominator k - 1. Arithmetic is in float64 and rounded once to the dtype of the honest
vectors, where a value too large becomes an Inf. A NaN or an Inf in an honest vector passes into what is computed from
it. The honest vectors are never written to, and no two attackers share memory.

This module is plain NumPy and meant for tests, simulations and demonstrations, not for speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._checks import count as _count

__all__ = ["ATTACKS", "alie", "gaussian", "inf", "ipm", "lemma31", "mimic", "nan", "sign_flip"]


def sign_flip(honest: np.ndarray, count: int, *, scale: float = 1.0) -> np.ndarray:
    """Sign flipping: every attacker sends -scale * mean(h).

    With equal weights the mean of all n vectors becomes (k - scale f) / n * mean(h): it points backwards as soon as
    scale > k / f, and is only shortened below. The vector is that of `ipm`; the literature uses this name for scale 1
    and for loud attacks, that one for quiet ones.

    Parameters
    ----------
    honest : (k, d) float16, float32 or float64 NumPy array, k >= 1
        The honest vectors.
    count : int
        Attackers, at least 0.
    scale : float
        Length of what is sent, in lengths of the honest mean.

    Returns
    -------
    (count, d) array
        In the dtype of `honest`.

    Raises
    ------
    ValueError, TypeError
        `honest` is not such an array; `count` is not an integer of at least 0; `scale` is not a finite number.

    Notes
    -----
    Cost: one read of the honest vectors. Deterministic.

    References
    ----------
    Li, Xu, Chen, Giannakis, Ling: RSA, Byzantine-Robust Stochastic Aggregation Methods (AAAI 2019).

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.robust import attacks
    >>> attacks.sign_flip(np.array([[1.0, 2.0], [3.0, 2.0]]), 2, scale=10)
    array([[-20., -20.],
           [-20., -20.]])
    """
    honest, count = _check(honest, count)
    return _against_mean(honest, count, _number(scale, "scale"))


def ipm(honest: np.ndarray, count: int, *, epsilon: float = 0.5) -> np.ndarray:
    """Inner product manipulation: every attacker sends -epsilon * mean(h).

    A large epsilon (> k / f) turns the mean around, and stands far from the honest vectors. A small one (0.1 to 0.5)
    leaves the mean its direction, but hides among honest vectors that vary more than their mean is long: there it is
    the attack against Krum and the median.

    Parameters
    ----------
    honest : (k, d) float16, float32 or float64 NumPy array, k >= 1
        The honest vectors.
    count : int
        Attackers, at least 0.
    epsilon : float
        Length of what is sent, in lengths of the honest mean.

    Returns
    -------
    (count, d) array
        In the dtype of `honest`.

    Raises
    ------
    ValueError, TypeError
        `honest` is not such an array; `count` is not an integer of at least 0; `epsilon` is not a finite number.

    Notes
    -----
    Cost: one read of the honest vectors. Deterministic.

    References
    ----------
    Xie, Koyejo, Gupta: Fall of Empires, Breaking Byzantine-tolerant SGD by Inner Product Manipulation (UAI 2019).

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.robust import attacks
    >>> attacks.ipm(np.array([[1.0, 2.0], [3.0, 2.0]]), 1, epsilon=0.25)
    array([[-0.5, -0.5]])
    """
    honest, count = _check(honest, count)
    return _against_mean(honest, count, _number(epsilon, "epsilon"))


def alie(honest: np.ndarray, count: int, *, z: float | None = None) -> np.ndarray:
    """A little is enough: every attacker sends mean(h) + z * std(h), inside the spread of the honest vectors.

    The default z is the paper's z_max: with s = floor(n / 2 + 1) - f honest vectors still needed for a majority,
    Phi(z_max) = (k - s) / k, Phi the standard normal distribution function; s honest vectors are then expected beyond
    what is sent. It is 0.35 for 4 attackers of 15, and negative when f is too small to hide.

    Parameters
    ----------
    honest : (k, d) float16, float32 or float64 NumPy array, k >= 2
        The honest vectors.
    count : int
        Attackers, at least 0.
    z : float, optional
        Standard deviations to move each coordinate; negative moves it down. Default z_max, for which the attackers
        must not be the majority.

    Returns
    -------
    (count, d) array
        In the dtype of `honest`.

    Raises
    ------
    ValueError, TypeError
        `honest` is not such an array; `count` is not an integer of at least 0; `z` is not a finite number, or is left
        out where z_max is infinite.

    Notes
    -----
    Cost: two reads of the honest vectors. Deterministic.

    References
    ----------
    Baruch, Baruch, Goldberg: A Little Is Enough, Circumventing Defenses for Distributed Learning (NeurIPS 2019).

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.robust import attacks
    >>> attacks.alie(np.array([[1.0, 2.0], [3.0, 2.0]]), 1, z=1.0).round(3)
    array([[3.414, 2.   ]])
    """
    honest, count = _check(honest, count)
    k = len(honest)
    if k < 2:
        raise ValueError("alie needs at least 2 honest vectors: the standard deviation of one is not defined")
    if z is not None:
        z = _number(z, "z")
    else:
        needed = (k + count) // 2 + 1 - count
        if not 0 < needed < k:
            raise ValueError(f"z_max is infinite for {count} attackers and {k} honest vectors: pass z=")
        from statistics import NormalDist  # here, because it would slow down the import of the whole room

        z = NormalDist().inv_cdf((k - needed) / k)
    with np.errstate(over="ignore", invalid="ignore"):
        center, spread = honest.mean(axis=0, dtype=np.float64), honest.std(axis=0, ddof=1, dtype=np.float64)
        return _copies(center + z * spread, count, honest.dtype)


def mimic(honest: np.ndarray, count: int, *, index: int = 0) -> np.ndarray:
    """Mimic: every attacker sends a copy of h_index, which so counts f + 1 times.

    Harmless where workers hold alike data. Where they do not, the worker that is copied is over-represented and the
    others' data are under-learnt, though no vector looks wrong.

    Parameters
    ----------
    honest : (k, d) float16, float32 or float64 NumPy array, k >= 1
        The honest vectors.
    count : int
        Attackers, at least 0.
    index : int
        The honest vector to copy, 0 to k - 1.

    Returns
    -------
    (count, d) array
        Bitwise copies, in the dtype of `honest`.

    Raises
    ------
    ValueError, TypeError
        `honest` is not such an array; `count` is not an integer of at least 0; `index` is not one of 0 to k - 1.

    Notes
    -----
    Cost: count d writes. Deterministic.

    References
    ----------
    Karimireddy, He, Jaggi: Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing (ICLR 2022).

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.robust import attacks
    >>> attacks.mimic(np.array([[1.0, 2.0], [3.0, 2.0]]), 1, index=1)
    array([[3., 2.]])
    """
    honest, count = _check(honest, count)
    return np.repeat(honest[None, _count(index, "index", 0, len(honest) - 1)], count, axis=0)


def gaussian(honest: np.ndarray, count: int, *, sigma: float = 200.0, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Noise: every attacker sends its own draw of N(0, sigma^2 I), whatever the honest vectors are.

    Parameters
    ----------
    honest : (k, d) float16, float32 or float64 NumPy array, k >= 1
        The honest vectors; only their dtype and d matter.
    count : int
        Attackers, at least 0.
    sigma : float
        Standard deviation of each coordinate, at least 0.
    seed : int or sequence of int, each at least 0
        Equal seeds give equal draws: pass ``seed=(seed, step)`` for fresh ones at every step.

    Returns
    -------
    (count, d) array
        In the dtype of `honest`. The first rows are the same for every `count`.

    Raises
    ------
    ValueError, TypeError
        `honest` is not such an array; `count` is not an integer of at least 0; `sigma` is not a finite number of at
        least 0; `seed` is no seed.

    Notes
    -----
    Cost: count d normal draws. Deterministic for a given seed and version of NumPy.

    References
    ----------
    Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries (NIPS 2017), whose
    experiments have sigma = 200.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.robust import attacks
    >>> attacks.gaussian(np.zeros((3, 2), np.float32), 4, sigma=0.0).dtype
    dtype('float32')
    """
    honest, count = _check(honest, count)
    sigma = _number(sigma, "sigma")
    if sigma < 0.0:
        raise ValueError(f"sigma must be a finite number of at least 0, got {sigma!r}")
    draws = np.random.default_rng(seed).standard_normal((count, honest.shape[1]))
    with np.errstate(over="ignore"):
        return (sigma * draws).astype(honest.dtype)


def nan(honest: np.ndarray, count: int) -> np.ndarray:
    """Not a number: every coordinate of every attacker is NaN, as a crashed or overflowed worker sends it.

    Parameters
    ----------
    honest : (k, d) float16, float32 or float64 NumPy array, k >= 1
        The honest vectors; only their dtype and d matter.
    count : int
        Attackers, at least 0.

    Returns
    -------
    (count, d) array
        In the dtype of `honest`.

    Raises
    ------
    ValueError, TypeError
        `honest` is not such an array; `count` is not an integer of at least 0.

    Notes
    -----
    Cost: count d writes. Deterministic.

    References
    ----------
    Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries (NIPS 2017): what a Byzantine worker
    sends is arbitrary.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.robust import attacks
    >>> attacks.nan(np.ones((3, 2)), 1)
    array([[nan, nan]])
    """
    honest, count = _check(honest, count)
    return np.full((count, honest.shape[1]), np.nan, honest.dtype)


def inf(honest: np.ndarray, count: int) -> np.ndarray:
    """Infinity: every coordinate of every attacker is +Inf.

    Parameters
    ----------
    honest : (k, d) float16, float32 or float64 NumPy array, k >= 1
        The honest vectors; only their dtype and d matter.
    count : int
        Attackers, at least 0.

    Returns
    -------
    (count, d) array
        In the dtype of `honest`.

    Raises
    ------
    ValueError, TypeError
        `honest` is not such an array; `count` is not an integer of at least 0.

    Notes
    -----
    Cost: count d writes. Deterministic.

    References
    ----------
    As `nan`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.robust import attacks
    >>> attacks.inf(np.ones((3, 2)), 1)
    array([[inf, inf]])
    """
    honest, count = _check(honest, count)
    return np.full((count, honest.shape[1]), np.inf, honest.dtype)


def lemma31(honest: np.ndarray, count: int, *, target: np.ndarray | None = None,
            weights: np.ndarray | None = None) -> np.ndarray:
    """The attack on linear rules: the attackers choose the output U of sum_i w_i x_i, whatever the others send.

    Every attacker sends (U - sum_{i<=k} w_i h_i) / sum_{i>k} w_i. One attacker is enough, which is why no linear rule,
    the mean included, tolerates a single Byzantine worker.

    Parameters
    ----------
    honest : (k, d) float16, float32 or float64 NumPy array, k >= 1
        The honest vectors.
    count : int
        Attackers, at least 0.
    target : (d,) array, optional
        The output U to enforce. Default 0: training stands still.
    weights : (k + count,) array, optional
        The rule's weights, those of the attackers last. Default 1 / n each: the mean.

    Returns
    -------
    (count, d) array
        In the dtype of `honest`: the rule's output is U up to the rounding of these vectors.

    Raises
    ------
    ValueError, TypeError
        `honest` is not such an array; `count` is not an integer of at least 0; `target` or `weights` has another shape;
        a weight is not finite, or those of the attackers sum to zero.

    Notes
    -----
    Cost: one read of the honest vectors. Deterministic.

    References
    ----------
    Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries (NIPS 2017), Lemma 3.1.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> from fastgd.robust import attacks
    >>> honest = np.array([[1.0, 2.0], [3.0, 2.0]])
    >>> fastgd.robust.mean(np.vstack([honest, attacks.lemma31(honest, 1, target=[100.0, -5.0])]))
    array([100.,  -5.])
    """
    honest, count = _check(honest, count)
    k, d = honest.shape
    u = np.zeros(d) if target is None else np.asarray(target, dtype=np.float64)
    w = np.full(k + count, 1.0 / (k + count)) if weights is None else np.asarray(weights, dtype=np.float64)
    if u.shape != (d,):
        raise ValueError(f"target has shape {u.shape}, but must be ({d},) like one honest vector")
    if w.shape != (k + count,):
        raise ValueError(f"weights has shape {w.shape}, but must be ({k + count},): one per honest vector, then "
                         "one per attacker")
    if not np.isfinite(w).all() or (count and w[k:].sum() == 0.0):
        raise ValueError("weights must be finite, and those of the attackers must not sum to zero")
    if count == 0:
        return np.empty((0, d), honest.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return _copies((u - w[:k] @ honest.astype(np.float64)) / w[k:].sum(), count, honest.dtype)


#: Every attack by its name.
ATTACKS: dict[str, Callable[..., np.ndarray]] = {
    "alie": alie, "gaussian": gaussian, "inf": inf, "ipm": ipm, "lemma31": lemma31, "mimic": mimic, "nan": nan,
    "sign_flip": sign_flip,
}


def _check(honest: Any, count: Any) -> tuple[np.ndarray, int]:
    """The two arguments every attack has, or an error that names the one at fault."""
    if not isinstance(honest, np.ndarray) or honest.dtype not in (np.float16, np.float32, np.float64):
        got = f"{honest.dtype} array" if isinstance(honest, np.ndarray) else type(honest).__name__
        raise TypeError(f"honest must be a NumPy array of float16, float32 or float64, got {got}: convert it with "
                        "numpy.asarray(..., dtype=numpy.float32)")
    if honest.ndim != 2 or len(honest) == 0:
        raise ValueError(f"honest has shape {honest.shape}, but must be (k, d) with k >= 1: one row per honest vector")
    return honest, _count(count, "count", 0)


def _number(value: Any, name: str) -> float:
    """`value` as a finite float."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a finite number, got {value!r}") from None
    if not np.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return number


def _against_mean(honest: np.ndarray, count: int, factor: float) -> np.ndarray:
    """`count` copies of -factor * mean(h)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _copies(-factor * honest.mean(axis=0, dtype=np.float64), count, honest.dtype)


def _copies(vector: np.ndarray, count: int, dtype: np.dtype) -> np.ndarray:
    """`count` copies of a float64 vector, rounded to `dtype`."""
    with np.errstate(over="ignore"):
        return np.repeat(vector.astype(dtype)[None], count, axis=0)
