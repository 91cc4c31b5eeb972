"""The payload: a header of 32 bytes, parsed and checked in one place (docs/wire.md has every byte).

Payloads come from outside. `parse` believes nothing: it compares the body's length with what the header's parameters
demand before anything is allocated, then the checksum, and raises ValueError otherwise. What the body's own values
may be is checked by the kernels that read them, before anything is written.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

try:
    from .._native import ffi, lib

    _BYTES = ffi.typeof("uint8_t[]")
except ImportError:  # a build without the C core, where zlib is fast enough beside the reference
    lib = None

MAGIC, VERSION, SIZE = b"FGDC", 1, 32
_UINT8 = np.dtype(np.uint8)
MAX_BODY = 2**32 - 1  # bytes

_HEADER, _CHECKSUM = struct.Struct("<4sBBBBQIIII"), struct.Struct("<I")


class Header(NamedTuple):
    """What a payload says of itself."""

    codec: int
    option: int
    n: int
    a: int
    b: int
    length: int


def seal(payload: np.ndarray, codec: int, option: int, n: int, a: int, b: int, length: int) -> np.ndarray:
    """Write the header before a body of `length` bytes; the payload without what follows the body."""
    whole = payload[: SIZE + length]
    _HEADER.pack_into(whole.data, 0, MAGIC, VERSION, codec, option, 0, n, a, b, length, 0)
    _CHECKSUM.pack_into(whole.data, SIZE - 4, _checksum(whole))
    return whole


def parse(payload: Any, name: str = "payload") -> tuple[Header, np.ndarray]:
    """The header and the body of a payload, a view; ValueError where the header contradicts itself or the bytes."""
    whole = as_bytes(payload, name)
    if len(whole) < SIZE:
        raise ValueError(f"{name} has {len(whole)} bytes, fewer than the {SIZE} of a header: it was cut short")
    magic, version, codec, option, zero, n, a, b, length, crc = _HEADER.unpack_from(whole.data)
    check(magic, version, length, len(whole) - SIZE, not zero and crc == _checksum(whole), name)
    return Header(codec, option, n, a, b, length), whole[SIZE:]


def check(magic: bytes, version: int, length: int, has: int, intact: bool, name: str) -> None:
    """ValueError where a header is none, or none of this version, or does not belong to a body of `has` bytes."""
    if magic != MAGIC:
        raise ValueError(f"{name} does not start with {MAGIC!r}: these bytes are not a payload of fastgd.compress")
    if version != VERSION:
        raise ValueError(f"{name} has version {version} of the wire format, this library reads version {VERSION}")
    if length != has:
        raise ValueError(f"{name} announces a body of {length} bytes and has {has}: it was cut or padded")
    if not intact:
        raise ValueError(f"{name} fails its checksum: its bytes changed on the way")


def as_bytes(payload: Any, name: str = "payload") -> np.ndarray:
    """A contiguous uint8 view of an array, bytes, bytearray or memoryview; TypeError otherwise."""
    if isinstance(payload, np.ndarray):
        view = payload
    else:
        try:
            view = np.frombuffer(payload, np.uint8) if len(payload) else np.empty(0, np.uint8)
        except (TypeError, ValueError, BufferError):
            raise TypeError(f"{name} must be a uint8 array or bytes, got {type(payload).__name__}") from None
    if view.dtype != _UINT8 or view.ndim != 1:
        raise TypeError(f"{name} must be a one-dimensional uint8 array, got {view.dtype} with shape {view.shape}")
    return np.ascontiguousarray(view)


def _checksum(whole: np.ndarray) -> int:
    """CRC-32 of the header without the checksum, and of the body."""
    if lib is None:
        return zlib.crc32(whole[SIZE:].tobytes(), zlib.crc32(whole[: SIZE - 4].tobytes()))
    crc: int = lib.fgd_crc32_payload(ffi.from_buffer(_BYTES, whole), len(whole))
    return crc
