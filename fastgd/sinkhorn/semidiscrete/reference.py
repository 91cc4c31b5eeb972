"""The oracle of semi-discrete transport: one draw after another in float64 NumPy."""

from __future__ import annotations

import numpy as np


def descend(x: np.ndarray, y: np.ndarray, weights: np.ndarray, factor: float, reg: np.ndarray, step: np.ndarray,
            bound: np.ndarray, share: np.ndarray, g: np.ndarray, average: np.ndarray) -> np.ndarray:
    """Steps on draws x (steps, batch, d), in place on g and its average; the semi-dual objective at each, before it.

    g <- clip(g - step (mean chi - w), +-bound), average <- average + share (g - average).
    """
    values = np.empty(len(x))
    for t, draws in enumerate(x):
        scores = g - _costs(draws, y, factor)
        if reg[t] > 0.0:
            exponents = scores / reg[t] + np.log(weights)
            top = exponents.max(axis=1, keepdims=True)
            e = np.exp(exponents - top)
            sums = e.sum(axis=1, keepdims=True)
            chi, least = e / sums, -reg[t] * (top + np.log(sums))
        else:
            chi, least = np.eye(len(y))[scores.argmax(axis=1)], -scores.max(axis=1)
        values[t] = least.mean() + weights @ g
        g[:] = np.clip(g - step[t] * (chi.mean(axis=0) - weights), -bound[t], bound[t])
        average += share[t] * (g - average)
    return values


def assign(x: np.ndarray, y: np.ndarray, g: np.ndarray, factor: float, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each point the atom of least cost - potential, the first of equals, and that least."""
    scores = _costs(x, y, factor) - g
    index = scores.argmin(axis=1)
    return index, np.take_along_axis(scores, index[:, None], axis=1)[:, 0]


def _costs(x: np.ndarray, y: np.ndarray, factor: float) -> np.ndarray:
    return factor * ((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=2)
