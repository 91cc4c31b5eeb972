"""Noise added in place: no array of noise, nothing to remember but the seed."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from .. import _threads
from .._arrays import unpack
from .._dispatch import Operand, find, runs
from .streams import checked_key

_FLOAT32_OVERFLOW = 2.0**128 - 2.0**103  # from here on numbers round to infinity


@runs("random.perturb_")
def perturb_(x: Any, *, seed: int, step: int = 0, scale: float = 1.0, distribution: str = "normal",
             backend: str | None = None, num_threads: int | None = None) -> Any:
    """x += scale * noise in place, without an array of noise: element i (C order) gets element i of the noise.

    The same call with `-scale` takes the noise away again, up to rounding: zeroth-order methods (SPSA, MeZO) perturb,
    evaluate and restore their parameters with nothing but the seed in memory.

    Parameters
    ----------
    x : array of float32 or float64, any shape, C-contiguous and writable
        NumPy, or torch on the CPU (shared memory), or on CUDA torch, CuPy or Numba. Changed in place.
    seed : int, 0 <= seed < 2^64
        Which stream.
    step : int, 0 <= step < 2^32
        Which part of the seed's streams; all of them are independent.
    scale : float
        Finite; for float32 x rounded to float32, and finite there too.
    distribution : {"normal", "rademacher"}
        The noise: `normal(seed, step, 0, x.size)` or `rademacher(seed, step, 0, x.size)`.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    x
        The same object.

    Raises
    ------
    TypeError
        `x` is no array; another argument has the wrong type.
    ValueError
        `x` has another dtype, is not C-contiguous, read-only, or requires grad; another argument is out of range.
        Nothing has been written.

    Notes
    -----
    Formula: x_i = fl(x_i + fl(scale * z_i)) in the dtype of x, z_i being float32. NaN and Inf in x stay.
    Cost: one read and one write of x; the normal noise adds about 1 ns an element on one core, the signs nothing.
    Deterministic, as `normal` and `rademacher` are.

    References
    ----------
    Spall: Multivariate Stochastic Approximation Using a Simultaneous Perturbation Gradient Approximation (IEEE TAC
    1992). Malladi et al.: Fine-Tuning Language Models with Just Forward Passes (NeurIPS 2023).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.zeros(4, np.float32)
    >>> fastgd.random.perturb_(x, seed=3, scale=0.5) is x
    True
    >>> bool((x == np.float32(0.5) * fastgd.random.normal(3, 0, 0, 4)).all())
    True
    >>> fastgd.random.perturb_(x, seed=3, scale=-0.5)
    array([0., 0., 0., 0.], dtype=float32)
    """
    seed, step = checked_key(seed, step)
    if distribution not in ("normal", "rademacher"):
        raise ValueError(f'distribution must be "normal" or "rademacher", got {distribution!r}')
    data, operand = _target(x)
    scale = _scale(scale, operand.dtype)
    size = math.prod(data.shape)
    kernel = find("random.perturb_", operand, backend)
    threads = _threads.budget(num_threads, size * int(data.dtype.itemsize))
    if size:
        kernel(data, seed, step, scale, distribution == "rademacher", threads)
    return x


def _target(x: Any) -> tuple[Any, Operand]:
    """The memory to change and what it is, after checking that it can be."""
    try:
        data, operand, _ = unpack(x, "x")
    except TypeError as error:
        if not hasattr(x, "shape") or isinstance(x, np.generic):
            raise
        raise ValueError(str(error)) from None  # an array, but of another dtype
    if operand.dtype not in ("float32", "float64"):
        raise ValueError(f"x has dtype {operand.dtype}, but must have float32 or float64: pass x.astype('float32')")
    if isinstance(data, np.ndarray):
        contiguous, writable = data.flags.c_contiguous, data.flags.writeable
    else:
        interface = getattr(data, "__cuda_array_interface__", None) or {}
        contiguous = _contiguous_on_device(data, interface)
        writable = not interface.get("data", (0, False))[1]
    if not contiguous:
        raise ValueError("x is not C-contiguous, so it is not changed in place: pass a contiguous array")
    if not writable:
        raise ValueError("x is read-only, so it cannot be changed in place: pass x.copy()")
    return data, operand


def _contiguous_on_device(data: Any, interface: dict[str, Any]) -> bool:
    if hasattr(data, "is_contiguous"):
        return bool(data.is_contiguous())
    if hasattr(data, "is_c_contiguous"):
        return bool(data.is_c_contiguous())
    return interface.get("strides") is None


def _scale(scale: Any, dtype: str) -> float:
    if type(scale) is not float and (not isinstance(scale, numbers.Real) or isinstance(scale, bool)):
        raise TypeError(f"scale must be a real number, got {type(scale).__name__}: pass float(scale)")
    value = float(scale)
    if not math.isfinite(value) or (dtype == "float32" and abs(value) >= _FLOAT32_OVERFLOW):
        raise ValueError(f"scale must be finite in {dtype}, got {scale!r}")
    return value
