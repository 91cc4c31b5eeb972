"""What `fastgd demo dro` trains: its problems, its methods, one training.

Linear models: softmax regression, for two classes logistic. With x a batch of examples, one a row,

    p = softmax(x W),    loss of an example = -log p[class],    W <- W - rate (mean gradient of the batch).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastgd import dro

PROBLEMS = ("breast cancer", "digits", "digits, few 8s")
COMPONENTS = {"breast cancer": 5, "digits": 8}  # principal components that a model sees; of others, everything
RARE, KEPT = 8, 0.05  # the digit that is rare in the last problem's training set, and the part of it that is kept
TAIL = 0.1  # the part of the examples, the worst, whose mean loss is shown
GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # step sizes that are tried
TUNING_SEEDS = (101, 102, 103, 104, 105)


@dataclass(frozen=True)
class Settings:
    """How to train."""

    steps: int = 1000
    batch: int = 32
    seeds: int = 5
    radius: float = 0.5
    floor: float = 0.1


class Method(NamedTuple):
    """How examples are drawn, and the best step size found for each problem."""

    name: str
    kind: str
    rates: dict[str, float]
    gain: float = 0.0  # of the sampler: what a loss of 1 adds to n p of an example drawn alone (KL: to its logarithm)


METHODS = (
    Method("SGD", "uniform", dict(zip(PROBLEMS, (0.1, 0.1, 1.0), strict=True))),
    Method("DRO chi-squared", "chi2", dict(zip(PROBLEMS, (0.03, 0.1, 0.3), strict=True)), 30.0),
    Method("DRO KL", "kl", dict(zip(PROBLEMS, (0.03, 0.1, 0.3), strict=True)), 50.0),
    Method("group DRO", "group", {PROBLEMS[2]: 0.1}, 0.01),
)


class Data(NamedTuple):
    """Examples, one a row with a 1 at its end, and their classes, for training and held out."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


class Run(NamedTuple):
    """One training: losses of the examples held out at some steps, 0 and the last included, and what came out."""

    steps: list[int]
    tail: list[float]
    mean: float
    train_tail: float
    worst: float  # accuracy in the class where it is least
    seconds: float  # a step, in the fastest stretch between two looks at the examples held out


# ------------------------------------------------------------------------------------------------------- learning


def data(problem: str, seed: int) -> Data:
    """A split of a problem's examples. The breast cancer's features have mean 0 and variance 1, pixels are from 0 to 1; principal
    components, those of the training set, are divided by the largest one's standard deviation."""
    from sklearn.datasets import load_breast_cancer, load_digits
    from sklearn.model_selection import train_test_split

    x, y = (load_breast_cancer if problem == "breast cancer" else load_digits)(return_X_y=True)
    x, test_x, y, test_y = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y)
    centre, scale = (x.mean(axis=0), x.std(axis=0)) if problem == "breast cancer" else (0.0, 16.0)
    if problem == PROBLEMS[2]:
        rare = np.flatnonzero(y == RARE)
        missing = rare[round(KEPT * len(rare)) :]
        x, y = np.delete(x, missing, axis=0), np.delete(y, missing)
    x, test_x = (x - centre) / scale, (test_x - centre) / scale
    if problem in COMPONENTS:
        centre = x.mean(axis=0)
        _, sizes, axes = np.linalg.svd(x - centre, full_matrices=False)
        turn = axes[: COMPONENTS[problem]].T * (np.sqrt(len(x)) / sizes[0])
        x, test_x = (x - centre) @ turn, (test_x - centre) @ turn
    x, test_x = (np.hstack([part, np.ones((len(part), 1))]) for part in (x, test_x))
    return Data(x, y, test_x, test_y)


