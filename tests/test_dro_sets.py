"""Worst cases and projections: known values, dual formulas, optimality conditions, and the oracle of sorting and bisection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from fastgd import dro

Z = np.arange(1.0, 6.0)
W = np.array([0.75, 0.25, 0.25, 0.25])


@pytest.mark.parametrize("options, weights, value", [
    ({"radius": 0.1}, [.073508893593, .136754446797, .2, .263245553203, .326491106407], 3 + math.sqrt(0.4)),
    ({"radius": 0.25}, [0, .1, .2, .3, .4], 4),
    ({"radius": 0.5}, [0, 0, .150759147498, .333333333333, .515907519168], 4.365148371670),
    ({"radius": 1}, [0, 0, 0, .276393202250, .723606797750], 4.723606797750),
    ({"radius": 1.5}, [0, 0, 0, .112701665379, .887298334621], 4.887298334621),
    ({"radius": 2}, [0, 0, 0, 0, 1], 5),
    ({"radius": 1e300}, [0, 0, 0, 0, 1], 5),
    ({"radius": 0}, [.2, .2, .2, .2, .2], 3),
    ({"divergence": "kl", "radius": 0.1}, None, 3.625541120620),
    ({"divergence": "kl", "radius": 0.5}, None, 4.333829761507),
    ({"divergence": "kl", "radius": 1}, None, 4.759714925972),
    ({"divergence": "kl", "radius": 2}, [0, 0, 0, 0, 1], 5),
    ({"divergence": "kl", "radius": 0}, [.2, .2, .2, .2, .2], 3),
    ({"divergence": 1.0 + 1e-6, "radius": 0.5}, None, 4.333829761507),
    ({"divergence": 2.0, "radius": 0.25}, [0, .1, .2, .3, .4], 4),
    ({"divergence": "cvar", "alpha": 0.2}, [0, 0, 0, 0, 1], 5),
    ({"divergence": "cvar", "alpha": 0.3}, [0, 0, 0, 1 / 3, 2 / 3], 14 / 3),
    ({"divergence": "cvar", "alpha": 0.5}, [0, 0, .2, .4, .4], 4.2),
    ({"divergence": "cvar", "alpha": 1}, [.2, .2, .2, .2, .2], 3),
    ({"penalty": 0.5}, [0, 0, 0, .3, .7], 4.225),
    ({"penalty": 1}, [0, 0, 2 / 15, 1 / 3, 8 / 15], 3.866666666667),
    ({"penalty": 2}, [0, .1, .2, .3, .4], 3.5),
    ({"penalty": 10}, [.16, .18, .2, .22, .24], 3.1),
    ({"divergence": "kl-cvar", "alpha": 0.4, "penalty": 1}, [.0160293, .04357216, .11844141, .32195713, .5], 3.803804117406),
    ({"divergence": "kl", "penalty": 1}, np.exp(Z) / np.exp(Z).sum(), 3.842476483503),
], ids=str)
def test_known_values(options: dict[str, Any], weights: Any, value: float, backend: str) -> None:
    p, best = dro.worst_case(Z, **options, backend=backend)
    tolerance = 1e-5 if options.get("divergence") == 1.0 + 1e-6 else 1e-8 if options.get("divergence") == "kl-cvar" else 1e-12
    assert abs(best - value) <= max(tolerance, 1e-11)
    assert abs(p.sum() - 1) <= 1e-15
    if weights is not None:
        assert np.abs(p - weights).max() <= tolerance


@pytest.mark.parametrize("radius, value", [(0.125, .466506350946), (0.5, .683012701892), (1, .862372435696), (1.5, 1), (9, 1)])
def test_known_values_of_one_success(radius: float, value: float, backend: str) -> None:
    assert abs(dro.worst_case(np.array([0.0, 0, 0, 1]), radius=radius, backend=backend)[1] - value) <= 1e-12


@pytest.mark.parametrize("options, first, others", [
    ({"radius": 0.1}, .44364916731, .185450277563), ({"radius": 0.1, "floor": 0.2}, .44364916731, .185450277563),
    ({"radius": 0.5}, .625, .125), ({"radius": 1.0}, .625, .125), ({"radius": 1.0, "floor": 0.4}, .625, .125),
    ({"radius": 0.0, "floor": 0.4}, .25, .25), ({"radius": 1.0, "floor": 0.5}, .625, .125),
])
def test_known_projections(options: dict[str, float], first: float, others: float, backend: str) -> None:
    assert np.abs(dro.project(W, **options, backend=backend) - [first, others, others, others]).max() <= 1e-12


@pytest.mark.parametrize("radius, first, others", [(1, .475366886419, .174877704527), (.05, .393952745853, .202015751382)])
def test_known_projections_kl(radius: float, first: float, others: float, backend: str) -> None:
    got = dro.project(0.25 * np.exp([1.0, 0, 0, 0]), radius=radius, divergence="kl", backend=backend)
    assert np.abs(got - [first, others, others, others]).max() <= 1e-12


# ------------------------------------------------------------------------------------------------ duals and identities


def losses(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n) * rng.choice([0.1, 1.0, 20.0]) + rng.choice([-5.0, 0.0, 3.0])


def infimum(function: Any, low: float, high: float) -> float:
    return float(minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).fun)


@pytest.mark.parametrize("seed", range(12))
def test_dual_formulas(seed: int) -> None:
    z = losses(seed, 3 + 7 * seed)
    n, span, rng = len(z), np.ptp(z), np.random.default_rng(seed)
    radius, alpha, penalty = 0.8 * rng.uniform() * np.log(n), rng.uniform(0.05, 1), span * rng.uniform(0.05, 2)
    positive = lambda eta: np.maximum(z - eta, 0)  # noqa: E731
    log_mean = lambda tau: z.max() + tau * np.log(np.mean(np.exp((z - z.max()) / tau)))  # noqa: E731
    close = lambda got, known: abs(got[1] - known) <= 1e-9 * span  # noqa: E731
    assert close(dro.worst_case(z, radius=radius),
                 infimum(lambda e: e + math.sqrt((1 + 2 * radius) * np.mean(positive(e) ** 2)), z.min() - 60 * span, z.max()))
    assert close(dro.worst_case(z, penalty=penalty),
                 infimum(lambda e: e + penalty / 2 + np.mean(positive(e) ** 2) / (2 * penalty), z.min() - 60 * span, z.max()))
    assert close(dro.worst_case(z, radius=radius, divergence="kl"),
                 infimum(lambda t: math.exp(t) * radius + log_mean(math.exp(t)), math.log(span) - 9, math.log(span) + 5))
    assert close(dro.worst_case(z, penalty=penalty, divergence="kl"), log_mean(penalty))
    assert close(dro.worst_case(z, alpha=alpha, divergence="cvar"),
                 min(e + np.mean(positive(e)) / alpha for e in z))


@pytest.mark.parametrize("seed", range(8))
def test_mean_and_deviation(seed: int, backend: str) -> None:
    """Where no weight is cut off: value = mean + s sqrt(2 R), p_i = (1 + sqrt(2 R) (z_i - mean) / s) / n."""
    z = losses(seed, 40)
    mean, s = z.mean(), z.std()
    radius = 0.5 * (s / (mean - z.min())) ** 2 * 0.99
    p, value = dro.worst_case(z, radius=radius, backend=backend)
    assert abs(value - (mean + s * math.sqrt(2 * radius))) <= 1e-14 * np.abs(z).max()
    assert np.abs(p - (1 + math.sqrt(2 * radius) * (z - mean) / s) / 40).max() <= 1e-16


@pytest.mark.parametrize("seed", range(10))
def test_a_root_finder_agrees(seed: int) -> None:
    z, radius = losses(seed, 200), 10.0 ** np.random.default_rng(seed).uniform(-2, 1.5)

    def excess(theta: float) -> float:
        q = np.maximum(z - theta, 0)
        return len(z) * (q @ q) / q.sum() ** 2 - 1 - 2 * radius

    q = np.maximum(z - brentq(excess, z.min() - 1e3 * np.ptp(z), np.sort(z)[-2], xtol=1e-15, rtol=1e-15), 0)
    assert np.abs(dro.worst_case(z, radius=radius)[0] - q / q.sum()).max() <= 1e-12


# ------------------------------------------------------------------------------------------------- optimality conditions


def chi2(p: np.ndarray) -> float:
    return float(len(p) * (p @ p) - 1) / 2


def kl(p: np.ndarray) -> float:
    return float(np.sum(np.where(p > 0, p * np.log(np.maximum(len(p) * p, 1e-300)), 0.0)))


def order(p: np.ndarray, k: float) -> float:
    t = len(p) * p
    return float(np.mean(t**k - k * t + k - 1)) / (k * (k - 1))


@pytest.mark.parametrize("seed", range(20))
def test_projection_is_optimal(seed: int, backend: str) -> None:
    """w - p is in the normal cone: against p itself, no feasible direction gains. In closed form: p = floor + c (w - theta)_+."""
    rng = np.random.default_rng(seed)
    n, floor, radius = int(rng.integers(2, 60)), float(rng.choice([0.0, 0.1, 0.6])), 10.0 ** rng.uniform(-2, 1)
    w = rng.dirichlet(np.full(n, 0.4)) + 0.3 * rng.standard_normal(n) / n
    p = dro.project(w, radius=radius, floor=floor, backend=backend)
    assert abs(p.sum() - 1) <= 1e-15
    assert p.min() >= floor / n
    assert chi2(p) <= radius * (1 + 1e-12)
    free = p > floor / n
    slope, shift = np.polyfit(w[free], p[free], 1) if free.sum() > 2 and np.ptp(w[free]) > 1e-9 else (np.nan, np.nan)
    if not np.isnan(slope):
        assert np.abs(slope * w[free] + shift - p[free]).max() <= 1e-12
        assert slope <= 1 + 1e-9
        assert abs(slope - 1) <= 1e-9 or chi2(p) >= radius * (1 - 1e-12)  # a multiplier needs a constraint that binds
        assert (slope * w[~free] + shift <= floor / n + 1e-12).all()
    for _ in range(20):  # no feasible point is nearer
        other = dro.project(rng.standard_normal(n), radius=radius, floor=floor)
        assert (w - p) @ (other - p) <= 1e-13


@pytest.mark.parametrize("seed", range(12))
def test_kl_projection_is_optimal(seed: int, backend: str) -> None:
    rng = np.random.default_rng(seed)
    n, floor, radius = int(rng.integers(2, 60)), float(rng.choice([0.0, 0.1, 0.6])), 10.0 ** rng.uniform(-3, 0)
    w = rng.dirichlet(np.full(n, 0.6)) * rng.choice([1e-200, 1.0, 1e200]) + 1e-290
    p = dro.project(w, radius=radius, divergence="kl", floor=floor, backend=backend)
    assert abs(p.sum() - 1) <= 1e-14
    assert p.min() >= floor / n
    assert kl(p) <= radius * (1 + 1e-11) + 1e-14
    free = p > floor / n * (1 + 1e-9)
    if free.sum() > 2:
        gamma, shift = np.polyfit(np.log(w[free]), np.log(p[free]), 1)
        assert np.abs(gamma * np.log(w[free]) + shift - np.log(p[free])).max() <= 1e-9
        assert gamma <= 1 + 1e-9
        assert abs(gamma - 1) <= 1e-9 or kl(p) >= radius * (1 - 1e-10)


@pytest.mark.parametrize("k", [1.1, 1.5, 2.0, 3.0, 7.5])
@pytest.mark.parametrize("seed", range(6))
def test_cressie_read_is_optimal(seed: int, k: float) -> None:
    """p_i = c (z_i - theta)_+^(1/(k-1)): p^(k-1) is affine in z; the ball binds, or the penalty's slope is lambda."""
    z = losses(seed, 30)
    n, penalty, radius = 30, np.ptp(z) * 0.4, 0.3
    p, value = dro.worst_case(z, radius=radius, divergence=k)
    assert abs(order(p, k) - radius) <= 1e-12
    assert abs(p @ z - value) <= 1e-13 * np.abs(z).max()
    q, best = dro.worst_case(z, penalty=penalty, divergence=k)
    assert abs(best - (q @ z - penalty * order(q, k))) <= 1e-13 * np.abs(z).max()
    for weights in (p, q):
        free = weights > 1e-5
        u = (n * weights[free]) ** (k - 1)
        slope, shift = np.polyfit(z[free], u, 1)
        assert np.abs(slope * z[free] + shift - u).max() <= 1e-9 * u.max()
        if weights is q:
            assert abs(slope * penalty / (k - 1) - 1) <= 1e-8


