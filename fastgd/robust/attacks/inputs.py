"""What every attack does first and last: look at its arguments, round what is sent."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._checks import count as whole


def check(honest: Any, count: Any) -> tuple[np.ndarray, int]:
    """The two arguments every attack has, or an error that names the one at fault."""
    if not isinstance(honest, np.ndarray) or honest.dtype not in (np.float16, np.float32, np.float64):
        got = f"{honest.dtype} array" if isinstance(honest, np.ndarray) else type(honest).__name__
        raise TypeError(f"honest must be a NumPy array of float16, float32 or float64, got {got}: convert it with "
                        "numpy.asarray(..., dtype=numpy.float32)")
    if honest.ndim != 2 or len(honest) == 0:
        raise ValueError(f"honest has shape {honest.shape}, but must be (k, d) with k >= 1: one row per honest vector")
    return honest, whole(count, "count", 0)


def copies(vector: np.ndarray, count: int, dtype: np.dtype) -> np.ndarray:
    """`count` copies of a float64 vector, rounded to `dtype`."""
    with np.errstate(over="ignore"):
        return np.repeat(vector.astype(dtype)[None], count, axis=0)
