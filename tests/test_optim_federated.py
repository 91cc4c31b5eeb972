"""`fastgd.optim.federated`: closed forms and facts of the methods, on the public functions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fastgd import robust
from fastgd.optim.federated import br_mtrl_round, fedsvd_refactor, firm_weights, pfedsop_step

RNG = np.random.default_rng(7)


# --------------------------------------------------------------------------------------------------------- pFedSOP


def rotated(angle: float, d: int = 2) -> np.ndarray:
    vector = np.zeros(d)
    vector[:2] = math.cos(angle), math.sin(angle)
    return vector


def test_pfedsop_closed_form(backend):
    update = np.array([3.0, 4.0])
    moved = pfedsop_step(np.zeros(2), update, update, backend=backend)
    np.testing.assert_allclose(-moved, [0.115385, 0.153846], atol=5e-7)
    np.testing.assert_allclose(-moved, update / 26, rtol=1e-15)


def test_pfedsop_step_solves_the_rank_one_system(backend):
    """(p p' + rho I) step = p, for the p that the info describes."""
    for rho in (1e-3, 1.0, 50.0):
        x, own, other = RNG.normal(size=(3, 9))
        moved, info = pfedsop_step(x, own, other, rho=rho, sharpness=2.0, return_info=True, backend=backend)
        p = (1 - info.beta) * own + info.beta * other
        assert info.sqnorm == pytest.approx(p @ p, rel=1e-13) and info.scale == pytest.approx(1 / (rho + p @ p), rel=1e-13)
        np.testing.assert_allclose((np.outer(p, p) + rho * np.eye(9)) @ (x - moved), p, rtol=1e-11)


@pytest.mark.parametrize(("angle", "sharpness", "beta"), [
    (0.0, 2.0, 0.99938), (math.pi, 2.0, 0.01370), (1.0, 0.0, 0.63212), (1.0, 2.0, 0.63212), (1.0, 30.0, 0.63212),
    (0.0, 1e4, 1.0), (math.pi, 1e4, 0.0)])
def test_pfedsop_beta(angle, sharpness, beta):
    info = pfedsop_step(np.zeros(2), rotated(0.0), rotated(angle), sharpness=sharpness, return_info=True)[1]
    assert info.angle == pytest.approx(angle, abs=1e-7) and info.cosine == pytest.approx(math.cos(angle), abs=1e-15)
    assert info.beta == pytest.approx(beta, abs=5e-6)


def test_pfedsop_beta_falls_with_the_angle():
    betas = [pfedsop_step(np.zeros(2), rotated(0.0), 5 * rotated(angle), sharpness=2.0, return_info=True)[1].beta
             for angle in np.linspace(0.0, math.pi, 40)]
    assert all(one > two for one, two in itertools.pairwise(betas))


@pytest.mark.parametrize("rho", [1e-4, 1.0, 9.0])
def test_pfedsop_steps_are_bounded(rho):
    """|step| <= 1 / (2 sqrt(rho)), reached at |p| = sqrt(rho)."""
    lengths = [*(10.0 ** np.arange(-8, 9)), math.sqrt(rho)]
    steps = [np.linalg.norm(pfedsop_step(np.zeros(2), size * rotated(0.3), size * rotated(0.3), rho=rho)) for size in lengths]
    bound = 1 / (2 * math.sqrt(rho))
    assert max(steps) <= bound * (1 + 1e-14) and steps[-1] == pytest.approx(bound, rel=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e4, 1e10, 1e15])
def test_pfedsop_long_updates_do_not_cancel(dtype, size, backend):
    """||p||^2 / rho up to 1e30: the difference form of the rank-one inverse has no correct digit left there."""
    update = (size * np.array([3.0, 4.0])).astype(dtype)
    moved = pfedsop_step(np.zeros(2, dtype), update, update, rho=1.0, backend=backend)
    exact = update.astype(float) / (1.0 + (update.astype(float) ** 2).sum())
    np.testing.assert_allclose(-moved, exact, rtol=2 * float(np.finfo(dtype).eps))


def test_pfedsop_zero_updates(backend):
    """The first round: the update that exists is the step; without any, the model stays."""
    x, update = RNG.normal(size=(2, 5))
    zero = np.zeros(5)
    for own, other, beta in ((update, zero, 0.0), (zero, update, 1.0)):
        moved, info = pfedsop_step(x, own, other, return_info=True, backend=backend)
        np.testing.assert_allclose(moved, x - update / (1 + update @ update), rtol=1e-14)
        assert info.beta == beta and math.isnan(info.angle) and math.isnan(info.cosine)
    assert pfedsop_step(x, zero, zero, backend=backend).tobytes() == x.tobytes()


