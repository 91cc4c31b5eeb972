"""Payloads as bytes: the layout of docs/wire.md, and payloads that no encoder writes."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compress_calls import LARGEST, codecs, every_codec, normal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastgd import compress

HEADER = struct.Struct("<4sBBBBQIIII")


def sealed(body: bytes = b"", codec: int = 0, option: int = 0, n: int = 0, a: int = 0, b: int = 0, *, magic: bytes = b"FGDC",
           version: int = 1, zero: int = 0, length: int | None = None) -> bytes:
    """A payload with a right checksum, whatever it says."""
    length = len(body) if length is None else length
    head = HEADER.pack(magic, version, codec, option, zero, n, a, b, length, 0)[:28]
    return head + struct.pack("<I", zlib.crc32(head + body)) + body


def resealed(payload: bytes) -> bytes:
    """The same bytes with the checksum that fits them."""
    return payload[:28] + struct.pack("<I", zlib.crc32(payload[:28] + payload[32:])) + payload[32:]


def refused(payload: Any, **options: Any) -> None:
    """ValueError from everything that reads payloads, nothing large allocated, `out` as it was."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            compress.decode(payload, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300_000 + 8 * len(payload)
    out = np.ones(10, np.float32)
    for call in (lambda: compress.decode_add([payload], out), lambda: compress.majority_vote([payload])):
        with pytest.raises(ValueError):
            call()
    assert np.all(out == 1)


def survives(payload: bytes, limit: int = 5000) -> np.ndarray | None:
    """A decoded vector, finite and no longer than `limit`; None where the payload was refused."""
    try:
        x = compress.decode(payload, max_n=limit)
    except ValueError:
        return None
    assert x.dtype == np.float32 and x.ndim == 1 and len(x) <= limit and np.isfinite(x).all()
    return x


# --------------------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize(
    "codec, code, option, a, b, body",
    [
        (compress.Identity(), 0, 0, 0, 0, 4000),
        (compress.TopK(10), 1, 0, 10, 0, 80),
        (compress.TopK(ratio=0.0101), 1, 0, 11, 0, 88),
        (compress.TopK(600, bits=8), 1, 1, 600, 0, 4 * 600 + 4 * 2 + 600),
        (compress.TopK(2000), 1, 0, 1000, 0, 8000),
        (compress.RandK(10), 2, 0, 10, 0, 16 + 40),
        (compress.RandK(10, scaled=True), 2, 1, 10, 0, 16 + 40),
        (compress.Threshold(1e9), 3, 0, 0, 0, 0),
        (compress.Threshold(0.0), 3, 0, 1000, 0, 8000),
        (compress.Sign(), 4, 0, 0, 0, 4 + 125),
        (compress.OneBit(), 5, 0, 0, 0, 8 + 125),
        (compress.QSGD(), 6, 0, 512, 127, 8 + 1000),
        (compress.QSGD(4, 300, "l2"), 6, 1, 300, 4, 16 + 500),
        (compress.QSGD(1), 6, 0, 512, 1, 8 + 250),
        (compress.QSGD(3, 1000), 6, 0, 1000, 3, 4 + 375),
        (compress.TernGrad(), 7, 0, 0, 0, 4 + 250),
        (compress.Natural(), 8, 0, 0, 0, 1000 + 125),
        (compress.Int8(), 9, 0, 512, 0, 8 + 1000),
        (compress.Int8(7, True), 9, 1, 7, 0, 4 * 143 + 1000),
        (compress.FP8(), 10, 0, 512, 0, 8 + 1000),
        (compress.FP8("e5m2", 100), 10, 1, 100, 0, 40 + 1000),
        (compress.Drive(), 11, 0, 1, 0, 16 + 4 + 128),
        (compress.Drive(3, True), 11, 1, 3, 0, 16 + 4 + 384),
        (compress.CountSketch(5, 70), 12, 0, 5, 70, 16 + 1400),
        (compress.PowerSGD(2, (25, 40)), 13, 0, 2, 40, 4 * 2 * 65),
    ],
    ids=str,
)
def test_header(codec, code: int, option: int, a: int, b: int, body: int) -> None:
    payload = compress.encode(codec, normal(1000), seed=2**63 + 5, step=77)
    assert payload.dtype == np.uint8 and payload.ndim == 1
    raw = payload.tobytes()
    assert HEADER.unpack(raw[:32])[:-1] == (b"FGDC", 1, code, option, 0, 1000, a, b, body)
    assert len(raw) == 32 + body <= codec.max_nbytes(1000)
    assert struct.unpack_from("<I", raw, 28)[0] == zlib.crc32(raw[:28] + raw[32:])
    if code in (2, 11, 12):
        assert struct.unpack_from("<QII", raw, 32) == (2**63 + 5, 77, 0)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


