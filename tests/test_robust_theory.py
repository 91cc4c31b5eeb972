"""Facts of the papers, on the public functions of fastgd.robust: tables, equivariances, bounds, attacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import robust_oracle as oracle
from robust_oracle import DTYPES, LARGEST, bits, flat_vector, floats, make

from fastgd import robust

#: Every rule that maps n vectors to one, by name; f = 2 wherever there is an f.
RULES = {
    "krum": lambda x, **kw: robust.krum(x, 2, **kw),
    "multikrum": lambda x, **kw: robust.multikrum(x, 2, **kw),
    "median": lambda x, **kw: robust.median(x, **kw),
    "trimmed_mean": lambda x, **kw: robust.trimmed_mean(x, 2, **kw),
    "mean": lambda x, **kw: robust.mean(x, **kw),
}
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def normal(*shape: int, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ------------------------------------------------------------------------------------------------ Krum, by the paper


def eta_squared(n: int, f: int) -> float:
    """Proposition 4.3 of Blanchard et al."""
    return 2 * (n - f + (f * (n - f - 2) + f**2 * (n - f - 1)) / (n - 2 * f - 2))


def test_eta_table() -> None:
    assert [eta_squared(10, 2), round(eta_squared(15, 5), 3), eta_squared(7, 2)] == [36, 196.667, 54]
    assert "eta^2 = 2 (n - f + (f (n-f-2) + f^2 (n-f-1)) / (n-2f-2))" in " ".join(robust.krum.__doc__.split())


def test_resilience_of_krum(backend: str) -> None:
    """Condition (i) of (alpha, f)-resilience: <E F, g> >= (1 - sin alpha) |g|^2, here under four attacks."""
    n, f, d, draws = 10, 2, 8, 150
    gradient = np.full(d, 1.0)
    sigma = 0.5 * np.linalg.norm(gradient) / math.sqrt(eta_squared(n, f) * d)  # sin alpha = 0.5
    rng = np.random.default_rng(5)
    for attack in (-10 * gradient, 0 * gradient, gradient + 1.5 * sigma, np.full(d, 1e30)):
        total = np.zeros(d)
        for _ in range(draws):
            x = np.vstack([np.tile(attack, (f, 1)), gradient + sigma * rng.standard_normal((n - f, d))])
            total += robust.krum(x, f, backend=backend)
        assert total @ gradient / draws >= 0.5 * gradient @ gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "values, f, neighbors, scores, best",
    [
        ([1, 4, 5, 6, 16, 18, 28], 2, None, [50, 14, 18, 30, 225, 248, 728], 1),
        ([1, 4, 5, 6, 16, 18, 28], 2, 3, [50, 14, 18, 30, 225, 248, 728], 1),
        ([1, 4, 5, 6, 16, 18, 28], 2, 4, [275, 158, 139, 130, 369, 417, 1257], 3),
        ([0, 1, 2, 3, 100], 1, None, [5, 2, 2, 5, 19013], 1),
        ([0, 1, 2, 3, 100], 1, 3, [14, 6, 6, 14, 28814], 1),
    ],
)
def test_krum_by_hand(
    values: list[int], f: int, neighbors: int | None, scores: list[int], best: int, dtype: str, backend: str
) -> None:
    x = make(np.array(values)[:, None], dtype)
    vector, info = robust.krum(x, f, neighbors=neighbors, return_info=True, backend=backend)
    assert info.scores.tolist() == scores
    assert info.selected.tolist() == [best]
    assert floats(vector).tolist() == [values[best]]
    exact = np.subtract.outer(values, values).astype(float) ** 2
    assert robust.krum_scores(exact, f, neighbors=neighbors, backend=backend).tolist() == scores


def test_default_neighbors_and_m(backend: str) -> None:
    for n, f in ((5, 1), (7, 2), (20, 4), (3, 0)):
        x = normal(n, 6, seed=n)
        assert bits(robust.krum(x, f, backend=backend)) == bits(robust.krum(x, f, neighbors=n - f - 2, backend=backend))
        assert bits(robust.multikrum(x, f, backend=backend)) == bits(
            robust.multikrum(x, f, m=n - f - 2, backend=backend)
        )
        assert bits(robust.multikrum(x, f, m=1, backend=backend)) == bits(robust.krum(x, f, backend=backend))


def test_ties_go_to_the_lowest_index(backend: str) -> None:
    square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    for order in ([0, 1, 2, 3], [2, 3, 0, 1]):
        x = np.vstack([square[order], [[9.0, 9.0]]])
        _, info = robust.multikrum(x, 1, m=2, return_info=True, backend=backend)
        assert info.selected.tolist() == [0, 1]
        assert robust.krum(x, 1, return_info=True, backend=backend)[1].selected.tolist() == [0]
    for n in (5, 16, 33, 64, 100):
        equal = np.ones((n, 3), np.float32)
        assert robust.multikrum(equal, 1, m=3, return_info=True, backend=backend)[1].selected.tolist() == [0, 1, 2]


def test_krum_returns_a_copy_to_the_bit(backend: str) -> None:
    """Also of the sign of zero and of subnormal values; never a view."""
    x = normal(7, 40, dtype="float32")
    x[:, 3], x[:, 4], x[:, 5] = -0.0, 1e-45, -1e-40
    for form in (x, list(x), [[row[:7], row[7:]] for row in x]):
        got = robust.krum(form, 2, backend=backend)
        parts = got if isinstance(got, list) else [got]
        assert b"".join(map(bits, parts)) == bits(x[oracle.krum(x, 2)])
        assert not any(np.shares_memory(part, x) for part in parts)
        assert all(part.flags.writeable and part.flags.c_contiguous for part in parts)


def test_krum_falls_for_identical_vectors_inside_the_cloud(backend: str) -> None:
    """A little is enough (Baruch et al.): f equal vectors half a deviation off the mean have the lowest scores."""
    honest = normal(14, 500, seed=3)
    x = np.vstack([honest, np.tile(honest.mean(0) + 0.5 * honest.std(0, ddof=1), (6, 1))])
    assert robust.krum(x, 6, return_info=True, backend=backend)[1].selected[0] >= 14


# ------------------------------------------------------------------------------------------------------- identities


def test_special_cases_coincide(backend: str) -> None:
    for dtype in DTYPES:
        x = make(normal(7, 100, seed=1), dtype)
        assert bits(robust.trimmed_mean(x, 3, backend=backend)) == bits(robust.median(x, backend=backend))
        np.testing.assert_allclose(
            floats(robust.trimmed_mean(x, 0, backend=backend)),
            floats(robust.mean(x, backend=backend)),
            rtol=float(oracle.ulp(1.0, dtype)),
            atol=float(oracle.ulp(1.0, dtype)) / 4,
        )
        assert bits(robust.multikrum(x, 0, m=7, backend=backend)) == bits(robust.mean(x, backend=backend))
        even = make(normal(8, 100, seed=2), dtype)
        assert bits(robust.trimmed_mean(even, 3, backend=backend)) == bits(robust.median(even, backend=backend))
        one = even[:1]
        for rule in (robust.mean, robust.median):
            assert bits(rule(one, backend=backend)) == bits(one[0])


@pytest.mark.parametrize("kind", ["ordinary", "tiny", "largest"])
@pytest.mark.parametrize("dtype", DTYPES)
@rules
def test_equal_vectors_are_returned_to_the_bit(rule, dtype: str, kind: str, backend: str) -> None:
    """Whatever n: neither n * v / n for awkward n, nor a sum that overflows, nor subnormals may change a bit."""
    largest, (digits, smallest) = LARGEST[dtype], oracle.FORMATS[dtype]
    tiny = math.ldexp(1.0, smallest - digits + 1)
    values = {
        "ordinary": [0.0, 0.1, 1 / 49, 1 / 3, -7.7, 1.0, *normal(60)],
        "largest": [largest, -largest, largest / 2],
        "tiny": [tiny, 3 * tiny, -tiny, math.ldexp(1.0, smallest), math.ldexp(1.0, smallest) - tiny],
    }[kind]
    v = make(values, dtype)
    for n in (7, 8, 10, 23, 49, 64, 98, 103):
        x = np.broadcast_to(v, (n, len(v)))
        assert bits(rule(x, backend=backend)) == bits(v), n
        assert (robust.pairwise_sqdist(x, backend=backend) == 0.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@rules
def test_equal_vectors_keep_the_sign_of_zero(rule, dtype: str, backend: str) -> None:
    for n in (7, 8, 33):
        assert np.signbit(floats(rule(make(np.full((n, 40), -0.0), dtype), backend=backend))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 8, 17, 64])
def test_order_of_the_vectors_does_not_matter(n: int, dtype: str, backend: str) -> None:
    rng = np.random.default_rng(n)
    values = normal(n, 300, seed=n)
    values[:, 100:] = rng.choice([-0.0, 0.0, -1.0, 1.0, 1e-3], (n, 200))  # ties, zeros of both signs
    x = make(values, dtype)
    f = (n - 1) // 3
    for _ in range(5):
        y = x[rng.permutation(n)]
        assert bits(robust.median(y, backend=backend)) == bits(robust.median(x, backend=backend))
        assert bits(robust.trimmed_mean(y, f, backend=backend)) == bits(robust.trimmed_mean(x, f, backend=backend))
        if n > 3:
            assert bits(robust.krum(y, 1, backend=backend)) == bits(robust.krum(x, 1, backend=backend))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("power", [-100, -1, 1, 20, 100])
@rules
def test_scaling_by_powers_of_two_is_exact(rule, power: int, dtype: str, backend: str) -> None:
    """For every power: vectors of 1e-18 are told apart like those of 1, though their squares underflow in float32."""
    x = normal(12, 333, seed=4, dtype=dtype)
    assert bits(rule(np.ldexp(x, power), backend=backend)) == bits(np.ldexp(rule(x, backend=backend), power))
    if rule is not RULES["trimmed_mean"]:  # it adds in ascending order, so a mirrored input rounds elsewhere
        assert bits(rule(-x, backend=backend)) == bits(-rule(x, backend=backend))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@rules
def test_translation_and_orthogonal_maps(rule, dtype: str, backend: str) -> None:
    """On integers both sides are exact up to the one rounding of a mean; the map is a signed permutation."""
    rng = np.random.default_rng(6)
    x = rng.integers(-100, 100, (12, 64)).astype(dtype)
    shift, sign, order = rng.integers(-1000, 1000, 64), rng.choice([-1, 1], 64), rng.permutation(64)
    tolerance = 4000 * np.finfo(dtype).eps
    for y, expected in (
        (x + shift.astype(dtype), rule(x, backend=backend) + shift),
        ((x * sign.astype(dtype))[:, order], (rule(x, backend=backend) * sign)[order]),
    ):
        np.testing.assert_allclose(rule(y, backend=backend), expected, rtol=0, atol=tolerance)


def test_rotations_do_not_change_what_krum_selects(backend: str) -> None:
    for seed in range(20):
        x = normal(11, 20, seed=seed)
        rotation = np.linalg.qr(normal(20, 20, seed=seed + 99))[0]
        for y in (x @ rotation, x + 1e3, 3.7 * x):
            one, two = (robust.multikrum(v, 3, m=2, return_info=True, backend=backend)[1] for v in (x, y))
            assert one.selected.tolist() == two.selected.tolist()


def test_odd_median_commutes_with_monotone_maps(backend: str) -> None:
    x = normal(9, 1000, seed=7)
    for monotone in (np.exp, np.arctan, lambda v: v**3, lambda v: np.floor(4 * v)):
        assert bits(robust.median(monotone(x), backend=backend)) == bits(monotone(robust.median(x, backend=backend)))


def test_sum_of_distances_is_the_scatter(backend: str) -> None:
    """sum_i |x_i - mean|^2 = sum_ij D_ij / (2 n), and D adds up over parts of the coordinates."""
    x = normal(13, 700, seed=8)
    d = robust.pairwise_sqdist(x, backend=backend)
    assert d.sum() / 26 == pytest.approx(((x - x.mean(0)) ** 2).sum(), rel=1e-13)
    parts = sum(robust.pairwise_sqdist(part, backend=backend) for part in np.split(x, [1, 300], axis=1))
    np.testing.assert_allclose(parts, d, rtol=1e-13)


# ------------------------------------------------------------------------------------------------ attacks and bounds


def attacks(honest: np.ndarray, f: int, rng: np.random.Generator) -> list[np.ndarray]:
    center, spread = honest.mean(0), honest.std(0, ddof=1)
    single = [
        -center,
        -0.3 * center,
        center + 1.5 * spread,
        center + 5 * spread,
        honest[0],
        center * 0 + 1e20,
        honest.max(0),
    ]
    return [np.tile(vector, (f, 1)) for vector in single] + [center + 10 * rng.standard_normal((f, len(center)))]


@pytest.mark.parametrize("n, f", [(10, 2), (15, 5), (11, 5), (16, 1)])
def test_kappa_bounds(n: int, f: int, backend: str) -> None:
    """|F - mean_S|^2 <= kappa * mean_S |x_i - mean_S|^2 for every S of n - f vectors (Allouah et al. 2023, table 1)."""
    ratio = 1 + f / (n - 2 * f)
    bounds = {
        "trimmed_mean": (lambda x: robust.trimmed_mean(x, f, backend=backend), 6 * f / (n - 2 * f) * ratio),
        "median": (lambda x: robust.median(x, backend=backend), 4 * ratio**2),
        "krum": (lambda x: robust.krum(x, f, neighbors=n - f - 1, backend=backend), 6 * ratio),
    }
    rng = np.random.default_rng(n)
    for d in (1, 3, 30):
        honest = rng.standard_normal((n - f, d)) * rng.exponential(1.0, d) + 2.0
        for bad in attacks(honest, f, rng):
            x = np.vstack([honest, bad])[rng.permutation(n)]
            subsets = [np.sort(rng.permutation(n)[: n - f]) for _ in range(20)]
            for name, (rule, kappa) in bounds.items():
                result = rule(x)
                for subset in (*subsets, np.flatnonzero((x[:, None] == honest).all(2).any(1))[: n - f]):
                    center = x[subset].mean(0)
                    assert ((result - center) ** 2).sum() <= kappa * ((x[subset] - center) ** 2).sum(1).mean() * (
                        1 + 1e-12
                    ), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_vector_moves_the_mean_anywhere(dtype: str, backend: str) -> None:
    """Lemma 3.1 of Blanchard et al.: the last vector makes a linear rule's output exactly U. Integers, so exactly."""
    rng = np.random.default_rng(9)
    wanted = rng.integers(-1000, 1000, 50).astype(dtype)
    honest = rng.integers(-100, 100, (9, 50)).astype(dtype)
    assert bits(robust.mean(np.vstack([honest, 10 * wanted - honest.sum(0)]), backend=backend)) == bits(wanted)
    weights = np.ldexp(1.0, rng.integers(-3, 2, 10))
    attack = (wanted - weights[:9] @ honest) / weights[9]
    assert bits(robust.combine(np.vstack([honest, attack]).astype(dtype), weights, backend=backend)) == bits(wanted)


@pytest.mark.parametrize("form", ["stacked", "vectors", "layers"])
def test_combine_is_a_matrix_product(form: str, backend: str) -> None:
    x = np.random.default_rng(1).integers(-50, 50, (6, 20)).astype(np.float32)
    w = np.random.default_rng(2).integers(-5, 5, (4, 6)).astype(float)
    given = {"stacked": x, "vectors": list(x), "layers": [[row[:7], row[7:].reshape(13, 1)] for row in x]}[form]
    got = robust.combine(given, w, backend=backend)
    np.testing.assert_array_equal(np.stack([flat_vector(vector) for vector in got]), w @ x)
    assert type(got) is (np.ndarray if form == "stacked" else list)
    identity = robust.combine(given, np.eye(6), backend=backend)
    np.testing.assert_array_equal(np.stack([flat_vector(vector) for vector in identity]), x)
