"""The room's benchmark cases: inputs, exact results, error budgets, bytes and arithmetic; and its rows of the README.

Inputs are standard normal vectors unless a case says otherwise, from a fixed seed. Exact results are computed in
float64 blocks of columns with the formulas of `reference.py`, faster than the reference at sizes beyond the cache.

Arithmetic is counted in vector operations, each as one fused multiply-add, that is 2 flops: so the limit is what the
machine's matrix product issues. Pairs of rows take a subtraction and a multiply-add per coordinate; a comparator takes
a minimum and a maximum.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from .. import robust
from .._arrays import STORAGE, unpack, widen
from ..bench.case import Case, KernelFacts
from .network import network
from .peers import peers_for

_CONVOLUTIONS = ((64, 3, 3), (64, 64, 3), (64, 64, 3), (128, 64, 3), (128, 128, 3), (128, 64, 1), (256, 128, 3),
                 (256, 256, 3), (256, 128, 1))
#: Layer shapes of a small residual network, each convolution with its norm's scale and shift, then the classifier.
LAYERS = (*(shape for o, i, k in _CONVOLUTIONS for shape in ((o, i, k, k), (o,), (o,))), (10, 256), (10,))
DIGITS_D = 2410  #: coordinates of the demo's network
#: Bits of the fraction, and exponent of the smallest normal number.
_FORMAT = {"float32": (23, -126), "float64": (52, -1022), "float16": (10, -14), "bfloat16": (7, -126)}
_BLOCK = 1 << 14


# ------------------------------------------------------------------------------------------------------- inputs


@lru_cache(maxsize=1)
def _vectors(n: int, d: int, dtype: str, form: str) -> Any:
    """The vectors of a case. One set is kept: cases that follow each other share it, and none writes to it."""
    rng = np.random.default_rng(20240607)
    if form == "digits":
        x = importlib.import_module("fastgd.demo.byzantine").gradients(workers=n, seed=0)
        if x.shape != (n, d):
            raise AssertionError(f"the demo's gradients have shape {x.shape}, the case was declared with {(n, d)}")
        return x
    if form == "layers":
        return [[rng.standard_normal(shape, np.float32).astype(dtype, copy=False) for shape in LAYERS]
                for _ in range(n)]
    if dtype == "float64":
        return rng.standard_normal((n, d))
    x = rng.standard_normal((n, d), np.float32)
    if form == "hostile":  # n // 5 = 3 of 16 rows: a NaN row, one Inf, huge but finite values
        x[1] = np.nan
        x[4, d // 2] = -np.inf
        x[7] = 1e38
    if dtype == "bfloat16":
        torch = importlib.import_module("torch")
        return torch.from_numpy(x).bfloat16()
    return x.astype(dtype, copy=False)


def _setup(n: int, d: int, dtype: str, form: str, extra: dict[str, Any]) -> dict[str, Any]:
    return {"x": _vectors(n, d, dtype, form), "dtype": dtype, **extra}


def _columns(x: Any) -> Any:
    """Blocks of columns of the vectors as float64 (n, <= _BLOCK) arrays."""
    if isinstance(x, list):
        for layer in zip(*x, strict=True):
            yield from _columns(np.stack([part.reshape(-1) for part in layer]))
        return
    data, operand, _ = unpack(x, "x")
    for start in range(0, data.shape[1], _BLOCK):
        yield widen(data[:, start : start + _BLOCK], operand.dtype)


# ------------------------------------------------------------------------------------------------ exact results


def _exact_sqdist(inputs: dict[str, Any]) -> np.ndarray:
    x = inputs["x"]
    n = len(x)
    sqdist, bad = np.zeros((n, n)), np.zeros(n, bool)
    with np.errstate(invalid="ignore", over="ignore"):
        for block in _columns(x):
            bad |= ~np.isfinite(block).all(axis=1)
            for i in range(n - 1):
                difference = block[i + 1 :] - block[i]
                sqdist[i, i + 1 :] += np.einsum("ij,ij->i", difference, difference)
    sqdist += sqdist.T
    sqdist[bad, :] = sqdist[:, bad] = np.inf
    np.fill_diagonal(sqdist, 0.0)
    return sqdist


def _exact_order(inputs: dict[str, Any]) -> np.ndarray:
    """Vectors by Krum score."""
    sqdist = _exact_sqdist(inputs)
    nearest = np.sort(sqdist, axis=1)[:, 1 : len(sqdist) - inputs["f"] - 1]  # place 0 is the vector itself
    return np.argsort(nearest.sum(axis=1), kind="stable")


def _exact_krum(inputs: dict[str, Any]) -> np.ndarray:
    best = _exact_order(inputs)[0]
    return np.concatenate([block[best] for block in _columns(inputs["x"])])


def _exact_multikrum(inputs: dict[str, Any]) -> np.ndarray:
    selected = np.sort(_exact_order(inputs)[: inputs["m"]])
    return np.concatenate([block[selected].mean(axis=0) for block in _columns(inputs["x"])])


def _exact_ranks(inputs: dict[str, Any], f: int) -> np.ndarray:
    def middle(block: np.ndarray) -> np.ndarray:
        return np.sort(np.where(np.isfinite(block), block, np.inf), axis=0)[f : len(block) - f].mean(axis=0)

    return np.concatenate([middle(block) for block in _columns(inputs["x"])])


def _exact_trimmed_mean(inputs: dict[str, Any]) -> np.ndarray:
    return _exact_ranks(inputs, inputs["f"])


def _exact_median(inputs: dict[str, Any]) -> np.ndarray:
    return _exact_ranks(inputs, (len(inputs["x"]) - 1) // 2)


def _exact_mean(inputs: dict[str, Any]) -> np.ndarray:
    return np.concatenate([block.mean(axis=0) for block in _columns(inputs["x"])])


def _exact_combine(inputs: dict[str, Any]) -> np.ndarray:
    return np.concatenate([inputs["weights"] @ block for block in _columns(inputs["x"])], axis=-1)


# ----------------------------------------------------------------------------------------------- error budgets


def _flat(result: Any) -> np.ndarray:
    """A result as float64, layers joined."""
    if isinstance(result, list):
        return np.concatenate([_flat(part).ravel() for part in result])
    data, operand, _ = unpack(result, "result")
    return widen(data, operand.dtype)


def _check_sqdist(dtype: str, result: Any, expected: np.ndarray) -> float:
    """Relative error in units of 1e-13 for float64, else 1e-6; symmetry, the zero diagonal and +inf must be exact."""
    got = _flat(result)
    if got.shape != expected.shape or (got != got.T).any() or got.diagonal().any():
        return float("inf")
    known = np.isfinite(expected) & (expected > 0)
    if not np.array_equal(got[~known], expected[~known]):
        return float("inf")
    error = (np.abs(got - expected)[known] / expected[known]).max(initial=0.0)
    return float(error) / (1e-13 if dtype == "float64" else 1e-6)


def _check_same(dtype: str, result: Any, expected: np.ndarray) -> float:
    """Exactly one of the inputs."""
    return 0.0 if np.array_equal(_flat(result), expected) else float("inf")


def _check_ulp(budget: float, dtype: str, result: Any, expected: np.ndarray) -> float:
    """Error in units of `budget` times the spacing of the dtype's numbers at the exact value.

    The exact value is itself a float64 sum: a few roundings of the largest value are allowed on top.
    """
    got = _flat(result)
    if got.shape != expected.shape:
        return float("inf")
    bits, smallest = _FORMAT[dtype]
    spacing = np.ldexp(1.0, np.maximum(np.frexp(expected)[1] - 1, smallest) - bits)
    slack = 8 * np.spacing(np.abs(expected).max(initial=0.0))
    error = np.abs(got - expected) / (budget * spacing + slack)
    return float("inf") if np.isnan(error).any() else float(error.max(initial=0.0))


def _check_median(n: int, dtype: str, result: Any, expected: np.ndarray) -> float:
    """Odd n: one of the inputs. Even n: the mean of the two middle values, rounded once."""
    return _check_same(dtype, result, expected) if n % 2 else _check_ulp(0.5, dtype, result, expected)


# ------------------------------------------------------------------------------------------------------- cases


def _pair_flops(n: int, d: int) -> int:
    return 2 * n * (n - 1) * d


def _network_flops(n: int, d: int, f: int) -> int:
    return 4 * len(network(n, f, n - f - 1)) * d


_check_1ulp = partial(_check_ulp, 1.0)
#: operation -> (its call, its exact result, its check)
_OPERATIONS: dict[str, tuple[Callable[..., Any], Callable[[dict[str, Any]], Any], Callable[..., float]]] = {
    "pairwise_sqdist": (lambda i, **k: robust.pairwise_sqdist(i["x"], **k), _exact_sqdist, _check_sqdist),
    "krum": (lambda i, **k: robust.krum(i["x"], i["f"], **k), _exact_krum, _check_same),
    "multikrum": (lambda i, **k: robust.multikrum(i["x"], i["f"], m=i["m"], **k), _exact_multikrum, _check_1ulp),
    "trimmed_mean": (lambda i, **k: robust.trimmed_mean(i["x"], i["f"], **k), _exact_trimmed_mean, _check_1ulp),
    "median": (lambda i, **k: robust.median(i["x"], **k), _exact_median, _check_median),
    "mean": (lambda i, **k: robust.mean(i["x"], **k), _exact_mean, _check_1ulp),
    "combine": (lambda i, **k: robust.combine(i["x"], i["weights"], **k), _exact_combine, _check_1ulp),
}
_ALL = ("pairwise_sqdist", "krum", "multikrum", "trimmed_mean", "median")
_PAPERS = {"pairwise_sqdist": "arXiv:1703.02757", "krum": "arXiv:1703.02757", "multikrum": "arXiv:1703.02757",
           "trimmed_mean": "arXiv:1803.01498", "median": "arXiv:1803.01498"}


def _counts(operation: str, n: int, d: int, dtype: str, f: int, m: int) -> tuple[int, int]:
    """Bytes that must be read and arithmetic that must be done."""
    data = n * d * STORAGE[dtype].itemsize
    if operation == "pairwise_sqdist":
        return data, _pair_flops(n, d)
    if operation == "krum":
        return data + data // n, _pair_flops(n, d)
    if operation == "multikrum":
        return data + m * (data // n), _pair_flops(n, d) + 2 * m * d
    if operation == "trimmed_mean":
        return data, _network_flops(n, d, f)
    if operation == "median":
        return data, _network_flops(n, d, (n - 1) // 2)
    return data, 2 * n * d


def _case(operation: str, n: int, d: int, size: str, *, dtype: str = "float32", form: str = "normal", label: str = "",
          default: bool = True, note: str = "") -> Case:
    f = n // 5
    m = max(1, n - f - 2)
    extra: dict[str, Any] = {"f": f, "m": m}
    if operation == "combine":
        extra["weights"] = np.linspace(0.5, 1.5, n) / n
    call, exact, check = _OPERATIONS[operation]
    if operation == "median":
        check = partial(check, n)
    nbytes, flops = _counts(operation, n, d, dtype, f, m)
    peers, left_out = peers_for(operation, n, d, dtype, form)
    return Case(
        room="robust", name=f"{operation}/{label or _label(n, d)}", size=size, dtype=dtype,
        params={"n": n, "d": d, "f": f, "m": m, "form": form}, setup=partial(_setup, n, d, dtype, form, extra),
        run=call, reference=exact, check=partial(check, dtype), nbytes=nbytes, flops=flops,
        roof="call" if size == "tiny" else "flops", peers=peers, left_out=left_out, note=note,
        paper=_PAPERS.get(operation, ""), kernel=partial(_bare_kernel, operation) if size == "tiny" else None,
        reference_s=n * n * d * 8e-9 if operation in _ALL[:3] else n * d * 40e-9, default=default,
    )


def _label(n: int, d: int) -> str:
    exponent = len(str(d)) - 1
    return f"{n}x1e{exponent}" if d == 10**exponent and d >= 1000 else f"{n}x{d}"


def _bare_kernel(operation: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    """The kernels of one call on tiny inputs, everything around them prepared."""
    return importlib.import_module("fastgd.robust.bare").prepare(operation, inputs)


def _cases() -> list[Case]:
    cases = [_case(operation, n, d, size, default=size != "large")
             for n, d, size in ((8, 16, "tiny"), (16, 10**5, "small"), (16, 10**6, "medium"), (64, 10**5, "medium"),
                                (64, 10**6, "large"))
             for operation in (*_ALL, "mean", "combine")
             if operation in _ALL or (n, d) in ((16, 10**6), (64, 10**6))]
    d = sum(int(np.prod(shape)) for shape in LAYERS)
    for operation in _ALL:
        shown = operation in ("krum", "median")
        cases += [
            _case(operation, 16, 10**6, "medium", dtype="float64", label="16x1e6-f64", default=shown),
            _case(operation, 16, 10**6, "medium", dtype="bfloat16", label="16x1e6-bf16", default=shown,
                  note="bfloat16 needs torch"),
            _case(operation, 16, d, "medium", form="layers", label="16-layered", default=shown,
                  note=f"each vector a list of {len(LAYERS)} layers of mixed shapes"),
            _case(operation, 16, 10**6, "medium", form="hostile", label="16x1e6-hostile", default=shown,
                  note="one vector of NaN, one with an Inf, one of 1e38"),
            _case(operation, 15, DIGITS_D, "small", form="digits", label="15-digits", default=shown,
                  note="gradients of a small network on scikit-learn's digits"),
            _case(operation, 64, 2**20, "large", label="64x2^20", default=False,
                  note="rows a power of two apart, where caches alias"),
        ]
    return cases


def sized(shape: dict[str, int], dtypes: tuple[str, ...]) -> list[Case]:
    """Cases of one shape, {"n": .., "d": ..}, for `fastgd bench --size n=..,d=..`."""
    n, d = shape.get("n", 16), shape.get("d", 10**6)
    if n < 5 or d < 1:
        raise ValueError(f"the robust room needs n >= 5 and d >= 1, got n={n}, d={d}")
    suffix = {"float32": "", "float64": "-f64", "bfloat16": "-bf16", "float16": "-f16"}
    size = "tiny" if n * d < 1000 else "small" if n * d < 5e6 else "medium" if n * d < 5e7 else "large"
    return [_case(operation, n, d, size, dtype=dtype, label=_label(n, d) + suffix[dtype])
            for dtype in dtypes for operation in (*_ALL, "mean", "combine")]


CASES: list[Case] = _cases()

_FLOATS = "f32 f64 f16 bf16"
_ONE = "1 ulp"
KERNELS: list[KernelFacts] = [
    KernelFacts("robust", "pairwise_sqdist", "D_ij = Σ_c (x_ic - x_jc)²", "1 read, n(n-1)d", _FLOATS, "yes",
                "rel. 1e-6 (f64 1e-13)", "pairwise_sqdist/16x1e6", "arXiv:1703.02757"),
    KernelFacts("robust", "krum_scores", "s_i = Σ of the k smallest D_ij", "n² log² n", "f64", "yes", "n · 2⁻⁵³", ""),
    KernelFacts("robust", "krum", "x_i with the least s_i, k = n-f-2", "1 read, n(n-1)d", _FLOATS, "yes",
                "exact copy", "krum/16x1e6", "arXiv:1703.02757"),
    KernelFacts("robust", "multikrum", "mean of the m least s_i", "2 reads, n(n-1)d", _FLOATS, "yes", _ONE,
                "multikrum/16x1e6", "arXiv:1703.02757"),
    KernelFacts("robust", "trimmed_mean", "mean of ranks f … n-f-1 per coordinate", "1 read, d n log² n", _FLOATS, "yes",
                _ONE, "trimmed_mean/16x1e6", "arXiv:1803.01498"),
    KernelFacts("robust", "median", "middle value per coordinate", "1 read, d n log² n", _FLOATS, "yes",
                "½ ulp (odd n: exact)", "median/16x1e6", "arXiv:1803.01498"),
    KernelFacts("robust", "combine", "y_a = Σ_i W_ai x_i", "1 read, m n d", _FLOATS, "yes", _ONE, "combine/16x1e6"),
    KernelFacts("robust", "mean", "Σ w_i x_i / Σ w_i", "1 read", _FLOATS, "yes", _ONE, "mean/16x1e6"),
]