@pytest.mark.parametrize(
    "codec, x, option, a, b, body",
    [
        (compress.Identity(), [1.0, -0.0], 0, 0, 0, floats(1.0, -0.0)),
        (compress.TopK(2), [0.5, -3.0, 1.0, 2.0], 0, 2, 0, words(1, 3) + floats(-3.0, 2.0)),
        (compress.TopK(2, bits=8), [0.5, -254.0, 1.0, 3.0], 1, 2, 0, words(1, 3) + floats(2.0) + struct.pack("<bb", -127, 2)),
        (compress.TopK(0), [1.0], 0, 0, 0, b""),
        (compress.Threshold(1.0), [0.5, -3.0, 1.0], 0, 2, 0, words(1, 2) + floats(-3.0, 1.0)),
        (compress.Sign(), [1.0, -3.0, 0.0, -0.0, -4.0], 0, 0, 0, floats(1.6) + bytes([0b10010])),
        (compress.Sign(), [-1.0] * 9, 0, 0, 0, floats(1.0) + bytes([255, 1])),
        (compress.OneBit(), [1.0, 2.0, -3.0], 0, 0, 0, floats(1.5, -3.0) + bytes([0b100])),
        (compress.QSGD(2), [1.0, -0.5, 0.0], 0, 512, 2, floats(0.5) + bytes([4 | 1 << 3 | (2 & 3) << 6, 2 >> 2])),
        (compress.QSGD(1), [0.0] * 5, 0, 512, 1, floats(0.0) + bytes([0b01010101, 0b01])),
        (compress.TernGrad(), [2.0, -2.0, 0.0, 2.0, 2.0], 0, 0, 0, floats(2.0) + bytes([1 | 2 << 2 | 1 << 6, 1])),
        (compress.Natural(), [0.5, -8.0, 0.0], 0, 0, 0, bytes([126, 130, 0, 0b010])),
        (compress.Int8(), [127.0, -64.4, 0.5, 1.5], 0, 512, 0, floats(1.0) + struct.pack("<4b", 127, -64, 0, 2)),
        (compress.Int8(2, True), [127.0, -64.0, 254.0], 1, 2, 0, floats(1.0, 2.0) + struct.pack("<3b", 127, -64, 127)),
        (compress.FP8(), [448.0, -17.0, 1.0], 0, 512, 0, floats(1.0) + bytes([0x7E, 0xD8, 0x38])),
        (compress.FP8("e5m2"), [57344.0, 1.0, -2.0], 1, 512, 0, floats(1.0) + bytes([0x7B, 0x3C, 0xC0])),
        (compress.RandK(1), [7.0], 0, 1, 0, struct.pack("<QII", 0, 0, 0) + floats(7.0)),
        (compress.CountSketch(1, 1), [3.0], 0, 1, 1, None),
    ],
    ids=str,
)
def test_bytes_by_hand(codec, x: list[float], option: int, a: int, b: int, body: bytes | None) -> None:
    """Whole payloads worked out from docs/wire.md."""
    payload = compress.encode(codec, np.array(x, np.float32)).tobytes()
    if body is None:  # a sign that a hash decides
        value = struct.unpack_from("<f", payload, 48)[0]
        assert abs(value) == 3.0
        body = struct.pack("<QII", 0, 0, 0) + floats(value)
    assert payload == sealed(body, codec.code, option, len(x), a, b)
    assert compress.decode(payload).shape == (len(x),)


def test_randk_sends_each_value_once() -> None:
    x = np.arange(1, 38, dtype=np.float32)
    payload = compress.encode(compress.RandK(37), x, seed=3)
    values = np.frombuffer(payload.tobytes(), "<f4", offset=48)
    assert sorted(values.tolist()) == x.tolist() and values.tolist() != x.tolist()
    np.testing.assert_array_equal(compress.decode(payload), x)
    few = compress.decode(compress.encode(compress.RandK(9), x, seed=3))
    np.testing.assert_array_equal(np.flatnonzero(few), np.sort(values[:9].astype(int) - 1))  # a prefix of the same order


