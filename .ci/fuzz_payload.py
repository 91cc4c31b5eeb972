"""Coverage-guided fuzzing of the payload decoder: `python .ci/fuzz_payload.py -max_total_time=60` (needs atheris).

Half of the inputs get a right checksum, so that the mutations reach what lies behind it. Anything but ValueError ends the run.
"""

from __future__ import annotations

import sys
import zlib

import atheris
import numpy as np

with atheris.instrument_imports():
    from fastgd import compress


def seeds() -> list[bytes]:
    """A payload of every codec."""
    x = np.linspace(-2.0, 3.0, 70, dtype=np.float32)
    codecs = [compress.Identity(), compress.TopK(5), compress.TopK(5, bits=8), compress.RandK(4), compress.Threshold(2.5),
              compress.Sign(), compress.OneBit(), compress.QSGD(3, 16), compress.TernGrad(), compress.Natural(),
              compress.Int8(32), compress.FP8("e4m3", 32), compress.FP8("e5m2", 32), compress.Drive(), compress.Drive(3),
              compress.CountSketch(3, 8), compress.PowerSGD(2, (7, 10))]
    return [compress.encode(codec, x).tobytes() for codec in codecs]


SEEDS = seeds()


def one(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    base = bytearray(SEEDS[provider.ConsumeIntInRange(0, len(SEEDS) - 1)])
    for _ in range(provider.ConsumeIntInRange(0, 8)):
        base[provider.ConsumeIntInRange(0, len(base) - 1)] = provider.ConsumeIntInRange(0, 255)
    payload = base + provider.ConsumeBytes(16) if provider.ConsumeBool() else base[: provider.ConsumeIntInRange(0, len(base))]
    if provider.ConsumeBool() and len(payload) >= 32:
        payload[24:28] = (len(payload) - 32).to_bytes(4, "little")
        payload[28:32] = zlib.crc32(payload[32:], zlib.crc32(payload[:28])).to_bytes(4, "little")
    try:
        decoded = compress.decode(bytes(payload), max_n=10_000)
    except ValueError:
        return
    if not np.isfinite(decoded).all():
        raise AssertionError(f"not finite: {payload.hex()}")
    compress.decode_add([bytes(payload)], np.zeros(len(decoded), np.float32), scale=0.5)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
