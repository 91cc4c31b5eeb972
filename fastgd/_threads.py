"""The thread budget and the one pool.

Kernels are single-threaded C functions that release the GIL. To use several threads, the same call is made from several
threads at once and the callers share a *ticket* counter: each takes the next chunk of work until none is left. Chunk
boundaries depend on the problem's size alone and partial results are combined in chunk order, so the number of threads
never changes a bit of the result.

Safe by construction: a fork drops the pool (the child makes its own), a call from inside the pool runs serially, and the
calling thread always works itself, so a saturated pool slows a call down but cannot block it.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor  # here, not on first use: a fork must not meet a half-done import
from functools import cache
from pathlib import Path
from typing import Any

from ._dispatch import check_num_threads, num_threads_in_use

#: Below this many bytes read (about 300 microseconds of streaming) waking a thread costs more than it brings.
PARALLEL_BYTES = 4 << 20

_pool: Any = None
_pool_size = 0
_lock = threading.Lock()
_inside = threading.local()


@cache
def available() -> int:
    """Threads this process may use: FASTGD_NUM_THREADS, else OMP_NUM_THREADS, capped by CPU affinity and cgroup quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cpus()
    allowed = max(1, min(cpus, quota) if quota else cpus)
    if text := os.environ.get("FASTGD_NUM_THREADS"):
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"the environment variable FASTGD_NUM_THREADS must be an integer of at least 1, got {text!r}")
        return int(text)
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(allowed, int(text)) if text.isdecimal() and int(text) > 0 else allowed


def _cgroup_cpus() -> int | None:
    """CPUs granted by the cgroup's quota, rounded up; None where there is no quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return max(1, math.ceil(int(quota) / int(period)))


def budget(num_threads: int | None, nbytes: int) -> int:
    """Threads for one call that reads `nbytes`: its own `num_threads`, else the surrounding `use`, else `available()`.

    1 inside the pool, and below PARALLEL_BYTES.
    """
    if num_threads is not None:
        num_threads = check_num_threads(num_threads)
    if nbytes < PARALLEL_BYTES or getattr(_inside, "pool", False):
        return 1
    return num_threads or num_threads_in_use() or available()


def run(task: Callable[[], Any], *, threads: int, chunks: int, keep: Any = None) -> None:
    """Call `task` from up to `threads` threads at once, this one included; `task` takes tickets until none is left.

    Returns when no thread works on it any more, even after an interrupt: helpers read and write the caller's memory.
    `keep` is what that memory belongs to; helpers hold it as long as they work, should even that go wrong.
    """
    helpers = min(threads, chunks) - 1
    if helpers < 1:
        task()
        return
    crew = _Crew(task, keep)
    try:
        _submit(crew.help, helpers)
        task()
    finally:
        crew.dismiss()
    if crew.error is not None:
        raise crew.error


class _Crew:
    """The helpers of one job. A helper that comes after `dismiss` does nothing, so nobody waits for one in a queue."""

    def __init__(self, task: Callable[[], Any], keep: Any) -> None:
        self.task, self.keep = task, keep
        self.error: BaseException | None = None
        self._working = 0
        self._dismissed = False
        self._change = threading.Condition()

    def help(self) -> None:
        with self._change:
            if self._dismissed:
                return
            self._working += 1
        try:
            self.task()
        except BaseException as error:  # handed to the caller by `run`
            self.error = error
        finally:
            with self._change:
                self._working -= 1
                self._change.notify_all()

    def dismiss(self) -> None:
        """Let nobody begin any more, and wait for those at work."""
        interrupt: BaseException | None = None
        while True:
            try:
                with self._change:
                    self._dismissed = True
                    self._change.wait_for(lambda: self._working == 0)
                    break
            except BaseException as error:  # from a signal handler: Ctrl-C, a test's time-out
                interrupt = error
        if interrupt is not None:
            raise interrupt


def _submit(help: Callable[[], None], helpers: int) -> None:
    """Ask the pool for helpers. Where no thread can be had (limits, interpreter shutdown), the caller works alone."""
    global _pool, _pool_size
    try:
        with _lock:
            if _pool is None or _pool_size < helpers:
                if _pool is not None:
                    _pool.shutdown(wait=False)  # the smaller pool finishes what it has, and its threads end
                _pool, _pool_size = ThreadPoolExecutor(helpers, "fastgd", initializer=_mark_inside), helpers
            for _ in range(helpers):
                _pool.submit(help)
    except (RuntimeError, ImportError):
        return


def _mark_inside() -> None:
    _inside.pool = True


def _after_fork_in_child() -> None:
    """Threads do not survive a fork: forget the pool and a lock that another thread may have held."""
    global _pool, _pool_size, _lock
    _pool, _pool_size, _lock = None, 0, threading.Lock()
    _inside.pool = False
    available.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
