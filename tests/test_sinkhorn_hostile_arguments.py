"""Bad arguments to `fastgd.sinkhorn` are refused by name, odd ones are refused or right; callbacks, threads, forks, copies."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import sinkhorn_oracle as oracle
from sinkhorn_oracle import check, refuses, uniform

from fastgd import BackendError, sinkhorn

pytestmark = pytest.mark.timeout(120)

nan, inf = math.nan, math.inf
METHODS = ("auto", "sinkhorn", "newton", "sns")
COST, A, B = oracle.random_problem(np.random.default_rng(0), 4, 5)


def changed(x: np.ndarray, value: float) -> np.ndarray:
    x = np.array(x, float)
    x.flat[-1] = value
    return x


NO_COST = {
    "NaN": changed(COST, nan),
    "-Inf": changed(COST, -inf),
    "float32 NaN": changed(COST, nan).astype(np.float32),
    "one row": COST[0],
    "three axes": COST[None],
    "scalar": np.float64(1.0),
    "no rows": COST[:0],
    "no columns": COST[:, :0],
    "nothing": np.zeros((0, 0)),
    "bool": COST > 0.5,
    "complex": COST + 0j,
    "strings": COST.astype(str),
    "objects": np.full((4, 5), None),
    "dates": np.zeros((4, 5), "datetime64[D]"),
    "masked": np.ma.masked_array(COST, COST > 0.5),
    "None": None,
    "string": "cost",
    "dictionary": {0: COST},
    "number": 3.0,
}


def no_marginal(w: np.ndarray) -> dict[str, Any]:
    return {
        "negative": np.r_[w[0] + w[1] + 0.1, -0.1, w[2:]],
        "just negative": changed(w, -5e-324),
        "NaN": changed(w, nan),
        "Inf": changed(w, inf),
        "-Inf": changed(w, -inf),
        "short": w[:-1],
        "long": np.r_[w, 0.0],
        "column": w[:, None],
        "row": w[None],
        "empty": w[:0],
        "scalar": 1.0,
        "complex": w + 0j,
        "strings": w.astype(str),
        "masked": np.ma.masked_array(w, w > 0.5),
        "string": "w",
        "dictionary": {0: w},
        "other sum": 1.1 * w,
        "just another sum": w * (1 + 3e-6),
        "nothing": 0 * w,
        "overflowing sum": np.full(len(w), 1e308),
    }


NO_REG = [0, 0.0, -0.0, -1.0, nan, inf, -inf, "0.1", b"1", None, 1j, True, [0.1], np.array([0.1, 0.2]), object()]
NO_TOL = [-1e-9, nan, -inf, "1e-9", None, 1j, [1e-9], np.array([1e-9, 1e-8]), object()]
NO_COUNT = [-1, 1.5, nan, "10", None, 1j, [10], object(), True, -(2**70)]
NO_NAME = ["", "Auto", "log", None, 1, True, b"auto", ["auto"], np.array(["auto", "auto"]), object()]
NO_PENALTY = [0, 0.0, -1.0, nan, -inf, "1", True, 1j, object(), (1.0,), (1.0, 2.0, 3.0), (1.0, -1.0), (nan, 1.0), (0.0, 1.0)]
NO_PENALTY += [(), [[1.0, 2.0]]]
NO_INIT = {
    "one": (np.zeros(4),),
    "three": (np.zeros(4), np.zeros(5), np.zeros(5)),
    "short f": (np.zeros(3), np.zeros(5)),
    "long g": (np.zeros(4), np.zeros(6)),
    "swapped": (np.zeros(5), np.zeros(4)),
    "NaN in f": (changed(np.zeros(4), nan), np.zeros(5)),
    "NaN in g": (np.zeros(4), changed(np.zeros(5), nan)),
    "+Inf": (np.zeros(4), changed(np.zeros(5), inf)),
    "two axes": (np.zeros((4, 1)), np.zeros((5, 1))),
    "strings": (np.array(["0"] * 4), np.zeros(5)),
    "complex": (np.zeros(4, complex), np.zeros(5)),
    "None inside": (None, np.zeros(5)),
    "string": "fg",
    "number": 1.0,
    "array": np.zeros(9),
    "true": True,
}


# ---------------------------------------------------------------------------------------------------------------- solve


@pytest.mark.parametrize("bad", NO_COST.values(), ids=NO_COST)
def test_costs_are_refused(bad: Any, backend: str) -> None:
    refuses("cost", sinkhorn.solve, bad, reg=0.1, backend=backend)
    if isinstance(bad, np.ndarray) and bad.ndim == 2 and bad.size:
        stack = np.ma.stack if np.ma.isMaskedArray(bad) else np.stack
        refuses(["costs", "cost"], sinkhorn.solve_batch, stack([bad, bad]), reg=0.1, backend=backend)


@pytest.mark.parametrize("name", no_marginal(A))
def test_marginals_are_refused(name: str, backend: str) -> None:
    for k, argument in enumerate("ab"):
        bad: list[Any] = [A, B]
        bad[k] = no_marginal(bad[k])[name]
        either = "sum" in name or name == "nothing"
        refuses(["a", "b"] if either else argument, sinkhorn.solve, COST, *bad, reg=0.1, backend=backend)
        if name not in ("row", "scalar", "dictionary"):
            refuses(["a", "b"], sinkhorn.solve_batch, np.stack([COST, COST]), *bad, reg=0.1, backend=backend)
            refuses(["a", "b"], sinkhorn.solve_points, np.ones((4, 2)), np.ones((5, 2)), *bad, reg=0.1, backend=backend)


def test_numbers_are_refused(backend: str) -> None:
    for name, table in (("reg", NO_REG), ("tol", NO_TOL), ("max_iter", NO_COUNT), ("marginal_penalty", NO_PENALTY),
                        ("method", NO_NAME), ("precision", [*NO_NAME, "float16", "double", "auto"])):
        for bad in table:
            options = {"reg": 0.1, "backend": backend} | {name: bad}
            refuses(name, sinkhorn.solve, COST, A, B, **options)
            refuses(name, sinkhorn.solve_points, np.ones((4, 2)), np.ones((5, 2)), A, B, **options)
            refuses(name, sinkhorn.solve_batch, COST[None], A, B, **options)
    with pytest.raises(TypeError, match="reg"):
        sinkhorn.solve(COST, A, B)
    with pytest.raises(TypeError):
        sinkhorn.solve(COST, A, B, 0.1)  # keyword-only
    with pytest.raises(TypeError):
        sinkhorn.solve(COST, A, B, reg=0.1, epsilon=0.2)


@pytest.mark.parametrize("bad", NO_INIT.values(), ids=NO_INIT)
def test_starts_are_refused(bad: Any, backend: str) -> None:
    refuses("init", sinkhorn.solve, COST, A, B, reg=0.1, init=bad, backend=backend)
    refuses("init", sinkhorn.solve_points, np.ones((4, 2)), np.ones((5, 2)), A, B, reg=0.1, init=bad, backend=backend)


def test_other_arguments_are_refused(backend: str) -> None:
    other = sinkhorn.solve(COST.T.copy(), B, A, reg=0.1, backend=backend)
    refuses("init", sinkhorn.solve, COST, A, B, reg=0.1, init=other, backend=backend)
    for bad in (3, "print", True, [print], object()):
        refuses("callback", sinkhorn.solve, COST, A, B, reg=0.1, callback=bad, backend=backend)
    for bad in ("gpu", "", 3, b"cpu", True):
        refuses("backend", sinkhorn.solve, COST, A, B, reg=0.1, backend=bad)
    for bad in (0, -1, 1.5, "2", True):
        refuses("num_threads", sinkhorn.solve, COST, A, B, reg=0.1, num_threads=bad, backend=backend)
    for method in ("newton", "sns"):  # second order is for fixed marginals: refused, or right
        try:
            solution = sinkhorn.solve(COST, A, B, reg=0.1, marginal_penalty=1.0, method=method, backend=backend)
        except ValueError as error:
            assert "marginal_penalty" in str(error) or "method" in str(error)
            continue
        assert oracle.residual(COST, solution.f, solution.g, A, B, 0.1, (1.0, 1.0)) < 1e-6


def test_mismatched_masses_are_welcome_under_a_penalty_alone(backend: str) -> None:
    refuses(["a", "b"], sinkhorn.solve, COST, A, 1.01 * B, reg=0.1, backend=backend)
    assert sinkhorn.solve(COST, A, 3 * B, reg=0.1, marginal_penalty=1.0, backend=backend).status == "converged"
    for name in ("negative", "NaN", "Inf", "short"):
        refuses("a", sinkhorn.solve, COST, no_marginal(A)[name], B, reg=0.1, marginal_penalty=1.0, backend=backend)


def test_refused_calls_change_nothing(backend: str) -> None:
    cost, a, b, init = COST.copy(), A.copy(), B * (1 + 5e-7), (np.zeros(4), np.zeros(5))
    kept = [x.tobytes() for x in (cost, a, b, *init)]
    for bad in ({"tol": nan}, {"max_iter": -1}, {"method": "x"}, {"marginal_penalty": -1.0}, {"num_threads": 0}):
        with pytest.raises((ValueError, TypeError)):
            sinkhorn.solve(cost, a, b, reg=0.1, init=init, backend=backend, **bad)
    assert kept == [x.tobytes() for x in (cost, a, b, *init)]


# ------------------------------------------------------------------------------------------------------- points, batches


def test_points_are_refused(backend: str) -> None:
    good = np.ones((4, 2))
    masked = np.ma.masked_array(good, good > 0)
    shapes, types = (good[0], good[None], good[:0], good[:, :0]), (good + 0j, good > 0, good.astype(str), masked, None, "x", 1.0)
    for bad in (changed(good, nan), changed(good, inf), *shapes, *types):
        refuses(["x", "y"], sinkhorn.solve_points, bad, good, reg=0.1, backend=backend)
        refuses(["y", "x"], sinkhorn.solve_points, good, bad, reg=0.1, backend=backend)
    refuses(["y", "x"], sinkhorn.solve_points, good, np.ones((4, 3)), reg=0.1, backend=backend)
    for bad in ("cosine", "", None, 2, b"euclidean", ["euclidean"]):
        refuses("metric", sinkhorn.solve_points, good, good, reg=0.1, metric=bad, backend=backend)
    for bad in (nan, inf, "1", None, 1j, [1.0], True):
        refuses("scale", sinkhorn.solve_points, good, good, reg=0.1, scale=bad, backend=backend)


def test_batches_are_refused(backend: str) -> None:
    costs, a, b = np.stack([COST, COST, COST]), np.stack([A, A, A]), np.stack([B, B, B])
    for bad in (COST, costs[None], COST[0], None, "costs", changed(costs, nan), changed(costs, -inf), costs[:, :0], costs + 0j):
        refuses(["costs", "cost"], sinkhorn.solve_batch, bad, reg=0.1, backend=backend)
    for bad in (a[:2], np.r_[a, a], a[:, :3], a.T, changed(a, nan), changed(a, -1.0), a[..., None], 2 * a):
        refuses(["a", "b", "costs"], sinkhorn.solve_batch, costs, bad, b, reg=0.1, backend=backend)
    for bad in (b[:2], b[:, :3], changed(b, nan), changed(b, -1.0), changed(b, 7.0)):
        refuses(["b", "a", "costs"], sinkhorn.solve_batch, costs, a, bad, reg=0.1, backend=backend)


def test_vectors_of_products_are_checked(backend: str) -> None:
    solution = sinkhorn.solve(COST, A, B, reg=0.1, backend=backend)
    for product, size, names in ((solution.apply, 5, ["v", "u"]), (solution.apply_transpose, 4, ["u", "v"])):
        for bad in (np.ones(size + 1), np.ones(size - 1), np.ones(0), 1.0, None, "v", np.ones(size) + 0j, np.array(["1"] * size)):
            refuses(names, product, bad)
        v = np.random.default_rng(0).random(size)
        wide = np.zeros(2 * size)
        wide[::2] = v
        np.testing.assert_array_equal(product(wide[::2]), product(v))
    for bad in (nan, -1.0, "0", None, 1j, [0.1]):
        refuses("threshold", solution.plan, sparse=True, threshold=bad)


# ------------------------------------------------------------------------------------------------------ refused or right


def soft(names: list[str], call: Callable[[], Any]) -> Any:
    """Refused by name, or a result: where the contract leaves the choice."""
    try:
        return call()
    except BackendError:
        return None
    except (ValueError, TypeError):
        refuses(names, call)
        return None


@pytest.mark.parametrize("kind", ["int64", "int8", "float16", ">f8", "list", "float128", "subclass"])
def test_other_types_of_costs(kind: str, backend: str) -> None:
    cost = np.round(3 * COST)
    special = {"list": cost.tolist(), "subclass": cost.view(type("Mine", (np.ndarray,), {}))}
    made = special[kind] if kind in special else cost.astype(kind)
    solution = soft(["cost"], lambda: sinkhorn.solve(made, A, B, reg=0.5, tol=1e-10, backend=backend))
    if solution is not None:
        assert solution.status == "converged"
        check(solution, cost, A, B, 0.5, tol=1e-10)


@pytest.mark.parametrize("kind", ["list", "float32", "int", "bool", ">f8", "tuple"])
def test_other_types_of_marginals(kind: str, backend: str) -> None:
    whole = np.array([1.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    a, b = ((w.tolist() if kind == "list" else tuple(w) if kind == "tuple" else w.astype(kind)) for w in whole)
    solution = soft(["a", "b"], lambda: sinkhorn.solve(COST, a, b, reg=0.5, tol=1e-10, backend=backend))
    if solution is not None:
        assert solution.status == "converged"
        check(solution, COST, *whole, 0.5, tol=1e-10)


def test_numpy_scalars_are_numbers(backend: str) -> None:
    plain = sinkhorn.solve(COST, A, B, reg=0.25, tol=2.0**-30, max_iter=50, backend=backend)
    numpy = sinkhorn.solve(COST, A, B, reg=np.float64(0.25), tol=np.float32(2.0**-30), max_iter=np.int64(50), backend=backend)
    assert plain.f.tobytes() == numpy.f.tobytes() and plain.status == numpy.status


def test_one_marginal_given(backend: str) -> None:
    for given in ((A, None), (None, B)):
        solution = sinkhorn.solve(COST, *given, reg=0.1, tol=1e-10, backend=backend)
        assert solution.status == "converged"
        check(solution, COST, uniform(4) if given[0] is None else A, uniform(5) if given[1] is None else B, 0.1, tol=1e-10)


def test_a_tolerance_of_zero_is_refused_or_never_reached(backend: str) -> None:
    problem = oracle.random_problem(np.random.default_rng(3), 30, 31)
    solution = soft(["tol"], lambda: sinkhorn.solve(*problem, reg=0.1, tol=0.0, max_iter=3000, backend=backend))
    if solution is not None:
        assert solution.status == "stalled" or solution.error == 0
        check(solution, *problem, 0.1, tol=0.0)


def test_a_generous_tolerance_takes_the_first_look(backend: str) -> None:
    for tol in (2.5, 1e9):
        solution = sinkhorn.solve(COST, A, B, reg=0.1, tol=tol, max_iter=1, backend=backend)
        assert solution.error <= 2.5
        check(solution, COST, A, B, 0.1, tol=tol)


# -------------------------------------------------------------------------------------------------------------- callbacks


class Mine(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_callbacks_that_raise(method: str, backend: str) -> None:
    """The exception comes through, at any iteration, and the next call is none the worse for it."""
    problem = oracle.assign(25, 3)
    plain = sinkhorn.solve(*problem, reg=5e-3, tol=1e-9, method=method, backend=backend)
    for when in (1, 2, 5):
        seen = []

        def raises(iteration: int, error: float, when: int = when, seen: list[float] = seen) -> None:
            seen.append(error)
            if len(seen) == when:
                raise Mine

        with pytest.raises(Mine):
            sinkhorn.solve(*problem, reg=5e-3, tol=1e-9, method=method, callback=raises, backend=backend)
        assert len(seen) == when
    again = sinkhorn.solve(*problem, reg=5e-3, tol=1e-9, method=method, backend=backend)
    assert again.f.tobytes() == plain.f.tobytes() and again.history.tobytes() == plain.history.tobytes()


def test_callbacks_that_return_odd_things(backend: str) -> None:
    """True stops, and NumPy's too; nothing, False and 0 do not."""
    problem = oracle.assign(25, 3)
    for value, stops in ((True, True), (np.True_, True), (None, False), (False, False), (0, False), (np.False_, False)):
        solution = sinkhorn.solve(*problem, reg=5e-3, max_iter=9, tol=1e-12, callback=lambda i, e, v=value: v, backend=backend)
        assert (solution.status == "stopped") is stops and len(solution.history) == (1 if stops else 9), value
    for value in ("", "no", 2, [], {}, object(), nan):
        solution = sinkhorn.solve(*problem, reg=5e-3, max_iter=9, tol=1e-12, callback=lambda i, e, v=value: v, backend=backend)
        assert solution.status in ("stopped", "max_iter")


