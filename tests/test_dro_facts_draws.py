"""`SumTree` and `DROSampler`: sums and draws bit by bit, fits at a million draws, projections along runs, the saddle point."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import dro_oracle as oracle
import numpy as np
import pytest
from dro_oracle import divergence, fit
from scipy import optimize, stats

from fastgd import dro

pytestmark = pytest.mark.timeout(120)

METHODS = ("iid", "stratified", "systematic", "without_replacement")
SIZES = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1000)
CHANCE = 1e-4


def weights_of(n: int, seed: int = 0) -> np.ndarray:
    """Many scales, and a third of zeros."""
    rng = np.random.default_rng([n, seed])
    w = rng.exponential(1.0, n) * 10.0 ** rng.integers(-6, 7, n) * (rng.uniform(size=n) < 0.67)
    w[rng.integers(n)] = 1.0
    return w


# ------------------------------------------------------------------------------------------------------------ the tree


@pytest.mark.parametrize("n", SIZES)
def test_totals_and_finds_are_those_of_the_layout_to_the_bit(n: int, backend: str) -> None:
    w = weights_of(n)
    tree, levels = dro.SumTree(w, backend=backend), oracle.levels(w)
    assert tree.n == n and tree.total == oracle.block_sum(levels[-1])
    assert tree.weights().tobytes() == w.tobytes() and tree.weights().dtype == np.float64
    rng = np.random.default_rng(n)
    edges = np.cumsum(w)[w > 0]
    edges = np.r_[edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf)]
    masses = np.r_[0.0, np.nextafter(tree.total, 0), rng.uniform(0, tree.total, 50), edges]
    masses = masses[masses < tree.total]
    found = tree.find(masses)
    assert found.dtype == np.int64 and found.shape == masses.shape
    assert found.tolist() == [oracle.descend(levels, float(mass)) for mass in masses]
    assert (w[found] > 0).all()
    one = tree.find(float(masses[1]))
    assert one == found[1] and np.ndim(one) == 0


@pytest.mark.parametrize("n", SIZES)
def test_finds_of_exact_weights_are_those_of_rational_arithmetic(n: int, backend: str) -> None:
    w = np.random.default_rng(n).integers(0, 4, n).astype(float)
    w[n // 2] = 3.0
    tree = dro.SumTree(w, backend=backend)
    assert tree.total == w.sum()
    masses = np.arange(0, w.sum(), 0.25)[:: 1 + n // 100]
    assert tree.find(masses).tolist() == oracle.exact_find(w.tolist(), masses)
    for lo, hi in itertools.islice(itertools.combinations(range(0, n + 1, 1 + n // 9), 2), 60):
        assert tree.sum(lo, hi) == w[lo:hi].sum()
    assert tree.sum(0, n) == tree.total and tree.sum(n, n) == 0 == tree.sum(0, 0)


@pytest.mark.parametrize("n", SIZES)
def test_sums_of_ranges_lose_no_digits(n: int, backend: str) -> None:
    """Relative to the range itself: a difference of prefixes would lose small ranges behind large ones."""
    w = weights_of(n, 1)
    tree = dro.SumTree(w, backend=backend)
    rng = np.random.default_rng(n)
    for _ in range(40):
        lo, hi = sorted(rng.integers(0, n + 1, 2).tolist())
        assert tree.sum(lo, hi) == pytest.approx(math.fsum(w[lo:hi]), rel=64 * 2.0**-52, abs=0)
    giant = dro.SumTree(np.array([1e300, 1e-300, 2e-300, 1e300]), backend=backend)
    assert giant.sum(1, 3) == 3e-300 and giant.sum(1, 2) == 1e-300


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 8, 9, 65, 300])
def test_draws_are_counted_and_those_of_the_formula(method: str, n: int, backend: str) -> None:
    w = weights_of(n)
    seed = 2**63 + 12345
    tree = dro.SumTree(w, seed=seed, backend=backend)
    positive, first = int((w > 0).sum()), 0
    for size in (1, 5, 2, 40):
        size = min(size, positive) if method == "without_replacement" else size
        got = tree.sample(size, method=method)
        assert got.dtype == np.int64 and got.shape == (size,)
        assert got.tolist() == oracle.draws(w.tolist(), size, method, seed, first)
        first += 1 if method == "systematic" else size
    assert tree.weights().tobytes() == w.tobytes() and tree.total == oracle.total(w)
    assert tree.sample(0, method=method).shape == (0,)
    assert dro.SumTree(w, seed=seed, backend=backend).sample(3).tolist() == oracle.draws(w.tolist(), 3, "iid", seed)


def test_methods_share_one_count_of_draws(backend: str) -> None:
    w = weights_of(100)
    tree = dro.SumTree(w, seed=9, backend=backend)
    first = 0
    for size, method in ((3, "iid"), (4, "systematic"), (5, "without_replacement"), (6, "stratified"), (2, "iid")):
        assert tree.sample(size, method=method).tolist() == oracle.draws(w.tolist(), size, method, 9, first)
        first += 1 if method == "systematic" else size


FITS = {
    "zeros among": np.array([0.0, 3, 0, 1, 0, 0, 2, 0, 0, 0.5, 0]),
    "tiny": np.array([1e-300, 1.0, 1e-300, 2.0, 1e-20]),
    "huge": np.array([1e300, 2e300, 1e-300, 0.0, 3e300, 1.0]),
    "all tiny": np.array([1e-300, 3e-300, 0.0, 1e-300]),
    "many": np.random.default_rng(0).exponential(1.0, 1000),
}


def chances(w: np.ndarray) -> np.ndarray:
    w = np.ldexp(w, -np.frexp(w.max())[1])
    return w / w.sum()


@pytest.mark.parametrize("w", FITS.values(), ids=FITS)
def test_a_million_draws_fit(w: np.ndarray) -> None:
    tree = dro.SumTree(w, seed=1)
    counts = np.bincount(tree.sample(1_000_000), minlength=len(w))
    assert fit(counts, chances(w)) > CHANCE


@pytest.mark.parametrize("w", FITS.values(), ids=FITS)
def test_a_million_stratified_draws_fit(w: np.ndarray) -> None:
    """The covariance of k stratified draws is below that of k independent ones, so the test of fit is on the safe side."""
    tree = dro.SumTree(w, seed=2)
    counts = sum(np.bincount(tree.sample(1000, method="stratified"), minlength=len(w)) for _ in range(1000))
    assert fit(counts, chances(w)) > CHANCE
    few = sum(np.bincount(tree.sample(4, method="stratified"), minlength=len(w)) for _ in range(50_000))
    assert fit(few, chances(w)) > CHANCE


@pytest.mark.parametrize("w", FITS.values(), ids=FITS)
def test_a_million_systematic_draws_fit(w: np.ndarray) -> None:
    """A leaf is drawn floor(k p) or one time more, with the mean k p: so a variance f (1 - f) is known, leaf by leaf."""
    k, p = 1000, chances(w)
    tree = dro.SumTree(w, seed=3)
    counts = np.zeros(len(w))
    for _ in range(1000):
        drawn = np.bincount(tree.sample(k, method="systematic"), minlength=len(w))
        assert (np.abs(drawn - k * p) < 1 + 1e-9).all()
        counts += drawn
    part = k * p - np.floor(k * p)
    limit = stats.norm.isf(CHANCE / (2 * len(w))) * np.sqrt(1000 * part * (1 - part))
    assert (np.abs(counts - 1000 * k * p) <= limit + 1e-3 + 3 * (part * 1000 < 10)).all()


SUCCESSIVE = [([1.0, 2, 0, 3, 4], 2), ([1.0, 2, 0, 3, 4], 3), ([0.1, 5, 0.1, 0.3], 4), ([1e300, 3e300, 2e300], 2)]


@pytest.mark.parametrize("w, k", SUCCESSIVE)
def test_draws_without_replacement_fit_successive_draws(w: list[float], k: int) -> None:
    scaled = chances(np.array(w))
    outcomes = oracle.successive(scaled.tolist(), k)
    places = {drawn: i for i, drawn in enumerate(outcomes)}
    tree = dro.SumTree(np.array(w), seed=4)
    counts = np.zeros(len(outcomes))
    for _ in range(60_000):
        counts[places[tuple(tree.sample(k, method="without_replacement").tolist())]] += 1
    assert fit(counts, list(outcomes.values())) > CHANCE
    assert tree.weights().tolist() == w


@pytest.mark.parametrize("method", METHODS[:3])
def test_no_zero_is_drawn_from_subnormal_weights(method: str, backend: str) -> None:
    """A total of 4 ulps holds 4 masses: frequencies are coarse, but every leaf above zero is drawn and no other one."""
    tree = dro.SumTree(np.array([0.0, 5e-324, 0.0, 1e-323, 5e-324, 0.0]), seed=1, backend=backend)
    assert set(tree.sample(500, method=method).tolist()) == {1, 3, 4}
    assert tree.total == 2e-323 and tree.find(np.array([0.0, 5e-324, 1e-323, 1.5e-323])).tolist() == [1, 3, 3, 4]


def test_all_leaves_without_replacement(backend: str) -> None:
    w = weights_of(300)
    tree = dro.SumTree(w, seed=5, backend=backend)
    drawn = tree.sample(int((w > 0).sum()), method="without_replacement")
    assert sorted(drawn.tolist()) == np.flatnonzero(w).tolist()
    assert tree.weights().tobytes() == w.tobytes() and tree.total == dro.SumTree(w).total


def test_importance_weights_are_unbiased() -> None:
    """E x_I / (n p_I) = mean x, exactly by enumeration of leaves and within the error of 1e6 draws."""
    rng = np.random.default_rng(6)
    w, x = rng.exponential(1.0, 50), rng.standard_normal(50)
    tree = dro.SumTree(w, seed=6)
    drawn = tree.sample(1_000_000)
    terms = x[drawn] * tree.total / (50 * tree.weights(drawn))
    assert abs(terms.mean() - x.mean()) <= 4 * terms.std() / 1e3


@pytest.mark.parametrize("n", [4095, 32_769, 262_143, 262_145])
def test_large_trees_are_exact_on_integers(n: int) -> None:
    """Batches from one item to all of them, and growth, with sums that float64 holds exactly."""
    rng = np.random.default_rng(n)
    w = rng.integers(0, 3, n).astype(float)
    tree = dro.SumTree(w)
    for size in (1, 10, 300, n // 64, n // 8, n, 2 * n):
        index, value = rng.integers(0, n, size), rng.integers(0, 1000, size).astype(float)
        tree.update(index, value)
        w[index] = value
        prefix = np.cumsum(w)
        masses = rng.integers(0, int(prefix[-1]) * 4, 2000) / 4
        assert tree.total == prefix[-1] and tree.weights().tobytes() == w.tobytes()
        assert np.array_equal(tree.find(masses), np.searchsorted(prefix, masses, side="right"))
        lo, hi = sorted(rng.integers(0, n, 2).tolist())
        assert tree.sum(lo, hi) == w[lo:hi].sum()
    tree.append(w[: n // 2])
    prefix = np.cumsum(np.r_[w, w[: n // 2]])
    masses = rng.integers(0, int(prefix[-1]), 2000).astype(float)
    assert tree.total == prefix[-1] and np.array_equal(tree.find(masses), np.searchsorted(prefix, masses, side="right"))


def test_five_million_updates_leave_no_drift() -> None:
    rng = np.random.default_rng(7)
    n = 3001
    tree, w = dro.SumTree(n), np.zeros(n)
    for batch in (1, 7, 250, 5000, 5000, 2500, 2500, 2500):
        for _ in range(300):
            index = rng.integers(0, n, batch)
            value = rng.exponential(1.0, batch) * 10.0 ** rng.integers(-9, 10)
            tree.update(index, value)
            w[index] = value  # NumPy: the last of duplicates wins
    assert tree.weights().tobytes() == w.tobytes()
    assert tree.total == oracle.total(w)
    assert tree.total == pytest.approx(math.fsum(w), rel=1e-14)


# --------------------------------------------------------------------------------------------------------- the sampler

#: (n, radius, floor) of long runs.
RUNS = [(20, 0.5, 0.0), (50, 5.0, 0.1), (200, 0.05, 0.2), (100, 30.0, 0.05), (37, 1.0, 0.3), (3, 0.4, 0.0), (1, 1.0, 0.0)]
KL_RUNS = [(20, 0.5, 0.0), (50, 2.0, 0.1), (200, 0.05, 0.2), (37, 1.0, 0.3), (3, 0.4, 0.0), (1, 1.0, 0.0)]


def sampler_of(n: int, radius: float, floor: float, kind: str = "chi2", *, gain: float = 0.3, **kw: Any) -> tuple[Any, dict]:
    """`gain`: what a loss of 1 on a probability of 1/n adds, in units of 1/n (chi-squared) or to the logarithm (kl)."""
    step_size = gain / n**2 if kind == "chi2" else gain / n
    options = {"radius": radius, "floor": floor, "divergence": kind, "step_size": step_size}
    return dro.DROSampler(n, **options, **kw), options


def run(n: int, radius: float, floor: float, kind: str, steps: int, gain: float, backend: str | None = None) -> None:
    """Every step against the projection of the point before it."""
    sampler, options = sampler_of(n, radius, floor, kind, gain=gain, seed=n, backend=backend)
    rng = np.random.default_rng(n)
    np.testing.assert_allclose(sampler.probabilities(), 1 / n, rtol=4 * 2.0**-52)
    for step in range(steps):
        size = int(rng.choice([1, 1, 2, 5]))
        index, loss = sampler.sample(size), rng.exponential(1.0, size) * (rng.uniform(size=size) < 0.9)
        before = sampler.probabilities()
        sampler.update(index, loss)
        p = sampler.probabilities()
        expected = oracle.mirror_step(before, index, loss, **options)
        assert n * np.abs(p - expected).max() < 1e-11, step
        assert (p >= floor / n * (1 - 1e-12)).all() and abs(p.sum() - 1) < 1e-12
        assert divergence(p, kind) * (1 - 1e-12) <= radius + 1e-13


@pytest.mark.parametrize("gain", [0.03, 0.6, 20.0])
@pytest.mark.parametrize("n, radius, floor", RUNS)
def test_every_chi_squared_step_is_the_sorted_projection(n: int, radius: float, floor: float, gain: float, backend: str) -> None:
    run(n, radius, floor, "chi2", 700 if backend == "cpu" else 60, gain, backend)


@pytest.mark.parametrize("gain", [0.03, 0.6, 20.0])
@pytest.mark.parametrize("n, radius, floor", KL_RUNS)
def test_every_kl_step_is_the_solved_projection(n: int, radius: float, floor: float, gain: float, backend: str) -> None:
    run(n, radius, floor, "kl", 120 if backend == "cpu" else 40, gain, backend)


@pytest.mark.parametrize("power", [1.5, 2.0, 4 / 3, 3.0])
def test_steps_of_other_powers_obey_their_optimality_conditions(power: float, backend: str) -> None:
    n, radius, floor, step_size = 15, 0.4, 0.1, 0.01
    sampler = dro.DROSampler(n, radius=radius, divergence=power, floor=floor, step_size=step_size, backend=backend)
    rng = np.random.default_rng(1)
    for _ in range(40):
        index, loss = sampler.sample(3), rng.exponential(1.0, 3)
        p = sampler.probabilities()
        gain = np.zeros(n)
        np.add.at(gain, index, step_size * loss / (3 * p[index]))
        sampler.update(index, loss)
        expected = oracle.project_by_roots(p ** (power - 1) + (power - 1) * gain, radius, floor, power)
        # t is known to 1e-16; for k = 3, p = sqrt(t) has a slope of at most n / (2 floor) = 75
        np.testing.assert_allclose(sampler.probabilities(), expected, atol=1e-12)


@pytest.mark.parametrize("n, radius, floor", RUNS[:5])
def test_five_thousand_steps_follow_the_sorted_projections(n: int, radius: float, floor: float) -> None:
    """Two trajectories that never look at each other; the oracle's own decides the gains."""
    sampler, options = sampler_of(n, radius, floor, gain=0.3)
    rng, p = np.random.default_rng(n), np.full(n, 1 / n)
    worst = 0.0
    for step in range(5000):
        index = rng.choice(n, 1, p=np.asarray(p, float) / float(p.sum()))
        loss = rng.uniform(0, 1, 1)
        sampler.update(index, loss)
        p = oracle.mirror_step(p, index, loss, **options)
        if step % 5 == 0 or step > 4990:
            worst = max(worst, n * float(np.abs(sampler.probabilities() - p).max()))
    assert worst < 1e-11


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_updates_are_project_after_a_mirror_step(kind: str, backend: str) -> None:
    sampler, options = sampler_of(30, 0.4, 0.2, kind, gain=2.0, backend=backend)
    rng = np.random.default_rng(0)
    for _ in range(60):
        index, loss = rng.integers(0, 30, 4), rng.exponential(1.0, 4)
        p = sampler.probabilities()
        gain = np.zeros(30)
        np.add.at(gain, index, options["step_size"] * loss / (4 * p[index]))
        sampler.update(index, loss)
        w = p + gain if kind == "chi2" else p * np.exp(gain)
        expected = dro.project(w, radius=0.4, divergence=kind, floor=0.2, backend=backend)
        np.testing.assert_allclose(sampler.probabilities(), expected, atol=1e-13)
        np.testing.assert_allclose(sampler.probability(np.arange(30)), sampler.probabilities(), atol=1e-17, rtol=1e-13)
        one = sampler.probability(7)
        assert np.ndim(one) == 0 and one == pytest.approx(sampler.probabilities()[7], rel=1e-14)


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_losses_of_zero_change_nothing_and_duplicates_add(kind: str, backend: str) -> None:
    def after(index: list[int], loss: list[float]) -> np.ndarray:
        sampler, _ = sampler_of(9, 0.3, 0.1, kind, backend=backend)
        sampler.update(np.array([1, 4]), np.array([2.0, 1.0]))
        sampler.update(np.array(index), np.array(loss))
        return sampler.probabilities()

    np.testing.assert_allclose(after([3, 5], [0.0, 0.0]), after([0], [0.0]), atol=1e-16)
    np.testing.assert_allclose(after([3, 5, 3], [1.0, 2.0, 4.0]), after([5, 3, 3], [2.0, 5.0, 0.0]), atol=1e-16)
    np.testing.assert_allclose(after([3, 3], [1.0, 1.0]), after([3], [1.0]), atol=1e-16)


