"""What the room asks of costs and points in device memory. Importing this module does not import Numba; its functions do.

The host gets numbers of the order of n + m at most, and the values themselves only to say in an error where one is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _cuda
from .._arrays import empty_like_array, is_on_device, to_host
from .._cuda import Call
from .._dispatch import Operand

_FLOAT, _INT = np.dtype(np.float64), np.dtype(np.int64)


def packed(x: Any, operand: Operand) -> Any:
    """x, or a copy in C order; what no kernel takes stays as it is."""
    if operand.dtype not in ("float32", "float64") or _cuda.view(x).is_c_contiguous():
        return x
    with _cuda.device_of(x):
        copy = empty_like_array(x, tuple(x.shape), str(x.dtype).removeprefix("torch."))
        copy[:] = x
    return copy


def like(x: Any) -> Callable[[Any], Any]:
    """The way from a host array to one of x's library, beside x; what is there already stays."""

    def back(values: Any) -> Any:
        if is_on_device(values):
            return values
        with Call(x) as call:
            result = empty_like_array(x, values.shape, "float64")
            _cuda.view(result).copy_to_device(np.ascontiguousarray(values), stream=call.stream)
            call.stream.synchronize()
        return result

    return back


def to(out: Any, values: Any) -> None:
    """out[...] = values, float64 on the same device or on the host."""
    with Call(out) as call:
        source = _cuda.view(values) if is_on_device(values) else np.ascontiguousarray(values)
        _cuda.view(out).copy_to_device(source, stream=call.stream)
        call.stream.synchronize()


def on_host(x: Any, operand: Operand) -> Any:
    """Marginals or potentials beside a cost on the device: on the host, where they are checked."""
    if operand.device == "cpu":
        return x
    if type(x) in (list, tuple):
        return type(x)(on_host(part, operand) for part in x)
    return to_host(x) if is_on_device(x) else x


def extent(x: Any, first: int = 0, step: int = 1) -> tuple[float, float, bool]:
    """The least number and the greatest finite one of x's elements first, first + step, .. in memory, and whether one is +inf.

    The least is NaN if any number is NaN.
    """
    from .sweeps.cuda_costs import PARTS, extent_kernel

    with Call(x) as call:
        found = call.empty(3 * PARTS, _FLOAT)
        view = _cuda.view(x)
        _cuda.launch(extent_kernel, 64, 128, call.stream, view.reshape(view.size), first, step, found)
        low, high, masked = call.read(found).reshape(3, PARTS)
    return float(low.min()), float(high.max()), bool(masked.any())


def alone(cost: Any, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of positive mass whose costs to all others of positive mass are +inf."""
    from .sweeps.cuda import Transport

    t = Transport(cost, a, b, 1.0, "float64", (1.0, 1.0))
    t.rows()
    rows = t.f == np.inf
    t.f = np.where(a > 0.0, 0.0, -np.inf)
    t.columns()
    return rows, t.g == np.inf


def first(cost: Any, order: np.ndarray) -> np.ndarray:
    """For each column the place in `order` of the first row whose cost is finite; len(order) where there is none."""
    from .sweeps.cuda_costs import first_kernel

    m = cost.shape[1]
    with Call(cost) as call:
        places, found = call.empty(len(order), _INT), call.empty(m, _INT)
        places.copy_to_device(np.ascontiguousarray(order), stream=call.stream)
        call.run(first_kernel, m, _cuda.view(cost), places, found)
        return call.read(found)
