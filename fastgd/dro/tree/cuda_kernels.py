"""The tree's GPU kernels: the CPU's layout, sums and draws, bit for bit (csrc/dro_tree.h).

A draw is worked on by 8 lanes of a warp, one for each child of a block: a level is one load of one cache line, then the lanes
hand their values around and each finds the same child. Every kernel's arithmetic is additions and comparisons, products apart
from sums; no float atomics, so nothing depends on the order of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from ...compress.cuda_kernels import product64, quotient64
from ...random import scalar

ALL_LANES = 0xFFFFFFFF
THREADS = 128
#: Updates of one launch: one block of threads, which sees all of them.
ONE_BLOCK = 1024

_philox = scalar.functions(cuda.jit(device=True)).philox
_0, _1, _11, _32 = np.uint64(0), np.uint64(1), np.uint64(11), np.uint64(32)
_STEP = np.float64(2.0**-53)
IID, STRATIFIED, SYSTEMATIC = 0, 1, 2


@cuda.jit(device=True)
def _block_sum(data: Any, at: Any) -> Any:
    total = data[at]
    for k in range(1, 8):
        total += data[at + k]
    return total


@cuda.jit(device=True)
def _below(x: Any) -> Any:
    """The next number below x > 0."""
    return np.int64(np.float64(x).view(np.int64) - np.int64(1)).view(np.float64)


@cuda.jit(device=True)
def _leaf(data: Any, first: Any, mass: Any, lane: Any) -> Any:
    """The leaf that 0 <= mass < total falls on; asked by the 8 lanes `lane` 0 .. 7 of a group together, whole warps at once."""
    group = cuda.laneid - lane
    node = np.int64(0)
    for level in range(first.size - 1, -1, -1):
        own = data[first[level] + 8 * node + lane]
        child, before, after, weight = np.int64(0), np.float64(0), np.float64(0), np.float64(0)
        found = False  # for ever where the tree is empty: then the way is child 0's
        for k in range(8):
            weight_k = cuda.shfl_sync(ALL_LANES, own, group + k)
            if not found:
                before = after
                after += weight_k
                if mass < after:
                    child = np.int64(k)
                    weight = weight_k
                    found = True
        mass = min(mass - before, _below(weight))
        node = 8 * node + child
    return node


@cuda.jit(device=True)
def _uniform(seed: Any, draw: Any) -> Any:
    a, b, c, d = _philox(seed, _0, _0, draw >> _1)
    if draw & _1 == _1:
        a, b = c, d
    return np.float64((a | (b << _32)) >> _11) * _STEP


@cuda.jit
def find_kernel(data: Any, first: Any, mass: Any, leaf: Any, report: Any) -> None:
    """leaf_i = the leaf of mass_i; report[0] = 1 where one lies outside [0, total). Reads a cache line a level."""
    lane = np.int64(cuda.threadIdx.x % 8)
    total = _block_sum(data, first[first.size - 1])
    for base in range(cuda.blockIdx.x * (cuda.blockDim.x // 8), leaf.size, cuda.gridsize(1) // 8):  # the same for all lanes
        i = base + cuda.threadIdx.x // 8
        m = mass[min(i, leaf.size - 1)]
        inside = np.float64(0) <= m < total
        found = _leaf(data, first, m if inside else np.float64(0), lane)
        if lane == 0 and i < leaf.size:
            leaf[i] = found
            if not inside:
                report[0] = np.float64(1)


@cuda.jit
def sample_kernel(data: Any, first: Any, seed: Any, draw: Any, method: Any, leaf: Any) -> None:
    """leaf_i = the leaf of draw number `draw` + i (SYSTEMATIC: of the one number `draw`)."""
    lane = np.int64(cuda.threadIdx.x % 8)
    total = _block_sum(data, first[first.size - 1])
    for base in range(cuda.blockIdx.x * (cuda.blockDim.x // 8), leaf.size, cuda.gridsize(1) // 8):
        i = base + cuda.threadIdx.x // 8
        u = _uniform(seed, draw if method == SYSTEMATIC else draw + np.uint64(i))
        if method != IID:
            u = quotient64(np.float64(i) + u, np.float64(leaf.size))
        found = _leaf(data, first, min(product64(u, total), _below(total)), lane)
        if lane == 0 and i < leaf.size:
            leaf[i] = found


@cuda.jit
def successive_kernel(data: Any, first: Any, seed: Any, draw: Any, leaf: Any, weight: Any, report: Any) -> None:
    """Draws without replacement, one after another, by one warp: a drawn leaf weighs nothing until all are drawn.

    report[0] = draws until the weights ran out. In the end every weight and every sum is what it was.
    """
    lane = np.int64(cuda.threadIdx.x % 8)
    if cuda.blockIdx.x > 0:
        return
    drawn = np.int64(0)
    for i in range(leaf.size):
        total = _block_sum(data, first[first.size - 1])
        u = _uniform(seed, draw + np.uint64(i))
        found = _leaf(data, first, min(product64(u, total), _below(total)), lane)
        cuda.syncthreads()
        if total > np.float64(0):
            drawn += 1
            if cuda.threadIdx.x == 0:
                leaf[i] = found
                weight[i] = data[found]
                data[found] = np.float64(0)
                _raise_path(data, first, found)
        cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        report[0] = np.float64(drawn)
        for i in range(drawn):
            data[leaf[i]] = weight[i]
            _raise_path(data, first, leaf[i])


@cuda.jit(device=True)
def _raise_path(data: Any, first: Any, leaf: Any) -> None:
    """The sums above one leaf, anew."""
    node = leaf
    for level in range(1, first.size):
        node >>= 3
        data[first[level] + node] = _block_sum(data, first[level - 1] + 8 * node)


# ------------------------------------------------------------------------------------------------------------ changes


@cuda.jit(device=True)
def _wrong(index: Any, weight: Any, n: Any) -> Any:
    """1 for an index outside [0, n), 2 for a weight that is negative, NaN or Inf, 0 for neither."""
    if index < 0 or index >= n:
        return np.int32(1)
    return np.int32(0) if np.float64(0) <= weight < np.float64(np.inf) else np.int32(2)


@cuda.jit(device=True)
def _report(wrong: Any, report: Any) -> None:
    """report[0]: 2 where any index is wrong, else 1 where any weight is, whatever the order of threads."""
    if wrong != 0:
        cuda.atomic.max(report, 0, np.float64(3 - wrong))


@cuda.jit
def update_kernel(data: Any, first: Any, n: Any, index: Any, weight: Any, old: Any, report: Any) -> None:
    """Up to ONE_BLOCK new weights and the sums above them, in one launch of one block; the last of equal indices wins.

    report[0] = 0, or why nothing has changed: 2 an index, 1 a weight, -1 the total would overflow; report[1] = the total.
    Threads of equal parents store the same sum. `old` has room for the weights replaced.
    """
    if cuda.blockIdx.x > 0:
        return
    t, count = cuda.threadIdx.x, index.size
    at, wrong = np.int64(0), np.int32(0)
    wins = t < count
    if wins:
        at = index[t]
        wrong = _wrong(at, weight[t], n)
        for later in range(t + 1, count):
            if index[later] == at:
                wins = False
    if cuda.syncthreads_or(wrong):
        _report(wrong, report)
        return
    if wins:
        old[t] = data[at]
        data[at] = weight[t] + np.float64(0)  # -0 becomes 0
    _raise_all(data, first, at)
    total = _block_sum(data, first[first.size - 1])
    cuda.syncthreads()
    if total < np.float64(np.inf):
        if t == 0:
            report[1] = total
        return
    if wins:
        data[at] = old[t]
    _raise_all(data, first, at)
    report[0] = np.float64(-1)


@cuda.jit(device=True)
def _raise_all(data: Any, first: Any, leaf: Any) -> None:
    """The sums above each thread's leaf, level by level, all threads of a block together."""
    node = leaf
    cuda.syncthreads()
    for level in range(1, first.size):
        node >>= 3
        data[first[level] + node] = _block_sum(data, first[level - 1] + 8 * node)
        cuda.syncthreads()


