"""The same work through other libraries' public interfaces, and composed of NumPy's operations, for the benchmark.

Trees of sums: tianshou's (Numba), cpprb's (C++; its sampling also gathers the stored item and makes importance weights, its
update writes a tree of minima too; no other way leads to its tree) and torchrl's (C++, where its extension loads). None of them
checks its weights. The indices that are updated are other ones each time, the same as fastgd gets.

Inputs are `bench.case.Case` inputs: n, batch, weights, indices and values (lists, taken in turn), losses, alpha, radius, floor,
step_size.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from ..bench.case import prepared


def _pairs(inputs: dict[str, Any], index: str = "int64") -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices and new weights, for ever."""
    return cycle([(k.astype(index), v) for k, v in zip(inputs["indices"], inputs["values"], strict=True)])


# ------------------------------------------------------------------------------------------------------------ trees


def _tianshou(inputs: dict[str, Any]) -> Any:
    tree = importlib.import_module("tianshou.data").SegmentTree(inputs["n"])
    tree[np.arange(inputs["n"])] = inputs["weights"]
    return tree


@prepared
def tianshou_sample(inputs: dict[str, Any]) -> Callable[[], Any]:
    """As its PrioritizedReplayBuffer draws."""
    tree, rng, batch = _tianshou(inputs), np.random.default_rng(0), inputs["batch"]
    return lambda: tree.get_prefix_sum_idx(rng.random(batch) * tree.reduce())


@prepared
def tianshou_update(inputs: dict[str, Any]) -> Callable[[], Any]:
    """Item assignment."""
    tree, pairs = _tianshou(inputs), _pairs(inputs)
    return lambda: tree.__setitem__(*next(pairs))


def _torchrl(inputs: dict[str, Any]) -> Any:
    tree = importlib.import_module("torchrl._torchrl").SumSegmentTreeFp64(inputs["n"])
    tree[np.arange(inputs["n"])] = inputs["weights"]
    return tree


@prepared
def torchrl_sample(inputs: dict[str, Any]) -> Callable[[], Any]:
    """As its PrioritizedSampler draws."""
    tree, rng, n, batch = _torchrl(inputs), np.random.default_rng(0), inputs["n"], inputs["batch"]
    return lambda: tree.scan_lower_bound(rng.uniform(0.0, tree.query(0, n), batch))


@prepared
def torchrl_update(inputs: dict[str, Any]) -> Callable[[], Any]:
    """Item assignment."""
    tree, pairs = _torchrl(inputs), _pairs(inputs)
    return lambda: tree.__setitem__(*next(pairs))


def _cpprb(inputs: dict[str, Any]) -> Any:
    module, n = importlib.import_module("cpprb"), inputs["n"]
    buffer = module.PrioritizedReplayBuffer(n, {"x": {"dtype": np.uint8}}, alpha=1.0, eps=0.0)
    for lo in range(0, n, 10**6):
        part = inputs["weights"][lo : lo + 10**6]
        buffer.add(x=np.zeros(len(part), np.uint8), priorities=part)
    return buffer


@prepared
def cpprb_sample(inputs: dict[str, Any]) -> Callable[[], Any]:
    """A batch of a buffer of single bytes."""
    buffer, batch = _cpprb(inputs), inputs["batch"]
    return lambda: buffer.sample(batch)


@prepared
def cpprb_update(inputs: dict[str, Any]) -> Callable[[], Any]:
    """update_priorities."""
    buffer, pairs = _cpprb(inputs), _pairs(inputs, "uint64")
    return lambda: buffer.update_priorities(*next(pairs))


SAMPLE = {"torchrl": torchrl_sample, "tianshou": tianshou_sample, "cpprb": cpprb_sample}
UPDATE = {"torchrl": torchrl_update, "tianshou": tianshou_update, "cpprb": cpprb_update}


# ------------------------------------------------------------------------------------------------------ projections


def sorted_projection(w: np.ndarray, radius: float) -> np.ndarray:
    """The chi-squared projection as array operations: sort, prefix sums, the last threshold that its element is above."""
    n = len(w)
    t = n * w - 1.0
    order = np.sort(t)[::-1]
    count = np.arange(1, n + 1)
    mean = np.cumsum(order) / count
    variance = np.maximum(np.cumsum(order * order) / count - mean * mean, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ball = mean - np.sqrt(variance / ((1.0 + 2.0 * radius) * count / n - 1.0))
    theta = np.fmin(mean - n / count, ball)
    t -= theta[np.flatnonzero(order > theta)[-1]]
    np.maximum(t, 0.0, out=t)
    t /= t.sum()
    return t


def numpy_project(inputs: dict[str, Any]) -> np.ndarray:
    """One projection by sorting."""
    return sorted_projection(inputs["weights"], inputs["radius"])


@prepared
def numpy_chi2(inputs: dict[str, Any]) -> Callable[[], None]:
    """Draws by a prefix sum, one projection by sorting."""
    n, floor, rng, p = inputs["n"], inputs["floor"], np.random.default_rng(0), np.full(inputs["n"], 1.0 / inputs["n"])

    def work() -> None:
        sums = np.cumsum(p)
        index = np.searchsorted(sums, rng.random(inputs["batch"]) * sums[-1], side="right")
        gain = inputs["step_size"] * inputs["losses"][index] / (len(index) * p[index])
        w = (p - floor / n) / (1.0 - floor)
        np.add.at(w, index, gain / (1.0 - floor))
        p[:] = floor / n + (1.0 - floor) * sorted_projection(w, inputs["radius"] / (1.0 - floor) ** 2)

    return work


def scipy_worst_case(inputs: dict[str, Any]) -> np.ndarray:
    """The KL ball's worst case: the temperature by SciPy's root finder, weights by its softmax."""
    optimize, special = importlib.import_module("scipy.optimize"), importlib.import_module("scipy.special")
    z, n = inputs["losses"], inputs["n"]

    def excess(log_temperature: float) -> float:
        logs = special.log_softmax(z / np.exp(log_temperature))
        return float(np.exp(logs) @ logs) + np.log(n) - inputs["radius"]

    weights: np.ndarray = special.softmax(z / np.exp(optimize.brentq(excess, -12.0, 12.0)))
    return weights


def numpy_worst_case(inputs: dict[str, Any]) -> np.ndarray:
    """The chi-squared ball's worst case by sorting."""
    z = inputs["losses"]
    n = len(z)
    order = np.sort(z - z.mean())[::-1]
    count = np.arange(1, n + 1)
    mean = np.cumsum(order) / count
    variance = np.maximum(np.cumsum(order * order) / count - mean * mean, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = mean - np.sqrt(variance / ((1.0 + 2.0 * inputs["radius"]) * count / n - 1.0))
    theta = np.where(np.isnan(theta), np.inf, theta)
    weights = np.maximum(z - z.mean() - theta[np.flatnonzero(order > theta)[-1]], 0.0)
    return weights / weights.sum()


def numpy_cvar(inputs: dict[str, Any]) -> np.ndarray:
    """The conditional value at risk by a partition."""
    z, k = inputs["losses"], int(inputs["alpha"] * inputs["n"])
    weights = np.zeros(len(z))
    weights[np.argpartition(z, len(z) - k)[len(z) - k :]] = 1.0 / k
    return weights
