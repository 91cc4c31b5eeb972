"""The driver: which kernel runs next, from what the last ones measured. All decisions are functions of the errors alone.

Relaxed sweeps. Sinkhorn's error shrinks by q = sigma^2 a sweep in the end, sigma the second singular value of diag(a)^-1/2 P
diag(b)^-1/2. With the gap 1 - q, moving potentials by omega = 2 / (1 + sqrt(gap)) times their step shrinks it by omega - 1 =
(1 - sqrt(gap)) / (1 + sqrt(gap)): a square root of the count. The gap is not known, but measured: a rate r above omega - 1
means q = (r + omega - 1)^2 / (r omega^2); at a rate of omega - 1 omega may be too large, and the gap is taken larger.

Newton. The conjugate gradients inside need about as many products as relaxed sweeps are left, but of the kept entries only. It
pays if N_left (1 - DENSE density) > STEP (2 + log2(log tol / log error)) (1 + BUILD density), in sweeps: quadratic
convergence from the error at hand.

The start. Where the first PROBE sweeps hardly contract, epsilon is scaled down from the spread of the costs first, and Newton
follows at once if its Hessian is sparse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._arrays import is_on_device
from . import device
from .arguments import Options, Problem
from .newton.sns import SparseNewton
from .newton.steps import Newton

#: Sweeps between decisions: the first ones plain, later ones over-relaxed.
FIRST, CHUNK = 8, 12
#: Of the gap: what a rate that is no worse than predicted makes of it, and the most it falls at once.
RISE, FALL = 1.3, 6.0
#: Where over-relaxation failed, gaps count as four times as large; and this much less so after each block that went well.
TRUST = 0.9
#: Above this gap plain sweeps contract fast enough.
EASY = 0.8
#: In sweeps: a product with a dense Hessian; a step of Newton beside products, and what a dense Hessian adds to it.
DENSE, STEP, BUILD = 3.0, 1.5, 4.0
#: Of a row's mass, what a Hessian leaves out whose density is measured.
DROP = 0.01
#: The first sweeps of all, the ratio of two errors from which on they are slow, and the density at which Newton then takes over.
PROBE, SLOW, SPARSE = 3, 0.88, 0.25
#: A common constant of the potentials, in units of reg, that is left alone.
OFF = 32.0
#: Sweeps of Sinkhorn-Newton-Sparse.
PUBLISHED = 20
#: Epsilon scaling: stages at most, what each divides epsilon by, its sweeps, and the error from which it goes on at once.
#: Newton needs a start in the right region, not an accurate one: halves with 5 sweeps cost four times as much and save a step.
STAGES, RATIO, STAGE, STAGE_ERROR = 26, 4.0, 2, 0.1
#: Newton's steps at a stage, at most, and the share of mass misplaced that calls for them: FAR, but NEAR where more stages than
#: SHORT are to come, for then potentials must move by many regularisations if they have lost the way.
STAGE_STEPS, FAR, NEAR, SHORT = 40, 0.5, 0.01, 5


class Run:
    """One problem on its way: the transport holds the potentials; here are the counts and why it ended."""

    def __init__(self, transport: Any, problem: Problem, options: Options) -> None:
        self.transport, self.problem, self.options = transport, problem, options
        self.history: list[float] = []
        self.iterations = {"sweeps": 0, "newton": 0, "cg": 0}
        self.method, self.status = "sinkhorn", ""
        self.gap, self.rate, self.last, self.error = 1.0, 1.0, math.inf, math.inf
        self.least = 0.0  # of the gap: where a smaller one took over-relaxation too far
        self.asked = 0.0  # the sweeps left when Newton was last found too dear

    @property
    def left(self) -> int:
        """Iterations that may still be made."""
        return self.options.max_iter - len(self.history)

    def sweep(self, count: int, relax: float = 1.0, final: bool = True) -> list[float]:
        """Up to `count` sweeps; their errors. Only on the `final` regularisation can they converge."""
        tol = self.options.tol if final else STAGE_ERROR * float(self.problem.a.sum())
        count = min(count, self.left)
        errors: list[float] = []
        while len(errors) < count and not self.status:
            block = self.transport.sweep(1 if self.options.callback else count, tol, relax).tolist()
            errors += block
            self.iterations["sweeps"] += len(block)
            self.record(block, tol if final else -1.0)
            if not self.options.callback or block[-1] <= tol:
                break
        return errors

    def record(self, errors: list[float], tol: float) -> None:
        """Counts iterations, and ends the run where one of them ends it."""
        self.history += errors
        if errors and errors[-1] <= tol:
            self.status, self.error = "converged", errors[-1]
        if self.options.callback and errors:
            answer = self.options.callback(len(self.history), errors[-1])
            if isinstance(answer, bool | np.bool_) and answer and not self.status:
                self.status = "stopped"
        if self.left <= 0 and not self.status:
            self.status = "max_iter"

    def floor(self) -> float:
        """An error that rounding alone may cause; what it causes is some ten times less."""
        size = 1.0 + max(float(np.abs(p[np.isfinite(p)]).max(initial=0.0)) for p in (self.transport.f, self.transport.g))
        unit = 2.0**-23 if self.options.precision == "float32" else 2.0**-52
        return 2.0 * unit * size * float(self.problem.a.sum())

    def potential(self) -> float:
        """The dual objective in units of reg, which every exact update increases."""
        t, total = self.transport, -self.transport.summary()[1]
        for potential, marginal, tau in zip((t.f, t.g), (t.a, t.b), t.tau, strict=True):
            live = marginal > 0.0
            p, mass = potential[live], marginal[live]
            total += float(mass @ p) if tau == 1.0 else tau / (1.0 - tau) * float(-mass @ np.expm1(p * (1.0 - 1.0 / tau)))
        return total


def scale(run: Run, state: Any) -> None:
    """Epsilon scaling: from the spread of the costs down, a few sweeps at each, and steps of Newton if need be."""
    t, problem = run.transport, run.problem
    stages = math.floor(math.log(min(max(problem.reach / problem.reg, 1.0), RATIO**STAGES), RATIO))
    if stages:
        t.f[problem.a > 0.0] = 0.0
        t.rescale(problem.reg * RATIO**stages)
        t.columns()
    share = FAR if stages <= SHORT else NEAR
    for stage in reversed(range(stages)):
        centre(run)
        errors = run.sweep(STAGE, final=False)
        if far(run, errors, share):
            approach(run, state, share)
        t.rescale(problem.reg * RATIO**stage)


def approach(run: Run, state: Any, share: float) -> None:
    """Newton's steps on a regularisation that is not the final one."""
    state.begin()
    for _ in range(STAGE_STEPS):
        step = state.step(0.0)
        run.iterations["newton"] += 1
        run.iterations["cg"] += step.cg
        run.record([step.error], -1.0)
        if not far(run, [step.error], share):
            return


