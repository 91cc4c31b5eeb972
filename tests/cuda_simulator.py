"""What Numba's CUDA simulator lacks or gets wrong, repaired. Imported by conftest.py in the simulator's process only.

`cuda.fma` rounds the product there; error-free products need it exact. Shuffles are missing: here every thread of a block shows
its value to the others between two barriers, so all threads of the block must reach a shuffle together.
"""

from __future__ import annotations

import sys
import threading
from fractions import Fraction
from typing import Any

import numpy as np
from numba import types
from numba.cuda.simulator.kernelapi import FakeCUDAModule, FakeCUDAShared
from numba.np.numpy_support import as_dtype


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


def shfl_sync(self: Any, mask: Any, value: Any, lane: Any) -> Any:
    """The value of a lane of the same warp; full masks only."""
    return _shown(self, value)[int(lane) % 32]


def ballot_sync(self: Any, mask: Any, predicate: Any) -> Any:
    """A bit for each lane of the warp; full masks only."""
    return sum(1 << lane for lane, voted in _shown(self, bool(predicate)).items() if voted)


def _shown(self: Any, value: Any) -> dict[int, Any]:
    """What each lane of the warp shows."""
    shown = threading.current_thread()._manager.__dict__.setdefault("_shown", {})
    place = self.threadIdx.x  # blocks here have one dimension
    shown[place] = value
    self.syncthreads()
    first = place // 32 * 32
    result = {lane: shown[first + lane] for lane in range(32) if first + lane in shown and first + lane < self.blockDim.x}
    self.syncthreads()
    return result


FakeCUDAModule.shfl_sync = shfl_sync
FakeCUDAModule.ballot_sync = ballot_sync

_array = FakeCUDAShared.array


def shared_array(self: Any, shape: Any, dtype: Any, alignment: Any = None) -> Any:
    """The one array of a source line for all threads of a block; the simulator's own makes two if two threads come at once."""
    if shape == 0 or alignment is not None:
        return _array(self, shape, dtype, alignment)
    line = sys._getframe(1)
    empty = np.empty(shape, as_dtype(dtype) if isinstance(dtype, types.Type) else dtype)
    return self._allocations.setdefault((line.f_code.co_filename, line.f_lineno), empty)


FakeCUDAShared.array = shared_array
