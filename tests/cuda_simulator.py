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
from numba.cuda.simulator.kernelapi import FakeCUDAModule

#: A block's threads wait for each other by asking: at the usual interval of 5 ms nearly all time is waiting.
sys.setswitchinterval(1e-5)


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
