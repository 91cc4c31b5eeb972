"""The oracle of the semi-dual's kernels: float64 NumPy, the whole plan in memory, a sparse matrix for the conjugate gradients.

F(g) = sum_i a_i log sum_j exp(g_j - K_ij) - b'g is convex; with rows exact (sum_j P_ij = a_i) and c = P'1 its gradient is c - b and
its Hessian S = diag(c) - P' diag(1/a) P. S 1 = 0, and Jacobi's scaling gives it the spectrum 1 - sigma_k^2, with the singular
values sigma_k of diag(a)^-1/2 P diag(c)^-1/2.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from ..sweeps.reference import Transport


def semidual(transport: Transport) -> Semidual:
    return Semidual(transport)


class Semidual:
    """F at the potentials held, the trial beside it, and the sparsified Hessian."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.a, self.b = transport.a, transport.b

    def evaluate(self, step: np.ndarray | None, drop: float) -> tuple[float, float]:
        """The trial: g + step, f by exact rows, c, and of every row the largest entries. Returns its L1 error and F's change.

        What a row loses is at most drop a_i. Entries fall by classes of equal size within 1/8, the smallest first: the number
        of kept entries is not the least, but the rule needs no sorting.
        """
        t = self.transport
        g = t.g if step is None else t.g + step
        before, held = t.f, t.g
        t.g = g
        t.rows()
        plan, f = t.dense(), t.f
        t.f, t.g = before, held
        c = plan.sum(axis=0)
        live = self.a > 0
        change = 0.0 if step is None else -float(self.a[live] @ (f - before)[live]) - float(self.b @ np.where(self.b > 0, step, 0.0))
        self.trial = f, g, c, _largest(plan, drop * self.a)
        return float(np.abs(c - self.b).sum()), change

    def accept(self) -> None:
        """The trial's potentials become the transport's, its Hessian the one to solve with."""
        self.transport.f, self.transport.g, self.c, self.kept = self.trial

    @property
    def density(self) -> float:
        return self.kept.nnz / max(1, self.a.size * self.b.size)

    def solve(self, shift: float, tol: float, limit: int) -> tuple[np.ndarray, int]:
        """x of (S + shift diag(max(b, c))) x = b - c by conjugate gradients under Jacobi's scaling, and how many.

        They end at a residual of tol relative to the right side, both in the scaled norm.
        """
        live = self.b > 0
        diagonal = np.where(live, self.c + shift * np.maximum(self.b, self.c), 1.0)
        scale = np.where(live & (diagonal > 0), 1.0 / np.sqrt(diagonal), 0.0)
        with np.errstate(divide="ignore"):
            rows = np.where(self.a > 0, 1.0 / np.sqrt(self.a), 0.0)
        w = csr_array(self.kept.multiply(rows[:, None]).multiply(scale[None, :]))
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
        return scale * x, count


def _largest(plan: np.ndarray, budget: np.ndarray) -> csr_array:
    """Of every row all but the smallest classes of entries, whose sum stays within the row's budget."""
    classes = np.ascontiguousarray(plan).view(np.int64) >> 49  # the exponent and three bits
    order = np.argsort(plan, axis=1, kind="stable")
    ranked = np.take_along_axis(classes, order, axis=1)
    lost = np.cumsum(np.take_along_axis(plan, order, axis=1), axis=1) <= budget[:, None]
    counts = lost.sum(axis=1)
    # a class falls whole or not at all: the first class not lost whole is the least that is kept
    least = np.where(counts < plan.shape[1], np.take_along_axis(ranked, np.minimum(counts, plan.shape[1] - 1)[:, None], axis=1)[:, 0],
                     np.int64(2**62))
    return csr_array(np.where((classes >= least[:, None]) & (plan > 0), plan, 0.0))
