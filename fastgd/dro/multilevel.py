"""Unbiased estimates of what a large batch would give, at the mean cost of a few small ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._checks import count, number
from .._dispatch import check_host
from ..random import bits32


def mlmc_estimate(draw: Callable[[int], Any], estimate: Callable[[Any], float], *, base: int, levels: int, q: float = 0.5,
                  seed: int = 0, step: int = 0, backend: str | None = None) -> float:
    """One multilevel Monte-Carlo estimate, whose mean is that of `estimate` on base * 2^levels examples.

    A level j in 0 .. levels - 1 is drawn with P(j) = q (1 - q)^j, the last with what remains. On a batch v of n = base 2^(j + 1):
    L(v[:base]) + (L(v) - (L(v[:n/2]) + L(v[n/2:])) / 2) / P(j). The corrections telescope.

    Parameters
    ----------
    draw : callable
        draw(size) gives a batch of independent examples that can be sliced (an array, a list).
    estimate : callable
        L: a batch to a number, such as `lambda losses: worst_case(losses, penalty=1.0)[1]`.
    base : int
        Examples of the smallest batch, at least 1.
    levels : int
        How often the batch may double, 0 to 40.
    q : float
        0 < q < 1. The mean batch has about 2 base q sum_j (2 (1 - q))^j examples.
    seed, step : int
        They determine the level: 0 <= seed < 2^64, 0 <= step < 2^32.
    backend : {"auto", "cpu", "reference"}, optional
        See `fastgd.use`; both are the same plain code on the host.

    Returns
    -------
    float
        The estimate.

    Raises
    ------
    ValueError, TypeError
        A number out of its range.

    Notes
    -----
    The variance is small where corrections shrink fast: penalised sets rather than balls.
    Cost: four calls of `estimate`. Deterministic given `draw`: the level depends on (seed, step) alone.

    References
    ----------
    Levy, Carmon, Duchi, Sidford: Large-Scale Methods for Distributionally Robust Optimization (NeurIPS 2020).
    Blanchet and Glynn: Unbiased Monte Carlo for optimization and functions of expectations (WSC 2015).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> fastgd.dro.mlmc_estimate(rng.standard_normal, lambda v: fastgd.dro.worst_case(v, penalty=1.0)[1], base=4, levels=3)
    0.2343...
    """
    check_host("dro.mlmc_estimate", backend)
    for name, function in (("draw", draw), ("estimate", estimate)):
        if not callable(function):
            raise TypeError(f"{name} must be a function of one argument, got {type(function).__name__}")
    base, levels = count(base, "base", 1), count(levels, "levels", 0, 40)
    q = number(q, "q", 0.0, above=True)
    if q >= 1.0:
        raise ValueError(f"q must be below 1, got {q}: it is the probability of the lowest level")
    if levels == 0:
        return _value(estimate, draw(base))
    low, high = (int(word) for word in bits32(seed, step, 0, 2))
    u = ((low | high << 32) >> 11) * 2.0**-53
    level, probability, rest = 0, q, 1.0 - q
    while level < levels - 1 and u >= 1.0 - rest:
        level, probability, rest = level + 1, rest * q, rest * (1.0 - q)
    if level == levels - 1:
        probability = (1.0 - q) ** level
    return telescoped(draw(base << (level + 1)), estimate, base, level, probability)


def telescoped(batch: Any, estimate: Callable[[Any], float], base: int, level: int, probability: float) -> float:
    """The estimate of one level from its batch of base * 2^(level + 1)."""
    half = base << level
    correction = _value(estimate, batch) - 0.5 * (_value(estimate, batch[:half]) + _value(estimate, batch[half:]))
    return _value(estimate, batch[:base]) + correction / probability


def _value(estimate: Callable[[Any], float], batch: Any) -> float:
    """What `estimate` says of a batch; TypeError where that is no number."""
    result = estimate(batch)
    try:
        return float(result)
    except (TypeError, ValueError):
        raise TypeError(f"estimate must return a number, got {result!r}") from None
