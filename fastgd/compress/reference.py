"""The oracle of what belongs to no family of codecs: plain NumPy."""

from __future__ import annotations

import importlib

import numpy as np

from .codecs import Codec
from .common import codec_input, refuse, to_float32, update_memory
from .state import State, Stream, Vector
from .wire import Header


def largest(x: Vector, threads: int = 1) -> float:
    """max |x_i|, NaN or Inf where there is one, 0 for no elements."""
    return float(np.abs(to_float32(x)).max(initial=0.0))


def identity(codec: Codec, x: Vector, state: State, mode: int, stream: Stream, body: np.ndarray, threads: int = 1) -> int:
    """c = p."""
    p = codec_input(x, state, mode)
    body[: 4 * len(p)] = p.astype("<f4").view(np.uint8)
    update_memory(state, mode, p, p)
    return 0


def decode_identity(codec: Codec, header: Header, body: np.ndarray) -> np.ndarray:
    values = body.copy().view("<f4").astype(np.float32)
    refuse(not np.isfinite(values).all(), "holds a value that is not finite")
    return values


def check(payloads: list[tuple[Codec, Header, np.ndarray]]) -> None:
    """ValueError where a body holds what no encoder writes."""
    for codec, header, body in payloads:
        _decoded(codec, header, body)


def decode(payloads: list[tuple[Codec, Header, np.ndarray]], out: np.ndarray, scale: np.float32 | None, threads: int = 1) -> None:
    """out = c, or out += fl(scale c) payload by payload where they name a coordinate."""
    for c in [_decoded(*payload) for payload in payloads]:
        out[...] = c if scale is None else out + scale * c


def _decoded(codec: Codec, header: Header, body: np.ndarray) -> np.ndarray:
    module = importlib.import_module(f"fastgd.compress{'.' + codec.family if codec.family else ''}.reference")
    result: np.ndarray = getattr(module, f"decode_{codec.name}")(codec, header, body)
    return result
