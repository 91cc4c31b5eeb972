"""Attacks that need no look at the honest vectors' values: noise, numbers that are none, copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..._checks import count as whole
from ..._checks import number
from .inputs import check


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
    honest, count = check(honest, count)
    return np.repeat(honest[None, whole(index, "index", 0, len(honest) - 1)], count, axis=0)


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
    honest, count = check(honest, count)
    sigma = number(sigma, "sigma", 0.0)
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
    honest, count = check(honest, count)
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
    honest, count = check(honest, count)
    return np.full((count, honest.shape[1]), np.inf, honest.dtype)
