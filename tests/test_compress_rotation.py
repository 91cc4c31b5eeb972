"""Drive: C against the oracle to the bit, the rotation's and the codes' closed forms, bodies that no encoder writes."""

from __future__ import annotations

import math

import compress_calls as calls
import numpy as np
import pytest
from compress_calls import (
    DTYPES,
    LARGE,
    LARGEST,
    MODES,
    SEED,
    STEP,
    changed,
    coded,
    compare,
    decode,
    encode,
    judged_alike,
    memory_of,
    refused,
    same,
    vector,
)

from fastgd.compress.codecs import Drive
from fastgd.compress.rotation import reference
from fastgd.compress.state import DIFFERENCE, FEEDBACK, PLAIN
from fastgd.random.reference import rademacher

SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 255, 257, 511, 512, 513, 1025, 4095, 4096, 4097, 10000]
CODECS = [Drive(bits, unbiased) for bits in (1, 2, 3, 4) for unbiased in (False, True)]
#: What optimal quantisers of a normal distribution leave of its variance, 1 to 4 bits.
LLOYD_MAX = {1: 1 - 2 / math.pi, 2: 0.1175, 3: 0.03454, 4: 0.009497}


def error(codec: Drive, values: np.ndarray, seed: int) -> float:
    exact = values.astype(np.float64)
    return float(((coded(codec, values, seed) - exact) ** 2).sum() / (exact**2).sum())


# ------------------------------------------------------------------------------------------------ C and the oracle


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_sizes(codec: Drive, mode: int) -> None:
    random = np.random.default_rng(mode)
    for n in SIZES:
        compare(codec, [vector(random.standard_normal(n)) for _ in range(2)], mode)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_dtypes(dtype: str, mode: int) -> None:
    random = np.random.default_rng(3)
    for n in (1, 31, 4096, 4100):
        for bits in (1, 3):
            compare(Drive(bits), [vector(random.standard_normal(n), dtype) for _ in range(3)], mode)


def test_threads() -> None:
    random = np.random.default_rng(4)
    for mode, codec in ((PLAIN, Drive(1)), (FEEDBACK, Drive(4)), (DIFFERENCE, Drive(2, True))):
        compare(codec, [vector(random.standard_normal(LARGE)) for _ in range(3)], mode, threads=(1, 2, 3))


def hostile(n: int) -> dict[str, np.ndarray]:
    return calls.hostile(n) | {"hadamard row": rademacher(SEED, STEP, 0, n) * LARGEST}


@pytest.mark.parametrize("kind", hostile(1))
def test_hostile_vectors(kind: str) -> None:
    for n in (1, 5, 100, 5000):
        x = vector(hostile(n)[kind])
        for codec in CODECS:
            compare(codec, [x], PLAIN)
            if float(np.abs(x.data).max()) < 1e34:
                compare(codec, [x, x], FEEDBACK)
                compare(codec, [x, x], DIFFERENCE)


