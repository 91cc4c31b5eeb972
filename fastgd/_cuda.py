"""CUDA: availability, streams, views, launches. Importing this module does not import Numba; its functions do.

Work is ordered by streams alone: every launch goes to the stream on which the input's library works, temporary memory
comes from that library (whose allocator orders its reuse by the same stream), and the host waits only to read a value.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np

#: Numba warns about every launch of fewer blocks. Kernels here loop over their work, so idle blocks cost a microsecond.
_FEWEST_BLOCKS = 128


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


def library_of(x: Any) -> str:
    """The top-level package of an array's type: "torch", "cupy", "numba", ..."""
    return type(x).__module__.partition(".")[0]


def device_of(x: Any) -> Any:
    """A context manager: inside, the device that holds `x` is current for Numba and for the library of `x`.

    Numba's own arrays do not say where they live; they are taken to be on the current device.
    """
    if simulated():
        return nullcontext()
    from numba import cuda

    library = library_of(x)
    if library not in ("torch", "cupy"):
        return nullcontext()
    stack = ExitStack()
    if library == "torch":
        import torch

        stack.enter_context(torch.cuda.device(x.device))
        stack.enter_context(cuda.gpus[x.device.index])
    else:
        stack.enter_context(x.device)
        stack.enter_context(cuda.gpus[x.device.id])
    return stack


def stream_of(x: Any) -> Any:
    """The stream on which the producer of `x` works now, so that a launch is ordered after it without a host sync.

    torch and CuPy: their current stream for the device of `x`. Others: the stream that `__cuda_array_interface__`
    names, which every consumer must follow; without one, the default stream.
    """
    from numba import cuda

    if simulated():
        return cuda.default_stream()
    library = library_of(x)
    if library == "torch":
        import torch

        pointer = torch.cuda.current_stream(x.device).cuda_stream
    elif library == "cupy":
        import cupy

        pointer = cupy.cuda.get_current_stream(x.device.id).ptr
    else:
        pointer = x.__cuda_array_interface__.get("stream") or 0
    return cuda.external_stream(int(pointer)) if pointer else cuda.default_stream()


def view(x: Any, dtype: Any = None) -> Any:
    """A Numba device array over the memory of `x`, without a copy and without waiting for its stream.

    `dtype` reinterprets the elements; NumPy's and torch's names differ for bfloat16, which Numba cannot name at all, so
    ask for numpy.int16 there.
    """
    if simulated():
        return x if dtype is None else x.view(dtype)
    from numba import cuda

    if dtype is not None and library_of(x) == "torch":
        import torch

        x = x.view(getattr(torch, np.dtype(dtype).name))
        dtype = None
    array = cuda.as_cuda_array(x, sync=False)
    return array if dtype is None else array.view(dtype)


def blocks(size: int, threads: int, limit: int = 1 << 16) -> int:
    """Thread blocks for a grid-stride loop over `size` elements: enough to cover it, at least 1, at most `limit`."""
    return max(1, min(limit, -(-size // threads)))


def launch(kernel: Any, grid: int, threads: int, stream: Any, *arguments: Any, shared_bytes: int = 0) -> None:
    """Run a grid-stride kernel: any number of blocks gives the same result, and at least `grid` are started."""
    if not simulated():
        grid = max(grid, _FEWEST_BLOCKS)
    kernel[grid, threads, stream, shared_bytes](*arguments)


def empty_bytes(like: Any, size: int) -> Any:
    """Uninitialised bytes of the library of `like`, on the current device."""
    library = library_of(like)
    if library == "torch":
        import torch

        return torch.empty(size, dtype=torch.uint8, device=like.device)
    if library == "cupy":
        import cupy

        return cupy.empty(size, np.uint8)
    from numba import cuda

    return cuda.device_array(size, np.uint8)


class Call:
    """One call: the device and stream of the caller's array, and memory of its library. A context manager."""

    def __init__(self, like: Any) -> None:
        self.like = like
        self._stack = ExitStack()

    def __enter__(self) -> Call:
        self._stack.enter_context(device_of(self.like))
        self.stream = stream_of(self.like)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def empty(self, size: int, dtype: Any) -> Any:
        """Uninitialised elements, a view that keeps them alive; the memory is of at least one."""
        dtype = np.dtype(dtype)
        memory = empty_bytes(self.like, max(size, 1) * dtype.itemsize)
        return view(memory).view(dtype)[:size]

    def zeros(self, size: int) -> Any:
        """Words, each 0."""
        from ._cuda_fill import fill_kernel

        words = self.empty(max(size, 1), np.uint32)
        self.run(fill_kernel, max(size, 1), np.uint32(0), words)
        return words

    def run(self, kernel: Any, work: int, *arguments: Any, threads: int = 128, shared: int = 0) -> None:
        """Launch a grid-stride kernel for so many threads' work, with so many bytes of shared memory; nothing for none."""
        if work:
            launch(kernel, blocks(work, threads), threads, self.stream, *arguments, shared_bytes=shared)

    def read(self, array: Any) -> np.ndarray:
        """The values of a device array on the host, after waiting for the stream."""
        host: np.ndarray = array.copy_to_host(stream=self.stream)
        self.stream.synchronize()
        return host
