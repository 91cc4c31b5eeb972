"""The CUDA kernels of fastgd.robust: in Numba's simulator at tiny sizes (`sim`), on a GPU at real ones (`gpu`).

    NUMBA_ENABLE_CUDASIM=1 pytest -m sim tests/test_robust_cuda.py
    pytest -m gpu tests/test_robust_cuda.py
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import robust_oracle as oracle
from robust_oracle import DTYPES, LARGEST, assert_means, make, ulp

from fastgd import _cuda, robust

sim = [pytest.mark.sim, pytest.mark.filterwarnings("ignore:.*(overflow|invalid value|divide by zero):RuntimeWarning")]

#: (n, d): around the sizes of tiles, warps and network groups; 65 vectors leave the registers for shared memory.
SIZES = [(1, 1), (2, 0), (2, 1), (3, 2), (5, 31), (7, 33), (16, 65), (17, 2), (33, 33)]
FEW = [(5, 33), (17, 2)]
BUDGET = {"float16": 1e-6, "bfloat16": 1e-6, "float32": 1e-6, "float64": 1e-13}


@functools.cache
def sample(n: int, d: int, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(1000 * n + d)
    return make(3.0 + rng.standard_normal((n, d)) * rng.choice([0.1, 1.0, 30.0], (n, 1)), dtype)


def device(x: Any) -> Any:
    """Simulated device memory with the values of a host array, or of a list of arrays."""
    from numba import cuda

    return [device(part) for part in x] if isinstance(x, list) else cuda.to_device(x)


def host(x: Any, dtype: str | None = None) -> Any:
    """The values of a result of any library on the host; bfloat16 comes back from Numba as bit patterns."""
    if isinstance(x, list):
        return [host(part, dtype) for part in x]
    if hasattr(x, "cpu"):
        return x.cpu().float().numpy() if str(x.dtype) == "torch.bfloat16" else x.cpu().numpy()
    x = x if isinstance(x, np.ndarray) else x.copy_to_host() if hasattr(x, "copy_to_host") else x.get()
    if dtype == "bfloat16" and x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x


@pytest.fixture
def signatures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails when a launch passes types that KERNELS does not list: those were never compiled by the PTX tests."""
    from numba import typeof, types

    from fastgd.robust.cuda import KERNELS

    declared = {(kernel.py_func.__name__, eval(signature, dict(vars(types))).args)
                for kernel, found, *_ in KERNELS for signature in found}
    launch, launched = _cuda.launch, []

    def checked(kernel: Any, grid: int, threads: int, stream: Any, *arguments: Any, **options: Any) -> None:
        launched.append((kernel.py_func.__name__, tuple(typeof(argument) for argument in arguments)))
        launch(kernel, grid, threads, stream, *arguments, **options)

    monkeypatch.setattr(_cuda, "launch", checked)
    yield
    assert not set(launched) - declared


def assert_sqdist(got: Any, x: Any, dtype: str) -> None:
    got, exact = host(got), oracle.sqdist(x)
    assert got.shape == exact.shape
    assert got.dtype == np.float64
    assert (got == got.T).all()
    finite = np.isfinite(exact)
    assert (got[~finite] == np.inf).all()
    assert (np.abs(got - exact)[finite] <= BUDGET[dtype] * exact[finite]).all()


def assert_median(got: Any, x: Any, dtype: str) -> None:
    assert (host(got, dtype).astype(np.float64) == oracle.median(x, dtype)).all()


