"""The break table for every rule: NaN, Inf and giants in up to f vectors neither spoil, nor hang, nor warn."""

from __future__ import annotations

import numpy as np
import pytest
import rules_oracle as oracle
from robust_oracle import bits, flat_vector
from rules_calls import MIXES, NEW, RULES, every_rule, inf, mixes, nan, refuses, rows_named

from fastgd import robust

pytestmark = pytest.mark.timeout(60)

NOT_FINITE = {
    "all NaN": lambda v: v.fill(nan),
    "one NaN": lambda v: v.put(17, nan),
    "one NaN, last": lambda v: v.put(-1, nan),
    "Inf": lambda v: v.fill(inf),
    "-Inf": lambda v: v.fill(-inf),
    "one Inf": lambda v: v.put(3, inf),
    "one -Inf": lambda v: v.put(-2, -inf),
    "+-Inf": lambda v: v.put(range(v.size), [inf, -inf]),
    "NaN and Inf": lambda v: v.put(range(v.size), [nan, -inf, inf, 1e38]),
}
GIANTS = {
    "3e38": lambda v: v.fill(3e38),
    "-3e38": lambda v: v.fill(-3e38),
    "+-3e38": lambda v: v.put(range(v.size), [3e38, -3e38]),
    "1e20": lambda v: v.fill(1e20),
    "-1e15": lambda v: v.fill(-1e15),
    "one 3e38": lambda v: v.put(500, 3e38),
    "one 1e20": lambda v: v.put(-1, 1e20),
    "zero": lambda v: v.fill(0.0),
    "subnormal": lambda v: v.fill(1e-42),
}
DOUBLE_GIANTS = {
    "1e200": lambda v: v.fill(1e200),
    "-1e200": lambda v: v.fill(-1e200),
    "one 1e200": lambda v: v.put(500, 1e200),
    "1e308": lambda v: v.fill(1e308),
    "+-1e308": lambda v: v.put(range(v.size), [1e308, -1e308]),
    "one -1e308": lambda v: v.put(0, -1e308),
    "1e154": lambda v: v.fill(1e154),
    "subnormal": lambda v: v.fill(5e-324),
}
PLACES = {"first": [0, 1], "last": [10, 11], "both ends": [0, 11], "middle": [6, 7], "one only": [8]}
TABLE = [(name, attack, "float32") for name, attack in {**NOT_FINITE, **GIANTS}.items()]
TABLE += [(name, attack, "float64") for name, attack in {**NOT_FINITE, **GIANTS, **DOUBLE_GIANTS}.items()]
table = pytest.mark.parametrize("attack, dtype", [row[1:] for row in TABLE], ids=[f"{row[0]}, {row[2]}" for row in TABLE])


