"""Closed forms and guarantees of single rules: geometric median, centered clipping, ARC, clipping, bucketing, NNM."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rules_oracle as oracle
from robust_oracle import bits

from fastgd import robust

pytestmark = pytest.mark.timeout(60)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# ------------------------------------------------------------------------------------------------- the geometric median


@pytest.mark.parametrize("n, d, seed", [(4, 2, 0), (5, 3, 1), (20, 2, 2), (33, 10, 3), (64, 100, 4)])
def test_unit_vectors_to_a_geometric_median_sum_to_zero(n: int, d: int, seed: int, backend: str) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * rng.exponential(1.0, (n, 1))
    for weights in (None, rng.exponential(1.0, n)):
        v, info = robust.geometric_median(x, weights=weights, return_info=True, backend=backend)
        assert oracle.gm_slope(x, v, weights) < 1e-6
        best = oracle.gm_objective(x, oracle.geometric_median(x, weights), weights)
        assert oracle.gm_objective(x, v, weights) <= best * (1 + 1e-10)
        np.testing.assert_allclose(info.weights @ x, v, rtol=1e-9, atol=1e-12)
        assert info.weights.sum() == pytest.approx(1.0, abs=1e-12) and (info.weights >= 0).all()
        assert isinstance(info.status, str) and 0 <= int(info.iterations) <= 1000
        assert info.bad_rows.tolist() == [False] * n and info.bad_rows.dtype == bool
        total = 1.0 if weights is None else np.sum(weights)
        means = [best, best * n if weights is None else best * total]
        assert any(float(info.objective) == pytest.approx(mean, rel=1e-6) for mean in means)


def test_geometric_medians_known_in_closed_form(backend: str) -> None:
    def gm(points: list[list[float]], **kw) -> np.ndarray:
        return robust.geometric_median(np.array(points), backend=backend, **kw)

    # four points in convex position: where the diagonals cross
    quad = np.array([[0.0, 0.0], [5.0, 1.0], [4.0, 4.0], [-1.0, 3.0]])
    s = np.linalg.solve(np.stack([quad[2] - quad[0], quad[1] - quad[3]], axis=1), quad[1] - quad[0])[0]
    np.testing.assert_allclose(gm(quad.tolist()), quad[0] + s * (quad[2] - quad[0]), atol=1e-6)
    # one point inside the triangle of the others: that point
    np.testing.assert_allclose(gm([[0, 0.0], [6, 0], [0, 6], [1, 1]]), [1, 1], atol=3e-6)
    # Fermat: edges are seen under 120 degrees
    triangle = np.array([[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]])
    away = triangle - gm(triangle.tolist())
    away /= np.linalg.norm(away, axis=1)[:, None]
    np.testing.assert_allclose([away[0] @ away[1], away[1] @ away[2], away[2] @ away[0]], -0.5, atol=1e-6)
    # an angle of 120 degrees or more: its vertex
    np.testing.assert_allclose(gm([[0, 0.0], [10, 1], [-10, 1]]), [0, 0], atol=3e-6)
    # on a line: the weighted median
    np.testing.assert_allclose(gm([[1.0], [2.0], [3.0], [10.0], [50.0]]), [3.0], atol=3e-6)
    line = np.arange(6.0)[:, None] * [1.0, -2.0]
    np.testing.assert_allclose(gm(line.tolist(), weights=[1, 1, 1, 1, 1, 8]), [5, -10], atol=3e-6)
    np.testing.assert_allclose(gm(line.tolist(), weights=[1, 3, 1, 1, 0.5, 0.25]), [1, -2], atol=3e-6)
    # two points: any between; the objective is their distance
    assert oracle.gm_objective(np.array([[0.0, 0], [3, 4]]), gm([[0.0, 0], [3, 4]])) == pytest.approx(2.5)
    # an even number on a line: any between the middles
    assert 2 - 1e-6 <= gm([[0.0], [2.0], [3.0], [9.0]])[0] <= 3 + 1e-6


def test_the_median_may_be_a_vector_where_the_iteration_starts(backend: str) -> None:
    """The mean is one of the vectors, and not the median: a division by zero, or a standstill, in Weiszfeld's form."""
    x = np.array([[0.0, 0], [3, 0], [3, 0.5], [4, 0], [-10, -0.5]])
    assert x.mean(0).tolist() == [0, 0]
    np.testing.assert_allclose(robust.geometric_median(x, backend=backend), oracle.geometric_median(x), atol=3e-6)
    for seed in range(6):
        x = normal(6, 2, seed=seed)
        x = np.vstack([x, x.mean(0)])
        np.testing.assert_allclose(robust.geometric_median(x, backend=backend), oracle.geometric_median(x), atol=3e-6)


