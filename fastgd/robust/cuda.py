"""The GPU launchers of the room, with the signatures of `reference.py`; `threads` means nothing here.

The kernels are in `cuda_pairwise.py`, `cuda_select.py`, `cuda_points.py`, `cuda_combine.py` and `cuda_ranks.py`, their
arithmetic in `cuda_device.py`; `cuda_kernels.py` lists them all for the tests without a GPU.

Memory. A stacked contiguous input is read where it lies. Each of these costs one device copy of the data concerned: a
stacked input that is not contiguous, and vectors or layers that come as a list, which are first stacked (layer by
layer; `select`, which needs them twice, keeps the copies until its end). Temporary
memory: the partial distances (at most 64 MiB or one n x n matrix), the values of the coordinate-wise rules beyond
8192 vectors (float64: 4096; at most 64 MiB or 128 coordinates).

Waiting. Launches are asynchronous on the stream of the input's library, after the uploads of a few numbers. The host
waits once, at the end, for what it returns: the bad rows of `pairwise_sqdist`, the choice of `select` (whose vector is
then complete on the device), the distances of `sqdist_to`, the broken coordinate of the others.

Determinism. Every function gives the same bits on every run and GPU: the split of the work depends on n and d alone,
and no floating-point value is added atomically. Against the CPU: the coordinate-wise rules and `combine` agree to one
unit in the last place (they are rounded from about 48 bits, float64 from about 100; the sign of a zero may differ),
distances to their documented relative error, Krum scores of equal distances to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _cuda
from .._arrays import empty_like_array
from .._dispatch import Operand, find
from .._rows import Layer, Rows
from . import cuda_select
from .cuda_call import Call, elements
from .cuda_combine import THREADS, make_combine_kernel, make_terms
from .cuda_device import FORMATS
from .cuda_kernels import KERNELS as KERNELS
from .cuda_pairwise import PAIR_THREADS, SEGMENT, SLICES, TILE, make_pairwise_kernel, reduce_kernel
from .cuda_points import ROWS, make_sqdist_to_kernel, total_kernel
from .cuda_points import SEGMENT as POINT_SEGMENT
from .cuda_points import THREADS as POINT_THREADS
from .cuda_ranks import THREADS as MOST_THREADS
from .cuda_ranks import make_block_kernel, make_nearest_register_kernel, make_register_kernel, make_tile_kernel
from .network import network

_NOWHERE = np.iinfo(np.int64).max  # the broken coordinate while there is none
_SCRATCH_BYTES = 64 << 20
_SHARED_BYTES = 48 << 10  # shared memory of a block that needs no opt-in


# -------------------------------------------------------------------------------------------------- squared distances


def _split(size: int, segment: int, most: int) -> tuple[int, int]:
    """How columns are split into at most `most` runs: (runs, columns per run, a multiple of the segment)."""
    segments = -(-size // segment)
    columns = -(-segments // most) * segment
    return -(-size // columns), columns


def _runs(n: int, size: int) -> tuple[int, int]:
    """The split of the columns for all pairs. Depends on n and d alone."""
    tiles = -(-n // TILE)
    return _split(size, SEGMENT, max(1, min(4096 // (tiles * (tiles + 1)), _SCRATCH_BYTES // (8 * n * n))))


def _distances(call: Call, rows: Rows) -> tuple[Any, Any, Any]:
    """The matrix of the caller's library, its view, and the view of the marks of bad rows; waits for nothing."""
    n = rows.n
    sqdist, sqdist_view = call.empty((n, n))
    layers = [layer for layer in rows.layers if layer.size]
    if not layers:
        sqdist_view.copy_to_device(np.zeros((n, n)), stream=call.stream)
        return sqdist, sqdist_view, call.upload(np.zeros(2 * n, np.float32))[:n]
    bad = call.empty((n,), "float32")[1]
    splits = [_runs(n, layer.size) for layer in layers]
    most = max(runs for runs, _ in splits)
    partial, bad_rows = call.empty((most, n, n))[1], call.empty((most, n), "float32")[1]
    pairs = -(-n // TILE) * (-(-n // TILE) + 1) // 2
    for k, (layer, (runs, columns)) in enumerate(zip(layers, splits, strict=True)):
        kernel = make_pairwise_kernel(FORMATS[layer.dtype])
        _cuda.launch(kernel, min(pairs * runs, 1 << 20), PAIR_THREADS, call.stream,
                     call.matrix(layer, n), runs, columns, partial[:runs], bad_rows[:runs])
        _cuda.launch(reduce_kernel, _cuda.blocks(n * n, 32), 32 * min(SLICES, runs), call.stream,
                     partial[:runs], bad_rows[:runs], int(k > 0), sqdist_view, bad)
    return sqdist, sqdist_view, bad


def pairwise_sqdist(rows: Rows, threads: int = 1) -> tuple[Any, np.ndarray]:
    call = Call(rows)
    with _cuda.device_of(call.like):
        sqdist, _, bad = _distances(call, rows)
        return sqdist, call.read(bad) > 0


def sqdist_to(rows: Rows, point: Rows | None, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Both results on the host, where the logic on n numbers runs."""
    call, n = Call(rows), rows.n
    pairs = [(layer, None if point is None else point.layers[k]) for k, layer in enumerate(rows.layers) if layer.size]
    if not pairs:
        return np.zeros(n), np.zeros(n, bool)
    groups = -(-n // ROWS)
    splits = [_split(layer.size, POINT_SEGMENT, max(1, min(4096 // groups, _SCRATCH_BYTES // (8 * n)))) for layer, _ in pairs]
    total = sum(runs for runs, _ in splits)
    with _cuda.device_of(call.like):
        partial, bad_rows = call.empty((total, n))[1], call.empty((total, n), "float32")[1]
        status = call.empty((2 * n,))[1]
        place = 0
        for (layer, centre), (runs, columns) in zip(pairs, splits, strict=True):
            x = call.matrix(layer, n)
            _cuda.launch(make_sqdist_to_kernel(FORMATS[layer.dtype], centre is None), min(groups * runs, 1 << 20),
                         POINT_THREADS, call.stream, x, x if centre is None else call.matrix(centre, 1), runs, columns,
                         partial[place : place + runs], bad_rows[place : place + runs])
            place += runs
        _cuda.launch(total_kernel, min(n, 1 << 16), POINT_THREADS, call.stream, partial, bad_rows, status)
        host = call.read(status)
    return host[:n], host[n:] > 0.0


# ------------------------------------------------------------------------------------------------------------- choice


def select(rows: Rows, k: int, m: int, threads: int = 1,
           stacks: list[Any] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Into `stacks` go a copy of the chosen vector, or the mean of m > 1: without a wait for the choice. Where it
    turns out to be invalid, they hold nothing of use."""
    call, n = Call(rows, keep=True), rows.n
    with _cuda.device_of(call.like):
        picks, status = call.empty((1, m + 1))[1].view(np.int64), call.empty((2 * n + m,))[1]
        write = None if stacks is None else _copy(call, picks) if m == 1 else _mean(call, rows, picks)
        _, sqdist, bad = _distances(call, rows)
        chosen = call.empty((n,))[1].view(np.int64)
        padded, shared, grid, scratch = _block_memory(call, n, n, np.float64)
        _cuda.launch(cuda_select.make_score_kernel(shared > 0), grid, min(MOST_THREADS, padded // 2), call.stream,
                     sqdist, bad, k, padded, scratch, status, shared_bytes=shared)
        for kernel, arguments in ((cuda_select.choose_kernel, (status, bad, m, chosen)),
                                  (cuda_select.list_kernel, (chosen, bad, picks, status))):
            _cuda.launch(kernel, _cuda.blocks(n, cuda_select.THREADS), cuda_select.THREADS, call.stream, *arguments)
        if write is not None and stacks is not None:
            _each_layer(call, rows, stacks, 1, write)
        host = call.read(status)
    return host[2 * n :].astype(np.int64), host[:n], host[n : 2 * n] > 0.0


def _copy(call: Call, picks: Any) -> Any:
    def run(layer: Layer, x: Any, out: Any, offset: int) -> None:
        _cuda.launch(cuda_select.copy_kernel, _cuda.blocks(layer.size, THREADS), THREADS, call.stream, x, picks, out)

    return run


def _mean(call: Call, rows: Rows, picks: Any) -> Any:
    """The mean of `picks`, of which there are m."""
    m = picks.shape[1] - 1
    return _combination(call, rows, np.ones((1, m)), float(m), call.upload(np.array([_NOWHERE])), picks)


def krum_scores(sqdist: np.ndarray, k: int) -> np.ndarray:
    """Logic on n x n numbers runs on the host, where the public function has brought them."""
    return find("robust.krum_scores", Operand("cpu", "float64"), "auto")(sqdist, k)


def bulyan_select(sqdist: np.ndarray, bad: np.ndarray, f: int) -> np.ndarray:
    return find("robust.bulyan_select", Operand("cpu", "float64"), "auto")(sqdist, bad, f)


def nearest(sqdist: np.ndarray, bad: np.ndarray, own: np.ndarray, keep: int) -> np.ndarray:
    return find("robust.nearest", Operand("cpu", "float64"), "auto")(sqdist, bad, own, keep)


def geometric_median(*arguments: Any) -> Any:
    """As `krum_scores`: on the host."""
    return find("robust.geometric_median", Operand("cpu", "float64"), "auto")(*arguments)


# ------------------------------------------------------------------------------------------------ linear combinations


def combine(rows: Rows, weights: np.ndarray, divisor: float, stacks: list[Any], threads: int = 1) -> int:
    call, m = Call(rows), len(weights)
    with _cuda.device_of(call.like):
        broken = call.upload(np.array([_NOWHERE]))
        if m:
            _each_layer(call, rows, stacks, m, _combination(call, rows, weights, divisor, broken))
        return _first(call, broken)


def scale(rows: Rows, factor: np.ndarray, stacks: list[Any], threads: int = 1) -> None:
    combine(rows, np.diag(factor), 1.0, stacks)


def _combination(call: Call, rows: Rows, weights: np.ndarray, divisor: float, broken: Any, picks: Any = None) -> Any:
    """Uploads the weights, which may apply to `picks` that only the device knows; the function that runs a layer."""
    reals = {FORMATS[layer.dtype].real for layer in rows.layers}
    uploads = {real: [call.upload(array) for array in make_terms(weights, divisor, real)] for real in reals}

    def run(layer: Layer, x: Any, out: Any, offset: int) -> None:
        form = FORMATS[layer.dtype]
        used, values, factors = uploads[form.real]
        grid = _cuda.blocks(len(used) * -(-layer.size // THREADS), 1)
        _cuda.launch(make_combine_kernel(form, values.shape[2]), grid, THREADS, call.stream,
                     x, used if picks is None else picks, values, factors, out, offset, broken)

    return run


def _each_layer(call: Call, rows: Rows, stacks: list[Any], m: int, run: Any) -> None:
    """`run` every layer into its stack, through a temporary one where it is not contiguous."""
    offset = 0
    for layer, stack in zip(rows.layers, stacks, strict=True):
        if layer.size:
            out = elements(stack, layer)
            dense = out.is_c_contiguous()
            temporary = stack if dense else empty_like_array(stack, (m, *layer.shape), layer.dtype)
            run(layer, call.matrix(layer, rows.n), elements(temporary, layer).reshape(m, layer.size), offset)
            if not dense:
                stack[...] = temporary
        offset += layer.size


def _first(call: Call, broken: Any) -> int:
    """The first broken coordinate, -1 if there is none, after waiting for the stream."""
    first = int(call.read(broken)[0])
    return -1 if first == _NOWHERE else first


# ---------------------------------------------------------------------------------------------- coordinate-wise rules


_MOST_REGISTERS = 64  # vectors up to which a coordinate is sorted in registers


def trimmed_mean(rows: Rows, f: int, stacks: list[Any], threads: int = 1) -> int:
    return _ranks(rows, f, rows.n - f - 1, f, stacks, False)


median = trimmed_mean  # with f = (n - 1) // 2, see coordinates.py


def nearest_mean(rows: Rows, window: int, tolerated: int, stacks: list[Any], threads: int = 1) -> int:
    return _ranks(rows, 0, window - 1, tolerated, stacks, True)


def _ranks(rows: Rows, first: int, last: int, tolerated: int, stacks: list[Any], near: bool) -> int:
    """Means of the ranks first .. last; `near`: of as many nearest to the median."""
    call, n = Call(rows), rows.n
    with _cuda.device_of(call.like):
        broken = call.upload(np.array([_NOWHERE]))
        comparators: list[Any] = []

        def run(layer: Layer, x: Any, out: Any, offset: int) -> None:
            form = FORMATS[layer.dtype]
            end = (out, offset, tolerated, broken)
            if n <= _MOST_REGISTERS:
                kernel = make_nearest_register_kernel(form, n, last + 1) if near else make_register_kernel(form, n, first)
                _cuda.launch(kernel, _cuda.blocks(layer.size, THREADS), THREADS, call.stream, x, *end)
                return
            ranks = (first, last, form.real(last - first + 1))
            item = np.dtype(form.real).itemsize
            width = max((t for t in (128, 64, 32) if t * n * item <= _SHARED_BYTES), default=0)
            if width:
                if not comparators:
                    comparators.append(call.upload(network(n, 0, n - 1) if near else network(n, first, last)))
                _cuda.launch(make_tile_kernel(form, near), _cuda.blocks(layer.size, width), width, call.stream,
                             x, comparators[0], *ranks, *end, shared_bytes=width * n * item)
                return
            padded, shared, grid, scratch = _block_memory(call, n, layer.size, form.real)
            _cuda.launch(make_block_kernel(form, near, shared > 0), grid, min(MOST_THREADS, padded // 2), call.stream,
                         x, padded, *ranks, scratch, *end, shared_bytes=shared)

        _each_layer(call, rows, stacks, 1, run)
        return _first(call, broken)


_MOST_SORTED_BYTES = 32 << 10  # of a block's values in shared memory, beside its sums


def _block_memory(call: Call, n: int, tasks: int, real: type) -> tuple[int, int, int, Any]:
    """For blocks that sort n values each: (padded n, bytes of shared memory or 0, blocks, scratch memory where that is 0)."""
    padded = max(2, 1 << (n - 1).bit_length())
    size = padded * np.dtype(real).itemsize
    grid = _cuda.blocks(tasks, 1)
    if size <= _MOST_SORTED_BYTES:
        return padded, size, grid, call.empty((1,), np.dtype(real).name)[1]
    grid = max(1, min(grid, _SCRATCH_BYTES // size))
    grid = grid if _cuda.simulated() else max(grid, 128)
    return padded, 0, grid, call.empty((padded * grid,), np.dtype(real).name)[1]
