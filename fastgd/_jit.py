"""The only Numba decorator of the package: nogil, NumPy error model, cached where a cache can be written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` with Numba: releases the GIL, divides like NumPy, never `fastmath`, never `parallel`.

    Where neither the package folder nor the home directory is writable, Numba refuses to cache at decoration time; the
    function is then compiled in each process instead.
    """
    import numba

    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        logging.getLogger("fastgd").debug("no Numba cache for %s: %s", function.__qualname__, error)
        return numba.njit(**options)(function)
