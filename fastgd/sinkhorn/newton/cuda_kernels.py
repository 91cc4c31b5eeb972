"""Kernels of the semi-dual on a GPU: which entries a row keeps, and conjugate gradients on the Hessian of those.

S = diag(c) - P' diag(1/a) P of the kept entries, under Jacobi's scaling s: q = p - s P' (1/a) P (s p). A product takes the kept
entries by rows, a warp a row, then by columns, a warp a column: each sum is a tree of fixed shape, without atomics.

An iteration is four launches; each block finds their two scalars for itself, in the same order as the others, so that no launch
reads what it writes and the host need not wait. sizes[k] = the square of the residual before iteration k; once it is not above
`end` later launches do nothing, -1 = the curvature was not positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from ..sweeps.cuda_device import block_sum, entry, opened, warp_sum
from ..sweeps.cuda_rows import costs

THREADS = 256
#: Numbers that share the exponent and the first three bits are one class.
CLASS = np.int64(49)


@cuda.jit(device=True)
def _class_of(x: Any) -> Any:
    return np.int64(np.float64(x).view(np.int64) >> CLASS)


@cuda.jit(device=True)
def _least_of(number: Any) -> Any:
    """The least number of a class."""
    return np.int64(np.int64(number) << CLASS).view(np.float64)


@cuda.jit
def limit_kernel(kind: Any, c: Any, y: Any, scale: Any, a: Any, drop: Any, f: Any, g: Any, limit: Any) -> None:
    """limit_i: the smallest entry to keep, such that a row loses whole classes of entries, of drop a_i in sum at most.

    A warp a row. Entries below drop a_i / m may all go, one above drop a_i may not: between, four classes at a time are tried.
    Cost: an exponential an entry for each two bits of the number of classes between, about 8 log2 m.
    """
    lanes = min(32, cuda.blockDim.x)
    lane, warps = cuda.threadIdx.x % lanes, cuda.blockDim.x // lanes
    for first in range(cuda.blockIdx.x * warps, f.size, cuda.gridDim.x * warps):
        own = first + cuda.threadIdx.x // lanes
        i = min(own, f.size - 1)
        budget = drop * a[i]
        low, high = _class_of(budget / g.size), _class_of(budget) + 1
        while low < high:
            reach = high - low
            at1, at2, at3 = low + (reach + 3) // 4, low + (2 * reach + 3) // 4, low + (3 * reach + 3) // 4
            least1, least2, least3, least4 = _least_of(at1), _least_of(at2), _least_of(at3), _least_of(high)
            lost1, lost2, lost3, lost4 = 0.0, 0.0, 0.0, 0.0
            for j in range(lane, g.size, lanes):
                p = entry(kind, c, y, scale, opened(f[i]) + opened(g[j]), i, j)
                lost1 += p if p < least1 else 0.0
                lost2 += p if p < least2 else 0.0
                lost3 += p if p < least3 else 0.0
                lost4 += p if p < least4 else 0.0
            lost1, lost2, lost3, lost4 = warp_sum(lost1), warp_sum(lost2), warp_sum(lost3), warp_sum(lost4)
            if lost4 <= budget:
                low = high
            elif lost3 <= budget:
                low, high = at3, high - 1
            elif lost2 <= budget:
                low, high = at2, at3 - 1
            elif lost1 <= budget:
                low, high = at1, at2 - 1
            else:
                high = at1 - 1
        if lane == 0 and own < f.size:
            limit[i] = max(_least_of(low), 5e-324)


@cuda.jit
def rows_product_kernel(start: Any, index: Any, value: Any, inverse_a: Any, scale: Any, p: Any, sizes: Any, at: Any, end: Any,
                        w: Any) -> None:
    """w = (1/a) P (s p)."""
    lanes = min(32, cuda.blockDim.x)
    lane, warps = cuda.threadIdx.x % lanes, cuda.blockDim.x // lanes
    if not sizes[at] > end:
        return
    for first in range(cuda.blockIdx.x * warps, w.size, cuda.gridDim.x * warps):
        own = first + cuda.threadIdx.x // lanes
        i = min(own, w.size - 1)
        total = 0.0
        for k in range(start[i] + lane, start[i + 1], lanes):
            total += value[k] * (scale[index[k]] * p[index[k]])
        total = warp_sum(total)
        if lane == 0 and own < w.size:
            w[i] = inverse_a[i] * total


@cuda.jit
def columns_product_kernel(start: Any, bands: Any, index: Any, value: Any, scale: Any, p: Any, sizes: Any, at: Any, end: Any,
                           w: Any, q: Any) -> None:
    """q = p - s P' w."""
    lanes = min(32, cuda.blockDim.x)
    lane, warps = cuda.threadIdx.x % lanes, cuda.blockDim.x // lanes
    if not sizes[at] > end:
        return
    for first in range(cuda.blockIdx.x * warps, q.size, cuda.gridDim.x * warps):
        own = first + cuda.threadIdx.x // lanes
        j = min(own, q.size - 1)
        total = 0.0
        for k in range(start[j * bands] + lane, start[(j + 1) * bands], lanes):
            total += value[k] * w[index[k]]
        total = warp_sum(total)
        if lane == 0 and own < q.size:
            q[j] = p[j] - scale[j] * total


