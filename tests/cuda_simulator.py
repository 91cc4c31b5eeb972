"""What Numba's CUDA simulator lacks or gets wrong, repaired. Imported by conftest.py in the simulator's process only.

`cuda.fma` rounds the product there; error-free products need it exact.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numba.cuda.simulator.kernelapi import FakeCUDAModule


def fma(self: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding (float32: a second one in float64, which practically never shows)."""
    with np.errstate(all="ignore"):
        if isinstance(a, np.float32):
            return np.float32(np.float64(a) * np.float64(b) + np.float64(c))
        plain = a * b + c
        if not (np.isfinite(a) and np.isfinite(b) and np.isfinite(c) and np.isfinite(plain)):
            return plain
        return np.float64(float(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))))


FakeCUDAModule.fma = fma
