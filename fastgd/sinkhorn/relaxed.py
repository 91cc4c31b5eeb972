"""Over-relaxed sweeps, as long as they go well.

Sinkhorn's error shrinks by q = sigma^2 a sweep in the end, sigma the second singular value of diag(a)^-1/2 P diag(b)^-1/2. With
the gap 1 - q, moving potentials by omega = 2 / (1 + sqrt(gap)) times their step shrinks it by omega - 1 = (1 - sqrt(gap)) / (1 +
sqrt(gap)): a square root of the count. The gap is not known, but measured: a rate r above omega - 1 means q = (r + omega - 1)^2 /
(r omega^2); at a rate of omega - 1 omega may be too large, and the gap is taken larger.

That is the theory near the solution. Far from it relaxed sweeps may run away, where plain ones cannot: those raise the dual
potential, and leave an error of twice the mass at most. So a block of relaxed sweeps whose error rose is taken back if the
potential fell, or the error is beyond that; plain sweeps follow, and larger gaps are assumed for a while. Relaxation also
multiplies what rounding does, by about 1 / sqrt(gap); that must stay below the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .run import Run, centre, impossible

#: Sweeps between decisions: plain ones up to the FIRST of all, and no fewer than PROBE; over-relaxed ones.
FIRST, PROBE, CHUNK = 8, 3, 12
#: Of the gap: what a rate that is no worse than predicted makes of it, and the most it falls at once.
RISE, FALL = 1.3, 6.0
#: Where over-relaxation failed, gaps count as four times as large; and this much less so after each block that went well.
TRUST = 0.9
#: Above this gap plain sweeps contract fast enough.
EASY = 0.8


def relax(run: Run, leave: Callable[[Run], bool] = lambda run: False) -> None:
    """Over-relaxed sweeps until the run ends or `leave` says so. A block of them that runs away is taken back."""
    t, quiet, best = run.transport, 0, math.inf
    most = 2.0 * run.mass if run.problem.penalty is None else math.inf  # of plain sweeps
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
        elif run.problem.masked and quiet and impossible(run):
            run.status = "infeasible"
        elif leave(run):
            return
        centre(run)


def _measure(run: Run, errors: list[float], omega: float) -> None:
    """The gap from the rate of the last sweeps."""
    start = max(len(errors) - 3, 0) if omega == 1.0 else 0
    ratio = errors[-1] / errors[start] if errors[start] > 0.0 else 0.0
    rate = ratio ** (1.0 / (len(errors) - 1 - start)) if 0.0 < ratio < math.inf else 1.0
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


def sweeps_left(run: Run) -> float:
    """Relaxed sweeps from the last error to the tolerance, at the gap measured so far."""
    shrink = math.log1p(-math.sqrt(run.gap)) - math.log1p(math.sqrt(run.gap)) if run.gap < EASY else math.log1p(-run.gap)
    tol = max(run.options.tol, 0.01 * run.floor())
    return math.log(tol / run.last) / shrink if tol < run.last < math.inf else 0.0
