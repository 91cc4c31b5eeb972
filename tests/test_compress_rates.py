"""The tight step sizes and rates: tables, limits, the worst case in one dimension that attains them, two workers."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from fastgd.compress import rates

EPSILONS = (0.01, 0.10, 0.25, 0.50, 0.90)
KAPPAS = (1.0, 1.5, 2.0, 4.0, 10.0, 100.0, 1e6)
GRID = list(itertools.product((0.0, 1e-12, *EPSILONS, 0.999, 1.0 - 1e-9), KAPPAS))

#: The rate of EF and EF21 by (epsilon, kappa), from the published form.
TABLE = {
    0.01: (0.250000000, 0.470338727, 0.728504657, 0.967906835),
    0.10: (0.472979073, 0.645964200, 0.824094545, 0.979582404),
    0.25: (0.632555608, 0.761852484, 0.884808291, 0.986871166),
    0.50: (0.794108532, 0.871128633, 0.939368196, 0.993226113),
    0.90: (0.965491127, 0.979150653, 0.990469128, 0.998957604),
}


def published(epsilon: float, L: float, mu: float) -> tuple[float, float]:
    """Step size and rate as the paper prints them."""
    s = math.sqrt(epsilon)
    step_size = 2 / (L + mu) * (1 - s) / (1 + s)
    root = math.sqrt((L - mu) ** 2 + 16 * L * mu * s / (1 + s) ** 2)
    multiplier = step_size / (L + mu) * ((1 - s) * (L - mu) + (1 + s) * root)
    return step_size, s + (1 + s) * (L - mu) * multiplier / 4


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_table(epsilon: float) -> None:
    for kappa, value in zip((2.0, 4.0, 10.0, 100.0), TABLE[epsilon], strict=True):
        for rate in (rates.ef(epsilon, kappa, 1.0), rates.ef21(epsilon, 3 * kappa, 3.0)):
            assert rate.rate == pytest.approx(value, abs=1e-8)


def test_table_without_feedback() -> None:
    for epsilon, kappa, value in ((0.1, 10, 0.812219), (0.25, 10, 0.875130), (0.5, 10, 0.933667), (0.25, 2, 0.510204),
                                  (0.5, 4, 0.842250)):
        assert rates.cgd(epsilon, kappa, 1).rate == pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize("epsilon, kappa", GRID)
def test_published_form(epsilon: float, kappa: float) -> None:
    step_size, rate = rates.ef(epsilon, 0.7 * kappa, 0.7)
    assert (step_size, rate) == pytest.approx(published(epsilon, 0.7 * kappa, 0.7), rel=1e-7 if epsilon > 0.99 else 1e-12)
    assert rates.ef21(epsilon, 0.7 * kappa, 0.7) == (step_size, rate)
    s, z = math.sqrt(epsilon), math.sqrt(rate)
    assert z * z == pytest.approx((1 - s) * (kappa - 1) / (kappa + 1) * z + s, abs=1e-14)


def test_results_unpack_and_have_names() -> None:
    result = rates.ef(0.25, 10.0, 1.0)
    step_size, rate = result
    assert (result.step_size, result.rate) == (step_size, rate) and isinstance(result, tuple)
    assert rates.WorkersRate._fields == rates.Rate._fields == ("step_size", "rate")


# --------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("kappa", KAPPAS)
def test_no_compression_is_gradient_descent(kappa: float) -> None:
    for rate in (rates.ef, rates.ef21, rates.cgd):
        assert rate(0.0, 5 * kappa, 5.0) == pytest.approx((2 / (5 * kappa + 5), ((kappa - 1) / (kappa + 1)) ** 2), rel=1e-14)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_perfect_condition(epsilon: float) -> None:
    assert rates.ef(epsilon, 2.0, 2.0).rate == pytest.approx(math.sqrt(epsilon), rel=1e-15)
    assert rates.cgd(epsilon, 2.0, 2.0).rate == pytest.approx(epsilon, rel=1e-14)


@pytest.mark.parametrize("epsilon, kappa", GRID)
def test_order_of_the_methods(epsilon: float, kappa: float) -> None:
    """One worker: no feedback is best, and EF beats the older bound 1 - (1 - s) / ((1 + s) kappa) of EF21."""
    s = math.sqrt(epsilon)
    ef, cgd = rates.ef(epsilon, kappa, 1.0).rate, rates.cgd(epsilon, kappa, 1.0).rate
    assert 0.0 <= cgd <= ef + 1e-15 and ef < 1.0
    assert ef <= 1.0 - (1 - s) / ((1 + s) * kappa) + 1e-12


def test_monotone() -> None:
    values = [rates.ef(epsilon, 10.0, 1.0).rate for epsilon in np.linspace(0, 0.999, 200)]
    assert np.all(np.diff(values) > 0)
    values = [rates.ef(0.3, kappa, 1.0).rate for kappa in np.geomspace(1, 1e5, 200)]
    assert np.all(np.diff(values) > 0)
    steps = [rates.ef(epsilon, 10.0, 1.0).step_size for epsilon in np.linspace(0, 0.999, 200)]
    assert np.all(np.diff(steps) < 0)


def test_scale_does_not_matter() -> None:
    for scale in (1e-300, 1e-30, 1.0, 1e30, 8e306):
        step_size, rate = rates.ef(0.25, 10.0 * scale, scale)
        assert rate == pytest.approx(rates.ef(0.25, 10.0, 1.0).rate, rel=1e-15)
        assert step_size == pytest.approx(rates.ef(0.25, 10.0, 1.0).step_size / scale, rel=1e-14)
        assert rates.cgd(0.25, 10.0 * scale, scale).rate == pytest.approx(rates.cgd(0.25, 10.0, 1.0).rate, rel=1e-15)
        hetero = rates.ef21_heterogeneous(0.25, [scale, 10 * scale], [scale / 2, scale / 10])
        assert hetero.rate == pytest.approx(0.9364944895, abs=1e-9)


def test_near_one_the_step_keeps_its_digits() -> None:
    """1 - sqrt(epsilon) without cancellation: against exact rational arithmetic."""
    epsilon = 1.0 - 2.0**-40
    exact = (1 - Fraction(epsilon)) / (1 + Fraction(math.sqrt(epsilon))) ** 2
    assert rates.ef(epsilon, 1.0, 1.0).step_size == pytest.approx(float(exact), rel=1e-14)


# ------------------------------------------------------------------------------------------------- it is attained


def radius(matrix: list[list[float]]) -> float:
    return float(np.abs(np.linalg.eigvals(np.array(matrix))).max())


def ef_matrix(a: float, theta: float) -> list[list[float]]:
    """(x - e, e) -> the same after a step of EF on h x^2 / 2 with C(v) = theta v; a = step_size h."""
    return [[1.0 - a, -a], [(1.0 - theta) * a, (1.0 - theta) * (1.0 + a)]]


def ef21_matrix(a: float, theta: float) -> list[list[float]]:
    """(g, d) -> the same after a step of EF21."""
    return [[1.0, -a], [theta, 1.0 - theta - theta * a]]


@pytest.mark.parametrize("matrix", [ef_matrix, ef21_matrix])
@pytest.mark.parametrize("epsilon, kappa", [(e, k) for e, k in GRID if 1e-6 < e < 0.99])
def test_worst_case_is_one_dimensional(epsilon: float, kappa: float, matrix) -> None:
    """A compressor that overshoots, C(v) = (1 + s) v, attains sqrt(rate) on the flattest and on the steepest parabola."""
    s, (step_size, rate) = math.sqrt(epsilon), rates.ef(epsilon, kappa, 1.0)
    tau = (1 - s) * (kappa - 1) / (kappa + 1)
    for h, sign in ((1.0, 1), (kappa, -1)):
        step = np.array(matrix(step_size * h, 1 + s))
        assert np.linalg.det(step) == pytest.approx(-s, rel=1e-12)
        assert np.trace(step) == pytest.approx(sign * tau, abs=1e-9)
        assert radius(step) == pytest.approx(math.sqrt(rate), rel=1e-9)
    inside = [radius(matrix(step_size * h, theta)) for h in np.geomspace(1.0, kappa, 7)
              for theta in np.linspace(1 - s, 1 + s, 9)]
    assert max(inside) <= math.sqrt(rate) * (1 + 1e-9)
    under = max(radius(matrix(step_size * h, 1 - s)) for h in (1.0, kappa))
    if kappa > 1.0:
        assert under < math.sqrt(rate)  # undershooting is easier
    else:
        assert under == pytest.approx(math.sqrt(rate), rel=1e-12)  # complex eigenvalues of the same magnitude


@pytest.mark.parametrize("epsilon, kappa", [(e, k) for e, k in GRID if 1e-6 < e < 0.99 and 1.0 < k < 1e5])
def test_certificates(epsilon: float, kappa: float) -> None:
    """The proofs of docs/compress.md: rate V - V+ = multiplier * (something >= 0) + a square, coefficient by coefficient."""
    s, (step_size, rate) = math.sqrt(epsilon), rates.ef(epsilon, kappa, 1.0)
    z, tau, a, b = math.sqrt(rate), (1 - s) * (kappa - 1) / (kappa + 1), step_size, step_size * kappa
    m = (1 + s) * z / tau
    half = m * (a + b) / 2
    ef = np.array([  # of (u, y, e): u = step_size g, y = x - e
        [m - 1 - s, 1 - half, -s - half],
        [1 - half, rate - 1 + m * a * b, m * a * b],
        [-s - half, m * a * b, rate / s - s + m * a * b],
    ])  # fmt: skip
    m, half = s * m, s * half
    ef21 = np.array([  # of (g+, g, d)
        [m - s - epsilon, -m, epsilon + half],
        [-m, rate * (1 + s) + m, -rate - half],
        [epsilon + half, -rate - half, rate - epsilon + m * a * b],
    ])  # fmt: skip
    for form in (ef, ef21):
        assert form[0, 0] > 0
        np.testing.assert_allclose(form, np.outer(form[0], form[0]) / form[0, 0], atol=1e-12 * np.abs(form).max() * kappa)


@pytest.mark.parametrize("epsilon, kappa", [(0.25, 10.0), (0.9, 4.0)])
def test_long_run_contracts_by_exactly_the_rate(epsilon: float, kappa: float) -> None:
    """From the dominant eigenvector both coordinates, and so V, shrink by the rate at every step."""
    s, (step_size, rate) = math.sqrt(epsilon), rates.ef(epsilon, kappa, 1.0)
    for h in (1.0, kappa):
        values, vectors = np.linalg.eig(np.array(ef_matrix(step_size * h, 1 + s)))
        y, e = vectors[:, np.abs(values).argmax()].real
        x = y + e
        before = y**2 + e**2 / s
        for _ in range(60):
            p = e + step_size * h * x
            sent = (1 + s) * p
            x, e = x - sent, p - sent
        assert (x - e) ** 2 + e**2 / s == pytest.approx(before * rate**60, rel=1e-7)


@pytest.mark.parametrize("epsilon, kappa", [(e, k) for e, k in GRID if e < 0.99])
def test_worst_case_without_feedback(epsilon: float, kappa: float) -> None:
    s, (step_size, rate) = math.sqrt(epsilon), rates.cgd(epsilon, kappa, 1.0)
    factors = [(1 - step_size * h * theta) ** 2 for h in (1.0, kappa) for theta in (1 - s, 1 + s)]
    assert max(factors) == pytest.approx(rate, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("epsilon, kappa", [(0.25, 10.0), (0.5, 3.0)])
def test_no_other_step_size_is_better(epsilon: float, kappa: float) -> None:
    s, (step_size, rate) = math.sqrt(epsilon), rates.ef(epsilon, kappa, 1.0)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 1.5):
        worst = max(radius(ef_matrix(factor * step_size * h, 1 + s)) for h in (1.0, kappa))
        assert worst > math.sqrt(rate)


# --------------------------------------------------------------------------------------------------- two workers


def cubic_root(epsilon: float, L: tuple[float, float], mu: tuple[float, float]) -> float:
    """The largest real root of the authors' cubic, as they print it."""
    s = math.sqrt(epsilon)
    sums, gaps = [a + b for a, b in zip(L, mu, strict=True)], [a - b for a, b in zip(L, mu, strict=True)]
    r = (1 - s) ** 2 / (1 + s)
    k1 = (gaps[1] ** 2 * sums[0] + gaps[0] ** 2 * sums[1]) / (sums[0] * sums[1] * (sums[0] + sums[1]))
    k2 = (gaps[0] + gaps[1]) ** 2 / (sums[0] + sums[1]) ** 2
    roots = np.roots([1.0, -(s * (2 + s) + r * (s * k1 + k2)), s * s * (1 + 2 * s + r * (k1 + s * k2)), -(s**4)])
    return float(roots[np.abs(roots.imag) < 1e-6].real.max())