@every_codec
def test_max_nbytes(codec) -> None:
    for n in (1000,) if isinstance(codec, compress.PowerSGD) else (0, 1, 33, 1000):
        assert len(compress.encode(codec, normal(n))) <= codec.max_nbytes(n)
        full = compress.encode(codec, np.full(n, 3.0, np.float32))
        assert len(full) == codec.max_nbytes(n)
    if not isinstance(codec, compress.TopK | compress.RandK | compress.CountSketch):
        with pytest.raises(ValueError):
            codec.max_nbytes(2**36)
    with pytest.raises(ValueError):
        codec.max_nbytes(-1)


# ----------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 1000])
def test_round_trips(n: int) -> None:
    x = normal(n)
    for codec in codecs(n):
        before = x.copy()
        payload = compress.encode(codec, x, seed=7, step=3)
        np.testing.assert_array_equal(x, before)
        c = compress.decode(payload, n=n)
        assert c.shape == (n,) and c.dtype == np.float32 and np.isfinite(c).all(), codec
        assert compress.encode(codec, x, seed=7, step=3).tobytes() == payload.tobytes(), codec
        for same in (payload.tobytes(), bytearray(payload), memoryview(payload.tobytes()), np.repeat(payload, 2)[::2],
                     np.concatenate([payload[:3], payload])[3:]):
            np.testing.assert_array_equal(compress.decode(same), c)
        bound = codec.contraction(n)
        if bound is not None and not isinstance(codec, compress.RandK | compress.Drive) and codec.variance(n) is None:
            assert np.sum((x.astype(float) - c) ** 2) <= (bound + 1e-5) * np.sum(x.astype(float) ** 2) + 1e-30, codec


HOSTILE = {
    "zero": np.zeros(70), "negative zero": np.full(70, -0.0), "equal": np.full(70, -0.7), "largest": np.full(70, LARGEST),
    "both largest": np.where(np.arange(70) % 2, LARGEST, -LARGEST), "smallest": np.full(70, 2.0**-149),
    "subnormal": normal(70) * np.float32(1e-40), "huge and tiny": np.where(np.arange(70) == 3, 1e38, 1e-38),
    "one-hot": np.eye(70)[11] * -1e30, "powers": np.ldexp(1.0, np.arange(70) - 35),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_vectors(name: str) -> None:
    """What is finite decodes to what is finite, and zero to zero; a refusal may only be for a scaled value beyond float32."""
    x = HOSTILE[name].astype(np.float32)
    for codec in [*codecs(70), compress.PowerSGD(3, (7, 10))]:
        try:
            c = compress.decode(compress.encode(codec, x))
        except ValueError:
            assert "largest" in name and (isinstance(codec, compress.RandK) and codec.scaled), codec
            continue
        assert np.isfinite(c).all(), codec
        if "zero" in name:
            assert not c.any(), codec
        if isinstance(codec, compress.Identity):
            assert (c.view(np.uint32) == x.view(np.uint32)).all()
        for kind in (compress.ErrorFeedback, compress.EF21):
            worker = kind(codec, 70)
            for _ in range(3):
                try:
                    assert np.isfinite(compress.decode(worker.compress(x))).all()
                except ValueError:
                    assert np.abs(x).max() > 1e35, codec  # a memory that might overflow is refused before it does
                memory = worker.residual() if kind is compress.ErrorFeedback else worker.estimate()
                assert np.isfinite(memory).all(), codec


@pytest.mark.parametrize("n", [1, 5, 100])
def test_few_many_and_no_coordinates_kept(n: int) -> None:
    x = normal(n)
    for k in (0, n, n + 1, 2**32 - 1):
        for codec in (compress.TopK(k), compress.RandK(k), compress.TopK(k, bits=8)):
            c = compress.decode(compress.encode(codec, x))
            if k == 0:
                assert not c.any()
            elif codec == compress.TopK(k, bits=8):
                np.testing.assert_allclose(c, x, atol=np.abs(x).max() / 250)
            else:
                np.testing.assert_array_equal(c, x)
    assert not compress.decode(compress.encode(compress.RandK(0, scaled=True), x)).any()
    assert np.count_nonzero(compress.decode(compress.encode(compress.TopK(ratio=1e-9), x))) == 1


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: compress.TopK(), ValueError), (lambda: compress.TopK(1, 0.5), ValueError),
        (lambda: compress.TopK(-1), ValueError), (lambda: compress.TopK(1.5), TypeError),
        (lambda: compress.TopK(ratio=0.0), ValueError), (lambda: compress.TopK(ratio=1.1), ValueError),
        (lambda: compress.TopK(1, bits=16), ValueError), (lambda: compress.RandK(2**32), ValueError),
        (lambda: compress.Threshold(-1.0), ValueError), (lambda: compress.Threshold(float("nan")), ValueError),
        (lambda: compress.QSGD(0), ValueError), (lambda: compress.QSGD(128), ValueError),
        (lambda: compress.QSGD(norm="l1"), ValueError), (lambda: compress.Int8(bucket=0), ValueError),
        (lambda: compress.FP8("e3m4"), ValueError), (lambda: compress.Drive(5), ValueError),
        (lambda: compress.Drive(0), ValueError), (lambda: compress.CountSketch(0, 5), ValueError),
        (lambda: compress.PowerSGD(0, (3, 3)), ValueError), (lambda: compress.PowerSGD(4, (3, 9)), ValueError),
        (lambda: compress.PowerSGD(1, 9), TypeError),
        (lambda: compress.encode(compress.PowerSGD(1, (3, 3)), normal(8)), ValueError),
        (lambda: compress.encode(compress.Sign, normal(8)), TypeError), (lambda: compress.encode("sign", normal(8)), TypeError),
        (lambda: compress.encode(compress.Sign(), normal(8).reshape(2, 4)), ValueError),
        (lambda: compress.encode(compress.Sign(), [1.0, 2.0]), TypeError),
        (lambda: compress.encode(compress.Sign(), np.arange(5)), (TypeError, ValueError)),
        (lambda: compress.encode(compress.Sign(), normal(8), seed=-1), ValueError),
        (lambda: compress.encode(compress.Sign(), normal(8), seed=2**64), ValueError),
        (lambda: compress.encode(compress.Sign(), normal(8), step=2**32), ValueError),
        (lambda: compress.encode(compress.Sign(), normal(8), seed=0.5), TypeError),
        (lambda: compress.encode(compress.Sign(), normal(8), nonfinite="ignore"), ValueError),
        (lambda: compress.ErrorFeedback(compress.Sign(), -1), ValueError),
        (lambda: compress.ErrorFeedback(compress.Sign(), 8, rank=-1), ValueError),
        (lambda: compress.EF21(compress.PowerSGD(1, (3, 3)), 8), ValueError),
    ],
)  # fmt: skip
def test_wrong_arguments(call: Callable[[], Any], error: Any) -> None:
    with pytest.raises(error):
        call()


