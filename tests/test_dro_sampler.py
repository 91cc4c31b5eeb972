"""DROSampler against its reference, its invariants, its edges, and its state."""

from __future__ import annotations

import copy
import functools
import pickle
import threading

import numpy as np
import pytest

from fastgd import _native, random
from fastgd.dro import DROSampler
from fastgd.dro.sampler import cpu

DIVERGENCES = ("chi2", "kl")
#: (n, radius, floor, step_size): small and large balls, with and without floors, sparse p, huge and tiny steps
SETTINGS = [
    (20, 0.5, 0.0, 0.02), (50, 5.0, 0.1, 0.01), (200, 0.05, 0.2, 1e-4), (100, 30.0, 0.05, 0.01), (37, 1.0, 0.3, 0.01),
    (9, 100.0, 0.0, 0.3), (7, 0.2, 0.0, 1e3), (1000, 0.01, 0.0, 1e-6), (5, 1e-6, 0.0, 1e-3), (64, 2.0, 0.9, 1e-3),
    (2, 0.1, 0.0, 0.1), (3, 1e-12, 0.5, 1.0), (513, 1.0, 1e-6, 1e-4),
]


def losses(rng: np.random.Generator, size: int, step: int) -> np.ndarray:
    """Now and then 0, now and then large."""
    return rng.exponential(size=size) * (0.0 if step % 17 == 3 else 1e3 if step % 97 == 5 else 1.0)


def run(sampler: DROSampler, steps: int, seed: int = 0, most: int = 4) -> None:
    rng = np.random.default_rng(seed)
    for step in range(steps):
        index = sampler.sample(int(rng.integers(1, most)))
        sampler.update(index, losses(rng, len(index), step))


def check_invariants(sampler: DROSampler) -> None:
    p, n = sampler.probabilities(), sampler.n
    assert abs(p.sum() - 1.0) < 1e-12
    assert p.min() >= sampler.floor / n * (1.0 - 1e-14)
    value = sampler.divergence_value()
    # like a mean of squares about 1: moving every t = n p by eps moves D by up to eps sqrt(2 D)
    assert value <= sampler.radius * (1.0 + 1e-12) + 1e-15 * np.sqrt(2.0 * sampler.radius)
    t = n * p
    direct = np.mean((t - 1.0) ** 2) / 2.0 if sampler.divergence == "chi2" else _kl(t)
    assert abs(direct - value) <= 1e-12 * value + 1e-15 * np.sqrt(2.0 * value) * max(1.0, t.max()) + 1e-30


def _kl(t: np.ndarray) -> float:
    logs = np.log(np.where(t > 0.0, t, 1.0))
    return float(np.mean(np.where(t > 0.0, t * logs - np.expm1(logs), 1.0)))


