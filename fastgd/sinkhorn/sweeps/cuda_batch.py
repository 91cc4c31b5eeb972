"""Many small problems at once on a GPU, one block each: start, over-relaxed sweeps and their decisions without the host.

The rules are those of `schedule.relax`: the gap measured over each run of sweeps sets the next relaxation. In place of its look
at the dual potential, a run after which the error has grown takes the gap four times as large. A block ends at the tolerance,
after MOST sweeps, or when three runs in a row have gained nothing; the host's driver goes on with what has not converged.

Cost:  of a sweep 2 exponentials an entry; costs come from memory once and then from the caches while they fit.
Order: rows as in `cuda_rows`, a thread a column over all rows in order; the same bits on every launch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from ... import _cuda
from ..._cuda import Call
from ..relaxed import CHUNK, EASY, FALL, FIRST, RISE
from .cuda_device import COLUMN, LOGARITHM, STORED, block_sum, cost_of, entry, exact_update, moved, opened
from .cuda_rows import make_update

THREADS = 128
#: Rows of a problem, at most: each has a place in shared memory.
LARGEST = 1024
#: Sweeps of a block, at most.
MOST = 400

_update = make_update(False)


class Start(NamedTuple):
    """Where a block left a problem."""

    f: np.ndarray
    g: np.ndarray
    errors: np.ndarray  #: of its sweeps


@cuda.jit(device=True)
def _column(c: Any, scale: Any, log_mass: Any, tau: Any, f: Any, j: Any) -> Any:
    """g_j from f, the greatest exponential 1, by one thread."""
    top, total = -np.inf, 0.0
    for i in range(f.size):
        top = max(top, cuda.fma(-scale, cost_of(STORED, c, c, i, j), opened(f[i])))
    if top > -np.inf:
        for i in range(f.size):
            total += math.exp(cuda.fma(-scale, cost_of(STORED, c, c, i, j), opened(f[i])) - top)
    return exact_update(total, -top, log_mass, tau) if log_mass > -np.inf else -np.inf


@cuda.jit(device=True)
def _next_gap(gap: Any, omega: Any, first: Any, final: Any, steps: Any) -> Any:
    """What the rate of the last sweeps makes of the gap."""
    ratio = final / first if first > 0.0 else 0.0
    rate = math.exp(math.log(ratio) / steps) if 0.0 < ratio < np.inf else 1.0
    if omega == 1.0:
        new = 1.0 - rate
    elif rate >= 1.0:
        new = gap
    elif rate > omega - 1.0:
        new = 1.0 - (rate + omega - 1.0) * (rate + omega - 1.0) / (rate * omega * omega)
    else:
        new = RISE * gap
    return min(max(new, gap / FALL, 1e-6), 1.0)


@cuda.jit(device=True)
def _sweep(c: Any, scale: Any, a: Any, log_a: Any, b: Any, log_b: Any, tau_a: Any, tau_b: Any, relax: Any, tol: Any, f: Any,
           g: Any, column: Any, bases: Any, factors: Any, sums: Any) -> Any:
    """One sweep by one block; its error."""
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    warp, warps = t // min(32, threads), threads // min(32, threads)
    lost = 0.0
    cuda.syncthreads()
    for first in range(0, f.size, warps):
        i = min(first + warp, f.size - 1)
        there = first + warp < f.size
        slot = i if there else -1
        lost += _update(STORED, c, c, scale, a, log_a, tau_a, relax, i, there and a[i] > 0.0, slot, f, g, bases, factors)
    cuda.syncthreads()
    for j in range(t, g.size, threads):
        total = 0.0
        for i in range(f.size):
            total += factors[i] * entry(STORED, c, c, scale, bases[i] + opened(g[j]), i, j)
        column[j] = total
        if tau_b == 1.0:
            lost += abs(total - b[j])
        elif total > 0.0:
            lost += total * abs(exact_update(total, opened(g[j]), log_b[j], tau_b) - opened(g[j]))
    lost = block_sum(lost, sums)
    if lost > tol:
        for j in range(t, g.size, threads):
            if column[j] >= COLUMN:
                exact = exact_update(column[j], opened(g[j]), log_b[j], tau_b)
            else:
                exact = _column(c, scale, log_b[j], tau_b, f, j)
            g[j] = moved(g[j], exact, relax)
    return lost


@cuda.jit
def batch_kernel(costs: Any, scale: Any, a: Any, log_a: Any, b: Any, log_b: Any, tau_a: Any, tau_b: Any, warm: Any, tol: Any,
                 f: Any, g: Any, column: Any, errors: Any, counts: Any) -> None:
    """Problems 0, 1, .. of counts.size; problem k's cost is costs[k], or costs[0] where that is all there is."""
    bases = cuda.shared.array(LARGEST, np.float64)
    factors = cuda.shared.array(LARGEST, np.float64)
    sums = cuda.shared.array(32, np.float64)
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    for k in range(cuda.blockIdx.x, counts.size, cuda.gridDim.x):
        c = costs[k if costs.shape[0] > 1 else 0]
        if not warm[k]:
            for j in range(t, b.shape[1], threads):
                g[k, j] = _column(c, scale, log_b[k, j], tau_b, f[k], j)
        gap, last, best, done, quiet, lost = 1.0, np.inf, np.inf, 0, 0, np.inf
        while done < errors.shape[1] and lost > tol and quiet < 3:
            omega = 2.0 / (1.0 + math.sqrt(gap)) if gap < EASY else 1.0
            count = min(CHUNK if omega > 1.0 else FIRST, errors.shape[1] - done)
            begin = 0 if omega > 1.0 else max(count // 2 - 1, 0)  # plain sweeps: their last half counts
            at, first = 0, np.inf
            while at < count and lost > tol:
                lost = _sweep(c, scale, a[k], log_a[k], b[k], log_b[k], tau_a, tau_b, omega, tol, f[k], g[k], column[k], bases,
                              factors, sums)
                if t == 0:
                    errors[k, done + at] = lost
                if at == begin:
                    first = lost
                at += 1
            done += at
            if omega > 1.0 and not lost <= last:
                gap = min(4.0 * gap, 1.0)
            elif count > begin + 1:
                gap = _next_gap(gap, omega, first, lost, count - 1 - begin)
            quiet = quiet + 1 if lost > 0.99 * best else 0
            last, best = lost, min(best, lost)
        if t == 0:
            counts[k] = done


def fits(shape: tuple[int, ...]) -> bool:
    """Whether a block can solve problems of this shape (B, n, m)."""
    return shape[1] <= LARGEST


def begin(costs: Any, a: np.ndarray, b: np.ndarray, reg: float, tau: tuple[float, float], starts: list[Any], tol: float,
          max_iter: int) -> list[Start]:
    """Sweeps of all problems: a (B, n), b (B, m); starts are potentials in units of reg, or None."""
    zero = np.where(a > 0.0, 0.0, -np.inf), np.where(b > 0.0, 0.0, -np.inf)
    f, g = (np.array([own if start is None else start[side] for own, start in zip(zero[side], starts, strict=True)])
            for side in (0, 1))
    warm = np.array([start is not None for start in starts])
    with np.errstate(divide="ignore"):
        hosts = [np.ascontiguousarray(x) for x in (a, np.log(a), b, np.log(b), f, g)]
    with Call(costs) as call:
        views = [call.empty(x.size, x.dtype).reshape(x.shape) for x in (*hosts, warm)]
        for view, host in zip(views, (*hosts, warm), strict=True):
            view.copy_to_device(host, stream=call.stream)
        device_a, log_a, device_b, log_b, device_f, device_g, device_warm = views
        size, most = len(a), min(max_iter, MOST)
        column, errors = (call.empty(size * width, np.float64).reshape(size, width) for width in (b.shape[1], most))
        counts = call.empty(size, np.int64)
        _cuda.launch(batch_kernel, _cuda.blocks(size, 1), THREADS, call.stream, _cuda.view(costs), 1.0 / reg, device_a, log_a,
                     device_b, log_b, *tau, device_warm, tol, device_f, device_g, column, errors, counts)
        f, g, found, done = (call.read(x) for x in (device_f, device_g, errors, counts))
    return [Start(f[k], g[k], found[k, : done[k]]) for k in range(size)]


_MATRIX = "float64[:, ::1]"
KERNELS: list[tuple[Any, ...]] = [
    (batch_kernel, [f"void({real}[:, :, ::1], float64, {', '.join([_MATRIX] * 4)}, float64, float64, boolean[::1], float64, "
                    f"{', '.join([_MATRIX] * 4)}, int64[::1])" for real in ("float32", "float64")], True, 136, *LOGARITHM),
]
