"""The attack on the arithmetic of a rule, not on its idea."""

from __future__ import annotations

import numpy as np

from ..._checks import number
from .inputs import check


def precision(honest: np.ndarray, count: int, *, norm: float = 1e10, distance: float = 10.0) -> np.ndarray:
    """The precision attack: one attacker makes distances round to nothing, the others use that to get chosen.

    With u = -mean(h) / ||mean(h)|| and s the spread of the honest vectors, s^2 = mean of ||h_i - mean(h)||^2, the first
    attacker sends norm * u and each other one mean(h) + distance * s * u, so far out that every distance rule drops them.
    An implementation that takes distances in float32 from the Gram matrix, ||x||^2 - 2 x.y + ||y||^2, and centres the
    vectors on their mean or on the first of them to avoid cancellation, is moved by the first attacker: all others then
    lie at about the same place norm / n away, their distances are rounding errors, and the equal vectors of the other
    attackers come out closest. Without centring the same happens once the honest vectors themselves are long, as model
    weights are: use a `distance` of a few spreads there.

    Distances from differences (`fastgd.robust.pairwise_sqdist`) are not affected.

    Parameters
    ----------
    honest : (k, d) float16, float32 or float64 NumPy array, k >= 1
        The honest vectors.
    count : int
        Attackers, at least 0; from 2 on there is one to be chosen.
    norm : float
        Length of the first attacker's vector, at least 0.
    distance : float
        How far from the honest mean the others stand, in spreads, at least 0.

    Returns
    -------
    (count, d) array
        In the dtype of `honest`. Where mean(h) is zero, u is (1, .., 1) / sqrt(d).

    Raises
    ------
    ValueError, TypeError
        `honest` is not such an array; `count` is not an integer of at least 0; `norm` or `distance` is not a finite
        number of at least 0.

    Notes
    -----
    Cost: three reads of the honest vectors. Deterministic.

    References
    ----------
    Higham: Accuracy and Stability of Numerical Algorithms (2002), section 1.7, for the cancellation. Shejwalkar, Houmansadr:
    Manipulating the Byzantine (NDSS 2021), for attacks made for the rule at hand.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.robust import attacks
    >>> attacks.precision(np.array([[3.0, 1.0], [3.0, -1.0]]), 2, norm=1e6)
    array([[-1.e+06, -0.e+00],
           [-7.e+00,  0.e+00]])
    """
    honest, count = check(honest, count)
    norm, distance = number(norm, "norm", 0.0), number(distance, "distance", 0.0)
    d = honest.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        center = honest.mean(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(center))
        direction = -center / length if length != 0.0 else np.full(d, 1.0 / np.sqrt(max(d, 1)))
        spread = np.sqrt(np.square(honest - center).sum(axis=1).mean())
        sent = np.tile(center + distance * spread * direction, (count, 1))
        sent[:1] = norm * direction
        return sent.astype(honest.dtype)