def test_multiples_of_a_vector_are_weights(backend: str) -> None:
    x = normal(6, 4, seed=2)
    counts = [1, 3, 2, 1, 4, 1]
    np.testing.assert_allclose(robust.geometric_median(x, weights=counts, backend=backend),
                               robust.geometric_median(np.repeat(x, counts, axis=0), backend=backend), atol=1e-7)
    y = np.vstack([x, np.full((2, 4), 1e9), np.full((1, 4), np.nan)])
    got = robust.geometric_median(y, weights=[*counts, 0, 0, 0], backend=backend)
    np.testing.assert_allclose(got, robust.geometric_median(x, weights=counts, backend=backend), atol=1e-7)


def test_more_iterations_never_raise_the_objective(backend: str) -> None:
    for seed in range(3):
        x = normal(12, 3, seed=seed) ** 3
        results = [robust.geometric_median(x, max_iter=k, tol=1e-15, backend=backend) for k in (1, 2, 3, 5, 9, 20, 60, 300)]
        values = [oracle.gm_objective(x, result) for result in results]
        assert (np.diff(values) <= 1e-12 * values[0]).all()
        assert values[-1] == pytest.approx(oracle.gm_objective(x, oracle.geometric_median(x)), rel=1e-9)


def test_statuses_differ(backend: str) -> None:
    x = normal(12, 3, seed=1) ** 3
    done = robust.geometric_median(x, return_info=True, backend=backend)[1]
    cut = robust.geometric_median(x, max_iter=2, return_info=True, backend=backend)[1]
    assert done.status != cut.status and cut.iterations <= 2 < done.iterations


# ----------------------------------------------------------------------------------------------------- centered clipping


def test_centered_clip_facts(backend: str) -> None:
    x = normal(10, 5, seed=3)
    np.testing.assert_allclose(robust.centered_clip(x, radius=1e9, backend=backend), x.mean(0), rtol=1e-12)
    start = np.zeros(5)
    one = robust.centered_clip(x, radius=0.7, start=start, backend=backend)
    for i in range(10):
        y = x.copy()
        y[i] = 1e5 * normal(5, seed=i)
        moved = robust.centered_clip(y, radius=0.7, start=start, backend=backend) - one
        assert np.linalg.norm(moved) <= 2 * 0.7 / 10 * (1 + 1e-12)
    far = robust.centered_clip(x, radius=0.5, start=np.full(5, 1e6), backend=backend)
    assert np.linalg.norm(far - 1e6) == pytest.approx(0.5, rel=1e-3)  # all pull one way, each by the radius
    two = robust.centered_clip(x, radius=0.7, start=one, backend=backend)
    np.testing.assert_allclose(two, robust.centered_clip(x, radius=0.7, start=start, iterations=2, backend=backend), rtol=1e-10)


def test_centered_clip_divides_by_the_rows_used(backend: str) -> None:
    x = normal(6, 4, seed=1)
    y = np.vstack([x[:3], np.full((2, 4), np.nan), x[3:]])
    got = robust.centered_clip(y, radius=0.5, start=np.ones(4), iterations=3, backend=backend)
    np.testing.assert_allclose(got, oracle.centered_clip(x, 0.5, np.ones(4), 3), rtol=1e-11)


