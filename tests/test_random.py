"""fastgd.random on every backend: known answers, equal bits, addressing, perturbation in place, refusals.

    NUMBA_ENABLE_CUDASIM=1 pytest -m sim tests/test_random.py
    pytest -m gpu tests/test_random.py
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgd
from fastgd import random
from fastgd.random import reference, scalar

STREAMS = ("bits32", "hash32", "uniform", "rademacher", "normal")
EXACT = STREAMS[:-1]
SIZES = (0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257, 1009, 4095, 4096, 4097)
#: Around a block, a word of signs, a tile, the counter's carry (2^34), the hash's segments (2^32), the end.
STARTS = (0, 1, 3, 31, 33, 127, 130, 2**32 - 5, 2**34 - 3, 2**37 - 70, 2**63 - 300)
KEYS = ((0, 0), (1, 0), (0, 1), (2**64 - 1, 2**32 - 1), (0xA4093822299F31D0, 12345))

streams = pytest.mark.parametrize("name", STREAMS)


def ulps(z: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error of float32 numbers in units of the last place of the exact value."""
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return np.abs(z.astype(np.float64) - exact) / spacing


def same(z: np.ndarray, expected: np.ndarray) -> bool:
    """Equal bits, signs of zeros included."""
    return z.dtype == expected.dtype and z.shape == expected.shape and z.tobytes() == expected.tobytes()


# --------------------------------------------------------------------------------------------------- known answers

RANDOM123 = [  # counter, key, words: kat_vectors of Random123
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize("counter, key, words", RANDOM123)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: str) -> None:
    """The scalar source, with any counter; what is reachable through the stream is compared with it below."""
    step, stream = np.uint64(counter[2]), np.uint64(counter[3])
    seed, block = np.uint64(key[0] | key[1] << 32), np.uint64(counter[0] | counter[1] << 32)
    for philox in (scalar.philox, scalar.njit_functions().philox):
        assert " ".join(f"{int(word):08x}" for word in philox(seed, step, stream, block)) == words


def test_the_zero_stream(backend: str) -> None:
    assert [f"{word:08x}" for word in random.bits32(0, 0, 0, 4, backend=backend)] == RANDOM123[0][2].split()


# ------------------------------------------------------------------------------------------- the same numbers anywhere


@streams
@pytest.mark.parametrize("seed, step", KEYS)
def test_c_equals_the_reference(name: str, seed: int, step: int, isa: int) -> None:
    draw, oracle = getattr(random, name), getattr(reference, name)
    for start in STARTS:
        size = 300 if start else 1009
        got = draw(seed, step, start, size, backend="cpu")
        if name == "normal":
            assert got.dtype == np.float32
            assert ulps(got, reference.normal64(seed, step, start, size)).max() <= 1.25
        else:
            assert same(got, oracle(seed, step, start, size))


