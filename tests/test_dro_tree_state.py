"""SumTree over time: growth, checkpoints, pickles, copies, threads."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastgd.dro import SumTree


def drawn(tree: SumTree) -> list[int]:
    return [*tree.sample(9), *tree.sample(5, method="stratified"), *tree.sample(2, method="without_replacement"),
            *tree.sample(4, method="systematic"), *tree.sample(1)]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 63, 64, 65])
def test_append_equals_a_new_tree(n: int, backend: str) -> None:
    """Room that is not in use changes no bit."""
    rng = np.random.default_rng(n)
    weights = rng.random(n) * 10.0 ** rng.integers(-9, 9, n)
    tree = SumTree(weights, seed=8, backend=backend)
    for size in (1, 0, 1, 3, 60, 1, 500, 1, 1):
        more = rng.random(size) * 10.0 ** rng.integers(-9, 9, size)
        tree.append(float(more[0]) if size == 1 else more)
        weights = np.concatenate([weights, more])
        fresh = SumTree(weights, seed=8, backend=backend)
        fresh.load_state_dict(tree.state_dict())
        assert tree.n == len(weights) and tree.weights().tobytes() == weights.tobytes()
        assert tree.total == fresh.total and tree.extremes() == fresh.extremes()
        assert [tree.sum(i, tree.n) for i in range(tree.n)] == [fresh.sum(i, tree.n) for i in range(tree.n)]
        assert drawn(tree) == drawn(fresh)


def test_growth_is_amortised() -> None:
    """One by one to 5000: memory moves a few times, and stays within twice what the weights take."""
    tree = SumTree(np.ones(1))
    moves = set()
    for _ in range(4999):
        tree.append(1.0)
        moves.add(tree._tree.data.ctypes.data)
        assert tree._tree.data.nbytes <= 2 * 9.2 * tree.n + 500
    assert tree.total == 5000.0 and len(moves) < 20


def test_memory() -> None:
    """At most 10 bytes a weight."""
    for n in (10**3, 10**5 + 1, 10**6):
        assert SumTree(n)._tree.data.nbytes <= 10 * n


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda tree: pickle.loads(pickle.dumps(tree))])
def test_pickles_and_copies_continue_on_their_own(duplicate, backend: str) -> None:
    tree = SumTree(np.arange(1.0, 100.0), seed=5, backend=backend)
    tree.sample(17)
    tree.append([3.0] * 50)
    other = duplicate(tree)
    other.update([3, 4], [0.0, 50.0])
    tree.update([3, 4], [0.0, 50.0])
    expected = drawn(tree)
    assert drawn(other) == expected
    other.update(98, 0.0)
    other.append(1.0)
    assert tree.weights(98) == 99.0 and tree.n == 149 and other.n == 150
    assert drawn(other) != drawn(tree)


def test_state_dict(backend: str) -> None:
    tree = SumTree(np.arange(1.0, 30.0), seed=5, backend=backend)
    tree.sample(7)
    state = tree.state_dict()
    assert sorted(state) == ["drawn", "kind", "seed", "weights"] and state["drawn"] == 7
    expected = drawn(tree)
    tree.update(np.arange(29), np.zeros(29))
    other = SumTree(2, backend=backend)
    other.load_state_dict(state)
    assert drawn(other) == expected and other.n == 29
    state["weights"][:] = -1
    assert drawn(other) != expected and other.total == 435.0


@pytest.mark.parametrize("change, error", [
    ({"weights": np.array([1.0, -1.0])}, ValueError), ({"weights": np.array([np.nan])}, ValueError),
    ({"weights": np.empty(0)}, ValueError), ({"weights": None}, TypeError), ({"weights": np.full(2, 1.7e308)}, ValueError),
    ({"seed": -1}, ValueError), ({"seed": 0.5}, TypeError), ({"drawn": -1}, ValueError), ({"drawn": 2**63}, ValueError),
    ({"kind": "DROSampler"}, ValueError), ({"drawn": "1"}, TypeError)])
def test_damaged_states(change: dict, error: type[Exception], backend: str) -> None:
    tree = SumTree(np.arange(1.0, 9.0), seed=1, backend=backend)
    expected = drawn(copy.deepcopy(tree))
    with pytest.raises(error, match=next(iter(change))):
        tree.load_state_dict(tree.state_dict() | change)
    with pytest.raises(TypeError, match="state must be a dict"):
        tree.load_state_dict([1])
    with pytest.raises(ValueError, match="state lacks drawn, seed"):
        tree.load_state_dict({"kind": "SumTree", "weights": np.ones(3)})
    assert drawn(tree) == expected


def test_concurrent_readers() -> None:
    tree = SumTree(np.random.default_rng(0).random(200_000))
    mass = np.random.default_rng(1).random(50_000) * tree.total
    leaves, weights = tree.find(mass), tree.weights()

    def read(k: int) -> bool:
        lo = 1000 * k
        return bool((tree.find(mass) == leaves).all() and (tree.weights(leaves) == weights[leaves]).all()
                    and tree.sum(lo, tree.n) == tail[k] and tree.find(float(mass[k])) == leaves[k])

    tail = [tree.sum(1000 * k, tree.n) for k in range(24)]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(24)))


def test_trees_in_threads_of_their_own() -> None:
    """Kernels share nothing: a tree per thread draws and changes as it would alone."""

    def run(seed: int) -> list[int]:
        tree = SumTree(np.arange(1.0, 3001.0), seed=seed)
        for _ in range(30):
            index = tree.sample(200, method="stratified")
            tree.update(index, tree.weights(index) * 0.5)
        return tree.sample(50, method="without_replacement").tolist()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(8))) == [run(seed) for seed in range(8)]