@cuda.jit(device=True)
def _dot(x: Any, y: Any, shared: Any) -> Any:
    """x'y, by every block for itself."""
    total = 0.0
    for j in range(cuda.threadIdx.x, x.size, cuda.blockDim.x):
        total += x[j] * y[j]
    return block_sum(total, shared)


@cuda.jit
def step_kernel(p: Any, q: Any, sizes: Any, at: Any, end: Any, x: Any, r: Any, curvatures: Any) -> None:
    """x += alpha p, r -= alpha q with alpha = sizes[at] / p'q, which is curvatures[at]."""
    shared = cuda.shared.array(32, np.float64)
    if not sizes[at] > end:
        return
    curvature = _dot(p, q, shared)
    if cuda.grid(1) == 0:
        curvatures[at] = curvature
    if curvature > 0.0:
        alpha = sizes[at] / curvature
        for j in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            x[j] += alpha * p[j]
            r[j] -= alpha * q[j]


@cuda.jit
def turn_kernel(r: Any, curvatures: Any, sizes: Any, at: Any, end: Any, p: Any) -> None:
    """p := r + sizes[at + 1] / sizes[at] p with sizes[at + 1] = r'r."""
    shared = cuda.shared.array(32, np.float64)
    active = sizes[at] > end
    size = sizes[at]
    if active:
        size = -1.0
        if curvatures[at] > 0.0:
            size = _dot(r, r, shared)
            ratio = size / sizes[at]
            for j in range(cuda.grid(1), p.size, cuda.gridsize(1)):
                p[j] = r[j] + ratio * p[j]
    if cuda.grid(1) == 0:
        sizes[at + 1] = size


_VECTOR, _KEPT = "float64[::1]", "int64[::1], float64[::1]"
KERNELS: list[tuple[Any, ...]] = [
    (limit_kernel, costs(f"void(COST, {_VECTOR}, float64, {_VECTOR}, {_VECTOR}, {_VECTOR})"), True, 96),
    (rows_product_kernel, [f"void(int64[::1], {_KEPT}, {', '.join([_VECTOR] * 4)}, int64, float64, {_VECTOR})"], True, None),
    (columns_product_kernel, [f"void(int64[::1], int64, {_KEPT}, {', '.join([_VECTOR] * 3)}, int64, float64, {_VECTOR}, "
                              f"{_VECTOR})"], True, None),
    (step_kernel, [f"void({_VECTOR}, {_VECTOR}, {_VECTOR}, int64, float64, {', '.join([_VECTOR] * 3)})"], True, None),
    (turn_kernel, [f"void({', '.join([_VECTOR] * 3)}, int64, float64, {_VECTOR})"], True, None),
]