def cloud(n: int, d: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return (1 + 0.1 * np.random.default_rng(seed).standard_normal((n, d))).astype(dtype)


def attacked(attack, dtype: str, where: list[int], n: int = 12, d: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """All vectors, and the honest ones."""
    x = cloud(n, d, dtype=dtype)
    for i in where:
        attack(x[i])
    x.flags.writeable = False
    return x, np.delete(x, where, axis=0).astype(float)


@table
@every_rule
def test_break_table(rule, attack, dtype: str, backend: str) -> None:
    for where in PLACES.values() if backend == "cpu" else (PLACES["first"],):
        x, honest = attacked(attack, dtype, where)
        before = bits(x)
        result = rule.call(x, 2, backend=backend)
        assert type(result) is np.ndarray and result.dtype == x.dtype and result.shape == (1000,)
        assert np.isfinite(result).all()
        assert np.linalg.norm(result - honest.mean(0)) < 5
        assert bits(x) == before


@table
@pytest.mark.parametrize("outer", ["krum", "multikrum", "median", "trimmed_mean", "meamed", "geometric_median", "caf", "mda"])
def test_break_table_of_compositions(outer: str, attack, dtype: str) -> None:
    for name in ("nnm", "arc"):
        for where in (PLACES["first"], PLACES["last"]):
            x, honest = attacked(attack, dtype, where)
            before = bits(x)
            result = RULES[outer].call(MIXES[name](x, 2), 2)
            assert np.isfinite(result).all()
            assert np.linalg.norm(result - honest.mean(0)) < 5, (name, where)
            assert bits(x) == before


@table
def test_break_table_of_nnm(attack, dtype: str, backend: str) -> None:
    """Every honest vector's mixture is near the honest mean; a bad vector's is the mean of the finite ones."""
    for where in PLACES.values() if backend == "cpu" else (PLACES["last"],):
        x, honest = attacked(attack, dtype, where)
        mixed = robust.nnm(x, 2, backend=backend)
        assert mixed.shape == x.shape and mixed.dtype == x.dtype and np.isfinite(mixed).all()
        kept = np.delete(mixed, where, axis=0)
        assert (np.linalg.norm(kept - honest.mean(0), axis=1) < 5).all()
        bad = ~np.isfinite(x).all(1)
        for row in mixed[bad]:
            np.testing.assert_allclose(row, x[~bad].astype(float).mean(0), rtol=1e-6)


@table
def test_break_table_of_arc(attack, dtype: str, backend: str) -> None:
    """No vector stays longer than the longest honest one; none but the clipped ones changes; bad ones become zero."""
    for where in PLACES.values() if backend == "cpu" else (PLACES["first"],):
        x, honest = attacked(attack, dtype, where)
        clipped = robust.arc(x, 2, backend=backend)
        assert clipped.shape == x.shape and clipped.dtype == x.dtype and np.isfinite(clipped).all()
        assert (np.linalg.norm(clipped.astype(float), axis=1) <= np.linalg.norm(honest, axis=1).max() * (1 + 1e-6)).all()
        assert not clipped[~np.isfinite(x).all(1)].any()
        changed = (clipped != x).any(1)
        assert changed.sum() <= 2 * 2 * 10 // 12
        assert bits(x) == bits(attacked(attack, dtype, where)[0])


FINITE = [(name, a, t) for t, more in (("float32", {}), ("float64", DOUBLE_GIANTS)) for name, a in {**GIANTS, **more}.items()]


@pytest.mark.parametrize("attack, dtype", [row[1:] for row in FINITE], ids=[f"{row[0]}, {row[2]}" for row in FINITE])
def test_giants_through_clip_and_bucketing(attack, dtype: str, backend: str) -> None:
    """clip gives a giant the radius exactly: its direction is known, however long it is."""
    for where in PLACES.values() if backend == "cpu" else (PLACES["first"],):
        x, honest = attacked(attack, dtype, where)
        clipped = robust.clip(x, 40.0, backend=backend)
        assert np.isfinite(clipped).all()
        assert bits(np.delete(clipped, where, axis=0)) == bits(np.delete(x, where, axis=0))
        for i in where:
            scale = float(np.abs(x[i]).max()) or 1.0
            unit = x[i].astype(float) / scale
            exact = unit * min(scale, 40.0 / max(float(np.linalg.norm(unit)), 1e-300))
            np.testing.assert_allclose(clipped[i], exact, rtol=1e-5, atol=1e-36)
        buckets = robust.bucketing(x, 3, seed=1, backend=backend)
        assert buckets.shape == (4, 1000) and np.isfinite(buckets).all()
        assert (np.abs(buckets - honest.mean(0)).max(axis=1) < 2).sum() >= 2  # 2 giants spoil at most 2 of 4


@pytest.mark.parametrize("attack", NOT_FINITE.values(), ids=NOT_FINITE)
def test_clip_and_bucketing_tolerate_no_bad_row(attack, backend: str) -> None:
    for where in PLACES.values():
        x, _ = attacked(attack, "float32", where)
        for call, shape in (
            (lambda x, **kw: robust.clip(x, 5.0, **kw), (12, 1000)),
            (lambda x, **kw: robust.bucketing(x, 2, **kw), (6, 1000)),
        ):
            out = np.full(shape, 7, np.float32)
            message = refuses("x", call, x, out=out, backend=backend, kinds=(ValueError,))
            assert rows_named(message) == where
            assert (out == 7).all()


# ------------------------------------------------------------------------------------------------ too many bad rows


@pytest.mark.parametrize("name", ["bulyan", "mda", "smea", "monna", "caf", "nnm", "arc", "krum", "multikrum"])
@pytest.mark.parametrize("f", [0, 1, 2])
def test_more_than_f_bad_rows_are_named(name: str, f: int, backend: str) -> None:
    x = cloud(12, 300)
    bad = [3, 7, 10][: f + 1]
    for row, value in zip(bad, (nan, inf, -inf), strict=False):
        x[row, 100 * row // 4] = value
    call = RULES[name].call if name in RULES else MIXES[name]
    out = np.full((12, 300) if name in MIXES else 300, 7, np.float32)
    message = refuses("f", call, x, f, out=out, backend=backend, kinds=(ValueError,))
    assert rows_named(message) == bad
    assert (out == 7).all()
    for form in (list(x), [[row[:7], row[7:].reshape(-1, 1)] for row in x]):
        assert rows_named(refuses("f", call, form, f, backend=backend, kinds=(ValueError,))) == bad
    good = x.copy()
    good[bad[0]] = 1.0
    assert np.isfinite(call(good, f, backend=backend)).all()


@pytest.mark.parametrize("f", [0, 1, 3])
def test_more_than_f_bad_values_of_meamed_are_named(f: int, backend: str) -> None:
    x = cloud(9, 5000)
    x[[0, 5, 6][:f], 11] = nan
    robust.meamed(x, f, backend=backend)
    bad = [1, 2, 4, 8][: f + 1]
    x[bad, 4000] = [nan, inf, -inf, nan][: f + 1]
    out = np.full(5000, 7, np.float32)
    message = refuses("x", robust.meamed, x, f, out=out, backend=backend, kinds=(ValueError,))
    assert rows_named(message) == bad and "4000" in message
    assert (out == 7).all()


def test_bad_values_of_meamed_count_at_their_coordinate_only(backend: str) -> None:
    """As +inf, so that NaN, Inf and -Inf give the same, and other coordinates are as if nothing were bad."""
    x = cloud(9, 40, dtype="float64")
    whole = robust.meamed(x, 2, backend=backend)
    results = []
    for bad in (nan, inf, -inf):
        y = x.copy()
        y[2, 7], y[5, 7], y[8, 30] = bad, bad, bad
        results.append(robust.meamed(y, 2, backend=backend))
        assert bits(np.delete(results[-1], [7, 30])) == bits(np.delete(whole, [7, 30]))
        finite = np.delete(y[:, 7], [2, 5])
        np.testing.assert_allclose(results[-1][7], finite.mean(), rtol=1e-12)  # n - f = 7 finite values are left
    assert len(set(map(bits, results))) == 1


@pytest.mark.parametrize("name", ["geometric_median", "centered_clip"])
def test_rules_without_f_drop_bad_rows(name: str, backend: str) -> None:
    """The result is that of the finite vectors; no finite vector at all is an error that names them."""
    x = cloud(12, 60, dtype="float64")
    bad = [0, 4, 11]
    y = x.copy()
    y[bad, [0, 30, 59]] = nan, inf, -inf
    expected = RULES[name].call(np.delete(x, bad, axis=0), 0, backend=backend)
    np.testing.assert_allclose(RULES[name].call(y, 0, backend=backend), expected, rtol=1e-9)
    for columns in ([0], [59], [30], range(60)):  # every vector, at one coordinate or at all
        y = x.copy()
        y[:, columns] = nan
        for form in (y, list(y), y.astype(np.float32)):
            message = refuses("x", RULES[name].call, form, 0, backend=backend, kinds=(ValueError,))
            assert "row" in message
    y = x[:, :12].copy()
    y[range(12), range(12)] = inf
    refuses("x", RULES[name].call, y, 0, backend=backend, kinds=(ValueError,))
    y[7, 7] = 1.0  # one finite vector is enough
    np.testing.assert_allclose(RULES[name].call(y, 0, backend=backend), y[7], rtol=1e-12)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.drops])
def test_bad_values_are_all_the_same(name: str, backend: str) -> None:
    """NaN, Inf, -Inf, and what else a bad vector holds, change no bit of the result."""
    x = cloud(12, 60, dtype="float64")
    results = set()
    for bad in (nan, inf, -inf):
        for rest in (1.0, 1e300, -5.0):
            y = x.copy()
            y[[2, 9]] = rest
            y[[2, 9], [0, 59]] = bad
            results.add(bits(RULES[name].call(y, 2, backend=backend)))
    assert len(results) == 1


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_monna_needs_a_finite_trusted_vector(bad: float, backend: str) -> None:
    x = cloud(7, 5)
    x[3, 2] = bad
    refuses("trusted", robust.monna, x, 2, 3, backend=backend, kinds=(ValueError,))


# ------------------------------------------------------------------------------------------------------ small cases

EXTREMES = [nan, inf, -inf, 3e38, -3e38, 1e20, -1e20, 1e-45, 0.0]


@every_rule
@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_fewest_vectors(rule, d: int, backend: str) -> None:
    """One attacker among the fewest vectors that f = 1 allows, everywhere, with every extreme."""
    n = rule.least(1)
    x = 1 + 0.1 * np.random.default_rng(d).standard_normal((n, d)).astype(np.float32)
    for i in range(n):
        honest = np.delete(x, i, axis=0).astype(float)
        for value in EXTREMES:
            for columns in ({0}, set(range(d))):
                y = x.copy()
                y[i, list(columns)] = value
                trusted = {"trusted": (i + 1) % n} if rule is RULES["monna"] else {}
                result = rule.call(y, 1, backend=backend, **trusted)
                assert np.isfinite(result).all()
                assert np.linalg.norm(result - honest.mean(0)) < 5, (i, value)


@pytest.mark.parametrize("n", [3, 5, 8])
@every_rule
def test_colluding_giants_of_two_sizes(rule, n: int, backend: str) -> None:
    """Attackers at different giant places, so that distances among them overflow as well."""
    f = next(f for f in (3, 2, 1, 0) if rule.least(f) <= n)
    for dtype, sizes in (("float32", (3e38, -3e38, 1e19)), ("float64", (1e308, -1e308, 1e200))):
        x = cloud(n, 6, dtype=dtype)
        honest = x[f:].astype(float)
        for i in range(f):
            x[i] = sizes[i]
        trusted = {"trusted": n - 1} if rule is RULES["monna"] else {}
        result = rule.call(x, f, backend=backend, **trusted)
        assert np.isfinite(result).all() and np.linalg.norm(result - honest.mean(0)) < 5


SCALES = [(name, scale) for name in RULES if name not in ("geometric_median", "centered_clip")
          for scale in (1e-300, 1e-160, 1e-140, 1e-40, 1e-20, 1e20, 1e37, 1e100, 1e150)
          # Below 1e-150 squares of differences vanish in float64: what rules on distances do there is not promised.
          if scale > 1e-150 or name in ("median", "trimmed_mean", "meamed")]


@pytest.mark.parametrize("name, scale", SCALES)
def test_all_vectors_may_be_of_any_size(name: str, scale: float, backend: str) -> None:
    """Rules without a length of their own give scaled answers for scaled vectors (powers of two: nearly exactly)."""
    x = cloud(11, 20, seed=4, dtype="float64")
    x[0] += 3
    scale = 2.0 ** round(np.log2(scale))
    expected = RULES[name].call(x, 2, backend=backend)
    np.testing.assert_allclose(RULES[name].call(x * scale, 2, backend=backend) / scale, expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e20, 1e37, 1e100, 1e150])
