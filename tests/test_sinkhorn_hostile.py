"""Hostile problems for `fastgd.sinkhorn`: always a finite answer whose claims hold, and never a wrong one marked right."""

from __future__ import annotations

import math
import warnings
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import sinkhorn_oracle as oracle
from hypothesis import HealthCheck, example, given, settings
from scipy import optimize
from sinkhorn_oracle import Problem, check, uniform

from fastgd import sinkhorn

pytestmark = pytest.mark.timeout(120)

inf = math.inf
METHODS = ("auto", "sinkhorn", "newton", "sns")
methods = pytest.mark.parametrize("method", METHODS)
GAVE_UP = ("max_iter", "stalled", "infeasible")


def solved(problem: Problem, reg: float, *, tol: float = 1e-9, **kw: Any) -> tuple[Any, np.ndarray]:
    solution = sinkhorn.solve(*problem, reg=reg, tol=tol, **kw)
    p = check(solution, *problem, reg, tol=tol)
    assert solution.status == "converged", (solution.status, solution.error, solution.iterations)
    return solution, p


# ------------------------------------------------------------------------------------------- where other solvers fail


@methods
def test_far_clouds(method: str, backend: str) -> None:
    """min C / reg > 2000: exp(-C / reg) is 0 everywhere."""
    x, y = oracle.cloud_points(100)
    cost = oracle.sqdist(x, y + 5.0)
    problem, reg = Problem(cost, uniform(100), uniform(100)), float(cost.min() / 2100)
    solution, p = solved(problem, reg, method=method, backend=backend)
    assert p.sum() == pytest.approx(1, abs=1e-9)
    near = oracle.newton(oracle.sqdist(x - x.mean(0), y - y.mean(0)), *problem[1:], reg)
    q = oracle.plan(oracle.sqdist(x - x.mean(0), y - y.mean(0)), near.f, near.g, reg).astype(float)
    np.testing.assert_allclose(p, q, rtol=0, atol=1e-7)
    assert solution.cost == pytest.approx((q * cost).sum(), rel=1e-7)


@methods
def test_zero_marginals_in_a_cloud(method: str, backend: str) -> None:
    cost, a, b = oracle.cloud(100)
    rng = np.random.default_rng(1)
    a, b = (np.where(rng.random(100) < 0.3, 0, w) for w in (a, b))
    problem = Problem(cost, a / a.sum(), b / b.sum())
    _, p = solved(problem, 0.02, method=method, backend=backend)
    assert not p[a == 0].any() and not p[:, b == 0].any()


def test_all_mass_in_one_cell(backend: str) -> None:
    cost = np.random.default_rng(2).random((5, 6))
    a, b = np.zeros(5), np.zeros(6)
    a[2] = b[4] = 1.0
    for method in METHODS:
        solution, p = solved(Problem(cost, a, b), 0.1, method=method, backend=backend)
        assert p[2, 4] == pytest.approx(1, abs=1e-9) and np.count_nonzero(p) == 1
        assert solution.cost == pytest.approx(cost[2, 4], abs=1e-9)


@methods
def test_a_zero_row_of_infinite_costs_is_no_row(method: str, backend: str) -> None:
    cost, a, b = oracle.random_problem(np.random.default_rng(3), 7, 8)
    a[1] = b[5] = 0
    b *= a.sum() / b.sum()
    cost[1], cost[:, 5] = inf, inf
    _, p = solved(Problem(cost, a, b), 0.1, method=method, backend=backend)
    assert not p[1].any() and not p[:, 5].any()
    cost[1, :] = cost[:, 5] = 1e300  # nor are huge costs any harm there
    _, q = solved(Problem(cost, a, b), 0.1, method=method, backend=backend)
    np.testing.assert_allclose(q, p, rtol=0, atol=1e-8)


# ------------------------------------------------------------------------------------------------- infinite costs


@methods
def test_rows_and_columns_without_a_finite_cost(method: str, backend: str) -> None:
    for axis in (0, 1):
        cost, a, b = oracle.random_problem(np.random.default_rng(4), 6, 6)
        (cost if axis == 0 else cost.T)[3] = inf
        solution = sinkhorn.solve(cost, a, b, reg=0.1, method=method, max_iter=500, backend=backend)
        check_hopeless(solution, Problem(cost, a, b), 0.1)
        assert solution.status == "infeasible"
    nothing = sinkhorn.solve(np.full((3, 4), inf), reg=0.1, method=method, max_iter=50, backend=backend)
    assert nothing.status == "infeasible" and not nothing.plan().any()