def check_heap(sampler: DROSampler) -> None:
    """The heap, the positions and the tree's sums and counts agree with each other."""
    w = sampler._kernel._w
    m, tree = w.active, w.tree
    for k in range(m):
        assert w.slot[w.item[k]] == k + 1 and w.key[k] == tree.data[w.item[k]] > w.s
        assert k == 0 or w.key[k] >= w.key[(k - 1) // 8]
    leaves = np.array([tree.data[i] for i in range(sampler.n)])
    assert np.count_nonzero(leaves) == m == sum(w.slot[i] > 0 for i in range(sampler.n))
    for level in range(1, tree.levels):
        size = (sampler.n + 8**level - 1) // 8**level
        for node in range(size):
            below = leaves[node * 8**level : (node + 1) * 8**level]
            assert w.count[tree.first[level] - tree.first[1] + node] == np.count_nonzero(below)
            assert tree.data[tree.first[level] + node] == pytest.approx(below.sum(), rel=1e-14)
    assert w.sum == pytest.approx(leaves.sum(), rel=1e-9) and w.square == pytest.approx((leaves**2).sum(), rel=1e-9)


def check_bins(sampler: DROSampler) -> None:
    """Every active element stands in the bin of its z, and the moments are those of the bin's elements."""
    w = sampler._kernel._w
    assert w.start[0] == 0 and w.start[w.top + 1] == w.active
    for b in range(w.top + 1):
        items = [w.item[k] for k in range(w.start[b], w.start[b + 1])]
        tau = np.array([w.z[i] for i in items]) / w.width - (w.base + b)
        assert all(w.slot[i] == k + 1 for k, i in zip(range(w.start[b], w.start[b + 1]), items, strict=True))
        assert (tau < 1.0).all() and (b == 0 or (tau >= 0.0).all())
        if b > 0 or w.base == 0:
            exact = (tau[:, None] ** np.arange(16)).sum(axis=0)
            assert np.allclose(list(w.moment[b]), exact, rtol=0.0, atol=1e-12 * max(1, len(items)))
        if b == w.heaped:
            assert w.start[b] == 0 and all(tau[k] >= tau[(k - 1) // 4] for k in range(1, len(tau)))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_follows_the_reference(divergence: str, setting: tuple[int, float, float, float]) -> None:
    n, radius, floor, step_size = setting
    sampler, oracle = (
        DROSampler(n, radius=radius, floor=floor, divergence=divergence, step_size=step_size, seed=1, backend=backend)
        for backend in ("cpu", "reference")
    )
    rng = np.random.default_rng(2)
    for step in range(400):
        index = sampler.sample(int(rng.integers(1, 4)))
        loss = losses(rng, len(index), step)
        sampler.update(index, loss)
        oracle.update(index, loss)
        if step % 5 == 0:
            assert n * np.abs(sampler.probabilities() - oracle.probabilities()).max() < 1e-11
            check_invariants(sampler)
        if step % 50 == 0 and n <= 200:
            (check_heap if divergence == "chi2" else check_bins)(sampler)


@pytest.mark.parametrize("setting", SETTINGS[:5], ids=str)
def test_five_thousand_steps_against_sorting(setting: tuple[int, float, float, float]) -> None:
    n, radius, floor, step_size = setting
    sampler, oracle = (DROSampler(n, radius=radius, floor=floor, step_size=step_size, seed=3, backend=backend)
                       for backend in ("cpu", "reference"))
    rng = np.random.default_rng(4)
    for _ in range(5000):
        index, loss = sampler.sample(1), rng.exponential(size=1)
        sampler.update(index, loss)
        oracle.update(index, loss)
    assert n * np.abs(sampler.probabilities() - oracle.probabilities()).max() < 1e-11
    check_invariants(sampler)
    check_heap(sampler)


@pytest.mark.parametrize("divergence, n, radius, step_size", [
    ("chi2", 10**4, 1.0, 1e-8), ("chi2", 1000, 12.0, 1e-6), ("kl", 10**4, 1.0, 1e-6),
])
def test_no_drift_in_five_million_draws(divergence: str, n: int, radius: float, step_size: float) -> None:
    sampler = DROSampler(n, radius=radius, floor=0.1, divergence=divergence, step_size=256 * step_size)
    loss = np.random.default_rng(5).exponential(size=(64, 256))
    draws = 5_000_000 if divergence == "chi2" and n == 10**4 else 1_000_000
    for step in range(draws // 256):
        sampler.update(sampler.sample(256), loss[step % 64])
    check_invariants(sampler)
    if divergence == "kl":
        check_bins(sampler)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 511, 512, 513, 4097])
def test_sizes(divergence: str, n: int) -> None:
    sampler = DROSampler(n, radius=0.3, divergence=divergence, step_size=0.1 / n)
    assert np.array_equal(sampler.probabilities(), np.full(n, 1.0 / n)) or divergence == "kl"
    run(sampler, 60)
    assert n == 1 or sampler.divergence_value() > 0.0
    check_invariants(sampler)
    index = sampler.sample(1000)
    assert index.dtype == np.int64 and index.shape == (1000,) and index.min() >= 0 and index.max() < n
    assert (sampler.probability(index) > 0.0).all()
    assert np.array_equal(sampler.probability(np.arange(n)), sampler.probabilities())


@pytest.mark.parametrize("divergence", [*DIVERGENCES, 1.5])
def test_balls_without_effect(divergence: str | float) -> None:
    """Radius 0, or too small to show: p stays uniform. A radius that no distribution reaches: never in the way."""
    for radius in (0.0, 1e-40):
        sampler = DROSampler(6, radius=radius, divergence=divergence, step_size=1.0)
        run(sampler, 5)
        assert np.allclose(sampler.probabilities(), 1 / 6, rtol=1e-15, atol=0.0)
    for radius in (2.5, 1e300):
        sampler = DROSampler(6, radius=radius, divergence=divergence, step_size=1e3)
        sampler.update(np.array([2]), np.array([1e3]))
        assert np.allclose(sampler.probabilities(), np.arange(6) == 2, atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_many_in_one_batch(divergence: str) -> None:
    """Duplicates add; order does not matter but for rounding; a batch beyond any buffer works."""
    first, second, oracle = (
        DROSampler(40, radius=0.4, floor=0.05, divergence=divergence, step_size=0.02, backend=backend)
        for backend in ("cpu", "cpu", "reference")
    )
    rng = np.random.default_rng(6)
    for _ in range(20):
        index, loss = rng.integers(0, 40, 3000), rng.exponential(size=3000)
        first.update(index, loss)
        second.update(index[::-1], loss[::-1])
        oracle.update(index, loss)
    assert np.allclose(first.probabilities(), second.probabilities(), rtol=1e-12)
    assert np.allclose(first.probabilities(), oracle.probabilities(), rtol=1e-11)


def test_gains_of_duplicates_are_capped_together() -> None:
    pair = [DROSampler(1000, radius=1e9, divergence="kl", step_size=1.0, backend=backend) for backend in ("cpu", "reference")]
    for sampler in pair:
        sampler.update(np.array([3, 3, 5, 3]), np.array([1.0, 1.0, 0.04, 1.0]))  # gains of 250 each, and of 10
        p = sampler.probabilities()
        assert p[5] / p[0] == pytest.approx(np.exp(10.0), rel=1e-12)
        assert p[3] / p[0] == pytest.approx(np.exp(50.0), rel=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_extreme_losses(divergence: str, floor: float) -> None:
    """Finite results, or an error that changes nothing."""
    pair = [DROSampler(30, radius=1.0, floor=floor, divergence=divergence, step_size=1.0, backend=backend)
            for backend in ("cpu", "reference")]
    rng = np.random.default_rng(7)
    for loss in (1e-300, 1e300, 1.0, 1e200, 1e-200, 1e150, 5e-324, 1e307, 1.7e308, 1.0):
        index, both = pair[0].sample(2), np.array([loss, rng.random()])
        before = pickle.dumps(pair[0])
        for sampler in pair:
            try:
                sampler.update(index, both)
            except ValueError as error:
                assert "overflows" in str(error) and loss >= 1e307
                assert sampler is not pair[0] or pickle.dumps(pair[0]) == before
        check_invariants(pair[0])
        p, q = (sampler.probabilities() for sampler in pair)
        assert np.isfinite(p).all() and np.abs(p - q).max() < 1e-12


def test_equal_gains_share_whatever_their_size() -> None:
    """A ball that never binds and gains that swallow what p was: the largest ones share alike, in the reference too."""
    for backend in ("cpu", "reference"):
        for size in (1e3, 1e8, 1e17, 1e40, 1e200):
            sampler = DROSampler(9, radius=1e9, floor=0.1, step_size=size, backend=backend)
            for _ in range(3):
                sampler.update([2, 5, 7], [1.0, 1.0, 0.25])
            p = sampler.probabilities()
            assert np.allclose(p[[2, 5]], 0.1 / 9 + 0.45, rtol=1e-13) and np.allclose(np.delete(p, [2, 5]), 0.1 / 9, rtol=1e-13)


@pytest.mark.parametrize("step_size", [1.0, 1e8, 1e30])
@pytest.mark.parametrize("radius", [0.3, 2.0, 1e6])
def test_huge_steps(radius: float, step_size: float) -> None:
    """p is a distribution after every step, also where gains have no digit in common with p."""
    for n in (2, 3, 8, 9, 65, 700):
        for divergence in DIVERGENCES:
            sampler = DROSampler(n, radius=radius, floor=0.5, divergence=divergence, step_size=step_size)
            rng = np.random.default_rng(11)
            for step in range(40):
                index = sampler.sample(1 + step % 8)
                sampler.update(index, rng.exponential(size=len(index)) * (1e6 if step % 9 == 5 else 1.0))
                check_invariants(sampler)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_far_apart(divergence: str) -> None:
    """Thousands of doublings between probabilities: no ball, then the same with one that pulls all back."""
    for radius in (1e6, 0.3):
        pair = [DROSampler(700, radius=radius, divergence=divergence, step_size=30.0, backend=backend)
                for backend in ("cpu", "reference")]
        rng = np.random.default_rng(8)
        for step in range(150):
            index = pair[0].sample(3)
            loss = rng.exponential(size=3) * (1e-4 if step % 40 > 30 else 1.0)
            for sampler in pair:
                sampler.update(index, loss)
            assert np.abs(pair[0].probabilities() - pair[1].probabilities()).max() < 1e-12
            check_invariants(pair[0])


@pytest.mark.parametrize("divergence", [*DIVERGENCES, 3.0])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_state_continues_bit_by_bit(divergence: str | float, backend: str) -> None:
    sampler = DROSampler(80, radius=0.7, floor=0.1, divergence=divergence, step_size=0.01, seed=9, backend=backend)
    run(sampler, 120)
    loaded = DROSampler(80, radius=0.7, floor=0.1, divergence=divergence, step_size=0.01, seed=9, backend=backend)
    run(loaded, 7, seed=1)
    loaded.load_state_dict(sampler.state_dict())
    others = [pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler), loaded]
    run(sampler, 300, seed=10)
    for other in others:
        run(other, 300, seed=10)
        assert np.array_equal(other.probabilities(), sampler.probabilities())
        assert np.array_equal(other.sample(100), copy.deepcopy(sampler).sample(100))
        assert pickle.dumps(other.state_dict()["drawn"]) == pickle.dumps(sampler.state_dict()["drawn"] + 100)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_damaged_states_are_refused(divergence: str) -> None:
    sampler = DROSampler(50, radius=0.7, floor=0.1, divergence=divergence, step_size=0.01)
    run(sampler, 100)
    state, p = sampler.state_dict(), sampler.probabilities()
    damage = [{"item": state["item"] + 50}, {"item": np.zeros_like(state["item"])}, {"z": -state["z"]}, {"z": state["z"][:-1]},
              {"z": state["z"][::-1].copy()}, {"active": 1}, {"a": float("nan")}, {"s": -1.0}, {"drawn": -1}, {"n": 51},
              {"backend": "reference"}, {"version": 2}, {"item": state["item"].astype(np.int64)}]
    if divergence == "kl":
        damage += [{"start": state["start"] + 1}, {"moment": state["moment"][:-1]}, {"top": 600}, {"width": 0.0}, {"heaped": 400},
                   {"taken": -1 - state["taken"]}]
    for change in damage:
        with pytest.raises(ValueError, match="state"):
            sampler.load_state_dict({**state, **change})
    for name in state:
        with pytest.raises(ValueError, match="state"):
            sampler.load_state_dict({key: value for key, value in state.items() if key != name})
    assert np.array_equal(sampler.probabilities(), p)


@pytest.mark.parametrize("divergence", [*DIVERGENCES, 2.5])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_errors_change_nothing(divergence: str | float, backend: str) -> None:
    sampler = DROSampler(12, radius=100.0, divergence=divergence, step_size=1.0, backend=backend)
    sampler.update(np.array([4]), np.array([1e5]))
    if divergence != "kl":
        assert sampler.probability(0) == 0.0
    before = pickle.dumps(sampler)
    for index, loss, message in [
        ([4, 12], [1.0, 1.0], "index must be from 0 to 11, got 12 at position 1"), ([-1], [1.0], "got -1 at position 0"),
        ([4, 4], [1.0, -1e-9], "subtract a lower bound"), ([4], [np.inf], "finite"),
        ([4, 4], [np.nan, 1.0], "got nan at position 0"),
        ([4, 4], [1.0], "same length"), ([[4]], [[1.0]], "one dimension"),
        *([([4, 0], [1.0, 1.0], "index 0 at position 1 has probability 0")] if divergence != "kl" else []),
    ]:
        with pytest.raises(ValueError, match=message):
            sampler.update(np.array(index), np.array(loss))
        assert pickle.dumps(sampler) == before
    for index, loss in [([0.5], [1.0]), ([True], [1.0]), ([4], ["a"]), ([4], [1j]), (np.ma.array([4]), [1.0])]:
        with pytest.raises(TypeError):
            sampler.update(index, loss)
    for index in (12, [-1], np.uint64(2**63)):
        with pytest.raises(ValueError, match="index"):
            sampler.probability(index)
    for size in (-1, 2**70):
        with pytest.raises((ValueError, MemoryError)):
            sampler.sample(size)
    assert pickle.dumps(sampler) == before
    sampler.update([], [])
    assert len(sampler.sample(0)) == 0 and pickle.dumps(sampler) == before


@pytest.mark.parametrize("arguments, error", [
    ({"n": 0}, ValueError), ({"n": 2**31}, ValueError), ({"n": 2.0}, TypeError), ({"radius": -1.0}, ValueError),
    ({"radius": np.nan}, ValueError), ({"radius": "1"}, TypeError), ({"floor": 1.0}, ValueError), ({"floor": -0.1}, ValueError),
    ({"step_size": 0.0}, ValueError), ({"step_size": np.inf}, ValueError), ({"seed": -1}, ValueError),
    ({"seed": 2**64}, ValueError),
    ({"divergence": "tv"}, ValueError), ({"divergence": 1.0}, ValueError), ({"divergence": 0.5}, ValueError),
    ({"divergence": None}, TypeError), ({"backend": "gpu"}, ValueError),
])
def test_arguments(arguments: dict[str, object], error: type[Exception]) -> None:
    name = next(iter(arguments))
    with pytest.raises(error, match=name):
        DROSampler(**{"n": 4, "radius": 0.1, "step_size": 0.1, **arguments})


def test_index_and_loss_of_other_kinds() -> None:
    samplers = [DROSampler(4, radius=0.1, step_size=0.1) for _ in range(4)]
    samplers[0].update(np.array([1, 2]), np.array([1.0, 2.0]))
    samplers[1].update([1, 2], [1, 2])
    samplers[2].update(np.array([1, 9, 2], np.int32)[::2], np.array([1.0, 2.0], np.float32))
    samplers[3].update(np.array([1, 2], np.uint64), np.array([2, 1], np.int8)[::-1])
    assert all(np.array_equal(samplers[0].probabilities(), other.probabilities()) for other in samplers[1:])
    samplers[0].update(3, 0.5)
    assert samplers[0].probability(3).shape == () and samplers[0].probability([[0, 3]]).shape == (1, 2)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_draws_do_not_depend_on_how_they_are_asked_for(divergence: str) -> None:
    def made() -> DROSampler:
        sampler = DROSampler(300, radius=0.5, divergence=divergence, step_size=1e-3, seed=2**63 + 5)
        run(sampler, 50, most=20)
        return sampler

    one, many = made(), made()
    assert np.array_equal(one.sample(1000), np.concatenate([many.sample(size) for size in (1, 2, 64, 65, 0, 131, 737)]))


def test_uniform_draws_are_those_of_the_stream() -> None:
    """Before the first update every draw is floor(n u)."""
    words = random.bits32(11, 0, 0, 400).astype(np.uint64)
    u = ((words[0::2] | words[1::2] << np.uint64(32)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    for divergence in DIVERGENCES:
        sampler = DROSampler(1000, radius=1.0, divergence=divergence, step_size=1.0, seed=11)
        assert np.array_equal(sampler.sample(200), np.floor(1000 * u))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_instruction_sets_agree(divergence: str) -> None:
    results = []
    best = _native.lib.fgd_isa_best()
    try:
        for level in range(best + 1):
            _native.lib.fgd_isa_use(level)
            sampler = DROSampler(500, radius=0.5, floor=0.1, divergence=divergence, step_size=1e-3)
            run(sampler, 100, most=100)
            results.append((sampler.probabilities().tobytes(), sampler.sample(100).tobytes()))
    finally:
        _native.lib.fgd_isa_use(best)
    assert len(set(results)) == 1


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_readers_at_once(divergence: str) -> None:
    sampler = DROSampler(2000, radius=0.5, divergence=divergence, step_size=1e-4)
    run(sampler, 100, most=50)
    expected, seen = sampler.probabilities(), []

    def read() -> None:
        seen.append(all(np.array_equal(sampler.probabilities(), expected) for _ in range(50)))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4


@pytest.mark.parametrize("kernel, limit", [(cpu.chi2, 27), (cpu.kl, 17)])
def test_memory(kernel: type, limit: int) -> None:
    n = 10**5
    arrays = kernel(n, 1.0, 0.0, 1.0, 0, 0.0)._keep
    assert sum(len(array) * {"double": 8, "int32_t": 4}[_native.ffi.typeof(array).item.cname] for array in arrays) <= limit * n


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("divergence", ["chi2", "kl"])
def test_one_at_a_time_is_a_batch_of_one(divergence: str, backend: str) -> None:
    """Numbers instead of arrays: the same draws and probabilities, and the same refusals, which change nothing."""
    make = functools.partial(DROSampler, 50, radius=1.0, divergence=divergence, step_size=1e-3, seed=3, backend=backend)
    one, batch = make(), make()
    many = make().sample(40)
    single = make()
    assert np.array_equal(np.concatenate([single.sample(1) for _ in many]), many)
    for index in many:
        one.update(int(index), 0.5)
        batch.update(np.array([index]), np.array([0.5]))
        assert np.array_equal(one.probabilities(), batch.probabilities())
    before = one.probabilities()
    for index, loss in ((-1, 0.5), (50, 0.5), (3, -1.0), (3, float("nan"))):
        with pytest.raises(ValueError, match=r"index|loss"):
            one.update(index, loss)
    assert np.array_equal(one.probabilities(), before)
