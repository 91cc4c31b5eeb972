"""Costs that are not stored: points and a metric."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Points(NamedTuple):
    """cost_ij = scale * metric(x_i, y_j)."""

    x: np.ndarray  # (n, d) float64
    y: np.ndarray  # (m, d) float64
    metric: str  # "sqeuclidean" or "euclidean"
    scale: float