def test_the_kl_exponent_is_capped_at_50(backend: str) -> None:
    """exp(1e6) would leave one point; exp(50) on one of four equal weights leaves e^-50 to each other one: the ball is slack."""
    sampler = dro.DROSampler(4, radius=2.0, divergence="kl", step_size=1.0, backend=backend)
    sampler.update(np.array([2]), np.array([1e6]))
    p = sampler.probabilities()
    assert p[0] == pytest.approx(math.exp(-50), rel=1e-12) and p[2] == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_while_the_ball_is_slack_the_gain_is_unbiased(kind: str, backend: str) -> None:
    """E over I ~ p of the step is step_size (l - mean l), in p (chi-squared) or log p up to a constant (kl): every I in turn."""
    n, step_size = 8, 1e-4
    losses = np.random.default_rng(3).uniform(0, 1, n)
    sampler = dro.DROSampler(n, radius=1.0, divergence=kind, step_size=1e-2, backend=backend)
    sampler.update(np.arange(4), losses[:4])
    options = {"radius": 1.0, "divergence": kind, "step_size": step_size}
    start = sampler.probabilities()
    moves = []
    for i in range(n):
        one = dro.DROSampler(n, **options, backend=backend)
        one.update(np.arange(4), losses[:4] * 100)  # the same point
        np.testing.assert_allclose(one.probabilities(), start, atol=1e-16)
        one.update(np.array([i]), losses[[i]])
        p = one.probabilities()
        moves.append(p - start if kind == "chi2" else np.log(p / start) - np.log(p / start).min())
    mean = start @ np.array(moves)
    expected = step_size * (losses - losses.mean() if kind == "chi2" else losses)
    np.testing.assert_allclose(mean, expected, atol=1e-14)