def pairs(count: int = 40) -> list[tuple[float, tuple[float, float], tuple[float, float]]]:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(count):
        epsilon, mu = rng.uniform(0.02, 0.95), 10.0 ** rng.uniform(-2, 2, 2)
        L = mu * (1 + 10.0 ** rng.uniform(-1, 2, 2))
        found.append((float(epsilon), tuple(L.tolist()), tuple(mu.tolist())))
    return found


@pytest.mark.parametrize("epsilon, L, mu", pairs())
def test_two_workers_solve_the_cubic(epsilon: float, L, mu) -> None:
    step_size, rate = rates.ef21_heterogeneous(epsilon, L, mu)
    s = math.sqrt(epsilon)
    assert step_size == pytest.approx(4 / (sum(L) + sum(mu)) * (1 - s) / (1 + s), rel=1e-12)
    assert rate == pytest.approx(cubic_root(epsilon, L, mu), abs=1e-9)
    assert s < rate < 1.0
    assert rates.ef21_heterogeneous(epsilon, L[::-1], mu[::-1]) == pytest.approx((step_size, rate), rel=1e-13)


def test_two_workers_published_value() -> None:
    assert rates.ef21_heterogeneous(0.25, (1.0, 10.0), (0.5, 0.1)).rate == pytest.approx(0.9364944895, abs=1e-10)