def losses(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-log p[class] of each example, and its derivatives by the scores."""
    scores = x @ weights
    scores -= scores.max(axis=1, keepdims=True)
    slope, rows = np.exp(scores), np.arange(len(y))
    sums = slope.sum(axis=1)
    loss = np.log(sums) - scores[rows, y]
    slope /= sums[:, None]
    slope[rows, y] -= 1.0
    return loss, slope


def tail(loss: np.ndarray) -> float:
    """The mean loss of the worst tenth."""
    return float(dro.worst_case(loss, divergence="cvar", alpha=TAIL)[1])


class Groups:
    """Draws of group DRO: a class by its weight, an example of it uniformly."""

    def __init__(self, y: np.ndarray, step_size: float, rng: np.random.Generator) -> None:
        self._order, self._count = np.argsort(y, kind="stable"), np.bincount(y)
        self._first, self._y, self._step, self._rng = np.cumsum(self._count) - self._count, y, step_size, rng
        self.weights = np.full(len(self._count), 1.0 / len(self._count))

    def sample(self, size: int) -> np.ndarray:
        sums = np.cumsum(self.weights)
        group = np.searchsorted(sums, self._rng.random(size) * sums[-1], side="right")
        index: np.ndarray = self._order[self._first[group] + (self._rng.random(size) * self._count[group]).astype(int)]
        return index

    def update(self, index: np.ndarray, loss: np.ndarray) -> None:
        means = dro.group_losses(loss, self._y[index], len(self.weights))
        self.weights = dro.group_weights(self.weights, means, step_size=self._step)


class Uniform:
    """Draws of plain descent."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self._n, self._rng = n, rng

    def sample(self, size: int) -> np.ndarray:
        return self._rng.integers(self._n, size=size)

    def update(self, index: np.ndarray, loss: np.ndarray) -> None:
        pass


def drawer(method: Method, y: np.ndarray, settings: Settings, seed: int) -> Any:
    """What draws examples and hears of their losses."""
    n, rng = len(y), np.random.default_rng(seed)
    if method.kind == "uniform":
        return Uniform(n, rng)
    if method.kind == "group":
        return Groups(y, method.gain, rng)
    step = method.gain / n ** (2 if method.kind == "chi2" else 1)
    return dro.DROSampler(n, radius=settings.radius, divergence=method.kind, floor=settings.floor, step_size=step, seed=seed)


def train(method: Method, rate: float, examples: Data, settings: Settings, seed: int,
          tick: Callable[[int], Any] = lambda steps: None) -> Run:
    """One training from zero weights."""
    x, y, test_x, test_y = examples
    classes, batch = int(y.max()) + 1, settings.batch
    weights, draws = np.zeros((x.shape[1], classes)), drawer(method, y, settings, seed)
    every, seconds = max(1, settings.steps // 25), math.inf
    steps, tails = [0], [tail(losses(weights, test_x, test_y)[0])]
    while steps[-1] < settings.steps:
        more = min(every, settings.steps - steps[-1])
        start = time.perf_counter()
        for _ in range(more):
            index = draws.sample(batch)
            rows = x[index]
            loss, slope = losses(weights, rows, y[index])
            draws.update(index, loss)
            weights -= rate / batch * (rows.T @ slope)
        seconds = min(seconds, (time.perf_counter() - start) / more)
        steps.append(steps[-1] + more)
        tails.append(tail(losses(weights, test_x, test_y)[0]))
        tick(more)
    right = (test_x @ weights).argmax(axis=1) == test_y
    worst = min(float(right[test_y == k].mean()) for k in range(classes))
    return Run(steps, tails, float(losses(weights, test_x, test_y)[0].mean()), tail(losses(weights, x, y)[0]), worst, seconds)


def tuned(problem: str, method: Method, settings: Settings, tick: Callable[[int], Any]) -> float:
    """The step size of GRID with the least tail loss of examples held out, in the mean of TUNING_SEEDS."""
    splits = {seed: data(problem, seed) for seed in TUNING_SEEDS}
    found = {rate: np.mean([train(method, rate, splits[seed], settings, seed, tick).tail[-1] for seed in TUNING_SEEDS])
             for rate in GRID}
    return min(GRID, key=lambda rate: found[rate])