def busy_sampler(kind: str, n: int = 400, *, floor: float = 0.1, steps: int = 400, backend: str | None = None) -> dro.DROSampler:
    sampler, _ = sampler_of(n, 1.0, floor, kind, gain=3.0, seed=8, backend=backend)
    losses = np.random.default_rng(8).exponential(1.0, n) ** 2
    for _ in range(steps):
        index = sampler.sample(16)
        sampler.update(index, losses[index])
    return sampler


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_a_million_draws_fit_the_probabilities(kind: str, floor: float) -> None:
    sampler = busy_sampler(kind, floor=floor)
    p = sampler.probabilities()
    assert p.max() > 3 * np.median(p)
    counts = np.zeros(400)
    for size in (1, 2, 256, 999_741):
        counts += np.bincount(sampler.sample(size), minlength=400)
    assert fit(counts, p / p.sum()) > CHANCE
    losses = np.random.default_rng(9).standard_normal(400)
    gradients = losses[sampler.sample(1_000_000)]  # the plain average over draws is the robust gradient
    assert abs(gradients.mean() - p @ losses) <= 4 * gradients.std() / 1e3


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_the_reference_has_the_same_probabilities_and_its_draws_fit(kind: str) -> None:
    samplers = [sampler_of(60, 0.5, 0.1, kind, gain=2.0, backend=name)[0] for name in ("cpu", "reference")]
    rng = np.random.default_rng(10)
    for _ in range(50):
        index, loss = rng.integers(0, 60, 5), rng.exponential(1.0, 5)
        for sampler in samplers:
            sampler.update(index, loss)
    cpu, slow = (sampler.probabilities() for sampler in samplers)
    np.testing.assert_allclose(cpu, slow, atol=1e-11 / 60)
    assert fit(np.bincount(samplers[1].sample(100_000), minlength=60), slow / slow.sum()) > CHANCE


