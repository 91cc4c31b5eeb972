"""How `fastgd.sinkhorn` runs: statuses, histories, callbacks, warm starts, batches, points, threads, plans and products."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import instruction_sets
import numpy as np
import pytest
import sinkhorn_oracle as oracle
from scipy import sparse
from sinkhorn_oracle import Problem, check, uniform

import fastgd
from fastgd import sinkhorn

pytestmark = pytest.mark.timeout(120)

inf = math.inf
METHODS = ("auto", "sinkhorn", "newton", "sns")
methods = pytest.mark.parametrize("method", METHODS)


def some(n: int = 15, m: int = 11, seed: int = 0) -> Problem:
    return oracle.random_problem(np.random.default_rng(seed), n, m)


def same(one: Any, two: Any, backend: str = "cpu") -> None:
    """Two solutions with the same bits; sums by NumPy may depend on where its arrays lie."""
    assert one.f.tobytes() == two.f.tobytes() and one.g.tobytes() == two.g.tobytes()
    assert np.asarray(one.history).tobytes() == np.asarray(two.history).tobytes()
    for name in ("status", "error", "iterations", "method"):
        assert getattr(one, name) == getattr(two, name), name
    for name in ("cost", "value"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=0 if backend == "cpu" else 1e-12), name


# ------------------------------------------------------------------------------------------------- counts, histories


@methods
def test_counts_and_history_of_a_converged_run(method: str, backend: str) -> None:
    problem = oracle.assign(30, 6)
    solution = sinkhorn.solve(*problem, reg=0.005, tol=1e-10, method=method, backend=backend)
    check(solution, *problem, 0.005, tol=1e-10)
    assert solution.status == "converged"
    counts = solution.iterations
    assert set(counts) >= {"sweeps", "newton", "cg"} and all(isinstance(count, int) for count in counts.values())
    assert counts["sweeps"] + counts["newton"] == len(solution.history) > 0
    assert solution.history.dtype == np.float64 and np.isfinite(solution.history).all() and (solution.history >= 0).all()
    assert solution.history[-1] == pytest.approx(solution.error, rel=1e-6, abs=1e-14)
    if method == "sinkhorn":
        assert counts["newton"] == counts["cg"] == 0
    elif method != "auto":
        assert counts["newton"] > 0 and counts["cg"] > 0
    if method != "auto":
        assert method in solution.method.lower()


@methods
@pytest.mark.parametrize("most", [1, 2, 3, 7, 19])
def test_max_iter_counts_sweeps_and_newton_steps(most: int, method: str, backend: str) -> None:
    problem = oracle.assign(30, 1)
    solution = sinkhorn.solve(*problem, reg=1e-3, tol=1e-13, max_iter=most, method=method, backend=backend)
    check(solution, *problem, 1e-3, tol=1e-13)
    done = solution.iterations["sweeps"] + solution.iterations["newton"]
    assert done == len(solution.history) <= most
    assert (solution.status, done) == ("max_iter", most) or (solution.status == "converged" and most > 7)


@methods
def test_no_iterations_evaluate_the_start(method: str, backend: str) -> None:
    problem, reg = some(), 0.3
    rng = np.random.default_rng(1)
    f, g = 0.1 * rng.standard_normal(15), 0.1 * rng.standard_normal(11)
    kept = f.copy(), g.copy()
    start = sinkhorn.solve(*problem, reg=reg, max_iter=0, init=(f, g), method=method, backend=backend)
    np.testing.assert_allclose(start.plan(), oracle.plan(problem.cost, f, g, reg).astype(float), rtol=1e-12)
    np.testing.assert_allclose(start.f[:, None] + start.g, f[:, None] + g, atol=1e-13)
    check(start, *problem, reg, tol=0.0)
    assert start.status == "max_iter" and len(start.history) == 0
    assert start.iterations == {"sweeps": 0, "newton": 0, "cg": 0}
    best = sinkhorn.solve(*problem, reg=reg, tol=1e-12, backend=backend)
    again = sinkhorn.solve(*problem, reg=reg, max_iter=0, tol=1e-9, init=best, method=method, backend=backend)
    assert again.status == "converged" and again.error <= 1e-9
    assert (f == kept[0]).all() and (g == kept[1]).all()
    check(sinkhorn.solve(*problem, reg=reg, max_iter=0, method=method, backend=backend), *problem, reg, tol=1e-9)


def test_a_second_run_has_the_same_bits(backend: str) -> None:
    problem = some(31, 33)
    for method in METHODS:
        one, two = (sinkhorn.solve(*problem, reg=0.02, method=method, tol=1e-8, backend=backend) for _ in range(2))
        same(one, two, backend)


# ----------------------------------------------------------------------------------------------------------- callbacks


@methods
def test_the_callback_sees_every_iteration(method: str, backend: str) -> None:
    problem, seen = some(), []
    options: dict[str, Any] = {"reg": 0.04, "tol": 1e-10, "method": method, "backend": backend}
    plain = sinkhorn.solve(*problem, **options)
    solution = sinkhorn.solve(*problem, callback=lambda i, e: seen.append((i, e)), **options)
    assert solution.status == "converged"
    np.testing.assert_allclose([error for _, error in seen], solution.history, rtol=1e-12)
    first = seen[0][0]
    assert first in (0, 1) and [i for i, _ in seen] == list(range(first, first + len(seen)))
    assert all(isinstance(i, int) and isinstance(error, float) for i, error in seen)
    np.testing.assert_allclose(solution.plan(), plain.plan(), rtol=0, atol=1e-9)  # watching changes nothing


@methods
@pytest.mark.parametrize("after", [1, 3, 6])
def test_the_callback_stops(after: int, method: str, backend: str) -> None:
    problem, seen = oracle.assign(30, 1), []

    def watch(iteration: int, error: float) -> bool:
        seen.append(error)
        return len(seen) == after

    solution = sinkhorn.solve(*problem, reg=1e-3, tol=1e-13, method=method, callback=watch, backend=backend)
    assert solution.status == "stopped" and len(seen) == len(solution.history) == after
    check(solution, *problem, 1e-3, tol=1e-13)


# ---------------------------------------------------------------------------------------------------------- warm starts


@methods
def test_warm_starts(method: str, backend: str) -> None:
    """A solution is its own answer at once; a neighbour's is a better start than none; -inf potentials are taken back."""
    cost, a, b = some(20, 24, 3)
    a[4] = b[7] = b[9] = 0
    b *= a.sum() / b.sum()
    cold = sinkhorn.solve(cost, a, b, reg=0.02, tol=1e-9, method=method, backend=backend)
    kept = cold.f.copy(), cold.g.copy()
    for init in (cold, (cold.f, cold.g)):
        warm = sinkhorn.solve(cost, a, b, reg=0.02, tol=1e-9, method=method, init=init, backend=backend)
        check(warm, cost, a, b, 0.02, tol=1e-9)
        assert warm.status == "converged" and len(warm.history) <= 2
    other = cost + 1e-6 * np.random.default_rng(0).random(cost.shape)
    near = sinkhorn.solve(other, a, b, reg=0.02, tol=1e-9, method=method, init=cold, backend=backend)
    assert near.status == "converged" and near.history[0] < 1e-3
    assert method == "auto" or len(near.history) < len(cold.history)  # auto may prefer some cheap sweeps to a Newton step
    assert (cold.f == kept[0]).all() and (cold.g == kept[1]).all()


