"""Weights of `combine` and `mean`: what is refused, what is skipped, what they mean."""

from __future__ import annotations

import numpy as np
import pytest
from robust_calls import X, refuses
from robust_oracle import bits

from fastgd import robust


@pytest.mark.parametrize(
    "weights",
    [
        "abcdef",
        b"abcdef",
        1.0,
        {},
        object(),
        [1] * 5,
        [1] * 7,
        np.ones((6, 1)),
        np.ones((2, 3, 6)),
        [[1] * 6, [2] * 5],
        [None] * 6,
        [np.nan] * 6,
        [np.inf] + [1] * 5,
        [10**400] * 6,
        [1j] * 6,
        np.full(6, 1j),
        ["x"] * 6,
        np.array(["1"] * 6),
        iter([1] * 6),
    ],
    ids=lambda value: str(value)[:20],
)
def test_wrong_weights(weights: object) -> None:
    refuses("weights", robust.combine, X, weights)
    refuses("weights", robust.mean, X, weights=weights)


def test_weights_of_a_mean() -> None:
    for weights in ([0] * 6, [-1, 1, 1, 1, 1, 1], np.ones((1, 6)), np.ones((2, 6))):
        refuses("weights", robust.mean, X, weights=weights)
    refuses("weights", robust.combine, X, None)
    torch = pytest.importorskip("torch")
    refuses("weights", robust.combine, X, torch.ones(6, requires_grad=True))
    assert bits(robust.combine(X, torch.ones(6))) == bits(robust.combine(X, np.ones(6)))


def test_no_combination_at_all(backend: str) -> None:
    assert robust.combine(X, np.empty((0, 6)), backend=backend).shape == (0, 2)
    assert robust.combine(list(X), np.empty((0, 6)), backend=backend) == []


def test_weighted_mean(backend: str) -> None:
    x = np.array([[1.0, -2.0], [4.0, 8.0], [9.0, 0.0]])
    for scale in (1.0, 1e-300, 5e-324, 2.0**-1070, 1e307):
        assert robust.mean(x, weights=np.array([2, 1, 1]) * scale, backend=backend).tolist() == [3.75, 1.0]
    assert robust.mean(x, weights=[0, 7, 0], backend=backend).tolist() == [4.0, 8.0]
    np.testing.assert_allclose(robust.mean(x, weights=[0.3, 0.2, 0.1], backend=backend), [10 / 3, 5 / 3], rtol=1e-15)