def check_hopeless(solution: Any, problem: Problem, reg: float) -> None:
    """Not converged; the error is honest, so at least what Hall's condition leaves over; nothing is NaN."""
    least = 2 * oracle.unmatched(*problem)
    assert least > 1e-6 and solution.status in GAVE_UP
    assert solution.error >= least * (1 - 1e-9)
    assert not np.isnan(solution.f).any() and not np.isnan(solution.g).any() and not np.isnan(solution.history).any()
    p = solution.plan()
    assert np.isfinite(p).all() and (p >= 0).all() and not p[problem.cost == inf].any()
    assert oracle.l1(p, *problem[1:]) == pytest.approx(solution.error, rel=1e-6, abs=1e-12)
    assert math.isfinite(solution.cost) and not math.isnan(solution.value)


@methods
def test_finite_columns_only_where_there_is_no_mass(method: str, backend: str) -> None:
    """Each row has a finite cost, but row 0 only to a column of mass 0."""
    cost, a, b = oracle.random_problem(np.random.default_rng(5), 5, 6)
    b[2] = 0
    b *= a.sum() / b.sum()
    cost[0] = inf
    cost[0, 2] = 0.5
    solution = sinkhorn.solve(cost, a, b, reg=0.1, method=method, max_iter=500, backend=backend)
    check_hopeless(solution, Problem(cost, a, b), 0.1)
    assert solution.status == "infeasible"


HALL: dict[str, tuple[list[str], list[float], list[float]]] = {
    "two rows, one column": (["#..", "#..", "###"], [0.4, 0.4, 0.2], [0.5, 0.25, 0.25]),
    "a block too small": (["##..", "##..", "####", "####"], [0.4, 0.3, 0.2, 0.1], [0.3, 0.3, 0.2, 0.2]),
    "blocks of other masses": (["##..", "##..", "..##", "..##"], [0.3, 0.3, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25]),
    "a staircase": (["#...", "##..", "###.", "####"], [0.25, 0.25, 0.25, 0.25], [0.2, 0.25, 0.25, 0.3]),
    "a hair too much": (["#.", "##"], [0.5001, 0.4999], [0.5, 0.5]),
    "a diagonal": (["#..", ".#.", "..#"], [0.5, 0.3, 0.2], [0.3, 0.3, 0.4]),
}


def pattern(rows: list[str], seed: int = 0) -> np.ndarray:
    mask = np.array([[c == "#" for c in row] for row in rows])
    return np.where(mask, np.random.default_rng(seed).random(mask.shape), inf)


@methods
@pytest.mark.parametrize("name", HALL)
def test_patterns_that_leave_no_plan(name: str, method: str, backend: str) -> None:
    rows, a, b = HALL[name]
    problem = Problem(pattern(rows), np.array(a), np.array(b))
    for most in (20, 2000):
        solution = sinkhorn.solve(*problem, reg=0.1, method=method, max_iter=most, backend=backend)
        check_hopeless(solution, problem, 0.1)


EXACT: dict[str, tuple[list[str], list[float], list[float]]] = {
    "a diagonal": (["#..", ".#.", "..#"], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]),
    "blocks": (["##..", "##..", "..##", "..##"], [0.3, 0.3, 0.2, 0.2], [0.1, 0.5, 0.25, 0.15]),
    "a tree": (["#..", "##.", ".##"], [0.25, 0.35, 0.4], [0.4, 0.35, 0.25]),
    "a star": (["###", "#..", "#.."], [0.8, 0.1, 0.1], [0.5, 0.3, 0.2]),
}


@methods
@pytest.mark.parametrize("name", EXACT)
def test_patterns_that_leave_a_plan(name: str, method: str, backend: str) -> None:
    rows, a, b = EXACT[name]
    problem = Problem(pattern(rows), np.array(a), np.array(b))
    assert oracle.unmatched(*problem) < 1e-12
    for reg in (1.0, 0.05):
        solution, p = solved(problem, reg, method=method, backend=backend)
        best = oracle.transport(*problem)
        assert solution.cost >= best - 1e-8
        assert (p[problem.cost < inf] > 0).all()


