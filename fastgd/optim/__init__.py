"""The optimiser layer: thin steps and rounds made of the rooms' kernels.

`fastgd.optim.federated`: steps of clients and rounds of servers in federated learning.
"""

import importlib
from typing import Any

__all__ = ["federated"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
