"""The room's benchmark cases: noise added to parameters in place, and streams; and the room's rows of the README.

Noise is added to standard normal parameters with scale 1e-3, as a zeroth-order method would. A case changes its
input: its reference comes first, and repeated runs add the same noise again, which changes no amount of work.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .. import random
from .._arrays import to_host
from ..bench.case import Case, KernelFacts, prepared
from . import reference

_SEED, _STEP, _SCALE = 20240607, 3, 1e-3
_BLOCK = 1 << 18  # elements of the reference at a time: its temporary arrays stay in the cache
_EXACT_STREAMS = ("bits32", "hash32", "uniform", "rademacher")  # streams with exact results

Peer = Callable[[dict[str, Any]], Any]


# ------------------------------------------------------------------------------------------------ noise in place


def _parameters(size: int, dtype: str) -> dict[str, Any]:
    x = np.random.default_rng(_SEED).standard_normal(size, np.float32)
    return {"x": x.astype(dtype, copy=False)}


def _perturb(distribution: str, inputs: dict[str, Any], **options: Any) -> Any:
    return random.perturb_(inputs["x"], seed=_SEED, step=_STEP, scale=_SCALE, distribution=distribution, **options)


def _exact_perturb(distribution: str, inputs: dict[str, Any]) -> np.ndarray:
    """Rademacher: the rounded sum, exactly. Normal: the sum in float64."""
    x = to_host(inputs["x"])
    out = np.empty(x.size, x.dtype if distribution == "rademacher" else np.float64)
    for start in range(0, x.size, _BLOCK):
        part = x[start : start + _BLOCK]
        if distribution == "rademacher":
            signs = reference.rademacher(_SEED, _STEP, start, part.size)
            out[start : start + _BLOCK] = part + x.dtype.type(_SCALE) * signs.astype(x.dtype)
        else:
            out[start : start + _BLOCK] = part + _SCALE * reference.normal64(_SEED, _STEP, start, part.size)
    return out


def _check_exact(result: Any, expected: np.ndarray) -> float:
    return 0.0 if np.array_equal(to_host(result), expected) else float("inf")


def _check_normal_sum(result: Any, expected: np.ndarray) -> float:
    """One rounding of the sum, and a normal's 2 ulp (of values below 8) with the rounding of its product, scaled."""
    got = to_host(result)
    if got.shape != expected.shape:
        return float("inf")
    slack = _SCALE * 4 * float(np.spacing(np.float32(4.0)))
    rounded = np.abs(expected).astype(got.dtype)
    error = np.abs(got.astype(np.float64) - expected) / (0.5 * np.spacing(rounded).astype(np.float64) + slack)
    return float("inf") if np.isnan(error).any() else float(error.max(initial=0.0))


def _perturb_peers(distribution: str) -> dict[str, Peer]:
    normal = distribution == "normal"

    @prepared
    def with_numpy(inputs: dict[str, Any]) -> Any:
        x, rng = inputs["x"], np.random.default_rng(_SEED)
        scale = x.dtype.type(_SCALE)

        def gaussian() -> None:
            x[...] += scale * rng.standard_normal(x.shape, dtype=x.dtype)

        def signs() -> None:
            x[...] += scale * (rng.integers(0, 2, x.shape, dtype=np.int8) * 2 - 1)

        return gaussian if normal else signs

    @prepared
    def with_copy(inputs: dict[str, Any]) -> Any:
        x = inputs["x"]
        target = np.empty_like(x)
        target.fill(0)
        return lambda: np.copyto(target, x)

    @prepared
    def with_torch(inputs: dict[str, Any]) -> Any:
        torch = importlib.import_module("torch")
        x = torch.from_numpy(inputs["x"])
        if normal:
            return lambda: x.add_(torch.randn_like(x), alpha=_SCALE)
        return lambda: x.add_(torch.empty_like(x).bernoulli_(0.5).mul_(2).sub_(1), alpha=_SCALE)

    peers: dict[str, Peer] = {"numpy": with_numpy, "torch": with_torch}
    return peers if normal else {**peers, "copy": with_copy}


def _perturb_case(distribution: str, size: int, label: str, dtype: str = "float32", note: str = "") -> Case:
    suffix = "" if dtype == "float32" else "-f64"
    return Case(
        room="random", name=f"perturb_{distribution}/{label}{suffix}", size=_size(size), dtype=dtype,
        params={"n": size, "distribution": distribution}, setup=partial(_parameters, size, dtype),
        run=partial(_perturb, distribution),
        reference=partial(_exact_perturb, distribution),
        check=_check_normal_sum if distribution == "normal" else _check_exact,
        nbytes=2 * size * np.dtype(dtype).itemsize, flops=2 * size, roof="copy", peers=_perturb_peers(distribution),
        note=note, paper="arXiv:2305.17333", reference_s=size * (3e-7 if distribution == "normal" else 2e-8),
    )


