"""Laws of `fastgd.dro` that need no second opinion: order, scale, growth and copies; a tree against a plain list."""

from __future__ import annotations

import itertools
import math
import pickle
from fractions import Fraction
from typing import Any

import dro_oracle as oracle
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastgd import dro

pytestmark = pytest.mark.timeout(120)

METHODS = ("iid", "stratified", "systematic", "without_replacement")
quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

#: Any float64 >= 0 whose sums stay finite.
weight = st.one_of(st.just(0.0), st.integers(0, 9).map(float), st.floats(0, 1e300), st.floats(0, 1e-290), st.just(5e-324))
weights = st.lists(weight, min_size=1, max_size=150).map(np.array)
dyadic = st.integers(0, 2**20).map(lambda k: k / 1024)


# -------------------------------------------------------------------------------------------------------------- the tree


@quick
@given(weights, st.integers(0, 2**32))
def test_finds_and_prefixes_agree(w: np.ndarray, seed: int) -> None:
    """A found leaf is positive, the tree's own walk to the bit, and right in exact arithmetic up to the rounding of prefixes."""
    tree, levels = dro.SumTree(w), oracle.levels(w.tolist())
    assert tree.total == oracle.block_sum(levels[-1])
    if tree.total == 0:
        return
    masses = np.minimum(np.random.default_rng(seed).uniform(0, 1, 20) * tree.total, np.nextafter(tree.total, 0))
    found = tree.find(masses)
    assert (w[found] > 0).all() and found.tolist() == [oracle.descend(levels, float(mass)) for mass in masses]
    exact = [Fraction(0), *itertools.accumulate(Fraction(float(x)) for x in w)]
    # each of the (at most 3) levels adds at most 8 numbers and subtracts once: 9 roundings of numbers below the total a level
    error = Fraction(tree.total) * 27 / 2**53 + Fraction(5e-324)
    for mass, i in zip(masses.tolist(), found.tolist(), strict=True):
        assert exact[i] - error <= Fraction(mass) < exact[i + 1] + error


@quick
@given(weights, st.data())
def test_sums_add_up(w: np.ndarray, data: st.DataObject) -> None:
    tree = dro.SumTree(w)
    lo, mid, hi = sorted(data.draw(st.lists(st.integers(0, len(w)), min_size=3, max_size=3)))
    assert tree.sum(lo, hi) == pytest.approx(tree.sum(lo, mid) + tree.sum(mid, hi), rel=64 * 2.0**-52, abs=0)
    assert tree.sum(lo, hi) == pytest.approx(math.fsum(w[lo:hi]), rel=64 * 2.0**-52, abs=0)
    assert tree.sum(lo, mid) <= tree.sum(lo, hi) * (1 + 64 * 2.0**-52)
    assert [tree.sum(i, i + 1) for i in range(len(w))] == w.tolist()
    assert tree.sum(0, len(w)) == pytest.approx(tree.total, rel=64 * 2.0**-52, abs=0)


@quick
@given(st.lists(weight, min_size=1, max_size=90), st.lists(st.lists(weight, max_size=40), max_size=5), st.integers(0, 2**63))
def test_a_grown_tree_is_the_fresh_one(first: list[float], more: list[list[float]], seed: int) -> None:
    grown = dro.SumTree(np.array(first), seed=seed)
    for part in more:
        grown.append(np.array(part, float))
    w = np.array([*first, *itertools.chain(*more)])
    fresh = dro.SumTree(w, seed=seed)
    assert grown.n == fresh.n == len(w) and grown.total == fresh.total and grown.weights().tobytes() == fresh.weights().tobytes()
    if fresh.total > 0:
        for method in METHODS:
            size = min(5, int((w > 0).sum()))
            assert grown.sample(size, method=method).tolist() == fresh.sample(size, method=method).tolist()
    assert [grown.sum(0, i) for i in range(len(w) + 1)] == [fresh.sum(0, i) for i in range(len(w) + 1)]


