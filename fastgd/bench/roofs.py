"""The roofs: what this machine does at best, measured at the start of a run.

Every time is compared with `limit / time`: the seconds that the same bytes or the same arithmetic would take at the
measured rates, divided by the seconds taken. Three rates per number of threads: reading (the best of several NumPy and
BLAS reductions), copying (bytes read plus bytes written), and arithmetic (multiply-adds in registers in C, or matrix
products where a BLAS makes more of the machine; in float32 and float64). One thread more has two for cache lines at random
places: read one after the other, each address found by the load before (the latency), and sixteen such chains at once.

Data that fits into the last cache is compared with the rate of reading or copying *that many* bytes again and again,
not with main memory's.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .case import Case

LINE = 64  # bytes of a cache line
#: Lines at random places are looked for in this much memory at most: it is beyond what a core's caches and page tables hold.
SCATTERED = 256 << 20
#: Every rate is the best of many short tries over this many seconds: a busy moment must not lower a roof.
MEASURE_S = 0.25
_DEFAULT_CACHE = 32 << 20


def cache_bytes() -> int:
    """Size of the last-level cache, 32 MiB where the system does not tell."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KMG")) * unit)
    return max(sizes, default=_DEFAULT_CACHE)


@contextmanager
def limited_threads(threads: int) -> Iterator[bool]:
    """Hold BLAS, OpenMP and torch to a number of threads; yields whether BLAS could be held (threadpoolctl)."""
    with ExitStack() as stack:
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            held = False
        else:
            stack.enter_context(threadpool_limits(threads))
            held = True
        torch = sys.modules.get("torch")
        if torch is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        yield held


