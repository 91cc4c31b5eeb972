"""Semi-discrete plans of `fastgd.sinkhorn` against closed forms, quantiles, scalings and the known advantages of DRAG."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sinkhorn_oracle as oracle
from scipy import stats
from sinkhorn_oracle import centred, refuses

from fastgd import sinkhorn

pytestmark = pytest.mark.timeout(120)

Sample = Callable[[int, np.random.Generator], np.ndarray]


def line(delta: float = 0.5) -> Sample:
    return lambda size, rng: delta + rng.random((size, 1))


def atoms(m: int) -> np.ndarray:
    return np.arange(1, m + 1)[:, None] / m


def line_potential(m: int, delta: float = 0.5) -> np.ndarray:
    """Of U[delta, 1 + delta] and the atoms k / M, for half squared distances."""
    return centred(np.arange(m) * (1 / (2 * m) - delta) / m)


def line_cost(m: int, delta: float = 0.5) -> float:
    return 0.5 * (delta**2 - delta / m + 1 / (3 * m * m))


def distance(made: Any, m: int) -> float:
    return float(((centred(made.g) - line_potential(m)) ** 2).sum())


def drag(m: int, steps: int, *, seed: int = 0, **kw: Any) -> Any:
    return sinkhorn.semidiscrete(line(), atoms(m), cost="half_sqeuclidean", steps=steps, seed=seed, **{"step0": 1.0} | kw)


# ------------------------------------------------------------------------------------------------------ closed forms


def test_a_line_and_its_atoms(backend: str) -> None:
    m = 10
    made = drag(m, 3000, batch=16, backend=backend)
    assert made.g.shape == (m,) and made.g.dtype == np.float64 and abs(made.g.sum()) < 1e-12
    np.testing.assert_allclose(made.g, line_potential(m), atol=4e-3)
    x = 0.5 + (np.arange(20_000) + 0.5)[:, None] / 20_000
    assert float(np.mean(made.cost(x))) == pytest.approx(line_cost(m), abs=2e-3)
    cells = made.assign(x)
    assert cells.dtype == np.int64 and cells.shape == (20_000,)
    np.testing.assert_allclose(np.bincount(cells, minlength=m) / 20_000, 0.1, atol=0.03)
    right = np.minimum(((x[:, 0] - 0.5) * m).astype(int), m - 1)
    assert (np.abs(cells - right) <= 1).all() and (cells == right).mean() > 0.8


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_cube_and_atoms_on_its_axis(d: int, backend: str) -> None:
    """The potential is constant; cost = (1 / (12 M^2) + (d - 1) / 12) / 2."""
    m = 6
    y = np.full((m, d), 0.5)
    y[:, 0] = (np.arange(1, m + 1) - 0.5) / m
    made = sinkhorn.semidiscrete(lambda size, rng: rng.random((size, d)), y, cost="half_sqeuclidean", steps=3000, batch=16,
                                 backend=backend)
    np.testing.assert_allclose(made.g, 0, atol=6e-3)
    x = np.random.default_rng(0).random((20_000, d))
    assert float(np.mean(made.cost(x))) == pytest.approx(0.5 * (1 / (12 * m * m) + (d - 1) / 12), abs=3e-3)


@pytest.mark.parametrize("cost", ["sqeuclidean", "half_sqeuclidean"])
def test_a_normal_line_with_weights(cost: str, backend: str) -> None:
    """The cells end at the quantiles of the cumulated weights."""
    y, weights = np.array([-1.5, -0.3, 0.1, 0.9, 2.0]), np.array([0.1, 0.3, 0.2, 0.15, 0.25])
    made = sinkhorn.semidiscrete(lambda size, rng: rng.standard_normal((size, 1)), y[:, None], weights, cost=cost, steps=4000,
                                 batch=16, backend=backend)
    assert made.g @ weights == pytest.approx(0, abs=1e-12)
    wanted = oracle.steps_of_potential(y, weights, lambda q: float(stats.norm.ppf(q)), half=cost == "half_sqeuclidean")
    np.testing.assert_allclose(np.diff(made.g), wanted, atol=0.06)
    x = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)[:, None]
    np.testing.assert_allclose(np.bincount(made.assign(x), minlength=5) / 20_000, weights, atol=0.03)


def test_one_atom(backend: str) -> None:
    made = sinkhorn.semidiscrete(line(), np.array([[0.25]]), steps=50, backend=backend)
    assert made.g.tolist() == [0.0] and (made.assign(np.zeros((4, 1))) == 0).all()


# -------------------------------------------------------------------------------------------------- what DRAG is for


def test_decreasing_regularisation_beats_a_fixed_one_by_far() -> None:
    """A fixed reg keeps its bias of 1.5e-3; at 1e5 draws DRAG is below it by a factor of some 300."""
    decreasing, fixed = drag(30, 100_000, seed=1), drag(30, 100_000, seed=1, reg0=0.05, reg_decay=0.0)
    assert distance(fixed, 30) == pytest.approx(1.5e-3, rel=0.3)
    assert distance(decreasing, 30) < min(1e-4, distance(fixed, 30) / 30)


def test_regularisation_helps_early() -> None:
    """Few draws for each atom: nearer than without regularisation; later they tie, within a box as narrow as the potential."""
    for m in (30, 100):
        with_it, without = (
            np.mean([distance(drag(m, 1000, seed=seed, reg0=reg), m) for seed in range(5)]) for reg in (0.1, 1e-9)
        )
        assert with_it < 0.8 * without
    assert distance(drag(100, 100_000, seed=2), 100) < 5e-4


def test_the_average_converges_like_one_over_t() -> None:
    """E ||mean g_t - g||^2 = O(1/t): a hundred times the draws, some hundred times nearer; the weighted mean too."""
    for averaging in ("uniform", "log2"):
        early, late = (
            np.mean([distance(drag(30, steps, seed=seed, averaging=averaging), 30) for seed in (3, 4)]) for steps in (600, 60_000)
        )
        assert late < early / 25 and late < 1e-4


# --------------------------------------------------------------------------------------------------------- symmetries


def test_half_the_cost_is_half_of_everything(backend: str) -> None:
    y = atoms(9)
    options: dict[str, Any] = {"steps": 500, "batch": 4, "seed": 7, "backend": backend}
    half = sinkhorn.semidiscrete(line(), y, cost="half_sqeuclidean", reg0=0.1, step0=0.5, **options)
    whole = sinkhorn.semidiscrete(line(), y, cost="sqeuclidean", reg0=0.2, step0=1.0, **options)
    np.testing.assert_allclose(whole.g, 2 * half.g, rtol=1e-9, atol=1e-12)
    x = np.random.default_rng(0).random((100, 1))
    assert (whole.assign(x) == half.assign(x)).all()
    np.testing.assert_allclose(whole.cost(x), 2 * np.asarray(half.cost(x)), rtol=1e-9)


def test_seeds_decide_and_nothing_else(backend: str) -> None:
    def run(seed: int) -> Any:
        return sinkhorn.semidiscrete(line(), atoms(7), steps=300, batch=3, seed=seed, backend=backend)

    np.random.seed(1)  # noqa: NPY002  (the global state plays no part)
    one = run(5)
    np.random.seed(2)  # noqa: NPY002
    assert run(5).g.tobytes() == one.g.tobytes() != run(6).g.tobytes()


def test_the_sampler_is_asked_for_what_is_used(backend: str) -> None:
    asked = []

    def sample(size: int, rng: np.random.Generator) -> np.ndarray:
        assert isinstance(rng, np.random.Generator) and isinstance(size, int) and size > 0
        asked.append(size)
        return rng.random((size, 2))

    y = np.random.default_rng(0).random((5, 2))
    kept = y.copy()
    made = sinkhorn.semidiscrete(sample, y, steps=40, batch=6, backend=backend)
    assert sum(asked) == 240 and (y == kept).all()
    history = np.asarray(made.history)
    assert history.dtype == np.float64 and len(history) > 0 and np.isfinite(history).all()


def test_assignment_is_the_least_cost_minus_potential(backend: str) -> None:
    rng = np.random.default_rng(3)
    y, weights = rng.standard_normal((11, 3)), rng.dirichlet(np.ones(11))
    made = sinkhorn.semidiscrete(lambda size, r: r.standard_normal((size, 3)), y, weights, steps=300, batch=8, backend=backend)
    x = rng.standard_normal((500, 3))
    scores = oracle.sqdist(x, y) - made.g
    best = np.sort(scores, 1)
    clear = best[:, 1] - best[:, 0] > 1e-9
    assert (made.assign(x) == scores.argmin(1))[clear].all() and clear.sum() > 490
    assert made.assign(x[:0]).shape == (0,)


def test_far_and_tiny_geometry(backend: str) -> None:
    """Shifts change nothing but rounding; scaling lengths by s scales potentials by s^2 when reg and step do."""
    base = sinkhorn.semidiscrete(line(), atoms(6), steps=400, batch=4, seed=1, reg0=0.1, step0=1.0, backend=backend)
    for s in (2.0**-20, 2.0**20):
        scaled = sinkhorn.semidiscrete(lambda size, rng, s=s: s * (0.5 + rng.random((size, 1))), s * atoms(6), steps=400, batch=4,
                                       seed=1, reg0=0.1 * s * s, step0=s * s, backend=backend)
        np.testing.assert_allclose(scaled.g, base.g * s * s, rtol=1e-9, atol=1e-12 * s * s)


# ---------------------------------------------------------------------------------------------------------- refusals

Y = atoms(4)
GOOD: dict[str, Any] = {"steps": 10}
BAD: list[tuple[str, dict[str, Any]]] = [
    *(("y", {"y": bad}) for bad in (np.ones(3), np.ones((0, 1)), np.ones((3, 0)), np.full((2, 1), np.nan))),
    *(("y", {"y": bad}) for bad in (np.full((2, 1), np.inf), "y", None, np.ones((2, 1), complex), np.ones((2, 2, 2)))),
    *(("weights", {"weights": bad}) for bad in (np.ones(3), np.ones((4, 1)), np.array([0.5, 0.5, 0.5, -0.5]), np.zeros(4))),
    *(("weights", {"weights": bad}) for bad in (np.array([np.nan, 1, 1, 1]), np.array([np.inf, 1, 1, 1]), "abcd")),
    *(("steps", {"steps": bad}) for bad in (0, -1, 1.5, None, "10", True, np.nan)),
    *(("batch", {"batch": bad}) for bad in (0, -1, 1.5, None, "10", True)),
    *(("seed", {"seed": bad}) for bad in (-1, 1.5, None, "1", 2**64)),
    *(("reg0", {"reg0": bad}) for bad in (-0.1, np.nan, np.inf, "1", None, 1j, True)),
    *(("reg_decay", {"reg_decay": bad}) for bad in (-0.1, np.nan, np.inf, "1", None)),
    *(("step0", {"step0": bad}) for bad in (0.0, -1.0, np.nan, np.inf, "1", 1j)),
    *(("step_decay", {"step_decay": bad}) for bad in (-0.5, np.nan, np.inf, "1", None)),
    *(("cost", {"cost": bad}) for bad in ("euclidean", "", None, 2, b"sqeuclidean", ["sqeuclidean"])),
    *(("averaging", {"averaging": bad}) for bad in ("log", "", None, 2, ["uniform"])),
    *(("sample", {"sample": bad}) for bad in (None, 3, np.ones((4, 1)), "sample")),
    *(("backend", {"backend": bad}) for bad in ("gpu", 3)),
]


@pytest.mark.parametrize("name, change", BAD, ids=[f"{name}-{k}" for k, (name, _) in enumerate(BAD)])
def test_refusals_name_the_argument(name: str, change: dict[str, Any]) -> None:
    arguments = {"sample": line(), "y": Y, **GOOD} | change
    refuses(name, sinkhorn.semidiscrete, arguments.pop("sample"), arguments.pop("y"), arguments.pop("weights", None), **arguments)


@pytest.mark.parametrize("bad", [
    lambda size, rng: rng.random((size + 1, 1)), lambda size, rng: rng.random((size, 2)), lambda size, rng: rng.random(size + 1),
    lambda size, rng: np.full((size, 1), np.nan), lambda size, rng: np.full((size, 1), np.inf), lambda size, rng: None,
    lambda size, rng: "x", lambda size, rng: np.ones((size, 1), complex), lambda size, rng: np.array([["a"]] * size),
], ids=["too many", "too wide", "flat", "NaN", "Inf", "None", "string", "complex", "letters"])
def test_draws_that_are_no_points(bad: Any, backend: str) -> None:
    refuses("sample", sinkhorn.semidiscrete, bad, Y, steps=10, backend=backend)


def test_a_sampler_that_raises(backend: str) -> None:
    def sample(size: int, rng: np.random.Generator) -> np.ndarray:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sinkhorn.semidiscrete(sample, Y, steps=10, backend=backend)


def test_points_to_assign_are_checked(backend: str) -> None:
    made = sinkhorn.semidiscrete(line(), Y, steps=10, backend=backend)
    for bad in (np.ones((3, 2)), np.ones(3), None, "x", np.full((2, 1), np.nan)):
        refuses("x", made.assign, bad)
        refuses("x", made.cost, bad)