# ------------------------------------------------------------------------------------------------------------ FIRM


def gradients_of(products) -> np.ndarray:
    return np.linalg.cholesky(np.asarray(products, float))


@pytest.mark.parametrize(("beta", "first"), [(0.0, 4 / 7), (1.0, 5 / 9), (10.0, 0.518519)])
def test_firm_two_objectives(beta, first, backend):
    weights, info = firm_weights(gradients_of([[2, -1], [-1, 3]]), beta, return_info=True, backend=backend)
    np.testing.assert_allclose(weights, [first, 1 - first], atol=5e-7)
    np.testing.assert_allclose(weights[0], (3 + beta + 1) / (5 + 2 * beta + 2), rtol=1e-14)
    np.testing.assert_allclose(info.gram, [[2, -1], [-1, 3]], atol=1e-15)
    assert info.status == "converged" and info.residual < 1e-15


def test_firm_two_objectives_clip():
    """w_1 = clip((Q22 - Q12) / (Q11 + Q22 - 2 Q12), 0, 1): the shorter gradient alone when the other has it as a part."""
    np.testing.assert_array_equal(firm_weights(np.array([[1.0, 0.0], [3.0, 1.0]]), 0.0), [1.0, 0.0])
    np.testing.assert_array_equal(firm_weights(np.array([[3.0, 1.0], [1.0, 0.0]]), 0.0), [0.0, 1.0])


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 9, 12, 30])
@pytest.mark.parametrize("d", [1, 2, 7, 100])
@pytest.mark.parametrize("beta", [0.0, 1e-6, 0.3, 10.0])
def test_firm_optimality_conditions(m, d, beta):
    """(Q w)_j >= w' Q w with equality on the support, Q of the vectors (g_j, sqrt(beta) (e_j - p)); dependent ones too."""
    rng = np.random.default_rng(100 * m + d)
    g = rng.normal(size=(m, d)) + 0.3
    preference = rng.uniform(size=m) + 0.01
    p = preference / preference.sum()
    weights, info = firm_weights(g, beta, preference=preference, return_info=True)
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1, abs=1e-14) and info.status == "converged"
    slopes = g @ (weights @ g) + beta * (weights - p)  # the gradient of the objective in the weights
    level = weights @ slopes
    scale = max(np.abs(info.gram).max(), beta)
    assert slopes.min() >= level - 1e-12 * scale
    assert np.abs(slopes - level)[weights > 0].max() <= 1e-12 * scale


@pytest.mark.parametrize("m", [3, 8, 9, 20])
def test_firm_beats_every_other_point(m):
    rng = np.random.default_rng(m)
    g, beta = rng.normal(size=(m, 6)) + 0.5, 0.2

    def objective(w):
        return 0.5 * ((w @ g) ** 2).sum(axis=-1) + 0.5 * beta * ((w - 1 / m) ** 2).sum(axis=-1)

    others = rng.dirichlet(np.full(m, 0.3), size=20_000)
    best = firm_weights(g, beta)
    assert objective(best) <= objective(others).min()
    assert objective(best) <= objective(0.999 * best + 0.001 * others).min()


def test_firm_zero_beta_is_a_common_descent_direction():
    g = RNG.normal(size=(4, 50)) + 0.2
    direction = robust.combine(g, firm_weights(g, 0.0))
    assert (g @ direction >= direction @ direction * (1 - 1e-12)).all() and direction @ direction > 0


def test_firm_limits_of_beta():
    g = RNG.normal(size=(5, 9))
    for beta in (1e9, 1e300):
        np.testing.assert_allclose(firm_weights(g, beta), 0.2, atol=1e-7)
        np.testing.assert_allclose(firm_weights(g, beta, preference=[4, 3, 2, 1, 0]), [0.4, 0.3, 0.2, 0.1, 0], atol=1e-7)
    np.testing.assert_allclose(firm_weights(np.zeros((3, 4)), 0.0), np.full(3, 1 / 3), rtol=1e-15)


@pytest.mark.parametrize("m", [4, 12])
def test_firm_change_is_bounded_by_one_over_beta(m):
    """||w - w'|| <= ||G - G'|| / beta: what keeps clients together."""
    rng = np.random.default_rng(m)
    for _ in range(50):
        g = rng.normal(size=(m, 8))
        near = g + 0.1 * rng.normal(size=g.shape)
        beta = 10 ** rng.uniform(-1, 2)
        change = np.linalg.norm(firm_weights(g, beta) - firm_weights(near, beta))
        assert change <= np.linalg.norm(g @ g.T - near @ near.T, 2) / beta + 1e-12