def test_callbacks_that_solve_and_that_take_the_wrong_arguments(backend: str) -> None:
    inner = sinkhorn.solve(COST, A, B, reg=0.1, backend=backend)

    def nested(iteration: int, error: float) -> None:
        assert sinkhorn.solve(COST, A, B, reg=0.1, backend=backend).f.tobytes() == inner.f.tobytes()

    problem = oracle.assign(12, 3)
    watched = sinkhorn.solve(*problem, reg=0.05, callback=nested, backend=backend)
    plain = sinkhorn.solve(*problem, reg=0.05, callback=lambda i, e: None, backend=backend)
    assert watched.f.tobytes() == plain.f.tobytes()
    with pytest.raises(TypeError):
        sinkhorn.solve(*problem, reg=0.05, callback=lambda: None, backend=backend)


def test_a_callback_with_no_iterations_is_not_called(backend: str) -> None:
    def never(iteration: int, error: float) -> bool:
        raise AssertionError("called")

    sinkhorn.solve(COST, A, B, reg=0.1, max_iter=0, callback=never, backend=backend)


# ------------------------------------------------------------------------------------------------------- threads, copies


def test_concurrent_calls_have_the_bits_of_serial_ones() -> None:
    """Many threads at once, on the same arrays, each with threads of its own."""
    made = [oracle.assign(80 + k, k) for k in range(8)]
    alone = [sinkhorn.solve(*problem, reg=0.01, tol=1e-8) for problem in made]
    shared = made[0]
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda problem: sinkhorn.solve(*problem, reg=0.01, tol=1e-8, num_threads=2), made * 2))
        same = list(pool.map(lambda _: sinkhorn.solve(*shared, reg=0.01, tol=1e-8), range(8)))
        plans = list(pool.map(lambda _: alone[0].plan().tobytes(), range(8)))
    for run, one in zip(runs, alone * 2, strict=True):
        assert run.f.tobytes() == one.f.tobytes() and run.history.tobytes() == one.history.tobytes()
    assert {run.f.tobytes() for run in same} == {alone[0].f.tobytes()} and len(set(plans)) == 1


