"""Compression with memory: error feedback, and EF21."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays import to_host
from .._checks import number
from .._dispatch import find, runs
from . import coding, device
from .codecs import Codec
from .common import codec_input, to_float32
from .memory import Memory
from .state import DIFFERENCE, FEEDBACK, State, Stream, Vector

_LARGEST = float(np.finfo(np.float32).max)


class _OneMemory(Memory):
    """A codec's kernel does all: it makes p of the vector and the memory, codes it and renews the memory, in one pass."""

    _mode: int

    def __init__(self, codec: Codec, n: int, *, seed: int = 0, rank: int = 0, nonfinite: str = "raise",
                 backend: str | None = None, num_threads: int | None = None) -> None:
        super().__init__(codec, n, ("memory",), seed, rank, nonfinite, backend, num_threads)
        self._state.memory = self._arrays["memory"]
        self._reach = self.codec._reach(self.n)

    def _place(self, x: Vector) -> None:
        super()._place(x)
        self._state.memory = self._arrays["memory"]

    def _send(self, x: Vector, largest: float, numbers: Stream, buffer: np.ndarray, threads: int) -> np.ndarray:
        if self._nonfinite != "propagate":
            self._check_overflow(x, largest)
        payload = coding.write(self.codec, x, self._state, self._mode, numbers, buffer, self._backend, threads)
        self._bound = self._reached(largest, self._bound + largest, self._reach)
        return payload

    def _reached(self, largest: float, p: float, reach: float) -> float:
        """A bound on the memory after a vector of magnitudes up to `largest` and an input of magnitudes up to `p`."""
        return reach * p if self._mode == FEEDBACK else largest + reach * p

    def _check_overflow(self, x: Vector, largest: float) -> None:
        """ValueError where the memory would overflow. Bounds are carried along; only where they fail is the memory read."""
        reach = max(1.0, self._reach)
        if self._reached(largest, self._bound + largest, reach) <= _LARGEST:
            return
        self._settle()
        memory = self._arrays["memory"]
        follow = Vector(memory, "float32")
        self._bound = find("compress.largest", coding.operand_of(follow), self._backend)(follow, 1)
        if self._reached(largest, self._bound + largest, reach) <= _LARGEST:
            return
        if device.on_device(memory):
            x = Vector(device.to_float32(x), "float32")
            p = np.abs(codec_input(x, State(to_host(memory)), self._mode).astype(np.float64))
        else:
            p = np.abs(codec_input(x, self._state, self._mode).astype(np.float64))
        beyond = self._reached(largest, float(p.max(initial=0.0)), reach) > _LARGEST
        if beyond:
            raise ValueError(f"grad and the memory of {self.codec!r} overflow float32 (coordinate {p.argmax()}): skip the step, "
                             "or rescale gradients and memory")


@runs("compress.largest")
class ErrorFeedback(_OneMemory):
    """Error feedback: sends C(p), p = e + g, and keeps e = p - C(p), the worker's own error.

    Parameters
    ----------
    codec : Codec
        A contraction, such as `TopK(ratio=0.01)` or `Sign()`; scaled or unbiased codecs of large variance diverge here.
    n : int
        Coordinates of every gradient.
    seed : int, optional
        Stream of random numbers, the same on all workers.
    rank : int, optional
        This worker, for independent rounding.
    nonfinite : {"raise", "zero", "propagate"}, optional
        What to do about a NaN or an Inf in a gradient: refuse the step and change nothing, take it as 0, or not look. With
        "propagate" the memory may be lost to it: then call `accepts` first.
    backend, num_threads : optional
        See `fastgd.use`.

    Notes
    -----
    Step sizes belong inside: pass lr * grad, or `rescale(new / old)` when the rate of the sum that is sent changes.
    Memory: one float32 vector. Cost of a step: a read of the gradient (the check), then one pass over gradient and memory. Not
    for several threads at once. Deterministic: the same payloads after `load_state_dict`, on any number of threads.

    References
    ----------
    Seide et al. (Interspeech 2014). Stich, Cordonnier, Jaggi (NeurIPS 2018). Karimireddy et al. (ICML 2019).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> worker = fastgd.compress.ErrorFeedback(fastgd.compress.TopK(1), 3)
    >>> for _ in range(2):
    ...     fastgd.compress.decode(worker.compress(np.array([3.0, 2.0, 1.0], np.float32)))
    array([3., 0., 0.], dtype=float32)
    array([0., 4., 0.], dtype=float32)
    >>> worker.residual()
    array([3., 0., 2.], dtype=float32)
    """

    _mode = FEEDBACK

    @runs("compress.largest")
    def residual(self) -> Any:
        """e: what is still to be sent, a copy."""
        self._settle()
        return device.duplicate(self._arrays["memory"])


