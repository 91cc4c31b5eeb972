"""The room's benchmark cases, and its rows of the README.

`iteration` is a full iteration, rows and columns, with its exponentials; `iterations` are sixty of them in one call from the
start, which may keep the plan; the table has the time for one entry of the cost. `solve` meets other libraries and `auto` the
room's own methods, on the problems of `problems.py`, to an L1 error of both marginals. Whoever ends without that error is not
timed: the line says how far it came. A whole solution has the time of reading its cost once as limit; its share of that says only
how many passes were made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from .. import _threads, sinkhorn
from .._dispatch import Operand, find
from ..bench.case import Case, KernelFacts
from . import peers, problems
from .sweeps.points import Points

#: A peer's error may be so many times the one asked for: its own test is of another norm.
SLACK = 2.0
#: Vector operations for an entry of a sweep: exponent 3, exponential 22 (16 in float32), sums 3; points: 3 a dimension more.
OPERATIONS, OPERATIONS_SINGLE = 28, 22
#: Full iterations a call, by the number of rows; of costs that are stored, and of points.
COUNTS = {64: 50, 500: 50, 1000: 20, 2000: 10, 8000: 2}
POINT_COUNTS = {64: 50, 2000: 2, 20000: 1}

Inputs = dict[str, Any]


def _size(n: int) -> str:
    return "tiny" if n < 100 else "small" if n <= 500 else "medium" if n <= 2000 else "large"


# --------------------------------------------------------------------------------------------------------- checking


def _error(answer: Any, inputs: Inputs) -> float:
    """The L1 error of a plan, or of potentials in units of the cost, by NumPy."""
    if isinstance(answer, np.ndarray):
        plan = answer
    else:
        f, g = (answer.f, answer.g) if isinstance(answer, sinkhorn.Solution) else answer
        cost = inputs["cost"] if "cost" in inputs else _distances(inputs)
        plan = np.exp((f[:, None] + g - cost) / inputs["reg"])
    error = float(np.abs(plan.sum(axis=1) - inputs["a"]).sum() + np.abs(plan.sum(axis=0) - inputs["b"]).sum())
    return error if error == error else float("inf")


def _distances(inputs: Inputs) -> np.ndarray:
    cost: np.ndarray = ((inputs["x"][:, None, :] - inputs["y"][None, :, :]) ** 2).sum(axis=2)
    return cost


def _judge(inputs: Inputs, answer: Any) -> str:
    """What is wrong with a peer's answer."""
    error = _error(answer, inputs)
    return "" if error <= SLACK * inputs["tol"] else f"error {error:.2g} of {inputs['tol']:g}"


def _solved(solution: Any, inputs: Inputs) -> float:
    """The error that was asked for, measured anew, and the known cost of the plan to the digits known."""
    if solution.status != "converged":
        return float("inf")
    tol, known = inputs["tol"], inputs.get("known", 0.0)
    errors = [_error(solution, inputs) / (1.001 * tol + 1e-13)]
    if known:
        errors.append(abs(solution.cost - known) / (tol + 5e-8 * known))
    return max(errors)


def _given(inputs: Inputs) -> Inputs:
    return inputs


def _case(name: str, n: int, **fields: Any) -> Case:
    """Defaults of the room: what is too long for the reference is not timed there."""
    default: Inputs = {"room": "sinkhorn", "name": name, "size": _size(n), "dtype": "float64", "flops": 0, "roof": "read",
                       "reference": _given, "reference_s": 6e-6 * n * n, "device_inputs": (), "default": n < 100}
    return Case(**{**default, **fields})


# ------------------------------------------------------------------------------------------------------- iterations


@lru_cache(maxsize=1)
def _uniform(n: int, dtype: str, dimension: int) -> Inputs:
    """Random costs, or points; nothing writes to them."""
    rng, weights = np.random.default_rng(0), problems.uniform(n)
    if dimension:
        made: Inputs = {"x": rng.random((n, dimension)), "y": rng.random((n, dimension)), "reg": 0.05}
    else:
        made = {"cost": rng.random((n, n)).astype(dtype), "reg": 0.01}
    return {**made, "a": weights, "b": weights}