@every_codec
def test_half_precision(codec) -> None:
    """Payloads of float16 and bfloat16 vectors are those of the same values in float32."""
    x = normal(1000).astype(np.float16)
    expected = compress.encode(codec, x.astype(np.float32), step=4).tobytes()
    assert compress.encode(codec, x, step=4).tobytes() == expected
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = normal(1000).astype(ml_dtypes.bfloat16)
    expected = compress.encode(codec, x.astype(np.float32), step=4).tobytes()
    assert compress.encode(codec, x, step=4).tobytes() == expected
    wide, narrow = compress.ErrorFeedback(codec, 1000), compress.ErrorFeedback(codec, 1000)
    for _ in range(3):
        assert narrow.compress(x).tobytes() == wide.compress(x.astype(np.float32)).tobytes()
    assert narrow.residual().dtype == np.float32
    np.testing.assert_array_equal(narrow.residual(), wide.residual())


@every_codec
def test_strides_do_not_matter(codec) -> None:
    x = normal(2000)
    assert compress.encode(codec, x[::2]).tobytes() == compress.encode(codec, x[::2].copy()).tobytes()
    assert compress.encode(codec, x[999::-1]).tobytes() == compress.encode(codec, x[999::-1].copy()).tobytes()


# ------------------------------------------------------------------------------------------------ hostile payloads

PAYLOADS = [compress.encode(codec, normal(n, seed=n)).tobytes() for n in (1, 44, 1000) for codec in codecs(n)]


