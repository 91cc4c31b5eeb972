"""The CPU kernels' front: hands csrc/robust.c the rows, the scratch memory and the job, and splits the work.

Signatures as in `reference.py`. Formulas, costs and orders of summation stand with the kernels in csrc/robust_body.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .. import _threads
from .._native import ffi, lib
from .._rows import Layer, Rows

_DTYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
_INT64, _BOOL = np.dtype(np.int64), np.dtype(np.bool_)
_from_buffer, _new = ffi.from_buffer, ffi.new
_BYTES, _DOUBLES, _INTS = (ffi.typeof(name) for name in ("char[]", "double[]", "int64_t[]"))
_ROWS, _LAYERS, _POINTERS, _JOB, _COUNT = (
    ffi.typeof(name) for name in ("fgd_rows *", "fgd_layer[]", "char *[]", "fgd_job *", "int64_t *"))

#: Rows and columns from which on inner products beat direct differences.
_GRAM_ROWS, _GRAM_COLUMNS = 97, 4096
#: Bounds on the relative error of float distances (csrc/pairwise.h, csrc/robust.c), and of the scores they add up to.
_DIRECT_ERROR, _GRAM_ERROR = 2.0**-18, 2.0**-16


def pairwise_sqdist(rows: Rows, threads: int) -> tuple[np.ndarray, np.ndarray]:
    sqdist, bad, _ = _distances(rows, threads)
    if np.count_nonzero(bad) >= rows.n - 1:  # a row is looked at beside others that are not known to be bad
        bad = rows.bad_rows()
    return sqdist, bad


def select(rows: Rows, k: int, m: int, threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = rows.n
    selected, scores, bad = np.empty(m, _INT64), np.empty(n), np.zeros(n, _BOOL)
    scores_pointer, bad_pointer, selected_pointer = (_from_buffer(_DOUBLES, scores), _from_buffer(_BYTES, bad),
                                                     _from_buffer(_INTS, selected))
    if threads == 1 and not _is_certified(rows):  # one call does it all
        x, _keep = _rows(rows)
        _check(lib.fgd_robust_select(x, k, m, scores_pointer, bad_pointer, selected_pointer))
        return selected, scores, bad
    sqdist, bad[:], error = _distances(rows, threads)
    doubt, doubtful = np.empty(n, _BOOL), _new(_COUNT)
    _check(lib.fgd_robust_choose(_from_buffer(_DOUBLES, sqdist), n, k, m, error, scores_pointer, bad_pointer,
                                 selected_pointer, _from_buffer(_BYTES, doubt), doubtful))
    if doubtful[0]:
        _settle(rows, k, m, threads, selected, scores, np.flatnonzero(doubt))
    return selected, scores, bad


def _settle(rows: Rows, k: int, m: int, threads: int, selected: np.ndarray, scores: np.ndarray, rivals: np.ndarray) -> None:
    """Choose from the rows in doubt, by scores from distances in double, as many as `selected` lacks."""
    n, count = rows.n, len(rivals)
    panels = -(-n // 4)
    wanted = np.triu_indices(panels)[0] < -(-count // 4)  # the rivals come first, so that few tiles hold them all
    sqdist, bad = np.zeros((n, n)), np.zeros(n, np.bool_)
    _direct(rows.take([*rivals, *np.setdiff1d(np.arange(n), rivals)]), threads, wanted, 1, sqdist, bad)
    nearest = np.sort(sqdist[:count], axis=1)[:, 1 : k + 1]  # place 0 is the row itself
    scores[rivals] = np.cumsum(nearest, axis=1)[:, -1]  # in ascending order, as krum_scores adds them
    lacking = np.count_nonzero(selected < 0)
    best = rivals[np.argsort(scores[rivals], kind="stable")[:lacking]]
    selected[:] = np.sort(np.concatenate([selected[: m - lacking], best]))


def sqdist_to(rows: Rows, point: Rows | None, threads: int) -> tuple[np.ndarray, np.ndarray]:
    to, keep = (ffi.NULL, None) if point is None else _rows(point)
    chunks = lib.fgd_robust_point_chunks(rows.d)
    return _to_one(lambda x, partial, bad, job: lib.fgd_robust_sqdist_to(x, to, partial, bad, job), chunks, rows, threads,
                   (point, keep))


def pairwise_row(rows: Rows, index: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    sqdist, bad = _to_one(lambda x, partial, bad, job: lib.fgd_robust_pairwise_row(x, index, partial, bad, job),
                          _chunks(rows.n, rows.d), rows, threads, None)
    sqdist[:] = np.inf if bad[index] else sqdist
    sqdist[index] = 0.0
    return sqdist, bad


def _to_one(call: Callable[..., int], chunks: int, rows: Rows, threads: int, keep: Any) -> tuple[np.ndarray, np.ndarray]:
    """n squared distances to one vector from the partial sums of `call`, and the bad rows it found."""
    n = rows.n
    sqdist, bad, partial = np.empty(n), np.zeros(n, _BOOL), np.empty(chunks * n)
    x, keep_rows = _rows(rows)
    bad_pointer, sums = _from_buffer(_BYTES, bad), _from_buffer(_DOUBLES, partial)
    _split(lambda job: call(x, sums, bad_pointer, job), lambda n, d: chunks, rows, threads, (keep, keep_rows, partial, bad))
    lib.fgd_robust_point_sum(n, chunks, sums, bad_pointer, _from_buffer(_DOUBLES, sqdist))
    return sqdist, bad


def krum_scores(sqdist: np.ndarray, k: int) -> np.ndarray:
    n = len(sqdist)
    scores = np.empty(n)
    sqdist = np.ascontiguousarray(sqdist.T)  # the kernel sorts columns
    _check(lib.fgd_robust_krum_scores(_from_buffer(_DOUBLES, sqdist), n, k, _from_buffer(_DOUBLES, scores)))
    return scores


def bulyan_select(sqdist: np.ndarray, bad: np.ndarray, f: int) -> np.ndarray:
    n = len(sqdist)
    selected = np.empty(n, _BOOL)
    order = np.argsort(sqdist, axis=1, kind="stable").astype(_INT64, copy=False)
    _check(lib.fgd_robust_bulyan_select(_from_buffer(_DOUBLES, np.ascontiguousarray(sqdist)), _from_buffer(_INTS, order), n, f,
                                        _from_buffer(_BYTES, bad), _from_buffer(_BYTES, selected)))
    return np.flatnonzero(selected)


def nearest(sqdist: np.ndarray, bad: np.ndarray, own: np.ndarray, keep: int) -> np.ndarray:
    keys = np.where(bad, np.nan, sqdist)  # NaN ranks last, behind the +inf of finite vectors
    keys[np.arange(len(own)), own] = -1.0
    last = np.partition(keys, keep - 1, axis=1)[:, keep - 1, None]
    below, level = keys < last, keys == last
    room = keep - below.sum(axis=1, keepdims=True)
    return np.where(below | (level & (np.cumsum(level, axis=1) <= room)), 1.0, 0.0)


def geometric_median(sqdist: np.ndarray, share: np.ndarray, smoothing: float, tol: float,
                     max_iter: int) -> tuple[np.ndarray, float, int, bool]:
    weights, objective, iterations = np.empty(len(share)), _new("double *"), _new("int64_t *")
    status = lib.fgd_robust_geometric_median(len(share), _from_buffer(_DOUBLES, sqdist), _from_buffer(_DOUBLES, share), smoothing,
                                             tol, max_iter, _from_buffer(_DOUBLES, weights), objective, iterations)
    _check(status < 0)
    return weights, objective[0], iterations[0], status == 0


def combine(rows: Rows, weights: np.ndarray, divisor: float, stacks: list[np.ndarray], threads: int) -> int:
    x, keep = _rows(rows)
    out, keep_out = _stack(rows, stacks, len(weights))
    pointer = _from_buffer(_DOUBLES, weights)
    return _split(lambda job: lib.fgd_robust_combine(x, pointer, divisor, out, job),
                  _column_chunks, rows, threads, (keep, keep_out, stacks))


def scale(rows: Rows, factor: np.ndarray, stacks: list[np.ndarray], threads: int) -> None:
    x, keep = _rows(rows)
    out, keep_out = _stack(rows, stacks, rows.n)
    pointer = _from_buffer(_DOUBLES, factor)
    _split(lambda job: lib.fgd_robust_scale(x, pointer, out, job), _column_chunks, rows, threads, (keep, keep_out, stacks))


def trimmed_mean(rows: Rows, f: int, stacks: list[np.ndarray], threads: int) -> int:
    return _window_mean(rows, f, rows.n - 2 * f, 0, f, stacks, threads)


median = trimmed_mean  # with f = (n - 1) // 2, see coordinates.py


def nearest_mean(rows: Rows, window: int, tolerated: int, stacks: list[np.ndarray], threads: int) -> int:
    return _window_mean(rows, 0, window, rows.n - window, tolerated, stacks, threads)


def _window_mean(rows: Rows, first: int, window: int, moves: int, tolerated: int, stacks: list[np.ndarray],
                 threads: int) -> int:
    x, keep = _rows(rows)
    out, keep_out = _stack(rows, stacks, 1)
    return _split(lambda job: lib.fgd_robust_rank_mean(x, first, window, moves, window, tolerated, out, job),
                  _column_chunks, rows, threads, (keep, keep_out, stacks))


_chunks = lru_cache(maxsize=256)(lib.fgd_robust_pairwise_chunks)


def _column_chunks(n: int, d: int) -> int:
    return lib.fgd_robust_column_chunks(d)


def _is_certified(rows: Rows) -> bool:
    """Whether a choice among these rows is the one that distances in double lead to, to be proven or settled."""
    return rows.n >= _GRAM_ROWS and rows.operand.dtype != "float64"


def _distances(rows: Rows, threads: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Squared distances, bad rows, and a relative error of the distances within which a choice among them is in doubt.

    Many float rows take the inner products of centred rows, half the arithmetic, and direct differences where those do not
    bound the error (csrc/gram.h). The centre is the row whose median distance from the others is least on a sample of the
    columns: less than half of the rows cannot carry it away, and a bad choice costs time, not accuracy.
    """
    n = rows.n
    sqdist, bad = np.empty((n, n)), np.zeros(n, np.bool_)
    if not _is_certified(rows) or rows.d < _GRAM_COLUMNS:
        _direct(rows, threads, None, 0, sqdist, bad)
        return sqdist, bad, _DIRECT_ERROR if _is_certified(rows) else 0.0
    x, keep = _rows(rows)
    chunks, size = _chunks(n, rows.d), lib.fgd_robust_pairwise_partial(n)
    partial, tiles = np.empty((chunks, size + n)), np.zeros(size // 16, np.bool_)
    sums, distances, wanted = _from_buffer(_DOUBLES, partial), _from_buffer(_DOUBLES, sqdist), _from_buffer(_BYTES, tiles)
    sample_bad = _from_buffer(_BYTES, np.zeros(n, np.bool_))
    _check(lib.fgd_robust_pairwise_sample(x, 4, min(128, rows.d // 256 // 16 * 16), sums, sample_bad))
    lib.fgd_robust_pairwise_sum(n, 1, sums, ffi.NULL, sample_bad, distances)
    step = -(-n // 128)  # candidates
    centre = step * int(np.partition(sqdist[::step], n // 2, axis=1)[:, n // 2].argmin())
    _split(lambda job: lib.fgd_robust_gram(x, centre, sums, job), _chunks, rows, threads, keep)
    if lib.fgd_robust_gram_sum(n, chunks, sums, distances, wanted):
        _direct(rows, threads, tiles, 0, sqdist, bad)
    return sqdist, bad, _GRAM_ERROR


def _direct(rows: Rows, threads: int, tiles: np.ndarray | None, wide: int, sqdist: np.ndarray, bad: np.ndarray) -> None:
    """Squared distances from direct differences: all, or the pairs in these tiles."""
    n, chunks = rows.n, _chunks(rows.n, rows.d)
    x, keep = _rows(rows)
    wanted = ffi.NULL if tiles is None else _from_buffer(_BYTES, tiles)
    partial = _from_buffer(_DOUBLES, np.empty(chunks * lib.fgd_robust_pairwise_partial(n)))
    bad_pointer = _from_buffer(_BYTES, bad)
    _split(lambda job: lib.fgd_robust_pairwise(x, wanted, wide, partial, bad_pointer, job), _chunks, rows, threads, keep)
    lib.fgd_robust_pairwise_sum(n, chunks, partial, wanted, bad_pointer, _from_buffer(_DOUBLES, sqdist))


def _rows(rows: Rows) -> tuple[Any, Any]:
    """The vectors as a struct, and what must live as long as it is used."""
    layer = rows.layers[0]
    if len(rows.layers) == 1 and type(layer.data) is np.ndarray and layer.data.flags.c_contiguous:
        struct = _new(_ROWS)
        lib.fgd_rows_stacked(struct, _from_buffer(_BYTES, layer.data), rows.n, layer.size, _DTYPES[layer.dtype])
        return struct, None
    return _table(rows.layers, [layer.data for layer in rows.layers], rows.n)


def _stack(rows: Rows, stacks: list[np.ndarray], m: int) -> tuple[Any, Any]:
    """Memory for m results as a struct; see `_rows`."""
    if len(stacks) == 1 and stacks[0].flags.c_contiguous:
        layer, struct = rows.layers[0], _new(_ROWS)
        lib.fgd_rows_stacked(struct, _from_buffer(_BYTES, stacks[0]), m, layer.size, _DTYPES[layer.dtype])
        return struct, None
    return _table(rows.layers, stacks, m)


def _table(layers: Sequence[Layer], arrays: Sequence[Any], n: int) -> tuple[Any, Any]:
    """A struct over n rows of layer arrays, and what must live as long as it is used."""
    rows = _new(_ROWS)
    rows.layer = table = _new(_LAYERS, len(layers))
    keep: list[Any] = [table]
    for entry, layer, array in zip(table, layers, arrays, strict=True):
        if isinstance(array, list):
            pointers = [_from_buffer(_BYTES, row) for row in array]
            entry.row = row_table = _new(_POINTERS, pointers)
            keep += (pointers, row_table)
        else:  # contiguous rows, any distance apart
            entry.base = ffi.cast("char *", array.__array_interface__["data"][0])
            entry.stride = array.strides[0]
        entry.size = layer.size
        entry.dtype = _DTYPES[layer.dtype]
        rows.d += layer.size
    rows.n, rows.n_layers = n, len(layers)
    return rows, keep


def _split(call: Callable[[Any], int], chunks: Callable[[int, int], int], rows: Rows, threads: int, keep: Any) -> int:
    """Run one job, from several threads if there are; the first coordinate it reports as broken, -1 if none."""
    job = _new(_JOB)
    if threads == 1:
        _check(call(job))
    else:
        _threads.run(lambda: _check(call(job)), threads=threads, chunks=chunks(rows.n, rows.d), keep=(rows, keep))
    return job.broken - 1


def _check(status: int | bool) -> None:
    if status:
        raise MemoryError("fastgd could not get scratch memory for its tiles")
