"""Entropic transport on CUDA: in Numba's simulator at tiny sizes (`sim`), on a GPU at real ones (`gpu`).

    NUMBA_ENABLE_CUDASIM=1 pytest -m sim tests/test_sinkhorn_cuda.py
    pytest -m gpu tests/test_sinkhorn_cuda.py

Exponentials of the two sides differ in the last bits, so results agree to rounding; iterations are the same ones.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_robust_cuda import LIBRARIES, device, host, on_gpu

import fastgd
from fastgd import _cuda, sinkhorn
from fastgd._dispatch import Operand, find
from fastgd.sinkhorn.sweeps.points import Points

#: Threads of a simulated block: one warp of two, or two of 32.
BLOCKS = [2, 64]


@pytest.fixture
def block() -> int:
    return BLOCKS[0]


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch, block: int) -> Iterator[None]:
    """Small blocks and tiles, for the simulator; and a failure for launches with types that KERNELS does not list."""
    from numba import typeof, types

    from fastgd.sinkhorn.cuda import KERNELS
    from fastgd.sinkhorn.sweeps import cuda_batch, cuda_columns, cuda_costs, cuda_sparse

    declared = {(kernel.py_func.__name__, eval(signature, dict(vars(types))).args)
                for kernel, found, *_ in KERNELS for signature in found}
    for module, name, value in ((cuda_columns, "COLUMNS", 2), (cuda_sparse, "BANDS", 2), (cuda_costs, "PARTS", 8),
                                (cuda_batch, "MOST", 40)):
        monkeypatch.setattr(module, name, value)
    launch, launched = _cuda.launch, []

    def checked(kernel: Any, grid: int, threads: int, stream: Any, *arguments: Any, **options: Any) -> None:
        launched.append((kernel.py_func.__name__, tuple(typeof(argument) for argument in arguments)))
        launch(kernel, min(grid, 2), min(threads, block), stream, *arguments, **options)

    monkeypatch.setattr(_cuda, "launch", checked)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # few threads that wait for each other: at the usual 5 ms nearly all time is waiting
    yield
    sys.setswitchinterval(interval)
    assert launched
    assert not set(launched) - declared


def problem(n: int = 5, m: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.1, rng.random(m) + 0.1
    return rng.random((n, m)), a / a.sum(), b / b.sum()


def pair(cost: Any, a: np.ndarray, b: np.ndarray, **options: Any) -> tuple[Any, Any]:
    """The transport in simulated device memory, and the oracle's."""
    if isinstance(cost, Points):
        moved, dtype = cost._replace(x=device(cost.x), y=device(cost.y)), str(cost.x.dtype)
        cost = cost._replace(x=cost.x.astype(np.float64), y=cost.y.astype(np.float64))
    else:
        moved, dtype = device(cost), str(cost.dtype)
    return (find("sinkhorn.transport", Operand("cuda", dtype))(moved, a, b, **options),
            find("sinkhorn.transport", Operand("cpu", dtype), "reference")(cost, a, b, **options))


def close(got: Any, expected: Any, tol: float = 1e-13) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    finite = np.isfinite(expected)
    assert (got[~finite] == expected[~finite]).all()
    assert np.abs(got[finite] - expected[finite]).max(initial=0.0) <= tol * max(1.0, np.abs(expected[finite]).max(initial=0.0))