@pytest.mark.usefixtures("signatures")
class TestSimulated:
    """Every function against the oracles, through the public API, on the simulator's device arrays."""

    pytestmark = sim

    @pytest.mark.parametrize("n, d, dtype", [(*size, "float32") for size in SIZES]
                             + [(*size, dtype) for size in FEW for dtype in ("float16", "bfloat16", "float64")])
    def test_pairwise_sqdist(self, n: int, d: int, dtype: str) -> None:
        x = sample(n, d, dtype)
        assert_sqdist(robust.pairwise_sqdist(device(x)), x, dtype)

    def test_pairwise_sqdist_splits_the_columns(self) -> None:
        x = sample(3, 530, "float32")
        assert_sqdist(robust.pairwise_sqdist(device(x)), x, "float32")

    def test_pairwise_sqdist_of_any_finite_size(self) -> None:
        x = np.zeros((9, 3), np.float32)
        x[1], x[2, 0], x[3] = 3e38, 1e20, -3e38
        x[4, 1], x[5, 2], x[6], x[7, 0] = 1e-30, 1e-40, 1e-45, -0.0
        x[8] = x[1]
        got = host(robust.pairwise_sqdist(device(x)))
        exact = oracle.sqdist(x)
        assert np.isfinite(got).all()
        assert (np.abs(got - exact) <= 1e-6 * exact).all()
        assert got[1, 8] == 0.0
        assert got[0, 7] == 0.0

    def test_pairwise_sqdist_with_bad_rows(self) -> None:
        x = sample(6, 3, "float32").copy()
        x[1, 2], x[3, 0], x[4] = np.nan, -np.inf, 3e38
        assert_sqdist(robust.pairwise_sqdist(device(x)), x, "float32")

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("hostile", [False, True])
    def test_krum_selects_as_on_the_cpu(self, dtype: str, hostile: bool) -> None:
        x = sample(9, 3, dtype).copy()
        if hostile:
            x[0], x[5, 1] = np.nan, LARGEST[dtype]
        # The simulator cannot copy an array of the extension dtype, as krum does.
        for rule in (robust.multikrum,) if dtype == "bfloat16" else (robust.krum, robust.multikrum):
            vector, info = rule(device(x), 2, return_info=True)
            expected, known = rule(x, 2, return_info=True)
            assert (info.selected == known.selected).all()
            assert (info.bad_rows == known.bad_rows).all()
            assert_means(host(vector, dtype), np.asarray(x, np.float64)[info.selected], dtype)
            assert (np.abs(host(vector, dtype).astype(np.float64) - expected.astype(np.float64))
                    <= ulp(expected.astype(np.float64), dtype)).all()

    def test_krum_scores_of_a_device_matrix(self) -> None:
        sqdist = oracle.sqdist(sample(7, 4, "float64"))
        sqdist[2, 3] += 1.0  # row i belongs to vector i
        assert (robust.krum_scores(device(sqdist), 1) == robust.krum_scores(sqdist, 1)).all()
        with pytest.raises(ValueError, match="negative"):
            robust.krum_scores(device(-sqdist), 1)

    @pytest.mark.parametrize("n, d, dtype", [(*size, "float32") for size in SIZES]
                             + [(*size, dtype) for size in FEW for dtype in ("float16", "bfloat16", "float64")]
                             + [(65, 2, "float32"), (65, 2, "float64"), (66, 1, "bfloat16")])
    def test_ranks(self, n: int, d: int, dtype: str) -> None:
        x = sample(n, d, dtype)
        assert_median(robust.median(device(x)), x, dtype)
        for f in sorted({0, n // 4} - {(n - 1) // 2}):
            assert_means(host(robust.trimmed_mean(device(x), f), dtype), oracle.window(x, f), dtype)

    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize("n", [2, 7, 16])
    def test_ranks_beyond_registers(self, n: int, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Small vectors through the kernels of large n: one tile in shared memory, one in global memory."""
        from fastgd.robust import cuda

        monkeypatch.setattr(cuda, "_MOST_REGISTERS", 1)
        monkeypatch.setattr(cuda, "_SHARED_BYTES", 1 << 20 if shared else 0)
        monkeypatch.setattr(cuda, "_SCRATCH_BYTES", 0)  # one block: its threads take several coordinates each
        x = sample(n, 131, "float32")
        assert_median(robust.median(device(x)), x, "float32")
        assert_means(host(robust.trimmed_mean(device(x), n // 4)), oracle.window(x, n // 4), "float32")

    def test_ranks_of_hostile_values(self) -> None:
        x = np.array([[np.nan, 3e38, -0.0, 1e-45, -np.inf],
                      [1.0, 3e38, 0.0, 1e-45, 1e20],
                      [2.0, -3e38, 0.0, 2e-45, 1.0],
                      [3.0, 3.4e38, -0.0, 3e-45, -3e38],
                      [-np.inf, 3.3e38, 0.0, 1e-38, 1.0]], np.float32)
        assert_median(robust.median(device(x)), x, "float32")
        even = np.ascontiguousarray(x[:4])
        assert_median(robust.median(device(even)), even, "float32")
        assert_means(host(robust.trimmed_mean(device(even), 1)), oracle.window(even, 1), "float32")
        finite = np.ascontiguousarray(x[:, 1:4])
        for f in (0, 1):
            assert_means(host(robust.trimmed_mean(device(finite), f)), oracle.window(finite, f), "float32")
        with pytest.raises(ValueError, match="rows 0, 4 of x have a NaN or an Inf at coordinate 0"):
            robust.trimmed_mean(device(x), 1)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("n, d", [(1, 2), (3, 33), (17, 2)])
    def test_mean(self, n: int, d: int, dtype: str) -> None:
        x = sample(n, d, dtype)
        assert_means(host(robust.mean(device(x)), dtype), np.asarray(x, np.float64), dtype)
        weights = np.arange(n) + 0.1
        expected = (np.asarray(x, np.longdouble) * weights[:, None]).sum(axis=0) / weights.sum()
        got = host(robust.mean(device(x), weights=weights), dtype).astype(np.float64)
        assert (np.abs(got - expected) <= 1.01 * ulp(expected.astype(np.float64), dtype)).all()

    @pytest.mark.parametrize("scale", [3.4e38, 1e30, 1.0, 1e-30, 1e-40, 1.4e-45])
    def test_mean_of_any_finite_size(self, scale: float) -> None:
        x = np.array([[1, 1, -1], [1, -1, 0.5], [1, 0.25, 0.5]], np.float32) * np.float32(scale)
        got = host(robust.mean(device(x)))
        assert np.isfinite(got).all()
        assert (np.abs(got - x.astype(np.float64).mean(axis=0)) <= 0.51 * ulp(got, "float32")).all()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_combine(self, dtype: str) -> None:
        x = sample(5, 3, dtype).copy()
        x[4] = np.nan
        x[3, 1] = np.inf
        weights = np.array([[0.5, -0.5, 0, 0, 0], [1e-30, 3, 2, 0, 0], [1e6, 1, -1, 1, 0], [0.0] * 5, [1.0] * 5])
        got = host(robust.combine(device(x), weights))
        for y, w in zip(got, weights, strict=True):
            terms = x[w != 0].astype(np.longdouble) * w[w != 0][:, None]
            exact, size = terms.sum(axis=0), np.abs(terms).sum(axis=0)
            assert (np.isnan(y) == np.isnan(exact)).all()
            assert (np.isinf(y) == np.isinf(exact)).all()
            finite = np.isfinite(exact)
            budget = 0.51 * ulp(exact[finite].astype(np.float64), dtype) + 2.0**-46 * size[finite]
            assert (np.abs(y[finite] - exact[finite]) <= budget).all()

    @pytest.mark.parametrize("dtype, tie, unit", [("bfloat16", 1 + 2.0**-8, 2.0**-7),
                                                  ("float16", 1 + 2.0**-11, 2.0**-10),
                                                  ("float32", 2.5 * 2.0**-149, 2.0**-149)])
    def test_sums_are_rounded_once(self, dtype: str, tie: float, unit: float) -> None:
        """Sums a little above or below halfway between two numbers of the dtype, by less than a float32 can say."""
        x = device(make([[1.0], [1.0], [1.0]] if tie > 1 else [[2.0**-140]] * 3, dtype))
        scale = 1.0 if tie > 1 else 2.0**140
        for sign in (1, -1):
            weights = np.array([[tie, 2.0**-35 * tie, 0], [-tie, 2.0**-35 * tie, 0], [tie, 0, 0]]) * scale * sign
            up, down, even = sign * host(robust.combine(x, weights), dtype)[:, 0].astype(np.float64)
            assert (up, down, even) == (tie + unit / 2, -(tie - unit / 2), tie - unit / 2)

    @pytest.mark.parametrize("weight", [1e-300, 1e-60, 1e60, 1e300])
    def test_combine_with_extreme_weights(self, weight: float) -> None:
        x = np.array([[1e-30, 1e30], [2e-30, 0.0]], np.float32)
        with np.errstate(over="ignore"):
            expected = (weight * x.astype(np.longdouble).sum(axis=0)).astype(np.float32)
        assert np.allclose(host(robust.combine(device(x), [weight, weight])), expected, rtol=2e-7, atol=1.5e-45)

    def test_layers(self) -> None:
        rng = np.random.default_rng(7)
        x = [[rng.standard_normal((2, 3)).astype(np.float32), rng.standard_normal(0).astype(np.float32),
              rng.standard_normal(4), np.array(rng.standard_normal(1), np.float16)] for _ in range(5)]
        on_device = device(x)
        assert_sqdist(robust.pairwise_sqdist(on_device), x, "float32")
        trimmed_mean, krum = (functools.partial(rule, f=1) for rule in (robust.trimmed_mean, robust.krum))
        for rule in (robust.median, robust.mean, trimmed_mean, krum):
            got, expected = rule(on_device), rule(x, backend="reference")
            assert [layer.shape for layer in got] == [layer.shape for layer in expected]
            for layer, known in zip(host(got), expected, strict=True):
                assert layer.dtype == known.dtype
                assert (np.abs(layer - known) <= ulp(known, known.dtype.name)).all()
        on_device[3][2][1] = np.nan
        on_device[4][2][1] = np.nan
        with pytest.raises(ValueError, match="rows 3, 4 of x have a NaN or an Inf at coordinate 7"):
            robust.trimmed_mean(on_device, 1)

    def test_lists_strides_and_out(self) -> None:
        x = sample(7, 12, "float32")
        expected = robust.median(x, backend="reference")
        assert (host(robust.median([device(row) for row in x])) == expected).all()
        wide = device(np.repeat(x, 2, axis=1))
        assert (host(robust.median(wide[:, ::2])) == expected).all()
        out = device(np.zeros(12, np.float32))
        assert robust.median(device(x), out=out) is out
        assert (host(out) == expected).all()
        pairs = device(np.zeros((12, 2), np.float32))
        robust.mean(device(x), out=pairs[:, 1])
        assert (host(pairs)[:, 0] == 0.0).all()
        assert_means(host(pairs)[:, 1], x.astype(np.float64), "float32")
        robust.multikrum(device(x), 1, m=7, out=pairs[:, 0])
        assert (host(pairs)[:, 0] == host(pairs)[:, 1]).all()

    def test_inputs_are_not_written(self) -> None:
        x = sample(5, 33, "float32").copy()
        on_device = device(x)
        for rule in (robust.krum, robust.multikrum, robust.trimmed_mean):
            rule(on_device, 1)
        assert (host(on_device) == x).all()


# ---------------------------------------------------------------------------------------------------- on a real GPU

LIBRARIES = ["torch", "cupy", "numba"]
#: Around the limits of registers (64), of shared memory (96, 192 and 384 in float32) and of tiles.
LARGE = [(1, 1), (2, 100_003), (3, 127), (8, 1), (16, 100_003), (31, 1000), (32, 513), (33, 1000), (64, 4097),
         (65, 1000), (97, 300), (193, 300), (400, 257)]


def on_gpu(x: np.ndarray, library: str, dtype: str) -> Any:
    """The values of a host array on the GPU, or a skip where the library is missing or has no such dtype."""
    if library == "torch":
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("this build of torch has no CUDA")
        return torch.tensor(x.astype(np.float64)).to("cuda", getattr(torch, dtype))
    if dtype == "bfloat16":
        pytest.skip(f"{library} has no bfloat16")
    if library == "cupy":
        return pytest.importorskip("cupy").asarray(x)
    from numba import cuda

    return cuda.to_device(x)


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES)
class TestGpu:
    """Every function against the oracles and the CPU kernels; compute-sanitizer is to be run over this class."""

    @pytest.fixture(autouse=True)
    def gpu(self) -> None:
        if _cuda.why_unavailable():
            pytest.skip("; ".join(_cuda.why_unavailable()))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("n, d", LARGE)
    def test_against_the_cpu(self, n: int, d: int, dtype: str, library: str) -> None:
        x = sample(n, d, dtype)
        on_device = on_gpu(x, library, dtype)
        assert_sqdist(robust.pairwise_sqdist(on_device), x, dtype)
        assert_median(robust.median(on_device), x, dtype)
        f = n // 4
        assert_means(host(robust.trimmed_mean(on_device, f), dtype), oracle.window(x, f), dtype)
        assert_means(host(robust.mean(on_device), dtype), x.astype(np.float64), dtype)
        weights = np.random.default_rng(n).standard_normal((3, n))
        got, known = host(robust.combine(on_device, weights), dtype), robust.combine(x, weights).astype(np.float64)
        size = np.abs(weights) @ np.abs(x.astype(np.float64))
        assert (np.abs(got - known) <= ulp(known, dtype) + 2.0**-45 * size).all()
        if n >= 2 * f + 3:
            for rule in (robust.krum, robust.multikrum):
                _, info = rule(on_device, f, return_info=True)
                assert (info.selected == rule(x, f, return_info=True)[1].selected).all()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_same_bits_every_time(self, dtype: str, library: str) -> None:
        on_device = on_gpu(sample(40, 30_011, dtype), library, dtype)
        for rule in (robust.pairwise_sqdist, robust.median, robust.mean, functools.partial(robust.trimmed_mean, f=5)):
            first = host(rule(on_device), dtype)
            for _ in range(5):
                assert (host(rule(on_device), dtype) == first).all()

    def test_any_finite_size_and_bad_values(self, library: str) -> None:
        x = np.zeros((40, 1000), np.float32)
        x[1], x[2, 0], x[3], x[4, 1], x[5, 2], x[6] = 3e38, 1e20, -3e38, 1e-30, 1e-40, 1e-45
        x[7, 999], x[39, 0] = np.nan, -np.inf
        on_device = on_gpu(x, library, "float32")
        assert_sqdist(robust.pairwise_sqdist(on_device), x, "float32")
        assert_median(robust.median(on_device), x, "float32")
        assert_means(host(robust.trimmed_mean(on_device, 2)), oracle.window(x, 2), "float32")
        with pytest.raises(ValueError, match="rows 7, 39"):
            robust.mean(on_device)
        with pytest.raises(ValueError, match=r"rows 39 .* at coordinate 0"):
            robust.trimmed_mean(on_device, 0)

    def test_lists_layers_and_strides(self, library: str) -> None:
        x = sample(9, 1000, "float32")
        expected = robust.median(x)
        on_device = on_gpu(np.repeat(x, 2, axis=1), library, "float32")[:, ::2]
        assert (host(robust.median(on_device)) == expected).all()
        rows = [on_gpu(row, library, "float32") for row in x]
        assert (host(robust.median(rows)) == expected).all()
        layers = [[on_gpu(row[:300], library, "float32"), on_gpu(row[300:].astype(np.float64), library, "float64")]
                  for row in x]
        assert (np.concatenate(host(robust.median(layers))) == expected).all()
        assert_sqdist(robust.pairwise_sqdist(layers), x, "float32")

    def test_order_of_streams(self, library: str) -> None:
        """The input is still being written on a stream of its own when the call is made."""
        if library != "torch":
            pytest.skip("torch alone can fill a stream from here")
        on_gpu(np.zeros((1, 1), np.float32), library, "float32")
        import torch

        x = torch.zeros((16, 1 << 22), device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(50):
                x += 1.0
            got = robust.mean(x)
        assert (got.cpu() == 50.0).all()

    def test_second_device(self, library: str) -> None:
        x = on_gpu(sample(9, 1000, "float32"), library, "float32")
        if library != "torch":
            pytest.skip("torch alone moves arrays between devices here")
        import torch

        if torch.cuda.device_count() < 2:
            pytest.skip("this machine has one GPU")
        y = x.to("cuda:1")
        assert robust.median(y).device == y.device
        assert (host(robust.median(y)) == host(robust.median(x))).all()
        assert (host(robust.pairwise_sqdist(y)) == host(robust.pairwise_sqdist(x))).all()
