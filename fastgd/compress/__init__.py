"""Gradient compression: few bytes for a vector, error feedback for what they lack, and a wire format that can be trusted.

The room in one idea
--------------------
A codec C keeps little of a vector; error feedback adds to the next vector what it left out, so nothing is lost, only
late. Each step is one pass over the gradient and the memory: the kernel makes p, codes it, and keeps p - C(p) while the block
is in the first-level cache.

* *Codecs* say what is kept: few coordinates (`TopK`, `RandK`, `Threshold`), one bit each (`Sign`, `OneBit`), few levels (`QSGD`,
  `TernGrad`, `Natural`, `Int8`, `FP8`), a rotation and few bits (`Drive`), a hashed table (`CountSketch`), low rank (`PowerSGD`).
* *One vector*: `encode`, `decode`; `decode_add` sums the payloads of many workers in one pass, `majority_vote` counts signs.
* *Many steps*: `ErrorFeedback` sends C(e + g) and keeps e = e + g - C(e + g), always the worker's own error; `EF21` sends
  C(g - d) and moves d by it. `EControl` and `DGC` are variants.
* `rates` has the step sizes and the rates that theory proves for them.

Notation
--------
=========== ================================================================================================
``n``       coordinates of a vector
``x``, ``g``  a vector, a gradient
``C(x)``    what the receiver decodes
``p``       what is compressed: e + g, or g - d
``e``       the memory of error feedback, float32       [Seide et al. 2014; Karimireddy et al. 2019]
``d``       the estimate of EF21, float32               [Richtarik, Sokolov, Fatkhullin 2021]
``epsilon`` E||x - C(x)||^2 <= epsilon ||x||^2, epsilon < 1: a contraction
``omega``   the same for unbiased codecs, E C(x) = x
=========== ================================================================================================

Vectors are float32, float16 or bfloat16, one dimension, on the host or on the GPU; memories are float32 whatever
the gradient is. A payload is a uint8 array (docs/wire.md has every byte): a header that says what it is, with a checksum, then
the body. `decode` believes nothing and fails with ValueError.

NaN and Inf. A gradient with one is a ValueError, before anything changes; `nonfinite="zero"` takes it as 0, and "propagate"
skips the scan.

Determinism: payload bytes and memories have the same bits for every number of threads, every instruction set, and on a GPU.

Where things are
----------------
=================== ==========================================================================================
public functions    `coding.py` (encode, decode), `feedback.py` (ErrorFeedback, EF21), `variants.py` (EControl, DGC), `rates.py`
codecs              a folder for each family (`sparse`, `signs`, `levels`, `rotation`, `sketches`, `lowrank`): `codecs.py` says
                    what they are, `reference.py` is the oracle (plain NumPy), `cpu.py` the front of csrc/compress_*.c; what
                    belongs to no family is in `codec.py`, `codecs.py`, `reference.py` and `cpu.py` here
on the GPU          `device.py` (memory, launches, headers), `cuda.py` (the front), `cuda_kernels.py` (what kernels share),
                    `cuda_checksum.py`; each family's `cuda.py`
the format          `wire.py`; docs/wire.md
behind them         `memory.py` (steps and checkpoints), `state.py` (what kernels are handed), `calls.py` (how they call C),
                    `common.py` (sums and memories of the oracles), `host_variants.py` and `cuda_variants.py` (the
                    elementwise work of EControl and DGC)
the benchmark       `cases.py`, `peers.py`
=================== ==========================================================================================
"""

from .._dispatch import register, runs
from . import codecs as _codecs

_BACKENDS, _DTYPES = ("cpu", "reference", "cuda"), ("float32", "float16", "bfloat16")
for _kind in _codecs.CODECS.values():
    register("compress", (_kind.name,), _BACKENDS, _DTYPES, folder=_kind.family)
    runs(f"compress.{_kind.name}")(_kind)
register("compress", ("largest",), _BACKENDS, _DTYPES)
register("compress", ("decode", "check"), _BACKENDS, ("float32",))
register("compress", ("vote",), _BACKENDS, ("float32",), folder="signs")

from . import rates as rates  # noqa: E402  (the rows above must stand in the table first)
from .codecs import (  # noqa: E402
    FP8,
    QSGD,
    CountSketch,
    Drive,
    Identity,
    Int8,
    Natural,
    OneBit,
    PowerSGD,
    RandK,
    Sign,
    TernGrad,
    Threshold,
    TopK,
)
from .coding import decode, decode_add, encode, majority_vote  # noqa: E402
from .feedback import EF21, ErrorFeedback  # noqa: E402
from .variants import DGC, EControl  # noqa: E402

__all__ = [
    "DGC", "EF21", "FP8", "QSGD", "CountSketch", "Drive", "EControl", "ErrorFeedback", "Identity", "Int8", "Natural",
    "OneBit", "PowerSGD", "RandK", "Sign", "TernGrad", "Threshold", "TopK", "decode", "decode_add", "encode", "majority_vote",
    "rates",
]