@methods
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e2, 1e4])
def test_any_finite_start_converges_to_the_same_plan(size: float, method: str, backend: str) -> None:
    problem, rng = some(12, 14), np.random.default_rng(7)
    init = size * rng.standard_normal(12), size * rng.standard_normal(14)
    best = oracle.newton(*problem, 0.1)
    tol = 1e-10 * (1 + size / 100)  # potentials that stay large have large ulps
    solution = sinkhorn.solve(*problem, reg=0.1, tol=tol, method=method, init=init, backend=backend)
    assert solution.status == "converged"
    p = check(solution, *problem, 0.1, tol=tol, slack=4e-16 * size / 0.1)  # recentred at the end perhaps: some of their ulps
    np.testing.assert_allclose(p, oracle.plan(problem.cost, best.f, best.g, 0.1).astype(float), rtol=0, atol=100 * tol)


def test_a_start_from_other_marginals(backend: str) -> None:
    """Where the start's marginal was zero its potential is -inf, though now there is mass: found anew, or refused by name."""
    cost, a, b = some(9, 9, 5)
    zero = a.copy()
    zero[[0, 5]] = 0
    other = sinkhorn.solve(cost, zero / zero.sum(), b / b.sum(), reg=0.1, backend=backend)
    try:
        solution = sinkhorn.solve(cost, a, b, reg=0.1, tol=1e-10, init=other, backend=backend)
    except ValueError as error:
        assert "init" in str(error)
        solution = sinkhorn.solve(cost, a, b, reg=0.1, tol=1e-10, backend=backend)
    assert solution.status == "converged"
    check(solution, cost, a, b, 0.1, tol=1e-10)
    back = sinkhorn.solve(cost, zero / zero.sum(), b / b.sum(), reg=0.1, tol=1e-10, init=solution, backend=backend)
    assert back.status == "converged" and (back.f[[0, 5]] == -inf).all()