def far(run: Run, errors: list[float], share: float = FAR) -> bool:
    """Whether more than this share of the mass is misplaced."""
    return not run.status and not errors[-1] <= share * float(run.problem.a.sum())


def centre(run: Run) -> None:
    """Moves a constant from one potential to the other: where it costs both their digits, or, penalised, to the best place.

    That maximises the dual objective over t of f + t, g - t, along which sweeps are slow where the penalties are much above reg:
    t = rho_a rho_b / (rho_a + rho_b) log(sum_i a_i exp(-f_i / rho_a) / sum_j b_j exp(-g_j / rho_b)). O(n + m).
    """
    t, problem = run.transport, run.problem
    if problem.penalty is None:
        live = problem.b > 0.0
        shift = float(problem.b[live] @ t.g[live]) / float(problem.b[live].sum())
        if not abs(shift) > OFF:
            return
    else:
        weights = [problem.reg / rho for rho in problem.penalty]
        logs = [_log_sum(marginal, -weight * potential) for marginal, weight, potential
                in zip((problem.a, problem.b), weights, (t.f, t.g), strict=True)]
        shift = (logs[0] - logs[1]) / sum(weights)
    if math.isfinite(shift):
        t.f[:], t.g[:] = t.f + shift, t.g - shift


def _log_sum(masses: np.ndarray, exponents: np.ndarray) -> float:
    """log sum_i mass_i exp(exponent_i), of positive masses."""
    live = masses > 0.0
    top = float(exponents[live].max())
    return top + math.log(float(masses[live] @ np.exp(exponents[live] - top)))


def relax(run: Run, leave: Callable[[Run], bool] = lambda run: False) -> None:
    """Over-relaxed sweeps until the run ends or `leave` says so. A block of them that runs away is taken back."""
    t, quiet, best = run.transport, 0, math.inf
    most = 2.0 * float(run.problem.a.sum()) if run.problem.penalty is None else math.inf  # of plain sweeps
    while not run.status:
        omega = 2.0 / (1.0 + math.sqrt(run.gap)) if run.gap < EASY else 1.0
        before = t.f.copy(), t.g.copy()
        errors = run.sweep(CHUNK if omega > 1.0 else max(FIRST - len(run.history), PROBE), omega)
        if run.status == "converged":
            return
        if omega > 1.0 and not errors[-1] <= min(run.last, most) and (not errors[-1] <= most or _lost(run, before)):
            t.f[:], t.g[:] = before
            run.least, run.gap = min(4.0 * max(run.gap, run.least), 1.0), 1.0
            continue
        run.least *= TRUST
        run.last = errors[-1]
        if run.status or len(errors) < 2:
            continue
        _measure(run, errors, omega)
        quiet = quiet + 1 if errors[-1] > 0.95 * best else 0
        best = min(best, errors[-1])
        if quiet >= 6 and best < run.floor():
            run.status = "stalled"
        elif run.problem.masked and quiet and _impossible(run):
            run.status = "infeasible"
        elif leave(run):
            return
        centre(run)


