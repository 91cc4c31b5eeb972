"""Every CUDA kernel of every room, compiled for two architectures without a GPU: types, precision, registers, spills.

A room's `cuda.py` lists its kernels in KERNELS: (kernel, signatures, whether float64 instructions are meant, registers
at most), and after these the approximate instructions it may use ("ex2.approx", ..), if any. What is left out has a
default: float64 is meant where the signature names it, and at most 64 registers.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import fastgd

TARGETS = ((8, 0), (9, 0))
#: Instructions that trade accuracy for speed, and flushing of subnormal numbers.
APPROXIMATE = re.compile(r"\b(?:div|rcp|sqrt|rsqrt|ex2|lg2|sin|cos|tanh)\.(?:approx|full)|\.ftz\b")
ROOMS = sorted(path.parent.name for path in Path(fastgd.__file__).parent.glob("*/cuda.py"))


class Compiled(NamedTuple):
    """A kernel for one architecture, and what its room promises of it."""

    kernel: Any
    target: tuple[int, int]
    double: bool  #: float64 instructions are meant
    most: int  #: registers
    approximate: set[str]  #: approximate instructions that it may use
    ptx: str


def _entries() -> Iterator[Any]:
    for room in ROOMS:
        for index, entry in enumerate(importlib.import_module(f"fastgd.{room}.cuda").KERNELS):
            for place in range(len(entry[1])):
                for major, minor in TARGETS:
                    name = f"{room}-{entry[0].py_func.__name__}-{index}.{place}-sm{major}{minor}"
                    yield pytest.param((room, index, place, (major, minor)), id=name)


def _entry(room: str, index: int, place: int) -> tuple[Any, str, bool, int, set[str]]:
    """(kernel, signature, whether float64 is meant, registers at most, approximate instructions allowed)."""
    kernel, signatures, *rest = importlib.import_module(f"fastgd.{room}.cuda").KERNELS[index]
    double, most, *approximate = [*rest, *(None, None)[len(rest) :]]
    signature = signatures[place]
    return kernel, signature, "float64" in signature if double is None else double, most or 64, set(approximate)


@pytest.fixture(scope="module")
def compiler() -> None:
    """Skips where the libraries that make PTX are absent; where they are installed, their failure is a failure."""
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed: pip install 'fastgd[cuda]'")
    from numba import cuda

    try:
        cuda.compile_ptx(lambda: None, "void()", cc=TARGETS[0])
    except Exception as error:
        for name in ("nvidia-nvvm", "nvidia-cuda-nvrtc"):
            try:
                distribution(name)
            except PackageNotFoundError:
                pytest.skip(f"{name} is not installed ({type(error).__name__}: {error}): pip install 'fastgd[cuda]'")
        raise


@pytest.fixture(scope="module", params=list(_entries()))
def compiled(request: pytest.FixtureRequest, compiler: None) -> Compiled:
    """One kernel at a time: pytest runs all tests of it before it compiles the next."""
    import numba.cuda.dispatcher as dispatcher
    from numba import cuda

    room, index, place, target = request.param
    kernel, signature, *facts = _entry(room, index, place)
    with pytest.MonkeyPatch.context() as patch:
        # kernels that call device functions ask the current device what it is, and there is none
        patch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=target))
        return Compiled(kernel, target, *facts, cuda.compile_ptx(kernel.py_func, signature, cc=target)[0])


def test_rooms_have_kernels() -> None:
    """The discovery below finds something: a wrong pattern would make every other test of this file empty."""
    assert "robust" in ROOMS
    assert all(importlib.import_module(f"fastgd.{room}.cuda").KERNELS for room in ROOMS)


def test_precision(compiled: Compiled) -> None:
    """The kernel compiles; it has float64 instructions only where they are meant, and no approximate ones."""
    if not compiled.double:
        assert not re.findall(r"^.*\.f64.*$", compiled.ptx, re.MULTILINE)
    assert not set(APPROXIMATE.findall(compiled.ptx)) - compiled.approximate


@pytest.mark.skipif(not shutil.which("ptxas"), reason="ptxas is not on PATH: registers and spills are not checked")
def test_registers(compiled: Compiled, tmp_path: Path) -> None:
    """The assembler keeps every value in registers, within the recorded number, and needs no local memory."""
    source = tmp_path / "kernel.ptx"
    source.write_text(compiled.ptx)
    options = [f"-arch=sm_{compiled.target[0]}{compiled.target[1]}"]
    if limit := compiled.kernel.targetoptions.get("max_registers"):  # naming the default limit would change ptxas's choices
        options.append(f"-maxrregcount={limit}")
    done = subprocess.run(["ptxas", "-v", *options, str(source), "-o", str(tmp_path / "kernel.cubin")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    memory = re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", done.stderr)
    assert memory, done.stderr
    assert not [line for line in memory if line[0] != "0"], done.stderr
    assert max(map(int, re.findall(r"Used (\d+) registers", done.stderr))) <= compiled.most