# ---------------------------------------------------------------------------------------------------- pre-aggregations


def test_arc_clips_the_integer_floor(backend: str) -> None:
    """floor(2 f (n - f) / n) vectors, where float division would be one short for some n and f."""
    short = [(n, f) for n in range(3, 300) for f in range((n - 1) // 2 + 1) if int(2 * f / n * (n - f)) != 2 * f * (n - f) // n]
    assert short
    for n, f in [*short[:12], (5, 1), (10, 3), (12, 2), (21, 10), (4, 0)]:
        x = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))[:, None] * np.array([[0.6, -0.8]])
        got = robust.arc(x, f, backend=backend)
        k = 2 * f * (n - f) // n
        np.testing.assert_allclose(np.sort(np.linalg.norm(got, axis=1)), np.minimum(np.arange(1.0, n + 1), n - k), rtol=1e-13)
        assert (got != x).any(1).sum() == k
        np.testing.assert_allclose(got / np.linalg.norm(got, axis=1)[:, None], np.tile([0.6, -0.8], (n, 1)), rtol=1e-13)


def test_clip_leaves_short_vectors_alone(backend: str) -> None:
    x = np.array([[3.0, 4.0], [0.0, 0.0], [-0.0, 1.0], [30.0, -40.0], [5e-324, 0.0]])
    got = robust.clip(x, 5.0, backend=backend)
    assert bits(np.delete(got, 3, 0)) == bits(np.delete(x, 3, 0))
    np.testing.assert_allclose(got[3], [3.0, -4.0], rtol=1e-15)


def test_buckets_hold_every_vector_once(backend: str) -> None:
    for n, size in ((7, 3), (6, 2), (5, 5), (9, 1), (1, 1), (10, 4)):
        shares = robust.bucketing(np.eye(n), size, seed=n, backend=backend)
        assert shares.shape == (-(-n // size), n)
        assert ((shares > 0).sum(0) == 1).all()
        filled = (shares > 0).sum(1)
        assert (filled[:-1] == size).all() and filled[-1] == n - size * (len(filled) - 1)
        np.testing.assert_allclose(shares[shares > 0], np.repeat(1 / filled, filled), rtol=1e-15)
        x = normal(n, 4, seed=n)
        np.testing.assert_allclose(robust.bucketing(x, size, seed=n, backend=backend), shares @ x, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(filled @ robust.bucketing(x, size, backend=backend) / n, x.mean(0), atol=1e-13)
    x = normal(9, 4).astype(np.float32)
    assert sorted(map(bits, robust.bucketing(x, 1, seed=3, backend=backend))) == sorted(map(bits, x))


def test_buckets_are_drawn_by_the_seed(backend: str) -> None:
    x = np.arange(5.0)[:, None]
    assert bits(robust.bucketing(x, 2, backend=backend)) == bits(robust.bucketing(x, 2, seed=0, backend=backend))
    orders = [tuple(robust.bucketing(x, 1, seed=seed, backend=backend).ravel()) for seed in range(300)]
    assert len(set(orders)) > 90  # of 120
    place = np.array([order.index(0.0) for order in orders])
    assert (np.abs(np.bincount(place, minlength=5) - 60) < 4.5 * math.sqrt(300 * 0.2 * 0.8)).all()


def test_nnm_shrinks_the_spread(backend: str) -> None:
    """After NNM the honest vectors are closer together, and to their mean, than before [Allouah et al. 2023]."""
    rng = np.random.default_rng(3)
    n, f = 12, 3
    honest = rng.standard_normal((n - f, 8))
    for byzantine in oracle.attacks(honest, f, rng):
        x = np.vstack([byzantine, honest])
        mixed = robust.nnm(x, f, backend=backend)[f:]
        bias = ((mixed.mean(0) - honest.mean(0)) ** 2).sum()
        assert oracle.spread(mixed) + bias <= 8 * f / (n - f) * oracle.spread(honest) * (1 + 1e-9)
