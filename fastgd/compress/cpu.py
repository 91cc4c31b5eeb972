"""The CPU kernels that belong to no family of codecs: the scan, Identity, and decoding. Signatures as in `reference.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._native import ffi, lib
from . import calls
from .calls import BYTES, FLOATS, memory, new, pointer, run, vector
from .codecs import Codec, RandK
from .state import PLAIN, State, Stream, Vector
from .wire import Header

_PAYLOADS, _NOTHING = ffi.typeof("fgd_payload[]"), State()
_REASONS = {1: "holds a value that is not finite or has the wrong sign", 2: "holds indices that are not ascending or not below n",
            3: "holds a code that does not exist", 4: "has bits set beyond the last coordinate"}


def largest(x: Vector, threads: int = 1) -> float:
    return calls.largest(x, _NOTHING, PLAIN, threads)


def identity(codec: Codec, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    if len(x.data):
        v, own, place = vector(x), memory(state, mode), pointer(BYTES, body)
        run(lambda job: lib.fgd_compress_identity(v, own, mode, place, job), threads,
            lambda: lib.fgd_compress_tickets(len(x.data)), (x, state, body))
    return 0


def check(payloads: list[tuple[Codec, Header, np.ndarray]]) -> None:
    _checked(payloads)


def decode(payloads: list[tuple[Codec, Header, np.ndarray]], out: np.ndarray, scale: np.float32 | None, threads: int = 1) -> None:
    table, keep = _checked(payloads)
    if not len(out):
        return
    add, factor, result = int(scale is not None), 1.0 if scale is None else float(scale), pointer(FLOATS, out)
    start = 0
    for end in range(1, len(payloads) + 1):  # payloads in no order of coordinates stand alone
        alone = isinstance(payloads[end - 1][0], RandK)
        if not alone and end < len(payloads) and not isinstance(payloads[end][0], RandK):
            continue
        first, size = table + start, end - start
        if alone:
            lib.fgd_compress_decode_range(first, 0, len(out), factor, add, result)
        else:
            run(lambda job, first=first, size=size: lib.fgd_compress_decode(first, size, factor, add, result, job),  # type: ignore[misc]
                threads, lambda: lib.fgd_compress_tickets(len(out)), (table, keep, out))
        start = end


def _checked(payloads: list[tuple[Codec, Header, np.ndarray]]) -> tuple[Any, Any]:
    """The payloads as structs, and what must live as long; ValueError where a body holds what no encoder writes."""
    table, keep = new(_PAYLOADS, len(payloads)), []
    for k, (_, header, body) in enumerate(payloads):
        data = pointer(BYTES, body)
        keep.append(data)
        q = table[k]
        q.codec, q.option, q.n, q.a, q.b, q.body = header.codec, header.option, header.n, header.a, header.b, data
        if reason := lib.fgd_compress_check(table + k):
            raise ValueError(f"payload {k} {_REASONS[reason]}: no encoder writes that")
    return table, keep
