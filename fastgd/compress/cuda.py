"""The GPU kernels that belong to no family of codecs: the scan, Identity, checks and decoding. Signatures as in `reference.py`;
`threads` means nothing here.

Payload bytes and memories are the CPU's, bit for bit. Memory: where x is not float32, and for differences, a float32 vector
of p; a few bytes for each chunk besides.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numba import cuda

from .. import _cuda
from .._cuda import Call
from . import cuda_checksum, cuda_kernels, cuda_variants
from .codecs import Codec
from .cuda_kernels import get_word, make_input_kernel, make_largest_kernel, put_word, receive
from .device import elements
from .state import FEEDBACK, PLAIN, State, Stream, Vector
from .wire import Header

#: What a check finds: the message of each reason.
REASONS = ("", "holds a value that is not finite or has the wrong sign", "holds indices that are not ascending or not below n",
           "holds a code that does not exist", "has bits set beyond the last coordinate")

_FAMILIES = "signs", "sparse", "levels", "rotation", "sketches", "lowrank"


def codec_input(call: Call, x: Vector, state: State, mode: int) -> tuple[Any, Any]:
    """p and the memory, views; in feedback p is the memory, in plain mode the memory is p and not to be written."""
    n, data = x.data.shape[0], elements(x)
    if mode == PLAIN and x.dtype == "float32":
        return data, data
    if mode == PLAIN:
        p = memory = call.empty(n, np.float32)
    else:
        memory = _cuda.view(state.memory)
        p = memory if mode == FEEDBACK else call.empty(n, np.float32)
    call.run(make_input_kernel(x.dtype), n, data, memory, mode, p)
    return p, memory


def largest(x: Vector, threads: int = 1) -> float:
    if not x.data.shape[0]:
        return 0.0
    with Call(x.data) as call:
        top = call.zeros(1)
        call.run(make_largest_kernel(x.dtype), min(x.data.shape[0], 1 << 18), elements(x), top)
        return float(call.read(top).view(np.float32)[0])


# --------------------------------------------------------------------------------------------------------- Identity


@cuda.jit
def identity_kernel(p: Any, memory: Any, mode: Any, body: Any) -> None:
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        v = p[i]
        put_word(body, 4 * i, v.view(np.uint32))
        cuda_kernels.remember(memory, mode, i, v, v)


@cuda.jit
def _check_values_kernel(body: Any, first: Any, count: Any, flags: Any) -> None:
    """Reason 1 where one of `count` floats is not finite."""
    for k in range(cuda.grid(1), count, cuda.gridsize(1)):
        if get_word(body, first + 4 * k) & np.uint32(0x7F800000) == np.uint32(0x7F800000):
            flags[1] = np.uint32(1)


@cuda.jit
def add_identity_kernel(body: Any, scale: Any, add: Any, out: Any) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        receive(out, i, get_word(body, 4 * i).view(np.float32), scale, add)


def identity(codec: Codec, x: Vector, state: State, mode: int, stream: Stream, body: Any, threads: int = 1) -> int:
    with Call(x.data) as call:
        p, memory = codec_input(call, x, state, mode)
        call.run(identity_kernel, x.data.shape[0], p, memory, mode, _cuda.view(body))
    return 0


def check_values(call: Call, body: Any, first: int, count: int, flags: Any) -> None:
    call.run(_check_values_kernel, count, body, first, count, flags)


def check_identity(call: Call, codec: Codec, header: Header, body: Any, flags: Any) -> None:
    check_values(call, body, 0, header.n, flags)


def add_identity(call: Call, codec: Codec, header: Header, body: Any, scale: Any, add: bool, out: Any) -> None:
    call.run(add_identity_kernel, header.n, body, scale, add, out)


# --------------------------------------------------------------------------------------------------------- decoding


def check(payloads: list[tuple[Codec, Header, Any]]) -> None:
    """ValueError where a body holds what no encoder writes. The host waits once for all of them."""
    if not payloads:
        return
    with Call(payloads[0][2]) as call:
        flags = call.zeros(8 * len(payloads))
        for k, (codec, header, body) in enumerate(payloads):
            _of(codec, "check")(call, codec, header, _cuda.view(body), flags[8 * k : 8 * k + 8])
        found = call.read(flags).reshape(-1, 8)
    if found.any():
        k = int(np.flatnonzero(found.any(axis=1))[0])
        raise ValueError(f"payload {k} {REASONS[int(np.flatnonzero(found[k])[0])]}: no encoder writes that")


def decode(payloads: list[tuple[Codec, Header, Any]], out: Any, scale: Any, threads: int = 1) -> None:
    check(payloads)
    with Call(out) as call:
        view, factor = _cuda.view(out), np.float32(1.0 if scale is None else scale)
        for codec, header, body in payloads:
            _of(codec, "add")(call, codec, header, _cuda.view(body), factor, scale is not None, view)


def _of(codec: Codec, what: str) -> Any:
    """The codec's own function."""
    module = importlib.import_module(f"fastgd.compress{'.' + codec.family if codec.family else ''}.cuda")
    return getattr(module, f"{what}_{codec.name}")


def _kernels() -> list[Any]:
    """All kernels of the room, for the tests that compile them."""
    own: list[Any] = [
        (identity_kernel, ["void(float32[::1], float32[::1], int64, uint8[::1])"], False, None),
        (_check_values_kernel, ["void(uint8[::1], int64, int64, uint32[::1])"], False, None),
        (add_identity_kernel, ["void(uint8[::1], float32, boolean, float32[::1])"], False, None),
    ]
    families = [importlib.import_module(f"fastgd.compress.{name}.cuda").KERNELS for name in _FAMILIES]
    shared = cuda_kernels.KERNELS + cuda_checksum.KERNELS + cuda_variants.KERNELS
    return shared + own + [entry for entries in families for entry in entries]


def __getattr__(name: str) -> Any:
    if name == "KERNELS":  # the families import this module
        return _kernels()
    raise AttributeError(name)
