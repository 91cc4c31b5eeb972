"""How far sums of a plan are from their marginal, for the kernels' fronts."""

from __future__ import annotations

import numpy as np


def residual(sums: np.ndarray, marginal: np.ndarray, logs: np.ndarray, potential: np.ndarray, tau: float) -> float:
    """|sums - marginal|_1. Penalised: of the fixed-point equation of the potential, weighted by the sums; `logs` of marginal."""
    if tau == 1.0:
        return float(np.abs(sums - marginal).sum())
    live = sums > 0
    s, old = sums[live], potential[live]
    return float((s * np.abs(tau * (logs[live] - np.log(s) + old) - old)).sum())