def test_growth_by_ones_passes_every_size() -> None:
    rng = np.random.default_rng(0)
    w = rng.exponential(1.0, 700)
    grown = dro.SumTree(w[:1], seed=4)
    for n in range(2, 701):
        grown.append(w[n - 1 : n])
        if n % 64 in (0, 1, 63) or n < 20 or n > 695:
            fresh = dro.SumTree(w[:n], seed=4)
            assert grown.n == n and grown.total == fresh.total and grown.find(grown.total / 2) == fresh.find(fresh.total / 2)
    assert grown.sample(50).tolist() == dro.SumTree(w, seed=4).sample(50).tolist()


@pytest.mark.parametrize("n", [1, 8, 9, 64, 65, 513, 5000])
def test_the_way_to_the_weights_leaves_no_trace(n: int) -> None:
    """Updates one by one, in any order, as one batch, after detours, or by construction: the same bits."""
    rng = np.random.default_rng(n)
    w = rng.exponential(1.0, n) * 10.0 ** rng.integers(-8, 9, n) * (rng.uniform(size=n) < 0.7)
    w[0] = 1.0
    fresh = dro.SumTree(w)
    one_by_one, batch, reverse, detour, pieces = (dro.SumTree(n) for _ in range(5))
    for i in rng.permutation(n)[:2000].tolist():
        one_by_one.update(i, w[i])
    one_by_one.update(np.arange(n), w)
    batch.update(np.arange(n), w)
    reverse.update(np.arange(n)[::-1], w[::-1])
    detour.update(np.arange(n), np.full(n, 1e290))
    detour.update(np.r_[np.arange(n), np.arange(n)], np.r_[np.ones(n), w])
    for part in np.array_split(rng.permutation(n), min(n, 7)):
        pieces.update(part, w[part])
    for tree in (one_by_one, batch, reverse, detour, pieces):
        assert tree.total == fresh.total and tree.weights().tobytes() == w.tobytes()
        masses = rng.uniform(0, tree.total, 40)
        assert tree.find(masses).tolist() == fresh.find(masses).tolist()
    left = dro.SumTree(n)
    for i in range(min(n, 600)):
        left.update(i, w[i])
    if n <= 600:
        assert left.total == fresh.total and left.sum(0, n) == fresh.sum(0, n)


@pytest.mark.parametrize("scale", [2.0**-900, 2.0**-30, 2.0**30, 2.0**900])
def test_scaled_weights_draw_the_same(scale: float) -> None:
    w = np.random.default_rng(1).exponential(1.0, 300)
    one, other = dro.SumTree(w, seed=5), dro.SumTree(w * scale, seed=5)
    assert other.total == one.total * scale
    for method in METHODS:
        assert one.sample(100, method=method).tolist() == other.sample(100, method=method).tolist()


def test_zeros_between_change_the_names_only() -> None:
    """Whole blocks of zeros in front: every walk below them is the same."""
    w = np.random.default_rng(2).exponential(1.0, 64)
    one, shifted = dro.SumTree(w, seed=6), dro.SumTree(np.r_[np.zeros(64), w, np.zeros(100)], seed=6)
    assert shifted.total == one.total
    for method in METHODS:
        assert (shifted.sample(30, method=method) - 64).tolist() == one.sample(30, method=method).tolist()


def test_a_stream_does_not_depend_on_how_it_is_cut() -> None:
    w = np.random.default_rng(3).exponential(1.0, 777)
    whole, parts = dro.SumTree(w, seed=7), dro.SumTree(w, seed=7)
    cut = [parts.sample(size) for size in (1, 2, 3, 250, 0, 255, 256, 257, 1)]
    assert np.concatenate(cut).tolist() == whole.sample(1025).tolist()
    assert whole.sample(20).tolist() != dro.SumTree(w, seed=7).sample(20).tolist()
    assert dro.SumTree(w, seed=8).sample(20).tolist() != dro.SumTree(w, seed=7).sample(20).tolist()


def test_reading_draws_nothing() -> None:
    one, other = (dro.SumTree(np.arange(1.0, 50), seed=9) for _ in range(2))
    one.find(np.arange(5.0))
    one.weights()
    one.sum(3, 9)
    one.state_dict()
    pickle.dumps(one)
    one.update(3, 4.0)
    assert one.sample(9).tolist() == other.sample(9).tolist()