def test_geometric_median_of_giants_only(scale: float, backend: str) -> None:
    x = np.random.default_rng(2).standard_normal((9, 4))
    scale = 2.0 ** round(np.log2(scale))
    expected = robust.geometric_median(x, backend=backend)
    got = robust.geometric_median(x * scale, backend=backend)
    np.testing.assert_allclose(got / scale, expected, rtol=1e-6, atol=1e-6)
    got = robust.centered_clip(x * scale, radius=scale, iterations=4, backend=backend)
    np.testing.assert_allclose(got / scale, oracle.centered_clip(x, 1.0, iterations=4), rtol=1e-9, atol=1e-12)


def test_centered_clip_pulls_giants_by_its_radius_only(backend: str) -> None:
    """Each of f giants moves the result by at most radius / n per iteration, whatever their size."""
    for dtype, giant in (("float32", 3e38), ("float32", 1e20), ("float64", 1e200), ("float64", 1e308)):
        x = cloud(10, 50, dtype=dtype)
        x[[0, 9]] = giant
        start = np.ones(50, dtype)
        got = robust.centered_clip(x, radius=0.5, start=start, backend=backend)
        pull = np.linalg.norm(got - 1.0)
        assert np.isfinite(got).all() and pull <= 0.5 * (1 + 1e-6)


