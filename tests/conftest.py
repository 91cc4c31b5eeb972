"""Fixtures of every test: the backends, subprocesses with a clean environment, and the CUDA simulator's switch."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")

if SIMULATED and importlib.util.find_spec("cuda_simulator"):
    import cuda_simulator  # noqa: F401  (teaches Numba's simulator the warp intrinsics it lacks)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what runs no C, and what takes each instruction set in turn anyway; keeps the `sim` tests where they can run.

    The simulator needs a process of its own: with it only `sim` tests run, without it only the others.
    """
    for item in items:
        if "isa" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.each_isa)
        if getattr(item, "callspec", None) is not None and item.callspec.params.get("backend") == "reference":
            item.add_marker(pytest.mark.oracle)
    kept = [item for item in items if (item.get_closest_marker("sim") is not None) == SIMULATED]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


@pytest.fixture(params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that runs on host arrays. A missing C core fails these tests: it is never skipped."""
    return request.param


@pytest.fixture(params=[0, 1, 2], ids=["default", "v3", "v4"])
def isa(request: pytest.FixtureRequest) -> Iterator[int]:
    """Every instruction set that this CPU has."""
    sets = importlib.import_module("instruction_sets")  # not above: the core may not have been built
    if request.param not in sets.LEVELS:
        pytest.skip("this CPU or build lacks the instruction set")
    with sets.instruction_set(request.param):
        yield request.param


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in a fresh interpreter, without fastgd's environment variables but those given."""

    def run(
        code: str, *options: str, timeout: float = 60.0, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("FASTGD_", "OMP_NUM_THREADS"))}
        done = subprocess.run(
            [sys.executable, *options, "-c", code],
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run
