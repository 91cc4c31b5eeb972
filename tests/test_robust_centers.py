"""Geometric median and centered clipping: optimality, equivalence with vector iterations, hostile vectors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import robust_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from robust_calls import refuses
from robust_oracle import DTYPES, bits, floats, make

from fastgd import robust
from fastgd._native import lib


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def objective(x: np.ndarray, v: np.ndarray, weights: np.ndarray | None = None) -> float:
    return float(np.average(np.linalg.norm(x - v, axis=1), weights=weights))


def excess(x: np.ndarray, v: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The norm of the least subgradient of the objective at v: 0 at the geometric median (Vardi, Zhang)."""
    share = np.full(len(x), 1 / len(x)) if weights is None else weights / weights.sum()
    distance = np.linalg.norm(x - v, axis=1)
    apart = distance > 1e-9 * np.median(distance)
    pull = (share[apart, None] * (x[apart] - v) / distance[apart, None]).sum(axis=0)
    return max(0.0, float(np.linalg.norm(pull)) - share[~apart].sum())


# -------------------------------------------------------------------------------------------------- geometric median


@pytest.mark.parametrize("smoothing", [0.0, 1e-6])
def test_optimal_to_the_last_digits(smoothing: float) -> None:
    rng = np.random.default_rng(3)
    for trial in range(150):
        n, d = int(rng.integers(1, 30)), int(rng.integers(1, 12))
        plain = rng.standard_normal((n, d))
        far = plain + 1e4 * (np.arange(n) < n // 3)[:, None]
        scales = plain * 10.0 ** rng.uniform(-3, 3, (n, 1))
        lattice = rng.integers(0, 3, (n, d)).astype(float)
        flat = plain[:, :1] * plain[:1] + 1e-4 * plain
        for x in (plain, far, scales, lattice, flat):
            weights = rng.random(n) ** 4 if trial % 2 else None
            v, info = robust.geometric_median(x, weights=weights, smoothing=smoothing, return_info=True)
            assert info.status == "converged" and info.iterations < 100
            assert excess(x, v, weights) < 1e-8
            assert info.weights.min() >= 0 and abs(info.weights.sum() - 1) < 1e-14
            assert np.allclose(info.weights @ x, v, rtol=0, atol=1e-12 * np.abs(x).max())
            assert math.isclose(info.objective, objective(x, v, weights), rel_tol=1e-9, abs_tol=1e-14)


def test_no_point_nearby_is_better(backend: str) -> None:
    x = normal(9, 4)
    v = robust.geometric_median(x, backend=backend)
    for step in 1e-3 * normal(200, 4, seed=1):
        assert objective(x, v) < objective(x, v + step)


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
def test_equals_vector_weiszfeld(smoothing: float, backend: str) -> None:
    """The iteration on vectors, to convergence; a smoothing of the size of the distances bends the weights."""
    x, a = normal(9, 3, seed=2), np.arange(1.0, 10.0)
    v = (a / a.sum()) @ x
    for _ in range(4000):
        b = a / np.maximum(smoothing, np.linalg.norm(x - v, axis=1))
        v = b @ x / b.sum()
    got = robust.geometric_median(x, weights=a, smoothing=smoothing, tol=1e-14, max_iter=5000, backend=backend)
    assert np.allclose(got, v, rtol=0, atol=1e-12)
    if smoothing:
        assert np.linalg.norm(got - robust.geometric_median(x, weights=a)) > 1e-3


def test_weights_of_a_distance_matrix(backend: str) -> None:
    x, a = normal(7, 5), np.array([1.0, 2, 0, 1, 1, 1, 3])
    sqdist = robust.pairwise_sqdist(x, backend=backend)
    w, info = robust.geometric_median_weights(sqdist, weights=a, return_info=True, backend=backend)
    v, same = robust.geometric_median(x, weights=a, return_info=True, backend=backend)
    assert np.array_equal(w, info.weights) and np.array_equal(w, same.weights) and w[2] == 0
    assert np.allclose(w @ x, v, rtol=0, atol=1e-14)
    sqdist[3], sqdist[:, 3] = np.inf, np.inf
    w, info = robust.geometric_median_weights(sqdist, return_info=True, backend=backend)
    assert info.bad_rows.tolist() == [i == 3 for i in range(7)] and w[3] == 0
    others = np.delete(x, 3, 0)
    assert np.allclose(w @ x, robust.geometric_median(others, backend=backend), rtol=0, atol=1e-8)


def test_four_convex_points_give_the_crossing_of_the_diagonals(backend: str) -> None:
    x = np.array([[0.0, 0.0], [4.0, 1.0], [5.0, 6.0], [-1.0, 3.0]])
    t = np.linalg.solve(np.column_stack([x[2] - x[0], x[1] - x[3]]), x[1] - x[0])[0]
    for order in itertools.permutations(range(4)):
        v = robust.geometric_median(x[list(order)], backend=backend)
        assert np.allclose(v, x[0] + t * (x[2] - x[0]), atol=1e-8)


def test_fermat_point_sees_the_sides_under_120_degrees(backend: str) -> None:
    x = np.array([[0.0, 0.0, 1.0], [3.0, 0.5, 1.0], [1.0, 2.5, 0.0]])
    u = x - robust.geometric_median(x, backend=backend)
    u /= np.linalg.norm(u, axis=1)[:, None]
    assert np.allclose(u @ u.T, 1.5 * np.eye(3) - 0.5, atol=1e-8)


def test_obtuse_corner_is_the_median(backend: str) -> None:
    x = np.array([[5.0, 0.1], [0.0, 0.0], [-4.0, 0.2]])
    v, info = robust.geometric_median(x, return_info=True, backend=backend)
    assert bits(v) == bits(x[1]) and info.weights.tolist() == [0, 1, 0]


@pytest.mark.parametrize("share", [0.3, 0.999, 0.999999, 1 - 1e-9, 1.0, 1.001])
def test_near_a_vertex(share: float) -> None:
    """The pull of the others against the weight of a vector: it is the median from equality on, and just not below."""
    x = normal(8, 4, seed=5)
    u = (x[1:] - x[0]) / np.linalg.norm(x[1:] - x[0], axis=1)[:, None]
    weights = np.append(np.linalg.norm(u.sum(axis=0)) * share, np.ones(7))
    v, info = robust.geometric_median(x, weights=weights, return_info=True)
    assert info.status == "converged" and info.iterations <= 8
    assert (bits(v) == bits(x[0])) == (share >= 1)
    # Where v is very near x_0, the rounding of v itself turns the direction from one to the other.
    distance = np.linalg.norm(v - x[0])
    assert excess(x, v, weights) < 1e-9 + (1e-15 / distance if distance else 0)


@pytest.mark.parametrize("direction", [[1.0], [3.0, -4.0, 12.0]])
def test_collinear_points_give_the_weighted_median(direction: list[float], backend: str) -> None:
    places = np.array([7.0, -2.0, 0.0, 3.0, 100.0])
    for weights in itertools.product((1.0, 2.0, 5.0), repeat=5):
        order = np.argsort(places)
        mass = np.cumsum(np.array(weights)[order]) / sum(weights)
        low, high = (places[order[np.searchsorted(mass, 0.5 + shift)]] for shift in (-1e-9, 1e-9))
        v = robust.geometric_median(places[:, None] * direction, weights=weights, backend=backend)
        t = v @ direction / np.dot(direction, direction)
        assert low - 1e-9 <= t <= high + 1e-9 and np.allclose(v, t * np.array(direction), atol=1e-9)


def test_even_number_on_a_line(backend: str) -> None:
    for x in ([0.0, 1.0], [0.0, 1.0, 2.0, 9.0], [5.0, 5.0, -1.0, -1.0]):
        v = float(robust.geometric_median(np.array(x)[:, None], backend=backend)[0])
        middle = sorted(x)[len(x) // 2 - 1 : len(x) // 2 + 1]
        assert middle[0] <= v <= middle[1]


def test_objective_never_rises(backend: str) -> None:
    for seed in range(20):
        x = normal(12, 3, seed=seed) * np.geomspace(0.01, 100, 12)[:, None]
        values = [
            robust.geometric_median(x, max_iter=steps, tol=0.0, return_info=True, backend=backend)[1].objective
            for steps in range(1, 12)
        ]
        assert all(later <= earlier * (1 + 1e-14) for earlier, later in itertools.pairwise(values))


def test_max_iter_is_reported() -> None:
    x = normal(20, 6)
    v, info = robust.geometric_median(x, max_iter=1, tol=1e-300, return_info=True)
    assert info.status == "max_iter" and info.iterations == 1 and excess(x, v) > 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_vectors_come_back_bit_for_bit(dtype: str, backend: str) -> None:
    for n in (1, 2, 3, 7):
        row = make(normal(37), dtype)
        x = np.stack([row] * n)
        assert bits(robust.geometric_median(x, backend=backend)) == bits(row)
        assert bits(robust.centered_clip(x, radius=0.5, backend=backend)) == bits(row)
        assert bits(robust.centered_clip(x, radius=0.5, iterations=3, backend=backend)) == bits(row)


def test_equivariance(backend: str) -> None:
    x = normal(8, 5)
    v = robust.geometric_median(x, backend=backend)
    turn = np.linalg.qr(normal(5, 5, seed=4))[0]
    assert np.allclose(robust.geometric_median(x @ turn + 3.0, backend=backend), v @ turn + 3.0, atol=1e-8)
    assert np.allclose(robust.geometric_median(x[::-1], backend=backend), v, atol=1e-8)
    for power in (-60, 10, 300):
        scaled = robust.geometric_median(np.ldexp(x, power), smoothing=0.0, backend=backend)
        assert bits(scaled) == bits(np.ldexp(robust.geometric_median(x, smoothing=0.0, backend=backend), power))


HOSTILE = {
    "nan": lambda row: np.full_like(row, np.nan),
    "one nan": lambda row: np.where(np.arange(len(row)) == 3, np.nan, row),
    "inf": lambda row: np.full_like(row, -np.inf),
    "one inf": lambda row: np.where(np.arange(len(row)) == 3, np.inf, row),
    "1e20": lambda row: np.full_like(row, 1e20),
    "3e38": lambda row: np.full_like(row, 3e38),
    "one 3e38": lambda row: np.where(np.arange(len(row)) == 3, -3e38, row),
    "1e6": lambda row: np.full_like(row, 1e6),
    "1e10": lambda row: np.full_like(row, 1e10),
}
RULES = {
    "geometric_median": lambda x, **kw: robust.geometric_median(x, **kw),
    "centered_clip": lambda x, **kw: robust.centered_clip(x, radius=10.0, **kw),
    "centered_clip x 4": lambda x, **kw: robust.centered_clip(x, radius=10.0, iterations=4, **kw),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hostile_vectors_do_not_spoil(kind: str, rule: str, dtype: str, backend: str) -> None:
    """The spec's reliability suite: 10 honest vectors at distance 3 of their mean, 2 hostile ones at either end."""
    honest = 1.0 + 0.1 * normal(10, 1000)
    for before in (0, 1, 2):
        rows = [HOSTILE[kind](row) for row in honest[:2]]
        x = np.stack([*rows[:before], *honest, *rows[before:]]).astype(dtype)
        v = RULES[rule](x, backend=backend)
        assert np.linalg.norm(v - honest.mean(axis=0)) < 5


@pytest.mark.parametrize("rule", RULES)
def test_float64_vectors_whose_squares_overflow(rule: str, backend: str) -> None:
    x = normal(9, 20)
    x[[0, 8]] = 1e200
    x[1] = -1e308
    assert np.linalg.norm(RULES[rule](x, backend=backend) - x[2:8].mean(axis=0)) < 20
    if rule == "geometric_median":
        refuses("scale", robust.geometric_median, normal(5, 4) * 1e200, backend=backend)


def test_breakdown(backend: str) -> None:
    """Less than half of the weight moves the median by a bounded distance, wherever it goes."""
    x = normal(11, 3)
    weights = np.r_[np.full(5, 1.19), np.ones(6)]
    worst = [
        np.linalg.norm(robust.geometric_median(np.where((np.arange(11) < 5)[:, None], far, x), weights=weights, backend=backend))
        for far in (1e1, 1e2, 1e4, 1e8, 1e16, 1e100)
    ]
    assert max(worst) < 100


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 9), st.integers(1, 4), st.floats(-3, 6), st.integers(0, 2**32))
def test_kappa_bound(n: int, d: int, power: float, seed: int) -> None:
    """(f, kappa)-robustness with kappa = 4 (1 + f / (n - 2f))^2 for every f and every set of n - f vectors."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    attackers = rng.random(n) < 0.4
    x[attackers] = x[attackers] * 0.1 + 10.0**power
    v = robust.geometric_median(x)
    for f in range((n + 1) // 2):
        for chosen in itertools.combinations(range(n), n - f):
            honest = x[list(chosen)]
            mean = honest.mean(axis=0)
            spread = ((honest - mean) ** 2).sum(axis=1).mean()
            assert ((v - mean) ** 2).sum() <= 4 * (1 + f / (n - 2 * f)) ** 2 * spread + 1e-18 + 1e-12 * (x**2).max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_layers_and_threads(dtype: str, backend: str) -> None:
    values = normal(7, 60)
    x = make(values, dtype)
    exact = floats(x)
    for rule in RULES.values():
        expected = rule(exact, backend=backend)
        v = rule(x, backend=backend)
        assert (np.abs(floats(v) - expected) <= oracle.ulp(expected, dtype) + 1e-6 * np.abs(expected)).all()
        assert bits(rule(list(x), backend=backend)) == bits(v)
        layers = rule([[row[:17], row[17:].reshape(1, 43)] for row in x], backend=backend)
        assert [part.shape for part in layers] == [(17,), (1, 43)]
        assert np.allclose(oracle.flat_vector(layers), floats(v), atol=1e-6 if dtype != "bfloat16" else 2e-2)


def test_same_bits_on_every_instruction_set_and_thread_count() -> None:
    x = normal(9, 700_001).astype(np.float32)
    before = lib.fgd_isa_current()
    try:
        seen = {name: set() for name in RULES}
        for level in (0, 1, 2):
            lib.fgd_isa_use(level)
            for name, rule in RULES.items():
                seen[name] |= {bits(rule(x, num_threads=threads)) for threads in (1, 2, 3)}
    finally:
        lib.fgd_isa_use(before)
    assert all(len(found) == 1 for found in seen.values())


# ------------------------------------------------------------------------------------------------- centered clipping


def clipped(x: np.ndarray, start: np.ndarray, radius: float, iterations: int) -> np.ndarray:
    v = start.astype(np.longdouble)
    for _ in range(iterations):
        distance = np.linalg.norm((x - v).astype(np.longdouble), axis=1)
        v = v + ((x - v) * np.minimum(1, radius / np.maximum(distance, 1e-300))[:, None]).mean(axis=0)
    return v.astype(np.float64)


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("size", [1.0, 1e3, 1e9])
def test_centered_clip_is_its_formula(iterations: int, size: float, backend: str) -> None:
    x = normal(8, 6)
    x[2] *= size
    start = normal(6, seed=9) + 2
    for radius in (0.1, 1.0, 3.0, 1e4):
        v = robust.centered_clip(x, radius=radius, start=start, iterations=iterations, backend=backend)
        assert np.allclose(v, clipped(x, start, radius, iterations), rtol=1e-9, atol=1e-9)
        w = robust.centered_clip(x, radius=radius, iterations=iterations, backend=backend)
        assert np.allclose(w, clipped(x, np.median(x, axis=0), radius, iterations), rtol=1e-9, atol=1e-9)


def test_centered_clip_drops_bad_vectors_before_anything(backend: str) -> None:
    x = normal(7, 5)
    bad = np.insert(x, [0, 4], np.nan, axis=0)
    bad[0, 1:] = 100.0
    kept = robust.centered_clip(x, radius=1.0, backend=backend)
    assert bits(robust.centered_clip(bad, radius=1.0, backend=backend)) == bits(kept)
    most = np.vstack([np.full((9, 5), np.nan), x])
    assert bits(robust.centered_clip(most, radius=1.0, backend=backend)) == bits(kept)


@pytest.mark.parametrize("value", [10.0, 1e20, 3e38])
def test_influence_of_one_vector(value: float, backend: str) -> None:
    """One vector moves the result by at most 2 radius / m, and from the start by radius / m."""
    x = normal(10, 50).astype(np.float32)
    start = x.mean(axis=0)
    for radius in (0.5, 4.0):
        v = robust.centered_clip(x, radius=radius, start=start, backend=backend)
        y = x.copy()
        y[4] = value
        moved = robust.centered_clip(y, radius=radius, start=start, backend=backend)
        assert 0 < np.linalg.norm(moved - v) <= 2 * radius / 10 * (1 + 1e-5)
        alone = robust.centered_clip(np.tile(start, (10, 1)), radius=radius, start=start, backend=backend)
        others = np.tile(start, (10, 1))
        others[4] = value
        moved = robust.centered_clip(others, radius=radius, start=start, backend=backend)
        assert math.isclose(np.linalg.norm(moved - alone), radius / 10, rel_tol=1e-4)


# --------------------------------------------------------------------------------------------------------- arguments


def test_arguments(backend: str) -> None:
    x = normal(5, 3)
    gm, cc = robust.geometric_median, robust.centered_clip
    for name, values in {
        "weights": (np.ones(4), -np.ones(5), np.zeros(5), [np.nan] * 5, np.ones((2, 5)), "ones", [None] * 5),
        "smoothing": (-1.0, np.nan, np.inf, "small", None),
        "tol": (-1e-9, np.nan, None),
        "max_iter": (0, 1.5, None, True),
    }.items():
        for value in values:
            refuses(name, gm, x, backend=backend, **{name: value})
            refuses(name, robust.geometric_median_weights, (x[:, :1] - x[:, 0]) ** 2, backend=backend, **{name: value})
    for radius in (0.0, -1.0, np.nan, np.inf, "1", None):
        refuses("radius", cc, x, radius=radius, backend=backend)
    for iterations in (0, 1.0, None):
        refuses("iterations", cc, x, radius=1.0, iterations=iterations, backend=backend)
    for start in (np.zeros(4), np.zeros(3, np.float32), [0.0] * 3, np.full(3, np.nan), np.zeros((1, 3))):
        refuses("start", cc, x, radius=1.0, start=start, backend=backend)
    for rule in (gm, lambda x, **kw: cc(x, radius=1.0, **kw)):
        assert "rows 0, 1, 2, 3, 4" in refuses("x", rule, np.full((5, 3), np.nan), backend=backend)
    refuses("x", gm, np.array([[1.0], [np.nan]]), weights=[0, 1], backend=backend)
    for sqdist in (-np.ones((2, 2)) + np.eye(2), np.full((2, 2), np.nan), np.zeros((2, 3)), np.zeros((2, 2), np.float32)):
        refuses("sqdist", robust.geometric_median_weights, sqdist, backend=backend)