def check_transport(got: Any, oracle: Any, tol: float, relax: float = 1.2) -> None:
    """All of the contract, after a few sweeps of both kinds."""
    rng = np.random.default_rng(1)
    for t in (got, oracle):
        t.columns()
    close(got.g, oracle.g)
    for count, omega in ((3, 1.0), (2, relax)):
        close(got.sweep(count, 0.0, omega), oracle.sweep(count, 0.0, omega), tol)
    for t in (got, oracle):
        t.rescale(0.8 * t.reg)
    close(got.f, oracle.f, tol)
    close(got.g, oracle.g, tol)
    close(got.error(), oracle.error(), tol)
    close(got.summary(), oracle.summary(), tol)
    v, u = rng.standard_normal(len(got.b)), rng.standard_normal(len(got.a))
    close(got.apply(v), oracle.apply(v), tol)
    close(got.apply_transpose(u), oracle.apply_transpose(u), tol)
    plan = oracle.dense()
    close(host(got.dense()), plan, tol)
    threshold = float(np.sort(plan, axis=None)[plan.size // 2 :][:2].mean())  # no entry: those differ in their last bits
    for x, y in zip(got.sparse(threshold), oracle.sparse(threshold), strict=True):
        close(x, y, tol)
    assert got.rows() == oracle.rows()
    close(got.f, oracle.f, tol)


# ------------------------------------------------------------------------------------------------------ the simulator


@pytest.mark.sim
@pytest.mark.parametrize(("dtype", "precision", "tau"), [("float64", "float64", (1.0, 1.0)), ("float32", "float64", (0.7, 0.9)),
                                                         ("float64", "float32", (1.0, 1.0)), ("float32", "float32", (0.7, 1.0))])
def test_the_transport_agrees_with_the_oracle(simulated: None, dtype: str, precision: str, tau: tuple[float, float]) -> None:
    cost, a, b = problem()
    got, oracle = pair(cost.astype(dtype), a, b, reg=0.1, precision=precision, tau=tau)
    check_transport(got, oracle, 1e-13 if precision == "float64" else 2e-6)


@pytest.mark.sim
@pytest.mark.parametrize("block", BLOCKS[1:])
def test_blocks_of_several_warps(simulated: None, block: int) -> None:
    cost, a, b = problem(3, 35)
    got, oracle = pair(cost, a, b, reg=0.1)
    close(got.sweep(1, 0.0), oracle.sweep(1, 0.0))
    close(got.g, oracle.g)
    for x, y in zip(got.sparse(0.01), oracle.sparse(0.01), strict=True):
        close(x, y)


@pytest.mark.sim
@pytest.mark.parametrize(("dtype", "metric", "precision"),
                         [("float64", "sqeuclidean", "float64"), ("float32", "euclidean", "float64"),
                          ("float64", "euclidean", "float32")])
def test_points(simulated: None, dtype: str, metric: str, precision: str) -> None:
    rng = np.random.default_rng(2)
    x, y = (rng.random((n, 3)).astype(dtype) for n in (5, 3))
    _, a, b = problem(5, 3)
    got, oracle = pair(Points(x, y, metric, 1.5), a, b, reg=0.3, precision=precision)
    check_transport(got, oracle, 1e-13 if precision == "float64" else 2e-6)


@pytest.mark.sim
def test_zero_marginals_and_infinite_costs(simulated: None) -> None:
    cost, a, b = problem()
    a[1], b[2], cost[0, 0], cost[3, :3] = 0.0, 0.0, np.inf, np.inf
    got, oracle = pair(cost, a / a.sum(), b / b.sum(), reg=0.1)
    for t in (got, oracle):
        t.columns()
    close(got.sweep(4, 0.0), oracle.sweep(4, 0.0))
    for x, y in ((got.f, oracle.f), (got.g, oracle.g), (host(got.dense()), oracle.dense()), (got.error(), oracle.error())):
        close(x, y)
    cost[3] = np.inf
    got, oracle = pair(cost, a / a.sum(), b / b.sum(), reg=0.1)
    assert got.rows() is oracle.rows() is False
    close(got.f, oracle.f)


@pytest.mark.sim
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_sums_after_jumps(simulated: None, precision: str) -> None:
    """Rows and columns whose exponentials all vanish or overflow take them again, shifted."""
    cost, a, b = problem()
    got, oracle = pair(cost, a, b, reg=1e-3, precision=precision)
    for jump in (2000.0, -2000.0):
        for t in (got, oracle):
            t.columns()
            t.f[:2] += jump
            t.g[1] -= jump
        close(got.sweep(2, 0.0), oracle.sweep(2, 0.0), 1e-11 if precision == "float64" else 2e-4)
        close(got.g, oracle.g, 1e-11 if precision == "float64" else 2e-6)


@pytest.mark.sim
def test_sweeps_end_at_the_tolerance(simulated: None) -> None:
    cost, a, b = problem()
    got, oracle = pair(cost, a, b, reg=0.5)
    for t in (got, oracle):
        t.columns()
    errors = oracle.sweep(12, 1e-6)
    assert len(errors) < 12
    close(got.sweep(12, 1e-6), errors)
    close(got.g, oracle.g)
    assert (host(got.dense()) == host(got.dense())).all()


@pytest.mark.sim
@pytest.mark.parametrize("drop", [0.1, 1e-3])
def test_the_semi_dual_agrees_with_the_oracle(simulated: None, drop: float) -> None:
    cost, a, b = problem(6, 5)
    a[1], b[2] = 0.0, 0.0
    got, oracle = pair(cost, a / a.sum(), b / b.sum(), reg=0.03)
    kernels = []
    for t, backend in ((got, None), (oracle, "reference")):
        t.columns()
        t.sweep(3, 0.0)
        kernels.append(find("sinkhorn.semidual", Operand("cpu" if backend else "cuda", "float64"), backend)(t))
    mine, other = kernels
    close(mine.evaluate(0.0, drop), other.evaluate(0.0, drop))
    for k in kernels:
        k.accept()
    assert mine.density == other.density < 1.0
    for tol in (0.5, 1e-8):
        x, y = mine.solve(0.1, tol, 40), other.solve(0.1, tol, 40)
        assert x.iterations == y.iterations
        close(x, y, 1e-11)
    close(mine.x, other.x, 1e-11)
    close(mine.evaluate(0.5, drop), other.evaluate(0.5, drop), 1e-11)
    for k in kernels:
        k.accept()
        k.update()
    close(mine.x, other.x, 1e-11)
    close(got.g, oracle.g, 1e-11)


def check_solution(got: Any, expected: Any, tol: float) -> None:
    assert (got.status, got.method, got.iterations) == (expected.status, expected.method, expected.iterations)
    close(got.history, expected.history, tol)
    for x, y in ((got.f, expected.f), (got.g, expected.g), (got.plan(), expected.plan())):
        close(host(x), host(y), tol)
    close((got.cost, got.value, got.error), (expected.cost, expected.value, expected.error), tol)


@pytest.mark.sim
@pytest.mark.parametrize("options", [{"reg": 0.2}, {"reg": 0.02, "method": "newton"}, {"reg": 0.02}, {"reg": 0.2, "max_iter": 3},
                                     {"reg": 0.1, "marginal_penalty": (0.5, np.inf)}], ids=str)
def test_solve_agrees_with_the_oracle(simulated: None, options: dict[str, Any]) -> None:
    cost, a, b = problem()
    got = sinkhorn.solve(device(cost), device(a), b, tol=1e-6, **options)
    check_solution(got, sinkhorn.solve(cost, a, b, tol=1e-6, backend="reference", **options), 1e-9)


@pytest.mark.sim
def test_solve_points_agrees_with_the_oracle(simulated: None) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.random((5, 2)), rng.random((4, 2))
    got = sinkhorn.solve_points(device(x), device(y), reg=0.2, tol=1e-6)
    check_solution(got, sinkhorn.solve_points(x, y, reg=0.2, tol=1e-6, backend="reference"), 1e-9)


@pytest.mark.sim
@pytest.mark.parametrize("feasible", [True, False])
def test_forbidden_pairs(simulated: None, feasible: bool) -> None:
    cost, a, b = problem()
    cost[:3, 2:] = np.inf
    if feasible:
        a, b = np.full(5, 0.2), np.array([0.4, 0.3, 0.2, 0.1])
    else:
        a, b = np.full(5, 0.2), np.full(4, 0.25)
    got = sinkhorn.solve(device(cost), a, b, reg=0.3, tol=1e-6, method="sinkhorn")
    expected = sinkhorn.solve(cost, a, b, reg=0.3, tol=1e-6, method="sinkhorn", backend="reference")
    assert expected.status == ("converged" if feasible else "infeasible")
    check_solution(got, expected, 1e-9)


@pytest.mark.sim
def test_rows_that_can_send_nothing(simulated: None) -> None:
    cost, a, b = problem()
    cost[1] = np.inf
    for options, status in (({}, "infeasible"), ({"marginal_penalty": 0.5}, "converged")):
        got = sinkhorn.solve(device(cost), a, b, reg=0.3, tol=1e-6, **options)
        assert got.status == status
        check_solution(got, sinkhorn.solve(cost, a, b, reg=0.3, tol=1e-6, backend="reference", **options), 1e-9)


@pytest.mark.sim
@pytest.mark.parametrize("shared", [False, True])
def test_batches(simulated: None, shared: bool) -> None:
    """A block a problem: the same fixed points; a hard problem is finished by the driver."""
    rng = np.random.default_rng(4)
    costs, a, b = rng.random((1 if shared else 3, 4, 3)), rng.random((3, 4)), rng.random((3, 3))
    a[1, 2] = 0.0
    a, b = a / a.sum(axis=1, keepdims=True), b / b.sum(axis=1, keepdims=True)
    options: dict[str, Any] = {"reg": 0.2, "tol": 1e-8} | ({"marginal_penalty": 0.5} if shared else {})
    got = sinkhorn.solve_batch(device(costs.astype(np.float32) if shared else costs), a, b, **options)
    expected = sinkhorn.solve_batch(costs.astype(np.float32) if shared else costs, a, b, backend="reference", **options)
    for x, y in zip(got, expected, strict=True):
        assert x.status == y.status == "converged"
        assert len(x.history) == x.iterations["sweeps"]
        assert x.error == x.history[-1] <= 1e-8
        close(host(x.plan()), y.plan(), 1e-7)
    hard = sinkhorn.solve_batch(device(costs), a, b, reg=0.01, tol=1e-8, max_iter=45)
    for x in hard:
        assert len(x.history) == sum(x.iterations[name] for name in ("sweeps", "newton")) <= 45
        assert (x.status == "converged") == (x.error <= 1e-8)
    again = sinkhorn.solve_batch(device(costs), a, b, init=got, **options)
    assert max(x.iterations["sweeps"] for x in again) <= 2


@pytest.mark.sim
def test_results_and_arguments_on_the_device(simulated: None) -> None:
    cost, a, b = problem()
    solution = sinkhorn.solve(device(cost), device(a), device(b), reg=0.3, tol=1e-6)
    expected = sinkhorn.solve(cost, a, b, reg=0.3, tol=1e-6, backend="reference")
    out = device(np.zeros((5, 4)))
    assert solution.plan(out=out) is out
    close(host(out), expected.plan(), 1e-9)
    close(solution.plan(sparse=True, threshold=0.05).toarray(), expected.plan(sparse=True, threshold=0.05).toarray(), 1e-9)
    close(host(solution.plan(threshold=0.05)), expected.plan(threshold=0.05), 1e-9)
    for v in (np.arange(4.0), np.ones((4, 2))):
        close(host(solution.apply(device(v))), expected.apply(v), 1e-9)
    close(host(solution.apply_transpose(np.arange(5.0))), expected.apply_transpose(np.arange(5.0)), 1e-9)
    back = pickle.loads(pickle.dumps(solution))
    close(back.f, host(solution.f), 0.0)
    close(back.plan(), expected.plan(), 1e-9)
    warm = sinkhorn.solve(device(cost), a, b, reg=0.3, tol=1e-6, init=(solution.f, solution.g))
    assert warm.status == "converged"
    assert warm.iterations["sweeps"] == 1


@pytest.mark.sim
def test_errors(simulated: None) -> None:
    cost, a, b = problem()
    with pytest.raises(fastgd.BackendError, match=r"no cuda kernel for sinkhorn\.sns_solve"):
        sinkhorn.solve(device(cost), a, b, reg=0.3, method="sns")
    with pytest.raises(TypeError, match="b is on the GPU"):
        sinkhorn.solve(cost, a, device(b), reg=0.3)
    for bad in (np.nan, -np.inf):
        wrong = cost.copy()
        wrong[1, 2] = bad
        with pytest.raises(ValueError, match=r"cost has a NaN or a -inf \(flat index 6\)"):
            sinkhorn.solve(device(wrong), a, b, reg=0.3)
    with pytest.raises(ValueError, match="x has a NaN or an Inf in row 1"):
        sinkhorn.solve_points(device(np.array([[1.0], [np.nan]])), device(np.ones((2, 1))), reg=0.3)
    with pytest.raises(ValueError, match="out is float64"):
        sinkhorn.solve(device(cost), a, b, reg=0.3, tol=1e-3).plan(out=np.zeros((5, 4)))


# ---------------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (33, 1000), (1000, 999), (2049, 130)])
@pytest.mark.parametrize("options", [{"reg": 0.05}, {"reg": 0.002, "method": "newton"}, {"reg": 0.05, "marginal_penalty": 0.3},
                                     {"reg": 0.05, "precision": "float32", "tol": 1e-5}], ids=str)
def test_a_gpu_agrees_with_the_cpu(library: str, dtype: str, n: int, m: int, options: dict[str, Any]) -> None:
    cost, a, b = problem(n, m)
    cost, options = cost.astype(dtype), {"tol": 1e-8} | options
    moved = on_gpu(cost, library, dtype)
    got, again = (sinkhorn.solve(moved, a, b, **options) for _ in range(2))
    expected = sinkhorn.solve(cost, a, b, **options)
    assert got.status == expected.status == "converged"
    assert (host(got.f) == host(again.f)).all()
    assert np.abs(host(got.plan()) - expected.plan()).max() <= 4.0 * options["tol"]
    assert abs(got.cost - expected.cost) <= 4.0 * options["tol"]


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_points_on_a_gpu(library: str, metric: str) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.random((1500, 3)), rng.random((1100, 3))
    got = sinkhorn.solve_points(on_gpu(x, library, "float64"), on_gpu(y, library, "float64"), reg=0.02, metric=metric, tol=1e-8)
    expected = sinkhorn.solve_points(x, y, reg=0.02, metric=metric, tol=1e-8)
    assert got.status == expected.status == "converged"
    assert abs(got.cost - expected.cost) <= 1e-7


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES)
def test_batches_on_a_gpu(library: str) -> None:
    costs = np.random.default_rng(6).random((256, 64, 60))
    got = sinkhorn.solve_batch(on_gpu(costs, library, "float64"), reg=0.05, tol=1e-8)
    for x, y in zip(got, sinkhorn.solve_batch(costs, reg=0.05, tol=1e-8), strict=True):
        assert x.status == y.status == "converged"
        assert np.abs(host(x.plan()) - y.plan()).max() <= 1e-7
