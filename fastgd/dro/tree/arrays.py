"""Host arrays of indices and of weights, as the kernels take them: int64 and float64, contiguous."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import unpack, widen

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


def _host(x: Any, name: str) -> np.ndarray:
    """`x` as an ordinary NumPy array, an empty list as integers."""
    if hasattr(x, "__cuda_array_interface__"):
        raise TypeError(f"{name} is on the GPU, but the tree is on the CPU: move it first (torch: x.cpu(), CuPy: x.get())")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, but every value must count: pass {name}.filled(...)")
    if isinstance(x, list | tuple) and not x:
        return np.empty(0, _INT64)
    try:
        return np.asarray(x)
    except ValueError as error:  # ragged
        raise TypeError(f"{name} must be an array of numbers: {error}") from None