class TreeMachine(RuleBasedStateMachine):
    """A tree and a list. Weights are multiples of 1/1024, so sums are exact in any order."""

    @initialize(weights=st.lists(dyadic, min_size=1, max_size=80), seed=st.integers(0, 2**64 - 1))
    def start(self, weights: list[float], seed: int) -> None:
        self.tree, self.model, self.seed, self.drawn = dro.SumTree(np.array(weights), seed=seed), list(weights), seed, 0

    def index(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.model) - 1))

    @rule(data=st.data(), value=dyadic)
    def update_one(self, data: st.DataObject, value: float) -> None:
        i = self.index(data)
        self.tree.update(i, value)
        self.model[i] = value

    @rule(data=st.data(), values=st.lists(dyadic, max_size=200))
    def update_many(self, data: st.DataObject, values: list[float]) -> None:
        index = [self.index(data) for _ in values]
        self.tree.update(np.array(index, np.int64), np.array(values, float))
        for i, value in zip(index, values, strict=True):
            self.model[i] = value

    @rule(values=st.lists(dyadic, max_size=60))
    def append(self, values: list[float]) -> None:
        if len(self.model) < 900:
            self.tree.append(np.array(values, float))
            self.model += values

    @rule()
    def clear(self) -> None:
        self.tree.update(np.arange(len(self.model)), np.zeros(len(self.model)))
        self.model = [0.0] * len(self.model)

    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        total = sum(self.model)
        if total:
            mass = data.draw(st.integers(0, int(total * 1024) - 1)) / 1024
            assert [self.tree.find(mass)] == oracle.exact_find(self.model, [mass])

    @rule(data=st.data())
    def sum(self, data: st.DataObject) -> None:
        lo, hi = sorted(data.draw(st.lists(st.integers(0, len(self.model)), min_size=2, max_size=2)))
        assert self.tree.sum(lo, hi) == sum(self.model[lo:hi])

    @rule(size=st.integers(0, 12), method=st.sampled_from(METHODS))
    def sample(self, size: int, method: str) -> None:
        positive = sum(w > 0 for w in self.model)
        if method == "without_replacement":
            size = min(size, positive)
        if positive and size:
            expected = oracle.draws(self.model, size, method, self.seed, self.drawn)
            assert self.tree.sample(size, method=method).tolist() == expected
            self.drawn += 1 if method == "systematic" else size
        elif size:
            oracle.refuses(["total", "weights", "weight", "size"], self.tree.sample, size, method=method)

    @rule(bad=st.sampled_from([(-1, 1.0), (10**6, 1.0), (0, -1.0), (0, math.nan), (0, math.inf)]))
    def refuse(self, bad: tuple[int, float]) -> None:
        oracle.refuses(["index", "weight", "weights"], self.tree.update, np.array([0, bad[0]]), np.array([5.0, bad[1]]))

    @rule()
    def copy(self) -> None:
        old, self.tree = self.tree, pickle.loads(pickle.dumps(self.tree))
        old.update(0, 77.0)

    @rule()
    def load(self) -> None:
        other = dro.SumTree(3)
        other.load_state_dict(self.tree.state_dict())
        self.tree = other

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "tree"):
            assert self.tree.n == len(self.model) and self.tree.total == sum(self.model)
            assert self.tree.weights().tolist() == self.model


TestTreeMachine = TreeMachine.TestCase
TestTreeMachine.settings = settings(quick, max_examples=30, stateful_step_count=25)


# ----------------------------------------------------------------------------------------------------------- the sampler


def make(kind: str, n: int = 24, **kw: Any) -> dro.DROSampler:
    step_size = 0.004 if kind == "chi2" else 0.1
    return dro.DROSampler(n, **{"radius": 0.5, "divergence": kind, "floor": 0.1, "step_size": step_size} | kw)


kinds = pytest.mark.parametrize("kind", ["chi2", "kl"])


@kinds
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_renamed_examples_have_renamed_probabilities(kind: str, floor: float) -> None:
    rng = np.random.default_rng(0)
    names = rng.permutation(24)
    one, other = make(kind, floor=floor), make(kind, floor=floor)
    for _ in range(300):
        index, loss = rng.integers(0, 24, 3), rng.exponential(1.0, 3)
        index = index[one.probability(index) > 1e-6]
        loss = loss[: len(index)]
        if len(index):
            one.update(index, loss)
            other.update(names[index], loss)
    p, q = one.probabilities(), other.probabilities()
    # each step agrees to rounding; 300 of them, each not expansive but for gains ~ 1 / p, are given a digit each
    np.testing.assert_allclose(q[names], p, atol=1e-11 / 24)


