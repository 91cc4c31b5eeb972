"""The kernels that choose vectors by their distances: Krum scores, the lowest of them, a copy of the winner.

What the host reads at the end is one float64 array, the *status* (indices are exact there): n scores, n marks of bad
rows, m chosen rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, types

from .cuda_device import block_sort, two_sum

#: Threads of a block.
THREADS = 128


@cache
def make_score_kernel(shared: bool) -> Any:
    zero, limit, infinity = np.float64(0), np.finfo(np.float64).max, np.float64(np.inf)

    @cuda.jit
    def score_kernel(sqdist: Any, bad: Any, neighbors: Any, padded: Any, scratch: Any, status: Any) -> None:
        """Formula: status[i] = sum of ranks 1 .. neighbors of row i of D, whose rank 0 is the diagonal; +inf for bad rows.

        Cost: one read of D; about n log^2(n) / 4 compare-exchanges a row, by one block, in shared memory or in
        `scratch` of `padded` values a block; `padded` is n or more, a power of two.
        Order: sorted, then added in ascending order in two words: the CPU's bits for the same D.
        """
        n = sqdist.shape[0]
        if shared:
            values, at = cuda.shared.array(0, types.float64), 0
        else:
            values, at = scratch, cuda.blockIdx.x * padded
        for i in range(cuda.blockIdx.x, n, cuda.gridDim.x):
            for j in range(cuda.threadIdx.x, padded, cuda.blockDim.x):
                values[at + j] = sqdist[i, j] if j < n else infinity
            cuda.syncthreads()
            block_sort(values, at, padded)
            if cuda.threadIdx.x == 0:
                s, e = values[at + 1], zero
                for k in range(2, neighbors + 1):
                    s, rest = two_sum(s, values[at + k])
                    e += rest
                if s <= limit:
                    s += e
                status[i] = infinity if bad[i] > 0.0 else s
            cuda.syncthreads()

    return score_kernel


@cuda.jit
def choose_kernel(status: Any, bad: Any, m: Any, chosen: Any) -> None:
    """Formula: chosen[i] = 1 for the m lowest (score, index) among the rows that are not bad, else 0.

    Cost: n comparisons a row, n^2 in all; the scores come from the cache. Order: none, only comparisons.
    """
    n = bad.shape[0]
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        score, better = status[i], 0
        for j in range(n):
            if bad[j] == 0.0 and (status[j] < score or (status[j] == score and j < i)):
                better += 1
        chosen[i] = 1 if bad[i] == 0.0 and better < m else 0


@cuda.jit
def list_kernel(chosen: Any, bad: Any, picks: Any, status: Any) -> None:
    """Formula: the chosen rows in ascending order, into `picks` (after their count) and `status` (-1 where there are fewer).

    Cost: n additions a row, n^2 in all, from the cache. Order: integers.
    """
    n, m = chosen.shape[0], picks.shape[1] - 1
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        before, total = 0, 0
        for j in range(n):
            total += chosen[j]
            if j < i:
                before += chosen[j]
        status[n + i] = np.float64(bad[i])
        if chosen[i] == 1:
            picks[0, 1 + before] = i
            status[2 * n + before] = np.float64(i)
        if total <= i and i < m:
            picks[0, 1 + i] = 0
            status[2 * n + i] = -1.0
        if i == 0:
            picks[0, 0] = total


@cuda.jit
def copy_kernel(x: Any, picks: Any, out: Any) -> None:
    """Formula: y_c = x[picks[0, 1], c], bit by bit. Cost: one read and one write of a vector."""
    for c in range(cuda.grid(1), out.shape[1], cuda.gridsize(1)):
        out[0, c] = x[picks[0, 1], c]
