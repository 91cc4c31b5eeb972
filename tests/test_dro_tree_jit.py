"""The tree inside a user's own Numba loop: the same draws, the same sums, the same memory."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import fastgd
from fastgd.dro import SumTree, numba_functions

total, find, sample, update = numba_functions()


@numba.njit
def draw_all(arrays, seed, start, count):
    out = np.empty(count, np.int64)
    for i in range(count):
        out[i] = sample(arrays, seed, start + i)
    return out


@numba.njit
def draw_and_change(arrays, seed, count):
    """Every drawn weight is halved: the next draw sees it."""
    out = np.empty(count, np.int64)
    for i in range(count):
        out[i] = sample(arrays, seed, i)
        update(arrays, out[i], arrays.data[out[i]] * 0.5)
    return out


@numba.njit
def find_all(arrays, masses):
    out = np.empty(len(masses), np.int64)
    for i in range(len(masses)):
        out[i] = find(arrays, masses[i])
    return out


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 64, 65, 1000, 4097])
@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_a_jitted_loop_gives_the_same_draws(n: int, seed: int) -> None:
    rng = np.random.default_rng(n)
    weights = np.where(rng.random(n) < 0.3, 0.0, rng.random(n) * 10.0 ** rng.integers(-20, 20, n))
    weights[n // 2] = 1.0
    tree = SumTree(weights, seed=seed)
    first, second = tree.sample(100), tree.sample(57)
    assert tree.drawn == 157
    arrays = tree.arrays()
    np.testing.assert_array_equal(draw_all(arrays, np.uint64(seed), 0, 100), first)
    np.testing.assert_array_equal(draw_all(arrays, np.uint64(seed), 100, 57), second)
    assert total(arrays) == tree.total and arrays.n == n
    masses = np.concatenate([rng.random(50) * tree.total, [0.0, np.nextafter(tree.total, 0.0)]])
    np.testing.assert_array_equal(find_all(arrays, masses), tree.find(masses))


@pytest.mark.parametrize("n", [1, 9, 500])
def test_both_sides_see_each_other(n: int) -> None:
    rng = np.random.default_rng(n)
    weights = rng.random(n)
    shown, plain = SumTree(weights, seed=3), SumTree(weights, seed=3)
    found = draw_and_change(shown.arrays(), 3, 200)
    for index in found:
        assert plain.sample(1)[0] == index
        plain.update(int(index), plain.weights(int(index)) * 0.5)
    np.testing.assert_array_equal(shown.weights(), plain.weights())
    assert shown.total == plain.total
    fresh = SumTree(plain.weights(), seed=3)
    np.testing.assert_array_equal(shown.sample(20, method="stratified"), fresh.sample(20, method="stratified"))


def test_extremes_after_changes_from_outside() -> None:
    tree = SumTree(np.array([1.0, 2.0, 3.0]))
    assert tree.extremes() == (1.0, 3.0)
    update(tree.arrays(), 1, 0.5)
    assert tree.extremes() == (0.5, 3.0)
    update(tree.arrays(), 2, 0.0)
    assert tree.extremes() == (0.5, 1.0)


def test_growth_moves_the_memory() -> None:
    tree = SumTree(np.ones(8))
    before = tree.arrays()
    tree.append(np.ones(100))
    assert tree.arrays().n == 108 and before.n == 8
    assert total(before) == 8.0 and total(tree.arrays()) == 108.0


def test_only_host_memory_can_be_shown() -> None:
    with pytest.raises(fastgd.BackendError, match="only a tree on the CPU"):
        SumTree(np.ones(3), backend="reference").arrays()
