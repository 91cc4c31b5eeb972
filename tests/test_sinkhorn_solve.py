"""The public solvers: closed forms, statuses, symmetries, starts, plans, batches, threads, pickling."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

import fastgd
from fastgd import sinkhorn

METHODS = ("auto", "sinkhorn", "newton", "sns")
methods = pytest.mark.parametrize("method", METHODS)


def problem(n: int = 20, m: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((n, m)), rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))


def plan_of(solution: Any, cost: np.ndarray, reg: float) -> np.ndarray:
    return np.exp((solution.f[:, None] + solution.g[None, :] - cost) / reg)


def error_of(plan: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum())


@methods
def test_two_by_two(method: str, backend: str) -> None:
    """p = P_11 solves p (1 - a - b + p) = k (a - p) (b - p)."""
    cost, a, b = np.array([[0.1, 0.7], [0.9, 0.2]]), np.array([0.3, 0.7]), np.array([0.6, 0.4])
    solution = sinkhorn.solve(cost, a, b, reg=0.2, tol=1e-14, method=method, backend=backend)
    assert abs(solution.plan()[0, 0] - 0.299401912994427) <= 1e-12


def test_gaussians(backend: str) -> None:
    """From N(0.3, 1) to N(-0.2, 2.25), reg 0.5: a Gaussian of covariance c, where plain Sinkhorn contracts by c^2 / (AB)."""
    x, y = np.linspace(-8, 8, 150), np.linspace(-12, 12, 160)
    a, b = np.exp(-((x - 0.3) ** 2) / 2), np.exp(-((y + 0.2) ** 2) / 4.5)
    a, b = a / a.sum(), b / b.sum()
    cost = (x[:, None] - y) ** 2
    solution = sinkhorn.solve(cost, a, b, reg=0.5, tol=1e-11, backend=backend)
    p = solution.plan()
    covariance = -0.125 + math.sqrt(0.0625 / 4 + 2.25)
    assert abs(((x - 0.3)[:, None] * (y + 0.2) * p).sum() - covariance) <= 1e-8
    assert abs(solution.cost - (0.25 + 3.25 - 2 * covariance)) <= 1e-8
    points = sinkhorn.solve_points(x[:, None], y[:, None], a, b, reg=0.5, tol=1e-11, backend=backend)
    assert np.abs(points.plan() - p).max() <= 1e-10


@methods
def test_error_and_duality(method: str, backend: str) -> None:
    cost, a, b = problem()
    solution = sinkhorn.solve(cost, a, b, reg=0.03, method=method, backend=backend)
    p = plan_of(solution, cost, 0.03)
    assert solution.status == "converged" and solution.error <= 1e-9
    assert abs(error_of(p, a, b) - solution.error) <= 1e-13
    assert abs(b @ solution.g) <= 1e-12
    assert len(solution.history) == solution.iterations["sweeps"] + solution.iterations["newton"]
    assert solution.value == pytest.approx((p * cost).sum() + 0.03 * (p * (np.log(p) - 1)).sum(), rel=1e-12)
    assert solution.value == pytest.approx(a @ solution.f + b @ solution.g - 0.03 * p.sum(), rel=1e-8)


def test_envelope_gradients(backend: str) -> None:
    cost, a, b = problem(6, 5)
    solution = sinkhorn.solve(cost, a, b, reg=0.2, tol=1e-13, backend=backend)
    rng = np.random.default_rng(1)
    dc, da = rng.standard_normal(cost.shape), rng.standard_normal(6) * a
    da -= da.mean()

    def value(t: float, s: float) -> float:
        return sinkhorn.solve(cost + t * dc, a + s * da, b, reg=0.2, tol=1e-13, backend=backend).value

    assert (value(1e-5, 0) - value(-1e-5, 0)) / 2e-5 == pytest.approx((dc * solution.plan()).sum(), rel=1e-6)
    assert (value(0, 1e-4) - value(0, -1e-4)) / 2e-4 == pytest.approx(da @ solution.f, rel=1e-5)


@methods
def test_permutations_and_shifts(method: str, backend: str) -> None:
    cost, a, b = problem()
    p = sinkhorn.solve(cost, a, b, reg=0.05, tol=1e-12, method=method, backend=backend).plan()
    rng = np.random.default_rng(2)
    i, j = rng.permutation(20), rng.permutation(24)
    moved = cost[np.ix_(i, j)] + rng.random(20)[:, None] + rng.random(24)
    other = sinkhorn.solve(moved, a[i], b[j], reg=0.05, tol=1e-12, method=method, backend=backend).plan()
    assert np.abs(other - p[np.ix_(i, j)]).max() <= 1e-11


@methods
@pytest.mark.parametrize("n, m", [(1, 1), (1, 7), (7, 1), (2, 33)])
def test_thin_problems(n: int, m: int, method: str, backend: str) -> None:
    cost, a, b = problem(n, m)
    solution = sinkhorn.solve(cost, a, b, reg=0.1, method=method, backend=backend)
    assert solution.status == "converged" and error_of(solution.plan(), a, b) <= 1.1e-9


@methods
def test_zero_marginals(method: str, backend: str) -> None:
    cost, a, b = problem()
    a[3], b[[0, 9]] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    solution = sinkhorn.solve(cost, a, b, reg=0.05, method=method, backend=backend)
    assert solution.status == "converged"
    assert solution.f[3] == -np.inf and (solution.g[[0, 9]] == -np.inf).all()
    live = np.ix_(a > 0, b > 0)
    p = sinkhorn.solve(cost[live], a[a > 0], b[b > 0], reg=0.05, method=method, backend=backend).plan()
    assert np.abs(solution.plan()[live] - p).max() <= 1e-8 and not solution.plan()[3].any()


@methods
def test_infinite_costs(method: str, backend: str) -> None:
    cost, a, b = problem()
    cost[np.random.default_rng(4).random(cost.shape) < 0.3] = np.inf
    solution = sinkhorn.solve(cost, a, b, reg=0.1, method=method, backend=backend)
    assert solution.status == "converged" and not solution.plan()[np.isinf(cost)].any()
    cost[4] = np.inf
    solution = sinkhorn.solve(cost, a, b, reg=0.1, method=method, backend=backend)
    assert solution.status == "infeasible" and solution.error >= a[4] and np.isfinite(solution.plan()).all()


@pytest.mark.parametrize("method", ["auto", "sinkhorn", "newton"])
def test_infeasible_by_halls_condition(method: str, backend: str) -> None:
    """Two rows of mass 0.8 may send to one column of mass 0.5 alone."""
    cost = np.array([[0.0, np.inf, np.inf], [0.2, np.inf, np.inf], [0.3, 0.1, 0.5]])
    a, b = np.array([0.4, 0.4, 0.2]), np.array([0.5, 0.25, 0.25])
    solution = sinkhorn.solve(cost, a, b, reg=0.1, method=method, backend=backend)
    assert solution.status == "infeasible" and solution.error >= 0.6


def test_unbalanced_fixed_point(backend: str) -> None:
    cost, a, b = problem()
    b = 3 * b
    solution = sinkhorn.solve(cost, a, b, reg=0.05, tol=1e-12, marginal_penalty=(0.5, 2.0), backend=backend)
    assert solution.status == "converged" and solution.method == "sinkhorn"
    p = plan_of(solution, cost, 0.05)
    assert np.abs(solution.f + 0.5 * np.log(p.sum(1) / a)).max() <= 1e-9
    assert np.abs(solution.g + 2.0 * np.log(p.sum(0) / b)).max() <= 1e-9

    def divergence(p: np.ndarray, q: np.ndarray) -> float:
        return float((p * np.log(p / q) - p + q).sum())

    value = (p * cost).sum() + 0.05 * (p * (np.log(p) - 1)).sum() + 0.5 * divergence(p.sum(1), a) + 2 * divergence(p.sum(0), b)
    assert solution.value == pytest.approx(value, rel=1e-10)
    near = sinkhorn.solve(cost, a, b / 3, reg=0.05, marginal_penalty=1e6, tol=1e-6, backend=backend).plan()
    assert np.abs(near - sinkhorn.solve(cost, a, b / 3, reg=0.05, backend=backend).plan()).max() <= 1e-5
    fixed = sinkhorn.solve(cost, a, b / 3, reg=0.05, marginal_penalty=math.inf, backend=backend)
    assert fixed.value == sinkhorn.solve(cost, a, b / 3, reg=0.05, backend=backend).value


# ------------------------------------------------------------------------------------------------------------- statuses


@methods
def test_statuses(method: str, backend: str) -> None:
    cost, a, b = problem()
    start = sinkhorn.solve(cost, a, b, reg=0.01, max_iter=0, method=method, backend=backend)
    assert start.status == "max_iter" and len(start.history) == 0
    assert start.error == pytest.approx(error_of(start.plan(), a, b), rel=1e-9)
    few = sinkhorn.solve(cost, a, b, reg=0.01, max_iter=4, method=method, backend=backend)
    assert few.status == "max_iter" and len(few.history) == 4
    assert few.error == pytest.approx(error_of(few.plan(), a, b), rel=1e-9)
    seen: list[tuple[int, float]] = []
    stopped = sinkhorn.solve(cost, a, b, reg=0.01, method=method, backend=backend,
                             callback=lambda i, e: seen.append((i, e)) or len(seen) == 3)
    assert stopped.status == "stopped" and [i for i, _ in seen] == [1, 2, 3]
    assert stopped.history.tolist() == [e for _, e in seen]


@pytest.mark.parametrize("method", ["auto", "sinkhorn", "newton"])
def test_stalled(method: str, backend: str) -> None:
    cost, a, b = problem()
    solution = sinkhorn.solve(cost, a, b, reg=0.05, tol=0.0, method=method, max_iter=2000, backend=backend)
    assert solution.status == "stalled" and solution.error <= 1e-11


def test_single_precision_stalls(backend: str) -> None:
    cost, a, b = problem()
    if backend == "cpu":
        solution = sinkhorn.solve(cost, a, b, reg=0.02, tol=1e-12, precision="float32")
        assert solution.status == "stalled" and 1e-12 < solution.error <= 1e-5
    assert sinkhorn.solve(cost, a, b, reg=0.02, tol=1e-4, precision="float32", backend=backend).status == "converged"


@pytest.mark.parametrize("reg", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("method", ["auto", "newton"])
def test_small_regularisations_take_few_steps(method: str, reg: float, backend: str) -> None:
    cost = np.random.default_rng(8).random((30, 30))
    solution = sinkhorn.solve(cost, reg=reg, tol=1e-4, method=method, backend=backend)
    assert solution.status == "converged" and len(solution.history) <= 60


def test_single_precision_reaches_its_floor() -> None:
    """Over-relaxation multiplies rounding, and is held back where that shows."""
    cost = np.random.default_rng(4).random((60, 60))
    solution = sinkhorn.solve(cost, reg=1e-3, tol=1e-12, precision="float32", max_iter=5000)
    assert solution.status == "stalled" and solution.error <= 1e-5


@pytest.mark.parametrize("penalty", [1e3, 1e6, (1e5, math.inf)])
def test_penalties_far_above_reg_take_few_sweeps(penalty: Any, backend: str) -> None:
    cost, a, b = problem()
    solution = sinkhorn.solve(cost, a, 3 * b, reg=0.05, tol=1e-7, marginal_penalty=penalty, backend=backend)
    assert solution.status == "converged" and len(solution.history) <= 100
    solution = sinkhorn.solve(cost, a, 3 * b, reg=0.05, tol=1e-16, marginal_penalty=penalty, backend=backend)
    assert solution.status == "stalled" and solution.error <= 1e-7


@methods
def test_costs_beyond_the_digits_of_reg_are_refused(method: str, backend: str) -> None:
    cost, a, b = problem()
    for bad, name in (((3, slice(None)), "row 3"), ((slice(None), 5), "column 5")):
        far = cost.copy()
        far[bad] += 1e18
        with pytest.raises(ValueError, match=f"^cost / reg .* {name} "):
            sinkhorn.solve(far, a, b, reg=0.05, method=method, backend=backend)
    a[3] = 0.0
    far = cost.copy()
    far[3] += 1e18
    assert sinkhorn.solve(far, a / a.sum(), b, reg=0.05, method=method, backend=backend).status == "converged"


def test_a_published_step_is_capped(backend: str) -> None:
    cost = np.array([[0.0, np.inf, np.inf], [0.2, np.inf, np.inf], [0.3, 0.1, 0.5]])
    a, b = np.array([0.5, 0.5 - 1e-12, 1e-12]), np.array([0.5, 0.25, 0.25])
    solution = sinkhorn.solve(cost, a, b, reg=0.1, method="sns", max_iter=60, backend=backend)
    assert solution.status == "infeasible" and solution.error <= 2.0 and np.abs(solution.f).max() <= 100.0


# ---------------------------------------------------------------------------------------------------- starts, products


@methods
def test_warm_starts(method: str, backend: str) -> None:
    cost, a, b = problem()
    cold = sinkhorn.solve(cost, a, b, reg=0.02, method=method, backend=backend)
    for init in (cold, (cold.f, cold.g)):
        warm = sinkhorn.solve(cost, a, b, reg=0.02, tol=2e-9, method=method, init=init, backend=backend)
        assert warm.status == "converged" and len(warm.history) <= 1
        assert sinkhorn.solve(cost, a, b, reg=0.02, init=init, max_iter=0, backend=backend).error <= 1.1e-9
    assert sinkhorn.solve(cost, a, b, reg=0.01, method=method, init=cold, backend=backend).status == "converged"


@pytest.mark.parametrize("reg", [0.02, 0.002])
def test_warm_starts_save_iterations(reg: float, backend: str) -> None:
    cost, a, b = problem(40, 40)
    start = sinkhorn.solve(cost, a, b, reg=2 * reg, backend=backend)
    counts = [len(sinkhorn.solve(cost, a, b, reg=reg, init=init, backend=backend).history) for init in (start, None)]
    assert counts[0] <= counts[1]


def test_products_and_plans(backend: str) -> None:
    cost, a, b = problem()
    solution = sinkhorn.solve(cost, a, b, reg=0.02, backend=backend)
    p, v = solution.plan(), np.random.default_rng(0).random((24, 3))
    assert np.abs(solution.apply(v) - p @ v).max() <= 1e-15
    assert np.abs(solution.apply_transpose(a) - p.T @ a).max() <= 1e-15
    out = np.empty(20)
    assert solution.apply(v[:, 0], out=out) is out and (out == solution.apply(v)[:, 0]).all()
    sparse = solution.plan(sparse=True, threshold=1e-4)
    assert (sparse.toarray() == np.where(p > 1e-4, p, 0)).all() and (solution.plan(threshold=1e-4) == sparse.toarray()).all()
    other = pickle.loads(pickle.dumps(solution))
    assert (other.plan() == p).all() and other.status == "converged" and other.value == solution.value


def test_float32_costs_are_kept(backend: str) -> None:
    cost, a, b = problem()
    single = cost.astype(np.float32)
    one = sinkhorn.solve(single, a, b, reg=0.02, tol=1e-12, backend=backend)
    two = sinkhorn.solve(single.astype(np.float64), a, b, reg=0.02, tol=1e-12, backend=backend)
    assert one.status == "converged" and np.abs(one.plan() - two.plan()).max() <= 1e-11


# ------------------------------------------------------------------------------------------------------ batches, threads


@methods
def test_batches(method: str, backend: str) -> None:
    rng = np.random.default_rng(5)
    costs, a, b = rng.random((4, 9, 11)), rng.dirichlet(np.ones(9), 4), rng.dirichlet(np.ones(11))
    alone = [sinkhorn.solve(cost, side, b, reg=0.05, method=method, backend=backend) for cost, side in zip(costs, a, strict=True)]
    shared = [sinkhorn.solve(costs[0], side, b, reg=0.05, method=method, backend=backend) for side in a]
    for threads in (1, 3):
        for made, wanted in ((costs, alone), (costs[:1], shared)):
            batch = sinkhorn.solve_batch(made, a, b, reg=0.05, method=method, backend=backend, num_threads=threads)
            assert [s.f.tobytes() + s.g.tobytes() + s.history.tobytes() for s in batch] == [
                s.f.tobytes() + s.g.tobytes() + s.history.tobytes() for s in wanted]
    warm = sinkhorn.solve_batch(costs, a, b, reg=0.05, method=method, init=alone, tol=2e-9, backend=backend)
    assert all(len(s.history) <= 1 for s in warm) and sinkhorn.solve_batch(costs[:0], reg=1.0, backend=backend) == []


@methods
def test_threads_change_no_bit(method: str) -> None:
    cost, a, b = problem(700, 801)
    runs = [sinkhorn.solve(cost, a, b, reg=0.02, max_iter=25, method=method, num_threads=threads) for threads in (1, 2, 3)]
    assert len({s.f.tobytes() + s.g.tobytes() + s.history.tobytes() for s in runs}) == 1


def test_backends_agree() -> None:
    cost, a, b = problem(60, 50)
    one, two = (sinkhorn.solve(cost, a, b, reg=0.01, tol=1e-12, backend=backend) for backend in ("cpu", "reference"))
    assert np.abs(one.plan() - two.plan()).max() <= 1e-11 and np.abs(one.f - two.f).max() <= 1e-9
    with fastgd.use(backend="reference"):
        assert sinkhorn.solve(cost, a, b, reg=0.01, tol=1e-12).f.tobytes() == two.f.tobytes()
    assert "sinkhorn.transport" in fastgd.explain(sinkhorn.solve, cost, reg=0.1)
