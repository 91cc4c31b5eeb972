"""Every rule against its definition on the vectors, and the bounds of the papers under attack."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import rules_oracle as oracle
from rules_calls import MIXES, RULES

from fastgd import robust

pytestmark = pytest.mark.timeout(60)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# --------------------------------------------------------------------------------------------- against the oracles


@pytest.mark.parametrize("n, f, d", [(3, 0, 2), (3, 1, 1), (5, 2, 3), (7, 1, 4), (8, 2, 2), (9, 3, 17), (11, 2, 5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_rules_are_what_they_are_defined_to_be(n: int, f: int, d: int, seed: int, backend: str) -> None:
    x = normal(n, d, seed=100 * n + seed) * np.random.default_rng(seed).exponential(1.0, (n, 1)) + 3.0
    expected = {
        "meamed": oracle.meamed(x, f),
        "mda": x[list(oracle.mda(x, f))].mean(0),
        "smea": x[list(oracle.smea(x, f))].mean(0),
        "caf": oracle.caf(x, f),
        "geometric_median": oracle.geometric_median(x),
        "nnm": oracle.nnm(x, f),
        "arc": oracle.arc(x, f),
    }
    if n >= 4 * f + 3:
        expected["bulyan"] = oracle.bulyan(x, f)
    for name, value in expected.items():
        call = RULES[name].call if name in RULES else MIXES[name]
        tolerance = 1e-6 if name in ("geometric_median", "caf") else 1e-12
        np.testing.assert_allclose(call(x, f, backend=backend), value, rtol=tolerance, atol=tolerance, err_msg=name)
    for trusted in range(n):
        np.testing.assert_allclose(robust.monna(x, f, trusted, backend=backend), oracle.monna(x, f, trusted), rtol=1e-12)
    for radius in (0.3, 2.0, 1e9):
        np.testing.assert_allclose(robust.clip(x, radius, backend=backend), oracle.clip(x, radius), rtol=1e-12)
        for start in (None, np.full(d, 2.5)):
            for iterations in (1, 2, 5):
                got = robust.centered_clip(x, radius=radius, start=start, iterations=iterations, backend=backend)
                np.testing.assert_allclose(got, oracle.centered_clip(x, radius, start, iterations), rtol=1e-9)


@pytest.mark.parametrize("n, f", [(7, 1), (11, 2), (12, 2), (15, 3), (19, 4), (23, 5)])
def test_bulyan_repeats_krum(n: int, f: int, backend: str) -> None:
    """Also with attackers, where one scoring for all selections would choose others than the repeated one."""
    differ = 0
    for seed in range(12):
        x = normal(n, 3, seed=seed) + (seed % 3) * np.eye(n, 3) * 2
        x[:f] = x[f] + 0.3 * normal(f, 3, seed=seed + 50)
        np.testing.assert_allclose(robust.bulyan(x, f, backend=backend), oracle.bulyan(x, f), rtol=1e-12, atol=1e-13)
        differ += set(oracle.bulyan_selection(x, f)) != set(oracle.krum(x, f, m=n - 2 * f))
    assert differ or f == 1


def test_of_equally_near_values_the_lower_counts(backend: str) -> None:
    """Integers, where ties are exact: meamed in every order of the vectors."""
    cases = [([0, 1, 2, 3, 4], 1, 1.5), ([0, 1, 2, 3, 4], 2, 2.0), ([-3, 0, 0, 3], 1, -1.0), ([0, 2, 4, 6, 8, 10, 12], 1, 5.0)]
    for values, f, expected in [*cases, ([-2, -2, -1, 0, 1, 2, 2], 3, -0.5)]:
        for order in list(permutations(values))[:60]:
            assert robust.meamed(np.array(order, float)[:, None], f, backend=backend).tolist() == [expected]


def test_ties_of_subsets_take_the_first(backend: str) -> None:
    line = np.arange(7.0)[:, None] * np.array([[1.0, 2.0]])
    for f, first in ((1, 2.5), (2, 2.0), (3, 1.5)):
        for rule in (robust.mda, robust.smea):
            np.testing.assert_allclose(rule(line, f, backend=backend), [first, 2 * first], rtol=1e-15)
            np.testing.assert_allclose(rule(line[::-1].copy(), f, backend=backend), [6 - first, 12 - 2 * first], rtol=1e-15)
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    assert robust.smea(x, 1, backend=backend).tolist() == [2.5, 3.5, 4.5]
    rng = np.random.default_rng(0)
    for trial in range(25):
        x = rng.integers(0, 3, (7 + trial % 2, 2)).astype(float)
        for f in (1, 2, 3):
            for rule, choice in ((robust.mda, oracle.mda), (robust.smea, oracle.smea)):
                np.testing.assert_allclose(rule(x, f, backend=backend), x[list(choice(x, f))].mean(0), atol=1e-14)


def test_ties_of_neighbours_take_the_lowest_index(backend: str) -> None:
    for values in ([0.0, 1.0, 2.0], [2.0, 1.0, 0.0]):
        x = np.array(values)[:, None]
        assert robust.monna(x, 1, 1, backend=backend).tolist() == [(1 + values[0]) / 2]
        assert (2 * robust.nnm(x, 1, backend=backend).ravel()).tolist() == [values[0] + 1, values[0] + 1, values[2] + 1]


@pytest.mark.parametrize("n, f", [(25, 12), (41, 20), (61, 20), (100, 10)])
def test_mda_of_many_on_a_line(n: int, f: int) -> None:
    """On a line the least diameter is that of a window: known for any n and f."""
    values = np.random.default_rng(n).standard_normal(n) ** 3
    ranked = np.sort(values)
    width = ranked[n - f - 1 :] - ranked[: f + 1]
    lo = int(np.argmin(width))
    assert robust.mda(values[:, None], f)[0] == pytest.approx(ranked[lo : lo + n - f].mean(), rel=1e-12)


def test_mda_of_many_with_f_far_ones() -> None:
    honest = normal(40, 30, seed=1)
    for strength in (20.0, 3e38):
        x = oracle.placed(honest, np.full((20, 30), strength) + normal(20, 30), np.random.default_rng(0).permutation(60)[:20])
        np.testing.assert_allclose(robust.mda(x, 20), honest.mean(0), rtol=1e-12, atol=1e-13)


def test_mda_of_points_on_a_circle_ends() -> None:
    """Regular polygons have as many ties as can be: the search must not enumerate them."""
    for n, f in ((21, 5), (31, 10)):
        angle = 2 * np.pi * np.arange(n) / n
        assert np.isfinite(robust.mda(np.stack([np.cos(angle), np.sin(angle)], axis=1), f)).all()


# ------------------------------------------------------------------------------------------------ bounds under attack

#: ||F - mean of S||^2 <= kappa * spread of S, for every S of n - f vectors [Allouah et al. 2023].
KAPPA = {
    "trimmed_mean": (RULES["trimmed_mean"].call, lambda n, f: 6 * f / (n - 2 * f) * (1 + f / (n - 2 * f))),
    "median": (RULES["median"].call, lambda n, f: 4 * (1 + f / (n - 2 * f)) ** 2),
    "geometric_median": (RULES["geometric_median"].call, lambda n, f: 4 * (1 + f / (n - 2 * f)) ** 2),
    "krum, n-f-1": (lambda x, f, **kw: robust.krum(x, f, neighbors=len(x) - f - 1, **kw), lambda n, f: 6 * (1 + f / (n - 2 * f))),
    # The window of MeaMed swaps at most f values for others no farther from the median.
    "meamed": (RULES["meamed"].call, lambda n, f: 4 * f / (n - f) * (1 + 4 * (1 + f / (n - 2 * f)) ** 2)),
    "krum after nnm": (
        lambda x, f, **kw: robust.krum(robust.nnm(x, f, **kw), f, neighbors=len(x) - f - 1, **kw),
        lambda n, f: 8 * f / (n - f) * (1 + 6 * (1 + f / (n - 2 * f))),
    ),
    "median after nnm": (
        lambda x, f, **kw: robust.median(robust.nnm(x, f, **kw), **kw),
        lambda n, f: 8 * f / (n - f) * (1 + 4 * (1 + f / (n - 2 * f)) ** 2),
    ),
    "trimmed_mean after nnm": (
        lambda x, f, **kw: robust.trimmed_mean(robust.nnm(x, f, **kw), f, **kw),
        lambda n, f: 8 * f / (n - f) * (1 + 6 * f / (n - 2 * f) * (1 + f / (n - 2 * f))),
    ),
    "geometric_median after nnm": (
        lambda x, f, **kw: robust.geometric_median(robust.nnm(x, f, **kw), **kw),
        lambda n, f: 8 * f / (n - f) * (1 + 4 * (1 + f / (n - 2 * f)) ** 2),
    ),
}
#: The same for k = n - f - 2: the chosen ones' sums of distances to n - 2 f - 1 vectors of S are no more than S's own.
KRUM_KAPPA = {
    "krum": (RULES["krum"].call, lambda n, f: 6 * (n - f) / (n - 2 * f - 1)),
    "multikrum": (RULES["multikrum"].call, lambda n, f: 6 * (n - f) / (n - 2 * f - 1)),
}
#: ||F - mean of S|| <= lambda * diameter of S [Farhadkhani et al. 2022].
RESAM = {
    "mda": (RULES["mda"].call, lambda n, f: 2 * f / (n - f)),
    "krum, n-f-1": (KAPPA["krum, n-f-1"][0], lambda n, f: 1 + math.sqrt((n - f) / (n - 2 * f))),
    "geometric_median": (RULES["geometric_median"].call, lambda n, f: 1 + math.sqrt((n - f) ** 2 / (n * (n - 2 * f)))),
}
#: How far the default smoothing may hold the geometric median from a vector that it should be.
SMOOTHING = 1e-6
SIZES = [(10, 2), (15, 5), (7, 3), (3, 1)]


def subsets(x: np.ndarray, honest: np.ndarray, f: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The honest vectors, and some other S: the bounds hold for every one."""
    return [honest, *(x[np.sort(rng.permutation(len(x))[: len(x) - f])] for _ in range(4))]


