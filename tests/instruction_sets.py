"""The instruction sets that the C core has clones for, one after another on this CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fastgd._native import lib

LEVELS = range(lib.fgd_isa_best() + 1)  #: those of this CPU; names: fastgd._native.ISA_LEVELS


@contextlib.contextmanager
def instruction_set(level: int) -> Iterator[None]:
    """The kernels of one level, within a `with`."""
    before = lib.fgd_isa_current()
    lib.fgd_isa_use(level)
    try:
        yield
    finally:
        lib.fgd_isa_use(before)
