"""What a solver returns: potentials, how it went, and the plan on demand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._arrays import is_on_device, to_host, unpack, widen
from .._checks import array_out, number
from .._dispatch import Operand, find
from . import arguments, device
from .arguments import Problem
from .sweeps.points import Points


class Solution:
    """Potentials of one transport problem, and what they say of the plan P_ij = exp((f_i + g_j - C_ij) / reg).

    Attributes
    ----------
    f, g : (n,), (m,) arrays of float64
        In units of the cost, -inf where the marginal is 0. With fixed marginals they are fixed up to a constant, which is chosen
        such that sum_j b_j g_j = 0. In the caller's array type.
    status : str
        "converged": the error is at most `tol`. "max_iter": not yet. "stalled": rounding keeps it above `tol`, and more
        iterations would change nothing. "stopped": by the callback. "infeasible": no plan has these marginals within `tol`,
        because of infinite costs.
    error : float
        |P1 - a|_1 + |P'1 - b|_1 of these potentials; penalised, the residual of the fixed-point equations weighted by the plan's
        marginals.
    iterations : dict
        "sweeps", "newton" (steps) and "cg" (conjugate gradients inside them).
    method : str
        What ran: "sinkhorn", "newton" (sweeps first) or "sns".
    history : array of float64
        The error measured by each counted iteration: between its row and its column update. While epsilon is scaled down, that of
        the regularisation of the moment.

    Notes
    -----
    Gradients, by the envelope theorem: with OT = `value`, dOT/dC = P, dOT/da = f and dOT/db = g, at the optimum and (fixed
    marginals) along changes that keep the sums equal. A product with P needs no stored P: `apply` and `apply_transpose` make
    its entries from the potentials as they go.

    The object keeps the cost as it was given, not a copy: `plan` and all that follows from it read it again. It can be pickled,
    with the cost; from a GPU it comes back on the host.
    """

    f: Any
    g: Any
    status: str
    error: float
    iterations: dict[str, int]
    method: str
    history: np.ndarray

    def __init__(self, problem: Problem, potentials: tuple[np.ndarray, np.ndarray], like: Any, backend: str | None, threads: int,
                 **outcome: Any) -> None:
        self._problem, self._pair, self._backend, self._threads = problem, potentials, backend, threads
        self._sums: tuple[float, float] | None = None
        u, v = potentials
        shift = 0.0
        if problem.penalty is None:
            held = np.isfinite(v) & (problem.b > 0.0)
            shift = float(problem.b[held] @ v[held]) / float(problem.b[held].sum()) if held.any() else 0.0
        self.f, self.g = like((u + shift) * problem.reg), like((v - shift) * problem.reg)
        self.__dict__.update(outcome)

    # ---- the plan

    def plan(self, *, sparse: bool = False, threshold: float = 0.0, out: Any = None) -> Any:
        """P, without its entries up to a threshold.

        Parameters
        ----------
        sparse : bool
            A SciPy CSR array of the entries above the threshold instead of a dense array.
        threshold : float
            Absolute, at least 0.
        out : (n, m) array of float64, optional
            Where to put the dense plan.

        Returns
        -------
        (n, m) array of float64, or scipy.sparse.csr_array

        Cost: a pass over the cost; sparse two, and memory for what is kept.
        """
        threshold = number(threshold, "threshold", 0.0)
        transport = self._transport()
        if sparse:
            from scipy.sparse import csr_array

            if out is not None:
                raise ValueError("out is for dense plans: leave it out with sparse=True")
            start, index, values = transport.sparse(threshold)
            return csr_array((values, index, start), shape=self._problem.shape)
        if is_on_device(self.f):
            return self._hand(transport.dense(threshold), out)
        plan = transport.dense()
        if threshold > 0.0:
            plan[plan <= threshold] = 0.0
        return self._hand(plan, out)

    def apply(self, v: Any, *, out: Any = None) -> Any:
        """P v for a vector (m,), or for the columns of an array (m, k): float64. A pass over the cost for each."""
        return self._product(v, "v", 1, out)

    def apply_transpose(self, u: Any, *, out: Any = None) -> Any:
        """P' u for a vector (n,), or for the columns of an array (n, k): float64. A pass over the cost for each."""
        return self._product(u, "u", 0, out)

    def _product(self, x: Any, name: str, side: int, out: Any) -> Any:
        on_gpu = is_on_device(self.f)
        values = arguments.numbers(to_host(x) if on_gpu and is_on_device(x) else x, name)
        size = self._problem.shape[side]
        if values.ndim not in (1, 2) or len(values) != size:
            raise ValueError(f"{name} must have shape ({size},) or ({size}, k), got {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has a NaN or an Inf: products with the plan need finite numbers")
        transport = self._transport()
        product = transport.apply if side else transport.apply_transpose
        if values.ndim == 1:
            return self._hand(product(values), out)
        result = np.empty((self._problem.shape[1 - side], values.shape[1]))
        for column, vector in enumerate(np.ascontiguousarray(values.T)):
            result[:, column] = product(vector)
        return self._hand(result, out)

    def _hand(self, result: np.ndarray, out: Any) -> Any:
        """The result as the caller's arrays are, or in `out`."""
        if is_on_device(self.f):
            if out is None:
                return device.like(self.f)(result)
            device.to(array_out(out, result.shape, "float64", "cuda"), result)
            return out
        if out is None:
            return unpack(self.f, "f")[2](result)
        array_out(out, result.shape, "float64", "cpu")[...] = result
        return out

    # ---- its values

    @property
    def cost(self) -> float:
        """<C, P>. A pass over the cost, once."""
        return self._summary()[0]

    @property
    def value(self) -> float:
        """<C, P> + reg sum_ij P_ij (log P_ij - 1), and with penalties rho_a KL(P1 | a) + rho_b KL(P'1 | b).

        KL(p | q) = sum p log(p / q) - p + q. A pass over the cost, once.
        """
        return self._summary()[1]

    def _summary(self) -> tuple[float, float]:
        if self._sums is None:
            problem, transport = self._problem, self._transport()
            cost, mass, entropy = transport.summary()
            value = cost + problem.reg * (entropy - mass)
            if problem.penalty is not None:
                sums = transport.apply(np.ones(problem.shape[1])), transport.apply_transpose(np.ones(problem.shape[0]))
                for rho, sent, marginal, alone in zip(problem.penalty, sums, (problem.a, problem.b), problem.alone, strict=True):
                    value += rho * (_divergence(sent, marginal) + alone) if rho < math.inf else 0.0
            self._sums = cost, value
        return self._sums

    # ---- inner

    def _transport(self) -> Any:
        """The kernels' object with these potentials, of its own for every call: threads may share a Solution."""
        problem = self._problem
        dtype = "float64" if isinstance(problem.cost, Points) else str(problem.cost.dtype).removeprefix("torch.")
        where = "cuda" if is_on_device(self.f) else "cpu"
        transport = find("sinkhorn.transport", Operand(where, dtype), self._backend)(
            problem.cost, problem.a, problem.b, reg=problem.reg, tau=problem.tau(problem.reg), threads=self._threads)
        transport.f[:], transport.g[:] = self._pair
        return transport

    def _potentials(self, reg: float) -> tuple[np.ndarray, np.ndarray]:
        """f and g in units of another regularisation."""
        u, v = self._pair
        return (u, v) if reg == self._problem.reg else (u * (self._problem.reg / reg), v * (self._problem.reg / reg))

    def __getstate__(self) -> dict[str, Any]:
        """Arrays of other libraries are pickled as NumPy's, and so is a cost on a GPU: what comes back lives on the host."""
        state = self.__dict__.copy()
        if is_on_device(self.f):
            cost = self._problem.cost
            cost = cost._replace(x=_double(cost.x), y=_double(cost.y)) if isinstance(cost, Points) else to_host(cost)
            state |= {"_problem": self._problem._replace(cost=cost), "_backend": None}
        for name in ("f", "g"):
            data, operand, _ = unpack(state[name], name)
            state[name] = widen(data, operand.dtype)
        return state

    def __repr__(self) -> str:
        n, m = self._problem.shape
        return (f"Solution({n} x {m}, reg={self._problem.reg:g}, {self.method}: {self.status}, error={self.error:.2g}, "
                f"{self.iterations})")


def _double(x: Any) -> np.ndarray:
    return np.ascontiguousarray(to_host(x), dtype=np.float64)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p | q) = sum p log(p / q) - p + q."""
    sent = p > 0.0
    return float((p[sent] * np.log(p[sent] / q[sent])).sum() - p.sum() + q.sum())
