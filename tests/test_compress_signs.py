"""Sign, OneBit, the majority vote, Identity, the scan and the checksum: the C core against the oracle, byte for byte."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from compress_calls import DTYPES, LARGE, LARGEST, MODES, SIZES, compare, gaussians, hostile, vector

from fastgd import compress
from fastgd._native import ffi, lib
from fastgd.compress import cpu, reference
from fastgd.compress.codec import Codec
from fastgd.compress.common import CHUNK, LANES, lane_sum, to_float32, total
from fastgd.compress.state import DIFFERENCE, FEEDBACK, PLAIN

CODECS = {"sign": compress.Sign(), "onebit": compress.OneBit(), "identity": compress.Identity()}
HOSTILE = list(hostile(1))
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@every_codec
def test_bytes_and_memory_are_the_oracles(codec: Codec, dtype: str, mode: int) -> None:
    for n in SIZES:
        compare(codec, gaussians(n, dtype), mode)


@every_codec
def test_threads_do_not_change_a_byte(codec: Codec) -> None:
    for mode in MODES:
        compare(codec, gaussians(LARGE), mode, threads=(3, 1, 2))


@pytest.mark.parametrize("kind", [*HOSTILE, "mixed"])
@every_codec
def test_hostile_values(codec: Codec, kind: str) -> None:
    values = (hostile(70) | {"mixed": np.geomspace(1e-38, 1e38, 70) * np.tile([1, -1], 35)})[kind]
    compare(codec, [vector(values)], PLAIN)
    compare(codec, [vector(values * 0.25)] * 3, FEEDBACK)
    compare(codec, [vector(values * 0.25)] * 3, DIFFERENCE)


@every_codec
@pytest.mark.filterwarnings("ignore:invalid value|overflow")
def test_what_is_not_finite_stays_within_bounds(codec: Codec, isa: int) -> None:
    """With nonfinite="propagate" nothing is promised but memory safety, and a payload that is refused."""
    x = np.ones(100, np.float32)
    x[[3, 70]] = np.nan, -np.inf
    with pytest.raises(ValueError, match="not finite"):
        compress.decode(compress.encode(codec, x, nonfinite="propagate"))


def test_decoding_in_ranges(isa: int) -> None:
    rng = np.random.default_rng(3)
    for n in SIZES:
        x = [rng.standard_normal(n).astype(np.float32) for _ in range(3)]
        payloads = [compress.encode(codec, row) for codec, row in zip(CODECS.values(), x, strict=True)]
        for payload in payloads:
            assert compress.decode(payload).tobytes() == compress.decode(payload, backend="reference").tobytes()
        start = rng.standard_normal(n).astype(np.float32)
        ours, theirs = start.copy(), start.copy()
        compress.decode_add(payloads, ours, scale=0.3)
        compress.decode_add(payloads, theirs, scale=0.3, backend="reference")
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("n", [1, 7, 8, 9, 511, 512, 513, 5000, LARGE])
def test_votes(n: int, isa: int) -> None:
    rng = np.random.default_rng(n)
    for workers in (1, 2, 3, 4, 7, 8, 9, 31):
        x = rng.standard_normal((workers, n)).astype(np.float32)
        votes = [compress.encode(compress.Sign(), row) for row in x]
        result = compress.majority_vote(votes, num_threads=2)
        negative = 2 * (x < 0).sum(axis=0) > workers
        assert ((compress.decode(result) < 0) == negative).all()
        assert result.tobytes() == compress.majority_vote(votes, backend="reference").tobytes()


def test_votes_refuse() -> None:
    sign = compress.encode(compress.Sign(), np.ones(5, np.float32))
    for payloads, words in (([], "at least one"), ([sign, compress.encode(compress.OneBit(), np.ones(5, np.float32))], "Sign"),
                            ([sign, compress.encode(compress.Sign(), np.ones(6, np.float32))], "n=6")):
        with pytest.raises(ValueError, match=words):
            compress.majority_vote(payloads)


def test_the_two_errors_are_closed_forms() -> None:
    x = np.random.default_rng(4).standard_normal(5000).astype(np.float32)
    wide = x.astype(np.float64)
    for codec, kept in ((compress.Sign(), np.abs(wide).sum() ** 2 / len(x)),
                        (compress.OneBit(), wide[x >= 0].sum() ** 2 / (x >= 0).sum() + wide[x < 0].sum() ** 2 / (x < 0).sum())):
        error = ((wide - compress.decode(compress.encode(codec, x))) ** 2).sum()
        assert error == pytest.approx((wide**2).sum() - kept, rel=1e-5)


def test_no_sum_overflows() -> None:
    x = np.full(10_000, LARGEST, np.float32)
    assert (compress.decode(compress.encode(compress.Sign(), x)) == LARGEST).all()


def test_sums_have_the_order_of_the_format() -> None:
    """By hand: lane l adds elements l, l + 32, ..; lanes are folded in halves; chunks likewise."""
    x = np.random.default_rng(5).standard_normal(3 * CHUNK + 50).astype(np.float32)
    sums = []
    for at in range(0, len(x), CHUNK):
        lanes = [0.0] * LANES
        for i, value in enumerate(x[at : at + CHUNK]):
            lanes[i % LANES] += float(value)
        for step in (16, 8, 4, 2, 1):
            for lane in range(step):
                lanes[lane] += lanes[lane + step]
        sums.append(lanes[0])
        assert lane_sum(x[at : at + CHUNK]) == lanes[0]
    assert total(x) == lane_sum(np.array(sums, np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_scan_finds_the_largest(dtype: str, isa: int) -> None:
    rng = np.random.default_rng(6)
    for n in (*SIZES, 200_000):
        x = vector(rng.standard_normal(n), dtype)
        assert cpu.largest(x, 3) == reference.largest(x) == np.abs(to_float32(x)).max(initial=0.0)
        if n:
            broken = vector(np.where(np.arange(n) == n - 1, -np.inf, 1.0), dtype)
            assert not np.isfinite(cpu.largest(broken, 2))


def test_the_checksum_is_zlibs() -> None:
    rng = np.random.default_rng(7)
    for size in (0, 1, 7, 8, 63, 64, 127, 128, 129, 191, 192, 1000, 65_537):
        payload = rng.integers(0, 256, 32 + size + 1, np.uint8)[1:]  # not aligned
        expected = zlib.crc32(payload[32:], zlib.crc32(payload[:28]))
        assert lib.fgd_crc32_payload(ffi.from_buffer(payload), len(payload)) == expected


def test_damaged_bodies_are_refused() -> None:
    """With a right checksum: what no encoder writes."""
    sign, onebit = (compress.encode(codec, np.ones(13, np.float32)) for codec in (compress.Sign(), compress.OneBit()))
    floats = {"nan": np.nan, "inf": np.inf, "negative": -1.0, "negative zero": -0.0}
    for payload, at, value in [(sign, 32, v) for v in floats.values()] + [(onebit, 32, v) for v in floats.values()] + [
            (onebit, 36, 1.0), (onebit, 36, -0.0), (onebit, 36, -np.inf), (onebit, 36, np.nan)]:
        broken = payload.copy()
        broken[at : at + 4] = np.array([value], "<f4").view(np.uint8)
        refused(broken, "wrong sign")
    for payload in (sign, onebit):
        broken = payload.copy()
        broken[-1] |= 0x20  # coordinate 13 of 13
        refused(broken, "beyond the last")
    identity = compress.encode(compress.Identity(), np.ones(3, np.float32))
    identity[-4:] = np.array([np.nan], "<f4").view(np.uint8)
    refused(identity, "not finite")


def refused(payload: np.ndarray, words: str) -> None:
    payload[28:32] = np.frombuffer(zlib.crc32(payload[32:], zlib.crc32(payload[:28])).to_bytes(4, "little"), np.uint8)
    with pytest.raises(ValueError, match=words):
        compress.decode(payload)
    with pytest.raises(ValueError, match="body"):
        compress.decode(payload, backend="reference")
