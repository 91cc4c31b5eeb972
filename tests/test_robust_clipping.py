"""Static clipping and ARC, and the distances to one point that they and centered clipping rest on."""

from __future__ import annotations

import numpy as np
import pytest
import robust_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from robust_calls import refuses
from robust_oracle import DTYPES, LARGEST, bits, floats, make

from fastgd import robust
from fastgd._dispatch import find
from fastgd._native import lib
from fastgd._rows import parse

SIZES = [(1, 1), (2, 15), (3, 16), (4, 17), (5, 31), (6, 33), (7, 1009), (3, 8191), (2, 8192), (3, 8193), (64, 40), (2, 70_001)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def sqdist_to(x, point, backend: str, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rows = parse(x)
    to = None if point is None else rows.single(rows.parse_one(point, "point"))
    return find("robust.sqdist_to", rows.operand, backend)(rows, to, threads)


# ------------------------------------------------------------------------------------------------ distances to a point


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, d", SIZES)
def test_distances_to_a_point(n: int, d: int, dtype: str, backend: str) -> None:
    x, point = make(normal(n, d) + 3, dtype), make(normal(d, seed=1), dtype)
    for to in (None, point):
        exact = ((floats(x).astype(np.longdouble) - (0 if to is None else floats(point))) ** 2).sum(axis=1)
        seen = set()
        for threads in (1, 2, 3):
            got, bad = sqdist_to(x, to, backend, threads)
            assert not bad.any() and (np.abs(got - exact) <= 2e-14 * exact).all()
            seen.add(bits(got))
        assert len(seen) == 1


@pytest.mark.parametrize("kernel", ["sqdist_to", "pairwise_row"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_on_every_instruction_set(kernel: str, dtype: str) -> None:
    x = make(normal(5, 20_011), dtype)
    before = lib.fgd_isa_current()
    try:
        seen = set()
        for level in (0, 1, 2):
            lib.fgd_isa_use(level)
            rows = parse(x)
            arguments = (rows, rows.single([x[2]]) if dtype != "bfloat16" else None) if kernel == "sqdist_to" else (rows, 2)
            seen |= {bits(find(f"robust.{kernel}", rows.operand, "cpu")(*arguments, threads)[0]) for threads in (1, 2, 3)}
    finally:
        lib.fgd_isa_use(before)
    assert len(seen) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_distances_has_the_bits_of_the_matrix(dtype: str, backend: str) -> None:
    for n, d in ((1, 5), (2, 1), (3, 16), (5, 511), (9, 513), (13, 5000), (40, 1100), (6, 70_001)):
        x = normal(n, d)
        x[0] = x[-1]
        for hostile in (None, np.nan, -np.inf, LARGEST[dtype], 1e-40):
            if hostile is not None:
                x[n // 2, d // 2] = hostile
            for form in (make(x, dtype), [[row[: d // 3], row[d // 3 :]] for row in make(x, dtype)]):
                rows, full = parse(form), robust.pairwise_sqdist(form, backend=backend)
                for i in {0, n // 2, n - 1}:
                    row, bad = find("robust.pairwise_row", rows.operand, backend)(rows, i, 2)
                    assert bits(row) == bits(full[i])
                    assert bad[i] == (not np.isfinite(floats(make(x, dtype))[i]).all())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distances_of_extreme_vectors(dtype: str, backend: str) -> None:
    tiny, huge = (1e-42, 3e38) if dtype == "float32" else (1e-150, 1e150)
    x = make(np.full((6, 40), 1.0), dtype)
    x[1], x[2] = tiny, huge
    x[3, 5], x[4, 7], x[5, 39] = np.nan, np.inf, -np.inf
    got, bad = sqdist_to(x, None, backend)
    assert bad.tolist() == [False] * 3 + [True] * 3 and np.isinf(got[3:]).all()
    exact = [40 * float(value) ** 2 for value in (1.0, x[1, 0], x[2, 0])]
    assert np.allclose(got[:3], exact, rtol=1e-14, atol=0)
    if dtype == "float64":
        big = make(np.full((2, 3), 1e308), dtype)
        got, bad = sqdist_to(big, -big[0], backend)
        assert np.isinf(got).all() and not bad.any()


def test_layers_of_mixed_dtypes(backend: str) -> None:
    x = [[normal(7, seed=i), make(normal(3, 4, seed=i + 9), "float16"), make(normal(seed=i), "float32")] for i in range(4)]
    exact = (oracle.flat(x) ** 2).sum(axis=1)
    assert np.allclose(sqdist_to(x, None, backend)[0], exact, rtol=1e-14, atol=0)
    clipped = robust.clip(x, 1.0, backend=backend)
    assert np.allclose(oracle.flat(clipped), oracle.flat(x) / np.maximum(np.sqrt(exact), 1)[:, None], atol=1e-3)
    assert [part.dtype for part in clipped[0]] == [np.float64, np.float16, np.float32] and clipped[0][2].shape == ()


# ---------------------------------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, d", SIZES)
def test_clip_is_its_formula(n: int, d: int, dtype: str, backend: str) -> None:
    x = make(normal(n, d) * np.arange(1, n + 1)[:, None], dtype)
    wide = floats(x).astype(np.longdouble)
    norm = np.sqrt((wide**2).sum(axis=1))
    radius = float(np.median(norm)) * (1 + 1e-9) if n > 1 else float(norm[0]) / 2
    y = robust.clip(x, radius, backend=backend)
    assert type(y) is type(x) and y.dtype == x.dtype and y.shape == x.shape
    for i in range(n):
        if norm[i] <= radius:
            assert bits(y[i]) == bits(x[i])
        else:
            exact = wide[i] * (radius / norm[i])  # float64: the norm, the factor and the product are rounded
            assert (np.abs(floats(y)[i] - exact) <= oracle.ulp(exact, dtype) * (3 if dtype == "float64" else 1)).all()


def test_clip_forms_and_out(backend: str) -> None:
    x = normal(5, 6)
    expected = robust.clip(x, 1.0, backend=backend)
    assert np.array_equal(np.stack(robust.clip(list(x), 1.0, backend=backend)), expected)
    layers = robust.clip([[row[:2], row[2:].reshape(2, 2)] for row in x], 1.0, backend=backend)
    assert np.allclose(oracle.flat(layers), expected, rtol=1e-15)
    y = x.copy()
    assert robust.clip(y, 1.0, out=y, backend=backend) is y and np.array_equal(y, expected)
    lists = [np.zeros(6) for _ in range(5)]
    assert robust.clip(list(x), 1.0, out=lists, backend=backend) is lists and np.array_equal(lists, expected)
    memory = np.zeros(36)
    shifted = memory[3:33].reshape(5, 6)
    shifted[...] = x
    robust.clip(shifted, 1.0, out=memory[:30].reshape(5, 6), backend=backend)
    assert np.array_equal(memory[:30].reshape(5, 6), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_vectors_are_scaled_to_the_radius(dtype: str, backend: str) -> None:
    for value in (LARGEST[dtype], -LARGEST[dtype] / 3, 1e3):
        x = make(np.full((3, 500), value), dtype)
        y = floats(robust.clip(x, 2.0, backend=backend))
        assert np.allclose(np.linalg.norm(y, axis=1), 2.0, rtol=1e-2) and (np.sign(y) == np.sign(value)).all()
    if dtype == "float64":
        x = np.array([[1e-200, 0.0], [0.0, 1e-320], [3e-170, -4e-170]])
        y = robust.clip(x, 1e-180, backend=backend)
        assert bits(y[1]) == bits(x[1])
        assert np.allclose(y[2] * 1e180, [0.6, -0.8], rtol=1e-14) and bits(y[0]) == bits(x[0])


def test_zero_and_negative_zero_survive(backend: str) -> None:
    x = np.array([[0.0, -0.0, 5.0], [-0.0, -0.0, 0.0]])
    y = robust.clip(x, 1.0, backend=backend)
    assert bits(y) == bits(np.array([[0.0, -0.0, 1.0], [-0.0, -0.0, 0.0]]))


def test_clip_refuses_bad_vectors(backend: str) -> None:
    x = normal(4, 3)
    x[1, 2], x[3, 0] = np.nan, np.inf
    out = np.full((4, 3), 7.0)
    assert "rows 1, 3 of x" in refuses("x", robust.clip, x, 1.0, out=out, backend=backend)
    assert (out == 7).all()
    for radius in (0.0, -1.0, np.nan, np.inf, "far", None):
        refuses("radius", robust.clip, normal(4, 3), radius, out=out, backend=backend)
    assert (out == 7).all()


# --------------------------------------------------------------------------------------------------------------- ARC


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.data())
def test_arc_clips_k_vectors_to_the_next_norm(n: int, data: st.DataObject) -> None:
    f = data.draw(st.integers(0, (n - 1) // 2))
    x = np.random.default_rng(data.draw(st.integers(0, 2**32))).standard_normal((n, 3)) ** 3
    y, k = robust.arc(x, f), 2 * f * (n - f) // n
    norm = np.linalg.norm(x, axis=1)
    longest = np.sort(norm)[n - k - 1]
    assert np.allclose(y, x * np.minimum(1, longest / norm)[:, None], rtol=1e-14)
    assert sum(bits(a) == bits(b) for a, b in zip(x, y, strict=True)) >= n - k
    assert k >= f or n == 1


def test_k_is_an_integer_quotient(backend: str) -> None:
    """2 (f / n) (n - f) in floating point falls short of some integers, 2 (3 / 9) 6 = 4 among them."""
    for n, f in ((9, 3), (25, 5), (49, 21), (50, 15)):
        x = np.arange(1.0, n + 1)[:, None]
        k = 2 * f * (n - f) // n
        assert np.allclose(robust.arc(x, f, backend=backend)[:, 0], np.minimum(x[:, 0], n - k), rtol=1e-15, atol=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20, 3e38])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_arc_and_hostile_vectors(value: float, dtype: str, backend: str) -> None:
    values = normal(9, 30)
    values[2] = value
    values[7, 3] = value
    x = make(values, dtype)
    y = floats(robust.arc(x, 2, backend=backend))
    honest = np.linalg.norm(np.delete(floats(x), [2, 7], 0), axis=1)
    assert np.isfinite(y).all() and (np.linalg.norm(y, axis=1) <= honest.max() * 1.01).all()
    if not np.isfinite(value):
        assert not y[[2, 7]].any()
        assert "rows 2, 7 of x" in refuses("f=1", robust.arc, x, 1, backend=backend)
    else:
        # k = 3: the two hostile ones and the longest honest one come down to the next honest norm
        assert np.allclose(np.linalg.norm(y, axis=1)[[2, 7]], np.sort(honest)[-2], rtol=1e-2)


def test_arc_arguments(backend: str) -> None:
    x = normal(4, 3)
    for f in (-1, 2, 1.0, None, True):
        refuses("f", robust.arc, x, f, backend=backend)
    assert bits(robust.arc(x, 0, backend=backend)) == bits(x)
