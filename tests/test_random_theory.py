"""What the streams must look like: distributions, independence, avalanche. Fixed seeds: every p-value is a constant."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fastgd import random

SIZE = 1_000_000
ODD = 0.002  # of about 100 p-values one or none is smaller


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """In units of its standard deviation, 1 / sqrt(n), for independent a and b."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.corrcoef(a, b)[0, 1] * np.sqrt(a.size))


def bits_of(words: np.ndarray) -> np.ndarray:
    """(n, 32): bit by bit."""
    return (words[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)


# ------------------------------------------------------------------------------------------------------ distributions


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5])
def test_normal_distribution(seed: int) -> None:
    z = random.normal(seed, 0, 0, SIZE).astype(np.float64)
    for part in (z, z[0::2], z[1::2]):  # the cosines and the sines alone too
        assert stats.kstest(part, "norm").pvalue > ODD
    assert abs(z.mean()) < 4 / np.sqrt(SIZE)
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2 / SIZE)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / SIZE)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / SIZE)


def test_normal_tails() -> None:
    """Counts beyond 3, 4 and 4.5 on either side."""
    z = random.normal(11, 0, 0, 4_000_000)
    for edge in (3.0, 4.0, 4.5):
        for count in ((z > edge).sum(), (z < -edge).sum()):
            expected = z.size * stats.norm.sf(edge)
            assert abs(count - expected) < 4 * np.sqrt(expected)
    assert np.abs(z).max() < 6.77


def test_the_pair_is_isotropic() -> None:
    """Box-Muller: the squared radius is exponential with mean 2, the angle uniform, and the two are independent."""
    z = random.normal(3, 1, 0, SIZE).astype(np.float64)
    square, angle = z[0::2] ** 2 + z[1::2] ** 2, np.arctan2(z[1::2], z[0::2])
    assert stats.kstest(square, "expon", args=(0, 2)).pvalue > ODD
    assert stats.kstest(angle, "uniform", args=(-np.pi, 2 * np.pi)).pvalue > ODD
    assert abs(correlation(square, np.abs(angle))) < 4


@pytest.mark.parametrize("seed, step", [(0, 0), (0, 1), (12345, 0)])
def test_uniform_distribution(seed: int, step: int) -> None:
    u = random.uniform(seed, step, 0, SIZE)
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u.astype(np.float64), "uniform").pvalue > ODD
    cells = (u.reshape(-1, 2) * 64).astype(int)
    assert stats.chisquare(np.bincount(cells[:, 0] * 64 + cells[:, 1], minlength=4096)).pvalue > ODD
    assert (u.astype(np.float64) * 2**24 % 1 == 0).all()


@pytest.mark.parametrize("name", ["bits32", "hash32"])
@pytest.mark.parametrize("seed, step", [(0, 0), (0, 1), (1, 0), (2**64 - 1, 7)])
def test_bits_are_fair(name: str, seed: int, step: int) -> None:
    words = getattr(random, name)(seed, step, 0, SIZE)
    assert (np.abs(bits_of(words).mean(axis=0) - 0.5) < 4.5 * 0.5 / np.sqrt(SIZE)).all()
    for part in (words & np.uint32(4095), words >> np.uint32(20), (words >> np.uint32(9)) & np.uint32(4095)):
        assert stats.chisquare(np.bincount(part, minlength=4096)).pvalue > ODD


def test_signs_are_fair() -> None:
    signs = random.rademacher(1, 2, 0, SIZE)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.sum()) < 4 * np.sqrt(SIZE)
    runs = 1 + np.count_nonzero(np.diff(signs))
    assert abs(runs - SIZE / 2) < 4 * np.sqrt(SIZE) / 2
    for lag in (1, 2, 31, 32, 33, 128, 4096):
        assert abs((signs[lag:] * signs[:-lag]).sum()) < 4 * np.sqrt(SIZE)


# -------------------------------------------------------------------------------------------------------- independence


@pytest.mark.parametrize("name", ["uniform", "hash32", "rademacher", "normal"])
def test_neighbours_are_uncorrelated(name: str) -> None:
    """Elements apart by 1 .. 129; streams of the next seeds and steps, and of seed and step exchanged."""
    draw, size = getattr(random, name), 200_000
    x = draw(100, 200, 0, size)
    for lag in (1, 2, 3, 4, 8, 32, 128, 129):
        assert abs(correlation(x[lag:], x[:-lag])) < 4
    others = ((101, 200), (100, 201), (99, 200), (100, 199), (200, 100), (100 + 2**32, 200), (100, 200 + 2**31))
    for seed, step in others:
        assert abs(correlation(x, draw(seed, step, 0, size))) < 4


