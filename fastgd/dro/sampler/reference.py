"""The oracle: every step projects all n probabilities anew, in NumPy float64. It shares no code with the C kernels.

An object keeps t = n p (KL: log t). A step adds the gains and solves the conditions of optimality from scratch:

* chi-squared: q_i = c (w_i - theta)_+, the threshold by sorting, in closed form; the floor is a mixture.
* KL: t_i = max(delta, C w_i^gamma), C by sorting and gamma by a root finder.
* a number k > 1 (Cressie-Read): t_i = max(delta, (c (w_i - theta))_+^(1/(k-1))), two nested root finders.

Cost of a step: O(n log n) for the first two, some hundred passes over n numbers for the last; O(n) a draw of any size.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ... import random

#: Why an update was refused: the code of a position is 8 * position + one of these.
INDEX, LOSS, ZERO, OVERFLOW = 1, 2, 3, 4

_TINY = 2.0**-110  # 2 n R below this: no t differs from 1 by a rounding error


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    """The root of an increasing f with f(low) <= 0 <= f(high): secants between the ends, halving where they stall."""
    f_low, f_high = f(low), f(high)
    if f_low >= 0.0:
        return low
    if f_high <= 0.0:
        return high
    side, width = 0, high - low
    for step in range(200):
        x = high - f_high * (high - low) / (f_high - f_low)
        if step % 3 == 2:
            if high - low > 0.25 * width:
                x = 0.5 * (low + high)
            width = high - low
        margin = float(np.spacing(max(abs(low), abs(high))))
        if high - low <= 2.0 * margin:
            break
        x = min(max(x, low + margin), high - margin)
        value = f(x)
        if value == 0.0:
            return x
        if value < 0.0:
            low, f_low, f_high = x, value, f_high * (0.5 if side < 0 else 1.0)
            side = -1
        else:
            high, f_high, f_low = x, value, f_low * (0.5 if side > 0 else 1.0)
            side = 1
    return 0.5 * (low + high)


class _Sampler:
    """What the three divergences share. `_t` is n p."""

    backend = "reference"

    def __init__(self, n: int, radius: float, floor: float, step_size: float, seed: int, exponent: float) -> None:
        self.arguments = (n, radius, floor, step_size, seed, exponent)
        self.n, self.radius, self.floor, self.step_size, self.seed, self.exponent = self.arguments
        self.drawn = 0
        self._fixed = n == 1 or 2.0 * radius * n < _TINY
        self._t = np.ones(n)

    def sample(self, size: int) -> np.ndarray:
        words = random.bits32(self.seed, 0, 2 * self.drawn, 2 * size, backend="reference").astype(np.uint64)
        self.drawn += size
        u = ((words[0::2] | words[1::2] << np.uint64(32)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        sums = np.cumsum(self._t)
        return np.searchsorted(sums, np.minimum(u * sums[-1], np.nextafter(sums[-1], 0.0)), side="right").astype(np.int64)

    def sample_one(self) -> int:
        return int(self.sample(1)[0])

    def update_one(self, index: int, loss: float) -> int:
        return self.update(np.array([index]), np.array([loss]))

    def probability(self, index: np.ndarray) -> np.ndarray:
        return self._t[index] / self.n

    def probabilities(self) -> np.ndarray:
        return self._t / self.n

    def update(self, index: np.ndarray, loss: np.ndarray) -> int:
        wrong = (index < 0) | (index >= self.n)
        t = self._t[np.where(wrong, 0, index)]
        codes = np.where(wrong, INDEX, np.where(~np.isfinite(loss) | (loss < 0.0), LOSS, np.where(t == 0.0, ZERO, 0)))
        if codes.any():
            position = int((codes != 0).argmax())
            return 8 * position + int(codes[position])
        with np.errstate(over="ignore", divide="ignore"):
            gain = self.step_size * loss / (len(index) * (t / self.n))
            total = np.bincount(index, gain, self.n)
            moved = self._moved(total)
        if not np.isfinite(moved).all():
            return 8 * int(gain.argmax()) + OVERFLOW
        if not self._fixed:
            self._project(moved)
        return 0

    def divergence(self) -> float:
        return _divergence(self._t, self.exponent)

    def state(self) -> dict[str, Any]:
        return {"t": self._t.copy(), "drawn": self.drawn}

    def restored(self, state: Mapping[str, Any]) -> Any:
        """Another one of the same arguments in that state; ValueError where it is none."""
        other = type(self)(*self.arguments)
        other._t, other.drawn = _numbers(state["t"]), operator.index(state["drawn"])
        with np.errstate(over="ignore", invalid="ignore"):
            if not abs(other._t.mean() - 1.0) <= 1e-9:
                raise ValueError("the probabilities")
        fine = other._t.shape == (self.n,) and np.isfinite(other._t).all() and other._t.min() >= 0.0
        if not fine or not 0 <= other.drawn < 2**62:
            raise ValueError("t and drawn")
        return other

    def _moved(self, gain: np.ndarray) -> np.ndarray:
        """The mirror step, in the coordinates that `_project` takes."""
        raise NotImplementedError

    def _project(self, w: np.ndarray) -> None:
        raise NotImplementedError


def _numbers(x: Any) -> np.ndarray:
    """A copy; ValueError where it is no vector of float64."""
    array = np.array(x)
    if array.dtype != np.float64 or array.ndim != 1 or not array.size:
        raise ValueError("numbers")
    return array


def _divergence(t: np.ndarray, k: float) -> float:
    """D_f of t = n p, f of Cressie and Read with exponent k, in a form that does not cancel near t = 1 for k = 1 and 2."""
    if k == 2.0:
        return float(np.mean((t - 1.0) ** 2)) / 2.0
    if k == 1.0:
        logs = np.log(np.where(t > 0.0, t, 1.0))
        return float(np.mean(np.where(t > 0.0, t * logs - np.expm1(logs), 1.0)))
    return float(np.mean(t**k - k * t + k - 1.0)) / (k * (k - 1.0))


# ---------------------------------------------------------------------------------------------------- chi-squared


class chi2(_Sampler):
    """In units of t = n q: t <- c (w - theta)_+ with mean 1 and mean square at most K = 1 + 2 R / (1 - delta)^2."""

    def _moved(self, gain: np.ndarray) -> np.ndarray:
        return self._t + self.n * gain

    def _project(self, w: np.ndarray) -> None:
        keep = 1.0 - self.floor
        q = _project_chi2((w - self.floor) / keep, 2.0 * self.radius / keep / keep)
        self._t = self.floor + keep * q


def _threshold(w: np.ndarray, n: int, excess: float, scale: float) -> float:
    """theta where exactly the elements w are above it: the smaller of the simplex' and the ball's."""
    size = len(w)
    mean = w.mean()
    room = (size - n) / n + excess * size / n  # K N / n - 1
    simplex = mean - n / size / scale
    return min(simplex, mean - math.sqrt(w.var() / room)) if room > 0.0 else simplex


def _project_chi2(w: np.ndarray, excess: float) -> np.ndarray:
    """Euclidean projection of w >= 0 onto t >= 0 of mean 1 and mean square <= 1 + excess."""
    n = len(w)
    scale = max(1.0, w.max() * 1e-100)  # squares must not overflow; what is 1e100 times smaller does not count
    w = (w - w.max()) / scale  # what lies far below the largest may lose digits
    order = np.sort(w)[::-1]
    size = np.arange(1, n + 1)
    mean = np.cumsum(order) / size
    variance = np.maximum(np.cumsum(order**2) / size - mean**2, 0.0)
    room = (size - n) / n + excess * size / n
    with np.errstate(divide="ignore", invalid="ignore"):
        ball = np.where(room > 0.0, mean - np.sqrt(variance / room), np.inf)
    above = np.flatnonzero(order > np.minimum(mean - n / size / scale, ball))
    active = order[: above[-1] + 1]
    for _ in range(n):  # prefix sums are rough: settle the set with exact moments
        theta = _threshold(active, n, excess, scale)
        kept = order[order > theta]
        if len(kept) >= len(active):
            break
        active = kept
    t = np.maximum(w - theta, 0.0)
    return t / t.mean()


# -------------------------------------------------------------------------------------------------------------- KL


class kl(_Sampler):
    """In logarithms x = log t: t <- max(delta, C e^(gamma x)), 0 < gamma <= 1."""

    def __init__(self, n: int, radius: float, floor: float, step_size: float, seed: int, exponent: float) -> None:
        super().__init__(n, radius, floor, step_size, seed, exponent)
        self._logs = np.zeros(n)

    def _moved(self, gain: np.ndarray) -> np.ndarray:
        return self._logs + np.minimum(gain, 50.0)

    def _project(self, x: np.ndarray) -> None:
        order = np.sort(x)[::-1]
        if _divergence_of_logs(self._powered(x, order, 1.0)) <= self.radius:
            gamma = 1.0
        else:
            gamma = _root(lambda g: _divergence_of_logs(self._powered(order, order, g)) - self.radius, 0.0, 1.0)
        self._logs = self._powered(x, order, gamma)
        self._t = np.exp(self._logs)

    def _powered(self, x: np.ndarray, order: np.ndarray, gamma: float) -> np.ndarray:
        """log t for one gamma; `order` is x, largest first. The right active set is the longest that stays above the floor."""
        n, top = len(x), order[0]
        scaled = gamma * (order - top)
        size = np.arange(1, n + 1)
        with np.errstate(divide="ignore"):
            log_c = np.log((n - (n - size) * self.floor) / np.cumsum(np.exp(scaled)))
            bottom = np.log(self.floor)
        kept = np.flatnonzero(scaled + log_c > bottom)[-1] + 1
        exact = np.log((n - (n - kept) * self.floor) / np.exp(scaled[:kept]).sum())  # prefix sums are rough
        return np.maximum(gamma * (x - top) + exact, bottom)

    def state(self) -> dict[str, Any]:
        return {"logs": self._logs.copy(), "drawn": self.drawn}

    def restored(self, state: Mapping[str, Any]) -> kl:
        logs = _numbers(state["logs"])
        with np.errstate(over="ignore"):
            other = super().restored({"t": np.exp(logs), "drawn": state["drawn"]})
        other._logs = logs
        return other


def _divergence_of_logs(x: np.ndarray) -> float:
    t = np.exp(x)
    return float(np.mean(np.where(t > 0.0, x, 0.0) * t - np.expm1(x)))


# ---------------------------------------------------------------------------------------------------- any exponent


class cressie_read(_Sampler):
    """In u = t^(k-1): t <- max(delta, (c (u - theta))_+^(1/(k-1))), 0 < c <= 1."""

    def _moved(self, gain: np.ndarray) -> np.ndarray:
        order = self.exponent - 1.0
        return self._t**order + order * np.float64(self.n) ** order * gain

    def _project(self, u: np.ndarray) -> None:
        low, t = 1.0, self._shrunk(u, 1.0)
        if _divergence(t, self.exponent) > self.radius:
            while _divergence(self._shrunk(u, low), self.exponent) > self.radius:
                low *= 0.125
            c = _root(lambda log: _divergence(self._shrunk(u, math.exp(log)), self.exponent) - self.radius, math.log(low),
                      math.log(8.0 * low))
            t = self._shrunk(u, math.exp(c))
        self._t = t

    def _shrunk(self, u: np.ndarray, c: float) -> np.ndarray:
        """t of mean 1 for one c."""
        order = 1.0 / (self.exponent - 1.0)

        def weights(theta: float) -> np.ndarray:
            return np.maximum(np.maximum(c * (u - theta), 0.0) ** order, self.floor)

        theta = _root(lambda theta: 1.0 - float(weights(theta).mean()), u.min() - 1.0 / c, u.max() - 1.0 / c)
        return weights(theta)
