"""The oracle of the hashes: plain NumPy, whole planes in memory, slow. Shares no code with the kernels.

Signatures as in `cpu.py` and `cuda.py`. Sums are in longdouble (80 bits on x86).
"""

from __future__ import annotations

import numpy as np

from ..._rows import Rows
from ...random import reference as random

_FOLD, _GROUP = 4096, 256


def simhash(rows: Rows, bits: int, seed: int, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Packed bits sum_c r_b(c) x_c > 0, and which vectors have a NaN or an Inf."""
    x = rows.matrix()
    bad = ~np.isfinite(x).all(axis=1)
    x = _reduced(np.where(bad[:, None], 0.0, x))
    groups = [_projections(x, seed, b, min(b + _GROUP, bits)) > 0 for b in range(0, bits, _GROUP)]
    return np.packbits(np.concatenate(groups, axis=1), axis=1, bitorder="little"), bad


def _projections(x: np.ndarray, seed: int, first: int, last: int) -> np.ndarray:
    """Onto the planes first .. last - 1 of one group: folded onto 4096 positions, then each plane's signs."""
    d, group = x.shape[1], first // _GROUP
    blocks = -(-d // _FOLD)
    turn = (random.hash32(seed, 1 + group, 0, blocks) % _FOLD).astype(np.int64)
    turn[:1] = 0
    c = np.arange(d)
    position = (c % _FOLD + turn[c // _FOLD]) % _FOLD
    words = random.bits32(seed, 1 + group, 0, blocks * (_FOLD // 32))
    signs = _signs(words[(c // _FOLD) * (_FOLD // 32) + position // 32], position % 32)
    width = min(d, _FOLD)
    sums = np.zeros((_FOLD, len(x)), np.longdouble)
    np.add.at(sums, position, (x * signs).T)
    planes = np.stack([_signs(random.bits32(seed, 0, b // 32 * _FOLD, width), b % 32) for b in range(first, last)])
    total: np.ndarray = (planes.astype(np.longdouble) @ sums[:width]).T
    return total


def _signs(words: np.ndarray, bit: np.ndarray | int) -> np.ndarray:
    return 1.0 - 2.0 * (words >> np.asarray(bit, np.uint32) & np.uint32(1))


def _reduced(x: np.ndarray) -> np.ndarray:
    """In longdouble, whose range no sum of doubles leaves."""
    return x.astype(np.longdouble)


def lshgm(rows: Rows, shapes: list[tuple[int, int]], bits: int, seed: int, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Packed bits sum_i R_k[i] M[i, c] > 0 of all layers, and which vectors have a NaN or an Inf."""
    bad = np.zeros(rows.n, bool)
    flags = []
    for layer, (length, columns) in zip(rows.layers, shapes, strict=True):
        x = layer.matrix()
        bad |= ~np.isfinite(x).all(axis=1)
        normals = random.normal(seed, length, 0, bits * length).reshape(bits, length).astype(np.longdouble)
        matrices = _reduced(np.where(bad[:, None], 0.0, x)).reshape(rows.n, length, columns)
        flags.append((normals @ matrices > 0).reshape(rows.n, bits * columns))
    return np.packbits(np.concatenate(flags, axis=1), axis=1, bitorder="little"), bad


def hamming(a: np.ndarray, b: np.ndarray, threads: int = 1) -> np.ndarray:
    """(n, m) numbers of differing bits."""
    return np.array([[np.unpackbits(p ^ q).sum() for q in b] for p in a], np.int64).reshape(len(a), len(b))
