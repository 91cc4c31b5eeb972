"""One call on the GPU: its stream, its temporary memory, and the callers' arrays as matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _cuda
from .._arrays import empty_like_array
from .._rows import Layer, Rows


class Call:
    """One call's device, stream and temporary memory; `like` is an array of the caller.

    `keep`: what `matrix` copies is copied once and lives as long as the call, for calls that read the vectors twice.
    """

    def __init__(self, rows: Rows, keep: bool = False) -> None:
        data = rows.layers[0].data
        self.like = data[0] if isinstance(data, list) else data
        self.stream = _cuda.stream_of(self.like)
        self._kept: dict[int, Any] | None = {} if keep else None

    def empty(self, shape: tuple[int, ...], dtype: str = "float64") -> tuple[Any, Any]:
        """Uninitialised memory of the caller's library, and its view, which keeps it alive."""
        array = empty_like_array(self.like, shape, dtype)
        return array, _cuda.view(array)

    def upload(self, host: np.ndarray) -> Any:
        """A device copy of a host array whose size is a multiple of 8 bytes."""
        target = self.empty((host.nbytes // 8,))[1].view(host.dtype).reshape(host.shape)
        target.copy_to_device(host, stream=self.stream)
        return target

    def read(self, array: Any) -> np.ndarray:
        """The values of a device view on the host, after waiting for the stream."""
        host = array.copy_to_host(stream=self.stream)
        self.stream.synchronize()
        return host

    def matrix(self, layer: Layer, n: int) -> Any:
        """The layer as a C-contiguous (n, size) view."""
        if self._kept is None:
            return self._matrix(layer, n)
        if id(layer) not in self._kept:
            self._kept[id(layer)] = self._matrix(layer, n)
        return self._kept[id(layer)]

    def _matrix(self, layer: Layer, n: int) -> Any:
        data = layer.data
        if isinstance(data, list):
            data = _stack(data, layer)
        view = elements(data, layer)
        if not view.is_c_contiguous():
            data = empty_like_array(data, (n, *layer.shape), layer.dtype)
            data[...] = layer.data
            view = elements(data, layer)
        return view.reshape(n, layer.size)


def elements(data: Any, layer: Layer) -> Any:
    return _cuda.view(data, np.int16 if layer.dtype == "bfloat16" else None)


def _stack(data: list[Any], layer: Layer) -> Any:
    library = _cuda.library_of(data[0])
    if library == "torch":
        import torch

        return torch.stack(data)
    if library == "cupy":
        import cupy

        return cupy.stack(data)
    stacked = empty_like_array(data[0], (len(data), *layer.shape), layer.dtype)
    for i, row in enumerate(data):
        stacked[i] = row
    return stacked
