"""The attack that no linear rule survives."""

from __future__ import annotations

import numpy as np

from .inputs import check, copies


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
    honest, count = check(honest, count)
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
        return copies((u - w[:k] @ honest.astype(np.float64)) / w[k:].sum(), count, honest.dtype)
