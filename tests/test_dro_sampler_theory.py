"""What the sampler's mathematics promises: projections against root finders that share nothing with them, and the draws' law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from fastgd.dro import DROSampler
from fastgd.dro.sampler import reference


def step(gain: list[float], divergence: str | float, backend: str = "cpu", **arguments: float) -> np.ndarray:
    """p after one step from the uniform distribution with those gains."""
    n = len(gain)
    sampler = DROSampler(n, divergence=divergence, step_size=1.0, backend=backend, **arguments)
    sampler.update(np.arange(n), np.array(gain))  # p_i = 1 / n and B = n: the gains are the losses
    return sampler.probabilities()


# ------------------------------------------------------------------------------------------------------ values by hand

HAND = [
    ("chi2", [0.5, 0, 0, 0], {"radius": 0.1}, [0.44364916731, *[0.185450277563] * 3]),
    ("chi2", [0.5, 0, 0, 0], {"radius": 0.1, "floor": 0.2}, [0.44364916731, *[0.185450277563] * 3]),
    ("chi2", [0.5, 0, 0, 0], {"radius": 0.5}, [0.625, *[0.125] * 3]),
    ("chi2", [0.5, 0, 0, 0], {"radius": 1.0, "floor": 0.4}, [0.625, *[0.125] * 3]),
    ("kl", [1.0, 0, 0, 0], {"radius": 1.0}, [0.475366886419, *[0.174877704527] * 3]),
    ("kl", [1.0, 0, 0, 0], {"radius": 0.05}, [0.393952745853, *[0.202015751382] * 3]),
]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("divergence, gain, arguments, expected", HAND)
def test_values(divergence: str, gain: list[float], arguments: dict[str, float], expected: list[float], backend: str) -> None:
    assert np.allclose(step(gain, divergence, backend, **arguments), expected, rtol=0.0, atol=1e-11)


def test_two_points() -> None:
    """n = 2: p = (1 + h, 1 - h) / 2 with D = h^2 / 2 is the only point of the sphere, whatever the gain."""
    for radius in (1e-10, 1e-3, 0.1, 0.4):
        for gain in (2.0, 1e9):
            h = math.sqrt(2.0 * radius)
            assert np.allclose(step([gain, 0.0], "chi2", radius=radius), [(1 + h) / 2, (1 - h) / 2], rtol=0.0, atol=1e-15)


# -------------------------------------------------------------------------------------- projections by nested root finding


def chi2_by_roots(w: np.ndarray, radius: float, floor: float) -> np.ndarray:
    """min |p - w|^2 / 2, p >= floor / n, sum 1, (n |p|^2 - 1) / 2 <= radius: p = max(floor / n, (w - eta) / (1 + lambda))."""
    n = len(w)

    def point(multiplier: float) -> np.ndarray:
        def p(eta: float) -> np.ndarray:
            return np.maximum(floor / n, (w - eta) / (1.0 + multiplier))

        eta = optimize.brentq(lambda eta: p(eta).sum() - 1.0, w.min() - 1.0 - multiplier, w.max(), xtol=1e-16, rtol=1e-15)
        return p(eta)

    def excess(multiplier: float) -> float:
        return (n * (point(multiplier) ** 2).sum() - 1.0) / 2.0 - radius

    return point(0.0) if excess(0.0) <= 0.0 else point(optimize.brentq(excess, 0.0, 1e7, xtol=1e-16, rtol=1e-15))


def kl_by_roots(x: np.ndarray, radius: float, floor: float) -> np.ndarray:
    """p = max(floor / n, e^(gamma x - eta)), x = log w."""
    n = len(x)

    def point(gamma: float) -> np.ndarray:
        def p(eta: float) -> np.ndarray:
            return np.maximum(floor / n, np.exp(gamma * x - eta))

        low, high = gamma * x.min() - 2.0, gamma * x.max() + math.log(n) + 1.0
        return p(optimize.brentq(lambda eta: p(eta).sum() - 1.0, low, high, xtol=1e-16, rtol=1e-15))

    def excess(gamma: float) -> float:
        p = point(gamma)
        return float((p * np.log(n * p)).sum()) - radius

    return point(1.0) if excess(1.0) <= 0.0 else point(optimize.brentq(excess, 1e-9, 1.0, xtol=1e-16, rtol=1e-15))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("floor", [0.0, 0.1, 0.6])
def test_one_step_is_the_projection(floor: float, backend: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        n = int(rng.integers(2, 30))
        gain = np.minimum(rng.exponential(size=n) ** 3, 50.0) * rng.integers(0, 2, n)  # 50: where KL cuts
        radius = float(rng.choice([0.003, 0.03, 0.3, 1.0]))
        p = step(list(gain), "chi2", backend, radius=radius, floor=floor)
        assert np.abs(p - chi2_by_roots(1.0 / n + gain, radius, floor)).max() < 1e-13
        p = step(list(gain), "kl", backend, radius=radius, floor=floor)
        assert np.abs(p - kl_by_roots(gain - math.log(n), radius, floor)).max() < 1e-12


@pytest.mark.parametrize("k", [1.2, 1.5, 3.0, 4.0])
def test_cressie_read_satisfies_the_conditions_of_optimality(k: float) -> None:
    """w^(k-1) - c p^(k-1) is one constant where p is above the floor, and at most that on it; c > 1 only on the sphere."""
    rng = np.random.default_rng(1)
    for floor, radius in ((0.0, 0.05), (0.3, 0.2), (0.0, 50.0), (0.1, 1.0)):
        n = 12
        gain = rng.exponential(size=n) * 0.05
        sampler = DROSampler(n, radius=radius, floor=floor, divergence=k, step_size=1.0)
        sampler.update(np.arange(n), gain)
        p, power = sampler.probabilities(), (1.0 / n) ** (k - 1.0) + (k - 1.0) * gain
        assert p.sum() == pytest.approx(1.0, abs=1e-13) and p.min() >= floor / n
        above = p > floor / n * (1.0 + 1e-12) + 1e-15
        slope, constant = np.polyfit(p[above] ** (k - 1.0), power[above], 1)
        assert np.allclose(slope * p[above] ** (k - 1.0) + constant, power[above], rtol=1e-8)
        assert (power[~above] <= constant + slope * (floor / n) ** (k - 1.0) + 1e-9).all()
        t = n * p
        value = np.mean(t**k - k * t + k - 1.0) / (k * (k - 1.0))
        assert value <= radius * (1.0 + 1e-10) and sampler.divergence_value() == pytest.approx(value, rel=1e-9)
        assert slope == pytest.approx(1.0, abs=1e-7) or (slope > 1.0 and value == pytest.approx(radius, rel=1e-9))


def test_the_family_contains_both() -> None:
    """k = 2 is chi-squared, by name or number; k near 1 is near KL."""
    gain = [0.3, 0.1, 0.0, 0.05, 0.6]
    assert DROSampler(5, radius=0.1, step_size=1.0, divergence=2).divergence == "chi2"
    general = reference.cressie_read(5, 0.1, 0.2, 1.0, 0, 2.0)
    assert general.update(np.arange(5), np.array(gain)) == 0
    assert np.allclose(general.probabilities(), step(gain, "chi2", radius=0.1, floor=0.2), rtol=0.0, atol=1e-14)
    assert np.allclose(step(gain, 1.0 + 1e-5, radius=0.1, floor=0.2), step(gain, "kl", radius=0.1, floor=0.2), atol=1e-5)


# --------------------------------------------------------------------------------------------- what the kernels rest on


@pytest.mark.parametrize("divergence", ["chi2", "kl"])
def test_supersets_never_cut_too_much(divergence: str) -> None:
    """Solved without floors on a superset of the elements above the floor, all it puts below the floor is there in the end."""
    rng = np.random.default_rng(2)
    cut = 0
    for _ in range(300):
        n, floor = int(rng.integers(3, 25)), float(rng.choice([0.05, 0.3, 0.8]))
        radius = float(rng.choice([0.01, 0.1, 0.5, 2.0])) * (1.0 - floor) ** 2
        gain = rng.exponential(size=n) ** 2 * 2.0
        w = 1.0 / n + gain if divergence == "chi2" else gain - math.log(n)
        final = (chi2_by_roots if divergence == "chi2" else kl_by_roots)(w, radius, floor)
        order = np.argsort(-w)
        above = int((final > floor / n * (1.0 + 1e-9)).sum())
        size = int(rng.integers(above, n + 1))
        free = relaxed(divergence, w[order[:size]], n, radius, floor)
        low = free <= floor / n * (1.0 - 1e-9)
        cut += low.any()
        assert not low[:above].any()
    assert cut > 20


def relaxed(divergence: str, w: np.ndarray, n: int, radius: float, floor: float) -> np.ndarray:
    """The projection with sum and ball only, over `w`; the other n - len(w) elements have floor / n."""
    size, low = len(w), floor / n
    mass = 1.0 - (n - size) * low
    if divergence == "chi2":

        def point(c: float) -> np.ndarray:
            return mass / size + c * (w - w.mean())

        def value(p: np.ndarray) -> float:
            return (n * ((p**2).sum() + (n - size) * low**2) - 1.0) / 2.0
    else:

        def point(c: float) -> np.ndarray:
            e = np.exp(c * (w - w.max()))
            return mass * e / e.sum()

        def value(p: np.ndarray) -> float:
            return float((p * np.log(n * p)).sum() + (n - size) * low * math.log(floor))

    if value(point(1.0)) <= radius:
        return point(1.0)
    if value(point(0.0)) >= radius:  # by rounding alone
        return point(0.0)
    return point(optimize.brentq(lambda c: value(point(c)) - radius, 0.0, 1.0, xtol=1e-16))


def test_no_weight_reaches_zero_in_a_small_ball() -> None:
    """|n p_i - 1| <= sqrt(2 n R (n - 1) / n): with n R < 1/2 no example is lost, without any floor."""
    n, rho = 50, 0.4
    sampler = DROSampler(n, radius=rho / n, step_size=1.0)
    rng = np.random.default_rng(3)
    for _ in range(300):
        index = sampler.sample(2)
        sampler.update(index, rng.exponential(size=2))
        assert np.abs(n * sampler.probabilities() - 1.0).max() <= math.sqrt(2.0 * rho * (n - 1) / n) * (1.0 + 1e-12)


@pytest.mark.parametrize("divergence", ["chi2", "kl"])
def test_regret(divergence: str) -> None:
    """With the step size of the docstring and fixed losses, the mean of p_t' l comes near the largest p' l of the ball."""
    n, radius, floor, batch, steps = 30, 0.2, 0.2, 8, 6000
    loss = np.linspace(0.0, 1.0, n)
    rate = radius * 2.0 * batch / steps
    step_size = math.sqrt(rate * floor / n**3) if divergence == "chi2" else math.sqrt(rate / n)
    sampler = DROSampler(n, radius=radius, floor=floor, divergence=divergence, step_size=step_size, seed=4)
    mean = 0.0
    for _ in range(steps):
        mean += float(sampler.probabilities() @ loss) / steps
        index = sampler.sample(batch)
        sampler.update(index, loss[index])
    project = chi2_by_roots if divergence == "chi2" else kl_by_roots
    best = float(project(300.0 * loss, radius, floor) @ loss)  # far out along the losses: the ball's point nearest to that
    assert best - 0.03 < mean < best + 0.01 and best - 0.5 > 0.1


# ------------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("divergence, n, radius, floor, step_size", [
    ("chi2", 1000, 3.0, 0.1, 1e-5), ("chi2", 100, 20.0, 0.0, 1e-2), ("chi2", 37, 0.3, 0.0, 1e-2),
    ("kl", 1000, 0.5, 0.1, 1e-3), ("kl", 100, 2.0, 0.0, 1e-1), ("kl", 37, 0.1, 0.3, 1e-1),
])
def test_draws_have_the_law_of_p(divergence: str, n: int, radius: float, floor: float, step_size: float, backend: str) -> None:
    """Goodness of fit at 1e6 draws, level 1e-4; elements expected less than ten times are put together."""
    sampler = DROSampler(n, radius=radius, floor=floor, divergence=divergence, step_size=step_size, seed=5, backend=backend)
    rng = np.random.default_rng(6)
    for _ in range(400):
        index = sampler.sample(3)
        sampler.update(index, rng.exponential(size=3))
    p, draws = sampler.probabilities(), 10**6
    counts = np.bincount(sampler.sample(draws), minlength=n)
    assert not counts[p == 0.0].any()
    rare = draws * p < 10.0
    expected = np.append(draws * p[~rare], draws * p[rare].sum())
    observed = np.append(counts[~rare], counts[rare].sum())
    kept = expected > 0.0
    statistic = ((observed[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert statistic < stats.chi2.isf(1e-4, kept.sum() - 1)


@pytest.mark.parametrize("divergence", ["chi2", "kl"])
def test_the_estimate_of_the_gradient_is_unbiased(divergence: str) -> None:
    """The mean of anything over draws estimates its mean under p."""
    sampler = DROSampler(500, radius=0.5, divergence=divergence, step_size=1e-4, seed=7)
    rng = np.random.default_rng(8)
    for _ in range(200):
        index = sampler.sample(10)
        sampler.update(index, rng.exponential(size=10))
    p, value = sampler.probabilities(), rng.normal(size=500)
    sample = value[sampler.sample(200_000)]
    deviation = math.sqrt((p @ value**2 - (p @ value) ** 2) / len(sample))
    assert abs(sample.mean() - p @ value) < 4.0 * deviation