@cuda.jit
def check_kernel(index: Any, weight: Any, n: Any, report: Any) -> None:
    """report[0] as above; an empty index stands for 0, 1, 2, .."""
    for b in range(cuda.grid(1), weight.size, cuda.gridsize(1)):
        _report(_wrong(index[b] if index.size > 0 else np.int64(0), weight[b], n), report)


@cuda.jit
def claim_kernel(index: Any, owner: Any) -> None:
    """owner_i = 1 + the last position in `index` that holds i."""
    for b in range(cuda.grid(1), index.size, cuda.gridsize(1)):
        cuda.atomic.max(owner, index[b], np.int32(b + 1))


@cuda.jit
def exchange_kernel(data: Any, index: Any, weight: Any, owner: Any) -> None:
    """The owners' weights into the leaves, and the leaves' into `weight`: done twice, nothing has changed."""
    for b in range(cuda.grid(1), index.size, cuda.gridsize(1)):
        if owner[index[b]] == b + 1:
            before = data[index[b]]
            data[index[b]] = weight[b] + np.float64(0)
            weight[b] = before


@cuda.jit
def raise_kernel(data: Any, below: Any, above: Any, nodes: Any) -> None:
    """All sums of one level, from the level below, which is read once."""
    for node in range(cuda.grid(1), nodes, cuda.gridsize(1)):
        data[above + node] = _block_sum(data, below + 8 * node)