@pytest.mark.parametrize("epsilon, kappa", GRID)
def test_equal_workers_are_one(epsilon: float, kappa: float) -> None:
    alone = rates.ef21(epsilon, 3 * kappa, 3.0)
    for n in (1, 2, 3, 8):
        assert rates.ef21_heterogeneous(epsilon, [3 * kappa] * n, [3.0] * n) == pytest.approx(alone, rel=1e-13)
    one_ulp = math.nextafter(3.0, 4.0)  # the cubic itself, just off the case that has the closed form
    if kappa > 1.0:
        assert rates.ef21_heterogeneous(epsilon, [3 * kappa] * 2, [3.0, one_ulp]).rate == pytest.approx(alone.rate, rel=1e-12)
    # and so is the rate of workers that are alike up to scale
    assert rates.ef21_heterogeneous(epsilon, [kappa, 70 * kappa], [1.0, 70.0]).rate == pytest.approx(alone.rate, rel=1e-12)


@pytest.mark.parametrize("epsilon, kappas", [(0.0, (3.0, 40.0)), (0.3, (1.0, 1.0)), (1e-14, (5.0, 1.0)), (0.999, (9.0, 2.0))])
def test_two_workers_at_the_edges(epsilon: float, kappas) -> None:
    """Double roots and vanishing coefficients: no compression is gradient descent on the mean; parabolas give sqrt(epsilon)."""
    L, mu = [2 * kappas[0], 7 * kappas[1]], [2.0, 7.0]
    rate = rates.ef21_heterogeneous(epsilon, L, mu).rate
    if epsilon == 0.0:
        assert rate == pytest.approx(((sum(L) - sum(mu)) / (sum(L) + sum(mu))) ** 2, rel=1e-14)
    elif kappas == (1.0, 1.0):
        assert rate == pytest.approx(math.sqrt(epsilon), rel=1e-14)
    else:
        assert rate == pytest.approx(cubic_root(epsilon, tuple(L), tuple(mu)), abs=1e-6)
        assert math.sqrt(epsilon) <= rate < 1.0


