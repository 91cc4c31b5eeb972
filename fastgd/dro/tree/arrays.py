"""Host arrays of indices and of weights, as the kernels take them: int64 and float64, contiguous."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import is_on_device, unpack, widen

_INT64, _FLOAT64 = np.dtype(np.int64), np.dtype(np.float64)


def indices(x: Any, name: str) -> np.ndarray:
    """`x` as int64; TypeError for anything but integers (bool and float are none)."""
    if type(x) is not np.ndarray or x.dtype != _INT64:
        x = _host(x, name)
        if x.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold integers, got dtype {x.dtype}: convert it with .astype('int64')")
        x = x.astype(_INT64)
    return x if x.flags.c_contiguous else np.ascontiguousarray(x)


def numbers(x: Any, name: str) -> np.ndarray:
    """`x` as float64; TypeError for anything but real numbers."""
    if type(x) is not np.ndarray or x.dtype != _FLOAT64:
        if hasattr(x, "dtype") and x.__class__.__module__ != "numpy":  # bfloat16, and tensors that require grad
            data, operand, _ = unpack(x, name)
            x = widen(data, operand.dtype) if operand.device == "cpu" else _host(x, name)
        else:
            x = _host(x, name)
            if x.dtype.kind not in "fiu":
                raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}: convert it with .astype('float64')")
            x = x.astype(_FLOAT64)
    return x if x.flags.c_contiguous else np.ascontiguousarray(x)


def empty(size: int) -> np.ndarray:
    """Memory for drawn indices."""
    return np.empty(size, _INT64)


def check_out(out: Any, size: int) -> None:
    """ValueError unless `size` drawn indices can be put into `out`."""
    if not isinstance(out, np.ndarray) or out.dtype != _INT64 or out.shape != (size,):
        raise ValueError(f"out must be an int64 array of shape ({size},), got {getattr(out, 'dtype', type(out).__name__)} "
                         f"{getattr(out, 'shape', '')}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(f"out must be C-contiguous and writable: pass numpy.empty({size}, 'int64')")


class HostArrays:
    """The arrays of a tree on the host, for its class to inherit; a tree on a device has its own."""

    on_host = True
    indices = staticmethod(indices)
    numbers = staticmethod(numbers)
    empty = staticmethod(empty)
    check_out = staticmethod(check_out)


def _host(x: Any, name: str) -> np.ndarray:
    """`x` as an ordinary NumPy array, an empty list as integers."""
    if is_on_device(x):
        raise TypeError(f"{name} is on the GPU, but must be on the host here: move it first (torch: x.cpu(), CuPy: x.get())")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, but every value must count: pass {name}.filled(...)")
    if isinstance(x, list | tuple) and not x:
        return np.empty(0, _INT64)
    try:
        return np.asarray(x)
    except ValueError as error:  # ragged
        raise TypeError(f"{name} must be an array of numbers: {error}") from None