def test_every_truncation_is_refused() -> None:
    for payload in PAYLOADS:
        for length in {*range(min(70, len(payload))), len(payload) // 2, len(payload) - 1}:
            assert survives(payload[:length]) is None
            # cut, and the header made to fit
            if length >= 32:
                cut = resealed(payload[:24] + words(length - 32) + payload[28:length])
                if payload[5] != 3:  # a shorter Threshold is another Threshold, but for its count
                    assert survives(cut) is None


def test_every_flipped_bit_is_refused() -> None:
    for payload in PAYLOADS:
        bits = range(8 * len(payload)) if len(payload) < 120 else [*range(0, 8 * len(payload), 131), *range(256)]
        for bit in bits:
            flipped = bytearray(payload)
            flipped[bit // 8] ^= 1 << bit % 8
            assert survives(bytes(flipped)) is None


def test_every_extension_is_refused() -> None:
    for payload in PAYLOADS:
        for more in (b"\0", b"\0" * 8, payload):
            assert survives(payload + more) is None
            assert survives(resealed(payload[:24] + words(len(payload) - 32 + len(more)) + payload[28:] + more)) is None


@pytest.mark.parametrize("n", [2**28 + 1, 2**31, 2**32, 2**40, 2**60, 2**62, 2**63, 2**64 - 1])
def test_counts_beyond_belief(n: int) -> None:
    """A right checksum and a right length do not help: n is refused before anything of its size is made."""
    for code in range(14):
        for body in (b"", bytes(4), bytes(8), bytes(20), bytes(64)):
            for a, b in ((0, 0), (1, 0), (1, 1), (2**32 - 1, 0), (2**32 - 1, 2**32 - 1), (512, 127), (1, 2**31 - 1), (255, 4)):
                for option in (0, 1):
                    assert survives(sealed(body, code, option, n, a, b), 2**28) is None
    refused(sealed(words(0) + floats(1.0), 1, 0, n, 1))  # TopK of one value: all right but n
    refused(sealed(struct.pack("<QII", 0, 0, 0) + floats(1.0), 12, 0, n, 1, 1))
    refused(sealed(floats(1.0, 1.0), 13, 0, n, 1, 1, length=(4 * n + 4) % 2**32))
    with pytest.raises(ValueError):
        compress.decode(sealed(words(0) + floats(1.0), 1, 0, n, 1), n=10)


@pytest.mark.parametrize(
    "fields",
    [
        {"magic": b"FGDD"}, {"magic": b"\0\0\0\0"}, {"version": 0}, {"version": 2}, {"version": 255}, {"zero": 1},
        {"codec": 14}, {"codec": 255}, {"length": 0}, {"length": 2**32 - 1}, {"length": 5},
    ],
)  # fmt: skip
def test_wrong_headers(fields: dict[str, Any]) -> None:
    good = {"body": floats(1.0, 2.0), "codec": 0, "n": 2}
    assert survives(sealed(**good)) is not None
    refused(sealed(**{**good, **fields}))


STREAM = struct.pack("<QII", 0, 0, 0)


@pytest.mark.parametrize(
    "payload",
    [
        sealed(floats(1.0), 0, 1, 1), sealed(floats(1.0), 0, 0, 1, 1), sealed(floats(1.0), 0, 0, 1, 0, 1),  # unused fields
        sealed(words(0) + floats(1.0), 1, 2, 5, 1), sealed(words(0) + floats(1.0), 1, 0, 5, 1, 1),
        sealed(words(0, 1) + floats(1, 1), 1, 0, 1, 2), sealed(b"", 1, 0, 1, 2**32 - 1),  # k > n
        sealed(words(0) + floats(1.0), 1, 0, 5, 2), sealed(words(0) + floats(1.0), 1, 1, 5, 1),  # k and length disagree
        sealed(STREAM + floats(1, 1), 2, 0, 1, 2), sealed(STREAM + floats(1.0), 2, 2, 5, 1), sealed(STREAM[1:], 2, 0, 5, 0),
        sealed(words(0, 1) + floats(1, 1), 3, 0, 1, 2), sealed(words(0) + floats(1.0), 3, 1, 5, 1),
        sealed(floats(1.0) + b"\0", 4, 1, 8), sealed(floats(1.0) + b"\0", 4, 0, 9), sealed(floats(1.0) + b"\0", 4, 0, 8, 8),
        sealed(floats(1.0, -1.0) + b"\0", 5, 0, 8, 0, 1),
        sealed(bytes(8), 6, 0, 4, 0, 127), sealed(bytes(8), 6, 0, 4, 4, 0), sealed(bytes(8), 6, 0, 4, 4, 128),  # bucket, levels
        sealed(bytes(8), 6, 0, 4, 2**32 - 1, 127), sealed(bytes(8), 6, 2, 4, 4, 127), sealed(bytes(8), 6, 0, 4, 4, 2**32 - 1),
        sealed(bytes(8), 6, 0, 4, 2**20 + 1, 127), sealed(bytes(5), 7, 0, 4, 1), sealed(bytes(5), 7, 1, 4),
        sealed(bytes(2), 8, 1, 1), sealed(bytes(2), 8, 0, 1, 0, 3), sealed(bytes(8), 9, 0, 4, 0), sealed(bytes(8), 9, 0, 4, 4, 1),
        sealed(bytes(8), 9, 2, 4, 4), sealed(bytes(8), 9, 0, 4, 2**21), sealed(bytes(8), 10, 0, 4, 0),
        sealed(bytes(8), 10, 2, 4, 4),
        sealed(STREAM + bytes(5), 11, 0, 4, 0), sealed(STREAM + bytes(5), 11, 0, 4, 5), sealed(STREAM + bytes(5), 11, 2, 4, 1),
        sealed(STREAM + bytes(5), 11, 0, 4, 1, 1), sealed(STREAM + bytes(5), 11, 0, 4, 2**32 - 1),
        sealed(STREAM + bytes(8), 12, 0, 4, 0, 2), sealed(STREAM + bytes(8), 12, 0, 4, 2, 0),
        sealed(STREAM + bytes(8), 12, 1, 4, 1, 2),
        sealed(STREAM + bytes(8), 12, 0, 4, 2**31, 2**31), sealed(STREAM, 12, 0, 4, 2**16, 2**16),
        sealed(bytes(16), 13, 0, 4, 0, 2), sealed(bytes(16), 13, 0, 4, 1, 0), sealed(bytes(16), 13, 0, 4, 1, 3),
        sealed(bytes(40), 13, 0, 4, 2, 4), sealed(bytes(16), 13, 1, 4, 1, 2), sealed(bytes(4), 13, 0, 0, 1, 1),
        sealed(bytes(4 * 65 * 160), 13, 0, 80 * 80, 65, 80), sealed(b"", 13, 0, 2**32, 2**30, 2**16),
    ],
)  # fmt: skip
def test_contradictory_parameters(payload: bytes) -> None:
    refused(payload)
    refused(np.frombuffer(payload, np.uint8), n=4)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "payload",
    [
        *(sealed(floats(1.0, bad), 0, 0, 2) for bad in (NAN, INF, -INF)),
        *(sealed(words(0, 2) + floats(1.0, bad), 1, 0, 5, 2) for bad in (NAN, INF)),
        *(sealed(words(*index) + floats(1, 1), code, 0, 5, 2) for code in (1, 3)
          for index in ((2, 1), (1, 1), (1, 5), (2**32 - 1, 1), (0, 2**31), (5, 6))),
        *(sealed(words(0) + floats(step) + bytes([code]), 1, 1, 5, 1)
          for step, code in ((1.0, 128), (-1.0, 1), (NAN, 1), (INF, 1), (LARGEST, 2))),
        sealed(words(5) + floats(1.0) + b"\1", 1, 1, 5, 1), sealed(words(0) + floats(NAN), 3, 0, 5, 1),
        *(sealed(STREAM + floats(bad), 2, 0, 5, 1) for bad in (NAN, INF)),
        sealed(struct.pack("<QII", 0, 0, 1) + floats(1.0), 2, 0, 5, 1),
        *(sealed(floats(bad) + b"\0", 4, 0, 8) for bad in (NAN, INF, -1.0)), sealed(floats(1.0) + b"\2", 4, 0, 1),
        *(sealed(floats(*bad) + b"\0", 5, 0, 8) for bad in ((NAN, 0.0), (-1.0, 0.0), (1.0, 1.0), (1.0, -INF), (INF, -1.0))),
        sealed(floats(1.0, -1.0) + b"\x80", 5, 0, 7),
        *(sealed(floats(bad) + b"\0", 6, 0, 1, 1, 127) for bad in (NAN, INF, -1.0)),
        sealed(floats(1.0) + b"\xff", 6, 0, 1, 1, 127),
        sealed(floats(1.0) + b"\3", 6, 0, 1, 1, 1), sealed(floats(1.0) + b"\5", 6, 0, 1, 1, 1),
        sealed(floats(LARGEST) + b"\xfe", 6, 0, 1, 1, 127),  # 127 steps of the largest float
        *(sealed(floats(bad) + b"\0", 7, 0, 1) for bad in (NAN, INF, -1.0)), sealed(floats(1.0) + b"\3", 7, 0, 1),
        sealed(floats(1.0) + b"\4", 7, 0, 1),
        sealed(b"\xff\0", 8, 0, 1), sealed(b"\0\1", 8, 0, 1), sealed(b"\x7f\2", 8, 0, 1),
        *(sealed(floats(step) + bytes([code]), 9, 0, 1, 1)
          for step, code in ((NAN, 0), (INF, 0), (-1.0, 0), (1.0, 128), (LARGEST, 127))),
        *(sealed(floats(1.0) + bytes([code]), 10, 0, 1, 1) for code in (0x7F, 0xFF)),
        *(sealed(floats(1.0) + bytes([code]), 10, 1, 1, 1) for code in (0x7C, 0x7D, 0x7F, 0xFC, 0xFF)),
        *(sealed(floats(step) + b"\x7b", 10, 1, 1, 1) for step in (NAN, INF, -1.0, LARGEST)),
        *(sealed(STREAM + floats(bad) + b"\0", 11, 0, 1, 1) for bad in (NAN, INF, -1.0)),
        sealed(STREAM + floats(1.0) + b"\2", 11, 0, 1, 1),
        sealed(struct.pack("<QII", 0, 0, 7) + floats(1.0) + b"\0", 11, 0, 1, 1),
        *(sealed(STREAM + floats(bad), 12, 0, 3, 1, 1) for bad in (NAN, INF, -INF)),
        *(sealed(floats(*bad), 13, 0, 1, 1, 1) for bad in ((NAN, 1.0), (1.0, INF), (LARGEST, 2.0))),
    ],
)  # fmt: skip
def test_bodies_that_no_encoder_writes(payload: bytes) -> None:
    refused(payload)


field = st.one_of(st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 127, 128, 255, 256, 512, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1]),
                  st.integers(0, 2**32 - 1))
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(st.binary(max_size=300))
@example(b"FGDC")
@example(b"FGDC" + bytes(28))
def test_random_bytes(data: bytes) -> None:
    assert survives(data) is None
    assert survives(b"FGDC\x01" + data) is None


