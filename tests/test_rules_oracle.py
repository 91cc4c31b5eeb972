"""The oracles themselves, on examples small enough to do by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rules_oracle as oracle


def column(*values: float) -> np.ndarray:
    return np.array(values, float)[:, None]


def test_distances_and_scores() -> None:
    x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert oracle.exact_sqdist(x).tolist() == [[0, 25, 1], [25, 0, 18], [1, 18, 0]]
    assert oracle.rational_sqdist([0.1], [0.0]) > 0.1 * 0.1 - 1e-17
    values = column(1, 4, 5, 6, 16, 18, 28)
    sqdist = oracle.exact_sqdist(values)
    assert oracle.exact_scores(sqdist, 3) == [50, 14, 18, 30, 225, 248, 728]
    assert oracle.exact_scores(sqdist, 4) == [275, 158, 139, 130, 369, 417, 1257]
    assert oracle.krum(values, 2) == [1]
    assert oracle.krum(values, 2, neighbors=4) == [3]
    assert oracle.krum(values, 2, m=3) == [1, 2, 3]
    assert oracle.best_of([5, 2, 2, 5, 9], 1) == [1]


def test_coordinate_wise() -> None:
    assert oracle.nearest_mean_1d([9, 1, 2, 4, 100], 3) == pytest.approx(7 / 3)  # median 4: 2, 4, 1
    assert oracle.nearest_mean_1d([0, 1, 2, 3, 4], 4) == 1.5  # 0 and 4 are equally near: the lower
    assert oracle.nearest_mean_1d([-2, -2, -1, 0, 1, 2, 2], 4) == -0.5  # 1 is nearer than the second -2
    assert oracle.nearest_mean_1d([0, 1, 3, 10], 3) == pytest.approx(4 / 3)  # median 2
    assert oracle.meamed(np.array([[1.0, 5], [2, 6], [30, -70]]), 1).tolist() == [1.5, 5.5]
    assert oracle.median(column(4, 1, 3, 2)).tolist() == [2.5]


def test_bulyan() -> None:
    # n = 7, f = 1, neighbours 4, 3, 2, 1, 1. Scores of 0 1 2 3 4 5 100 begin 30 15 10 10 15 30 ..: 2 goes first.
    x = column(0, 1, 2, 3, 4, 5, 100)
    assert oracle.bulyan_selection(x, 1)[0] == 2
    assert 6 not in oracle.bulyan_selection(x, 1) and len(oracle.bulyan_selection(x, 1)) == 5
    # Left 0 1 3 4 5 100 with 3 neighbours: 26 14 9 11 21: 3. Left 0 1 4 5 100 with 2: 17 10 10 17: 1.
    # Left 0 4 5 100 with 1: 16 1 1 ..: 4. Left 0 5 100 with 1: 25 25 ..: 0. The median of 0 1 2 3 4 is 2; nearest are 1 2 3.
    assert oracle.bulyan_selection(x, 1) == [2, 3, 1, 4, 0]
    assert oracle.bulyan(x, 1).tolist() == [2.0]


def test_geometric_median() -> None:
    square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0], [0.0, 3.0]])
    np.testing.assert_allclose(oracle.geometric_median(square), [2.0, 1.5], atol=1e-9)
    assert oracle.gm_objective(square, np.array([2.0, 1.5])) == pytest.approx(2.5)
    equilateral = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    np.testing.assert_allclose(oracle.geometric_median(equilateral), [0.5, math.sqrt(3) / 6], atol=1e-9)
    obtuse = np.array([[0.0, 0.0], [10.0, 1.0], [-10.0, 1.0]])  # an angle above 120 degrees: that vertex
    assert oracle.geometric_median(obtuse).tolist() == [0.0, 0.0]
    assert oracle.gm_slope(obtuse, obtuse[0]) == 0.0
    assert oracle.gm_slope(obtuse, obtuse[1]) > 0.0
    assert oracle.geometric_median(column(1, 2, 50)).tolist() == [2.0]
    assert oracle.geometric_median(column(1, 2, 50), np.array([1.0, 1.0, 3.0])).tolist() == [50.0]


def test_centered_clip_and_clip() -> None:
    x = column(0, 1, 10)
    assert oracle.centered_clip(x, 2.0).tolist() == [1 + (-1 + 0 + 2) / 3]
    assert oracle.centered_clip(x, 2.0, start=np.array([0.0])).tolist() == [1.0]
    assert oracle.centered_clip(x, 1e9).tolist() == pytest.approx([11 / 3])
    clipped = oracle.clip(np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), 1.0)
    np.testing.assert_allclose(clipped, [[0.6, 0.8], [0.3, 0.4], [0, 0]], rtol=1e-15)
    # n = 5, f = 1: floor(8 / 5) = 1 vector is clipped, to the second longest.
    assert oracle.arc_radius(column(1, -2, 3, -4, 50), 1) == 4.0
    assert oracle.arc(column(1, -2, 3, -4, -50), 1).ravel().tolist() == [1, -2, 3, -4, -4]
    assert oracle.arc_radius(column(1, 2, 3), 0) == 3.0


def test_subsets() -> None:
    assert oracle.mda(column(0, 10, 1, 2, 50), 2) == (0, 2, 3)
    assert oracle.mda(column(0, 1, 2, 3), 2) == (0, 1)
    assert oracle.smea(np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]), 1) == (0, 1)
    assert oracle.smea(column(0, 10, 1, 2, 50), 2) == (0, 2, 3)
    top, direction = oracle.largest_eigenvalue(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.5], [0.0, -0.5]]))
    assert top == pytest.approx(0.5) and abs(direction[0]) == pytest.approx(1.0)
    assert oracle.monna(column(0, 10, 1, 2, 50), 2, 0).tolist() == [1.0]
    assert oracle.monna(column(0, 10, 1, 2, 50), 2, 4).tolist() == pytest.approx([62 / 3])
    assert oracle.nnm(column(0, 1, 10), 1).ravel().tolist() == [0.5, 0.5, 5.5]
    assert oracle.nearest_to(column(0, 1, 2, 3), 1, 2) == [0, 1]  # 0 and 2 are equally near


def test_caf() -> None:
    assert oracle.caf(column(0, 1, 5), 0).tolist() == [2.0]
    # Mean 3, variance 14; 9 is farthest (36) and goes; weights (9-ish/36 ..): 1 - 9/36, 1 - 4/36 (twice: 1 and 5 - ..).
    x = column(0, 2, 1, 9)
    weights = np.array([1 - 9 / 36, 1 - 1 / 36, 1 - 4 / 36, 0.0])
    expected = np.average(x, axis=0, weights=weights)
    assert weights.sum() > 2
    np.testing.assert_allclose(oracle.caf(x, 1), expected)


def test_hamming_and_bounds() -> None:
    assert oracle.hamming(np.array([255, 1], np.uint8), np.array([0, 3], np.uint8)) == 9
    assert oracle.spread(column(1, 3)) == 1.0
    assert oracle.diameter(np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]])) == 5.0
    x = oracle.placed(column(1, 2), column(8, 9), np.array([0, 2]))
    assert x.ravel().tolist() == [8, 1, 9, 2]
    rng = np.random.default_rng(0)
    assert all(a.shape == (2, 3) and np.isfinite(a).all() for a in oracle.attacks(rng.standard_normal((8, 3)), 2, rng))
