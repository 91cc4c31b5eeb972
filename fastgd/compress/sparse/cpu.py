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
from ..calls import BYTES, memory, new, pointer, run, vector
from ..state import FEEDBACK, PLAIN, State, Stream, Vector

_SMALL = 1 << 14  # elements of which all may be candidates
_MOST = 8  # with more than one in as many kept, candidates take more memory than they save time
_BEYOND = 1 << 31  # above the bits of every magnitude
_DIGITS = (1 << 31, 20), (1 << 20, 9), (1 << 9, 0)  # spans of the histograms, shifts of their bins

_TOPK, _RANDK, _JOB = (ffi.typeof(name) for name in ("fgd_topk *", "fgd_randk *", "fgd_job *"))
_WORDS, _FLOATS, _INTS = (ffi.typeof(name) for name in ("uint32_t[]", "float[]", "int64_t[]"))


def topk(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    kernel = state.room.get("topk")
    if kernel is None:
        kernel = state.room["topk"] = _TopK(codec, len(x.data))
    if kernel.n == 0 or kernel.k == 0:
        if mode == FEEDBACK:
            _add(x, state, threads)
    else:
        kernel.run(x, state, mode, body, threads)
    k: int = kernel.k
    return k


class _TopK:
    """The C side's struct, and what its pointers point to: with a memory, the same from step to step."""

    def __init__(self, codec: Any, n: int) -> None:
        self.n, self.k, self.chunks = n, codec.kept(n), lib.fgd_sparse_chunks(n)
        self.keep: Any = None
        self.t = t = new(_TOPK)
        self.chunk = t.chunk = new(_INTS, 4 * self.chunks)
        self.kept = t.kept = new(_FLOATS, self.k if codec.bits == 8 else 0)
        t.bits, t.k, self.places = codec.bits, self.k, ffi.NULL
        if n <= _SMALL or self.k <= n // _MOST:
            t.capacity = n if n <= _SMALL else min(4 * self.k, self.k + n // 16) + 4096
            self.index, self.value = np.empty(t.capacity, np.uint32), np.empty(t.capacity, np.uint32)
            self.places, t.value = pointer(_WORDS, self.index), pointer(_WORDS, self.value)

    def run(self, x: Vector, state: State, mode: int, body: np.ndarray, threads: int) -> None:
        t, self.threads, self.keep = self.t, threads, (x.data, state.memory, body)
        t.x, t.memory, t.body, t.index = vector(x)[0], memory(state, mode), pointer(BYTES, body), self.places
        t.mode = t.after = mode
        try:
            if not (t.capacity and self.guess()):
                self.search()
            self.parallel(lib.fgd_topk_emit)
            if t.bits == 8:
                self.parallel(lib.fgd_topk_quantise, lib.fgd_topk_tickets(self.k))
        finally:
            self.keep = None

    def sample(self) -> None:
        """Magnitudes about as large as the k-th largest; of a short vector all are candidates."""
        t = self.t
        if self.n <= _SMALL:
            t.key, t.middle, t.upper = 0, _BEYOND, _BEYOND
        else:
            _done(lib.fgd_topk_sample(t))

    def guess(self) -> bool:
        """Choose among the candidates of the sample's guess, if it is good enough."""
        self.sample()
        return (self.n <= _SMALL or self.t.key > 0) and self.choose()

    def choose(self) -> bool:
        """Candidates of the guess t.key, and the choice among them."""
        self.t.used = 0
        self.parallel(lib.fgd_topk_scan)
        if _done(lib.fgd_topk_select(self.t)) == 0:
            return True
        self.settle()
        return False

    def search(self) -> None:
        """Without a guess: the k-th largest magnitude digit by digit, each from a pass over all."""
        t, count = self.t, np.zeros(lib.fgd_sparse_bins(), np.int64)
        t.count, t.key, t.above = pointer(_INTS, count), 0, 0
        for t.span, t.shift in _DIGITS:
            count[:] = 0
            self.parallel(lib.fgd_topk_histogram)
            self.settle()
            reached = lib.fgd_topk_narrow(t)
            if reached <= t.capacity:
                self.choose()
                break
        else:
            t.index = ffi.NULL
            self.parallel(lib.fgd_topk_tally)
            lib.fgd_topk_place(t)

    def settle(self) -> None:
        """After the first pass the memory of FEEDBACK holds p, and another pass begins there."""
        if self.t.mode == FEEDBACK:
            self.t.mode, self.t.x.data, self.t.x.dtype = PLAIN, ffi.cast("char *", self.t.memory), 0

    def parallel(self, function: Callable[..., Any], chunks: int | None = None) -> None:
        job = new(_JOB)
        if self.threads == 1:
            _done(function(self.t, job))
        else:
            _threads.run(lambda: _done(function(self.t, job)), threads=self.threads, chunks=chunks or self.chunks,
                         keep=self.keep)


def threshold(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    n = len(x.data)
    if n == 0:
        return 0
    key = int(np.float32(codec.value).view(np.uint32)) & 0x7FFFFFFF
    v, own, place, chunks = vector(x), memory(state, mode), pointer(BYTES, body), lib.fgd_sparse_chunks(n)
    found = new(_INTS, chunks)
    run(lambda job: lib.fgd_threshold_scan(v, own, mode, key, place, found, job), threads, lambda: chunks,
        (x, state, body, found))
    k: int = lib.fgd_threshold_pack(n, place, found)
    return k


def randk(codec: Any, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int) -> int:
    k: int = codec.kept(len(x.data))
    struct.pack_into("<QII", body.data, 0, stream.seed, stream.step, 0)
    if mode == FEEDBACK:
        _add(x, state, threads)
    if k:
        v, own, r = vector(x), memory(state, mode), new(_RANDK)
        r.seed, r.step, r.scaled, r.k, r.values = stream.seed, stream.step, codec.scaled, k, pointer(BYTES, body) + 16
        run(lambda job: lib.fgd_randk_gather(r, v, own, mode, job), threads, lambda: lib.fgd_randk_tickets(k),
            (x, state, body, r))
    return k


def _add(x: Vector, state: State, threads: int) -> None:
    """The memory becomes p of FEEDBACK."""
    n = len(x.data)
    if n:
        v, own = vector(x), memory(state, FEEDBACK)
        run(lambda job: lib.fgd_sparse_add(v, own, job), threads, lambda: lib.fgd_sparse_chunks(n), (x, state))


def _done(status: int | None) -> int:
    """The status of a C function; MemoryError where it found no memory."""
    if status == -1:
        raise MemoryError("no memory for the candidates of a chunk")
    return status or 0
