"""The room's benchmark cases, and its rows of the README.

A step of error feedback takes four gradients in turn, so the memory meets another vector each time, as in training; all
results are compared, byte for byte, with the reference's first step. `memcpy` is NumPy's copy of n floats: what the others' times
are to be seen beside. Bytes counted are those that must be read and written: 12 an element for error feedback, and the payload.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from .. import compress
from ..bench.case import Case, KernelFacts
from . import peers
from .codecs import Codec

_MANY = 4  # gradients taken in turn
_SIDE = 4096  # of PowerSGD's matrix
_WORKERS = 8
_DIGITS = 2410  # coordinates of the demo's network


@lru_cache(maxsize=1)
def _gradients(n: int, form: str, count: int) -> list[np.ndarray]:
    """Normal vectors, or gradients of the demo's network; nothing writes to them."""
    if form == "digits":
        rows = importlib.import_module("fastgd.demo.byzantine").gradients(workers=count, seed=0)
        return [np.ascontiguousarray(row, np.float32) for row in rows]
    rng = np.random.default_rng(20240607)
    return [rng.standard_normal(n, np.float32) for _ in range(count)]


def _setup(n: int, form: str, extra: dict[str, Any]) -> dict[str, Any]:
    return {"grads": _gradients(n, form, _MANY), "workers": {}, **extra}


def _worker(inputs: dict[str, Any], kind: str, codec: Codec, options: dict[str, Any], backend: str, threads: int) -> Any:
    """The compressor of this backend and number of threads, made on first use."""
    key = backend, threads
    if key not in inputs["workers"]:
        n = len(inputs["grads"][0])
        worker = getattr(compress, kind)(codec, n, backend=backend, num_threads=threads, **options)
        inputs["workers"][key] = worker, np.empty(codec.max_nbytes(n), np.uint8)
    return inputs["workers"][key]


def _step(kind: str, codec: Codec, options: dict[str, Any], inputs: dict[str, Any], backend: str, num_threads: int) -> np.ndarray:
    worker, out = _worker(inputs, kind, codec, options, backend, num_threads)
    result: np.ndarray = worker.compress(inputs["grads"][worker.step % _MANY], out=out)
    return result


def _first_step(kind: str, codec: Codec, options: dict[str, Any], inputs: dict[str, Any]) -> np.ndarray:
    g = inputs["grads"][0]
    result: np.ndarray = getattr(compress, kind)(codec, len(g), backend="reference", **options).compress(g).copy()
    return result


def _same(result: Any, expected: np.ndarray) -> float:
    return 0.0 if np.array_equal(result, expected) else float("inf")


def _label(n: int) -> str:
    return {2**20: "2^20", 24 * 2**20: "24x2^20"}.get(n, str(n))


def _case(operation: str, label: str, n: int, codec: Codec, *, kind: str = "ErrorFeedback", peer: Any = None,
          form: str = "normal", nbytes: int | None = None, note: str = "", **options: Any) -> Case:
    extra = {"ratio": getattr(codec, "ratio", None) or 0.0, "bucket": getattr(codec, "bucket", 512),
             "rank": getattr(codec, "rank", 0), "shape": getattr(codec, "shape", None)}
    return Case(
        room="compress", name=f"{operation}/{label}", size="tiny" if n < 10**4 else "medium" if n < 10**7 else "large",
        dtype="float32", params={"n": n, "codec": repr(codec), **options}, setup=partial(_setup, n, form, extra),
        run=partial(_step, kind, codec, options), reference=partial(_first_step, kind, codec, options), check=_same,
        nbytes=(12 * n if nbytes is None else nbytes) + codec.max_nbytes(n), flops=4 * n, roof="copy",
        peers={} if peer is None else {"torch": peer}, note=note, reference_s=n * 1e-7, default=n < 10**7 and form == "normal",
        device_inputs=(),
    )


def _plain(operation: str, n: int, run: Callable[..., Any], reference: Callable[..., Any], nbytes: int, other: dict[str, Any],
           extra: dict[str, Any], roof: str = "copy", note: str = "") -> Case:
    """A case without memory between calls."""
    return Case(room="compress", name=f"{operation}/{_label(n)}", size="medium" if n < 10**7 else "large", dtype="float32",
                params={"n": n}, setup=partial(_setup, n, "normal", extra), run=run, reference=reference, check=_same,
                nbytes=nbytes, flops=2 * n, roof=roof, peers=other, reference_s=n * 1e-7, default=n < 10**7,
                device_inputs=(), note=note)