def _transport(inputs: Inputs, backend: str | None, precision: str, num_threads: int | None) -> Any:
    cost = inputs["cost"] if "cost" in inputs else Points(inputs["x"], inputs["y"], "sqeuclidean", 1.0)
    dtype = str(cost.dtype) if isinstance(cost, np.ndarray) else "float64"
    threads = _threads.budget(num_threads, 8 * len(inputs["a"]) * len(inputs["b"]))
    transport = find("sinkhorn.transport", Operand("cpu", dtype), backend)(
        cost, inputs["a"], inputs["b"], reg=inputs["reg"], precision=precision, threads=threads)
    transport.columns()
    return transport


def _iterate(precision: str, inputs: Inputs, backend: str, num_threads: int | None) -> Any:
    """So many full iterations, each alone, on one transport that goes on; or all at once, from the start."""
    key = backend, num_threads
    if key not in inputs["made"]:
        transport = _transport(inputs, backend, precision, num_threads)
        inputs["made"][key] = transport, transport.f.copy(), transport.g.copy()
    transport, f, g = inputs["made"][key]
    if inputs["at_once"]:
        transport.f[:], transport.g[:] = f, g
        transport.sweep(inputs["count"], -1.0)
    else:
        for _ in range(inputs["count"]):
            transport.sweep(1, -1.0)
    return transport.f, transport.g


def _expected_iterations(inputs: Inputs) -> Any:
    """From the oracle, on the cost as it is stored."""
    return _iterate("float64", {**inputs, "made": {}}, "reference", 1)


def _same_potentials(budget: float, result: Any, expected: Any) -> float:
    """Potentials in units of reg, up to the constant that moves between them."""
    (f, g), (right_f, right_g) = result, expected
    shift = float(np.mean(f - right_f))
    return max(float(np.abs(f - shift - right_f).max()), float(np.abs(g + shift - right_g).max())) / budget


def _right_columns(budget: float, result: Any, inputs: Inputs) -> float:
    """The sums of some of the columns, which the last update made right."""
    (f, g), some = result, slice(None, None, 101)
    cost = inputs["cost"][:, some].astype(np.float64) if "cost" in inputs else _distances({**inputs, "y": inputs["y"][some]})
    sums = np.exp(f[:, None] + g[some] - cost / inputs["reg"]).sum(axis=0)
    return float(np.abs(sums / inputs["b"][some] - 1.0).max()) / budget


def _iteration(n: int, kind: str = "", dimension: int = 0) -> Case:
    """kind: "" for float64, "stored" for costs stored in float32, "float32" for arithmetic in float32."""
    dtype, count = "float32" if kind else "float64", (POINT_COUNTS if dimension else COUNTS)[n]
    others = peers.POINTS if dimension else {} if kind else peers.ITERATIONS
    slow = {"pot": "150 s an iteration"} if n == 20000 else {"pot-log": "a minute"} if n == 8000 and not kind else {}
    label = f"iteration_points/{n}x{dimension}" if dimension else f"iteration/{n}{'-stored' if kind == 'stored' else ''}"
    return _case(f"{label}-{dtype}" if kind else label, n, dtype=dtype, roof="flops", items=n * n * count,
                 params={"n": n, "iterations": count, "d": dimension},
                 setup=lambda: {**_uniform(n, dtype, dimension), "count": count, "at_once": False, "made": {}},
                 run=partial(_iterate, "float32" if kind == "float32" else "float64"),
                 reference=_given if n > 1000 else _expected_iterations,
                 check=partial(_right_columns if n > 1000 else _same_potentials, 1e-3 if kind == "float32" else 1e-9),
                 nbytes=count * (n * n * (0 if dimension else 4 if kind else 8) + 48 * n * max(dimension, 1)),
                 flops=2 * ((OPERATIONS_SINGLE if kind == "float32" else OPERATIONS) + 3 * dimension) * n * n * count,
                 peers={name: peer for name, peer in others.items() if name not in slow}, left_out=slow,
                 reference_s=1e-7 * n * n * count, default=n in (64, 1000))