# --------------------------------------------------------------------------------------------------------- streams


def _draw(name: str, size: int, inputs: dict[str, Any], **options: Any) -> Any:
    return getattr(random, name)(_SEED, _STEP, 0, size, **options)


def _exact_stream(name: str, size: int, inputs: dict[str, Any]) -> np.ndarray:
    if name == "normal":
        return reference.normal64(_SEED, _STEP, 0, size)
    return getattr(reference, name)(_SEED, _STEP, 0, size)


def _check_normal(result: Any, expected: np.ndarray) -> float:
    """In units of 2 ulp."""
    got = to_host(result)
    if got.shape != expected.shape:
        return float("inf")
    spacing = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    error = np.abs(got.astype(np.float64) - expected) / (2 * spacing)
    return float("inf") if np.isnan(error).any() else float(error.max(initial=0.0))


def _stream_peer(name: str, size: int) -> dict[str, Peer]:
    @prepared
    def with_numpy(inputs: dict[str, Any]) -> Any:
        rng = np.random.default_rng(_SEED)
        return {
            "bits32": lambda: rng.integers(0, 1 << 32, size, dtype=np.uint32),
            "hash32": lambda: rng.integers(0, 1 << 32, size, dtype=np.uint32),
            "uniform": lambda: rng.random(size, dtype=np.float32),
            "normal": lambda: rng.standard_normal(size, dtype=np.float32),
            "rademacher": lambda: (rng.integers(0, 2, size, dtype=np.int8) * 2 - 1).astype(np.float32),
        }[name]

    return {"numpy": with_numpy}


def _stream_case(name: str, size: int, label: str) -> Case:
    return Case(
        room="random", name=f"{name}/{label}", size=_size(size), dtype="uint32" if name.endswith("32") else "float32",
        params={"n": size}, setup=dict, run=partial(_draw, name, size),
        reference=partial(_exact_stream, name, size), check=_check_exact if name in _EXACT_STREAMS else _check_normal,
        nbytes=4 * size, flops=0, roof="copy", peers=_stream_peer(name, size), device_inputs=(),
        reference_s=size * (3e-7 if name == "normal" else 1e-7),
    )


def _size(size: int) -> str:
    return "tiny" if size < 10**4 else "small" if size < 10**6 else "medium" if size < 10**8 else "large"


def sized(shape: dict[str, int], dtypes: tuple[str, ...]) -> list[Case]:
    """Cases of one size, n times d elements, for `fastgd bench --size n=..,d=..`; float32 and float64 of `dtypes`."""
    size = shape.get("n", 1) * shape.get("d", 1)
    if size < 1:
        raise ValueError(f"the random room needs at least 1 element, got {size}")
    return [_perturb_case(distribution, size, str(size), dtype)
            for dtype in dtypes if dtype in ("float32", "float64") for distribution in ("normal", "rademacher")]


CASES: list[Case] = [
    *(_perturb_case(distribution, size, label) for size, label in ((1000, "1e3"), (10**5, "1e5"), (10**7, "1e7"))
      for distribution in ("normal", "rademacher")),
    *(_perturb_case(distribution, 10**6, "1e6", "float64") for distribution in ("normal", "rademacher")),
    *(_stream_case(name, size, label) for size, label in ((1000, "1e3"), (10**6, "1e6"))
      for name in ("bits32", "hash32", "uniform", "normal", "rademacher")),
]

_EXACT = "exact"
_PHILOX = "SC 2011"
KERNELS: list[KernelFacts] = [
    KernelFacts("random", "bits32", "words of Philox 4x32-10", "1 write", "u32", "yes", _EXACT, "bits32/1e6", _PHILOX),
    KernelFacts("random", "hash32", "keyed mix of the index", "1 write", "u32", "yes", _EXACT, "hash32/1e6"),
    KernelFacts("random", "uniform", "(word >> 8) / 2²⁴", "1 write", "f32", "yes", _EXACT, "uniform/1e6", _PHILOX),
    KernelFacts("random", "normal", "√(-2 ln u) (cos, sin) 2πv", "1 write", "f32", "yes", "2 ulp", "normal/1e6",
                _PHILOX),
    KernelFacts("random", "rademacher", "1 - 2 bit", "1 write", "f32", "yes", _EXACT, "rademacher/1e6", _PHILOX),
    KernelFacts("random", "perturb_", "x += scale · noise", "1 read, 1 write", "f32 f64", "yes", "2 ulp of the noise",
                "perturb_normal/1e7", "arXiv:2305.17333"),
]