def _topk(inputs: dict[str, Any], **options: Any) -> Any:
    return compress.encode(compress.TopK(ratio=0.01), inputs["grads"][0], nonfinite="propagate", **options)


def _votes(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    vectors = [rng.standard_normal(n, np.float32) for _ in range(_WORKERS)]
    payloads = [compress.encode(compress.Sign(), x) for x in vectors]
    return {"vectors": vectors, "payloads": payloads, "sum": np.zeros(n, np.float32)}


def _add(inputs: dict[str, Any], backend: str, num_threads: int) -> np.ndarray:
    """The sum grows from call to call while it is timed; the first call of each contestant starts from nothing."""
    key = backend, num_threads
    fresh = key not in inputs["workers"]
    inputs["workers"][key] = True
    if fresh:
        inputs["sum"].fill(0.0)
    compress.decode_add(inputs["payloads"], inputs["sum"], scale=1 / _WORKERS, backend=backend, num_threads=num_threads)
    return inputs["sum"].copy() if fresh else inputs["sum"]


def _added(inputs: dict[str, Any]) -> np.ndarray:
    out = np.zeros_like(inputs["sum"])
    compress.decode_add(inputs["payloads"], out, scale=1 / _WORKERS, backend="reference")
    return out


def _copy(inputs: dict[str, Any], backend: str, num_threads: int) -> np.ndarray:
    if "target" not in inputs["workers"]:
        inputs["workers"]["target"] = np.zeros_like(inputs["grads"][0])
    target: np.ndarray = inputs["workers"]["target"]
    np.copyto(target, inputs["grads"][0])
    return target


def _server(n: int) -> list[Case]:
    """What the receiver does with eight payloads of signs."""

    def case(operation: str, run: Callable[..., Any], reference: Callable[..., Any], nbytes: int, other: dict[str, Any]) -> Case:
        base = _plain(operation, n, run, reference, nbytes, other, {}, note=f"{_WORKERS} workers")
        return Case(**{**base.__dict__, "setup": lambda: {"workers": {}, **_votes(n)}})

    return [
        case("decode_add", _add, _added, 8 * n + _WORKERS * n // 8, {"torch": peers.torch_sum_signs}),
        case("majority_vote", lambda i, **k: compress.majority_vote(i["payloads"], **k),
             lambda i: compress.majority_vote(i["payloads"], backend="reference"), (_WORKERS + 1) * n // 8,
             {"numpy": peers.numpy_vote}),
    ]


def _cases() -> list[Case]:
    cases = []
    for n in (2**20, 24 * 2**20):
        label, topk = _label(n), compress.TopK(ratio=0.01)
        cases += [
            _plain("memcpy", n, _copy, lambda i: i["grads"][0], 8 * n, {}, {}, note="NumPy's copy of n floats"),
            _case("ef_sign", label, n, compress.Sign(), peer=peers.FEEDBACK["ef_sign"]),
            _case("ef_sign", f"{label}-noscan", n, compress.Sign(), peer=peers.FEEDBACK["ef_sign"], nonfinite="propagate"),
            _case("ef_topk", label, n, topk, peer=peers.FEEDBACK["ef_topk"], note="1 %"),
            _case("ef_topk", f"{label}-0.1%", n, compress.TopK(ratio=0.001), peer=peers.FEEDBACK["ef_topk"]),
            _case("ef_topk", f"{label}-10%", n, compress.TopK(ratio=0.1), peer=peers.FEEDBACK["ef_topk"]),
            _case("ef21_topk", label, n, topk, kind="EF21", peer=peers.FEEDBACK["ef21_topk"], nbytes=8 * n, note="1 %"),
            _case("ef_qsgd", label, n, compress.QSGD(), peer=peers.FEEDBACK["ef_qsgd"]),
            _case("ef_int8", label, n, compress.Int8(), peer=peers.FEEDBACK["ef_int8"]),
            _plain("topk", n, _topk, lambda i: _topk(i, backend="reference"), 4 * n,
                   {"torch": peers.torch_topk}, {"ratio": 0.01}, roof="read", note="1 %, exact, no memory"),
            *_server(n),
        ]
    n = _SIDE * _SIDE
    cases.append(_case("ef_powersgd", f"{_SIDE}x{_SIDE}", n, compress.PowerSGD(4, (_SIDE, _SIDE)), peer=peers.torch_powersgd,
                       note="rank 4"))
    cases += [_case(f"ef_{name}", "1000", 1000, codec, peer=peers.FEEDBACK[f"ef_{name}"])
              for name, codec in (("sign", compress.Sign()), ("topk", compress.TopK(ratio=0.01)))]
    cases += [_case(f"ef_{name}", "digits", _DIGITS, codec, peer=peers.FEEDBACK.get(f"ef_{name}"), form="digits",
                    note="gradients of a small network on scikit-learn's digits")
              for name, codec in (("sign", compress.Sign()), ("topk", compress.TopK(ratio=0.01)))]
    return cases


CASES: list[Case] = _cases()

_HALVES, _EXACT = "f32 f16 bf16", "bytes"


def _fact(name: str, formula: str, cost: str, case: str, deterministic: str = "yes", paper: str = "") -> KernelFacts:
    return KernelFacts("compress", name, formula, cost, _HALVES, deterministic, _EXACT, case, paper)


KERNELS: list[KernelFacts] = [
    _fact("ErrorFeedback", "send C(e + g), keep e + g - C(e + g)", "1 pass over g and e", "ef_sign/2^20",
          paper="arXiv:1901.09847"),
    _fact("EF21", "send C(g - d), d += C(g - d)", "1 read of g and d, k writes", "ef21_topk/2^20", paper="arXiv:2106.05203"),
    _fact("EControl", "send C(a e + g - h), h += C, e += g - h", "about 10 passes", "", paper="ICLR 2024"),
    _fact("DGC", "send the largest of v, v += u, u = m u + g", "about 10 passes", "", paper="arXiv:1712.01887"),
    _fact("encode", "the payload of one vector", "1 read", "topk/2^20"),
    _fact("decode", "c from a payload", "1 read of the payload, 1 write", ""),
    _fact("Identity", "x", "1 pass", ""),
    _fact("RandK", "k coordinates at random, from a seed", "k reads, 1 pass with memory", "", "by seed", "arXiv:1809.07599"),
    _fact("Threshold", "all |x_i| >= t", "1 pass", ""),
    _fact("OneBit", "the mean of each side of zero", "1 pass", "", paper="Interspeech 2014"),
    _fact("TernGrad", "max|x| times a sign or 0, unbiased", "2 passes", "", "by seed", "arXiv:1705.07878"),
    _fact("Natural", "a power of two, unbiased", "1 pass", "", "by seed", "arXiv:1905.10988"),
    _fact("FP8", "e4m3 or e5m2 times a bucket's scale", "1 pass", "", paper="arXiv:2209.05433"),
    _fact("Drive", "signs or centroids of a random rotation", "1 pass, log 4096 additions", "", "by seed", "arXiv:2105.08339"),
    _fact("CountSketch", "median of hashed sums", "2 passes, a hash a row", "", "by seed", "arXiv:2007.07682"),
    _fact("TopK", "the k largest |x_i|, exactly", "1 pass and a sample", "ef_topk/2^20", paper="arXiv:1809.07599"),
    _fact("Sign", "(‖x‖₁ / n) sign(x)", "1 pass", "ef_sign/2^20-noscan", paper="arXiv:1901.09847"),
    _fact("QSGD", "unbiased rounding to s levels a bucket", "1 pass", "ef_qsgd/2^20", "by seed", "arXiv:1610.02132"),
    _fact("Int8", "round(x / step), one step a bucket", "1 pass", "ef_int8/2^20"),
    _fact("PowerSGD", "P Qᵀ of rank r", "3 passes, 4 n r flops each", f"ef_powersgd/{_SIDE}x{_SIDE}", paper="arXiv:1905.13727"),
    _fact("decode_add", "out += scale Σ_w c_w", "1 pass over out, payloads", "decode_add/2^20"),
    _fact("majority_vote", "the sign of most workers", "1 read of the payloads", "majority_vote/2^20", paper="arXiv:1802.04434"),
]
