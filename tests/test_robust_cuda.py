"""The CUDA kernels of fastgd.robust: in Numba's simulator at tiny sizes (`sim`), on a GPU at real ones (`gpu`).

    NUMBA_ENABLE_CUDASIM=1 pytest -m sim tests/test_robust_cuda.py
    pytest -m gpu tests/test_robust_cuda.py
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import robust_oracle as oracle
from robust_oracle import DTYPES, LARGEST, assert_means, make, ulp

from fastgd import _cuda, robust
from fastgd._arrays import widen
from fastgd._dispatch import Operand, find
from fastgd._rows import parse

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


def assert_nearest(x: Any, window: int, dtype: str) -> None:
    """The kernel against the reference, for values of which the reference averages finite ones."""
    on_host, on_device = parse(x), parse(device(x))
    expected, got = on_host.empty(1), on_device.empty(1)
    tolerated = on_host.n
    assert find("robust.nearest_mean", on_host.operand, "reference")(on_host, window, tolerated, expected) == -1
    assert find_cuda("nearest_mean")(on_device, window, tolerated, got) == -1
    known, value = widen(expected[0], dtype), host(got[0], dtype).astype(np.float64)
    assert (np.isfinite(known) == np.isfinite(value)).all()
    finite = np.isfinite(known)
    assert (np.abs(value - known)[finite] <= ulp(known[finite], dtype)).all()


def assert_sqdist_to(x: Any, point: Any, dtype: str) -> None:
    on_host, on_device = parse(x), parse(device(x))
    known, bad = find("robust.sqdist_to", on_host.operand, "reference")(on_host, None if point is None else parse(point))
    got, found = find_cuda("sqdist_to")(on_device, None if point is None else parse(device(point)))
    assert (bad == found).all()
    assert got.dtype == known.dtype == np.float64
    assert (np.isinf(got) == np.isinf(known)).all()
    finite = np.isfinite(known)
    assert (np.abs(got - known)[finite] <= BUDGET[dtype] * known[finite]).all()


def find_cuda(operation: str) -> Any:
    return find(f"robust.{operation}", Operand("cuda", "float32"), "cuda")


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that sort together have 8 threads: the simulator's barriers are slow."""
    from fastgd.robust import cuda

    monkeypatch.setattr(cuda, "MOST_THREADS", 8)


