"""Checks of scalar arguments and of `out=`, with messages that name the argument and the remedy."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from ._arrays import unpack


def count(value: Any, name: str, low: int, high: int | None = None) -> int:
    """`value` as an integer with low <= value <= high; TypeError or ValueError naming the argument otherwise."""
    if type(value) is not int:
        try:
            index = operator.index(value) if not isinstance(value, bool | np.bool_) else None
        except TypeError:
            index = None
        if index is None:
            raise TypeError(f"{name} must be an integer, got {value!r}")
        value = index
    if value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {limits}, got {value}")
    return value


def index_list(mask: np.ndarray, limit: int = 10) -> str:
    """The positions where `mask` is true, as text: "1, 4, 7", cut after `limit`."""
    found = np.flatnonzero(mask)
    return ", ".join(map(str, found[:limit])) + (f" and {len(found) - limit} more" if len(found) > limit else "")


def array_out(out: Any, shape: tuple[int, ...], dtype: str, device: str, name: str = "out") -> Any:
    """The kernel's view of `out=`, after checking that a result of this shape, dtype and device fits."""
    data, operand, _ = unpack(out, name)
    if tuple(data.shape) != shape or operand.dtype != dtype or operand.device != device:
        raise ValueError(f"{name} is {operand.dtype} {tuple(data.shape)} on {operand.device}, but the result is "
                         f"{dtype} {shape} on {device}")
    if device == "cpu" and not (data.flags.c_contiguous and data.flags.writeable):
        raise ValueError(f"{name} must be C-contiguous and writable: pass numpy.empty({shape}, '{dtype}')")
    return data


def number(value: Any, name: str, low: float = -np.inf, *, above: bool = False) -> float:
    """`value` as a finite float of at least `low` (above it with `above`); TypeError or ValueError naming the argument."""
    if type(value) is float and low < value < math.inf:
        return value
    try:
        result = None if isinstance(value, str | bytes | bool | np.bool_ | np.complexfloating) else float(value)
    except (TypeError, ValueError):
        result = None
    bound = "" if low == -np.inf else f" {'above' if above else 'of at least'} {low:g}"
    if result is None:
        raise TypeError(f"{name} must be a finite number{bound}, got {value!r}")
    if not math.isfinite(result) or result < low or (above and result == low):
        raise ValueError(f"{name} must be a finite number{bound}, got {value!r}")
    return result
