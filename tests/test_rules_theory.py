"""Facts of the papers for every rule: bounds under attack, equivariances, breakdown, closed forms, equal vectors."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import rules_oracle as oracle
from robust_oracle import DTYPES, LARGEST, bits, flat_vector, floats, make
from rules_calls import MIXES, NEW, RULES, every_rule

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


# --------------------------------------------------------------------------------------------------------- identities


def test_identities_of_the_distance_matrix(backend: str) -> None:
    """I1, I2 and I4, on the package's own matrices and weights, to 1e-12 of the largest distance."""
    x = normal(12, 40, seed=5) + 3
    sqdist = robust.pairwise_sqdist(x, backend=backend)
    close = {"rtol": 0, "atol": 1e-12 * sqdist.max()}
    w = np.random.default_rng(1).dirichlet(np.ones(12))
    v = robust.combine(x, w, backend=backend)
    np.testing.assert_allclose(((x - v) ** 2).sum(1), sqdist @ w - w @ sqdist @ w / 2, **close)
    matrix = robust.nnm_weights(sqdist, 3, backend=backend)
    mixed = robust.nnm(x, 3, backend=backend)
    step = matrix[:, None] - matrix
    by_weights = -np.einsum("abi,ij,abj->ab", step, sqdist, step) / 2
    np.testing.assert_allclose(robust.pairwise_sqdist(mixed, backend=backend), by_weights, **close)
    np.testing.assert_allclose(((x - x.mean(0)) ** 2).sum(), sqdist.sum() / 24, rtol=1e-12)
    weights = robust.geometric_median(x, return_info=True, backend=backend)[1].weights
    got = robust.geometric_median(x, backend=backend)
    np.testing.assert_allclose(((x - got) ** 2).sum(1), sqdist @ weights - weights @ sqdist @ weights / 2, **close)


def test_covariance_spectra_from_distances(backend: str) -> None:
    """I3 decides SMEA and CAF: d above n, where the d x d covariance is the slow way."""
    for seed in range(3):
        x = normal(8, 60, seed=seed) * np.linspace(0.1, 3, 60)
        x[0] *= 4
        np.testing.assert_allclose(robust.smea(x, 2, backend=backend), x[list(oracle.smea(x, 2))].mean(0), rtol=1e-12)
        np.testing.assert_allclose(robust.caf(x, 2, backend=backend), oracle.caf(x, 2), rtol=1e-7, atol=1e-9)