# ------------------------------------------------------------------------------------------------------- the oracle


def instance(seed: int) -> np.ndarray:
    """Losses of many kinds: ties, tails, outliers, clusters, any size and shift."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 3, 7, 8, 9, 17, 100, 2047, 2048, 2049]))
    z = rng.standard_normal(n)
    return [z, np.round(z), np.exp(5 * z), -np.exp(5 * z), z * 10.0 ** rng.integers(-300, 300), z + 1e9, z - 1e6,
            np.where(np.arange(n) == n // 2, 1e9, z), rng.choice([0.0, 1.0, 2.0], n), np.where(z > 0, 0.0, 1.0) + 1e-9 * z,
            10.0 ** rng.uniform(-300, 300, n) * rng.choice([-1.0, 1.0], n)][seed % 11]


@pytest.mark.parametrize("seed", range(66))
def test_against_the_oracle(seed: int) -> None:
    z, rng = instance(seed), np.random.default_rng(seed)
    n, size = len(z), max(float(np.abs(z).max()), 1e-300)
    penalty = float(10.0 ** rng.uniform(-4, 4)) * (np.std(z / size) * size + 1e-300)
    alpha = float(rng.integers(1, n + 1) / n if seed % 2 else rng.uniform(0.01, 1))
    for options in ({"radius": float(rng.uniform() * (n - 1) / 2)}, {"radius": float(10.0 ** rng.uniform(-6, 1))},
                    {"penalty": penalty}, {"divergence": "kl", "radius": float(rng.uniform(0, 1.05) * np.log(n))},
                    {"divergence": "kl", "radius": float(10.0 ** rng.uniform(-6, 0))}, {"divergence": "kl", "penalty": penalty},
                    {"divergence": "cvar", "alpha": alpha}, {"divergence": "kl-cvar", "alpha": alpha, "penalty": penalty}):
        p, value = dro.worst_case(z, **options)
        known, best = dro.worst_case(z, **options, backend="reference")
        assert np.abs(p - known).max() <= 1e-13, options
        assert abs(value / size - best / size) <= 1e-13, options
        assert abs(p.sum() - 1) <= 1e-13, options


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("floor", [0.0, 0.1, 0.99])
def test_projections_against_the_oracle(seed: int, floor: float) -> None:
    z, rng = instance(seed), np.random.default_rng(seed)
    for w in (z / max(np.abs(z).max(), 1e-300), rng.dirichlet(np.full(len(z), 0.3))):
        for radius in (float(rng.uniform() * (len(z) - 1) / 2), float(10.0 ** rng.uniform(-6, 1))):
            got = dro.project(w, radius=radius, floor=floor)
            assert np.abs(got - dro.project(w, radius=radius, floor=floor, backend="reference")).max() <= 1e-13
            positive = np.abs(z) + 1e-300
            got = dro.project(positive, radius=radius, floor=floor, divergence="kl")
            known = dro.project(positive, radius=radius, floor=floor, divergence="kl", backend="reference")
            assert np.abs(got - known).max() <= 1e-13


def test_exponentials_and_logarithms_are_accurate() -> None:
    """A penalty's weights have exponentials as ratios; a projection in no need of its ball takes logarithms and gives w back."""
    rng = np.random.default_rng(0)
    x = np.concatenate([[0.0], -rng.uniform(0, 700, 4000), -(10.0 ** rng.uniform(-20, 0, 4000))])
    p = dro.worst_case(x, penalty=1.0, divergence="kl")[0]
    exact = np.exp(x.astype(np.longdouble))
    assert (np.abs(p / np.longdouble(p[0]) - exact) <= 2.0**-51.5 * exact).all()
    for size, error in ((1.0, 2.0**-50.5), (1e-300, 2e-13), (1e300, 2e-13), (5e-324 * 2**20, 2e-13)):
        w = np.append(rng.uniform(0.5, 2, 4000), 10.0 ** rng.uniform(-4, 0, 1000)) * size
        back = dro.project(w, radius=1e9, divergence="kl")
        share = w.astype(np.longdouble) / w.astype(np.longdouble).sum()
        assert (np.abs(back - share) <= (error if size != 1.0 else error * np.maximum(-np.log(w), 1)) * share).all()
