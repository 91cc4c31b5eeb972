"""Relatives of error feedback that need more than one memory: EControl, and deep gradient compression."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._checks import number
from .._dispatch import runs
from . import coding, device, host_variants
from .codecs import Codec, Threshold, TopK
from .memory import Memory
from .state import PLAIN, State, Stream, Vector
from .wire import SIZE


@runs("compress.largest")
class EControl(Memory):
    """EControl: EF21 that also sends a share of the error it has accumulated: c = C(a e + g - h), h += c, e += g - h.

    Parameters
    ----------
    codec, n, seed, rank, nonfinite, backend, num_threads : optional
        As for `ErrorFeedback`.
    weight : float
        a, at least 0; 0 is EF21.

    Notes
    -----
    The receiver keeps the mean of all h, as for `EF21`. Memory: two float32 vectors, and three in a step. Deterministic.

    References
    ----------
    Gao, Islamov, Stich: EControl: Fast Distributed Optimization with Compression and Error Control (ICLR 2024).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> worker = fastgd.compress.EControl(fastgd.compress.TopK(1), 2, weight=0.5)
    >>> for _ in range(2):
    ...     _ = worker.compress(np.array([3.0, 2.0], np.float32))
    >>> worker.estimate(), worker.residual()
    (array([3., 3.], dtype=float32), array([0., 1.], dtype=float32))
    """

    def __init__(self, codec: Codec, n: int, *, weight: float, seed: int = 0, rank: int = 0, nonfinite: str = "raise",
                 backend: str | None = None, num_threads: int | None = None) -> None:
        self._weight = np.float32(number(weight, "weight", 0.0))
        super().__init__(codec, n, ("estimate", "residual"), seed, rank, nonfinite, backend, num_threads)

    def estimate(self) -> Any:
        """h: what the receiver knows, a copy."""
        return device.duplicate(self._arrays["estimate"])

    def residual(self) -> Any:
        """e: the error accumulated so far, a copy."""
        return device.duplicate(self._arrays["residual"])

    def _send(self, x: Vector, largest: float, numbers: Stream, buffer: Any, threads: int) -> Any:
        e, h, work = self._arrays["residual"], self._arrays["estimate"], _arithmetic(x)
        p = work.control(self._weight, e, x, h)
        _refuse_overflow(self, p)
        payload = coding.write(self.codec, Vector(p, "float32"), State(), PLAIN, numbers, buffer, self._backend, threads)
        coding.decode_add([payload], h, backend=self._backend, num_threads=self._num_threads)
        work.accumulate(e, x, h)
        return payload


@runs("compress.largest")
class DGC(Memory):
    """Deep gradient compression: momentum before the selection, u = m u + g, v += u; what is sent of v is cleared in both.

    Parameters
    ----------
    codec : TopK or Threshold
        What to send of v, with 32-bit values.
    n, seed, rank, nonfinite, backend, num_threads : optional
        As for `ErrorFeedback`.
    momentum : float, optional
        m, from 0 to below 1.

    Notes
    -----
    Clearing u as well ("momentum factor masking") keeps stale directions from being sent. Clip the gradient before, not here.
    Memory: two float32 vectors. Deterministic.

    References
    ----------
    Lin, Han, Mao, Wang, Dally: Deep Gradient Compression (ICLR 2018).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> worker = fastgd.compress.DGC(fastgd.compress.TopK(1), 2, momentum=0.5)
    >>> for _ in range(2):
    ...     fastgd.compress.decode(worker.compress(np.array([3.0, 2.0], np.float32)))
    array([3., 0.], dtype=float32)
    array([0., 5.], dtype=float32)
    """

    def __init__(self, codec: Codec, n: int, *, momentum: float = 0.9, seed: int = 0, rank: int = 0, nonfinite: str = "raise",
                 backend: str | None = None, num_threads: int | None = None) -> None:
        if not isinstance(codec, Threshold | TopK) or getattr(codec, "bits", 32) != 32:
            raise TypeError(f"codec must be TopK or Threshold with 32-bit values, got {codec!r}")
        self._momentum = np.float32(number(momentum, "momentum", 0.0))
        if self._momentum >= 1:
            raise ValueError(f"momentum must be from 0 to below 1, got {momentum!r}")
        super().__init__(codec, n, ("velocity", "residual"), seed, rank, nonfinite, backend, num_threads)

    def residual(self) -> Any:
        """v: what is still to be sent, a copy."""
        return device.duplicate(self._arrays["residual"])

    def _send(self, x: Vector, largest: float, numbers: Stream, buffer: Any, threads: int) -> Any:
        work = _arithmetic(x)
        velocity, residual = work.momentum(self._momentum, self._arrays["velocity"], x, self._arrays["residual"])
        _refuse_overflow(self, residual)
        payload = coding.write(self.codec, Vector(residual, "float32"), State(), PLAIN, numbers, buffer, self._backend, threads)
        work.forget(payload[SIZE:], (len(payload) - SIZE) // 8, velocity, residual)
        self._arrays.update(velocity=velocity, residual=residual)
        return payload


def _arithmetic(x: Vector) -> Any:
    """The elementwise work, where the vector is."""
    if not device.on_device(x.data):
        return host_variants
    from . import cuda_variants

    return cuda_variants


def _refuse_overflow(worker: EControl | DGC, p: Any) -> None:
    """ValueError where a finite gradient and the memory overflow together."""
    if worker._nonfinite != "propagate" and not np.isfinite(worker._largest(p)):
        raise ValueError("grad and the memory overflow float32: skip the step, or rescale gradients and memory")
