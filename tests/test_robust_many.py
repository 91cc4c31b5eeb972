"""Many vectors: inner products of centred rows give distances and choices as good as direct differences in double."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastgd
from fastgd import robust

D = 4096  # columns from which on inner products are used


def exact(x: np.ndarray) -> np.ndarray:
    """Squared distances in double, each sum rounded once."""
    wide = x.astype(np.float64)
    sqdist = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in range(i):
            sqdist[i, j] = sqdist[j, i] = math.fsum((wide[i] - wide[j]) ** 2)
    return sqdist


def exact_selection(sqdist: np.ndarray, k: int, m: int) -> list[int]:
    scores = [math.fsum(sorted(np.delete(row, i))[:k]) for i, row in enumerate(sqdist)]
    return sorted(sorted(range(len(scores)), key=lambda i: (scores[i], i))[:m])


def family(name: str, n: int = 101, f: int = 20) -> np.ndarray:
    """float32 vectors that are hard on an algorithm that subtracts large numbers, or one that trusts the first vectors."""
    rng = np.random.default_rng(len(name))
    noise = rng.standard_normal((n, D)) / math.sqrt(D)
    x = noise.copy()
    if name.startswith("far"):  # mean of norm 1e4
        x += 1e4 * rng.standard_normal(D) / math.sqrt(D)
    if name == "far with huge first":
        x[:f] = 1e10 * rng.standard_normal((f, D))
    if name == "huge everywhere":
        x[rng.permutation(n)[:f]] *= 1e36
    if name == "two clusters":
        x[: n // 2] += 100.0
    if name == "tight cluster far off":
        x[:f] = x[0] + 1e3 + 1e-5 * noise[:f]
    if name == "near ties":  # pairs of vectors whose scores differ in the eighth digit
        x[1::2] = x[: n - 1 : 2] * (1 + 1e-8)
    if name == "copies":
        x[::3] = x[5]
    if name == "tiny":
        x *= 1e-30
    if name == "subnormal":
        x *= 1e-42
    return x.astype(np.float32)


FAMILIES = ("plain", "far", "far with huge first", "huge everywhere", "two clusters", "tight cluster far off", "near ties",
            "copies", "tiny", "subnormal")


@pytest.mark.parametrize("name", FAMILIES)
def test_distances_and_choices(name: str) -> None:
    x = family(name)
    n, f = len(x), 20
    sqdist = exact(x)
    got = robust.pairwise_sqdist(x)
    assert np.array_equal(got, got.T) and not got.diagonal().any()
    apart = sqdist > 0
    assert np.array_equal(got[~apart], sqdist[~apart])
    error = np.abs(got - sqdist)[apart] / sqdist[apart]
    assert error.max() < 1.2e-5
    assert np.median(error) < 1e-7
    for m in (1, 7, n - f - 2):
        for threads in (1, 2):
            info = robust.multikrum(x, f, m=m, return_info=True, num_threads=threads)[1]
            assert info.selected.tolist() == exact_selection(sqdist, n - f - 2, m)
    assert np.array_equal(robust.krum(x, f), x[exact_selection(sqdist, n - f - 2, 1)[0]])


@pytest.mark.parametrize("name", ("far", "near ties", "copies"))
def test_choices_among_short_vectors(name: str) -> None:
    x = np.ascontiguousarray(family(name)[:, :63])
    sqdist = exact(x)
    for m in (1, 7, 79):
        info = robust.multikrum(x, 20, m=m, return_info=True)[1]
        assert info.selected.tolist() == exact_selection(sqdist, 79, m)


def test_non_finite_vectors() -> None:
    x = family("far")
    x[3, 17] = np.nan
    x[50] = np.inf
    x[77, -1] = -np.inf
    got, expected = robust.pairwise_sqdist(x), robust.pairwise_sqdist(x, backend="reference")
    assert np.array_equal(np.isinf(got), np.isinf(expected))
    assert np.allclose(got[np.isfinite(got)], expected[np.isfinite(expected)], rtol=1.2e-5, atol=0)
    info = robust.krum(x, 20, return_info=True)[1]
    assert np.flatnonzero(info.bad_rows).tolist() == [3, 50, 77]
    assert info.selected == robust.krum(x, 20, return_info=True, backend="reference")[1].selected


def test_a_bad_centre_costs_time_only() -> None:
    """The sampled columns see nothing of what tells the vectors apart; the row they choose is bad or far away."""
    x = np.zeros((97, 3 * D), np.float32)
    x[:, 1500:1700] = np.random.default_rng(1).standard_normal((97, 200))
    sampled = robust.pairwise_sqdist(x)
    assert np.allclose(sampled, robust.pairwise_sqdist(x, backend="reference"), rtol=1.2e-5, atol=0)
    x[0, 1600] = np.nan
    assert np.isinf(robust.pairwise_sqdist(x)[0, 1:]).all()
    assert np.isfinite(robust.pairwise_sqdist(x)[1:, 1:]).all()


@pytest.mark.parametrize("isa", ("v3", "default"))
def test_same_bits(isa: str) -> None:
    x = family("far with huge first", n=98)[:, : D + 5]
    assert _bits(x, "", 1) == _bits(x, "", 2) == _bits(x, "", 3) == _bits(x, isa, 2)


def _bits(x: np.ndarray, isa: str, threads: int) -> bytes:
    from fastgd._native import lib

    level = lib.fgd_isa_current()
    try:
        if isa:
            lib.fgd_isa_use({"v3": 1, "default": 0}[isa])
        with fastgd.use(num_threads=threads):
            return robust.pairwise_sqdist(np.ascontiguousarray(x)).tobytes()
    finally:
        lib.fgd_isa_use(level)


def test_forms_and_dtypes() -> None:
    x = family("far", n=97)
    rows = [[row[:100].reshape(4, 25), row[100:101].reshape(()), row[101:]] for row in x]
    assert np.array_equal(robust.pairwise_sqdist(rows), robust.pairwise_sqdist(x))
    assert np.array_equal(robust.pairwise_sqdist(list(x)), robust.pairwise_sqdist(x))
    half = x.astype(np.float16)
    assert np.array_equal(robust.pairwise_sqdist(half), robust.pairwise_sqdist(half.astype(np.float32)))
