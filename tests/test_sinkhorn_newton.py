"""Newton's method on the semi-dual: kernels against the oracle, facts of the Hessian, convergence rates, safeguards, edges."""

from __future__ import annotations

import math
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from instruction_sets import LEVELS, instruction_set

from fastgd.sinkhorn.newton.sns import SparseNewton
from fastgd.sinkhorn.newton.steps import Newton
from fastgd.sinkhorn.sweeps.points import Points

BACKENDS = ("cpu", "reference")


def transport(backend: str, cost: Any, a: np.ndarray, b: np.ndarray, reg: float, threads: int = 1) -> Any:
    return import_module(f"fastgd.sinkhorn.sweeps.{backend}").transport(cost, a, b, reg=reg, threads=threads)


def semidual(backend: str, t: Any) -> Any:
    return import_module(f"fastgd.sinkhorn.newton.{backend}").semidual(t)


def problem(n: int, m: int, seed: int = 0, zeros: bool = False, masked: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cost, a, b = rng.random((n, m)), rng.random(n) + 0.1, rng.random(m) + 0.1
    if zeros:
        a[n // 3], b[m // 2] = 0.0, 0.0
    cost[rng.random((n, m)) < masked] = np.inf
    return cost, a / a.sum(), b / b.sum()


def grid(power: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixtures of Gaussians with tiny masses on a square grid."""
    ticks = (np.arange(side) + 0.5) / side
    at = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)
    masses = []
    for seed in (1, 2):
        rng, mass = np.random.default_rng(seed), np.zeros(side * side)
        for _ in range(5):
            centre, width = rng.random(2), rng.uniform(0.03, 0.1)
            mass += rng.random() * np.exp(-((at - centre) ** 2).sum(axis=1) / (2 * width**2)) / width**2
        mass = mass / mass.sum() + 1e-4 / mass.size
        masses.append(mass / mass.sum())
    steps = np.abs(at[:, None] - at[None])
    cost = (steps**power).sum(axis=2)
    return cost / cost.max(), masses[0], masses[1]


def converge(newton: Newton, tol: float, limit: int = 60) -> list[Any]:
    steps: list[Any] = []
    error = newton.begin()
    while error > tol and len(steps) < limit:
        steps.append(newton.step(tol))
        error = steps[-1].error
        assert math.isfinite(error)
    assert error <= tol
    return steps


def scaled(plan: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The semi-dual's Hessian, and the same in Jacobi's scaling."""
    hessian = np.diag(c) - plan.T @ (plan / plan.sum(axis=1)[:, None])
    return hessian, hessian / np.sqrt(np.outer(c, c))


@pytest.mark.parametrize("n, m", [(1, 1), (1, 7), (7, 1), (2, 3), (15, 17), (33, 31), (64, 9), (40, 129)])
@pytest.mark.parametrize("drop", [0.1, 0.01, 1e-6, 0.0])
def test_kernels_equal_the_oracle(n: int, m: int, drop: float) -> None:
    cost, a, b = problem(n, m, seed=n + m, zeros=min(n, m) > 5, masked=0.2 if min(n, m) > 5 else 0.0)
    found = []
    for backend in BACKENDS:
        t = transport(backend, cost, a, b, 0.02)
        t.columns()
        k = semidual(backend, t)
        first = k.evaluate(0.0, drop)
        k.accept()
        density = k.density
        x = k.solve(0.01, 1e-9, 300)
        second = k.evaluate(0.5, drop)
        k.accept()
        k.update()
        found.append((first, second, density, k.density, x.slope, x.longest, t.f.copy(), t.g.copy(), k.evaluate(1.0, drop)))
    cpu, oracle = found
    assert cpu[2] == oracle[2]
    for mine, theirs in zip(cpu, oracle, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["float32", "sqeuclidean", "euclidean"])
def test_all_kinds_of_costs(kind: str) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.random((37, 3)), rng.random((29, 3))
    a, b = np.full(37, 1 / 37), np.full(29, 1 / 29)
    squares = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    stored = np.sqrt(squares) if kind == "euclidean" else squares
    cost = stored.astype(np.float32) if kind == "float32" else Points(x, y, kind, 2.0)
    expected = stored.astype(np.float32).astype(np.float64) if kind == "float32" else 2.0 * stored
    potentials = []
    for of in (cost, expected):
        t = transport("cpu", of, a, b, 0.01)
        t.sweep(5, 0.0)
        converge(Newton(semidual("cpu", t)), 1e-11)
        potentials.append(t.g - t.g[0])
    np.testing.assert_allclose(*potentials, rtol=0, atol=1e-7)


def test_the_hessian_and_its_spectrum(backend: str) -> None:
    cost, a, b = problem(30, 23)
    t = transport(backend, cost, a, b, 0.05)
    t.sweep(3, 0.0)
    k = semidual(backend, t)
    k.evaluate(0.0, 0.0)
    k.accept()
    plan, g = t.dense(), t.g.copy()
    c = plan.sum(axis=0)
    hessian, jacobi = scaled(plan, c)
    assert np.abs(hessian.sum(axis=1)).max() <= 1e-15
    singular = np.linalg.svd(plan / np.sqrt(np.outer(a, c)), compute_uv=False)
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(jacobi)), np.sort(1 - singular**2), atol=1e-13)
    assert abs(singular[0] - 1) <= 1e-13
    x = k.solve(0.0, 1e-13, 500)
    k.evaluate(1.0, 0.0)
    k.accept()
    step = t.g - g
    np.testing.assert_allclose(hessian @ step, b - c, atol=1e-13)
    assert abs(step @ b) <= 1e-12
    assert math.isclose(x.slope, float(step @ (c - b)), rel_tol=1e-9)


def test_the_change_of_the_objective(backend: str) -> None:
    cost, a, b = problem(20, 30, seed=5)
    t = transport(backend, cost, a, b, 0.03)
    t.sweep(2, 0.0)
    k = semidual(backend, t)
    k.evaluate(0.0, 0.05)
    k.accept()
    before = -float(a @ t.f + b @ t.g)
    k.solve(0.1, 0.1, 50)
    trial = k.evaluate(0.7, 0.05)
    k.accept()
    assert math.isclose(trial.change, -float(a @ t.f + b @ t.g) - before, rel_tol=1e-9, abs_tol=1e-13)
    assert trial.change < 0 <= trial.noise
    assert abs(trial.error - np.abs(t.dense().sum(axis=0) - b).sum()) <= 1e-13
    assert np.abs(t.dense().sum(axis=1) - a).max() <= 1e-14


def test_what_is_left_out_of_a_row_is_within_its_share(backend: str) -> None:
    """Kept entries are no fewer than the fewest that suffice, and not many more: one class is an eighth of an octave."""
    cost, a, b = problem(50, 200, seed=2)
    t = transport(backend, cost, a, b, 0.01)
    t.sweep(10, 0.0)
    k = semidual(backend, t)
    for drop in (0.1, 0.01, 1e-3, 1e-6):
        k.evaluate(0.0, drop)
        k.accept()
        plan = np.sort(t.dense(), axis=1)
        least = (np.cumsum(plan, axis=1) > drop * a[:, None]).sum()
        wider = (np.cumsum(plan, axis=1) > 0.8 * drop * a[:, None]).sum() + len(a)
        assert least <= round(k.density * cost.size) <= wider * 1.1


def test_rates_of_fixed_and_of_falling_shares() -> None:
    """A fixed share converges linearly, the faster the smaller; one that falls with the error, faster than linearly."""
    cost, a, b = problem(120, 120, seed=4)
    rates = []
    for drop in (0.1, 0.01, 0.001):
        t = transport("cpu", cost, a, b, 1 / 300)
        t.sweep(60, 0.0)
        k = semidual("cpu", t)
        errors = [k.evaluate(0.0, drop).error]
        k.accept()
        while errors[-1] > 1e-11 and len(errors) < 60:
            k.solve(0.0, 1e-10, 500)
            errors.append(k.evaluate(1.0, drop).error)
            k.accept()
        rates.append((errors[-2] / errors[-4]) ** 0.5)
    assert all(drop / 10 < rate < 10 * drop for drop, rate in zip((0.1, 0.01, 0.001), rates, strict=True))
    t = transport("cpu", cost, a, b, 1 / 300)
    t.sweep(60, 0.0)
    steps = converge(Newton(semidual("cpu", t)), 1e-12)
    orders = [math.log(q.error) / math.log(p.error) for p, q in pairwise(steps) if 1e-9 < p.error < 1e-2]
    assert max(orders) > 1.3 and len(steps) <= 10


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sinkhorn_newton_sparse_on_its_headline_problem(seed: int) -> None:
    cost, mass = np.random.default_rng(seed).random((500, 500)), np.full(500, 1 / 500)
    t = transport("cpu", cost, mass, mass, 1 / 1200)
    t.columns()
    t.sweep(20, 0.0)
    newton = SparseNewton(t, import_module("fastgd.sinkhorn.newton.cpu").sns_solve)
    error, steps = newton.begin(), 0
    while error > 1e-12 and steps < 10:
        step = newton.step(1e-12)
        error, steps = step.error, steps + 1
        assert step.accepted and step.density == 8 / 500
    assert error <= 1e-12
    assert error == sum(t.error()) or abs(error - sum(t.error())) <= 1e-14


def test_sparse_newton_equals_the_oracle() -> None:
    cost, a, b = problem(40, 31, seed=8, zeros=True, masked=0.1)
    potentials = []
    for backend in BACKENDS:
        t = transport(backend, cost, a, b, 0.02)
        t.columns()
        t.sweep(20, 0.0)
        newton = SparseNewton(t, import_module(f"fastgd.sinkhorn.newton.{backend}").sns_solve, entries=12)
        error, steps = newton.begin(), 0
        while error > 1e-11 and steps < 60:
            error, steps = newton.step(1e-11).error, steps + 1
        assert error <= 1e-11
        potentials.append(t.f[a > 0] - t.f[0])
    np.testing.assert_allclose(*potentials, rtol=0, atol=1e-8)


@pytest.mark.parametrize("power, reg", [(2, 0.001), (1, 0.002)])
def test_tiny_masses_on_a_grid(backend: str, power: int, reg: float) -> None:
    """From here a plain Newton step jumps far beyond the solution."""
    cost, a, b = grid(power, 16)
    t = transport(backend, cost, a, b, reg)
    t.columns()
    t.sweep(20, 0.0)
    converge(Newton(semidual(backend, t)), 1e-10, limit=150)


def test_rejected_steps_fall_back_to_a_sinkhorn_update(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cost, a, b = problem(20, 20, seed=6)
    t = transport(backend, cost, a, b, 0.05)
    t.columns()
    k = semidual(backend, t)
    newton = Newton(k)
    newton.begin()
    other = transport("reference", cost, a, b, 0.05)
    other.f, other.g = t.f.copy(), t.g.copy()
    other.columns()
    other.rows()
    solve = k.solve
    monkeypatch.setattr(k, "solve", lambda *arguments: solve(*arguments)._replace(slope=-1e30))
    step = newton.step(1e-12)
    assert not step.accepted and newton.shift == pytest.approx(0.4)
    np.testing.assert_allclose(t.g, other.g, atol=1e-12)
    np.testing.assert_allclose(t.f, other.f, atol=1e-12)


@pytest.mark.parametrize("options", [{"zeros": True}, {"masked": 0.3}, {"zeros": True, "masked": 0.3}], ids=str)
@pytest.mark.parametrize("n, m", [(30, 50), (50, 30)])
def test_zero_marginals_and_forbidden_pairs(backend: str, n: int, m: int, options: dict[str, Any]) -> None:
    cost, a, b = problem(n, m, seed=7, **options)
    t = transport(backend, cost, a, b, 0.02)
    t.columns()
    t.sweep(5, 0.0)
    converge(Newton(semidual(backend, t)), 1e-11)
    plan = t.dense()
    assert np.abs(plan.sum(axis=0) - b).sum() + np.abs(plan.sum(axis=1) - a).sum() <= 1e-10
    assert not plan[~np.isfinite(cost)].any() and not plan[a == 0].any() and not plan[:, b == 0].any()
    assert np.all(t.f[a == 0] == -np.inf) and np.all(t.g[b == 0] == -np.inf)


def test_a_column_that_can_receive_nothing(backend: str) -> None:
    """Its marginal stays in the error, and everything else is finite."""
    cost, a, b = problem(12, 9, seed=3)
    cost[:, 4] = np.inf
    t = transport(backend, cost, a, b, 0.05)
    assert not t.columns()
    newton = Newton(semidual(backend, t))
    errors = [newton.begin()] + [newton.step(1e-9).error for _ in range(12)]
    assert np.isfinite(errors).all() and np.isfinite(t.f).all()
    assert min(errors) >= b[4] and errors[-1] <= errors[0]


@pytest.mark.parametrize("n, m", [(1, 1), (1, 6), (6, 1), (2, 2), (3, 17)])
def test_tiny_problems(backend: str, n: int, m: int) -> None:
    cost, a, b = problem(n, m, seed=1)
    t = transport(backend, cost, a, b, 0.1)
    converge(Newton(semidual(backend, t)), 1e-12)
    assert np.abs(t.dense().sum(axis=0) - b).sum() <= 1e-11


def test_two_by_two_in_closed_form(backend: str) -> None:
    t = transport(backend, np.array([[0.1, 0.7], [0.9, 0.2]]), np.array([0.3, 0.7]), np.array([0.6, 0.4]), 0.2)
    converge(Newton(semidual(backend, t)), 1e-14)
    assert abs(t.dense()[0, 0] - 0.299401912994427) <= 1e-14


def test_the_same_bits_for_threads_and_instruction_sets() -> None:
    cost, a, b = problem(301, 257, seed=9, zeros=True, masked=0.05)
    results = set()
    for level in LEVELS:
        for threads in (1, 2, 3):
            with instruction_set(level):
                t = transport("cpu", cost, a, b, 0.004, threads)
                t.columns()
                t.sweep(4, 0.0)
                steps = converge(Newton(semidual("cpu", t)), 1e-10)
                results.add((t.f.tobytes(), t.g.tobytes(), tuple(steps)))
    assert len(results) == 1
