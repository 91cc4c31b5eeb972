"""The room's GPU kernels, for the tests that compile them."""

from __future__ import annotations

import importlib
from typing import Any

_FAMILIES = ("tree.cuda_kernels",)


def __getattr__(name: str) -> Any:
    if name == "KERNELS":
        modules = (importlib.import_module(f"fastgd.dro.{family}") for family in _FAMILIES)
        return [entry for module in modules for entry in module.KERNELS]
    raise AttributeError(name)
