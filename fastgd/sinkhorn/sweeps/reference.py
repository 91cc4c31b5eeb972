"""The oracle of the sweeps: float64 NumPy, every exponential shifted by its maximum, the whole matrix in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from .points import Points


def transport(cost: np.ndarray | Points, a: np.ndarray, b: np.ndarray, *, reg: float, precision: str = "float64",
              tau: tuple[float, float] = (1.0, 1.0), threads: int = 1) -> Transport:
    return Transport(cost, a, b, reg, tau)


class Transport:
    """P_ij = exp(f_i + g_j - C_ij / reg), with potentials in units of reg; -inf where the marginal is 0."""

    def __init__(self, cost: np.ndarray | Points, a: np.ndarray, b: np.ndarray, reg: float, tau: tuple[float, float]) -> None:
        self.cost = _distances(cost) if isinstance(cost, Points) else cost.astype(np.float64)
        self.a, self.b, self.reg, self.tau = a, b, reg, tau
        with np.errstate(divide="ignore"):
            self.log_a, self.log_b = np.log(a), np.log(b)
        self.f, self.g = np.where(a > 0, 0.0, -np.inf), np.where(b > 0, 0.0, -np.inf)

    def rescale(self, reg: float, tau: tuple[float, float] | None = None) -> None:
        """Another regularisation, with potentials kept in units of the cost."""
        self.f *= self.reg / reg
        self.g *= self.reg / reg
        self.reg, self.tau = reg, tau or self.tau

    def rows(self) -> bool:
        """f from g; whether every row of positive marginal can send anything."""
        self.f = self._update(self.g[None, :] - self._scaled(), self.log_a, self.tau[0])
        return not np.any(self.f == np.inf)

    def columns(self) -> bool:
        """g from f; whether every column of positive marginal can receive anything."""
        self.g = self._update(self.f[None, :] - self._scaled().T, self.log_b, self.tau[1])
        return not np.any(self.g == np.inf)

    def _scaled(self) -> np.ndarray:
        """K = C / reg: +inf where that overflows."""
        with np.errstate(over="ignore"):
            return self.cost / self.reg

    @staticmethod
    def _update(exponents: np.ndarray, logs: np.ndarray, tau: float) -> np.ndarray:
        """tau (log marginal - log sum exp); -inf where the marginal is 0, +inf where nothing can be sent."""
        sums = _log_sum_exp(exponents)
        with np.errstate(invalid="ignore"):
            return np.where(logs == -np.inf, -np.inf, np.where(sums == -np.inf, np.inf, tau * (logs - sums)))

    def sweep(self, count: int, tol: float, relax: float = 1.0) -> np.ndarray:
        """Up to `count` times rows, then columns; the error between the two, which ends it before the columns when <= tol.

        Over-relaxation: a potential moves by `relax` times its step; then the error is that of both marginals.
        """
        errors: list[float] = []
        while len(errors) < count:
            f = self._update(self.g[None, :] - self._scaled(), self.log_a, self.tau[0])
            self.f = _moved(self.f, f, relax)
            errors.append(float(sum(self.error())))
            if errors[-1] <= tol:
                break
            g = self._update(self.f[None, :] - self._scaled().T, self.log_b, self.tau[1])
            self.g = _moved(self.g, g, relax)
        return np.array(errors)

    def error(self) -> tuple[float, float]:
        """L1 errors of rows and columns. Penalised: of the fixed-point equations, weighted by the plan's marginals."""
        plan = self.dense()
        return (self._residual(plan.sum(axis=1), self.a, self.f, self.tau[0]),
                self._residual(plan.sum(axis=0), self.b, self.g, self.tau[1]))

    @staticmethod
    def _residual(sums: np.ndarray, marginal: np.ndarray, potential: np.ndarray, tau: float) -> float:
        if tau == 1.0:
            return float(np.abs(sums - marginal).sum())
        live = sums > 0
        s = sums[live]
        step = tau * (np.log(marginal[live]) - np.log(s) + potential[live]) - potential[live]
        return float((s * np.abs(step)).sum())

    def summary(self) -> tuple[float, float, float]:
        """<C, P>, the mass sum P, and sum P log P."""
        plan = self.dense()
        sent = plan > 0
        return float((self.cost[sent] * plan[sent]).sum()), float(plan.sum()), float((plan[sent] * np.log(plan[sent])).sum())

    def apply(self, v: np.ndarray) -> np.ndarray:
        return (self.dense() * v).sum(axis=1)

    def apply_transpose(self, u: np.ndarray) -> np.ndarray:
        return (self.dense() * u[:, None]).sum(axis=0)

    def dense(self) -> np.ndarray:
        """P; nothing where a potential is infinite: such a row or column sends nothing."""
        f, g = (np.where(potential < np.inf, potential, -np.inf) for potential in (self.f, self.g))
        with np.errstate(over="ignore"):
            return np.exp(f[:, None] + g[None, :] - self._scaled())

    def sparse(self, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Entries above the threshold, as a CSR matrix's (indptr, indices, data)."""
        plan = self.dense()
        matrix: Any = csr_array(np.where(plan > threshold, plan, 0.0))
        return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data


def _distances(points: Points) -> np.ndarray:
    squares = ((points.x[:, None, :] - points.y[None, :, :]) ** 2).sum(axis=2)
    return points.scale * (squares if points.metric == "sqeuclidean" else np.sqrt(squares))


def _moved(old: np.ndarray, new: np.ndarray, relax: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(old) & np.isfinite(new), old + relax * (new - old), new)


def _log_sum_exp(exponents: np.ndarray) -> np.ndarray:
    top = exponents.max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(top == -np.inf, -np.inf, top + np.log(np.exp(exponents - top[:, None]).sum(axis=1)))
