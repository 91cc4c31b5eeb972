"""The best constant step sizes under compression, and the rates they guarantee and cannot exceed.

For minimising an L-smooth, mu-strongly convex function with gradients through a contractive compressor,
E||x - C(x)||^2 <= epsilon ||x||^2: `ef` for error feedback, `ef21` for EF21, `cgd` for sending C(gradient) and forgetting
the rest, `ef21_heterogeneous` for workers whose functions differ. epsilon is what a codec's `contraction(n)` gives.
docs/compress.md derives the rates from the worst case, which has one dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from .._checks import number

__all__ = ["Rate", "WorkersRate", "cgd", "ef", "ef21", "ef21_heterogeneous"]


class Rate(NamedTuple):
    """A step size, and what a step with it leaves at most of the method's Lyapunov function: a factor from 0 to 1."""

    step_size: float
    rate: float


class WorkersRate(NamedTuple):
    """As `Rate`; the rate is None where no closed form is known."""

    step_size: float
    rate: float | None


def ef(contraction: float, L: float, mu: float) -> Rate:
    """The best constant step size of error feedback, and its tight rate.

    With s = sqrt(epsilon) and kappa = L / mu:

        step_size = 2 / (L + mu) (1 - s) / (1 + s)
        rate      = ((tau + sqrt(tau^2 + 4 s)) / 2)^2,    tau = (1 - s) (kappa - 1) / (kappa + 1)

    Parameters
    ----------
    contraction : float
        epsilon, 0 <= epsilon < 1: E||x - C(x)||^2 <= epsilon ||x||^2.
    L : float
        Smoothness: the largest curvature. At least mu.
    mu : float
        Strong convexity: the smallest curvature. Above 0.

    Returns
    -------
    Rate
        `(step_size, rate)`. A step p = e + step_size g, x <- x - C(p), e <- p - C(p) leaves at most rate V of
        V = ||x - x* - e||^2 + ||e||^2 / s, where x* is the minimiser (for epsilon = 0 there is no e).

    Raises
    ------
    ValueError
        `contraction` is not in [0, 1), L < mu, mu is not positive, or the step size is no finite number.
    TypeError
        An argument is no number; `contraction` of a codec that is no contraction is None.

    Notes
    -----
    Tight: for each epsilon, L, mu there is a quadratic in one dimension and a C for which V shrinks by exactly `rate`.
    sqrt(rate) is the positive root of z^2 = tau z + s. Limits: epsilon = 0 is gradient descent, ((kappa - 1) / (kappa + 1))^2;
    L = mu gives s. It holds for one worker, or for n workers with one L, mu and a common minimiser.
    Inside `ErrorFeedback` the step size belongs to the gradient: compress(step_size * g), then x -= the decoded payload.
    Cost: O(1). Deterministic.

    References
    ----------
    Thomsen, Taylor, Dieuleveut: Tight Analyses of First-Order Methods with Error Feedback (arXiv:2506.05271, 2025).

    Examples
    --------
    >>> from fastgd.compress import rates
    >>> step_size, rate = rates.ef(0.25, L=10.0, mu=1.0)
    >>> round(step_size, 6), round(rate, 9)
    (0.060606, 0.884808291)
    """
    s, gap, q = _checked(contraction, L, mu)
    tau = gap * (1.0 - q) / (1.0 + q)
    return Rate(_finite(2.0 / (1.0 + q) * gap / (1.0 + s) / float(L)), _square(tau, s))


def ef21(contraction: float, L: float, mu: float) -> Rate:
    """The best constant step size of EF21, and its tight rate: those of `ef`.

    With s = sqrt(epsilon) and kappa = L / mu:

        step_size = 2 / (L + mu) (1 - s) / (1 + s)
        rate      = ((tau + sqrt(tau^2 + 4 s)) / 2)^2,    tau = (1 - s) (kappa - 1) / (kappa + 1)

    Parameters
    ----------
    contraction : float
        epsilon, 0 <= epsilon < 1: E||x - C(x)||^2 <= epsilon ||x||^2.
    L : float
        Smoothness: the largest curvature. At least mu.
    mu : float
        Strong convexity: the smallest curvature. Above 0.

    Returns
    -------
    Rate
        `(step_size, rate)`. A step x <- x - step_size d, g = gradient at x, d <- d + C(g - d) leaves at most rate V of
        V = ||g - d||^2 + s ||g||^2.

    Raises
    ------
    ValueError
        `contraction` is not in [0, 1), L < mu, mu is not positive, or the step size is no finite number.
    TypeError
        An argument is no number; `contraction` of a codec that is no contraction is None.

    Notes
    -----
    Tight, and the same for any number of workers that have one L and mu, however their minimisers differ: see
    `ef21_heterogeneous` for others. Error feedback needs a common minimiser for that. Cost: O(1). Deterministic.

    References
    ----------
    Thomsen, Taylor, Dieuleveut: Tight Analyses of First-Order Methods with Error Feedback (arXiv:2506.05271, 2025).
    Richtárik, Sokolov, Fatkhullin: EF21: A New, Simpler, Theoretically Better, and Practically Faster Error Feedback
    (NeurIPS 2021).

    Examples
    --------
    >>> from fastgd.compress import TopK, rates
    >>> step_size, rate = rates.ef21(TopK(ratio=0.5).contraction(1000), L=4.0, mu=1.0)
    >>> round(step_size, 6), round(rate, 9)
    (0.068629, 0.871128633)
    """
    return ef(contraction, L, mu)


