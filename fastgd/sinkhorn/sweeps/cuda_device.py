"""Device functions of the transport kernels: one entry of the plan, sums of a warp and of a block, the update of a potential.

An exponent is fma(-scale, C, f + g), written out: every kernel finds the same bits for the same entry, whatever the compiler
contracts around it. Exponentials are the CUDA library's, within a unit in the last place of the CPU's, not equal to them.

A warp here is min(32, threads of the block) threads, so that the simulator may run small blocks. All threads of a block reach
every shuffle together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

ALL_LANES = 0xFFFFFFFF
#: What the CUDA library's logarithm starts a division with, and corrects.
LOGARITHM = "rcp.approx", ".ftz"
STORED, SQUARES, DISTANCES = 0, 1, 2
#: Columns that a block works on together: consecutive, so that their entries are read in whole sectors.
COLUMNS = 32
#: Sums of exponentials from SMALL to LARGE are right, and so are columns after factors up to SWELL, from COLUMN on.
SMALL, LARGE, SWELL, COLUMN = 2.0**-800, 2.0**900, 2.0**200, 2.0**-700


@cuda.jit(device=True)
def cost_of(kind: Any, c: Any, y: Any, i: Any, j: Any) -> Any:
    """C_ij. Stored: an entry of c. Points: from row i of c and column j of y, without the scale."""
    if kind == STORED:
        return np.float64(c[i, j])
    total = np.float64(0.0)
    for k in range(y.shape[0]):
        step = np.float64(c[i, k]) - np.float64(y[k, j])
        total = cuda.fma(step, step, total)
    return math.sqrt(total) if kind == DISTANCES else total


@cuda.jit(device=True)
def opened(potential: Any) -> Any:
    """A potential in exponents: one of +infinity sends nothing."""
    return potential if potential < np.inf else -np.inf


@cuda.jit(device=True)
def entry(kind: Any, c: Any, y: Any, scale: Any, base: Any, i: Any, j: Any) -> Any:
    """exp(base - scale C_ij), cut at exp(690) > LARGE."""
    return math.exp(min(cuda.fma(-scale, cost_of(kind, c, y, i, j), base), 690.0))


@cuda.jit(device=True)
def warp_sum(x: Any) -> Any:
    """The sum over the warp, the same in each lane: as a tree of halves."""
    step = min(32, cuda.blockDim.x) // 2
    while step > 0:
        x += cuda.shfl_sync(ALL_LANES, x, cuda.laneid ^ step)
        step //= 2
    return x


@cuda.jit(device=True)
def warp_max(x: Any) -> Any:
    step = min(32, cuda.blockDim.x) // 2
    while step > 0:
        x = max(x, cuda.shfl_sync(ALL_LANES, x, cuda.laneid ^ step))
        step //= 2
    return x


@cuda.jit(device=True)
def block_sum(x: Any, shared: Any) -> Any:
    """The sum over the block, the same in each thread; `shared` holds 32 numbers."""
    lanes = min(32, cuda.blockDim.x)
    x = warp_sum(x)
    cuda.syncthreads()  # what was there has been read
    if cuda.threadIdx.x % lanes == 0:
        shared[cuda.threadIdx.x // lanes] = x
    cuda.syncthreads()
    total = shared[0]
    for warp in range(1, cuda.blockDim.x // lanes):
        total += shared[warp]
    return total


@cuda.jit(device=True)
def exact_update(total: Any, base: Any, log_mass: Any, tau: Any) -> Any:
    """tau (log mass - log sum exp) from total = sum of exp(base + ..); +infinity where nothing can be sent."""
    return tau * ((log_mass - math.log(total)) + base) if total > 0.0 else np.inf


@cuda.jit(device=True)
def moved(old: Any, exact: Any, relax: Any) -> Any:
    """What part of its step a potential moves."""
    return exact if relax == 1.0 or not abs(old) < np.inf else old + relax * (exact - old)


@cuda.jit(device=True)
def growth(total: Any, base: Any, following: Any, mass: Any, simple: Any) -> Any:
    """What the row's exponentials grow by when `base` becomes the potential `following`."""
    if total == 0.0:
        return 0.0
    return mass / total if simple else math.exp(min(max(following - base, -1000.0), 485.0))


@cuda.jit(device=True)
def row_error(total: Any, factor: Any, exact: Any, following: Any, mass: Any, tau: Any, simple: Any) -> Any:
    """What the row adds to the error: its L1 error, or, penalised, that of its fixed point weighted by what it sends."""
    sent = factor * total
    if total == 0.0:
        return mass
    if simple:
        return 0.0
    return abs(sent - mass) if tau == 1.0 else sent * abs(exact - following)
