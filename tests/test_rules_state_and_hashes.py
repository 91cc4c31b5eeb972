"""KrumState equals krum after any history; SimHash keeps angles; the Hamming distance is a metric."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rules_oracle as oracle
from robust_oracle import bits, make
from rules_calls import LIBRARIES, inf, nan, refuses, rows_named

from fastgd import robust

pytestmark = pytest.mark.timeout(60)

# ---------------------------------------------------------------------------------------------------------- KrumState


def flat_bits(vector: object) -> bytes:
    return b"".join(map(bits, vector)) if isinstance(vector, list) else bits(vector)


@pytest.mark.parametrize("form", ["stacked", "vectors", "layers"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n, f, d", [(7, 2, 1), (9, 2, 17), (12, 4, 300)])
def test_a_state_equals_krum_after_any_history(n: int, f: int, d: int, dtype: str, form: str, backend: str) -> None:
    """120 updates: ordinary vectors, duplicates, giants, NaN and Inf, recoveries, and too many bad ones at times."""
    rng = np.random.default_rng(n * d)
    x = rng.standard_normal((n, d)).astype(dtype)
    split = d // 3

    def shaped(values: np.ndarray) -> object:
        if form == "stacked":
            return values.copy()
        if form == "vectors":
            return list(values.copy())
        return [[row[:split].copy(), row[split:].reshape(-1, 1).copy()] for row in values]

    given = shaped(x)
    state = robust.KrumState(given, f, backend=backend)
    assert flat_bits(state.select()) == bits(robust.krum(x, f, backend=backend))
    too_many = 0
    for step in range(120):
        row = int(rng.integers(n))
        value = rng.standard_normal(d)
        kind = step % 12
        if kind == 1:
            value[rng.integers(d)] = (nan, inf, -inf)[step % 3]
        elif kind == 2:
            value[:] = 3e38
        elif kind == 4:
            value[:] = 1e20 * (-1) ** step
        elif kind in (5, 7):
            value = x[int(rng.integers(n))].astype(float)
        elif kind == 9 or 60 <= step < 75:
            value[:] = nan
        elif kind == 10:
            value *= 1e-25
        x[row] = value
        state.update(row, shaped(x[row][None])[0])
        if (~np.isfinite(x).all(1)).sum() > f:
            too_many += 1
            message = refuses("f", state.select, kinds=(ValueError,))
            assert rows_named(message) == np.flatnonzero(~np.isfinite(x).all(1)).tolist()
        else:
            assert flat_bits(state.select()) == bits(robust.krum(x, f, backend=backend)), step
    good = rng.standard_normal((n, d)).astype(dtype)
    for row in rng.permutation(n):
        state.update(int(row), shaped(good[row][None])[0])
    assert flat_bits(state.select()) == bits(robust.krum(good, f, backend=backend))
    assert too_many > 3


@pytest.mark.parametrize("d", [200, 4300])
def test_a_state_of_many_equals_krum(d: int) -> None:
    """Also where krum takes its distances from inner products, and where the two best scores nearly tie."""
    rng = np.random.default_rng(d)
    mu = rng.standard_normal(d) * 30
    x = (mu + 1e-3 * rng.standard_normal((110, d))).astype(np.float32)
    state = robust.KrumState(x, 20)
    assert bits(state.select()) == bits(robust.krum(x, 20))
    for step in range(12):
        row = int(rng.integers(110))
        x[row] = (mu + 1e-3 * rng.standard_normal(d), x[5], np.full(d, 1e10), np.full(d, nan))[step % 4]
        state.update(row, x[row])
        assert bits(state.select()) == bits(robust.krum(x, 20)), step
    best = robust.krum(x, 20, return_info=True)[1].selected[0]
    twin = x[best].copy()
    twin[3] = np.nextafter(twin[3], np.float32(np.inf))
    for row in (0, 109):
        x[row] = twin
        state.update(row, twin)
        assert bits(state.select()) == bits(robust.krum(x, 20))


def test_a_state_writes_to_no_argument(backend: str) -> None:
    x = np.random.default_rng(0).standard_normal((9, 40)).astype(np.float32)
    before = bits(x)
    x.flags.writeable = False
    state = robust.KrumState(x, 2, backend=backend)
    value = np.full(40, 0.1, np.float32)
    value.flags.writeable = False
    for row in range(9):
        state.update(row, value)
    assert bits(x) == before and (value == np.float32(0.1)).all()
    assert bits(state.select()) == bits(value)
    assert not np.shares_memory(state.select(), value)


def test_a_buffer_may_be_used_again_after_an_update(backend: str) -> None:
    """A server receives every vector in the same memory: the state keeps what was given, not where it was."""
    x = np.random.default_rng(1).standard_normal((7, 30)).astype(np.float32)
    state = robust.KrumState(x, 2, backend=backend)
    current, buffer = x.copy(), np.empty(30, np.float32)
    rng = np.random.default_rng(2)
    for _ in range(3):
        for row in range(7):
            buffer[:] = current[row] = rng.standard_normal(30)
            state.update(row, buffer)
        buffer[:] = 1e6
        assert bits(state.select()) == bits(robust.krum(current, 2, backend=backend))


def test_what_select_returns_is_the_callers(backend: str) -> None:
    x = np.random.default_rng(1).standard_normal((7, 30)).astype(np.float32)
    state = robust.KrumState(x, 2, backend=backend)
    expected = bits(state.select())
    state.select()[:] = nan
    assert bits(state.select()) == expected
    assert np.isfinite(x).all()


def test_a_state_may_start_with_bad_vectors(backend: str) -> None:
    x = np.random.default_rng(3).standard_normal((9, 8))
    x[[0, 8], 3] = nan, -inf
    state = robust.KrumState(x, 2, backend=backend)
    assert bits(state.select()) == bits(robust.krum(x, 2, backend=backend))
    y = x.copy()
    y[0] = 0.5
    state.update(0, y[0])
    assert bits(state.select()) == bits(robust.krum(y, 2, backend=backend))


# ------------------------------------------------------------------------------------------------------------ SimHash


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 200, 257])
def test_simhash_shape_and_complement(count: int, backend: str) -> None:
    """h(-x) is the complement in every bit; the padding of the last byte is the same for all."""
    for d in (1, 5, 64, 65, 1000):
        x = np.random.default_rng(d).standard_normal((3, d)).astype(np.float32)
        hashes = robust.simhash(x, count, backend=backend)
        assert hashes.shape == (3, -(-count // 8)) and hashes.dtype == np.uint8
        opposite = robust.simhash(-x, count, backend=backend)
        for one, other in zip(hashes, opposite, strict=True):
            assert oracle.hamming(one, other) == count
            assert robust.hamming(one, other) == count


def test_simhash_sees_the_direction_only(backend: str) -> None:
    for dtype in ("float32", "float64"):
        x = np.random.default_rng(1).standard_normal((4, 700)).astype(dtype)
        expected = bits(robust.simhash(x, 128, backend=backend))
        for exponent in (-60, -3, 1, 50, 110) + ((-900, 1000) if dtype == "float64" else ()):
            scaled = np.ldexp(x, exponent)
            assert np.isfinite(scaled).all()
            assert bits(robust.simhash(scaled, 128, backend=backend)) == expected, exponent


@pytest.mark.parametrize("degrees", [0, 10, 30, 60, 90, 120, 180])
def test_simhash_angle_law(degrees: int, backend: str) -> None:
    """A bit differs with probability angle / pi."""
    count, d = 2048, 200
    rng = np.random.default_rng(degrees)
    u, w = np.linalg.qr(rng.standard_normal((d, 2)))[0].T
    angle = math.radians(degrees)
    for seed in (0, 12345):
        x = np.stack([u, 5 * (math.cos(angle) * u + math.sin(angle) * w)])
        a, b = robust.simhash(x, count, seed=seed, backend=backend)
        share, p = robust.hamming(a, b) / count, degrees / 180
        assert abs(share - p) <= 4.5 * math.sqrt(p * (1 - p) / count) + 1e-15


def test_simhash_bits_are_balanced_and_independent(backend: str) -> None:
    """Random vectors: each bit is set for half of them, and no two planes agree more than chance."""
    x = np.random.default_rng(4).standard_normal((600, 40))
    found = np.unpackbits(robust.simhash(x, 64, backend=backend), axis=1).astype(float) * 2 - 1
    assert (np.abs(found.mean(0)) < 5 / math.sqrt(600)).all()
    planes = found.T @ found / 600
    # planes of Rademacher signs in 40 dimensions have correlations of about 1 / sqrt(40), and more bits of none
    assert (np.abs(planes - np.eye(64)) < 0.75).all()
    assert abs((planes.sum() - 64) / (64 * 63)) < 0.03


def test_simhash_depends_on_its_vector_and_seed_alone(backend: str) -> None:
    x = np.random.default_rng(5).standard_normal((9, 200)).astype(np.float32)
    whole = robust.simhash(x, 100, seed=7, backend=backend)
    for i in (0, 4, 8):
        assert bits(robust.simhash(x[i : i + 1], 100, seed=7, backend=backend)) == bits(whole[i])
    assert bits(robust.simhash(x[::-1], 100, seed=7, backend=backend)) == bits(whole[::-1])
    hashes = {bits(robust.simhash(x, 100, seed=seed, backend=backend)) for seed in (0, 1, 2, 2**32, 2**32 + 1, 2**63, 2**64 - 1)}
    assert len(hashes) == 7
    assert bits(robust.simhash(x, 100, backend=backend)) == bits(robust.simhash(x, 100, seed=0, backend=backend))
    one, other = (robust.simhash(x[:1], 2000, seed=seed, backend=backend)[0] for seed in (1, 2))
    assert abs(robust.hamming(one, other) / 2000 - 0.5) < 4.5 * 0.5 / math.sqrt(2000)


@pytest.mark.parametrize("library", LIBRARIES)
def test_simhash_of_forms_dtypes_threads_and_backends(library: str) -> None:
    values = np.float64(make(np.random.default_rng(6).standard_normal((5, 333)), "float16"))
    expected = bits(robust.simhash(values, 120, seed=3))
    for dtype in ("float16", "float32", "float64"):
        x = values.astype(dtype)
        layers = [[row[:1].reshape(()), row[1:200], row[200:200], row[200:].reshape(7, 19)] for row in x]
        for form in (x, list(x), layers, np.asfortranarray(x), make(values, dtype, library)):
            for kw in ({"num_threads": 1}, {"num_threads": 3}, {"backend": "reference"}):
                assert bits(robust.simhash(form, 120, seed=3, **kw)) == expected
    wide = np.random.default_rng(7).standard_normal((6, 70_001)).astype(np.float32)
    assert len({bits(robust.simhash(wide, 64, **kw)) for kw in ({"num_threads": 1}, {"num_threads": 2}, {"num_threads": 5})}) == 1


@pytest.mark.parametrize("giant", [3e38, 1e20])
def test_simhash_of_giants(giant: float, backend: str) -> None:
    x = np.float32(giant) * np.random.default_rng(9).uniform(-1, 1, (2, 3000)).astype(np.float32)
    x[1] = -x[0]
    a, b = robust.simhash(x, 77, backend=backend)
    assert robust.hamming(a, b) == 77
    assert bits(robust.simhash(x / np.float32(2**20), 77, backend=backend)) == bits(np.stack([a, b]))


# ------------------------------------------------------------------------------------------------------------ Hamming


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000])
def test_hamming_counts_bits(width: int, backend: str) -> None:
    rng = np.random.default_rng(width)
    a = rng.integers(0, 256, (3, width), dtype=np.uint8)
    b = rng.integers(0, 256, (5, width), dtype=np.uint8)
    a[0], b[0] = 0, 255
    got = robust.hamming(a, b, backend=backend)
    assert got.shape == (3, 5) and got.dtype == np.int64
    assert got.tolist() == [[oracle.hamming(p, q) for q in b] for p in a]
    assert got[0, 0] == 8 * width
    scalar = robust.hamming(a[1], b[2], backend=backend)
    assert np.ndim(scalar) == 0 and np.asarray(scalar).dtype == np.int64 and scalar == got[1, 2]
    assert int(scalar) == got[1, 2]
    reordered = ((a[:, ::-1], b[:, ::-1]), (np.asfortranarray(a), np.asfortranarray(b)), (a[::-1][::-1], np.repeat(b, 2, 0)[::2]))
    for p, q in reordered:
        assert bits(robust.hamming(p, q, backend=backend)) == bits(got)


def test_hamming_is_a_metric(backend: str) -> None:
    a = np.random.default_rng(0).integers(0, 256, (20, 37), dtype=np.uint8)
    a[7] = a[3]
    h = robust.hamming(a, a, backend=backend)
    assert (h == h.T).all() and not np.diag(h).any()
    assert ((h == 0) == (a[:, None] == a).all(2)).all()
    assert (h[:, :, None] <= h[:, None, :] + h.T[None]).all()