@quick
@given(st.integers(0, 13), st.sampled_from([0, 0, 1, 2]), st.one_of(st.integers(0, 80), field), field, field,
       st.binary(max_size=200))
def test_sealed_nonsense(code: int, option: int, n: int, a: int, b: int, body: bytes) -> None:
    """Any header with any body, checksum and length right: refused, or a finite vector."""
    survives(sealed(body, code, option, n, a, b))


@quick
@given(st.data())
def test_sealed_mutations(data: st.DataObject) -> None:
    """A payload with a few bytes changed and the checksum made right: refused, or finite, and as long as its header says."""
    payload = bytearray(data.draw(st.sampled_from(PAYLOADS)))
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.one_of(st.integers(5, 27), st.integers(0, len(payload) - 1)))
        payload[where] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 254, 255])))
    mutated = resealed(bytes(payload))
    x = survives(mutated)
    out = np.full(1000, 2.0, np.float32)
    if x is None:
        with pytest.raises(ValueError):
            compress.decode_add([PAYLOADS[-1], mutated], out)
        assert np.all(out == 2.0)  # not even the good one was added
    else:
        assert len(x) == struct.unpack_from("<Q", mutated, 8)[0]
        np.testing.assert_array_equal(compress.decode(mutated, n=len(x)), x)


