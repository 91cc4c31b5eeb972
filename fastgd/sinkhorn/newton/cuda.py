"""The semi-dual on a GPU: the methods of `reference.py` on a transport in device memory. See `cuda_kernels`.

The kept entries of the plan and the vectors of the conjugate gradients stay on the device; the host has what it decides with, n
or m numbers each: potentials, the columns' sums, the direction. It waits for each trial, twice for the number of kept entries,
and once in WAIT conjugate gradients. Results agree with the CPU's to rounding, and are the same on every launch.

Memory: 32 bytes a kept entry.
"""

from __future__ import annotations

import numpy as np

from ..._cuda import Call
from ..sweeps import cuda_sparse
from ..sweeps.cuda import Transport, upload
from ..sweeps.cuda_sparse import keep_columns_kernel, keep_rows_kernel
from . import cuda_kernels as kernels
from .trial import Direction, Trial

#: Conjugate gradients between two looks at whether they have ended.
WAIT = 32
_FLOAT = np.dtype(np.float64)


def semidual(transport: Transport) -> Semidual:
    return Semidual(transport)


class Semidual:
    """F at the potentials held, the trial beside it, and the sparsified Hessian."""

    def __init__(self, transport: Transport) -> None:
        self.transport = t = transport
        self.a, self.b = t.a, t.b
        self.x = np.zeros_like(t.b)
        with np.errstate(divide="ignore"):
            self._inverse_a = t.put(np.where(t.a > 0, 1.0 / t.a, 0.0))
        self._f, self._g, self._limit = t.put(np.full(t.n, -np.inf)), t.put(t.b), t.put(t.a)

    def evaluate(self, step: float, drop: float) -> Trial:
        """The trial: g + step x, f by exact rows, and c. What a row loses once it is accepted is at most drop a_i."""
        t, live = self.transport, self.a > 0
        before, g = t.f, np.where(self.b > 0, t.g + step * self.x, -np.inf)
        with Call(t.like) as call:
            upload(call, self._g, g)
            t.exact_rows(call, self._f, self._g)
            f, c = call.read(self._f), call.read(t.products(call, self._f, self._g)[1])
        with np.errstate(invalid="ignore"):
            change = -float(self.a[live] @ (f - before)[live]) - step * float(self.b @ self.x)
        noise = 2.0**-51 * float(self.a[live] @ np.abs(f[live]))
        self.trial = f, g, c, max(drop, 2.0**-52)
        return Trial(float(np.abs(c - self.b).sum()), change, noise)

    def accept(self) -> None:
        """The trial's potentials become the transport's, its largest entries the Hessian's."""
        t = self.transport
        t.f, t.g, self.c, drop = self.trial
        with Call(t.like) as call:
            t.run(call, kernels.limit_kernel, 32 * t.n, t.device_a, drop, self._f, self._g, self._limit, threads=kernels.THREADS)
            potentials = self._f, self._g, self._limit
            self._by_rows = t.keep(call, keep_rows_kernel, 32 * t.n, t.n, *potentials)
            cells = t.m * cuda_sparse.BANDS
            self._by_columns = t.keep(call, keep_columns_kernel, cells, cells, *potentials)

    @property
    def density(self) -> float:
        """The share of the plan's entries that were kept."""
        return float(self._by_rows[1].size / (self.a.size * self.b.size))

    def solve(self, shift: float, tol: float, limit: int) -> Direction:
        """x of (S + shift diag(max(b, c))) x = b - c by conjugate gradients under Jacobi's scaling.

        They end at a residual of tol relative to the right side, both in the scaled norm. S is that of the entries kept last.
        """
        live = self.b > 0
        diagonal = np.where(live, self.c + shift * np.maximum(self.b, self.c), 1.0)
        scale = np.where(live & (diagonal > 0), 1.0 / np.sqrt(diagonal), 0.0)
        right = scale * (self.b - self.c)
        x, count = self._gradients(scale, right, tol, limit)
        x = scale * (x if count else right)
        self.x = np.where(live, x - (self.b @ x) / self.b.sum(), 0.0)
        return Direction(count, float(self.x @ (self.c - self.b)), float(np.abs(self.x).max()))

    def _gradients(self, scale: np.ndarray, right: np.ndarray, tol: float, limit: int) -> tuple[np.ndarray, int]:
        """Conjugate gradients from 0, and how many."""
        t, sizes = self.transport, np.zeros(limit + 1)
        sizes[0] = float(right @ right)
        end, done = tol * tol * sizes[0], 0
        with Call(t.like) as call:
            s, r, p, x, device_sizes = (t.put(values) for values in (scale, right, right, np.zeros_like(right), sizes))
            w, q, curvatures = call.empty(t.n, _FLOAT), call.empty(t.m, _FLOAT), call.empty(limit, _FLOAT)
            while done < limit and sizes[done] > end:
                for at in range(done, min(limit, done + WAIT)):
                    now = device_sizes, at, end
                    call.run(kernels.rows_product_kernel, 32 * t.n, *self._by_rows, self._inverse_a, s, p, *now, w,
                             threads=kernels.THREADS)
                    start, *entries = self._by_columns
                    call.run(kernels.columns_product_kernel, 32 * t.m, start, cuda_sparse.BANDS, *entries, s, p, *now, w, q,
                             threads=kernels.THREADS)
                    call.run(kernels.step_kernel, t.m, p, q, *now, x, r, curvatures, threads=kernels.THREADS)
                    call.run(kernels.turn_kernel, t.m, r, curvatures, *now, p, threads=kernels.THREADS)
                done = min(limit, done + WAIT)
                sizes = call.read(device_sizes)
            return call.read(x), int(np.count_nonzero((sizes[:done] > end) & (sizes[1 : done + 1] >= 0.0)))

    def update(self) -> None:
        """The direction of Sinkhorn's update of the columns."""
        live = (self.b > 0) & (self.c > 0)
        self.x = np.zeros_like(self.b)
        self.x[live] = np.log(self.b[live]) - np.log(self.c[live])
