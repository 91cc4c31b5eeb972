"""What SumTree refuses, and that it is as it was afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd import BackendError
from fastgd.dro import SumTree

LARGEST = np.finfo(float).max


@pytest.fixture
def tree(backend: str) -> SumTree:
    return SumTree(np.arange(20.0), seed=3, backend=backend)


def refuses(tree: SumTree, error: type[Exception], match: str, call, *args, **kwargs) -> None:
    """The call fails, and the tree draws on as if it had not been made."""
    before, total, sums = tree.state_dict(), tree.total, [tree.sum(i, 20) for i in range(20)]
    with pytest.raises(error, match=match):
        call(*args, **kwargs)
    after = tree.state_dict()
    assert after["weights"].tobytes() == before["weights"].tobytes() and after["drawn"] == before["drawn"]
    assert tree.total == total and [tree.sum(i, 20) for i in range(20)] == sums


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, -np.inf, -5e-324])
def test_weights_that_are_none(bad: float, tree: SumTree, backend: str) -> None:
    refuses(tree, ValueError, "weights must be finite", tree.update, 3, bad)
    refuses(tree, ValueError, "number 1", tree.update, [3, 4, 5], [1.0, bad, 2.0])
    refuses(tree, ValueError, "weights must be finite", tree.update, [3, 4], bad)
    refuses(tree, ValueError, "number 1", tree.append, [1.0, bad])
    with pytest.raises(ValueError, match="number 2"):
        SumTree(np.array([1.0, 2.0, bad]), backend=backend)


@pytest.mark.parametrize("bad", [-1, 20, 2**31, 2**40, -(2**62)])
def test_indices_outside(bad: int, tree: SumTree) -> None:
    refuses(tree, ValueError, "index must lie from 0 to 19", tree.update, bad, 1.0)
    refuses(tree, ValueError, f"got {bad}", tree.update, [0, bad], [1.0, 2.0])
    refuses(tree, ValueError, "index must lie", tree.weights, bad)
    refuses(tree, ValueError, "index must lie", tree.weights, [bad, 0])


@pytest.mark.parametrize("bad", [True, 1.0, "1", None, [1.0], [True, False], np.array([1], "m8[s]"), 1j, np.float64(3)])
def test_indices_that_are_none(bad, tree: SumTree) -> None:
    refuses(tree, TypeError, "index must hold integers", tree.update, bad, 1.0)
    refuses(tree, TypeError, "index must hold integers", tree.weights, [bad] if bad is None else bad)


@pytest.mark.parametrize("bad", [True, "1", None, 1j, [[1.0], [1.0, 2.0]], np.ma.array([1.0, 2.0], mask=[0, 1])])
def test_numbers_that_are_none(bad, tree: SumTree, backend: str) -> None:
    refuses(tree, TypeError, "weight", tree.update, [1, 2], bad)
    refuses(tree, TypeError, "weights", tree.append, bad)
    refuses(tree, TypeError, "mass", tree.find, bad)
    if bad is not True:
        with pytest.raises(TypeError, match="weights"):
            SumTree(bad, backend=backend)


def test_shapes(tree: SumTree, backend: str) -> None:
    refuses(tree, ValueError, "shapes", tree.update, [1, 2], [1.0])
    refuses(tree, ValueError, "shapes", tree.update, 1, [1.0, 2.0])
    refuses(tree, ValueError, "shapes", tree.update, [[1, 2]], [[1.0, 2.0]])
    refuses(tree, ValueError, "array", tree.append, [[1.0]])
    for bad in (np.ones((2, 2)), np.array(1.0), np.empty(0)):
        with pytest.raises(ValueError, match="weights"):
            SumTree(bad, backend=backend)


@pytest.mark.parametrize("n", [0, -1, 2**31 + 1, 2**70])
def test_sizes_of_trees(n: int) -> None:
    with pytest.raises(ValueError, match="n must be an integer from 1 to 2147483648"):
        SumTree(n)


def test_appending_beyond_the_largest_tree(tree: SumTree) -> None:
    many = np.broadcast_to(np.float64(0), (2**31 - 19,))  # no memory behind it
    tree._tree.numbers = lambda x, name: x
    refuses(tree, ValueError, "only 2\\^31 - n fit", tree.append, many)


def test_other_arguments(tree: SumTree, backend: str) -> None:
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="seed"):
            SumTree(3, seed=seed)
    for bad in (1.5, True, "1"):
        with pytest.raises(TypeError, match="seed"):
            SumTree(3, seed=bad)
        refuses(tree, TypeError, "size", tree.sample, bad)
    with pytest.raises(TypeError, match="n must"):
        SumTree(True)
    with pytest.raises(BackendError, match="cuda: "):
        SumTree(3, backend="cuda")
    refuses(tree, ValueError, "size", tree.sample, -1)
    refuses(tree, ValueError, "method must be one of iid, stratified", tree.sample, 3, method="uniform")
    for lo, hi in ((-1, 3), (3, 21), (4, 3)):
        refuses(tree, ValueError, "lo|hi", tree.sum, lo, hi)


def test_masses_outside(tree: SumTree) -> None:
    for bad in (-1.0, -5e-324, tree.total, np.inf, np.nan, 1e300):
        refuses(tree, ValueError, "mass must be at least 0 and below the total 190", tree.find, bad)
        refuses(tree, ValueError, "mass must be", tree.find, np.array([1.0, bad]))
    assert tree.find(190 - 1e-9) == 19 and tree.find(3) == 3 == tree.find(np.float32(3))
    assert tree.find(np.array([[0.0, 2.0]])).tolist() == [[1, 2]]


def test_nothing_to_draw(backend: str) -> None:
    tree = SumTree(20, backend=backend)
    for method in ("iid", "stratified", "systematic", "without_replacement"):
        refuses(tree, ValueError, "all weights are 0", tree.sample, 5, method=method)
    refuses(tree, ValueError, "all weights are 0", tree.sample, 1)
    refuses(tree, ValueError, "below the total 0", tree.find, 0.0)
    tree.update([3, 8], [1.0, 1e-320])
    refuses(tree, ValueError, "only 2 weights are positive", tree.sample, 3, method="without_replacement")
    assert sorted(tree.sample(2, method="without_replacement")) == [3, 8]


def test_a_total_that_overflows(tree: SumTree, backend: str) -> None:
    refuses(tree, ValueError, "overflows", tree.update, [3, 3, 9, 3], [1.0, LARGEST, LARGEST, LARGEST])
    refuses(tree, ValueError, "overflows", tree.append, np.full(100, LARGEST))
    with pytest.raises(ValueError, match="overflows"):
        SumTree(np.full(2, LARGEST), backend=backend)
    tree.update([3, 3], [LARGEST, LARGEST])
    assert tree.total == LARGEST and set(tree.sample(50)) == {3}
    refuses(tree, ValueError, "overflows", tree.update, 4, LARGEST)
    refuses(tree, ValueError, "overflows", tree.update, 4, 1e300)
    tree.update([3, 4], [2.0, LARGEST])  # the sum of the new weights is finite
    assert tree.total == LARGEST and tree.extremes() == (1.0, LARGEST)
    tree.update(4, 4.0)
    assert tree.total == 189.0


def test_out(tree: SumTree, backend: str) -> None:
    out = np.empty(300, np.int64)
    assert tree.sample(300, out=out) is out
    assert (out == SumTree(np.arange(20.0), seed=3, backend=backend).sample(300)).all()
    one = np.empty(1, np.int64)
    assert tree.sample(1, out=one) is one
    frozen = np.empty(4, np.int64)
    frozen.flags.writeable = False
    for bad in (np.empty(3, np.int64), np.empty(4), np.empty(8, np.int64)[::2], frozen, [0] * 4, np.empty((4, 1), np.int64)):
        refuses(tree, ValueError, "out must be", tree.sample, 4, out=bad)


def test_dtypes_and_layouts(backend: str) -> None:
    """Any real dtype, stride, and host library; values are exact."""
    torch = pytest.importorskip("torch")
    expected = SumTree(np.arange(16.0), backend=backend).total
    for dtype in ("float32", "float16", "int64", "uint8", "int16"):
        assert SumTree(np.arange(16).astype(dtype), backend=backend).total == expected
    for other in (np.arange(32.0)[::2] / 2, list(range(16)), torch.arange(16.0), torch.arange(16.0, dtype=torch.bfloat16)):
        tree = SumTree(other, backend=backend)
        assert tree.total == expected
        tree.update(torch.tensor([3, 4]), torch.tensor([4.0, 3.0], dtype=torch.float16))
        tree.update(np.array([9, 9, 9, 9], np.uint8)[::2], np.array([1.0, 2.0, 9.0])[::2])
        assert tree.weights(np.array([[3, 4], [9, 0]], np.int32)).tolist() == [[4.0, 3.0], [9.0, 0.0]]
        assert tree.weights(9) == 9.0 and tree.total == expected
    with pytest.raises(ValueError, match="requires grad"):
        SumTree(torch.ones(3, requires_grad=True), backend=backend)
    with pytest.raises(ValueError, match="requires grad"):
        SumTree(3, backend=backend).update([1], torch.ones(1, requires_grad=True))
