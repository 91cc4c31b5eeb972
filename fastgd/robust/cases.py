"""The room's benchmark cases: inputs, exact results, error budgets, bytes and arithmetic; and its rows of the README.

Inputs are standard normal vectors unless a case says otherwise, from a fixed seed. Results are compared with those of
`exact.py`, which at sizes beyond the cache is much faster than the reference.

Arithmetic is counted in vector operations, each as one fused multiply-add, that is 2 flops: so the limit is what the
machine's multiply-adds issue. Pairs of rows take one per coordinate; a comparator takes a minimum and a maximum.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from .. import robust
from .._arrays import ITEMSIZE
from .._dispatch import use
from ..bench.bare import c_calls
from ..bench.case import Case
from . import exact, peers
from .facts import KERNELS as KERNELS
from .network import network
from .peers import peers_for

_CONVOLUTIONS = ((64, 3, 3), (64, 64, 3), (64, 64, 3), (128, 64, 3), (128, 128, 3), (128, 64, 1), (256, 128, 3),
                 (256, 256, 3), (256, 128, 1))
#: Layer shapes of a small residual network, each convolution with its norm's scale and shift, then the classifier.
LAYERS = (*(shape for o, i, k in _CONVOLUTIONS for shape in ((o, i, k, k), (o,), (o,))), (10, 256), (10,))
DIGITS_D = 2410  #: coordinates of the demo's network


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


# ------------------------------------------------------------------------------------------------------- cases


def _pair_flops(n: int, d: int) -> int:
    """A multiply-add a pair. The subtraction before it has units of its own on some machines, so it is no part of the limit."""
    return n * (n - 1) * d


def _network_flops(n: int, d: int, f: int) -> int:
    return 4 * len(network(n, f, n - f - 1)) * d


_CHECK_1ULP = partial(exact.check_ulp, 1.0)
#: operation -> (its call, its exact result, its check)
_OPERATIONS: dict[str, tuple[Callable[..., Any], Callable[[dict[str, Any]], Any], Callable[..., float]]] = {
    "pairwise_sqdist": (lambda i, **k: robust.pairwise_sqdist(i["x"], **k), exact.sqdist, exact.check_sqdist),
    "krum": (lambda i, **k: robust.krum(i["x"], i["f"], **k), exact.krum, exact.check_same),
    "multikrum": (lambda i, **k: robust.multikrum(i["x"], i["f"], m=i["m"], **k), exact.multikrum, _CHECK_1ULP),
    "trimmed_mean": (lambda i, **k: robust.trimmed_mean(i["x"], i["f"], **k), exact.trimmed_mean, _CHECK_1ULP),
    "median": (lambda i, **k: robust.median(i["x"], **k), exact.median, exact.check_median),
    "mean": (lambda i, **k: robust.mean(i["x"], **k), exact.mean, _CHECK_1ULP),
    "combine": (lambda i, **k: robust.combine(i["x"], i["weights"], **k), exact.combine, _CHECK_1ULP),
    "meamed": (lambda i, **k: robust.meamed(i["x"], i["f"], **k), exact.meamed, _CHECK_1ULP),
    "bulyan": (lambda i, **k: robust.bulyan(i["x"], i["f"], **k), exact.bulyan, _CHECK_1ULP),
    "nnm": (lambda i, **k: robust.nnm(i["x"], i["f"], **k), exact.nnm, _CHECK_1ULP),
    "nnm_krum": (lambda i, **k: robust.aggregate(i["x"], i["f"], rule="krum", pre=("nnm",), **k), exact.nnm_krum, _CHECK_1ULP),
    "geometric_median": (lambda i, **k: robust.geometric_median(i["x"], **k), exact.geometric_median,
                         partial(exact.check_relative, 2.0)),
}
_RULES = ("meamed", "bulyan", "nnm", "nnm_krum", "geometric_median")
_ALL = ("pairwise_sqdist", "krum", "multikrum", "trimmed_mean", "median")
_PAPERS = {"pairwise_sqdist": "arXiv:1703.02757", "krum": "arXiv:1703.02757", "multikrum": "arXiv:1703.02757",
           "trimmed_mean": "arXiv:1803.01498", "median": "arXiv:1803.01498", "meamed": "arXiv:1802.10116",
           "bulyan": "arXiv:1802.07927", "nnm": "arXiv:2302.01772", "nnm_krum": "arXiv:2302.01772",
           "geometric_median": "arXiv:1912.13445"}


def _counts(operation: str, n: int, d: int, dtype: str, f: int, m: int) -> tuple[int, int]:
    """Bytes that must be read and arithmetic that must be done."""
    data = n * d * ITEMSIZE[dtype]
    if operation == "pairwise_sqdist":
        return data, _pair_flops(n, d)
    if operation == "krum":
        return data + data // n, _pair_flops(n, d)
    if operation == "multikrum":
        return data + m * (data // n), _pair_flops(n, d) + 2 * m * d
    if operation == "trimmed_mean":
        return data, _network_flops(n, d, f)
    if operation == "meamed":
        return data, _network_flops(n, d, 0)
    if operation == "bulyan":
        return data + (n - 2 * f) * (data // n), _pair_flops(n, d) + _network_flops(n - 2 * f, d, 0)
    if operation == "nnm":
        return 2 * data, _pair_flops(n, d) + 2 * n * (n - f) * d
    if operation == "nnm_krum":
        return data + (n - f) * (data // n), _pair_flops(n, d) + 2 * (n - f) * d
    if operation == "geometric_median":
        return 2 * data, _pair_flops(n, d) + 2 * n * d
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
    call, expected, check = _OPERATIONS[operation]
    if operation == "median":
        check = partial(check, n)
    nbytes, flops = _counts(operation, n, d, dtype, f, m)
    others, left_out = peers_for(operation, n, d, dtype, form)
    return Case(
        room="robust", name=f"{operation}/{label or _label(n, d)}", size=size, dtype=dtype,
        params={"n": n, "d": d, "f": f, "m": m, "form": form}, setup=partial(_setup, n, d, dtype, form, extra),
        run=call, reference=expected, check=partial(check, dtype), nbytes=nbytes, flops=flops,
        roof="call" if size == "tiny" else "flops", peers=others, left_out=left_out, note=note,
        paper=_PAPERS.get(operation, ""), kernel=partial(_bare_kernel, operation) if size == "tiny" else None,
        reference_s=n * n * d * 8e-9 if operation in _ALL[:3] else n * d * 40e-9, default=default,
    )


def _label(n: int, d: int) -> str:
    exponent = len(str(d)) - 1
    return f"{n}x1e{exponent}" if d == 10**exponent and d >= 1000 else f"{n}x{d}"


def _bare_kernel(operation: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    """The C calls of one call, to be repeated without what is around them."""
    front = importlib.import_module("fastgd.robust.cpu")
    return c_calls(front, lambda: _OPERATIONS[operation][0](inputs, backend="cpu", num_threads=1))


def _cases() -> list[Case]:
    cases = [_case(operation, n, d, size, default=size != "large")
             for n, d, size in ((8, 16, "tiny"), (16, 10**5, "small"), (16, 10**6, "medium"), (64, 10**5, "medium"),
                                (64, 10**6, "large"))
             for operation in (*_ALL, "mean", "combine")
             if operation in _ALL or (n, d) in ((16, 10**6), (64, 10**6))]
    for n, d, size in ((16, 10**6, "medium"), (64, 10**5, "medium"), (64, 10**6, "large")):
        cases += [_case(operation, n, d, size, default=n == 16 and operation in ("meamed", "bulyan")) for operation in _RULES
                  if (n, d) != (64, 10**5) or operation in ("meamed", "bulyan")]
    cases += [_case(operation, n, d, "large", default=False) for n, d in ((128, 250_000), (256, 10**5), (1024, 20_000))
              for operation in ("krum", "multikrum", "trimmed_mean", "median") if n < 1024 or operation == "krum"]
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


def _special(operation: str, label: str, n: int, d: int, size: str, setup: Callable[[], dict[str, Any]], nbytes: int, flops: int,
             dtype: str = "float32", **parts: Any) -> Case:
    """A case whose inputs are not just vectors."""
    return Case(room="robust", name=f"{operation}/{label}", size=size, dtype=dtype, params={"n": n, "d": d, "f": n // 5},
                setup=setup, nbytes=nbytes, flops=flops, roof="flops", default=False, reference_s=10.0, **parts)


def _state_setup(n: int, d: int) -> dict[str, Any]:
    x = _vectors(n, d, "float32", "normal")
    return {"x": x, "state": robust.KrumState(x, n // 5), "value": x[0] + x[1]}


def _update(inputs: dict[str, Any], backend: str, num_threads: int) -> np.ndarray:
    with use(backend=backend, num_threads=num_threads):
        inputs["state"].update(1, inputs["value"])
    return inputs["state"].sqdist[1]


def _hash_setup(n: int, width: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(7).integers(0, 256, (n, width), np.uint8)}


def _specials() -> list[Case]:
    n, d, bits, hashes, width = 64, 10**6, 256, 256, 10_000
    return [
        _special("krum_state", "64x1e6", n, d, "large", partial(_state_setup, n, d), 4 * n * d, 4 * n * d, run=_update,
                 reference=exact.updated_row, check=exact.check_row, peers={"recompute": peers.recompute},
                 note="one vector replaced, against all distances anew"),
        _special("simhash", "64x1e6", n, d, "large", partial(_setup, n, d, "float32", "normal", {}), 4 * n * d,
                 2 * n * d + 2 * n * bits * 4096, run=lambda i, **k: robust.simhash(i["x"], bits, **k),
                 reference=lambda i: robust.simhash(i["x"], bits, backend="reference"), check=exact.check_bits,
                 peers={"numpy": peers.numpy_simhash}, note="256 bits"),
        _special("hamming", "256x80000b", hashes, 8 * width, "large", partial(_hash_setup, hashes, width), hashes * width,
                 hashes * (hashes - 1) // 2 * -(-width // 64) * 64, dtype="uint8",
                 run=lambda i, **k: robust.hamming(i["x"], i["x"], **k),
                 reference=lambda i: robust.hamming(i["x"], i["x"], backend="reference"),
                 check=lambda got, expected: 0.0 if np.array_equal(got, expected) else float("inf"),
                 peers={"numpy": peers.numpy_hamming}, note="80 000 bits, all pairs of 256 hashes"),
    ]


def sized(shape: dict[str, int], dtypes: tuple[str, ...]) -> list[Case]:
    """Cases of one shape, {"n": .., "d": ..}, for `fastgd bench --size n=..,d=..`."""
    n, d = shape.get("n", 16), shape.get("d", 10**6)
    if n < 5 or d < 1:
        raise ValueError(f"the robust room needs n >= 5 and d >= 1, got n={n}, d={d}")
    suffix = {"float32": "", "float64": "-f64", "bfloat16": "-bf16", "float16": "-f16"}
    size = "tiny" if n * d < 1000 else "small" if n * d < 5e6 else "medium" if n * d < 5e7 else "large"
    return [_case(operation, n, d, size, dtype=dtype, label=_label(n, d) + suffix[dtype])
            for dtype in dtypes for operation in (*_ALL, "mean", "combine", *_RULES)]


CASES: list[Case] = _cases() + _specials()
