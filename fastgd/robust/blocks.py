"""Linear images of the vectors, y = W x, that are never stored: made block by block of columns, used, and dropped.

A block's memory is bounded, whatever d is. Rows of W with a single 1 are views of the vectors themselves. On a device the
images are made at once: blocks would cost a launch each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import _threads
from .._arrays import ITEMSIZE, STORAGE, to_host
from .._dispatch import find
from .._rows import Layer, Rows

#: Bytes of a block's images, and what its columns are a multiple of: the pairwise kernel's own blocks.
BLOCK_BYTES, COLUMNS = 1 << 20, 1024
#: Runs of blocks whose sums are kept apart, so that their order does not depend on the threads.
RUNS = 32


class Image:
    """y_a = sum_i W_ai x_i / divisor, m vectors. A vector with a NaN or an Inf has zero weights only."""

    def __init__(self, rows: Rows, weights: np.ndarray, divisor: float, backend: str | None, num_threads: int | None) -> None:
        self.rows, self.weights, self.divisor, self.backend = rows, weights, divisor, backend
        self.threads = _threads.budget(num_threads, rows.nbytes)
        same = (np.count_nonzero(weights, axis=1) == 1) & (weights.max(axis=1, initial=0.0) == divisor)
        self.source = np.where(same, weights.argmax(axis=1), -1)  #: the vector that image a is, -1 where it must be made

    def sqdist(self) -> np.ndarray:
        """(m, m) squared distances of the images."""
        kernel = find("robust.pairwise_sqdist", self.rows.operand, self.backend)
        if self.rows.operand.device != "cpu":
            return to_host(kernel(self._made(), self.threads)[0])
        return self._sum((len(self.weights),) * 2, lambda block, *_: kernel(block, 1)[0])

    def distance_to(self, point: Rows | None) -> np.ndarray:
        """(m,) distances of the images to one vector (None: the origin), also where a square leaves the range of float64."""
        sqdist = self.sqdist_to(point)
        far = sqdist > 2.0**1000
        if far.any():  # the vector itself is of no account that far away
            small = Image(self.rows, self.weights[far], self.divisor * 2.0**600, self.backend, self.threads)
            with np.errstate(over="ignore"):
                sqdist[far] = small.sqdist_to(None)
                return np.where(far, np.sqrt(sqdist) * 2.0**600, np.sqrt(sqdist))
        return np.sqrt(sqdist)

    def sqdist_to(self, point: Rows | None) -> np.ndarray:
        """(m,) squared distances of the images to one vector (None: the origin)."""
        kernel = find("robust.sqdist_to", self.rows.operand, self.backend)
        if self.rows.operand.device != "cpu":
            return to_host(kernel(self._made(), point, self.threads)[0])

        def distances(block: Rows, k: int, lo: int, hi: int) -> np.ndarray:
            layer = None if point is None else point.layers[k]
            part = None if layer is None else self._block(_columns(layer, lo, hi), layer, 1, hi - lo)
            result: np.ndarray = kernel(block, part, 1)[0]
            return result

        return self._sum((len(self.weights),), distances)

    def reduce(self, operation: str, *arguments: Any) -> list[Any]:
        """A coordinate-wise rule of the images, as a stack of one vector."""
        stacks = self.rows.empty(1)
        kernel = find(operation, self.rows.operand, self.backend)
        if self.rows.operand.device != "cpu":
            kernel(self._made(), *arguments, stacks, self.threads)
            return stacks
        flat = [stack.reshape(1, -1) for stack in stacks]

        def use(block: Rows, k: int, lo: int, hi: int) -> None:
            kernel(block, *arguments, [flat[k][:, lo:hi]], 1)

        self._each([list(self._pieces())[i::RUNS] for i in range(RUNS)], lambda _: use)
        return stacks

    def _sum(self, shape: tuple[int, ...], term: Callable[..., np.ndarray]) -> np.ndarray:
        pieces = list(self._pieces())
        length = -(-len(pieces) // RUNS) or 1
        runs = [pieces[i : i + length] for i in range(0, len(pieces), length)]
        sums = np.zeros((len(runs), *shape))

        def adder(run: int) -> Callable[..., None]:
            def use(*piece: Any) -> None:
                sums[run] += term(*piece)

            return use

        self._each(runs, adder)
        total = np.zeros(shape)
        for part in sums:
            total += part
        return total

    def _pieces(self) -> Iterator[tuple[int, int, int]]:
        """(layer, first column, end) of the blocks."""
        for k, layer in enumerate(self.rows.layers):
            item = ITEMSIZE[layer.dtype]
            width = max(1, BLOCK_BYTES // (len(self.weights) * item * COLUMNS)) * COLUMNS
            yield from ((k, lo, min(lo + width, layer.size)) for lo in range(0, layer.size, width))

    def _each(self, runs: list[list[tuple[int, int, int]]], user: Callable[[int], Callable[..., None]]) -> None:
        """Make every block and hand it to its run's user, several runs at a time."""
        tickets = itertools.count()
        combine = find("robust.combine", self.rows.operand, self.backend)
        made = np.flatnonzero(self.source < 0)
        weights = np.ascontiguousarray(self.weights[made])

        def work() -> None:
            for run in tickets:
                if run >= len(runs):
                    return
                use = user(run)
                for k, lo, hi in runs[run]:
                    layer = self.rows.layers[k]
                    memory: Any = np.empty((len(made), hi - lo), STORAGE[layer.dtype])
                    part = _columns(layer, lo, hi)
                    if len(made):
                        combine(self._block(part, layer, len(self.weights[0]), hi - lo), weights, self.divisor, [memory], 1)
                    if len(made) < len(self.source):
                        images = iter(memory)
                        memory = [next(images) if i < 0 else part[i] for i in self.source]
                    use(self._block(memory, layer, len(self.weights), hi - lo), k, lo, hi)

        _threads.run(work, threads=self.threads, chunks=len(runs), keep=self.rows)

    def _block(self, data: Any, layer: Layer, n: int, width: int) -> Rows:
        return Rows(self.rows.name, n, [Layer(data, layer.dtype, (width,), layer.wrap)],
                    self.rows.operand._replace(dtype=layer.dtype), "stacked")

    def _made(self) -> Rows:
        """All images at once."""
        stacks = self.rows.empty(len(self.weights))
        find("robust.combine", self.rows.operand, self.backend)(self.rows, self.weights, self.divisor, stacks, self.threads)
        layers = [Layer(stack, layer.dtype, layer.shape, layer.wrap)
                  for stack, layer in zip(stacks, self.rows.layers, strict=True)]
        return Rows(self.rows.name, len(self.weights), layers, self.rows.operand, self.rows.form)


def _columns(layer: Layer, lo: int, hi: int) -> Any:
    """Columns [lo, hi) of a layer on the host, as views."""
    if isinstance(layer.data, list):
        return [row.reshape(-1)[lo:hi] for row in layer.data]
    return layer.data.reshape(len(layer.data), -1)[:, lo:hi]
