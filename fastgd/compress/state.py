"""What the kernels of all codecs are handed: a vector, what is remembered between steps, and the streams of random numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

#: How a codec's input p comes about and what becomes of the memory (csrc/compress.h): p = x; p = memory + x, then memory =
#: p - C(p); p = x - memory, then memory += C(p).
PLAIN, FEEDBACK, DIFFERENCE = 0, 1, 2

_MASK = 2**64 - 1


class Vector:
    """One dimension, contiguous; bfloat16 as 16-bit patterns."""

    __slots__ = ("data", "dtype", "native")

    def __init__(self, data: Any, dtype: str) -> None:
        self.data, self.dtype = data, dtype
        self.native: Any = None  #: the struct of csrc/compress_api.h, once a CPU kernel needed it (calls.py)


class Stream(NamedTuple):
    """Random numbers of one step: those that all workers share, and the seed of this worker's rounding."""

    seed: int
    step: int
    rounding: int


def stream(seed: int, step: int, rank: int) -> Stream:
    """The streams of a step: rounding is independent between ranks, all else is common to them."""
    return Stream(seed, step, (seed + _finalise(rank)) & _MASK)


@lru_cache(maxsize=64)
def _finalise(z: int) -> int:
    """The finaliser of SplitMix64; 0 for 0, so rank 0 rounds with the seed itself."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


class Room(dict[str, Any]):
    """Structs and scratch memory that a CPU kernel keeps from step to step. No result depends on them: copies begin empty."""

    def __reduce__(self) -> tuple[type[Room], tuple[()]]:
        return Room, ()


class State:
    """What a codec's kernel remembers: the vector, and small things of its own."""

    __slots__ = ("extra", "memory", "room")

    def __init__(self, memory: np.ndarray | None = None, extra: dict[str, Any] | None = None) -> None:
        self.memory = memory  #: (n,) float32; None for a single vector
        self.extra = {} if extra is None else extra  #: numbers and arrays, as in a checkpoint
        self.room = Room()