@pytest.mark.parametrize("rows", [["#.", "##"], ["#..", "##.", "###"]], ids=["two", "three"])
def test_patterns_whose_plan_is_on_the_edge(rows: list[str], backend: str) -> None:
    """The only plan is the diagonal, which finite potentials cannot give: errors fall like 1 / k. Slow is not infeasible."""
    n = len(rows)
    problem = Problem(pattern(rows), uniform(n), uniform(n))
    for method in METHODS:
        solution = sinkhorn.solve(*problem, reg=0.1, tol=1e-3, method=method, max_iter=20_000, backend=backend)
        check(solution, *problem, 0.1, tol=1e-3)
        assert solution.status != "infeasible"
        if method == "sinkhorn":
            assert solution.status == "converged"
            np.testing.assert_allclose(np.diag(solution.plan()), 1 / n, atol=1e-3)


def test_infinite_costs_in_float32_and_batches(backend: str) -> None:
    cost = np.where(np.random.default_rng(6).random((2, 9, 9)) < 0.3, inf, 0.5).astype(np.float32)
    cost[:, np.arange(9), np.arange(9)] = 0.25
    for precision in ("float32", "float64"):
        made = sinkhorn.solve_batch(cost, reg=0.1, tol=1e-5, precision=precision, backend=backend)
        for one, solution in zip(cost, made, strict=True):
            assert solution.status == "converged"
            p = check(solution, one, uniform(9), uniform(9), 0.1, tol=1e-5, slack=2e-6)
            assert not p[one == inf].any()


# --------------------------------------------------------------------------------------------- sizes of costs and of reg


@methods
def test_a_huge_reg(method: str, backend: str) -> None:
    problem = oracle.random_problem(np.random.default_rng(7), 8, 5)
    for reg in (1e8, 1e150, 1e300):
        _, p = solved(problem, reg, method=method, backend=backend)
        np.testing.assert_allclose(p, np.outer(problem.a, problem.b), rtol=0, atol=1e-7)


@methods
def test_a_tiny_reg(method: str, backend: str) -> None:
    """C / reg is 1e8: its ulps are 1e-8, below which no marginal can be met; what is claimed must hold all the same."""
    problem = oracle.assign(30, 8)
    rows, columns = optimize.linear_sum_assignment(problem.cost)
    for tol in (1e-4, 1e-12):
        most = 3000 if (backend, method, tol) == ("cpu", "auto", 1e-4) else 60
        solution = sinkhorn.solve(*problem, reg=1e-8, tol=tol, method=method, max_iter=most, backend=backend)
        check(solution, *problem, 1e-8, tol=tol)
        assert np.isfinite(solution.f).all() and np.isfinite(solution.g).all()
        if solution.status == "converged":
            assert solution.cost == pytest.approx(problem.cost[rows, columns].mean(), abs=1e-4)
        if most == 3000:
            assert solution.status == "converged"


@pytest.mark.parametrize("reg", [1e-4, 1e-5, 1e-6, 1e-7])
def test_sweeps_never_run_away(reg: float) -> None:
    """After exact rows P has mass 1, so an error of at most 2; over-relaxation is guarded, however small reg is."""
    problem = oracle.assign(30, 8)
    solution = sinkhorn.solve(*problem, reg=reg, tol=1e-4, method="sinkhorn", max_iter=1000)
    check(solution, *problem, reg, tol=1e-4)
    assert solution.error <= 2 and solution.plan().sum() < 2


@methods
@pytest.mark.parametrize("size", [2.0**-1000, 1e-300, 1e-100, 1e100, 1e300])
def test_sizes_of_costs_do_not_matter(size: float, method: str, backend: str) -> None:
    """C and reg scaled together: the same plan, at any size."""
    problem = oracle.random_problem(np.random.default_rng(9), 9, 7)
    _, p = solved(problem, 0.05, method=method, backend=backend)
    solution = sinkhorn.solve(problem.cost * size, *problem[1:], reg=0.05 * size, tol=1e-9, method=method, backend=backend)
    assert solution.status == "converged"
    np.testing.assert_allclose(solution.plan(), p, rtol=0, atol=1e-8)
    assert solution.cost == pytest.approx(size * (p * problem.cost).sum(), rel=1e-8)


