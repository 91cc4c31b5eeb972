"""The codecs that keep one bit a coordinate."""

from __future__ import annotations

from dataclasses import dataclass

from ..codec import Codec


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
