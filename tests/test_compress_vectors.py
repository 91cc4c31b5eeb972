"""The test vectors of docs/wire.md: the bytes on record are those of every backend and instruction set."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fastgd import _native, compress

TEXT = (Path(__file__).parent.parent / "docs" / "wire.md").read_text()
VECTORS = [(name, "".join(lines.split()), decoded) for name, lines, decoded in
           re.findall(r"^    (\w+\(.*\))\n((?:      [0-9a-f]+\n)+)      = (.*)$", TEXT, re.MULTILINE)]
X = np.array([1.5, -0.25, 0.0, -3.0, 0.75, 2.0, -1.0, 0.5, 8.0], np.float32)


def test_every_codec_has_a_vector() -> None:
    assert {name.partition("(")[0] for name, _, _ in VECTORS} == {kind.__name__ for kind in compress.codecs.CODECS.values()}


@pytest.mark.parametrize("name, expected, decoded", VECTORS, ids=[name for name, _, _ in VECTORS])
def test_vector(name: str, expected: str, decoded: str) -> None:
    codec = eval(name, vars(compress))
    current = _native.lib.fgd_isa_current()
    try:
        for backend, level in (("reference", 0), *(("cpu", level) for level in range(_native.lib.fgd_isa_best() + 1))):
            _native.lib.fgd_isa_use(level)
            assert compress.encode(codec, X, seed=7, step=3, backend=backend).tobytes() == bytes.fromhex(expected)
            assert " ".join(f"{value:.9g}" for value in compress.decode(bytes.fromhex(expected), backend=backend)) == decoded
    finally:
        _native.lib.fgd_isa_use(current)
