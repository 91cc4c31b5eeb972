"""simhash, hamming, lshgm: against their definitions written out, on every instruction set, and the facts that hold."""

from __future__ import annotations

import functools
import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from instruction_sets import LEVELS, instruction_set
from robust_oracle import DTYPES, make

import fastgd
from fastgd import _threads, robust
from fastgd.robust.hashing import cpu

FOLD = 4096


@functools.cache
def planes(seed: int, bits: int, d: int) -> np.ndarray:
    """(bits, d) signs, from the public random numbers, coordinate by coordinate as documented."""
    signs = np.empty((bits, d))
    for b in range(bits):
        g, word = b // 256, fastgd.random.bits32(seed, 0, b // 32 * FOLD, FOLD)
        words = fastgd.random.bits32(seed, 1 + g, 0, -(-d // FOLD) * FOLD // 32)
        turn = fastgd.random.hash32(seed, 1 + g, 0, -(-d // FOLD))
        for c in range(d):
            k, j = divmod(c, FOLD)
            p = (j + (int(turn[k]) % FOLD if k else 0)) % FOLD
            bit = int(words[128 * k + p // 32]) >> p % 32 ^ int(word[p]) >> b % 32
            signs[b, c] = -1.0 if bit & 1 else 1.0
    return signs


def unpacked(hashes: np.ndarray, bits: int) -> np.ndarray:
    return np.unpackbits(hashes, axis=-1, bitorder="little")[..., :bits].astype(bool)


def assert_bits(hashes: np.ndarray, terms: Any, count: int, additions: int) -> None:
    """Bit b of the hash is the sign of the exact sum of terms(b), unless that is below the documented bound."""
    got = unpacked(hashes, count)
    for b in range(count):
        values = terms(b)
        exact = math.fsum(values)
        if abs(exact) > additions * 2.0**-53 * math.fsum(map(abs, values)) or (exact == 0.0 and not any(values)):
            assert got[b] == (exact > 0.0), b


def pair(angle: float, d: int, seed: int = 0) -> np.ndarray:
    """Two vectors of norms 1 and 3 at an angle of so many degrees."""
    u, v = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, 2)))[0].T
    return np.stack([u, 3.0 * (np.cos(np.radians(angle)) * u + np.sin(np.radians(angle)) * v)])


def share(h: np.ndarray, bits: int) -> float:
    return float(robust.hamming(h[0], h[1])) / bits


# ------------------------------------------------------------------------------------------------------ definition


@pytest.mark.parametrize("d, bits", [(1, 3), (33, 40), (4095, 3), (4097, 3), (9001, 2)])
def test_bits_are_those_of_the_documented_planes(d: int, bits: int, backend: str) -> None:
    x = np.random.default_rng(d).standard_normal((2, d)).astype(np.float32)
    hashes = robust.simhash(x, bits, seed=3, backend=backend)
    for i in range(2):
        signs = planes(3, bits, d)
        assert_bits(hashes[i], lambda b, i=i, signs=signs: (signs[b] * x[i].astype(float)).tolist(), bits, FOLD + 3)


def test_planes_of_other_groups() -> None:
    """Plane 256 begins a group of its own; its bit is at its place whatever bits come before."""
    d = 4100
    x = np.random.default_rng(0).standard_normal((1, d))
    got = unpacked(robust.simhash(x, 300, seed=1), 300)[0]
    signs = planes(1, 258, d)
    for b in (0, 31, 32, 255, 256, 257):
        assert got[b] == (math.fsum(signs[b] * x[0]) > 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [0, 1, 2, 15, 16, 17, 31, 32, 33, 127, 1021, 1023, 1025, 4095, 4096, 4097, 8209])
def test_simhash_equals_the_reference(d: int, dtype: str) -> None:
    x = make(np.random.default_rng(d).standard_normal((5, d)), dtype)
    for bits in (1, 8, 31, 33, 257):
        expected = robust.simhash(x, bits, seed=d, backend="reference")
        for level in LEVELS:
            with instruction_set(level):
                got = robust.simhash(x, bits, seed=d)
            assert got.dtype == np.uint8
            assert got.shape == (5, -(-bits // 8))
            assert (got == expected).all()


def test_any_form_of_the_vectors_gives_the_same_bits(isa: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(cpu, "_BATCH", 7)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((19, 9007)).astype(np.float32)
    expected = robust.simhash(x, 70, seed=9, backend="reference")
    cuts = [0, 1, 1, 40, 4095, 4099, 8192, 9007]
    layers = [[row[a:b] for a, b in itertools.pairwise(cuts)] for row in x]
    mixed = [[part.astype(np.float64) if k % 2 else part for k, part in enumerate(row)] for row in layers]
    for form in (x, list(x), layers, mixed, np.repeat(x, 2, axis=1)[:, ::2], x.reshape(19, 1, 9007)):
        for threads in (1, 2, 3):
            assert (robust.simhash(form, 70, seed=9, num_threads=threads) == expected).all()
    alone = [robust.simhash(x[i : i + 1], 70, seed=9) for i in range(19)]
    assert (np.concatenate(alone) == expected).all()
    assert (robust.simhash(x, 64, seed=9) == expected[:, :8]).all()
    assert (robust.simhash(x, 70, seed=10) != expected).any()


@pytest.mark.parametrize("bits", [1, 7, 9, 255, 261])
def test_padding_is_zero(bits: int, backend: str) -> None:
    x = np.random.default_rng(2).standard_normal((40, 50))
    last = robust.simhash(x, bits, backend=backend)[:, -1]
    assert (last < 1 << ((bits - 1) % 8 + 1)).all()
    assert last.any()


def test_a_projection_of_zero_gives_zero(backend: str) -> None:
    x = np.zeros((3, 9))
    x[1] = -0.0
    x[2, :2] = 1.0  # half of all planes see 1 - 1
    hashes = unpacked(robust.simhash(x, 2000, backend=backend), 2000)
    assert not hashes[:2].any()
    assert 400 < hashes[2].sum() < 600
    opposite = unpacked(robust.simhash(-x, 2000, backend=backend), 2000)
    assert 900 < (~hashes[2] & ~opposite[2]).sum() < 1100


# ---------------------------------------------------------------------------------------------------------- facts

BITS = 200_000


@pytest.mark.parametrize("d", [300, 10_007])
@pytest.mark.parametrize("angle", [10.0, 30.0, 60.0, 90.0, 120.0])
def test_angle_law(angle: float, d: int) -> None:
    """P(bit differs) = angle / 180 degrees, whatever the norms; 3 sigma of independent bits."""
    p = angle / 180.0
    got = share(robust.simhash(pair(angle, d), BITS), BITS)
    assert abs(got - p) < 3.0 * math.sqrt(p * (1.0 - p) / BITS)


@pytest.mark.parametrize("spread", [1, 1000, FOLD])
def test_few_coordinates_follow_the_law_of_independent_signs(spread: int) -> None:
    """All 2^11 patterns of signs give the exact probability; coordinates a fold's length apart are no exception."""
    rng = np.random.default_rng(5)
    values = rng.standard_normal((2, 11))
    signs = 1.0 - 2.0 * (np.arange(2**11)[:, None] >> np.arange(11) & 1)
    p = float(((signs @ values[0] > 0) != (signs @ values[1] > 0)).mean())
    x = np.zeros((2, 10 * spread + 1), np.float64)
    x[:, ::spread] = values
    got = share(robust.simhash(x, BITS, seed=1), BITS)
    assert abs(got - p) < 3.0 * math.sqrt(p * (1.0 - p) / BITS) * math.sqrt(1.0 + 255 * 0.25 / FOLD)


@pytest.mark.parametrize("d", [64, 20_000])
def test_the_estimate_of_an_angle_is_unbiased(d: int) -> None:
    """Over seeds: its mean, and its variance pi^2 p (1 - p) / bits, by folding at most 1.03 times as much."""
    seeds, p, x = 400, 70.0 / 180.0, pair(70.0, d)
    got = np.array([share(robust.simhash(x, 256, seed=seed), 256) for seed in range(seeds)])
    variance = p * (1.0 - p) / 256
    assert abs(got.mean() - p) < 3.0 * math.sqrt(1.03 * variance / seeds)
    assert abs(got.var(ddof=1) / variance - 1.0) < 0.03 + 3.0 * math.sqrt(2.0 / seeds)


def test_planes_are_fair_and_uncorrelated() -> None:
    signs = planes(7, 40, 6000)
    products = signs @ signs.T / 6000
    assert np.abs(signs.mean(axis=1)).max() < 5.0 / math.sqrt(6000)
    assert np.abs(products - np.eye(40)).max() < 5.0 / math.sqrt(6000)
    assert np.abs((signs[:, 1:] * signs[:, :-1]).mean(axis=1)).max() < 5.0 / math.sqrt(6000)


def test_only_the_direction_counts(backend: str) -> None:
    x = np.random.default_rng(3).standard_normal((4, 5000)).astype(np.float32)
    hashes = robust.simhash(x, 512, backend=backend)
    for exponent in (-60, -1, 1, 60):
        assert (robust.simhash(np.ldexp(x, exponent), 512, backend=backend) == hashes).all()
    assert (robust.simhash(-x, 512, backend=backend) == ~hashes).all()
    assert (np.diag(robust.hamming(hashes, robust.simhash(-x, 512))) == 512).all()


@pytest.mark.parametrize("dtype, scale", [("float32", 3e38), ("float32", 1e38), ("float32", 1e-40), ("float64", 1.7e308),
                                          ("float64", 1e-300), ("bfloat16", 3e38), ("float16", 60000.0),
                                          ("float16", 2.0**-14)])
@pytest.mark.parametrize("d", [100, 5000])
def test_rows_of_any_finite_size(dtype: str, scale: float, d: int, isa: int) -> None:
    """Neither overflow nor underflow: rows of all sizes beside each other, and within one row."""
    rng = np.random.default_rng(4)
    big = scale * rng.uniform(-1.0, 1.0, (3, d))
    x = make(np.concatenate([big, rng.standard_normal((2, d))]), dtype)
    expected = robust.simhash(x, 100, backend="reference")
    assert (robust.simhash(x, 100) == expected).all()
    assert unpacked(expected, 100).any(axis=1).all()
    assert not unpacked(expected, 100).all(axis=1).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_that_are_not_finite_are_named(bad: float, dtype: str, backend: str) -> None:
    x = np.random.default_rng(5).standard_normal((6, 5000))
    x[0] = 1e308 if dtype == "float64" else 1.0
    x[2, 4999] = x[4, 0] = bad
    out = np.full((6, 2), 7, np.uint8)
    with pytest.raises(ValueError, match="rows 2, 4 of x have a NaN or an Inf"):
        robust.simhash(make(x, dtype), 10, out=out, backend=backend)
    assert (out == 7).all()


def test_memory_does_not_grow_with_the_planes() -> None:
    x = np.ones((3, 1_000_000), np.float32)
    robust.simhash(x, 8)
    tracemalloc.start()
    robust.simhash(x, 4096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# -------------------------------------------------------------------------------------------------------- arguments


def test_out_and_arguments_of_simhash(backend: str) -> None:
    x = np.random.default_rng(6).standard_normal((3, 10))
    out = np.empty((3, 2), np.uint8)
    assert robust.simhash(x, 9, out=out, backend=backend) is out
    assert (out == robust.simhash(x, 9)).all()
    for wrong in (np.empty((3, 1), np.uint8), np.empty((3, 2), np.int8), np.empty((2, 3), np.uint8).T, [1], None.__class__):
        with pytest.raises((ValueError, TypeError), match="out"):
            robust.simhash(x, 9, out=wrong, backend=backend)
    for bits in (0, -1, 1.0, True, "8", None, 2**33):
        with pytest.raises((ValueError, TypeError), match="bits"):
            robust.simhash(x, bits, backend=backend)
    for seed in (-1, 2**64, 0.5, None):
        with pytest.raises((ValueError, TypeError), match="seed"):
            robust.simhash(x, 8, seed=seed, backend=backend)
    with pytest.raises(TypeError, match="x has dtype int64"):
        robust.simhash(np.ones((2, 2), int), 8, backend=backend)


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(7).standard_normal((3, 100)).astype(np.float32)
    hashes = robust.simhash(torch.tensor(x), 40)
    assert isinstance(hashes, torch.Tensor) and hashes.dtype == torch.uint8
    assert (hashes.numpy() == robust.simhash(x, 40)).all()
    half = torch.tensor(x).to(torch.bfloat16)
    assert (robust.simhash(half, 40).numpy() == robust.simhash(half.float().numpy(), 40)).all()
    distances = robust.hamming(hashes, hashes)
    assert isinstance(distances, torch.Tensor) and distances.dtype == torch.int64
    out = torch.empty((3, 3), dtype=torch.int64)
    assert robust.hamming(hashes, hashes, out=out) is out
    assert torch.equal(out, distances)
    model = [torch.tensor(x), torch.ones(4)]
    assert (robust.lshgm(model).numpy() == robust.lshgm([x, np.ones(4, np.float32)])).all()
    assert robust.lshgm_choice(hashes, hashes[2]) == 2


# ---------------------------------------------------------------------------------------------------------- hamming


@pytest.mark.parametrize("width", [0, 1, 7, 8, 9, 31, 32, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 1100, 3000, 33000])
def test_hamming_is_brute_force(width: int, isa: int) -> None:
    rng = np.random.default_rng(width)
    a, b = rng.integers(0, 256, (3, width), np.uint8), rng.integers(0, 256, (66, width), np.uint8)
    a[0], b[0] = 0, 255
    left, right = ([int.from_bytes(row.tobytes(), "little") for row in rows] for rows in (a, b))
    expected = np.array([[(p ^ q).bit_count() for q in right] for p in left])
    got = robust.hamming(a, b)
    assert got.dtype == np.int64
    assert (got == expected).all()
    assert (robust.hamming(a, b, backend="reference") == expected).all()
    assert (robust.hamming(b, a) == expected.T).all()
    assert got[0, 0] == 8 * width
    same = robust.hamming(b, b)
    assert (same == robust.hamming(b, b.copy())).all()
    assert (same == same.T).all() and not np.diag(same).any()
    assert (robust.hamming(b[:4], b) == same[:4]).all()


def test_hamming_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "PARALLEL_BYTES", 0)
    a = np.random.default_rng(0).integers(0, 256, (200, 40), np.uint8)
    expected = robust.hamming(a, a[:130], num_threads=1)
    for threads in (2, 3):
        assert (robust.hamming(a, a[:130], num_threads=threads) == expected).all()
        assert (robust.hamming(a, a, num_threads=threads)[:, :130] == expected).all()


def test_hamming_of_single_hashes(backend: str) -> None:
    a, b = np.array([0b1010, 0xFF], np.uint8), np.array([0b0110, 0x0F], np.uint8)
    got = robust.hamming(a, b, backend=backend)
    assert isinstance(got, np.int64) and got == 6
    out = np.empty((), np.int64)
    assert robust.hamming(a, b, out=out, backend=backend) is out and out == 6
    wide = np.zeros((4, 6), np.uint8)
    assert robust.hamming(wide[:, ::2], wide[:2, 1::2], backend=backend).shape == (4, 2)
    assert robust.hamming(np.empty((0, 3), np.uint8), wide[:, :3], backend=backend).shape == (0, 4)


def test_arguments_of_hamming(backend: str) -> None:
    one, two = np.zeros(3, np.uint8), np.zeros((2, 3), np.uint8)
    for a, b, text in ((one, two, "both"), (two[None], two[None], "both"), (two, np.zeros((2, 4), np.uint8), "3 and 4 bytes"),
                       (one.astype(int), one, "a has dtype int64"), (one, one.astype(bool), "b has dtype bool"),
                       ([1, 2], one, "a must be"), (np.array(1, np.uint8), np.array(1, np.uint8), "both")):
        with pytest.raises((ValueError, TypeError), match=text):
            robust.hamming(a, b, backend=backend)
    for out in (np.empty((2, 3), np.int64), np.empty((2, 2), np.int32), np.empty((2, 2), np.uint8)):
        with pytest.raises((ValueError, TypeError), match="out"):
            robust.hamming(two, two, out=out, backend=backend)


# ------------------------------------------------------------------------------------------------------------ lshgm

SHAPES: list[tuple[int, ...]] = [(), (1,), (5,), (257,), (600,), (1, 40), (300, 1), (7, 8), (16, 16), (33, 17), (520, 6),
                                 (513, 31), (3, 1030), (5, 3, 2, 2), (0,), (0, 4), (4, 0)]


def matrix(layer: np.ndarray) -> np.ndarray:
    return layer.reshape(layer.shape[0] if layer.ndim else 1, math.prod(layer.shape[1:]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lshgm_is_its_formula(shape: tuple[int, ...], backend: str) -> None:
    rng = np.random.default_rng(len(shape))
    model = [rng.standard_normal(shape), np.asarray(rng.standard_normal((4, 3)), np.float32)]
    hashes = robust.lshgm(model, bits=3, seed=2, backend=backend)
    assert hashes.dtype == np.uint8
    offset = 0
    for layer in model:
        m = matrix(layer).astype(float)
        length, columns = m.shape
        normals = fastgd.random.normal(2, length, 0, 3 * length).reshape(3, length).astype(float)
        got = unpacked(hashes, offset + 3 * columns)[offset:].reshape(3, columns)
        for k, c in itertools.product(range(3), range(columns)):
            terms = (normals[k] * m[:, c]).tolist()
            if not terms or abs(math.fsum(terms)) > 1e-12 * math.fsum(map(abs, terms)):
                assert got[k, c] == (math.fsum(terms) > 0.0)
        offset += 3 * columns
    assert len(hashes) == -(-offset // 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [1, 5, 7, 13])
def test_lshgm_equals_the_reference(bits: int, dtype: str, isa: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "PARALLEL_BYTES", 0)
    rng = np.random.default_rng(bits)
    models = [[make(rng.standard_normal(shape), dtype) if shape else np.array(rng.standard_normal()) for shape in SHAPES]
              for _ in range(3)]
    expected = robust.lshgm(models, bits=bits, backend="reference")
    for threads in (1, 2, 3):
        assert (robust.lshgm(models, bits=bits, num_threads=threads) == expected).all()
    assert (robust.lshgm(models[1], bits=bits) == expected[1]).all()
    assert robust.lshgm([models[1]], bits=bits).shape == (1, expected.shape[1])


def test_lshgm_with_many_vectors() -> None:
    model = [np.random.default_rng(3).standard_normal((30, 9)), np.ones(4)]
    assert (robust.lshgm(model, bits=150) == robust.lshgm(model, bits=150, backend="reference")).all()


def test_lshgm_differs_by_the_mean_angle_of_the_columns() -> None:
    rng, columns, rows, bits = np.random.default_rng(8), 40, 500, 400
    a = rng.standard_normal((rows, columns))
    b = a + rng.uniform(0.1, 3.0, columns) * rng.standard_normal((rows, columns))
    cosine = (a * b).sum(axis=0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)
    p = np.arccos(cosine) / np.pi
    got = float(robust.hamming(robust.lshgm([a], bits=bits), robust.lshgm([b], bits=bits))) / (bits * columns)
    assert abs(got - p.mean()) < 3.0 * math.sqrt(p.mean() * (1.0 - p.mean()) / bits)  # columns share their vectors
    assert robust.hamming(robust.lshgm([a]), robust.lshgm([-a])) == 5 * columns
    assert (robust.lshgm([a]) == robust.lshgm([8.0 * a])).all()
    assert not robust.lshgm([0.0 * a]).any()


@pytest.mark.parametrize("scale", [1.7e308, 1e-300, 1.0])
def test_lshgm_of_any_finite_size(scale: float, isa: int) -> None:
    rng = np.random.default_rng(9)
    for shape in ((700, 3), (700, 20)):
        a = scale * rng.uniform(-1.0, 1.0, shape)
        a[:, 1] = rng.standard_normal(shape[0])
        assert (robust.lshgm([a], bits=9) == robust.lshgm([a], bits=9, backend="reference")).all()


def test_arguments_of_lshgm(backend: str) -> None:
    model = [np.ones((3, 4)), np.ones(2)]
    out = np.empty(4, np.uint8)
    assert robust.lshgm(model, out=out, backend=backend) is out
    assert (out == robust.lshgm(model)).all()
    with pytest.raises(ValueError, match="rows 1 of layers have a NaN or an Inf"):
        robust.lshgm([model, [np.full((3, 4), np.nan), np.ones(2)]], backend=backend)
    for bad in (np.ones((2, 2)), [], [[]], [model, model[:1]], [np.ones(2, int)], "ab"):
        with pytest.raises((ValueError, TypeError), match="layers"):
            robust.lshgm(bad, backend=backend)
    with pytest.raises((ValueError, TypeError), match="bits"):
        robust.lshgm(model, bits=0, backend=backend)
    with pytest.raises((ValueError, TypeError), match="out"):
        robust.lshgm(model, out=np.empty(5, np.uint8), backend=backend)


def test_the_verifiers_choice(backend: str) -> None:
    hashes = np.array([[0b1111], [0b0011], [0b0110], [0b0011]], np.uint8)
    assert robust.lshgm_choice(hashes, np.array([0b0010], np.uint8), backend=backend) == 1  # the first of three equals
    assert robust.lshgm_choice(hashes, np.array([0b1110], np.uint8), backend=backend) == 0
    rng = np.random.default_rng(10)
    honest = [[rng.standard_normal((50, 20)) + 3.0] for _ in range(4)]
    flipped = [[-layer for layer in honest[0]]]
    before = robust.lshgm([rng.standard_normal((50, 20)) + 3.0])
    assert robust.lshgm_choice(robust.lshgm(flipped + honest), before, backend=backend) > 0
    for wrong in (hashes[0], hashes[:0], hashes.astype(int)):
        with pytest.raises((ValueError, TypeError), match="hashes"):
            robust.lshgm_choice(wrong, hashes[0], backend=backend)
    with pytest.raises((ValueError, TypeError), match="benchmark"):
        robust.lshgm_choice(hashes, hashes, backend=backend)


def test_what_was_computed_before_leaves_no_trace() -> None:
    """Strips end in the middle of a register: what memory holds behind them must not enter the sums."""
    rng = np.random.default_rng(0)
    for n, d in ((2, 100_003), (64, 20_000), (33, 30_001), (64, 20_000)):
        x = rng.standard_normal((n, d)).astype(np.float32)
        for threads in (1, 2):
            together = robust.simhash(x, 256, num_threads=threads)
            assert np.array_equal(together, np.concatenate([robust.simhash(row[None], 256) for row in x]))
