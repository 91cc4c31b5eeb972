"""The sum tree on CUDA: in Numba's simulator at small sizes (`sim`), on a GPU at real ones (`gpu`). Bits are the CPU's.

    NUMBA_ENABLE_CUDASIM=1 pytest -m sim tests/test_dro_tree_cuda.py
    pytest -m gpu tests/test_dro_tree_cuda.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_robust_cuda import LIBRARIES, host, on_gpu

from fastgd import _cuda
from fastgd.dro import SumTree

pytestmark = pytest.mark.filterwarnings("ignore:.*overflow encountered:RuntimeWarning")  # the simulator computes with NumPy
METHODS = ("iid", "stratified", "systematic", "without_replacement")


@pytest.fixture
def signatures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails when a launch passes types that KERNELS does not list: those were never compiled by the PTX tests."""
    from numba import typeof, types

    from fastgd.compress.cuda import KERNELS as COMPRESS
    from fastgd.dro.tree.cuda_kernels import KERNELS

    declared = {(kernel.py_func.__name__, eval(signature, dict(vars(types))).args)
                for kernel, found, *_ in [*KERNELS, *COMPRESS] for signature in found}
    launch, launched = _cuda.launch, set()

    def checked(kernel: Any, grid: int, threads: int, stream: Any, *arguments: Any, **options: Any) -> None:
        launched.add((kernel.py_func.__name__, tuple(typeof(argument) for argument in arguments)))
        shuffles = kernel.py_func.__name__ in ("find_kernel", "sample_kernel", "successive_kernel")
        launch(kernel, min(grid, 2), min(threads, 8 if shuffles else 32), stream, *arguments, **options)

    monkeypatch.setattr(_cuda, "launch", checked)
    yield
    assert not launched - declared


def device(x: Any) -> Any:
    from numba import cuda

    return cuda.to_device(np.ascontiguousarray(x))


def pair(weights: np.ndarray) -> tuple[SumTree, SumTree]:
    return SumTree(weights, seed=5), SumTree(device(weights), seed=5)


def agree(ours: SumTree, theirs: SumTree) -> None:
    """Equal leaves and total, to the bit."""
    np.testing.assert_array_equal(host(theirs.weights()), ours.weights())
    assert theirs.total == ours.total and theirs.n == ours.n


