"""The CPU kernels' front: hands csrc/sinkhorn_sweeps.c memory, and splits its passes. Signatures: `reference.py`.

One thread does all sweeps in one call. Several share each pass, and the caller folds between them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _threads
from ..._native import ffi, lib
from .points import Points
from .residual import residual

_TRANSPORT, _JOB = ffi.typeof("fgd_transport *"), ffi.typeof("fgd_job *")
_PLAN = 2**28  # entries of a plan kept for scaled sweeps, at most
_SWEEP, _ABSORB, _SCALED, _ROWS, _COLUMNS, _MARGINALS, _APPLY, _TRANSPOSE, _DENSE, _COUNT, _SPARSE = range(11)
_KINDS = {np.dtype(np.float64): ffi.typeof("double[]"), np.dtype(np.float32): ffi.typeof("float[]"),
          np.dtype(np.int64): ffi.typeof("int64_t[]")}


def transport(cost: np.ndarray | Points, a: np.ndarray, b: np.ndarray, *, reg: float, precision: str = "float64",
              tau: tuple[float, float] = (1.0, 1.0), threads: int = 1) -> Transport:
    return Transport(cost, a, b, reg, precision, tau, threads)


class Transport:
    """P_ij = exp(f_i + g_j - C_ij / reg), with potentials in units of reg; -inf where the marginal is 0.

    `struct` is what the C kernels see of it (csrc/sinkhorn_api.h); sweeps in float32 have one of their own, with costs in
    float32.
    """

    def __init__(self, cost: np.ndarray | Points, a: np.ndarray, b: np.ndarray, reg: float, precision: str,
                 tau: tuple[float, float], threads: int) -> None:
        self.cost, self.a, self.b, self.threads = cost, a, b, threads
        self.n, self.m = n, m = len(a), len(b)
        self.reg, self.tau = reg, tau
        self._factor = cost.scale if isinstance(cost, Points) else 1.0
        self._keep: list[np.ndarray] = []
        self.struct = s = ffi.new(_TRANSPORT)
        s.n, s.m, s.relax, s.single = n, m, 1.0, precision == "float32"
        mass = float(a.sum())
        scaled = not (isinstance(cost, Points) or s.single) and 1e-18 < mass < 1e18 and n * m <= _PLAN
        s.flush = 2.0**-60 * mass
        memory = np.zeros(lib.fgd_sinkhorn_memory(n, m, scaled))
        self._place(a=a, b=b)
        at = lib.fgd_sinkhorn_place(s, _pointer(memory), scaled)
        self._g, self._column = memory[at:at + m], memory[at + s.width:at + s.width + m]
        at += 2 * s.width
        self._f, self._sums, self._spent, self._log_a = memory[at:at + 4 * n].reshape(4, n)
        self._log_b = memory[at + 4 * n:at + 4 * n + m]
        with np.errstate(divide="ignore"):
            np.log(a, out=self._log_a)
            np.log(b, out=self._log_b)
        self._place_costs(cost)
        self.rescale(reg, tau)

    def _place_costs(self, cost: np.ndarray | Points) -> None:
        """Costs, kept as they are; sweeps in float32 have them, or the points, in float32."""
        s = self.struct
        if isinstance(cost, Points):
            y = np.full((cost.y.shape[1], s.width), np.inf)
            y[:, :self.m] = cost.y.T
            x = np.ascontiguousarray(cost.x)
            s.d, s.kind = len(y), 2 if cost.metric == "sqeuclidean" else 3
            self._place(x=x, y=y)
            if s.single:
                self._place(x_single=x.astype(np.float32), y_single=y.astype(np.float32))
        else:
            s.kind = int(cost.dtype == np.float64)
            self._place(cost=cost)
            if s.single:
                self._place(cost_single=cost.astype(np.float32, copy=False))

    def _place(self, **arrays: np.ndarray) -> None:
        """Arrays as fields of `struct`; they live as long as this object."""
        for name, array in arrays.items():
            self._keep.append(array)
            setattr(self.struct, name, _pointer(array))

    @property
    def f(self) -> np.ndarray:
        return self._f

    @f.setter
    def f(self, values: np.ndarray) -> None:
        self._f[:] = values

    @property
    def g(self) -> np.ndarray:
        return self._g

    @g.setter
    def g(self, values: np.ndarray) -> None:
        self._g[:] = values

    def rescale(self, reg: float, tau: tuple[float, float] | None = None) -> None:
        """Another regularisation, with potentials kept in units of the cost."""
        self._f *= self.reg / reg
        self._g *= self.reg / reg
        self.reg, self.tau = reg, tau or self.tau
        self.struct.scale, self.struct.absorbed, self.struct.steady = self._factor / reg, 0, 0
        self.struct.tau_a, self.struct.tau_b = self.tau

    def rows(self) -> bool:
        """f from g; whether every row of positive marginal can send anything."""
        self._pass(_ROWS)
        return not np.any(self._f == np.inf)

    def columns(self) -> bool:
        """g from f; whether every column of positive marginal can receive anything."""
        self._pass(_COLUMNS)
        return not np.any(self._g == np.inf)

    def sweep(self, count: int, tol: float, relax: float = 1.0) -> np.ndarray:
        """Up to `count` times rows, then columns; the error between the two, which ends it before the columns when <= tol.

        Over-relaxation: a potential moves by `relax` times its step; then the error is that of both marginals.
        """
        errors = np.empty(count)
        if self.threads == 1:
            done = lib.fgd_sinkhorn_sweep(self.struct, count, tol, relax, _pointer(errors))
            if done < 0:
                raise MemoryError
            return errors[:done]
        error, done, what = ffi.new("double *"), 0, lib.fgd_sinkhorn_first(self.struct, count, relax)
        while done < count and what >= 0:
            lib.fgd_sinkhorn_begin(self.struct, what)
            what = self._share(what, tol, error)
            if what == _COLUMNS:
                what = self._share(what, tol, error)
            if not error[0] < 0.0:
                errors[done] = error[0]
                done += 1
        return errors[:done]

    def _pass(self, what: int) -> None:
        self.struct.relax = 1.0
        lib.fgd_sinkhorn_begin(self.struct, what)
        self._share(what, 0.0, ffi.new("double *"))

    def _share(self, what: int, tol: float, error: Any) -> int:
        """One pass by all threads, and the fold after it: what to pass next."""
        s, job, lacking = self.struct, ffi.new(_JOB), []

        def task() -> None:
            if lib.fgd_sinkhorn_pass(s, what, job) < 0:
                lacking.append(what)

        _threads.run(task, threads=self.threads, chunks=lib.fgd_sinkhorn_chunks(s), keep=self)
        if lacking:
            raise MemoryError
        return lib.fgd_sinkhorn_fold(s, what, tol, error)

    def error(self) -> tuple[float, float]:
        """L1 errors of rows and columns. Penalised: of the fixed-point equations, weighted by the plan's marginals."""
        self._pass(_MARGINALS)
        return (residual(self._sums, self.a, self._log_a, self._f, self.tau[0]),
                residual(self._column, self.b, self._log_b, self._g, self.tau[1]))

    def summary(self) -> tuple[float, float, float]:
        """<C, P>, the mass sum P, and sum P log P."""
        self._pass(_MARGINALS)
        r, c, spent = self._sums, self._column, self._factor * float(self._spent.sum())
        return spent, float(r.sum()), float(r[r > 0] @ self._f[r > 0] + c[c > 0] @ self._g[c > 0]) - spent / self.reg

    def apply(self, v: np.ndarray) -> np.ndarray:
        padded = _aligned(self.struct.width)
        padded[:self.m] = v
        self.struct.vector = _pointer(padded)
        self._pass(_APPLY)
        return self._sums.copy()

    def apply_transpose(self, u: np.ndarray) -> np.ndarray:
        u = np.ascontiguousarray(u, np.float64)
        self.struct.vector = _pointer(u)
        self._pass(_TRANSPOSE)
        return self._column.copy()

    def dense(self) -> np.ndarray:
        plan = np.zeros((self.n, self.m))
        self.struct.values = _pointer(plan)
        self._pass(_DENSE)
        return plan

    def sparse(self, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Entries above the threshold, as a CSR matrix's (indptr, indices, data)."""
        start = np.zeros(self.n + 1, np.int64)
        s = self.struct
        s.threshold, s.start = max(threshold, 0.0), _pointer(start[1:])
        self._pass(_COUNT)
        np.cumsum(start, out=start)
        index, values = np.empty(start[-1], np.int64), np.empty(start[-1])
        s.start, s.index, s.values = _pointer(start), _pointer(index), _pointer(values)
        self._pass(_SPARSE)
        return start, index, values


def _pointer(array: np.ndarray) -> Any:
    return ffi.from_buffer(_KINDS[array.dtype], array)


def _aligned(size: int) -> np.ndarray:
    """Zeros that begin at a multiple of 64 bytes."""
    raw = np.zeros(size + 8)
    return raw[(-raw.ctypes.data // 8) % 8:][:size]
