"""Attempts to break fastgd.robust with values that are not finite, huge or tiny."""

from __future__ import annotations

import re

import numpy as np
import pytest
import robust_oracle as oracle
from robust_oracle import DTYPES, bits, make

from fastgd import robust
from fastgd._arrays import to_host
from fastgd._dispatch import find
from fastgd._rows import parse

RULES = {
    "krum": lambda x, f, **kw: robust.krum(x, f, **kw),
    "krum, n-f-1 neighbours": lambda x, f, **kw: robust.krum(x, f, neighbors=len(x) - f - 1, **kw),
    "multikrum": lambda x, f, **kw: robust.multikrum(x, f, **kw),
    "multikrum, m=n-f": lambda x, f, **kw: robust.multikrum(x, f, m=len(x) - f, **kw),
    "median": lambda x, f, **kw: robust.median(x, **kw),
    "trimmed_mean": lambda x, f, **kw: robust.trimmed_mean(x, f, **kw),
}
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
nan, inf = np.nan, np.inf


# -------------------------------------------------------------------------------------------------- the break table

ATTACKS = {
    "all NaN": lambda v: v.fill(nan),
    "one NaN": lambda v: v.put(17, nan),
    "one NaN, last": lambda v: v.put(-1, nan),
    "Inf": lambda v: v.fill(inf),
    "-Inf": lambda v: v.fill(-inf),
    "one Inf": lambda v: v.put(3, inf),
    "one -Inf": lambda v: v.put(999, -inf),
    "+-Inf": lambda v: v.put(range(1000), [inf, -inf]),
    "NaN and Inf": lambda v: v.put(range(1000), [nan, -inf, inf, 1e38]),
    "3e38": lambda v: v.fill(3e38),
    "-3e38": lambda v: v.fill(-3e38),
    "+-3e38": lambda v: v.put(range(1000), [3e38, -3e38]),
    "1e20": lambda v: v.fill(1e20),
    "one 3e38": lambda v: v.put(500, 3e38),
    "one 1e20": lambda v: v.put(500, 1e20),
    "subnormal": lambda v: v.fill(1e-42),
}


