"""What a result must say about where it was measured. Nothing that names a host, a user or a path."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import fastgd

from .. import _threads
from .roofs import cache_bytes

#: Packages whose version may explain a result.
PACKAGES = ("numpy", "scipy", "numba", "numba-cuda", "cffi", "torch", "cupy", "byzfl", "flwr", "simsimd", "randomgen",
            "cpprb", "tianshou", "torchrl", "POT", "regot", "ott-jax", "jax", "geomloss", "scikit-learn", "threadpoolctl")


def machine(backends: tuple[str, ...] = ()) -> dict[str, Any]:
    """The record stored with results."""
    record = {
        "cpu": cpu_model(),
        "cores": physical_cores(),
        "threads": _threads.available(),
        "cache_bytes": cache_bytes(),
        "isa": isa(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fastgd": fastgd.__version__,
        "versions": versions(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    if "cuda" in backends:
        record["gpu"] = gpu()
    return record


def cpu_model() -> str:
    """The processor's name as its maker writes it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def physical_cores() -> int:
    """Cores, hardware threads of one core counted once."""
    siblings = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    cores = {path.read_text().strip() for path in siblings}
    return len(cores) or os.cpu_count() or 1


def isa() -> str | None:
    """The instruction set in use by the C core; None when that is not built."""
    try:
        from .._native import ISA_LEVELS, lib
    except ImportError:
        return None
    return ISA_LEVELS[lib.fgd_isa_current()]


def versions() -> dict[str, str]:
    """Versions of the installed packages among PACKAGES."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def gpu() -> str:
    """The first GPU's name."""
    from numba import cuda

    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else name


def commit() -> str | None:
    """The commit of the checkout fastgd is imported from, marked when files differ from it; None outside of one."""
    root = Path(fastgd.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        return subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"],
                              capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def is_busy(load: float, cpus: int) -> bool:
    """True when others use so much of the machine that times mean little."""
    return load > 0.5 * cpus
