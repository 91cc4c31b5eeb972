"""The driver: which kernel runs next, from what the last ones measured.

All decisions are functions of errors and densities, none of time. Where numbers count work, its unit is a sweep.

The start. Where the last of the first PROBE sweeps leaves more than SLOW of the error, epsilon is scaled down from the spread of
the costs (a warm start that is near needs none of it), and Newton follows at once if its Hessian's density, the share of the
plan's entries that it keeps, is at most SPARSE.

Else relaxed sweeps (relaxed.py) measure the gap, which says how many more of them the tolerance needs: N. The conjugate gradients
in Newton's method need about as many products, but of the kept entries only. It pays, and takes over, if N (1 - DENSE density) >
STEP (2 + log2(log tol / log error)) (1 + BUILD density), errors as shares of the mass: convergence is quadratic from the error at
hand. The density is measured when N alone exceeds the right side, and again when N has doubled. Where two steps in a row are
refused, sweeps go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .arguments import Options, Problem
from .newton.sns import SparseNewton
from .newton.steps import Newton
from .relaxed import PROBE, relax, sweeps_left
from .run import Run, centre, impossible

#: In sweeps: a product with a dense Hessian; a step of Newton beside products, and what a dense Hessian adds to it.
DENSE, STEP, BUILD = 3.0, 1.5, 4.0
#: Of a row's mass, what a Hessian leaves out whose density is measured.
DROP = 0.01
#: The ratio of two errors from which on the first sweeps are slow, and the density at which Newton then takes over.
SLOW, SPARSE = 0.88, 0.25
#: Sweeps of Sinkhorn-Newton-Sparse.
PUBLISHED = 20
#: Epsilon scaling: stages at most, what each divides epsilon by, its sweeps, and the error from which it goes on at once.
#: Newton needs a start in the right region, not an accurate one: halves with 5 sweeps cost four times as much and save a step.
STAGES, RATIO, STAGE, STAGE_ERROR = 26, 4.0, 2, 0.1
#: Newton's steps at a stage, at most, and the share of mass misplaced that calls for them: FAR, but NEAR where more stages than
#: SHORT are to come, for then potentials must move by many regularisations if they have lost the way.
STAGE_STEPS, FAR, NEAR, SHORT = 40, 0.5, 0.01, 5


def scale(run: Run, state: Any) -> None:
    """Epsilon scaling: from the spread of the costs down, a few sweeps a stage, and steps of Newton if need be."""
    t, problem = run.transport, run.problem
    stages = math.floor(math.log(min(max(problem.reach / problem.reg, 1.0), RATIO**STAGES), RATIO))
    if stages:
        t.f[problem.a > 0.0] = 0.0
        t.rescale(problem.reg * RATIO**stages)
        t.columns()
    share = FAR if stages <= SHORT else NEAR
    for stage in reversed(range(stages)):
        centre(run)
        errors = run.sweep(STAGE, enough=STAGE_ERROR * run.mass)
        if run.far(errors, share):
            approach(run, state, share)
        t.rescale(problem.reg * RATIO**stage)
    if run.status:  # before this regularisation was reached: exact rows at least
        t.rows()


def approach(run: Run, state: Any, share: float) -> None:
    """Newton's steps on a regularisation that is not the final one."""
    state.begin()
    for _ in range(STAGE_STEPS):
        step = state.step(0.0)
        run.iterations["newton"] += 1
        run.iterations["cg"] += step.cg
        run.record([step.error], -1.0)
        if not run.far([step.error], share):
            return