@mixes
def test_mixes_of_the_fewest_vectors(mix, backend: str) -> None:
    """Three vectors, f = 1, one of them a giant."""
    for giant in (3e38, -1e20):
        x = np.array([[1.0, 2.0], [giant, giant], [2.0, 1.0]], np.float32)
        got = mix(x, 1, backend=backend)
        assert np.isfinite(got).all()


@pytest.mark.parametrize("name", NEW)
def test_every_vector_hostile_in_turn_changes_nothing_else(name: str) -> None:
    """One huge vector against none at all: the result moves by no more than the honest vectors' diameter."""
    x = np.random.default_rng(8).standard_normal((11, 6))
    before = RULES[name].call(x, 2)
    for i in {0, 3, 10}:
        y = x.copy()
        y[i] = 1e30
        moved = np.linalg.norm(RULES[name].call(y, 2) - before)
        assert moved <= oracle.diameter(np.delete(x, i, axis=0))


def test_layers_with_giants(backend: str) -> None:
    """A giant in one layer is as bad as in one array."""
    x, honest = attacked(GIANTS["one 3e38"], "float32", [0, 11])
    layers = [[row[:600].reshape(20, 30), row[600:601].reshape(()), row[601:]] for row in x]
    for rule in RULES.values():
        got = flat_vector(rule.call(layers, 2, backend=backend))
        np.testing.assert_array_equal(got, flat_vector(rule.call(x, 2, backend=backend)))
        assert np.linalg.norm(got - honest.mean(0)) < 5
