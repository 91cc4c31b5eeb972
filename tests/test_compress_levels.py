"""QSGD, Int8, FP8, TernGrad, Natural: kernels against the reference byte for byte, hostile vectors, facts, corrupted bodies."""

from __future__ import annotations

import itertools
from typing import Any

import compress_calls as calls
import numpy as np
import pytest
from compress_calls import (
    LARGE,
    LARGEST,
    MODES,
    SIZES,
    TINY,
    changed,
    check,
    coded,
    compare,
    decode,
    encode,
    gaussians,
    judged_alike,
    memory_of,
    same,
    vector,
)

from fastgd.compress import codecs as C
from fastgd.compress.levels import reference
from fastgd.compress.state import FEEDBACK, PLAIN
from fastgd.compress.wire import SIZE

CODECS = (C.QSGD(), C.QSGD(1, 33), C.QSGD(3, 5, "l2"), C.QSGD(7, 1), C.QSGD(12, 100, "l2"), C.QSGD(63, 5000, "l2"),
          C.QSGD(100, 4096), C.Int8(), C.Int8(3000), C.Int8(100, True), C.Int8(4097, True), C.FP8(), C.FP8("e4m3", 2500),
          C.FP8("e5m2", 77), C.TernGrad(), C.Natural())
STEPPED = tuple(codec for codec in CODECS if not isinstance(codec, C.Natural))
UNBIASED = (C.QSGD(), C.QSGD(2, 64), C.QSGD(4, 64, "l2"), C.Int8(64, True), C.TernGrad(), C.Natural())
every_codec = pytest.mark.parametrize("codec", CODECS, ids=str)