@quick
@given(st.data())
def test_float_bodies_of_any_bits(data: st.DataObject) -> None:
    """Floats of any bit pattern where scales and values stand."""
    payload = bytearray(data.draw(st.sampled_from(PAYLOADS)))
    places = range(32, len(payload) - 3, 4)
    for _ in range(data.draw(st.integers(1, 3))) if len(places) else ():
        where = data.draw(st.sampled_from(places))
        special = st.sampled_from([0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF, 0xFF7FFFFF, 0x80000000, 1, 0x00800000])
        struct.pack_into("<I", payload, where, data.draw(st.one_of(special, st.integers(0, 2**32 - 1))))
    survives(resealed(bytes(payload)))


@pytest.mark.parametrize("wrong", [None, 5, 1.5, "FGDC" * 20, [1, 2, 3], np.zeros(40), np.zeros((8, 8), np.uint8),
                                   np.zeros(40, np.int8)], ids=str)
def test_wrong_types(wrong: Any) -> None:
    out = np.zeros(3, np.float32)
    for call in (compress.decode, lambda p: compress.decode_add([p], out), lambda p: compress.majority_vote([p])):
        with pytest.raises(TypeError):
            call(wrong)


def test_expected_lengths() -> None:
    for n in (0, 1, 10):
        payload = compress.encode(compress.Sign(), normal(n))
        assert len(compress.decode(payload, n=n)) == len(compress.decode(payload, max_n=n)) == n
        assert len(compress.decode(payload, n=n, max_n=0)) == n  # what is expected needs no limit
        for options in ({"n": n + 1}, {"n": 2**40}, {"n": -1}, {"max_n": n - 1}, {"max_n": -5}):
            with pytest.raises(ValueError):
                compress.decode(payload, **options)
    for options in ({"n": "3"}, {"n": 3.0}, {"max_n": 2.5}, {"max_n": None}):
        with pytest.raises(TypeError):
            compress.decode(payload, **options)


