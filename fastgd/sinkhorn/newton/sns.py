"""Sinkhorn-Newton-Sparse: Newton's method in both potentials with the plan's largest entries, as published.

phi(f, g) = sum P - a'f - b'g is convex; its gradient is (P1 - a, P'1 - b), its Hessian [diag(P1) P; P' diag(P'1)] with the null
vector (1, -1). Of P in it the N largest entries are kept, on the diagonal all: so it is diagonally dominant. Its null vector is
made a proper one by a rank-one term, after Jacobi's scaling the projector onto it. A fixed N converges linearly, with about the
mass left out as its rate. References: Tang, Shavlovsky, Rahmanian, Tardini, Thekumparampil, Xiao, Ying (ICLR 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .steps import LONGEST, Step

#: Entries of P kept for each row, on average. The published density 2 / n of the whole Hessian means 3, and many more steps.
ENTRIES = 8.0
#: Conjugate gradients a step.
LIMIT = 5000
#: Residual of the conjugate gradients relative to the right side: smaller ones save no step.
RESIDUAL = 1e-3
#: Conjugate gradients an unknown, at most: exact arithmetic needs one.
EXACT = 4
#: Halvings of a step by Armijo's rule.
HALVINGS = 30


class SparseNewton:
    """The second stage, on a transport with fixed marginals in float64 that some Sinkhorn sweeps went ahead on.

    `solve` is the backend's: conjugate gradients on [I W; W' I] + v v'. A step costs two passes over the plan for each trial and
    one or two for the entries kept. The error is |P1 - a|_1 + |P'1 - b|_1.
    """

    def __init__(self, transport: Any, solve: Callable[..., tuple[np.ndarray, int]], entries: float = ENTRIES) -> None:
        self.transport, self.solve = transport, solve
        self.count = min(math.ceil(entries * len(transport.a)), len(transport.a) * len(transport.b))
        self.threshold = float(transport.a.max())
        self.error = math.inf

    def begin(self) -> float:
        """The error of the transport's potentials."""
        self.error, self._held = self._measure()
        return self.error

    def _measure(self) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
        t = self.transport
        rows, columns = t.apply(np.ones(len(t.b))), t.apply_transpose(np.ones(len(t.a)))
        return float(np.abs(rows - t.a).sum() + np.abs(columns - t.b).sum()), (rows, columns)

    def _kept(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The largest entries in CSR: above a threshold that is lowered until there are enough, then the best of them."""
        while True:
            start, index, value = self.transport.sparse(self.threshold)
            if len(value) >= self.count or self.threshold < 1e-300:
                break
            self.threshold *= 0.25
        if len(value) > self.count:
            self.threshold = float(np.partition(value, len(value) - self.count)[len(value) - self.count]) * 0.25
            kept = value >= 4.0 * self.threshold
            start = np.concatenate(([0], np.cumsum(kept)))[start]
            index, value = index[kept], value[kept]
        return start.astype(np.int64), index.astype(np.int32), value

    def step(self, tol: float) -> Step:
        """One Newton step with a line search on phi."""
        t, (rows, columns) = self.transport, self._held
        n = len(t.a)
        start, index, value = self._kept()
        sums = np.concatenate((rows, columns))
        scale = np.where(sums > 0, 1.0 / np.sqrt(np.maximum(sums, 1e-300)), 0.0)
        w = value * np.repeat(scale[:n], np.diff(start)) * scale[n:][index]
        gradient = np.concatenate((rows - t.a, columns - t.b))
        null = np.sqrt(sums) * np.repeat((1.0, -1.0), (n, len(t.b))) / math.sqrt(max(sums.sum(), 1e-300))
        y, cg = self.solve(start, index, w, -scale * gradient, null, RESIDUAL, min(LIMIT, EXACT * (n + len(t.b))))
        x = scale * y
        slope, f, g = float(gradient @ x), t.f.copy(), t.g.copy()
        length = min(1.0, LONGEST / max(float(np.abs(x).max()), 1e-300))
        passes = 0
        for _ in range(HALVINGS):
            t.f, t.g = f + length * x[:n], g + length * x[n:]
            with np.errstate(over="ignore", invalid="ignore"):
                error, held = self._measure()
                change = float((held[0] - rows).sum()) - length * float(t.a @ x[:n] + t.b @ x[n:])
            passes += 2
            noise = 1e-15 * float(np.abs(rows).sum() + length * (t.a @ np.abs(x[:n]) + t.b @ np.abs(x[n:])))
            if change <= 1e-4 * length * slope or (abs(change) <= noise and error < self.error) or error <= tol:
                self.error, self._held = error, held
                return Step(error, True, cg, len(value) / (n * len(t.b)), passes)
            length *= 0.5
        t.f, t.g = f, g
        t.columns()
        t.rows()
        return Step(self.begin(), False, cg, len(value) / (n * len(t.b)), passes + 4)
