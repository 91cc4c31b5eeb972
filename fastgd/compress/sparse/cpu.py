"""The CPU kernels' front: TopK's way from a guess to the exact choice, Threshold, RandK.

Signatures as in `reference.py`. Formulas and costs stand with the kernels in csrc/compress_sparse_body.h, selection in
csrc/compress_sparse.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import _threads
from ..._native import ffi, lib
from ..state import DIFFERENCE, FEEDBACK, PLAIN, State, Stream, Vector

_SMALL = 1 << 14  # elements of which all may be candidates
_MOST = 8  # with more than one in as many kept, candidates take more memory than they save time
_MARGIN, _LEAST_MARGIN, _MOST_MARGIN = 1 << 19, 1 << 16, 1 << 22  # of the guess, in units of the last place: 2^23 are an octave
_DIGITS = (1 << 31, 20), (1 << 20, 9), (1 << 9, 0)  # spans of the histograms, shifts of their bins

_from_buffer, _new = ffi.from_buffer, ffi.new
_BYTES, _OCTETS, _WORDS, _FLOATS, _INTS = (ffi.typeof(name) for name in ("char[]", "uint8_t[]", "uint32_t[]", "float[]",
                                                                         "int64_t[]"))
_DTYPES = {"float32": 0, "float16": 2, "bfloat16": 3}


def topk(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    n = len(x.data)
    k: int = codec.kept(n)
    if n == 0 or k == 0:
        if mode == FEEDBACK:
            _add(x, state, threads)
        return k
    _TopK(codec, k, x, state, mode, body, threads).run()
    return k


class _TopK:
    """One call: the C side's struct, and what its pointers point to."""

    def __init__(self, codec: Any, k: int, x: Vector, state: State, mode: int, body: np.ndarray, threads: int) -> None:
        self.n, self.k, self.state, self.threads = len(x.data), k, state, threads
        self.chunks = lib.fgd_sparse_chunks(self.n)
        self.chunk = np.empty((self.chunks, 4), np.int64)
        self.kept = np.empty(k if codec.bits == 8 else 0, np.float32)
        self.keep: list[Any] = [x.data, state.memory, body, self.chunk, self.kept]
        self.t = t = _new("fgd_topk *")
        t.x, t.memory = _vector(x)[0][0], _memory(state, mode)
        t.mode = t.after = mode
        t.bits, t.k, t.body = codec.bits, k, _from_buffer(_OCTETS, body)
        t.chunk, t.kept = _from_buffer(_INTS, self.chunk), _from_buffer(_FLOATS, self.kept)

    def run(self) -> None:
        if not self.guess():
            self.search()
        self.parallel(lib.fgd_topk_emit)
        if self.t.bits == 8:
            self.parallel(lib.fgd_topk_quantise, lib.fgd_topk_tickets(self.k))

    def guess(self) -> bool:
        """Choose among the candidates of a guess, if one is good enough; remember what to guess next."""
        small = self.n <= _SMALL
        if not small and self.k > self.n // _MOST:
            return False
        self.reserve(self.n if small else min(4 * self.k, self.n // 4) + 4096)
        extra, t = self.state.extra, self.t
        key, margin = int(extra.pop("key", 0)), int(extra.get("margin", _MARGIN))
        if key > margin:
            t.key = key - margin
            chosen = self.choose()
            extra["margin"] = max(_LEAST_MARGIN, min(_adapted(margin, t.used / self.k), _MOST_MARGIN))
            if chosen:
                extra["key"] = int(t.key)
                return True
        if small:
            t.key = 0
        else:
            _done(lib.fgd_topk_sample(t))
            if t.key == 0:
                return False
        chosen = self.choose()
        if chosen and key == 0 and self.state.memory is not None:  # after a guess that failed, the next step samples again
            extra["key"] = int(t.key)
        return chosen

    def choose(self) -> bool:
        """Candidates of the guess t.key, and the choice among them."""
        self.t.used = 0
        self.parallel(lib.fgd_topk_scan)
        self.settle()
        return _done(lib.fgd_topk_select(self.t)) == 0

    def search(self) -> None:
        """Without a guess: the k-th largest magnitude digit by digit, each from a pass over all."""
        t, count = self.t, np.zeros(lib.fgd_sparse_bins(), np.int64)
        t.count, t.key, t.above = _from_buffer(_INTS, count), 0, 0
        for t.span, t.shift in _DIGITS:
            count[:] = 0
            self.parallel(lib.fgd_topk_histogram)
            self.settle()
            reached = lib.fgd_topk_narrow(t)
            if t.index != ffi.NULL and reached <= t.capacity:
                self.choose()
                break
        else:
            t.index = ffi.NULL
            self.parallel(lib.fgd_topk_tally)
            lib.fgd_topk_place(t)

    def reserve(self, capacity: int) -> None:
        """Room for candidates."""
        index, value = np.empty(capacity, np.uint32), np.empty(capacity, np.uint32)
        self.keep += [index, value]
        self.t.index, self.t.value, self.t.capacity = _from_buffer(_WORDS, index), _from_buffer(_WORDS, value), capacity

    def settle(self) -> None:
        """After the first pass the memory of FEEDBACK holds p."""
        if self.t.mode == FEEDBACK:
            self.t.mode, self.t.x.data, self.t.x.dtype = PLAIN, ffi.cast("char *", self.t.memory), 0

    def parallel(self, function: Callable[..., Any], chunks: int | None = None) -> None:
        job = _new("fgd_job *")
        _threads.run(lambda: _done(function(self.t, job)), threads=self.threads, chunks=chunks or self.chunks, keep=self.keep)


def threshold(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    n = len(x.data)
    if n == 0:
        return 0
    key = int(np.float32(codec.value).view(np.uint32)) & 0x7FFFFFFF
    counts = np.empty(lib.fgd_sparse_chunks(n), np.int64)
    vector, data = _vector(x)
    memory, out, found, job = _memory(state, mode), _from_buffer(_OCTETS, body), _from_buffer(_INTS, counts), _new("fgd_job *")
    _threads.run(lambda: lib.fgd_threshold_scan(vector, memory, mode, key, out, found, job), threads=threads, chunks=len(counts),
                 keep=(data, state.memory, body, counts))
    return int(lib.fgd_threshold_pack(n, out, found))


def randk(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    k: int = codec.kept(len(x.data))
    body[:16] = np.frombuffer(struct.pack("<QII", stream.seed, stream.step, 0), np.uint8)
    if mode == FEEDBACK:
        _add(x, state, threads)
    if k == 0:
        return 0
    vector, data = _vector(x)
    memory, job, r = _memory(state, mode), _new("fgd_job *"), _new("fgd_randk *")
    r.seed, r.step, r.scaled, r.k, r.values = stream.seed, stream.step, codec.scaled, k, _from_buffer(_OCTETS, body) + 16
    _threads.run(lambda: lib.fgd_randk_gather(r, vector, memory, mode, job), threads=threads, chunks=lib.fgd_randk_tickets(k),
                 keep=(data, state.memory, body))
    return k


def _adapted(margin: int, share: float) -> int:
    """The margin after candidates for `share` k: too few cost another pass, many cost little."""
    return 2 * margin if share < 1.0 else margin * 5 // 4 if share < 1.12 else margin * 15 // 16 if share > 1.5 else margin


def _add(x: Vector, state: State, threads: int) -> None:
    """The memory becomes p of FEEDBACK."""
    n = len(x.data)
    if n:
        vector, data = _vector(x)
        memory, job = _memory(state, FEEDBACK), _new("fgd_job *")
        _threads.run(lambda: lib.fgd_sparse_add(vector, memory, job), threads=threads, chunks=lib.fgd_sparse_chunks(n),
                     keep=(data, state.memory))


def _vector(x: Vector) -> tuple[Any, Any]:
    """The vector for C, and what it points to."""
    vector = _new("fgd_vector *")
    vector.data, vector.dtype, vector.n = _from_buffer(_BYTES, x.data), _DTYPES[x.dtype], len(x.data)
    return vector, x.data


def _memory(state: State, mode: int) -> Any:
    return _from_buffer(_FLOATS, state.memory) if mode in (FEEDBACK, DIFFERENCE) else ffi.NULL


def _done(status: int | None) -> int:
    """The status of a C function; MemoryError where it found no memory."""
    if status == -1:
        raise MemoryError("no memory for the candidates of a chunk")
    return status or 0
