"""The codecs: what each keeps of a vector, how well, and how many bytes it takes.

A codec is a description, frozen and hashable; the arithmetic is in the kernels and, byte by byte, in docs/wire.md.
Notation: C(x) is what `decode` makes of `encode(x)`; epsilon-contractive means E||x - C(x)||^2 <= epsilon ||x||^2;
omega-unbiased means E C(x) = x and E||x - C(x)||^2 <= omega ||x||^2. Bounds are for exact arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .._checks import count, number
from .wire import MAX_BODY, SIZE, Header

VALUES_BUCKET = 512  #: kept values that share a step, TopK in eight bits
DRIVE_BLOCK = 4096  #: coordinates that are rotated together
_STREAM = 16  # bytes of a seed and a step
_FP8 = {"e4m3": (2.0**-4, 2.0**-10 / 448), "e5m2": (2.0**-3, 2.0**-17 / 57344)}  # relative error; absolute, of the maximum


class Codec:
    """What all codecs have in common. Not a codec itself."""

    code: ClassVar[int]
    name: ClassVar[str]  #: of its kernels
    family: ClassVar[str]  #: the folder that they are in

    def max_nbytes(self, n: int) -> int:
        """The most bytes that a payload of n coordinates takes; ValueError where the format cannot hold as many."""
        n = count(n, "n", 0)
        _, a, b = self._fields(n)
        length = self._length(n, self._most(n, a), b)
        if length > MAX_BODY:
            raise ValueError(f"n={n} needs a payload of {length} bytes, the format holds {MAX_BODY}: compress it in parts")
        return SIZE + length

    def contraction(self, n: int) -> float | None:
        """epsilon < 1 with E||x - C(x)||^2 <= epsilon ||x||^2 for every x in R^n; None where none is known."""
        return None

    def variance(self, n: int) -> float | None:
        """omega with E||x - C(x)||^2 <= omega ||x||^2 for every x in R^n, where E C(x) = x; None otherwise."""
        return None

    @property
    def unbiased(self) -> bool:
        """Whether E C(x) = x."""
        return False

    # What the wire says of a codec: option, a, b (docs/wire.md), and the body's length as a function of them.

    def _fields(self, n: int) -> tuple[int, int, int]:
        return 0, 0, 0

    def _most(self, n: int, a: int) -> int:
        """The largest `a` that an encoder may put into the header."""
        return a

    def _length(self, n: int, a: int, b: int) -> int:
        raise NotImplementedError

    @classmethod
    def _read(cls, header: Header) -> Codec:
        """The codec of a header; ValueError where the parameters are none of its own."""
        return cls()

    def _remembers(self) -> dict[str, tuple[int, ...] | None]:
        """What a kernel keeps between steps besides the memory: names, with the shape of a float32 array or None for a word."""
        return {}

    def _reach(self, n: int) -> float:
        """A bound on max|x - C(x)| / max|x|: error feedback watches with it that nothing overflows."""
        return 1.0


def from_header(header: Header) -> Codec:
    """The codec that a header names, once its parameters and the body's length fit together; ValueError otherwise."""
    kind = CODECS.get(header.codec)
    if kind is None:
        raise ValueError(f"the payload names codec {header.codec}, and there is none: was it made by a later version?")
    try:
        codec = kind._read(header)
        option, a, b = codec._fields(header.n)
        fits = option == header.option and b == header.b and header.a <= codec._most(header.n, a)
        fits = fits and (header.a == a or codec._most(header.n, a) != a)
        fits = fits and codec._length(header.n, header.a, b) == header.length
    except (ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise ValueError(f"the payload's parameters contradict each other (option {header.option}, n {header.n}, a {header.a}, "
                         f"b {header.b}, length {header.length}): no encoder of {kind.__name__} writes them")
    return codec


@dataclass(frozen=True)
class Identity(Codec):
    """C(x) = x: all n values as float32.

    Examples
    --------
    >>> import fastgd
    >>> fastgd.compress.Identity().max_nbytes(1000)
    4032
    """

    code, name, family = 0, "identity", ""

    def contraction(self, n: int) -> float:
        return 0.0

    def variance(self, n: int) -> float:
        return 0.0

    @property
    def unbiased(self) -> bool:
        return True

    def _length(self, n: int, a: int, b: int) -> int:
        return 4 * n

    def _reach(self, n: int) -> float:
        return 0.0


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

    def _remembers(self) -> dict[str, tuple[int, ...] | None]:
        return {"key": None, "margin": None}

    def _length(self, n: int, a: int, b: int) -> int:
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
        return _STREAM + 4 * a

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
        return 8 * a

    @classmethod
    def _read(cls, header: Header) -> Codec:
        return cls(0.0)


@dataclass(frozen=True)
class Sign(Codec):
    """C(x) = (||x||_1 / n) sign(x), sign(0) = +1: one bit a coordinate and one scale.

    Notes
    -----
    ||x - C(x)||^2 = ||x||^2 - ||x||_1^2 / n exactly, so epsilon = 1 - 1 / n in the worst case and about 0.363 for
    normal vectors. The scale ||x||_2 / sqrt(n) that others use is no contraction. Deterministic.

    References
    ----------
    Karimireddy, Rebjock, Stich, Jaggi: Error Feedback Fixes SignSGD and other Gradient Compression Schemes (ICML 2019).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.Sign(), np.array([1.0, -3.0], np.float32)))
    array([ 2., -2.], dtype=float32)
    """

    code, name, family = 4, "sign", "signs"

    def contraction(self, n: int) -> float:
        return 1.0 - 1.0 / max(n, 1)

    def _length(self, n: int, a: int, b: int) -> int:
        return 4 + -(-n // 8)


@dataclass(frozen=True)
class OneBit(Codec):
    """Each side of zero by its mean: C(x)_i is the mean of the values x >= 0, or that of those below 0.

    Notes
    -----
    An orthogonal projection: ||x - C(x)||^2 = ||x||^2 - S_+^2 / n_+ - S_-^2 / n_-, never above that of `Sign`. Deterministic.

    References
    ----------
    Seide, Fu, Droppo, Li, Yu: 1-Bit Stochastic Gradient Descent (Interspeech 2014).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.OneBit(), np.array([1.0, 2.0, -3.0], np.float32)))
    array([ 1.5,  1.5, -3. ], dtype=float32)
    """

    code, name, family = 5, "onebit", "signs"

    def contraction(self, n: int) -> float:
        return 1.0 - 1.0 / max(n, 1)

    def _length(self, n: int, a: int, b: int) -> int:
        return 8 + -(-n // 8)


class _Bucketed(Codec):
    bucket: int

    def _check_bucket(self) -> None:
        object.__setattr__(self, "bucket", count(self.bucket, "bucket", 1, 2**20))

    def _buckets(self, n: int) -> int:
        return -(-n // self.bucket)

    def _size(self, n: int) -> int:
        return max(1, min(self.bucket, n))


def _rounding_variance(size: int, levels: float) -> float:
    """omega of unbiased rounding to `levels` steps of a bucket's largest magnitude."""
    return min(size / (4.0 * levels**2), math.sqrt(size) / levels)


@dataclass(frozen=True)
class QSGD(_Bucketed):
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
class Int8(_Bucketed):
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
class FP8(_Bucketed):
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


@dataclass(frozen=True)
class Drive(Codec):
    """Rotate at random, then 1 to 4 bits a coordinate: DRIVE (one bit) and EDEN.

    The rotation turns signs at random and takes a Hadamard transform of each 4096 coordinates, after which they look
    normally distributed, whatever the vector was; each is then replaced by the nearest of 2^bits optimal centroids.

    Parameters
    ----------
    bits : int, optional
        Bits a coordinate, 1 to 4.
    unbiased : bool, optional
        Scale for E C(x) = x instead of the least error.

    Notes
    -----
    With bits=1 epsilon = 1/2 for every x (Khintchine's inequality), about 0.363 typically; with 2, 3, 4 bits the error is about
    0.118, 0.035, 0.0095 of ||x||^2. "Unbiased" holds for a uniformly random rotation; a Hadamard transform comes close
    for vectors with many coordinates of like size, not for those with a few. Deterministic given (seed, step).

    References
    ----------
    Vargaftik et al.: DRIVE: One-bit Distributed Mean Estimation (NeurIPS 2021); EDEN (ICML 2022).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    >>> error = x - fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.Drive(), x))
    >>> bool(0.3 < (error @ error) / (x @ x) < 0.42)
    True
    """

    bits: int = 1
    unbiased: bool = False
    code, name, family = 11, "drive", "rotation"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", count(self.bits, "bits", 1, 4))

    def contraction(self, n: int) -> float | None:
        return 0.5 if self.bits == 1 and not self.unbiased else None

    def _fields(self, n: int) -> tuple[int, int, int]:
        return int(self.unbiased), self.bits, 0

    def padded(self, n: int) -> int:
        """Coordinates of whole blocks: the last block is filled up to a power of two."""
        rest = n % DRIVE_BLOCK
        return n - rest + (1 << (rest - 1).bit_length() if rest else 0)

    def _length(self, n: int, a: int, b: int) -> int:
        return _STREAM + 4 * -(-n // DRIVE_BLOCK) + -(-self.padded(n) * self.bits // 8)

    @classmethod
    def _read(cls, header: Header) -> Codec:
        return cls(header.a, bool(header.option))

    def _reach(self, n: int) -> float:
        return 4.0 * DRIVE_BLOCK


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
        return _STREAM + 4 * self.rows * self.cols

    @classmethod
    def _read(cls, header: Header) -> Codec:
        return cls(header.a, header.b)

    def _reach(self, n: int) -> float:
        return 1.0 + n


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
    iteration; `encode` starts from normal numbers of (seed, step). Columns that vanish are drawn anew, so factors are
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


CODECS: dict[int, type[Codec]] = {kind.code: kind for kind in (
    Identity, TopK, RandK, Threshold, Sign, OneBit, QSGD, TernGrad, Natural, Int8, FP8, Drive, CountSketch, PowerSGD)}