@pytest.mark.parametrize("epsilon, L, mu", pairs(12))
def test_two_parabolas_stay_below_the_law(epsilon: float, L, mu) -> None:
    """In one dimension, with compressors C(v) = theta_i v: never above the rate, and near it where both overshoot."""
    s, (step_size, rate) = math.sqrt(epsilon), rates.ef21_heterogeneous(epsilon, L, mu)
    worst = 0.0
    for h1, h2 in itertools.product((mu[0], L[0]), (mu[1], L[1])):
        for theta1, theta2 in itertools.product((1 - s, 1.0, 1 + s), repeat=2):
            x = np.array([1.0, -step_size / 2, -step_size / 2])  # the new x, of (x, d1, d2)
            d1, d2 = theta1 * h1 * x + [0, 1 - theta1, 0], theta2 * h2 * x + [0, 0, 1 - theta2]
            worst = max(worst, radius([x, d1, d2]) ** 2)
    assert 0.98 * rate < worst <= rate * (1 + 1e-9)


def test_many_workers_have_a_step_size_alone() -> None:
    step_size, rate = rates.ef21_heterogeneous(0.25, [2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    assert rate is None and step_size == pytest.approx(6 / 12 / 3)
    assert rates.ef21_heterogeneous(0.25, (x for x in (2.0, 2.0)), np.array([1.0, 1.0])).rate is not None


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("rate", [rates.ef, rates.ef21, rates.cgd])
@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ((1.0, 2.0, 1.0), ValueError, "contraction must be below 1"),
        ((-0.1, 2.0, 1.0), ValueError, "contraction"),
        ((math.nan, 2.0, 1.0), ValueError, "contraction"),
        ((None, 2.0, 1.0), TypeError, "contraction"),
        (("0.5", 2.0, 1.0), TypeError, "contraction"),
        ((0.5, 1.0, 2.0), ValueError, "L must be at least mu"),
        ((0.5, 1.0, 0.0), ValueError, "mu must be a finite number above 0"),
        ((0.5, math.inf, 1.0), ValueError, "L must be a finite number above 0"),
        ((0.5, 1.0, [1.0]), TypeError, "mu"),
        ((0.0, 5e-324, 5e-324), ValueError, "rescale"),
    ],
)
def test_refusals(rate, arguments, error, words: str) -> None:
    with pytest.raises(error, match=words):
        rate(*arguments)


@pytest.mark.parametrize(
    "L, mu, error, words",
    [
        ([], [], ValueError, "at least one"),
        ([2.0, 3.0], [1.0], ValueError, "2 of L and 1 of mu"),
        ([2.0, 0.5], [1.0, 1.0], ValueError, r"L\[1\] must be at least mu\[1\]"),
        ([2.0, 2.0], [1.0, -1.0], ValueError, r"mu\[1\]"),
        ([2.0, "x"], [1.0, 1.0], TypeError, r"L\[1\]"),
        (2.0, [1.0], TypeError, "L must be a sequence"),
        ([2.0], "1", TypeError, "mu must be a sequence"),
    ],
)
def test_refusals_of_workers(L, mu, error, words: str) -> None:
    with pytest.raises(error, match=words):
        rates.ef21_heterogeneous(0.5, L, mu)


def test_numpy_scalars_are_numbers() -> None:
    assert rates.ef(np.float32(0.25), np.int64(10), np.float64(1)) == rates.ef(0.25, 10.0, 1.0)