@pytest.mark.parametrize("kind, radius, floor", [("chi2", 1.0, 0.0), ("chi2", 3.0, 0.2), ("kl", 1.0, 0.1)])
def test_five_million_draws_and_updates_do_not_drift(kind: str, radius: float, floor: float) -> None:
    n, batch = 1000, 250
    sampler, options = sampler_of(n, radius, floor, kind, gain=5.0, seed=11)
    losses = np.random.default_rng(11).exponential(1.0, n)
    for step in range(20_000 if kind == "chi2" else 2000):
        index = sampler.sample(batch)
        if step % 1000 == 999:
            before = sampler.probabilities()
        sampler.update(index, losses[index])
        if step % 1000 == 999:
            p = sampler.probabilities()
            expected = oracle.mirror_step(before, index, losses[index], **options)
            assert n * np.abs(p - expected).max() < 1e-11
            assert abs(p.sum() - 1) < 1e-12 and p.min() >= floor / n * (1 - 1e-12)
            assert divergence(p, kind) * (1 - 1e-12) <= radius


@pytest.mark.parametrize("kind", ["chi2", "kl"])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_samplers_of_many_examples(kind: str, floor: float) -> None:
    n = 50_000
    sampler, options = sampler_of(n, 0.5, floor, kind, gain=30.0, seed=17)
    losses = np.random.default_rng(17).exponential(1.0, n)
    for step in range(800):
        index = sampler.sample(64)
        before = sampler.probabilities() if step % 199 == 198 else None
        sampler.update(index, losses[index])
        if before is not None:
            expected = oracle.mirror_step(before, index, losses[index], **options)
            assert n * np.abs(sampler.probabilities() - expected).max() < 1e-11
    p = sampler.probabilities()
    assert p.max() * n > 5 and abs(p.sum() - 1) < 1e-12 and divergence(p, kind) <= 0.5 * (1 + 1e-11)
    assert p[losses > 2].mean() > p[losses < 1].mean()