def test_a_solution_is_used_from_another_thread(backend: str) -> None:
    solution, out = sinkhorn.solve(COST, A, B, reg=0.1, backend=backend), []
    worker = threading.Thread(target=lambda: out.append(solution.apply(np.ones(5))))
    worker.start()
    worker.join()
    np.testing.assert_array_equal(out[0], solution.apply(np.ones(5)))


def test_a_forked_child_solves(run_python: Callable[..., Any]) -> None:
    code = """
import os, numpy as np
from fastgd import sinkhorn
cost = np.random.default_rng(0).random((600, 620))
one = sinkhorn.solve(cost, reg=0.05, max_iter=20, num_threads=2)
child = os.fork()
if child == 0:
    two = sinkhorn.solve(cost, reg=0.05, max_iter=20, num_threads=2)
    os._exit(0 if two.f.tobytes() == one.f.tobytes() else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    run_python(code)


def test_copies_and_representations(backend: str) -> None:
    """A solution can be shown; copied or pickled it is the same, or refused with a clear error: never a crash."""
    solution = sinkhorn.solve(COST, A, B, reg=0.1, backend=backend)
    assert "converged" in repr(solution) and len(repr(solution)) < 2000
    for copied in (copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))):
        try:
            other = copied(solution)
        except TypeError as error:
            assert len(str(error)) > 10
            continue
        assert other.f.tobytes() == solution.f.tobytes() and other.status == solution.status
        np.testing.assert_array_equal(other.plan(), solution.plan())


def test_torch_costs(backend: str) -> None:
    torch = pytest.importorskip("torch")
    cost = torch.from_numpy(COST.copy())
    plain = sinkhorn.solve(COST, A, B, reg=0.1, tol=1e-10, backend=backend)
    solution = sinkhorn.solve(cost, A, B, reg=0.1, tol=1e-10, backend=backend)
    np.testing.assert_array_equal(np.asarray(solution.f), plain.f)
    refuses("cost", sinkhorn.solve, torch.from_numpy(COST.copy()).requires_grad_(), A, B, reg=0.1, backend=backend)
    refuses("cost", sinkhorn.solve, cost.to_sparse(), A, B, reg=0.1, backend=backend)
