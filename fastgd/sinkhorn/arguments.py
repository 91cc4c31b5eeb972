"""Arguments of transport problems: checked before any work, turned into what the kernels take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import _threads
from .._arrays import is_on_device, to_host, unpack, widen
from .._checks import count, index_list, number
from .._dispatch import Operand
from . import device
from .sweeps.points import Points

METHODS = ("auto", "sinkhorn", "newton", "sns")
PRECISIONS = ("float64", "float32")
METRICS = ("sqeuclidean", "euclidean")
#: Of |cost| / reg: beyond it, neighbouring float64 exponents differ by a factor of e and more.
RESOLVED = 2.0**52
_FLOAT64 = np.dtype(np.float64)


class Problem(NamedTuple):
    """One transport problem as the kernels take it."""

    cost: Any  # (n, m) array, on the host or a device, or Points
    a: np.ndarray  # (n,) float64
    b: np.ndarray  # (m,) float64, of a's sum unless penalised
    reg: float
    penalty: tuple[float, float] | None  # rho of rows and columns; inf fixes a marginal
    reach: float  # a bound of the finite costs' spread: where epsilon scaling starts
    masked: bool  # whether a cost is +inf
    alone: tuple[float, float] = (0.0, 0.0)  # penalised masses that can go nowhere, and are zeros in a and b

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a), len(self.b)

    def tau(self, reg: float) -> tuple[float, float]:
        """rho / (rho + reg) of rows and columns: 1 where the marginal is fixed."""
        if self.penalty is None:
            return 1.0, 1.0
        rows, columns = (1.0 / (1.0 + reg / rho) for rho in self.penalty)
        return rows, columns


class Options(NamedTuple):
    """How to solve it."""

    method: str
    tol: float
    max_iter: int
    precision: str
    callback: Callable[[int, float], Any] | None


def regularisation(reg: Any) -> float:
    """`reg` as a number above 0 that costs can be divided by."""
    reg = number(reg, "reg", 0.0, above=True)
    if reg < 2.0**-1020:
        raise ValueError(f"reg must be at least 2^-1020, got {reg!r}: scale the costs and reg up together")
    return reg


def options(method: Any, tol: Any, max_iter: Any, precision: Any, callback: Any, penalty: Any) -> Options:
    """The options that hold for every problem, checked."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if penalty is not None and method in ("newton", "sns"):
        raise ValueError(f"method {method!r} needs fixed marginals, not marginal_penalty: use method='sinkhorn' or 'auto'")
    if precision == "float32" and method in ("newton", "sns"):
        raise ValueError(f"method {method!r} needs precision='float64', got 'float32': use method='sinkhorn' or 'auto'")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of (iteration, error), got {callback!r}")
    return Options(method, number(tol, "tol", 0.0), count(max_iter, "max_iter", 0), precision, callback)


def penalties(value: Any) -> tuple[float, float] | None:
    """`marginal_penalty` as two numbers above 0; None where both marginals are fixed."""
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"marginal_penalty must be a number or a pair (rho_a, rho_b), got {len(pair)} numbers")
    rows, columns = (math.inf if rho == math.inf else number(rho, "marginal_penalty", 0.0, above=True) for rho in pair)
    return None if rows == columns == math.inf else (rows, columns)


def matrix(cost: Any, name: str, dimensions: int) -> tuple[np.ndarray, Operand, Callable[[Any], Any]]:
    """Stored costs, C-contiguous float32 or float64 (halves become float32: exact); a copy only where they are not that."""
    data, operand, wrap = unpack(cost, name)
    if len(data.shape) != dimensions or 0 in data.shape[-2:]:
        letters = "(B, n, m)" if dimensions == 3 else "(n, m)"
        raise ValueError(f"{name} must have shape {letters} without a 0, got {tuple(data.shape)}")
    if operand.device == "cpu":
        if operand.dtype in ("float16", "bfloat16"):
            data, operand = widen(data, operand.dtype).astype(np.float32), Operand("cpu", "float32")
        return np.ascontiguousarray(data), operand, wrap
    return device.packed(data, operand), operand, device.like(data)


