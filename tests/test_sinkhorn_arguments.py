"""What the public solvers refuse, by name, before any work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastgd import sinkhorn

COST, A, B = np.ones((3, 2)), np.array([0.2, 0.3, 0.5]), np.array([0.4, 0.6])
GOOD: dict[str, Any] = {"cost": COST, "a": A, "b": B, "reg": 0.1}
NAN, INF = np.nan, np.inf
BAD: list[tuple[str, str, Any]] = [
    *(("cost", "cost", bad) for bad in (np.full((3, 2), NAN), np.full((3, 2), -INF), np.ones(3), np.ones((0, 2)), "cost")),
    *(("a", "a", bad) for bad in (np.ones(4), np.array([0.5, 0.6, -0.1]), np.array([NAN, 0.5, 0.5]), np.zeros(3), A[None], "a")),
    *(("b", "b", bad) for bad in (np.ones(3), np.array([INF, 1.0]), np.zeros(2), B * 1.1)),
    *(("reg", "reg", bad) for bad in (0.0, -1.0, NAN, INF, "1", None, 5e-324)),
    *(("method", "method", bad) for bad in ("lp", None, ["auto"])),
    *(("tol", "tol", bad) for bad in (-1e-9, NAN, "1", None)),
    *(("max_iter", "max_iter", bad) for bad in (-1, 1.5, None, True)),
    *(("precision", "precision", bad) for bad in ("float16", None, 64)),
    *(("marginal_penalty", "marginal_penalty", bad) for bad in (0.0, -1.0, NAN, (1.0, 2.0, 3.0), (1.0, 0.0), "1")),
    *(("callback", "callback", bad) for bad in (3, "f")),
    *(("init", "init", bad) for bad in (3, (np.zeros(3),), (np.zeros(2), np.zeros(3)), (np.full(3, NAN), np.zeros(2)))),
    *(("backend", "backend", bad) for bad in ("gpu", 3)),
    *(("num_threads", "num_threads", bad) for bad in (0, 1.5)),
]


@pytest.mark.parametrize("word, name, bad", BAD, ids=[f"{name}-{k}" for k, (_, name, _) in enumerate(BAD)])
def test_refused(word: str, name: str, bad: Any) -> None:
    arguments = GOOD | {name: bad}
    with pytest.raises((ValueError, TypeError), match=rf"\b{word}\b"):
        sinkhorn.solve(arguments.pop("cost"), arguments.pop("a"), arguments.pop("b"), **arguments)


@pytest.mark.parametrize("options, word", [
    ({"method": "newton", "marginal_penalty": 1.0}, "marginal_penalty"), ({"method": "sns", "precision": "float32"}, "precision"),
])
def test_refused_together(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        sinkhorn.solve(COST, A, B, reg=0.1, **options)


@pytest.mark.parametrize("change, word", [
    ({"x": np.ones(3)}, "x"), ({"x": np.full((3, 2), NAN)}, "x"), ({"y": np.ones((2, 3))}, "y"), ({"metric": "cosine"}, "metric"),
    ({"scale": -1.0}, "scale"), ({"scale": NAN}, "scale"), ({"x": np.full((3, 2), 1e200)}, "x"),
])
def test_points_refused(change: dict[str, Any], word: str) -> None:
    arguments = {"x": np.ones((3, 2)), "y": np.zeros((2, 2)), "reg": 0.1} | change
    with pytest.raises((ValueError, TypeError), match=rf"\b{word}\b"):
        sinkhorn.solve_points(arguments.pop("x"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize("change, word", [
    ({"costs": COST}, "costs"),
    ({"a": np.tile(A, (3, 1))}, "a"), ({"b": np.tile(B, (4, 1)) * 2}, "b"), ({"init": [None]}, "init"),
    ({"costs": np.array([COST, COST * NAN])}, "costs"),
])
def test_batches_refused(change: dict[str, Any], word: str) -> None:
    arguments = {"costs": np.stack([COST, COST]), "a": A, "b": B, "reg": 0.1} | change
    with pytest.raises((ValueError, TypeError), match=rf"\b{word}\b"):
        sinkhorn.solve_batch(arguments.pop("costs"), arguments.pop("a"), arguments.pop("b"), **arguments)