def test_what_is_not_finite_stays_within_bounds(isa: int) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for n in (1, 20, 4100):
            for mode in MODES:
                for codec in CODECS:
                    x = np.ones(n, np.float32)
                    x[n // 2] = bad
                    encode(codec, x, memory_of(n, mode), mode)


def test_adding() -> None:
    """out + fl(scale c), on whole blocks of a longer vector, the others untouched."""
    random, n = np.random.default_rng(6), 3 * 4096 + 100
    for codec in CODECS:
        body = encode(codec, random.standard_normal(n))
        c, out = decode(codec, n, body), random.standard_normal(n).astype(np.float32)
        expected = out.copy()
        for part in (slice(4096, 8192), slice(12288, n)):
            expected[part] += np.float32(0.3) * c[part]
        assert same(decode(codec, n, body, out, 0.3, ranges=((4096, 8192), (12288, n))), expected)


# ------------------------------------------------------------------------------------------------------------ facts


def test_the_transform_is_orthonormal() -> None:
    x = np.random.default_rng(7).standard_normal((3, 4096)).astype(np.float32)
    y = reference.hadamard(x)
    norms = [(v.astype(np.float64) ** 2).sum(axis=1) for v in (x, y)]
    assert np.allclose(norms[1], 4096 * norms[0], rtol=1e-6)
    assert np.abs(reference.hadamard(y) / 4096 - x).max() < 1e-6 * np.abs(x).max()
    dense = reference.hadamard(np.eye(16, dtype=np.float32))
    assert np.array_equal(dense @ dense.T, 16 * np.eye(16)) and set(dense.ravel()) == {-1.0, 1.0}


def test_decoding_is_exact() -> None:
    """The decoder's sums are integers that float32 holds, whatever the codes."""
    for levels in reference.LEVELS.values():
        assert 4096 * max(levels) < 2**24


def test_one_bit_errors() -> None:
    """1 - 2 / pi, and pi / 2 - 1 without bias: 0.3643 and 0.5730 on a lognormal vector."""
    x = np.random.default_rng(8).lognormal(size=65536).astype(np.float32)
    biased, unbiased = (np.mean([error(Drive(1, option), x, seed) for seed in range(5)]) for option in (False, True))
    assert biased == pytest.approx(1 - 2 / math.pi, rel=0.03) and biased == pytest.approx(0.3643, rel=0.03)
    assert unbiased == pytest.approx(math.pi / 2 - 1, rel=0.03) and unbiased == pytest.approx(0.5730, rel=0.03)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_errors(bits: int) -> None:
    """D, the optimal quantiser's, and 1 / (1 - D) - 1 without bias."""
    x = np.random.default_rng(9).lognormal(size=65536).astype(np.float32)
    d = LLOYD_MAX[bits]
    assert np.mean([error(Drive(bits), x, seed) for seed in range(3)]) == pytest.approx(d, rel=0.03)
    assert np.mean([error(Drive(bits, True), x, seed) for seed in range(3)]) == pytest.approx(1 / (1 - d) - 1, rel=0.03)


def test_one_bit_contracts_every_vector() -> None:
    """E ||x - C(x)||^2 <= ||x||^2 / 2, attained by two equal coordinates of a block; one coordinate is coded exactly."""
    random = np.random.default_rng(10)
    for n in (2, 64, 4096):
        for hot in sorted({1, 2, min(3, n), min(5, n), min(17, n), n}):
            x = np.zeros(n, np.float32)
            x[random.permutation(n)[:hot]] = random.standard_normal(hot) + 3 if hot > 2 else 1.5
            errors = [error(Drive(1), x, seed) for seed in range(200 if n < 4096 else 50)]
            assert np.mean(errors) <= 0.5 + 1e-6
            if hot <= 2:
                assert errors == pytest.approx([0.5 * (hot - 1)] * len(errors), abs=1e-6)


def test_biased_scales_leave_an_orthogonal_error() -> None:
    """||x - C(x)||^2 = ||x||^2 - ||C(x)||^2 block by block; unbiased <x, C(x)> = ||x||^2."""
    x = np.random.default_rng(11).standard_normal(4096).astype(np.float32).astype(np.float64)
    for bits in (1, 2, 3, 4):
        c = coded(Drive(bits), x).astype(np.float64)
        assert ((x - c) ** 2).sum() == pytest.approx((x**2).sum() - (c**2).sum(), rel=1e-4)
        assert (x * coded(Drive(bits, True), x)).sum() == pytest.approx((x**2).sum(), rel=1e-5)


def test_unbiased_on_dense_vectors() -> None:
    random, trials = np.random.default_rng(12), 400
    x = random.standard_normal(1024).astype(np.float32)
    for bits in (1, 3):
        draws = np.stack([coded(Drive(bits, True), x, seed) for seed in range(trials)]).astype(np.float64)
        z = (draws.mean(axis=0) - x) / (draws.std(axis=0) / math.sqrt(trials))
        assert abs((z**2).mean() - 1) < 0.25 and np.abs(z).max() < 5.5
        assert abs((z * np.sign(x)).mean()) < 5 / math.sqrt(len(x))


def test_scaling_by_powers_of_two_changes_the_scale_alone() -> None:
    x = np.random.default_rng(13).standard_normal(5000).astype(np.float32)
    for codec in CODECS:
        c = coded(codec, x)
        for exponent in (-60, -3, 100):
            assert np.array_equal(coded(codec, np.ldexp(x, exponent)), np.ldexp(c, exponent))


def test_streams() -> None:
    x = np.random.default_rng(14).standard_normal(4096).astype(np.float32)
    first, again, other_seed, other_step = (coded(Drive(1), x, *key) for key in ((1, 0), (1, 0), (2, 0), (1, 1)))
    assert np.array_equal(first, again) and not np.array_equal(first, other_seed) and not np.array_equal(first, other_step)


# ------------------------------------------------------------------------------------------ bodies no encoder writes


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_refused(codec: Drive) -> None:
    n = 4096 + 2
    x = np.random.default_rng(15).standard_normal(n)
    body = encode(codec, x)
    for bad in (np.nan, np.inf, -1.0, -0.0):
        for block in (0, 1):
            assert refused(codec, n, changed(body, (16 + 4 * block, float(bad)))) == 1
    assert refused(codec, n, changed(body, (14, 1))) == 4
    if 2 * codec.bits % 8:
        assert refused(codec, n, changed(body, (-1, int(body[-1]) | 0x80))) == 4
    body = encode(codec, x * 0)
    assert not body[16:].any()
    for at in (24, 24 + 511, -1):
        assert refused(codec, n, changed(body, (at, 1))) == 3


def test_any_accepted_body_decodes_to_finite_values() -> None:
    random = np.random.default_rng(16)
    for n in (0, 1, 3, 17, 100, 4097):
        for codec in CODECS:
            for trial in range(6):
                body = random.integers(0, 256, codec._length(n, codec.bits, 0)).astype(np.uint8)
                if trial % 2:
                    body[12:16] = 0
                    body[16 : 16 + 4 * -(-n // 4096)] = np.full(-(-n // 4096), LARGEST, "<f4").view(np.uint8)
                if trial % 3:
                    body[-1:] &= 1
                judged_alike(codec, n, body)