@kinds
def test_losses_and_steps_scale_together(kind: str) -> None:
    rng = np.random.default_rng(1)
    one, other = make(kind, step_size=2.0**-9), make(kind, step_size=2.0**-29)
    for _ in range(200):
        index, loss = rng.integers(0, 24, 4), rng.exponential(1.0, 4)
        one.update(index, loss)
        other.update(index, loss * 2.0**20)
    assert one.probabilities().tobytes() == other.probabilities().tobytes()
    assert one.sample(50).tolist() == other.sample(50).tolist()


@kinds
def test_the_order_within_a_batch_and_splitting_a_loss_do_not_matter(kind: str) -> None:
    rng = np.random.default_rng(2)
    one, other, split = make(kind), make(kind), make(kind)
    for _ in range(100):
        index, loss = rng.integers(0, 24, 6), rng.exponential(1.0, 6)
        order = rng.permutation(6)
        one.update(index, loss)
        other.update(index[order], loss[order])
        split.update(np.r_[index, index], np.r_[loss, loss])  # twice the entries, twice the divisor
    np.testing.assert_allclose(other.probabilities(), one.probabilities(), atol=1e-11 / 24)
    np.testing.assert_allclose(split.probabilities(), one.probabilities(), atol=1e-11 / 24)


@kinds
def test_equal_losses_on_all_keep_the_uniform_distribution(kind: str) -> None:
    one = make(kind)
    for _ in range(50):
        one.update(np.arange(24), np.full(24, 3.0))
    np.testing.assert_allclose(one.probabilities(), 1 / 24, atol=1e-14)
    one.update(np.array([5]), np.array([1.0]))
    p = one.probabilities()
    assert p.argmax() == 5 and np.ptp(np.delete(p, 5)) < 1e-14


@kinds
def test_more_loss_is_more_probability(kind: str) -> None:
    """Raising one loss raises that probability and no other one."""
    rng = np.random.default_rng(3)
    base = make(kind)
    for _ in range(20):
        index, loss = rng.integers(0, 24, 3), rng.exponential(1.0, 3)
        one, other = make(kind), make(kind)
        for twin in (one, other):
            twin.load_state_dict(base.state_dict())
        one.update(index, loss)
        other.update(index, loss + np.eye(3)[0])
        p, q = one.probabilities(), other.probabilities()
        assert q[index[0]] >= p[index[0]] - 1e-15
        base.update(index, loss)
    # the ball is the only coupling that can raise others: none while it is slack
    free, more = make(kind, radius=3.0), make(kind, radius=3.0)
    free.update(np.array([1, 2]), np.array([1.0, 1.0]))
    more.update(np.array([1, 2]), np.array([1.0, 2.0]))
    p, q = free.probabilities(), more.probabilities()
    assert (np.delete(q - p, 2) <= 1e-16).all() and q[2] > p[2]


@kinds
def test_reading_a_sampler_changes_nothing(kind: str) -> None:
    one, other = make(kind, seed=4), make(kind, seed=4)
    for step in range(60):
        index, loss = np.array([step % 24, 3]), np.array([1.0, 2.0])
        one.update(index, loss)
        other.update(index, loss)
        other.probabilities()
        other.probability(np.arange(24))
        other.state_dict()
        pickle.dumps(other)
        assert one.sample(2).tolist() == other.sample(2).tolist()
    assert one.probabilities().tobytes() == other.probabilities().tobytes()


