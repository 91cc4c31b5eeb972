"""Many vectors: the choice of Krum is that of exact distances, however the data tries to make rounding decide.

For n above about 96 distances may come from inner products of centred vectors, which cancel; the choice must not show
it. Here the distances of the oracle are differences in float64 added by math.fsum, the scores again by math.fsum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import rules_oracle as oracle
from robust_oracle import bits, floats, make, ulp
from rules_calls import LIBRARIES

from fastgd import robust

pytestmark = pytest.mark.timeout(120)


def around(n: int, d: int, norm: float, seed: int, byzantine: int = 0) -> np.ndarray:
    """Vectors mu + noise of norm 1 .. 1.5, the first `byzantine` of norm 2; mu of the given norm."""
    rng = np.random.default_rng(seed)
    mu, noise = rng.standard_normal(d), rng.standard_normal((n, d))
    length = np.concatenate([np.full(byzantine, 2.0), rng.uniform(1, 1.5, n - byzantine)])
    return mu * (norm / np.linalg.norm(mu)) + noise * (length / np.linalg.norm(noise, axis=1))[:, None]


def widened(x: np.ndarray, dtype: str, seed: int) -> Any:
    """The columns of x among 4200 others that are the same in every row: the same distances, of long vectors."""
    rng = np.random.default_rng(seed)
    d = x.shape[1] + 4200
    wide = np.tile(rng.standard_normal(d) * 2.0 ** rng.integers(-3, 8, d), (len(x), 1))
    wide[:, np.sort(rng.permutation(d)[: x.shape[1]])] = x
    return make(wide, dtype)


def check_distances(x: Any, exact: np.ndarray) -> None:
    got = robust.pairwise_sqdist(x)
    assert (got == got.T).all() and not np.diag(got).any()
    zero = exact == 0
    assert not got[zero].any()
    error = np.abs(got[~zero] - exact[~zero]) / exact[~zero]
    assert error.size == 0 or (error.max() < 1e-5 and np.median(error) < 1e-7), (error.max(), np.median(error))


def separated(exact: np.ndarray, scores: list[float], m: int, neighbors: int) -> bool:
    """Whether the m lowest scores are out of rounding's reach of the rest, or tie with the next without any rounding.

    Without rounding means: sums of integers, or of the same distances.
    """
    ranked = sorted(scores)
    if m == len(scores) or ranked[m] - ranked[m - 1] > 1e-13 * ranked[m]:
        return True
    nearest = np.sort(exact, axis=1)[[i for i, s in enumerate(scores) if abs(s - ranked[m]) <= 1e-13 * s], : neighbors + 1]
    return bool((nearest == nearest[0]).all() or ((nearest == np.rint(nearest)).all() and ranked[m] < 2.0**53))


def check(values: np.ndarray, f: int, dtype: str = "float32") -> list[float]:
    """Both rules choose what the oracle chooses, stably, also of long vectors; returns the oracle's scores."""
    x = make(values, dtype)
    n = len(values)
    exact = oracle.exact_sqdist(floats(x))
    scores = oracle.exact_scores(exact, n - f - 2)
    more = oracle.exact_scores(exact, n - f - 1)
    best = oracle.best_of(scores, 1)
    for y in (x, widened(floats(x), dtype, n)) if dtype != "float64" else (x,):
        if separated(exact, scores, 1, n - f - 2):
            vector, info = robust.krum(y, f, return_info=True)
            assert info.selected.tolist() == best, np.array(scores)[[int(info.selected[0]), best[0]]]
            assert bits(vector) == bits(y[best[0]])
        sizes = [m for m in (2, 5, n // 2, n - f - 2, n - f, n) if separated(exact, scores, m, n - f - 2)]
        assert len(sizes) >= 2
        for m in sizes:
            info = robust.multikrum(y, f, m=m, return_info=True)[1]
            chosen = oracle.best_of(scores, m)
            assert info.selected.tolist() == chosen, (m, set(info.selected.tolist()) ^ set(chosen))
        if separated(exact, more, 1, n - f - 1):
            info = robust.krum(y, f, neighbors=n - f - 1, return_info=True)[1]
            assert info.selected.tolist() == oracle.best_of(more, 1)
        check_distances(y, exact)
    return scores


@pytest.mark.parametrize("giant", [None, 1e6, 1e10])
@pytest.mark.parametrize("norm", [1e3, 1e4])
@pytest.mark.parametrize("n, d", [(97, 200), (128, 301), (200, 64)])
def test_means_far_from_the_origin(n: int, d: int, norm: float, giant: float | None) -> None:
    """The precision attack: one giant vector first, which a centre of gravity would follow."""
    f = n // 4
    x = around(n, d, norm, n, f)
    if giant:
        x[0] = giant / math.sqrt(d)
    check(x, f)


@pytest.mark.parametrize("place", [0, 50, 99])
def test_giants_anywhere(place: int) -> None:
    x = around(100, 150, 1e3, place, 20)
    x[place : place + 3] = 1e15
    check(x, 20)
    x[place] = np.nan
    vector, info = robust.krum(x.astype(np.float32), 20, return_info=True)
    kept = np.delete(x, place, axis=0).astype(np.float32)
    scores = oracle.exact_scores(oracle.exact_sqdist(kept.astype(float)), 78)
    assert bits(vector) == bits(kept[oracle.best_of(scores, 1)[0]])
    assert info.bad_rows.sum() == 1 and info.bad_rows[place]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gap", [1e-7, 1e-6, 1e-4])
def test_clusters_that_are_nearly_points(gap: float, dtype: str) -> None:
    """Distances inside a cluster are `gap` of those between clusters, and of the norm."""
    rng = np.random.default_rng(3)
    centers = rng.standard_normal((4, 80))
    x = centers[rng.integers(4, size=120)] + gap * rng.standard_normal((120, 80))
    check(x, 20, dtype)
    check(x + 1.0, 20, dtype)
    x = centers[0] + gap * rng.standard_normal((120, 80))
    x[:30] = centers[1]
    check(x, 30, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_exact_duplicates_and_exact_ties(dtype: str) -> None:
    """Integers: all distances are exact, and ties go to the lowest index."""
    rng = np.random.default_rng(4)
    for trial in range(3):
        x = rng.integers(-2, 3, (110 + trial, 6 + trial)).astype(float)
        check(x, 10, dtype)
        check(x + 100.0, 10, dtype)
    lattice = np.stack(np.meshgrid(*[np.arange(-2.0, 3)] * 3), axis=-1).reshape(-1, 3)
    check(lattice[rng.permutation(len(lattice))], 20, dtype)
    same = np.tile(rng.standard_normal(33), (130, 1))
    check(same, 20, dtype)
    pairs = np.repeat(rng.standard_normal((60, 33)), 2, axis=0)
    check(pairs[rng.permutation(120)], 20, dtype)
    half = np.vstack([same[:65], rng.standard_normal((65, 33))])
    check(half[rng.permutation(130)], 20, dtype)


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_near_ties_of_scores(seed: int, offset: float) -> None:
    """u and -u among vectors that come in pairs +-y: equal scores, until one coordinate decides at about 1e-9."""
    rng = np.random.default_rng(seed)
    n, d, f = 120, 65, 20
    grid = 2.0**-12  # coarse enough for the offset to be exact
    y = np.rint(rng.standard_normal((n // 2 - 1, d)) / grid) * grid
    u = np.rint(0.1 * rng.standard_normal(d) / grid) * grid
    x = np.vstack([u, y, -u, -y])
    x[0, 0], x[n // 2, 0] = grid, -grid
    order = rng.permutation(n)
    tie = check((x + offset)[order], f)
    at = [int(np.flatnonzero(order == i)[0]) for i in (0, n // 2)]
    assert tie[at[0]] == tie[at[1]] == min(tie)
    for nudge in (2 * grid, -2 * grid):
        moved = x.copy()
        moved[n // 2, 0] += nudge / 512 if offset == 0.0 else nudge / 16
        scores = check((moved + offset)[order], f)
        difference = abs(scores[at[0]] - scores[at[1]]) / min(scores)
        assert 0 < difference < 1e-6


@pytest.mark.parametrize("power", [2**-20, 2**-23, 2**-26])
def test_scores_a_billionth_apart(power: float) -> None:
    """One dimension decides: two candidates in the middle of a symmetric crowd, one off by a hair."""
    n, f = 101, 20
    crowd = np.concatenate([-np.arange(1.0, 50.0) - 3, np.arange(1.0, 50.0) + 3])
    for candidates in ([1.0, -1.0 - power, 0.5], [-1.0 - power, 1.0, 0.5], [1.0 + power, -1.0, -1.0 - 2 * power]):
        x = np.concatenate([crowd, candidates])[:, None]
        scores = check(x, f)
        check(x[::-1].copy(), f)
        assert n == len(scores)
    for base in (0.0, 8.0):
        first = np.zeros((n, 3))
        first[:, 0] = np.concatenate([crowd, [base / 8, -base / 8, 0.25]])
        first[98, 1], first[99, 1] = power, 2 * power
        check(first, f)
        check(first[:, ::-1].copy(), f)


@pytest.mark.parametrize("colluders", [3, 5, 20])
def test_colluders_near_any_reference(colluders: int) -> None:
    """Attackers close together, or close to one honest vector, or in the first places that a sample would take."""
    rng = np.random.default_rng(colluders)
    x = around(128, 150, 1e4, 9, 30)
    x[:colluders] = 1e6 + rng.standard_normal((colluders, 150))
    check(x, 30)
    x[:colluders] = x[60] + 1e-3 * rng.standard_normal((colluders, 150))
    check(x, 30)
    x[:colluders] = 1e12 * rng.standard_normal(150)
    check(x, 30)


@pytest.mark.parametrize("scale", [1e-44, 1e-42, 1e-40, 1e-38, 1e-30, 1e-22])
def test_tiny_data(scale: float) -> None:
    """Subnormal float32 numbers are few, so that ties are many."""
    x = scale * np.random.default_rng(5).standard_normal((110, 40))
    check(x, 15)
    x[:5] = 1.0
    check(x, 15)


@pytest.mark.parametrize("scale", [1e15, 1e18, 1e19, 1e20, 1e25, 1e30, 1e37, 5e37])
def test_huge_data(scale: float) -> None:
    x = scale * np.random.default_rng(6).standard_normal((110, 40))
    check(x, 15)
    x[:20] /= scale
    check(x, 15)
    x[:100] = np.random.default_rng(7).standard_normal((100, 40))
    check(x, 15)


@pytest.mark.parametrize("scale", [1e-140, 1e-100, 1e100, 1e140])
def test_float64_of_any_scale(scale: float) -> None:
    x = scale * (1e3 + np.random.default_rng(8).standard_normal((100, 30)))
    check(x, 15, "float64")


def test_one_loud_coordinate() -> None:
    """All the norm in one coordinate, all the difference in the others; and the other way round."""
    rng = np.random.default_rng(9)
    x = 1e-4 * rng.standard_normal((110, 100))
    x[:, 37] = 4096.0
    check(x, 20)
    x[:, 37] += 2.0**-6 * rng.integers(0, 2, 110)
    check(x, 20)
    x = np.zeros((110, 100))
    x[:, :5] = rng.standard_normal((110, 5))
    check(x, 20)


@pytest.mark.parametrize("n", [95, 96, 97, 98, 111, 112, 113, 127, 129, 160])
def test_sizes_around_the_change_of_method(n: int) -> None:
    x = around(n, 50, 1e3, n, n // 4)
    check(x, n // 4)
    assert robust.krum(np.ones((n, 1), np.float32), n // 4, return_info=True)[1].selected.tolist() == [0]


@pytest.mark.parametrize("d", [0, 1, 2, 15, 16, 17, 255, 257, 1025, 4099])
def test_numbers_of_coordinates(d: int) -> None:
    """Rational arithmetic on a few pairs besides."""
    x = around(100, d, 1e3, d, 20) if d else np.zeros((100, 0))
    check(x, 20)
    if 0 < d < 300:
        x = make(x, "float32")
        got = robust.pairwise_sqdist(x)
        for i, j in ((0, 1), (5, 99), (42, 43)):
            exact = float(oracle.rational_sqdist(x[i], x[j]))
            assert abs(got[i, j] - exact) <= 1e-5 * exact


@pytest.mark.parametrize("library", LIBRARIES)
def test_forms_and_threads_choose_the_same(library: str) -> None:
    x = around(130, 4300, 1e4, 1, 30).astype(np.float32)
    x[0] = 1e6
    expected = robust.pairwise_sqdist(x)
    chosen = robust.multikrum(x, 30, return_info=True)[1]
    layers = [[row[:7], row[7:500].reshape(17, 29), row[500:]] for row in x]
    for form in (x, list(x), layers, np.asfortranarray(x), make(x, "float32", library)):
        for threads in (1, 2, 3):
            info = robust.multikrum(form, 30, num_threads=threads, return_info=True)[1]
            assert info.selected.tolist() == chosen.selected.tolist()
    for threads in (1, 2, 3):
        assert bits(robust.pairwise_sqdist(x, num_threads=threads)) == bits(expected)
        assert bits(robust.multikrum(x, 30, num_threads=threads, return_info=True)[1].scores) == bits(chosen.scores)


def test_bad_rows_of_many() -> None:
    x = around(150, 64, 1e3, 2, 0).astype(np.float32)
    bad = [0, 17, 96, 149]
    x[bad, [0, 63, 5, 30]] = np.nan, np.inf, -np.inf, np.nan
    sqdist = robust.pairwise_sqdist(x)
    off = ~np.eye(150, dtype=bool)
    assert np.isposinf(sqdist[bad][off[bad]]).all() and np.isposinf(sqdist[:, bad][off[:, bad]]).all()
    info = robust.multikrum(x, 4, m=146, return_info=True)[1]
    assert np.flatnonzero(info.bad_rows).tolist() == bad and np.isposinf(info.scores[bad]).all()
    assert info.selected.tolist() == [i for i in range(150) if i not in bad]
    with pytest.raises(ValueError, match=r"rows 0, 17, 96, 149\b"):
        robust.krum(x, 3)


@pytest.mark.parametrize("n", [97, 130])
def test_other_distance_rules_of_many(n: int) -> None:
    """They stand on the same distances: far means, a giant first, and the right answer all the same."""
    x = around(n, 120, 1e4, n, 0)
    x[0] = 1e10 / math.sqrt(120)
    f = 5
    given = make(x, "float32")
    x = floats(given)
    honest = x[1:].mean(0)
    np.testing.assert_allclose(robust.monna(given, f, 50), oracle.monna(x, f, 50), rtol=1e-6)
    np.testing.assert_allclose(robust.nnm(given, f)[1:], oracle.nnm(x, f)[1:], rtol=1e-6)
    for rule in (robust.bulyan, robust.caf):
        assert np.linalg.norm(rule(given, f) - honest) < 1.5
    x[0] /= 1e4  # the geometric median feels the pull of a vector as long as its distance can be told
    assert oracle.gm_slope(x, robust.geometric_median(x)) < 1e-5


# ------------------------------------------------------------------------------------- coordinate-wise rules of many

MANY = [97, 128, 129, 255, 256, 257, 300, 511, 512, 513, 1000, 1023, 1024, 1025, 2047, 2048, 4095, 4096]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("n", MANY)
def test_coordinatewise_rules_of_many(n: int, dtype: str) -> None:
    """Against sorting: random, sorted, reversed, constant, two values, few values, giants, bad values."""
    rng = np.random.default_rng(n)
    largest = {"float16": 6e4, "bfloat16": 3e38, "float32": 3e38, "float64": 1e300}[dtype]
    columns = [rng.standard_normal(n) for _ in range(3)]
    columns += [np.arange(n), -np.arange(n), np.full(n, 0.1), rng.integers(0, 2, n), rng.integers(-3, 4, n)]
    columns += [np.where(rng.random(n) < 0.1, largest, rng.standard_normal(n)), np.zeros(n), 1e-3 * rng.standard_normal(n)]
    columns += [np.where(np.arange(n) % 2, 1.0, -1.0) * largest / 4]
    x = make(np.stack(columns, axis=1), dtype)
    values = floats(x)
    ranked = np.sort(values, axis=0)
    middle = ranked[(n - 1) // 2] / 2 + ranked[n // 2] / 2
    assert (np.abs(floats(robust.median(x)) - middle) <= (ulp(middle, dtype) if n % 2 == 0 else 0.0)).all()
    for f in (1, n // 10, n // 3, (n - 1) // 2):
        kept = ranked[f : n - f] / (n - 2 * f)
        trimmed = np.array([math.fsum(column) for column in kept.T]), np.abs(kept).sum(0)
        for rule, (expected, size) in ((robust.trimmed_mean, trimmed), (robust.meamed, nearest_means(ranked, f))):
            assert (np.abs(floats(rule(x, f)) - expected) <= ulp(expected, dtype) + 1e-14 * size).all()


def nearest_means(ranked: np.ndarray, f: int) -> tuple[np.ndarray, np.ndarray]:
    """MeaMed of sorted columns, and the mean of magnitudes; of equally near values the lower counts."""
    n = len(ranked)
    middle = ranked[(n - 1) // 2] / 2 + ranked[n // 2] / 2
    order = np.argsort(np.abs(ranked - middle), axis=0, kind="stable")[: n - f]
    kept = np.take_along_axis(ranked, order, axis=0)
    return np.array([math.fsum(column / (n - f)) for column in kept.T]), np.abs(kept / (n - f)).sum(0)


@pytest.mark.parametrize("n", [97, 300, 1025, 4096])
def test_bad_values_among_many(n: int) -> None:
    """Up to f at a coordinate: as +inf; one more is an error that names the coordinate."""
    rng = np.random.default_rng(n)
    f = n // 7
    x = rng.standard_normal((n, 40)).astype(np.float32)
    where = rng.permutation(n)[: f + 1]
    x[where[:f], 11] = rng.choice([np.nan, np.inf, -np.inf], f)
    ranked = np.sort(np.where(np.isfinite(x), x, np.inf), axis=0).astype(float)
    np.testing.assert_allclose(robust.median(x), (ranked[(n - 1) // 2] + ranked[n // 2]) / 2, rtol=1e-6)
    np.testing.assert_allclose(robust.trimmed_mean(x, f), ranked[f : n - f].mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(robust.meamed(x, f)[11], ranked[: n - f, 11].mean(), rtol=1e-5, atol=1e-7)
    x[where[f], 11] = -np.inf
    for rule in (robust.trimmed_mean, robust.meamed):
        with pytest.raises(ValueError, match=r"coordinate 11\b"):
            rule(x, f)