def test_single_draws_for_long_do_not_drift(backend: str) -> None:
    """One at a time: rebuilds and prunings come by count."""
    sampler, options = sampler_of(10, 2.0, 0.0, gain=8.0, seed=12, backend=backend)
    losses = np.linspace(0.0, 1.0, 10)
    for _ in range(100_000 if backend == "cpu" else 500):
        index = sampler.sample(1)
        sampler.update(index, losses[index])
    before, index = sampler.probabilities(), sampler.sample(1)
    sampler.update(index, losses[index])
    expected = oracle.mirror_step(before, index, losses[index], **options)
    assert 10 * np.abs(sampler.probabilities() - expected).max() < 1e-11
    assert abs(sampler.probabilities().sum() - 1) < 1e-12


@pytest.mark.parametrize("kind", ["chi2", "kl"])
@pytest.mark.parametrize("loss", [1e-300, 1e-12, 1e6, 1e300])
def test_losses_of_any_size(kind: str, loss: float, backend: str) -> None:
    sampler = dro.DROSampler(12, radius=0.7, divergence=kind, floor=0.1, step_size=0.01, seed=13, backend=backend)
    for _ in range(200):
        index = sampler.sample(2)
        sampler.update(index, np.array([loss, 0.5 * loss]))
        p = sampler.probabilities()
        assert np.isfinite(p).all() and p.min() >= 0.1 / 12 * (1 - 1e-12) and abs(p.sum() - 1) < 1e-12
        assert divergence(p, kind) <= 0.7 * (1 + 1e-11)