# ----------------------------------------------------------------------------------------------------------- questions


@cuda.jit
def sum_kernel(data: Any, first: Any, lo: Any, hi: Any, report: Any) -> None:
    """report[1] = w_lo + .. + w_(hi - 1), by one thread, in the CPU's order."""
    if cuda.grid(1) == 0:
        left, right = np.float64(0), np.float64(0)
        level, done = 0, False
        while lo < hi and not done:
            at, before = first[level], np.float64(0)
            done = level == first.size - 1 or lo >> 3 == hi >> 3
            if done:
                for j in range(lo, hi):
                    before += data[at + j]
                right = before + right
            else:
                while lo & 7 != 0:
                    left += data[at + lo]
                    lo += 1
                for j in range(hi >> 3 << 3, hi):
                    before += data[at + j]
                right = before + right
                lo >>= 3
                hi >>= 3
                level += 1
        report[1] = left + right


@cuda.jit
def weights_kernel(data: Any, n: Any, index: Any, out: Any, report: Any) -> None:
    """out_j = weight index_j; report[0] = 1 where an index is outside."""
    for j in range(cuda.grid(1), index.size, cuda.gridsize(1)):
        if 0 <= index[j] < n:
            out[j] = data[index[j]]
        else:
            report[0] = np.float64(1)


@cuda.jit
def extremes_kernel(data: Any, n: Any, bits: Any) -> None:
    """The bits of the smallest positive and of the largest weight: for such numbers integers in the same order."""
    least, most = bits[0], bits[1]
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        own = data[i].view(np.int64)
        if own > 0:
            least = min(least, own)
            most = max(most, own)
    cuda.atomic.min(bits, 0, least)
    cuda.atomic.max(bits, 1, most)


_DATA = "float64[::1], int64[::1]"
KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    (find_kernel, [f"void({_DATA}, float64[::1], int64[::1], float64[::1])"], True, None),
    (sample_kernel, [f"void({_DATA}, uint64, uint64, int64, int64[::1])"], True, None),
    (successive_kernel, [f"void({_DATA}, uint64, uint64, int64[::1], float64[::1], float64[::1])"], True, None),
    (update_kernel, [f"void({_DATA}, int64, int64[::1], float64[::1], float64[::1], float64[::1])"], True, None),
    (check_kernel, ["void(int64[::1], float64[::1], int64, float64[::1])"], True, None),
    (claim_kernel, ["void(int64[::1], int32[::1])"], True, None),
    (exchange_kernel, ["void(float64[::1], int64[::1], float64[::1], int32[::1])"], True, None),
    (raise_kernel, ["void(float64[::1], int64, int64, int64)"], True, None),
    (sum_kernel, [f"void({_DATA}, int64, int64, float64[::1])"], True, None),
    (weights_kernel, ["void(float64[::1], int64, int64[::1], float64[::1], float64[::1])"], True, None),
    (extremes_kernel, ["void(float64[::1], int64, int64[::1])"], True, None),
]