def cgd(contraction: float, L: float, mu: float) -> Rate:
    """The best constant step size of compressed gradient descent without feedback, and its tight rate.

    With s = sqrt(epsilon):

        step_size = 2 / ((1 - s) mu + (1 + s) L)
        rate      = ((K - 1) / (K + 1))^2,    K = (L / mu) (1 + s) / (1 - s)

    Parameters
    ----------
    contraction : float
        epsilon, 0 <= epsilon < 1: ||x - C(x)||^2 <= epsilon ||x||^2.
    L : float
        Smoothness: the largest curvature. At least mu.
    mu : float
        Strong convexity: the smallest curvature. Above 0.

    Returns
    -------
    Rate
        `(step_size, rate)`. A step x <- x - step_size C(g) leaves at most rate V of V = f(x) - f(x*).

    Raises
    ------
    ValueError
        `contraction` is not in [0, 1), L < mu, mu is not positive, or the step size is no finite number.
    TypeError
        An argument is no number; `contraction` of a codec that is no contraction is None.

    Notes
    -----
    For ONE worker, and there better than error feedback for every epsilon > 0. It says nothing about two or more: their mean of
    C(g_i) is no contraction of the mean gradient, and the method may diverge at every step size (Beznosikov et al. 2020).
    Cost: O(1). Deterministic.

    References
    ----------
    de Klerk, Glineur, Taylor: Worst-Case Convergence Analysis of Inexact Gradient and Newton Methods Through Semidefinite
    Programming Performance Estimation (SIAM J. Optim. 2020). Thomsen, Taylor, Dieuleveut (arXiv:2506.05271, 2025).
    Beznosikov, Horváth, Richtárik, Safaryan: On Biased Compression for Distributed Learning (arXiv:2002.12410, 2020).

    Examples
    --------
    >>> from fastgd.compress import rates
    >>> step_size, rate = rates.cgd(0.25, L=10.0, mu=1.0)
    >>> round(step_size, 6), round(rate, 6)
    (0.129032, 0.87513)
    """
    s, gap, q = _checked(contraction, L, mu)
    return Rate(_finite(2.0 / (gap * q + 1.0 + s) / float(L)), ((1.0 + s - gap * q) / (1.0 + s + gap * q)) ** 2)