def test_in_a_small_ball_no_weight_reaches_zero_and_the_floor_is_idle(backend: str) -> None:
    """n R = 0.3 < 1/2: |n p - 1| <= sqrt(0.6), so a floor up to 1 - sqrt(0.6) changes nothing."""
    n, floor = 40, 0.2
    samplers = [sampler_of(n, 0.3 / n, delta, gain=5.0, backend=backend)[0] for delta in (0.0, floor)]
    rng = np.random.default_rng(14)
    for _ in range(200):
        index, loss = rng.integers(0, n, 3), rng.exponential(1.0, 3)
        for sampler in samplers:
            sampler.update(index, loss)
        p, q = (sampler.probabilities() for sampler in samplers)
        assert np.abs(n * p - 1).max() <= math.sqrt(0.6) * (1 + 1e-12)
        np.testing.assert_allclose(p, q, atol=1e-13)


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_a_sampler_copied_in_mid_run_continues_bit_equal(kind: str, backend: str) -> None:
    sampler = busy_sampler(kind, 60, steps=77, backend=backend)
    fresh, _ = sampler_of(60, 1.0, 0.1, kind, gain=3.0, seed=8, backend=backend)
    fresh.load_state_dict(copy.deepcopy(sampler.state_dict()))
    twins = [sampler, pickle.loads(pickle.dumps(sampler)), fresh, copy.deepcopy(sampler)]
    losses = np.random.default_rng(8).exponential(1.0, 60)
    for _ in range(300 if backend == "cpu" else 60):
        drawn = [twin.sample(3) for twin in twins]
        assert all(index.tolist() == drawn[0].tolist() for index in drawn)
        for twin in twins:
            twin.update(drawn[0], losses[drawn[0]])
    assert len({twin.probabilities().tobytes() for twin in twins}) == 1
    assert len({repr(oracle.frozen(twin.state_dict())) for twin in twins}) == 1


