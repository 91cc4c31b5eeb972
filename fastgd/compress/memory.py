"""What all compressors with memory have in common: steps, checkpoints, and errors that leave no trace."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import _threads
from .._arrays import copy as copy_array
from .._arrays import to_host
from .._checks import count, number
from .._dispatch import Operand, find, runs
from . import coding, device
from .codecs import Codec
from .state import State, Stream, Vector, stream


class Memory:
    """A codec, vectors that it remembers from step to step, and the number of the step."""

    codec: Codec  #: how payloads are made
    n: int  #: coordinates
    step: int  #: steps done, and the step of the random numbers to come

    def __init__(self, codec: Codec, n: int, arrays: tuple[str, ...], seed: int, rank: int, nonfinite: str, backend: str | None,
                 num_threads: int | None) -> None:
        coding.check_codec(codec)
        coding.check_nonfinite(nonfinite)
        self.codec, self.n = codec, count(n, "n", 0)
        self._size = codec.max_nbytes(self.n)  # ValueError where n does not fit the codec
        self._seed, self._rank = count(seed, "seed", 0, 2**64 - 1), count(rank, "rank", 0, 2**32 - 1)
        self._nonfinite, self._backend, self._num_threads = nonfinite, backend, num_threads
        self._arrays = {name: np.zeros(self.n, np.float32) for name in arrays}
        self._state, self._there = State(), False  # where the memory is: on the GPU?
        self.step, self._bound = 0, 0.0

    # ---- steps

    @runs("compress.largest")
    def compress(self, grad: Any, *, out: Any = None) -> Any:
        """One step: the payload of this gradient, and what it leaves out is remembered.

        Parameters
        ----------
        grad : (n,) array
            float32, float16 or bfloat16, on the host or on the GPU, where the memory goes with the first such gradient. Not
            written to.
        out : (at least codec.max_nbytes(n),) uint8 array, optional
            Where to put the payload; the result is its first part.

        Returns
        -------
        uint8 array
            The payload, in the library of grad.

        Raises
        ------
        ValueError, TypeError
            grad is no vector of n coordinates, has a NaN or an Inf, or overflows together with the memory; `out` is too small.
            Nothing has changed then: the same step can be tried again.
        """
        x, wrap = self._vector(grad)
        threads = _threads.budget(self._num_threads, x.data.nbytes)
        buffer = coding.payload_buffer(self.codec, self._size, out, x.data)
        x, largest = coding.finite(x, "grad", self._nonfinite, self._backend, threads)
        self._place(x)
        payload = self._send(x, largest, stream(self._seed, self.step & 0xFFFFFFFF, self._rank), buffer, threads)
        self.step += 1
        if out is None and 2 * len(payload) < len(buffer):
            payload = copy_array(payload)  # the room of the longest payload goes back
        return wrap(payload)

    def accepts(self, grad: Any) -> bool:
        """Whether grad is finite: let all workers agree on it before any of them commits itself to the step."""
        x, _ = self._vector(grad)
        threads = _threads.budget(self._num_threads, x.data.nbytes)
        return bool(np.isfinite(find("compress.largest", coding.operand_of(x), self._backend)(x, threads)))

    def _vector(self, grad: Any) -> tuple[Vector, Any]:
        x, wrap = coding.vector_of(grad, "grad")
        if len(x.data) != self.n:
            raise ValueError(f"grad has {len(x.data)} coordinates, this compressor was made for n={self.n}")
        return x, wrap

    def _send(self, x: Vector, largest: float, numbers: Stream, buffer: np.ndarray, threads: int) -> np.ndarray:
        raise NotImplementedError

    # ---- the memory as a whole

    def reset(self) -> None:
        """Back to the initial state: memories 0, step 0."""
        for array in self._arrays.values():
            device.fill(array) if device.on_device(array) else array.fill(0.0)
        self._state.extra.clear()
        self.step, self._bound = 0, 0.0

    def rescale(self, factor: float) -> None:
        """Multiply the memory by a factor: the ratio of learning rates, or of loss scales, when they change.

        Raises
        ------
        ValueError, TypeError
            The factor is not finite, or the memory would overflow with it; nothing has changed then.
        """
        factor = number(factor, "factor")
        self._settle()
        largest = max((self._largest(array) for array in self._arrays.values()), default=0.0)
        if not np.isfinite(np.float32(factor)) or largest * abs(factor) > float(np.finfo(np.float32).max):
            raise ValueError(f"factor {factor:g} takes the memory (up to {largest:g}) beyond float32: reset it, or rescale by "
                             "less")
        for array in self._arrays.values():
            if device.on_device(array):
                device.multiply(array, np.float32(factor))
            else:
                array *= np.float32(factor)
        self._bound = largest * abs(factor) * (1 + 2.0**-20)

    def _largest(self, array: Any) -> float:
        if not device.on_device(array):
            return float(np.abs(array).max(initial=0.0))
        return float(find("compress.largest", Operand("cuda", "float32"), self._backend)(Vector(array, "float32"), 1))

    def _place(self, x: Vector) -> None:
        """The memory is where the gradients are: it goes to the GPU with the first one that is there."""
        there = device.on_device(x.data)
        if there and not self._there:
            find(f"compress.{self.codec.name}", coding.operand_of(x), self._backend)  # before anything moves
            self._settle()
            self._arrays = {name: device.upload(array, x.data) for name, array in self._arrays.items()}
            self._there = True
        if self._there and not there:
            raise TypeError("grad is on the host, but the memory went to the GPU with an earlier gradient: pass device arrays, "
                            "or load the state into a new compressor")

    def _settle(self) -> None:
        """Let the memory be what it stands for: some kernels finish a step on their next pass."""
        if self._state.extra:
            for module in {f"fastgd.compress.{self.codec.family}.{name}" for name in ("cpu", "reference")}:
                settle = getattr(sys.modules.get(module), "settle", None)
                if settle is not None:
                    settle(self.codec, self._state)

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that the next payloads depend on: numbers, and copies of arrays."""
        self._settle()
        return {"kind": type(self).__name__, "codec": repr(self.codec), "n": self.n, "seed": self._seed, "rank": self._rank,
                "step": self.step, **{name: np.array(to_host(array)) for name, array in self._arrays.items()},
                "extra": {name: to_host(value).copy() if device.on_device(value) else copy.deepcopy(value)
                          for name, value in self._state.extra.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken: the payloads from here on are the same, bit for bit.

        Raises
        ------
        ValueError, TypeError
            The state belongs to another kind, codec or n, or is damaged; nothing has changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict made by state_dict, got {type(state).__name__}")
        wanted = {"kind", "codec", "n", "seed", "rank", "step", "extra", *self._arrays}
        if missing := wanted - set(state):
            raise ValueError(f"state lacks {', '.join(sorted(missing))}: it was not made by state_dict of {type(self).__name__}")
        for name, own in (("kind", type(self).__name__), ("codec", repr(self.codec)), ("n", self.n)):
            if state[name] != own:
                raise ValueError(f"state has {name} {state[name]!r}, this compressor {own!r}")
        numbers = [count(state[name], f"state[{name!r}]", 0, top) for name, top in (("seed", 2**64 - 1), ("rank", 2**32 - 1),
                                                                                   ("step", 2**63))]
        arrays = {name: _array(state[name], (self.n,), name) for name in self._arrays}
        extra = self._check_extra(state["extra"])
        self._seed, self._rank, self.step = numbers
        for name, array in arrays.items():
            if device.on_device(self._arrays[name]):
                device.assign(self._arrays[name], array)
            else:
                self._arrays[name][...] = array
        self._state.extra.clear()
        self._state.extra.update(extra)
        self._bound = max((float(np.abs(array).max(initial=0.0)) for array in arrays.values()), default=0.0)

    def _check_extra(self, extra: Any) -> dict[str, Any]:
        """What the codec's kernel remembers, copied after a check."""
        allowed = self.codec._remembers()
        if not isinstance(extra, Mapping) or set(extra) - set(allowed):
            raise ValueError(f"state['extra'] must be a dict with {', '.join(allowed) or 'nothing'} in it, got {extra!r:.100}")
        return {name: count(value, f"state['extra'][{name!r}]", 0, 2**32 - 1) if allowed[name] is None
                else _array(value, allowed[name], name).copy() for name, value in extra.items()}


def _array(value: Any, shape: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype != np.float32 or array.shape != tuple(shape) or not np.isfinite(array).all():
        raise ValueError(f"state[{name!r}] must be a finite float32 array of shape {tuple(shape)}")
    return np.ascontiguousarray(array)
