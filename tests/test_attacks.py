"""The attacks: their formulas, one signature for all, dtypes, errors; and what they do to rules."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastgd
from fastgd.robust import attacks
from fastgd.robust.attacks import ATTACKS

HONEST = np.random.default_rng(0).normal(1.0, 2.0, (11, 7))
DTYPES = ("float16", "float32", "float64")


def ulp(dtype):
    return float(np.finfo(dtype).eps)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_signature(name, dtype):
    honest = HONEST.astype(dtype)
    honest.flags.writeable = False
    sent = ATTACKS[name](honest, 4)
    assert sent.shape == (4, 7) and sent.dtype == dtype
    assert sent.flags.writeable and sent.flags.c_contiguous and not np.shares_memory(sent, honest)
    np.testing.assert_array_equal(sent, ATTACKS[name](honest, 4))  # deterministic; NaN equals NaN here
    sent[0] = 7.0
    assert not (sent[1] == 7.0).any()  # no two attackers share memory


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attacker_and_no_coordinate(name):
    assert ATTACKS[name](HONEST, 0).shape == (0, 7)
    assert ATTACKS[name](HONEST[:, :0], 3).shape == (3, 0)


@pytest.mark.parametrize("name", ATTACKS)
def test_strided_input(name):
    np.testing.assert_array_equal(ATTACKS[name](HONEST[::-2, ::3], 2), ATTACKS[name](HONEST[::-2, ::3].copy(), 2))


def test_names():
    assert set(attacks.__all__) == {*ATTACKS, "ATTACKS"}
    assert all(ATTACKS[name] is getattr(attacks, name) for name in ATTACKS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_formulas(dtype):
    honest = HONEST.astype(dtype)
    columns = honest.astype(float).T
    mean = np.array([math.fsum(column) / 11 for column in columns])
    std = np.array([math.sqrt(math.fsum((column - math.fsum(column) / 11) ** 2) / 10) for column in columns])
    for sent, expected in (
        (attacks.sign_flip(honest, 2), -mean),
        (attacks.sign_flip(honest, 2, scale=10), -10 * mean),
        (attacks.ipm(honest, 2), -0.5 * mean),
        (attacks.ipm(honest, 2, epsilon=0.1), -0.1 * mean),
        (attacks.alie(honest, 2, z=1.5), mean + 1.5 * std),
        (attacks.alie(honest, 2, z=-1), mean - std),
        (attacks.mimic(honest, 2), honest[0]),
        (attacks.mimic(honest, 2, index=10), honest[10]),
        (attacks.nan(honest, 2), np.full(7, np.nan)),
        (attacks.inf(honest, 2), np.full(7, np.inf)),
    ):
        np.testing.assert_allclose(sent, [expected, expected], rtol=2 * ulp(dtype), atol=1e-15)


@pytest.mark.parametrize(("honest", "count", "needed"), [(11, 4, 4), (20, 4, 9), (26, 24, 2), (9, 1, 5), (10, 10, 1)])
def test_alie_z_max(honest, count, needed):
    """Phi(z) = (k - s) / k with s = floor(n / 2 + 1) - f; 26 and 24 are the paper's example of 50 workers."""
    h = np.tile([[-1.0], [1.0]], (honest, 1))[:honest]
    z = (attacks.alie(h, count)[0] - h.mean()) / h.std(ddof=1)
    assert 0.5 * math.erfc(-z[0] / math.sqrt(2)) == pytest.approx((honest - needed) / honest, abs=1e-12)


def test_gaussian():
    h = np.zeros((2, 20_000), np.float32)
    sent = attacks.gaussian(h, 3, sigma=5.0, seed=1)
    assert abs(sent.mean()) < 5 * 5 / math.sqrt(sent.size)
    assert sent.std() == pytest.approx(5.0, rel=5 / math.sqrt(2 * sent.size))
    np.testing.assert_array_equal(sent[:2], attacks.gaussian(h, 2, sigma=5.0, seed=1))
    seeds = (1, 2, (1, 1), (1, 2))
    assert len({attacks.gaussian(h, 1, seed=seed).tobytes() for seed in seeds}) == len(seeds)
    assert np.abs(np.corrcoef(sent)[np.triu_indices(3, 1)]).max() < 0.05  # every attacker draws its own


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 4])
def test_lemma31_makes_the_mean_what_it_wants(dtype, count, backend):
    honest = HONEST.astype(dtype)
    target = np.linspace(-50.0, 50.0, 7)
    sent = np.concatenate([honest, attacks.lemma31(honest, count, target=target)])
    tolerance = 20 * ulp(dtype)  # the attackers' vectors are up to n times longer than the target, and rounded
    np.testing.assert_allclose(fastgd.robust.mean(sent, backend=backend), target, rtol=tolerance, atol=60 * ulp(dtype))