@pytest.mark.parametrize("where", [[0, 1], [10, 11], [0, 11], [5]], ids=["first", "last", "both ends", "one only"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@rules
def test_break_table(rule, attack, where: list[int], backend: str) -> None:
    x = (1 + 0.1 * np.random.default_rng(0).standard_normal((12, 1000))).astype(np.float32)
    honest = np.delete(x, where, axis=0).mean(0)
    for i in where:
        attack(x[i])
    before = bits(x)
    for form in (x, [[row[:600].reshape(20, 30), row[600:]] for row in x]):
        result = rule(form, 2, backend=backend)
        result = np.concatenate([part.ravel() for part in result])
        assert np.isfinite(result).all()
        assert np.linalg.norm(result - honest) < 5
    assert bits(x) == before


@pytest.mark.parametrize("dtype", DTYPES)
@rules
def test_bad_rows_never_change_what_the_others_give(rule, dtype: str, backend: str) -> None:
    """NaN, Inf and -Inf are the same to every rule, in every dtype and place."""
    values = 1 + np.random.default_rng(1).standard_normal((11, 70))
    expected = None
    for bad in (nan, inf, -inf):
        values[[2, 7], 33] = bad
        x = make(values, dtype)
        got = bits(rule(x, 2, backend=backend))
        expected = expected or got
        assert got == expected


@pytest.mark.parametrize("d", [1, 15, 16, 17, 64, 2047, 2048, 2049, 5000])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 17])
def test_a_bad_value_is_found_wherever_it_is(n: int, d: int, backend: str) -> None:
    x = np.random.default_rng(d).standard_normal((n, d)).astype(np.float32)
    for row in {0, n // 2, n - 1}:
        for column in {0, d // 2, d - 1}:
            for value in (nan, inf, -inf):
                y = x.copy()
                y[row, column] = value
                expected = oracle.sqdist(x)
                expected[row, :] = expected[:, row] = inf
                expected[row, row] = 0.0
                np.testing.assert_allclose(robust.pairwise_sqdist(y, backend=backend), expected, rtol=1e-6)


def test_info_names_bad_rows(backend: str) -> None:
    x = np.random.default_rng(2).standard_normal((9, 5))
    x[[1, 8], [0, 4]] = [nan, -inf]
    for rule in (robust.krum, robust.multikrum):
        _, info = rule(x, 2, return_info=True, backend=backend)
        assert np.flatnonzero(info.bad_rows).tolist() == [1, 8]
        assert np.isposinf(info.scores[info.bad_rows]).all()
        assert np.isfinite(info.scores[~info.bad_rows]).all()
        assert not set(info.selected.tolist()) & {1, 8}


def numbers_after(message: str, word: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", re.search(rf"{word}s? ([\d, and]+)", message)[1])]


@pytest.mark.parametrize("f", [0, 1, 2])
def test_more_than_f_bad_rows_are_named(f: int, backend: str) -> None:
    x = np.random.default_rng(3).standard_normal((12, 3000)).astype(np.float32)
    bad = [3, 7, 10][: f + 1]
    for i, row in enumerate(bad):
        x[row, 1000 * i] = nan
    for rule in (robust.krum, robust.multikrum):
        out = np.full(3000, 7.0, np.float32)
        with pytest.raises(ValueError) as error:
            rule(x, f, out=out, backend=backend)
        assert numbers_after(str(error.value), "row") == bad
        assert (out == 7).all()
        rule(np.delete(x, bad[0], 0), f, backend=backend)


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_all_rows_bad_are_all_named(n: int, backend: str) -> None:
    """Each is bad at a coordinate of its own, far from the others'."""
    x = np.ones((n, 2500 * n), np.float32)
    x[range(n), range(0, 2500 * n, 2500)] = nan
    with pytest.raises(ValueError) as error:
        robust.krum(x, 0, backend=backend)
    assert numbers_after(str(error.value), "row") == list(range(n))


def test_bad_coordinates_are_named(backend: str) -> None:
    """More than f values at one coordinate: the first such one and its rows, for every thread count and layout."""
    x = np.random.default_rng(4).standard_normal((7, 20_000)).astype(np.float32)
    x[[0, 6], 11] = nan, inf  # two are tolerated
    for coordinates in ([15_000], [15_001, 9_001]):
        x[[1, 3, 4], coordinates[-1]] = -inf, nan, inf
        layers = [[row[:9000].reshape(90, 100), row[9000:]] for row in x]
        for form in (x, list(x), layers):
            for threads in (1, 3):
                with pytest.raises(ValueError) as error:
                    robust.trimmed_mean(form, 2, backend=backend, num_threads=threads)
                assert numbers_after(str(error.value), "row") == [1, 3, 4]
                assert numbers_after(str(error.value), "coordinate") == [coordinates[-1]]
    robust.median(x, backend=backend)
    out = np.zeros(20_000, np.float32)
    x[[0, 2], 9_001] = nan
    with pytest.raises(ValueError, match=r"coordinate 9001\b"):
        robust.median(x, out=out, backend=backend)
    assert not out.any()


def test_the_median_resists_until_half_is_bad(backend: str) -> None:
    for n in range(1, 12):
        x = np.arange(1.0, n + 1)[:, None].repeat(3, 1)
        for count in range((n - 1) // 2 + 1):
            y = x.copy()
            y[n - count :, 1] = nan
            assert (robust.median(y, backend=backend)[[0, 2]] == (n + 1) / 2).all()
            assert robust.median(y, backend=backend)[1] == (n + 1) / 2
        y[n - (n - 1) // 2 - 1 :, 1] = inf
        with pytest.raises(ValueError, match=r"coordinate 1\b"):
            robust.median(y, backend=backend)


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_mean_tolerates_no_bad_row_with_a_weight(bad: float, backend: str) -> None:
    x = np.ones((4, 300))
    x[2, 299] = bad
    out = np.zeros(300)
    for weights in (None, [1, 0, 1, 0]):
        with pytest.raises(ValueError) as error:
            robust.mean(x, weights=weights, out=out, backend=backend)
        assert numbers_after(str(error.value), "row") == [2]
    assert not out.any()
    for zero in (0.0, -0.0):
        assert (robust.mean(x, weights=[1, 2, zero, 3], backend=backend) == 1).all()
        assert (robust.combine(x, [[1, 2, zero, 3], [0, 0, zero, 0]], backend=backend) == [[6], [0]]).all()
    assert not np.isfinite(robust.combine(x, [0, 0, 0.5, 0], backend=backend)[299])


def test_a_tiny_weight_beside_a_huge_one_is_still_a_weight(backend: str) -> None:
    with pytest.raises(ValueError, match="row"):
        robust.mean(np.array([[1.0], [nan]]), weights=[1e308, 1e-308], backend=backend)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bad_row_is_marked_however_few_are_left(dtype: str, backend: str) -> None:
    """Also where a row has no finite partner, and among more than 96 rows."""
    for n in (1, 2, 3, 9, 100):
        for good in {0, 1, 2, n // 2, n} & set(range(n + 1)):
            x = np.random.default_rng(n).standard_normal((n, 40))
            x[good:, 11] = nan
            x = make(x, dtype)
            rows = parse(x)
            sqdist, bad = map(to_host, find("robust.pairwise_sqdist", rows.operand, backend)(rows, 1))
            assert bad.tolist() == [i >= good for i in range(n)]
            assert np.isinf(sqdist[good:, :good]).all() and np.isfinite(sqdist[:good, :good]).all()
