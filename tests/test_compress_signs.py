"""Sign, OneBit, the majority vote, Identity, the scan and the checksum: the C core against the oracle, byte for byte."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

from fastgd import _native, compress
from fastgd._native import ffi, lib
from fastgd.compress import cpu, reference
from fastgd.compress.common import CHUNK, LANES, lane_sum, to_float32, total
from fastgd.compress.signs import cpu as signs
from fastgd.compress.signs import reference as oracle
from fastgd.compress.state import DIFFERENCE, FEEDBACK, PLAIN, State, Stream, Vector

SIZES = (0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 2047, 2048, 2049, 10_000)
CODECS = {"sign": compress.Sign(), "onebit": compress.OneBit(), "identity": compress.Identity()}
STREAM = Stream(0, 0, 0)
LARGEST = float(np.finfo(np.float32).max)
HOSTILE = {
    "zeros": np.zeros(70), "equal": np.full(70, 0.1), "negative": np.full(70, -3.0), "signed zeros": np.tile([0.0, -0.0], 35),
    "subnormal": np.full(70, -1e-42), "largest": np.full(70, LARGEST), "alternating": np.tile([LARGEST, -LARGEST], 35),
    "one-hot": np.eye(1, 70, 33)[0], "mixed": np.geomspace(1e-38, 1e38, 70) * np.tile([1, -1], 35),
}


@pytest.fixture(params=range(_native.lib.fgd_isa_best() + 1), ids=_native.ISA_LEVELS[: _native.lib.fgd_isa_best() + 1])
def level(request: pytest.FixtureRequest) -> Any:
    """Each instruction set that this machine has."""
    current = lib.fgd_isa_current()
    lib.fgd_isa_use(request.param)
    yield request.param
    lib.fgd_isa_use(current)


def kernels(name: str) -> tuple[Any, Any]:
    return (cpu.identity, reference.identity) if name == "identity" else (getattr(signs, name), getattr(oracle, name))


def vector(values: np.ndarray, dtype: str) -> Vector:
    if dtype == "bfloat16":
        return Vector((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16), dtype)
    with np.errstate(over="ignore"):
        return Vector(values.astype(dtype), dtype)


def settled(name: str, state: State) -> bytes:
    if name != "identity":
        signs.settle(CODECS[name], state)
    assert state.memory is not None
    return state.memory.tobytes()


def compare(name: str, steps: list[Vector], mode: int, threads: int) -> None:
    n, (kernel, expected) = len(steps[0].data), kernels(name)
    ours, theirs = (State(None if mode == PLAIN else np.zeros(n, np.float32)) for _ in range(2))
    length = CODECS[name].max_nbytes(n) - 32
    for x in steps:
        before, a, b = x.data.copy(), np.full(length + 9, 99, np.uint8), np.full(length + 9, 99, np.uint8)
        kernel(CODECS[name], x, ours, mode, STREAM, a, threads)
        expected(CODECS[name], x, theirs, mode, STREAM, b)
        assert a.tobytes() == b.tobytes() and (a[length:] == 99).all()
        assert x.data.tobytes() == before.tobytes()
    if mode != PLAIN:
        assert settled(name, ours) == theirs.memory.tobytes()  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", [PLAIN, FEEDBACK, DIFFERENCE])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CODECS)
def test_bytes_and_memory_are_the_oracles(name: str, dtype: str, mode: int, level: int) -> None:
    rng = np.random.default_rng(1)
    for n in SIZES:
        compare(name, [vector(rng.standard_normal(n) * 10.0**t, dtype) for t in range(3)], mode, threads=1)


@pytest.mark.parametrize("name", CODECS)
def test_threads_do_not_change_a_byte(name: str, level: int) -> None:
    rng = np.random.default_rng(2)
    for threads in (2, 3):
        for mode in (PLAIN, FEEDBACK, DIFFERENCE):
            compare(name, [vector(rng.standard_normal(300_001), "float32") for _ in range(2)], mode, threads)


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", CODECS)
def test_hostile_values(name: str, values: np.ndarray, level: int) -> None:
    compare(name, [vector(values, "float32")], PLAIN, 1)
    compare(name, [vector(values * 0.25, "float32") for _ in range(3)], FEEDBACK, 1)
    compare(name, [vector(values * 0.25, "float32") for _ in range(3)], DIFFERENCE, 1)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.filterwarnings("ignore:invalid value|overflow")
def test_what_is_not_finite_stays_within_bounds(name: str, level: int) -> None:
    """With nonfinite="propagate" nothing is promised but memory safety, and a payload that is refused."""
    x = np.ones(100, np.float32)
    x[[3, 70]] = np.nan, -np.inf
    with pytest.raises(ValueError, match="not finite"):
        compress.decode(compress.encode(CODECS[name], x, nonfinite="propagate"))


def test_decoding_in_ranges(level: int) -> None:
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


@pytest.mark.parametrize("n", [1, 7, 8, 9, 511, 512, 513, 5000, 300_001])
def test_votes(n: int, level: int) -> None:
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


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_scan_finds_the_largest(dtype: str, level: int) -> None:
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
        data = rng.integers(0, 256, size + 1, np.uint8)[1:]  # not aligned
        start = zlib.crc32(b"before")
        assert lib.fgd_crc32(start, ffi.from_buffer(data) if size else ffi.NULL, size) == zlib.crc32(data.tobytes(), start)


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