# ------------------------------------------------------------------------------------------------------- plans, products


def test_plans_and_products(backend: str) -> None:
    cost, a, b = some(13, 18, 2)
    cost[2, 5:9] = inf
    a[7] = b[3] = 0
    b *= a.sum() / b.sum()
    solution = sinkhorn.solve(cost, a, b, reg=0.03, tol=1e-10, backend=backend)
    p = check(solution, cost, a, b, 0.03, tol=1e-10)
    dense = solution.plan()
    assert isinstance(dense, np.ndarray) and dense.shape == (13, 18) and dense.dtype == np.float64 and dense.flags.writeable
    np.testing.assert_allclose(dense, p, rtol=1e-11, atol=1e-300)
    rng = np.random.default_rng(0)
    v, u = rng.standard_normal(18), rng.standard_normal(13)
    np.testing.assert_allclose(solution.apply(v), p @ v, rtol=0, atol=1e-14)
    np.testing.assert_allclose(solution.apply_transpose(u), p.T @ u, rtol=0, atol=1e-14)
    np.testing.assert_allclose(solution.apply(np.ones(18)), p.sum(1), rtol=1e-12)
    assert solution.apply(v).shape == (13,) and solution.apply_transpose(u).shape == (18,)
    dense[:] = 0  # the caller's own
    np.testing.assert_allclose(solution.plan(), p, rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("threshold", [0.0, 1e-300, 1e-12, 1e-5, 1e-3, 0.02, 10.0])
def test_sparse_plans(threshold: float, backend: str) -> None:
    """The threshold is absolute, on P_ij; zeros are never stored."""
    cost, a, b = some(20, 30, 2)
    cost[2, 5:9] = inf
    a[7] = b[3] = 0
    b *= a.sum() / b.sum()
    solution = sinkhorn.solve(cost, a, b, reg=0.02, tol=1e-10, backend=backend)
    dense = solution.plan()
    found = solution.plan(sparse=True, threshold=threshold)
    assert sparse.issparse(found) and found.format == "csr" and found.shape == (20, 30) and found.dtype == np.float64
    assert found.has_canonical_format and (found.data > 0).all()
    rows, columns = found.nonzero()
    kept = np.zeros((20, 30), bool)
    kept[rows, columns] = True
    assert not kept[7].any() and not kept[:, 3].any() and not kept[2, 5:9].any()
    clear = np.abs(dense - threshold) > 1e-12 * max(threshold, 1e-300)
    assert (kept == (dense > threshold))[clear].all()
    np.testing.assert_allclose(found.toarray()[kept], dense[kept], rtol=1e-12)
    np.testing.assert_allclose(solution.plan(threshold=threshold), found.toarray(), rtol=1e-12)


# -------------------------------------------------------------------------------------------------- statuses by precision


def test_single_precision(backend: str) -> None:
    """Within its reach converged and near the truth; beyond it "stalled", never "converged"."""
    problem = oracle.assign(60, 4)
    for reg, reach, slack in ((0.01, 1e-4, 2.5e-6), (0.001, 1e-4, 1e-5)):  # floors of 5.6e-7 and 2.4e-6 were measured elsewhere
        best = sinkhorn.solve(*problem, reg=reg, tol=1e-10, backend=backend)
        for cost in (problem.cost, problem.cost.astype(np.float32)):
            solution = sinkhorn.solve(cost, *problem[1:], reg=reg, tol=reach, precision="float32", backend=backend)
            assert solution.status == "converged" and solution.error <= reach
            check(solution, cost, *problem[1:], reg, tol=reach, slack=slack)
            assert solution.cost == pytest.approx(best.cost, abs=3e-4)
            most = 5000 if backend == "cpu" else 500
            out = sinkhorn.solve(cost, *problem[1:], reg=reg, tol=1e-12, max_iter=most, precision="float32", backend=backend)
            if backend == "reference" and out.status != "stalled":  # it may compute in double, but then truly
                check(out, cost, *problem[1:], reg, tol=1e-12)
                continue
            assert out.status == "stalled" and 1e-12 < out.error < 1e-4
            check(out, cost, *problem[1:], reg, tol=0.0, slack=slack)


@pytest.mark.parametrize("method", ["auto", "sinkhorn", "newton"])
def test_double_precision_stalls_too(method: str, backend: str) -> None:
    problem = some(50, 40, 9)
    solution = sinkhorn.solve(*problem, reg=0.01, tol=1e-19, method=method, backend=backend)
    assert solution.status == "stalled" and 0 < solution.error < 1e-11
    check(solution, *problem, 0.01, tol=0.0)


def test_float32_costs_are_computed_in_double(backend: str) -> None:
    cost, a, b = some(21, 17, 4)
    stored = cost.astype(np.float32)
    for method in METHODS:
        one = sinkhorn.solve(stored, a, b, reg=0.05, tol=1e-11, method=method, backend=backend)
        two = sinkhorn.solve(stored.astype(float), a, b, reg=0.05, tol=1e-11, method=method, backend=backend)
        assert one.status == two.status == "converged"
        check(one, stored, a, b, 0.05, tol=1e-11)
        np.testing.assert_allclose(one.plan(), two.plan(), rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------------------------- large n


@pytest.mark.parametrize("n", [999, 1000, 1001])
def test_large_sides_absorb_well(n: int) -> None:
    """Far clouds, small reg: every scaling must be absorbed many times, and mass stays one at any n (elsewhere to 999)."""
    x, y = oracle.cloud_points(n)
    problem = Problem(oracle.sqdist(x, y + 5.0), uniform(n), uniform(n))
    solution = sinkhorn.solve(*problem, reg=0.02, tol=1e-6, max_iter=300, method="sinkhorn")
    assert (problem.cost.min() / 0.02) > 1000
    p = np.exp((solution.f[:, None] + solution.g - problem.cost) / 0.02)
    assert p.sum() == pytest.approx(1, abs=2e-2)
    error = np.abs(p.sum(1) - problem.a).sum() + np.abs(p.sum(0) - problem.b).sum()
    assert error == pytest.approx(solution.error, rel=1e-6, abs=1e-12)
    assert solution.error < 0.05


# ---------------------------------------------------------------------------------------------------------------- threads


@methods
def test_every_number_of_threads_has_the_same_bits(method: str) -> None:
    problem = oracle.random_problem(np.random.default_rng(3), 613, 701)
    one, *others = (
        sinkhorn.solve(*problem, reg=0.01, tol=1e-9, max_iter=40, method=method, num_threads=threads) for threads in (1, 2, 3)
    )
    v, u = np.random.default_rng(0).random(701), np.random.default_rng(1).random(613)
    for other in others:
        same(one, other)
        assert one.apply(v).tobytes() == other.apply(v).tobytes()
        assert one.apply_transpose(u).tobytes() == other.apply_transpose(u).tobytes()
        assert one.plan().tobytes() == other.plan().tobytes()


def test_every_number_of_threads_on_points() -> None:
    x, y = oracle.cloud_points(700)
    runs = [sinkhorn.solve_points(x, y, reg=0.02, max_iter=20, tol=1e-12, num_threads=threads) for threads in (1, 2, 3)]
    same(runs[0], runs[1])
    same(runs[0], runs[2])


@pytest.mark.parametrize("method", ["sinkhorn", "newton"])
def test_every_instruction_set_has_the_same_bits(method: str) -> None:
    problem = some(37, 45, 20)
    problem.cost[3, 7:12] = inf
    runs = []
    for level in instruction_sets.LEVELS:
        with instruction_sets.instruction_set(level):
            options: dict[str, Any] = {"reg": 0.02, "tol": 1e-9, "method": method}
            stored = [sinkhorn.solve(cost, *problem[1:], **options) for cost in (problem.cost, problem.cost.astype(np.float32))]
            single = sinkhorn.solve(problem.cost, *problem[1:], reg=0.1, tol=1e-4, precision="float32")
            points = sinkhorn.solve_points(*oracle.cloud_points(33), **options)
            runs.append((*stored, single, points))
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            same(one, two)
            assert one.plan().tobytes() == two.plan().tobytes()


def test_the_context_chooses_the_backend() -> None:
    problem = some()
    with fastgd.use(backend="reference", num_threads=1):
        inside = sinkhorn.solve(*problem, reg=0.1)
    same(inside, sinkhorn.solve(*problem, reg=0.1, backend="reference"), "reference")
    assert "cpu" in fastgd.explain(sinkhorn.solve, *problem, reg=0.1)


# ---------------------------------------------------------------------------------------------------------------- batches


@methods
@pytest.mark.parametrize("shared", ["none", "a", "both"])
def test_a_batch_is_each_problem_alone(shared: str, method: str, backend: str) -> None:
    rng = np.random.default_rng(17)
    costs = rng.random((5, 12, 9))
    costs[3] = costs[3] * 50 - 20
    a, b = rng.dirichlet(np.ones(12), 5), rng.dirichlet(np.ones(9), 5)
    a[1, 4] = 0
    a /= a.sum(1, keepdims=True)
    b /= b.sum(1, keepdims=True)
    first = {"none": (a, b), "a": (a[0], b), "both": (None, None)}[shared]
    options: dict[str, Any] = {"reg": 0.08, "tol": 1e-9, "max_iter": 150, "method": method, "backend": backend}
    for threads in (1, 3):
        batch = sinkhorn.solve_batch(costs, *first, num_threads=threads, **options)
        assert isinstance(batch, list) and len(batch) == 5
        for k, solution in enumerate(batch):
            one = [None if w is None else (w if w.ndim == 1 else w[k]) for w in first]
            alone = sinkhorn.solve(costs[k], *one, **options)
            same(solution, alone, backend)
            np.testing.assert_array_equal(solution.plan(), alone.plan())


def test_batches_of_float32_and_of_penalties(backend: str) -> None:
    costs = np.random.default_rng(18).random((3, 8, 10)).astype(np.float32)
    penalties: list[dict[str, Any]] = [{"marginal_penalty": rho} for rho in (0.5, (2.0, 0.1))]
    for options in ({"precision": "float32", "tol": 1e-4}, {"max_iter": 3}, *penalties):
        batch = sinkhorn.solve_batch(costs, reg=0.1, backend=backend, **options)
        for cost, solution in zip(costs, batch, strict=True):
            same(solution, sinkhorn.solve(cost, reg=0.1, backend=backend, **options), backend)
    assert sinkhorn.solve_batch(costs[:0], reg=0.1, backend=backend) == []


# ----------------------------------------------------------------------------------------------------------------- points


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("d", [1, 2, 3, 7, 20])
def test_points_are_their_stored_cost(d: int, metric: str, backend: str) -> None:
    rng = np.random.default_rng(d)
    x, y = rng.random((14, d)), rng.random((19, d)) + 0.2
    a, b = rng.dirichlet(np.ones(14)), rng.dirichlet(np.ones(19))
    b *= a.sum() / b.sum()
    for scale in (1.0, 0.25):
        cost = oracle.sqdist(x, y) if metric == "sqeuclidean" else np.sqrt(oracle.sqdist(x, y))
        for method in METHODS:
            options: dict[str, Any] = {"reg": 0.05, "tol": 1e-11, "method": method, "backend": backend}
            points = sinkhorn.solve_points(x, y, a, b, metric=metric, scale=scale, **options)
            assert points.status == "converged"
            p = check(points, scale * cost, a, b, 0.05, tol=1e-11)
            stored = sinkhorn.solve(scale * cost, a, b, **options)
            np.testing.assert_allclose(p, stored.plan(), rtol=0, atol=1e-9)
            np.testing.assert_allclose(points.plan(), p, rtol=1e-10)
            assert points.cost == pytest.approx(stored.cost, abs=1e-9) and points.value == pytest.approx(stored.value, abs=1e-9)
            v, u = rng.random(19), rng.random(14)
            np.testing.assert_allclose(points.apply(v), p @ v, atol=1e-13)
            np.testing.assert_allclose(points.apply_transpose(u), p.T @ u, atol=1e-13)


def test_points_default_to_squared_distances_and_uniform_masses(backend: str) -> None:
    x, y = oracle.cloud_points(18)
    solution = sinkhorn.solve_points(x, y, reg=0.1, tol=1e-10, backend=backend)
    check(solution, oracle.sqdist(x, y), uniform(18), uniform(18), 0.1, tol=1e-10)
    far = sinkhorn.solve_points(x + 1e3, y + 1e3, reg=0.1, tol=1e-8, backend=backend)  # differences, not expanded squares
    np.testing.assert_allclose(far.plan(), solution.plan(), rtol=0, atol=1e-8)
    single = sinkhorn.solve_points(x.astype(np.float32), y.astype(np.float32), reg=0.1, tol=1e-9, backend=backend)
    assert single.status == "converged"
    np.testing.assert_allclose(single.plan(), solution.plan(), rtol=0, atol=1e-6)


def test_points_never_store_their_costs() -> None:
    """2000 x 2000 costs would be 32 MB; a run, its products and its sparse plan stay far below."""
    x, y = oracle.cloud_points(2000)
    tracemalloc.start()
    try:
        solution = sinkhorn.solve_points(x, y, reg=1e-3, max_iter=3)
        solution.apply(np.ones(2000))
        found = solution.plan(sparse=True, threshold=1e-6)
        assert tracemalloc.get_traced_memory()[1] < 4e6 + 4 * (found.data.nbytes + found.indices.nbytes)
    finally:
        tracemalloc.stop()
    assert found.nnz < 400_000 and abs(found.sum() - 1) < 0.9


def test_two_gaussian_clouds_on_points() -> None:
    """Points and weights of the Gaussian fact, never stored: the same closed form."""
    _, a, b = oracle.gaussians(160, 200, (0.3, -0.2), (1.0, 2.25))
    x, y = 0.3 + 8 * np.linspace(-1, 1, 160), -0.2 + 12 * np.linspace(-1, 1, 200)
    solution = sinkhorn.solve_points(x[:, None], y[:, None], a, b, reg=0.5, tol=1e-11)
    assert solution.cost == pytest.approx(0.73960135530, abs=1e-9)


# --------------------------------------------------------------------------------------------------------------- penalties

PENALTIES: list[Any] = [0.05, 1.0, 40.0, (0.3, 2.0), (5.0, 0.02)]


def both(rho: Any) -> tuple[float, float]:
    return rho if isinstance(rho, tuple) else (rho, rho)


@pytest.mark.parametrize("rho", PENALTIES, ids=str)
@pytest.mark.parametrize("method", ["auto", "sinkhorn"])
def test_penalised_marginals_satisfy_their_fixed_point(rho: Any, method: str, backend: str) -> None:
    """f = -rho_a log(P1 / a), g = -rho_b log(P'1 / b); masses need not agree; no P near it is better."""
    cost, a, b = some(12, 16, 6)
    a, b, reg = 1.7 * a, 0.4 * b, 0.1
    solution = sinkhorn.solve(cost, a, b, reg=reg, marginal_penalty=rho, tol=1e-11, method=method, backend=backend)
    assert solution.status == "converged"
    p = check(solution, cost, a, b, reg, tol=1e-11, rho=both(rho))
    assert oracle.residual(cost, solution.f, solution.g, a, b, reg, both(rho)) <= 1e-9
    best = oracle.sinkhorn(cost, a, b, reg, rho=both(rho), tol=1e-14)
    np.testing.assert_allclose(p, oracle.plan(cost, best.f, best.g, reg).astype(float), rtol=0, atol=1e-9)
    np.testing.assert_allclose(solution.f, best.f, atol=1e-7)  # no free constant here
    dual = sum(r * (w * -np.expm1(-h / r)).sum() for r, w, h in zip(both(rho), (a, b), (solution.f, solution.g), strict=True))
    assert solution.value == pytest.approx(dual - reg * p.sum(), abs=1e-8)  # no duality gap
    rng = np.random.default_rng(0)
    for _ in range(5):
        near = p * np.exp(1e-3 * rng.standard_normal(p.shape))
        assert oracle.value(cost, near, reg, a, b, both(rho)) >= solution.value - 1e-12
    assert solution.history[-1] == pytest.approx(solution.error, rel=1e-6, abs=1e-14)
    np.testing.assert_allclose(solution.plan(), p, rtol=1e-10)


def test_one_penalised_cell(backend: str) -> None:
    """log P = (rho_a log a + rho_b log b - C) / (reg + rho_a + rho_b)."""
    cells = [(1.0, 1.0, 0.3, 0.5, 2.0, 0.1), (0.2, 7.0, -1.0, 3.0, 1.0, 2.0), (1e-3, 1e-3, 0.1, 1.0, 1.0, 0.05)]
    for rho_a, rho_b, c, a, b, reg in cells:
        solution = sinkhorn.solve(np.array([[c]]), np.array([a]), np.array([b]), reg=reg, marginal_penalty=(rho_a, rho_b),
                                  tol=1e-13, backend=backend)
        mass = math.exp((rho_a * math.log(a) + rho_b * math.log(b) - c) / (reg + rho_a + rho_b))
        assert solution.status == "converged"
        assert solution.plan()[0, 0] == pytest.approx(mass, rel=1e-10)


def test_limits_of_the_penalty(backend: str) -> None:
    """Large: the balanced plan. Small: marginals cost nothing, P = exp(-C / reg)."""
    problem, reg = some(10, 12, 8), 0.2
    balanced = sinkhorn.solve(*problem, reg=reg, tol=1e-11, backend=backend)
    shift = (problem.a @ balanced.f - problem.b @ balanced.g) / 2  # sweeps alone would find it at a factor of tau^2 each
    for rho in (1e1, 1e2, 1e3, 1e5):
        init = balanced.f - shift, balanced.g + shift
        solution = sinkhorn.solve(*problem, reg=reg, marginal_penalty=rho, tol=1e-9, init=init, backend=backend)
        assert solution.status == "converged" and np.abs(solution.plan() - balanced.plan()).sum() < 1 / rho
    loose = sinkhorn.solve(*problem, reg=reg, marginal_penalty=1e-9, tol=1e-10, backend=backend)
    np.testing.assert_allclose(loose.plan(), np.exp(-problem.cost / reg), rtol=1e-6)


def test_penalties_are_derivatives_too(backend: str) -> None:
    """d value / dC = P and d value / d a = rho (1 - P1 / a) = -rho expm1(-f / rho)."""
    (cost, a, b), reg, rho, h = some(6, 7, 9), 0.15, (0.7, 1.5), 1e-6

    def value(cost: np.ndarray, a: np.ndarray) -> float:
        return sinkhorn.solve(cost, a, b, reg=reg, marginal_penalty=rho, tol=1e-13, backend=backend).value

    solution = sinkhorn.solve(cost, a, b, reg=reg, marginal_penalty=rho, tol=1e-13, backend=backend)
    step = np.zeros_like(cost)
    step[2, 3] = h
    assert (value(cost + step, a) - value(cost - step, a)) / (2 * h) == pytest.approx(solution.plan()[2, 3], abs=1e-7)
    step = np.zeros_like(a)
    step[4] = h
    slope = (value(cost, a + step) - value(cost, a - step)) / (2 * h)
    assert slope == pytest.approx(rho[0] * (1 - solution.plan().sum(1)[4] / a[4]), abs=1e-6)
    assert slope == pytest.approx(-rho[0] * math.expm1(-solution.f[4] / rho[0]), abs=1e-6)


def test_penalised_zeros_and_infinite_costs(backend: str) -> None:
    """What cannot be transported is left where it is: never infeasible, unlike the balanced problem."""
    cost, a, b = some(9, 8, 10)
    a[3] = b[5] = 0
    cost[1, :4] = cost[6] = cost[:, 7] = inf
    solution = sinkhorn.solve(cost, a, b, reg=0.1, marginal_penalty=0.8, tol=1e-11, backend=backend)
    assert solution.status == "converged"
    p = solution.plan()
    assert not p[3].any() and not p[:, 5].any() and not p[6].any() and not p[:, 7].any()
    keep = np.ix_([i for i in range(9) if i not in (3, 6)], [j for j in range(8) if j not in (5, 7)])
    best = oracle.sinkhorn(cost[keep], np.delete(a, (3, 6)), np.delete(b, (5, 7)), 0.1, rho=(0.8, 0.8))
    np.testing.assert_allclose(p[keep], oracle.plan(cost[keep], best.f, best.g, 0.1).astype(float), rtol=0, atol=1e-9)
    assert math.isfinite(solution.cost)


def test_infinite_penalties_are_fixed_marginals_where_they_are_taken(backend: str) -> None:
    (cost, a, b), taken = some(8, 9, 11), []
    for rho in (inf, (inf, 0.5)):
        try:
            solution = sinkhorn.solve(cost, a, b, reg=0.1, marginal_penalty=rho, tol=1e-11, backend=backend)
        except ValueError as error:
            assert "marginal_penalty" in str(error)
            continue
        taken.append(rho)
        assert solution.status == "converged"
        best = oracle.sinkhorn(cost, a, b, 0.1, rho=(inf, inf) if rho == inf else rho)
        np.testing.assert_allclose(solution.plan(), oracle.plan(cost, best.f, best.g, 0.1).astype(float), rtol=0, atol=1e-9)
    assert taken in ([], [inf], [inf, (inf, 0.5)])


# ------------------------------------------------------------------------------------------------------------------- inputs


def variants(x: np.ndarray) -> dict[str, np.ndarray]:
    wide = np.zeros(tuple(2 * s for s in x.shape))
    wide[tuple(slice(None, None, 2) for _ in x.shape)] = x
    locked = x.copy()
    locked.flags.writeable = False
    return {
        "fortran": np.asfortranarray(x),
        "strided": wide[tuple(slice(None, None, 2) for _ in x.shape)],
        "reversed": x[::-1].copy()[::-1],
        "read-only": locked,
        "unaligned": np.frombuffer(b"\0" + x.tobytes(), np.float64, offset=1).reshape(x.shape) if x.size else x,
    }


@pytest.mark.parametrize("kind", ["fortran", "strided", "reversed", "read-only", "unaligned"])
def test_layouts_of_the_input_change_nothing(kind: str, backend: str) -> None:
    problem = some(14, 17, 12)
    run: Callable[..., Any] = lambda cost, a, b: sinkhorn.solve(cost, a, b, reg=0.04, tol=1e-9, backend=backend)  # noqa: E731
    plain, made = run(*problem), [variants(x)[kind] for x in problem]
    same(plain, run(*made), backend)
    x, y = oracle.cloud_points(14)
    points = [sinkhorn.solve_points(*pair, reg=0.1, backend=backend) for pair in ((x, y), (variants(x)[kind], variants(y)[kind]))]
    same(*points, backend)


def test_inputs_are_never_changed(backend: str) -> None:
    cost, a, b = some(10, 13, 14)
    cost[0, 1], a[2] = inf, 0.0
    b *= a.sum() / b.sum() * (1 + 5e-7)  # scaled inside, not here
    f, g = np.zeros(10), np.zeros(13)
    kept = [x.copy() for x in (cost, a, b, f, g)]
    for method in METHODS:
        for penalty in (None, 0.5):
            if penalty is None or method in ("auto", "sinkhorn"):
                options: dict[str, Any] = {"init": (f, g), "method": method, "marginal_penalty": penalty, "max_iter": 60}
                sinkhorn.solve(cost, a, b, reg=0.05, backend=backend, **options)
    sinkhorn.solve_batch(np.stack([cost, cost]), a, b, reg=0.05, max_iter=20, backend=backend)
    for x, y in zip((cost, a, b, f, g), kept, strict=True):
        np.testing.assert_array_equal(x, y)


def test_b_is_scaled_to_the_sum_of_a(backend: str) -> None:
    cost, a, b = some(8, 8, 15)
    for factor in (1 + 9e-7, 1 - 9e-7):
        solution = sinkhorn.solve(cost, a, factor * b, reg=0.1, tol=1e-11, backend=backend)
        assert solution.status == "converged"
        assert solution.plan().sum() == pytest.approx(a.sum(), rel=1e-10)
        check(solution, cost, a, factor * b, 0.1, tol=1e-11)


def test_solutions_outlive_their_inputs(backend: str) -> None:
    """A plan asked for later is of the problem that was solved, as long as the caller leaves its cost alone."""
    import gc

    made = [sinkhorn.solve(np.random.default_rng(k).random((30, 40)), reg=0.1, backend=backend) for k in range(4)]
    gc.collect()
    for k, solution in enumerate(made):
        cost = np.random.default_rng(k).random((30, 40))
        np.testing.assert_allclose(solution.plan(), oracle.plan(cost, solution.f, solution.g, 0.1).astype(float), rtol=1e-11)
