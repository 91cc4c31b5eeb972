"""Precision as an attack surface: cancellation, giants, underflow, overflow; and any values that hypothesis finds."""

from __future__ import annotations

import numpy as np
import pytest
import robust_oracle as oracle
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from robust_oracle import DTYPES, assert_means, bits, correct_mean, flat, floats, make

from fastgd import robust

nan, inf = np.nan, np.inf


@pytest.mark.parametrize("giant", [None, 1e6, 1e10])
@pytest.mark.parametrize("norm", [1e3, 1e4])
def test_accuracy_table(norm: float, giant: float | None, backend: str) -> None:
    """Honest vectors mu + noise of norm 1 .. 1.5, Byzantine ones of noise 2; one giant first must not help them."""
    n, f, d = 32, 8, 20_000
    for trial in range(3):
        rng = np.random.default_rng(trial)
        mu, noise = rng.standard_normal(d), rng.standard_normal((n, d))
        length = np.concatenate([np.full(f, 2.0), rng.uniform(1, 1.5, n - f)])
        x = mu * (norm / np.linalg.norm(mu)) + noise * (length / np.linalg.norm(noise, axis=1))[:, None]
        if giant:
            x[0] = giant / np.sqrt(d)
        x = x.astype(np.float32)
        exact = np.stack([((x.astype(float) - row) ** 2).sum(1) for row in x])
        scores = oracle.scores(exact, n - f - 2)
        np.testing.assert_allclose(robust.pairwise_sqdist(x, backend=backend), exact, rtol=1e-6)
        vector, info = robust.krum(x, f, return_info=True, backend=backend)
        assert info.selected.tolist() == [scores.argmin()]
        assert bits(vector) == bits(x[scores.argmin()])
        info = robust.multikrum(x, f, m=n - f, return_info=True, backend=backend)[1]
        assert info.selected.tolist() == sorted(scores.argsort()[: n - f].tolist()) == list(range(f, n))


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-25, 1e-19, 1e-15, 1e15, 1e19, 1e25, 1e37])
def test_distances_hold_their_budget_at_any_scale(scale: float, backend: str) -> None:
    """Squares of float32 differences that under- or overflow float32 are still right, alone and mixed with others."""
    rng = np.random.default_rng(5)
    for d in (1, 17, 300, 2500):
        x = (scale * rng.standard_normal((9, d))).astype(np.float32)
        mixed = x.copy()
        mixed[::3] = rng.standard_normal((3, d))
        mixed[4, : d // 2 + 1] = 1.0
        for y in (x, mixed):
            np.testing.assert_allclose(robust.pairwise_sqdist(y, backend=backend), oracle.sqdist(y), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("d", [64, 256, 1024, 2048, 5000, 20_000])
def test_distances_hold_their_budget_in_the_worst_case(d: int, dtype: str, backend: str) -> None:
    """A few large differences, then many whose squares are just below half an ulp of the sum so far: all rounded away.

    A lane adds at most 64 terms, so that 64 + 2 roundings bound the error of any input.
    """
    for period in (256, 1024, 2048, d):
        x = np.zeros((5, d))
        x[1] = 2.0**-12.05
        x[1].reshape(-1)[np.arange(d) % period < 16] = 1.0
        x[3] = -2 * x[1]
        x = make(x, dtype)
        np.testing.assert_allclose(robust.pairwise_sqdist(x, backend=backend), oracle.sqdist(x), rtol=66 * 2.0**-24, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_krum_tells_tiny_and_huge_vectors_apart(dtype: str, backend: str) -> None:
    """From the smallest subnormal to nearly the largest number; float64 as far as squares of it are numbers."""
    digits, smallest = oracle.FORMATS[dtype]
    units = (2.0 ** (smallest - digits + 1), oracle.LARGEST[dtype] / 2.0**8)
    for unit in units if dtype != "float64" else (2.0**-500, 2.0**500):
        x = make(unit * np.array([100.0, 1, 4, 5, 6, 18, 28])[:, None], dtype)
        assert robust.krum(x, 2, return_info=True, backend=backend)[1].selected.tolist() == [2]


@pytest.mark.parametrize("rule", ["mean", "trimmed_mean", "combine"])
def test_float64_sums_are_compensated(rule: str, backend: str) -> None:
    x = np.array([[1e16, 1.0], [1.0, 1e16], [-1e16, 3.0], [1.0, -1e16]])
    got = {
        "mean": lambda: robust.mean(x, backend=backend),
        "trimmed_mean": lambda: robust.trimmed_mean(x, 0, backend=backend),
        "combine": lambda: robust.combine(x, [0.25] * 4, backend=backend),
    }[rule]()
    assert got.tolist() == [0.5, 1.0]


def test_sums_of_huge_float64_do_not_overflow(backend: str) -> None:
    x = np.array([[1.5e308], [1.7e308], [1.2e308], [1.6e308], [-1.1e308]])
    assert robust.median(x[:4], backend=backend).tolist() == [correct_mean([1.5e308, 1.6e308], "float64")]
    assert_means(robust.mean(x, backend=backend), x, "float64")
    assert_means(robust.trimmed_mean(x, 1, backend=backend), np.sort(x, 0)[1:4], "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_that_overflow_the_dtype_are_infinite_never_nan(dtype: str, backend: str) -> None:
    for weight in (1e4, 1e100, 1e300):
        x = make(np.full((2, 40), oracle.LARGEST[dtype]), dtype)
        x[1] = -x[1]
        got = floats(robust.combine(x, [[weight, 0], [0, weight]], backend=backend))
        assert (got == np.array([[inf], [-inf]])).all()
        if dtype != "float64":
            got = floats(robust.combine(make(np.ones((1, 40)), dtype), [1e300], backend=backend))
            assert np.isposinf(got).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_median_of_minus_zero_keeps_its_sign(dtype: str, backend: str) -> None:
    """For odd n the median is one of the inputs, to the bit."""
    for n in (1, 3, 5, 15, 17, 33, 65):
        values = np.arange(n) - n // 2 + 0.0
        values[n // 2] = -0.0
        x = make(np.random.default_rng(n).permutation(values)[:, None].repeat(20, 1), dtype)
        for got in (robust.median(x, backend=backend), robust.trimmed_mean(x, n // 2, backend=backend)):
            assert not floats(got).any() and np.signbit(floats(got)).all()


# ------------------------------------------------------------------------------------------------------- hypothesis

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.sampled_from(["float16", "float32", "float64"]).flatmap(lambda dtype: hnp.arrays(dtype, shapes)), st.data())
@example(np.array([[nan], [-0.0], [0.0]], np.float32), None)
def test_any_values(x: np.ndarray, data: st.DataObject | None) -> None:
    """NaN, Inf, subnormals, anything: the promised answer or the promised error, the same from both backends."""
    n = len(x)
    bad = ~np.isfinite(flat(x))
    f = data.draw(st.integers(0, (n - 1) // 2)) if data else 1
    before = bits(x)
    for backend in ("cpu", "reference"):
        distances = robust.pairwise_sqdist(x, backend=backend)
        assert (distances == distances.T).all() and not np.diag(distances).any()
        exact = oracle.sqdist(x)
        if x.dtype != np.float64:  # in float64 squares may leave its range on both ends
            np.testing.assert_allclose(distances, exact, rtol=1e-6, atol=0)
        for rule, tolerated in (
            (lambda **kw: robust.trimmed_mean(x, f, **kw), f),
            (lambda **kw: robust.median(x, **kw), (n - 1) // 2),
        ):
            if (bad.sum(0) > tolerated).any():
                with pytest.raises(ValueError, match=rf"coordinate {(bad.sum(0) > tolerated).argmax()}\b"):
                    rule(backend=backend)
            else:
                kept = oracle.window(x, tolerated)
                with np.errstate(over="ignore"):
                    if np.isfinite(kept.sum(0)).all():
                        assert_means(rule(backend=backend), kept, str(x.dtype))
        if n > 2 * f and n > 1:
            if bad.any(1).sum() > f:
                with pytest.raises(ValueError, match="rows"):
                    robust.krum(x, f, neighbors=1, backend=backend)
            else:
                vector, info = robust.krum(x, f, neighbors=1, return_info=True, backend=backend)
                assert bits(vector) == bits(x[info.selected[0]])
                assert np.isfinite(vector).all()
                assert (info.bad_rows == bad.any(1)).all()
    assert bits(x) == before