def _measure(run: Run, errors: list[float], omega: float) -> None:
    """The gap from the rate of the last sweeps."""
    start = max(len(errors) - 3, 0) if omega == 1.0 else 0
    ratio = errors[-1] / errors[start] if errors[start] > 0.0 else 0.0
    rate = ratio ** (1.0 / (len(errors) - 1 - start)) if 0.0 < ratio < math.inf else 1.0
    run.rate = rate
    if omega == 1.0:
        new = 1.0 - rate
    elif rate >= 1.0:
        new = run.gap
    elif rate > omega - 1.0:
        new = 1.0 - (rate + omega - 1.0) ** 2 / (rate * omega * omega)
    else:
        new = RISE * run.gap
    noise = 0.1 * run.floor() / errors[-1] if errors[-1] > 0.0 else 1.0  # over-relaxation multiplies it by 1 / sqrt(gap)
    run.gap = min(max(new, run.gap / FALL, run.least, noise * noise, 1e-6), 0.999)


def _lost(run: Run, before: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether the dual potential is below what it was before, by more than rounding may cause."""
    t, after = run.transport, (run.transport.f.copy(), run.transport.g.copy())
    now = run.potential()
    t.f[:], t.g[:] = before
    then = run.potential()
    t.f[:], t.g[:] = after
    return not now >= then - run.floor()


def newton(run: Run, state: Any, name: str, patient: bool) -> None:
    """Newton's steps until the run ends, or, unless `patient`, until two steps in a row were refused."""
    if run.status:
        return
    run.method = name
    quiet, refused, best = 0, 0, math.inf
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
        best = min(best, step.error)
        if run.status:
            return
        if quiet >= 3 and best < run.floor():
            run.status = "stalled"
        elif run.problem.masked and quiet and _impossible(run):
            run.status = "infeasible"
        elif refused >= 2 and not patient:
            run.last, run.asked = math.inf, math.inf
            return


def sweeps_left(run: Run) -> float:
    """Relaxed sweeps from the last error to the tolerance, at the gap measured so far."""
    shrink = math.log1p(-math.sqrt(run.gap)) - math.log1p(math.sqrt(run.gap)) if run.gap < EASY else math.log1p(-run.gap)
    tol = max(run.options.tol, 0.01 * run.floor())
    return math.log(tol / run.last) / shrink if tol < run.last < math.inf else 0.0


def _impossible(run: Run) -> bool:
    """A proof that no plan comes nearer than the tolerance: rows S whose mass exceeds that of all columns they may send to.

    For every plan a(S) - b(N(S)) <= |P1 - a|_1 + |P'1 - b|_1. Candidates are the sets of rows with the largest f, which grows
    without bound where mass finds no way out. O(n m).
    """
    t, cost = run.transport, np.asarray(run.problem.cost)
    live = np.flatnonzero(t.a > 0.0)
    order = live[np.argsort(-t.f[live], kind="stable")]
    if is_on_device(cost):
        first = device.first(cost, order)
    else:
        first = np.full(len(t.b), len(order))  # the place in the order of the first row that reaches a column
        for place in range(len(order) - 1, -1, -1):
            first[cost[order[place]] < np.inf] = place
    reached = np.cumsum(np.bincount(first, weights=t.b, minlength=len(order) + 1))[: len(order)]
    return bool(np.any(np.cumsum(t.a[order]) - reached > max(run.options.tol, 1e-12 * float(t.a.sum()))))


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
        if not warm or far(run, run.sweep(1)):
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
        if not warm or far(run, errors):
            scale(run, state)
        if not run.status:
            state.begin()
            if state.density <= SPARSE:
                states.append(state)

    def pays(run: Run) -> bool:
        """Whether Newton costs less than the relaxed sweeps that are left; its density is measured when that may decide."""
        left, mass = sweeps_left(run), float(run.problem.a.sum())
        share = run.last / mass
        if share > 0.5 or left <= 0.0:
            return False
        steps = STEP * (2.0 + math.log2(max(1.0, math.log(max(run.options.tol / mass, 1e-16)) / math.log(share))))
        if left < max(steps, 2.0 * run.asked):
            return False
        state = second.newton(run.transport)
        state.begin(DROP)
        density = state.kernels.density
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
