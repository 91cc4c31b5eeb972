"""bulyan, mda, smea, monna and caf: brute force, papers' bounds, ties, hostile vectors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import robust_oracle as oracle
from robust_oracle import DTYPES, bits, flat_vector, make

from fastgd import _native, robust
from fastgd.robust import cpu, reference, search

nan, inf = np.nan, np.inf

#: Rules that average a subset or weigh by distances; n = 12, f = 2 where a test says no other.
RULES = {
    "bulyan": lambda x, f, **kw: robust.bulyan(x, f, **kw),
    "mda": lambda x, f, **kw: robust.mda(x, f, **kw),
    "smea": lambda x, f, **kw: robust.smea(x, f, **kw),
    "monna": lambda x, f, **kw: robust.monna(x, f, 5, **kw),
    "caf": lambda x, f, **kw: robust.caf(x, f, **kw),
}
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def subsets(n: int, size: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(n), size))


def small_inputs(count: int) -> list[np.ndarray]:
    """Random and integer (tied) vectors, some with one far away."""
    rng = np.random.default_rng(7)
    found = []
    for k in range(count):
        n, d = int(rng.integers(3, 10)), int(rng.integers(1, 5))
        x = rng.integers(-2, 3, (n, d)).astype(float) if k % 2 else rng.standard_normal((n, d))
        if k % 3 == 0:
            x[rng.integers(n)] *= 1e30
        found.append(x)
    return found


# ------------------------------------------------------------------------------------------------- oracles, small n


def top_eigenvalue(x: np.ndarray) -> float:
    """Of the covariance, in d dimensions, as the paper writes it."""
    centred = x - x.mean(0)
    return float(np.linalg.eigvalsh(centred.T @ centred / len(x))[-1])


@pytest.mark.parametrize("x", small_inputs(60))
def test_mda_is_the_first_of_the_best_subsets(x: np.ndarray, backend: str) -> None:
    n = len(x)
    distances = oracle.sqdist(x)
    for f in range((n + 1) // 2):
        best = min(subsets(n, n - f), key=lambda s: (distances[np.ix_(s, s)].max(), s))
        assert search.least_diameter(distances, n - f).tolist() == list(best)
        np.testing.assert_allclose(robust.mda(x, f, backend=backend), x[list(best)].mean(0), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("x", small_inputs(40))
def test_smea_is_the_first_of_the_best_subsets(x: np.ndarray, backend: str) -> None:
    n = len(x)
    for f in range((n + 1) // 2):
        values = {s: top_eigenvalue(x[list(s)]) for s in subsets(n, n - f)}
        least = min(values.values())
        best = min(s for s, value in values.items() if value <= least * (1 + 1e-9) + 1e-14)
        np.testing.assert_allclose(robust.smea(x, f, backend=backend), x[list(best)].mean(0), rtol=1e-13, atol=1e-13)


def test_smea_of_the_line(backend: str) -> None:
    """Two subsets tie: the first one counts (a power iteration from a random start gives either)."""
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    for dtype in DTYPES:
        assert flat_vector(robust.smea(make(x, dtype), 1, backend=backend)).tolist() == [2.5, 3.5, 4.5]


@pytest.mark.parametrize("seed", range(4))
def test_subset_covariance_from_distances(seed: int) -> None:
    """I3: the eigenvalues of a subset's covariance from its distances; I4: their sum."""
    x = normal(7, 11, seed=seed)
    distances = oracle.sqdist(x)
    centred = x - x.mean(0)
    exact = np.sort(np.linalg.eigvalsh(centred.T @ centred))[-6:]
    from_distances = np.sort(np.linalg.eigvalsh(search.centred(distances)))
    np.testing.assert_allclose(from_distances[-6:], exact, rtol=1e-12)
    assert search.scatter(distances) == pytest.approx(exact[-1], rel=1e-12)
    assert (centred**2).sum() == pytest.approx(distances.sum() / 14, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_mda_with_twenty_byzantine_vectors_among_sixty(seed: int) -> None:
    """A search over 60 choose 20 subsets, on graphs where a greedy cover fails; certified by its own optimality."""
    rng = np.random.default_rng(seed)
    distances = 1 + rng.random((60, 60)) / 2
    pairs = rng.permutation(np.repeat(np.arange(36), 3)).reshape(-1, 2)
    distances[pairs[:, 0], pairs[:, 1]] = 2.0
    distances = np.minimum(2.0, np.triu(distances, 1))
    distances += distances.T
    chosen = search.least_diameter(distances, 40)
    diameter = distances[np.ix_(chosen, chosen)].max()
    assert len(set(chosen.tolist())) == 40
    smaller = np.unique(distances[distances < diameter])[-1]
    assert search._cover(search._conflicts(distances, smaller), (1 << 60) - 1, 20) is None


def naive_bulyan(x: np.ndarray, f: int) -> list[int]:
    left = list(range(len(x)))
    chosen = []
    while len(chosen) < len(x) - 2 * f:
        distances = oracle.sqdist(x[left])
        k = max(1, len(left) - f - 2)
        scores = [np.sort(np.delete(row, i))[:k].sum() for i, row in enumerate(distances)]
        chosen.append(left.pop(int(np.argmin(scores))))
    return sorted(chosen)


@pytest.mark.parametrize("n, f", [(3, 0), (4, 0), (7, 1), (8, 1), (11, 2), (16, 3), (23, 5), (40, 9)])
def test_bulyan_by_the_paper(n: int, f: int, backend: str) -> None:
    x = normal(n, 37, seed=n)
    x[: max(0, f - 1)] += 40.0
    selected = naive_bulyan(x, f)
    s = np.sort(x[selected], axis=0)
    beta, middle = n - 4 * f, np.median(s, axis=0)
    expected = np.empty(37)
    for c in range(37):
        windows = [max(middle[c] - s[lo, c], s[lo + beta - 1, c] - middle[c]) for lo in range(len(s) - beta + 1)]
        lo = int(np.argmin(windows))
        expected[c] = s[lo : lo + beta, c].mean()
    np.testing.assert_allclose(robust.bulyan(x, f, backend=backend), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("n", [3, 7, 16, 33, 64, 100])
def test_bulyan_kernel_against_the_reference(n: int) -> None:
    f = (n - 3) // 4
    for seed in range(3):
        distances = oracle.sqdist(normal(n, 5, seed=seed).round(seed))  # rounded: ties
        bad = np.zeros(n, bool)
        if f:
            bad[[0, n - 1][: min(f, 2)]] = True
        distances[bad, :] = distances[:, bad] = inf
        np.fill_diagonal(distances, 0.0)
        got = cpu.bulyan_select(distances, bad, f)
        assert got.tolist() == reference.bulyan_select(distances, bad, f).tolist()
        assert len(got) == n - 2 * f and not bad[got].any()


def test_bulyan_differs_from_one_round_of_scores(backend: str) -> None:
    """Choosing the n - 2 f best of a single scoring is another rule: here the two first phases part."""
    parted = 0
    for seed in range(20):
        x = normal(11, 3, seed=seed)
        scores = oracle.scores(oracle.sqdist(x), 11 - 2 - 2)
        parted += naive_bulyan(x, 2) != sorted(np.argsort(scores, kind="stable")[:7].tolist())
    assert parted > 0


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("n, keep", [(1, 1), (5, 3), (64, 51), (130, 100)])
def test_nearest_kernel_against_the_reference(n: int, keep: int, m: int) -> None:
    rng = np.random.default_rng(n)
    distances = rng.integers(0, 4, (m, n)).astype(float)
    distances[rng.random((m, n)) < 0.1] = inf
    bad = np.zeros(n, bool)
    bad[: n - keep] = rng.random(n - keep) < 0.5
    own = rng.integers(n - keep, n, m)
    got = cpu.nearest(distances, bad, own, keep)
    np.testing.assert_array_equal(got, reference.nearest(distances, bad, own, keep))
    assert (got.sum(axis=1) == keep).all() and (got[np.arange(m), own] == 1).all()


def test_monna_by_hand(backend: str) -> None:
    x = np.array([[0.0], [1.0], [2.0], [3.0], [100.0]])
    assert robust.monna(x, 2, 1, backend=backend).tolist() == [1.0]
    assert robust.monna(x, 2, 4, backend=backend).tolist() == [35.0]  # a Byzantine row, if trusted, is followed
    assert robust.monna(np.array([[1.0], [0.0], [2.0], [0.0]]), 1, 0, backend=backend)[0] == pytest.approx(1.0)


def test_caf_by_the_paper(backend: str) -> None:
    """The loop in d dimensions with an exact eigensolver, the maximum over vectors that have weight."""
    for seed in range(6):
        n, f, x = 12, 3, normal(12, 5, seed=seed)
        x[:3] += 4 * normal(5, seed=seed + 50)
        c, least, best = np.ones(n), inf, None
        while c.sum() > n - 2 * f:
            mu = c @ x / c.sum()
            centred = x - mu
            values, vectors = np.linalg.eigh((c[:, None] * centred).T @ centred / c.sum())
            if values[-1] < least:
                least, best = values[-1], mu
            tau = (centred @ vectors[:, -1]) ** 2
            c = c * (1 - tau / tau[c > 0].max())
            c[c < 0] = 0
            c = np.where(c < 1e-300, 0, c)
        np.testing.assert_allclose(robust.caf(x, f, backend=backend), best, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_caf_without_byzantine_vectors_is_the_mean(dtype: str, backend: str) -> None:
    x = make(normal(9, 40), dtype)
    assert bits(robust.caf(x, 0, backend=backend)) == bits(robust.mean(x, backend=backend))


# ---------------------------------------------------------------------------------------------- bounds of the papers

N, F = 12, 3
KAPPA_SMEA = 4 * F / (N - F) * (1 + F / (N - 2 * F)) ** 2


def attacked(seed: int) -> list[np.ndarray]:
    """Honest vectors with F Byzantine ones of many kinds: small, large, colluding, and line-searched against the rule."""
    rng = np.random.default_rng(seed)
    honest = rng.standard_normal((N - F, 6)) * rng.uniform(0.2, 3, 6)
    mean, spread = honest.mean(0), honest.std(0, ddof=1)
    direction = rng.standard_normal(6)
    kinds = [np.tile(mean + t * spread, (F, 1)) for t in (0.3, 1.0, 1.5, 3.0)]
    kinds += [np.tile(mean + t * direction, (F, 1)) for t in np.geomspace(0.1, 100, 12)]
    kinds += [mean + 2 * t * rng.standard_normal((F, 6)) for t in (1, 3)] + [np.tile(-mean, (F, 1)), np.full((F, 6), 1e20)]
    return [np.vstack([honest, kind])[rng.permutation(N)] for kind in kinds]


@pytest.mark.parametrize("seed", range(6))
def test_mda_is_within_its_resam_bound(seed: int) -> None:
    """|F - mean_S| <= 2 f / (n - f) diameter(S), for every S of n - f vectors."""
    for x in attacked(seed):
        result, distances = robust.mda(x, F), np.sqrt(oracle.sqdist(x))
        for s in map(list, subsets(N, N - F)):
            bound = 2 * F / (N - F) * distances[np.ix_(s, s)].max()
            assert np.linalg.norm(result - x[s].mean(0)) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_smea_is_within_its_kappa(seed: int) -> None:
    """|F - mean_S|^2 <= kappa times the largest eigenvalue of S's covariance, for every S of n - f vectors."""
    for x in attacked(seed):
        result = robust.smea(x, F)
        for s in map(list, subsets(N, N - F)):
            bound = KAPPA_SMEA * max(top_eigenvalue(x[s]), 0.0)
            assert np.linalg.norm(result - x[s].mean(0)) ** 2 <= bound * (1 + 1e-9)


@rules
def test_equivariance(rule) -> None:
    """Permuted, moved, turned and scaled vectors give the result permuted (not at all), moved, turned and scaled."""
    rng = np.random.default_rng(3)
    x = normal(13, 6, seed=4)
    result = rule(x, 2)
    fixed = [5]  # the vector that monna trusts stays where it is
    order = np.insert(rng.permutation(np.delete(np.arange(13), fixed)), 5, 5)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    if rule is not RULES["bulyan"]:  # its last choices have one neighbour: mutual neighbours tie, and the index decides
        np.testing.assert_allclose(rule(x[order], 2), result, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(rule(x + 3.0, 2), result + 3.0, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(rule(-8.0 * x, 2), -8.0 * result, rtol=1e-9, atol=1e-9)
    if rule is not RULES["bulyan"]:  # its second phase goes by coordinates
        np.testing.assert_allclose(rule(x @ turn, 2), result @ turn, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@rules
def test_equal_vectors_to_the_bit(rule, dtype: str, backend: str) -> None:
    x = make(np.tile(normal(1, 33, seed=1), (13, 1)), dtype)
    for f in (0, 1, 2):
        assert bits(rule(x, f, backend=backend)) == bits(x[0])


# ------------------------------------------------------------------------------------------------------ hostile rows

ATTACKS = {
    "all NaN": lambda v: v.fill(nan),
    "one NaN": lambda v: v.put(17, nan),
    "Inf": lambda v: v.fill(inf),
    "one Inf": lambda v: v.put(3, inf),
    "+-Inf": lambda v: v.put(range(300), [inf, -inf]),
    "3e38": lambda v: v.fill(3e38),
    "+-3e38": lambda v: v.put(range(300), [3e38, -3e38]),
    "1e20": lambda v: v.fill(1e20),
    "one 3e38": lambda v: v.put(100, 3e38),
    "subnormal": lambda v: v.fill(1e-42),
}


@pytest.mark.parametrize("where", [[0, 1], [10, 11], [0, 11], [3]], ids=["first", "last", "both ends", "one only"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@rules
def test_break_table(rule, attack, where: list[int], backend: str) -> None:
    x = (1 + 0.1 * normal(12, 300)).astype(np.float32)
    honest = np.delete(x, where, axis=0).mean(0)
    for i in where:
        attack(x[i])
    before = bits(x)
    for form in (x, [[row[:200].reshape(10, 20), row[200:]] for row in x]):
        result = flat_vector(rule(form, 2, backend=backend))
        assert np.isfinite(result).all()
        assert np.linalg.norm(result - honest) < 2.5
    assert bits(x) == before


@pytest.mark.parametrize("huge", [1e20, 1e100, 1e160, 1e200, 1.7e308])
@rules
def test_float64_vectors_of_any_size(rule, huge: float, backend: str) -> None:
    """Squares overflow from 1e154 on: such distances are infinite, and the honest vectors' logic stays as it was."""
    x = 1 + 0.1 * normal(12, 40)
    for rows in ([0, 1], [11, 4]):
        y = x.copy()
        y[rows[0]], y[rows[1]] = huge, -huge
        expected = np.delete(x, rows, axis=0)
        result = rule(y, 2, backend=backend)
        assert np.linalg.norm(result - expected.mean(0)) < 0.5
        if rule in (RULES["mda"], RULES["smea"], RULES["monna"]):
            np.testing.assert_allclose(result, expected.mean(0), rtol=1e-12)


@rules
def test_a_precision_attack_spoils_nobody(rule, backend: str) -> None:
    """A vector of 1e10 beside honest ones that differ by 1e-6 changes nothing in the logic among those."""
    x = 1e3 + 1e-6 * normal(12, 30)
    x[0] = 1e10
    x[1] = x[0] * (1 + 1e-9)
    assert np.linalg.norm(rule(x, 2, backend=backend) - x[2:].mean(0)) < 1e-5


@rules
def test_more_than_f_bad_rows_are_named(rule, backend: str) -> None:
    x = normal(12, 50)
    x[[1, 8, 10], [0, 7, 49]] = [nan, inf, -inf]
    out = np.full(50, 7.0)
    with pytest.raises(ValueError, match="rows 1, 8, 10 of x"):
        rule(x, 2, out=out, backend=backend)
    assert (out == 7.0).all()


@rules
def test_arguments(rule, backend: str) -> None:
    for f in (6, -1, 2.0, True):
        with pytest.raises((ValueError, TypeError), match=r"\bf\b|n > 2 f|4 f"):
            rule(normal(12, 4), f, backend=backend)
    with pytest.raises(TypeError, match="x"):
        rule("vectors", 1, backend=backend)
    x = normal(12, 4)
    out = np.empty(4)
    assert rule(x, 2, out=out, backend=backend) is out
    assert bits(out) == bits(rule(x, 2, backend=backend))
    with pytest.raises(ValueError, match="out"):
        rule(x, 2, out=np.empty(5), backend=backend)


def test_monna_arguments(backend: str) -> None:
    x = normal(7, 4)
    x[3, 1] = nan
    with pytest.raises(ValueError, match=r"trusted vector x\[3\]"):
        robust.monna(x, 2, 3, backend=backend)
    for trusted in (-1, 7, 1.0):
        with pytest.raises((ValueError, TypeError), match="trusted"):
            robust.monna(x, 2, trusted, backend=backend)


def test_bulyan_needs_four_f_plus_three(backend: str) -> None:
    with pytest.raises(ValueError, match=r"4 f \+ 3"):
        robust.bulyan(normal(10, 3), 2, backend=backend)


@pytest.mark.parametrize("rule", [robust.mda, robust.smea, robust.caf, lambda x, f, **kw: robust.monna(x, f, 0, **kw)])
def test_one_and_two_vectors(rule, backend: str) -> None:
    assert rule(np.array([[4.0, 5.0]]), 0, backend=backend).tolist() == [4.0, 5.0]
    assert rule(np.array([[4.0], [5.0]]), 0, backend=backend).tolist() == [4.5]
    with pytest.raises(ValueError, match="NaN"):
        rule(np.array([[nan, 1.0]]), 0, backend=backend)


def test_smea_gives_up_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_NODES", 10)
    with pytest.raises(ValueError, match=r"n=20 .* f=6.* caf"):
        robust.smea(normal(20, 100), 6)


@pytest.mark.parametrize("level", range(3))
@rules
def test_same_bits_for_threads_and_instruction_sets(rule, level: int) -> None:
    if level > _native.lib.fgd_isa_best():
        pytest.skip("this processor lacks the level")
    x = normal(12, 100_003, seed=2).astype(np.float32)
    expected = bits(rule(x, 2, num_threads=1))
    current = _native.lib.fgd_isa_current()
    try:
        _native.lib.fgd_isa_use(level)
        assert {bits(rule(x, 2, num_threads=threads)) for threads in (1, 2, 3)} == {expected}
    finally:
        _native.lib.fgd_isa_use(current)
