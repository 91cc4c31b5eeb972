"""What the semi-dual's kernels tell the step that drives them."""

from __future__ import annotations

from typing import NamedTuple


class Trial(NamedTuple):
    """Potentials that are not held yet: g + step x, and f by exact rows."""

    error: float  #: |P'1 - b|_1
    change: float  #: of F, against the potentials held
    noise: float  #: how uncertain that is, by rounding


class Direction(NamedTuple):
    """x, which the kernels keep."""

    iterations: int  #: conjugate gradients
    slope: float  #: of F along x
    longest: float  #: max |x|
