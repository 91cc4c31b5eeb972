"""Budgets by largest remainders, and curricula."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from fastgd import dro


def exact(scores: np.ndarray, budget: int, minimum: int = 0) -> list[int]:
    """The definition, in rational numbers."""
    s = [Fraction(float(x)) for x in scores]
    if not any(s):
        s = [Fraction(1)] * len(s)
    rest = budget - minimum * len(s)
    quotas = [rest * x / sum(s) for x in s]
    shares = [math.floor(q) for q in quotas]
    order = sorted(range(len(s)), key=lambda i: (shares[i] - quotas[i], i))
    for i in order[: rest - sum(shares)]:
        shares[i] += 1
    return [share + minimum for share in shares]


def test_known_values() -> None:
    p = np.array([0.1, 0.25, 0.5, 1.0])
    scores = 1 / np.sqrt(p + 1e-3 / p)
    assert np.abs(scores / scores.sum() - [.40688709, .26776474, .19046641, .13488176]).max() <= 1e-8
    assert dro.allocate(scores, 32).tolist() == [13, 9, 6, 4]
    assert dro.allocate(np.full(4, 0.25), 10).tolist() == [3, 3, 2, 2]
    assert dro.allocate(np.zeros(4), 6).tolist() == [2, 2, 1, 1]
    assert dro.allocate(np.array([0.0, 1.0, 0.0]), 7, minimum=2).tolist() == [2, 3, 2]
    assert dro.allocate(np.array([3.0]), 0).tolist() == [0]
    assert dro.allocate(np.array([5e-324, 5e-324, 1e300]), 3).tolist() == [0, 0, 3]


@settings(max_examples=200, deadline=None)
@given(scores=arrays.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1e308)), budget=st.integers(0, 2**53),
       minimum=st.integers(0, 3))
def test_the_sum_and_the_quotas(scores: np.ndarray, budget: int, minimum: int) -> None:
    budget = max(budget, minimum * len(scores))
    n = dro.allocate(scores, budget, minimum=minimum)
    assert n.dtype == np.int64
    assert sum(n.tolist()) == budget
    total = sum(Fraction(float(x)) for x in scores)
    for count, score in zip(n.tolist(), scores, strict=True):
        if total:
            quota = minimum + (budget - minimum * len(scores)) * Fraction(float(score)) / total
            assert abs(count - quota) < 1 + Fraction(1, 10**200)
        assert count >= minimum


@settings(max_examples=200, deadline=None)
@given(scores=arrays.arrays(np.float64, st.integers(1, 20), elements=st.one_of(
    st.integers(0, 12).map(float), st.floats(0, 1), st.floats(1e-3, 1e3))), budget=st.integers(0, 10**6))
def test_the_definition_in_rational_numbers(scores: np.ndarray, budget: int) -> None:
    assert dro.allocate(scores, budget).tolist() == exact(scores, budget)


def test_quotas_that_are_whole_numbers() -> None:
    """Rounding may not turn a quota of exactly k into k - 1 or k + 1."""
    for n in (3, 7, 10, 49, 1000):
        counts = np.random.default_rng(n).integers(0, 1000, n)
        for unit in (1.0, 0.1, 1 / 3, 1e-300, 1e290):
            scores = counts * unit
            if all(Fraction(float(s)) == int(c) * Fraction(unit) for s, c in zip(scores, counts, strict=True)):
                assert (dro.allocate(scores, int(counts.sum())) == counts).all()
    shares = np.random.default_rng(0).dirichlet(np.full(200_000, 0.5))
    assert dro.allocate(shares, 123_456_789).sum() == 123_456_789


def test_dtypes_and_torch() -> None:
    scores = np.array([1.0, 2.0, 4.0])
    for dtype in (np.float32, np.float16):
        assert dro.allocate(scores.astype(dtype), 9).tolist() == [1, 3, 5]
    torch = pytest.importorskip("torch")
    n = dro.allocate(torch.tensor([1.0, 2.0, 4.0]), 9)
    assert n.dtype == torch.int64 and n.tolist() == [1, 3, 5]


@pytest.mark.parametrize("scores, options, error, message", [
    (np.array([1.0, -1.0]), {"budget": 2}, ValueError, "at least 0, but are not at 1"),
    (np.array([np.nan, 1.0]), {"budget": 2}, ValueError, "not at 0"), (np.ones((2, 2)), {"budget": 2}, ValueError, "one vector"),
    (np.empty(0), {"budget": 2}, ValueError, "at least one number"), (np.ones(2), {"budget": -1}, ValueError, "budget"),
    (np.ones(2), {"budget": 2.5}, TypeError, "budget"), (np.ones(2), {"budget": 2**53 + 1}, ValueError, "budget"),
    (np.ones(2), {"budget": 3, "minimum": 2}, ValueError, r"budget must be at least n \* minimum = 4"),
    (np.ones(2), {"budget": 3, "minimum": -1}, ValueError, "minimum"), ([1.0], {"budget": 3}, TypeError, "scores"),
])
def test_bad_input(scores: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dro.allocate(scores, **options)


# -------------------------------------------------------------------------------------------------------------- pacing

KINDS = ("linear", "quadratic", "root", "exponential", "log", "step")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(total=st.integers(1, 10**6), start=st.integers(0, 10**9), span=st.integers(0, 10**9), t=st.integers(-10, 10**6 + 10))
def test_boundaries_and_order(kind: str, total: int, start: int, span: int, t: int) -> None:
    size = lambda step: dro.pacing(kind, step, total=total, start=start, end=start + span)  # noqa: E731
    assert size(0) == size(-7) == start
    assert size(total) == size(total + 3) == start + span
    assert isinstance(size(t), int)
    assert start <= size(t) <= size(t + 1) <= start + span


@pytest.mark.parametrize("kind, share", [
    ("linear", lambda r: r), ("quadratic", lambda r: r * r), ("root", math.sqrt), ("step", math.floor),
    ("exponential", lambda r: (math.exp(10 * r) - 1) / (math.exp(10) - 1)),
    ("log", lambda r: 1 + 0.1 * math.log(r + math.exp(-10))),
])
def test_formulas(kind: str, share: Any) -> None:
    for t in range(1, 1000):
        size = dro.pacing(kind, t, total=1000, start=50, end=10**6)
        assert abs(size - (50 + (10**6 - 50) * share(t / 1000) - 0.5)) <= 0.51
    assert [dro.pacing(kind, t, total=10, start=0, end=100) for t in (5,)] == [math.floor(100 * share(0.5) + 1e-9)]


def test_whole_sizes_are_met() -> None:
    assert [dro.pacing("linear", t, total=100, start=0, end=100) for t in range(101)] == list(range(101))
    assert [dro.pacing("root", t * t, total=100, start=0, end=10) for t in range(11)] == list(range(11))


@pytest.mark.parametrize("arguments, error, message", [
    (("cubic", 1, 10, 1, 2), ValueError, "kind must be one of linear"), (("step", 1, 0, 1, 2), ValueError, "total"),
    (("step", 1, 10, -1, 2), ValueError, "start"), (("step", 1, 10, 3, 2), ValueError, "end must be an integer at least 3"),
    (("step", 1.5, 10, 1, 2), TypeError, "t must be an integer"),
])
def test_bad_pacing(arguments: Any, error: type[Exception], message: str) -> None:
    kind, t, total, start, end = arguments
    with pytest.raises(error, match=message):
        dro.pacing(kind, t, total=total, start=start, end=end)
