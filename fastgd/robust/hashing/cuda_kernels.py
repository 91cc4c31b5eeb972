"""The kernels of the hashes on the GPU. All add in float64, in the order of the CPU's kernels, so the bits are theirs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from ...random import scalar
from ..cuda_device import FORMATS, Format

FOLD = 4096  # positions onto which the coordinates are folded
PANEL = 32  # planes of one word of signs, and threads of a block that makes their bits
PAIR_THREADS = 128  # that share the bytes of one pair of hashes
RUN = 256  # matrix rows added before the sum joins the total
SAFE = 2.0**960  # sums from here on may have overflowed on the way, or be about to

_word = scalar.functions(cuda.jit(device=True)).bits32
_ONE, _5, _31 = np.uint32(1), np.uint32(5), np.uint32(31)


@cuda.jit
def words_kernel(seed: Any, step: Any, first: Any, out: Any) -> None:
    """Formula: out[j] = bits32(seed, step), element first + j. Cost: a Philox block and 4 bytes written a word."""
    for j in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[j] = np.uint32(_word(seed, step, first + np.uint64(j)))


@cache
def make_fold_kernel(form: Format) -> Any:
    load = form.load

    @cuda.jit
    def fold_kernel(x: Any, offset: Any, words: Any, turn: Any, scale: Any, sums: Any) -> None:
        """Formula: S_i[p] += scale_i sum_k A(k, p) x_i[4096 k + (p - turn_k) mod 4096] over the coordinates of one layer.

        Cost: one read of x, n min(d, 4096) sums read and written.
        Order: ascending k in float64; layers one after the other.
        """
        width, size = sums.shape[1], x.shape[1]
        for e in range(cuda.grid(1), sums.shape[0] * width, cuda.gridsize(1)):
            i = e // width
            p = e - i * width
            total = sums[i, p]
            for k in range(offset // FOLD, (offset + size - 1) // FOLD + 1):
                place = p - turn[k]
                if place < 0:
                    place += FOLD
                c = k * FOLD + place - offset
                if 0 <= c < size:
                    value = cuda.fma(np.float64(load(x[i, c])), scale[i], 0.0)
                    if words[k * (FOLD // 32) + p // 32] >> (np.uint32(p) & _31) & _ONE:
                        value = -value
                    total += value
            sums[i, p] = total

    return fold_kernel


@cuda.jit
def unsafe_kernel(sums: Any, limit: Any, unsafe: Any) -> None:
    """Formula: unsafe_i = 1 where a sum of vector i is not below `limit`, or is no number. Cost: one read of the sums."""
    width = sums.shape[1]
    for e in range(cuda.grid(1), sums.shape[0] * width, cuda.gridsize(1)):
        i = e // width
        if not abs(sums[i, e - i * width]) < limit:
            unsafe[i] = 1  # all writers write the same


@cuda.jit
def planes_kernel(sums: Any, words: Any, plane: Any, bits: Any, hashes: Any) -> None:
    """Formula: bit plane + b is 1 where sum_p C_b(p) S[p] > 0, for b < bits.

    Cost: min(d, 4096) additions a (vector, plane); a block makes the bits of 32 planes of one vector at a time.
    Order: ascending p in float64, each plane for itself.
    """
    flags = cuda.shared.array(PANEL, np.int32)
    b = cuda.threadIdx.x
    panels = (bits + PANEL - 1) // PANEL
    for block in range(cuda.blockIdx.x, sums.shape[0] * panels, cuda.gridDim.x):
        i = block // panels
        panel = block - i * panels
        total = 0.0
        for p in range(sums.shape[1]):
            value = sums[i, p]
            if words[panel * FOLD + p] >> np.uint32(b) & _ONE:
                value = -value
            total += value
        flags[b] = 1 if total > 0.0 and panel * PANEL + b < bits else 0
        cuda.syncthreads()
        column = (plane + panel * PANEL) // 8 + b
        if b < PANEL // 8 and column < hashes.shape[1]:
            byte = 0
            for place in range(8):
                byte |= flags[8 * b + place] << place
            hashes[i, column] = byte
        cuda.syncthreads()


@cuda.jit
def hamming_kernel(a: Any, b: Any, distances: Any) -> None:
    """Formula: distances_ij = the ones in a_i xor b_j. Cost: both hashes read, one popcount a word; a block a pair."""
    counts = cuda.shared.array(PAIR_THREADS, np.int64)
    t, m = cuda.threadIdx.x, b.shape[0]
    for pair in range(cuda.blockIdx.x, a.shape[0] * m, cuda.gridDim.x):
        i = pair // m
        j = pair - i * m
        count = 0
        for k in range(t, a.shape[1], PAIR_THREADS):
            count += np.int64(cuda.popc(np.uint32(a[i, k] ^ b[j, k])))
        counts[t] = count
        cuda.syncthreads()
        half = PAIR_THREADS // 2
        while half > 0:
            if t < half:
                counts[t] += counts[t + half]
            cuda.syncthreads()
            half //= 2
        if t == 0:
            distances[i, j] = counts[0]
        cuda.syncthreads()


@cache
def make_columns_kernel(form: Format) -> Any:
    load = form.load

    @cuda.jit
    def columns_kernel(x: Any, columns: Any, normals: Any, scale: Any, partial: Any) -> None:
        """Formula: partial[v, h, k, c] = sum_i R_k[i] (scale M_v[i, c]) over the h-th run of 256 matrix rows.

        Cost: the matrix read once for each k, from L2 after the first; a product and a sum for each.
        Order: ascending i in float64, products rounded before they are added.
        """
        runs, bits, length = partial.shape[1], partial.shape[2], normals.shape[1]
        for e in range(cuda.grid(1), partial.shape[0] * runs * bits * columns, cuda.gridsize(1)):
            rest = e // columns
            c = e - rest * columns
            k = rest % bits
            rest //= bits
            h = rest % runs
            v = rest // runs
            total = 0.0
            for i in range(h * RUN, min(length, (h + 1) * RUN)):
                value = cuda.fma(np.float64(load(x[v, i * columns + c])), scale, 0.0)
                total += cuda.fma(value, normals[k, i], 0.0)
            partial[v, h, k, c] = total

    return columns_kernel


@cuda.jit
def signs_kernel(partial: Any, again: Any, first: Any, offset: Any, flags: Any, state: Any) -> None:
    """Formula: flag[k, c] = 1 where sum_h partial[h, k, c] > 0; 2, and state_0 = 1, where the sum is not safe.

    `again`: partial sums of scaled values, for the flags that are 2; then state_(1 + v) = 1 where no sum is finite.
    Cost: one read of the partial sums. Order: ascending h in float64.
    """
    runs, bits, columns = partial.shape[1], partial.shape[2], partial.shape[3]
    for e in range(cuda.grid(1), partial.shape[0] * bits * columns, cuda.gridsize(1)):
        rest = e // columns
        c = e - rest * columns
        v = rest // bits
        k = rest - v * bits
        place = offset + k * columns + c
        if again == 0 or flags[first + v, place] == 2:
            total = 0.0
            for h in range(runs):
                total += partial[v, h, k, c]
            flag = 1 if total > 0.0 else 0
            if again == 0 and not abs(total) < SAFE:
                flag = 2
                state[0] = 1
            if again == 1 and not abs(total) < np.inf:
                state[1 + first + v] = 1
            flags[first + v, place] = flag


@cuda.jit
def pack_kernel(flags: Any, hashes: Any) -> None:
    """Formula: bit b mod 8 of byte b div 8 is flag b. Cost: one byte read a bit."""
    width = hashes.shape[1]
    for e in range(cuda.grid(1), hashes.shape[0] * width, cuda.gridsize(1)):
        i = e // width
        column = e - i * width
        byte = 0
        for place in range(min(8, flags.shape[1] - 8 * column)):
            byte |= np.int64(flags[i, 8 * column + place] & 1) << place
        hashes[i, column] = byte


def _kernels() -> list[tuple[Any, list[str], bool, int]]:
    """As KERNELS of a room's cuda.py: kernel, signatures, whether float64 instructions are meant, registers at most."""
    sums, octets = "float64[:,::1]", "uint8[:,::1]"
    found = [
        (words_kernel, ["void(uint64, uint64, uint64, uint32[::1])"], False, 48),
        (unsafe_kernel, [f"void({sums}, float64, int64[::1])"], True, 48),
        (planes_kernel, [f"void({sums}, uint32[::1], int64, int64, {octets})"], True, 56),
        (hamming_kernel, [f"void({one}, {one}, int64[:,::1])" for one in (octets, "uint32[:,::1]")], False, 48),
        (signs_kernel, [f"void(float64[:,:,:,::1], int64, int64, int64, {octets}, int64[::1])"], True, 56),
        (pack_kernel, [f"void({octets}, {octets})"], False, 48),
    ]
    for form in FORMATS.values():
        x = f"{form.element}[:,::1]"
        found.append((make_fold_kernel(form), [f"void({x}, int64, uint32[::1], int64[::1], float64[::1], {sums})"], True, 64))
        found.append((make_columns_kernel(form), [f"void({x}, int64, {sums}, float64, float64[:,:,:,::1])"], True, 64))
    return found


KERNELS = _kernels()