@pytest.mark.sim
@pytest.mark.parametrize("n", [1, 9, 200])
def test_draws_are_the_cpu_s(n: int, signatures: None) -> None:
    rng = np.random.default_rng(n)
    cpu, gpu = pair(np.where(rng.random(n) < 0.3, 0.0, rng.random(n)) + (np.arange(n) == n // 2))
    agree(cpu, gpu)
    positive = int((cpu.weights() > 0).sum())
    for method in METHODS:
        size = min(4, positive)
        np.testing.assert_array_equal(host(gpu.sample(size, method=method)), cpu.sample(size, method=method))
    agree(cpu, gpu)  # nothing is missing after draws without replacement
    masses = rng.random(4) * cpu.total
    np.testing.assert_array_equal(host(gpu.find(device(masses))), cpu.find(masses))
    assert gpu.find(float(masses[0])) == cpu.find(float(masses[0]))


@pytest.mark.sim
@pytest.mark.parametrize("count", [1, 5, 31])
def test_small_changes(count: int, signatures: None) -> None:
    rng = np.random.default_rng(count)
    cpu, gpu = pair(rng.random(100))
    for _ in range(2):
        index, weight = rng.integers(0, 12, count), np.where(rng.random(count) < 0.2, -0.0, rng.random(count))
        cpu.update(index, weight)
        gpu.update(device(index), device(weight))
        agree(cpu, gpu)


@pytest.mark.sim
def test_many_changes_are_a_rebuild(monkeypatch: pytest.MonkeyPatch, signatures: None) -> None:
    from fastgd.dro.tree import cuda as tree_cuda

    monkeypatch.setattr(tree_cuda, "ONE_BLOCK", 16)
    rng = np.random.default_rng(3)
    cpu, gpu = pair(rng.random(70))
    index, weight = rng.integers(0, 70, 50), rng.random(50)
    cpu.update(index, weight)
    gpu.update(device(index), device(weight))
    agree(cpu, gpu)
    for bad_index, bad_weight, words in ((70, 1.0, "index"), (-1, 1.0, "index"), (3, np.nan, "weights"),
                                         (3, 1.7e308, "overflows")):
        wrong = index.copy(), weight.copy()
        wrong[0][-1], wrong[1][-1] = bad_index, bad_weight
        if words == "overflows":
            wrong[0][-2], wrong[1][-2] = 4, bad_weight
        with pytest.raises(ValueError, match=words):
            gpu.update(device(wrong[0]), device(wrong[1]))
        agree(cpu, gpu)


@pytest.mark.sim
def test_refused_changes_leave_no_trace(signatures: None) -> None:
    cpu, gpu = pair(np.arange(1.0, 21.0))
    for index, weight, words in (([3, 20], [1.0, 1.0], "index"), ([3, -1], [1.0, 1.0], "index"), ([3, 4], [1.0, -1.0], "weights"),
                                 ([3, 4], [1.0, np.inf], "weights"), ([3, 4], [1.7e308, 1.7e308], "overflows")):
        with pytest.raises(ValueError, match=words):
            gpu.update(device(np.array(index)), device(np.array(weight)))
        agree(cpu, gpu)
    with pytest.raises(ValueError, match="weights"):
        gpu.append(device(np.array([1.0, np.nan])))
    with pytest.raises(ValueError, match="overflows"):
        gpu.append(device(np.array([1.7e308, 1.7e308])))
    agree(cpu, gpu)
    with pytest.raises(ValueError, match="mass"):
        gpu.find(device(np.array([1.0, 210.0])))
    with pytest.raises(ValueError, match="index"):
        gpu.weights(device(np.array([20])))
    with pytest.raises(TypeError, match="int64"):
        gpu.update(device(np.array([1], np.int32)), device(np.array([1.0])))


@pytest.mark.sim
def test_questions_and_growth(signatures: None) -> None:
    rng = np.random.default_rng(8)
    cpu, gpu = pair(rng.random(30))
    for count in (1, 3, 60):
        new = rng.random(count) * 10.0 ** rng.integers(-300, 5, count)
        cpu.append(new)
        gpu.append(device(new))
        agree(cpu, gpu)
    for lo, hi in ((0, 94), (0, 0), (3, 5), (7, 9), (1, 93), (8, 64), (63, 94)):
        assert gpu.sum(lo, hi) == cpu.sum(lo, hi)
    assert gpu.extremes() == cpu.extremes()
    index = np.array([0, 93, 5])
    np.testing.assert_array_equal(host(gpu.weights(device(index))), cpu.weights(index))
    assert gpu.weights(7) == cpu.weights(7)
    gpu.update(4, 2.5)
    cpu.update(4, 2.5)
    agree(cpu, gpu)


@pytest.mark.sim
def test_empty_trees_and_states(signatures: None) -> None:
    gpu = SumTree(20, seed=3, backend="cuda")
    assert gpu.total == 0.0 and gpu.extremes() == (np.inf, 0.0)
    with pytest.raises(ValueError, match="all weights are 0"):
        gpu.sample(2)
    gpu.update(device(np.array([3, 11])), device(np.array([1.0, 2.0])))
    with pytest.raises(ValueError, match="only 2 weights"):
        gpu.sample(3, method="without_replacement")
    cpu = SumTree(gpu.state_dict()["weights"], seed=3)
    np.testing.assert_array_equal(host(gpu.sample(6)), cpu.sample(6))
    other = SumTree(1, backend="cuda")
    other.load_state_dict(gpu.state_dict())
    np.testing.assert_array_equal(host(other.sample(6)), cpu.sample(6))


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("n", [1, 1000, 1_000_003])
def test_large_trees_on_a_gpu(library: str, n: int) -> None:
    rng = np.random.default_rng(n)
    weights = rng.random(n)
    cpu, gpu = SumTree(weights, seed=1), SumTree(on_gpu(weights, library), seed=1)
    for count in (1, 256, 1024, 20_000):
        index, weight = rng.integers(0, n, count), rng.random(count)
        cpu.update(index, weight)
        gpu.update(on_gpu(index, library), on_gpu(weight, library))
        assert gpu.total == cpu.total
        for method in METHODS[:3]:
            np.testing.assert_array_equal(host(gpu.sample(count, method=method)), cpu.sample(count, method=method))
    np.testing.assert_array_equal(host(gpu.weights()), cpu.weights())
    size = min(n, 100)
    np.testing.assert_array_equal(host(gpu.sample(size, method="without_replacement")),
                                  cpu.sample(size, method="without_replacement"))
