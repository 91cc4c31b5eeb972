"""The multilevel estimator: its telescoping by enumeration, its levels; and the weights of group DRO."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest

from fastgd import dro
from fastgd.dro.multilevel import telescoped


def worst(batch: Any) -> float:
    return dro.worst_case(np.array(batch, float), radius=0.3)[1]


@pytest.mark.parametrize("base, levels, q", [(1, 1, 0.5), (1, 2, 0.5), (1, 3, 0.7), (2, 2, 0.3), (3, 1, 0.5), (1, 3, 0.01)])
def test_the_corrections_telescope(base: int, levels: int, q: float) -> None:
    """Over all levels and all batches of a two-point population, the mean is that of the largest batch, up to rounding."""
    points, chance = (0.0, 1.0), (0.75, 0.25)

    def mean(size: int, value: Any) -> float:
        batches = product((0, 1), repeat=size)
        return sum(float(np.prod([chance[i] for i in batch])) * value([points[i] for i in batch]) for batch in batches)

    total = 0.0
    for level in range(levels):
        probability = q * (1 - q) ** level if level < levels - 1 else (1 - q) ** level
        total += probability * mean(base << (level + 1), lambda v, j=level, p=probability: telescoped(v, worst, base, j, p))
    assert abs(total - mean(base << levels, worst)) <= 1e-12


def test_levels_have_their_probabilities() -> None:
    sizes: list[int] = []

    def draw(size: int) -> np.ndarray:
        sizes.append(size)
        return np.zeros(size)

    for step in range(20_000):
        dro.mlmc_estimate(draw, len, base=3, levels=4, q=0.4, seed=9, step=step)
    found, p = Counter(sizes), [0.4, 0.24, 0.144, 0.216]
    assert sorted(found) == [6, 12, 24, 48]
    statistic = sum((found[6 << j] - 20_000 * p[j]) ** 2 / (20_000 * p[j]) for j in range(4))
    assert statistic < 21.1  # chi-squared with 3 degrees of freedom, 1e-4


def test_a_level_depends_on_seed_and_step_alone() -> None:
    value = lambda **options: dro.mlmc_estimate(lambda n: np.arange(float(n)), np.max, base=2, levels=5, **options)  # noqa: E731
    assert [value(seed=3, step=t) for t in range(20)] == [value(seed=3, step=t) for t in range(20)]
    assert len({value(seed=s) for s in range(50)}) > 2
    assert dro.mlmc_estimate(lambda n: [1.0] * n, lambda v: float(len(v)), base=7, levels=0) == 7
    assert isinstance(value(), float)


@pytest.mark.parametrize("options", [{"base": 0, "levels": 1}, {"base": 1, "levels": -1}, {"base": 1, "levels": 41},
                                     {"base": 1, "levels": 1, "q": 0}, {"base": 1, "levels": 1, "q": 1.0},
                                     {"base": 1, "levels": 1, "step": -1}, {"base": 1, "levels": 1, "seed": 2**64}])
def test_bad_numbers(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        dro.mlmc_estimate(np.zeros, np.mean, **options)


# -------------------------------------------------------------------------------------------------------------- groups


def test_group_weights_are_a_mirror_step() -> None:
    rng = np.random.default_rng(0)
    q, losses = rng.dirichlet(np.ones(6)), rng.standard_normal(6)
    known = q * np.exp(0.3 * losses)
    assert np.abs(dro.group_weights(q, losses, step_size=0.3) - known / known.sum()).max() <= 1e-15
    mixed = dro.group_weights(q, losses, step_size=0.3, floor=0.3)
    assert np.abs(mixed - (0.05 + 0.7 * known / known.sum())).max() <= 1e-15
    assert np.abs(dro.group_weights(7 * q, losses + 1e6, step_size=0.3) - known / known.sum()).max() <= 1e-9
    assert (dro.group_weights(np.array([0.0, 1.0]), np.array([9.0, 0.0]), step_size=1) == [0, 1]).all()


def test_group_weights_do_not_overflow() -> None:
    q = np.full(3, 1 / 3)
    for losses, step in (([1e308, -1e308, 0.0], 1e300), ([1.0, 0.0, -1e5], 1e10), ([1.7e308, 1.7e308, -1.7e308], 2.0)):
        new = dro.group_weights(q, np.array(losses), step_size=step)
        assert abs(new.sum() - 1) <= 1e-15
        assert new[np.array(losses).argmax()] >= 0.5
    assert (dro.group_weights(q, np.array([5.0, 4.0, 3.0]), step_size=0) == q).all()


def test_group_dro_finds_the_saddle_point() -> None:
    """min over x of max over groups of (x - c_g)^2: the middle of the extremes; averages approach it."""
    centers = np.array([0.0, 1.0, 4.0])
    x, q, average = 0.0, np.full(3, 1 / 3), 0.0
    for t in range(1, 4001):
        q = dro.group_weights(q, (x - centers) ** 2, step_size=0.1 / np.sqrt(t))
        x -= 0.5 / np.sqrt(t) * float(q @ (2 * (x - centers)))
        average += (x - average) / t
    assert abs(average - 2) <= 0.02


def test_group_losses() -> None:
    losses = np.array([1.0, 2.0, 6.0, 9.0], np.float32)
    got = dro.group_losses(losses, np.array([0, 2, 2, 0], np.uint8), 4)
    assert got.dtype == np.float64
    assert got.tolist() == [5, 0, 4, 0]
    torch = pytest.importorskip("torch")
    assert dro.group_losses(torch.tensor([1.0, 3.0]), torch.tensor([1, 1]), 2).tolist() == [0, 2]


@pytest.mark.parametrize("call, error, message", [
    (lambda: dro.group_weights(np.ones(2), np.ones(3), step_size=1), ValueError, "one entry a group, got 2 and 3"),
    (lambda: dro.group_weights(np.array([1.0, -1]), np.ones(2), step_size=1), ValueError, "bad one at 1"),
    (lambda: dro.group_weights(np.zeros(2), np.ones(2), step_size=1), ValueError, "not all 0"),
    (lambda: dro.group_weights(np.ones(2), np.array([0, np.nan]), step_size=1), ValueError, "losses has a NaN or an Inf at 1"),
    (lambda: dro.group_weights(np.ones(2), np.ones(2), step_size=-1), ValueError, "step_size"),
    (lambda: dro.group_weights(np.ones(2), np.ones(2), step_size=1, floor=1), ValueError, "floor must be below 1"),
    (lambda: dro.group_losses(np.ones(2), np.array([0, 2]), 2), ValueError, "groups must be from 0 to 1, but are not at 1"),
    (lambda: dro.group_losses(np.ones(2), np.array([0]), 2), ValueError, "one entry for each of the 2 losses"),
    (lambda: dro.group_losses(np.ones(2), np.ones(2), 2), TypeError, "groups must be integers"),
    (lambda: dro.group_losses(np.ones(2), np.array([0, 0]), 0), ValueError, "n_groups"),
    (lambda: dro.group_losses([1.0], np.array([0]), 1), TypeError, "losses"),
])
def test_bad_groups(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
