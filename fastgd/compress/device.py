"""What the room does with device arrays: memory beside them, launches in their order, payloads' headers, and memories.

Importing this module does not import Numba. Everything runs on the stream of the caller's library; the host waits for the
largest magnitude of a vector, a received header and checksum, the checks of bodies, and the count of `Threshold`.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from .. import _cuda
from .._arrays import copy, empty_like_array, to_host, widen
from .._cuda import Call
from .state import Vector
from .wire import MAGIC, SIZE, VERSION, Header

_HEADER = struct.Struct("<4sBBBBQIIII")


def on_device(x: Any) -> bool:
    """Whether x is an array on a GPU (or of Numba's simulator)."""
    if type(x) is np.ndarray or isinstance(x, np.ndarray | bytes | bytearray | memoryview):  # the first is much the faster test
        return False
    if _cuda.library_of(x) == "torch":
        return bool(getattr(x, "is_cuda", False))
    return hasattr(x, "__cuda_array_interface__") or type(x).__module__.startswith("numba.cuda.simulator")


def elements(x: Vector) -> Any:
    """The vector as kernels see it: bfloat16 as 16-bit patterns."""
    return _cuda.view(x.data, np.int16 if x.dtype == "bfloat16" else None)


# ------------------------------------------------------------------------------------------------- vectors, buffers


def vector(x: Any, dtype: str, name: str) -> Vector:
    """One contiguous vector; ValueError for another shape."""
    if len(x.shape) != 1:
        raise ValueError(f"{name} must be one vector, got shape {tuple(x.shape)}: pass {name}.reshape(-1)")
    contiguous = x
    if x.shape[0] and not _cuda.view(x, np.int16 if dtype == "bfloat16" else None).is_c_contiguous():
        contiguous = empty_like_array(x, tuple(x.shape), dtype)
        contiguous[:] = x
    return Vector(contiguous, dtype)


def to_float32(x: Vector) -> np.ndarray:
    """The values, on the host."""
    host = to_host(x.data)
    return widen(host, "bfloat16" if host.dtype in (np.uint16, np.int16) else "float32").astype(np.float32)


def finite_values(x: Vector) -> np.ndarray:
    """Which values are finite, on the host."""
    return np.isfinite(to_float32(x))


def cleaned(x: Vector) -> Vector:
    """x as float32, with 0 in place of NaN and Inf."""
    from .cuda_kernels import make_clean_kernel

    result = zeros(x.data, x.data.shape[0])
    with Call(x.data) as call:
        call.run(make_clean_kernel(x.dtype), x.data.shape[0], elements(x), _cuda.view(result))
    return Vector(result, "float32")


def buffer(size: int, out: Any, like: Any) -> Any:
    """Memory for a payload: new, beside `like`, or `out` after a check."""
    if out is None:
        with _cuda.device_of(like):
            return _cuda.empty_bytes(like, size)
    if not on_device(out) or str(out.dtype).removeprefix("torch.") != "uint8" or len(out.shape) != 1:
        raise TypeError("out must be a one-dimensional uint8 array on the GPU, as x is")
    if not _cuda.view(out).is_c_contiguous():
        raise ValueError("out must be contiguous")
    if out.shape[0] < size:
        raise ValueError(f"out has {out.shape[0]} bytes, a payload takes up to {size}: pass codec.max_nbytes(n) bytes")
    return out


# ------------------------------------------------------------------------------------------------------- payloads


def seal(payload: Any, codec: int, option: int, n: int, a: int, b: int, length: int) -> Any:
    """`wire.seal` on the device, without waiting: the checksum is made there."""
    from .cuda_checksum import SLICE, after, crc_kernel, seal_kernel

    whole = payload[: SIZE + length]
    head = _HEADER.pack(MAGIC, VERSION, codec, option, 0, n, a, b, length, 0)[:28]
    known = after(zlib.crc32(head) ^ 0xFFFFFFFF, length) ^ 0xFFFFFFFF  # the body's register joins it by XOR
    words = (np.uint64(word) for word in struct.unpack("<4Q", head + known.to_bytes(4, "little")))
    with Call(payload) as call:
        crc, view = call.zeros(1), _cuda.view(whole)
        call.run(crc_kernel, -(-length // SLICE), view[SIZE:], crc)
        call.run(seal_kernel, 32, *words, crc, view)
    return whole


def parse(payload: Any, name: str) -> tuple[Header, Any]:
    """`wire.parse` of a payload on the device: the header comes to the host, the body stays."""
    from . import wire
    from .cuda_checksum import SLICE, after, crc_kernel

    if str(payload.dtype).removeprefix("torch.") != "uint8" or len(payload.shape) != 1:
        raise TypeError(f"{name} must be a one-dimensional uint8 array, got {payload.dtype} with shape {tuple(payload.shape)}")
    size = payload.shape[0]
    if size < SIZE:
        return wire.parse(np.zeros(size, np.uint8), name)  # which says so
    with Call(payload) as call:
        view = _cuda.view(payload)
        if not view.is_c_contiguous():
            raise ValueError(f"{name} must be contiguous")
        crc = call.zeros(1)
        call.run(crc_kernel, -(-(size - SIZE) // SLICE), view[SIZE:], crc)
        head, body_crc = call.read(view[:SIZE]).tobytes(), int(call.read(crc)[0])
    magic, version, codec, option, zero, n, a, b, length, checksum = _HEADER.unpack(head)
    expected = after(zlib.crc32(head[:28]) ^ 0xFFFFFFFF, size - SIZE) ^ 0xFFFFFFFF ^ body_crc
    wire.check(magic, version, length, size - SIZE, zero == 0 and checksum == expected, name)
    return Header(codec, option, n, a, b, length), payload[SIZE:]


def scales(bodies: list[Any]) -> np.ndarray:
    """The first four bytes of each body as floats, on the host."""
    words = []
    for body in bodies:
        with Call(body) as call:
            words.append(call.read(_cuda.view(body)[:4]))
    return np.concatenate(words).view("<f4")


def put(target: Any, at: int, data: bytes) -> None:
    """A few bytes from the host into device memory."""
    with Call(target) as call:
        _cuda.view(target)[at : at + len(data)].copy_to_device(np.frombuffer(data, np.uint8).copy(), stream=call.stream)


# ------------------------------------------------------------------------------------------------------- memories


def zeros(like: Any, size: int) -> Any:
    """Float32 zeros beside `like`."""
    result = empty_like_array(like, (size,), "float32")
    fill(result)
    return result


def fill(x: Any) -> None:
    from .._cuda_fill import fill_kernel

    with Call(x) as call:
        call.run(fill_kernel, x.shape[0], np.float32(0), _cuda.view(x))


def upload(host: np.ndarray, like: Any) -> Any:
    """A device copy of a float32 host array, beside `like`."""
    result = empty_like_array(like, host.shape, "float32")
    assign(result, host)
    return result


def assign(target: Any, values: Any) -> None:
    """target[:] = values, from the host or the same device."""
    if target.shape[0]:
        with Call(target) as call:
            source = np.ascontiguousarray(values) if isinstance(values, np.ndarray) else _cuda.view(values)
            _cuda.view(target).copy_to_device(source, stream=call.stream)


def multiply(x: Any, factor: np.float32) -> None:
    from .cuda_kernels import scale_kernel

    with Call(x) as call:
        call.run(scale_kernel, x.shape[0], np.float32(factor), _cuda.view(x))


def blend(keep: np.float32, average: Any, share: np.float32, x: Vector) -> Any:
    """keep average + share x, a new vector."""
    from .cuda_kernels import blend_kernel, make_input_kernel

    n = x.data.shape[0]
    result = empty_like_array(average, (n,), "float32")
    with Call(average) as call:
        view = _cuda.view(result)
        call.run(make_input_kernel(x.dtype), n, elements(x), view, 0, view)
        call.run(blend_kernel, n, keep, _cuda.view(average), share, view, view)
    return result


def duplicate(x: Any) -> Any:
    """A copy beside x, wherever that is."""
    if not on_device(x):
        return x.copy()
    with _cuda.device_of(x):
        return copy(x)
