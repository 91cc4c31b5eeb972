"""The hashes on the GPU: launchers with the signatures of `reference.py`; `threads` means nothing here.

Memory: the sums of all vectors (32 KiB each), a bit of signs for each coordinate and 256 KiB; `lshgm` up to 64 MiB, or
1/32 of a vector for each of its `bits`, and a byte for each bit made. The bits are those of the CPU. The host waits for
the vectors that have a NaN or an Inf.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _cuda
from ..._rows import Rows
from ...random import hash32, normal
from ..cuda_call import Call
from ..cuda_device import FORMATS
from .cuda_kernels import (
    FOLD,
    PAIR_THREADS,
    PANEL,
    RUN,
    SAFE,
    hamming_kernel,
    make_columns_kernel,
    make_fold_kernel,
    pack_kernel,
    planes_kernel,
    signs_kernel,
    unsafe_kernel,
    words_kernel,
)

_THREADS = 128
_GROUP = 256  # planes that share one folding
_RESCUE = 2.0**-80  # brings sums of any finite doubles into range
_PARTIAL_BYTES = 64 << 20


def simhash(rows: Rows, bits: int, seed: int, threads: int = 1) -> tuple[Any, np.ndarray]:
    call, n, width = Call(rows), rows.n, min(rows.d, FOLD)
    with _cuda.device_of(call.like):
        hashes = _new(call.like, (n, -(-bits // 8)), "uint8")
        view, bad = _cuda.view(hashes), np.zeros(n, bool)
        if not width:
            view.copy_to_device(np.zeros(view.shape, np.uint8), stream=call.stream)
            return hashes, bad
        layers = [(layer, call.matrix(layer, n)) for layer in rows.layers if layer.size]
        sums = call.empty((n, width))[1]
        for plane in range(0, bits, _GROUP):
            unsafe = _fold(call, rows, layers, seed, plane // _GROUP, np.ones(n), sums)
            if unsafe.any():
                scale = np.where(unsafe, _RESCUE, 1.0)
                unsafe = _fold(call, rows, layers, seed, plane // _GROUP, scale, sums, np.inf)
                if unsafe.any():
                    return hashes, unsafe
            some = min(_GROUP, bits - plane)
            signs = _words(call, seed, 0, plane // PANEL * FOLD, -(-some // PANEL) * FOLD)
            _cuda.launch(planes_kernel, n * -(-some // PANEL), PANEL, call.stream, sums, signs, plane, some, view)
        return hashes, bad


def _fold(call: Call, rows: Rows, layers: list[Any], seed: int, group: int, scale: np.ndarray, sums: Any,
          limit: float = SAFE) -> np.ndarray:
    """Fold the vectors into `sums`; which of them have sums that are not below `limit`."""
    blocks = -(-rows.d // FOLD)
    turn = hash32(seed, 1 + group, 0, blocks, backend="auto").astype(np.int64) % FOLD
    turn[:1] = 0
    signs, turns, scales = _words(call, seed, 1 + group, 0, blocks * (FOLD // 32)), call.upload(turn), call.upload(scale)
    sums.copy_to_device(np.zeros(sums.shape), stream=call.stream)
    grid, offset = _cuda.blocks(sums.size, _THREADS), 0
    for layer, x in layers:
        _cuda.launch(make_fold_kernel(FORMATS[layer.dtype]), grid, _THREADS, call.stream, x, offset, signs, turns, scales, sums)
        offset += layer.size
    unsafe = call.upload(np.zeros(rows.n, np.int64))
    _cuda.launch(unsafe_kernel, grid, _THREADS, call.stream, sums, limit, unsafe)
    return call.read(unsafe) > 0


def _words(call: Call, seed: int, step: int, first: int, size: int) -> Any:
    """Words first .. first + size - 1 of bits32(seed, step) on the device; `size` is even."""
    words = call.empty((size // 2,))[1].view(np.uint32)
    _cuda.launch(words_kernel, _cuda.blocks(size, _THREADS), _THREADS, call.stream, np.uint64(seed), np.uint64(step),
                 np.uint64(first), words)
    return words


def lshgm(rows: Rows, shapes: list[tuple[int, int]], bits: int, seed: int, threads: int = 1) -> tuple[Any, np.ndarray]:
    call, n = Call(rows), rows.n
    total = bits * sum(columns for _, columns in shapes)
    with _cuda.device_of(call.like):
        hashes = _new(call.like, (n, -(-total // 8)), "uint8")
        if not total:
            return hashes, np.zeros(n, bool)
        flags = call.upload(np.zeros(-(-n * total // 8) * 8, np.uint8))[: n * total].reshape(n, total)
        state = call.upload(np.zeros(1 + n, np.int64))
        _signs(call, rows, shapes, bits, seed, 1.0, flags, state)
        if call.read(state)[0]:
            _signs(call, rows, shapes, bits, seed, _RESCUE, flags, state)
        _cuda.launch(pack_kernel, _cuda.blocks(n * hashes.shape[1], _THREADS), _THREADS, call.stream, flags, _cuda.view(hashes))
        return hashes, call.read(state)[1:] > 0


def _signs(call: Call, rows: Rows, shapes: list[tuple[int, int]], bits: int, seed: int, scale: float, flags: Any,
           state: Any) -> None:
    """The flags of all layers; with a scale other than 1 those that were not safe."""
    offset = 0
    for layer, (length, columns) in zip(rows.layers, shapes, strict=True):
        if length and columns:
            # Drawn on the host, where their bits are defined; on the device they agree to 2 units in the last place.
            drawn = normal(seed, length, 0, bits * length, backend="auto").astype(np.float64).reshape(bits, length)
            normals, x = call.upload(drawn), call.matrix(layer, rows.n)
            runs = -(-length // RUN)
            batch = max(1, min(rows.n, _PARTIAL_BYTES // (8 * runs * bits * columns)))
            partial = call.empty((batch, runs, bits, columns))[1]
            for first in range(0, rows.n, batch):
                some = partial[: min(batch, rows.n - first)]
                _cuda.launch(make_columns_kernel(FORMATS[layer.dtype]), _cuda.blocks(some.size, _THREADS), _THREADS, call.stream,
                             x[first : first + batch], columns, normals, scale, some)
                _cuda.launch(signs_kernel, _cuda.blocks(some.size // runs, _THREADS), _THREADS, call.stream, some,
                             int(scale != 1.0), first, offset, flags, state)
        offset += bits * columns


def hamming(a: Any, b: Any, threads: int = 1) -> Any:
    with _cuda.device_of(a):
        distances = _new(a, (a.shape[0], b.shape[0]), "int64")
        if not a.shape[1]:
            _cuda.view(distances).copy_to_device(np.zeros(distances.shape, np.int64), stream=_cuda.stream_of(a))
            return distances
        left, right = _dense(a), _dense(b)
        if all(_words_fit(view) for view in (left, right)):
            left, right = left.view(np.uint32), right.view(np.uint32)
        pairs = a.shape[0] * b.shape[0]
        if pairs:
            _cuda.launch(hamming_kernel, min(pairs, 1 << 20), PAIR_THREADS, _cuda.stream_of(a), left, right,
                         _cuda.view(distances))
        return distances


def _dense(hashes: Any) -> Any:
    """A C-contiguous view, of a copy where the array is none."""
    view = _cuda.view(hashes)
    if not view.is_c_contiguous():
        copy = _new(hashes, tuple(hashes.shape), "uint8")
        copy[...] = hashes
        view = _cuda.view(copy)
    return view


def _words_fit(view: Any) -> bool:
    """Whether the rows can be read as 32-bit words."""
    aligned = _cuda.simulated() or view.__cuda_array_interface__["data"][0] % 4 == 0
    return aligned and view.shape[1] % 4 == 0


def _new(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Uninitialised integers beside `like`, of its library."""
    library = _cuda.library_of(like)
    if library == "torch":
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    if library == "cupy":
        import cupy

        return cupy.empty(shape, dtype)
    from numba import cuda

    return cuda.device_array(shape, np.dtype(dtype))
