"""Attacks that all attackers send one vector of, a little or far off the honest mean."""

from __future__ import annotations

import numpy as np

from ..._checks import number
from .inputs import check, copies


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
    honest, count = check(honest, count)
    return _against_mean(honest, count, number(scale, "scale"))


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
    honest, count = check(honest, count)
    return _against_mean(honest, count, number(epsilon, "epsilon"))


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
    honest, count = check(honest, count)
    k = len(honest)
    if k < 2:
        raise ValueError("alie needs at least 2 honest vectors: the standard deviation of one is not defined")
    if z is not None:
        z = number(z, "z")
    else:
        needed = (k + count) // 2 + 1 - count
        if not 0 < needed < k:
            raise ValueError(f"z_max is infinite for {count} attackers and {k} honest vectors: pass z=")
        from statistics import NormalDist  # here, because it would slow down the import of the whole room

        z = NormalDist().inv_cdf((k - needed) / k)
    with np.errstate(over="ignore", invalid="ignore"):
        center, spread = honest.mean(axis=0, dtype=np.float64), honest.std(axis=0, ddof=1, dtype=np.float64)
        return copies(center + z * spread, count, honest.dtype)


def _against_mean(honest: np.ndarray, count: int, factor: float) -> np.ndarray:
    """`count` copies of -factor * mean(h)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return copies(-factor * honest.mean(axis=0, dtype=np.float64), count, honest.dtype)