def test_a_tree_copied_in_mid_run_continues_bit_equal(backend: str) -> None:
    tree = dro.SumTree(weights_of(77), seed=15, backend=backend)
    tree.sample(13)
    tree.append(np.array([1.0, 0.0, 2.0]))
    fresh = dro.SumTree(3, backend=backend)
    fresh.load_state_dict(copy.deepcopy(tree.state_dict()))
    twins = [tree, pickle.loads(pickle.dumps(tree)), fresh, copy.deepcopy(tree)]
    for method in METHODS:
        for twin in twins:
            twin.update(np.array([3, 4, 3]), np.array([1.0, 2.0, 0.25]))
            twin.append(np.array([0.5]))
        assert len({twin.sample(9, method=method).tobytes() for twin in twins}) == 1
    assert len({twin.weights().tobytes() for twin in twins}) == 1
    assert len({repr(oracle.frozen(twin.state_dict())) for twin in twins}) == 1
    twins[1].update(0, 5.0)
    assert tree.weights(0) != 5.0 and fresh.weights(0) != 5.0


# ----------------------------------------------------------------------------------------------------- the saddle point


class Regression:
    """l_i(x) = (a_i x - b_i)^2 / 2 with an outlier, n = 12, d = 2, |x| <= 4: its robust value by an exact solver."""

    def __init__(self, kind: str, radius: float, floor: float) -> None:
        rng = np.random.default_rng(16)
        self.kind, self.radius, self.floor = kind, radius, floor
        self.n, self.a = 12, rng.standard_normal((12, 2)) / 2
        self.b = self.a @ [1.0, -0.5] + 0.2 * rng.standard_normal(12)
        self.b[3] += 1.0

    def losses(self, x: np.ndarray) -> np.ndarray:
        return (self.a @ x - self.b) ** 2 / 2

    def primal(self, x: np.ndarray) -> float:
        """A floor is a mixture with the uniform distribution (chi-squared; kl runs without)."""
        z, rest = self.losses(x), 1 - self.floor
        p = oracle.worst_weights(z, radius=self.radius / rest**2, divergence=self.kind)
        return self.floor * float(z.mean()) + rest * oracle.worst_value(z, p)

    def dual(self, p: np.ndarray) -> float:
        """The least of a weighted sum of squares; its solution lies inside |x| <= 4."""
        x = np.linalg.lstsq(self.a * np.sqrt(p)[:, None], self.b * np.sqrt(p), rcond=None)[0]
        assert np.linalg.norm(x) < 4
        return float(p @ self.losses(x))

    def value(self) -> float:
        options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000}
        found = optimize.minimize(self.primal, [1.0, -0.5], method="Nelder-Mead", options=options)
        return float(found.fun)

    def gap(self, steps: int, seed: int, batch: int = 4) -> tuple[float, float, float]:
        """Averages of x and p over `steps` of mirror descent and ascent: gap, value from above, value from below."""
        step_x, step_p = 4 / math.sqrt(steps), (30 / self.n**2 if self.kind == "chi2" else 40 / self.n) / math.sqrt(steps)
        sampler = dro.DROSampler(self.n, radius=self.radius, divergence=self.kind, floor=self.floor, step_size=step_p, seed=seed)
        x, mean_x, mean_p = np.zeros(2), np.zeros(2), np.zeros(self.n)
        for _ in range(steps):
            mean_x += x / steps
            mean_p += sampler.probabilities() / steps
            index = sampler.sample(batch)
            residual = self.a[index] @ x - self.b[index]
            sampler.update(index, residual * residual / 2)
            x = x - step_x / batch * (residual @ self.a[index])
            x *= min(1.0, 4 / float(np.linalg.norm(x)))
        high, low = self.primal(mean_x), self.dual(mean_p)
        return high - low, high, low


