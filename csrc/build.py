"""Describes the extension `fastgd._c` to cffi: what stands between the cdef marks of fastgd.h and the rooms' headers, every
csrc/*.c.
"""

import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent

# Strict IEEE semantics: no contraction (the same bits with and without FMA units), no reassociation, no flush-to-zero.
# -fno-math-errno and -fno-trapping-math drop errno and exception flags only; both keep every value.
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
         "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]

# E.g. "address,undefined". The portable code alone, as for other processors: what x86's instruction sets do differently stands in
# intrinsics, into which the sanitizers do not look, and all of them watched take minutes to compile.
sanitizers = os.environ.get("FASTGD_SANITIZE", "")
extra = ["-DFGD_PORTABLE", "-g", "-O1", "-fno-omit-frame-pointer", f"-fsanitize={sanitizers}",
         "-ftrivial-auto-var-init=pattern"] if sanitizers else []

# A room's header of its own: editing it recompiles that room alone.
headers = [HERE / "fastgd.h", *sorted(HERE.glob("*_api.h"))]
ffi = FFI()
for header in headers:
    ffi.cdef(re.search(r"/\* cdef begin \*/(.*)/\* cdef end \*/", header.read_text(), re.DOTALL).group(1))
ffi.set_source(
    "fastgd._c",
    "\n".join(f'#include "{header.name}"' for header in headers),
    sources=[os.path.relpath(path, HERE.parent) for path in sorted(HERE.glob("*.c"))],
    depends=[str(path) for path in sorted(HERE.glob("*.h"))],
    include_dirs=[str(HERE)],
    extra_compile_args=FLAGS + extra,
    extra_link_args=[f"-fsanitize={sanitizers}"] if sanitizers else [],
)