def ef21_heterogeneous(contraction: float, L: Iterable[float], mu: Iterable[float]) -> WorkersRate:
    """The best constant step size of EF21 for n workers with an L_i and mu_i each, and for two of them its rate.

    With s = sqrt(epsilon):

        step_size = 2 n / sum_i (L_i + mu_i) (1 - s) / (1 + s)
        rate      = s + u,  u > 0 the only positive root of  u^2 (u + s - s^2) = r (u + s) (A u + s B),  where
                    r = (1 - s)^2 / (1 + s),  A = s k1 + k2,  B = (1 - s^2) k2,  k1 = w_1 a_1^2 + w_2 a_2^2,
                    k2 = (w_1 a_1 + w_2 a_2)^2,  a_i = (L_i - mu_i) / (L_i + mu_i),  w_i the share of L_i + mu_i in the sum

    Parameters
    ----------
    contraction : float
        epsilon, 0 <= epsilon < 1, of all workers: E||x - C(x)||^2 <= epsilon ||x||^2.
    L : sequence of float
        The workers' smoothness, each at least its mu.
    mu : sequence of float
        The workers' strong convexity, each above 0; as many as L has.

    Returns
    -------
    WorkersRate
        `(step_size, rate)`. The rate is None for more than two workers unless all have the same L and mu: none is known.

    Raises
    ------
    ValueError
        `contraction` is not in [0, 1), L and mu differ in length or are empty, an L_i < mu_i, a mu_i is not positive, or the
        step size is no finite number.
    TypeError
        L or mu is no sequence of numbers.

    Notes
    -----
    The rate of two workers is the authors' law, found and confirmed numerically (semidefinite programs), not proved: what a
    step leaves at most of V = sum_i ||g_i - d_i||^2 / (L_i + mu_i) + s ||sum_i g_i||^2 / sum_i (L_i + mu_i). Where both
    workers have the same condition number L_i / mu_i it is that of `ef21`; docs/compress.md has the root's uniqueness.
    Cost: O(n), and a few Newton steps from above, which cannot miss. Deterministic.

    References
    ----------
    Thomsen, Taylor, Dieuleveut: A Tight Theory of Error Feedback Algorithms in Distributed Optimization (arXiv:2605.31594).

    Examples
    --------
    >>> from fastgd.compress import rates
    >>> step_size, rate = rates.ef21_heterogeneous(0.25, L=[1.0, 10.0], mu=[0.5, 0.1])
    >>> round(step_size, 6), round(rate, 9)
    (0.114943, 0.936494489)
    """
    above, below = _sequence(L, "L"), _sequence(mu, "mu")
    if len(above) != len(below) or not above:
        raise ValueError(f"L and mu must name the same workers, at least one: got {len(above)} of L and {len(below)} of mu")
    workers = [_checked(contraction, high, low, f"[{i}]") for i, (high, low) in enumerate(zip(above, below, strict=True))]
    s, gap, _ = workers[0]
    largest = max(above)
    weights = [high / largest * (1.0 + q) for high, (_, _, q) in zip(above, workers, strict=True)]  # (L_i + mu_i) / largest
    total = math.fsum(weights)
    step_size = _finite(2.0 * len(above) / total * gap / (1.0 + s) / largest)
    spread = [(1.0 - q) / (1.0 + q) for _, _, q in workers]
    if len(set(zip(above, below, strict=True))) == 1:
        return WorkersRate(step_size, _square(gap * spread[0], s))
    if len(above) > 2:
        return WorkersRate(step_size, None)
    k1 = math.fsum(w / total * a * a for w, a in zip(weights, spread, strict=True))
    k2 = math.fsum(w / total * a for w, a in zip(weights, spread, strict=True)) ** 2
    return WorkersRate(step_size, s + _positive_root(s, gap, k1, k2))


def _positive_root(s: float, gap: float, k1: float, k2: float) -> float:
    """The positive root u of u^3 + a u^2 - b u - c. b, c >= 0: there is at most one, and the cubic is convex above it."""
    r = gap * gap / (1.0 + s)
    first, second = s * k1 + k2, gap * (1.0 + s) * k2
    a, b, c = s * gap - r * first, r * s * (first + second), r * s * s * second
    u = gap  # where the rate is 1: not below the root, since k2 <= k1 <= 1
    for _ in range(200):
        slope = (3.0 * u + 2.0 * a) * u - b
        lower = u - (((u + a) * u - b) * u - c) / slope if slope > 0.0 else u
        if not lower < u:
            break
        u = max(lower, 0.0)
    return u


def _square(tau: float, s: float) -> float:
    """z^2 for the positive root z of z^2 = tau z + s."""
    return ((tau + math.sqrt(tau * tau + 4.0 * s)) / 2.0) ** 2


def _checked(contraction: float, L: float, mu: float, index: str = "") -> tuple[float, float, float]:
    """sqrt(epsilon), 1 - sqrt(epsilon) without cancellation, and mu / L."""
    epsilon = number(contraction, "contraction", 0.0)
    if epsilon >= 1.0:
        raise ValueError(f"contraction must be below 1, got {contraction!r}: a codec that may lose everything has no rate")
    high, low = number(L, f"L{index}", 0.0, above=True), number(mu, f"mu{index}", 0.0, above=True)
    if high < low:
        raise ValueError(f"L{index} must be at least mu{index}, got {L!r} and {mu!r}")
    s = math.sqrt(epsilon)
    return s, (1.0 - epsilon) / (1.0 + s), low / high


def _sequence(values: Iterable[float], name: str) -> list[float]:
    try:
        if isinstance(values, str | bytes):
            raise TypeError
        return [number(value, f"{name}[{i}]", 0.0, above=True) for i, value in enumerate(values)]
    except TypeError as error:
        if name in str(error):
            raise
        raise TypeError(f"{name} must be a sequence of numbers, one for each worker, got {values!r}") from None


def _finite(step_size: float) -> float:
    if not math.isfinite(step_size):
        raise ValueError("L is so small that the step size, about 2 / L, is no finite number: rescale the function")
    return step_size