@pytest.mark.parametrize("m", [3, 8, 9, 16])
def test_firm_dependent_and_equal_gradients(m):
    g = np.tile(RNG.normal(size=6), (m, 1))
    weights, info = firm_weights(g, 0.0, return_info=True)
    assert weights.sum() == pytest.approx(1) and info.status == "converged"
    np.testing.assert_allclose(weights @ g, g[0], rtol=1e-14)
    np.testing.assert_allclose(firm_weights(g, 1e-3), 1 / m, rtol=1e-9)  # the regulariser alone decides


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_firm_has_no_units(scale):
    g = RNG.normal(size=(6, 10))
    np.testing.assert_allclose(firm_weights(scale * g, scale**2 * 0.1), firm_weights(g, 0.1), rtol=1e-9)


def test_firm_gradients_of_very_different_length():
    """The short one decides alone, although its products are 1e-24 of the long one's."""
    g = np.array([[1e12, 0.0, 1.0], [0.5, 1.0, 0.0], [1e12, 3.0, 0.0]])
    weights = firm_weights(g, 0.0)
    assert weights[1] == pytest.approx(1.0, abs=1e-11) and weights[0] < 1e-11


# --------------------------------------------------------------------------------------------------------- FedSVD


@pytest.mark.parametrize(("m", "r", "n"), [(1, 1, 1), (5, 2, 3), (40, 8, 30), (8, 8, 8), (8, 8, 50), (50, 8, 8), (64, 3, 257)])
def test_fedsvd_invariants(m, r, n):
    rng = np.random.default_rng(m + r + n)
    b, a = rng.normal(size=(m, r)), rng.normal(size=(r, n))
    new_b, new_a = fedsvd_refactor(b, a)
    size = np.linalg.norm(b @ a)
    np.testing.assert_allclose(new_b @ new_a, b @ a, atol=1e-13 * size)
    np.testing.assert_allclose(new_a @ new_a.T, np.eye(r), atol=1e-13)
    singular = np.linalg.svd(b @ a, compute_uv=False)[:r]
    np.testing.assert_allclose(new_b.T @ new_b, np.diag(singular**2), atol=1e-13 * size**2)
    largest = new_a[np.arange(r), np.abs(new_a).argmax(axis=1)]
    assert (largest > 0).all()


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_fedsvd_equals_the_full_route(rank):
    """The SVD of the (m, n) product, truncated, up to the sign of each row."""
    b, a = RNG.normal(size=(20, 6)), RNG.normal(size=(6, 15))
    u, s, v = np.linalg.svd(b @ a, full_matrices=False)
    new_b, new_a = fedsvd_refactor(b, a, rank=rank)
    assert new_b.shape == (20, rank) and new_a.shape == (rank, 15)
    signs = np.sign((new_a * v[:rank]).sum(axis=1))
    np.testing.assert_allclose(new_a, signs[:, None] * v[:rank], atol=1e-12)
    np.testing.assert_allclose(new_b, u[:, :rank] * s[:rank] * signs, atol=1e-12 * s[0])


def test_fedsvd_of_a_refactored_pair_changes_nothing():
    b, a = fedsvd_refactor(RNG.normal(size=(12, 4)), RNG.normal(size=(4, 9)))
    again_b, again_a = fedsvd_refactor(b, a)
    np.testing.assert_allclose(again_b, b, atol=1e-13)
    np.testing.assert_allclose(again_a, a, atol=1e-13)


def test_fedsvd_of_products_without_full_rank():
    b, a = RNG.normal(size=(10, 4)), RNG.normal(size=(4, 7))
    a[2] = a[0]
    b[:, 3] = 0.0
    for one, other in ((b, a), (0 * b, a), (b, 0 * a)):
        new_b, new_a = fedsvd_refactor(one, other)
        np.testing.assert_allclose(new_b @ new_a, one @ other, atol=1e-13)
        np.testing.assert_allclose(new_a @ new_a.T, np.eye(4), atol=1e-13)


def test_fedsvd_averaging_b_alone_is_exact():
    bs, a, p = RNG.normal(size=(5, 10, 3)), RNG.normal(size=(3, 8)), RNG.dirichlet(np.ones(5))
    average = robust.mean(list(bs), weights=p)
    np.testing.assert_allclose(average @ a, np.einsum("k,kmr,rn->mn", p, bs, a), atol=1e-14)


