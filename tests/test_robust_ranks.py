"""The rules on ranks: means around the median, their ties, many vectors, and every way to cut the work."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import robust_oracle as oracle
from robust_oracle import DTYPES, assert_means, bits, flat, floats, make

from fastgd import robust
from fastgd._dispatch import find
from fastgd._native import lib
from fastgd._rows import parse
from fastgd.robust.network import network

nan, inf = np.nan, np.inf
#: Around the ends of register groups, of runs, and of the passes that a merge takes.
MANY = (47, 48, 49, 96, 97, 192, 255, 256, 257, 272, 500, 511, 512, 513, 1000, 1023, 1025, 2049, 4095, 4096, 4097, 4200)


def sample(n: int, d: int, dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(1000 * n + d + seed)
    return make(2.0 + rng.standard_normal((n, d)) * rng.choice([0.1, 1.0, 30.0], (n, 1)), dtype)


def nearest(x: object, window: int) -> np.ndarray:
    """The `window` values nearest to the median of each coordinate, one by one and in rational arithmetic."""
    columns = np.where(np.isfinite(flat(x)), flat(x), inf)
    kept = []
    for column in np.sort(columns, axis=0).T.tolist():
        values = [Fraction(value) for value in column if value < inf]
        middle = (values[(len(column) - 1) // 2] + values[len(column) // 2]) / 2
        chosen = sorted(values, key=lambda value: (abs(value - middle), value))[:window]
        kept.append(sorted(map(float, chosen)))
    return np.array(kept).reshape(-1, window).T


def nearest_mean(x: object, window: int, tolerated: int, backend: str, threads: int = 1) -> tuple[np.ndarray, int]:
    rows = parse(x)
    stacks = rows.empty(1)
    broken = find("robust.nearest_mean", rows.operand, backend)(rows, window, tolerated, stacks, threads)
    return rows.vectors(stacks)[0], broken


# ------------------------------------------------------------------------------------------------ around the median


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, d", [(1, 3), (2, 17), (3, 64), (4, 1), (5, 0), (7, 33), (15, 16), (16, 15), (17, 65), (31, 63),
                                  (32, 31), (33, 130), (64, 67), (65, 40), (129, 20), (257, 17)])
def test_meamed_is_the_mean_of_the_values_nearest_to_the_median(n: int, d: int, dtype: str, backend: str) -> None:
    x = sample(n, d, dtype)
    for f in sorted({0, 1, n // 4, (n - 1) // 2}):
        if n > 2 * f:
            got = robust.meamed(x, f, backend=backend)
            assert got.dtype == x.dtype
            assert_means(got, nearest(x, n - f), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_window(dtype: str, backend: str) -> None:
    """Windows shorter than half of the values may move past the median."""
    for n in (5, 11, 16, 33):
        x = sample(n, 50, dtype, seed=1)
        for window in range(1, n + 1):
            got, broken = nearest_mean(x, window, 0, backend)
            assert broken == -1
            assert_means(got, nearest(x, window), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_keep_the_smaller_value(dtype: str, backend: str) -> None:
    rng = np.random.default_rng(2)
    for n in (4, 5, 6, 9, 16, 20):
        x = make(rng.integers(-4, 5, (n, 200)), dtype)
        for window in range(1, n + 1):
            got, _ = nearest_mean(x, window, 0, backend)
            assert_means(got, nearest(x, window), dtype)
    assert robust.meamed(make([[-1], [0], [1]], dtype), 1, backend=backend)[0] == -0.5
    # Of the equal values at the edge one is left out: the window is the nearest values, not just one as short.
    assert robust.meamed(make([[-1], [-1], [0], [0], [0.5]], dtype), 1, backend=backend)[0] == -0.125


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_signed_zeros_and_order_leave_no_trace(dtype: str, backend: str) -> None:
    rng = np.random.default_rng(3)
    x = make(rng.choice([0.0, -0.0, 1.0, -1.0, 2.0, 1e-3], (12, 300)), dtype)
    for f in (0, 2, 5):
        assert len({bits(robust.meamed(x[rng.permutation(12)], f, backend=backend)) for _ in range(5)}) == 1
    assert bits(robust.meamed(make(np.full((5, 3), -0.0), dtype), 2, backend=backend)) == bits(make([-0.0] * 3, dtype))


def test_the_reference_agrees_on_every_choice() -> None:
    for dtype in DTYPES:
        for x in (sample(40, 500, dtype), make(np.random.default_rng(4).integers(-3, 4, (40, 500)), dtype)):
            for window in (1, 13, 21, 39):
                (one, _), (two, _) = (nearest_mean(x, window, 0, backend) for backend in ("cpu", "reference"))
                assert (np.abs(floats(one) - floats(two)) <= oracle.ulp(floats(two), dtype)).all()


# ------------------------------------------------------------------------------------------------------------ hostile


def test_meamed_leaves_huge_values_out(backend: str) -> None:
    for dtype, huge in (("float32", 3e38), ("float32", 1e20), ("float64", 1.7e308), ("float64", 1e200), ("bfloat16", 3e38),
                        ("float16", 6e4)):
        x = sample(9, 70, dtype)
        honest = np.delete(flat(x), [0, 4], axis=0)
        for low, high in ((-huge, huge), (huge, huge), (-huge, -huge)):
            y = flat(x).copy()
            y[0], y[4] = low, high
            assert_means(robust.meamed(make(y, dtype), 2, backend=backend), np.sort(honest, axis=0), dtype)


def test_huge_and_tiny_values_everywhere(backend: str) -> None:
    for dtype in ("float32", "float64"):
        rng = np.random.default_rng(5)
        for scale in (oracle.LARGEST[dtype], 1e-38, 1e-44 if dtype == "float32" else 1e-300):
            x = make(rng.uniform(-1, 1, (11, 40)) * scale, dtype)
            for f in (0, 3, 5):
                got = robust.meamed(x, f, backend=backend)
                assert np.isfinite(got).all()
                assert_means(got, nearest(x, 11 - f), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_are_not_finite_count_as_the_largest(dtype: str, backend: str) -> None:
    values = floats(sample(13, 90, dtype))
    results = set()
    for bad in ((nan, nan), (inf, inf), (-inf, nan), (-inf, -inf)):
        values[[2, 7], 33] = bad
        values[12, 50] = bad[0]
        x = make(values, dtype)
        got = robust.meamed(x, 2, backend=backend)
        results.add(bits(got))
        assert_means(got, nearest(x, 11), dtype)
    assert len(results) == 1


def test_too_many_bad_values_are_named(backend: str) -> None:
    x = np.random.default_rng(6).standard_normal((7, 20_000)).astype(np.float32)
    x[[1, 3, 4], 15_001] = nan, inf, -inf
    x[[0, 5, 6], 15_002] = nan
    out = np.zeros(20_000, np.float32)
    for threads in (1, 3):
        with pytest.raises(ValueError, match=r"rows \[?1, 3.*coordinate 15001\b"):
            robust.meamed(x, 2, out=out, backend=backend, num_threads=threads)
        assert nearest_mean(x, 3, 2, backend, threads)[1] == 15_001
        assert nearest_mean(x, 3, 3, backend, threads)[1] == -1
    assert not out.any()


def test_meamed_needs_a_majority(backend: str) -> None:
    for n, f in ((1, 1), (4, 2), (5, 3)):
        with pytest.raises(ValueError, match=f"n={n} and f={f}"):
            robust.meamed(np.ones((n, 3)), f, backend=backend)
    for f in (-1, 1.5, None, True):
        with pytest.raises((ValueError, TypeError), match=r"\bf\b"):
            robust.meamed(np.ones((4, 3)), f, backend=backend)


# -------------------------------------------------------------------------------------------------------- many vectors


def columns(n: int, d: int) -> np.ndarray:
    """Random columns, and those on which merging is likely to fail: sorted, reversed, two-valued in runs and stripes."""
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, d)).astype(np.float32)
    i = np.arange(n)
    x[:, 0], x[:, 1], x[:, 2] = i, -i, (i * 7919) % n
    for c in range(3, d // 2):
        x[:, c] = np.roll(i < rng.integers(n + 1), rng.integers(n)) if c % 2 else i // rng.integers(1, n + 1) % 2
    return x


@pytest.mark.parametrize("n", MANY)
def test_many_vectors(n: int) -> None:
    x = columns(n, 83)
    s = np.sort(x, axis=0)
    median = (s[(n - 1) // 2].astype(np.float64) + s[n // 2]) / 2
    assert (robust.median(x) == median.astype(np.float32)).all()
    for f in sorted({0, 1, 15, 16, n // 5, n // 3, (n - 1) // 2 - 1, (n - 1) // 2}):
        if n > 2 * f >= 0:
            mean = s[f : n - f].astype(np.float64).cumsum(axis=0)[-1] / (n - 2 * f)  # adds in ascending order
            assert (robust.trimmed_mean(x, f) == mean.astype(np.float32)).all(), f
    x = x[:, 50:]
    assert_means(robust.meamed(x, n // 5), nearest(x, n - n // 5), "float32")


@pytest.mark.parametrize("n", [33, 70, 300, 513, 1100])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_many_vectors_of_other_dtypes(n: int, dtype: str) -> None:
    x = make(columns(n, 40), dtype)
    assert (floats(robust.median(x)) == oracle.median(x, dtype)).all()
    assert_means(robust.trimmed_mean(x, n // 3), oracle.window(x, n // 3), dtype)
    assert_means(robust.meamed(x, n // 3), nearest(x, n - n // 3), dtype)


@pytest.mark.parametrize("n", [20, 65, 257, 600, 1025])
def test_krum_scores_of_many(n: int) -> None:
    """Scores are ranks 1 .. k of the columns of the distance matrix."""
    distances = oracle.sqdist(np.random.default_rng(n).standard_normal((n, 3)))
    for f in (0, n // 5, (n - 3) // 2):
        got = robust.krum_scores(distances, f)
        np.testing.assert_allclose(got, oracle.scores(distances, n - f - 2), rtol=1e-15)


@pytest.mark.parametrize("n", [2, 9, 16, 40, 100, 259, 1025])
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_layouts_and_instruction_sets_agree(n: int, dtype: str, isa: int) -> None:
    x = sample(n, 8192 + 77 if n < 50 else 150, dtype)
    x[0, 5] = nan
    f = (n - 1) // 2
    layers = [[row[:70].reshape(7, 10), row[70:71], row[71:]] for row in x]
    rules = [lambda x, **kw: robust.meamed(x, f, **kw), lambda x, **kw: robust.trimmed_mean(x, f // 2 + f % 2, **kw),
             lambda x, **kw: robust.median(x, **kw)]
    for rule in rules if f else []:
        lib.fgd_isa_use(0)
        expected = bits(rule(x, num_threads=1))
        lib.fgd_isa_use(isa)
        for threads in (1, 2, 3):
            assert bits(rule(x, num_threads=threads)) == expected
            assert bits(rule(list(x), num_threads=threads)) == expected
            assert b"".join(map(bits, rule(layers, num_threads=threads))) == expected


# ------------------------------------------------------------------------------------------------- the GPU's networks


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 16, 31, 100, 257])
def test_a_network_puts_its_ranks_in_place(n: int) -> None:
    x = columns(n, 60)
    for first, last in {(0, n - 1), (n // 3, n // 2), ((n - 1) // 2, n // 2), (0, 0), (n - 1, n - 1)}:
        y = x.copy()
        for i, j in network(n, first, last):
            y[[i, j]] = np.minimum(y[i], y[j]), np.maximum(y[i], y[j])
        assert (y[first : last + 1] == np.sort(x, axis=0)[first : last + 1]).all()