@quick
@given(st.integers(1, 40), st.data())
def test_any_run_stays_in_the_set_and_follows_the_oracle(n: int, data: st.DataObject) -> None:
    radius, floor = data.draw(st.sampled_from([1e-3, 0.3, 2.0, 50.0])), data.draw(st.sampled_from([0.0, 0.05, 0.5]))
    kind, step_size = data.draw(st.sampled_from(["chi2", "kl"])), data.draw(st.sampled_from([1e-3, 0.1, 3.0])) / n**2
    options = {"radius": radius, "divergence": kind, "floor": floor, "step_size": step_size}
    one = dro.DROSampler(n, **options)
    for _ in range(data.draw(st.integers(1, 8))):
        p = one.probabilities()
        usable = np.flatnonzero(p > 1e-9).tolist()
        index = data.draw(st.lists(st.sampled_from(usable), min_size=1, max_size=6))
        loss = data.draw(st.lists(st.floats(0, 100), min_size=len(index), max_size=len(index)))
        one.update(np.array(index), np.array(loss))
        q = one.probabilities()
        expected = oracle.mirror_step(p, index, loss, **options).astype(float)
        # a gain of G costs G ulps in the projection of p + G e
        gain = max(options["step_size"] * x / (len(index) * p[i]) for i, x in zip(index, loss, strict=True))
        np.testing.assert_allclose(q, expected, atol=1e-12 + 32 * 2.0**-52 * gain * (kind == "chi2"))
        assert (q >= floor / n * (1 - 1e-12)).all() and abs(q.sum() - 1) < 1e-12
        assert oracle.divergence(q, kind) <= radius * (1 + 1e-10) + 1e-14


# --------------------------------------------------------------------------------------------------- sets and allocation

numbers = st.lists(st.integers(-(2**20), 2**20).map(lambda k: k / 4096), min_size=1, max_size=60).map(np.array)


@quick
@given(numbers, st.sampled_from(["chi2", "kl"]), st.floats(1e-4, 20), st.sampled_from([0.0, 0.3]), st.data())
def test_projections_keep_order_ties_and_names(x: Any, kind: str, radius: float, floor: float, data: st.DataObject) -> None:
    w = np.exp(x / 256) if kind == "kl" else x
    p = dro.project(w, radius=radius, divergence=kind, floor=floor)
    order = np.array(data.draw(st.permutations(range(len(w)))))
    error = 1e-13 + 2.0**-48 * np.ptp(w) * (kind == "chi2")
    np.testing.assert_allclose(dro.project(w[order], radius=radius, divergence=kind, floor=floor), p[order], atol=error)
    by_size = np.argsort(w, kind="stable")
    assert (np.diff(p[by_size]) >= -1e-16).all()
    assert all(p[i] == p[j] for i, j in itertools.pairwise(by_size) if w[i] == w[j])
    again = dro.project(p, radius=radius, divergence=kind, floor=floor)
    # just outside by rounding, p is moved by as much as D is off: up to 1e-13 / R of its distance to the centre
    np.testing.assert_allclose(again, p, atol=1e-13 * max(1.0, 1 / radius))


@quick
@given(numbers, st.floats(1e-4, 20))
def test_worst_cases_keep_order_and_ties(z: np.ndarray, x: float) -> None:
    for kind in ({"radius": x}, {"radius": x, "divergence": "kl"}, {"penalty": x}, {"penalty": x, "divergence": "kl"},
                 {"penalty": x, "alpha": min(1.0, x / 10), "divergence": "kl-cvar"}):
        p, value = dro.worst_case(z, **kind)
        by_size = np.argsort(z, kind="stable")
        assert (np.diff(p[by_size]) >= -1e-16).all()
        assert all(p[i] == p[j] for i, j in itertools.pairwise(by_size) if z[i] == z[j])
        # the value is above the mean's (the centre) and, for a ball, is the expected loss
        assert value >= z.mean() - 1e-12 * (1 + np.abs(z).max())
        assert "penalty" in kind or value == pytest.approx(p @ z, abs=1e-12 * (1 + np.abs(z).max()))


@quick
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40), st.integers(0, 10**12), st.integers(0, 5))
def test_allocations_of_integers_are_exact(scores: list[int], budget: int, minimum: int) -> None:
    if not any(scores):
        return
    w = np.array(scores, float)
    budget += minimum * len(scores)
    given_ = dro.allocate(w, budget, minimum=minimum)
    assert int(given_.sum()) == budget and given_.tolist() == oracle.allocate(scores, budget, minimum)
    for scale in (2.0**-60, 2.0**60):
        assert dro.allocate(w * scale, budget, minimum=minimum).tolist() == given_.tolist()
    ranked = np.argsort(w, kind="stable")
    assert (np.diff(given_[ranked]) >= -1 * (np.diff(w[ranked]) == 0)).all()