@pytest.mark.parametrize("kind, radius, floor", [("chi2", 0.5, 0.1), ("kl", 0.4, 0.0)])
def test_the_duality_gap_of_averages_falls_like_one_over_root_t(kind: str, radius: float, floor: float) -> None:
    problem = Regression(kind, radius, floor)
    value = problem.value()
    lengths = [100, 400, 1600, 6400]
    gaps = np.array([[problem.gap(steps, seed) for seed in range(5)] for steps in lengths])
    # weak duality, whatever happened
    assert (gaps[:, :, 0] >= -1e-12).all()
    assert (gaps[:, :, 1] >= value - 1e-9).all() and (gaps[:, :, 2] <= value + 1e-9).all()
    # Regret bounds the gap by C / sqrt T; curvature may let it fall faster, averages from a fixed start never faster than 1 / T.
    # Single gaps vary by a third, means of 5 by 15%: over log 64 that is 0.05 of slope, and two and a half times it is allowed.
    mean = gaps[:, :, 0].mean(axis=1)
    slope = np.polyfit(np.log(lengths), np.log(mean), 1)[0]
    assert -1.0 < slope < -0.5 + 0.12, (slope, mean)
    assert (gaps[-1, :, 0] < 0.04 * value).all()  # between the bounds lies the solver's value
