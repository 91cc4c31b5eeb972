"""Timing: medians of interleaved, auto-batched samples."""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

#: A sample lasts at least this long, so that the clock's resolution and cost do not matter.
SAMPLE_S = 50e-6
#: A call shorter than this is run once, untimed, before each of its turns: caches are then as it leaves them itself, not
#: as another contestant left them. A turn takes samples for about as long.
REWARM_S = 20e-3
#: Pause before a turn among several contestants: worker threads of BLAS and OpenMP libraries keep spinning on their cores
#: for some 30 ms after their work, and whoever came next would pay for it.
SETTLE_S = 40e-3
#: Seconds above which a call gets five samples at most, three, and its first call as its only one.
LONG_S, SLOW_S, VERY_SLOW_S = 0.5, 2.0, 10.0
MIN_SAMPLES, MAX_SAMPLES = 9, 2000

Clock = Callable[[Callable[[], Any], int], float]


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    iqr: float
    samples: int

    @property
    def spread(self) -> float:
        """Interquartile range as a fraction of the median."""
        return self.iqr / self.median if self.median else 0.0


def wall_clock(call: Callable[[], Any], times: int) -> float:
    """Seconds for `times` calls in a row."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - start


def event_clock(call: Callable[[], Any], times: int) -> float:
    """Seconds between two events on the CUDA stream around `times` calls in a row."""
    cuda: Any = importlib.import_module("numba.cuda")
    start, stop = cuda.event(timing=True), cuda.event(timing=True)
    start.record()
    for _ in range(times):
        call()
    stop.record()
    stop.synchronize()
    return cuda.event_elapsed_time(start, stop) * 1e-3


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out of the measurement."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Contestant:
    """One function being timed."""

    def __init__(self, call: Callable[[], Any], clock: Clock, min_time: float, first: float | None) -> None:
        self.call, self.clock, self.min_time = call, clock, min_time
        self.first = clock(call, 1) if first is None else first
        self.times, self.seconds = 1, self.first
        if self.first < SLOW_S:  # the first call also paid for page faults, code loading, thread creation
            self.seconds = clock(call, 1)
        while self.seconds * self.times < SAMPLE_S:
            self.times = max(self.times + 1, int(1.2 * SAMPLE_S / max(self.seconds, 1e-9)))
            self.seconds = clock(call, self.times) / self.times
        self.samples: list[float] = [self.first] if self.first >= SLOW_S else []

    @property
    def done(self) -> bool:
        count = len(self.samples)
        if self.first > VERY_SLOW_S:
            return True
        if self.seconds >= SLOW_S:
            return count >= 3
        if self.seconds > LONG_S:
            return count >= 5
        return count >= MAX_SAMPLES or (count >= MIN_SAMPLES and sum(self.samples) * self.times >= self.min_time)

    def take_turn(self, settle: bool) -> None:
        if settle:
            time.sleep(SETTLE_S)
        if self.seconds < REWARM_S:
            self.call()
        spent = 0.0
        while spent < REWARM_S and not self.done:
            seconds = self.clock(self.call, self.times)
            self.samples.append(seconds / self.times)
            spent += seconds

    def timing(self) -> Timing:
        quarter, median, three_quarters = np.percentile(self.samples, [25, 50, 75])
        return Timing(float(median), float(three_quarters - quarter), len(self.samples))


def interleaved(calls: dict[str, Callable[[], Any]], *, min_time: float = 0.3, clock: Clock = wall_clock,
                first: Mapping[str, float] = MappingProxyType({})) -> dict[str, Timing]:
    """Time several functions that do the same work, in turns of a few samples, so that noise of the machine hits all.

    Each is warmed up, then sampled at least 9 times and for `min_time` seconds in sum; calls over 0.5 s get 5 samples, calls
    over 2 s 3, a call over 10 s only its first one. `first` has the times of first calls that were made already.
    """
    with no_collection():
        contestants = {name: _Contestant(call, clock, min_time, first.get(name)) for name, call in calls.items()}
        while waiting := [one for one in contestants.values() if not one.done]:
            for one in waiting:
                one.take_turn(settle=len(contestants) > 1)
    return {name: one.timing() for name, one in contestants.items()}
