"""Identities, equivariances, equal vectors, breakdown points, and forms of input, for every rule."""

from __future__ import annotations

import numpy as np
import pytest
import rules_oracle as oracle
from robust_oracle import DTYPES, LARGEST, bits, flat_vector, floats, make
from rules_calls import LIBRARIES, MIXES, NEW, RULES, every_rule

from fastgd import robust

pytestmark = pytest.mark.timeout(60)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


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


# ---------------------------------------------------------------------------------------------------- forms and types


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", [*NEW, *MIXES])
def test_forms_and_dtypes_give_the_same_answer(name: str, library: str, backend: str) -> None:
    call = RULES[name].call if name in RULES else MIXES[name]
    values = floats(make(normal(11, 37, seed=8) * 8, "bfloat16"))  # numbers of every dtype
    expected = call(values, 2, backend=backend)
    many = expected.ndim == 2
    for dtype in DTYPES:
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
