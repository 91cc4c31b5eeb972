"""The transport on a GPU: the methods of `reference.py` on costs or points in device memory. See `cuda_rows` for the sweep.

Everything runs on the stream of the cost's library, in that library's memory. Sweeps decide on the device whether they have
converged: a call of `sweep` launches all of them and reads their errors once. Potentials live on both sides: the host's are
fetched when asked for, and taken back before the next kernel. Results agree with the CPU's to rounding: exponentials are the
CUDA library's, and sums run in another order, the same on every launch.

Memory: min(n / 4, CHUNKS) m numbers for sums of columns, O(n + m) else; points that are not float64 once more as such; plans and
their sparse parts when asked for. The kernels have run in Numba's simulator and were compiled; they have not been timed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _cuda
from ..._arrays import empty_like_array
from ..._cuda import Call
from . import cuda_columns, cuda_device, cuda_rows, cuda_sparse
from .cuda_columns import columns_kernel, finish_kernel, fold_kernel
from .cuda_rows import dense_kernel, make_sweep_kernel, product_kernel, rows_kernel
from .cuda_sparse import keep_rows_kernel, scan_kernel
from .points import Points
from .residual import residual

#: Chunks of rows, at most, and rows of the smallest chunk: a block's warps.
CHUNKS, ROWS = 512, 4
_KINDS = {"sqeuclidean": cuda_device.SQUARES, "euclidean": cuda_device.DISTANCES}
_FLOAT, _INT = np.dtype(np.float64), np.dtype(np.int64)


def transport(cost: Any, a: np.ndarray, b: np.ndarray, *, reg: float, precision: str = "float64",
              tau: tuple[float, float] = (1.0, 1.0), threads: int = 1) -> Transport:
    return Transport(cost, a, b, reg, precision, tau)


class Potential:
    """One side's potentials, on the host, where callers may write to them, and on the device."""

    def __init__(self, call: Call, values: np.ndarray) -> None:
        self.host, self.view = values, call.empty(values.size, _FLOAT)
        self._handed, self._stale = True, False

    def on_host(self, call: Call) -> np.ndarray:
        if self._stale:
            self.host[:] = call.read(self.view)
        self._handed, self._stale = True, False
        return self.host

    def on_device(self, call: Call, changes: bool = False) -> Any:
        """The view for a kernel, which `changes` it or not."""
        if self._handed:
            upload(call, self.view, self.host)
        self._handed, self._stale = False, self._stale or changes
        return self.view


def upload(call: Call, view: Any, host: np.ndarray) -> Any:
    """The view, with the values of a host array, which may change at once."""
    view.copy_to_device(np.ascontiguousarray(host), stream=call.stream)
    call.stream.synchronize()
    return view


