"""The compiled core: one abi3 extension, `fastgd._c`, built by cffi from csrc/ (all other settings: pyproject.toml)."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

BUILD_C = os.environ.get("FASTGD_BUILD_C", "1") != "0"


def missing_tools() -> list[str]:
    """Debian packages that the compiled core needs and this machine lacks."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    packages = []
    if not (shutil.which(compiler) or shutil.which("gcc")):
        packages.append("gcc")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        packages.append("python3-dev")
    return packages


COMPILING = {"build", "build_ext", "bdist_wheel", "editable_wheel", "install", "develop"} & set(sys.argv)
if BUILD_C and COMPILING and (packages := missing_tools()):
    sys.exit(
        f"fastgd compiles its C core and misses {' and '.join(packages)}: install with "
        f"`apt-get install {' '.join(packages)}` and try again, or set FASTGD_BUILD_C=0 for the slow pure-Python build."
    )

setup(
    cffi_modules=["csrc/build.py:ffi"] if BUILD_C else [],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if BUILD_C else {},
)
