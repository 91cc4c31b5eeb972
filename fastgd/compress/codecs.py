"""All codecs, and the one that a header names."""

from __future__ import annotations

from functools import lru_cache

from .codec import Codec, Identity
from .levels.codecs import FP8, QSGD, Int8, Natural, TernGrad
from .lowrank.codecs import PowerSGD
from .rotation.codecs import DRIVE_BLOCK, Drive
from .signs.codecs import OneBit, Sign
from .sketches.codecs import CountSketch
from .sparse.codecs import VALUES_BUCKET, RandK, Threshold, TopK
from .wire import Header

__all__ = [
    "CODECS", "DRIVE_BLOCK", "FP8", "QSGD", "VALUES_BUCKET", "Codec", "CountSketch", "Drive", "Identity", "Int8", "Natural",
    "OneBit", "PowerSGD", "RandK", "Sign", "TernGrad", "Threshold", "TopK", "from_header",
]

#: By their numbers on the wire.
CODECS: dict[int, type[Codec]] = {kind.code: kind for kind in (
    Identity, TopK, RandK, Threshold, Sign, OneBit, QSGD, TernGrad, Natural, Int8, FP8, Drive, CountSketch, PowerSGD)}


@lru_cache(maxsize=256)
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