def test_building_blocks_agree_with_rules(backend: str) -> None:
    x = normal(11, 25, seed=9)
    x[3] += 50
    sqdist = robust.pairwise_sqdist(x, backend=backend)
    weights = robust.geometric_median_weights(sqdist, backend=backend)
    assert weights.shape == (11,) and weights.dtype == np.float64 and (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(weights @ x, robust.geometric_median(x, backend=backend), rtol=1e-9, atol=1e-12)
    client = np.arange(1.0, 12.0)
    weights = robust.geometric_median_weights(sqdist, weights=client, backend=backend)
    np.testing.assert_allclose(weights @ x, robust.geometric_median(x, weights=client, backend=backend), rtol=1e-9, atol=1e-12)
    matrix = robust.nnm_weights(sqdist, 2, backend=backend)
    assert matrix.shape == (11, 11) and matrix.dtype == np.float64
    assert ((matrix > 0).sum(1) == 9).all() and (np.diag(matrix) > 0).all()
    np.testing.assert_allclose(matrix[matrix > 0], 1 / 9, rtol=1e-15)
    np.testing.assert_allclose(matrix @ x, robust.nnm(x, 2, backend=backend), rtol=1e-12, atol=1e-13)
    x[[2, 5]] = np.nan
    sqdist = robust.pairwise_sqdist(x, backend=backend)
    weights = robust.geometric_median_weights(sqdist, backend=backend)
    assert weights[[2, 5]].tolist() == [0, 0] and weights.sum() == pytest.approx(1.0)
    matrix = robust.nnm_weights(sqdist, 2, backend=backend)
    assert not matrix[:, [2, 5]].any() and np.allclose(matrix.sum(1), 1)


# ------------------------------------------------------------------------------------------------------ equivariances

MOVES_WITH_EVERYTHING = ("krum", "multikrum", "geometric_median", "mda", "smea", "monna", "caf")
PER_COORDINATE = ("bulyan", "median", "trimmed_mean", "meamed", "centered_clip")


@pytest.mark.parametrize("name", [name for name in RULES if name != "bulyan"])
def test_the_order_of_the_vectors_does_not_matter(name: str, backend: str) -> None:
    """Bulyan is not among them: its last choices count one neighbour, so that two nearest to each other always tie."""
    rule = RULES[name]
    for seed in (0, 1, 2, 5):  # where one subset only is MDA's: which of several it takes depends on the order
        x = normal(11, 6, seed=seed)
        x[4] += 5
        assert unique_mda(x, 2)
        expected = rule.call(x, 2, backend=backend)
        order = np.random.default_rng(seed).permutation(11)
        trusted = {"trusted": int(np.flatnonzero(order == 5)[0])} if rule is RULES["monna"] else {}
        np.testing.assert_allclose(rule.call(x[order], 2, backend=backend, **trusted), expected, rtol=1e-7, atol=1e-9)


def unique_mda(x: np.ndarray, f: int) -> bool:
    """Whether one subset only has the least diameter: from the other end the search finds the same."""
    return set(oracle.mda(x, f)) == {len(x) - 1 - i for i in oracle.mda(x[::-1], f)}


@every_rule
def test_translation(rule, backend: str) -> None:
    x = normal(11, 6, seed=3)
    x[0] += 9
    for shift in (1e4, -3.0, np.arange(6.0)):
        np.testing.assert_allclose(rule.call(x + shift, 2, backend=backend) - shift, rule.call(x, 2, backend=backend), atol=2e-7)


@pytest.mark.parametrize("name", MOVES_WITH_EVERYTHING)
def test_rotation(name: str, backend: str) -> None:
    x = normal(11, 6, seed=4)
    x[0] += 9
    rotation = np.linalg.qr(normal(6, 6, seed=1))[0]
    got = RULES[name].call(x @ rotation, 2, backend=backend)
    np.testing.assert_allclose(got, RULES[name].call(x, 2, backend=backend) @ rotation, atol=1e-7)


def test_rotation_of_mixes_and_of_centered_clip(backend: str) -> None:
    x = normal(11, 6, seed=4) * 30
    rotation = np.linalg.qr(normal(6, 6, seed=1))[0]
    for name, mix in MIXES.items():
        got = mix(x @ rotation, 2, backend=backend)
        np.testing.assert_allclose(got, mix(x, 2, backend=backend) @ rotation, atol=1e-10, err_msg=name)
    start = x[2] / 2
    kw = {"radius": 20.0, "iterations": 5, "backend": backend}
    np.testing.assert_allclose(robust.centered_clip(x @ rotation, start=start @ rotation, **kw),
                               robust.centered_clip(x, start=start, **kw) @ rotation, atol=1e-10)


@every_rule
def test_scale(rule, backend: str) -> None:
    """Factors that are powers of two; the lengths that a rule has grow with the vectors."""
    x = normal(11, 6, seed=6)
    x[0] += 9
    for scale in (-1.0, 2.0**-7, 2.0**40):
        own = {"radius": 3.0 * abs(scale)} if rule is RULES["centered_clip"] else {}
        own |= {"smoothing": 1e-6 * abs(scale)} if rule is RULES["geometric_median"] else {}
        got = rule.call(x * scale, 2, backend=backend, **own) / scale
        np.testing.assert_allclose(got, rule.call(x, 2, backend=backend), rtol=1e-7, atol=1e-8)


def test_scale_of_mixes(backend: str) -> None:
    x = normal(11, 6, seed=6) * 30
    for name, mix in MIXES.items():
        own = {"radius": 40.0 * 4} if name == "clip" else {}
        got = mix(x * -4, 2, backend=backend, **own)
        np.testing.assert_allclose(got, -4 * mix(x, 2, backend=backend), rtol=1e-13, err_msg=name)


# ------------------------------------------------------------------------------------------------- equal vectors, f = 0


@pytest.mark.parametrize("dtype", DTYPES)
@every_rule
def test_equal_vectors_are_returned_to_the_bit(rule, dtype: str, backend: str) -> None:
    tiny = 2.0**-24 if dtype == "float16" else 1e-40
    values = [0.0, 0.1, 1 / 49, 1 / 3, -7.7, 1.0, tiny, *normal(20, seed=2), LARGEST[dtype], -LARGEST[dtype], LARGEST[dtype] / 3]
    for vector in (values, values[:-3], [0.0], [0.3]):
        for n in (11, 12, 17):
            x = make(np.tile(vector, (n, 1)), dtype)
            assert bits(rule.call(x, 2, backend=backend)) == bits(x[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_vectors_through_mixes(dtype: str, backend: str) -> None:
    x = make(np.tile([0.1, 1 / 3, -7.7, 0.0, 5.5], (13, 1)), dtype)
    for name, mix in MIXES.items():
        got = mix(x, 3, backend=backend)
        assert bits(got) == bits(x[: len(got)]), name


@pytest.mark.parametrize("name", ["bulyan", "meamed", "mda", "smea", "monna", "caf", "trimmed_mean"])
def test_without_attackers_every_rule_is_the_mean(name: str, backend: str) -> None:
    for n in (3, 7, 10):
        x = normal(n, 9, seed=n)
        trusted = {"trusted": 1} if name == "monna" else {}
        np.testing.assert_allclose(RULES[name].call(x, 0, backend=backend, **trusted), x.mean(0), rtol=1e-13, atol=1e-15)


def test_without_attackers_mixes_are_trivial(backend: str) -> None:
    x = normal(7, 9, seed=1)
    np.testing.assert_allclose(robust.nnm(x, 0, backend=backend), np.tile(x.mean(0), (7, 1)), rtol=1e-13, atol=1e-15)
    assert bits(robust.arc(x, 0, backend=backend)) == bits(x)
    assert bits(robust.clip(x, 1e9, backend=backend)) == bits(x)


@every_rule
def test_one_vector_alone(rule, backend: str) -> None:
    if rule.least(0) <= 1:
        trusted = {"trusted": 0} if rule is RULES["monna"] else {}
        x = normal(1, 9)
        assert bits(rule.call(x, 0, backend=backend, **trusted)) == bits(x[0])


# --------------------------------------------------------------------------------------------------------- breakdown


@every_rule
def test_the_breakdown_point(rule, backend: str) -> None:
    """However far f vectors go, the result stays where it is; bounded by the honest ones alone."""
    f = 2
    n = rule.least(f)
    honest = normal(n - f, 5, seed=7)
    for size in 10.0 ** np.arange(1, 36, 3):
        for direction in (np.ones(5), -normal(5, seed=1)):
            for byzantine in (np.tile(size * direction, (f, 1)), np.outer([1, -1], size * direction)):
                x = oracle.placed(honest, byzantine, np.array([0, n - 1]))
                trusted = {"trusted": 1} if rule is RULES["monna"] else {}
                got = rule.call(x, f, backend=backend, **trusted)
                assert np.linalg.norm(got - honest.mean(0)) <= 3 * oracle.diameter(honest), size


def test_half_of_the_weight_breaks_the_geometric_median(backend: str) -> None:
    honest = normal(4, 3)
    x = np.vstack([honest, np.full((5, 3), 1e6)])
    assert np.linalg.norm(robust.geometric_median(x, backend=backend)) > 1e5
    light = [3.0] * 4 + [1.0] * 5
    assert np.linalg.norm(robust.geometric_median(x, weights=light, backend=backend)) < 50


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


# ---------------------------------------------------------------------------------------------------- forms and types


@pytest.mark.parametrize("name", [*NEW, *MIXES])
def test_forms_and_dtypes_give_the_same_answer(name: str, backend: str) -> None:
    call = RULES[name].call if name in RULES else MIXES[name]
    values = floats(make(normal(11, 37, seed=8) * 8, "bfloat16"))  # numbers of every dtype
    expected = call(values, 2, backend=backend)
    many = expected.ndim == 2
    for dtype in DTYPES:
        for library in ("numpy", "torch"):
            x = make(values, dtype, library)
            stacked = call(x, 2, backend=backend)
            assert type(stacked) is type(x) and stacked.dtype == x.dtype and tuple(stacked.shape) == expected.shape
            digits = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 1e-5, "float64": 1e-12}[dtype]
            np.testing.assert_allclose(floats(stacked), expected, rtol=digits, atol=digits)
            rows = list(x)
            got = call(rows, 2, backend=backend)
            assert type(got) is (list if many else type(x))
            layers = [[row[:1].reshape(()), row[1:7].reshape(2, 3), row[7:]] for row in rows]
            parts = call(layers, 2, backend=backend)
            for one, other, vector in zip(got, parts, stacked, strict=True) if many else [(got, parts, stacked)]:
                assert type(one) is type(x) and bits(one) == bits(vector)
                assert type(other) is list and [tuple(part.shape) for part in other] == [(), (2, 3), (30,)]
                assert all(type(part) is type(x) and part.dtype == x.dtype for part in other)
                assert b"".join(map(bits, other)) == bits(vector)


def test_layers_of_mixed_dtypes(backend: str) -> None:
    values = floats(make(normal(11, 12, seed=8), "float16"))
    layers = [[row[:4].astype(np.float16), row[4:9].astype(np.float32), row[9:]] for row in values]
    for name in [*NEW, *MIXES]:
        call = RULES[name].call if name in RULES else MIXES[name]
        expected = call(values, 2, backend=backend)
        got = call(layers, 2, backend=backend)
        for vector, row in zip(got, expected, strict=True) if expected.ndim == 2 else [(got, expected)]:
            assert [part.dtype.name for part in vector] == ["float16", "float32", "float64"]
            np.testing.assert_allclose(flat_vector(vector), row, rtol=2e-3, atol=2e-3)
            np.testing.assert_allclose(vector[2], row[9:], rtol=1e-5, atol=1e-6)
