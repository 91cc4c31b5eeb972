"""The elementwise work of EControl and DGC on the GPU: the operations of `host_variants.py`, each rounded by itself."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from .. import _cuda
from .._arrays import empty_like_array
from .._cuda import Call
from ..robust.cuda_device import FORMATS
from .cuda_kernels import get_word, product
from .device import elements
from .state import Vector


@cache
def _make_control_kernel(dtype: str) -> Any:
    load = FORMATS[dtype].load

    @cuda.jit
    def _control_kernel(weight: Any, e: Any, x: Any, h: Any, out: Any) -> None:
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            out[i] = (product(weight, e[i]) + load(x[i])) - h[i]

    return _control_kernel


@cache
def _make_accumulate_kernel(dtype: str) -> Any:
    load = FORMATS[dtype].load

    @cuda.jit
    def _accumulate_kernel(e: Any, x: Any, h: Any) -> None:
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            e[i] = e[i] + (load(x[i]) - h[i])

    return _accumulate_kernel


@cache
def _make_momentum_kernel(dtype: str) -> Any:
    load = FORMATS[dtype].load

    @cuda.jit
    def _momentum_kernel(momentum: Any, u: Any, x: Any, v: Any, velocity: Any, residual: Any) -> None:
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            new = product(momentum, u[i]) + load(x[i])
            velocity[i] = new
            residual[i] = v[i] + new

    return _momentum_kernel


@cuda.jit
def _forget_kernel(sent: Any, k: Any, velocity: Any, residual: Any) -> None:
    """0 at the k indices that a body starts with."""
    for j in range(cuda.grid(1), k, cuda.gridsize(1)):
        i = np.int64(get_word(sent, 4 * j))
        velocity[i] = np.float32(0)
        residual[i] = np.float32(0)


def control(weight: np.float32, e: Any, x: Vector, h: Any) -> Any:
    """weight e + g - h, a new vector."""
    p = empty_like_array(e, e.shape, "float32")
    with Call(e) as call:
        call.run(_make_control_kernel(x.dtype), e.shape[0], weight, _cuda.view(e), elements(x), _cuda.view(h), _cuda.view(p))
    return p


def accumulate(e: Any, x: Vector, h: Any) -> None:
    """e += g - h."""
    with Call(e) as call:
        call.run(_make_accumulate_kernel(x.dtype), e.shape[0], _cuda.view(e), elements(x), _cuda.view(h))


def momentum(factor: np.float32, u: Any, x: Vector, v: Any) -> tuple[Any, Any]:
    """factor u + g, and v + that: new vectors."""
    velocity, residual = (empty_like_array(u, u.shape, "float32") for _ in range(2))
    with Call(u) as call:
        call.run(_make_momentum_kernel(x.dtype), u.shape[0], factor, _cuda.view(u), elements(x), _cuda.view(v),
                 _cuda.view(velocity), _cuda.view(residual))
    return velocity, residual


def forget(sent: Any, k: int, velocity: Any, residual: Any) -> None:
    """Clear both where the body of a sparse payload says that k coordinates were sent."""
    with Call(sent) as call:
        call.run(_forget_kernel, k, _cuda.view(sent), k, _cuda.view(velocity), _cuda.view(residual))


def _kernels() -> list[tuple[Any, list[str], bool, int | None]]:
    found: list[tuple[Any, list[str], bool, int | None]] = [
        (_forget_kernel, ["void(uint8[::1], int64, float32[::1], float32[::1])"], False, None)]
    for name in ("float32", "float16", "bfloat16"):
        x = f"{FORMATS[name].element}[::1]"
        found += [
            (_make_control_kernel(name), [f"void(float32, float32[::1], {x}, float32[::1], float32[::1])"], False, None),
            (_make_accumulate_kernel(name), [f"void(float32[::1], {x}, float32[::1])"], False, None),
            (_make_momentum_kernel(name), [f"void(float32, float32[::1], {x}, float32[::1], float32[::1], float32[::1])"], False,
             None),
        ]
    return found


KERNELS = _kernels()
