"""The plans of `fastgd.sinkhorn` against closed forms, linear programs, identities, derivatives and limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sinkhorn_oracle as oracle
from scipy import optimize
from sinkhorn_oracle import Problem, check, uniform

from fastgd import sinkhorn

pytestmark = pytest.mark.timeout(120)

inf = math.inf
METHODS = ("auto", "sinkhorn", "newton", "sns")
methods = pytest.mark.parametrize("method", METHODS)


def solved(problem: Problem, reg: float, *, tol: float = 1e-12, **kw: Any) -> tuple[Any, np.ndarray]:
    """A converged solution, all of whose claims hold, and its plan."""
    solution = sinkhorn.solve(*problem, reg=reg, tol=tol, **kw)
    assert solution.status == "converged", (solution.status, solution.error, solution.iterations)
    return solution, check(solution, *problem, reg, tol=tol)


# ------------------------------------------------------------------------------------------------------------- 2 x 2

TWO = Problem(np.array([[0.1, 0.7], [0.9, 0.2]]), np.array([0.3, 0.7]), np.array([0.6, 0.4]))


@methods
def test_two_by_two(method: str, backend: str) -> None:
    _, p = solved(TWO, 0.2, tol=1e-14, method=method, backend=backend)
    assert p[0, 0] == pytest.approx(0.299401912994427, abs=1e-13)
    np.testing.assert_allclose(p, oracle.two_by_two(*TWO, 0.2), rtol=0, atol=1e-13)


@methods
@pytest.mark.parametrize("reg", [0.03, 0.1, 1.0, 30.0])
def test_a_symmetric_two_by_two(method: str, reg: float, backend: str) -> None:
    problem = Problem(np.array([[0.0, 1.0], [1.0, 0.0]]), uniform(2), uniform(2))
    solution, p = solved(problem, reg, method=method, backend=backend)
    half = 0.5 / (1 + math.exp(-1 / reg))
    np.testing.assert_allclose(p, [[half, 0.5 - half], [0.5 - half, half]], rtol=1e-11, atol=2e-12)
    assert solution.cost == pytest.approx(1 - 2 * half, rel=1e-11)


def test_any_two_by_two(backend: str) -> None:
    rng = np.random.default_rng(8)
    for _ in range(30):
        a, b = rng.dirichlet((0.7, 0.7)), rng.dirichlet((0.7, 0.7))
        problem, reg = Problem(rng.standard_normal((2, 2)), a, b * (a.sum() / b.sum())), float(10 ** rng.uniform(-0.5, 1.5))
        _, p = solved(problem, reg, tol=1e-13, backend=backend)
        np.testing.assert_allclose(p, oracle.two_by_two(*problem, reg), rtol=0, atol=2e-12)


def test_rank_one_kernels_have_the_independent_plan(backend: str) -> None:
    """C = alpha + beta: P = ab' at every reg, after one sweep."""
    rng = np.random.default_rng(4)
    _, a, b = oracle.random_problem(rng, 7, 11)
    cost = 5 * rng.standard_normal((7, 1)) + 5 * rng.standard_normal(11)
    for reg in (0.05, 1.0, 1e3):
        solution, p = solved(Problem(cost, a, b), reg, backend=backend)
        np.testing.assert_allclose(p, np.outer(a, b), rtol=1e-10)
        assert solution.cost == pytest.approx(np.outer(a, b).ravel() @ cost.ravel(), rel=1e-10)


# --------------------------------------------------------------------------------------------------------- Gaussians


def test_gaussians_have_a_gaussian_plan(backend: str) -> None:
    means, (va, vb), reg = (0.3, -0.2), (1.0, 2.25), 0.5
    problem = oracle.gaussians(160, 200, means, (va, vb))
    solution, p = solved(problem, reg, method="sinkhorn", backend=backend)
    c = -reg / 4 + math.sqrt(reg**2 / 16 + va * vb)
    assert solution.cost == pytest.approx((means[0] - means[1]) ** 2 + va + vb - 2 * c, abs=1e-10)
    assert solution.cost == pytest.approx(0.73960135530, abs=1e-10)
    x, y = (mean + 8 * math.sqrt(v) * np.linspace(-1, 1, n) for mean, v, n in zip(means, (va, vb), (160, 200), strict=True))
    assert (x - means[0]) @ p @ (y - means[1]) == pytest.approx(c, abs=1e-10)
    assert (x - means[0]) ** 3 @ p @ (y - means[1]) == pytest.approx(3 * va * c, abs=1e-9)
    # the potentials are the parabolas 1 - B / c and 1 - A / c, where there is mass
    for points, mean, potential, other in ((x, means[0], solution.f, vb), (y, means[1], solution.g, va)):
        inside = np.abs(points - mean) < 3
        bend = np.diff(potential[inside], 2) / (points[1] - points[0]) ** 2
        np.testing.assert_allclose(bend, 2 * (1 - other / c), atol=1e-5)


