"""simhash: the signs of a vector's projections onto random planes."""

from __future__ import annotations

from typing import Any

from ... import _threads
from ..._checks import count, index_list
from ..._dispatch import find, runs
from ..._rows import parse
from .integers import check_out, store


@runs("robust.simhash")
def simhash(x: Any, bits: int, *, seed: int = 0, out: Any = None, backend: str | None = None,
            num_threads: int | None = None) -> Any:
    """Random-hyperplane hashes: bit b of a vector is 1 where sum_c r_b(c) x_c > 0, with random signs r_b(c).

    Two vectors of many comparable coordinates at the angle theta differ in each bit with probability theta / pi, so that
    `pi * hamming(a, b) / bits` estimates the angle, with variance pi^2 p (1 - p) / bits for p = theta / pi. Where a few
    coordinates outweigh all others, random signs know only which of them outweigh which: (1, 0) and (1, 0.5) have one
    hash. Beyond 4096 coordinates planes share a folding; see `fastgd.robust.hashing`. The signs are those of
    `fastgd.random` as the text of `fastgd.robust.hashing` defines them; they are never stored, the same for every vector,
    and do not depend on `bits` (a shorter hash is the beginning of a longer one) or on how a vector is cut into layers.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    bits : int
        Bits of a hash, from 1 to 2^32.
    seed : int, optional
        Which planes, 0 <= seed < 2^64. All parties must use the same.
    out : (n, ceil(bits / 8)) uint8 array, optional
        Where to put the result.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    (n, ceil(bits / 8)) uint8 array
        Bit b is bit b mod 8 of byte b div 8 (`numpy.packbits(..., bitorder="little")`); bits beyond the last are 0. A
        projection of exactly 0 gives 0. Multiplying a vector by a power of two changes nothing, as long as no value
        over- or underflows; the hash of -x is the complement where no projection is 0. Finite values of any size count.

    Raises
    ------
    ValueError, TypeError
        `x` has none of the three forms; vectors have a NaN or an Inf (the message names them); `bits`, `seed` or `out`
        do not fit.

    Notes
    -----
    Cost: for each group of 256 planes one read of x with one addition a coordinate, then 256 additions for each of
    min(d, 4096) positions; 32 KiB of memory for each of up to 512 vectors. Deterministic, with the same bits for every
    number of threads and every instruction set, and on CUDA. Sums are in float64: a bit can differ from the exact one only
    if its projection is below (d / 4096 + 4096) 2^-53 sum_c |x_c|.

    References
    ----------
    Charikar: Similarity Estimation Techniques from Rounding Algorithms (STOC 2002). Weinberger et al.: Feature Hashing
    for Large Scale Multitask Learning (ICML 2009).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([[3.0, 1.0], [6.0, 2.0], [-1.0, 3.0]])  # parallel; orthogonal
    >>> h = fastgd.robust.simhash(x, 1024)
    >>> angle = np.pi * fastgd.robust.hamming(h, h) / 1024
    >>> bool(angle[0, 1] == 0.0), bool(abs(angle[0, 2] - np.pi / 2) < 0.2)
    (True, True)
    """
    rows = parse(x)
    bits = count(bits, "bits", 1, 1 << 32)
    seed = count(seed, "seed", 0, (1 << 64) - 1)
    view = None if out is None else check_out(out, (rows.n, -(-bits // 8)), "uint8", rows.operand.device)
    work = max(rows.nbytes * -(-bits // 256), rows.n * bits * min(rows.d, 4096) // 8)
    hashes, bad = find("robust.simhash", rows.operand, backend)(rows, bits, seed, _threads.budget(num_threads, work))
    if bad.any():
        raise ValueError(f"rows {index_list(bad)} of {rows.name} have a NaN or an Inf, which no plane separates: remove them")
    return store(hashes, view, out, rows.wrap)
