"""lshgm: LSHFed's hash of a model's layers, and its verifier's choice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import _threads
from ..._checks import count, index_list
from ..._dispatch import find, runs
from ..._rows import parse
from .counting import hamming
from .integers import check_out, store, to_host, unpack


@runs("robust.lshgm")
def lshgm(layers: Any, *, bits: int = 5, seed: int = 0, out: Any = None, backend: str | None = None,
          num_threads: int | None = None) -> Any:
    """LSHFed's layer-wise hash: bit (k, c) of a layer is 1 where sum_i R_k[i] M[i, c] > 0, M the layer as a matrix.

    A layer of shape (L,) is the matrix (L, 1), any other (s0, ..) the matrix (s0, product of the rest). R_k[i] is element
    k L + i of `fastgd.random.normal(seed, step=L, ..)`, L the matrix' rows: the same for all layers of as many rows, all
    vectors and all parties. A layer gives `bits` times its columns, not `bits`.

    Parameters
    ----------
    layers : sequence of layer arrays, or sequence of n sequences of layer arrays
        One vector, or n of them; float32, float64, float16 or bfloat16.
    bits : int, optional
        Normal vectors k for each layer, at least 1.
    seed : int, optional
        Which normal vectors, 0 <= seed < 2^64. All parties must use the same.
    out : (w,) or (n, w) uint8 array, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    (w,) uint8 array, or (n, w) for n vectors
        The bits of all layers in order, each ordered by k, then c, without gaps: packed as by
        `numpy.packbits(..., bitorder="little")`, bits beyond the last 0. For `hamming` and `lshgm_choice`.

    Raises
    ------
    ValueError, TypeError
        Not a sequence of layers, or of vectors of the same layers; vectors have a NaN or an Inf (the message names
        them); a matrix of 2^32 rows or more; `bits`, `seed` or `out` do not fit.

    Notes
    -----
    Cost: one read of the layers, `bits` products and sums a coordinate, `bits` normal numbers a matrix row; a byte of
    temporary memory for each bit. Deterministic, with the same bits for every number of threads and every instruction set,
    and on CUDA. Sums are in float64: a bit can differ from the exact one only if its projection is below
    (L / 256 + 257) 2^-53 sum_i |R_k[i] M[i, c]|.

    References
    ----------
    LSHFed (arXiv 2511.01296, 2025). Charikar: Similarity Estimation Techniques from Rounding Algorithms (STOC 2002).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> model = [np.eye(3), np.array([1.0, 2.0])]
    >>> h = fastgd.robust.lshgm(model)
    >>> h.shape  # 5 * 3 + 5 * 1 bits
    (3,)
    >>> int(fastgd.robust.hamming(h, fastgd.robust.lshgm([-layer for layer in model])))  # a flipped sign: all bits
    20
    """
    if not isinstance(layers, list | tuple):
        raise TypeError(f"layers must be a sequence of layer arrays, or of such sequences, got {type(layers).__name__}: "
                        "pass [array] for a vector of one layer")
    single = not (layers and isinstance(layers[0], list | tuple))
    rows = parse([layers] if single else layers, "layers")
    bits = count(bits, "bits", 1, 1 << 16)
    seed = count(seed, "seed", 0, (1 << 64) - 1)
    shapes = [(layer.shape[0] if layer.shape else 1, math.prod(layer.shape[1:])) for layer in rows.layers]
    if max(length for length, _ in shapes) >= 1 << 32:
        raise ValueError("layers holds a matrix of 2^32 rows or more: reshape that layer to fewer rows")
    width = -(-bits * sum(columns for _, columns in shapes) // 8)
    shape = (width,) if single else (rows.n, width)
    view = None if out is None else check_out(out, shape, "uint8", rows.operand.device)
    run = find("robust.lshgm", rows.operand, backend)
    hashes, bad = run(rows, shapes, bits, seed, _threads.budget(num_threads, rows.nbytes * max(1, bits // 4)))
    if bad.any():
        raise ValueError(f"rows {index_list(bad)} of layers have a NaN or an Inf, which no plane separates: remove them")
    return store(hashes.reshape(shape), view, out, rows.wrap)


@runs("robust.hamming:uint8", array=False)
def lshgm_choice(hashes: Any, benchmark: Any, *, out: Any = None, backend: str | None = None,
                 num_threads: int | None = None) -> Any:
    """LSHFed's verifier: the index of the hash nearest to the benchmark, the first of equals.

    The benchmark is the winner's hash of the round before. In round 0 there is none: a verifier passes the hash of its own
    local update.

    Parameters
    ----------
    hashes : (n, w) uint8 array
        The aggregators' hashes, n >= 1, in the order in which ties are to be broken.
    benchmark : (w,) uint8 array
        The hash to be near to.
    out : () int64 array, optional
        Where to put the result, on the host.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    int64
        The index; `hashes[index]` is the next round's benchmark.

    Raises
    ------
    ValueError, TypeError
        Not uint8, not (n, w) and (w,), no hash at all; `out` does not fit.

    Notes
    -----
    Cost: that of `hamming`. Deterministic. Angles are all that a hash sees: an update that is too long is not noticed.

    References
    ----------
    LSHFed (arXiv 2511.01296, 2025).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> hashes = np.array([[0b1111], [0b0011], [0b0110]], np.uint8)
    >>> int(fastgd.robust.lshgm_choice(hashes, np.array([0b0010], np.uint8)))
    1
    """
    data = unpack(hashes, "hashes", "uint8")[0]
    center = unpack(benchmark, "benchmark", "uint8")[0]
    if len(data.shape) != 2 or data.shape[0] == 0 or tuple(center.shape) != (data.shape[1],):
        raise ValueError(f"hashes and benchmark have shapes {tuple(data.shape)} and {tuple(center.shape)}, but must be (n, w) "
                         "with n >= 1 and (w,)")
    view = None if out is None else check_out(out, (), "int64", "cpu")
    distances = hamming(hashes, benchmark.reshape(1, -1), backend=backend, num_threads=num_threads)
    index = np.int64(to_host(distances).argmin())
    return store(index, view, out, lambda value: value)
