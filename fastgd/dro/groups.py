"""Group DRO: mean losses of groups, and multiplicative weights over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays import Unpacked, unpack, widen
from .._checks import count, index_list, number
from .._dispatch import check_host


def group_weights(weights: Any, losses: Any, *, step_size: float, floor: float = 0.0, backend: str | None = None) -> Any:
    """One step of group DRO's adversary: q_g proportional to q_g exp(step_size l_g), mixed with uniform weights.

    Parameters
    ----------
    weights : (m,) array
        q, finite and >= 0, not all 0; it need not sum to 1. On the host.
    losses : (m,) array
        l, the groups' losses, finite; see `group_losses`.
    step_size : float
        At least 0.
    floor : float
        0 <= floor < 1: each of the m results is at least floor / m, as floor / m + (1 - floor) q_g.
    backend : {"auto", "cpu", "reference"}, optional
        See `fastgd.use`; both are the same plain code on the host.

    Returns
    -------
    (m,) array of float64
        The new weights, of sum 1. To train, take a step along the gradient of sum_g q_g l_g.

    Raises
    ------
    ValueError, TypeError
        Not two vectors of the same length; a number is out of its range or not finite.

    Notes
    -----
    Computed from logarithms, relative to the largest: no step size or loss overflows.
    Cost: O(m). Deterministic.

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang: Distributionally Robust Neural Networks for Group Shifts (ICLR 2020).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.dro.group_weights(np.array([0.5, 0.5]), np.array([np.log(3.0), 0.0]), step_size=1.0)
    array([0.75, 0.25])
    """
    check_host("dro.group_weights", backend)
    (data, operand, wrap), (loss, loss_operand, _) = _vector(weights, "weights"), _vector(losses, "losses")
    if data.shape != loss.shape:
        raise ValueError(f"weights and losses must have one entry a group, got {len(data)} and {len(loss)}")
    q, values = widen(data, operand.dtype), widen(loss, loss_operand.dtype)
    bad = ~(np.isfinite(q) & (q >= 0))
    if bad.any() or not q.any():
        raise ValueError(f"weights must be finite, at least 0 and not all 0, got a bad one at {index_list(bad | (q == 0))}: "
                         "start from numpy.full(m, 1 / m)")
    if not np.isfinite(values).all():
        raise ValueError(f"losses has a NaN or an Inf at {index_list(~np.isfinite(values))}: leave out this step")
    step_size, floor = number(step_size, "step_size", 0.0), number(floor, "floor", 0.0)
    if floor >= 1.0:
        raise ValueError(f"floor must be below 1, got {floor}: it is the share of uniform weights")
    with np.errstate(divide="ignore", over="ignore"):
        values = np.where(q > 0, values, values[q > 0].max())  # what has no weight gets none: the origin is the largest that has
        gains = step_size * (0.5 * values - 0.5 * values.max()) * 2.0
        x = np.log(q) + gains
        new = np.exp(x - x.max())
    return wrap(floor / len(q) + (1.0 - floor) * (new / new.sum()))


def group_losses(losses: Any, groups: Any, n_groups: int, *, backend: str | None = None) -> Any:
    """The mean loss of each group: l_g = mean of losses[groups == g], 0 for a group without examples.

    Parameters
    ----------
    losses : (n,) array
        float32, float64, float16 or bfloat16, on the host.
    groups : (n,) array of integers
        The group of each loss, in [0, n_groups).
    n_groups : int
        At least 1.
    backend : {"auto", "cpu", "reference"}, optional
        See `fastgd.use`; both are the same plain code on the host.

    Returns
    -------
    (n_groups,) array of float64
        The means.

    Raises
    ------
    ValueError, TypeError
        Not two vectors of the same length; `groups` has no integers, or one out of its range.

    Notes
    -----
    Cost: O(n + n_groups). Deterministic: losses are added in their order.

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang: Distributionally Robust Neural Networks for Group Shifts (ICLR 2020).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.dro.group_losses(np.array([1.0, 2.0, 6.0]), np.array([0, 1, 1]), 3)
    array([1., 4., 0.])
    """
    check_host("dro.group_losses", backend)
    data, operand, wrap = _vector(losses, "losses")
    n_groups, ids = count(n_groups, "n_groups", 1), np.asarray(groups)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"groups must be integers, got {ids.dtype}: convert it with .astype('int64')")
    if ids.shape != data.shape:
        raise ValueError(f"groups must have one entry for each of the {len(data)} losses, got shape {ids.shape}")
    bad = (ids < 0) | (ids >= n_groups)
    if bad.any():
        raise ValueError(f"groups must be from 0 to {n_groups - 1}, but are not at {index_list(bad)}")
    sums = np.bincount(ids, widen(data, operand.dtype), n_groups)
    return wrap(sums / np.maximum(np.bincount(ids, minlength=n_groups), 1))


def _vector(x: Any, name: str) -> Unpacked:
    data, operand, wrap = unpack(x, name)
    if operand.device != "cpu":
        raise ValueError(f"{name} must be on the host: pass {name}.cpu() (torch) or {name}.get() (CuPy)")
    if data.ndim != 1 or not data.size:
        raise ValueError(f"{name} must be one vector of at least one number, got shape {data.shape}")
    return data, operand, wrap
