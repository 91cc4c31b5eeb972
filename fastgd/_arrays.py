"""Arrays in and out: NumPy, torch, CuPy, JAX and Numba device arrays, without copies and without importing any of them.

Host arrays become NumPy views of the same memory (bfloat16, which NumPy lacks, becomes a view of its 16-bit patterns);
device arrays stay what they are. A result is handed back as the type of the first array argument.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ._dispatch import Operand

FLOATS = ("float32", "float64", "float16", "bfloat16")

#: How a logical dtype is stored in the NumPy arrays that kernels see.
STORAGE: dict[str, np.dtype] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64), "float16": np.dtype(np.float16),
           "bfloat16": np.dtype(np.uint16)}

ITEMSIZE = {name: storage.itemsize for name, storage in STORAGE.items()}

_NAMES = {np.dtype(name): name for name in ("float16", "float32", "float64")}  # native byte order only
_OPERANDS = {np.dtype(name): Operand("cpu", name) for name in ("float16", "float32", "float64")}


#: An argument as the kernels see it (host: a NumPy view; device: the caller's array), what dispatch needs to know, and
#: the way back from a kernel's result to the caller's array type. A plain tuple: this is on every call's path.
Unpacked = tuple[Any, Operand, Callable[[Any], Any]]


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
            return x, operand, _identity
        return _unpack_numpy(x, name)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _unpack_torch(torch, x, name)
    if isinstance(x, np.ndarray):
        return _unpack_numpy(x if isinstance(x, np.ma.MaskedArray) else np.asarray(x), name)
    if is_on_device(x):
        return _unpack_device(x, name)
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(x, jax.Array):
        data, operand, wrap = _unpack_numpy(np.asarray(x), name)
        return data, operand, lambda result: _jax_wrap(jax, wrap(result))
    raise TypeError(f"{name} must be a NumPy, torch, CuPy or JAX array, got {type(x).__name__}: "
                    "convert it with numpy.asarray(..., dtype=numpy.float32)")


def _unpack_numpy(x: np.ndarray, name: str) -> Unpacked:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, but every value must count: pass {name}.filled(...)")
    dtype = x.dtype
    known = _NAMES.get(dtype)
    if known:
        return x, Operand("cpu", known), _identity
    if dtype.name == "bfloat16" and dtype.itemsize == 2:  # the extension dtype of ml_dtypes
        patterns = x.view(np.uint16)
        return patterns, Operand("cpu", "bfloat16"), lambda data: data.view(dtype) if data.dtype == np.uint16 else data
    raise TypeError(_wrong_dtype(name, str(dtype)))


def _wrong_dtype(name: str, dtype: str) -> str:
    return f"{name} has dtype {dtype}, but must have one of {', '.join(FLOATS)}: convert it with .astype('float32')"


def _unpack_torch(torch: Any, x: Any, name: str) -> Unpacked:
    if x.requires_grad:
        raise ValueError(f"{name} is a torch tensor that requires grad; fastgd does not differentiate: pass {name}.detach()")
    if x.layout is not torch.strided:
        raise TypeError(f"{name} is a torch tensor of layout {x.layout}, but must be dense: pass {name}.to_dense()")
    x = x.resolve_neg()
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype not in FLOATS:
        raise TypeError(_wrong_dtype(name, str(x.dtype)).replace(".astype('float32')", ".float()"))
    if x.device.type == "cuda":
        return x, Operand("cuda", dtype), _identity
    if x.device.type != "cpu":
        raise TypeError(f"{name} is on torch device {x.device}, but must be on cpu or cuda: pass {name}.cpu()")
    if dtype == "bfloat16":
        data = x.view(torch.int16).numpy().view(np.uint16)
        return data, Operand("cpu", dtype), _torch_wrap
    return x.numpy(), Operand("cpu", dtype), torch.from_numpy


def _jax_wrap(jax: Any, data: np.ndarray) -> Any:
    """A JAX array, or NumPy's where JAX has no such dtype: float64 exists there in x64 mode only."""
    return data if data.dtype == np.float64 and not jax.config.jax_enable_x64 else jax.numpy.asarray(data)


