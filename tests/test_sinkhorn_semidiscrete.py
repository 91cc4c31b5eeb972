"""Semi-discrete transport: closed forms, one-dimensional quantiles, the oracle, determinism, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from fastgd import sinkhorn


def line(size: int, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + rng.random((size, 1))


def error(found: Any, m: int) -> float:
    """|g - g*|^2 on U[1/2, 3/2] and atoms k / M: g* is linear in k, of slope (1 / (2 M) - 1 / 2) / M."""
    g = np.arange(m) * (1 / (2 * m) - 0.5) / m
    return float(((found.g - g + g.mean()) ** 2).sum())


def drag(m: int, steps: int, seed: int = 0, **options: Any) -> Any:
    y = np.arange(1, m + 1)[:, None] / m
    return sinkhorn.semidiscrete(line, y, cost="half_sqeuclidean", steps=steps, seed=seed, step0=1.0, **options)


def test_example_of_a_line() -> None:
    m = 30
    found = drag(m, 30_000)
    assert error(found, m) <= 1e-4 and abs(found.g.mean()) <= 1e-15
    x = 0.5 + (np.arange(3000) + 0.5)[:, None] / 3000
    assert abs(found.cost(x) - 0.5 * (0.25 - 0.5 / m + 1 / (3 * m * m))) <= 1e-4
    assert (np.abs(found.assign(x) - np.arange(3000) // 100) <= 1).all()
    assert len(found.history) == 30 and abs(found.history[-10:].mean() - found.cost(x)) <= 0.01


@pytest.mark.parametrize("cost, factor", [("sqeuclidean", 1.0), ("half_sqeuclidean", 0.5)])
def test_example_of_a_cube(cost: str, factor: float) -> None:
    """Atoms on an axis of the unit cube, in the middles of M slices: g is constant."""
    m, d = 5, 3
    y = np.full((m, d), 0.5)
    y[:, 0] = (np.arange(m) + 0.5) / m
    found = sinkhorn.semidiscrete(lambda size, rng: rng.random((size, d)), y, cost=cost, steps=4000, batch=8)
    assert np.abs(found.g).max() <= 0.01
    x = np.random.default_rng(1).random((50_000, d))
    assert abs(found.cost(x) - factor * (1 / (12 * m * m) + (d - 1) / 12)) <= 2e-3


def test_quantiles() -> None:
    """On the line cells end at the quantiles q_k of the cumulated weights: diff g = diff y^2 - 2 q diff y."""
    y, w = np.array([-1.0, 0.0, 0.5, 2.0]), np.array([0.1, 0.4, 0.3, 0.2])
    found = sinkhorn.semidiscrete(lambda size, rng: rng.standard_normal((size, 1)), y[:, None], w, steps=5000, batch=16)
    q = norm.ppf(np.cumsum(w)[:-1])
    assert np.abs(np.diff(found.g) - (np.diff(y**2) - 2 * q * np.diff(y))).max() <= 0.05
    assert abs(w @ found.g) <= 1e-15


def test_rates() -> None:
    """The average nears g* as 1/t, and a fixed regularisation stops at its bias."""
    errors = [np.mean([error(drag(30, steps, seed), 30) for seed in (1, 2)]) for steps in (1000, 50_000)]
    assert errors[1] <= errors[0] / 20
    assert error(drag(30, 50_000, 1, reg0=0.05, reg_decay=0.0), 30) >= 30 * errors[1]


@pytest.mark.parametrize("options", [{}, {"batch": 5}, {"reg0": 0.0}, {"averaging": "log2"}, {"reg0": 1e-3, "batch": 2}])
@pytest.mark.parametrize("m, d", [(1, 1), (7, 2), (8, 3), (19, 1)])
def test_agrees_with_the_oracle(m: int, d: int, options: dict[str, Any], isa: int) -> None:
    y = np.random.default_rng(m).random((m, d))
    w = np.random.default_rng(d).random(m)
    one, two = (sinkhorn.semidiscrete(lambda size, rng: rng.random((size, d)), y, w, steps=60, backend=backend, **options)
                for backend in ("cpu", "reference"))
    assert np.abs(one.g - two.g).max() <= 1e-12 and np.abs(one.history - two.history).max() <= 1e-12
    x = np.random.default_rng(0).random((2500, d))
    assert (one.assign(x) == two.assign(x)).mean() >= 0.999 and abs(one.cost(x) - two.cost(x)) <= 1e-12
    assert one.assign(x, num_threads=2).tobytes() == one.assign(x, num_threads=1).tobytes()


def test_seeds_and_zero_weights(backend: str) -> None:
    one, two, three = (drag(9, 100, seed, backend=backend) for seed in (3, 3, 4))
    assert one.g.tobytes() == two.g.tobytes() != three.g.tobytes()
    y, w = np.arange(4.0)[:, None], np.array([1.0, 0.0, 2.0, 1.0])
    found = sinkhorn.semidiscrete(line, y, w, steps=100, backend=backend)
    assert found.g[1] == -np.inf and 1 not in found.assign(np.linspace(0, 3, 50)[:, None]) and found.assign(y[:0]).shape == (0,)


@pytest.mark.parametrize("name, bad", [
    ("sample", 3), ("sample", lambda size, rng: np.ones((size, 2))), ("sample", lambda size, rng: np.full((size, 1), np.nan)),
    ("y", np.ones(3)), ("y", np.full((2, 1), np.nan)), ("weights", np.ones(3)), ("weights", np.zeros(2)),
    ("weights", np.array([2.0, -1.0])),
    ("cost", "l1"), ("steps", 0), ("batch", 0), ("seed", -1), ("reg0", -1.0), ("reg_decay", -0.1), ("step0", 0.0),
    ("step_decay", np.nan), ("averaging", "none"), ("backend", "gpu"),
])
def test_refused(name: str, bad: Any) -> None:
    arguments = {"sample": line, "y": np.arange(2.0)[:, None], "weights": None, "steps": 10} | {name: bad}
    with pytest.raises((ValueError, TypeError), match=name):
        sinkhorn.semidiscrete(arguments.pop("sample"), arguments.pop("y"), **arguments)
