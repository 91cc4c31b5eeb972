"""Arrays of hashes and of counts: uint8 and int64, of any library, as the kernels see them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def unpack(x: Any, name: str, dtype: str) -> tuple[Any, str, Callable[[Any], Any]]:
    """View an array of integers of one dtype: its data, "cpu" or "cuda", and the way back for a host result.

    Raises TypeError for anything else, naming the argument and the remedy.
    """
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    device, wrap = "cpu", _identity
    if torch is not None and isinstance(x, torch.Tensor):
        found, device = str(x.dtype).removeprefix("torch."), x.device.type
        if device not in ("cpu", "cuda"):
            raise TypeError(f"{name} is on torch device {x.device}, but must be on cpu or cuda: pass {name}.cpu()")
        data = x
        if device == "cpu" and found == dtype:
            data, wrap = x.detach().resolve_neg().numpy(), torch.from_numpy
    elif isinstance(x, np.ndarray):
        found, data = x.dtype.name, np.asarray(x)
    elif hasattr(x, "__cuda_array_interface__") or type(x).__module__.startswith("numba.cuda.simulator"):
        found, data, device = str(x.dtype), x, "cuda"
    elif jax is not None and isinstance(x, jax.Array):
        data, wrap = np.asarray(x), jax.numpy.asarray
        found = data.dtype.name
    else:
        raise TypeError(f"{name} must be a NumPy, torch, CuPy or JAX array of {dtype}, got {type(x).__name__}")
    if found != dtype:
        raise TypeError(f"{name} has dtype {found}, but must be {dtype}, as made by simhash and lshgm")
    return data, device, wrap


def check_out(out: Any, shape: tuple[int, ...], dtype: str, device: str) -> Any:
    """The kernel's view of `out=`, after checking that a result of this shape, dtype and device fits."""
    data, place, _ = unpack(out, "out", dtype)
    if tuple(data.shape) != shape or place != device:
        raise ValueError(f"out is {tuple(data.shape)} on {place}, but the result is {dtype} {shape} on {device}")
    if device == "cpu" and not (data.flags.c_contiguous and data.flags.writeable):
        raise ValueError(f"out must be C-contiguous and writable: pass numpy.empty({shape}, '{dtype}')")
    return data


def store(result: Any, view: Any, out: Any, wrap: Callable[[Any], Any]) -> Any:
    """A result as the caller's type of array, or in `out` when there is one."""
    if view is None:
        return wrap(result)
    view[...] = result
    return out


def to_host(x: Any) -> np.ndarray:
    """The values of an array of any library on the host."""
    for name in ("copy_to_host", "get", "cpu"):
        if hasattr(x, name):
            x = getattr(x, name)()
            break
    return np.asarray(x)


def _identity(data: Any) -> Any:
    return data
