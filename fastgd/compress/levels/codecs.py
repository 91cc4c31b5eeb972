"""The codecs that round each coordinate to few levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..._checks import count
from ..codec import Bucketed, Codec
from ..wire import Header

_FP8 = {"e4m3": (2.0**-4, 2.0**-10 / 448), "e5m2": (2.0**-3, 2.0**-17 / 57344)}  # relative error; absolute, of the maximum


def _rounding_variance(size: int, levels: float) -> float:
    """omega of unbiased rounding to `levels` steps of a bucket's largest magnitude."""
    return min(size / (4.0 * levels**2), math.sqrt(size) / levels)


@dataclass(frozen=True)
class QSGD(Bucketed):
    """Unbiased rounding to multiples of norm / levels, one norm for each bucket.

    Parameters
    ----------
    levels : int, optional
        s, from 1 to 127: a code takes the least w bits with 2^w > 2 s.
    bucket : int, optional
        Coordinates that share a norm.
    norm : {"max", "l2"}, optional
        The largest magnitude, or the Euclidean norm of the paper.

    Notes
    -----
    omega = min(B / (4 s^2), sqrt(B) / s) for "max", min(B / s^2, sqrt(B) / s) for "l2". Deterministic given (seed, step, rank).

    References
    ----------
    Alistarh, Grubic, Li, Tomioka, Vojnovic: QSGD (NeurIPS 2017).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.QSGD(levels=2), np.array([1.0, -0.5], np.float32)))
    array([ 1. , -0.5], dtype=float32)
    """

    levels: int = 127
    bucket: int = 512
    norm: str = "max"
    code, name, family = 6, "qsgd", "levels"

    def __post_init__(self) -> None:
        self._check_bucket()
        object.__setattr__(self, "levels", count(self.levels, "levels", 1, 127))
        if self.norm not in ("max", "l2"):
            raise ValueError(f"norm must be 'max' or 'l2', got {self.norm!r}")

    @property
    def width(self) -> int:
        """Bits of a code."""
        return (2 * self.levels).bit_length()

    def variance(self, n: int) -> float:
        size, s = self._size(n), float(self.levels)
        return _rounding_variance(size, s) if self.norm == "max" else min(size / s**2, math.sqrt(size) / s)

    def contraction(self, n: int) -> float | None:
        return omega if (omega := self.variance(n)) < 1.0 else None

    @property
    def unbiased(self) -> bool:
        return True

    def _fields(self, n: int) -> tuple[int, int, int]:
        return int(self.norm == "l2"), self.bucket, self.levels

    def _length(self, n: int, a: int, b: int) -> int:
        return 4 * self._buckets(n) + -(-n * self.width // 8)

    @classmethod
    def _read(cls, header: Header) -> Codec:
        return cls(header.b, header.a, "l2" if header.option else "max")

    def _reach(self, n: int) -> float:
        return 1.0 if self.norm == "max" else max(1.0, math.sqrt(self._size(n)) / self.levels)


@dataclass(frozen=True)
class TernGrad(Codec):
    """C(x)_i = M sign(x_i) with probability |x_i| / M, else 0; M = max|x|.

    Notes
    -----
    E||C(x)||^2 = ||x||_inf ||x||_1 exactly, so omega = (sqrt(n) - 1) / 2. Two bits a coordinate. Deterministic given (seed,
    step, rank).

    References
    ----------
    Wen et al.: TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning (NeurIPS 2017).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.TernGrad(), np.array([2.0, -2.0, 0.0], np.float32)))
    array([ 2., -2.,  0.], dtype=float32)
    """

    code, name, family = 7, "terngrad", "levels"

    def variance(self, n: int) -> float:
        return (math.sqrt(max(n, 1)) - 1.0) / 2.0

    def contraction(self, n: int) -> float | None:
        return omega if (omega := self.variance(n)) < 1.0 else None

    @property
    def unbiased(self) -> bool:
        return True

    def _length(self, n: int, a: int, b: int) -> int:
        return 4 + -(-n // 4)


@dataclass(frozen=True)
class Natural(Codec):
    """Unbiased rounding to a power of two: 2^a < |x| < 2^(a+1) goes up with probability (|x| - 2^a) / 2^a.

    Notes
    -----
    omega = 1 / 8, attained at |x| = (4 / 3) 2^a. Nine bits a coordinate. Below 2^-126 a value becomes 0 or 2^-126; from
    2^127 on it becomes 2^127. Deterministic given (seed, step, rank).

    References
    ----------
    Horvath et al.: Natural Compression for Distributed Deep Learning (MSML 2022).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.Natural(), np.array([0.5, -8.0], np.float32)))
    array([ 0.5, -8. ], dtype=float32)
    """

    code, name, family = 8, "natural", "levels"

    def variance(self, n: int) -> float:
        return 0.125

    def contraction(self, n: int) -> float:
        return 0.125

    @property
    def unbiased(self) -> bool:
        return True

    def _length(self, n: int, a: int, b: int) -> int:
        return n + -(-n // 8)


@dataclass(frozen=True)
class Int8(Bucketed):
    """Rounding to multiples of max / 127, one maximum for each bucket; to the nearest, or stochastically.

    Parameters
    ----------
    bucket : int, optional
        Coordinates that share a step.
    stochastic : bool, optional
        Round up or down at random, which makes it unbiased.

    Notes
    -----
    Nearest: |x - C(x)| <= max / 254, epsilon = min(B / 254^2, 1 - 1 / B). Stochastic: omega = min(B / (4 127^2),
    sqrt(B) / 127). Deterministic; stochastic: given (seed, step, rank).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.Int8(), np.array([127.0, -64.4], np.float32)))
    array([127., -64.], dtype=float32)
    """

    bucket: int = 512
    stochastic: bool = False
    code, name, family = 9, "int8", "levels"

    def __post_init__(self) -> None:
        self._check_bucket()

    def variance(self, n: int) -> float | None:
        return _rounding_variance(self._size(n), 127.0) if self.stochastic else None

    def contraction(self, n: int) -> float | None:
        if not self.stochastic:
            return min(self._size(n) / 254.0**2, 1.0 - 1.0 / self._size(n))
        return omega if (omega := _rounding_variance(self._size(n), 127.0)) < 1.0 else None

    @property
    def unbiased(self) -> bool:
        return self.stochastic

    def _fields(self, n: int) -> tuple[int, int, int]:
        return int(self.stochastic), self.bucket, 0

    def _length(self, n: int, a: int, b: int) -> int:
        return 4 * self._buckets(n) + n

    @classmethod
    def _read(cls, header: Header) -> Codec:
        return cls(header.a, bool(header.option))


@dataclass(frozen=True)
class FP8(Bucketed):
    """An eight-bit floating-point number a coordinate, scaled so that a bucket's largest magnitude is the format's.

    Parameters
    ----------
    format : {"e4m3", "e5m2"}, optional
        Four exponent and three fraction bits (largest value 448), or five and two (57344).
    bucket : int, optional
        Coordinates that share a scale.

    Notes
    -----
    The relative error of normal numbers is at most 2^-4 (e5m2: 2^-3). Rounded to nearest even, subnormals included,
    never to Inf or NaN. Deterministic.

    References
    ----------
    Micikevicius et al.: FP8 Formats for Deep Learning (arXiv:2209.05433).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.FP8(), np.array([448.0, -17.0], np.float32)))
    array([448., -16.], dtype=float32)
    """

    format: str = "e4m3"
    bucket: int = 512
    code, name, family = 10, "fp8", "levels"

    def __post_init__(self) -> None:
        self._check_bucket()
        if self.format not in _FP8:
            raise ValueError(f"format must be 'e4m3' or 'e5m2', got {self.format!r}")

    def contraction(self, n: int) -> float:
        relative, absolute = _FP8[self.format]
        return relative**2 + self._size(n) * absolute**2

    def _fields(self, n: int) -> tuple[int, int, int]:
        return int(self.format == "e5m2"), self.bucket, 0

    def _length(self, n: int, a: int, b: int) -> int:
        return 4 * self._buckets(n) + n

    @classmethod
    def _read(cls, header: Header) -> Codec:
        return cls("e5m2" if header.option else "e4m3", header.a)
