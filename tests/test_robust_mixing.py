"""nnm, nnm_weights, bucketing, and combinations of many results at once."""

from __future__ import annotations

import numpy as np
import pytest
import robust_oracle as oracle
from robust_oracle import DTYPES, bits, flat, make

from fastgd import _native, random, robust
from fastgd._rows import parse
from fastgd.robust import cpu, reference

nan, inf = np.nan, np.inf


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def naive_nnm(x: np.ndarray, f: int) -> np.ndarray:
    distances = oracle.sqdist(x)
    good = np.isfinite(x).all(axis=1)
    y = np.empty_like(x)
    for i in range(len(x)):
        order = sorted(np.flatnonzero(good), key=lambda j: (j != i, distances[i, j], j))
        y[i] = x[order[: len(x) - f]].mean(0) if good[i] else x[good].mean(0)
    return y


@pytest.mark.parametrize("n, f", [(1, 0), (2, 0), (2, 1), (5, 2), (16, 3), (17, 8), (33, 6), (64, 13), (65, 20)])
def test_nnm_by_the_paper(n: int, f: int, backend: str) -> None:
    for d in (1, 31, 32, 33, 64, 65, 130):
        x = normal(n, d, seed=n)
        x[: min(f, 2), d // 2] = [nan, -inf][: min(f, 2)]
        np.testing.assert_allclose(robust.nnm(x, f, backend=backend), naive_nnm(x, f), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nnm_keeps_the_structure(dtype: str, backend: str) -> None:
    x = normal(9, 70, seed=1)
    whole = make(x, dtype)
    expected = robust.nnm(whole, 3, backend=backend)
    assert expected.shape == whole.shape and expected.dtype == whole.dtype
    listed = robust.nnm([make(row, dtype) for row in x], 3, backend=backend)
    assert isinstance(listed, list) and all(bits(a) == bits(b) for a, b in zip(listed, expected, strict=True))
    layers = robust.nnm([[make(row[:60].reshape(6, 10), dtype), make(row[60:], dtype)] for row in x], 3, backend=backend)
    assert [part.shape for part in layers[0]] == [(6, 10), (10,)]
    assert (flat(layers) == flat(expected)).all()
    out = np.empty_like(whole)
    assert robust.nnm(whole, 3, out=out, backend=backend) is out and bits(out) == bits(expected)
    with pytest.raises(ValueError, match="out"):
        robust.nnm(whole, 3, out=np.empty_like(whole)[:8], backend=backend)


def test_nnm_with_no_byzantine_vectors_is_the_mean_everywhere(backend: str) -> None:
    x = normal(11, 40).astype(np.float32)
    mean = robust.mean(x, backend=backend)
    assert all(bits(row) == bits(mean) for row in robust.nnm(x, 0, backend=backend))


def test_nnm_of_equal_vectors_to_the_bit(backend: str) -> None:
    x = np.tile(normal(1, 20), (12, 1))
    x[[2, 9]] = nan
    assert (robust.nnm(x, 2, backend=backend) == x[0]).all()


@pytest.mark.parametrize("huge", [1e20, 3e38])
def test_nnm_bars_huge_vectors_from_the_honest(huge: float, backend: str) -> None:
    x = (1 + 0.1 * normal(12, 50)).astype(np.float32)
    x[0], x[11] = huge, -huge
    mixed = robust.nnm(x, 2, backend=backend)
    assert np.isfinite(mixed).all()
    np.testing.assert_allclose(mixed[1:11], np.tile(x[1:11].astype(float).mean(0), (10, 1)), rtol=1e-6)


def test_more_than_f_bad_rows(backend: str) -> None:
    x = normal(9, 5)
    x[[2, 4]] = nan
    with pytest.raises(ValueError, match="rows 2, 4 of x"):
        robust.nnm(x, 1, backend=backend)
    for f in (9, -1, 1.5):
        with pytest.raises((ValueError, TypeError), match="f must"):
            robust.nnm(x, f, backend=backend)


@pytest.mark.parametrize("seed", range(5))
def test_mixing_bounds_the_heterogeneity(seed: int) -> None:
    """kappa of a rule after mixing is at most 8 f / (n - f) (kappa + 1): median and Krum, under attacks of all sizes."""
    n, f = 12, 3
    rng = np.random.default_rng(seed)
    kappas = {"median": 4 * (1 + f / (n - 2 * f)) ** 2, "krum": 6 * (1 + f / (n - 2 * f))}
    for size in np.geomspace(0.1, 1e3, 13):
        honest = rng.standard_normal((n - f, 5)) * rng.uniform(0.2, 3, 5)
        x = np.vstack([honest, np.tile(honest.mean(0) + size * rng.standard_normal(5), (f, 1))])
        for rule, kappa in kappas.items():
            options = {"neighbors": n - f - 1} if rule == "krum" else {}
            result = robust.aggregate(x, f, rule=rule, pre=("nnm",), **options)
            variance = ((honest - honest.mean(0)) ** 2).sum() / (n - f)
            bound = 8 * f / (n - f) * (kappa + 1) * variance
            assert ((result - honest.mean(0)) ** 2).sum() <= bound


# --------------------------------------------------------------------------------------------------------- weights


def test_nnm_weights(backend: str) -> None:
    x = normal(10, 4, seed=3)
    x[[3, 7], 2] = [nan, inf]
    weights = robust.nnm_weights(robust.pairwise_sqdist(x), 3, backend=backend)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-15)
    assert (weights[:, [3, 7]] == 0).all() and (np.diagonal(weights)[[0, 1, 2, 4, 5, 6, 8, 9]] == 1 / 7).all()
    np.testing.assert_allclose(robust.combine(x, weights), robust.nnm(x, 3, backend=backend), rtol=1e-13, atol=1e-14)
    out = np.empty((10, 10))
    assert robust.nnm_weights(robust.pairwise_sqdist(x), 3, out=out, backend=backend) is out and (out == weights).all()


def test_nnm_weights_by_hand(backend: str) -> None:
    x = np.array([0.0, 1.0, 3.0, 3.0])
    distances = (x[:, None] - x) ** 2
    np.fill_diagonal(distances, nan)  # ignored
    third = 1 / 3
    expected = [[third, third, third, 0], [third, third, third, 0], [0, third, third, third], [0, third, third, third]]
    assert robust.nnm_weights(distances, 1, backend=backend).tolist() == expected


def test_nnm_weights_refuse(backend: str) -> None:
    good = np.zeros((4, 4))
    bad = good.copy()
    bad[0, 1:] = bad[1:, 0] = inf
    cases = [(good[:3], 1, "sqdist"), (good.astype(np.float32), 1, "sqdist"), (good - 1, 1, "sqdist"), (good + nan, 1, "sqdist"),
             (good, 4, "f must"), (bad, 0, "rows 0 of sqdist")]
    for distances, f, message in cases:
        with pytest.raises(ValueError, match=message):
            robust.nnm_weights(distances, f, backend=backend)


# ------------------------------------------------------------------------------------------------------- bucketing


@pytest.mark.parametrize("n", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("size", [1, 2, 3, 16, 100])
def test_buckets_are_means_of_a_permutation(n: int, size: int, backend: str) -> None:
    x = normal(n, 9, seed=n)
    x[:, 0] = 2.0 ** np.arange(n)  # sums tell who is in
    got = robust.bucketing(x, size, seed=5, backend=backend)
    words = random.bits32(5, 0, 0, 2 * n).astype(object)
    order = sorted(range(n), key=lambda i: (words[2 * i] * 2**32 + words[2 * i + 1], i))
    buckets = [sorted(order[lo : lo + size]) for lo in range(0, n, size)]
    np.testing.assert_allclose(got, [x[bucket].mean(0) for bucket in buckets], rtol=1e-14, atol=1e-14)
    assert bits(got) == bits(robust.bucketing(x, size, seed=5, backend="cpu"))


def test_bucketing_is_a_fair_shuffle() -> None:
    """Each vector comes to each place equally often: 4000 shuffles, within 5 standard deviations."""
    first = np.array([robust.bucketing(np.arange(8.0)[:, None], 1, seed=seed)[:, 0] for seed in range(4000)])
    counts = np.array([np.bincount(column.astype(int), minlength=8) for column in first.T])
    assert (np.abs(counts - 500) < 5 * np.sqrt(500 * 7 / 8)).all()
    assert len({tuple(row) for row in first.tolist()}) > 3500


def test_bucketing_arguments(backend: str) -> None:
    x = normal(6, 5)
    for size, seed in ((0, 0), (-1, 0), (1.5, 0), (2, -1), (2, 2**64), (2, 0.5)):
        with pytest.raises((ValueError, TypeError), match=r"size|seed"):
            robust.bucketing(x, size, seed=seed, backend=backend)
    out = np.full((3, 5), 7.0)
    assert robust.bucketing(x, 2, out=out, backend=backend) is out
    for row, value in ((0, nan), (5, inf)):
        y, out = x.copy(), np.full((2, 5), 7.0)
        y[row, 4] = value
        with pytest.raises(ValueError, match=f"rows {row} of x"):
            robust.bucketing(y, 4, out=out, backend=backend)
        assert (out == 7.0).all()
    huge = np.full((4, 3), 1.7e308)
    assert (robust.bucketing(huge, 4, backend=backend) == 1.7e308).all()
    assert robust.bucketing([[row[:2], row[2:]] for row in x], 4, backend=backend)[1][1].shape == (3,)


# ------------------------------------------------------------------------------------------ many results of combine


def mixed_bits(x: np.ndarray, weights: np.ndarray, divisor: float, threads: int = 1) -> bytes:
    rows = parse(x)
    stacks = rows.empty(len(weights))
    broken = cpu.combine(rows, weights, divisor, stacks, threads)
    return bits(stacks[0]) + bytes([broken & 255])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 64, 65, 130])