def newton(run: Run, state: Any, name: str, patient: bool) -> None:
    """Newton's steps until the run ends, or, unless `patient`, until two steps in a row were refused."""
    if run.status:
        return
    run.method = name
    t, quiet, refused, best = run.transport, 0, 0, math.inf
    held = t.f.copy(), t.g.copy()
    error = state.begin() if state.error == math.inf else state.error
    if error <= run.options.tol:
        run.status, run.error = "converged", error
    while not run.status:
        step = state.step(run.options.tol)
        run.iterations["newton"] += 1
        run.iterations["cg"] += step.cg
        run.record([step.error], run.options.tol)
        refused = 0 if step.accepted else refused + 1
        quiet = quiet + 1 if step.error > 0.9 * best else 0
        if step.error < best:
            best, held = step.error, (t.f.copy(), t.g.copy())
        if run.status:
            return
        if quiet >= 3 and best < run.floor():
            run.status = "stalled"
            t.f[:], t.g[:] = held
        elif run.problem.masked and quiet and impossible(run):
            run.status = "infeasible"
        elif refused >= 2 and not patient:
            run.last, run.asked = math.inf, math.inf
            return


def drive(transport: Any, problem: Problem, options: Options, init: Any, second: Second | None, feasible: bool) -> Run:
    """Solve one problem from potentials in units of reg (None: from the cost alone)."""
    run = Run(transport, problem, options)
    if init is not None:
        transport.f[:], transport.g[:] = (np.where(side > 0.0, potential, -np.inf)
                                          for potential, side in zip(init, (problem.a, problem.b), strict=True))
    else:
        transport.columns()
        transport.g[transport.g == np.inf] = 0.0  # a column that nothing can reach
    if not feasible:
        run.status = "infeasible"
    elif options.max_iter > 0:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            _iterate(run, init is not None, second)
    if run.status != "converged" or options.precision == "float32":
        run.error = float(sum(transport.error()))
        if run.status == "converged" and not run.error <= options.tol:
            run.status = "stalled"
        elif run.error <= options.tol and run.status in ("", "max_iter", "stalled"):
            run.status = "converged"
    run.status = run.status or "max_iter"
    return run


def _iterate(run: Run, warm: bool, second: Second | None) -> None:
    method = run.options.method
    if method == "sinkhorn" or second is None:
        relax(run)
    elif method == "newton":
        state = second.newton(run.transport)
        if not warm or run.far(run.sweep(1), FAR):
            scale(run, state)
        newton(run, state, "newton", patient=True)
    elif method == "sns":
        run.sweep(min(PUBLISHED, run.left))
        newton(run, second.sparse_newton(run.transport), "sns", patient=True)
    else:
        _choose(run, warm, second)


def _choose(run: Run, warm: bool, second: Second) -> None:
    """Sweeps or Newton, as they promise."""
    states: list[Any] = []
    errors = run.sweep(PROBE)
    if not run.status and len(errors) > 1 and errors[-1] > SLOW * errors[-2]:
        state = second.newton(run.transport)
        if not warm or run.far(errors, FAR):
            scale(run, state)
        if not run.status:
            state.begin()
            if state.density <= SPARSE:
                states.append(state)

    def pays(run: Run) -> bool:
        """Whether Newton costs less than the relaxed sweeps that are left; its density is measured when that may decide."""
        left, share = sweeps_left(run), run.last / run.mass
        if share > 0.5 or left <= 0.0:
            return False
        steps = STEP * (2.0 + math.log2(max(1.0, math.log(max(run.options.tol / run.mass, 1e-16)) / math.log(share))))
        if left < max(steps, 2.0 * run.asked):
            return False
        state = second.newton(run.transport)
        state.begin(DROP)
        density = state.density
        if left * (1.0 - DENSE * density) > steps * (1.0 + BUILD * density):
            states.append(state)
            return True
        run.asked = left
        return False

    while not run.status:
        if not states:
            relax(run, pays)
        if states:
            newton(run, states.pop(), "newton", patient=False)


class Second(NamedTuple):
    """The backend's second-order kernels."""

    semidual: Callable[[Any], Any]
    solve: Any  #: of Sinkhorn-Newton-Sparse, where that was asked for, else None

    def newton(self, transport: Any) -> Newton:
        """Newton's method on the semi-dual, not begun."""
        return Newton(self.semidual(transport))

    def sparse_newton(self, transport: Any) -> SparseNewton:
        """The second stage of Sinkhorn-Newton-Sparse, not begun."""
        return SparseNewton(transport, self.solve)