@pytest.mark.parametrize("name", [*KAPPA, *KRUM_KAPPA])
@pytest.mark.parametrize("n, f", SIZES)
def test_kappa_bounds_under_attack(name: str, n: int, f: int) -> None:
    rule, kappa = (KAPPA | KRUM_KAPPA)[name]
    n = max(n, 2 * f + 3) if name in KRUM_KAPPA else n
    rng = np.random.default_rng(n)
    for d in (1, 3, 20):
        honest = rng.standard_normal((n - f, d)) * rng.exponential(1.0, d) + 2.0
        for byzantine in oracle.attacks(honest, f, rng):
            x = oracle.placed(honest, byzantine, rng.permutation(n)[:f])
            got = rule(x, f)
            for subset in subsets(x, honest, f, rng):
                error = max(0.0, np.linalg.norm(got - subset.mean(0)) - SMOOTHING)
                assert error**2 <= kappa(n, f) * oracle.spread(subset) * (1 + 1e-9)


@pytest.mark.parametrize("name", RESAM)
@pytest.mark.parametrize("n, f", SIZES)
def test_resam_bounds_under_attack(name: str, n: int, f: int) -> None:
    rule, bound = RESAM[name]
    rng = np.random.default_rng(n + 1)
    for d in (1, 3, 20):
        honest = rng.standard_normal((n - f, d)) * rng.exponential(1.0, d) + 2.0
        for byzantine in oracle.attacks(honest, f, rng):
            x = oracle.placed(honest, byzantine, rng.permutation(n)[:f])
            got = rule(x, f)
            for subset in subsets(x, honest, f, rng):
                assert np.linalg.norm(got - subset.mean(0)) <= bound(n, f) * oracle.diameter(subset) * (1 + 1e-9) + SMOOTHING