def test_lemma31_any_linear_rule(backend):
    rng = np.random.default_rng(1)
    weights, target = rng.normal(size=14), rng.normal(size=7)
    sent = np.concatenate([HONEST, attacks.lemma31(HONEST, 3, target=target, weights=weights)])
    np.testing.assert_allclose(fastgd.robust.combine(sent, weights, backend=backend), target, atol=1e-12)


def test_lemma31_by_default_stops_training():
    sent = np.concatenate([HONEST, attacks.lemma31(HONEST, 1)])
    np.testing.assert_allclose(fastgd.robust.mean(sent), np.zeros(7), atol=1e-14)


def test_when_a_flip_turns_the_mean_around():
    """The mean of all is (k - scale f) / n times the honest mean: backwards from scale > k / f on."""
    for scale, sign in ((2.7, 1.0), (2.8, -1.0)):
        change = fastgd.robust.mean(np.concatenate([HONEST, attacks.sign_flip(HONEST, 4, scale=scale)]))
        assert np.sign(change @ HONEST.mean(axis=0)) == sign


def test_krum_chooses_what_hides_and_drops_what_is_loud(backend):
    rng = np.random.default_rng(2)
    honest = rng.normal(0.1, 1.0, (11, 1000))  # |mean| about 4, noise about 32: quiet attackers stand in the middle

    def selected(sent):
        return fastgd.robust.krum(np.concatenate([honest, sent]), 4, return_info=True, backend=backend)[1].selected[0]

    for hiding in (attacks.ipm(honest, 4, epsilon=0.5), attacks.alie(honest, 4)):
        assert selected(hiding) == 11  # the first of four equal attackers
    for loud in (attacks.sign_flip(honest, 4, scale=1000), attacks.gaussian(honest, 4), attacks.nan(honest, 4),
                 attacks.inf(honest, 4)):
        assert selected(loud) < 11


@pytest.mark.parametrize("name", ["sign_flip", "ipm", "alie", "lemma31"])
def test_hostile_honest_vectors(name):
    """NaN, Inf and overflow pass through without a warning."""
    for value in (np.nan, np.inf, 6e4):
        sent = ATTACKS[name](np.array([[value, 1.0], [value, 1.0], [1.0, 1.0]], np.float16), 1)
        assert np.isfinite(sent[0, 1])


def test_overflow_becomes_inf():
    assert attacks.sign_flip(np.full((2, 1), 6e4, np.float16), 1, scale=2)[0, 0] == -np.inf
    assert np.isnan(attacks.sign_flip(np.full((2, 1), np.inf), 1, scale=0)[0, 0])
    assert np.isinf(attacks.gaussian(np.zeros((1, 1), np.float16), 1, sigma=1e30)).all()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (([[1.0, 2.0]], 1), {}, TypeError, "honest must be a NumPy array"),
        ((np.ones((2, 2), int), 1), {}, TypeError, "int64 array"),
        ((np.ones(3), 1), {}, ValueError, r"shape \(3,\)"),
        ((np.ones((0, 3)), 1), {}, ValueError, "k >= 1"),
        ((HONEST, -1), {}, ValueError, "count"),
        ((HONEST, 1.5), {}, TypeError, "count"),
        ((HONEST, True), {}, TypeError, "count"),
    ],
)
@pytest.mark.parametrize("name", ATTACKS)
def test_wrong_arguments(name, arguments, options, error, words):
    with pytest.raises(error, match=words):
        ATTACKS[name](*arguments, **options)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("sign_flip", {"scale": np.nan}, ValueError, "scale"),
        ("sign_flip", {"scale": "x"}, TypeError, "scale"),
        ("ipm", {"epsilon": np.inf}, ValueError, "epsilon"),
        ("alie", {"z": np.nan}, ValueError, "z must"),
        ("mimic", {"index": 11}, ValueError, "index"),
        ("mimic", {"index": 1.0}, TypeError, "index"),
        ("gaussian", {"sigma": -1.0}, ValueError, "sigma"),
        ("gaussian", {"seed": -1}, ValueError, "non-negative"),
        ("lemma31", {"target": np.zeros(6)}, ValueError, "target"),
        ("lemma31", {"weights": np.ones(11)}, ValueError, "weights"),
        ("lemma31", {"weights": np.r_[np.ones(11), 0.0]}, ValueError, "sum to zero"),
        ("lemma31", {"weights": np.full(12, np.nan)}, ValueError, "finite"),
        ("nan", {"value": 1.0}, TypeError, "value"),
    ],
)
def test_wrong_options(name, options, error, words):
    with pytest.raises(error, match=words):
        ATTACKS[name](HONEST, 1, **options)


def test_alie_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="at least 2 honest"):
        attacks.alie(HONEST[:1], 1)
    with pytest.raises(ValueError, match="z_max is infinite"):
        attacks.alie(HONEST[:5], 6)
    assert attacks.alie(HONEST[:5], 6, z=1.0).shape == (6, 7)
