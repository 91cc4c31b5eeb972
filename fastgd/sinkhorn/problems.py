"""The problems that the room is measured on, made from seeds.

They differ in what is hard about them: plans that are nearly permutations (`assign`), a cloud moved to another with small and
with large regularisation, dense plans with masses over many orders of magnitude (`cloudw`), densities on a grid that nearly
vanish in places (`grid`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Transport(NamedTuple):
    """A cost and two marginals."""

    cost: np.ndarray  # (n, m) float64
    a: np.ndarray
    b: np.ndarray


def uniform(n: int) -> np.ndarray:
    """n masses of 1 / n."""
    return np.full(n, 1.0 / n)


def assign(n: int, seed: int = 0) -> Transport:
    """Costs uniform on [0, 1]: as the regularisation falls, a random assignment."""
    return Transport(np.random.default_rng(seed).random((n, n)), uniform(n), uniform(n))


def cloud(n: int, seed: int = 0) -> Transport:
    """Uniform points of the unit square to points drawn towards its origin, squared distances over their maximum."""
    rng = np.random.default_rng(seed)
    x, y = rng.random((n, 2)), 0.5 * rng.random((n, 2)) + 0.5 * rng.random((n, 2)) ** 2
    return Transport(_scaled(x, y, 2), uniform(n), uniform(n))


def cloudw(n: int, seed: int = 0) -> Transport:
    """Normal points in five dimensions, shifted by 1/2 in each, with masses from a flat Dirichlet distribution."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 5)), rng.standard_normal((n, 5)) + 0.5
    a, b = (np.maximum(rng.dirichlet(np.ones(n)), 1e-8) for _ in range(2))
    return Transport(_scaled(x, y, 2), a / a.sum(), b / b.sum())


def grid(side: int, power: int) -> Transport:
    """Two mixtures of five Gaussians on the cells of a square; cost |x - y|^power summed over the axes, over its maximum."""
    line = (np.arange(side) + 0.5) / side
    cells = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    return Transport(_scaled(cells, cells, power), _mixture(cells, 1), _mixture(cells, 2))


def _mixture(cells: np.ndarray, seed: int) -> np.ndarray:
    rng, density = np.random.default_rng(seed), np.zeros(len(cells))
    for _ in range(5):
        center, width, weight = rng.random(2), rng.uniform(0.03, 0.1), rng.random()
        density += weight * np.exp(-((cells - center) ** 2).sum(axis=1) / (2.0 * width**2))
    density = density / density.sum() + 1e-4 / len(cells)
    return density / density.sum()


def _scaled(x: np.ndarray, y: np.ndarray, power: int) -> np.ndarray:
    cost = sum(np.abs(x[:, None, axis] - y[None, :, axis]) ** power for axis in range(x.shape[1]))
    return np.asarray(cost / np.max(cost))


class Named(NamedTuple):
    """A problem at a regularisation; `cost` is <C, P> of its solution, from two solvers of other make, 0 where unknown."""

    transport: Transport
    reg: float
    cost: float = 0.0


def named(name: str, n: int) -> Named:
    """One of NAMES with about n points a side: a grid has the largest square below."""
    kind, reg = {"assign": ("assign", 1 / 1200), "cloud.001": ("cloud", 0.001), "cloud.01": ("cloud", 0.01),
                 "cloudw": ("cloudw", 0.02), "grid2": ("grid", 0.001), "grid1": ("grid", 0.002)}[name]
    if kind == "grid":
        transport = grid(int(n**0.5), int(name[-1]))
    else:
        transport = {"assign": assign, "cloud": cloud, "cloudw": cloudw}[kind](n)
    return Named(transport, reg, _COSTS.get((name, len(transport.a)), 0.0))


NAMES = ("assign", "cloud.001", "cloud.01", "cloudw", "grid2", "grid1")
_COSTS = {("assign", 500): 0.003450413, ("assign", 1000): 0.001950955, ("assign", 2000): 0.001298853,
          ("cloud.01", 1000): 0.028028934, ("cloud.001", 1000): 0.019972196, ("cloud.001", 2000): 0.016817700,
          ("cloudw", 1000): 0.05897803, ("grid2", 1024): 0.049214916, ("grid1", 1024): 0.154267230}