@runs("compress.largest")
class EF21(_OneMemory):
    """EF21: sends C(g - d) and moves its estimate d by that, so that d follows g.

    The receiver keeps the mean of all d: with every round's payloads, `decode_add(payloads, mean, scale=1 / workers)`.

    Parameters
    ----------
    codec, n, seed, rank, nonfinite, backend, num_threads : optional
        As for `ErrorFeedback`.
    momentum : float, optional
        beta of EF21-SGDM, 0 < beta <= 1: the estimate follows v = (1 - beta) v + beta g, v starting as the first gradient.
        Takes a second vector of memory; without it, v is g.

    Notes
    -----
    Memory: one float32 vector, two with momentum. With `TopK` only the k coordinates that are sent are written. Deterministic.

    References
    ----------
    Richtarik, Sokolov, Fatkhullin: EF21 (NeurIPS 2021). Fatkhullin, Tyurin, Richtarik: Momentum Provably Improves Error
    Feedback! (NeurIPS 2023).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> worker = fastgd.compress.EF21(fastgd.compress.TopK(1), 3)
    >>> for _ in range(2):
    ...     _ = worker.compress(np.array([3.0, 2.0, 1.0], np.float32))
    >>> worker.estimate()
    array([3., 2., 0.], dtype=float32)
    """

    _mode = DIFFERENCE

    def __init__(self, codec: Codec, n: int, *, seed: int = 0, rank: int = 0, nonfinite: str = "raise",
                 momentum: float | None = None, backend: str | None = None, num_threads: int | None = None) -> None:
        self._momentum = None if momentum is None else number(momentum, "momentum", 0.0, above=True)
        if self._momentum is not None and self._momentum > 1.0:
            raise ValueError(f"momentum must be above 0 and at most 1, got {momentum!r}")
        super().__init__(codec, n, seed=seed, rank=rank, nonfinite=nonfinite, backend=backend, num_threads=num_threads)
        if self._momentum is not None:
            self._arrays["average"] = np.zeros(self.n, np.float32)

    @runs("compress.largest")
    def estimate(self) -> Any:
        """d: what the receiver knows, a copy."""
        self._settle()
        return device.duplicate(self._arrays["memory"])

    def _send(self, x: Vector, largest: float, numbers: Stream, buffer: np.ndarray, threads: int) -> np.ndarray:
        if self._momentum is None:
            return super()._send(x, largest, numbers, buffer, threads)
        beta = np.float32(self._momentum if self.step else 1.0)
        if device.on_device(x.data):
            average = device.blend(np.float32(1.0) - beta, self._arrays["average"], beta, x)
        else:
            average = (np.float32(1.0) - beta) * self._arrays["average"] + beta * to_float32(x)
        follow = Vector(average, "float32")
        largest = max(largest, self._largest(average))
        payload = super()._send(follow, largest, numbers, buffer, threads)
        if device.on_device(average):  # after all that may fail
            device.assign(self._arrays["average"], average)
        else:
            self._arrays["average"][...] = average
        return payload
