"""The GPU kernels: the scalar functions of `scalar.py`, one Philox block a thread.

Signatures as in `reference.py`. bits32, hash32, uniform and rademacher have the bits of the CPU. normal runs the CPU's
operations, but the GPU compiler contracts products and sums into fused multiply-adds, so it agrees to 2 ulp.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from .. import _cuda
from . import scalar

_THREADS = 128
_TILE_WORDS = 128  # of signs, made by 32 threads
_TILE = 32 * _TILE_WORDS
_BITS, _SIGNS, _NORMAL = np.uint64(0), np.uint64(1), np.uint64(2)

_functions = scalar.functions(cuda.jit(device=True))
_philox, _hash32, _to_uniform, _to_normal = (_functions.philox, _functions.hash32, _functions.to_uniform,
                                             _functions.to_normal)

# x + scale * z is rounded twice, as on the CPU: these products are never contracted with the sum.
if _cuda.simulated():

    def _product(a: Any, b: Any) -> Any:
        return a * b

    _product32 = _product64 = cuda.jit(device=True)(_product)
else:
    from numba.cuda import libdevice

    @cuda.jit(device=True)
    def _product32(a: Any, b: Any) -> Any:
        return libdevice.fmul_rn(a, b)

    @cuda.jit(device=True)
    def _product64(a: Any, b: Any) -> Any:
        return libdevice.dmul_rn(a, b)


@cuda.jit(device=True)
def _put(out: Any, j: Any, value: Any) -> None:
    if 0 <= j < out.size:
        out[j] = value


@cuda.jit(device=True)
def _four_normals(seed: Any, step: Any, block: Any) -> Any:
    c0, c1, c2, c3 = _philox(seed, step, _NORMAL, block)
    z0, z1 = _to_normal(c0, c1)
    z2, z3 = _to_normal(c2, c3)
    return z0, z1, z2, z3


# In the stream kernels block first + k makes elements 4 k - shift .. 4 k - shift + 3 of `out`, 0 <= shift < 4.


@cuda.jit
def _bits32_kernel(seed: Any, step: Any, first: Any, shift: Any, out: Any) -> None:
    for k in range(cuda.grid(1), (out.size + shift + 3) // 4, cuda.gridsize(1)):
        c0, c1, c2, c3 = _philox(seed, step, _BITS, first + np.uint64(k))
        j = 4 * k - shift
        _put(out, j, np.uint32(c0))
        _put(out, j + 1, np.uint32(c1))
        _put(out, j + 2, np.uint32(c2))
        _put(out, j + 3, np.uint32(c3))


@cuda.jit
def _uniform_kernel(seed: Any, step: Any, first: Any, shift: Any, out: Any) -> None:
    for k in range(cuda.grid(1), (out.size + shift + 3) // 4, cuda.gridsize(1)):
        c0, c1, c2, c3 = _philox(seed, step, _BITS, first + np.uint64(k))
        j = 4 * k - shift
        _put(out, j, _to_uniform(c0))
        _put(out, j + 1, _to_uniform(c1))
        _put(out, j + 2, _to_uniform(c2))
        _put(out, j + 3, _to_uniform(c3))


@cuda.jit
def _normal_kernel(seed: Any, step: Any, first: Any, shift: Any, out: Any) -> None:
    for k in range(cuda.grid(1), (out.size + shift + 3) // 4, cuda.gridsize(1)):
        z0, z1, z2, z3 = _four_normals(seed, step, first + np.uint64(k))
        j = 4 * k - shift
        _put(out, j, z0)
        _put(out, j + 1, z1)
        _put(out, j + 2, z2)
        _put(out, j + 3, z3)


@cuda.jit
def _hash32_kernel(key: Any, start: Any, out: Any) -> None:
    for j in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[j] = np.uint32(_hash32(key, start + np.uint64(j)))


@cuda.jit(device=True)
def sign_words(seed: Any, step: Any, tile: Any, words: Any) -> None:
    """The words of a tile of signs into shared memory; every thread of the block comes here."""
    thread = cuda.threadIdx.x
    cuda.syncthreads()  # the tile before has been read
    if 4 * thread < _TILE_WORDS:
        c0, c1, c2, c3 = _philox(seed, step, _SIGNS, np.uint64(tile) * np.uint64(_TILE_WORDS // 4) + np.uint64(thread))
        words[4 * thread] = np.uint32(c0)
        words[4 * thread + 1] = np.uint32(c1)
        words[4 * thread + 2] = np.uint32(c2)
        words[4 * thread + 3] = np.uint32(c3)
    cuda.syncthreads()


# In the sign kernels tile first + t makes elements t * _TILE - shift .. of the array, 0 <= shift < _TILE.


@cuda.jit
def _rademacher_kernel(seed: Any, step: Any, first: Any, shift: Any, out: Any) -> None:
    words = cuda.shared.array(_TILE_WORDS, np.uint32)
    for t in range(cuda.blockIdx.x, (out.size + shift + _TILE - 1) // _TILE, cuda.gridDim.x):
        sign_words(seed, step, first + np.uint64(t), words)
        base = t * _TILE - shift
        for e in range(max(0, -base) + cuda.threadIdx.x, min(_TILE, out.size - base), cuda.blockDim.x):
            bit = (words[e // 32] >> np.uint32(e % 32)) & np.uint32(1)
            out[base + e] = np.float32(1 - 2 * np.int32(bit))


@cuda.jit
def _perturb_rademacher_kernel(seed: Any, step: Any, scale: Any, x: Any) -> None:
    words = cuda.shared.array(_TILE_WORDS, np.uint32)
    for t in range(cuda.blockIdx.x, (x.size + _TILE - 1) // _TILE, cuda.gridDim.x):
        sign_words(seed, step, np.uint64(t), words)
        base = t * _TILE
        for e in range(cuda.threadIdx.x, min(_TILE, x.size - base), cuda.blockDim.x):
            bit = (words[e // 32] >> np.uint32(e % 32)) & np.uint32(1)
            x[base + e] += -scale if bit == np.uint32(1) else scale


@cuda.jit
def _perturb_normal_f32_kernel(seed: Any, step: Any, scale: Any, x: Any) -> None:
    for k in range(cuda.grid(1), (x.size + 3) // 4, cuda.gridsize(1)):
        z0, z1, z2, z3 = _four_normals(seed, step, np.uint64(k))
        j = 4 * k
        x[j] += _product32(scale, z0)
        if j + 1 < x.size:
            x[j + 1] += _product32(scale, z1)
        if j + 2 < x.size:
            x[j + 2] += _product32(scale, z2)
        if j + 3 < x.size:
            x[j + 3] += _product32(scale, z3)


@cuda.jit
def _perturb_normal_f64_kernel(seed: Any, step: Any, scale: Any, x: Any) -> None:
    for k in range(cuda.grid(1), (x.size + 3) // 4, cuda.gridsize(1)):
        z0, z1, z2, z3 = _four_normals(seed, step, np.uint64(k))
        j = 4 * k
        x[j] += _product64(scale, np.float64(z0))
        if j + 1 < x.size:
            x[j + 1] += _product64(scale, np.float64(z1))
        if j + 2 < x.size:
            x[j + 2] += _product64(scale, np.float64(z2))
        if j + 3 < x.size:
            x[j + 3] += _product64(scale, np.float64(z3))


#: (kernel, signatures, whether float64 instructions are meant, registers at most)
KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    (_bits32_kernel, ["void(uint64, uint64, uint64, int64, uint32[::1])"], False, None),
    (_hash32_kernel, ["void(uint64, uint64, uint32[::1])"], False, None),
    (_uniform_kernel, ["void(uint64, uint64, uint64, int64, float32[::1])"], False, None),
    (_normal_kernel, ["void(uint64, uint64, uint64, int64, float32[::1])"], False, None),
    (_rademacher_kernel, ["void(uint64, uint64, uint64, int64, float32[::1])"], False, None),
    (_perturb_rademacher_kernel, ["void(uint64, uint64, float32, float32[::1])"], False, None),
    (_perturb_rademacher_kernel, ["void(uint64, uint64, float64, float64[::1])"], True, None),
    (_perturb_normal_f32_kernel, ["void(uint64, uint64, float32, float32[::1])"], False, None),
    (_perturb_normal_f64_kernel, ["void(uint64, uint64, float64, float64[::1])"], True, None),
]


def bits32(seed: int, step: int, start: int, size: int, threads: int = 1) -> Any:
    return _stream(_bits32_kernel, np.uint32, 4, 4, seed, step, start, size)


def uniform(seed: int, step: int, start: int, size: int, threads: int = 1) -> Any:
    return _stream(_uniform_kernel, np.float32, 4, 4, seed, step, start, size)


def normal(seed: int, step: int, start: int, size: int, threads: int = 1) -> Any:
    return _stream(_normal_kernel, np.float32, 4, 4, seed, step, start, size)


def rademacher(seed: int, step: int, start: int, size: int, threads: int = 1) -> Any:
    return _stream(_rademacher_kernel, np.float32, _TILE, _TILE // _THREADS, seed, step, start, size)


def hash32(seed: int, step: int, start: int, size: int, threads: int = 1) -> Any:
    out = cuda.device_array(size, np.uint32)
    if size:
        key = scalar.hash_key(seed, step)
        _cuda.launch(_hash32_kernel, _cuda.blocks(size, _THREADS), _THREADS, cuda.default_stream(), np.uint64(key),
                     np.uint64(start), out)
    return out


def perturb_(x: Any, seed: int, step: int, scale: float, signs: bool, threads: int = 1) -> None:
    with _cuda.device_of(x):
        stream, view = _cuda.stream_of(x), _cuda.view(x)
        size = math.prod(view.shape)
        flat = view.reshape(size)
        wide = flat.dtype == np.float64
        if signs:
            kernel, each = _perturb_rademacher_kernel, _TILE // _THREADS
        else:
            kernel, each = (_perturb_normal_f64_kernel if wide else _perturb_normal_f32_kernel), 4
        factor = np.float64(scale) if wide else np.float32(scale)
        grid = _cuda.blocks(-(-size // each), _THREADS)
        _cuda.launch(kernel, grid, _THREADS, stream, np.uint64(seed), np.uint64(step), factor, flat)


def _stream(kernel: Any, dtype: type, unit: int, each: int, seed: int, step: int, start: int, size: int) -> Any:
    """Elements start .. of a stream that is made in aligned units; a thread makes `each` of them."""
    out = cuda.device_array(size, dtype)
    if size:
        first, shift = divmod(start, unit)
        grid = _cuda.blocks(-(-(size + shift) // each), _THREADS)
        _cuda.launch(kernel, grid, _THREADS, cuda.default_stream(), np.uint64(seed), np.uint64(step), np.uint64(first),
                     np.int64(shift), out)
    return out
