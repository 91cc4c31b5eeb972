"""The kernels of RandK, and of received sparse payloads; the list of all of the family."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from ...random import scalar
from ..cuda_kernels import get_word, product, product64, put_word, receive, remember
from .cuda_select import BUCKET
from .cuda_select import KERNELS as SELECTING

ROUNDS = 8
_LARGEST = float(np.finfo(np.float32).max)

_hash32 = scalar.functions(cuda.jit(device=True)).hash32


# ------------------------------------------------------------------------------------------------------------ RandK


@cuda.jit
def tables_kernel(key: Any, a: Any, b: Any, tables: Any) -> None:
    """What the rounds add: row t has floor(hash(2^32 t + r) a / 2^32) for even t, b for odd."""
    width = tables.shape[1]
    for at in range(cuda.grid(1), ROUNDS * width, cuda.gridsize(1)):
        t, r = at // width, at % width
        size = a if t % 2 == 0 else b
        word = np.uint64(_hash32(key, np.uint64(r) + (np.uint64(t) << np.uint64(32))))
        tables[t, r] = np.uint32((word * np.uint64(size)) >> np.uint64(32))


@cuda.jit(device=True)
def _place(j: Any, n: Any, a: Any, b: Any, tables: Any) -> Any:
    """pi(j)."""
    left, right = j // b, j % b
    while True:
        for t in range(ROUNDS):
            if t % 2 == 0:
                left = (left + np.int64(tables[t, right])) % a
            else:
                right = (right + np.int64(tables[t, left])) % b
        if left * b + right < n:
            break
    return left * b + right


@cuda.jit
def gather_kernel(p: Any, memory: Any, mode: Any, k: Any, ratio: Any, scaled: Any, a: Any, b: Any, tables: Any,
                   body: Any) -> None:
    for j in range(cuda.grid(1), k, cuda.gridsize(1)):
        i = _place(j, p.size, a, b, tables)
        v = p[i]
        c = v
        if scaled:
            wide = product64(np.float64(v), ratio)
            c = np.float32(min(max(wide, -np.float64(_LARGEST)), np.float64(_LARGEST)))
        put_word(body, 16 + 4 * j, c.view(np.uint32))
        remember(memory, mode, i, v, c)


@cuda.jit
def add_randk_kernel(body: Any, k: Any, a: Any, b: Any, tables: Any, scale: Any, add: Any, out: Any) -> None:
    for j in range(cuda.grid(1), k, cuda.gridsize(1)):
        receive(out, _place(j, out.size, a, b, tables), get_word(body, 16 + 4 * j).view(np.float32), scale, add)


# --------------------------------------------------------------------------------------------------------- decoding


@cuda.jit
def check_indices_kernel(body: Any, k: Any, n: Any, flags: Any) -> None:
    """Reason 2 where indices are not ascending or not below n."""
    for j in range(cuda.grid(1), k, cuda.gridsize(1)):
        i = np.int64(get_word(body, 4 * j))
        if i >= n or (j > 0 and np.int64(get_word(body, 4 * (j - 1))) >= i):
            flags[2] = np.uint32(1)


@cuda.jit
def check_codes_kernel(body: Any, k: Any, flags: Any) -> None:
    """Reason 1 where a step is not finite times 127, reason 3 for the code -128, and one that is not 0 where the step is."""
    buckets = (k + BUCKET - 1) // BUCKET
    for j in range(cuda.grid(1), k, cuda.gridsize(1)):
        word = get_word(body, 4 * (k + j // BUCKET))
        code = np.int64(body[4 * (k + buckets) + j])
        if word >= np.uint32(0x7F800000) or not product(word.view(np.float32), np.float32(127)) <= np.float32(_LARGEST):
            flags[1] = np.uint32(1)
        if code == 128 or (word == np.uint32(0) and code != 0):
            flags[3] = np.uint32(1)


@cuda.jit
def add_sparse_kernel(body: Any, k: Any, eight: Any, scale: Any, add: Any, out: Any) -> None:
    buckets = (k + BUCKET - 1) // BUCKET
    for j in range(cuda.grid(1), k, cuda.gridsize(1)):
        i = np.int64(get_word(body, 4 * j))
        if eight:
            code = np.int64(body[4 * (k + buckets) + j])
            code = code - 256 if code > 127 else code
            c = product(np.float32(code), get_word(body, 4 * (k + j // BUCKET)).view(np.float32))
        else:
            c = get_word(body, 4 * (k + j)).view(np.float32)
        receive(out, i, c, scale, add)


@cuda.jit
def clear_kernel(out: Any) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = np.float32(0)


KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    *SELECTING,
    (tables_kernel, ["void(uint64, int64, int64, uint32[:, ::1])"], False, None),
    (gather_kernel, ["void(float32[::1], float32[::1], int64, int64, float64, boolean, int64, int64, uint32[:, ::1], "
                      "uint8[::1])"], True, None),
    (add_randk_kernel, ["void(uint8[::1], int64, int64, int64, uint32[:, ::1], float32, boolean, float32[::1])"], False, None),
    (check_indices_kernel, ["void(uint8[::1], int64, int64, uint32[::1])"], False, None),
    (check_codes_kernel, ["void(uint8[::1], int64, uint32[::1])"], False, None),
    (add_sparse_kernel, ["void(uint8[::1], int64, boolean, float32, boolean, float32[::1])"], False, None),
    (clear_kernel, ["void(float32[::1])"], False, None),
]
