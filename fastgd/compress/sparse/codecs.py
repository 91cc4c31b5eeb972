"""The codecs that keep few coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..._checks import count, number
from ..codec import STREAM_BYTES, Codec
from ..wire import Header

VALUES_BUCKET = 512  #: kept values that share a step, TopK in eight bits


def _check_indices(n: int) -> None:
    if n > 2**32:
        raise ValueError(f"n={n} is more than indices of 32 bits can name: compress it in parts")


@dataclass(frozen=True)
class _Sparse(Codec):
    k: int | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        if (self.k is None) == (self.ratio is None):
            raise ValueError(f"{type(self).__name__} needs one of k and ratio, got k={self.k!r} and ratio={self.ratio!r}")
        if self.k is not None:
            object.__setattr__(self, "k", count(self.k, "k", 0, 2**32 - 1))
        elif not 0.0 < number(self.ratio, "ratio", 0.0) <= 1.0:
            raise ValueError(f"ratio must be above 0 and at most 1, got {self.ratio!r}")

    def kept(self, n: int) -> int:
        """Coordinates kept of n: k, or ceil(ratio n) and at least 1; never more than n."""
        return min(n, self.k or 0 if self.ratio is None else max(1, math.ceil(self.ratio * n)))

    def _share(self, n: int) -> float:
        return self.kept(n) / n if n else 1.0


@dataclass(frozen=True)
class TopK(_Sparse):
    """The k coordinates of largest magnitude, exactly; among equals the lower index first.

    Parameters
    ----------
    k : int, optional
        Coordinates to keep.
    ratio : float, optional
        Instead of k: k = ceil(ratio n), at least 1.
    bits : {32, 8}, optional
        Bits of a kept value: float32, or eight bits with a step for each 512 of them.

    Notes
    -----
    epsilon = 1 - k / n, attained where all magnitudes are equal; with eight bits 1 - (k / n) (1 - 512 / 254^2).
    For error feedback x = C(x) + e holds bit for bit with 32 bits. Deterministic.

    References
    ----------
    Stich, Cordonnier, Jaggi: Sparsified SGD with Memory (NeurIPS 2018). Basu et al.: Qsparse-local-SGD (NeurIPS 2019).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([0.5, -3.0, 1.0, 2.0], np.float32)
    >>> fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.TopK(2), x))
    array([ 0., -3.,  0.,  2.], dtype=float32)
    """

    bits: int = 32
    code, name, family = 1, "topk", "sparse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if count(self.bits, "bits", 8, 32) not in (8, 32):
            raise ValueError(f"bits must be 8 or 32, got {self.bits}")

    def contraction(self, n: int) -> float:
        loss = min(self.kept(n), VALUES_BUCKET) / 254.0**2 if self.bits == 8 else 0.0
        return 1.0 - self._share(n) * (1.0 - loss)

    def _fields(self, n: int) -> tuple[int, int, int]:
        return int(self.bits == 8), self.kept(n), 0

    def _length(self, n: int, a: int, b: int) -> int:
        _check_indices(n)
        return 8 * a if self.bits == 32 else 5 * a + 4 * -(-a // VALUES_BUCKET)

    @classmethod
    def _read(cls, header: Header) -> Codec:
        return cls(k=header.a, bits=8 if header.option else 32)


@dataclass(frozen=True)
class RandK(_Sparse):
    """k coordinates chosen uniformly without replacement; only the values travel, the indices follow from the seed.

    Parameters
    ----------
    k, ratio : optional
        As for `TopK`.
    scaled : bool, optional
        Multiply by n / k, which makes it unbiased. Not for error feedback: it is no contraction then.

    Notes
    -----
    E||x - C(x)||^2 = (1 - k / n) ||x||^2; scaled (n / k - 1) ||x||^2. With one seed on all workers all have the
    same indices, so payloads can be averaged value by value. Deterministic given (seed, step).

    References
    ----------
    Stich, Cordonnier, Jaggi (NeurIPS 2018).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.ones(6, np.float32)
    >>> int(fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.RandK(2, scaled=True), x)).sum())
    6
    """

    scaled: bool = False
    code, name, family = 2, "randk", "sparse"

    def contraction(self, n: int) -> float | None:
        return None if self.scaled else 1.0 - self._share(n)

    def variance(self, n: int) -> float | None:
        return 1.0 / self._share(n) - 1.0 if self.scaled and self.kept(n) else None

    @property
    def unbiased(self) -> bool:
        return self.scaled

    def _fields(self, n: int) -> tuple[int, int, int]:
        return int(self.scaled), self.kept(n), 0

    def _length(self, n: int, a: int, b: int) -> int:
        return STREAM_BYTES + 4 * a

    @classmethod
    def _read(cls, header: Header) -> Codec:
        return cls(k=header.a, scaled=bool(header.option))

    def _reach(self, n: int) -> float:
        return max(1.0, 1.0 / self._share(n)) if self.scaled and self.kept(n) else 1.0


@dataclass(frozen=True)
class Threshold(Codec):
    """All coordinates with |x_i| >= value.

    Parameters
    ----------
    value : float
        The threshold, not negative, in the units of the vector; as a float32.

    Notes
    -----
    An absolute compressor: ||x - C(x)||^2 <= n value^2, but no epsilon holds for all x. A payload takes up to 8 n bytes.
    Deterministic.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([0.5, -3.0, 1.0], np.float32)
    >>> fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.Threshold(1.0), x))
    array([ 0., -3.,  1.], dtype=float32)
    """

    value: float
    code, name, family = 3, "threshold", "sparse"

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", number(self.value, "value", 0.0))

    def _most(self, n: int, a: int) -> int:
        return n

    def _length(self, n: int, a: int, b: int) -> int:
        _check_indices(n)
        return 8 * a

    @classmethod
    def _read(cls, header: Header) -> Codec:
        return cls(0.0)
