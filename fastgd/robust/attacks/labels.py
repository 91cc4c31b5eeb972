"""The attack on the data: what an attacker trains on, not what it sends."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._checks import count


def label_flip(labels: Any, classes: int) -> np.ndarray:
    """Label flipping: an attacker trains as it should, on labels turned around: classes - 1 - label.

    What it sends is the honest gradient of wrong data. That depends on the model and on the attacker's own samples, so
    no function of the honest vectors can make it, and it does not stand in `ATTACKS`: call it where the labels are.

    Parameters
    ----------
    labels : array of integers from 0 to classes - 1
        The attacker's labels.
    classes : int
        Number of classes, at least 1.

    Returns
    -------
    array
        New memory, shape and dtype of `labels`.

    Raises
    ------
    ValueError, TypeError
        `labels` are not integers, or not all from 0 to classes - 1; `classes` is not an integer of at least 1.

    Notes
    -----
    Cost: one read. Deterministic.

    References
    ----------
    Allen-Zhu, Ebrahimian, Li, Alistarh: Byzantine-Resilient Non-Convex Stochastic Gradient Descent (ICLR 2021), whose
    experiments send label l as 9 - l.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.robust import attacks
    >>> attacks.label_flip(np.array([0, 1, 9]), 10)
    array([9, 8, 0])
    """
    classes = count(classes, "classes", 1)
    values = np.asarray(labels)
    if values.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got dtype {values.dtype}")
    if values.size and not 0 <= values.min() <= values.max() < classes:
        raise ValueError(f"labels must be from 0 to {classes - 1} for classes={classes}, got {values.min()} to {values.max()}")
    return (classes - 1 - values).astype(values.dtype)
