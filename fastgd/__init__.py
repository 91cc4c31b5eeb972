"""fastgd: kernels for robust, distributed and memory-efficient gradient descent.

Rooms (loaded on first use): `fastgd.robust` (Byzantine-robust aggregation), `fastgd.compress` (gradient compression with
error feedback), `fastgd.dro` (sampling trees, distributionally robust optimisation), `fastgd.sinkhorn` (entropic optimal
transport), `fastgd.random` (counter-based random numbers); on them the optimiser layer, `fastgd.optim`. `fastgd.use` chooses where kernels run, `fastgd.explain` says why.
"""

import importlib
from typing import Any

from ._dispatch import BackendError, explain, use

__version__ = "0.1.0"
__all__ = ["BackendError", "__version__", "compress", "dro", "explain", "optim", "random", "robust", "sinkhorn", "use"]

_ROOMS = ("compress", "dro", "optim", "random", "robust", "sinkhorn")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
