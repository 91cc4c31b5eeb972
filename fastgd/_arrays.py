"""Arrays in and out: NumPy, torch, CuPy, JAX and Numba device arrays, without copies and without importing any of them.

Host arrays become NumPy views of the same memory (bfloat16, which NumPy lacks, becomes a view of its 16-bit patterns);
device arrays stay what they are. A result is handed back as the type of the first array argument.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ._dispatch import Operand

FLOATS = ("float32", "float64", "float16", "bfloat16")

#: How a logical dtype is stored in the NumPy arrays that kernels see.
STORAGE = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64), "float16": np.dtype(np.float16),
           "bfloat16": np.dtype(np.uint16)}

_NAMES = {np.dtype(name): name for name in ("float16", "float32", "float64")}  # native byte order only
_OPERANDS = {np.dtype(name): Operand("cpu", name) for name in ("float16", "float32", "float64")}


class Unpacked(NamedTuple):
    """An argument as the kernels see it, and the way back."""

    data: Any  # host: a NumPy view; device: the caller's array
    operand: Operand
    wrap: Callable[[Any], Any]  # a kernel's result -> the caller's array type


def _identity(data: Any) -> Any:
    return data


def unpack(x: Any, name: str) -> Unpacked:
    """View the floating-point array `x` for kernels.

    Raises TypeError for anything but an array of float32, float64, float16 or bfloat16, and ValueError for a torch
    tensor that requires grad; both name the argument and the remedy.
    """
    if type(x) is np.ndarray:
        operand = _OPERANDS.get(x.dtype)
        if operand is not None:
            return Unpacked(x, operand, _identity)
        return _unpack_numpy(x, name)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _unpack_torch(torch, x, name)
    if isinstance(x, np.ndarray):
        return _unpack_numpy(np.asarray(x), name)
    if _on_device(x):
        return _unpack_device(x, name)
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(x, jax.Array):
        view = _unpack_numpy(np.asarray(x), name)
        return view._replace(wrap=lambda data: jax.numpy.asarray(view.wrap(data)))
    raise TypeError(f"{name} must be a NumPy, torch, CuPy or JAX array, got {type(x).__name__}: "
                    "convert it with numpy.asarray(..., dtype=numpy.float32)")


def _unpack_numpy(x: np.ndarray, name: str) -> Unpacked:
    dtype = x.dtype
    known = _NAMES.get(dtype)
    if known:
        return Unpacked(x, Operand("cpu", known), _identity)
    if dtype.name == "bfloat16" and dtype.itemsize == 2:  # the extension dtype of ml_dtypes
        return Unpacked(x.view(np.uint16), Operand("cpu", "bfloat16"), lambda data: data.view(dtype))
    raise TypeError(_wrong_dtype(name, str(dtype)))


def _wrong_dtype(name: str, dtype: str) -> str:
    return f"{name} has dtype {dtype}, but must have one of {', '.join(FLOATS)}: convert it with .astype('float32')"


def _unpack_torch(torch: Any, x: Any, name: str) -> Unpacked:
    if x.requires_grad:
        raise ValueError(f"{name} is a torch tensor that requires grad; fastgd does not differentiate: pass {name}.detach()")
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype not in FLOATS:
        raise TypeError(_wrong_dtype(name, str(x.dtype)).replace(".astype('float32')", ".float()"))
    if x.device.type == "cuda":
        return Unpacked(x, Operand("cuda", dtype), _identity)
    if x.device.type != "cpu":
        raise TypeError(f"{name} is on torch device {x.device}, but must be on cpu or cuda: pass {name}.cpu()")
    if dtype == "bfloat16":
        data = x.view(torch.int16).numpy().view(np.uint16)
        return Unpacked(data, Operand("cpu", dtype), lambda y: torch.from_numpy(y.view(np.int16)).view(torch.bfloat16))
    return Unpacked(x.numpy(), Operand("cpu", dtype), torch.from_numpy)


def _on_device(x: Any) -> bool:
    """True for CUDA arrays of any library, and for the arrays of Numba's CUDA simulator."""
    return hasattr(x, "__cuda_array_interface__") or type(x).__module__.startswith("numba.cuda.simulator")


def _unpack_device(x: Any, name: str) -> Unpacked:
    dtype = str(x.dtype)
    if dtype not in FLOATS:
        raise TypeError(_wrong_dtype(name, dtype))
    return Unpacked(x, Operand("cuda", dtype), _identity)


def first_operand(arguments: Iterable[Any]) -> Operand:
    """The operand of the first array among `arguments`, looking into sequences; host float32 if there is none."""
    for argument in arguments:
        while isinstance(argument, list | tuple) and argument:
            argument = argument[0]
        if hasattr(argument, "dtype") and hasattr(argument, "shape"):
            return unpack(argument, "the argument").operand
    return Operand("cpu", "float32")
