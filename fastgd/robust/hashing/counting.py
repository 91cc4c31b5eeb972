"""hamming: how many bits of two hashes differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _threads
from ..._dispatch import Operand, find, runs
from .integers import check_out, store, to_host, unpack


@runs("robust.hamming:uint8", array=False)
def hamming(a: Any, b: Any, *, out: Any = None, backend: str | None = None, num_threads: int | None = None) -> Any:
    """Hamming distances between packed hashes: the number of bits in which they differ.

    Parameters
    ----------
    a : (w,) or (n, w) uint8 array
        One hash, or n of them, as made by `simhash` and `lshgm`.
    b : (w,) or (m, w) uint8 array
        As many dimensions as `a`, hashes of the same length.
    out : () or (n, m) int64 array, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    int64, or (n, m) int64 array
        A scalar for two single hashes, on the host.

    Raises
    ------
    ValueError, TypeError
        Not uint8; not both of one or both of two dimensions; hashes of different lengths; `out` does not fit.

    Notes
    -----
    Cost: n m w bytes compared, about 5 vector operations for 64 bytes (carry-save adders, no popcount instruction
    needed). Deterministic.

    References
    ----------
    Mula, Kurz, Lemire: Faster Population Counts Using AVX2 Instructions (2018), for the carry-save adders.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> a = np.array([[0b00000000], [0b00000111]], np.uint8)
    >>> fastgd.robust.hamming(a, a)
    array([[0, 3],
           [3, 0]])
    >>> int(fastgd.robust.hamming(a[0], a[1]))
    3
    """
    left, device, wrap = unpack(a, "a", "uint8")
    right, other, _ = unpack(b, "b", "uint8")
    if other != device:
        raise TypeError(f"b is on {other}, but a is on {device}: move both to one device")
    shapes = tuple(left.shape), tuple(right.shape)
    if len(shapes[0]) not in (1, 2) or len(shapes[0]) != len(shapes[1]):
        raise ValueError(f"a and b have shapes {shapes[0]} and {shapes[1]}, but must be both (w,), or (n, w) and (m, w): "
                         "pass a.reshape(1, -1) to compare one hash with many")
    if shapes[0][-1] != shapes[1][-1]:
        raise ValueError(f"a and b have hashes of {shapes[0][-1]} and {shapes[1][-1]} bytes, but must have the same length")
    single = len(shapes[0]) == 1
    n, m, width = 1 if single else shapes[0][0], 1 if single else shapes[1][0], shapes[0][-1]
    view = None if out is None else check_out(out, () if single else (n, m), "int64", "cpu" if single else device)
    run = find("robust.hamming", Operand(device, "uint8"), backend)
    distances = run(left.reshape(n, width), right.reshape(m, width), _threads.budget(num_threads, n * m * width // 4))
    if not single:
        return store(distances, view, out, wrap if device == "cpu" else lambda data: data)
    value = np.int64(to_host(distances)[0, 0])
    if view is None:
        return value
    view[...] = value
    return out
