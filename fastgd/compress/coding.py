"""Vectors into payloads and back, without memory between steps."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _threads
from .._arrays import copy, empty_like_array, unpack
from .._checks import array_out, count, index_list, number
from .._dispatch import Operand, find, runs
from . import codecs, device, wire
from .codecs import Codec
from .state import PLAIN, State, Vector, stream
from .wire import SIZE, Header

NONFINITE = ("raise", "zero", "propagate")
_OPERANDS = [{name: Operand(place, name) for name in ("float32", "float16", "bfloat16")} for place in ("cpu", "cuda")]
_FLOAT32 = _OPERANDS[0]["float32"], _OPERANDS[1]["float32"]  # by whether it is on a GPU
_LARGEST, _UINT8 = float(np.finfo(np.float32).max), np.dtype(np.uint8)


@runs("compress.largest")
def encode(codec: Codec, x: Any, *, seed: int = 0, step: int = 0, rank: int = 0, nonfinite: str = "raise", out: Any = None,
           backend: str | None = None, num_threads: int | None = None) -> Any:
    """The payload of one vector: a header of 32 bytes, then what the codec keeps of x.

    Parameters
    ----------
    codec : Codec
        How to compress: `TopK(ratio=0.01)`, `Sign()`, `QSGD()`, ...
    x : (n,) array
        float32, float16 or bfloat16; NumPy, torch or JAX on the host, torch, CuPy or Numba on the GPU. Not written to.
    seed, step : int, optional
        The random numbers' stream, 0 <= seed < 2^64, 0 <= step < 2^32: the same on all workers; take another step for each
        vector.
    rank : int, optional
        Makes the stochastic rounding of workers independent; indices, rotations and hashes do not depend on it.
    nonfinite : {"raise", "zero", "propagate"}, optional
        What to do about a NaN or an Inf: refuse, take it as 0, or not look (and write a payload that cannot be decoded).
    out : (at least codec.max_nbytes(n),) uint8 array, optional
        Where to put the payload, beside x; the result is its first part.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    uint8 array
        The payload, in the library of x. Its bytes are those of docs/wire.md, for any number of threads and on any machine.

    Raises
    ------
    ValueError, TypeError
        x is not one vector of these dtypes, or has a NaN or an Inf; an argument is out of range; `out` is too small.

    Notes
    -----
    Cost: a read of x for the check, and one or two for the codec. Deterministic given (seed, step, rank).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.arange(8, dtype=np.float32)
    >>> payload = fastgd.compress.encode(fastgd.compress.TopK(2), x)
    >>> len(payload), fastgd.compress.decode(payload)
    (48, array([0., 0., 0., 0., 0., 0., 6., 7.], dtype=float32))
    """
    check_codec(codec)
    numbers = stream(count(seed, "seed", 0, 2**64 - 1), count(step, "step", 0, 2**32 - 1), count(rank, "rank", 0, 2**32 - 1))
    check_nonfinite(nonfinite)
    vector, wrap = vector_of(x, "x")
    buffer = payload_buffer(codec, codec.max_nbytes(len(vector.data)), out, vector.data)
    threads = _threads.budget(num_threads, vector.data.nbytes)
    vector, _ = finite(vector, "x", nonfinite, backend, threads)
    payload = write(codec, vector, State(), PLAIN, numbers, buffer, backend, threads)
    if out is None and 2 * len(payload) < len(buffer):
        payload = copy(payload)  # the room of the longest payload goes back
    return wrap(payload)


@runs("compress.decode:float32", array=False)
def decode(payload: Any, *, n: int | None = None, max_n: int = 2**28, backend: str | None = None,
           num_threads: int | None = None) -> Any:
    """The vector c = C(x) of a payload.

    Parameters
    ----------
    payload : uint8 array or bytes
        What `encode` or an error-feedback object made, here or on another machine.
    n : int, optional
        How many coordinates are expected; another number is an error.
    max_n : int, optional
        The most coordinates to make memory for, where n is not given.
    backend, num_threads : optional
        See `fastgd.use`.

    Returns
    -------
    (n,) float32 array
        In the library of the payload.

    Raises
    ------
    ValueError
        The payload is none, was changed on the way, contradicts itself or would decode to a NaN or an Inf, or has not the
        right n. Nothing was allocated for a count that it merely claims.
    TypeError
        The payload is not made of bytes.

    Notes
    -----
    Cost: a read of the payload for its checksum and its checks, one more, and a write of the vector. Deterministic, the same
    bits everywhere.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> fastgd.compress.decode(fastgd.compress.encode(fastgd.compress.Int8(), np.array([1.27, -0.5], np.float32)))
    array([ 1.27, -0.5 ], dtype=float32)
    """
    expected = None if n is None else count(n, "n", 0)
    limit = count(max_n, "max_n", 0)
    data, wrap = bytes_of(payload, "payload")
    parsed = read(data, "payload")
    header = parsed[1]
    if expected is not None and header.n != expected:
        raise ValueError(f"the payload holds {header.n} coordinates, n={expected} were expected")
    if expected is None and header.n > limit:
        raise ValueError(f"the payload holds {header.n} coordinates, more than max_n={limit}: pass n or a larger max_n if "
                         "that is right")
    kernel = find("compress.decode", _FLOAT32[device.on_device(data)], backend)
    out = empty_like_array(data, (header.n,), "float32")
    kernel([parsed], out, None, _threads.budget(num_threads, out.nbytes))
    return wrap(out)


@runs("compress.decode:float32", array=False)
def decode_add(payloads: Sequence[Any], out: Any, *, scale: float = 1.0, backend: str | None = None,
               num_threads: int | None = None) -> Any:
    """out += scale c for every payload, in their order: the server's sum over workers in one pass.

    Parameters
    ----------
    payloads : sequence of uint8 arrays or bytes
        Each of as many coordinates as `out`; any codecs.
    out : (n,) float32 array
        The sum so far; written in place.
    scale : float, optional
        A factor for all of them, as a float32; 1 / workers for a mean.
    backend, num_threads : optional
        See `fastgd.use`.

    Returns
    -------
    `out`

    Raises
    ------
    ValueError, TypeError
        A payload is refused (see `decode`) or has another n; `out` does not fit; nothing was written then.

    Notes
    -----
    out_i becomes fl(out_i + fl(scale c_i)) payload by payload, in float32; coordinates that a sparse payload does not name stay.
    Cost: a read of the payloads for the checks, then one pass over them and `out`; sparse payloads touch k coordinates
    each, and nothing dense is made of any. Deterministic, the same bits everywhere.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> workers = [fastgd.compress.encode(fastgd.compress.TopK(1), np.array(x, np.float32)) for x in ([1, 4], [-6, 2])]
    >>> fastgd.compress.decode_add(workers, np.zeros(2, np.float32), scale=0.5)
    array([-3.,  2.], dtype=float32)
    """
    if abs(number(scale, "scale")) > _LARGEST:
        raise ValueError(f"scale must be finite as a float32, got {scale!r}")
    factor = np.float32(scale)
    data, operand, _ = unpack(out, "out")
    view = array_out(out, (math.prod(data.shape),), "float32", operand.device)
    if isinstance(payloads, np.ndarray | bytes | bytearray | memoryview):
        raise TypeError("payloads must be a sequence of payloads: pass [payload] for one")
    parsed = []
    for k, payload in enumerate(payloads):
        name = f"payloads[{k}]"
        parsed.append(read(bytes_of(payload, name)[0], name))
        same_device(parsed[-1][2], view, name, "out")
        if parsed[-1][1].n != len(view):
            raise ValueError(f"{name} holds {parsed[-1][1].n} coordinates, out has {len(view)}")
    kernel = find("compress.decode", operand, backend)
    if parsed:
        kernel(parsed, view, factor, _threads.budget(num_threads, view.nbytes))
    return out


@runs("compress.check:float32", "compress.vote:float32", array=False)
def majority_vote(payloads: Sequence[Any], *, backend: str | None = None, num_threads: int | None = None) -> Any:
    """The `Sign` payload whose signs are those of most workers.

    Parameters
    ----------
    payloads : sequence of uint8 arrays or bytes
        `Sign` payloads of the same n, at least one, fewer than 2^24.
    backend, num_threads : optional
        See `fastgd.use`.

    Returns
    -------
    uint8 array
        A `Sign` payload: bit i is negative where more than half of the payloads are (a tie is +1), its scale the mean of the
        scales, added in double in their order.

    Raises
    ------
    ValueError, TypeError
        No payloads; one is refused (see `decode`), not `Sign`, or of another n.

    Notes
    -----
    Cost: one read of the payloads; counters are bit-sliced, 512 coordinates at a time. Deterministic.

    References
    ----------
    Bernstein, Wang, Azizzadenesheli, Anandkumar: signSGD: Compressed Optimisation for Non-Convex Problems (ICML 2018).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> votes = [fastgd.compress.encode(fastgd.compress.Sign(), np.array(x, np.float32)) for x in ([1, -1], [1, 1], [-1, -1])]
    >>> fastgd.compress.decode(fastgd.compress.majority_vote(votes))
    array([ 1., -1.], dtype=float32)
    """
    parsed = []
    wrap: Callable[[Any], Any] = _same
    for k, payload in enumerate(payloads):
        data, how = bytes_of(payload, f"payloads[{k}]")
        wrap = how if k == 0 else wrap
        parsed.append(read(data, f"payloads[{k}]"))
        codec, header, body = parsed[-1]
        same_device(body, parsed[0][2], f"payloads[{k}]", "payloads[0]")
        if not isinstance(codec, codecs.Sign) or header.n != parsed[0][1].n:
            raise ValueError(f"payloads[{k}] is {codec!r} of n={header.n}, but a vote needs Sign() payloads of one n, here "
                             f"{parsed[0][1].n}")
    if not 0 < len(parsed) < 2**24:
        raise ValueError(f"majority_vote needs at least one payload and fewer than 2^24, got {len(parsed)}")
    n, first = parsed[0][1].n, parsed[0][2]
    operand = _FLOAT32[device.on_device(first)]
    find("compress.check", operand, backend)(parsed)
    result = payload_buffer(codecs.Sign(), codecs.Sign().max_nbytes(n), None, first)
    bodies = [body for _, _, body in parsed]
    find("compress.vote", operand, backend)([body[4:] for body in bodies], n, result[SIZE + 4 :],
                                            _threads.budget(num_threads, len(bodies) * len(result)))
    scales = np.array([body[:4].copy().view("<f4")[0] for body in bodies] if operand.device == "cpu" else device.scales(bodies),
                      np.float64)
    scale = np.array([sum(scales.tolist()) / len(scales)], "<f4")
    if operand.device == "cpu":
        result[SIZE : SIZE + 4] = scale.view(np.uint8)
    else:
        device.put(result, SIZE, scale.tobytes())
    return wrap(seal(result, codecs.Sign.code, 0, n, 0, 0, len(result) - SIZE))


# -------------------------------------------------------------------------------------- shared with error feedback


def check_codec(codec: Any) -> None:
    if not isinstance(codec, Codec) or type(codec).code not in codecs.CODECS:
        raise TypeError(f"codec must be one of {', '.join(kind.__name__ for kind in codecs.CODECS.values())}, got {codec!r}")


def check_nonfinite(nonfinite: Any) -> None:
    if nonfinite not in NONFINITE:
        raise ValueError(f"nonfinite must be one of {', '.join(NONFINITE)}, got {nonfinite!r}")


def vector_of(x: Any, name: str) -> tuple[Vector, Callable[[Any], Any]]:
    """One vector for the kernels, and the way back to its library; TypeError or ValueError for anything else."""
    data, operand, wrap = unpack(x, name)
    if operand.dtype == "float64":
        raise TypeError(f"{name} has dtype float64, but gradients are compressed from float32, float16 or bfloat16: convert it "
                        f"with {name}.astype('float32')")
    if operand.device != "cpu":
        return device.vector(data, operand.dtype, name), wrap
    if data.ndim != 1:
        raise ValueError(f"{name} must be one vector, got shape {tuple(data.shape)}: pass {name}.reshape(-1)")
    return Vector(np.ascontiguousarray(data), operand.dtype), wrap


def payload_buffer(codec: Codec, size: int, out: Any, like: Any = None) -> Any:
    """Memory for the longest payload, `size` bytes: new, beside `like`, or `out` after a check."""
    if like is not None and device.on_device(like):
        return device.buffer(size, out, like)
    if out is None:
        return np.empty(size, np.uint8)
    data = out.numpy() if _is_torch(out) else out
    if not isinstance(data, np.ndarray) or data.dtype != _UINT8 or data.ndim != 1:
        raise TypeError("out must be a one-dimensional uint8 array")
    flags = data.flags
    if not (flags.c_contiguous and flags.writeable):
        raise ValueError("out must be contiguous and writable: pass numpy.empty(codec.max_nbytes(n), 'uint8')")
    if len(data) < size:
        raise ValueError(f"out has {len(data)} bytes, a payload of {codec!r} takes up to {size}: pass codec.max_nbytes(n) bytes")
    return data


def finite(x: Vector, name: str, nonfinite: str, backend: str | None, threads: int) -> tuple[Vector, float]:
    """x as its values are to be taken, and a bound on its magnitudes; ValueError where a NaN or an Inf is to be refused."""
    if nonfinite == "propagate":
        return x, 0.0
    most = find("compress.largest", operand_of(x), backend)(x, threads)
    if most <= _LARGEST:
        return x, most
    there = device.on_device(x.data)
    good = (device.finite_values(x) if there else np.isfinite(x.data) if x.dtype != "bfloat16" else (x.data & 0x7F80) != 0x7F80)
    if nonfinite == "raise":
        raise ValueError(f"{name} has a NaN or an Inf at coordinates {index_list(~good)}: skip the step, or pass "
                         "nonfinite='zero'")
    x = device.cleaned(x) if there else Vector(np.where(good, x.data, x.data.dtype.type(0)), x.dtype)
    return x, find("compress.largest", operand_of(x), backend)(x, threads)


def operand_of(x: Vector) -> Operand:
    """What dispatch needs to know of a vector."""
    return _OPERANDS[device.on_device(x.data)][x.dtype]


def same_device(a: Any, b: Any, a_name: str, b_name: str) -> None:
    if device.on_device(a) != device.on_device(b):
        where = [f"{name} is on the {'GPU' if device.on_device(data) else 'host'}" for name, data in ((a_name, a), (b_name, b))]
        raise ValueError(f"{where[0]}, but {where[1]}: move one of them")


def write(codec: Codec, x: Vector, state: State, mode: int, numbers: Any, buffer: Any, backend: str | None,
          threads: int) -> Any:
    """Run the codec's kernel, and put the header before what it wrote."""
    n = len(x.data)
    a = find(f"compress.{codec.name}", operand_of(x), backend)(codec, x, state, mode, numbers, buffer[SIZE:], threads)
    option, _, b = state.room.get("fields") or state.room.setdefault("fields", codec._fields(n))
    return seal(buffer, codec.code, option, n, a, b, codec._length(n, a, b))


def seal(buffer: Any, *fields: int) -> Any:
    """`wire.seal`, wherever the payload is."""
    return device.seal(buffer, *fields) if device.on_device(buffer) else wire.seal(buffer, *fields)


def read(data: Any, name: str) -> tuple[Codec, Header, Any]:
    """A payload's codec, header and body; ValueError where they do not fit together."""
    header, body = device.parse(data, name) if device.on_device(data) else wire.parse(data, name)
    return codecs.from_header(header), header, body


def bytes_of(payload: Any, name: str) -> tuple[Any, Callable[[Any], Any]]:
    """A payload's bytes (on the GPU: the payload itself), and the way from their kind of array to the payload's library."""
    if device.on_device(payload):
        return payload, _same
    if _is_torch(payload):
        return wire.as_bytes(payload.numpy(), name), sys.modules["torch"].from_numpy
    return wire.as_bytes(payload, name), _same


def _is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch") if type(x) is not np.ndarray else None
    return torch is not None and isinstance(x, torch.Tensor)


def _same(data: Any) -> Any:
    return data
