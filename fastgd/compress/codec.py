"""What a codec is: a description, frozen and hashable. The arithmetic is in the kernels and, byte by byte, in docs/wire.md.

Notation: C(x) is what `decode` makes of `encode(x)`; epsilon-contractive means E||x - C(x)||^2 <= epsilon ||x||^2;
omega-unbiased means E C(x) = x and E||x - C(x)||^2 <= omega ||x||^2. Bounds are for exact arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._checks import count
from .wire import MAX_BODY, SIZE, Header

STREAM_BYTES = 16  #: of a seed and a step, where a body begins with them


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


class Bucketed(Codec):
    bucket: int

    def _check_bucket(self) -> None:
        object.__setattr__(self, "bucket", count(self.bucket, "bucket", 1, 2**20))

    def _buckets(self, n: int) -> int:
        return -(-n // self.bucket)

    def _size(self, n: int) -> int:
        return max(1, min(self.bucket, n))
