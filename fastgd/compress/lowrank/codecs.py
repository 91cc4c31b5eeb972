"""The codec that keeps a matrix of low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..._checks import count
from ..codec import Codec
from ..wire import Header


@dataclass(frozen=True)
class PowerSGD(Codec):
    """A matrix of low rank: P = orth(M Q), Q' = M'P, C(M) = P Q'^T, the projection of M on the range of M Q.

    Parameters
    ----------
    rank : int
        Columns of the factors, at least 1 and at most the smaller side of the matrix.
    shape : (int, int)
        The vector as a matrix, row by row: n = shape[0] * shape[1].

    Notes
    -----
    ||M - C(M)|| <= ||M||; exact where M has no higher rank. `ErrorFeedback` and `EF21` start each step from the last Q', a power
    iteration; `encode` starts from random numbers of (seed, step). Columns that vanish are drawn anew, so factors are
    finite for every finite M. Deterministic.

    References
    ----------
    Vogels, Karimireddy, Jaggi: PowerSGD: Practical Low-Rank Gradient Compression (NeurIPS 2019).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.outer(np.arange(3.0), np.ones(4)).astype(np.float32).ravel()
    >>> bool(np.allclose(fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.PowerSGD(1, (3, 4)), x)), x))
    True
    """

    rank: int
    shape: tuple[int, int]
    code, name, family = 13, "powersgd", "lowrank"

    def __post_init__(self) -> None:
        try:
            rows, cols = self.shape
        except (TypeError, ValueError):
            raise TypeError(f"shape must be two integers, got {self.shape!r}") from None
        shape = count(rows, "shape[0]", 1, 2**31 - 1), count(cols, "shape[1]", 1, 2**31 - 1)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "rank", count(self.rank, "rank", 1, min(64, *shape)))

    def _fields(self, n: int) -> tuple[int, int, int]:
        if n != self.shape[0] * self.shape[1]:
            raise ValueError(f"PowerSGD has shape {self.shape}, which is not n={n} coordinates")
        return 0, self.rank, self.shape[1]

    def _remembers(self) -> dict[str, tuple[int, ...] | None]:
        return {"right": (self.shape[1], self.rank)}

    def _length(self, n: int, a: int, b: int) -> int:
        return 4 * self.rank * (self.shape[0] + self.shape[1])

    @classmethod
    def _read(cls, header: Header) -> Codec:
        if header.b == 0 or header.n % header.b:
            raise ValueError("n is not a multiple of the columns")
        return cls(header.a, (header.n // header.b, header.b))

    def _reach(self, n: int) -> float:
        return 1.0 + math.sqrt(n)
