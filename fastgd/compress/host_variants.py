"""The elementwise work of EControl and DGC on the host: NumPy, in the order of operations of `cuda_variants.py`."""

from __future__ import annotations

import numpy as np

from .common import to_float32
from .state import Vector


def control(weight: np.float32, e: np.ndarray, x: Vector, h: np.ndarray) -> np.ndarray:
    """weight e + g - h, a new vector."""
    with np.errstate(over="ignore", invalid="ignore"):
        p: np.ndarray = weight * e + to_float32(x) - h
    return p


def accumulate(e: np.ndarray, x: Vector, h: np.ndarray) -> None:
    """e += g - h."""
    e += to_float32(x) - h


def momentum(factor: np.float32, u: np.ndarray, x: Vector, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """factor u + g, and v + that: new vectors."""
    with np.errstate(over="ignore", invalid="ignore"):
        velocity: np.ndarray = factor * u + to_float32(x)
        return velocity, v + velocity


def forget(sent: np.ndarray, k: int, velocity: np.ndarray, residual: np.ndarray) -> None:
    """Clear both where the body of a sparse payload says that k coordinates were sent."""
    indices = sent[: 4 * k].copy().view("<u4")
    residual[indices] = velocity[indices] = 0.0
