"""The compiled core `fastgd._c`, set to the instruction set that FASTGD_ISA asks for."""

from __future__ import annotations

import os

from ._c import ffi, lib

__all__ = ["ISA_LEVELS", "ffi", "lib"]

#: Names of the clones' levels (csrc/isa.h): index = level.
ISA_LEVELS = ("default", "v3", "v4")

_wanted = os.environ.get("FASTGD_ISA")
if _wanted:
    if _wanted not in ISA_LEVELS:
        raise ValueError(f"the environment variable FASTGD_ISA must be one of {', '.join(ISA_LEVELS)}, got {_wanted!r}")
    if ISA_LEVELS.index(_wanted) > lib.fgd_isa_best():
        raise ValueError(f"FASTGD_ISA={_wanted}, but this CPU or build offers {ISA_LEVELS[lib.fgd_isa_best()]} at most")
    lib.fgd_isa_use(ISA_LEVELS.index(_wanted))