@methods
def test_costs_far_beyond_reg_are_survived(method: str, backend: str) -> None:
    """C / reg up to 1e300, or beyond float64: no NaN, no exception but a refusal, no false claim."""
    cost, a, b = oracle.random_problem(np.random.default_rng(10), 6, 6)
    for size, reg in ((1e15, 1.0), (1e100, 1.0), (1e300, 1.0), (1e300, 1e-10), (1.0, 1e-300), (1.0, 5e-324)):
        try:
            solution = sinkhorn.solve(cost * size, a, b, reg=reg, method=method, max_iter=50, backend=backend)
        except ValueError as error:
            assert "cost" in str(error) or "reg" in str(error)
            continue
        assert not np.isnan(solution.f).any() and not np.isnan(solution.g).any() and not math.isnan(solution.error)
        p = solution.plan()
        assert np.isfinite(p).all() and (p >= 0).all()
        if solution.status == "converged":
            assert oracle.l1(p, a, b) <= 1e-8


@methods
def test_one_huge_cost_among_small_ones(method: str, backend: str) -> None:
    """1e300 in place of +inf: it carries nothing, and the small costs keep their digits."""
    cost, a, b = oracle.random_problem(np.random.default_rng(11), 8, 8)
    cost[2, 3] = inf
    _, p = solved(Problem(cost, a, b), 0.1, method=method, backend=backend)
    for huge in (1e6, 1e30, 1e300, 1.7e308):
        cost[2, 3] = huge
        solution = sinkhorn.solve(cost, a, b, reg=0.1, tol=1e-9, method=method, backend=backend)
        assert solution.status == "converged", huge
        np.testing.assert_allclose(solution.plan(), p, rtol=0, atol=1e-8)
        assert solution.cost == pytest.approx((p * np.where(cost < 1e5, cost, 0)).sum(), abs=1e-8)


@methods
def test_negative_and_offset_costs(method: str, backend: str) -> None:
    problem = oracle.random_problem(np.random.default_rng(12), 9, 6)
    _, p = solved(problem, 0.05, method=method, backend=backend)
    for offset in (-1.0, -1e3, 1e3):
        solution, q = solved(Problem(problem.cost + offset, *problem[1:]), 0.05, tol=1e-8, method=method, backend=backend)
        np.testing.assert_allclose(q, p, rtol=0, atol=1e-6)
        assert solution.cost == pytest.approx(offset + (p * problem.cost).sum(), abs=1e-6)


