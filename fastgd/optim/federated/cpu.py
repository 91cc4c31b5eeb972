"""The CPU kernels, in Numba: inner products of a few long vectors, and a step along two of them.

Both walk blocks of BLOCK coordinates of a layer, shared out between threads; sums of blocks are added in ascending order.
No fused multiply-add and no sum that crosses lanes is left to the compiler: the same bits for every number of threads
and on every machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ... import _threads
from ..._arrays import narrow, widen
from ..._rows import Layer, Rows

BLOCK = 1 << 16  # coordinates: a few float32 rows of a block fit in a core's cache
LANES = 128  # so many that the additions into one lane do not wait for each other


def gram(rows: Rows, threads: int) -> np.ndarray:
    """Inner products.

    formula   G_ij = sum_c x_ic x_jc, i <= j, every product and sum in float64
    cost      one read of the m vectors from memory, m (m + 1) d / 2 multiply-adds
    order     in a block coordinate c goes to lane c mod 128, lanes in ascending order, then blocks
    """
    blocks = _blocks(rows)
    partial = np.zeros((len(blocks), rows.n, rows.n))
    dot = _compiled(_dot)

    def work(index: int, layer: Layer, start: int) -> None:
        x = [block if layer.dtype in ("float32", "float64") else widen(block, layer.dtype) for block in _cut(layer.data, start)]
        for i in range(rows.n):
            for j in range(i, rows.n):
                partial[index, i, j] = partial[index, j, i] = dot(x[i], x[j])

    _share(work, blocks, threads)
    total = np.zeros((rows.n, rows.n))
    with np.errstate(over="ignore", invalid="ignore"):
        for part in partial:  # not sum(axis=0), whose order NumPy may choose
            total += part
    return total


def step(rows: Rows, along: float, across: float, stacks: list[np.ndarray], threads: int) -> None:
    """A step along two vectors.

    formula   y = x_0 - (along x_1 + across x_2), in float64, rounded once
    cost      three vectors read and one written, 2 multiplications and 2 additions per coordinate
    order     coordinates do not meet
    """
    move = _compiled(_move)
    result_of = {id(layer): [stack[0, ...]] for layer, stack in zip(rows.layers, stacks, strict=True)}

    def work(index: int, layer: Layer, start: int) -> None:
        x, y, z = _cut(layer.data, start)
        (out,) = _cut(result_of[id(layer)], start)
        if layer.dtype in ("float32", "float64"):
            move(x, y, z, along, across, out)
        else:
            wide = np.empty(x.size)
            move(*(widen(part, layer.dtype) for part in (x, y, z)), along, across, wide)
            out[...] = narrow(wide, layer.dtype)

    _share(work, _blocks(rows), threads)


def _blocks(rows: Rows) -> list[tuple[Layer, int]]:
    """Layers and first coordinates of all blocks."""
    return [(layer, start) for layer in rows.layers for start in range(0, layer.size, BLOCK)]


def _cut(arrays: Any, start: int) -> list[np.ndarray]:
    """The block from coordinate `start` on of each array."""
    return [array.reshape(-1)[start : start + BLOCK] for array in arrays]


def _share(work: Callable[[int, Layer, int], None], blocks: list[tuple[Layer, int]], threads: int) -> None:
    """Call `work` once for every block, from up to `threads` threads."""
    ticket = itertools.count()

    def take() -> None:
        while (index := next(ticket)) < len(blocks):
            work(index, *blocks[index])

    _threads.run(take, threads=threads, chunks=len(blocks))


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled on first use: importing Numba takes longer than most calls."""
    from ..._jit import kernel

    return kernel(function)


def _dot(x: np.ndarray, y: np.ndarray) -> float:
    lanes = np.zeros(LANES)
    whole = x.size // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):  # becomes vector instructions, because no sum crosses lanes
            lanes[lane] += np.float64(x[start + lane]) * np.float64(y[start + lane])
    for c in range(whole, x.size):
        lanes[c - whole] += np.float64(x[c]) * np.float64(y[c])
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return total


def _move(x: np.ndarray, y: np.ndarray, z: np.ndarray, along: float, across: float, out: np.ndarray) -> None:
    for c in range(x.size):
        out[c] = np.float64(x[c]) - (along * np.float64(y[c]) + across * np.float64(z[c]))