def test_sinkhorn_contracts_at_its_exact_rate(backend: str) -> None:
    """Single sweeps, each from the last: the ratio of their errors tends to c^2 / (AB) = sigma_2^2 of the scaled plan.

    A whole run may over-relax, so it needs no more sweeps than this rate says.
    """
    va, vb, reg = 1.0, 2.25, 0.5
    problem = oracle.gaussians(160, 200, (0.3, -0.2), (va, vb))
    solution, p = solved(problem, reg, method="sinkhorn", backend=backend)
    c = -reg / 4 + math.sqrt(reg**2 / 16 + va * vb)
    rate = c * c / (va * vb)
    assert oracle.rate(p, problem.a, problem.b) == pytest.approx(rate, abs=1e-9)
    assert solution.iterations["sweeps"] <= 50 + math.log(1e-12) / math.log(rate)
    errors, last = [], (np.zeros(160), np.zeros(200))
    for _ in range(70):
        last = sinkhorn.solve(*problem, reg=reg, tol=1e-13, method="sinkhorn", max_iter=1, init=last, backend=backend)
        errors.append(last.error)
    np.testing.assert_allclose(np.divide(errors[-20:], errors[-21:-1]), rate, atol=1e-5)


# --------------------------------------------------------------------------------------------------- reference costs

