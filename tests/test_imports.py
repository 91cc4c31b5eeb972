"""Import hygiene: what `import fastgd` pulls in, where it works, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastgd

PACKAGE = Path(fastgd.__file__).parent
HEAVY = (
    "numba",
    "llvmlite",
    "scipy",
    "torch",
    "jax",
    "cupy",
    "sklearn",
    "matplotlib",
    "tqdm",
    "pytest",
    "cffi",
    "setuptools",
    "multiprocessing",
    "asyncio",
    "urllib.request",
    "ctypes.util",
)


def imported(text: str) -> set[str]:
    """The modules of an -X importtime listing."""
    return {
        line.rsplit("|", 1)[1].strip() for line in text.splitlines() if line.startswith("import time:") and "|" in line
    }


def assert_light(modules: set[str], allowed: tuple[str, ...] = ()) -> None:
    roots = {module for module in modules for name in HEAVY if module == name or module.startswith(name + ".")}
    assert not {module for module in roots if not module.startswith(allowed or ("-",))}


def test_import_is_light(run_python) -> None:
    """Beyond NumPy, `import fastgd` brings in a handful of its own modules."""
    modules = imported(run_python("import fastgd", "-X", "importtime").stderr)
    base = imported(run_python("import numpy", "-X", "importtime").stderr)
    assert_light(modules - base)
    assert {module for module in modules if module.startswith("fastgd.")} <= {"fastgd._dispatch", "fastgd._version"}


@pytest.mark.parametrize(
    "call",
    ["robust.median(x)", "robust.krum(x, 1)", "robust.mean(x, num_threads=1)", "explain(fastgd.robust.krum, x, 1)"],
)
def test_calls_on_host_arrays_stay_light(call: str, run_python) -> None:
    """Also the first call: no compiler, no GPU library, no array library that the caller has not imported."""
    prefix = "import fastgd, numpy as np; x = np.ones((5, 8), np.float32); "
    modules = imported(run_python(f"{prefix} fastgd.{call}", "-X", "importtime").stderr)
    base = imported(run_python("import numpy", "-X", "importtime").stderr)
    if not call.startswith("explain"):  # asks whether there is a GPU
        assert_light(modules - base)
        assert not any("cuda" in module for module in modules - base)


def test_rooms_are_attributes(run_python) -> None:
    run_python("""
import sys, fastgd
assert not any(name in sys.modules for name in ("fastgd.robust", "fastgd.random"))
assert fastgd.robust is sys.modules["fastgd.robust"] and "robust" in dir(fastgd)
assert fastgd.random is sys.modules["fastgd.random"]
assert set(fastgd.__all__) <= set(dir(fastgd)) and all(hasattr(fastgd, name) for name in fastgd.__all__)
try:
    fastgd.nothing
except AttributeError as error:
    assert "fastgd" in str(error) and "nothing" in str(error)
else:
    raise AssertionError
""")
    run_python("from fastgd import *; robust.krum; use; BackendError; assert __version__")


def test_optimiser_layer_is_lazy(run_python) -> None:
    """`fastgd.optim` alone brings in nothing; its modules come when they are asked for, Numba when a kernel first runs."""
    code = """
import sys, fastgd
fastgd.optim
assert not any(name.startswith(("fastgd.robust", "fastgd.optim.")) for name in sys.modules)
assert fastgd.optim.federated is sys.modules["fastgd.optim.federated"] and "federated" in dir(fastgd.optim)
assert hasattr(fastgd.optim, "nothing") is False
from fastgd.optim import *
from fastgd.optim.federated import *
federated.fedsvd_refactor, pfedsop_step
import numpy as np
fedsvd_refactor(np.ones((3, 2)), np.ones((2, 4)))
"""
    modules = imported(run_python(code, "-X", "importtime").stderr)
    assert_light(modules - imported(run_python("import numpy", "-X", "importtime").stderr))
    assert "fastgd.optim.federated.pfedsop" in modules


def test_reference_is_light_too(run_python) -> None:
    modules = imported(
        run_python(
            "import fastgd, numpy as np; fastgd.robust.krum(np.ones((5, 8)), 1, backend='reference')",
            "-X",
            "importtime",
        ).stderr
    )
    assert_light(modules - imported(run_python("import numpy", "-X", "importtime").stderr))
    assert "fastgd._c" not in modules


def test_no_warning_on_import(run_python) -> None:
    code = "import fastgd, numpy as np; fastgd.robust.krum(np.ones((5, 8)), 1); fastgd.random"
    done = run_python(code, "-W", "error", "-X", "dev", "-b")
    assert not done.stdout and not done.stderr


def test_subnormals_survive(run_python) -> None:
    """No flush-to-zero after the import, after kernels, in pool threads, and in the kernels themselves."""
    run_python("""
