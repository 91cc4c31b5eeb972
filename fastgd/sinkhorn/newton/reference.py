"""The oracle of the semi-dual's kernels: float64 NumPy, the whole plan in memory, a sparse matrix for the conjugate gradients.

F(g) = sum_i a_i log sum_j exp(g_j - K_ij) - b'g is convex; with rows exact (sum_j P_ij = a_i), c = P'1, its gradient is c - b and
its Hessian S = diag(c) - P' diag(1/a) P. S 1 = 0, and Jacobi's scaling gives it the spectrum 1 - sigma_k^2, with the singular
values sigma_k of diag(a)^-1/2 P diag(c)^-1/2.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from ..sweeps.reference import Transport
from .trial import Direction, Trial


def semidual(transport: Transport) -> Semidual:
    return Semidual(transport)


class Semidual:
    """F at the potentials held, the trial beside it, and the sparsified Hessian."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.a, self.b = transport.a, transport.b
        self.x = np.zeros_like(transport.b)

    def evaluate(self, step: float, drop: float) -> Trial:
        """The trial: g + step x, f by exact rows, c, and of every row the largest entries.

        What a row loses is at most drop a_i. Entries fall by classes of numbers that share exponent and first three bits, the
        smallest first, so that nothing is sorted in a kernel; at most one class more is kept than need be.
        """
        t, live = self.transport, self.a > 0
        f, g = t.f, t.g
        t.g = np.where(self.b > 0, g + step * self.x, -np.inf)
        t.rows()
        plan = np.where(np.isinf(t.f)[:, None], 0.0, t.dense())
        c = plan.sum(axis=0)
        with np.errstate(invalid="ignore"):
            change = -float(self.a[live] @ (t.f - f)[live]) - step * float(self.b @ self.x)
        noise = 2.0**-51 * float(self.a[live] @ np.abs(t.f[live]))
        self.trial = t.f, t.g, c, _largest(plan, max(drop, 2.0**-52) * self.a)
        t.f, t.g = f, g
        return Trial(float(np.abs(c - self.b).sum()), change, noise)

    def accept(self) -> None:
        """The trial's potentials become the transport's."""
        self.transport.f, self.transport.g, self.c, _ = self.trial

    @property
    def density(self) -> float:
        """The share of the plan's entries that were kept."""
        return self.trial[3].nnz / (self.a.size * self.b.size)

    def solve(self, shift: float, tol: float, limit: int) -> Direction:
        """x of (S + shift diag(max(b, c))) x = b - c by conjugate gradients under Jacobi's scaling.

        They end at a residual of tol relative to the right side, both in the scaled norm. S is that of the entries kept last.
        """
        live = self.b > 0
        diagonal = np.where(live, self.c + shift * np.maximum(self.b, self.c), 1.0)
        scale = np.where(live & (diagonal > 0), 1.0 / np.sqrt(diagonal), 0.0)
        with np.errstate(divide="ignore"):
            rows = np.where(self.a > 0, 1.0 / np.sqrt(self.a), 0.0)
        w = csr_array(self.trial[3].multiply(rows[:, None]).multiply(scale[None, :]))
        r = scale * (self.b - self.c)
        x, p = np.zeros_like(r), r.copy()
        size = float(r @ r)
        end, count = tol * tol * size, 0
        while size > end and count < limit:
            q = p - w.T @ (w @ p)
            curvature = float(p @ q)
            if not curvature > 0:
                break
            alpha = size / curvature
            x += alpha * p
            r -= alpha * q
            size, before = float(r @ r), size
            p = r + size / before * p
            count += 1
        x = scale * (x if count else r)
        self.x = np.where(live, x - (self.b @ x) / self.b.sum(), 0.0)
        return Direction(count, float(self.x @ (self.c - self.b)), float(np.abs(self.x).max()))

    def update(self) -> None:
        """The direction of Sinkhorn's update of the columns."""
        live = (self.b > 0) & (self.c > 0)
        self.x = np.zeros_like(self.b)
        self.x[live] = np.log(self.b[live]) - np.log(self.c[live])


def _largest(plan: np.ndarray, budget: np.ndarray) -> csr_array:
    """Of every row all but the smallest classes of entries, whose sum stays within the row's budget."""
    classes = np.ascontiguousarray(plan).view(np.int64) >> 49  # the exponent and three bits
    order = np.argsort(plan, axis=1, kind="stable")
    ranked = np.take_along_axis(classes, order, axis=1)
    lost = np.cumsum(np.take_along_axis(plan, order, axis=1), axis=1) <= budget[:, None]
    counts = lost.sum(axis=1)
    last = plan.shape[1] - 1
    least = np.take_along_axis(ranked, np.minimum(counts, last)[:, None], axis=1)  # a class falls whole or not at all
    return csr_array(np.where((classes >= least) & (plan > 0), plan, 0.0))


def sns_solve(start: np.ndarray, index: np.ndarray, w: np.ndarray, r: np.ndarray, v: np.ndarray, tol: float,
              limit: int) -> tuple[np.ndarray, int]:
    """y of ([I W; W' I] + v v') y = r by conjugate gradients, and how many; W in CSR."""
    n = len(start) - 1
    matrix = csr_array((w, index, start), shape=(n, len(r) - n))
    y, p, r = np.zeros_like(r), r.copy(), r.copy()
    square, count = float(r @ r), 0
    end = tol * tol * square
    while square > end and count < limit:
        q = p + np.concatenate((matrix @ p[n:], matrix.T @ p[:n])) + (v @ p) * v
        curvature = float(p @ q)
        if not curvature > 0:
            break
        y += square / curvature * p
        r -= square / curvature * q
        square, before = float(r @ r), square
        p = r + square / before * p
        count += 1
    return y, count
