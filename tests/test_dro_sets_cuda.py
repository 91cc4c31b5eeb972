"""The CUDA kernels of the uncertainty sets: in Numba's simulator at small sizes (`sim`), on a GPU at real ones (`gpu`).

    NUMBA_ENABLE_CUDASIM=1 pytest -m sim tests/test_dro_sets_cuda.py
    pytest -m gpu tests/test_dro_sets_cuda.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_robust_cuda import LIBRARIES, device, host, on_gpu

import fastgd
from fastgd import _cuda, dro

#: Elements far below the others become -inf: they are out whatever they are.
quiet = pytest.mark.filterwarnings("ignore:.*overflow:RuntimeWarning")

CALLS: list[Any] = [
    lambda z, **o: dro.worst_case(z, radius=0.3, **o),
    lambda z, **o: dro.worst_case(z, radius=4.0, **o),
    lambda z, **o: dro.worst_case(z, radius=0.0, **o),
    lambda z, **o: dro.worst_case(z, penalty=0.7, **o),
    lambda z, **o: (dro.project(z, radius=0.4, floor=0.1, **o), 0.0),
    lambda z, **o: (dro.project(z, radius=1e9, **o), 0.0),
]
calls = pytest.mark.parametrize("call", CALLS)


def vectors(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    z = rng.standard_normal(n)
    with np.errstate(over="ignore"):
        return {"normal": z, "float32": z.astype(np.float32), "ties": np.resize([0.0, 2.0, 1.0, 2.0], n), "same": np.full(n, -3.0),
                "outlier": np.where(np.arange(n) == n // 2, 1e9, z), "large": np.clip(z * 1e308, -1.7e308, 1.7e308),
                "small": z * 1e-310, "far": 1e9 + z, "mixed": 10.0 ** rng.uniform(-300, 300, n) * rng.choice([-1.0, 1.0], n)}


def check(got: Any, z: np.ndarray, call: Any) -> None:
    weights, value = got
    expected, best = call(z)
    assert host(weights).dtype == np.float64
    assert np.abs(host(weights) - expected).max() <= 1e-13
    assert abs(value - best) <= 1e-13 * np.abs(z.astype(np.float64)).max()


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small blocks and chunks, for the simulator; and a failure for launches with types that KERNELS does not list."""
    from numba import typeof, types

    from fastgd.dro.sets import cuda_kernels

    declared = {(kernel.py_func.__name__, eval(signature, dict(vars(types))).args)
                for kernel, found, *_ in cuda_kernels.KERNELS for signature in found}
    monkeypatch.setattr(cuda_kernels, "THREADS", 4)
    monkeypatch.setattr(cuda_kernels, "CHUNK", 16)
    launch, launched = _cuda.launch, []

    def checked(kernel: Any, grid: int, threads: int, stream: Any, *arguments: Any, **options: Any) -> None:
        launched.append((kernel.py_func.__name__, tuple(typeof(argument) for argument in arguments)))
        launch(kernel, min(grid, 3), min(threads, 4), stream, *arguments, **options)

    monkeypatch.setattr(_cuda, "launch", checked)
    yield
    assert launched
    assert not set(launched) - declared


@pytest.mark.sim
@quiet
@pytest.mark.parametrize("n", [1, 21])
@calls
def test_the_simulator_agrees_with_the_cpu(n: int, call: Any, simulated: None) -> None:
    for z in vectors(n).values():
        check(call(device(z)), z, call)


@pytest.mark.sim
@quiet
def test_out_and_errors(simulated: None) -> None:
    z = np.arange(20.0)
    out = device(np.zeros(20))
    weights, value = dro.worst_case(device(z), radius=0.5, out=out)
    assert weights is out
    check((weights, value), z, lambda v: dro.worst_case(v, radius=0.5))
    with pytest.raises(ValueError, match=r"losses has a NaN or an Inf at 3"):
        dro.worst_case(device(np.where(np.arange(20) == 3, np.nan, z)), radius=0.5)
    with pytest.raises(fastgd.BackendError, match="no cuda kernel"):
        dro.worst_case(device(z), radius=0.5, divergence="kl")


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("n", [1, 1000, 2049, 10**6])
@calls
def test_a_gpu_agrees_with_the_cpu(library: str, n: int, call: Any) -> None:
    for z in vectors(n).values():
        moved = on_gpu(z, library, str(z.dtype))
        check(call(moved), z, call)
        assert (host(call(moved)[0]) == host(call(moved)[0])).all()