class Transport:
    """P_ij = exp(f_i + g_j - C_ij / reg), with potentials in units of reg; -inf where the marginal is 0."""

    def __init__(self, cost: Any, a: np.ndarray, b: np.ndarray, reg: float, precision: str, tau: tuple[float, float]) -> None:
        self.cost, self.a, self.b, self.single = cost, a, b, precision == "float32"
        self.n, self.m = len(a), len(b)
        self.like = cost.x if isinstance(cost, Points) else cost
        with np.errstate(divide="ignore"):
            self.log_a, self.log_b = np.log(a), np.log(b)
        with Call(self.like) as call:
            self._f, self._g = (Potential(call, np.where(x > 0, 0.0, -np.inf)) for x in (a, b))
            self.put = put = _Putter(call)
            self.device_a, self.device_b = put(a), put(b)
            self.device_log_a, self.device_log_b = put(self.log_a), put(self.log_b)
            self.row = put(np.flatnonzero(a > 0))
            self._place(cost, call)
            rows = self.row.size
            self._per = ROWS * max(1, -(-rows // (ROWS * CHUNKS)))
            self._partial = call.empty(-(-rows // self._per) * self.m, _FLOAT).reshape(-(-rows // self._per), self.m)
            self._row_error = call.empty(self._partial.shape[0], _FLOAT)
            self._tiles = -(-self.m // cuda_columns.COLUMNS)
            self._column, self._column_error = call.empty(self.m, _FLOAT), call.empty(self._tiles, _FLOAT)
            self._sums, self._spent = put(np.zeros(self.n)), put(np.zeros(self.n))
            self._ones = put(np.ones(self.n)), put(np.ones(self.m))
        self._set(reg, tau)

    def _place(self, cost: Any, call: Call) -> None:
        """What kernels see of the cost; points of y are transposed, in float64."""
        if isinstance(cost, Points):
            self._kind, self._factor = _KINDS[cost.metric], cost.scale
            self._c, y = (_double(call, points) for points in (cost.x, cost.y))
            self._y = call.empty(y.size, _FLOAT).reshape(y.shape[1], y.shape[0])
            call.run(cuda_rows.transpose_kernel, y.size, y, self._y)
        else:
            self._kind, self._factor = cuda_device.STORED, 1.0
            self._c, self._y = _cuda.view(cost), call.empty(1, _FLOAT).reshape(1, 1)

    @property
    def f(self) -> np.ndarray:
        with Call(self.like) as call:
            return self._f.on_host(call)

    @f.setter
    def f(self, values: np.ndarray) -> None:
        self.f[:] = values

    @property
    def g(self) -> np.ndarray:
        with Call(self.like) as call:
            return self._g.on_host(call)

    @g.setter
    def g(self, values: np.ndarray) -> None:
        self.g[:] = values

    def rescale(self, reg: float, tau: tuple[float, float] | None = None) -> None:
        """Another regularisation, with potentials kept in units of the cost."""
        for potential in (self.f, self.g):
            potential *= self.reg / reg
        self._set(reg, tau or self.tau)

    def _set(self, reg: float, tau: tuple[float, float]) -> None:
        self.reg, self.tau = reg, tau
        self.described = self._kind, self._c, self._y, self._factor / reg

    # ---- kernels on any potentials in device memory

    def run(self, call: Call, kernel: Any, work: int, *arguments: Any, threads: int = cuda_rows.THREADS) -> None:
        """Launch a kernel that takes the cost first."""
        call.run(kernel, work, *self.described, *arguments, threads=threads)

    def exact_rows(self, call: Call, f: Any, g: Any) -> None:
        """f from g."""
        self.run(call, rows_kernel, 32 * self.row.size, self.device_log_a, self.tau[0], self.row, f, g)

    def products(self, call: Call, f: Any, g: Any, u: Any = None, v: Any = None) -> tuple[Any, Any, Any]:
        """P v, P' u (ones by default) and the rows' sums of C P, in memory that the next call uses too."""
        u, v = (ones if x is None else self.put(np.asarray(x, _FLOAT)) for x, ones in zip((u, v), self._ones, strict=True))
        self.run(call, product_kernel, cuda_rows.THREADS * self._partial.shape[0], self.row, self._per, f, g, u, v, self._sums,
                 self._spent, self._partial)
        self._fold(call, g, self._column, 0, 0.0)
        return self._sums, self._column, self._spent

    def _fold(self, call: Call, g: Any, errors: Any, at: int, tol: float) -> None:
        call.run(fold_kernel, cuda_columns.THREADS * self._tiles, self._partial, self.device_b, self.device_log_b, self.tau[1], g,
                 self._column, self._column_error, errors, at, tol, threads=cuda_columns.THREADS)

    def keep(self, call: Call, kernel: Any, work: int, size: int, f: Any, g: Any, limit: Any) -> tuple[Any, Any, Any]:
        """Starts of `size` lists, indices and values of the entries from each row's `limit` on. The host reads their number."""
        start = upload(call, call.empty(size + 1, _INT), np.zeros(size + 1, np.int64))
        none = call.empty(0, _INT), call.empty(0, _FLOAT)
        self.run(call, kernel, work, f, g, limit, False, start, *none)
        _cuda.launch(scan_kernel, 1, cuda_sparse.THREADS, call.stream, start)
        count = int(call.read(start[size:])[0])
        index, value = call.empty(count, _INT), call.empty(count, _FLOAT)
        self.run(call, kernel, work, f, g, limit, True, start, index, value)
        return start, index, value

    # ---- the contract

    def rows(self) -> bool:
        """f from g; whether every row of positive marginal can send anything."""
        with Call(self.like) as call:
            self.exact_rows(call, self._f.on_device(call, True), self._g.on_device(call))
        return not np.any(self.f == np.inf)

    def columns(self) -> bool:
        """g from f; whether every column of positive marginal can receive anything."""
        with Call(self.like) as call:
            self.run(call, columns_kernel, cuda_columns.THREADS * self._tiles, self.device_log_b, self.tau[1], self.row,
                     self._f.on_device(call), self._g.on_device(call, True), threads=cuda_columns.THREADS)
        return not np.any(self.g == np.inf)

    def sweep(self, count: int, tol: float, relax: float = 1.0) -> np.ndarray:
        """Up to `count` times rows, then columns; the error between the two, which ends it before the columns when <= tol.

        Over-relaxation: a potential moves by `relax` times its step; then the error is that of both marginals.
        """
        kernel, least = make_sweep_kernel(self.single), 2.0**-60 if self.single else cuda_device.COLUMN
        with Call(self.like) as call:
            f, g, errors = self._f.on_device(call, True), self._g.on_device(call, True), call.empty(count, _FLOAT)
            for at in range(count):
                self.run(call, kernel, cuda_rows.THREADS * self._partial.shape[0], self.device_a, self.device_log_a, self.tau[0],
                         relax, self.row, self._per, f, g, self._partial, self._row_error, errors, at, tol)
                self._fold(call, g, errors, at, tol)
                self.run(call, finish_kernel, cuda_columns.THREADS * self._tiles, self.device_log_b, self.tau[1], relax, least,
                         self.row, f, g, self._column, self._row_error, self._column_error, errors, at, tol,
                         threads=cuda_columns.THREADS)
            found = call.read(errors)
        return found[: 1 + int(np.argmax(found <= tol))] if count and found[-1] <= tol else found

    def _marginals(self, u: np.ndarray | None = None, v: np.ndarray | None = None) -> list[np.ndarray]:
        """The same as `products`, of the potentials held, on the host."""
        with Call(self.like) as call:
            found = self.products(call, self._f.on_device(call), self._g.on_device(call), u, v)
            return [call.read(x) for x in found]

    def error(self) -> tuple[float, float]:
        """L1 errors of rows and columns. Penalised: of the fixed-point equations, weighted by the plan's marginals."""
        sums, column, _ = self._marginals()
        return (residual(sums, self.a, self.log_a, self.f, self.tau[0]),
                residual(column, self.b, self.log_b, self.g, self.tau[1]))

    def summary(self) -> tuple[float, float, float]:
        """<C, P>, the mass sum P, and sum P log P."""
        r, c, spent = self._marginals()
        cost, f, g = self._factor * float(spent.sum()), self.f, self.g
        return cost, float(r.sum()), float(r[r > 0] @ f[r > 0] + c[c > 0] @ g[c > 0]) - cost / self.reg

    def apply(self, v: np.ndarray) -> np.ndarray:
        return self._marginals(v=v)[0]

    def apply_transpose(self, u: np.ndarray) -> np.ndarray:
        return self._marginals(u=u)[1]

    def dense(self, threshold: float = 0.0) -> Any:
        """P without its entries up to the threshold, in device memory."""
        plan = empty_like_array(self.like, (self.n, self.m), "float64")
        with Call(self.like) as call:
            self.run(call, dense_kernel, self.n * self.m, self._f.on_device(call), self._g.on_device(call), threshold,
                     _cuda.view(plan))
        return plan

    def sparse(self, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Entries above the threshold, as a CSR matrix's (indptr, indices, data), on the host."""
        with Call(self.like) as call:
            limit = self.put(np.full(self.n, np.nextafter(max(threshold, 0.0), np.inf)))
            start, index, value = self.keep(call, keep_rows_kernel, 32 * self.n, self.n, self._f.on_device(call),
                                            self._g.on_device(call), limit)
            return call.read(start), call.read(index), call.read(value)


class _Putter:
    """Copies of host arrays in device memory."""

    def __init__(self, call: Call) -> None:
        self._like = call.like

    def __call__(self, host: np.ndarray) -> Any:
        with Call(self._like) as call:
            return upload(call, call.empty(host.size, host.dtype), host)


def _double(call: Call, x: Any) -> Any:
    """A view of an array's values as float64: its own memory where it is that."""
    view = _cuda.view(x)
    if view.dtype == _FLOAT:
        return view
    out = call.empty(view.size, _FLOAT).reshape(view.shape)
    call.run(cuda_rows.convert_kernel, view.size, view, out)
    return out
