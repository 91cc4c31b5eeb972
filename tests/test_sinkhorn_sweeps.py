"""The sweeps on the CPU against their oracle: sizes, kinds of cost, precisions, penalties, relaxation; bits; hostile starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from instruction_sets import LEVELS, instruction_set

from fastgd.sinkhorn.sweeps import cpu, reference
from fastgd.sinkhorn.sweeps.points import Points

SIZES = [(1, 1), (1, 9), (2, 7), (7, 2), (8, 8), (9, 15), (15, 31), (16, 16), (17, 33), (31, 16), (33, 1), (101, 97), (257, 130)]
KINDS = ["float64", "float32", "sqeuclidean", "euclidean"]


def problem(kind: str, n: int, m: int, seed: int = 0, d: int = 3) -> tuple[Any, np.ndarray, np.ndarray]:
    """Costs, some infinite where they are stored, and marginals, some zero; every row and column can be served."""
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.1, rng.random(m) + 0.1
    a[1:-1:5], b[2:-1:7] = 0.0, 0.0
    a, b = a / a.sum(), b / b.sum()
    if kind in ("sqeuclidean", "euclidean"):
        return Points(rng.random((n, d)), rng.random((m, d)), kind, 0.7), a, b
    cost = rng.random((n, m))
    cost[rng.random((n, m)) < 0.2] = np.inf
    cost[0], cost[-1], cost[:, 0], cost[:, -1] = 0.3, 0.4, 0.2, 0.5
    return cost.astype(kind), a, b


def pair(cost: Any, a: np.ndarray, b: np.ndarray, **options: Any) -> tuple[cpu.Transport, reference.Transport]:
    return cpu.transport(cost, a, b, **options), reference.transport(cost, a, b, **options)


def same(got: Any, known: Any, tolerance: float) -> bool:
    """Equal infinities, and otherwise within the tolerance, relative to 1 or to what is known."""
    got, known = np.asarray(got), np.asarray(known)
    finite = np.isfinite(known)
    return bool(np.array_equal(got[~finite], known[~finite])
                and np.all(np.abs(got[finite] - known[finite]) <= tolerance * np.maximum(1, np.abs(known[finite]))))


@pytest.mark.parametrize("tau, relax", [((1.0, 1.0), 1.0), ((1.0, 1.0), 1.3), ((0.7, 0.9), 1.0), ((0.6, 1.0), 1.2)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n, m", SIZES)
def test_everything_agrees_with_the_oracle(n: int, m: int, kind: str, tau: tuple[float, float], relax: float) -> None:
    for precision, tolerance in (("float64", 1e-12), ("float32", 3e-5)):
        ours, known = pair(*problem(kind, n, m), reg=0.05, tau=tau, precision=precision)
        assert ours.columns() and known.columns()
        assert same(ours.g, known.g, 1e-12)
        assert same(ours.sweep(6, -1.0, relax), known.sweep(6, -1.0, relax), tolerance)
        assert same(ours.f, known.f, tolerance) and same(ours.g, known.g, tolerance)
        ours.f, ours.g = known.f, known.g
        assert same(ours.error(), known.error(), 1e-12) and same(ours.summary(), known.summary(), 1e-11)
        assert same(ours.dense(), known.dense(), 1e-13)
        assert ours.rows() and known.rows() and same(ours.f, known.f, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n, m", SIZES)
def test_products_and_entries_of_the_plan(n: int, m: int, kind: str) -> None:
    ours, known = pair(*problem(kind, n, m), reg=0.05)
    rng = np.random.default_rng(1)
    ours.sweep(2, -1.0)
    known.f, known.g = ours.f.copy(), ours.g.copy()
    plan, v, u = known.dense(), rng.normal(size=m), rng.normal(size=n)
    assert same(ours.apply(v), plan @ v, 1e-13) and same(ours.apply_transpose(u), plan.T @ u, 1e-13)
    for threshold in (0.0, float(np.median(plan)) * 1.5):
        start, index, values = ours.sparse(threshold)
        rows = np.repeat(np.arange(n), np.diff(start))
        assert len(start) == n + 1 and np.array_equal(rows * m + index, np.flatnonzero(plan > threshold))
        assert same(values, plan[plan > threshold], 1e-13)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n, m", [(9, 15), (33, 17), (257, 130)])
def test_the_same_bits_everywhere(n: int, m: int, kind: str, precision: str) -> None:
    """Every thread count and instruction set."""
    def bits(threads: int, relax: float, tau: tuple[float, float]) -> bytes:
        t = cpu.transport(*problem(kind, n, m), reg=0.02, precision=precision, tau=tau, threads=threads)
        t.columns()
        found = [t.sweep(40, -1.0, relax), t.f.copy(), t.g.copy(), *map(np.array, (t.error(), t.summary())), t.dense()]
        t.rows()
        return b"".join(x.tobytes() for x in [*found, t.f, t.apply(t.b), t.apply_transpose(t.a), *t.sparse(1e-4)])

    for relax, tau in ((1.0, (1.0, 1.0)), (1.4, (1.0, 0.8))):
        known = bits(1, relax, tau)
        for level in LEVELS:
            with instruction_set(level):
                assert all(bits(threads, relax, tau) == known for threads in (1, 2, 3)), level


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_error_is_that_of_the_potentials_held(precision: str) -> None:
    for tau, relax in (((1.0, 1.0), 1.0), ((1.0, 1.0), 1.2), ((0.8, 0.7), 1.0)):
        t = cpu.transport(*problem("float64", 40, 50), reg=0.3, precision=precision, tau=tau)
        errors = t.sweep(500, 1e-5, relax)
        assert 1 < len(errors) < 500 and errors[-1] <= 1e-5 < errors[-2]
        assert abs(sum(t.error()) - errors[-1]) <= (1e-14 if precision == "float64" else 1e-6)


def test_no_sweeps_and_no_tolerance() -> None:
    t = cpu.transport(*problem("float64", 5, 6), reg=0.1)
    assert len(t.sweep(0, 1.0)) == 0 and not t.f[t.a > 0].any()
    assert len(t.sweep(3, np.inf)) == 1 and not t.g[t.b > 0].any()


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_jumps_of_the_potentials(kind: str, precision: str) -> None:
    """Starts from which exponentials overflow, underflow, or both in one row; the oracle shifts every one of them."""
    rng = np.random.default_rng(3)
    tolerance = 1e-9 if precision == "float64" else 0.02
    for jump in (rng.normal(size=41) * 300, np.full(41, 3e3), np.full(41, -3e3), np.where(rng.random(41) < 0.5, 1500.0, -1500.0)):
        ours, known = pair(*problem(kind, 37, 41), reg=0.05, precision=precision)
        for t in (ours, known):
            t.g = np.where(t.b > 0, jump, -np.inf)
        assert same(ours.sweep(1, -1.0), known.sweep(1, -1.0), tolerance)
        assert same(ours.f, known.f, tolerance) and same(ours.g, known.g, tolerance)
        assert same(ours.sweep(3, -1.0), known.sweep(3, -1.0), tolerance)


@pytest.mark.parametrize("relax, tau", [(1.0, (1.0, 1.0)), (1.4, (1.0, 1.0)), (1.0, (0.9, 0.8))])
def test_scaled_sweeps_take_the_same_steps(relax: float, tau: tuple[float, float]) -> None:
    """From the fourth sweep on they replace exact ones where many are to come; the last one, which ends it, is exact."""
    cost, a, b = problem("float64", 90, 70)
    ours, known = pair(cost, a, b, reg=0.02, tau=tau)
    errors, expected = ours.sweep(1000, 1e-11, relax), known.sweep(1000, 1e-11, relax)
    k = min(len(errors), len(expected)) - 1
    assert abs(len(errors) - len(expected)) <= 1 and ours.struct.plan and np.any(np.frombuffer(
        cpu.ffi.buffer(ours.struct.plan, 4 * ours.struct.rows * ours.struct.width), np.float32))
    assert np.all(np.abs(errors[:k] - expected[:k]) <= 1e-3 * expected[:k] + 1e-14)
    assert errors[-1] <= 1e-11 and abs(sum(known.error()) - expected[-1]) <= 1e-14
    assert abs(sum(ours.error()) - errors[-1]) <= 1e-14


@pytest.mark.parametrize("precision, tolerance", [("float64", 1e-11), ("float32", 1e-3)])
def test_far_clouds(precision: str, tolerance: float) -> None:
    """Every exp(-K) is 0 here: K is 2000 and more."""
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 2)), rng.random((70, 2)) + 5
    points = Points(x, y, "sqeuclidean", 1.0)
    ours, known = pair(points, np.full(60, 1 / 60), np.full(70, 1 / 70), reg=0.02, precision=precision)
    assert same(ours.sweep(50, -1.0), known.sweep(50, -1.0), tolerance)
    assert same(ours.f + ours.g[0], known.f + known.g[0], tolerance)


@pytest.mark.parametrize("kind", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 8, 17])
def test_points_are_the_costs_they_stand_for(kind: str, d: int) -> None:
    points, a, b = problem(kind, 23, 35, d=d)
    squares = ((points.x[:, None, :] - points.y[None, :, :]) ** 2).sum(axis=2)
    cost = points.scale * (squares if kind == "sqeuclidean" else np.sqrt(squares))
    ours, stored = cpu.transport(points, a, b, reg=0.1), cpu.transport(cost, a, b, reg=0.1)
    assert same(ours.sweep(3, -1.0), stored.sweep(3, -1.0), 1e-13)
    assert same(ours.g, stored.g, 1e-12) and same(ours.summary(), stored.summary(), 1e-12)


def test_infinite_costs_send_nothing() -> None:
    cost, a, b = problem("float64", 30, 40)
    t = cpu.transport(cost, a, b, reg=0.01)
    t.sweep(10, -1.0)
    plan = t.dense()
    assert not plan[np.isinf(cost)].any() and not plan[a == 0].any() and not plan[:, b == 0].any()
    assert np.all(np.isneginf(t.f) == (a == 0)) and np.all(np.isneginf(t.g) == (b == 0))
    assert np.isfinite(t.summary()).all()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_what_cannot_be_sent_is_reported(precision: str) -> None:
    """A row, or a column, all of whose costs are infinite: a potential of +infinity, no NaN, and what is missing in the error."""
    cost, a, b = np.ones((12, 9)), np.full(12, 1 / 12), np.full(9, 1 / 9)
    cost[3] = np.inf
    t = cpu.transport(cost, a, b, reg=0.1, precision=precision)
    assert t.columns() and not t.rows() and t.f[3] == np.inf and np.isfinite(np.delete(t.f, 3)).all()
    errors = t.sweep(5, 1e-9)
    assert len(errors) == 5 and np.all(errors >= 1 / 12 - 1e-6) and not t.dense()[3].any() and t.error()[0] >= 1 / 12 - 1e-12
    t = cpu.transport(np.ascontiguousarray(cost.T), b, a, reg=0.1, precision=precision)
    assert not t.columns() and t.g[3] == np.inf and t.rows()
    errors = t.sweep(5, 1e-9)
    assert np.all(np.isfinite(errors)) and np.all(errors >= 1 / 12 - 1e-6) and not t.dense()[:, 3].any()


def test_tiny_marginals() -> None:
    """Sums of columns that small are not trusted: each is looked at again."""
    cost, a, b = problem("float64", 21, 19)
    a[0], b[0] = 1e-290, 1e-250
    ours, known = pair(cost, a, b, reg=0.1)
    assert same(ours.sweep(20, -1.0), known.sweep(20, -1.0), 1e-13) and same(ours.g, known.g, 1e-12)
    assert same(ours.f, known.f, 1e-12)


def test_another_regularisation() -> None:
    ours, known = pair(*problem("float64", 20, 30), reg=1.0)
    for t in (ours, known):
        t.sweep(5, -1.0)
        t.rescale(0.25, (0.5, 0.75))
    assert same(ours.f, known.f, 1e-13) and ours.struct.scale == 4.0
    assert same(ours.sweep(5, -1.0), known.sweep(5, -1.0), 1e-13) and same(ours.g, known.g, 1e-12)
