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
    assert set(attacks.__all__) == {*ATTACKS, "ATTACKS", "label_flip", "optimised"}
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


def test_hostile_honest_vectors_of_the_precision_attack():
    """Lengths know all coordinates, so one that is not finite reaches every attacker."""
    for value in (np.nan, np.inf):
        sent = attacks.precision(np.array([[value, 1.0], [1.0, 1.0]], np.float16), 2)
        assert not np.isfinite(sent).all(axis=1).any()


def test_overflow_becomes_inf():
    assert np.isinf(attacks.precision(np.ones((2, 1), np.float16), 1)).all()
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
        ("precision", {"norm": -1.0}, ValueError, "norm must be a finite number of at least 0"),
        ("precision", {"norm": "big"}, TypeError, "norm"),
        ("precision", {"distance": np.inf}, ValueError, "distance"),
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


# ---------------------------------------------------------------------------------------------- the precision attack


def gram_krum(x, f, m, center):
    """Krum as it is vectorised with float32 Gram matrices: the m rows chosen."""
    if center is not None:
        x = x - center(x)
    squares = np.square(x).sum(axis=1)
    sqdist = squares[:, None] + squares[None, :] - 2 * x @ x.T
    nearest = np.argsort(sqdist, axis=1)[:, 1 : len(x) - f - 1]
    return np.argsort(np.take_along_axis(sqdist, nearest, axis=1).sum(axis=1))[:m]


def scattered(trial, length, k=24, d=1000):
    """Float32 vectors of noise 1 around a mean of the given length."""
    rng = np.random.default_rng(trial)
    center = rng.normal(size=d)
    return (center * length / np.linalg.norm(center) + rng.normal(size=(k, d)) / math.sqrt(d)).astype(np.float32)


def test_precision_formula():
    mean = HONEST.mean(axis=0)
    spread = math.sqrt(np.square(HONEST - mean).sum() / len(HONEST))
    sent = attacks.precision(HONEST, 3, norm=50.0, distance=4.0)
    assert np.linalg.norm(sent[0]) == pytest.approx(50.0)
    np.testing.assert_allclose(sent[0] / 50, -mean / np.linalg.norm(mean))
    np.testing.assert_allclose(np.linalg.norm(sent[1:] - mean, axis=1), 4 * spread)
    np.testing.assert_array_equal(sent[1], sent[2])
    np.testing.assert_allclose(attacks.precision(np.zeros((3, 4)), 1, norm=6.0), [[3.0] * 4])


@pytest.mark.parametrize(("length", "distance", "center"), [
    (0.0, 10.0, lambda x: x.mean(axis=0)), (1.0, 10.0, lambda x: x.mean(axis=0)), (1e3, 10.0, lambda x: x.mean(axis=0)),
    (0.0, 10.0, lambda x: x[0]), (1.0, 10.0, lambda x: x[0]), (1e3, 100.0, lambda x: x[0]), (1e4, 4.0, None)])
def test_precision_defeats_float32_gram_matrices_only(length, distance, center, backend):
    """Of 24 honest and 8 attacking vectors Multi-Krum keeps 22. Differences keep none that attacks; Gram matrices keep most
    of those 7 that are not the huge one, though they stand 4 to 100 times further out than the honest ones."""
    kept = []
    for trial in range(10):
        honest = scattered(trial, length)
        x = np.concatenate([attacks.precision(honest, 8, distance=distance), honest])
        kept.append((gram_krum(x, 8, 22, center) < 8).sum())
        if trial < 3:
            assert (fastgd.robust.multikrum(x, 8, return_info=True, backend=backend)[1].selected >= 8).all()
            assert fastgd.robust.krum(x, 8, return_info=True, backend=backend)[1].selected[0] >= 8
    assert np.mean(kept) > 2


# ------------------------------------------------------------------------------------------------------- label flip


@pytest.mark.parametrize("dtype", ["int64", "uint8", "int32"])
def test_label_flip(dtype):
    labels = np.arange(10, dtype=dtype).reshape(2, 5)
    flipped = attacks.label_flip(labels, 10)
    assert flipped.dtype == dtype and flipped.shape == (2, 5) and not np.shares_memory(flipped, labels)
    np.testing.assert_array_equal(flipped + labels, 9)
    np.testing.assert_array_equal(attacks.label_flip(flipped, 10), labels)
    assert attacks.label_flip(labels[:0], 1).shape == (0, 5)
    assert attacks.label_flip(np.array([255], np.uint8), 256)[0] == 0


@pytest.mark.parametrize(("labels", "classes", "error", "words"), [
    ([0.0], 2, TypeError, "integers"), ([0, 2], 2, ValueError, "from 0 to 1"), ([-1], 2, ValueError, "got -1 to -1"),
    ([0], 0, ValueError, "classes"), ([0], 2.0, TypeError, "classes")])
def test_label_flip_wrong_arguments(labels, classes, error, words):
    with pytest.raises(error, match=words):
        attacks.label_flip(labels, classes)


# ------------------------------------------------------------------------------------------------ optimised attacks

OPTIMISED = [attacks.sign_flip, attacks.ipm, attacks.alie]
SEARCHED = {attacks.sign_flip: "scale", attacks.ipm: "epsilon", attacks.alie: "z"}
VICTIMS = {"krum": fastgd.robust.krum, "multikrum": fastgd.robust.multikrum, "trimmed_mean": fastgd.robust.trimmed_mean,
           "median": lambda x, f: fastgd.robust.median(x), "mean": lambda x, f: fastgd.robust.mean(x)}
