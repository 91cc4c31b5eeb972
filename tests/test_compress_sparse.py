"""TopK, Threshold and RandK: C against the oracle byte for byte, the guess that must not matter, facts, refused bodies."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastgd.compress.codecs import RandK, Threshold, TopK
from fastgd.compress.sparse import cpu, reference
from fastgd.compress.state import DIFFERENCE, FEEDBACK, PLAIN, State, Vector, stream
from fastgd.compress.wire import SIZE, Header

SIZES = (0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 511, 512, 513, 4095, 4096, 4097, 10000)
LARGE = 300_007
DTYPES = ("float32", "float16", "bfloat16")
MODES = (PLAIN, FEEDBACK, DIFFERENCE)
CODECS = (TopK(ratio=0.01), TopK(ratio=0.1, bits=8), TopK(ratio=0.6), TopK(k=0), TopK(k=10**9, bits=8), Threshold(1.5),
          Threshold(0.0), RandK(ratio=0.1), RandK(k=3, scaled=True), RandK(k=0))
LARGEST = float(np.finfo(np.float32).max)
GUARD = 0xAA


def native() -> Any:
    return importlib.import_module("fastgd._native")


@pytest.fixture(params=[0, 1, 2], ids=["default", "v3", "v4"])
def isa(request: pytest.FixtureRequest) -> Iterator[int]:
    """Every instruction set this CPU has."""
    lib = native().lib
    before = lib.fgd_isa_current()
    if request.param > lib.fgd_isa_best():
        pytest.skip("this CPU or build lacks the instruction set")
    lib.fgd_isa_use(request.param)
    yield request.param
    lib.fgd_isa_use(before)


def vector(values: np.ndarray, dtype: str) -> Vector:
    if dtype == "bfloat16":
        return Vector((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16), dtype)
    return Vector(values.astype(dtype), dtype)


def gradient(n: int, step: int, ties: bool) -> np.ndarray:
    x = np.random.default_rng([n, step]).standard_normal(n)
    return np.round(2 * x) if ties else x**3


def state(n: int, mode: int) -> State:
    return State(None if mode == PLAIN else np.zeros(n, np.float32))


def encode(codec: Any, module: Any, x: Vector, memory: State, mode: int, step: int = 0, threads: int = 1,
           shift: int = 1) -> tuple[Header, np.ndarray]:
    """Header and body, the body at an odd address between guards."""
    n = len(x.data)
    room = np.full(codec.max_nbytes(n) - SIZE + shift + 8, GUARD, np.uint8)
    body = room[shift:-8]
    a = getattr(module, codec.name)(codec, x, memory, mode, stream(7, step, 3), body, threads)
    option, _, b = codec._fields(n)
    length = codec._length(n, a, b)
    assert (room[:shift] == GUARD).all() and (room[-8:] == GUARD).all()
    return Header(codec.code, option, n, a, b, length), body[:length]


def payload(header: Header, body: np.ndarray) -> tuple[Any, Any]:
    ffi = native().ffi
    q = ffi.new("fgd_payload *")
    q.codec, q.option, q.n, q.a, q.b = header.codec, header.option, header.n, header.a, header.b
    q.body = ffi.from_buffer("uint8_t[]", body)
    return q, body


def check(codec: Any, header: Header, body: np.ndarray) -> int:
    q, _keep = payload(header, body)
    return int(native().lib.fgd_compress_check(q))


def decode(codec: Any, header: Header, body: np.ndarray, cut: int = 0, scale: float = 1.0, out: Any = None) -> np.ndarray:
    """c, or out + scale c; in two ranges."""
    q, _keep = payload(header, body)
    y = np.full(header.n, 99.0, np.float32) if out is None else out.copy()
    pointer, add = native().ffi.from_buffer("float[]", y), out is not None
    for lo, hi in ((0, min(cut, header.n)), (min(cut, header.n), header.n)):
        native().lib.fgd_compress_decode_range(q, lo, hi, scale, add, pointer)
    return y


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def compare(codec: Any, xs: list[Vector], mode: int) -> None:
    """Several steps in C and in the oracle: bodies, memories, decoded vectors."""
    n = len(xs[0].data)
    fast, plain = state(n, mode), state(n, mode)
    for step, x in enumerate(xs):
        before = x.data.copy()
        header, body = encode(codec, cpu, x, fast, mode, step, 1 + step % 3)
        expected, right = encode(codec, reference, x, plain, mode, step)
        assert header == expected and same(body, right), (codec, n, x.dtype, mode, step)
        assert same(x.data, before)
        if mode != PLAIN:
            assert same(fast.memory, plain.memory), (codec, n, x.dtype, mode, step)
        assert check(codec, header, body) == 0
        c = getattr(reference, f"decode_{codec.name}")(codec, header, body)
        assert same(decode(codec, header, body, 4096), c)
        y = np.linspace(-1, 1, n, dtype=np.float32)
        assert same(decode(codec, header, body, 8192, 0.3, y), np.where(c == 0, y, y + np.float32(0.3) * c))


# ------------------------------------------------------------------------------------------------- the same bytes as the oracle


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_c_equals_the_reference(isa: int, dtype: str, mode: int) -> None:
    for n in SIZES:
        for j, codec in enumerate(CODECS):
            compare(codec, [vector(gradient(n, step, j % 2 == step % 2), dtype) for step in range(3)], mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("codec", [CODECS[0], CODECS[1], CODECS[2], CODECS[5], CODECS[7]], ids=str)
def test_c_equals_the_reference_where_it_is_large(isa: int, codec: Any, mode: int) -> None:
    compare(codec, [vector(gradient(LARGE, step, False), "float32") for step in range(3)], mode)
    compare(codec, [vector(gradient(LARGE, 5, True), DTYPES[1 + mode % 2])], mode)


VARIED = (TopK(ratio=0.01), TopK(ratio=0.05, bits=8), TopK(ratio=0.5), Threshold(1.0), RandK(ratio=0.02, scaled=True))
HOSTILE = {
    "zero": lambda i: 0.0 * i,
    "signed zeros": lambda i: np.where(i % 2, -0.0, 0.0),
    "equal": lambda i: np.where(i % 3, 0.75, -0.75),
    "subnormal": lambda i: (i % 7) * 1e-45,
    "tiny": lambda i: (i % 301 - 150) * 1e-42,
    "huge": lambda i: np.where(i % 2, 1e38, -(i % 11) * 1e37),
    "largest": lambda i: np.where(i % 5, LARGEST, -LARGEST),
    "one-hot": lambda i: (i == len(i) // 2) * 3.0,
    "few": lambda i: (i % 977 == 5) * (1.0 + i),
    "alternating": lambda i: np.where(i % 2, 1.0, -2.0),
    "ramp": lambda i: i * 1.0,
    "last place": lambda i: 1.0 + (i * 7919 % 4096) * 2.0**-23,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_vectors(isa: int, name: str) -> None:
    for n in (5, 600, 20_001, 70_000):
        x = vector(HOSTILE[name](np.arange(n)), "float32")
        for codec in VARIED:
            for mode in MODES:
                steps = 1 if "huge" in name or "largest" in name else 2  # twice the largest float is none
                compare(codec, [x] * steps, mode)


def test_a_guess_never_matters(isa: int) -> None:
    """Whatever a checkpoint says of the last step, bytes and memory are the same."""
    n = 40_000
    for ties, mode, bits, ratio in itertools.product((False, True), MODES, (32, 8), (0.001, 0.02)):
        x, codec = vector(gradient(n, 1, ties), "float32"), TopK(ratio=ratio, bits=bits)
        first = np.random.default_rng(1).standard_normal(n).astype(np.float32) if mode else None
        plain = State(None if first is None else first.copy())
        _, right = encode(codec, reference, x, plain, mode)
        for key in (0, 1, 2**20, 0x3F000000, 0x40800000, 0x41400000, 0x7F7FFFFF, 2**31 - 1):
            for margin in (0, 2**19):
                fast = State(None if first is None else first.copy(), {"key": key, "margin": margin})
                assert same(encode(codec, cpu, x, fast, mode, 0, 1 + margin % 2)[1], right), (mode, bits, key, margin)
                assert first is None or same(fast.memory, plain.memory), (mode, bits, key, margin)
                assert all(type(value) is int for value in fast.extra.values())


def test_nonfinite_vectors_stay_within_bounds(isa: int) -> None:
    """What is written is free, where is not; it ends."""
    for n in (3, 20_001):
        x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
        x[::3], x[1::7] = np.nan, np.inf
        for codec in VARIED:
            for mode in MODES:
                memory = state(n, mode)
                for _ in range(2):
                    header, body = encode(codec, cpu, vector(x, "float32"), memory, mode)
                    assert header.a <= n
                    if codec.name == "topk":
                        index = np.frombuffer(body[: 4 * header.a].tobytes(), np.uint32).astype(np.int64)
                        assert (np.diff(index) > 0).all() and (index < n).all()


# ------------------------------------------------------------------------------------------------------------------------ facts


def square(x: np.ndarray) -> float:
    return float((x.astype(np.float64) ** 2).sum())


def test_topk_contracts_with_equality_for_equal_magnitudes_alone() -> None:
    """||x - C(x)||^2 <= (1 - k / n) ||x||^2."""
    rng = np.random.default_rng(0)
    for n, k in ((10, 3), (100, 99), (1000, 10), (5000, 2500)):
        for equal in (True, False):
            x = rng.choice([-0.5, 0.5], n) * (1 if equal else 1 + 0.01 * rng.random(n))
            header, body = encode(TopK(k=k), cpu, vector(x, "float32"), State(), PLAIN)
            x = x.astype(np.float32)
            loss, bound = square(x - decode(TopK(k=k), header, body)), (1 - k / n) * square(x)
            assert loss == pytest.approx(bound, rel=1e-12) if equal else loss < bound
        codec = TopK(k=k, bits=8)
        header, body = encode(codec, cpu, vector(x, "float32"), State(), PLAIN)
        assert square(x - decode(codec, header, body)) <= codec.contraction(n) * square(x)


@pytest.mark.parametrize("codec", [TopK(ratio=0.02), Threshold(1.0), RandK(ratio=0.1)], ids=str)
def test_p_is_c_and_e_bit_for_bit(codec: Any) -> None:
    """Each coordinate is sent or remembered, whole."""
    memory, e = state(3000, FEEDBACK), np.zeros(3000, np.float32)
    for step in range(5):
        x = gradient(3000, step, False).astype(np.float32)
        p = e + x
        header, body = encode(codec, cpu, vector(x, "float32"), memory, FEEDBACK, step)
        c, e = decode(codec, header, body), memory.memory.copy()
        assert same(c + e, p + np.float32(0)) and not (c * e).any()


def test_threshold_is_an_absolute_compressor() -> None:
    """||x - C(x)||^2 <= n value^2, and what is kept has at least that magnitude."""
    x = gradient(5000, 0, False).astype(np.float32)
    for value in (0.0, 0.3, 2.0, 1e30):
        c = decode(Threshold(value), *encode(Threshold(value), cpu, vector(x, "float32"), State(), PLAIN))
        assert square(x - c) <= 5000 * value**2
        assert same(c != 0, (np.abs(x) >= np.float32(value)) & (x != 0))


def indices(n: int, k: int, seed: int, step: int) -> np.ndarray:
    """Those of C: where a payload of ones has its values."""
    codec, body = RandK(k=k), np.zeros(16 + 4 * k, np.uint8)
    cpu.randk(codec, Vector(np.arange(n, dtype=np.float32), "float32"), State(), PLAIN, stream(seed, step, 0), body, 1)
    return body[16:].view(np.float32).astype(np.int64)


def test_randk_draws_permutations() -> None:
    for n in (1, 2, 3, 10, 63, 64, 65, 100, 1000, 4096, 5000):
        assert same(np.sort(indices(n, n, 5, n)), np.arange(n))
        assert same(indices(n, n, 5, n), reference.permutation(n, n, 5, n))
    n, k = 2**24 - 3, 2000
    j = reference.permutation(n, k, 9, 1)
    assert len(set(j)) == k and j.max() < n and abs(j.mean() / n - 0.5) < 4 / (12 * k) ** 0.5
    body = np.concatenate([np.array([9, 1], np.uint64).view(np.uint8), np.arange(1, k + 1, dtype=np.float32).view(np.uint8)])
    c = decode(RandK(k=k), Header(2, 0, n, k, 0, len(body)), body)
    assert same(c[j], np.arange(1, k + 1, dtype=np.float32)) and np.count_nonzero(c) == k


@pytest.mark.parametrize("n", range(2, 11))
def test_randk_is_uniform_where_n_is_small(n: int) -> None:
    """chi^2 over all sets of k indices (k = 2: pairs), and over the first index."""
    draws = 12_000
    for k in {1, min(2, n - 1), n // 2}:
        sets = [tuple(sorted(s)) for s in itertools.combinations(range(n), k)]
        counts = dict.fromkeys(sets, 0)
        for step in range(draws):
            counts[tuple(sorted(indices(n, k, 11 + k, step)))] += 1
        expected = draws / len(sets)
        chi = sum((count - expected) ** 2 for count in counts.values()) / expected
        free = len(sets) - 1
        assert chi < free + 4.5 * (2 * free) ** 0.5 + 8, (n, k, chi)


def test_randk_in_expectation() -> None:
    """E||x - C||^2 = (1 - k / n) ||x||^2; scaled: E C = x and E||x - C||^2 = (n / k - 1) ||x||^2. z-tests."""
    n, k, draws = 37, 5, 4000
    x = gradient(n, 0, False).astype(np.float32)
    for codec, factor in ((RandK(k=k), 1 - k / n), (RandK(k=k, scaled=True), n / k - 1)):
        c = np.stack([decode(codec, *encode(codec, cpu, vector(x, "float32"), State(), PLAIN, step)) for step in range(draws)])
        losses = ((x - c.astype(np.float64)) ** 2).sum(1)
        assert abs(losses.mean() - factor * square(x)) < 4 * losses.std() / draws**0.5
        if codec.scaled:
            z = (c.mean(0, np.float64) - x) / (c.std(0, np.float64) / draws**0.5)
            assert np.abs(z).max() < 4.5 and abs((z**2).sum() - n) < 5 * (2 * n) ** 0.5
    assert RandK(k=k, scaled=True).variance(n) == pytest.approx(n / k - 1)


def test_the_step_of_eight_bits() -> None:
    """127 steps are the largest magnitude, to a rounding; beside the largest float they do not overflow."""
    for x in (np.array([127.0, -64.4, 0.5, 1.5]), np.array([LARGEST, -LARGEST, LARGEST / 3]), np.array([1e-45, 0.0, -1e-45])):
        codec = TopK(k=len(x), bits=8)
        c = decode(codec, *encode(codec, cpu, vector(x, "float32"), State(), PLAIN))
        step = np.abs(x).max() / 127
        assert np.isfinite(c).all() and (np.abs(c - x) <= step * 0.5001 + 2e-45).all()


# ---------------------------------------------------------------------------------------------------------------- bodies refused


def corrupted(codec: Any, n: int, changes: list[tuple[int, bytes]], x: np.ndarray) -> tuple[Header, np.ndarray]:
    header, body = encode(codec, cpu, vector(x, "float32"), State(), PLAIN)
    body = body.copy()
    for at, new in changes:
        body[at : at + len(new)] = np.frombuffer(new, np.uint8)
    return header, body


def word(value: Any, kind: Any = np.uint32) -> bytes:
    return np.array([value], kind).tobytes()


NAN, INF, OVER = word(np.nan, np.float32), word(-np.inf, np.float32), word(LARGEST / 100, np.float32)
REFUSED = [
    (TopK(k=4), [(16, NAN)], 1),
    (TopK(k=4), [(28, INF)], 1),
    (TopK(k=4), [(12, word(100))], 2),
    (TopK(k=4), [(12, word(2**32 - 1))], 2),
    (TopK(k=4), [(0, word(50)), (4, word(50))], 2),
    (TopK(k=4), [(0, word(99))], 2),
    (Threshold(1.0), [(0, word(100))], 2),
    (Threshold(1.0), [(-4, NAN)], 1),
    (RandK(k=4), [(16, INF)], 1),
    (RandK(k=4), [(12, word(1))], 4),
    (TopK(k=4, bits=8), [(16, NAN)], 1),
    (TopK(k=4, bits=8), [(16, INF)], 1),
    (TopK(k=4, bits=8), [(16, OVER)], 1),
    (TopK(k=4, bits=8), [(16, word(-0.0, np.float32))], 1),
    (TopK(k=4, bits=8), [(16, word(-1.0, np.float32))], 1),
    (TopK(k=4, bits=8), [(16, word(0.0, np.float32))], 3),
    (TopK(k=4, bits=8), [(23, word(-128, np.int8))], 3),
    (TopK(k=4, bits=8), [(8, word(0))], 2),
]


@pytest.mark.parametrize("codec, changes, reason", REFUSED)
def test_what_no_encoder_writes_is_refused(codec: Any, changes: list[tuple[int, bytes]], reason: int) -> None:
    x = gradient(100, 0, False)
    header, body = corrupted(codec, 100, [], x)
    assert check(codec, header, body) == 0
    changes = [(at % len(body), new) for at, new in changes]
    header, body = corrupted(codec, 100, changes, x)
    assert check(codec, header, body) == reason
    with pytest.raises(ValueError, match=r"."):
        getattr(reference, f"decode_{codec.name}")(codec, header, body)


def test_any_bytes_are_refused_or_decoded() -> None:
    """C and the oracle agree on random bodies, and on valid ones with a byte changed."""
    rng = np.random.default_rng(0)
    accepted = 0
    for trial in range(600):
        codec = (TopK(k=5), TopK(k=5, bits=8), Threshold(0.5), RandK(k=5))[trial % 4]
        header, body = encode(codec, cpu, vector(gradient(40, trial, False), "float32"), State(), PLAIN)
        body = rng.integers(0, 256, len(body), np.uint8) if trial % 3 == 0 else body.copy()
        if len(body):
            body[rng.integers(len(body))] ^= 1 << rng.integers(8)
        try:
            c = getattr(reference, f"decode_{codec.name}")(codec, header, body)
        except ValueError:
            c = None
        assert (check(codec, header, body) == 0) == (c is not None)
        if c is not None:
            accepted += 1
            assert same(decode(codec, header, body), c)
    assert 100 < accepted < 500