class Roofs:
    """Measured rates, in bytes, flops and cache lines per second; measured once per question."""

    scatters = True  #: whether there is an answer for cache lines at random places

    def __init__(self) -> None:
        self.cache = cache_bytes()
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.stream = min(max(4 * self.cache, 64 << 20), memory // 8)
        self._rates: dict[tuple[str, int, str], float] = {}
        self._buffers: list[np.ndarray] = []

    def rate(self, what: str, threads: int, detail: str = "") -> float:
        """`what`: "read", "copy", "chain", "lines" (detail: bytes as text, default beyond the cache) or "gemm" (detail: dtype).

        "chain" and "lines" are cache lines a second at random places, one after the other and as many at a time as can be.
        """
        key = what, threads, detail
        if key not in self._rates:
            if what in ("chain", "lines"):
                for name, best in _scattered(int(detail or min(self.stream, SCATTERED))).items():
                    self._rates[name, threads, detail] = best
                return self._rates[key]
            if what == "gemm":
                best = _gemm(threads, detail or "float32")
            else:
                best = self._bandwidth(what, threads, int(detail or self.stream))
            # More threads never offer less: they could stay idle. Keeps a noisy moment from lowering the roof.
            fewer = [rate for (w, t, d), rate in self._rates.items() if (w, d) == (what, detail) and t < threads]
            self._rates[key] = max([best, *fewer])
        return self._rates[key]

    def limit(self, case: Case, threads: int) -> tuple[float, str] | None:
        """Seconds that the machine needs at least for a case, and the roof that says so; None for roof "call"."""
        if case.roof == "call":
            return None
        where, detail = ("memory", "")
        rounded = 1 << max(16, math.ceil(math.log2(max(case.nbytes, 1))))
        if case.roof == "lines":
            if not self.scatters:
                return None
            return case.items / self.rate("lines", 1, str(min(rounded, SCATTERED))), "lines"
        if case.nbytes <= self.cache:
            where, detail = ("cache", str(rounded))
        kind = "copy" if case.roof == "copy" else "read"
        seconds, roof = case.nbytes / self.rate(kind, threads, detail), f"{kind} {where}"
        if case.roof == "flops":
            arithmetic = case.flops / self.rate("gemm", threads, "float64" if case.dtype == "float64" else "float32")
            if arithmetic > seconds:
                seconds, roof = arithmetic, "flops"
        return seconds, roof

    def headline(self, threads: int) -> dict[str, float]:
        """The rates printed at the head of a run."""
        rates = {"read_bytes_per_s": self.rate("read", threads), "copy_bytes_per_s": self.rate("copy", threads),
                 "float32_flops_per_s": self.rate("gemm", threads, "float32"),
                 "float64_flops_per_s": self.rate("gemm", threads, "float64")}
        if self.scatters:
            with suppress(ImportError):  # the chains are in C
                rates |= {"latency_s": 1.0 / self.rate("chain", 1), "random_lines_per_s": self.rate("lines", 1)}
        return rates

    def _bandwidth(self, what: str, threads: int, nbytes: int) -> float:
        if not self._buffers:
            self._buffers = [np.ones(self.stream // 8, np.uint64), np.zeros(self.stream // 8, np.uint64)]
        # A copy of `nbytes` moved bytes reads one half and writes the other.
        count = nbytes // (16 if what == "copy" else 8)
        source, target = self._buffers[0][:count], self._buffers[1][:count]
        with limited_threads(1) as held:
            if what == "copy":
                tasks: list[Callable[[int, int], Any]] = [lambda lo, hi: np.copyto(target[lo:hi], source[lo:hi])]
            else:
                singles, integers = source.view(np.float32), source.view(np.uint32)
                tasks = [lambda lo, hi: np.bitwise_or.reduce(source[lo:hi]),
                         lambda lo, hi: np.max(integers[2 * lo : 2 * hi])]
                if held:  # an unheld BLAS would bring threads of its own
                    tasks.append(lambda lo, hi: np.dot(singles[2 * lo : 2 * hi], singles[2 * lo : 2 * hi]))
            return max(_parallel_rate(task, count, nbytes, threads) for task in tasks)

    def release(self) -> None:
        """Give the buffers back before the cases need the memory; they are made again when needed."""
        self._buffers = []


def _parallel_rate(task: Callable[[int, int], Any], count: int, nbytes: int, threads: int) -> float:
    """Bytes per second at best, each thread on its own slice, repeated until there are 2 ms of work."""
    edges = np.linspace(0, count, threads + 1).astype(int).tolist()
    rounds = max(1, int(2e-3 * 40e9 / nbytes))

    def work(index: int) -> None:
        for _ in range(rounds):
            task(edges[index], edges[index + 1])

    return rounds * nbytes / _best_time(work, threads)


def _scattered(nbytes: int) -> dict[str, float]:
    """Cache lines a second at random places of so much memory, in one chain and in 16: the best of many tries of 20,000."""
    native = importlib.import_module("fastgd._native")
    lines, rng = nbytes // LINE, np.random.default_rng(0)
    order = LINE // 8 * rng.permutation(lines)
    following = np.zeros(LINE // 8 * lines, np.int64)
    following[order] = np.roll(order, -1)
    at = LINE // 8 * rng.integers(lines, size=16)
    rates = {}
    for name, overlapped, steps in (("chain", 0, 20_000), ("lines", 1, 1_250)):
        pointers = [native.ffi.from_buffer("int64_t[]", array) for array in (following, at)]
        best = _best_time(lambda _: native.lib.fgd_chase(*pointers, overlapped, steps), 1)  # noqa: B023
        rates[name] = 20_000 / best
    return rates


def _gemm(threads: int, dtype: str) -> float:
    """Flops per second: multiply-adds in registers, or square products that fit into the cache, by NumPy's BLAS or torch's.

    One product by all threads of the library, or one product per thread: what is faster.
    """
    size = 768
    a = np.ones((size, size), dtype)
    outs = [np.empty_like(a) for _ in range(threads)]
    works: list[Callable[[int], Any]] = [lambda index: np.matmul(a, a, out=outs[index])]
    with suppress(ImportError):
        torch = importlib.import_module("torch")
        tensor, tensors = torch.from_numpy(a), [torch.from_numpy(out) for out in outs]
        works.append(lambda index: torch.matmul(tensor, tensor, out=tensors[index]))
    with limited_threads(threads):
        best = [2 * size**3 / _best_time(work, 1) for work in works]
    with limited_threads(1) as held:
        if held:
            best += [threads * 2 * size**3 / _best_time(work, threads) for work in works]
    with suppress(ImportError):
        lib, steps, wide = importlib.import_module("fastgd._native").lib, 200_000, int(dtype == "float64")
        flops = lib.fgd_peak(1, wide) * steps * threads
        best.append(flops / _best_time(lambda index: lib.fgd_peak(steps, wide), threads))
    return max(best)


def _best_time(work: Callable[[int], Any], threads: int) -> float:
    """Least seconds for `work(0)` .. `work(threads - 1)`, one thread each."""
    best = math.inf
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
        end = time.perf_counter() + MEASURE_S
        while best == math.inf or time.perf_counter() < end:
            start = time.perf_counter()
            helpers = [pool.submit(work, index) for index in range(1, threads)]
            work(0)
            for helper in helpers:
                helper.result()
            best = min(best, time.perf_counter() - start)
    return best


class CudaRoofs(Roofs):
    """The same questions asked of the GPU: copies between two device buffers, and matrix products by torch or CuPy.

    Reading is taken to be as fast as copying, counted in bytes read plus written.
    """

    scatters = False

    def limit(self, case: Case, threads: int) -> tuple[float, str] | None:
        limit = super().limit(case, 1)
        return limit and (limit[0], limit[1].replace("cache", "memory"))

    def rate(self, what: str, threads: int, detail: str = "") -> float:
        key = (what, 1, detail if what == "gemm" else "")
        if key not in self._rates:
            self._rates[key] = _device_gemm(detail or "float32") if what == "gemm" else _device_copy()
        return self._rates[key]


def _device_copy() -> float:
    from numba import cuda

    from .timing import event_clock

    nbytes = 1 << 30
    source, target = cuda.device_array(nbytes, np.uint8), cuda.device_array(nbytes, np.uint8)
    return 2 * nbytes / min(event_clock(lambda: target.copy_to_device(source), 1) for _ in range(7))


def _device_gemm(dtype: str) -> float:
    """Full-precision matrix products (no TF32); infinite, that is no limit, where neither torch nor CuPy can tell."""
    from .timing import event_clock

    size = 8192
    try:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        a = torch.ones((size, size), dtype=getattr(torch, dtype), device="cuda")
        product = lambda: torch.matmul(a, a)  # noqa: E731
    except (ImportError, RuntimeError, AssertionError):
        try:
            import cupy
        except ImportError:
            return math.inf
        b = cupy.ones((size, size), dtype)
        product = lambda: cupy.matmul(b, b)  # noqa: E731
    event_clock(product, 1)
    return 2 * size**3 / min(event_clock(product, 1) for _ in range(7))
