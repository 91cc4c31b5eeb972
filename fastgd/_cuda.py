"""CUDA: availability, streams, launch sizes. Importing this module does not import Numba; its functions do."""

from __future__ import annotations

import importlib.util
import os
from typing import Any


def simulated() -> bool:
    """True in a process that runs Numba's CUDA simulator (NUMBA_ENABLE_CUDASIM=1)."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def why_unavailable() -> tuple[str, ...]:
    """Reasons why CUDA kernels cannot run in this process; empty when they can."""
    if simulated():
        return ()
    if importlib.util.find_spec("numba_cuda") is None:
        return ("numba-cuda is not installed: pip install 'fastgd[cuda]'",)
    from numba import cuda

    if not cuda.is_available():
        return ("no CUDA driver or device was found",)
    major, minor = cuda.get_current_device().compute_capability
    if (major, minor) < (7, 5):
        return (f"the GPU's compute capability {major}.{minor} is below 7.5",)
    return ()


def stream_of(x: Any) -> Any:
    """The stream on which the producer of `x` works now, so that a launch is ordered after it without a host sync."""
    from numba import cuda

    module = type(x).__module__.partition(".")[0]
    if module == "torch":
        import torch

        return cuda.external_stream(torch.cuda.current_stream(x.device).cuda_stream)
    if module == "cupy":
        import cupy

        return cuda.external_stream(cupy.cuda.get_current_stream().ptr)
    return cuda.default_stream()


def blocks(size: int, threads: int, limit: int = 1 << 16) -> int:
    """Thread blocks for a grid-stride loop over `size` elements: enough to cover it, at least 1, at most `limit`."""
    return max(1, min(limit, -(-size // threads)))