@streams
def test_every_size(name: str, isa: int) -> None:
    draw = getattr(random, name)
    whole = draw(7, 3, 0, 4200, backend="cpu")
    for size in SIZES:
        assert same(draw(7, 3, 0, size, backend="cpu"), whole[:size])
        assert same(draw(7, 3, 100, size - size // 40, backend="cpu"), whole[100 : 100 + size - size // 40])


@streams
def test_instruction_sets_and_threads_agree(name: str, isa: int) -> None:
    """Large enough for several threads and chunks, at a start that fits nothing."""
    draw, size = getattr(random, name), (4 << 20) // 4 + 12345
    lib = importlib.import_module("fastgd._native").lib
    got = [draw(5, 6, 77, size, num_threads=threads, backend="cpu") for threads in (1, 2, 3)]
    lib.fgd_isa_use(0)
    expected = draw(5, 6, 77, size, num_threads=1, backend="cpu")
    assert all(same(part, expected) for part in got)


@streams
@given(data=st.data())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_streams_are_addressed_by_index(name: str, data: st.DataObject) -> None:
    draw = getattr(random, name)
    seed, step = data.draw(st.integers(0, 2**64 - 1)), data.draw(st.integers(0, 2**32 - 1))
    start, size = data.draw(st.integers(0, 2**63 - 2000)), data.draw(st.integers(0, 600))
    cut = data.draw(st.integers(0, size))
    whole = draw(seed, step, start, size)
    assert same(np.concatenate([draw(seed, step, start, cut), draw(seed, step, start + cut, size - cut)]), whole)


def test_the_documented_slice(backend: str) -> None:
    for name in STREAMS:
        draw = getattr(random, name)
        assert same(draw(1, 2, 10, 5, backend=backend), draw(1, 2, 0, 15, backend=backend)[10:])


def test_uniform_is_made_of_the_bits(backend: str) -> None:
    bits = random.bits32(3, 4, 5, 1000, backend=backend)
    assert same(random.uniform(3, 4, 5, 1000, backend=backend), (bits >> 8).astype(np.float32) * np.float32(2**-24))


def test_numba_functions_equal_c() -> None:
    compiled = scalar.njit_functions()
    for start in (0, 2**34 - 3, 2**63 - 9):
        for name in ("bits32", "uniform", "rademacher", "normal"):
            function, expected = getattr(compiled, name), getattr(random, name)(9, 8, start, 9)
            assert same(np.array([function(9, 8, start + i) for i in range(9)], expected.dtype), expected)
        key = np.uint64(scalar.hash_key(9, 8))
        got = np.array([compiled.hash32(key, np.uint64(start + i)) for i in range(9)], np.uint32)
        assert same(got, random.hash32(9, 8, start, 9))


def test_normal_numbers_from_numba_equal_c() -> None:
    """More of them, drawn from inside compiled code."""
    import numba

    normal = scalar.njit_functions().normal

    @numba.njit
    def draw(size: int) -> np.ndarray:
        out = np.empty(size, np.float32)
        for i in range(size):
            out[i] = normal(5, 7, i)
        return out

    assert same(draw(20_000), random.normal(5, 7, 0, 20_000, backend="cpu"))


# --------------------------------------------------------------------------------------------------- extreme normals

EDGES = sorted({w % 2**32 for base in (0, 2**29, 2**30, 2**31, 3 * 2**29, 3 * 2**30, 2**32) for w in
                (*range(base - 3, base + 4), base + 2**24, base - 2**24, base + 2**12)})


def test_normals_from_extreme_words() -> None:
    """Radii of u = 2^-33 .. 1 and angles around every eighth of a turn keep their relative accuracy."""
    to_normal = scalar.njit_functions().to_normal
    a, b = (grid.ravel().astype(np.uint64) for grid in np.meshgrid(EDGES, EDGES))
    got = np.array([to_normal(x, y) for x, y in zip(a, b, strict=True)], np.float32)
    exact = reference.box_muller(a, b)
    assert np.isfinite(got).all()
    assert (ulps(got, exact)[exact != 0]).max() <= 1.25
    assert not got[exact == 0].any()
    assert np.abs(got).max() == np.float32(np.sqrt(66 * np.log(2)))  # a = 0
    assert not got[a >= 2**32 - 128].any()  # float32(a) is 2^32: u is 1


def test_to_normal_runs_uncompiled() -> None:
    with np.errstate(all="raise"):
        functions = scalar.functions(lambda function: function)
        for a, b in ((0, 0), (2**32 - 1, 2**31), (12345, 2**30 + 1), (2**31, 2**29)):
            plain = functions.to_normal(np.uint64(a), np.uint64(b))
            assert plain == scalar.njit_functions().to_normal(np.uint64(a), np.uint64(b))


# ------------------------------------------------------------------------------------------------------- perturb_


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_perturb_is_the_formula(dtype: Any, distribution: str, isa: int) -> None:
    """fl(x + fl(scale z)) with the stream's z, for sizes around tiles and words."""
    for size in (*SIZES, 70_001):
        x = np.random.default_rng(size).standard_normal(size).astype(dtype)
        z = getattr(random, distribution)(3, 4, 0, size, backend="cpu").astype(dtype)
        for scale in (0.1, -3.0):
            expected = x + dtype(scale) * z
            got = x.copy()
            assert random.perturb_(got, seed=3, step=4, scale=scale, distribution=distribution, backend="cpu") is got
            assert same(got, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_perturb_agrees_with_the_reference(dtype: Any) -> None:
    x = np.linspace(-2, 2, 3000).astype(dtype).reshape(30, 100)
    for distribution in ("normal", "rademacher"):
        a, b = x.copy(), x.copy()
        random.perturb_(a, seed=1, scale=0.5, distribution=distribution, backend="cpu")
        random.perturb_(b, seed=1, scale=0.5, distribution=distribution, backend="reference")
        assert np.abs(a - b).max() <= (1e-6 if distribution == "normal" else 0.0)


def test_perturb_does_not_depend_on_threads() -> None:
    size = (8 << 20) // 4 + 777
    for distribution in ("normal", "rademacher"):
        results = [random.perturb_(np.ones(size, np.float32), seed=1, step=2, scale=0.3, distribution=distribution,
                                   num_threads=threads) for threads in (1, 2, 3)]
        assert same(results[1], results[0]) and same(results[2], results[0])


@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_replay_restores(distribution: str, backend: str) -> None:
    x = np.random.default_rng(0).standard_normal((50, 60)).astype(np.float32)
    y = x.copy()
    random.perturb_(y, seed=8, step=1, scale=1e-3, distribution=distribution, backend=backend)
    assert (y != x).mean() > 0.99
    random.perturb_(y, seed=8, step=1, scale=-1e-3, distribution=distribution, backend=backend)
    assert np.abs(y - x).max() <= 2 * np.spacing(np.float32(4))


def test_any_shape_and_layout_of_contiguous_memory(backend: str) -> None:
    flat = random.perturb_(np.zeros(24, np.float32), seed=1, backend=backend)
    for shape in ((24,), (4, 6), (2, 3, 4), (24, 1), (1, 1, 24)):
        assert (random.perturb_(np.zeros(shape, np.float32), seed=1, backend=backend).ravel() == flat).all()
    scalar_array = random.perturb_(np.zeros((), np.float64), seed=1, backend=backend)
    assert scalar_array.shape == () and scalar_array == flat[0]
    inside = np.zeros(40, np.float32)
    random.perturb_(inside[5:29], seed=1, backend=backend)  # memory aligned to 4 bytes only
    assert (inside[5:29] == flat).all() and not inside[:5].any() and not inside[29:].any()
    for shape in ((0,), (3, 0)):
        assert random.perturb_(np.zeros(shape, np.float32), seed=1, backend=backend).shape == shape


def test_values_that_are_no_numbers_stay(backend: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e38], np.float32)
    random.perturb_(x, seed=0, scale=1.0, backend=backend)
    assert np.isnan(x[0]) and x[1] == np.inf and x[2] == -np.inf and x[3] == np.float32(3e38)


def test_scales(backend: str) -> None:
    x = np.ones(5, np.float32)
    random.perturb_(x, seed=0, scale=0.0, backend=backend)
    assert (x == 1).all()
    random.perturb_(x, seed=0, scale=np.float32(0.5), backend=backend)
    random.perturb_(np.ones(5), seed=0, scale=1e300, backend=backend)
    with pytest.raises(ValueError, match="scale"):
        random.perturb_(x, seed=0, scale=1e39, backend=backend)


def test_torch_shares_its_memory(backend: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.zeros(3, 7)
    assert random.perturb_(x, seed=4, scale=2.0, backend=backend) is x
    expected = random.perturb_(np.zeros((3, 7), np.float32), seed=4, scale=2.0, backend=backend)
    assert (x.numpy() == expected).all()
    double = torch.zeros(9, dtype=torch.float64)
    random.perturb_(double, seed=4, distribution="rademacher", backend=backend)
    assert set(double.tolist()) == {-1.0, 1.0}
    for wrong in (torch.zeros(3, 4).T, torch.zeros(3, dtype=torch.int32), torch.zeros(3, dtype=torch.bfloat16),
                  torch.zeros(3, requires_grad=True)):
        with pytest.raises(ValueError, match="x "):
            random.perturb_(wrong, seed=0, backend=backend)


# ------------------------------------------------------------------------------------------------------- refusals


@streams
@pytest.mark.parametrize("position, argument, low, high", [
    (0, "seed", -1, 2**64), (1, "step", -1, 2**32), (2, "start", -1, 2**63 + 1), (3, "size", -1, 2**63 + 1)])
def test_ranges_are_checked(name: str, position: int, argument: str, low: int, high: int, backend: str) -> None:
    draw = getattr(random, name)
    arguments: list[Any] = [1, 1, 1, 1]
    wrong_types = [(wrong, TypeError) for wrong in (1.0, True, np.True_, None, "1", np.float32(1))]
    for wrong, error in ((low, ValueError), (high, ValueError), *wrong_types):
        arguments[position] = wrong
        with pytest.raises(error, match=argument):
            draw(*arguments, backend=backend)
    for right in (np.int8(1), np.uint64(1), np.int64(1), np.array(1)):
        arguments[position] = right
        assert same(draw(*arguments, backend=backend), draw(1, 1, 1, 1, backend=backend))


@streams
def test_the_end_of_the_stream(name: str, backend: str) -> None:
    draw = getattr(random, name)
    assert draw(0, 0, 2**63 - 3, 3, backend=backend).shape == (3,)
    assert draw(0, 0, 2**63, 0, backend=backend).shape == (0,)
    with pytest.raises(ValueError, match="start \\+ size"):
        draw(0, 0, 2**63 - 3, 4, backend=backend)


def read_only() -> np.ndarray:
    x = np.zeros(4, np.float32)
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("make, error, words", [
    (lambda: [1.0, 2.0], TypeError, "x must be"), (lambda: 3.0, TypeError, "x must be"),
    (lambda: np.float32(3), TypeError, "x must be"), (lambda: None, TypeError, "x must be"),
    (lambda: np.zeros(4, np.float16), ValueError, "float16"), (lambda: np.zeros(4, int), ValueError, "int64"),
    (lambda: np.zeros(4, ">f4"), ValueError, "x has dtype"), (lambda: np.zeros(4, complex), ValueError, "complex"),
    (lambda: np.zeros((4, 4), np.float32)[:, ::2], ValueError, "contiguous"),
    (lambda: np.zeros((4, 5), np.float32).T, ValueError, "contiguous"),
    (lambda: np.zeros(4, np.float32)[::-1], ValueError, "contiguous"),
    (read_only, ValueError, "read-only")])
def test_targets_are_checked(make: Callable[[], Any], error: type[Exception], words: str, backend: str) -> None:
    with pytest.raises(error, match=words):
        random.perturb_(make(), seed=0, backend=backend)


@pytest.mark.parametrize("options, error", [
    ({"seed": -1}, ValueError), ({"seed": 2**64}, ValueError), ({"seed": 1.5}, TypeError),
    ({"step": 2**32}, ValueError), ({"step": None}, TypeError), ({"scale": np.nan}, ValueError),
    ({"scale": np.inf}, ValueError), ({"scale": "1"}, TypeError), ({"scale": 1j}, TypeError),
    ({"scale": True}, TypeError),
    ({"distribution": "uniform"}, ValueError), ({"distribution": None}, ValueError), ({"num_threads": 0}, ValueError),
    ({"num_threads": 1.5}, TypeError), ({"backend": "gpu"}, ValueError)])
def test_nothing_is_written_before_an_error(options: dict[str, Any], error: type[Exception]) -> None:
    x = np.ones(100, np.float32)
    (name,) = options
    with pytest.raises(error, match=name):
        random.perturb_(x, **{"seed": 1, **options})
    assert (x == 1).all()


def test_arguments_are_keywords() -> None:
    with pytest.raises(TypeError):
        random.perturb_(np.ones(3, np.float32), 1)  # type: ignore[misc]
    with pytest.raises(TypeError):
        random.normal(0, 0, 0, 1, "cpu")  # type: ignore[misc]


def test_dispatch_is_explained() -> None:
    assert "random.uniform on a float32 array on cpu" in fastgd.explain(random.uniform, 0, 0, 0, 4)
    text = fastgd.explain(random.perturb_, np.ones(3), seed=1)
    assert "random.perturb_ on a float64 array" in text and "chosen" in text
    with pytest.raises(fastgd.BackendError, match="host array"):
        random.perturb_(np.ones(3, np.float32), seed=1, backend="cuda")


def test_the_surrounding_choice_counts() -> None:
    with fastgd.use(backend="reference", num_threads=1):
        assert same(random.normal(0, 0, 0, 50), reference.normal(0, 0, 0, 50))
    with fastgd.use(backend="cuda"), pytest.raises(ValueError, match="seed"):
        random.normal(-1, 0, 0, 5)


# --------------------------------------------------------------------------------------- CUDA: simulator and device


def check_streams_on_device(sizes: tuple[int, ...], starts: tuple[int, ...]) -> None:
    for name in STREAMS:
        for start in starts:
            for size in sizes:
                result = getattr(random, name)(5, 7, start, size, backend="cuda")
                got = result.copy_to_host()
                if name == "normal":
                    exact = reference.normal64(5, 7, start, size)
                    assert got.shape == (size,) and got.dtype == np.float32
                    assert ulps(got, exact).max(initial=0.0) <= 2
                else:
                    assert same(got, getattr(random, name)(5, 7, start, size, backend="cpu"))


def check_perturb_on_device(move: Callable[[np.ndarray], Any], size: int) -> None:
    for dtype in (np.float32, np.float64):
        for distribution in ("normal", "rademacher"):
            host = np.linspace(-1, 1, size).astype(dtype).reshape(-1, 5)
            x = move(host)
            assert random.perturb_(x, seed=3, step=1, scale=0.3, distribution=distribution) is x
            got = x.copy_to_host() if hasattr(x, "copy_to_host") else x.cpu().numpy()
            expected = random.perturb_(host.copy(), seed=3, step=1, scale=0.3, distribution=distribution, backend="cpu")
            if distribution == "rademacher":
                assert same(got, expected)
            else:
                assert np.abs(got - expected).max() <= 0.3 * 3 * np.spacing(np.float32(4)) + np.spacing(dtype(2))


@pytest.mark.sim
def test_streams_in_the_simulator() -> None:
    check_streams_on_device((0, 1, 33), (0, 3, 2**32 - 5, 2**34 - 3, 2**63 - 33))


@pytest.mark.sim
def test_normals_in_the_simulator_have_the_bits_of_c() -> None:
    got = random.normal(5, 7, 13, 200, backend="cuda").copy_to_host()
    assert same(got, random.normal(5, 7, 13, 200, backend="cpu"))


@pytest.mark.sim
def test_sign_tiles_in_the_simulator() -> None:
    got = random.rademacher(5, 7, 4000, 4300, backend="cuda").copy_to_host()
    assert same(got, random.rademacher(5, 7, 4000, 4300, backend="cpu"))


@pytest.mark.sim
def test_perturb_in_the_simulator() -> None:
    from numba import cuda

    check_perturb_on_device(cuda.to_device, 135)
    empty = cuda.to_device(np.zeros((0, 3), np.float32))
    assert random.perturb_(empty, seed=0) is empty


@pytest.mark.sim
def test_device_targets_are_checked() -> None:
    from numba import cuda

    with pytest.raises(ValueError, match="contiguous"):
        random.perturb_(cuda.to_device(np.zeros((4, 6), np.float32)).T, seed=0)
    with pytest.raises(ValueError, match="dtype"):
        random.perturb_(cuda.to_device(np.zeros(4, np.int32)), seed=0)


@pytest.mark.gpu
def test_streams_on_a_gpu() -> None:
    check_streams_on_device((0, 1, 33, 4097, 1_000_003), (0, 3, 4095, 2**32 - 5, 2**34 - 3, 2**62))


@pytest.mark.gpu
def test_perturb_on_a_gpu() -> None:
    from numba import cuda

    check_perturb_on_device(cuda.to_device, 1_000_005)
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        check_perturb_on_device(lambda host: torch.from_numpy(host.copy()).cuda(), 1_000_005)