@pytest.mark.parametrize("n, f", [(10, 2), (7, 3), (8, 1)])
def test_smea_bound_under_attack(n: int, f: int) -> None:
    """Against the largest eigenvalue of the covariance of S, which is at most its spread."""
    rng = np.random.default_rng(n)
    for d in (1, 4):
        honest = rng.standard_normal((n - f, d)) * rng.exponential(1.0, d)
        for byzantine in oracle.attacks(honest, f, rng):
            x = oracle.placed(honest, byzantine, rng.permutation(n)[:f])
            top, _ = oracle.largest_eigenvalue(honest)
            error = ((robust.smea(x, f) - honest.mean(0)) ** 2).sum()
            assert error <= 4 * f / (n - f) * (1 + f / (n - 2 * f)) ** 2 * top * (1 + 1e-9)


@pytest.mark.parametrize("n, f", [(10, 2), (15, 5), (7, 3), (11, 2)])
def test_bounds_that_follow_from_swapping(n: int, f: int) -> None:
    """Each Byzantine vector that MoNNA or a selection lets in stands for an honest one no nearer.

    MoNNA: the swapped vectors are no farther from the trusted one than those they replace. Bulyan: the values averaged
    are no farther from the chosen ones' median than honest values are, and that median is among honest values.
    """
    rng = np.random.default_rng(n)
    for d in (1, 3, 20):
        honest = rng.standard_normal((n - f, d)) * rng.exponential(1.0, d) + 2.0
        for byzantine in oracle.attacks(honest, f, rng):
            where = rng.permutation(n)[:f]
            x = oracle.placed(honest, byzantine, where)
            trusted = int(np.setdiff1d(np.arange(n), where)[0])
            reach = np.linalg.norm(honest - x[trusted], axis=1).max()
            error = np.linalg.norm(robust.monna(x, f, trusted) - honest.mean(0))
            assert error <= 2 * f / (n - f) * reach * (1 + 1e-9)
            if n >= 4 * f + 3:
                gap = np.abs(robust.bulyan(x, f) - honest.mean(0))
                assert (gap <= 2 * np.ptp(honest, axis=0) * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", [*KAPPA, "mda", "caf", "smea", "multikrum"])
def test_bounds_under_an_optimised_attack(name: str) -> None:
    """Hill climbing over the attackers' positions, from several starts. caf is held to the geometric median's bound."""
    n, f, d = 9, 3, 2
    rule = KAPPA[name][0] if name in KAPPA else RULES[name].call
    rng = np.random.default_rng(17)
    limit = {"mda": math.inf, "multikrum": 6 * (n - f) / (n - 2 * f - 1)}.get(name) or KAPPA.get(name, KAPPA["median"])[1](n, f)
    for trial in range(3):
        honest = rng.standard_normal((n - f, d)) * [1.0, 0.3 + trial]
        center, size = honest.mean(0), oracle.spread(honest)

        def gain(byzantine: np.ndarray, honest: np.ndarray = honest, center: np.ndarray = center) -> float:
            return float(((rule(np.vstack([byzantine, honest]), f) - center) ** 2).sum())

        best = max(oracle.attacks(honest, f, rng), key=gain)
        record = gain(best)
        for step in range(150):
            trial_point = best + math.sqrt(size) * 2.0 ** -(step % 8) * rng.standard_normal((f, d)) * rng.integers(0, 2, (f, 1))
            value = gain(trial_point)
            if value > record:
                best, record = trial_point, value
        assert 0.0 < record <= limit * size
        if name == "mda":
            assert math.sqrt(record) <= 2 * f / (n - f) * oracle.diameter(honest)