def hostile(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    one_hot, signs = np.arange(n) == n // 2, 1.0 - 2.0 * (np.arange(n) % 2)
    return calls.hostile(n) | {
        "one-hot beside negative zeros": np.where(one_hot, 2.5, -0.0),
        "subnormals": TINY * rng.integers(-300, 300, n),
        "more subnormals": TINY * rng.integers(-(2**22), 2**22, n),
        "about the least normal step": 2.0**-126 * 127 * (1 + 0.1 * rng.standard_normal(n)),
        "subnormal one-hot": 201 * TINY * one_hot,
        "1e38": 1e38 * signs,
        "nearly largest": LARGEST * (1 - rng.integers(0, 300, n) * 2.0**-24) * signs,
        "every exponent": signs * 2.0 ** rng.integers(-149, 128, n),
        "beyond 2^126": signs * 2.0**126 * (1 + rng.random(n)),
        "heavy tails": np.clip(rng.standard_cauchy(n) ** 5, -1e30, 1e30),
    }


@every_codec
@pytest.mark.parametrize("mode", MODES)
def test_bytes_are_the_references(codec: C.Codec, mode: int) -> None:
    for n in SIZES:
        compare(codec, gaussians(n, "float32", 1 if mode == PLAIN else 2), mode)
    for dtype, n in itertools.product(("float16", "bfloat16"), (33, 4097)):
        compare(codec, gaussians(n, dtype, 2), mode)


@every_codec
def test_hostile_vectors(codec: C.Codec) -> None:
    for n in (37, 333):
        for x in hostile(n).values():
            for mode in MODES:
                compare(codec, [vector(x)] * (1 if mode == PLAIN or np.abs(x).max() > 1e38 else 2), mode)


@pytest.mark.parametrize("codec", [C.QSGD(5, 1001), C.QSGD(127, 2**17 + 1, "l2"), C.Int8(), C.FP8(), C.TernGrad(), C.Natural()],
                         ids=str)
def test_threads_never_matter(codec: C.Codec) -> None:
    compare(codec, gaussians(LARGE), FEEDBACK, threads=(1, 2, 3))


@every_codec
def test_decoding_in_parts(codec: C.Codec, isa: int) -> None:
    n = 10_000
    body = encode(codec, gaussians(n)[0])
    parts = decode(codec, n, body, ranges=((4096, 8192), (0, 4096), (8192, n)))
    assert same(decode(codec, n, body), parts)


@pytest.mark.parametrize("codec", STEPPED, ids=str)
def test_what_is_not_finite_ends(codec: C.Codec) -> None:
    for value in (np.nan, np.inf, -np.inf):
        x = np.ones(1000, np.float32)
        x[500] = value
        with np.errstate(all="ignore"):
            encode(codec, x, memory_of(1000, FEEDBACK), FEEDBACK)


# ---------------------------------------------------------------------------------------------------- facts


def steps_of(codec: Any, n: int, body: np.ndarray) -> np.ndarray:
    bucket = getattr(codec, "bucket", n)
    return np.repeat(np.frombuffer(body[: 4 * -(-n // bucket)].tobytes(), "<f4"), bucket)[:n].astype(np.float64)


@pytest.mark.parametrize("codec", STEPPED, ids=str)
def test_error_is_at_most_a_step(codec: Any) -> None:
    """Whatever the vector: c is finite, |x - c| <= step (nearest: half of it) but for rounding."""
    share = 0.5 if isinstance(codec, C.Int8) and not codec.stochastic else 1.0
    for name, x in hostile(700).items():
        x = x.astype(np.float32)
        body = encode(codec, x)
        c, step = decode(codec, len(x), body).astype(np.float64), steps_of(codec, len(x), body)
        assert np.isfinite(c).all(), name
        if isinstance(codec, C.FP8):
            relative, least = (2.0**-3, 2.0**-17) if codec.format == "e5m2" else (2.0**-4, 2.0**-10)
            bound = np.maximum(np.abs(x) * relative, least * step) + 2.0**-20 * np.abs(x) + TINY
        else:
            bound = step * (share + 127 * 2.0**-21) + TINY
        assert (np.abs(x - c) <= bound).all(), name


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 2.0**-118])
def test_int8_is_within_half_a_step(scale: float) -> None:
    x = (scale * np.random.default_rng(3).standard_normal(5120)).astype(np.float32)
    most = np.abs(x.reshape(-1, 512)).max(axis=1, keepdims=True).astype(np.float64)
    error = np.abs(x - coded(C.Int8(), x).astype(np.float64)).reshape(-1, 512)
    assert (error <= most / 254 * (1 + 2.0**-15)).all()


@pytest.mark.parametrize("codec", UNBIASED, ids=str)
def test_unbiased(codec: C.Codec) -> None:
    """The mean over seeds of every coordinate, and of all of them together, within 4.5 standard errors."""
    x = np.random.default_rng(4).standard_normal(64).astype(np.float32)
    c = np.array([coded(codec, x, seed) for seed in range(2500)], np.float64)
    deviation, spread = c.mean(axis=0) - x, c.std(axis=0) / np.sqrt(len(c))
    assert (np.abs(deviation) <= 4.5 * spread + 2.0**-20 * np.abs(x).max()).all()
    total = (c - x).sum(axis=1)
    assert abs(total.mean()) <= 4.5 * total.std() / np.sqrt(len(total))


@pytest.mark.parametrize("codec", UNBIASED, ids=str)
def test_variance_is_within_its_constant(codec: C.Codec) -> None:
    rng = np.random.default_rng(5)
    for x in (rng.standard_normal(512), rng.standard_cauchy(512), np.full(512, 0.31)):
        x = x.astype(np.float32)
        squares = [np.sum((coded(codec, x, seed).astype(np.float64) - x) ** 2) for seed in range(300)]
        omega = codec.variance(512)
        assert omega is not None
        assert np.mean(squares) <= omega * np.sum(x.astype(np.float64) ** 2) * 1.02 + 4.5 * np.std(squares) / 300**0.5


def test_terngrad_variance_exactly() -> None:
    """E||C||^2 = ||x||_inf ||x||_1."""
    x = np.random.default_rng(6).standard_normal(1000).astype(np.float32)
    squares = np.array([np.sum(coded(C.TernGrad(), x, seed).astype(np.float64) ** 2) for seed in range(1200)])
    wanted = np.abs(x).max().astype(np.float64) * np.abs(x).sum(dtype=np.float64)
    assert abs(squares.mean() - wanted) <= 4.5 * squares.std() / 1200**0.5


def test_natural_variance_is_attained() -> None:
    """omega = 1 / 8 at |x| = (4 / 3) 2^a, 0 at powers of two."""
    x = np.full(1 << 18, 4 / 3, np.float32)
    error = (coded(C.Natural(), x).astype(np.float64) - x) ** 2 / x.astype(np.float64) ** 2
    assert abs(error.mean() - 0.125) <= 4.5 * error.std() / 512
    powers = (2.0 ** np.arange(-126, 128)).astype(np.float32)
    assert same(coded(C.Natural(), powers), powers)


def test_qsgd_variance_of_a_grid_is_zero() -> None:
    """Multiples of the step come back as they were, whatever the seed."""
    x = np.resize(np.arange(-127, 128), 5 * 255).astype(np.float32)
    for codec in (C.QSGD(bucket=255), C.Int8(255, True), C.Int8(255)):
        for seed in range(50):
            assert same(coded(codec, x, seed), x)


@pytest.mark.parametrize("codec", [C.QSGD(), C.QSGD(1), C.TernGrad(), C.Natural()], ids=str)
def test_rounding_is_independent(codec: C.Codec) -> None:
    """Between ranks, steps and neighbours, those that share a hash among them: no correlation beyond 4.5 / sqrt(n)."""
    n = 1 << 17
    x = np.random.default_rng(7).uniform(0.2, 0.4, n).astype(np.float32)
    x[::512] = 1.0

    def error(seed: int, rank: int) -> np.ndarray:
        e = coded(codec, x, seed, rank).astype(np.float64) - x
        e[::512] = 0.0
        return (e - e.mean()) / e.std()

    base = error(1, 0)
    pairs = base.reshape(-1, 2, 16)
    assert abs((pairs[:, 0] * pairs[:, 1]).mean()) < 4.5 / np.sqrt(n / 2)
    for shift in (1, 2, 16, 32, 512):
        assert abs((base[:-shift] * base[shift:]).mean()) < 4.5 / np.sqrt(n)
    for seed, rank in ((1, 1), (1, 2), (1, 255), (2, 0)):
        assert abs((base * error(seed, rank)).mean()) < 4.5 / np.sqrt(n)


def test_zeros_stay_zeros() -> None:
    x = np.zeros(2000, np.float32)
    x[600:700] = 1.0  # one bucket of four that is not zero
    for codec in CODECS:
        c = coded(codec, x)
        assert not c[x == 0].any() and np.isfinite(c).all()


@pytest.mark.parametrize("format", ["e4m3", "e5m2"])
def test_fp8_is_ml_dtypes(format: str) -> None:
    """The table of values, and rounding: of every value, of the middles between values, and of their neighbours."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = ml_dtypes.float8_e4m3fn if format == "e4m3" else ml_dtypes.float8_e5m2
    values = reference.fp8_values(format)
    assert same(values, np.arange(len(values), dtype=np.uint8).view(dtype).astype(np.float32))
    middles = (values[:-1] + values[1:]) / 2
    near = [np.nextafter(middles, np.float32(way)) for way in (0, np.inf)]
    rng = np.random.default_rng(8)
    x = np.concatenate([values, middles, *near, rng.uniform(0, 20, 1000).astype(np.float32), values[-1:]])
    x = np.concatenate([x, -x]).astype(np.float32)  # the largest is the format's: the step is 1
    body = encode(C.FP8(format, 2**20), x)
    assert np.frombuffer(body[:4].tobytes(), "<f4") == 1.0
    assert same(body[4:], x.astype(dtype).view(np.uint8))


# ---------------------------------------------------------------------------------------------------- corrupted bodies


def refused(codec: C.Codec, n: int, body: np.ndarray, at: int, value: float | int, reason: int) -> None:
    assert calls.refused(codec, n, changed(body, (at, value)), "body holds") == reason


@pytest.mark.parametrize("codec", STEPPED, ids=str)
def test_steps_that_no_encoder_writes(codec: C.Codec) -> None:
    n = 101
    body = encode(codec, gaussians(n)[0])
    for value in (np.inf, -np.inf, np.nan, -1.0, -0.0):
        refused(codec, n, body, 0, float(value), 1)
    if not isinstance(codec, C.TernGrad) and getattr(codec, "levels", 127) > 1:
        refused(codec, n, body, 0, LARGEST, 1)
    refused(codec, n, body, 0, 0.0, 3)  # codes that are not 0


def test_codes_that_do_not_exist() -> None:
    n = 2500
    x = gaussians(n)[0]
    body = encode(C.Int8(), x)
    refused(C.Int8(), n, body, len(body) - 1, 0x80, 3)
    body = encode(C.QSGD(100), x)
    for code in (201, 255):
        refused(C.QSGD(100), n, body, len(body) - 7, code, 3)
    for code in (0x7F, 0xFF):
        refused(C.FP8(), n, encode(C.FP8(), x), 2000, code, 3)
    for code in (0x7C, 0x7D, 0xFF):
        refused(C.FP8("e5m2"), n, encode(C.FP8("e5m2"), x), 2000, code, 3)
    refused(C.TernGrad(), n, encode(C.TernGrad(), x), 300, 0x30, 3)
    body = encode(C.QSGD(5, 64), x)
    refused(C.QSGD(5, 64), n, body, 4 * 40 + 17, 0xFF, 3)
    body = encode(C.Natural(), x)
    refused(C.Natural(), n, body, 1234, 255, 3)


def test_zero_buckets_have_zero_codes() -> None:
    n = 1000
    x = vector(np.zeros(n))
    for codec in (C.Int8(10), C.FP8("e4m3", 333), C.FP8("e5m2", 33), C.QSGD(127, 7), C.QSGD(2, 50), C.TernGrad()):
        body = encode(codec, x)
        assert check(codec, n, body) == 0
        for at in range(4 * -(-n // getattr(codec, "bucket", n)), len(body), 37):
            refused(codec, n, body, at, int(body[at]) ^ 1, 3)
        if isinstance(codec, C.FP8):
            refused(codec, n, body, len(body) - 1, 0x80, 3)


def test_signs_of_zero() -> None:
    body = encode(C.Natural(), np.zeros(70))
    for at in (70, 78):
        refused(C.Natural(), 70, body, at, 2, 1)


@pytest.mark.parametrize("codec", [C.TernGrad(), C.Natural(), *(C.QSGD(s) for s in (1, 2, 4, 9, 31, 50))], ids=str)
def test_padding(codec: C.Codec) -> None:
    for n in (1, 3, 5, 7, 33, 2049):
        body = encode(codec, gaussians(n)[0])
        width = codec.width if isinstance(codec, C.QSGD) else 2 if isinstance(codec, C.TernGrad) else 1
        free = -n * width % 8
        assert check(codec, n, body) == 0
        for bit in range(8 - free, 8):
            refused(codec, n, body, len(body) - 1, int(body[-1]) | 1 << bit, 4)


@every_codec
def test_noise_is_never_misread(codec: C.Codec) -> None:
    """Random bodies, and right ones with random bytes: check and reference agree, and what is accepted decodes alike."""
    rng = np.random.default_rng(9)
    for n in (1, 9, 45, 130):
        length = codec.max_nbytes(n) - SIZE
        right = encode(codec, gaussians(n)[0])
        for trial in range(60):
            body = right.copy() if trial % 2 else rng.integers(0, 256, length, dtype=np.uint8)
            body[rng.integers(0, length, 1 + trial % 3)] = rng.integers(0, 256)
            judged_alike(codec, n, body)
