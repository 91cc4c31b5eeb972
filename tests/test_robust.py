"""fastgd.robust against oracles of its own: every shape, every dtype."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import robust_oracle as oracle
from robust_oracle import DTYPES, assert_means, bits, flat, flat_vector, floats, make

from fastgd import robust

NS = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 100, 129, 257)
DS = (0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 1023, 1024, 1025, 4099)
#: Every n and every d at least twice, neighbours of the tile sizes against each other, and two long rows.
SHAPES = sorted(
    {(n, DS[(3 * i + shift) % len(DS)]) for i, n in enumerate(NS) for shift in (0, 5)}
    | {(NS[(5 * i + 2) % 16], d) for i, d in enumerate(DS)}
    | set(itertools.product((15, 16, 17), (15, 16, 17)))
    | {(9, 70_001), (2, 140_003)}
)
#: All of them in float32 and float64, every other one in each of the halves.
CASES = [(n, d, t) for i, (n, d) in enumerate(SHAPES) for j, t in enumerate(DTYPES) if t[-2:] != "16" or (i + j) % 2]
BUDGET = {"float16": 1e-6, "bfloat16": 1e-6, "float32": 1e-6, "float64": 1e-13}


@functools.cache
def sample(n: int, d: int, dtype: str = "float32") -> np.ndarray:
    """Vectors of very different lengths around a common centre."""
    rng = np.random.default_rng(1000 * n + d)
    x = make(3.0 + rng.standard_normal((n, d)) * rng.choice([0.1, 1.0, 30.0], (n, 1)), dtype)
    x.flags.writeable = False
    return x


def check_sqdist(got: np.ndarray, x: object, dtype: str) -> None:
    exact = oracle.sqdist(x)
    got = floats(got)
    assert got.shape == exact.shape
    assert (got == got.T).all()
    assert (np.diag(got) == 0.0).all()
    finite = np.isfinite(exact)
    assert (got[~finite] == np.inf).all()
    assert (np.abs(got - exact)[finite] <= BUDGET[dtype] * exact[finite]).all()


@pytest.mark.parametrize("n, d, dtype", CASES)
def test_pairwise_sqdist(n: int, d: int, dtype: str, backend: str) -> None:
    got = robust.pairwise_sqdist(sample(n, d, dtype), backend=backend)
    assert type(got) is np.ndarray
    assert got.dtype == np.float64
    check_sqdist(got, sample(n, d, dtype), dtype)


@pytest.mark.parametrize("n, d, dtype", CASES)
def test_median(n: int, d: int, dtype: str, backend: str) -> None:
    x = sample(n, d, dtype)
    got = robust.median(x, backend=backend)
    assert got.dtype == x.dtype
    assert got.shape == (d,)
    assert (floats(got) == oracle.median(x, dtype)).all()


@pytest.mark.parametrize("n, d, dtype", CASES)
def test_trimmed_mean(n: int, d: int, dtype: str, backend: str) -> None:
    x = sample(n, d, dtype)
    for f in sorted({0, 1, n // 4, (n - 1) // 2}):
        if 2 * f < n:
            got = robust.trimmed_mean(x, f, backend=backend)
            assert got.dtype == x.dtype
            assert_means(got, oracle.window(x, f), dtype)


@pytest.mark.parametrize("n, d, dtype", CASES)
def test_mean(n: int, d: int, dtype: str, backend: str) -> None:
    x = sample(n, d, dtype)
    got = robust.mean(x, backend=backend)
    assert got.dtype == x.dtype
    assert_means(got, flat(x), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, d", [(1, 3), (2, 17), (7, 33), (16, 1000), (33, 65), (65, 1025)])
def test_combine(n: int, d: int, dtype: str, backend: str) -> None:
    """Powers of two as weights make the products exact, so the result must be the exact sum rounded."""
    x = sample(n, d, dtype)
    weights = np.random.default_rng(n).choice([0.0, -0.5, 1.0, -2.0, 4.0], (5, n))
    got = robust.combine(x, weights, backend=backend)
    assert got.dtype == x.dtype
    assert got.shape == (5, d)
    for a in range(5):
        assert_means(got[a], weights[a][:, None] * flat(x), dtype, divisor=1)
        assert bits(robust.combine(x, weights[a], backend=backend)) == bits(got[a])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_combine_with_any_weights(dtype: str, backend: str) -> None:
    """Each product may be rounded in float64 once, the sum of them once more."""
    x, weights = sample(129, 65, dtype), np.random.default_rng(1).standard_normal(129)
    terms = np.longdouble(weights)[:, None] * np.longdouble(flat(x))
    exact = terms.sum(axis=0)
    budget = oracle.ulp(exact.astype(float), dtype) + np.abs(terms).sum(axis=0) * 2.0**-53 * (
        1 if dtype == "float64" else 129
    )
    assert (np.abs(flat_vector(robust.combine(x, weights, backend=backend)) - exact) <= budget).all()


def check_krum(x: np.ndarray, f: int, backend: str, neighbors: int | None = None) -> None:
    n, d = x.shape
    distances = robust.pairwise_sqdist(x, backend=backend)
    exact = oracle.scores(distances, n - f - 2 if neighbors is None else neighbors)
    vector, info = robust.krum(x, f, neighbors=neighbors, return_info=True, backend=backend)
    known = robust.krum_scores(distances, f, neighbors=neighbors, backend=backend)
    np.testing.assert_allclose(known, exact, rtol=1e-14)
    if n > 96 and backend == "cpu":  # scores that the choice hung on are those of distances in double
        np.testing.assert_allclose(info.scores, known, rtol=1e-5)
    else:
        np.testing.assert_array_equal(info.scores, known)
    assert info.scores.dtype == np.float64
    assert info.bad_rows.dtype == np.bool_
    assert not info.bad_rows.any()
    assert info.selected.tolist() == [int(info.scores.argmin())]
    assert bits(vector) == bits(x[info.selected[0]])
    assert vector.shape == (d,)
    for m in sorted({1, 2, n - f, n}):
        average, info = robust.multikrum(x, f, m=m, neighbors=neighbors, return_info=True, backend=backend)
        assert info.selected.tolist() == sorted(np.argsort(info.scores, kind="stable")[:m].tolist())
        assert_means(average, flat(x)[info.selected], str(x.dtype))


@pytest.mark.parametrize("n, d, dtype", [case for case in CASES if case[0] >= 3 and case[0] * case[1] < 70_000])
def test_krum_and_multikrum(n: int, d: int, dtype: str, backend: str) -> None:
    for f in sorted({0, (n - 3) // 2}):
        check_krum(sample(n, d, dtype), f, backend)
    check_krum(sample(n, d, dtype), (n - 1) // 2, backend, neighbors=n - (n - 1) // 2 - 1 or 1)


@pytest.mark.parametrize("n, d, dtype", CASES)
def test_the_reference_agrees(n: int, d: int, dtype: str) -> None:
    x = sample(n, d, dtype)
    one, two = (robust.pairwise_sqdist(x, backend=backend) for backend in ("cpu", "reference"))
    np.testing.assert_allclose(one, two, rtol=BUDGET[dtype], atol=0)
    assert bits(robust.median(x, backend="cpu")) == bits(robust.median(x, backend="reference"))
    for f in {0, n // 3}:
        if n > 2 * f:
            one, two = (floats(robust.trimmed_mean(x, f, backend=backend)) for backend in ("cpu", "reference"))
            assert (np.abs(one - two) <= oracle.ulp(two, dtype)).all()