def test_fedsvd_noise():
    """E||N A||^2 = sigma^2 m r for orthonormal rows; noise on both factors adds sigma^4 m n r."""
    m, r, n, sigma, draws = 20, 4, 30, 1.0, 4000
    rng = np.random.default_rng(1)
    _, a = fedsvd_refactor(rng.normal(size=(m, r)), rng.normal(size=(r, n)))
    on_b, on_both = [], []
    for _ in range(draws):
        noise = sigma * rng.normal(size=(m, r))
        on_b.append(np.square(noise @ a).sum())
        on_both.append(np.square(noise @ (sigma * rng.normal(size=(r, n)))).sum())
    for values, expected in ((on_b, sigma**2 * m * r), (on_both, sigma**4 * m * n * r)):
        assert abs(np.mean(values) - expected) < 5 * np.std(values) / math.sqrt(draws)


def test_fedsvd_gradients_of_b_are_no_longer_than_those_of_the_product():
    _, a = fedsvd_refactor(RNG.normal(size=(9, 3)), RNG.normal(size=(3, 11)))
    for _ in range(20):
        slope = RNG.normal(size=(9, 11))
        assert np.linalg.norm(slope @ a.T) <= np.linalg.norm(slope)


# -------------------------------------------------------------------------------------------------------- BR-MTRL

RULES = (("krum", {"f": 1}), ("geometric_median", {}))


def client(phi: np.ndarray, head: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two steps on the head, then two on the representation, of 1/2 mean (x phi h - y)^2."""
    for _ in range(2):
        head = head - 0.1 * (x @ phi).T @ (x @ phi @ head - y) / len(y)
    for _ in range(2):
        phi = phi - 0.1 * np.outer(x.T @ (x @ phi @ head - y), head) / len(y)
    return phi, head


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_br_mtrl_identical_clients_take_the_plain_step(rule, options):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6)), rng.normal(size=30)
    phi = plain = rng.normal(size=(6, 2))
    head = plain_head = rng.normal(size=2)
    for _ in range(10):
        sent = [client(phi, head, x, y) for _ in range(5)]
        phi, head = br_mtrl_round([part for part, _ in sent], rule=rule, reference=phi, **options), sent[0][1]
        plain, plain_head = client(plain, plain_head, x, y)
    np.testing.assert_allclose(phi, plain, rtol=1e-13)


@pytest.mark.parametrize(("rule", "options"), RULES)
@pytest.mark.parametrize("bad", [1e30, np.nan])
def test_br_mtrl_survives_an_attacker(rule, options, bad):
    phi = [np.full((3, 2), 1e4, np.float32), np.zeros(2, np.float32)]
    sent = [[layer + np.float32(0.01) * RNG.normal(size=layer.shape).astype(np.float32) for layer in phi] for _ in range(6)]
    sent.insert(2, [np.full_like(layer, bad) for layer in phi])
    result = br_mtrl_round(sent, rule=rule, reference=phi, **options)
    for got, start in zip(result, phi, strict=True):
        assert got.dtype == np.float32 and np.abs(got - start).max() < 0.05


def test_br_mtrl_krum_far_from_the_origin_chooses_as_on_differences():
    """Weights of size 1e4 that differ by 1e-2: aggregating weights and aggregating exact differences agree."""
    phi = np.float32(2) ** RNG.integers(12, 14, 4000).astype(np.float32)
    for trial in range(20):
        rng = np.random.default_rng(trial)
        sent = phi + (rng.normal(size=(12, 4000)) * 0.05).astype(np.float32)
        sent[:3] += np.float32(0.02)
        difference, info = robust.krum(sent.astype(float) - phi, 3, return_info=True)
        result = br_mtrl_round(sent, rule="krum", f=3, reference=phi)
        assert result.tobytes() == sent[info.selected[0]].tobytes()
        np.testing.assert_array_equal(result, phi + difference)


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_br_mtrl_step_size(rule, options):
    phi, sent = RNG.normal(size=4), RNG.normal(size=(7, 4))
    whole = br_mtrl_round(sent, rule=rule, **options)
    np.testing.assert_array_equal(br_mtrl_round(sent, rule=rule, reference=phi, **options), whole)
    half = br_mtrl_round(sent, rule=rule, reference=phi, step_size=0.5, **options)
    np.testing.assert_allclose(half, phi + 0.5 * (whole - phi), rtol=1e-14)
    assert br_mtrl_round(sent, rule=rule, reference=phi, step_size=0.5, out=phi, **options) is phi
    np.testing.assert_array_equal(phi, half)


def test_br_mtrl_weights_of_the_clients():
    sent = np.array([[0.0], [1.0], [5.0]])
    result = br_mtrl_round(sent, weights=[1, 1, 5])
    np.testing.assert_allclose(result, [5.0], atol=1e-5)  # on a line the geometric median is the weighted median