REFERENCE: dict[str, tuple[Any, float, float]] = {
    "assign 500": (lambda: oracle.assign(500), 1 / 1200, 0.003450413),
    "assign 1000": (lambda: oracle.assign(1000), 1 / 1200, 0.001950955),
    "cloud 0.01": (lambda: oracle.cloud(1000), 0.01, 0.028028934),
    "cloud 0.001": (lambda: oracle.cloud(1000), 0.001, 0.019972196),
    "cloudw 0.02": (lambda: oracle.cloudw(1000), 0.02, 0.05897803),
    "grid2 0.001": (lambda: oracle.grid(32, 2), 0.001, 0.049214916),
    "grid1 0.002": (lambda: oracle.grid(32, 1), 0.002, 0.154267230),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_costs(name: str) -> None:
    make, reg, cost = REFERENCE[name]
    problem = make()
    solution = sinkhorn.solve(*problem, reg=reg, tol=1e-9)
    assert solution.status == "converged" and solution.error <= 1e-9
    assert solution.cost == pytest.approx(cost, abs=2e-9 if name != "cloudw 0.02" else 1e-8)
    p = np.exp((solution.f[:, None] + solution.g - problem.cost) / reg)
    assert np.abs(p.sum(1) - problem.a).sum() + np.abs(p.sum(0) - problem.b).sum() <= 1.001e-9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sparse_newton_takes_few_steps_on_hard_assignments(seed: int) -> None:
    """Plain Sinkhorn needs 20 000 to 40 000 iterations here; the paper's method 9 steps after 20 sweeps."""
    problem = oracle.assign(500, seed)
    solution = sinkhorn.solve(*problem, reg=1 / 1200, method="sns", tol=1e-11)
    assert solution.status == "converged" and solution.iterations["newton"] <= 10
    newton = sinkhorn.solve(*problem, reg=1 / 1200, method="newton", tol=1e-11)
    assert newton.status == "converged" and newton.iterations["newton"] <= 15
    assert newton.cost == pytest.approx(solution.cost, abs=1e-10)


# --------------------------------------------------------------------------------------------------------- identities

SHAPES = [(1, 1), (1, 6), (6, 1), (2, 3), (8, 8), (17, 9), (16, 33)]


@methods
@pytest.mark.parametrize("n, m", SHAPES)
def test_every_method_has_the_same_plan(n: int, m: int, method: str, backend: str) -> None:
    rng = np.random.default_rng(n * 100 + m)
    problem, reg = oracle.random_problem(rng, n, m), 0.07
    solution, p = solved(problem, reg, tol=1e-11, method=method, backend=backend)
    best = oracle.newton(*problem, reg)
    np.testing.assert_allclose(p, oracle.plan(problem.cost, best.f, best.g, reg).astype(float), rtol=0, atol=2e-9)
    np.testing.assert_allclose(solution.f - solution.f[0], best.f - best.f[0], atol=1e-6)
    dual = problem.a @ solution.f + problem.b @ solution.g - reg * p.sum()
    assert solution.value == pytest.approx(dual, abs=1e-10)  # no duality gap
    assert solution.value == pytest.approx(oracle.value(problem.cost, p, reg), abs=1e-13)


@pytest.mark.parametrize("reg", [0.02, 0.3])
def test_the_dual_is_never_above_the_primal(reg: float, backend: str) -> None:
    """Weak duality on the way: a.f + b.g - reg sum P grows to the optimal value as the sweeps go on."""
    problem = oracle.random_problem(np.random.default_rng(6), 20, 15)
    best = solved(problem, reg, backend=backend)[0].value
    last, start = -inf, (np.zeros(20), np.zeros(15))
    for sweeps in (1, 2, 5, 20, 80):
        stopped = sinkhorn.solve(*problem, reg=reg, method="sinkhorn", max_iter=sweeps, tol=1e-13, init=start, backend=backend)
        p = oracle.plan(problem.cost, stopped.f, stopped.g, reg).astype(float)
        dual = problem.a @ stopped.f + problem.b @ stopped.g - reg * p.sum()
        assert last - 1e-12 <= dual <= best + 1e-12
        last = dual


@methods
def test_permutations_and_transposition(method: str, backend: str) -> None:
    rng = np.random.default_rng(12)
    problem, reg = oracle.random_problem(rng, 13, 21), 0.06
    cost, a, b = problem
    solution, p = solved(problem, reg, method=method, backend=backend)
    rows, columns = rng.permutation(13), rng.permutation(21)
    moved, q = solved(Problem(cost[rows][:, columns], a[rows], b[columns]), reg, method=method, backend=backend)
    np.testing.assert_allclose(q, p[rows][:, columns], rtol=0, atol=1e-10)
    assert moved.value == pytest.approx(solution.value, abs=1e-11)
    _, q = solved(Problem(cost.T.copy(), b, a), reg, method=method, backend=backend)
    np.testing.assert_allclose(q, p.T, rtol=0, atol=1e-10)


@methods
def test_shifts_and_scales(method: str, backend: str) -> None:
    """C + alpha + beta moves the potentials alone; C and reg scaled together scale them; so do masses, up to reg log s."""
    rng = np.random.default_rng(13)
    problem, reg = oracle.random_problem(rng, 12, 9), 0.05
    cost, a, b = problem
    solution, p = solved(problem, reg, method=method, backend=backend)
    alpha, beta = rng.standard_normal(12), 10 * rng.standard_normal(9)
    moved, q = solved(Problem(cost + alpha[:, None] + beta, a, b), reg, method=method, backend=backend)
    np.testing.assert_allclose(q, p, rtol=0, atol=1e-10)
    shift = (moved.f - solution.f - alpha)[0]
    np.testing.assert_allclose(moved.f - solution.f, alpha + shift, atol=1e-8)
    np.testing.assert_allclose(moved.g - solution.g, beta - shift, atol=1e-8)
    assert moved.value == pytest.approx(solution.value + a @ alpha + b @ beta, abs=1e-9)
    for k in (-40, 3, 40):
        scaled, q = solved(Problem(cost * 2.0**k, a, b), reg * 2.0**k, method=method, backend=backend)
        np.testing.assert_allclose(q, p, rtol=0, atol=1e-10)
        assert scaled.cost == pytest.approx(solution.cost * 2.0**k, rel=1e-9)
    heavy = sinkhorn.solve(cost, 64 * a, 64 * b, reg=reg, tol=1e-10, method=method, backend=backend)
    assert heavy.status == "converged"
    np.testing.assert_allclose(heavy.plan(), 64 * p, rtol=0, atol=1e-8)
    total = heavy.f[0] + heavy.g[0] - solution.f[0] - solution.g[0]
    assert total == pytest.approx(reg * math.log(64), abs=1e-8)


# ------------------------------------------------------------------------------------------------------- derivatives


@methods
def test_the_plan_is_the_derivative_in_the_cost(method: str, backend: str) -> None:
    rng = np.random.default_rng(21)
    problem, reg, h = oracle.random_problem(rng, 6, 8), 0.1, 1e-5
    cost, a, b = problem
    _, p = solved(problem, reg, tol=1e-13, method=method, backend=backend)
    for i, j in ((0, 0), (3, 5), (5, 7)):
        step = np.zeros_like(cost)
        step[i, j] = h
        moved = (sinkhorn.solve(cost + s * step, a, b, reg=reg, tol=1e-12, method=method, backend=backend) for s in (1, -1))
        up, down = (solution.value for solution in moved)
        assert (up - down) / (2 * h) == pytest.approx(p[i, j], abs=1e-7)


@methods
def test_the_potentials_are_the_derivative_in_the_marginals(method: str, backend: str) -> None:
    """Mass from one row (column) to another, and all masses together: d value / d log s = a.f + b.g."""
    rng = np.random.default_rng(22)
    problem, reg, h = oracle.random_problem(rng, 6, 8), 0.1, 1e-6
    cost, a, b = problem

    def value(a: np.ndarray, b: np.ndarray) -> float:
        return sinkhorn.solve(cost, a, b, reg=reg, tol=1e-13, method=method, backend=backend).value

    solution, _ = solved(problem, reg, method=method, backend=backend)
    step = np.zeros(6)
    step[[1, 4]] = h, -h
    assert (value(a + step, b) - value(a - step, b)) / (2 * h) == pytest.approx(solution.f[1] - solution.f[4], abs=1e-6)
    step = np.zeros(8)
    step[[0, 7]] = h, -h
    assert (value(a, b + step) - value(a, b - step)) / (2 * h) == pytest.approx(solution.g[0] - solution.g[7], abs=1e-6)
    slope = (value(a * (1 + h), b * (1 + h)) - value(a * (1 - h), b * (1 - h))) / (2 * h)
    assert slope == pytest.approx(a @ solution.f + b @ solution.g, abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize("method", ("auto", "newton"))
@pytest.mark.parametrize("reg", [1e-2, 1e-3, 1e-4])
def test_small_reg_approaches_the_assignment(reg: float, method: str, backend: str) -> None:
    problem = oracle.assign(40, 5)
    rows, columns = optimize.linear_sum_assignment(problem.cost)
    best = problem.cost[rows, columns].mean()
    solution, p = solved(problem, reg, tol=1e-9, method=method, backend=backend)
    assert best - 1e-9 <= solution.cost <= best + reg * math.log(40)
    if reg == 1e-4:
        assert (p.argmax(1)[rows] == columns).all() and p.max(1).min() * 40 > 0.9


@pytest.mark.parametrize("reg", [1e-2, 1e-3])
def test_small_reg_approaches_the_linear_program(reg: float, backend: str) -> None:
    problem = oracle.random_problem(np.random.default_rng(31), 14, 23)
    best = oracle.transport(*problem)
    solution, _ = solved(problem, reg, tol=1e-9, backend=backend)
    assert best - 1e-9 <= solution.cost <= best + reg * math.log(23 * 14)


@methods
def test_large_reg_approaches_the_independent_plan(method: str, backend: str) -> None:
    problem = oracle.random_problem(np.random.default_rng(32), 9, 14)
    for reg in (1e2, 1e4, 1e8):
        solution, p = solved(problem, reg, method=method, backend=backend)
        independent = np.outer(problem.a, problem.b)
        np.testing.assert_allclose(p, independent, rtol=2.1 * np.ptp(problem.cost) / reg + 1e-7)
        assert solution.cost == pytest.approx((independent * problem.cost).sum(), rel=2.1 * np.ptp(problem.cost) / reg + 1e-7)


def test_the_cost_falls_with_reg_and_the_entropy_too(backend: str) -> None:
    problem = oracle.random_problem(np.random.default_rng(33), 10, 10)
    found = [solved(problem, reg, tol=1e-10, backend=backend) for reg in (0.01, 0.03, 0.1, 0.3, 1.0, 10.0)]
    costs, entropies = [s.cost for s, _ in found], [-oracle.entropy(p) for _, p in found]
    assert costs == sorted(costs) and entropies == sorted(entropies)


# ------------------------------------------------------------------------------------------------------ second order


@pytest.mark.parametrize("make, reg", [(oracle.assign, 1 / 600), (oracle.cloud, 2e-3)], ids=["assign", "cloud"])
def test_newton_converges_quadratically(make: Any, reg: float, backend: str) -> None:
    """The mass that is dropped falls with the error, so the last steps square it: 0.1 to 1e-11 in a few of them."""
    problem = make(120)
    solution, _ = solved(problem, reg, tol=1e-11, method="newton", backend=backend)
    assert 0 < solution.iterations["newton"] <= 20
    history = solution.history
    assert (history[-solution.iterations["newton"] :] < 0.1).sum() <= 15
    assert history[-1] < history[-2] ** 1.2 or history[-2] < 1e-9
    plain = sinkhorn.solve(*problem, reg=reg, tol=1e-11, method="sinkhorn", max_iter=200, backend=backend)
    assert plain.status == "max_iter"  # and sweeps alone are far from it


def test_the_semi_dual_has_sinkhorns_spectrum(backend: str) -> None:
    """S = diag(b) - P' diag(1/a) P >= 0, S 1 = 0; by Jacobi its eigenvalues are 1 - sigma^2 of the scaled plan."""
    problem = oracle.random_problem(np.random.default_rng(41), 12, 17)
    solution, p = solved(problem, 0.1, tol=1e-13, backend=backend)
    a, b = problem.a, problem.b
    ones = np.eye(17)
    products = np.stack([solution.apply_transpose(solution.apply(e) / a) for e in ones], 1)
    semi = np.diag(b) - products
    np.testing.assert_allclose(semi.sum(1), 0, atol=1e-12)
    spectrum = np.linalg.eigvalsh(semi / np.sqrt(np.outer(b, b)))
    sigma = np.linalg.svd(p / np.sqrt(np.outer(a, b)), compute_uv=False)
    np.testing.assert_allclose(spectrum[:12], np.sort(1 - sigma**2), atol=1e-10)
    np.testing.assert_allclose(spectrum[12:], 1, atol=1e-10)


# ------------------------------------------------------------------------------------------------- zeros and blocks


@methods
def test_zero_marginals_are_as_if_they_were_not_there(method: str, backend: str) -> None:
    rng = np.random.default_rng(51)
    cost, a, b = oracle.random_problem(rng, 9, 12)
    some_rows, some_columns = np.array([0, 2, 3, 7]), np.array([1, 4, 5, 8, 10])
    a, b = np.where(np.isin(np.arange(9), some_rows), a, 0), np.where(np.isin(np.arange(12), some_columns), b, 0)
    b *= a.sum() / b.sum()
    solution, p = solved(Problem(cost, a, b), 0.08, method=method, backend=backend)
    block = np.ix_(some_rows, some_columns)
    _, small = solved(Problem(cost[block], a[some_rows], b[some_columns]), 0.08, method=method, backend=backend)
    np.testing.assert_allclose(p[block], small, rtol=0, atol=1e-10)
    p[block] = 0
    assert not p.any()
    assert np.isfinite(solution.f[some_rows]).all() and np.isfinite(solution.g[some_columns]).all()


@methods
def test_infinite_costs_carry_nothing(method: str, backend: str) -> None:
    """Blocks joined by +inf are separate problems; large finite costs are the limit."""
    rng = np.random.default_rng(52)
    one, two = oracle.random_problem(rng, 5, 7), oracle.random_problem(rng, 6, 4)
    cost = np.full((11, 11), inf)
    cost[:5, :7], cost[5:, 7:] = one.cost, two.cost
    joined = Problem(cost, np.r_[one.a, 2 * two.a], np.r_[one.b, 2 * two.b])
    solution, p = solved(joined, 0.1, method=method, backend=backend)
    assert not p[:5, 7:].any() and not p[5:, :7].any()
    best = oracle.newton(*one, 0.1), oracle.newton(*two, 0.1)
    np.testing.assert_allclose(p[:5, :7], oracle.plan(one.cost, *best[0][:2], 0.1).astype(float), rtol=0, atol=1e-10)
    np.testing.assert_allclose(p[5:, 7:], 2 * oracle.plan(two.cost, *best[1][:2], 0.1).astype(float), rtol=0, atol=1e-10)
    assert math.isfinite(solution.cost) and math.isfinite(solution.value)
    far = Problem(np.where(np.isfinite(cost), cost, 100.0), joined.a, joined.b)
    np.testing.assert_allclose(solved(far, 0.1, method=method, tol=1e-10, backend=backend)[1], p, rtol=0, atol=1e-8)


def test_a_third_of_the_costs_infinite(backend: str) -> None:
    rng = np.random.default_rng(53)
    cost = np.where(rng.random((40, 40)) < 0.3, inf, rng.random((40, 40)))
    for reg in (0.5, 0.05, 0.01):
        solution, p = solved(Problem(cost, uniform(40), uniform(40)), reg, tol=1e-9, backend=backend)
        assert not p[cost == inf].any()
        assert (solution.plan()[cost == inf] == 0).all()
        best = oracle.transport(cost, uniform(40), uniform(40))
        assert best - 1e-8 <= solution.cost <= best + reg * math.log(40)
