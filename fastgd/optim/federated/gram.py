"""Inner products of a few model-sized vectors, in float64, checked."""

from __future__ import annotations

import numpy as np

from ... import _threads
from ..._checks import index_list
from ..._dispatch import find
from ..._rows import Rows


def gram(rows: Rows, names: tuple[str, ...] | str, backend: str | None, num_threads: int | None) -> np.ndarray:
    """G_ij = <x_i, x_j>, (n, n) float64; ValueError when a vector holds a NaN or Inf, or is too long for float64.

    `names`: what the caller calls each vector, or all of them.
    """
    products = find("optim.gram", rows.operand, backend)(rows, _threads.budget(num_threads, rows.nbytes))
    if np.isfinite(products).all():
        return products
    bad = rows.bad_rows()
    if isinstance(names, str):
        what = f"rows {index_list(bad)} of {names} have"
    else:
        what = f"{' and '.join(name for name, is_bad in zip(names, bad, strict=True) if is_bad)} has"
    if bad.any():
        raise ValueError(f"{what} a NaN or an Inf: leave such an update out, or replace it by a robust aggregate")
    raise ValueError(f"inner products of {names if isinstance(names, str) else ' and '.join(names)} overflow float64: "
                     "scale the vectors to less than 1e150")
