"""The CUDA kernels of the hashes: in Numba's simulator at tiny sizes (`sim`), on a GPU at real ones (`gpu`).

    NUMBA_ENABLE_CUDASIM=1 pytest -m sim tests/test_robust_hashing_cuda.py
    pytest -m gpu tests/test_robust_hashing_cuda.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from robust_oracle import DTYPES, make
from test_robust_cuda import LIBRARIES, device, host, on_gpu, signatures  # noqa: F401  (signatures is a fixture)

from fastgd import robust

sim = [pytest.mark.sim, pytest.mark.filterwarnings("ignore:.*(overflow|invalid value):RuntimeWarning")]


def vectors(n: int, d: int, dtype: str = "float32") -> Any:
    return make(np.random.default_rng(d).standard_normal((n, d)), dtype)


@pytest.mark.usefixtures("signatures")
class TestSimulated:
    """Every function against the CPU, bit for bit, on the simulator's device arrays."""

    pytestmark = sim

    @pytest.mark.parametrize("d, bits, dtype", [(1, 1, "float32"), (33, 9, "float32"), (33, 40, "float64"), (17, 33, "float16"),
                                                (17, 8, "bfloat16"), (2, 260, "float32")])
    def test_simhash(self, d: int, bits: int, dtype: str) -> None:
        x = vectors(3, d, dtype)
        assert (host(robust.simhash(device(x), bits, seed=4)) == robust.simhash(x, bits, seed=4)).all()

    def test_simhash_folds(self) -> None:
        x = vectors(1, 4100)
        assert (host(robust.simhash(device(x), 2)) == robust.simhash(x, 2)).all()

    def test_simhash_of_layers(self) -> None:
        x = vectors(2, 50)
        layers = [[row[:0], row[:7].astype(np.float64), row[7:9], row[9:]] for row in x]
        assert (host(robust.simhash(device(layers), 12)) == robust.simhash(x, 12)).all()
        out = device(np.zeros((2, 2), np.uint8))
        assert robust.simhash([device(row) for row in x], 12, out=out) is out
        assert (host(out) == robust.simhash(x, 12)).all()
        assert not host(robust.simhash(device(x[:, :0]), 12)).any()

    def test_simhash_of_any_finite_size(self) -> None:
        x = np.stack([1.7e308 * np.sin(np.arange(20.0) + 1.0), np.cos(np.arange(20.0))])
        assert (host(robust.simhash(device(x), 20)) == robust.simhash(x, 20)).all()
        x[1, 3] = np.nan
        with pytest.raises(ValueError, match="rows 1 of x have a NaN or an Inf"):
            robust.simhash(device(x), 20)

    @pytest.mark.parametrize("width", [0, 1, 4, 7, 520])
    def test_hamming(self, width: int) -> None:
        rng = np.random.default_rng(width)
        a, b = rng.integers(0, 256, (2, width), np.uint8), rng.integers(0, 256, (3, width), np.uint8)
        assert (host(robust.hamming(device(a), device(b))) == robust.hamming(a, b)).all()
        if width:
            assert robust.hamming(device(a[0]), device(b[0])) == robust.hamming(a[0], b[0])
            assert robust.lshgm_choice(device(a), device(a[1])) == 1

    def test_hamming_wants_both_on_one_device(self) -> None:
        a = np.zeros((1, 4), np.uint8)
        with pytest.raises(TypeError, match="b is on cpu, but a is on cuda"):
            robust.hamming(device(a), a)

    @pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])  # the simulator cannot stack bfloat16
    def test_lshgm(self, dtype: str) -> None:
        rng = np.random.default_rng(0)
        models = [[make(rng.standard_normal(shape), dtype) for shape in ((3, 4), (5,), (0,), (2, 2, 3))] for _ in range(2)]
        assert (host(robust.lshgm(device(models), bits=3)) == robust.lshgm(models, bits=3)).all()
        assert (host(robust.lshgm(device(models[0]), bits=3)) == robust.lshgm(models[0], bits=3)).all()

    def test_lshgm_in_runs_and_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from fastgd.robust.hashing import cuda

        monkeypatch.setattr(cuda, "_PARTIAL_BYTES", 0)
        models = [[row] for row in np.random.default_rng(1).standard_normal((2, 300, 2))]
        assert (host(robust.lshgm(device(models), bits=2)) == robust.lshgm(models, bits=2)).all()

    def test_lshgm_of_any_finite_size(self) -> None:
        a = 1.7e308 * np.sin(np.arange(40.0).reshape(20, 2) + 1.0)
        a[:, 1] = np.cos(np.arange(20.0))
        assert (host(robust.lshgm(device([a]))) == robust.lshgm([a])).all()
        a[2, 0] = np.inf
        with pytest.raises(ValueError, match="rows 0 of layers have a NaN or an Inf"):
            robust.lshgm(device([a]))


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES)
class TestGPU:
    """The same bits as on the CPU."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("n, d, bits", [(1, 3, 7), (5, 4096, 300), (33, 100_003, 256), (64, 9000, 100)])
    def test_simhash(self, library: str, n: int, d: int, bits: int, dtype: str) -> None:
        x = vectors(n, d, dtype)
        hashes = robust.simhash(on_gpu(x, library, dtype), bits, seed=1)
        assert (host(hashes) == robust.simhash(x, bits, seed=1)).all()
        assert (host(robust.hamming(hashes, hashes)) == robust.hamming(host(hashes), host(hashes))).all()

    def test_hostile_values(self, library: str) -> None:
        x = vectors(4, 5000, "float64").copy()
        x[0] *= 1e308 / np.abs(x[0]).max()
        x[1] *= 1e-300
        assert (host(robust.simhash(on_gpu(x, library, "float64"), 64)) == robust.simhash(x, 64)).all()
        x[2, 4999] = np.inf
        with pytest.raises(ValueError, match="rows 2 of x"):
            robust.simhash(on_gpu(x, library, "float64"), 64)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_lshgm(self, library: str, dtype: str) -> None:
        rng = np.random.default_rng(0)
        models = [[make(rng.standard_normal(shape), dtype) for shape in ((300, 400), (1000,), (64, 3, 3, 3))] for _ in range(3)]
        on_device = [[on_gpu(layer, library, dtype) for layer in model] for model in models]
        hashes = robust.lshgm(on_device, bits=7)
        assert (host(hashes) == robust.lshgm(models, bits=7)).all()
        assert robust.lshgm_choice(hashes, hashes[1]) == 1
