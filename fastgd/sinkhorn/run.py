"""One problem on its way to its solution: counts, the end, and what the potentials say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._arrays import is_on_device
from . import device
from .arguments import Options, Problem

#: A common constant of the potentials, in units of reg, that is left alone.
OFF = 32.0


class Run:
    """One problem on its way: the transport holds the potentials; here are the counts and why it ended."""

    def __init__(self, transport: Any, problem: Problem, options: Options) -> None:
        self.transport, self.problem, self.options = transport, problem, options
        self.history: list[float] = []
        self.iterations = {"sweeps": 0, "newton": 0, "cg": 0}
        self.method, self.status = "sinkhorn", ""
        self.gap, self.last, self.error = 1.0, math.inf, math.inf
        self.mass = float(problem.a.sum())
        self.least = 0.0  # of the gap: where a smaller one took over-relaxation too far
        self.asked = 0.0  # the sweeps left when Newton was last found too dear

    @property
    def left(self) -> int:
        """Iterations that may still be made."""
        return self.options.max_iter - len(self.history)

    def sweep(self, count: int, relax: float = 1.0, enough: float | None = None) -> list[float]:
        """Up to `count` sweeps; their errors. An error of `enough` on the way to the final reg ends them unconverged."""
        tol = self.options.tol if enough is None else enough
        count = min(count, self.left)
        errors: list[float] = []
        while len(errors) < count and not self.status:
            block = self.transport.sweep(1 if self.options.callback else count, tol, relax).tolist()
            errors += block
            self.iterations["sweeps"] += len(block)
            self.record(block, tol if enough is None else -1.0)
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
        mass = self.mass if self.problem.penalty is None else self.mass + float(self.problem.b.sum())
        return 2.0 * unit * size * mass

    def potential(self) -> float:
        """The dual objective in units of reg, which every exact update increases."""
        t, total = self.transport, -self.transport.summary()[1]
        for potential, marginal, tau in zip((t.f, t.g), (t.a, t.b), t.tau, strict=True):
            live = marginal > 0.0
            p, mass = potential[live], marginal[live]
            total += float(mass @ p) if tau == 1.0 else tau / (1.0 - tau) * float(-mass @ np.expm1(p * (1.0 - 1.0 / tau)))
        return total

    def far(self, errors: list[float], share: float) -> bool:
        """Whether it goes on and more than this share of the mass is misplaced."""
        return not self.status and not errors[-1] <= share * self.mass


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


def impossible(run: Run) -> bool:
    """A proof that no plan comes nearer than the tolerance: rows S whose mass exceeds that of all columns they may send to.

    For every plan a(S) - b(N(S)) <= |P1 - a|_1 + |P'1 - b|_1. Candidates are the sets of rows with the largest f, which grows
    without bound where mass finds no way out. O(n m).
    """
    t, cost = run.transport, run.problem.cost
    live = np.flatnonzero(t.a > 0.0)
    order = live[np.argsort(-t.f[live], kind="stable")]
    if is_on_device(cost):
        first = device.first(cost, order)
    else:
        first = np.full(len(t.b), len(order))  # the place in the order of the first row that reaches a column
        for place in range(len(order) - 1, -1, -1):
            first[cost[order[place]] < np.inf] = place
    reached = np.cumsum(np.bincount(first, weights=t.b, minlength=len(order) + 1))[: len(order)]
    return bool(np.any(np.cumsum(t.a[order]) - reached > max(run.options.tol, 1e-12 * run.mass)))