def test_equal_costs(backend: str) -> None:
    for value in (0.0, -3.0, 1e9):
        for method in METHODS:
            _, p = solved(Problem(np.full((6, 4), value), uniform(6), uniform(4)), 0.5, tol=1e-6, method=method, backend=backend)
            np.testing.assert_allclose(p, 1 / 24, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------- masses


@methods
def test_tiny_masses(method: str, backend: str) -> None:
    """Masses of 1e-300 and subnormal ones keep finite potentials, reg log of the mass apart from the others."""
    cost, a, b = oracle.random_problem(np.random.default_rng(13), 10, 12)
    a[[1, 6]], b[[0, 11]] = (1e-300, 5e-324), (1e-200, 1e-310)
    b *= a.sum() / b.sum()
    b[[0, 11]] = 1e-200, 1e-310
    solution, p = solved(Problem(cost, a, b), 0.1, method=method, backend=backend)
    assert np.isfinite(solution.f).all() and np.isfinite(solution.g).all()
    assert p[[1, 6]].sum() <= 1e-9 and p[:, [0, 11]].sum() <= 1e-9
    assert solution.f[1] < solution.f[0] - 0.1 * 300 and solution.g[0] < solution.g[1] - 0.1 * 200


@methods
@pytest.mark.parametrize("mass", [1e-12, 1e-6, 1e6, 1e12])
def test_total_masses(mass: float, method: str, backend: str) -> None:
    """The tolerance is absolute: asked for what float64 can give, any total converges; asked for more, it says so."""
    problem = oracle.random_problem(np.random.default_rng(14), 12, 10)
    _, p = solved(problem, 0.1, method=method, backend=backend)
    heavy = Problem(problem.cost, mass * problem.a, mass * problem.b)
    _, q = solved(heavy, 0.1, tol=1e-9 * mass, method=method, backend=backend)
    np.testing.assert_allclose(q / mass, p, rtol=0, atol=1e-8)
    if mass > 1:
        solution = sinkhorn.solve(*heavy, reg=0.1, tol=1e-18 * mass, method=method, max_iter=2000, backend=backend)
        check(solution, *heavy, 0.1, tol=1e-18 * mass)
        assert solution.status in ("stalled", "max_iter")


@methods
def test_steep_marginals(method: str, backend: str) -> None:
    """Masses over 12 decades on a grid, small reg: where a cold Newton diverges."""
    n = 40
    x = np.linspace(0, 1, n)
    a, b = 10.0 ** (-12 * x), 10.0 ** (-12 * x[::-1])
    problem = Problem((x[:, None] - x) ** 2, a / a.sum(), b / b.sum())
    solution = sinkhorn.solve(*problem, reg=2e-3, tol=1e-9, method=method, max_iter=20_000, backend=backend)
    check(solution, *problem, 2e-3, tol=1e-9)
    if method in ("auto", "newton"):
        assert solution.status == "converged"
    assert solution.error < 0.1


def test_no_mass_at_all_is_refused_or_nothing(backend: str) -> None:
    cost = np.ones((3, 4))
    try:
        solution = sinkhorn.solve(cost, np.zeros(3), np.zeros(4), reg=0.1, backend=backend)
    except ValueError as error:
        assert "a" in str(error).split() or "b" in str(error).split()
        return
    assert solution.error == 0 and solution.cost == 0 and not solution.plan().any() and not np.isnan(solution.value)


# ---------------------------------------------------------------------------------------------------------------- shapes


@methods
@pytest.mark.parametrize("n, m", [(1, 1), (1, 2), (1, 17), (2, 1), (17, 1), (1, 1000), (1000, 1), (2, 2), (3, 129), (129, 3)])
def test_thin_problems(n: int, m: int, method: str, backend: str) -> None:
    problem = oracle.random_problem(np.random.default_rng(n + m), n, m)
    for reg in (0.01, 1.0) if min(n, m) == 1 else (0.1, 1.0):
        solution, p = solved(problem, reg, tol=1e-10, method=method, backend=backend)
        if min(n, m) == 1:
            np.testing.assert_allclose(p, np.outer(problem.a, problem.b), rtol=0, atol=1e-10)
            assert len(solution.history) < 200


@pytest.mark.parametrize("m", [7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65])
def test_widths_around_the_lanes(m: int, backend: str) -> None:
    """The last columns of a row carry +inf, no mass or the most, whatever the width of the vectors."""
    cost, a, b = oracle.random_problem(np.random.default_rng(m), 11, m)
    for change in range(3):
        c, w = cost.copy(), b.copy()
        if change == 0:
            c[::2, -1] = inf
        w[-1] = (0.5 * a[1], 0.0, 3.0)[change]
        w *= a.sum() / w.sum()
        for stored in (c, c.astype(np.float32)):
            solution = sinkhorn.solve(stored, a, w, reg=0.1, tol=1e-10, backend=backend)
            assert solution.status == "converged"
            p = check(solution, stored, a, w, 0.1, tol=1e-10)
            np.testing.assert_allclose(solution.plan(), p, rtol=1e-11, atol=0)
            np.testing.assert_allclose(solution.apply(np.arange(m) * 1.0), p @ np.arange(m), rtol=1e-12)
        single = sinkhorn.solve(c.astype(np.float32), a, w, reg=0.1, tol=1e-5, precision="float32", backend=backend)
        assert single.status == "converged"
        check(single, c.astype(np.float32), a, w, 0.1, tol=1e-5, slack=2e-6)


# ------------------------------------------------------------------------------------------------------------ everything


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, float]:
    n, m = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cost = rng.random((n, m)) * 10.0 ** draw(st.integers(-2, 2))
    if draw(st.booleans()):
        cost = np.round(cost, 1)  # ties
    if draw(st.booleans()):
        cost[rng.random((n, m)) < draw(st.sampled_from([0.1, 0.5, 0.8]))] = inf
    if draw(st.booleans()):
        cost = cost.astype(np.float32)
    a, b = (rng.dirichlet(np.full(size, draw(st.sampled_from([0.05, 1.0, 50.0])))) for size in (n, m))
    for w in (a, b):
        if draw(st.booleans()):
            w[rng.random(len(w)) < 0.3] = draw(st.sampled_from([0.0, 1e-300, 1e-9]))
            if not w.any():
                w[0] = 1.0
    mass = draw(st.sampled_from([1.0, 1e-3, 40.0]))
    a, b = a * (mass / a.sum()), b * (mass / b.sum())
    return Problem(cost, a, b), 10.0 ** draw(st.floats(-3, 2))


