"""The compiled core: one abi3 extension, `fastgd._c`, built by cffi from csrc/ (all other settings: pyproject.toml)."""

import os
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext

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


class BuildExt(build_ext):
    """Compiles the sources of an extension side by side, one per CPU; setuptools would take one after another."""

    def build_extensions(self) -> None:
        one_by_one = self.compiler.compile

        def side_by_side(sources: list[str], **options: Any) -> list[str]:
            largest_first = sorted(sources, key=os.path.getsize, reverse=True)  # or the longest may start last, and run alone
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                tasks = {source: pool.submit(one_by_one, [source], **options) for source in largest_first}
                try:
                    return [name for source in sources for name in tasks[source].result()]
                finally:  # after an error: what has not begun need not begin
                    pool.shutdown(cancel_futures=True)

        self.compiler.compile = side_by_side
        super().build_extensions()


COMPILING = {"build", "build_ext", "bdist_wheel", "editable_wheel", "install", "develop"} & set(sys.argv)
if BUILD_C and COMPILING and (packages := missing_tools()):
    sys.exit(
        f"fastgd compiles its C core and misses {' and '.join(packages)}: install with "
        f"`apt-get install {' '.join(packages)}` and try again, or set FASTGD_BUILD_C=0 for the slow pure-Python build."
    )

setup(
    cmdclass={"build_ext": BuildExt},
    cffi_modules=["csrc/build.py:ffi"] if BUILD_C else [],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if BUILD_C else {},
)