CROWD = np.random.default_rng(3).normal(0.3, 1.0, (11, 60))


def harm(rule, sent, honest=CROWD):
    return np.linalg.norm(rule(np.concatenate([honest, sent]), len(sent)) - honest.mean(axis=0))


@pytest.mark.parametrize("attack", OPTIMISED, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("rule", VICTIMS.values(), ids=VICTIMS)
def test_optimised_is_worse_than_every_strength_on_its_way(attack, rule):
    calls = []

    def watched(x, f):
        calls.append((x.copy(), f))
        return rule(x, f)

    sent = attacks.optimised(attack, watched)(CROWD, 4)
    assert len(calls) == 20 and {f for _, f in calls} == {4}
    assert all((x[:11] == CROWD).all() for x, _ in calls)
    assert harm(rule, sent) == max(harm(rule, x[11:]) for x, _ in calls)
    assert any((x[11:] == sent).all() for x, _ in calls)
    assert harm(rule, sent) >= harm(rule, attack(CROWD, 4, **{SEARCHED[attack]: 0.0}))
    np.testing.assert_array_equal(sent, attacks.optimised(attack, rule)(CROWD, 4))  # deterministic


@pytest.mark.parametrize(("attack", "rule"), [
    (attacks.sign_flip, "krum"), (attacks.ipm, "krum"), (attacks.ipm, "multikrum"), (attacks.sign_flip, "median"),
    (attacks.alie, "median"), (attacks.alie, "trimmed_mean")], ids=lambda value: getattr(value, "__name__", value))
def test_optimised_finds_about_the_worst_of_a_grid(attack, rule):
    """Where the harm has one peak: loud strengths are dropped by Krum and lose their effect on the others."""
    rule = VICTIMS[rule]
    worst = harm(rule, attacks.optimised(attack, rule)(CROWD, 4))
    grid = [harm(rule, attack(CROWD, 4, **{SEARCHED[attack]: t})) for t in np.linspace(0.0, 12.0, 121)]
    assert worst >= 0.85 * max(grid)


def test_optimised_has_no_bound_against_the_mean():
    worst = attacks.optimised(attacks.sign_flip, VICTIMS["mean"])(CROWD, 4)
    np.testing.assert_allclose(worst[0], -10.0 * (2**19 - 1) * CROWD.mean(axis=0))  # doubled at all 19 steps


def test_optimised_line_search():
    """One peak is found to a fifth of a step or better, whichever side the doubling leaves it on."""
    for peak in (0.0, 0.4, 3.0, 9.0, 10.0, 14.0, 33.0, 1000.0):
        def rule(x, f, peak=peak):
            return np.array([1e6 - abs(x[-1, 0] - peak)])

        def attack(honest, count, *, t):
            return np.full((count, 1), t)

        sent = attacks.optimised(attack, rule, strength="t", evaluations=40)(np.zeros((3, 1)), 1)
        assert sent[0, 0] == pytest.approx(peak, rel=0.05, abs=0.1)


def test_optimised_options_and_refusals():
    def shifted(honest, count, *, t, offset=0.0):
        return np.full((count, honest.shape[1]), t + offset)

    def touchy(x, f):
        if x[-1, 0] > 25.0:
            raise ValueError("too large")
        return x.mean(axis=0)

    worst = attacks.optimised(shifted, touchy, strength="t")
    assert worst.__name__ == "optimised_shifted"
    assert 10.0 <= worst(CROWD, 2)[0, 0] <= 25.0  # the strengths that the rule refuses do no harm
    assert worst(CROWD, 2, offset=20.0)[0, 0] <= 25.0
    assert worst(CROWD, 0).shape == (0, 60)
    with pytest.raises(ValueError, match="too large"):  # refused whatever the attackers send
        worst(CROWD, 2, offset=30.0)
    with pytest.raises(ValueError, match="n >= 2 f"):
        attacks.optimised(attacks.ipm, fastgd.robust.krum)(CROWD, 11)

    def lost(x, f):
        return x[-1] * (np.inf if x[-1, 0] > 0 else 0.0)

    assert attacks.optimised(shifted, lost, strength="t")(CROWD, 1)[0, 0] == 10.0


@pytest.mark.parametrize(("arguments", "options", "error", "words"), [
    ((attacks.ipm, "krum"), {}, TypeError, "functions"), ((None, fastgd.robust.krum), {}, TypeError, "functions"),
    ((attacks.gaussian, fastgd.robust.krum), {}, ValueError, "strength must be given for 'gaussian'"),
    ((attacks.ipm, fastgd.robust.krum), {"evaluations": 0}, ValueError, "evaluations"),
    ((attacks.ipm, fastgd.robust.krum), {"start": 0.0}, ValueError, "start must be a finite number above 0")])
def test_optimised_wrong_arguments(arguments, options, error, words):
    with pytest.raises(error, match=words):
        attacks.optimised(*arguments, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_optimised_has_the_signature_of_an_attack(dtype):
    sent = attacks.optimised(attacks.alie, VICTIMS["median"])(CROWD.astype(dtype), 3)
    assert sent.shape == (3, 60) and sent.dtype == dtype
    with pytest.raises(TypeError, match="honest must be"):
        attacks.optimised(attacks.alie, VICTIMS["median"])([[1.0]], 1)