def _torch_wrap(data: np.ndarray) -> Any:
    """A torch tensor of the same memory; 16-bit patterns become bfloat16."""
    torch = sys.modules["torch"]
    if data.dtype == np.uint16:
        return torch.from_numpy(data.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(data)


def is_on_device(x: Any) -> bool:
    """True for CUDA arrays of any library, and for the arrays of Numba's CUDA simulator."""
    return hasattr(x, "__cuda_array_interface__") or type(x).__module__.startswith("numba.cuda.simulator")


def _unpack_device(x: Any, name: str) -> Unpacked:
    dtype = str(x.dtype)
    if dtype not in FLOATS:
        raise TypeError(_wrong_dtype(name, dtype))
    return x, Operand("cuda", dtype), _identity


# ------------------------------------------------------------------------------- memory and values of any array


def empty_like_array(x: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """New memory of a logical dtype beside `x` (or its first element): NumPy for a host view, else the library of `x`."""
    if isinstance(x, list):
        x = x[0]
    if isinstance(x, np.ndarray):
        return np.empty(shape, STORAGE[dtype])
    module = type(x).__module__.partition(".")[0]
    if module == "torch":
        return sys.modules["torch"].empty(shape, dtype=getattr(sys.modules["torch"], dtype), device=x.device)
    if module == "cupy":
        with x.device:  # CuPy allocates on its current device
            return sys.modules["cupy"].empty(shape, STORAGE[dtype])
    from numba import cuda

    return cuda.device_array(shape, STORAGE[dtype])


def copy(x: Any) -> Any:
    """A copy of `x` beside it."""
    if isinstance(x, np.ndarray):
        return x.copy()
    if hasattr(x, "clone"):
        return x.clone()
    if hasattr(x, "copy_to_host"):  # a Numba device array has no copy of its own
        from numba import cuda

        new = cuda.device_array(x.shape, x.dtype)
        new.copy_to_device(x)
        return new
    return x.copy()


def to_host(x: Any) -> np.ndarray:
    """A NumPy array with the values of `x`, in its storage dtype; copies from a device."""
    if isinstance(x, np.ndarray):
        return x
    if hasattr(x, "copy_to_host"):
        return x.copy_to_host()
    if hasattr(x, "cpu"):
        return unpack(x.cpu(), "x")[0]
    return x.get()


def widen(x: Any, dtype: str) -> np.ndarray:
    """`x` (storage of the logical `dtype`) as float64 on the host. Exact."""
    host = to_host(x)
    if dtype == "bfloat16":  # the upper half of a float32's bits
        host = (host.astype(np.uint32) << 16).view(np.float32)
    return host.astype(np.float64)


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 `values` rounded to the nearest value of a logical dtype, ties to even, in its storage."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != "bfloat16":
            return values.astype(STORAGE[dtype])
        last = np.maximum(np.frexp(values)[1] - 8, -133)  # the exponent of the last of 8 digits, or of the smallest number
        rounded = np.where(np.isfinite(values), np.ldexp(np.rint(np.ldexp(values, -last)), last), values)
        return (rounded.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def finite(x: Any, dtype: str) -> np.ndarray:
    """Elementwise: neither NaN nor Inf. On the host."""
    return np.isfinite(widen(x, dtype) if dtype == "bfloat16" else to_host(x))


def first_operand(arguments: Iterable[Any]) -> Operand:
    """The operand of the first array among `arguments`, looking into sequences; TypeError if there is none."""
    for argument in arguments:
        while isinstance(argument, list | tuple) and argument:
            argument = argument[0]
        if hasattr(argument, "dtype") and hasattr(argument, "shape"):
            return unpack(argument, "the argument")[1]
    raise TypeError("explain needs the call's arguments, an array among them")