import numpy as np, threading, fastgd
def kept():
    single = np.array([1e-42], np.float32) * np.float32(1)
    return (np.array([1e-310]) * 1)[0] != 0 and single[0] != 0 and 5e-324 * 1.0 != 0
assert kept()
x = np.full((6, 300_000), 1e-42, np.float32)
x[1] = 3e-42
assert (fastgd.robust.median(x, num_threads=3) == np.float32(1e-42)).all()
assert (fastgd.robust.trimmed_mean(x, 1, num_threads=3) != 0).all()
assert fastgd.robust.pairwise_sqdist(x, num_threads=3)[0, 1] > 0
assert kept()
from fastgd import _threads
flags = []
_threads.run(lambda: flags.append(kept()), threads=3, chunks=3)
thread = threading.Thread(target=lambda: flags.append(kept()))
thread.start(); thread.join()
assert flags and all(flags)
""")


# --------------------------------------------------------------------------------------------- hostile surroundings

CALL = """
import fastgd, numpy as np
x = np.arange(40.0).reshape(8, 5)
assert (fastgd.robust.median(x) == x[3:5].mean(0)).all()
fastgd.robust.krum(x, 1); fastgd.random
"""
EXPLAIN = CALL + "print(fastgd.explain(fastgd.robust.krum, x, 1))\n"


@pytest.fixture
def bare_package(tmp_path: Path) -> Path:
    """A copy of the package where nothing can be written."""
    shutil.copytree(PACKAGE, tmp_path / "lib" / "fastgd", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield tmp_path / "lib"
    for path in [tmp_path, *tmp_path.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)


def unprivileged(environment: dict[str, str]) -> tuple[list[str], dict[str, object]]:
    """How to start Python so that file permissions bind it: as we are, as nobody, or as root without its capability."""
    ways: list[tuple[list[str], dict[str, object]]] = [([], {})]
    if os.getuid() == 0:  # nobody may be unable to reach the interpreter
        ways = [
            ([], {"user": "nobody", "group": "nogroup", "extra_groups": []}),
            (["setpriv", "--bounding-set=-dac_override,-dac_read_search"], {}),
        ]
    for prefix, options in ways:
        try:
            subprocess.run(
                [*prefix, sys.executable, "-c", "import numpy"],
                check=True,
                capture_output=True,
                cwd="/",
                env=environment,
                **options,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return prefix, options
    pytest.skip("this machine offers no way to run the interpreter without root's power over files")


def test_read_only_package_and_no_home(bare_package: Path) -> None:
    """As an unprivileged user, without a home directory, a writable package, a cache or a terminal."""
    environment = {
        "HOME": "/nonexistent",
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(bare_package),
        "TMPDIR": "/nonexistent",
    }
    for directory in bare_package.parents:  # pytest closes its folders to others
        if directory.stat().st_uid == os.getuid() and directory.is_relative_to("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    prefix, options = unprivileged(environment)
    done = subprocess.run(
        [*prefix, sys.executable, "-c", EXPLAIN],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        **options,
    )
    assert done.returncode == 0, done.stderr
    assert "chosen" in done.stdout
    assert not list(bare_package.rglob("__pycache__"))
    code = f"open({str(bare_package / 'fastgd' / 'x')!r}, 'w')"
    assert subprocess.run(
        [*prefix, sys.executable, "-c", code], env=environment, capture_output=True, **options
    ).returncode


@pytest.mark.parametrize("options", [("-OO",), ("-I",), ("-B", "-s", "-E")], ids=" ".join)
def test_interpreter_options(options: tuple[str, ...], run_python) -> None:
    """Checks must not be `assert`s, text must not be in docstrings, and nothing may need the environment."""
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
        + EXPLAIN
        + """
for call in (lambda: fastgd.robust.krum(x, 9), lambda: fastgd.robust.mean(x[0]), lambda: fastgd.use(num_threads=0)):
    try:
        call()
    except ValueError:
        continue
    raise SystemExit("no error")
"""
    )
    run_python(code, *options)


def test_other_locale_and_directory(run_python, tmp_path: Path) -> None:
    run_python(
        f"import os, sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); os.chdir({str(tmp_path)!r})\n" + EXPLAIN,
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONIOENCODING="ascii",
    )
    assert not list(tmp_path.iterdir())


def test_modules_named_like_ours_do_not_disturb(run_python, tmp_path: Path) -> None:
    """A caller's own random.py, network.py or reference.py beside the program."""
    for name in ("robust", "network", "reference", "cpu", "cuda", "cases"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported by mistake')")
    run_python(f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(PACKAGE.parent)!r}]\n" + CALL)
