"""What tests of the compression kernels share: vectors, bodies, C's check and decoder, and C beside the oracle step by step."""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from instruction_sets import LEVELS, instruction_set

from fastgd import compress
from fastgd._native import ISA_LEVELS, ffi, lib
from fastgd.compress.codec import Codec
from fastgd.compress.state import DIFFERENCE, FEEDBACK, PLAIN, State, Stream, Vector, stream
from fastgd.compress.wire import SIZE, Header

DTYPES = ("float32", "float16", "bfloat16")
MODES = (PLAIN, FEEDBACK, DIFFERENCE)
#: Around words of bits, registers, buckets, chunks of sums and blocks; none, and several of all.
SIZES = (0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 511, 512, 513, 2047, 2048, 2049, 4095, 4096, 4097, 10000)
LARGE = 300_007  # enough for several threads
LARGEST, TINY = float(np.finfo(np.float32).max), 2.0**-149
FIRST = Stream(1, 0, 1)
SEED, STEP = 2**64 - 5, 2**32 - 4  # where `compare` begins: words that fill their fields


# -------------------------------------------------------------------------------------------- codecs and vectors


def codecs(n: int) -> list[Any]:
    """Every codec, with every option that changes the payload."""
    found = [
        compress.Identity(), compress.TopK(5), compress.TopK(ratio=0.3), compress.TopK(7, bits=8), compress.RandK(5),
        compress.RandK(ratio=0.4, scaled=True), compress.Threshold(0.7), compress.Sign(), compress.OneBit(), compress.QSGD(),
        compress.QSGD(levels=1, bucket=7), compress.QSGD(levels=5, bucket=64, norm="l2"), compress.TernGrad(), compress.Natural(),
        compress.Int8(), compress.Int8(bucket=3, stochastic=True), compress.FP8(), compress.FP8("e5m2", bucket=9),
        compress.Drive(), compress.Drive(2), compress.Drive(3, unbiased=True), compress.Drive(4), compress.CountSketch(3, 11),
    ]  # fmt: skip
    if n:
        found.append(compress.PowerSGD(1, (1, n)))
    if n and n % 4 == 0:
        found.append(compress.PowerSGD(2, (n // 4, 4)))
    return found


def label(codec: Codec) -> str:
    return repr(codec).replace("None", "-")


CODECS = codecs(1000)
every_codec = pytest.mark.parametrize("codec", CODECS, ids=label)


def normal(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def vector(values: Any, dtype: str = "float32") -> Vector:
    if dtype == "bfloat16":
        return Vector((np.asarray(values, np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16), dtype)
    with np.errstate(over="ignore"):
        return Vector(np.ascontiguousarray(values, np.dtype(dtype)), dtype)


def gaussians(n: int, dtype: str = "float32", steps: int = 3) -> list[Vector]:
    """Normal vectors of several magnitudes, one for each step."""
    rng = np.random.default_rng(n)
    return [vector(rng.standard_normal(n) * 10.0**power, dtype) for power in (0, -3, 2)[:steps]]


def hostile(n: int) -> dict[str, np.ndarray]:
    """Vectors at the ends of float32, and those whose bounds are tight."""
    random, one_hot = np.random.default_rng(5), np.zeros(n)
    one_hot[n // 2] = -3.0
    signs = np.where(np.arange(n) % 2, 1.0, -1.0)
    return {
        "zero": np.zeros(n), "negative zero": -np.zeros(n), "signed zeros": signs * 0.0, "equal": np.full(n, 0.1),
        "negative": np.full(n, -3.0), "one-hot": one_hot, "alternating": signs, "smallest": np.full(n, TINY),
        "subnormal": random.standard_normal(n) * 1e-41,
        "smallest one-hot": one_hot / 3 * TINY, "largest": signs * LARGEST, "all largest": np.full(n, LARGEST),
        "huge": random.standard_normal(n) * 3e37, "largest one-hot": one_hot / 3 * LARGEST,
        "ranges": random.standard_normal(n) * 10.0 ** random.integers(-44, 37, n),
    }  # fmt: skip


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bits, signs of zeros included."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


# ------------------------------------------------------------------------------------- a codec's kernels, one by one


@functools.cache
def kernels(codec: Codec, backend: str) -> Any:
    """The module that has them."""
    return importlib.import_module(".".join(["fastgd.compress", *filter(None, [codec.family]), backend]))


def memory_of(n: int, mode: int) -> State:
    return State(None if mode == PLAIN else np.zeros(n, np.float32))


def encode(codec: Codec, x: Vector | np.ndarray, state: State | None = None, mode: int = PLAIN, key: Stream = FIRST,
           threads: int = 1, backend: str = "cpu", shift: int = 1) -> np.ndarray:
    """The body of one step, `shift` bytes off a boundary, between bytes that must stay as they are."""
    if isinstance(x, np.ndarray):
        x = vector(x)
    n = len(x.data)
    room = np.full(shift + codec.max_nbytes(n) - SIZE + 64, 0xA5, np.uint8)
    kernel = getattr(kernels(codec, backend), codec.name)
    a = kernel(codec, x, State() if state is None else state, mode, key, room[shift:-64], threads)
    _, wanted, b = codec._fields(n)
    assert a == wanted or a <= codec._most(n, wanted) != wanted
    assert (room[:shift] == 0xA5).all() and (room[-64:] == 0xA5).all()
    return room[shift : shift + codec._length(n, a, b)]


def header(codec: Codec, n: int, body: np.ndarray) -> Header:
    option, a, b = codec._fields(n)
    if isinstance(codec, compress.Threshold):  # as many as there are
        a = len(body) // 8
    return Header(codec.code, option, n, a, b, codec._length(n, a, b))


def payload(codec: Codec, n: int, body: np.ndarray) -> Any:
    """For C; it points into `body`, which must live as long."""
    _, option, _, a, b, _ = head = header(codec, n, body)
    assert len(body) == head.length
    return ffi.new("fgd_payload *", {"codec": codec.code, "option": option, "n": n, "a": a, "b": b,
                                     "body": ffi.from_buffer("uint8_t[]", body)})


def check(codec: Codec, n: int, body: np.ndarray) -> int:
    """Why C refuses a body; 0 where it does not."""
    return int(lib.fgd_compress_check(payload(codec, n, body)))


def decode(codec: Codec, n: int, body: np.ndarray, out: np.ndarray | None = None, scale: float = 1.0,
           ranges: Sequence[tuple[int, int]] | None = None) -> np.ndarray:
    """C's c, or out + fl(scale c), in one range or in the given ones; NaN or `out` elsewhere."""
    y = np.full(n, np.nan, np.float32) if out is None else out.copy()
    q, place = payload(codec, n, body), ffi.from_buffer("float[]", y)
    for lo, hi in [(0, n)] if ranges is None else ranges:
        lib.fgd_compress_decode_range(q, lo, hi, scale, out is not None, place)
    return y


def cut(n: int, span: int) -> list[tuple[int, int]]:
    """Ranges of `span`, whole blocks of 4096, and what is left."""
    return [(lo, min(lo + span, n)) for lo in range(0, n, span)]


def oracle(codec: Codec, n: int, body: np.ndarray) -> np.ndarray:
    """The reference's c; ValueError where it refuses the body."""
    c: np.ndarray = getattr(kernels(codec, "reference"), f"decode_{codec.name}")(codec, header(codec, n, body), body)
    return c


def coded(codec: Codec, values: np.ndarray, seed: int = 1, step: int = 0, rank: int = 0) -> np.ndarray:
    """What C makes of what C sends."""
    return decode(codec, len(values), encode(codec, values, key=stream(seed, step, rank)))


# --------------------------------------------------------------------------------------------- C beside the oracle


def compare(codec: Codec, xs: Sequence[Vector], mode: int, threads: Sequence[int] = (1,)) -> None:
    """Several steps on one memory: the oracle's bodies, memories and decoded values on every instruction set of this CPU."""
    n = len(xs[0].data)
    ours, theirs = [memory_of(n, mode) for _ in LEVELS], memory_of(n, mode)
    for t, x in enumerate(xs):
        before, key = x.data.copy(), stream(SEED, STEP + t, 3)
        expected = encode(codec, x, theirs, mode, key, backend="reference")
        c = oracle(codec, n, expected)
        for level, mine in zip(LEVELS, ours, strict=True):
            case = codec, n, x.dtype, mode, t, ISA_LEVELS[level]
            with instruction_set(level):
                body = encode(codec, x, mine, mode, key, threads[t % len(threads)], shift=1 + t)
                assert same(body, expected), case
                assert same(x.data, before), case
                if theirs.memory is not None:
                    assert same(settled(codec, mine), theirs.memory), case
                for name, value in theirs.extra.items():
                    assert same(np.asarray(mine.extra[name]), np.asarray(value)), (case, name)
                decoded_alike(codec, n, body, c)


def settled(codec: Codec, state: State) -> np.ndarray:
    """The memory, and taken from it what the step left for the next one to take."""
    state, settle = copy.deepcopy(state), getattr(kernels(codec, "cpu"), "settle", None)
    if settle is not None:
        settle(codec, state)
    assert state.memory is not None
    return state.memory


def decoded_alike(codec: Codec, n: int, body: np.ndarray, c: np.ndarray) -> None:
    """C accepts a body and decodes it to the oracle's c, finite: in one piece, and added to something in about three."""
    assert check(codec, n, body) == 0, codec
    assert same(decode(codec, n, body), c) and np.isfinite(c).all(), (codec, n)
    y, ranges = np.linspace(-1, 1, n, dtype=np.float32), cut(n, max(1, n // 3 // 4096) * 4096)
    assert same(decode(codec, n, body, y, 0.3, ranges), y + np.float32(0.3) * c), (codec, n)


# ------------------------------------------------------------------------------------------ bodies no encoder writes


def reasons(codec: Codec, n: int, body: np.ndarray) -> set[int]:
    """What `check` says on all instruction sets."""
    found = set()
    for level in LEVELS:
        with instruction_set(level):
            found.add(check(codec, n, body))
    return found


def refused(codec: Codec, n: int, body: np.ndarray, words: str = "no encoder writes that") -> int:
    """C's reason, the same on all instruction sets; the oracle refuses the body too."""
    with pytest.raises(ValueError, match=words):
        oracle(codec, n, body)
    (reason,) = reasons(codec, n, body)
    return reason


def judged_alike(codec: Codec, n: int, body: np.ndarray) -> bool:
    """Whether a body is accepted: the oracle and C on all instruction sets agree, and decode alike what they accept."""
    try:
        c = oracle(codec, n, body)
    except ValueError:
        assert 0 not in reasons(codec, n, body), codec
        return False
    for level in LEVELS:
        with instruction_set(level):
            decoded_alike(codec, n, body, c)
    return True


def changed(body: np.ndarray, *changes: tuple[int, bytes | float | int]) -> np.ndarray:
    """A copy with something else at some bytes, which count from the end where they are negative: a float32, a byte, bytes."""
    new = body.copy()
    for at, value in changes:
        data = value if isinstance(value, bytes) else (np.float32 if isinstance(value, float) else np.uint8)(value).tobytes()
        new[at % len(new) :][: len(data)] = np.frombuffer(data, np.uint8)
    return new
