"""The codec that hashes coordinates into a table."""

from __future__ import annotations

from dataclasses import dataclass

from ..._checks import count
from ..codec import STREAM_BYTES, Codec
from ..wire import Header


@dataclass(frozen=True)
class CountSketch(Codec):
    """Hash every coordinate with a random sign into one of `cols` cells in each of `rows` rows; decode by the rows' median.

    Parameters
    ----------
    rows, cols : int
        Size of the table, at least 1 each.

    Notes
    -----
    Linear: with one seed, the sum of the tables is the table of the sum. Unbiased; one row has E||x - C(x)||^2 = (n - 1) / cols
    ||x||^2. Deterministic given (seed, step): cells are exact integer sums.

    References
    ----------
    Charikar, Chen, Farach-Colton: Finding Frequent Items in Data Streams (2002). Rothchild et al.: FetchSGD (ICML 2020).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.zeros(50, np.float32)
    >>> x[7] = 3.0
    >>> float(fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.CountSketch(5, 20), x))[7])
    3.0
    """

    rows: int
    cols: int
    code, name, family = 12, "countsketch", "sketches"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", count(self.rows, "rows", 1, 255))
        object.__setattr__(self, "cols", count(self.cols, "cols", 1, 2**31 - 1))

    def variance(self, n: int) -> float | None:
        return max(n - 1, 0) / self.cols if self.rows == 1 else None

    @property
    def unbiased(self) -> bool:
        return True

    def _fields(self, n: int) -> tuple[int, int, int]:
        return 0, self.rows, self.cols

    def _length(self, n: int, a: int, b: int) -> int:
        return STREAM_BYTES + 4 * self.rows * self.cols

    @classmethod
    def _read(cls, header: Header) -> Codec:
        return cls(header.a, header.b)

    def _reach(self, n: int) -> float:
        return 1.0 + n