def spread(cost: Any, name: str) -> tuple[float, bool]:
    """The range of the finite costs, and whether one is +inf; ValueError for NaN and -inf."""
    if is_on_device(cost):
        low, high, masked = device.extent(cost)
        if math.isnan(low) or low == -math.inf:
            return spread(to_host(cost), name)  # which says where
        return (high - low if high > -math.inf else 0.0), masked
    low, high = float(cost.min()), float(cost.max())  # either is NaN as soon as one element is
    if math.isnan(low) or low == -math.inf:
        bad = ~(cost.reshape(-1) > -np.inf)
        raise ValueError(f"{name} has a NaN or a -inf (flat index {index_list(bad, 3)}): a forbidden pair has the cost +inf")
    masked = high == math.inf
    if masked:
        high = float(np.max(cost, where=np.isfinite(cost), initial=min(low, 0.0)))
    return (high - low if low < math.inf else 0.0), masked


def marginals(a: Any, b: Any, n: int, m: int, balanced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both marginals as float64, uniform by default; of equal sums if `balanced`."""
    a, b = marginal(a, "a", n, 1), marginal(b, "b", m, 1)
    return (a, balance(a, b)) if balanced else (a, b)


def marginal(x: Any, name: str, size: int, dimensions: int) -> np.ndarray:
    """One marginal, or up to `dimensions` = 2 a row of them for each problem: finite, at least 0, somewhere above 0."""
    if x is None:
        return np.full(size, 1.0 / size)
    values = numbers(x, name)
    if not 1 <= values.ndim <= dimensions or values.shape[-1] != size:
        shapes = f"({size},)" if dimensions == 1 else f"({size},) or (B, {size})"
        raise ValueError(f"{name} must have shape {shapes} to go with the cost, got {values.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        low, total = values.min(initial=0.0), values.sum(axis=-1)
    if not low >= 0.0 or not np.all(np.isfinite(total)):
        bad = ~((values.reshape(-1) >= 0.0) & np.isfinite(values.reshape(-1)))
        what = f"a negative number, a NaN or an Inf at {index_list(bad)}" if bad.any() else "a sum that overflows"
        raise ValueError(f"{name} has {what}: marginals are masses, finite and at least 0")
    if not np.all(total > 0.0):
        raise ValueError(f"{name} is zero everywhere: there is no mass to transport")
    return values.copy() if values is x else values


def balance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """b scaled to a's sum; ValueError where they differ by more than rounding."""
    sent, received = float(a.sum()), float(b.sum())
    if abs(sent - received) > 1e-6 * max(sent, received):
        raise ValueError(f"a and b must have the same sum, got {sent:.9g} and {received:.9g}: normalise them, or give "
                         "marginal_penalty= for unbalanced transport")
    return b if sent == received else b * (sent / received)


def numbers(x: Any, name: str) -> np.ndarray:
    """`x` as a contiguous float64 array on the host; TypeError for anything but real numbers."""
    if type(x) is np.ndarray and x.dtype == _FLOAT64:
        return x if x.flags.c_contiguous else np.ascontiguousarray(x)
    if is_on_device(x):
        raise TypeError(f"{name} is on the GPU, but must be on the host here: move it first (torch: x.cpu(), CuPy: x.get())")
    if hasattr(x, "dtype") and not isinstance(x, np.ndarray | np.generic):
        data, operand, _ = unpack(x, name)
        return np.ascontiguousarray(widen(data, operand.dtype))
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, but every value must count: pass {name}.filled(...)")
    try:
        values = np.asarray(x)
    except ValueError as error:  # ragged
        raise TypeError(f"{name} must be an array of numbers: {error}") from None
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got dtype {values.dtype}: convert it with .astype('float64')")
    return np.ascontiguousarray(values, dtype=np.float64)


def cloud(x: Any, name: str) -> tuple[np.ndarray, Operand, Callable[[Any], Any]]:
    """Points as float64 (n, d), finite."""
    data, operand, wrap = unpack(x, name)
    if len(data.shape) != 2 or 0 in data.shape:
        raise ValueError(f"{name} must have shape (points, coordinates) without a 0, got {tuple(data.shape)}")
    if operand.device == "cpu":
        data = np.ascontiguousarray(widen(data, operand.dtype) if operand.dtype != "float64" else data)
        if not np.isfinite(data).all():
            raise ValueError(f"{name} has a NaN or an Inf in row {index_list(~np.isfinite(data).all(axis=1))}")
        return data, Operand("cpu", "float64"), wrap
    return device.packed(data, operand), operand, device.like(data)


def points(x: np.ndarray, y: np.ndarray, metric: Any, scale: Any) -> tuple[Points, float]:
    """The implicit cost and a bound of its spread, from the box around all points."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have the same number of coordinates, got {x.shape[1]} and {y.shape[1]}")
    scale = number(scale, "scale", 0.0)
    (low, high), (least, most) = box(x, "x"), box(y, "y")
    with np.errstate(over="ignore"):
        sides = np.maximum(high, most) - np.minimum(low, least)
        square = float((sides * sides).sum())
    reach = scale * (square if metric == "sqeuclidean" else math.sqrt(square))
    if not math.isfinite(8.0 * max(reach, square)):
        raise ValueError(f"scale * {metric} overflows for the points x and y: scale them and reg down together")
    return Points(x, y, metric, scale), reach


def box(x: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest of each coordinate. Points on the device have not been looked at before."""
    if is_on_device(x):
        low, high, infinite = np.array([device.extent(x, k, x.shape[1]) for k in range(x.shape[1])]).T
        if not np.all(low > -np.inf) or infinite.any():
            cloud(to_host(x), name)  # which says where
        return low, high
    return x.min(axis=0), x.max(axis=0)


def start(init: Any, a: np.ndarray, b: np.ndarray, reg: float) -> tuple[np.ndarray, np.ndarray] | None:
    """`init` as potentials in units of reg, -inf where the marginal is 0; None where none is given."""
    if init is None:
        return None
    known = hasattr(init, "_potentials")
    if known:
        pair = init._potentials(reg)
    elif isinstance(init, list | tuple) and len(init) == 2:
        pair = tuple(numbers(potential, f"init[{side}]") / reg for side, potential in enumerate(init))
    else:
        raise TypeError(f"init must be a pair of potentials (f, g) or a Solution, got {type(init).__name__}")
    found = []
    for potential, mass, name in zip(pair, (a, b), ("f", "g"), strict=True):
        if potential.shape != mass.shape:
            raise ValueError(f"init: {name} must have shape {mass.shape}, got {potential.shape}")
        bad = (mass > 0.0) & ~np.isfinite(potential)
        if bad.any() and not known:
            raise ValueError(f"init: {name} / reg is not finite where the marginal is positive, at {index_list(bad)}: put a "
                             "finite number there")
        if bad.any():  # where another problem had no mass
            potential = np.where(bad, np.min(potential, where=np.isfinite(potential), initial=0.0), potential)
        found.append(np.where(mass > 0.0, potential, -np.inf))
    return found[0], found[1]


def settle(problem: Problem) -> tuple[Problem, bool]:
    """The problem without penalised mass that can go nowhere, and whether no fixed mass is such."""
    if not problem.masked or isinstance(problem.cost, Points):
        return problem, True
    a, b, penalty = problem.a, problem.b, problem.penalty or (math.inf, math.inf)
    if is_on_device(problem.cost):
        alone = device.alone(problem.cost, a, b)
    else:
        open_ = np.isfinite(problem.cost)
        alone = (a > 0.0) & ~open_[:, b > 0.0].any(axis=1), (b > 0.0) & ~open_[a > 0.0].any(axis=0)
    if any(mask.any() and rho == math.inf for mask, rho in zip(alone, penalty, strict=True)):
        return problem, False
    lost = float(a[alone[0]].sum()), float(b[alone[1]].sum())
    return problem._replace(a=np.where(alone[0], 0.0, a), b=np.where(alone[1], 0.0, b), alone=lost), True


def resolved(problem: Problem) -> Problem:
    """`problem`, unless a row or column has only costs beside which reg vanishes: ValueError. Single ones forbid as +inf does."""
    cost = problem.cost
    if isinstance(cost, Points) or abs(float(cost[0, 0])) + problem.reach <= RESOLVED * problem.reg:
        return problem
    live = problem.a > 0.0, problem.b > 0.0
    for axis, name in ((1, "row"), (0, "column")):
        least = np.min(cost[:, live[1]] if axis else cost[live[0]], axis=axis)
        bad = live[1 - axis] & np.isfinite(least) & (np.abs(least) / RESOLVED > problem.reg)
        if bad.any():
            raise ValueError(f"cost / reg has no digits left in float64: reg is {problem.reg!r}, and the least cost of {name} "
                             f"{int(bad.argmax())} is {float(least[bad.argmax()])!r}: raise reg, or shift the costs towards 0")
    return problem


def threads(num_threads: int | None, n: int, m: int) -> int:
    """Threads for one sweep: an entry takes about a nanosecond, as eight bytes of streaming do."""
    return _threads.budget(num_threads, 8 * n * m)