def _iterations(n: int) -> Case:
    """Sixty on a cloud that needs a thousand: what a plan that is kept saves."""
    one, count = _iteration(n), 60
    return replace(one, name=f"iterations/{n}", params={"n": n, "iterations": count}, items=n * n * count,
                   setup=lambda: {**_problem("cloud.001", n), "count": count, "at_once": True, "made": {}},
                   nbytes=8 * n * n * count, reference=_expected_iterations, check=partial(_same_potentials, 1e-6),
                   flops=2 * OPERATIONS * n * n * count, peers={name: one.peers[name] for name in ("ott", "pot")})


# -------------------------------------------------------------------------------------------------------- solutions


@lru_cache(maxsize=1)
def _problem(name: str, n: int) -> Inputs:
    (cost, a, b), reg, known = problems.named(name, n)
    return {"cost": cost, "a": a, "b": b, "reg": reg, "known": known}


def _solve(method: str, inputs: Inputs, backend: str | None = None, num_threads: int | None = None,
           max_iter: int = 10_000) -> Any:
    return sinkhorn.solve(inputs["cost"], inputs["a"], inputs["b"], reg=inputs["reg"], method=method, tol=inputs["tol"],
                          max_iter=max_iter, backend=backend, num_threads=num_threads or inputs.get("num_threads"))


def _own(method: str) -> Callable[[Inputs], Any]:
    return lambda inputs: _solve(method, inputs, max_iter=30_000 if method == "sinkhorn" else 100)


OWN = {method: _own(method) for method in ("sinkhorn", "newton", "sns")}


def _solution(operation: str, name: str, n: int, tol: float) -> Case:
    others = OWN if operation == "auto" else peers.SOLVE if tol > 1e-7 else peers.SOLVE_CLOSELY
    label = f"{operation}/{name}{'' if 900 < n < 1100 else f'-{n}'}-{tol:.0e}".replace("e-0", "e-")
    return _case(label, n, params={"n": n, "tol": tol}, setup=lambda: {**_problem(name, n), "tol": tol},
                 run=partial(_solve, "auto"), check=_solved, nbytes=8 * n * n, peers=others, judge=_judge,
                 note="against the room's own methods" if operation == "auto" else "",
                 default=operation == "solve" and (n < 100 or (500 < n < 1100 and (name, tol) in DEFAULT)))


#: Problems of a run without arguments.
DEFAULT = {("cloud.001", 1e-6), ("grid2", 1e-9)}


def _solutions() -> list[Case]:
    sizes = [("cloud.01", 64), ("cloudw", 64), ("assign", 500)]
    sizes += [(name, 1024 if name.startswith("grid") else 1000) for name in problems.NAMES]
    cases = [_solution(operation, name, n, tol) for name, n in sizes for tol in (1e-6, 1e-9) for operation in ("solve", "auto")]
    return cases + [_solution(operation, name, 2000, 1e-6) for name in ("assign", "cloud.001") for operation in ("solve", "auto")]


def _sns(n: int, seed: int) -> Case:
    """Sinkhorn-Newton-Sparse's own problem: twenty sweeps, and ten Newton steps at most, to what other libraries can reach."""
    def setup() -> Inputs:
        cost, a, b = problems.assign(n, seed)
        return {"cost": cost, "a": a, "b": b, "reg": 1 / 1200, "tol": 1e-11}

    def check(solution: Any, inputs: Inputs) -> float:
        return max(_solved(solution, inputs), solution.iterations["newton"] / 10)

    return _case(f"sns/{n}-seed{seed}", n, params={"n": n, "tol": 1e-11, "seed": seed}, setup=setup, run=partial(_solve, "sns"),
                 check=check, nbytes=8 * n * n, peers=dict(peers.SECOND_ORDER), judge=_judge, default=n < 100 or not seed)


# ------------------------------------------------------------------------------------------------- points, batches


