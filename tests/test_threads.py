"""Threads and instruction sets: always the same bits, never a hang."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from robust_oracle import DTYPES, LARGEST, bits, make

from fastgd import _threads, robust, use


def run_all(x: object, **keywords: object) -> list[bytes]:
    """The bits of every rule's result."""
    n = len(x)
    weights = np.random.default_rng(n).standard_normal((3, n))
    results = [
        robust.pairwise_sqdist(x, **keywords),
        robust.krum(x, 1, **keywords),
        robust.multikrum(x, 1, m=n - 1, **keywords),
        robust.median(x, **keywords),
        robust.trimmed_mean(x, 1, **keywords),
        robust.mean(x, **keywords),
        robust.combine(x, weights[0], **keywords),
        *robust.combine(x, weights, **keywords),
    ]
    return [b"".join(map(bits, result)) if isinstance(result, list) else bits(result) for result in results]


def sample(n: int, d: int, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(n)
    return make(rng.standard_normal((n, d)) * rng.choice([1e-3, 1.0, 1e4], (n, 1)), dtype)


def layered(x: np.ndarray) -> list[list[np.ndarray]]:
    """Cut where no chunk or tile ends."""
    ends = [1, 8190, 8193, 50_001]
    return [np.split(row, ends) for row in x]


BIG = [(5, 220_001), (9, 131_071), (17, 65_537), (33, 40_000), (64, 17_001), (130, 8_200), (300, 4_000)]


# ------------------------------------------------------------------------------------------------------- same bits


@pytest.mark.parametrize("n, d", BIG)
def test_every_number_of_threads_gives_the_same_bits(n: int, d: int) -> None:
    x = sample(n, d)
    assert x.nbytes > _threads.PARALLEL_BYTES
    expected = run_all(x, num_threads=1)
    for threads in (2, 3, 4, 64):
        assert run_all(x, num_threads=threads) == expected, threads
    with use(num_threads=3):
        assert run_all(x) == expected
    assert run_all(x) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_with_layers_and_every_dtype(dtype: str) -> None:
    x = sample(11, 240_007, dtype)
    expected = run_all(x, num_threads=1)
    for threads in (1, 2, 3):
        assert run_all(x, num_threads=threads) == expected
        assert run_all(layered(x), num_threads=threads) == expected
        assert run_all(np.asfortranarray(x), num_threads=threads) == expected


@pytest.fixture
def isa():
    """Switches the clones; the best one is back after the test."""
    from fastgd._native import ISA_LEVELS, lib

    before = lib.fgd_isa_current()
    levels = range(lib.fgd_isa_best() + 1)

    def switch(level: int) -> str:
        lib.fgd_isa_use(level)
        assert lib.fgd_isa_current() == level
        return ISA_LEVELS[level]

    yield levels, switch
    lib.fgd_isa_use(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set_gives_the_same_bits(dtype: str, isa) -> None:
    levels, switch = isa
    cases = [
        sample(n, d, dtype)
        for n, d in ((5, 1), (7, 15), (8, 17), (16, 33), (17, 1025), (33, 4099), (65, 300), (130, 129))
    ]
    tiny, huge = sample(9, 700, "float64") * 1e-25, sample(9, 700, "float64") * 1e25
    edge = sample(9, 700, "float64")
    edge[3, 5], edge[:, 9], edge[4, 11] = np.nan, -0.0, -np.inf
    edge[:, 20:60] = np.random.default_rng(0).choice(
        [0.0, -0.0, 5e-324, 1e-42, LARGEST[dtype], -LARGEST[dtype], 1.0], (9, 40)
    )
    if dtype in ("float32", "float64", "bfloat16"):
        cases += [make(tiny, dtype), make(huge, dtype)]
    results = {}
    for level in levels:
        name = switch(level)
        results[name] = [run_all(x) for x in cases] + [run_all(layered(sample(9, 60_001, dtype)), num_threads=2)]
        broken = make(edge, dtype)
        results[name].append(
            [
                bits(robust.krum(broken, 2)),
                bits(robust.multikrum(broken, 2)),
                bits(robust.median(broken)),
                bits(robust.trimmed_mean(broken, 2)),
                bits(robust.pairwise_sqdist(broken)),
            ]
        )
    assert len(results) == len(levels)
    for name, result in results.items():
        for i, (got, expected) in enumerate(zip(result, results["default"], strict=True)):
            assert got == expected, (name, i)


def test_the_environment_chooses_the_instruction_set(run_python) -> None:
    code = """
from fastgd._native import lib, ISA_LEVELS
print(ISA_LEVELS[lib.fgd_isa_current()], ISA_LEVELS[lib.fgd_isa_best()])
"""
    best = run_python(code).stdout.split()[1]
    assert run_python(code).stdout.split() == [best, best]
    for level in ("default", "v3", "v4"):
        done = run_python(code, check=False, FASTGD_ISA=level)
        if level <= best or best == "default":  # "default" < "v3" < "v4"
            assert done.stdout.split() == ([level, best] if done.returncode == 0 else [])
        if level > best:
            assert done.returncode == 1 and "FASTGD_ISA" in done.stderr


def test_repeated_calls_give_the_same_bits() -> None:
    x = sample(21, 60_000)
    assert len({tuple(run_all(x, num_threads=3)) for _ in range(10)}) == 1


# ------------------------------------------------------------------------------------------------------ many callers


def test_forty_threads_at_once() -> None:
    """Each on its own input, all starting together, with thread counts that make the pool grow meanwhile."""
    inputs = [sample(9 + i % 4, 120_000 + i) for i in range(8)]
    expected = [run_all(x, num_threads=1) for x in inputs]
    start, failures = threading.Barrier(40), []

    def work(i: int) -> None:
        start.wait(30)
        for j in range(2):
            k = (i + 3 * j) % 8
            try:
                if run_all(inputs[k], num_threads=1 + (i + j) % 5) != expected[k]:
                    failures.append((i, j))
            except Exception as error:
                failures.append((i, error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_one_input_shared_by_many_threads() -> None:
    x = sample(13, 100_000)
    expected = run_all(x, num_threads=1)
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(lambda _: run_all(x, num_threads=2), range(16)))


def test_calls_from_inside_the_pool_are_serial_and_right() -> None:
    """A kernel's callers cannot be user code, so the pool is entered by hand: a nested call must not wait for it."""
    x = sample(9, 130_000)
    expected = run_all(x, num_threads=1)
    done = []
    _threads.run(lambda: done.append(run_all(x, num_threads=4)), threads=3, chunks=3)
    assert done and all(result == expected for result in done)


def test_errors_in_threads_reach_the_caller() -> None:
    x = sample(9, 500_000)
    x[:5, 499_999] = np.nan
    for threads in (1, 2, 3):
        with pytest.raises(ValueError, match=r"coordinate 499999\b"):
            robust.median(x, num_threads=threads)
        with pytest.raises(ValueError, match="rows 0, 1, 2, 3, 4 "):
            robust.krum(x, 1, num_threads=threads)


def test_a_machine_that_refuses_new_threads(run_python) -> None:
    """When the system gives no (more) threads, the call is slower, not wrong: every started helper is waited for."""
    run_python(
        """
import threading, numpy as np
from fastgd import robust
x = np.random.default_rng(0).standard_normal((20, 400_000)).astype(np.float32)
expected = robust.pairwise_sqdist(x, num_threads=1)
start = threading.Thread.start
for allowed in range(4):
    left = [allowed]
    def refuse(self):
        if left[0] == 0:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(self)
    threading.Thread.start = refuse
    for _ in range(5):
        assert (robust.pairwise_sqdist(x, num_threads=4 + allowed) == expected).all()
    threading.Thread.start = start
assert (robust.pairwise_sqdist(x, num_threads=9) == expected).all()
""",
        timeout=120,
    )