@pytest.fixture
def beyond_registers(few_threads: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sends any number of vectors to one of the places in which coordinates are sorted."""
    from fastgd.robust import cuda

    def force(place: str) -> None:
        monkeypatch.setattr(cuda, "_MOST_REGISTERS", 64 if place == "registers" else 0)
        monkeypatch.setattr(cuda, "_SHARED_BYTES", 1 << 20 if place == "tile" else 0)
        monkeypatch.setattr(cuda, "_MOST_SORTED_BYTES", 0 if place == "scratch" else 1 << 20)
        monkeypatch.setattr(cuda, "_SCRATCH_BYTES", 0)  # one block, which takes all coordinates in turn

    return force


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens between host and device, in order: "upload", "launch", "read"."""
    from numba import cuda

    seen: list[str] = []
    array = type(cuda.device_array(1))

    def note(owner: Any, name: str, event: str) -> None:
        real = getattr(owner, name)

        def noted(*args: Any, **options: Any) -> Any:
            seen.append(event)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, noted)

    note(array, "copy_to_device", "upload")
    note(array, "copy_to_host", "read")
    note(_cuda, "launch", "launch")
    return seen


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
        for rule in (robust.krum, robust.multikrum):
            vector, info = rule(device(x), 2, return_info=True)
            expected, known = rule(x, 2, return_info=True)
            assert (info.selected == known.selected).all()
            assert (info.bad_rows == known.bad_rows).all()
            assert_means(host(vector, dtype), np.asarray(x, np.float64)[info.selected], dtype)
            assert (np.abs(host(vector, dtype).astype(np.float64) - expected.astype(np.float64))
                    <= ulp(expected.astype(np.float64), dtype)).all()

    @pytest.mark.parametrize("place", ["shared", "scratch"])
    @pytest.mark.parametrize("n, f, neighbors", [(3, 0, None), (5, 1, None), (9, 2, 8), (16, 3, 1), (33, 8, None)])
    def test_krum_scores_have_the_bits_of_the_cpu(self, n: int, f: int, neighbors: int | None, place: str,
                                                  few_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """For the same distances; many of them are equal."""
        from fastgd.robust import cuda

        if place == "scratch":
            monkeypatch.setattr(cuda, "_MOST_SORTED_BYTES", 0)
            monkeypatch.setattr(cuda, "_SCRATCH_BYTES", 1 << 12)
        x = sample(n, 1, "float64").round(1)
        on_device = device(x)
        _, info = robust.multikrum(on_device, f, m=n // 2 + 1, neighbors=neighbors, return_info=True)
        sqdist = host(robust.pairwise_sqdist(on_device))
        assert (info.scores == robust.krum_scores(sqdist, f, neighbors=neighbors)).all()
        best = np.lexsort((np.arange(n), info.scores))[: n // 2 + 1]
        assert (info.selected == np.sort(best)).all()

    def test_krum_ties_and_copies(self) -> None:
        """Equal rows: the lowest index wins, and the copy has the winner's bits, signs of zeros included."""
        x = np.array([[9.0, 9.0], [0.0, -0.0], [-0.0, 0.0], [0.0, 0.0], [5.0, 5.0], [np.nan, 0.0]], np.float32)
        vector, info = robust.krum(device(x), 1, return_info=True)
        assert info.selected.tolist() == [1]
        assert np.signbit(host(vector)).tolist() == [False, True]
        vector, info = robust.multikrum(device(x), 1, m=5, return_info=True)
        assert info.selected.tolist() == [0, 1, 2, 3, 4]
        assert info.bad_rows.tolist() == [False] * 5 + [True]
        assert info.scores[5] == np.inf
        assert_means(host(vector), x[:5].astype(np.float64), "float32")

    @pytest.mark.parametrize("value", [np.nan, -np.inf])
    def test_krum_errors_leave_out_alone(self, value: float) -> None:
        x = sample(7, 3, "float32").copy()
        x[1, 2], x[4, 0] = value, value
        out = device(np.full(3, 7.0, np.float32))
        for rule in (robust.krum, robust.multikrum):
            with pytest.raises(ValueError, match="rows 1, 4 of x have a NaN or an Inf: 2 bad vectors, but only f=1"):
                rule(device(x), 1, out=out)
        with pytest.raises(ValueError, match="m=6 vectors are to be averaged, but only 5 are finite"):
            robust.multikrum(device(x), 2, m=6, out=out)
        with pytest.raises(ValueError, match="7 bad vectors"):
            robust.krum(device(np.full((7, 3), value, np.float32)), 1, out=out)
        assert (host(out) == 7.0).all()

    @pytest.mark.parametrize("form", ["stacked", "vectors", "layers"])
    def test_nothing_waits_before_the_end(self, form: str, events: list[str]) -> None:
        """Uploads, then launches, then one read; also of layers of two precisions, and into `out`."""
        from fastgd.robust import cuda

        x = sample(7, 5, "float32")
        data = x if form == "stacked" else list(x)
        if form == "layers":
            data = [[row[:3].copy(), row[3:].astype(np.float64)] for row in x]
        on_device = device(data)
        rows = parse(on_device)
        out = rows.vector([part[0, ...] for part in rows.empty(1)])
        for rule in (robust.krum, robust.multikrum):
            for place in (None, out):
                events.clear()
                rule(on_device, 1, out=place)
                trimmed = [event for k, event in enumerate(events) if event != (events[k - 1] if k else "")]
                assert trimmed in (["upload", "launch", "read"], ["launch", "read"])
                assert events.count("read") == 1
        events.clear()
        cuda.sqdist_to(rows, None)
        assert events == ["launch"] * (len(rows.layers) + 1) + ["read"]

    @pytest.mark.parametrize("n, d, dtype", [(1, 1, "float32"), (2, 0, "float32"), (3, 2050, "float32"), (9, 33, "float32")]
                             + [(5, 31, dtype) for dtype in DTYPES])
    def test_sqdist_to(self, n: int, d: int, dtype: str) -> None:
        x = sample(n + 1, d, dtype)
        assert_sqdist_to(x[1:], x[:1], dtype)
        assert_sqdist_to(x[1:], None, dtype)

    def test_sqdist_to_of_any_finite_size_and_bad_rows(self) -> None:
        x = np.zeros((13, 5), np.float32)
        x[1], x[2, 0], x[3], x[4, 1], x[5, 2], x[6], x[7, 0] = 3e38, 1e20, -3e38, 1e-30, 1e-40, 1e-45, -0.0
        x[8, 4], x[9, 0], x[10, 2], x[10, 3], x[12] = np.nan, np.inf, -np.inf, 3e38, 1.0
        for point in (x[:1], x[1:2], x[6:7], x[12:13], None):
            assert_sqdist_to(x, point, "float32")
        wide = np.array([[1e150, 0.0], [1e200, 1.0], [np.inf, 0.0], [1e-150, 0.0]])
        assert_sqdist_to(wide, None, "float64")

    def test_sqdist_to_walks_the_layers(self) -> None:
        x = sample(6, 9, "float32")
        split = [[row[:4].copy(), row[4:4].copy(), row[4:].astype(np.float64)] for row in x]
        got, bad = find_cuda("sqdist_to")(parse(device(split)), parse(device(split[:1])))
        exact = oracle.sqdist(x)[0]
        assert not bad.any()
        assert (np.abs(got - exact) <= 1e-6 * exact).all()

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

    @pytest.mark.parametrize("place", ["tile", "block", "scratch"])
    @pytest.mark.parametrize("n", [2, 7, 16])
    def test_ranks_beyond_registers(self, n: int, place: str, beyond_registers: Callable[[str], None]) -> None:
        """Small vectors through the kernels of large n."""
        beyond_registers(place)
        x = sample(n, 131 if place == "tile" else 5, "float32")
        assert_median(robust.median(device(x)), x, "float32")
        assert_means(host(robust.trimmed_mean(device(x), n // 4)), oracle.window(x, n // 4), "float32")

    @pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
    @pytest.mark.parametrize("n, d", [(65, 3), (100, 2), (257, 2)])
    def test_ranks_of_many_vectors(self, n: int, d: int, dtype: str, few_threads: None) -> None:
        x = sample(n, d, dtype)
        assert_median(robust.median(device(x)), x, dtype)
        assert_means(host(robust.trimmed_mean(device(x), n // 4), dtype), oracle.window(x, n // 4), dtype)
        assert_means(host(robust.trimmed_mean(device(x), 0), dtype), np.asarray(x, np.float64), dtype)
        assert_nearest(x, n - n // 3, dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("n, d", [(1, 3), (2, 33), (5, 31), (16, 5), (33, 3), (64, 1)])
    def test_nearest_mean(self, n: int, d: int, dtype: str) -> None:
        for window in sorted({1, n // 2 + 1, n - n // 4, n}) if n < 33 else (n - n // 4,):
            assert_nearest(sample(n, d, dtype), window, dtype)

    @pytest.mark.parametrize("place", ["registers", "tile", "block"])
    @pytest.mark.parametrize("n, window", [(5, 3), (8, 5), (9, 4), (9, 8), (12, 1), (20, 11)])
    def test_nearest_mean_of_equal_distances(self, n: int, window: int, place: str,
                                             beyond_registers: Callable[[str], None]) -> None:
        """Small integers: nearly every window has a rival that reaches as far, and most values have equals."""
        beyond_registers(place)
        x = np.random.default_rng(n).integers(-3, 4, (n, 60 if place != "block" else 12)).astype(np.float32)
        x[:, 0] = np.arange(n)
        assert_nearest(x, window, "float32")

    @pytest.mark.parametrize("place", ["registers", "tile", "block"])
    def test_nearest_mean_of_hostile_values(self, place: str, beyond_registers: Callable[[str], None]) -> None:
        beyond_registers(place)
        x = np.array([[np.nan, 3e38, -0.0, 1e-45, -np.inf, 1e20],
                      [1.0, 3e38, 0.0, 1e-45, 1e20, -1e20],
                      [2.0, -3e38, 0.0, 2e-45, 1.0, 1 + 2.0**-23],
                      [3.0, 3.4e38, -0.0, 3e-45, -3e38, 1.0],
                      [-np.inf, 3.3e38, 0.0, 1e-38, 1.0, 1e-30],
                      [2.5, -3.4e38, 1e-45, 0.0, 1e30, 2.0],
                      [1e30, 3.4e38, 1e38, 1e-44, 2.0, 0.0]], np.float32)
        for window in (1, 4, 5):
            assert_nearest(x, window, "float32")
        even = np.ascontiguousarray(x[1:])
        assert_nearest(even, 4, "float32")
        assert_nearest(make(np.clip(x, -6e4, 6e4), "float16"), 4, "float16")

    def test_nearest_mean_reports_broken_coordinates(self) -> None:
        from fastgd.robust import cuda

        x = np.zeros((5, 4), np.float32)
        x[0, 2], x[1, 2], x[3, 3], x[4, 3] = np.nan, np.inf, np.nan, -np.inf
        for tolerated, broken in ((0, 2), (1, 2), (2, -1)):
            rows = parse(device(x))
            assert cuda.nearest_mean(rows, 3, tolerated, rows.empty(1)) == broken

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

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("m, n", [(2, 3), (8, 8), (9, 17), (17, 9)])
    def test_combine_many(self, m: int, n: int, dtype: str) -> None:
        """Groups of outputs that are full and not, weights that are dense and sparse; each output as if it were alone."""
        x = sample(n, 7, dtype).copy()
        weights = np.random.default_rng(m).standard_normal((m, n))
        weights[np.random.default_rng(n).random((m, n)) < 0.3] = 0.0
        weights[0], weights[1, 1:] = 0.0, 0.0
        x[-1, 2], weights[m // 2 :, -1] = np.nan, 0.0
        got = host(robust.combine(device(x), weights), dtype).astype(np.float64)
        terms = np.asarray(x, np.float64)
        for a, (y, w) in enumerate(zip(got, weights, strict=True)):
            used = w != 0.0
            exact = (terms[used].astype(np.longdouble) * w[used, None]).sum(axis=0).astype(np.float64)
            size = np.abs(terms[used] * w[used, None]).sum(axis=0)
            assert (np.isnan(y) == np.isnan(exact)).all()
            finite = np.isfinite(exact)
            assert (np.abs(y - exact)[finite] <= 1.01 * ulp(exact[finite], dtype) + 2.0**-45 * size[finite]).all()
            if a in (1, m - 1):
                alone = host(robust.combine(device(x), w), dtype).astype(np.float64)
                assert np.array_equal(alone, y, equal_nan=True)

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
    @pytest.mark.parametrize("n, d", [*LARGE[2:], (4096, 65), (9000, 5)])
    def test_distances_to_a_point_and_nearest_means(self, n: int, d: int, dtype: str, library: str) -> None:
        x = sample(n, d, dtype)
        rows, known = parse(on_gpu(x, library, dtype)), parse(x)
        point = parse(on_gpu(x[:1], library, dtype))
        for centre, origin in ((point, parse(x[:1])), (None, None)):
            got, bad = find_cuda("sqdist_to")(rows, centre)
            exact, _ = find("robust.sqdist_to", known.operand, "reference")(known, origin)
            assert not bad.any()
            assert (np.abs(got - exact) <= BUDGET[dtype] * exact).all()
        for window in (1, n // 2 + 1, n - n // 4, n):
            expected, stacks = known.empty(1), rows.empty(1)
            find("robust.nearest_mean", known.operand, "reference")(known, window, 0, expected)
            assert find_cuda("nearest_mean")(rows, window, 0, stacks) == -1
            mean = widen(expected[0], dtype)
            assert (np.abs(host(stacks[0], dtype).astype(np.float64) - mean) <= ulp(mean, dtype)).all()

    @pytest.mark.parametrize("n", [5, 64, 65, 1000, 4096, 5000])
    def test_krum_chooses_on_the_device(self, n: int, library: str) -> None:
        """Beyond 4096 vectors the rows of distances are sorted in global memory."""
        x = sample(n, 33, "float32")
        on_device = on_gpu(x, library, "float32")
        f = n // 4 if n > 5 else 1
        scores = robust.krum_scores(host(robust.pairwise_sqdist(on_device)), f)
        for m in (1, n // 2):
            vector, info = robust.multikrum(on_device, f, m=m, return_info=True)
            assert (info.scores == scores).all()
            assert (info.selected == np.sort(np.lexsort((np.arange(n), scores))[:m])).all()
            assert_means(host(vector), x[info.selected].astype(np.float64), "float32")

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
