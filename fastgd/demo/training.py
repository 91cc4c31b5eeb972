"""Training with attackers among the workers: momentum at the workers, an attack, a rule, a step.

The n workers hold shares of the digits. At every step each computes a gradient g_i on a minibatch of its own and sends
its momentum m_i <- beta m_i + (1 - beta) g_i; the f attackers see what the honest workers send and send something else;
a rule makes one vector of all n; the network moves against it.

Momentum at the workers, not at the server, averages each worker's noise over time before the rule compares workers.

References
----------
Karimireddy, He, Jaggi: Learning from History for Byzantine Robust Optimization (ICML 2021), for worker momentum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastgd._checks import count
from fastgd.robust import attacks

from . import network as nn
from .rules import Rule, Vector, numpy_mean

OPTIMISED = "optimised_"  # before an attack's name: its strength is searched for at every step


@dataclass(frozen=True)
class Settings:
    """How to train."""

    workers: int = 15
    byzantine: int = 4
    steps: int = 300
    seed: int = 0
    rate: float = 0.5
    momentum: float = 0.9
    batch: int = 32
    skew: float = 0.0


class Run(NamedTuple):
    """One training: the test accuracy at some steps, 0 and the last included."""

    attack: str
    rule: str
    steps: list[int]
    accuracy: list[float]
    diverged_at: int | None  # the step at which the network, or what it makes honest workers send, became NaN or Inf


def gradients(workers: int = 15, seed: int = 0) -> np.ndarray:
    """Real gradients to try rules and compressors on: one per worker, all honest, after 20 steps of training.

    Parameters
    ----------
    workers : int
        How many, 1 to 200.
    seed : int
        Decides the workers' shares, the network's start and the minibatches.

    Returns
    -------
    (workers, 2410) float32 array
        Flat gradients of the 64-32-10 network on minibatches of 32 digits.

    Raises
    ------
    ValueError, TypeError
        `workers` is not an integer from 1 to 200.
    ImportError
        scikit-learn is not installed.

    Notes
    -----
    Deterministic for a seed on one machine; NumPy's matrix products may differ between machines in the last bit.
    """
    shares, _ = nn.digits(count(workers, "workers", 1, 200), seed=seed)
    network, rng = nn.initial(seed), np.random.default_rng(seed)
    with one_blas_thread():
        for _ in range(20):
            sent = _gradients(network, shares, 32, rng)
            _descend(network, numpy_mean([nn.layers(row) for row in sent], 0), 0.5)
        return _gradients(network, shares, 32, rng)


def train(shares: list[nn.Batch], test: nn.Batch, settings: Settings, attack: str, rule: Rule, name: str,
          options: dict[str, Any] | None = None, tick: Callable[[int], Any] = lambda steps: None) -> Run:
    """One training under an attack, from the same start and on the same minibatches for every attack and rule."""
    n, f = settings.workers, settings.byzantine
    honest = n - f
    if attack == "label_flip":
        shares = shares[:honest] + [nn.Batch(images, attacks.label_flip(labels, nn.CLASSES))
                                    for images, labels in shares[honest:]]
    send = _sender(attack, rule, options or {}, settings.seed)
    network, rng = nn.initial(settings.seed), np.random.default_rng(settings.seed)
    momentum = np.zeros((n, nn.SIZE), np.float32)
    every = max(1, settings.steps // 50)
    run = Run(attack, name, [0], [nn.accuracy(network, test)], None)
    with one_blas_thread(), np.errstate(all="ignore"):  # a network under attack overflows, and that is the point
        for step in range(1, settings.steps + 1):
            momentum *= settings.momentum
            momentum += (1.0 - settings.momentum) * _gradients(network, shares, settings.batch, rng)
            sent = momentum.copy()
            finite = np.isfinite(sent[:honest]).all()
            if finite:  # else there is nothing honest left to learn from
                if send is not None:
                    sent[honest:] = send(sent[:honest], f, step)
                _descend(network, rule([nn.layers(row) for row in sent], f), settings.rate)
                finite = all(np.isfinite(layer).all() for layer in network)
            if step % every == 0 or step == settings.steps or not finite:
                run.steps.append(step)
                run.accuracy.append(nn.accuracy(network, test))
            tick(1)
            if not finite:
                break
    if finite:
        return run
    if step < settings.steps:  # a network that is lost stays as it is
        run.steps.append(settings.steps)
        run.accuracy.append(run.accuracy[-1])
        tick(settings.steps - step)
    return run._replace(diverged_at=step)


def _sender(attack: str, rule: Rule, options: dict[str, Any], seed: int) -> Callable[[np.ndarray, int, int], np.ndarray] | None:
    """What the attackers send, from the honest vectors, their own number and the step; None where that is their gradient."""
    if attack.startswith(OPTIMISED):
        def flat(x: np.ndarray, f: int) -> np.ndarray:
            return np.concatenate([layer.ravel() for layer in rule([nn.layers(row) for row in x], f)])

        worst = attacks.optimised(attacks.ATTACKS[attack.removeprefix(OPTIMISED)], flat)
        return lambda honest, f, step: worst(honest, f)
    if attack == "gaussian":
        return lambda honest, f, step: attacks.gaussian(honest, f, **options, seed=(seed, step))
    function = attacks.ATTACKS.get(attack)
    return None if function is None else lambda honest, f, step: function(honest, f, **options)


def one_blas_thread() -> Any:
    """The matrix products here are too small for more: on a busy machine threads only wait for each other."""
    from threadpoolctl import threadpool_limits  # scikit-learn needs it, so it is there

    return threadpool_limits(1, user_api="blas")


def _gradients(network: Vector, shares: list[nn.Batch], batch: int, rng: np.random.Generator) -> np.ndarray:
    """One flat gradient per worker, each on a minibatch of its own share."""
    rows = np.empty((len(shares), nn.SIZE), np.float32)
    for row, (images, labels) in zip(rows, shares, strict=True):
        drawn = rng.integers(len(labels), size=batch)
        slopes = nn.gradient(network, nn.Batch(images[drawn], labels[drawn]))
        for part, slope in zip(nn.layers(row), slopes, strict=True):
            part[...] = slope
    return rows


def _descend(network: Vector, direction: Vector, rate: float) -> None:
    for layer, change in zip(network, direction, strict=True):
        layer -= rate * change