def _solve_points(inputs: Inputs, backend: str, num_threads: int) -> Any:
    return sinkhorn.solve_points(inputs["x"], inputs["y"], reg=inputs["reg"], tol=inputs["tol"], backend=backend,
                                 num_threads=num_threads)


def _points(n: int) -> Case:
    return _case(f"points/{n}x3-1e-6", n, params={"n": n, "d": 3, "tol": 1e-6}, run=_solve_points, check=_solved,
                 setup=lambda: {**_uniform(n, "", 3), "tol": 1e-6}, nbytes=48 * n, peers={"ott": peers.ott}, judge=_judge)


@lru_cache(maxsize=1)
def _stack(size: int, n: int) -> Inputs:
    return {"costs": np.stack([problems.cloud(n, seed).cost for seed in range(size)]), "a": problems.uniform(n),
            "b": problems.uniform(n), "reg": 0.01, "tol": 1e-6}


def _solve_batch(inputs: Inputs, backend: str, num_threads: int) -> Any:
    return sinkhorn.solve_batch(inputs["costs"], reg=inputs["reg"], tol=inputs["tol"], backend=backend, num_threads=num_threads)


def _each(inputs: Inputs) -> list[Inputs]:
    return [{**inputs, "cost": cost} for cost in inputs["costs"]]


def _solved_all(solutions: Any, inputs: Inputs) -> float:
    return max(_solved(solution, one) for solution, one in zip(solutions, _each(inputs), strict=True))


def _judge_all(inputs: Inputs, answers: Any) -> str:
    wrong = [why for answer, one in zip(answers, _each(inputs), strict=True) if (why := _judge(one, answer))]
    return f"{len(wrong)} of {len(answers)}, such as {wrong[0]}" if wrong else ""


def _batch(size: int, n: int) -> Case:
    return _case(f"batch/{size}x{n}", n, size="tiny" if size < 100 else "small", params={"batch": size, "n": n, "tol": 1e-6},
                 setup=lambda: dict(_stack(size, n)), run=_solve_batch, check=_solved_all, nbytes=8 * size * n * n, items=size,
                 peers=peers.BATCH, judge=_judge_all, reference_s=size * n * n * 3e-6, default=True)


CASES: list[Case] = [
    *[_iteration(n, kind) for n in (64, 500, 1000, 2000, 8000) for kind in ("", "stored", "float32")],
    _iterations(64), _iterations(1000), *[_iteration(n, dimension=3) for n in POINT_COUNTS],
    *_solutions(), *[_sns(500, seed) for seed in range(3)], _points(64), _points(2000), _batch(8, 16), _batch(256, 64),
]


def _fact(name: str, formula: str, cost: str, case: str = "", budget: str = "tol, L1", deterministic: str = "yes",
          paper: str = "", dtypes: str = "f32 f64") -> KernelFacts:
    return KernelFacts("sinkhorn", name, formula, cost, dtypes, deterministic, budget, case, paper)


KERNELS: list[KernelFacts] = [
    _fact("solve", "min ⟨C, P⟩ + reg Σ P (log P - 1), P1 = a, Pᵀ1 = b", "1 read and exp an entry and sweep, or sparse Newton",
          "solve/cloud.001-1e-6", paper="NIPS 2013, ICLR 2024"),
    _fact("solve_points", "the same, C_ij a distance, never stored", "3d and an exp an entry and sweep",
          "iteration_points/2000x3", dtypes="f64"),
    _fact("solve_batch", "many of them, a thread each", "as solve", "batch/256x64"),
    _fact("Solution", "P_ij = exp((f_i + g_j - C_ij) / reg): its entries, P v, Pᵀu", "1 pass", budget="1e-14"),
    _fact("semidiscrete", "g: averaged descent on decreasing regularisation (DRAG)", "d m a draw", deterministic="by seed",
          budget="exact", paper="NeurIPS 2025"),
    _fact("SemiDiscrete", "argmin_j c(x, y_j) - g_j", "d m a point", budget="exact"),
]
