"""The tree on the GPU. Methods as in `reference.py`; layout, sums and draws are the CPU's, bit for bit.

Its memory is of the library of the weights it was made from. Everything runs on that library's stream; the host waits for what
it must know: whether a change was refused, and the total then; whether all masses lay inside; a sum.

Cost: a draw is one cache line a level by 8 lanes; up to 1024 changes are one launch of one block, more are a rebuild, one read of
the leaves. Draws without replacement follow one another in one warp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from ... import _cuda
from ..._arrays import is_on_device
from ..._cuda import Call
from ..._cuda_fill import fill_kernel
from . import arrays, cuda_kernels
from .cuda_kernels import IID, ONE_BLOCK, STRATIFIED, SYSTEMATIC, THREADS

_METHODS = {"iid": IID, "stratified": STRATIFIED, "systematic": SYSTEMATIC}
_REFUSED = {0.0: 0, 2.0: 1, 1.0: 2, -1.0: 3}  # the kernels' reports as the other backends' status


class Tree:
    """Weights and the sums above them in device memory, as csrc/dro_tree.h lays them out."""

    on_host = False

    def __init__(self, n: int, like: Any = None) -> None:
        self._like, self.n, self._sum = like, n, 0.0
        self._allocate(max(n, 1))

    def _allocate(self, capacity: int) -> None:
        first, end, size = [], 0, capacity
        while True:
            first.append(end)
            size = -(-size // 8)
            end += 8 * size
            if size <= 1:
                break
        self._capacity, self._levels = capacity, [*first, end]
        self.data, self._first = self._new(end, np.float64), self._new(len(first), np.int64)
        with Call(self.data) as call:
            call.run(fill_kernel, 2 * end, np.uint32(0), _cuda.view(self.data).view(np.uint32))
            _cuda.view(self._first).copy_to_device(np.array(first, np.int64), stream=call.stream)
            call.stream.synchronize()  # the host array must live until then

    def _new(self, size: int, dtype: Any) -> Any:
        """An array of the tree's library."""
        name, library = np.dtype(dtype).name, None if self._like is None else _cuda.library_of(self._like)
        if library == "torch":
            import torch

            return torch.empty(size, dtype=getattr(torch, name), device=self._like.device)
        if library == "cupy":
            import cupy

            with self._like.device:
                return cupy.empty(size, dtype)
        return cuda.device_array(size, dtype)

    def _views(self) -> tuple[Any, Any]:
        return _cuda.view(self.data), _cuda.view(self._first)

    # ---- arguments

    def indices(self, x: Any, name: str) -> Any:
        """An int64 device array; integers of the host are taken there, one alone stays."""
        if not is_on_device(x):
            host = arrays.indices(x, name)
            return self._upload(host) if host.ndim else host
        if str(x.dtype).removeprefix("torch.") != "int64":
            raise TypeError(f"{name} must hold int64 on the GPU, got {x.dtype}: convert it there")
        return self._contiguous(x, name)

    def numbers(self, x: Any, name: str) -> Any:
        """A float64 device array; numbers of the host are taken there, one alone stays."""
        if not is_on_device(x):
            host = arrays.numbers(x, name)
            return self._upload(host) if host.ndim else host
        if str(x.dtype).removeprefix("torch.") != "float64":
            raise TypeError(f"{name} must hold float64 on the GPU, got {x.dtype}: convert it there")
        return self._contiguous(x, name)

    def _contiguous(self, x: Any, name: str) -> Any:
        if x.shape and x.shape[0] and not _cuda.view(x).is_c_contiguous():
            raise ValueError(f"{name} must be contiguous on the GPU")
        return x

    def _upload(self, host: np.ndarray) -> Any:
        out = self._new(host.size, host.dtype)
        if host.size:
            with Call(out) as call:
                _cuda.view(out).copy_to_device(np.ascontiguousarray(host).reshape(-1), stream=call.stream)
                call.stream.synchronize()
        return out if host.ndim == 1 else out.reshape(host.shape)

    # ---- changes

    def _report(self, call: Call) -> Any:
        report = call.empty(2, np.float64)
        call.run(fill_kernel, 4, np.uint32(0), report.view(np.uint32))
        return report

    def _raise(self, call: Call, report: Any) -> float:
        """All sums anew; the total."""
        data, first = self._views()
        for level in range(1, len(self._levels) - 1):
            nodes = (self._levels[level] - self._levels[level - 1]) // 8
            call.run(cuda_kernels.raise_kernel, nodes, data, self._levels[level - 1], self._levels[level], nodes)
        call.run(cuda_kernels.sum_kernel, 1, data, first, 0, self._capacity, report)
        return float(call.read(report)[1])

    def update(self, index: Any, weight: Any) -> int:
        count = index.shape[0]
        if count == 0:
            return 0
        with Call(self.data) as call:
            report, (data, first) = self._report(call), self._views()
            index, weight = _cuda.view(index), _cuda.view(weight)
            if count > ONE_BLOCK:
                return self._update_many(call, index, weight, report)
            old = call.empty(count, np.float64)
            threads = -(-count // 32) * 32
            _cuda.launch(cuda_kernels.update_kernel, 1, threads, call.stream, data, first, self.n, index, weight, old, report)
            refused, total = call.read(report)
        self._sum = self._sum if refused else float(total)
        return _REFUSED[float(refused)]

    def _update_many(self, call: Call, index: Any, weight: Any, report: Any) -> int:
        data, count = _cuda.view(self.data), index.size
        call.run(cuda_kernels.check_kernel, count, index, weight, self.n, report)
        if refused := float(call.read(report)[0]):
            return _REFUSED[refused]
        owner, new = call.zeros(self.n).view(np.int32), call.empty(count, np.float64)
        new.copy_to_device(weight, stream=call.stream)
        call.run(cuda_kernels.claim_kernel, count, index, owner)
        call.run(cuda_kernels.exchange_kernel, count, data, index, new, owner)
        total = self._raise(call, report)
        if not total < np.inf:
            call.run(cuda_kernels.exchange_kernel, count, data, index, new, owner)
            self._raise(call, report)
            return 3
        self._sum = total
        return 0

    def update_one(self, index: int, weight: float) -> int:
        return self.update(self._upload(np.array([index])), self._upload(np.array([weight])))

    def append(self, weights: Any) -> int:
        """Leaves double when there is no room: O(1) a weight in the long run."""
        count = weights.shape[0]
        if self._like is None and count and not isinstance(weights, np.ndarray):
            self._like = weights
        if count == 0:
            return 0
        kept = self.data, self._first, self._levels, self._capacity
        n = self.n
        with Call(weights) as call:
            report = self._report(call)
            call.run(cuda_kernels.check_kernel, count, call.empty(0, np.int64), _cuda.view(weights), 1, report)
            if refused := float(call.read(report)[0]):
                return _REFUSED[refused]
            if n + count > self._capacity or n == 0:
                self._allocate(max(n + count, 2 * n))
                if n:
                    _cuda.view(self.data)[:n].copy_to_device(_cuda.view(kept[0])[:n], stream=call.stream)
            _cuda.view(self.data)[n : n + count].copy_to_device(_cuda.view(weights), stream=call.stream)
            total = self._raise(call, report)
            if not total < np.inf:
                if self.data is kept[0]:
                    new = _cuda.view(self.data)[n : n + count]
                    call.run(fill_kernel, 2 * count, np.uint32(0), new.view(np.uint32))
                    self._raise(call, report)
                self.data, self._first, self._levels, self._capacity = kept
                return 3
        self.n, self._sum = n + count, total
        return 0

    # ---- questions

    def total(self) -> float:
        return self._sum

    def weights(self, index: Any) -> Any:
        if index is not None and not index.shape:
            found = self.weights(self._upload(index.reshape(1)))
            return None if found is None else self._host(found)[0]
        size = self.n if index is None else index.shape[0]
        out = self._new(size, np.float64)
        with Call(self.data) as call:
            data, view = _cuda.view(self.data), _cuda.view(out)
            if index is None:
                view.copy_to_device(data[: self.n], stream=call.stream)
                return out
            if size:
                report = self._report(call)
                call.run(cuda_kernels.weights_kernel, size, data, self.n, _cuda.view(index), view, report)
                if call.read(report)[0]:
                    return None
            return out

    def extremes(self) -> tuple[float, float]:
        """A read of all weights."""
        with Call(self.data) as call:
            bits = call.empty(2, np.int64)
            bits.copy_to_device(np.array([np.inf, 0.0]).view(np.int64), stream=call.stream)
            call.run(cuda_kernels.extremes_kernel, min(self.n, 1 << 16), _cuda.view(self.data), self.n, bits)
            least, most = call.read(bits).view(np.float64)
        return float(least), float(most)

    def sum(self, lo: int, hi: int) -> float:
        with Call(self.data) as call:
            report = self._report(call)
            call.run(cuda_kernels.sum_kernel, 1, *self._views(), lo, hi, report)
            return float(call.read(report)[1])

    def find(self, mass: Any) -> Any:
        leaf = self._new(int(np.prod(mass.shape, dtype=np.int64)), np.int64)
        if leaf.shape[0] == 0:
            return leaf.reshape(tuple(mass.shape))
        with Call(self.data) as call:
            report = self._report(call)
            data, first = self._views()
            call.run(cuda_kernels.find_kernel, 8 * leaf.shape[0], data, first, _cuda.view(mass).reshape(leaf.shape[0]),
                     _cuda.view(leaf), report, threads=THREADS)
            return None if call.read(report)[0] else leaf.reshape(tuple(mass.shape))

    def find_one(self, mass: float) -> int:
        leaf = self.find(self._upload(np.array([mass])))
        return -1 if leaf is None else int(self._host(leaf)[0])

    def empty(self, size: int) -> Any:
        """Memory for draws."""
        return self._new(size, np.int64)

    def check_out(self, out: Any, size: int) -> None:
        """TypeError or ValueError where `out` cannot take `size` draws."""
        if not is_on_device(out) or str(out.dtype).removeprefix("torch.") != "int64" or tuple(out.shape) != (size,):
            raise ValueError(f"out must be an int64 array of shape ({size},) on the GPU, as the tree is")
        self._contiguous(out, "out")

    def sample(self, size: int, method: str, seed: int, drawn: int, out: Any) -> int:
        if not self._sum > 0.0:
            return 0
        with Call(self.data) as call:
            (data, first), leaf = self._views(), _cuda.view(out)
            if method != "without_replacement":
                call.run(cuda_kernels.sample_kernel, 8 * size, data, first, np.uint64(seed), np.uint64(drawn), _METHODS[method],
                         leaf, threads=THREADS)
                return size
            report, old = self._report(call), call.empty(size, np.float64)
            _cuda.launch(cuda_kernels.successive_kernel, 1, 32, call.stream, data, first, np.uint64(seed), np.uint64(drawn), leaf,
                         old, report)
            return int(call.read(report)[0])

    def sample_one(self, seed: int, drawn: int) -> int:
        out = self.empty(1)
        return int(self._host(out)[0]) if self.sample(1, "iid", seed, drawn, out) else -1

    def _host(self, x: Any) -> np.ndarray:
        with Call(x) as call:
            return call.read(_cuda.view(x))


tree = Tree