def test_the_streams_of_one_key_are_independent() -> None:
    size = 200_000
    parts = [getattr(random, name)(1, 2, 0, size) for name in ("uniform", "rademacher", "normal", "hash32")]
    for i, a in enumerate(parts):
        for b in parts[:i]:
            assert abs(correlation(a, b)) < 4
    bits = random.bits32(1, 2, 0, size // 32)
    signs = 1.0 - 2.0 * bits_of(bits).ravel()
    assert abs((signs * random.rademacher(1, 2, 0, signs.size)).sum()) < 4 * np.sqrt(signs.size)


# -------------------------------------------------------------------------------------------------------------- hash32


def test_hash_avalanche_of_the_index() -> None:
    """Indices that differ in one bit: every bit of the result flips in half of the cases."""
    base = random.hash32(5, 6, 0, 1 << 18)
    index = np.arange(1 << 18)
    for bit in range(17):
        flips = bits_of(base ^ base[index ^ (1 << bit)]).mean(axis=0)
        assert (np.abs(flips - 0.5) < 0.006).all()
    for bit in range(18, 63):  # too far to lie in one array
        size = 1 << 14
        flips = bits_of(base[:size] ^ random.hash32(5, 6, 1 << bit, size)).mean(axis=0)
        assert (np.abs(flips - 0.5) < 5 * 0.5 / np.sqrt(size)).all()


def test_hash_avalanche_of_the_key() -> None:
    size = 1 << 14
    base = random.hash32(77, 88, 0, size)
    others = [(77 ^ 1 << bit, 88) for bit in range(64)] + [(77, 88 ^ 1 << bit) for bit in range(32)]
    for seed, step in others:
        flips = bits_of(base ^ random.hash32(seed, step, 0, size)).mean(axis=0)
        assert (np.abs(flips - 0.5) < 5 * 0.5 / np.sqrt(size)).all()


def test_hash_is_a_bijection_of_the_index() -> None:
    words = random.hash32(1, 1, 0, SIZE)
    assert np.unique(words).size == SIZE
    assert np.unique(random.bits32(1, 1, 0, SIZE)).size < SIZE  # independent draws repeat: about SIZE^2 / 2^33 times


def test_hash_keys_are_no_permutations_of_each_other() -> None:
    """With one key word, x ^ key, two keys would list the same words in another order within aligned groups."""
    a = np.sort(random.hash32(1, 0, 0, 1 << 16))
    for seed, step in ((2, 0), (1, 1)):
        assert np.intersect1d(a, random.hash32(seed, step, 0, 1 << 20)).size < 100


def test_stochastic_rounding_is_unbiased() -> None:
    for fraction in (0.001, 0.25, 0.5, 0.9):
        up = (random.hash32(9, 9, 0, SIZE) * 2.0**-32 < fraction).mean()
        assert abs(up - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / SIZE)


# ------------------------------------------------------------------------------------------------------------ perturb_


def test_two_point_gradient_estimate() -> None:
    """SPSA's identity E[z (f(x + s z) - f(x - s z)) / 2s] = grad f(x) for a quadratic f, from in-place noise alone."""
    rng = np.random.default_rng(0)
    curvature, x = rng.uniform(0.5, 2, 20), rng.standard_normal(20)
    gradient = curvature * x
    for distribution in ("normal", "rademacher"):
        estimate, steps, scale = np.zeros(20), 4000, 1e-3
        for step in range(steps):
            y = x.copy()
            random.perturb_(y, seed=1, step=step, scale=scale, distribution=distribution)
            above = (curvature * y**2).sum() / 2
            random.perturb_(y, seed=1, step=step, scale=-2 * scale, distribution=distribution)
            difference = (above - (curvature * y**2).sum() / 2) / (2 * scale)
            estimate += difference * getattr(random, distribution)(1, step, 0, 20) / steps
        assert np.abs(estimate - gradient).max() < 5 * np.sqrt(2 * (gradient**2).sum() / steps)
