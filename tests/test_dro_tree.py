"""SumTree against its oracle, to the bit: sizes around every block boundary, hostile weights, every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fastgd import _native
from fastgd.dro import SumTree

SIZES = (1, 2, 3, 5, 7, 8, 9, 31, 63, 64, 65, 127, 251, 511, 512, 513, 1000, 4095, 4097)
METHODS = ("iid", "stratified", "systematic", "without_replacement")


@pytest.fixture(params=_native.ISA_LEVELS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this CPU has."""
    level = _native.ISA_LEVELS.index(request.param)
    if level > _native.lib.fgd_isa_best():
        pytest.skip("this CPU has no such instruction set")
    before = _native.lib.fgd_isa_current()
    _native.lib.fgd_isa_use(level)
    yield request.param
    _native.lib.fgd_isa_use(before)


def hostile(n: int, seed: int) -> np.ndarray:
    """Weights of every magnitude, a third of them 0, some subnormal."""
    rng = np.random.default_rng(seed)
    weights = rng.random(n) * 10.0 ** rng.choice([-300, -12, 0, 0, 0, 8, 300, -320], n)
    weights[rng.random(n) < 0.3] = 0.0
    weights[rng.integers(n)] = 1.5
    return weights


def masses(tree: SumTree, size: int, seed: int) -> np.ndarray:
    """Masses over the whole line: both ends, the edges of leaves, and tiny ones."""
    rng = np.random.default_rng(seed)
    edges = np.cumsum(tree.weights())
    total = tree.total
    ends = [0.0, 5e-324, np.nextafter(total, 0.0), total / 2]
    tiny = rng.random(size // 4) * 10.0 ** rng.integers(-320, 0, size // 4) * total
    mass = np.concatenate([ends, edges[rng.integers(0, len(edges), size // 2)], tiny, rng.random(size) * total])
    return mass[mass < total]


@pytest.mark.parametrize("n", SIZES)
def test_same_bits_as_the_reference(n: int, isa: str) -> None:
    weights = hostile(n, n)
    tree, oracle = SumTree(weights, seed=n), SumTree(weights, seed=n, backend="reference")
    rng = np.random.default_rng(n)
    for step in range(3):
        assert tree.total == oracle.total == tree.sum(0, n)
        mass = masses(tree, 150, step)
        leaves = tree.find(mass)
        assert (leaves == oracle.find(mass)).all() and (tree.weights(leaves) > 0).all()
        assert [tree.find(float(m)) for m in mass[:20]] == leaves[:20].tolist()
        for lo, hi in np.sort(rng.integers(0, n + 1, (20, 2)), axis=1).tolist():
            assert tree.sum(lo, hi) == oracle.sum(lo, hi)
        positive = int(np.count_nonzero(tree.weights()))
        for method in METHODS:
            for size in (0, 1, 2, 37):
                size = min(size, positive) if method == "without_replacement" else size
                drawn = tree.sample(size, method=method)
                assert drawn.dtype == np.int64 and (drawn == oracle.sample(size, method=method)).all()
        assert tree.extremes() == oracle.extremes()
        for size in (0, 1, 5, n, 3 * n):
            index = rng.integers(0, n, size)
            weight = np.append(hostile(size + 1, step + size)[:size][:-1], [2.5] * (size > 0))
            tree.update(index, weight)
            oracle.update(index, weight)
            assert tree.weights().tobytes() == oracle.weights().tobytes() and tree.total == oracle.total
            assert tree.extremes() == oracle.extremes()


def test_instruction_sets_agree_on_large_trees() -> None:
    """Groups of every length, where lanes are left over."""
    tree = SumTree(np.random.default_rng(0).random(70_000) ** 8, seed=3)
    state = tree.state_dict()
    found = []
    for level in range(_native.lib.fgd_isa_best() + 1):
        _native.lib.fgd_isa_use(level)
        tree.load_state_dict(state)
        found.append(np.concatenate([tree.sample(size, method=method) for size in (1, 3, 4, 7, 8, 127, 128, 129, 1000)
                                     for method in METHODS]))
    assert all((other == found[0]).all() for other in found)


@pytest.mark.parametrize("n", [10, 700, 40_000])
def test_history_leaves_no_trace(n: int) -> None:
    """However the weights came to be, the sums are those of a new tree; all ways through `update` lead to them."""
    rng = np.random.default_rng(1)
    tree, weights = SumTree(n), np.zeros(n)
    for size in (1, 2, 40, 300, n, 4 * n, 40, 1):
        index, weight = rng.integers(0, n, size), rng.random(size) * 10.0 ** rng.integers(-9, 9, size)
        if size == 1:
            tree.update(int(index[0]), float(weight[0]))
        else:
            tree.update(index, weight)
        weights[index] = weight
        fresh = SumTree(weights)
        assert (tree._tree.data == fresh._tree.data).all()
        assert tree.weights().tobytes() == weights.tobytes()


def test_draws_are_numbered(backend: str) -> None:
    """One by one or in batches, single draws or not: the same stream."""
    weights = np.arange(1.0, 40.0)
    together = SumTree(weights, seed=2**64 - 1, backend=backend).sample(60)
    tree = SumTree(weights, seed=2**64 - 1, backend=backend)
    assert together.tolist() == [*tree.sample(1), *tree.sample(3), *tree.sample(1), *tree.sample(55)]
    assert (SumTree(weights, seed=0, backend=backend).sample(60) != together).any()


def test_draws_are_those_of_the_random_room(backend: str) -> None:
    from fastgd.random import bits32

    tree = SumTree(np.ones(1 << 12), seed=77, backend=backend)
    words = bits32(77, 0, 0, 40).astype(np.uint64)
    u = ((words[::2] | words[1::2] << np.uint64(32)) >> np.uint64(11)) * 2.0**-53
    assert tree.sample(5).tolist() + tree.sample(15).tolist() == np.floor(u * (1 << 12)).tolist()


@pytest.mark.parametrize("position", [0, 4, 8, 70])
def test_zero_weights_are_never_drawn(position: int, backend: str) -> None:
    """Not by mass 0 before leading zeros, nor by the largest mass before trailing ones, however small the weight."""
    for weight in (1.0, 5e-324, 1e-300, 1e300, np.finfo(float).max):
        tree = SumTree(73, backend=backend)
        tree.update(position, weight)
        assert tree.total == weight
        assert tree.find(0.0) == tree.find(np.nextafter(weight, 0.0)) == position
        assert tree.find(np.array([0.0, weight / 2])).tolist() == [position] * 2
        for method in METHODS:
            assert set(tree.sample(1 if method == "without_replacement" else 30, method=method)) == {position}


def test_tiny_beside_huge(backend: str) -> None:
    """A weight that adds nothing to a sum can be drawn only where rounding leaves it a place: never out of bounds, never a 0."""
    tree = SumTree(np.array([1e-300, 0.0, 1e300, 0.0, 1e-300, 1.0, 0.0, 1e300, 5e-324, 0.0]), backend=backend)
    mass = np.array([0.0, 1e-301, 1e-300, 1.0, 1e299, 1e300, 1.5e300, np.nextafter(2e300, 0)])
    assert set(tree.find(mass)) <= {0, 2, 7} and tree.find(1e-301) == 0
    assert tree.sum(0, 1) == 1e-300 and tree.sum(8, 10) == 5e-324 and tree.sum(3, 7) == 1.0


def test_the_last_of_duplicates_wins(backend: str) -> None:
    tree = SumTree(np.ones(20), backend=backend)
    tree.update([3, 5, 3, 3, 5], [7.0, 8.0, 9.0, 2.0, 0.0])
    assert tree.weights([3, 5]).tolist() == [2.0, 0.0] and tree.total == 20.0


def test_negative_zero_is_zero(backend: str) -> None:
    tree = SumTree(np.full(9, -0.0), backend=backend)
    tree.update([1, 2], [-0.0, 1.0])
    tree.update(3, -0.0)
    tree.append(-0.0)
    assert not np.signbit(tree.weights()).any() and not np.signbit(tree.sum(0, 2)) and tree.total == 1.0


def test_empty_batches(backend: str) -> None:
    tree = SumTree(np.ones(5), backend=backend)
    tree.update([], [])
    tree.update(np.empty(0, np.int64), 3.0)
    tree.append([])
    assert tree.find(np.empty(0)).shape == tree.weights([]).shape == tree.sample(0).shape == (0,)
    assert SumTree(3, backend=backend).sample(0, method="systematic").shape == (0,)
    assert tree.n == len(tree) == 5 and tree.total == 5.0 and tree.state_dict()["drawn"] == 0


def test_extremes_follow_changes() -> None:
    """Kept by counting, found anew when the last one is gone: always those of the weights."""
    rng = np.random.default_rng(5)
    tree = SumTree(np.ones(50))
    tree.extremes()
    for step in range(3000):
        size = int(rng.integers(1, 5))
        weight = rng.integers(0, 5, size) * 1.0
        if step % 50 == 0:
            tree.append(weight[0])
        elif step % 400 == 1:
            tree.update(np.arange(tree.n), np.zeros(tree.n))
        elif size == 1:
            tree.update(int(rng.integers(tree.n)), float(weight[0]))
        else:
            tree.update(rng.integers(0, tree.n, size), weight)
        weights = tree.weights()
        positive = weights[weights > 0]
        assert tree.extremes() == ((positive.min(), positive.max()) if len(positive) else (np.inf, 0.0)), step
