"""Forks, exits and interrupts after threads were used: the right answer, never a hang."""

from __future__ import annotations

import os

import pytest

#: `results()` uses the pool; `expected` was computed before anything hostile happens.
PREPARE = """
import multiprocessing, os, signal, sys, threading, time, numpy as np
from concurrent.futures import ThreadPoolExecutor
from fastgd import robust

x = np.random.default_rng(0).standard_normal((12, 150_000)).astype(np.float32)

def results():
    return [robust.pairwise_sqdist(x, num_threads=2).tobytes(), robust.median(x, num_threads=2).tobytes(),
            robust.krum(x, 2, num_threads=3).tobytes(), robust.combine(x, np.ones(12), num_threads=2).tobytes()]

expected = results()

def fork(depth=0):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # kills a child that hangs
        right = results() == expected and results() == expected and (depth == 0 or fork(depth - 1))
        os._exit(0 if right else 7)
    assert os.waitpid(pid, 0)[1] == 0
    return True
"""

FORKS = {
    "fork": "fork()",
    "the parent goes on": "fork()\nassert results() == expected\nfork()",
    "a fork in a fork": "fork(depth=2)",
    "from a thread": "with ThreadPoolExecutor(2) as pool: assert pool.submit(fork).result(30)",
    "while other threads are inside kernels": """
stop = []
def busy():
    while not stop:
        results()
threads = [threading.Thread(target=busy) for _ in range(3)]
[thread.start() for thread in threads]
try:
    for _ in range(5):
        fork()
finally:
    stop.append(1)
""",
    "multiprocessing": """
def work(_):
    return results() == expected
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(work, range(4)).get(20) == [True] * 4
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("code", FORKS.values(), ids=FORKS)
def test_fork_after_use(code: str, run_python) -> None:
    run_python(PREPARE + code, "-W", "ignore::DeprecationWarning", timeout=60)


def test_exit_while_threads_work(run_python) -> None:
    """A daemon thread in the middle of calls neither blocks nor crashes the interpreter's end."""
    code = "threading.Thread(target=lambda: [results() for _ in range(1000)], daemon=True).start()\n"
    for _ in range(2):
        run_python(PREPARE + code, timeout=60)


def test_calls_at_exit(run_python) -> None:
    done = run_python(PREPARE + "import atexit\natexit.register(lambda: print(results() == expected))\n")
    assert done.stdout.strip() == "True" and not done.stderr


def test_calls_while_the_interpreter_is_taken_down(run_python) -> None:
    """From a finaliser, when no new thread can be had: serial."""
    done = run_python(PREPARE + "class Late:\n    def __del__(self): print(results() == expected)\nkeep = Late()\n")
    assert done.stdout.strip() == "True" and not done.stderr


def test_interrupt_leaves_the_pool_usable(run_python) -> None:
    """Ctrl-C in the middle of a call: the next call is right."""
    code = """
for delay in (0.001, 0.003, 0.01, 0.02):
    try:
        threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        end = time.monotonic() + 2  # the interpreter swallows an interrupt that comes in a finaliser
        while time.monotonic() < end:
            results()
    except KeyboardInterrupt:
        pass
    assert results() == expected
"""
    run_python(PREPARE + code, timeout=60)
