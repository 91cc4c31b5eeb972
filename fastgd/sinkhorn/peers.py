"""The same problems through other libraries' public interfaces, for the benchmark.

Tolerances are set so that the L1 error of both marginals should be the one asked for: POT tests the L2 norm of the columns
(tol / sqrt m), regot that of the whole gradient (tol / sqrt(n + m)), OTT the L1 norm itself; geomloss has none, and gets
iterations. All of them compute in float64. What is not timed: conversions (OTT's arrays, regot's Fortran order), XLA's
compilation, plans made from potentials. A peer may work for CAP_S: it is then stopped and judged by the error it reached.

XLA takes its number of threads when it starts: that of the first case of a run, others are refused.

Inputs are `bench.case.Case` inputs: cost, a, b, reg, tol, or x, y in place of the cost, or costs; count: iterations.
"""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..bench.case import prepared

#: Seconds that a peer's solver may work on one problem.
CAP_S = 4.0
#: Iterations of OTT between looks at the clock.
BLOCK = 50

Inputs = dict[str, Any]
Work = Callable[[], Any]
_started: dict[str, int] = {}


def affordable(solve: Callable[[int], Any], probe: int = 10) -> int:
    """The number of iterations that CAP_S allows, from runs of ever more of them, the last of 20 ms at least."""
    solve(probe)
    while True:
        start = time.perf_counter()
        solve(probe)
        seconds = time.perf_counter() - start
        if seconds > 0.02 or probe > 10**5:  # or it has converged long before
            return max(probe, int(CAP_S * probe / seconds))
        probe *= 4


# -------------------------------------------------------------------------------------------------------------- POT


def _pot() -> Any:
    """POT without the backends that it would import."""
    for backend in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{backend}", "1")
    return importlib.import_module("ot")


def _pot_solver(method: str, probe: int) -> Callable[[Inputs], Work]:
    @prepared
    def peer(inputs: Inputs) -> Work:
        sinkhorn, (a, b, cost) = _pot().sinkhorn, (inputs[name] for name in ("a", "b", "cost"))
        threshold = inputs["tol"] / math.sqrt(len(b))

        def solve(count: int) -> Any:
            return sinkhorn(a, b, cost, inputs["reg"], method=method, stopThr=threshold, numItermax=count, warn=False)

        most = affordable(solve, probe)
        return lambda: solve(most)

    return peer


def _pot_iterations(method: str) -> Callable[[Inputs], Any]:
    def peer(inputs: Inputs) -> Any:
        return _pot().sinkhorn(inputs["a"], inputs["b"], inputs["cost"], inputs["reg"], method=method, stopThr=0.0,
                               numItermax=inputs["count"], warn=False)

    return peer


def pot_lazy_iterations(inputs: Inputs) -> Any:
    """POT's solver that makes the cost anew, in tiles, for each half of an iteration."""
    return _pot().bregman.empirical_sinkhorn(inputs["x"], inputs["y"], inputs["reg"], numIterMax=inputs["count"], stopThr=0.0,
                                             isLazy=True, batchSize=100, warn=False)


def pot_loop(inputs: Inputs) -> list[Any]:
    """One problem after the other."""
    sinkhorn, (a, b) = _pot().sinkhorn, (inputs["a"], inputs["b"])
    return [sinkhorn(a, b, cost, inputs["reg"], stopThr=inputs["tol"] / math.sqrt(len(b)), numItermax=10_000, warn=False)
            for cost in inputs["costs"]]


@prepared
def pot_batch(inputs: Inputs) -> Work:
    """POT's solver of batches, in the log domain, which tests the L2 norm of the worst problem's marginal."""
    batch, costs = importlib.import_module(f"{_pot().__name__}.batch"), inputs["costs"]
    a, b = (np.tile(inputs[name], (len(costs), 1)) for name in ("a", "b"))
    tol = inputs["tol"] / math.sqrt(len(inputs["a"]))

    def solve(count: int) -> Any:
        return batch.solve_batch(costs, inputs["reg"], a, b, max_iter=count, tol=tol, method="log_sinkhorn", grad="detach").plan

    most = affordable(solve)
    return lambda: list(solve(most))


# ------------------------------------------------------------------------------------------------------------ regot


def _regot_solver(name: str) -> Callable[[Inputs], Work]:
    @prepared
    def peer(inputs: Inputs) -> Work:
        """Iterations cost ever more: their number is doubled until it suffices or takes half of CAP_S."""
        solver, cost = getattr(importlib.import_module("regot"), name), np.asfortranarray(inputs["cost"])
        threshold = inputs["tol"] / math.sqrt(sum(cost.shape))

        def solve(count: int) -> Any:
            return solver(cost, inputs["a"], inputs["b"], inputs["reg"], tol=threshold, max_iter=count)

        count, seconds = 4, 0.0
        while True:
            start = time.perf_counter()
            enough = solve(count).niter < count
            seconds = time.perf_counter() - start
            if enough or seconds > CAP_S / 2:
                return lambda: solve(count).plan
            count *= 2

    return peer


@prepared
def regot_loop(inputs: Inputs) -> Work:
    """SSNS on one problem after the other."""
    solver, costs = importlib.import_module("regot").sinkhorn_ssns, [np.asfortranarray(cost) for cost in inputs["costs"]]
    threshold = inputs["tol"] / math.sqrt(sum(costs[0].shape))
    return lambda: [solver(cost, inputs["a"], inputs["b"], inputs["reg"], tol=threshold).plan for cost in costs]


# -------------------------------------------------------------------------------------------------------------- OTT