@pytest.mark.parametrize(
    "out, error",
    [(np.zeros(9, np.float32), ValueError), (np.zeros(10, np.float64), (ValueError, TypeError)),
     (np.zeros(20, np.float32)[::2], ValueError), (np.zeros((2, 5), np.float32), ValueError), ([0.0] * 10, TypeError)],
    ids=["short", "float64", "strided", "matrix", "list"],
)
def test_adding_into_the_wrong_place(out: Any, error: Any) -> None:
    with pytest.raises(error):
        compress.decode_add([compress.encode(compress.Sign(), normal(10))], out)


def test_adding_checks_its_scale_and_all_payloads_first() -> None:
    good, other = compress.encode(compress.Sign(), normal(10)), compress.encode(compress.Sign(), normal(11))
    out = np.zeros(10, np.float32)
    for scale, error in ((NAN, ValueError), (INF, ValueError), (1e39, ValueError), ("1", TypeError)):
        with pytest.raises(error):
            compress.decode_add([good], out, scale=scale)
    with pytest.raises(ValueError):
        compress.decode_add([good, other], out)
    with pytest.raises((TypeError, ValueError)):
        compress.decode_add(good, out)
    frozen = np.zeros(10, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError):
        compress.decode_add([good], frozen)
    assert not out.any()


# ----------------------------------------------------------------------------------------------------- NaN and Inf


@every_codec
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_nonfinite(codec, bad: float) -> None:
    x = normal(1000)
    x[[0, 500, 999]] = bad
    with pytest.raises(ValueError):
        compress.encode(codec, x)
    zeroed = np.where(np.isfinite(x), x, np.float32(0))
    assert compress.encode(codec, x, nonfinite="zero").tobytes() == compress.encode(codec, zeroed).tobytes()
    survives(compress.encode(codec, x, nonfinite="propagate").tobytes())  # terminates, within bounds; garbage may be refused
    survives(compress.encode(codec, np.full(1000, bad, np.float32), nonfinite="propagate").tobytes())
    assert compress.encode(codec, zeroed, nonfinite="propagate").tobytes() == compress.encode(codec, zeroed).tobytes()


@pytest.mark.parametrize("n", [1, 2**16, 2**16 + 1, 2**17 + 1])
def test_the_scan_sees_every_part(n: int) -> None:
    """It goes from the end to the beginning, in parts: first, last and the parts' neighbours are looked at."""
    for at in {0, n // 2, n - 1, min(n - 1, 2**16 - 1), min(n - 1, 2**16)}:
        x = np.zeros(n, np.float32)
        x[at] = np.nan
        with pytest.raises(ValueError, match=f"coordinates {at}:"):
            compress.encode(compress.Sign(), x)


def test_dense_and_sparse_payloads_add_up_in_their_order() -> None:
    """They are added in blocks of different lengths; rounding tells in which order."""
    n, rng = 2**16 + 5000, np.random.default_rng(3)
    kinds = (compress.Sign(), compress.TopK(ratio=0.3), compress.Threshold(0.5), compress.Int8(), compress.TopK(900, bits=8))
    payloads = [compress.encode(codec, 10.0**k * rng.standard_normal(n, np.float32)) for k, codec in enumerate(kinds)]
    results = [compress.decode_add(payloads, np.ones(n, np.float32), scale=0.3, backend=backend)
               for backend in ("cpu", "reference")]
    assert results[0].tobytes() == results[1].tobytes()
