"""Newton's method on the semi-dual, safeguarded: each step costs one pass over the plan and some sparse products.

F(g) is convex, f follows g by exact rows, and the error is |P'1 - b|_1, the size of F's gradient. One step solves with the
Hessian of the plan's largest entries; what is left out of each row is a share `drop` of its mass, which falls with the error, so
convergence is superlinear: at a fixed share it is linear with about that rate.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

#: The Hessian's shift in units of min(1, error) max(b, c): at first, and what it lies between.
FIRST_SHIFT, LEAST_SHIFT, MOST_SHIFT = 0.1, 1e-3, 1e6
#: Of a row's mass the Hessian may leave out this share of the error, and this much at most.
DROP, MOST_DROP = 0.03, 0.03
#: Conjugate gradients end at a residual of min(ROUGH, error), but need not go below FINE tol / error: relative to the right side.
ROUGH, FINE = 0.1, 0.3
#: A trial moves no potential further, in units of the regularisation.
LONGEST = 8.0
#: Trials along one direction before Newton yields to a Sinkhorn update.
TRIALS = 3
#: Conjugate gradients a step: ill-conditioned plans need more than a thousand, and fewer make convergence linear.
LIMIT = 2000


class Step(NamedTuple):
    """What one step did."""

    error: float  #: |P'1 - b|_1 of the potentials held now; rows are exact
    accepted: bool  #: Newton's step, else a Sinkhorn update
    cg: int
    density: float  #: share of the plan's entries in the Hessian that was used
    passes: int  #: evaluations of the plan


class Newton:
    """Newton's state on one transport.

    `kernels` is the backend's semi-dual of a transport with fixed marginals in float64. The transport's potentials are always
    those of `error`, with exact rows. After they were changed elsewhere (sweeps, `rescale`), `begin` starts anew.
    """

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels
        self.shift = FIRST_SHIFT
        self.error = math.inf

    def begin(self, drop: float = MOST_DROP) -> float:
        """Makes the rows exact and a Hessian that leaves out `drop` of each row; returns the error."""
        self.error = self.kernels.evaluate(0.0, drop).error
        self.kernels.accept()
        return self.error

    @property
    def density(self) -> float:
        """The share of the plan's entries that the next step's Hessian holds."""
        return float(self.kernels.density)

    def step(self, tol: float) -> Step:
        """One step towards an error of at most `tol`. Where no trial will do: a Sinkhorn update, which cannot increase F."""
        k, error, density = self.kernels, self.error, self.density
        rough = max(min(ROUGH, error), FINE * tol / max(error, 1e-300))
        x = k.solve(self.shift * min(1.0, error), rough, LIMIT)
        drop = max(min(MOST_DROP, DROP * error), 0.1 * tol)
        t = min(1.0, LONGEST / x.longest) if x.longest > 0 else 0.0
        for trials in range(1, TRIALS + 1):
            trial = k.evaluate(t, drop)
            falls = trial.change <= 1e-4 * t * x.slope or (-t * x.slope <= trial.noise and trial.error < error)
            if falls or trial.error <= tol:
                k.accept()
                self.error = trial.error
                if t == 1.0:
                    self.shift = max(0.3 * self.shift, LEAST_SHIFT)
                return Step(trial.error, True, x.iterations, density, trials)
            t *= 0.5
        self.shift = min(4.0 * self.shift, MOST_SHIFT)
        k.update()
        self.error = k.evaluate(1.0, min(MOST_DROP, error)).error
        k.accept()
        return Step(self.error, False, x.iterations, density, TRIALS + 1)