def _ott(threads: int) -> Any:
    """JAX, with XLA started on so many threads."""
    if _started.setdefault("threads", threads) != threads:
        raise RuntimeError(f"XLA was started with {_started['threads']} threads, for as long as the process lives")
    before = {name: os.environ.get(name) for name in ("NPROC", "XLA_FLAGS")}
    os.environ["NPROC"] = str(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = f"{before['XLA_FLAGS'] or ''} --xla_cpu_multi_thread_eigen=false".strip()
    try:
        jax = importlib.import_module("jax")
        jax.devices("cpu")
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    return jax


def _ott_program(inputs: Inputs, tol: float, most: int, inner: int) -> tuple[Any, Callable[..., Any], tuple[Any, ...]]:
    """JAX, a compiled call that continues from potentials for `most` iterations, and the arguments before those."""
    jax = _ott(inputs["num_threads"])
    geometry, cloud = (importlib.import_module(f"ott.geometry.{name}") for name in ("geometry", "pointcloud"))
    problem = importlib.import_module("ott.problems.linear.linear_problem").LinearProblem
    solver = importlib.import_module("ott.solvers.linear.sinkhorn").Sinkhorn(
        threshold=tol, max_iterations=most, inner_iterations=inner)
    reg, online = inputs["reg"], "x" in inputs
    names = ("x", "y", "a", "b") if online else ("cost", "a", "b")

    def run(*arguments: Any) -> Any:
        *costs, a, b, f, g = arguments
        made = (cloud.PointCloud(*costs, epsilon=reg, batch_size=1000 if len(costs[0]) > 4000 else None) if online
                else geometry.Geometry(cost_matrix=costs[0], epsilon=reg))
        out = solver(problem(made, a=a, b=b), init=(f, g))
        return out.f, out.g, out.converged

    with jax.enable_x64(True):
        arguments = tuple(jax.numpy.asarray(inputs[name]) for name in names)
    return jax, jax.jit(run), arguments


@prepared
def ott(inputs: Inputs) -> Work:
    """OTT's Sinkhorn in the log domain, compiled, in blocks of iterations that go on where the last one ended."""
    jax, run, arguments = _ott_program(inputs, inputs["tol"], BLOCK, 10)

    def solve() -> Any:
        with jax.enable_x64(True):
            f, g = (jax.numpy.zeros(len(side)) for side in arguments[-2:])
            start = time.perf_counter()
            while True:
                f, g, converged = run(*arguments, f, g)
                if converged or time.perf_counter() - start > CAP_S:
                    return np.asarray(f), np.asarray(g)

    with jax.enable_x64(True):
        jax.block_until_ready(run(*arguments, *(jax.numpy.zeros(len(side)) for side in arguments[-2:])))
    return solve


@prepared
def ott_iterations(inputs: Inputs) -> Work:
    """So many iterations, the error once at their end."""
    jax, run, arguments = _ott_program(inputs, 0.0, inputs["count"], inputs["count"])

    def work() -> Any:
        with jax.enable_x64(True):
            return jax.block_until_ready(run(*arguments, *(jax.numpy.zeros(len(side)) for side in arguments[-2:])))

    work()
    return work


@prepared
def ott_batch(inputs: Inputs) -> Work:
    """All problems at once by `vmap`: they iterate until the last one is done."""
    costs = inputs["costs"]
    jax, run, _ = _ott_program({**inputs, "cost": costs[0]}, inputs["tol"], 10_000, 10)
    with jax.enable_x64(True):
        stack, a, b = (jax.numpy.asarray(inputs[name]) for name in ("costs", "a", "b"))
        f, g = jax.numpy.zeros(len(a)), jax.numpy.zeros(len(b))
        batched = jax.jit(jax.vmap(run, in_axes=(0, None, None, None, None)))

    def work() -> Any:
        with jax.enable_x64(True):
            fs, gs, _ = batched(stack, a, b, f, g)
            return list(zip(np.asarray(fs), np.asarray(gs), strict=True))

    work()
    return work


# --------------------------------------------------------------------------------------------------------- geomloss


@prepared
def geomloss(inputs: Inputs) -> Work:
    """Its annealed, symmetric iterations: a hundred, as in its documentation."""
    solve = importlib.import_module("geomloss.ot").solve
    cost, a, b, reg = (inputs[name] for name in ("cost", "a", "b", "reg"))

    def work() -> Any:
        result = solve(cost, reg=reg, a=a, b=b, max_iter=100)
        return result.potential_a + reg * np.log(a), result.potential_b + reg * np.log(b)

    return work


SECOND_ORDER = {"regot-ssns": _regot_solver("sinkhorn_ssns"), "regot-splr": _regot_solver("sinkhorn_splr")}
#: For a tolerance that every kind of solver might reach, and for one that is left to the best of each kind (SPLR stalls above it
#: or takes longer than SSNS).
SOLVE = {"pot": _pot_solver("sinkhorn", 10), "ott": ott, **SECOND_ORDER, "pot-log": _pot_solver("sinkhorn_log", 2),
         "pot-stabilized": _pot_solver("sinkhorn_stabilized", 10), "geomloss": geomloss}
SOLVE_CLOSELY = {name: SOLVE[name] for name in ("pot", "ott", "regot-ssns")}
ITERATIONS = {"ott": ott_iterations, "pot": _pot_iterations("sinkhorn"), "pot-log": _pot_iterations("sinkhorn_log")}
POINTS = {"ott": ott_iterations, "pot": pot_lazy_iterations}
BATCH = {"pot": pot_loop, "pot-batch": pot_batch, "ott": ott_batch, "regot-ssns": regot_loop}
