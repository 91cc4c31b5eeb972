"""The room's GPU kernels, collected for the tests that compile them. The launchers are in the folders' own cuda.py."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("sweeps.cuda_costs", "sweeps.cuda_rows", "sweeps.cuda_columns", "sweeps.cuda_sparse", "sweeps.cuda_batch",
            "newton.cuda_kernels")


def __getattr__(name: str) -> Any:
    if name == "KERNELS":
        return [entry for module in _MODULES for entry in importlib.import_module(f"fastgd.sinkhorn.{module}").KERNELS]
    raise AttributeError(name)
