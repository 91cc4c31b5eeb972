"""Newton's method on the semi-dual, safeguarded: each step costs one pass over the plan and some sparse products.

F(g) is convex, f follows g by exact rows, and the error is |P'1 - b|_1, the size of F's gradient. One step solves with the
Hessian of the plan's largest entries; what is left out of each row is a share `drop` of its mass, which falls with the error, so
convergence is superlinear: at a fixed share it is linear with about that rate.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

#: The Hessian's shift in units of min(1, error) max(b, c) lies between these.
LEAST_SHIFT, MOST_SHIFT = 1e-3, 1e6
#: Of a row's mass, the most that the Hessian may leave out.
MOST_DROP = 0.1
#: A trial moves no potential further, in units of the regularisation: beyond it, exponentials are no longer predicted.
LONGEST = 8.0
#: Halvings of a step before Newton yields to a Sinkhorn update.
HALVINGS = 3
#: Conjugate gradients a step.
LIMIT = 500


class Step(NamedTuple):
    """What one step did."""

    error: float  #: |P'1 - b|_1 of the potentials held now; rows are exact
    accepted: bool  #: Newton's step, else a Sinkhorn update
    cg: int
    density: float  #: share of the plan's entries in the Hessian that was used
    passes: int  #: evaluations of the plan


class Newton:
    """Newton's state on one transport: the error, and how far its models were trusted.

    `kernels` is the backend's semi-dual of a transport with fixed marginals in float64. Potentials are the transport's, at any
    time those of the error reported; a new start after they were changed elsewhere (sweeps, `rescale`) is `begin`.
    """

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels
        self.shift = 1.0
        self.error = math.inf

    def begin(self, drop: float = MOST_DROP) -> float:
        """Makes the rows exact and the Hessian there; returns the error."""
        self.error, _ = self.kernels.evaluate(None, drop)
        self.kernels.accept()
        return self.error

    def step(self, tol: float) -> Step:
        """One step towards an error of at most `tol`. Rejected steps end in a Sinkhorn update, which cannot increase F."""
        k, error = self.kernels, self.error
        density = k.density
        x, cg = k.solve(self.shift * min(1.0, error), min(0.1, error), LIMIT)
        x -= (k.b @ x) / k.b.sum()
        slope = -float(np.abs(x) @ np.abs(k.b - k.c)), float(x @ (k.c - k.b))
        drop = max(min(MOST_DROP, error * 0.1), 0.1 * tol)
        t, passes = min(1.0, LONGEST / max(float(np.abs(x).max()), 1e-300)), 0
        for _ in range(HALVINGS):
            trial, change = k.evaluate(t * x, drop)
            passes += 1
            if change <= 1e-4 * t * slope[1] + 1e-15 * abs(slope[0]) or trial <= tol:
                k.accept()
                self.error = trial
                self.shift = max(0.3 * self.shift, LEAST_SHIFT) if t == 1.0 else self.shift
                return Step(trial, True, cg, density, passes)
            t *= 0.5
        self.shift = min(4.0 * self.shift, MOST_SHIFT)
        with np.errstate(divide="ignore", invalid="ignore"):
            update = np.where((k.b > 0) & (k.c > 0), np.log(k.b) - np.log(k.c), 0.0)
        self.error, _ = k.evaluate(update, min(MOST_DROP, error))
        k.accept()
        return Step(self.error, False, cg, density, passes + 1)
