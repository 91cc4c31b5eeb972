"""What the kernels of all codecs are handed: a vector, what is remembered between steps, and the streams of random numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

#: How a codec's input p comes about and what becomes of the memory (csrc/compress.h): p = x; p = memory + x, then memory =
#: p - C(p); p = x - memory, then memory += C(p).
PLAIN, FEEDBACK, DIFFERENCE = 0, 1, 2

_MASK = 2**64 - 1


class Vector(NamedTuple):
    """One dimension, contiguous; bfloat16 as 16-bit patterns."""

    data: Any
    dtype: str


class Stream(NamedTuple):
    """Random numbers of one step: those that all workers share, and the seed of this worker's rounding."""

    seed: int
    step: int
    rounding: int


def stream(seed: int, step: int, rank: int) -> Stream:
    """The streams of a step: rounding is independent between ranks, all else is common to them."""
    return Stream(seed, step, (seed + _finalise(rank)) & _MASK)


def _finalise(z: int) -> int:
    """The finaliser of SplitMix64; 0 for 0, so rank 0 rounds with the seed itself."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


@dataclass
class State:
    """What a codec's kernel remembers: the vector, and small things of its own."""

    memory: np.ndarray | None = None  #: (n,) float32; None for a single vector
    extra: dict[str, Any] = field(default_factory=dict)  #: numbers and arrays, as in a checkpoint
