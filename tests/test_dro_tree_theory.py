"""What draws and sums must be by their definition: laws, exact counts, error bounds."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from fastgd.dro import SumTree


def chi_squared(counts: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    """The statistic of the cells that expect at least 5, the others put together, and its degrees of freedom."""
    small = expected < 5
    seen = np.append(counts[~small], counts[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    kept = wanted > 0
    return float(((seen - wanted)[kept] ** 2 / wanted[kept]).sum()), int(kept.sum()) - 1


def limit(degrees: int, z: float = 4.5) -> float:
    """Exceeded with probability 3e-6 by a chi-squared number (Wilson and Hilferty)."""
    return degrees * (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3


@pytest.mark.parametrize("n", [2, 100, 3000])
def test_independent_draws(n: int) -> None:
    weights = np.random.default_rng(n).random(n) ** 4
    weights[::3] = 0.0
    weights[1] = 1e-300
    tree = SumTree(weights, seed=12)
    index = np.concatenate([tree.sample(1000) for _ in range(1000)])
    counts = np.bincount(index, minlength=n)
    assert (counts[weights == 0] == 0).all() and len(counts) == n
    statistic, degrees = chi_squared(counts, weights / weights.sum() * 1e6)
    assert degrees == 0 or statistic < limit(degrees)
    pairs = np.bincount(2 * (index[:-1] % 2) + index[1:] % 2, minlength=4)  # neighbours are independent
    odd = np.bincount(index % 2, minlength=2) / 1e6
    statistic, degrees = chi_squared(pairs, np.outer(odd, odd).ravel() * (1e6 - 1))
    assert degrees == 0 or statistic < limit(degrees)


def test_stratified_draws_fit_better_than_independent_ones() -> None:
    """Unbiased, one in each part, ascending."""
    weights = np.random.default_rng(0).random(50)
    tree = SumTree(weights, seed=1)
    draws = np.stack([tree.sample(100, method="stratified") for _ in range(10_000)])
    assert (np.diff(draws, axis=1) >= 0).all()
    expected = weights / weights.sum() * 1e6
    counts = np.bincount(draws.ravel(), minlength=50)
    assert chi_squared(counts, expected)[0] < limit(49)
    edges = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum() * 100
    part = np.arange(100)
    assert (edges[draws] <= part + 1 + 1e-9).all() and (edges[draws + 1] >= part - 1e-9).all()


def test_systematic_counts() -> None:
    """i comes floor or ceil of k P(i) times, and k P(i) times on average."""
    weights = np.random.default_rng(0).random(37)
    quota = weights / weights.sum() * 200
    tree = SumTree(weights, seed=1)
    counts = np.stack([np.bincount(tree.sample(200, method="systematic"), minlength=37) for _ in range(5000)])
    assert (counts >= np.floor(quota - 1e-9)).all() and (counts <= np.ceil(quota + 1e-9)).all()
    assert abs(counts.mean(axis=0) - quota).max() < 4.5 * 0.5 / math.sqrt(5000)
    assert tree.state_dict()["drawn"] == 5000


def test_law_without_replacement() -> None:
    """P(i, j, k) = p_i p_j / (1 - p_i) p_k / (1 - p_i - p_j): every order of every subset of 4, enumerated."""
    weights = [1, 2, 3, 4]
    tree = SumTree(np.array(weights, float), seed=6)
    trials = 100_000
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(trials):
        key = tuple(tree.sample(3, method="without_replacement").tolist())
        seen[key] = seen.get(key, 0) + 1
    orders = list(itertools.permutations(range(4), 3))
    law = []
    for order in orders:
        left, probability = Fraction(10), Fraction(1)
        for i in order:
            probability *= weights[i] / left
            left -= weights[i]
        law.append(probability)
    assert sum(law) == 1 and set(seen) <= set(orders)
    statistic, degrees = chi_squared(np.array([seen.get(order, 0) for order in orders]), np.array(law, float) * trials)
    assert statistic < limit(degrees)
    assert tree.weights().tolist() == weights and tree.total == 10


def test_a_whole_tree_without_replacement() -> None:
    weights = np.random.default_rng(3).random(5000) ** 20
    tree = SumTree(weights, seed=6)
    before = tree._tree.data.tobytes()
    assert sorted(tree.sample(5000, method="without_replacement")) == list(range(5000))
    assert tree._tree.data.tobytes() == before


def test_integers_are_exact(backend: str) -> None:
    """No rounding: find inverts the prefix sums."""
    weights = np.random.default_rng(2).integers(0, 4, 300).astype(float)
    tree = SumTree(weights, backend=backend)
    mass = np.arange(weights.sum())
    assert (tree.find(mass) == np.repeat(np.arange(300), weights.astype(int))).all()
    edges = np.concatenate([[0.0], np.cumsum(weights)])
    for lo, hi in itertools.combinations(range(0, 301, 7), 2):
        assert tree.sum(lo, hi) == edges[hi] - edges[lo]


def test_sums_keep_their_digits() -> None:
    """Relative error at most (7 levels + 7) 2^-53, for any part beside any other, after many changes."""
    rng = np.random.default_rng(4)
    tree = SumTree(5000)
    for _ in range(300):
        tree.update(rng.integers(0, 5000, 100), rng.random(100) * 10.0 ** rng.integers(-250, 250, 100))
    weights = tree.weights().tolist()
    for lo, hi in np.sort(rng.integers(0, 5001, (300, 2)), axis=1).tolist():
        exact = math.fsum(weights[lo:hi])
        assert abs(tree.sum(lo, hi) - exact) <= 16 * 7 * 2.0**-53 * exact
    assert abs(tree.total - math.fsum(weights)) <= 35 * 2.0**-53 * tree.total


def test_find_agrees_with_prefix_sums() -> None:
    tree = SumTree(np.random.default_rng(9).random(10_000))
    mass = np.random.default_rng(8).random(3000) * tree.total
    slack = 1e-14 * tree.total
    for m, leaf in zip(mass.tolist(), tree.find(mass).tolist(), strict=True):
        assert tree.sum(0, leaf) - slack <= m <= tree.sum(0, leaf + 1) + slack


def test_prioritized_replay() -> None:
    """The recipe of the docstring: with its importance weights a weighted mean of draws is the plain mean."""
    rng = np.random.default_rng(0)
    value, weights = rng.random(500), rng.random(500) + 0.1
    tree = SumTree(weights, seed=2)
    index = tree.sample(200_000, method="stratified")
    importance = tree.extremes()[0] / tree.weights(index)
    assert importance.max() == 1.0
    assert abs((importance * value[index]).mean() / importance.mean() - value.mean()) < 2e-3