def test_many_results_have_the_bits_of_one_by_one(n: int, dtype: str) -> None:
    """Whatever path makes them: unit weights, others, negative, repeated, none; and of every instruction set."""
    rng = np.random.default_rng(n)
    for d in (1, 15, 16, 33, 64, 65, 200):
        x = rng.standard_normal((n, d)).astype(dtype)
        x[rng.integers(n)] *= 0.0  # zeros of both signs
        weights = rng.standard_normal((7, n))
        weights[1] = rng.random(n) < 0.7
        weights[2] = -(rng.random(n) < 0.7).astype(float)
        weights[3] = 0.0
        weights[4] = weights[1]
        weights[5] *= rng.random(n) < 0.3
        x[rng.integers(n), rng.integers(d)] = nan
        alone = [mixed_bits(x, row[None].copy(), 3.0)[:-1] for row in weights]
        assert mixed_bits(x, weights, 3.0)[:-1] == b"".join(alone)
        rows = parse(x)
        got, expected = rows.empty(7), rows.empty(7)
        assert cpu.combine(rows, weights, 3.0, got, 1) == reference.combine(rows, weights, 3.0, expected)
        np.testing.assert_allclose(got[0].astype(float), expected[0].astype(float), rtol=1e-2 if dtype == "float16" else 1e-6,
                                   atol=1e-2 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d", [2**19, 2**19 + 5])
def test_results_beyond_the_caches_wherever_they_lie(d: int, dtype: str) -> None:
    """Whole cache lines are written past the caches: not one byte beside the result may change, on any instruction set."""
    x = normal(8, d, seed=3).astype(dtype)
    x[2, d // 2], x[3, -1] = nan, -inf
    weights = np.random.default_rng(4).integers(0, 2, (8, 8)).astype(float)
    weights[6], weights[7] = weights[5], 0.0
    expected = np.concatenate([robust.combine(x, row[None]) for row in weights]).ravel()
    current = _native.lib.fgd_isa_current()
    try:
        for level in range(_native.lib.fgd_isa_best() + 1):
            _native.lib.fgd_isa_use(level)
            for before in (0, 1, 9):
                memory = np.full(expected.size + 32, 7.0, dtype)
                cpu.combine(parse(x), weights, 1.0, [memory[before : before + expected.size].reshape(8, d)], 2)
                assert bits(memory[before : before + expected.size]) == bits(expected)
                assert (memory[:before] == 7).all() and (memory[before + expected.size :] == 7).all()
    finally:
        _native.lib.fgd_isa_use(current)


def test_zero_weights_bar_what_is_not_finite() -> None:
    x = normal(40, 70).astype(np.float32)
    x[7], x[35, 3] = nan, inf
    weights = np.ones((3, 40))
    weights[:2, [7, 35]] = 0.0
    got = robust.combine(x, weights)
    assert np.isfinite(got[:2]).all() and np.isnan(got[2]).all()


def test_sums_beyond_float64(backend: str) -> None:
    x = np.full((5, 40), 1.7e308)
    x[3] = -1.7e308
    got = robust.combine(x, [[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], backend=backend)
    assert (got[0] == 1.7e308).all() and np.isposinf(got[1]).all() and (got[2] == 1.7e308).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_mixing_same_bits_for_threads_and_instruction_sets(dtype: str) -> None:
    x = make(normal(20, 60_001, seed=2), dtype)
    expected = bits(robust.nnm(x, 4, num_threads=1))
    current = _native.lib.fgd_isa_current()
    try:
        for level in range(_native.lib.fgd_isa_best() + 1):
            _native.lib.fgd_isa_use(level)
            assert {bits(robust.nnm(x, 4, num_threads=threads)) for threads in (1, 2, 3)} == {expected}
    finally:
        _native.lib.fgd_isa_use(current)


def test_nnm_into_memory_of_the_vectors_themselves(backend: str) -> None:
    x = normal(8, 300)
    expected = robust.nnm(x, 2, backend=backend)
    assert robust.nnm(x, 2, out=x, backend=backend) is x
    assert bits(x) == bits(expected)