EASY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@methods
@EASY
@given(case=problems(), tol=st.sampled_from([1e-3, 1e-9]), most=st.sampled_from([0, 1, 25, 400]))
def test_what_is_claimed_holds(method: str, case: tuple[Problem, float], tol: float, most: int) -> None:
    (cost, a, b), reg = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = sinkhorn.solve(cost, a, b, reg=reg, tol=tol, max_iter=most, method=method)
    assert solution.iterations["sweeps"] + solution.iterations["newton"] == len(solution.history) <= most
    assert np.isfinite(solution.history).all()
    p = check(solution, cost, a, b, reg, tol=tol)
    size = max(np.abs(w[np.isfinite(w)]).max(initial=0) for w in (solution.f, solution.g)) / reg
    if size < 1e4:  # beyond, as where no plan exists, an exponent's ulps are all
        np.testing.assert_allclose(solution.plan(), p, rtol=1e-8, atol=1e-280)
    if solution.status == "infeasible":
        assert oracle.unmatched(cost, a, b) > 1e-15 * a.sum() or _has_dead_line(Problem(cost, a, b))
    elif solution.status == "converged":
        assert 2 * oracle.unmatched(cost, a, b) <= tol * (1 + 1e-6) + 1e-14


def _has_dead_line(problem: Problem) -> bool:
    """A row or column of any mass, however small, without a finite cost to a side of some mass."""
    open_to = np.isfinite(problem.cost) & np.outer(problem.a > 0, problem.b > 0)
    return bool((~open_to.any(1) & (problem.a > 0)).any() or (~open_to.any(0) & (problem.b > 0)).any())


@EASY
@given(case=problems(), rho=st.sampled_from([0.01, 1.0, (0.1, 10.0)]), most=st.sampled_from([0, 3, 500]))
@example(case=(Problem(np.array([[inf]]), np.array([1.0]), np.array([1.0])), 1.0), rho=1.0, most=10)
def test_penalised_claims_hold(case: tuple[Problem, float], rho: Any, most: int) -> None:
    (cost, a, b), reg = case
    both = rho if isinstance(rho, tuple) else (rho, rho)
    solution = sinkhorn.solve(cost, a, 2 * b, reg=reg, tol=1e-8, max_iter=most, marginal_penalty=rho)
    assert not np.isnan(solution.f).any() and not np.isnan(solution.g).any()
    assert np.isfinite(solution.history).all() and solution.status in ("converged", "max_iter", "stalled", "infeasible")
    p = solution.plan()
    assert np.isfinite(p).all() and (p >= 0).all()
    if solution.status == "converged":
        units = 1 + max(1 / reg, reg) * (1 + 1 / min(both))  # the contract leaves the residual's
        assert oracle.residual(cost, solution.f, solution.g, a, 2 * b, reg, both) <= 1e-7 * units
        assert solution.value == pytest.approx(oracle.value(cost, p, reg, a, 2 * b, both), rel=1e-6, abs=1e-9)


@EASY
@given(case=problems())
def test_backends_and_precisions_agree(case: tuple[Problem, float]) -> None:
    """The C kernels and the reference end at the same plan; single precision near it."""
    (cost, a, b), reg = case
    reg = max(reg, 0.02 * float(np.abs(cost[np.isfinite(cost)]).max(initial=0.0)) + 0.01)
    one, two = (sinkhorn.solve(cost, a, b, reg=reg, tol=1e-10, max_iter=500, backend=backend) for backend in ("cpu", "reference"))
    if one.status == two.status == "converged":
        np.testing.assert_allclose(one.plan(), two.plan(), rtol=0, atol=1e-5 * a.sum())
        single = sinkhorn.solve(cost, a, b, reg=reg, tol=1e-4 * a.sum(), max_iter=500, precision="float32")
        assert single.status == "converged"
        check(single, cost, a, b, reg, tol=1e-4 * a.sum(), slack=1e-5 * a.sum())
    assert ("infeasible" in (one.status, two.status)) <= (one.status == two.status)
