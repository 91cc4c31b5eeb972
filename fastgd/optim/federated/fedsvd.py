"""FedSVD: new factors of a low-rank adapter, the same product, orthonormal rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import finite, narrow, unpack, widen
from ..._checks import array_out, count


def fedsvd_refactor(b: Any, a: Any, *, rank: int | None = None, out: Any = None) -> tuple[Any, Any]:
    """New factors of the same low-rank matrix: from the SVD B A = U S V^T, B_new = U S and A_new = V^T, of orthonormal rows.

    The server of FedSVD calls it on the clients' averaged B (`fastgd.robust.mean`, or a robust rule) and the A that all of
    them kept fixed: averaging B alone is exact, since the mean of B_k A is (mean of B_k) A. With orthonormal rows of A,
    noise N added to B for privacy stays E||N A||^2 = sigma^2 m r; noise on both factors would add sigma^4 m n r.

    Parameters
    ----------
    b : (m, r) array
        float32, float64, float16 or bfloat16, on the host.
    a : (r, n) array
        Of the same dtype; r at most min(m, n).
    rank : int, optional
        Singular values to keep, 1 to r. Default r: the product is preserved.
    out : (array, array), optional
        Where to put the two results; may be (b, a) when all are kept.

    Returns
    -------
    ((m, rank) array, (rank, n) array)
        B_new and A_new, singular values in descending order: B_new^T B_new = diag(S^2). The largest entry of each row of
        A_new, the first of equals, is positive; where singular values are equal only the space of their rows is determined.
        With rank < r the product is the best approximation of B A of that rank. Computed in float64, rounded once.

    Raises
    ------
    ValueError, TypeError
        `b` and `a` are not such matrices; r exceeds m or n; a value is NaN or Inf; a singular value
        overflows the dtype; `rank` or `out` does not fit.

    Notes
    -----
    Cost: O((m + n) r^2) by a QR factorisation of A^T and an SVD of an (m, r) matrix; the (m, n) product is never made.
    Deterministic for one LAPACK; it comes from NumPy, and another version may differ in the last bits.

    References
    ----------
    Lee et al.: FedSVD, Adaptive Orthogonalization for Private Federated Learning with LoRA (NeurIPS 2025), arXiv 2505.12805.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.optim.federated import fedsvd_refactor
    >>> b, a = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 3.0], [-1.0, 0.0]])
    >>> new_b, new_a = fedsvd_refactor(b, a)
    >>> np.allclose(new_b @ new_a, b @ a), np.allclose(new_a @ new_a.T, np.eye(2)), np.linalg.norm(new_b, axis=0).round(6)
    (True, True, array([3., 2.]))
    """
    wide_b, dtype, wrap_b = _matrix(b, "b")
    wide_a, dtype_a, wrap_a = _matrix(a, "a")
    (m, r), (_, n) = wide_b.shape, wide_a.shape
    if wide_a.shape[0] != r or dtype_a != dtype:
        raise ValueError(f"b is {dtype} {wide_b.shape} and a is {dtype_a} {wide_a.shape}, but must be (m, r) and (r, n) of "
                         "one dtype")
    if not 1 <= r <= min(m, n):
        raise ValueError(f"the factors have r={r}, but r must be from 1 to min(m, n) = {min(m, n)}: a has no r orthonormal rows")
    rank = r if rank is None else count(rank, "rank", 1, r)
    views = None if out is None else _outs(out, ((m, rank), (rank, n)), dtype)
    new_b, new_a = _factors(wide_b, wide_a, rank)
    results = narrow(new_b, dtype), narrow(new_a, dtype)
    if not finite(results[0], dtype).all():
        raise ValueError(f"the singular values of b a overflow {dtype}: scale b or a down, or convert them to a wider dtype")
    if views is None:
        return wrap_b(results[0]), wrap_a(results[1])
    for view, result in zip(views, results, strict=True):
        view[...] = result
    return out


def _factors(b: np.ndarray, a: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    # Scaled by powers of two, which is exact: products of huge or tiny factors neither overflow nor vanish on the way.
    b_exponent, a_exponent = (int(np.frexp(np.abs(x).max())[1]) for x in (b, a))
    basis, triangle = np.linalg.qr(np.ldexp(a.T, -a_exponent))
    left, values, right = np.linalg.svd(np.ldexp(b, -b_exponent) @ triangle.T, full_matrices=False)
    rows = right[:rank] @ basis.T
    signs = np.sign(rows[np.arange(rank), np.abs(rows).argmax(axis=1)])
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(left[:, :rank] * (values[:rank] * signs), b_exponent + a_exponent), rows * signs[:, None]


def _matrix(x: Any, name: str) -> tuple[np.ndarray, str, Any]:
    """A finite host matrix in float64, its dtype and the way back to the caller's type of array."""
    data, operand, wrap = unpack(x, name)
    if operand.device != "cpu":
        raise TypeError(f"{name} is on the GPU, but must be on the host: move it first (torch: x.cpu(), CuPy: x.get())")
    if data.ndim != 2:
        raise ValueError(f"{name} has shape {tuple(data.shape)}, but must be a matrix")
    if not finite(data, operand.dtype).all():
        raise ValueError(f"{name} holds a NaN or an Inf: leave the client that sent it out of the mean, or use a robust rule")
    return widen(data, operand.dtype), operand.dtype, wrap


def _outs(out: Any, shapes: tuple[tuple[int, int], ...], dtype: str) -> list[Any]:
    if not isinstance(out, list | tuple) or len(out) != 2:
        raise ValueError("out must be a pair of arrays, for the new b and the new a")
    return [array_out(part, shape, dtype, "cpu", f"out[{k}]") for k, (part, shape) in enumerate(zip(out, shapes, strict=True))]
