"""The GPU kernels of the room and their launchers, with the signatures of `reference.py`; `threads` means nothing here.

The kernels are in `cuda_pairwise.py` and `cuda_columnwise.py`, their arithmetic in `cuda_device.py`.

Memory. A stacked contiguous input is read where it lies. Each of these costs one device copy of the data concerned: a
stacked input that is not contiguous, and vectors or layers that come as a list, which are first stacked. Temporary
memory: the partial distances (at most 64 MiB or one n x n matrix), the values of `trimmed_mean` for large n (64 MiB).

Waiting. Launches are asynchronous on the stream of the input's library. The host waits only for what it returns: the
bad rows of `pairwise_sqdist`, the distances in `select`, the broken coordinate of the others.

Determinism. Every function gives the same bits on every run and GPU: the split of the work depends on n and d alone,
and no floating-point value is added atomically. Against the CPU: the coordinate-wise rules and `combine` agree to one
unit in the last place (they are rounded from about 48 bits, float64 from about 100; the sign of a zero may differ),
distances to their documented relative error.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _cuda
from .._arrays import empty_like_array
from .._dispatch import Operand, find
from .._rows import Layer, Rows
from .cuda_columnwise import HEADER, THREADS, make_combine_kernel, make_register_kernel, make_tile_kernel
from .cuda_device import FORMATS
from .cuda_pairwise import PAIR_THREADS, SEGMENT, SLICES, TILE, make_pairwise_kernel, reduce_kernel
from .hashing.cuda_kernels import KERNELS as HASHING_KERNELS
from .network import network

_NOWHERE = np.iinfo(np.int64).max  # the broken coordinate while there is none


class _Call:
    """One call's device, stream and temporary memory; `like` is an array of the caller."""

    def __init__(self, rows: Rows) -> None:
        data = rows.layers[0].data
        self.like = data[0] if isinstance(data, list) else data
        self.stream = _cuda.stream_of(self.like)

    def empty(self, shape: tuple[int, ...], dtype: str = "float64") -> tuple[Any, Any]:
        """Uninitialised memory of the caller's library, and its view, which keeps it alive."""
        array = empty_like_array(self.like, shape, dtype)
        return array, _cuda.view(array)

    def upload(self, host: np.ndarray) -> Any:
        """A device copy of a host array whose size is a multiple of 8 bytes."""
        target = self.empty((host.nbytes // 8,))[1].view(host.dtype).reshape(host.shape)
        target.copy_to_device(host, stream=self.stream)
        return target

    def read(self, array: Any) -> np.ndarray:
        """The values of a device view on the host, after waiting for the stream."""
        host = array.copy_to_host(stream=self.stream)
        self.stream.synchronize()
        return host

    def matrix(self, layer: Layer, n: int) -> Any:
        """The layer as a C-contiguous (n, size) view."""
        data = layer.data
        if isinstance(data, list):
            data = _stack(data, layer)
        view = _elements(data, layer)
        if not view.is_c_contiguous():
            data = empty_like_array(data, (n, *layer.shape), layer.dtype)
            data[...] = layer.data
            view = _elements(data, layer)
        return view.reshape(n, layer.size)


def _elements(data: Any, layer: Layer) -> Any:
    return _cuda.view(data, np.int16 if layer.dtype == "bfloat16" else None)


def _stack(data: list[Any], layer: Layer) -> Any:
    library = _cuda.library_of(data[0])
    if library == "torch":
        import torch

        return torch.stack(data)
    if library == "cupy":
        import cupy

        return cupy.stack(data)
    stacked = empty_like_array(data[0], (len(data), *layer.shape), layer.dtype)
    for i, row in enumerate(data):
        stacked[i] = row
    return stacked


# -------------------------------------------------------------------------------------------------- squared distances


def _runs(n: int, size: int) -> tuple[int, int]:
    """How the columns are split: (runs, columns per run, a multiple of the segment). Depends on n and d alone."""
    segments = -(-size // SEGMENT)
    tiles = -(-n // TILE)
    most = max(1, min(4096 // (tiles * (tiles + 1)), (64 << 20) // (8 * n * n)))
    columns = -(-segments // most) * SEGMENT
    return -(-size // columns), columns


def pairwise_sqdist(rows: Rows, threads: int = 1) -> tuple[Any, np.ndarray]:
    call, n = _Call(rows), rows.n
    with _cuda.device_of(call.like):
        sqdist, sqdist_view = call.empty((n, n))
        layers = [layer for layer in rows.layers if layer.size]
        if not layers:
            sqdist_view.copy_to_device(np.zeros((n, n)), stream=call.stream)
            return sqdist, np.zeros(n, bool)
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
        return sqdist, call.read(bad) > 0


def select(rows: Rows, k: int, m: int, threads: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The choice is made on the host: its n^2 distances are little beside the n^2 d work that made them."""
    sqdist, bad = pairwise_sqdist(rows)
    with _cuda.device_of(sqdist):
        distances = _Call(rows).read(_cuda.view(sqdist))
    scores = np.where(bad, np.inf, krum_scores(distances, k))
    order = np.lexsort((scores, bad))  # stable: good rows first, then by score, then by index
    chosen = np.sort(order[: min(m, rows.n - np.count_nonzero(bad))])
    return np.concatenate([chosen, np.full(m - len(chosen), -1)]), scores, bad


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


@np.errstate(under="ignore")
def _terms(weights: np.ndarray, divisor: float, real: type) -> tuple[np.ndarray, np.ndarray]:
    """`picks` and `terms` of the kernel."""
    m = len(weights)
    used = weights != 0.0
    counts = used.sum(axis=1)
    width = max(1, int(counts.max(initial=0)))
    picks = np.zeros((m, width + 1), np.int64)
    picks[:, 0] = counts
    values = np.zeros((m, width))
    for a in range(m):
        rows = np.flatnonzero(used[a])
        picks[a, 1 : len(rows) + 1] = rows
        values[a, : len(rows)] = weights[a, rows]
    exponent = np.frexp(np.abs(values).max(axis=1))[1]
    values = np.ldexp(values, -exponent[:, None])
    shift = np.frexp(np.abs(values).sum(axis=1))[1] + 1
    values = np.ldexp(values, -shift[:, None])
    mantissa, divisor_exponent = np.frexp(divisor)
    terms: np.ndarray = np.zeros((m, width + HEADER, 2), real)
    terms[:, 0] = _words(np.array(2.0 * mantissa), real)
    left = exponent + shift - (divisor_exponent - 1)
    step = 100 if real is np.float32 else 1000  # leaves room for the kernel's own scaling between the factors
    for place in ((1, 0), (1, 1), (2, 0)):
        part = np.clip(left, -step, step)
        terms[:, place[0], place[1]] = np.ldexp(1.0, part)
        left = left - part
    terms[:, HEADER:] = _words(values, real)
    lost = (values != 0.0) & (terms[:, HEADER:, 0] == 0.0)  # still lets a NaN through
    terms[:, HEADER:, 0][lost] = np.finfo(real).smallest_subnormal
    return picks, terms


def _words(values: np.ndarray, real: type) -> np.ndarray:
    high: np.ndarray = values.astype(real)
    return np.stack([high, (values - high).astype(real)], axis=-1)


def combine(rows: Rows, weights: np.ndarray, divisor: float, stacks: list[Any], threads: int = 1) -> int:
    call, m = _Call(rows), len(weights)
    with _cuda.device_of(call.like):
        broken = call.upload(np.array([_NOWHERE]))
        uploads: dict[type, Any] = {}

        def run(layer: Layer, x: Any, out: Any, offset: int) -> None:
            form = FORMATS[layer.dtype]
            if form.real not in uploads:
                uploads[form.real] = [call.upload(array) for array in _terms(weights, divisor, form.real)]
            grid = _cuda.blocks(m * -(-layer.size // THREADS), 1)
            _cuda.launch(make_combine_kernel(form), grid, THREADS, call.stream,
                         x, *uploads[form.real], out, offset, broken)

        return _each_layer(call, rows, stacks, m, run, broken)


def scale(rows: Rows, factor: np.ndarray, stacks: list[Any], threads: int = 1) -> None:
    combine(rows, np.diag(factor), 1.0, stacks)


def _each_layer(call: _Call, rows: Rows, stacks: list[Any], m: int, run: Any, broken: Any) -> int:
    """`run` every layer into its stack, through a temporary one where it is not contiguous; the broken coordinate."""
    offset = 0
    for layer, stack in zip(rows.layers, stacks, strict=True):
        if layer.size and m:
            out = _elements(stack, layer)
            dense = out.is_c_contiguous()
            temporary = stack if dense else empty_like_array(stack, (m, *layer.shape), layer.dtype)
            run(layer, call.matrix(layer, rows.n), _elements(temporary, layer).reshape(m, layer.size), offset)
            if not dense:
                stack[...] = temporary
        offset += layer.size
    first = int(call.read(broken)[0])
    return -1 if first == _NOWHERE else first


# ---------------------------------------------------------------------------------------------- coordinate-wise rules


_MOST_REGISTERS = 64  # vectors up to which a coordinate is sorted in registers
_SHARED_BYTES = 48 << 10  # shared memory of a block that needs no opt-in
_SCRATCH_BYTES = 64 << 20


def trimmed_mean(rows: Rows, f: int, stacks: list[Any], threads: int = 1) -> int:
    call, n = _Call(rows), rows.n
    with _cuda.device_of(call.like):
        broken = call.upload(np.array([_NOWHERE]))
        pairs = call.upload(network(n, f, n - f - 1)) if n > _MOST_REGISTERS else None

        def run(layer: Layer, x: Any, out: Any, offset: int) -> None:
            form = FORMATS[layer.dtype]
            if pairs is None:
                _cuda.launch(make_register_kernel(form, n, f), _cuda.blocks(layer.size, THREADS), THREADS, call.stream,
                             x, out, offset, f, broken)
                return
            item = np.dtype(form.real).itemsize
            width = max((t for t in (128, 64, 32) if t * n * item <= _SHARED_BYTES), default=0)
            grid = _cuda.blocks(layer.size, width or THREADS)
            if width:
                scratch = call.empty((1,), np.dtype(form.real).name)[1]
            else:
                grid = max(1, min(grid, _SCRATCH_BYTES // (n * item * THREADS)))
                grid = grid if _cuda.simulated() else max(grid, 128)
                scratch = call.empty((n * grid * THREADS,), np.dtype(form.real).name)[1]
            _cuda.launch(make_tile_kernel(form, width > 0), grid, width or THREADS, call.stream, x, pairs, f, n - f - 1,
                         form.real(n - 2 * f), scratch, out, offset, f, broken, shared_bytes=width * n * item)

        return _each_layer(call, rows, stacks, 1, run, broken)


median = trimmed_mean  # with f = (n - 1) // 2, see coordinates.py


# ---------------------------------------------------------------------------------- compiled by the tests without a GPU


#: (n, f) of the register kernels that stand for all, and registers at most in float32.
_SORTED = ((1, 0, 32), (5, 1, 32), (16, 4, 40), (32, 8, 56), (64, 31, 96), (64, 0, 96))


def _kernels() -> list[tuple[Any, list[str], bool, int]]:
    """(kernel, signatures, whether float64 instructions are meant, registers at most) for every kernel and dtype."""
    found: list[tuple[Any, list[str], bool, int]] = []

    def add(kernel: Any, arguments: str, double: bool, most: int) -> None:
        found.append((kernel, [f"void({arguments})"], double, most))

    add(reduce_kernel, "float64[:,:,::1], float32[:,::1], int64, float64[:,::1], float32[::1]", True, 48)
    for form in FORMATS.values():
        double = form.real is np.float64
        x, real, end = f"{form.element}[:,::1]", form.real.__name__, "int64, int64, int64[::1]"
        add(make_pairwise_kernel(form), f"{x}, int64, int64, float64[:,:,::1], float32[:,::1]", True, 168)
        add(make_combine_kernel(form), f"{x}, int64[:,::1], {real}[:,:,::1], {x}, int64, int64[::1]", double, 72)
        for shared in (True, False):
            add(make_tile_kernel(form, shared), f"{x}, int32[:,::1], int64, int64, {real}, {real}[::1], {x}, {end}",
                double, 64)
        for n, f, most in _SORTED if form.dtype == form.real.__name__ else _SORTED[3:4]:
            add(make_register_kernel(form, n, f), f"{x}, {x}, {end}", double, most * (2 if double else 1))
    return found


KERNELS = _kernels() + HASHING_KERNELS
