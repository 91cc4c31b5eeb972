"""The kernel that rooms share: it fills an array. Apart from `_cuda.py`, since importing it imports Numba."""

from __future__ import annotations

from typing import Any

from numba import cuda


@cuda.jit
def fill_kernel(value: Any, out: Any) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = value
