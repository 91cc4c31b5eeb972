"""CountSketch: C against the oracle to the bit, the sketch's laws, bodies that no encoder writes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compress_calls import (
    DTYPES,
    LARGE,
    LARGEST,
    MODES,
    SIZES,
    changed,
    coded,
    compare,
    decode,
    encode,
    hostile,
    judged_alike,
    memory_of,
    refused,
    same,
    vector,
)

from fastgd.compress.codecs import CountSketch
from fastgd.compress.sketches import cpu, reference
from fastgd.compress.state import DIFFERENCE, FEEDBACK, PLAIN

SHAPES = [(1, 1), (1, 40), (2, 3), (3, 100), (4, 7), (5, 64), (6, 11), (7, 13), (9, 5), (16, 4)]


def table(codec: CountSketch, body: np.ndarray) -> np.ndarray:
    return body[16:].copy().view("<f4").reshape(codec.rows, codec.cols)


# ------------------------------------------------------------------------------------------------ C and the oracle


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sizes(shape: tuple[int, int], mode: int) -> None:
    random = np.random.default_rng(mode)
    for n in SIZES if shape[0] < 4 else SIZES[::4]:
        compare(CountSketch(*shape), [vector(random.standard_normal(n)) for _ in range(2)], mode)


def test_most_rows() -> None:
    x = np.random.default_rng(1).standard_normal(300)
    for rows in (31, 32, 33, 254, 255):
        compare(CountSketch(rows, 3), [vector(x)], FEEDBACK)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_dtypes(dtype: str, mode: int) -> None:
    random = np.random.default_rng(3)
    for n in (1, 31, 2048, 4100):
        compare(CountSketch(3, 20), [vector(random.standard_normal(n), dtype) for _ in range(3)], mode)


def test_threads() -> None:
    """One row that several threads add to, several rows, a row that is too long for copies of it."""
    random = np.random.default_rng(4)
    for mode, shape in ((PLAIN, (1, 50)), (FEEDBACK, (3, 1000)), (DIFFERENCE, (5, 7)), (PLAIN, (2, 140_000))):
        compare(CountSketch(*shape), [vector(random.standard_normal(LARGE)) for _ in range(3)], mode, threads=(1, 2, 3))


@pytest.mark.parametrize("kind", hostile(1))
def test_hostile_vectors(kind: str) -> None:
    for n in (1, 5, 100, 5000):
        x = vector(hostile(n)[kind])
        for shape in ((1, 1), (2, 3), (3, 50), (4, 9)):
            codec = CountSketch(*shape)
            compare(codec, [x], PLAIN)
            if float(np.abs(x.data).max()) < 1e34:
                compare(codec, [x, x], FEEDBACK)
                compare(codec, [x, x], DIFFERENCE)


def test_what_is_not_finite_stays_within_bounds(isa: int) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for n in (1, 20, 3000):
            for mode in MODES:
                x = np.ones(n, np.float32)
                x[n // 2] = bad
                encode(CountSketch(3, 10), x, memory_of(n, mode), mode)


def test_adding() -> None:
    """out + fl(scale c), on whole blocks of a longer vector, the others untouched."""
    random, n, codec = np.random.default_rng(6), 3 * 4096 + 100, CountSketch(3, 100)
    body = encode(codec, random.standard_normal(n))
    c, out = decode(codec, n, body), random.standard_normal(n).astype(np.float32)
    expected = out.copy()
    for part in (slice(4096, 8192), slice(12288, n)):
        expected[part] += np.float32(0.3) * c[part]
    assert same(decode(codec, n, body, out, 0.3, ranges=((4096, 8192), (12288, n))), expected)


# ------------------------------------------------------------------------------------------------------------ facts


def test_no_sum_overflows() -> None:
    """n numbers of the largest magnitude stay below 2^62 units, for every n; half a unit is at most 2^-29 of the largest."""
    for bits in (0x7F7FFFFF, 0x3F800000, 0x3F7FFFFF, 0x00800000, 1):
        largest = float(np.array([bits], np.uint32).view(np.float32)[0])
        for n in (1, 2, 3, 1000, 4095, 4096, 2**20 - 1, 2**20, 2**32 - 1, 2**32, 2**33 - 1):
            whole = round(largest / 2.0 ** cpu.unit_exponent(largest, n))
            assert n * whole < 2**62 and whole >= 2**28


def test_sums_are_exact() -> None:
    """Integers add up without error, though float32 could not hold the partial sums."""
    x = np.full(100_000, 3.0, np.float32)
    x[0] = 2.0**24 - 1
    for codec in (CountSketch(1, 1), CountSketch(3, 2)):
        sums = np.zeros((codec.rows, codec.cols))
        for r in range(codec.rows):
            cell, minus = reference._places(1, 0, r, len(x), codec.cols)
            np.add.at(sums[r], cell, np.where(minus, -x, x).astype(np.float64))
        assert np.array_equal(table(codec, encode(codec, x)), sums.astype(np.float32))


def test_the_table_is_linear() -> None:
    random = np.random.default_rng(7)
    x, y = random.standard_normal((2, 20_000)).astype(np.float32)
    codec = CountSketch(5, 100)
    sums = [table(codec, encode(codec, v)).astype(np.float64) for v in (x, y, (x.astype(np.float64) + y).astype(np.float32))]
    assert np.abs(sums[0] + sums[1] - sums[2]).max() < 1e-5 * np.abs(sums[2]).max()


def test_one_coordinate_is_exact() -> None:
    for rows in (1, 2, 3, 4):
        codec = CountSketch(rows, 1000)
        x = np.zeros(500, np.float32)
        x[123] = -0.1
        assert coded(codec, x)[123] == x[123]


def test_one_row_is_unbiased_with_the_variance_of_the_sketch() -> None:
    """E C(x) = x; E ||x - C(x)||^2 = (n - 1) / cols ||x||^2, for every x: attained."""
    random, n, cols, trials = np.random.default_rng(8), 200, 25, 2000
    for x in (random.standard_normal(n), random.standard_normal(n) ** 7, np.ones(n)):
        x = x.astype(np.float32)
        draws = np.stack([coded(CountSketch(1, cols), x, seed) for seed in range(trials)]).astype(np.float64)
        error = ((draws - x) ** 2).sum(axis=1) / (x.astype(np.float64) ** 2).sum()
        assert error.mean() == pytest.approx((n - 1) / cols, abs=5 * error.std() / math.sqrt(trials))
        assert CountSketch(1, cols).variance(n) == (n - 1) / cols
        spread = draws.std(axis=0)
        z = (draws.mean(axis=0) - x)[spread > 0] / spread[spread > 0] * math.sqrt(trials)
        assert np.abs(z).max() < 5 and abs((z**2).mean() - 1) < 0.5


def test_rows_are_independent() -> None:
    """Rows of one step, and one row of neighbouring steps, share neither cells nor signs."""
    n, cols = 20_000, 64
    places = [reference._places(3, step, row, n, cols) for step in (5, 6, 7) for row in range(3)]
    for i, (cell, minus) in enumerate(places):
        for other, turned in places[:i]:
            assert abs((cell == other).mean() - 1 / cols) < 5 * math.sqrt(1 / cols / n)
            assert abs((minus == turned).mean() - 0.5) < 5 * 0.5 / math.sqrt(n)
    counts = np.bincount(places[0][0] * 2 + places[0][1], minlength=2 * cols)
    expected = n / (2 * cols)
    assert ((counts - expected) ** 2 / expected).sum() < 2 * cols + 5 * math.sqrt(4 * cols)


def test_heavy_coordinates_are_found() -> None:
    x = np.random.default_rng(9).standard_normal(50_000).astype(np.float32)
    heavy = [7, 20_000, 49_999]
    x[heavy] = (150.0, -170.0, 200.0)
    c = coded(CountSketch(5, 2000), x)
    assert sorted(np.argsort(-np.abs(c))[:3].tolist()) == heavy
    assert np.abs(c[heavy] - x[heavy]).max() < 30


def test_streams() -> None:
    x = np.random.default_rng(10).standard_normal(1000).astype(np.float32)
    codec = CountSketch(2, 50)
    first, again, other_seed, other_step = (coded(codec, x, *key) for key in ((1, 0), (1, 0), (2, 0), (1, 1)))
    assert np.array_equal(first, again) and not np.array_equal(first, other_seed) and not np.array_equal(first, other_step)


# ------------------------------------------------------------------------------------------ bodies no encoder writes


def test_refused() -> None:
    codec, n = CountSketch(3, 33), 1000
    body = encode(codec, np.random.default_rng(11).standard_normal(n))
    for bad in (np.nan, -np.nan, np.inf, -np.inf, -0.0):
        for cell in (0, 50, 98):
            assert refused(codec, n, changed(body, (16 + 4 * cell, float(bad)))) == 1
    for at in range(12, 16):
        assert refused(codec, n, changed(body, (at, 0x80))) == 4


def test_any_accepted_body_decodes_to_finite_values() -> None:
    random = np.random.default_rng(12)
    for rows, cols in ((1, 5), (2, 4), (3, 3), (8, 2)):
        codec, n = CountSketch(rows, cols), 100
        mixed = random.choice([LARGEST, -LARGEST, 0.0], rows * cols)
        for cells in (np.full(rows * cols, LARGEST), np.full(rows * cols, -LARGEST), mixed):
            body = encode(codec, np.zeros(n))
            body[16:] = cells.astype("<f4").view(np.uint8)
            assert judged_alike(codec, n, body)
        body = random.integers(0, 256, len(body)).astype(np.uint8)
        assert refused(codec, n, body)
