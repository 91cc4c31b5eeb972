"""The sets, projections and small functions of `fastgd.dro` against tables, dualities, optimality conditions and enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import dro_oracle as oracle
import numpy as np
import pytest
from dro_oracle import divergence
from scipy import optimize

from fastgd import dro

pytestmark = pytest.mark.timeout(120)

EPS = 2.0**-52
Z = np.array([1.0, 2.0, 3.0, 4.0, 5.0])

# ------------------------------------------------------------------------------------------------- worst cases: tables

WORST = [
    ({"radius": 0.1}, [0.073508893593, 0.136754446797, 0.2, 0.263245553203, 0.326491106407], 3 + math.sqrt(0.4)),
    ({"radius": 0.25}, [0, 0.1, 0.2, 0.3, 0.4], 4),
    ({"radius": 0.5}, [0, 0, 0.150759147498, 0.333333333333, 0.515907519168], 4.365148371670),
    ({"radius": 1}, [0, 0, 0, 0.276393202250, 0.723606797750], 4.723606797750),
    ({"radius": 1.5}, [0, 0, 0, 0.112701665379, 0.887298334621], 4.887298334621),
    ({"radius": 2}, [0, 0, 0, 0, 1], 5),
    ({"radius": 2.5}, [0, 0, 0, 0, 1], 5),
    ({"radius": 0.1, "divergence": "kl"}, None, 3.625541120620),
    ({"radius": 0.5, "divergence": "kl"}, None, 4.333829761507),
    ({"radius": 1, "divergence": "kl"}, None, 4.759714925972),
    ({"radius": math.log(5) + 1e-9, "divergence": "kl"}, [0, 0, 0, 0, 1], 5),
    ({"alpha": 0.2, "divergence": "cvar"}, [0, 0, 0, 0, 1], 5),
    ({"alpha": 0.3, "divergence": "cvar"}, [0, 0, 0, 1 / 3, 2 / 3], 14 / 3),
    ({"alpha": 0.5, "divergence": "cvar"}, [0, 0, 0.2, 0.4, 0.4], 4.2),
    ({"alpha": 1.0, "divergence": "cvar"}, [0.2] * 5, 3),
    ({"alpha": 0.01, "divergence": "cvar"}, [0, 0, 0, 0, 1], 5),
    ({"penalty": 0.5}, [0, 0, 0, 0.3, 0.7], 4.225),
    ({"penalty": 1}, [0, 0, 2 / 15, 1 / 3, 8 / 15], 3 + 13 / 15),
    ({"penalty": 2}, [0, 0.1, 0.2, 0.3, 0.4], 3.5),
    ({"penalty": 10}, [0.16, 0.18, 0.2, 0.22, 0.24], 3.1),
    ({"penalty": 1, "alpha": 0.4, "divergence": "kl-cvar"}, [0.0160293, 0.04357216, 0.11844141, 0.32195713, 0.5], 3.803804117406),
    ({"penalty": 1, "divergence": "kl"}, (np.exp(Z) / np.exp(Z).sum()).tolist(), 3.842476483503),
]


@pytest.mark.parametrize("kind, weights, value", WORST, ids=[str(row[0]) for row in WORST])
def test_worst_cases_of_one_to_five(kind: dict[str, Any], weights: list[float] | None, value: float, backend: str) -> None:
    got, worst = dro.worst_case(Z, backend=backend, **kind)
    assert got.shape == (5,) and got.dtype == np.float64 and isinstance(worst, float)
    assert worst == pytest.approx(value, abs=2e-12)
    if weights is not None:
        np.testing.assert_allclose(got, weights, atol=6e-9 if kind.get("alpha") == 0.4 else 2e-12)
    shuffled = np.array([2, 0, 4, 1, 3])
    np.testing.assert_allclose(dro.worst_case(Z[shuffled], backend=backend, **kind)[0], got[shuffled], atol=1e-15)


@pytest.mark.parametrize("radius, value", [(0.125, 0.466506350946), (0.5, 0.683012701892), (1, 0.862372435696), (1.5, 1), (9, 1)])
def test_worst_cases_of_one_large_loss(radius: float, value: float, backend: str) -> None:
    assert dro.worst_case(np.array([0.0, 0, 0, 1]), radius=radius, backend=backend)[1] == pytest.approx(value, abs=2e-12)


# -------------------------------------------------------------------------------------------- worst cases: everywhere

KINDS: list[dict[str, Any]] = [
    *({"radius": r} for r in (1e-8, 1e-3, 0.1, 1.0, 7.0)),
    *({"radius": r, "divergence": "kl"} for r in (1e-8, 1e-3, 0.1, 1.0, 3.0)),
    *({"penalty": t} for t in (1e-3, 0.3, 5.0, 1e4)),
    *({"penalty": t, "divergence": "kl"} for t in (1e-3, 0.3, 5.0, 1e4)),
    *({"alpha": a, "divergence": "cvar"} for a in (1e-9, 0.013, 0.1, 0.5, 0.999, 1.0)),
    *({"alpha": a, "penalty": t, "divergence": "kl-cvar"} for a in (1e-3, 0.1, 0.7, 1.0) for t in (1e-2, 1.0, 100.0)),
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["-".join(map(str, kind.values())) for kind in KINDS])


def losses() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    cases = [rng.standard_normal(n) * 3 for n in (1, 2, 3, 10, 301)]
    cases += [rng.exponential(1.0, 100) ** 3, rng.integers(0, 3, 50).astype(float), np.zeros(7), np.full(5, -2.5)]
    return [*cases, np.r_[np.zeros(9), 1.0], np.r_[np.ones(9), 0.0], np.r_[2.0, 2.0, 1.0, 0.0], np.linspace(-1, 1, 17)]


def slack(kind: dict[str, Any]) -> float:
    """What rounding leaves open: D is computed to some EPS, and d value / dR = deviation / sqrt(2 R) (weights alike)."""
    return 1e-13 + 20 * EPS / math.sqrt(kind.get("radius", 1.0)) + 16 * EPS * kind.get("penalty", 0.0)


@kinds
def test_worst_cases_equal_the_sorted_solution_and_the_dual(kind: dict[str, Any], backend: str) -> None:
    for z in losses():
        p, value = dro.worst_case(z, backend=backend, **kind)
        scale = np.ptp(z) + 1
        assert (p >= 0).all() and p.sum() == pytest.approx(1, abs=1e-13)
        if "radius" in kind:
            name = kind.get("divergence", "chi2")
            assert divergence(p, name) <= kind["radius"] * (1 + 1e-9) + 1e-14
        if "alpha" in kind:
            assert p.max() * len(z) <= 1 / kind["alpha"] * (1 + 1e-13)
        best = oracle.worst_weights(z, **kind)
        assert abs(value - oracle.worst_value(z, best, **kind)) <= slack(kind) * scale, z
        # z enters through z / penalty: one of its ulps changes a weight, or a logarithm of one, by EPS |z| / penalty
        error = slack(kind) + 8 * EPS * np.abs(z).max() / kind.get("penalty", math.inf)
        if kind.get("divergence") == "cvar":  # equal losses may share what the last of them gets
            p, best = ([weights[z == x].sum() for x in np.unique(z)] for weights in (p, best))
        np.testing.assert_allclose(p, np.asarray(best, float), rtol=0, atol=error)
        assert value == pytest.approx(oracle.dual_value(z, **kind), abs=2e-9 * scale * max(1, kind.get("penalty", 0) * 1e-4)), z


@kinds
def test_worst_cases_shift_scale_and_permute(kind: dict[str, Any], backend: str) -> None:
    """max p (z + c) = c + max p z with the same p; scaling losses and penalty by s scales the value by s."""
    z = np.random.default_rng(2).integers(-64, 64, 40) / 16.0  # so that shifts by integers and scales by powers of 2 are exact
    p, value = dro.worst_case(z, backend=backend, **kind)
    for shift in (-5.0, -0.5, 100.0, -(2.0**30)):
        moved, worst = dro.worst_case(z + shift, backend=backend, **kind)
        np.testing.assert_allclose(moved, p, atol=slack(kind))
        assert worst == pytest.approx(value + shift, abs=10 * slack(kind) + 4 * EPS * abs(shift))
    for scale in (2.0**-40, 2.0**40):
        scaled = {**kind, "penalty": kind["penalty"] * scale} if "penalty" in kind else kind
        same, worst = dro.worst_case(z * scale, backend=backend, **scaled)
        np.testing.assert_allclose(same, p, atol=slack(kind))
        assert worst == pytest.approx(value * scale, abs=10 * slack(kind) * scale)
    order = np.random.default_rng(3).permutation(len(z))
    if "cvar" not in kind.get("divergence", ""):  # ties at the edge of the tail may share it in any way
        np.testing.assert_allclose(dro.worst_case(z[order], backend=backend, **kind)[0], p[order], atol=slack(kind))
    assert dro.worst_case(z[order], backend=backend, **kind)[1] == pytest.approx(value, abs=10 * slack(kind))


EXTREME = [[1e300, 0.0, -1e300], [1e-300, 0.0, 3e-300], [1e8, 1e8 + 1, 1e8 - 3], [5e-324, 0.0]]


@pytest.mark.parametrize("z", [np.array(z) for z in EXTREME], ids=str)
def test_worst_cases_of_extreme_losses(z: np.ndarray, backend: str) -> None:
    for kind in ({"radius": 0.1}, {"radius": 0.1, "divergence": "kl"}, {"alpha": 0.5, "divergence": "cvar"}):
        p, value = dro.worst_case(z, backend=backend, **kind)
        scaled = np.ldexp(z, -math.frexp(np.abs(z).max())[1])
        np.testing.assert_allclose(p, oracle.worst_weights(scaled, **kind).astype(float), atol=1e-12)
        assert np.isfinite(value) and value <= z.max() * (1 + 1e-12) + 5e-324


def test_small_radii_give_the_mean_plus_a_standard_deviation(backend: str) -> None:
    rng = np.random.default_rng(0)
    for n in (2, 5, 100, 10_000):
        z = rng.uniform(0, 1, n)
        mean, deviation = z.mean(), z.std()
        edge = (deviation / (mean - z.min())) ** 2 / 2  # up to here no weight is 0
        for radius in (edge * (1 - 1e-9), edge / 3, edge / 1e6):
            p, value = dro.worst_case(z, radius=radius, backend=backend)
            assert value == pytest.approx(mean + deviation * math.sqrt(2 * radius), abs=1e-13)
            np.testing.assert_allclose(p * n, 1 + math.sqrt(2 * radius) * (z - mean) / deviation, atol=1e-12)
        rho = radius * n
        value = dro.worst_case(z, radius=rho / n, backend=backend)[1]
        assert value == pytest.approx(mean + math.sqrt(2 * rho * z.var() / n), abs=1e-13)


def test_weights_stay_within_their_bounds(backend: str) -> None:
    """|n p - 1| <= sqrt(2 R (n - 1)) in a chi-squared ball; so none is 0 while n R < 1/2."""
    rng = np.random.default_rng(1)
    for n in (2, 10, 100):
        for rho in (0.1, 0.499, 2.0):
            p = dro.worst_case(rng.exponential(1.0, n) ** 2, radius=rho / n, backend=backend)[0]
            assert np.abs(n * p - 1).max() <= math.sqrt(2 * rho * (n - 1) / n) * (1 + 1e-12)
            assert rho > 0.5 or p.min() > 0


def test_worst_cases_grow_with_the_set(backend: str) -> None:
    z = np.random.default_rng(4).standard_normal(60)
    for kind, key in (("chi2", "radius"), ("kl", "radius"), ("cvar", "alpha"), ("chi2", "penalty"), ("kl", "penalty")):
        values = [dro.worst_case(z, divergence=kind, backend=backend, **{key: x})[1] for x in np.geomspace(1e-4, 1, 40)]
        steps = np.diff(values) if key == "radius" else -np.diff(values)
        assert (steps >= -1e-14).all(), (kind, key)
        assert z.mean() - 1e-13 <= min(values) and max(values) <= z.max()


def test_the_worst_loss_of_batches_is_biased_low(backend: str) -> None:
    """E max over P_2 of a batch of 2 <= the same over all n: each pair of draws, by enumeration."""
    z = np.random.default_rng(6).exponential(1.0, 6)
    for kind in ({"radius": 0.3}, {"radius": 0.3, "divergence": "kl"}, {"alpha": 0.4, "divergence": "cvar"}, {"penalty": 0.5}):
        pairs = [dro.worst_case(z[list(pair)], backend=backend, **kind)[1] for pair in itertools.product(range(6), repeat=2)]
        assert z.mean() <= np.mean(pairs) <= dro.worst_case(z, backend=backend, **kind)[1]


@pytest.mark.parametrize("seed", range(4))
def test_general_solvers_find_nothing_worse(seed: int, backend: str) -> None:
    z = np.random.default_rng(seed).uniform(0, 2, 5)
    simplex = {"type": "eq", "fun": lambda p: p.sum() - 1}
    for kind in ({"radius": 0.2}, {"radius": 0.9}, {"penalty": 0.7}, {"radius": 0.4, "divergence": "kl"}):
        name = kind.get("divergence", "chi2")

        def distance(p: np.ndarray, name: str = name) -> float:
            return divergence(np.maximum(p, 0), name)

        most, cost = kind.get("radius", 1e9), kind.get("penalty", 0.0)
        ball = {"type": "ineq", "fun": lambda p, most=most, distance=distance: most - distance(p)}
        found = optimize.minimize(
            lambda p, cost=cost, distance=distance: cost * distance(p) - p @ z, np.full(5, 0.2), method="SLSQP",
            bounds=[(0, 1)] * 5, constraints=[simplex, ball], options={"ftol": 1e-13, "maxiter": 500},
        )
        assert dro.worst_case(z, backend=backend, **kind)[1] == pytest.approx(-found.fun, abs=1e-6), kind
    for alpha in (0.15, 0.5, 0.77):
        found = optimize.linprog(-z, A_eq=np.ones((1, 5)), b_eq=[1], bounds=(0, 1 / (5 * alpha)))
        assert dro.worst_case(z, alpha=alpha, divergence="cvar", backend=backend)[1] == pytest.approx(-found.fun, abs=1e-12)


# --------------------------------------------------------------------------------------------------------- projections


def test_projections_known_in_closed_form(backend: str) -> None:
    w = np.array([0.75, 0.25, 0.25, 0.25])
    for floor in (0.0, 0.2):
        p = dro.project(w, radius=0.1, floor=floor, backend=backend)
        np.testing.assert_allclose(p, [0.44364916731, *[0.185450277563] * 3], atol=1e-11)
    for radius, floor in ((0.5, 0.0), (1.0, 0.0), (1.0, 0.4)):
        np.testing.assert_allclose(dro.project(w, radius=radius, floor=floor, backend=backend), [0.625] + [0.125] * 3, atol=1e-15)
    w = np.array([math.e, 1, 1, 1]) / 4
    p = dro.project(w, radius=1.0, divergence="kl", backend=backend)
    np.testing.assert_allclose(p, w / w.sum(), atol=1e-15)
    p = dro.project(w, radius=0.05, divergence="kl", backend=backend)
    np.testing.assert_allclose(p, [0.393952745853, *[0.202015751382] * 3], atol=2e-12)
    for kind in ("chi2", "kl"):
        assert dro.project(np.array([3.0]), radius=0.1, divergence=kind, backend=backend).tolist() == [1.0]
        np.testing.assert_allclose(dro.project(np.full(6, 0.7), radius=0.1, divergence=kind, backend=backend), 1 / 6, atol=1e-16)


def points(kind: str) -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    near = [np.abs(1 / n + scale / n * rng.standard_normal(n)) for n in (2, 3, 8, 9, 50, 300) for scale in (1e-3, 0.3, 3.0)]
    far = [rng.exponential(1.0, 40) ** 4, np.r_[np.zeros(9), 1.0] + 0.01, np.repeat([0.1, 0.4, 0.2], 5)]
    far.append(rng.uniform(0, 1, 33) * 50)
    spread = [np.exp(3 * rng.standard_normal(60)), np.r_[1e-8, 1.0, 1e-3, 1e-8]]
    return near + far + (spread if kind == "kl" else [*spread, -near[4], rng.standard_normal(30) * 100])


@pytest.mark.parametrize("divergence_name", ["chi2", "kl"])
@pytest.mark.parametrize("floor", [0.0, 0.1, 0.6, 0.999])
@pytest.mark.parametrize("radius", [1e-4, 0.05, 0.5, 4.0, 1e3])
def test_projections_are_the_sorted_ones_to_1e_13(divergence_name: str, radius: float, floor: float, backend: str) -> None:
    for w in points(divergence_name):
        n = len(w)
        p = dro.project(w, radius=radius, divergence=divergence_name, floor=floor, backend=backend)
        best = oracle.project(w, radius=radius, divergence=divergence_name, floor=floor).astype(float)
        # w itself is known to EPS |w| only, and the projection does not expand
        np.testing.assert_allclose(p, best, rtol=0, atol=1e-13 + 4 * EPS * np.abs(w).max() * (divergence_name == "chi2"))
        assert (p >= floor / n * (1 - 4 * EPS)).all() and p.sum() == pytest.approx(1, abs=1e-13)
        assert divergence(p, divergence_name) <= radius * (1 + 1e-11) + 1e-14


@pytest.mark.parametrize("seed", range(6))
def test_chi_squared_projections_against_two_nested_root_finders(seed: int, backend: str) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(8):
        n = int(rng.integers(2, 40))
        w = 1 / n + rng.standard_normal(n) * rng.choice([0.1, 1, 5]) / n
        radius, floor = rng.choice([0.01, 0.1, 1.0]), rng.choice([0.0, 0.2])
        p = dro.project(w, radius=radius, floor=floor, backend=backend)
        np.testing.assert_allclose(p, oracle.project_by_roots(w, radius, floor), rtol=0, atol=1e-13)


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_a_projection_is_nearest_idempotent_and_not_expansive(floor: float, backend: str) -> None:
    rng = np.random.default_rng(8)
    n, radius = 12, 0.4

    def project(w: np.ndarray) -> np.ndarray:
        return dro.project(w, radius=radius, floor=floor, backend=backend)

    inside = [project(rng.standard_normal(n)) for _ in range(30)]
    for w, v in zip(rng.standard_normal((20, n)), rng.standard_normal((20, n)) * 0.2, strict=True):
        p = project(w)
        assert max(float((w - p) @ (y - p)) for y in inside) <= 1e-13
        np.testing.assert_allclose(project(p), p, atol=1e-14)
        assert np.linalg.norm(project(w + v) - p) <= np.linalg.norm(v) * (1 + 1e-12)
        np.testing.assert_allclose(project(w + 3.0), p, atol=1e-14)  # along (1, .., 1)
    w = rng.exponential(1.0, n)
    p = dro.project(w, radius=0.1, floor=floor, divergence="kl", backend=backend)
    entropies = [float(p @ np.log(p / w))]
    for _ in range(30):
        y = dro.project(rng.exponential(1.0, n), radius=0.1, floor=floor, divergence="kl", backend=backend)
        entropies.append(float(y @ np.log(y / w)))
    assert entropies[0] == min(entropies)
    np.testing.assert_allclose(dro.project(w * 1e-200, radius=0.1, floor=floor, divergence="kl", backend=backend), p, atol=1e-14)
    np.testing.assert_allclose(dro.project(w * 1e200, radius=0.1, floor=floor, divergence="kl", backend=backend), p, atol=1e-14)


def test_a_floor_is_a_mixture_in_chi_squared(backend: str) -> None:
    rng = np.random.default_rng(9)
    for floor in (0.1, 0.5, 0.9):
        w = rng.exponential(0.1, 25)
        q = dro.project((w - floor / 25) / (1 - floor), radius=0.3 / (1 - floor) ** 2, backend=backend)
        p = dro.project(w, radius=0.3, floor=floor, backend=backend)
        np.testing.assert_allclose(p, floor / 25 + (1 - floor) * q, atol=1e-14)


def test_far_steps_along_losses_project_on_the_worst_case(backend: str) -> None:
    """The projection of t z tends to argmax p z; it is there as soon as the ball binds, up to 1 / t."""
    z = np.random.default_rng(10).exponential(1.0, 20)
    p = dro.project(z * 2.0**20, radius=0.5, backend=backend)
    np.testing.assert_allclose(p, dro.worst_case(z, radius=0.5, backend=backend)[0], atol=1e-9)
    for divergence_name, penalty in (("chi2", 0.8), ("kl", 0.8)):
        w = z / (penalty * 20) if divergence_name == "chi2" else np.exp(z / penalty)
        q = dro.project(w, radius=1e6, divergence=divergence_name, backend=backend)
        p, _ = dro.worst_case(z, penalty=penalty, divergence=divergence_name, backend=backend)
        np.testing.assert_allclose(q, p, atol=1e-14)


# ------------------------------------------------------------------------------------------------- other powers, groups


@pytest.mark.parametrize("power", [1.1, 1.5, 2.0, 3.0, 6.0])
def test_cressie_read_balls_have_their_dual_value(power: float, backend: str) -> None:
    """max p z = min over eta of eta + (1 + k (k - 1) R)^(1/k) |(z - eta)_+|_k*, the norm a mean, 1/k + 1/k* = 1."""
    conjugate = power / (power - 1)
    for n, radius in itertools.product((2, 5, 60), (0.01, 0.3, 2.0)):
        z = np.random.default_rng(n).standard_normal(n)
        p, value = dro.worst_case(z, radius=radius, divergence=power, backend=backend)

        def dual(eta: float, z: np.ndarray = z, radius: float = radius) -> float:
            top = np.maximum(z - eta, 0)
            scale = float(top.max()) or 1.0
            norm = scale * float(((top / scale) ** conjugate).mean()) ** (1 / conjugate)
            return eta + (1 + power * (power - 1) * radius) ** (1 / power) * norm

        low = float(z.min()) - 100 * float(np.ptp(z))
        found = optimize.minimize_scalar(dual, bounds=(low, float(z.max())), method="bounded", options={"xatol": 1e-10})
        assert value == pytest.approx(min(float(found.fun), dual(float(z.max()))), abs=1e-7)
        assert value == pytest.approx(float(p @ z), abs=1e-12) and p.min() >= 0 and abs(p.sum() - 1) < 1e-12
        assert divergence(p, power) <= radius * (1 + 1e-9)
        if power == 2:
            np.testing.assert_allclose(p, dro.worst_case(z, radius=radius, backend=backend)[0], atol=1e-12)


def test_group_weights_are_exponential_weights() -> None:
    rng = np.random.default_rng(18)
    for m, step_size, floor in itertools.product((1, 2, 9), (0.0, 0.1, 3.0), (0.0, 0.2)):
        q, z = rng.exponential(1.0, m), rng.standard_normal(m)
        got = dro.group_weights(q, z, step_size=step_size, floor=floor)
        tilted = q * np.exp(step_size * z)
        np.testing.assert_allclose(got, floor / m + (1 - floor) * tilted / tilted.sum(), rtol=1e-14)
    # the regret of 300 steps with losses in [0, 1] is at most log m / step + step T / 8, whatever they are
    q, gained, losses, step_size = np.full(9, 1 / 9), 0.0, rng.uniform(0, 1, (300, 9)) ** np.arange(1, 10), 0.2
    for z in losses:
        gained += float(q @ z)
        q = dro.group_weights(q, z, step_size=step_size)
    assert losses.sum(axis=0).max() - gained <= math.log(9) / step_size + step_size * 300 / 8


@pytest.mark.parametrize("q, z, step_size, expected", [
    ([0.0, 1.0], [5.0, 0.0], 1.0, [0, 1]),
    ([0.0, 1.0], [1e308, -1e308], 1e300, [0, 1]),
    ([1.0, 1.0], [1e308, -1e308], 1.0, [1, 0]),
    ([1e-300, 1.0], [1e3, 0.0], 1.0, [1, 0]),
    ([5e-324, 5e-324], [0.0, 0.0], 1e300, [0.5, 0.5]),
    ([1e308, 1e308], [3.0, 3.0], 1e300, [0.5, 0.5]),
])
def test_group_weights_of_extremes(q: list[float], z: list[float], step_size: float, expected: list[float]) -> None:
    assert dro.group_weights(np.array(q), np.array(z), step_size=step_size).tolist() == pytest.approx(expected, abs=1e-15)


# ------------------------------------------------------------------------------------------------ allocation and pacing


def test_allocations_known_by_hand(backend: str) -> None:
    def allocate(*args: Any, **kw: Any) -> list[int]:
        given = dro.allocate(*args, backend=backend, **kw)
        assert given.dtype == np.int64 and given.shape == np.shape(args[0])
        return given.tolist()

    shares = 1 / np.sqrt(np.array([0.1, 0.25, 0.5, 1]) + 1e-3 / np.array([0.1, 0.25, 0.5, 1]))
    np.testing.assert_allclose(shares / shares.sum(), [0.40688709, 0.26776474, 0.19046641, 0.13488176], atol=5e-9)
    assert allocate(shares, 32) == [13, 9, 6, 4]
    assert allocate(np.full(4, 0.25), 10) == [3, 3, 2, 2]
    assert allocate(np.array([0.0, 1.0, 0.0]), 7) == [0, 7, 0]
    assert allocate(np.array([0.0, 1.0, 0.0]), 7, minimum=2) == [2, 3, 2]
    assert allocate(np.array([1.0, 2.0]), 0) == [0, 0]
    assert allocate(np.array([5.0, 1.0]), 4, minimum=2) == [2, 2]
    assert allocate(np.array([3.0]), 5) == [5]
    assert allocate(np.array([1e300, 1e-300]), 3) == [3, 0]
    assert allocate(np.array([1e300, 1e300]), 3) == [2, 1]
    assert allocate(np.array([1e-300, 3e-300]), 4) == [1, 3]
    assert allocate(np.array([5e-324, 5e-324, 5e-324]), 4) == [2, 1, 1]


def test_allocations_are_exact_largest_remainders(backend: str) -> None:
    rng = np.random.default_rng(12)
    for trial in range(600):
        n = int(rng.integers(1, 14))
        scores = rng.integers(0, int(rng.choice([2, 4, 20, 10**6])), n).astype(float)
        scores[rng.integers(n)] += 1
        if trial % 3 == 0:
            scores = scores * rng.choice([0.1, 1 / 3, 0.7])  # then sums are not exact in float64
        minimum = int(rng.integers(0, 3))
        budget = minimum * n + int(rng.integers(0, int(rng.choice([3, 50, 10**7]))))
        given = dro.allocate(scores, budget, minimum=minimum, backend=backend)
        assert given.sum() == budget and given.min() >= minimum
        quotas = minimum + (budget - minimum * n) * scores / scores.sum()
        assert (np.abs(given - quotas) < 1 + 1e-6).all()
        assert given.tolist() == oracle.allocate(scores.tolist(), budget, minimum), (scores, budget, minimum)


def test_large_allocations_sum_exactly(backend: str) -> None:
    scores = np.random.default_rng(13).exponential(1.0, 100_000)
    for budget in (1, 99_999, 100_000, 2**40 + 1):
        given = dro.allocate(scores, budget, backend=backend)
        assert int(given.sum()) == budget and given.min() >= 0
        assert np.abs(given - budget * (scores / scores.sum())).max() < 1 + budget * 1e-11


PACINGS = ("linear", "quadratic", "root", "exponential", "log", "step")


@pytest.mark.parametrize("kind", PACINGS)
def test_pacing_starts_ends_and_never_shrinks(kind: str) -> None:
    for total, start, end in ((100, 10, 1000), (7, 1, 2), (1, 5, 9), (50, 30, 30), (1000, 3, 2**40)):
        sizes = [dro.pacing(kind, t, total=total, start=start, end=end) for t in range(total + 1)]
        assert all(type(size) is int for size in sizes)
        assert sizes[0] == start and sizes[-1] == end
        assert sizes == sorted(sizes)
        for t, size in enumerate(sizes):
            exact = oracle.pacing(kind, t, total=total, start=start, end=end)
            assert abs(size - exact) <= 1 + 1e-9 * end, (t, size, exact)
        assert dro.pacing(kind, total + 1, total=total, start=start, end=end) == end
        assert dro.pacing(kind, 10**9, total=total, start=start, end=end) == end


def test_pacing_orders_the_kinds() -> None:
    """r^2 <= r <= sqrt r on [0, 1]; a step waits for the end."""
    for t in range(101):
        size = {kind: dro.pacing(kind, t, total=100, start=100, end=10_000) for kind in PACINGS}
        assert size["step"] <= size["exponential"] + 1 <= size["quadratic"] + 2 <= size["linear"] + 3 <= size["root"] + 4
        assert t == 100 or size["step"] == 100


# ----------------------------------------------------------------------------------------------- multilevel Monte Carlo


def by_level(estimate: Any, draw: Any, base: int, levels: int, q: float, tries: int = 3000) -> dict[int, tuple[int, list[int]]]:
    """For each size of batch that a seed and step can ask for: one step that does, and how often each comes."""
    sizes: list[int] = []

    def recorded(size: int) -> Any:
        sizes.append(int(size))
        return draw(size)

    found: dict[int, tuple[int, list[int]]] = {}
    for step in range(tries):
        sizes.clear()
        dro.mlmc_estimate(recorded, estimate, base=base, levels=levels, q=q, seed=7, step=step)
        found.setdefault(sum(sizes), (step, []))[1].append(step)
    return dict(sorted(found.items()))


@pytest.mark.parametrize("q", [0.5, 0.3, 0.7])
def test_multilevel_estimates_telescope(q: float) -> None:
    """Whatever number h(size) an estimate on a batch is: sum_j P(j) estimate_j = h(largest batch)."""
    h = {2**k: float(value) for k, value in enumerate(np.random.default_rng(0).standard_normal(12))}
    estimate = lambda batch: h[len(batch)]  # noqa: E731
    base, levels = 4, 3
    found = by_level(estimate, np.zeros, base, levels, q)
    tries = sum(len(steps) for _, steps in found.values())
    last = len(found) - 1
    assert last in (levels - 1, levels) and all(b == 2 * a for a, b in itertools.pairwise(found)), found.keys()
    chances = [q * (1 - q) ** j for j in range(last)] + [(1 - q) ** last]
    expectation = 0.0
    for chance, (size, (step, steps)) in zip(chances, found.items(), strict=True):
        value = dro.mlmc_estimate(np.zeros, estimate, base=base, levels=levels, q=q, seed=7, step=step)
        assert isinstance(value, float)
        assert value == pytest.approx(h[min(found) // 2] + (h[size] - h[size // 2]) / chance, abs=1e-12)
        # how often a level comes, within 5 standard deviations
        assert abs(len(steps) - tries * chance) <= 5 * math.sqrt(tries * chance * (1 - chance))
        expectation += chance * value
    assert expectation == pytest.approx(h[max(found)], abs=1e-12)


def test_multilevel_estimates_of_every_batch_of_a_population_of_two() -> None:
    """Over all 2^8 batches of 8 and all levels: the mean is the mean of the plain estimate on batches of 8."""
    tape: list[float] = []
    used = 0

    def draw(size: int) -> np.ndarray:
        nonlocal used
        used += size
        return np.array(tape[used - size : used])

    def estimate(batch: np.ndarray) -> float:
        return dro.worst_case(batch, radius=0.3)[1]

    tape = [0.0] * 64
    found: dict[int, int] = {}
    for step in range(200):
        used = 0
        dro.mlmc_estimate(draw, estimate, base=2, levels=2, seed=1, step=step)
        found.setdefault(used, step)
    sizes = sorted(found)
    largest = sizes[-1]
    assert largest <= 8 and len(sizes) in (2, 3)
    chances = [0.5 ** (j + 1) for j in range(len(sizes) - 1)] + [0.5 ** (len(sizes) - 1)]
    expectation = plain = 0.0
    for bits in itertools.product([0.0, 1.0], repeat=largest):
        tape = list(bits)
        plain += estimate(np.array(bits)) / 2**largest
        for size, chance in zip(sizes, chances, strict=True):
            used = 0
            value = dro.mlmc_estimate(draw, estimate, base=2, levels=2, seed=1, step=found[size])
            expectation += chance * value / 2**largest
    assert expectation == pytest.approx(plain, abs=1e-12)


def test_multilevel_estimates_are_right_on_the_mean_of_many_steps_and_repeat() -> None:
    def run(step: int, seed: int = 3) -> float:
        rng = np.random.default_rng([99, seed, step])
        return dro.mlmc_estimate(lambda size: rng.integers(0, 2, size).astype(float), lambda batch: float(batch.max()),
                                 base=2, levels=3, seed=seed, step=step)

    values = np.array([run(step) for step in range(4000)])
    assert values[:50].tolist() == [run(step) for step in range(50)]
    assert values[:50].tolist() != [run(step, seed=4) for step in range(50)]
    error = values.std() / math.sqrt(len(values))
    assert min(abs(values.mean() - (1 - 0.5**largest)) for largest in (8, 16)) <= 4.5 * error


def test_a_mean_has_no_levels() -> None:
    """For a linear estimate every correction is 0: the result is the mean of the base batch, whatever the level."""
    for step in range(30):
        batch: list[np.ndarray] = []

        def draw(size: int, batch: list[np.ndarray] = batch, step: int = step) -> np.ndarray:
            batch.append(np.random.default_rng(step).standard_normal(size))
            return batch[-1]

        value = dro.mlmc_estimate(draw, lambda v: float(v.mean()), base=4, levels=4, step=step)
        everything = np.concatenate(batch)
        assert min(abs(value - everything[:k].mean()) for k in (2, 4)) <= 1e-12
