"""The oracle: plain NumPy in the longest float there is. Shares no code with the kernels."""

from __future__ import annotations

import numpy as np

from ..._arrays import narrow
from ..._rows import Rows


def gram(rows: Rows, threads: int = 1) -> np.ndarray:
    """G_ij = sum_c x_ic x_jc."""
    x = rows.matrix().astype(np.longdouble)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array([[(a * b).sum() for b in x] for a in x]).astype(np.float64)


def step(rows: Rows, along: float, across: float, stacks: list[np.ndarray], threads: int = 1) -> None:
    """y = x_0 - (along x_1 + across x_2)."""
    x, y, z = rows.matrix().astype(np.longdouble)
    with np.errstate(over="ignore", invalid="ignore"):
        result = (x - (along * y + across * z)).astype(np.float64)
    start = 0
    for layer, stack in zip(rows.layers, stacks, strict=True):
        stack[...] = narrow(result[start : start + layer.size], layer.dtype).reshape(stack.shape)
        start += layer.size
